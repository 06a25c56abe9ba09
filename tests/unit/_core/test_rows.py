"""Rows and records: what was packed is what is unpacked, and every flipped bit is noticed."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core import rows
from rusmes.errors import StoreCorrupt

NUMBER = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2**32 - 1)
ID = st.binary(min_size=16, max_size=16)
TIME = st.floats(0, 4e9)
NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(st.binary(max_size=300), SMALL)
def test_the_checksum_is_that_of_zlib(data: bytes, start: int) -> None:
    assert rows.crc32(data, start) == zlib.crc32(data, start)


def test_the_checksum_at_every_length() -> None:
    data = bytes(range(251)) * 3
    for length in range(len(data)):
        assert rows.crc32(data[:length], length) == zlib.crc32(data[:length], length)


def test_bodies() -> None:
    key = b"k" * 16
    row = rows.seal_blob(key, 0, 4, 2, zlib.crc32(b"body"), b"body")
    assert rows.open_blob(key, row) == (4, 2, zlib.crc32(b"body"), b"body")
    assert rows.open_blob(key, rows.seal_blob(key, 1, 99, 2, 7, b"")) == (99, 2, 7, None)
    for at in range(len(row)):
        damaged = bytearray(row)
        damaged[at] ^= 1
        with pytest.raises(StoreCorrupt):
            rows.open_blob(key, bytes(damaged))
    for length in range(len(row)):
        with pytest.raises(StoreCorrupt):
            rows.open_blob(key, row[:length])


@given(st.binary(min_size=1, max_size=30), st.binary(max_size=60), st.data())
def test_a_flipped_bit_is_noticed(key: bytes, value: bytes, data: st.DataObject) -> None:
    row = rows.seal(key, value)
    assert rows.unseal("t", key, row) == value
    damaged = bytearray(row)
    damaged[data.draw(st.integers(0, len(row) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for place, what in ((key, bytes(damaged)), (key + b"x", row), (key, row[:-1]), (key, b"")):
        with pytest.raises(StoreCorrupt):
            rows.unseal("t", place, what)


@given(NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NAME)
def test_accounts(
    id: int, modseq: int, used: int, messages: int, quota: int, most: int, change: int, name: str
) -> None:
    account = rows.AccountRow(id, modseq, used, messages, quota, most, name, change, used, messages)
    read = rows.AccountRow.unpack(id.to_bytes(8, "big"), account.pack())
    for field in ("id", "modseq", "used_bytes", "used_messages", "quota_bytes", "quota_messages", "last_change", "name"):
        assert getattr(read, field) == getattr(account, field)


@given(st.tuples(NUMBER, NUMBER, SMALL, NUMBER, NUMBER, NUMBER, SMALL, SMALL, SMALL, SMALL, NUMBER, NAME, NAME, NUMBER))
def test_mailboxes(values: tuple[int, int, int, int, int, int, int, int, int, int, int, str, str, int]) -> None:
    mailbox = rows.MailboxRow(*values)
    read = rows.MailboxRow.unpack(values[0].to_bytes(8, "big"), mailbox.pack())
    fields = (
        "id", "account_id", "uid_validity", "uid_next", "first_recent", "highest_modseq", "exists", "unseen", "deleted",
        "recent", "size", "special_use", "name", "deleted_size",
    )  # fmt: skip
    assert tuple(getattr(read, field) for field in fields) == values


@given(NUMBER, ID, ID, TIME, NUMBER, NUMBER, st.booleans(), st.lists(st.tuples(NUMBER, SMALL), max_size=4), st.data())
def test_emails(
    account: int, blob: bytes, thread: bytes, received: float, size: int, skip: int, is_file: bool,
    members: list[tuple[int, int]], data: st.DataObject,
) -> None:  # fmt: skip
    texts = [data.draw(st.binary(max_size=50)) for _ in range(5)]
    row = rows.EmailRow(account, blob, thread, received, size, skip, is_file, members, *texts).pack(b"key")
    read = rows.EmailRow.unpack(b"key", row)
    assert (read.account_id, read.blob_id, read.thread_id, read.received, read.size) == (account, blob, thread, received, size)
    assert (read.skip, read.is_file, read.memberships) == (skip, is_file, members)
    assert [read.prefix, read.envelope, read.body_structure, read.headers, read.identifiers] == texts
    assert rows.email_to_send(b"key", row) == (blob, texts[0], skip)
    facts = rows.EmailFacts.unpack(b"key", row)
    assert (facts.account_id, facts.blob_id, facts.thread_id, facts.received) == (account, blob, thread, received)
    assert (facts.size, facts.skip, facts.is_file) == (size, skip, is_file)
    assert [facts.prefix, facts.envelope, facts.body_structure, facts.headers] == texts[:4]


def test_rows_that_are_too_short_are_damaged_whatever_their_checksum_says() -> None:
    key = b"12345678"
    unpackers: list[Callable[[bytes, bytes], object]] = [
        rows.AccountRow.unpack, rows.MailboxRow.unpack, rows.EmailRow.unpack, rows.EmailFacts.unpack, rows.email_to_send,
    ]  # fmt: skip
    for unpack in unpackers:
        with pytest.raises(StoreCorrupt):
            unpack(key, rows.seal(key, b"short"))
    # Lengths that point behind the end of the row.
    whole = rows.EmailRow(1, bytes(16), bytes(16), 0.0, 0, 0, False, [], b"prefix", b"", b"", b"").pack(key)
    value = bytearray(rows.unseal("emails", key, whole))
    value[65:69] = b"\0\0\0\x09"
    for read in (rows.EmailRow.unpack, rows.EmailFacts.unpack, rows.email_to_send):
        with pytest.raises(StoreCorrupt):
            read(key, rows.seal(key, bytes(value)))


def test_counts_do_not_go_below_nothing() -> None:
    mailbox = rows.MailboxRow(1, 1, 1, 2, 1, 1, 0, 0, 0, 0, 0, "", "INBOX")
    message = rows.MessageRow(1, bytes(16), 0.0, 10, 8, ())
    mailbox.count(message, 1, 1)
    assert (mailbox.exists, mailbox.unseen, mailbox.deleted, mailbox.recent, mailbox.size) == (1, 1, 1, 1, 10)
    assert mailbox.deleted_size == 10
    mailbox.count(message, 1, -1)
    assert (mailbox.exists, mailbox.unseen, mailbox.deleted, mailbox.recent, mailbox.size) == (0, 0, 0, 0, 0)
    assert mailbox.deleted_size == 0
    with pytest.raises(StoreCorrupt):
        mailbox.count(message, 1, -1)
