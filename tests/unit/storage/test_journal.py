"""The journal's file: checkpoints that are torn or rot, places in the ring, records that end, are stale or are damaged."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusmes._core import redo
from rusmes.errors import StoreCorrupt
from rusmes.storage.lmdb import journal as module
from rusmes.storage.lmdb.datafile import META_BYTES
from rusmes.storage.lmdb.journal import FIRST_BYTES, PAGE, RING_START, Journal, Slot

EPOCH = 5


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(str(tmp_path / "x"))
    journal.open(create=True)
    journal.allocate()
    yield journal
    journal.close()


def slot_at(sequence: int, txn_id: int = 10, offset: int = RING_START) -> Slot:
    return Slot(sequence, False, b"i" * 16, EPOCH, txn_id, offset, b"m" * META_BYTES)


def record_of(txn_id: int, size: int = 100, epoch: int = EPOCH, part: int = 0) -> bytearray:
    record = redo.encode([{b"k%d" % (txn_id + 1000 * part): b"v" * size}], epoch, txn_id, part)
    assert record is not None
    return record


def change(journal: Journal, at: int, data: bytes) -> None:
    with open(journal.path, "r+b") as file:
        file.seek(at)
        file.write(data)


def transactions(journal: Journal, slot: Slot) -> list[int]:
    return [int(rows[0][1][1:]) for rows in journal.records_after(slot)]


def test_the_newer_checkpoint_counts(journal: Journal) -> None:
    assert journal.newest_slot() is None
    for sequence in range(1, 5):
        journal.write_slot(slot_at(sequence))
        assert journal.newest_slot() == slot_at(sequence)


def test_a_torn_checkpoint_leaves_the_one_before(journal: Journal) -> None:
    journal.write_slot(slot_at(1))
    before = Path(journal.path).read_bytes()[:RING_START]
    journal.write_slot(slot_at(2))
    after = Path(journal.path).read_bytes()[:RING_START]
    dice = random.Random(1)
    for _ in range(200):
        mixed = b"".join(dice.choice((before, after))[at : at + 512] for at in range(0, RING_START, 512))
        change(journal, 0, mixed)
        assert journal.newest_slot() in (slot_at(1), slot_at(2))


def test_a_page_that_rots_costs_no_checkpoint(journal: Journal) -> None:
    journal.write_slot(slot_at(1))
    journal.write_slot(slot_at(2))
    whole = Path(journal.path).read_bytes()[:RING_START]
    for at in range(0, RING_START, 97):
        change(journal, 0, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert journal.newest_slot() == slot_at(2)
    change(journal, 0, b"rubbish")
    change(journal, PAGE, b"rubbish")
    change(journal, 2 * PAGE, b"rubbish")
    change(journal, 3 * PAGE, b"rubbish")
    with pytest.raises(StoreCorrupt, match="no checkpoint"):
        journal.newest_slot()


def test_a_checkpoint_of_another_version_is_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VERSION", 9)
    journal.write_slot(slot_at(1))
    monkeypatch.undo()
    with pytest.raises(StoreCorrupt, match="version 9"):
        journal.newest_slot()


def test_records_follow_on_until_the_first_that_is_not_whole(journal: Journal) -> None:
    at, ends = RING_START, []
    for txn_id in range(11, 15):
        record = record_of(txn_id, 9000 if txn_id == 12 else 100)
        journal.append(record, at)
        at += len(record)
        ends.append(at)
    assert transactions(journal, slot_at(1)) == [11, 12, 13, 14]
    assert transactions(journal, slot_at(1, 12, ends[1])) == [13, 14]
    change(journal, ends[3] - PAGE, bytes(512))  # the last one is torn
    assert transactions(journal, slot_at(1)) == [11, 12, 13]
    change(journal, ends[1] - PAGE, b"!")  # one in the middle rots, and what came after it was acknowledged
    with pytest.raises(StoreCorrupt, match="after transaction 11"):
        transactions(journal, slot_at(1))


def test_parts_of_a_transaction_follow_on_and_belong_to_its_checkpoint(journal: Journal) -> None:
    at = RING_START + 3 * PAGE
    for txn_id, part in ((11, 0), (11, 1), (12, 0), (12, 1), (12, 2), (13, 0)):
        journal.append(record_of(txn_id, part=part), at)
        at = RING_START if (txn_id, part) == (12, 0) else at + PAGE
    assert transactions(journal, slot_at(1, 10, RING_START + 3 * PAGE)) == [11, 1011, 12, 1012, 2012, 13]
    assert transactions(journal, slot_at(1, 11, RING_START + 5 * PAGE)) == [12, 1012, 2012, 13]
    # A checkpoint has all of its transaction, also the part that lies at the beginning.
    assert transactions(journal, slot_at(1, 12, RING_START + 2 * PAGE)) == [13]
    change(journal, RING_START, b"!")
    with pytest.raises(StoreCorrupt, match="after transaction 12"):
        transactions(journal, slot_at(1, 11, RING_START + 5 * PAGE))


def test_what_an_earlier_life_left_is_no_record(journal: Journal) -> None:
    for number, txn_id in enumerate((11, 12, 13)):
        journal.append(record_of(txn_id, epoch=EPOCH - 1), RING_START + number * PAGE)
    assert transactions(journal, slot_at(1)) == []
    journal.append(record_of(11), RING_START)
    assert transactions(journal, slot_at(1)) == [11]


def test_a_record_whose_transaction_failed_is_taken_back(journal: Journal) -> None:
    journal.append(record_of(11), RING_START)
    journal.void(RING_START)
    assert transactions(journal, slot_at(1)) == []


def test_the_ring_goes_around_and_stays_behind_its_tail(journal: Journal) -> None:
    """Ten rounds with a checkpoint now and then: every record since it is found, and the file stays small."""
    dice = random.Random(4)
    head = tail = RING_START
    first, txn_id = 10, 10
    for _ in range(2000):
        record = record_of(txn_id + 1, dice.randrange(40_000))
        at = journal.find_place(len(record), head, tail, lambda size: True)
        if at >= 0:
            journal.append(record, at)
            head = at + len(record)
            txn_id += 1
        if at < 0 or dice.random() < 0.1:
            assert transactions(journal, slot_at(1, first, tail)) == list(range(first + 1, txn_id + 1))
            first, tail = txn_id, head
    assert FIRST_BYTES < os.path.getsize(journal.path) < 8 << 20


def test_without_room_the_ring_goes_around_or_waits(journal: Journal) -> None:
    def no_room(size: int) -> bool:
        return False

    tail = RING_START + 8 * PAGE
    assert journal.find_place(PAGE, FIRST_BYTES, tail, no_room) == RING_START
    assert journal.find_place(8 * PAGE, FIRST_BYTES, tail, no_room) == -1  # never right up to the tail
    assert journal.find_place(PAGE, tail - 2 * PAGE, tail, no_room) == tail - 2 * PAGE
    assert journal.find_place(2 * PAGE, tail - 2 * PAGE, tail, no_room) == -1
    assert journal.find_place(2 * PAGE, tail, tail, no_room) == tail
    assert journal.find_place(module.MAX_BYTES, tail, tail, lambda size: True) == -1


def test_a_disk_without_space_is_no_place(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(module.os, "pwrite", full)
    assert journal.find_place(PAGE, FIRST_BYTES, RING_START, lambda size: True) == -1
