"""Blocks of messages: what is put in comes out, in any order, and what is damaged is found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rusmes._core import blocks, rows
from rusmes._core.batch import Batch
from rusmes._core.view import MailboxRows, Uids
from rusmes.errors import StoreCorrupt
from rusmes.storage.flags import change
from rusmes.storage.lmdb import layout
from rusmes.storage.lmdb.messages import emails_in

MAILBOX = 7
FIRST = 0x12345670
UIDS = st.integers(FIRST, FIRST + 15)
KEYWORDS = st.lists(st.text("abc$", min_size=1), max_size=5).map(tuple)
MESSAGES = st.builds(
    rows.MessageRow, st.integers(0, (1 << 64) - 1), st.binary(min_size=16, max_size=16), st.floats(0, 4e9),
    st.integers(0, 1 << 40), st.integers(0, 31), KEYWORDS, st.floats(0, 4e9), st.booleans(),
)  # fmt: skip
KEY = blocks.block_key(MAILBOX, FIRST)


def no_emails(mailbox_id: int, first_uid: int, last_uid: int) -> list[bytes]:
    raise AssertionError("a few changes are logged one by one")


class Rows:
    """What a batch reads of a transaction."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows

    def get(self, key: bytes, db: object) -> bytes | None:
        return self.rows.get(key)


def fields(message: rows.MessageRow) -> tuple[object, ...]:
    names = ("modseq", "email_id", "internal_date", "size", "bits", "keywords", "saved", "is_shared")
    return tuple(getattr(message, name) for name in names)


def filled(uids: list[int], bits: int = 0, keywords: tuple[str, ...] = ()) -> bytes:
    row = None
    for uid in uids:
        row = blocks.with_message(KEY, row, uid, rows.MessageRow(1, bytes(16), 5.0, 10, bits, keywords, 6.0))
    assert row is not None
    return row


def test_keys_are_of_sixteen_uids() -> None:
    assert {blocks.block_key(MAILBOX, FIRST + n) for n in range(16)} == {KEY}
    assert blocks.block_key(MAILBOX, FIRST + 16) > KEY > blocks.block_key(MAILBOX, FIRST - 1)
    assert blocks.block_of_key(KEY) == (MAILBOX, FIRST)
    assert blocks.block_of_key(blocks.block_key(1 << 63, 0xFFFFFFFF)) == (1 << 63, 0xFFFFFFF0)
    with pytest.raises(ValueError, match="no UID"):
        blocks.block_key(MAILBOX, 1 << 32)


@given(st.lists(st.tuples(UIDS, st.none() | MESSAGES), max_size=30))
def test_messages_are_put_replaced_and_removed(steps: list[tuple[int, rows.MessageRow | None]]) -> None:
    model: dict[int, rows.MessageRow] = {}
    row: bytes | None = None
    for uid, message in steps:
        if message is not None:
            model[uid] = message
            row = blocks.with_message(KEY, row, uid, message)
        elif row is not None:
            model.pop(uid, None)
            row = blocks.without_message(KEY, row, uid)
        assert (row is None) == (not model)
        if row is None:
            continue
        assert [(uid, fields(found)) for uid, found in blocks.messages_in(KEY, row)] == [
            (uid, fields(model[uid])) for uid in sorted(model)
        ]
        for uid in range(FIRST, FIRST + 16):
            found = blocks.message_in(KEY, row, uid)
            assert (found and fields(found)) == (fields(model[uid]) if uid in model else None)
            email = (model[uid].email_id, model[uid].size) if uid in model else None
            assert blocks.email_in(KEY, row, uid) == email


@given(st.data())
def test_a_changed_octet_is_found(data: st.DataObject) -> None:
    row = bytearray(filled([FIRST, FIRST + 3], keywords=("work",)))
    at = data.draw(st.integers(0, len(row) - 1))
    row[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreCorrupt):
        blocks.messages_in(KEY, bytes(row))
    with pytest.raises(StoreCorrupt):
        blocks.messages_in(blocks.block_key(MAILBOX + 1, FIRST), filled([FIRST]))


