"""What a queue's journal is ahead of its data file: durable, seen by readers of this process, and written in a moment."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from rusmes.clock import FakeClock
from rusmes.errors import AlreadyExists, StoreError
from rusmes.storage.api import QueueChange, RecipientState
from rusmes.storage.commit import RECOVERY_SECONDS
from rusmes.storage.lmdb import lead as leads
from rusmes.storage.lmdb.layout import Q_BLOBS, Q_ENTRIES
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import content_of, queued_of
from tests.unit.storage.test_durability import Broken
from tests.unit.storage.test_recovery import copy_of

QueueAt = Callable[..., LmdbQueueStore]


@pytest.fixture(autouse=True)
def _long_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lead ends when a test says so."""
    monkeypatch.setattr(leads, "LEAD_SECONDS", 3600.0)


async def put(queue: LmdbQueueStore, *numbers: int) -> None:
    for number in numbers:
        await queue.put([queued_of(queue.blobs, number)])


async def remove(queue: LmdbQueueStore, number: int) -> None:
    entry = await queue.get(id_of(number))
    assert entry is not None
    await queue.change([QueueChange(entry.item.id, {}, remove=True, content_id=entry.item.rendering.content.id)])


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def ids(queue: LmdbQueueStore) -> list[int]:
    return [int.from_bytes(entry.item.id, "big") for entry in queue.entries()]


def rows_in_file(queue: LmdbQueueStore, table: int) -> int:
    """Without catching up."""
    environment = queue._environment
    with environment._env.begin() as txn:
        return int(txn.stat(environment.handles[table])["entries"])


async def test_what_is_ahead_is_durable_and_in_no_hurry_to_reach_the_data_file(queue_at: QueueAt, tmp_path: Path) -> None:
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1, 2, 3)
    assert rows_in_file(queue, Q_ENTRIES) == 0
    crashed = queue_at(copy_of(tmp_path / "a", tmp_path / "b"))
    await crashed.open()
    assert ids(crashed) == [1, 2, 3]
    assert list(crashed.verify()) == []
    assert rows_in_file(queue, Q_ENTRIES) == 0
    assert ids(queue) == [1, 2, 3]  # who reads catches up
    assert rows_in_file(queue, Q_ENTRIES) == 3
    await put(queue, 4)
    await queue.close()
    await (queue := queue_at(tmp_path / "a")).open()
    assert queue._environment.recovered == 0
    assert ids(queue) == [1, 2, 3, 4]


async def test_the_time_of_a_lead_ends(queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leads, "LEAD_SECONDS", 0.02)
    queue = queue_at()
    await queue.open()
    await put(queue, 1)
    end = time.monotonic() + 20
    while not rows_in_file(queue, Q_ENTRIES):
        assert time.monotonic() < end
        await asyncio.sleep(0.005)
    assert queue._environment.lead is None


async def test_a_lead_that_is_large_is_written(queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leads, "LEAD_BYTES", 20_000)
    queue = queue_at()
    await queue.open()
    await put(queue, *range(1, 11))
    assert 3 <= rows_in_file(queue, Q_ENTRIES) < 10


async def test_what_leaves_the_queue_soon_never_reaches_the_data_file(queue_at: QueueAt, tmp_path: Path) -> None:
    queue = queue_at(tmp_path / "a")
    await queue.open()
    item = queued_of(queue.blobs, 1)
    await queue.put([item])
    await queue.change([QueueChange(item.id, {}, remove=True, content_id=item.rendering.content.id)])
    lead = queue._environment.lead
    assert lead is not None
    assert not lead.rows[Q_ENTRIES]
    assert not lead.rows[Q_BLOBS]
    crashed = queue_at(copy_of(tmp_path / "a", tmp_path / "b"))
    await crashed.open()
    assert ids(crashed) == []
    assert list(crashed.verify()) == []


