"""Reading every row and every body, and counting again what is counted. Nothing is changed: what is found is said."""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final
from zlib import crc32

from msgspec import Struct

from rusmes._core.blocks import block_key, block_of_key, message_in, messages_in
from rusmes._core.rows import MessageRow, unseal
from rusmes.errors import StoreError
from rusmes.storage.api import Finding
from rusmes.storage.flags import DELETED, SEEN
from rusmes.storage.lmdb.blobs import LmdbBlobs, file_checksum
from rusmes.storage.lmdb.edits import Snapshot, change_chain
from rusmes.storage.lmdb.environment import Environment
from rusmes.storage.lmdb.layout import (
    ACCOUNT_NAMES,
    ACCOUNTS,
    ACL,
    BLOB_HEAD_BYTES,
    BLOB_REFS,
    BLOBS,
    CHANGES,
    EMAILS,
    FILE,
    KEYS,
    LAST_KEY,
    MAIL_TABLES,
    MAILBOX_NAMES,
    MAILBOXES,
    MESSAGE_IDS,
    MESSAGES,
    META,
    METADATA,
    NAMES_PREFIX,
    Q_BLOB_REFS,
    Q_BLOBS,
    Q_ENTRIES,
    Q_STATES,
    SHARES,
    SUBSCRIPTIONS,
    THREADS,
    AccountRecord,
    BlobHead,
    ChangeRecord,
    EmailRecord,
    LastGiven,
    MailboxRecord,
    NameCounts,
    key_number,
    name_key,
    names_key,
    number_key,
    unpack_appended,
    unpack_count,
)
from rusmes.storage.lmdb.queue_layout import INDEX_BYTES, unpack_entry, unpack_state

# A file without a row is a mail on its way in, unless it is older than any transaction can be.
ORPHAN_SECONDS: Final = 3600.0
BROKEN: Final = (StoreError, ValueError, IndexError, struct.error)
"""What reading a broken row or key raises."""


def verify_mail(environment: Environment, blobs: LmdbBlobs) -> Iterator[Finding]:
    yield from _guarded(environment, lambda snapshot, txn: _MailCheck(environment, snapshot, txn, blobs).run())


def verify_queue(environment: Environment, blobs: LmdbBlobs) -> Iterator[Finding]:
    yield from _guarded(environment, lambda snapshot, txn: _queue_findings(environment, snapshot, txn, blobs))


def _guarded(environment: Environment, check: Callable[[Snapshot, Any], Iterator[Finding]]) -> Iterator[Finding]:
    """Pages first, where nobody can change them meanwhile; LMDB is not let near pages that are damaged."""
    reasons = environment.structure_errors()
    for reason in reasons:
        yield Finding(environment.path, reason)
    if reasons:
        yield Finding(environment.path, "its rows were not read, because its pages are damaged")
        return
    try:
        with environment.reading(buffers=True) as txn:
            yield from _lookup_findings(environment, txn)
            yield from check(Snapshot(environment, txn), txn)
    except StoreError as error:
        yield Finding(environment.path, f"the check could not go on: {error}")


def _lookup_findings(environment: Environment, txn: Any) -> Iterator[Finding]:
    """A rotten separator in an inner page hides rows from look-ups which a walk over the leaves still meets."""
    for name, handle in zip(environment.tables, environment.handles, strict=True):
        with txn.cursor(handle) as cursor:
            for key in cursor.iternext(keys=True, values=False):
                if txn.get(key, db=handle) is None:
                    yield Finding(f"{name.decode()} {bytes(key).hex()}", "is there, but cannot be looked up")


def _rows(environment: Environment, txn: Any, table: int) -> Iterator[tuple[bytes, memoryview]]:
    with txn.cursor(environment.handles[table]) as cursor:
        for key, value in cursor:
            yield bytes(key), value


class _Counts(Struct):
    """A mailbox counted from its messages."""

    exists: int = 0
    unseen: int = 0
    deleted: int = 0
    recent: int = 0
    size: int = 0
    deleted_size: int = 0

    def __str__(self) -> str:
        return (
            f"{self.exists} messages of {self.size} bytes, {self.unseen} unseen, {self.recent} recent, "
            f"{self.deleted} deleted of {self.deleted_size} bytes"
        )