def test_lengths_that_make_no_sense_are_damage_whatever_the_checksum_says() -> None:
    value = bytearray(rows.unseal("messages", KEY, filled([FIRST, FIRST + 1])))
    for at, octet in ((50, 1), (51, 60), (52, 0), (52, 16), (102, 255)):
        broken = bytes(value[:at]) + bytes((octet,)) + bytes(value[at + 1 :])
        with pytest.raises(StoreCorrupt):
            blocks.messages_in(KEY, rows.seal(KEY, broken))
    for size in (0, 1, 51, 53, 103):
        with pytest.raises(StoreCorrupt):
            blocks.messages_in(KEY, rows.seal(KEY, bytes(value[:size])))
    with pytest.raises(StoreCorrupt):
        blocks.block_of_key(b"short")


@settings(suppress_health_check=[HealthCheck.too_slow])  # what it draws is a lot for a machine that is busy
@given(
    st.dictionaries(UIDS, MESSAGES, min_size=1), st.lists(UIDS), st.sampled_from(["set", "add", "remove"]), st.integers(0, 31),
    KEYWORDS, st.integers(0, 1 << 63) | st.none(),
)  # fmt: skip
def test_flags_are_changed_as_the_specification_says(
    model: dict[int, rows.MessageRow], uids: list[int], operation: str, bits: int, keywords: tuple[str, ...], since: int | None
) -> None:
    row: bytes | None = None
    mailbox = rows.MailboxRow(MAILBOX, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, "", "INBOX")
    for uid, message in model.items():
        row = blocks.with_message(KEY, row, uid, message)
        mailbox.count(message, uid, 1)
    assert row is not None
    limit = -1 if since is None else min(since, (1 << 63) - 1)
    flagging = blocks.Flagging(mailbox, 99, operation, bits, keywords, limit, change)
    batch = Batch(Rows({KEY: row}), [0], {})
    flagging.change(batch, 0, uids if since is None else Uids(sorted(set(uids))))
    new = batch.held[0].get(KEY)
    expected = rows.MailboxRow(MAILBOX, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, "", "INBOX")
    changed = []
    for uid in sorted(model):
        message = model[uid]
        after = change(operation, message.bits, message.keywords, bits, keywords)
        may = uid in uids and (since is None or message.modseq <= limit)
        if may and after != (message.bits, message.keywords) and not message.is_shared:
            message.bits, message.keywords, message.modseq = *after, 99
            changed.append(uid)
        expected.count(message, uid, 1)
    assert flagging.changed == len(changed)
    assert (new is None) == (not changed)
    found = blocks.messages_in(KEY, row if new is None else new)
    assert [(uid, fields(message)) for uid, message in found] == [(uid, fields(model[uid])) for uid in sorted(model)]
    for name in ("exists", "unseen", "deleted", "size", "deleted_size"):
        assert getattr(mailbox, name) == getattr(expected, name)
    assert set(flagging.shared) <= set(flagging.passed)
    record = layout.ChangeRecord(1, 99, 0, 0.0, flagging.marks)
    logged = [entry.id for entry in record.changes(no_emails) if (entry.kind, entry.action) == ("message", "updated")]
    assert logged == [layout.message_id(MAILBOX, uid) for uid in changed]
    assert blocks.changed_messages([(99, flagging.marks)], layout.number_key(MAILBOX))[1].list() == changed
    assert flagging.passed.list() == [
        uid
        for uid in sorted(set(uids))
        if uid in model and (since is None or model[uid].modseq == 99 or model[uid].modseq <= limit)
    ]