async def test_a_removal_that_is_ahead_is_seen(queue_at: QueueAt) -> None:
    queue = queue_at()
    await queue.open()
    await put(queue, 1, 2)
    assert ids(queue) == [1, 2]
    first = queued_of(queue.blobs, 1)
    await queue.change([QueueChange(id_of(1), {}, remove=True)])
    await queue.put([first])  # the id is free again
    with pytest.raises(AlreadyExists):
        await queue.put([first])
    await remove(queue, 2)
    assert await queue.get(id_of(2)) is None
    assert ids(queue) == [1]
    assert list(queue.verify()) == []


@pytest.mark.parametrize("is_written", [True, False])
async def test_an_entry_that_exists_is_refused_alone(queue_at: QueueAt, is_written: bool) -> None:
    queue = queue_at()
    await queue.open()
    await put(queue, 5, 7)
    if is_written:
        assert ids(queue) == [5, 7]
    results = await asyncio.gather(
        *(queue.put([queued_of(queue.blobs, number)]) for number in (5, 6, 7, 8)), return_exceptions=True
    )
    assert [type(result) for result in results] == [AlreadyExists, type(None), AlreadyExists, type(None)]
    assert ids(queue) == [5, 6, 7, 8]


async def test_what_has_to_scan_is_a_transaction(queue_at: QueueAt) -> None:
    queue = queue_at()
    await queue.open()
    item = queued_of(queue.blobs, 1, recipients=3)
    await queue.put([item])
    later = RecipientState(item.recipients[1], "deferred", 1, 5.0)
    await queue.change([QueueChange(item.id, {1: later})])
    assert rows_in_file(queue, Q_ENTRIES) == 0
    queue.blobs.forget()
    await queue.change([QueueChange(item.id, {}, remove=True)])
    assert queue._environment.lead is None
    assert ids(queue) == []
    assert list(queue.verify()) == []