class _MailCheck:
    def __init__(self, environment: Environment, snapshot: Snapshot, txn: Any, blobs: LmdbBlobs) -> None:
        self.environment = environment
        self.rows = snapshot
        self.txn = txn
        self.blobs = blobs
        self.accounts: dict[int, AccountRecord] = {}
        self.mailboxes: dict[int, MailboxRecord] = {}
        self.counts: dict[int, _Counts] = {}
        self.used_bytes: Counter[int] = Counter()
        self.used_messages: Counter[int] = Counter()
        self.references: Counter[bytes] = Counter()

    def run(self) -> Iterator[Finding]:
        yield from self._accounts_and_mailboxes()
        yield from self._messages()
        yield from self._emails()
        yield from self._totals()
        yield from self._small_tables()
        yield from blob_findings(self.environment, self.txn, self.blobs, BLOBS, BLOB_REFS, self.references)

    def _table(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        for key, value in _rows(self.environment, self.txn, table):
            yield key, bytes(value)

    def _accounts_and_mailboxes(self) -> Iterator[Finding]:
        last = LastGiven()
        row = self.rows.get(META, LAST_KEY)
        if row is not None:
            try:
                last = LastGiven.unpack(bytes(row))
            except BROKEN as error:
                yield Finding("meta last", str(error))
        for key, row in self._table(ACCOUNTS):
            try:
                account = AccountRecord.unpack(key, row)
            except BROKEN as error:
                yield Finding(f"accounts {key.hex()}", str(error))
                continue
            self.accounts[account.id] = account
            if self._number(ACCOUNT_NAMES, account.name.encode()) != account.id:
                yield Finding(f"accounts {account.name}", "its name does not lead to it")
            if account.id > last.account_id:
                yield Finding(f"accounts {account.name}", "its id was not given yet and would be given again")
        for key, row in self._table(MAILBOXES):
            try:
                mailbox = MailboxRecord.unpack(key, row)
            except BROKEN as error:
                yield Finding(f"mailboxes {key.hex()}", str(error))
                continue
            self.mailboxes[mailbox.id] = mailbox
            self.counts[mailbox.id] = _Counts()
            if mailbox.account_id not in self.accounts:
                yield Finding(f"mailboxes {mailbox.id}", f"account {mailbox.account_id} is missing")
            if self._number(MAILBOX_NAMES, name_key(mailbox.account_id, mailbox.name)) != mailbox.id:
                yield Finding(f"mailboxes {mailbox.id}", f"its name {mailbox.name!r} does not lead to it")
            if mailbox.id > last.mailbox_id or mailbox.uid_validity > last.uid_validity:
                yield Finding(f"mailboxes {mailbox.id}", "its id or UIDVALIDITY was not given yet and would be given again")

    def _number(self, table: int, key: bytes) -> int:
        row = self.rows.get(table, key)
        try:
            return int.from_bytes(unseal(MAIL_TABLES[table].decode(), key, bytes(row)), "big") if row is not None else 0
        except BROKEN:
            return 0

    def _messages(self) -> Iterator[Finding]:
        for key, row in self._table(MESSAGES):
            try:
                mailbox_id, _ = block_of_key(key)
                messages = messages_in(key, row)
            except BROKEN as error:
                yield Finding(f"messages {key.hex()}", str(error))
                continue
            mailbox = self.mailboxes.get(mailbox_id)
            if mailbox is None:
                yield Finding(f"messages {mailbox_id}/{messages[0][0]}", "its mailbox is missing")
                continue
            for uid, message in messages:
                yield from self._message(mailbox, uid, message)

    def _message(self, mailbox: MailboxRecord, uid: int, message: MessageRow) -> Iterator[Finding]:
        place = f"messages {mailbox.id}/{uid}"
        counts = self.counts[mailbox.id]
        counts.exists += 1
        counts.unseen += not message.bits & SEEN
        counts.recent += uid >= mailbox.first_recent
        counts.size += message.size
        if message.bits & DELETED:
            counts.deleted += 1
            counts.deleted_size += message.size
        if not uid or uid >= mailbox.uid_next or message.modseq > mailbox.highest_modseq:
            yield Finding(place, "its UID or modseq was not given yet and would be given again")
        if not self.rows.has(EMAILS, message.email_id):
            yield Finding(place, f"email {message.email_id.hex()} is missing")

    def _account_of(self, mailbox_id: int) -> int:
        mailbox = self.mailboxes.get(mailbox_id)
        return mailbox.account_id if mailbox is not None else 0

    def _member(self, mailbox_id: int, uid: int) -> MessageRow | None:
        try:
            key = block_key(mailbox_id, uid)
            row = self.rows.get(MESSAGES, key)
            return message_in(key, bytes(row), uid) if row is not None else None
        except BROKEN:
            return None

    def _emails(self) -> Iterator[Finding]:
        for key, row in self._table(EMAILS):
            id, place = key, f"emails {key.hex()}"
            try:
                email = EmailRecord.unpack(key, row)
            except BROKEN as error:
                yield Finding(place, str(error))
                continue
            account_id = email.account_id
            if account_id not in self.accounts:
                yield Finding(place, f"account {account_id} is missing")
            self.used_bytes[account_id] += email.size
            self.used_messages[account_id] += 1
            self.references[email.blob_id] += 1
            if not email.memberships:
                yield Finding(place, "is in no mailbox")
            for mailbox_id, uid in email.memberships:
                member = self._member(mailbox_id, uid)
                if member is None or member.email_id != id or self._account_of(mailbox_id) != account_id:
                    yield Finding(place, f"message {mailbox_id}/{uid} is missing or another email's")
                elif len(email.memberships) > 1 and not member.is_shared:
                    yield Finding(place, f"message {mailbox_id}/{uid} does not know of the others")
            thread = number_key(account_id) + email.thread_id
            is_alone = email.thread_id == id and not self.rows.scan(THREADS, thread, limit=1)
            if not is_alone and not self.rows.has(THREADS, thread + id):
                yield Finding(place, f"is not in its thread {email.thread_id.hex()}")

    def _totals(self) -> Iterator[Finding]:
        for account in self.accounts.values():
            counted = (self.used_bytes[account.id], self.used_messages[account.id])
            try:
                for _ in change_chain(self.rows, account):
                    pass
            except BROKEN as error:
                yield Finding(f"accounts {account.name}", f"its changes end early: {error}")
            if counted != (account.used_bytes, account.used_messages):
                yield Finding(
                    f"accounts {account.name}",
                    f"uses {counted[0]} bytes in {counted[1]} messages, "
                    f"not {account.used_bytes} in {account.used_messages}",
                )
            yield from self._name_counts(account)
        for box in self.mailboxes.values():
            said = _Counts(box.exists, box.unseen, box.deleted, box.recent, box.size, box.deleted_size)
            if said != self.counts[box.id]:
                yield Finding(f"mailboxes {box.id}", f"holds {self.counts[box.id]}, not {said}")

    def _name_counts(self, account: AccountRecord) -> Iterator[Finding]:
        key = names_key(account.id)
        row = self.rows.get(META, key)
        if row is None:
            return
        try:
            said = NameCounts.unpack(key, bytes(row))
        except BROKEN:
            return  # `_small_tables` says it
        prefix = number_key(account.id)
        counted = NameCounts(len(self.rows.scan(MAILBOX_NAMES, prefix)), len(self.rows.scan(SUBSCRIPTIONS, prefix)))
        if said != counted:
            yield Finding(
                f"accounts {account.name}",
                f"has {counted.mailboxes} mailboxes and {counted.subscriptions} subscriptions, "
                f"not {said.mailboxes} and {said.subscriptions}",
            )

    def _small_tables(self) -> Iterator[Finding]:
        small = (META, ACCOUNT_NAMES, MAILBOX_NAMES, SUBSCRIPTIONS, THREADS, MESSAGE_IDS, CHANGES, KEYS, ACL, SHARES, METADATA)
        for table in small:
            name = MAIL_TABLES[table].decode()
            for key, row in self._table(table):
                try:
                    if table == CHANGES:
                        ChangeRecord.unpack(key, row).changes(lambda *_: ())
                    elif table == KEYS:
                        unpack_appended(key, row)
                    else:
                        unseal(name, key, row)
                except BROKEN as error:
                    yield Finding(f"{name} {key.hex()}", str(error))
                    continue
                reason = self._dangling(table, key)
                if reason:
                    yield Finding(f"{name} {key.hex()}", reason)

    def _dangling(self, table: int, key: bytes) -> str:
        """Why a row of a small table is of no use, "" when it is."""
        if table == META and key.startswith(NAMES_PREFIX) and key_number(key[len(NAMES_PREFIX) :]) not in self.accounts:
            return "its account is missing"
        if table == THREADS and not self.rows.has(EMAILS, key[24:]):
            return "its email is missing"
        if table == ACL:
            if key_number(key) not in self.mailboxes:
                return "its mailbox is missing"
            return "" if self.rows.has(SHARES, key[8:] + b"\0" + key[:8]) else "it cannot be found by its identifier"
        if table == SHARES and not self.rows.has(ACL, key[-8:] + key[:-9]):
            return "the mailbox does not know of it"
        if table == METADATA and key_number(key) not in (0, *self.mailboxes):
            return "its mailbox is missing"
        if table == METADATA and key_number(key[8:]) not in (0, *self.accounts):
            return "its account is missing"
        return ""


def _queue_findings(environment: Environment, snapshot: Snapshot, txn: Any, blobs: LmdbBlobs) -> Iterator[Finding]:
    references: Counter[bytes] = Counter()
    recipients: dict[bytes, int] = {}
    for id, row in _rows(environment, txn, Q_ENTRIES):
        try:
            record = unpack_entry(id, bytes(row))
        except BROKEN as error:
            yield Finding(f"entries {id.hex()}", str(error))
            continue
        references[record.blob_id] += 1
        recipients[id] = len(record.recipients)
    for key, row in _rows(environment, txn, Q_STATES):
        id, index = key[:-INDEX_BYTES], int.from_bytes(key[-INDEX_BYTES:], "big")
        try:
            unpack_state(key, bytes(row))
        except BROKEN as error:
            yield Finding(f"states {key.hex()}", str(error))
        if index >= recipients.get(id, 0):
            yield Finding(f"states {key.hex()}", "no such recipient")
    yield from blob_findings(environment, txn, blobs, Q_BLOBS, Q_BLOB_REFS, references)


def blob_findings(
    environment: Environment, txn: Any, blobs: LmdbBlobs, table: int, counts_table: int, references: Counter[bytes]
) -> Iterator[Finding]:
    """Bodies against their checksums, counts against `references`, files against rows."""
    counts: dict[bytes, int] = {}
    for key, row in _rows(environment, txn, counts_table):
        try:
            counts[key] = unpack_count(key, bytes(row))
        except BROKEN as error:
            yield Finding(f"blob_refs {key.hex()}", str(error))
    seen: set[bytes] = set()
    for key, row in _rows(environment, txn, table):
        seen.add(key)
        reason = _body_finding(blobs, key, row)
        if reason:
            yield Finding(f"blobs {key.hex()}", reason)
        if counts.get(key, 1) != references[key]:
            yield Finding(f"blobs {key.hex()}", f"{references[key]} references, not {counts.get(key, 1)}")
    for key in references.keys() - seen:
        yield Finding(f"blobs {key.hex()}", f"is missing; {references[key]} references")
    for key in counts.keys() - seen:
        yield Finding(f"blob_refs {key.hex()}", "a count without a body")
    for id, path in blobs.files():
        if (id is None or id not in seen) and _is_old(path):
            yield Finding(path, "no row refers to this file; the next start removes it")


def _body_finding(blobs: LmdbBlobs, key: bytes, row: memoryview) -> str:
    try:
        head = BlobHead.unpack(key, row)
        if head.kind != FILE:
            body = row[BLOB_HEAD_BYTES:]
            good = len(body) == head.size and crc32(body) == head.checksum
        else:
            path = blobs.path_of(key)
            good = os.path.getsize(path) == head.size and file_checksum(path) == head.checksum
    except (*BROKEN, OSError) as error:
        return str(error)
    return "" if good else "size or checksum of the body"


def _is_old(path: str) -> bool:
    try:
        return time.time() - os.stat(path).st_mtime > ORPHAN_SECONDS
    except OSError:
        return False