@pytest.mark.parametrize("flag", [1, 8])
@pytest.mark.parametrize("left_out", [(), (50,), range(1, 300, 2), range(3, 290)])
def test_many_changes_are_logged_in_ranges(flag: int, left_out: Sequence[int]) -> None:
    """`\\Deleted` is the message's own, all others are the email's too."""
    uids = [uid for uid in range(1, 300) if uid not in left_out]
    mailbox = rows.MailboxRow(MAILBOX, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, "", "INBOX")
    table: dict[bytes, bytes] = {}
    for uid in uids:
        key = blocks.block_key(MAILBOX, uid)
        message = rows.MessageRow(1, uid.to_bytes(16, "big"), 5.0, 10, 0, (), 6.0)
        table[key] = blocks.with_message(key, table.get(key), uid, message)
        mailbox.count(message, uid, 1)
    flagging = blocks.Flagging(mailbox, 99, "add", flag, (), -1, change)
    batch = Batch(Rows(table), [0], {})
    flagging.change(batch, 0, tuple(range(1, 320)))
    assert flagging.passed.list() == uids
    said = layout.ChangeRecord(1, 99, 0, 0.0, flagging.marks).changes(partial(emails_in, Messages(batch)))
    assert [entry.id for entry in said if entry.kind == "message"] == [layout.message_id(MAILBOX, uid) for uid in uids]
    emails = [entry.id for entry in said if entry.kind == "email"]
    assert emails == ([uid.to_bytes(16, "big") for uid in uids] if flag == 1 else [])
    assert {(entry.modseq, entry.action) for entry in said} == {(99, "updated")}
    assert (len(flagging.marks) < 30 * len(uids)) == (len(uids) > 64 or flag == 8)
    gone, there = blocks.changed_messages([(99, flagging.marks)], layout.number_key(MAILBOX))
    assert (gone, there.list()) == ([], uids)
    both = blocks.changed_messages([(99, flagging.marks), (98, flagging.marks)], layout.number_key(MAILBOX))
    assert (both[0], both[1].list()) == ([], uids)
    assert blocks.changed_messages([(99, flagging.marks)], layout.number_key(MAILBOX + 1))[1].list() == []


class Messages:
    """A batch with one table, asked as if it had all."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def get(self, table: int, key: bytes) -> bytes | None:
        row: bytes | None = self.batch.get(0, key)
        return row


MARKS = st.lists(st.tuples(st.sampled_from([0, 4, 8, 12, 12, 12]), st.integers(0, 2), st.integers(1, 9), st.booleans()))


@given(st.lists(MARKS, max_size=4))
def test_the_change_log_says_what_became_of_messages(log: list[list[tuple[int, int, int, bool]]]) -> None:
    changed: dict[int, tuple[int, int]] = {}
    records = []
    for modseq, marks in reversed(list(enumerate(log, 10))):
        raw = b""
        for kind, action, uid, is_here in marks:
            mailbox_id = MAILBOX if is_here else MAILBOX + 1
            id = layout.message_id(mailbox_id, uid) if kind == 12 else bytes(8 if kind == 0 else 16)
            raw += bytes((kind | action,)) + id
        records.append((modseq, raw))
        for kind, action, uid, is_here in reversed(marks):
            if kind != 12 or not is_here:
                continue
            later = changed.get(uid)
            if later is None or (action == layout.CREATED and later[0] == layout.UPDATED):
                changed[uid] = (action, modseq)
            elif action == layout.CREATED:
                del changed[uid]
    gone, there = blocks.changed_messages(records, layout.number_key(MAILBOX))
    assert gone == sorted((uid, modseq) for uid, (action, modseq) in changed.items() if action == layout.DESTROYED)
    assert there.list() == sorted(uid for uid, (action, _) in changed.items() if action != layout.DESTROYED)


def test_a_change_log_that_is_cut_short_says_what_it_can() -> None:
    mark = b"\x0d" + layout.message_id(MAILBOX, 5)
    gone, there = blocks.changed_messages([(9, mark + mark[:7])], layout.number_key(MAILBOX))
    assert (gone, there.list()) == ([], [5])
    with pytest.raises(ValueError, match="8 octets"):
        blocks.changed_messages([], b"short")


def test_one_row_goes_into_an_array() -> None:
    row = filled([FIRST, FIRST + 2], bits=9, keywords=("a", "b"))
    array = MailboxRows(MAILBOX)
    assert blocks.add_to(array, KEY, row, FIRST + 2)
    assert not blocks.add_to(array, KEY, row, FIRST + 1)
    assert (array.uid(0), array.system_bits(0), array.keywords(0)) == (FIRST + 2, 9, ("a", "b"))