async def test_a_record_that_is_too_large_is_a_transaction(queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.storage.lmdb.environment.LEAD_BYTES", 8192)
    queue = queue_at(inline_limit=1 << 20)
    await queue.open()
    await put(queue, 1)
    item = queued_of(queue.blobs, 2)
    item.rendering.content = content_of(queue.blobs, os.urandom(20_000))
    await queue.put([item])
    assert rows_in_file(queue, Q_ENTRIES) == 2
    assert queue._environment.lead is None
    assert ids(queue) == [1, 2]


async def test_without_room_ahead_everything_is_a_transaction(queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is met before an acknowledgement that depends on room in the data file."""
    monkeypatch.setattr("rusmes.storage.lmdb.environment.ROOM_BYTES", 1 << 62)
    queue = queue_at()
    await queue.open()
    await put(queue, 1)
    assert rows_in_file(queue, Q_ENTRIES) == 1


async def test_the_map_grows_for_a_lead(queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leads, "LEAD_BYTES", 1 << 30)
    queue = queue_at(map_size=1 << 20, inline_limit=1 << 20)
    await queue.open()
    for number in range(1, 61):
        item = queued_of(queue.blobs, number)
        item.rendering.content = content_of(queue.blobs, os.urandom(50_000))
        await queue.put([item])
    assert rows_in_file(queue, Q_ENTRIES) == 0
    assert len(ids(queue)) == 60
    assert queue._environment._env.info()["map_size"] > 1 << 20
    assert list(queue.verify()) == []


async def test_a_lead_that_the_data_file_does_not_take_stays(queue_at: QueueAt, clock: FakeClock, tmp_path: Path) -> None:
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1)
    with Broken(tmp_path / "a" / "queue-0.mdb"):
        with pytest.raises(StoreError):
            await queue.get(id_of(1))
        assert not queue.is_writable()
        clock.advance(RECOVERY_SECONDS)
        with pytest.raises(StoreError):  # nothing joins a lead that is stuck
            await put(queue, 2)
    crashed = queue_at(copy_of(tmp_path / "a", tmp_path / "b"))
    await crashed.open()
    assert ids(crashed) == [1]
    clock.advance(RECOVERY_SECONDS)
    await put(queue, 3)
    assert queue.is_writable()
    assert ids(queue) == [1, 3]
    assert list(queue.verify()) == []


async def test_a_store_that_closes_with_its_lead_unwritten_is_recovered(
    queue_at: QueueAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_at()
    await queue.open()
    await put(queue, 1)

    def failing() -> None:
        raise lmdb.Error("mdb_txn_begin: Input/output error", 5)

    monkeypatch.setattr(queue._environment, "begin_write", failing)
    await queue.close()
    await (queue := queue_at()).open()
    assert queue._environment.recovered
    assert ids(queue) == [1]


OTHERS = """
import asyncio, sys, time
from rusmes.storage.api import QueueChange
from rusmes.storage.lmdb import lead
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import queued_of

async def run(path, is_reader):
    lead.LEAD_SECONDS = 3600.0
    queue = LmdbQueueStore(path, 0, read_only=is_reader)
    await queue.open()
    if not is_reader:
        await queue.put([queued_of(queue.blobs, 1)])
        assert len(list(queue.entries())) == 1
        second = queued_of(queue.blobs, 2)
        await queue.put([second])
        await queue.put([queued_of(queue.blobs, 3)])
        await queue.change([QueueChange(second.id, {}, remove=True, content_id=second.rendering.content.id)])
    print("ready", flush=True)
    time.sleep(30)

asyncio.run(run(sys.argv[1], len(sys.argv) > 2))
"""


async def test_a_writer_that_was_killed_beside_a_reader_leaves_its_lead_to_the_next(queue_at: QueueAt, tmp_path: Path) -> None:
    """Nobody recovers a store that others have open."""
    children = []
    try:
        for more in ((), ("reader",)):
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", OTHERS, str(tmp_path), *more, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
            )
            children.append(child)
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
        children[0].kill()
        await children[0].wait()
        queue = queue_at()
        await queue.open()
        assert not queue._environment.is_alone
        assert queue._environment.recovered == 3
        assert ids(queue) == [1, 3]
        await put(queue, 4)
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
            await child.wait()
    crashed = queue_at(copy_of(tmp_path, tmp_path / "b", "queue-0.mdb", "queue-0.mdb.journal"))
    await crashed.open()
    assert ids(crashed) == [1, 3, 4]
    assert list(crashed.verify()) == []
    await queue.close()
    await (queue := queue_at()).open()
    assert ids(queue) == [1, 3, 4]
    assert list(queue.verify()) == []


async def test_checkpoints_between_the_parts_of_a_lead_lose_nothing(queue_at: QueueAt, tmp_path: Path) -> None:
    """The ring goes around, leads end here and there, and a crash may come at any time."""
    dice = random.Random(11)
    queue = queue_at(tmp_path / "a", inline_limit=1 << 20)
    await queue.open()
    checkpointer = queue._environment._checkpointer
    assert checkpointer is not None
    expected: set[int] = set()
    for number in range(1, 301):
        item = queued_of(queue.blobs, number)
        item.rendering.content = content_of(queue.blobs, os.urandom(dice.randrange(100, 9000)))
        await queue.put([item])
        expected.add(number)
        if dice.random() < 0.4:
            gone = dice.choice(sorted(expected))
            expected.remove(gone)
            await queue.change([QueueChange(id_of(gone), {}, remove=True)])
        if dice.random() < 0.1:
            checkpointer.checkpoint()
        if dice.random() < 0.1:
            queue._committer._catch_up()
        if number % 50 == 0:
            crashed = queue_at(copy_of(tmp_path / "a", tmp_path / f"b{number}"))
            await crashed.open()
            assert ids(crashed) == sorted(expected)
            assert list(crashed.verify()) == []
    assert ids(queue) == sorted(expected)
