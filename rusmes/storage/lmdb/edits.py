"""Reading rows as records, and one operation's edit of one account: its modseq, its line in the change log.

Every function takes `Rows`: a batch (in the commit thread) or a snapshot (any reader).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rusmes._core.batch import Batch
from rusmes._core.blocks import block_key, message_in, with_message, without_message
from rusmes._core.rows import MessageRow, seal, unseal
from rusmes.errors import NotFound, StoreCorrupt, StoreError
from rusmes.model.mailbox import Mailbox
from rusmes.storage.lmdb.environment import MAX_KEY_BYTES, Environment, Transaction
from rusmes.storage.lmdb.layout import (
    ACCOUNT_NAMES,
    ACCOUNTS,
    CHANGES,
    EMAILS,
    LAST_KEY,
    LAYOUT_KEY,
    LAYOUT_VERSION,
    MAILBOX_NAMES,
    MAILBOXES,
    MARKS,
    MESSAGES,
    META,
    SUBSCRIPTIONS,
    AccountRecord,
    ChangeRecord,
    EmailRecord,
    LastGiven,
    MailboxRecord,
    NameCounts,
    name_key,
    names_key,
    number_key,
)


class Rows(Protocol):
    def get(self, table: int, key: bytes) -> bytes | None: ...
    def has(self, table: int, key: bytes) -> bool: ...
    def scan(
        self, table: int, prefix: bytes, *, start: bytes = b"", stop: bytes = b"", limit: int = 0
    ) -> list[tuple[bytes, bytes]]: ...


class Snapshot:
    """A read transaction as `Rows`. It lives inside `Environment.reading`."""

    __slots__ = ("_handles", "_txn")

    def __init__(self, environment: Environment, txn: Transaction) -> None:
        self._txn = txn
        self._handles: list[Any] = environment.handles

    def get(self, table: int, key: bytes) -> bytes | None:
        value: bytes | None = self._txn.get(key, db=self._handles[table])
        return value

    def has(self, table: int, key: bytes) -> bool:
        return self._txn.get(key, db=self._handles[table]) is not None

    def scan(
        self, table: int, prefix: bytes, *, start: bytes = b"", stop: bytes = b"", limit: int = 0
    ) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        with self._txn.cursor(self._handles[table]) as cursor:
            if cursor.set_range(max(prefix, start)):
                for found, value in cursor:
                    key = bytes(found)
                    if not key.startswith(prefix) or (stop and key >= stop) or (limit and len(rows) == limit):
                        break
                    rows.append((key, value))
        return rows


def find_account_id(rows: Rows, name: str) -> int:
    """0 when there is none."""
    key = name.encode(errors="replace")
    row = rows.get(ACCOUNT_NAMES, key) if 0 < len(key) <= MAX_KEY_BYTES else None
    return int.from_bytes(unseal("account_names", key, row), "big") if row is not None else 0


def read_account(rows: Rows, account_id: int) -> AccountRecord:
    key = number_key(account_id)
    row = rows.get(ACCOUNTS, key)
    if row is None:
        raise NotFound("no such account", str(account_id))
    return AccountRecord.unpack(key, row)


def account_named(rows: Rows, name: str) -> AccountRecord:
    account_id = find_account_id(rows, name)
    if not account_id:
        raise NotFound("no such account", name)
    return read_account(rows, account_id)


def read_mailbox(rows: Rows, mailbox_id: int) -> MailboxRecord:
    key = number_key(mailbox_id)
    row = rows.get(MAILBOXES, key)
    if row is None:
        raise NotFound("no such mailbox", str(mailbox_id))
    return MailboxRecord.unpack(key, row)


def mailbox_value(rows: Rows, mailbox: MailboxRecord) -> Mailbox:
    return mailbox.value(rows.has(SUBSCRIPTIONS, name_key(mailbox.account_id, mailbox.name)))


def find_mailbox_id(rows: Rows, account_id: int, name: str) -> int:
    """0 when there is none."""
    key = name_key(account_id, name)
    row = rows.get(MAILBOX_NAMES, key)
    return int.from_bytes(unseal("mailbox_names", key, row), "big") if row is not None else 0


def mailbox_named(rows: Rows, account_id: int, name: str) -> MailboxRecord:
    mailbox_id = find_mailbox_id(rows, account_id, name)
    if not mailbox_id:
        raise NotFound("no such mailbox", name)
    return read_mailbox(rows, mailbox_id)


def read_message(rows: Rows, mailbox_id: int, uid: int) -> MessageRow | None:
    if not 0 < uid <= 0xFFFFFFFF:
        return None
    key = block_key(mailbox_id, uid)
    row = rows.get(MESSAGES, key)
    return message_in(key, row, uid) if row is not None else None


def read_email(rows: Rows, account_id: int, email_id: bytes) -> EmailRecord:
    email = find_email(rows, account_id, email_id)
    if email is None:
        raise StoreCorrupt("the store is damaged", f"email {email_id.hex()} is missing")
    return email


def find_email(rows: Rows, account_id: int, email_id: bytes) -> EmailRecord | None:
    """None when there is none of this account."""
    row = rows.get(EMAILS, email_id) if email_id else None
    email = EmailRecord.unpack(email_id, row) if row is not None else None
    return email if email is not None and email.account_id == account_id else None


def change_chain(rows: Rows, account: AccountRecord, since_modseq: int = 0) -> Iterator[tuple[int, ChangeRecord]]:
    """The account's rows of the change log above `since_modseq`, the newest first, with their numbers.

    `log_reaches` says whether these are all.

    Raises:
        StoreCorrupt: a row is missing, or another account's.
    """
    number, modseq = account.last_change, account.modseq
    while number > account.floor_change and modseq > since_modseq:
        key = number_key(number)
        row = rows.get(CHANGES, key)
        record = ChangeRecord.unpack(key, bytes(row)) if row is not None else None
        if record is None or record.account_id != account.id or record.before >= number:
            raise StoreCorrupt("the store is damaged", f"changes {number}: not a row of account {account.id}")
        modseq = record.modseq
        if modseq > since_modseq:
            yield number, record
        if modseq == since_modseq + 1:  # no row has the modseq of another one; a change of flags may have 30 KB
            return
        number = record.before


def log_reaches(account: AccountRecord, since_modseq: int) -> bool:
    """Whether the log tells everything that happened after `since_modseq`."""
    return account.floor_modseq <= since_modseq <= account.modseq


def trim_changes(batch: Batch, older_than: float, max_rows: int, limit: int) -> int:
    """Remove the oldest rows of the change log, at most `limit`; how many.

    What is older than that time goes, and what there is more than `max_rows`. The very last row stays: it holds the number.
    """
    removed = 0
    too_many = batch.next_number(CHANGES) - 1 - max_rows
    for key, row in batch.scan(CHANGES, b"", limit=limit + 1)[:-1]:
        record = ChangeRecord.unpack(key, row)
        if record.seconds >= older_than and int.from_bytes(key, "big") > too_many:
            break
        account_row = batch.get(ACCOUNTS, number_key(record.account_id))
        if account_row is not None:
            account = AccountRecord.unpack(number_key(record.account_id), account_row)
            account.floor_modseq, account.floor_change = record.modseq, int.from_bytes(key, "big")
            batch.put(ACCOUNTS, number_key(account.id), account.pack())
        batch.delete(CHANGES, key)
        removed += 1
    return removed


def read_last(rows: Rows) -> LastGiven:
    row = rows.get(META, LAST_KEY)
    return LastGiven.unpack(row) if row is not None else LastGiven()


def read_name_counts(rows: Rows, account_id: int) -> NameCounts:
    key = names_key(account_id)
    row = rows.get(META, key)
    if row is not None:
        return NameCounts.unpack(key, bytes(row))
    prefix = number_key(account_id)  # a new account, or one that was made before there were such rows
    return NameCounts(len(rows.scan(MAILBOX_NAMES, prefix)), len(rows.scan(SUBSCRIPTIONS, prefix)))


def has_many_names(rows: Rows, account_id: int, limit: int) -> bool:
    key = names_key(account_id)
    row = rows.get(META, key)
    counts = NameCounts.unpack(key, bytes(row)) if row is not None else None
    return counts is None or counts.mailboxes > limit or counts.subscriptions > limit


def put_name_counts(batch: Batch, account_id: int, counts: NameCounts) -> None:
    key = names_key(account_id)
    batch.put(META, key, counts.pack(key))


def check_layout(batch: Batch) -> None:
    """Mark a new store with the version of its layout; refuse one of another version. `meta` is table 0 everywhere."""
    row = batch.get(META, LAYOUT_KEY)
    if row is None:
        batch.put(META, LAYOUT_KEY, seal(LAYOUT_KEY, LAYOUT_VERSION.to_bytes(4, "big")))
        return
    version = int.from_bytes(unseal("meta", LAYOUT_KEY, row), "big")
    if version != LAYOUT_VERSION:
        raise StoreError("the store is of another version", f"layout {version}, this program writes {LAYOUT_VERSION}")


class Edit:
    """What one operation does to one account: one modseq, one row in the change log, one notice."""

    __slots__ = ("_batch", "_log", "account", "modseq")

    def __init__(self, batch: Batch, account: AccountRecord) -> None:
        account.modseq += 1
        self.account = account
        self.modseq = account.modseq
        self._batch = batch
        self._log: list[bytes] = []

    def log(self, kind_and_action: int, id: bytes) -> None:
        self._log.append(MARKS[kind_and_action])
        self._log.append(id)

    def log_marks(self, marks: bytes) -> None:
        """Kind, action and id of each change, one after another."""
        self._log.append(marks)

    def put_mailbox(self, mailbox: MailboxRecord) -> None:
        self._batch.put(MAILBOXES, number_key(mailbox.id), mailbox.pack())

    def put_message(self, mailbox_id: int, uid: int, message: MessageRow) -> None:
        key = block_key(mailbox_id, uid)
        self._batch.put(MESSAGES, key, with_message(key, self._batch.get(MESSAGES, key), uid, message))

    def mark_shared(self, members: Sequence[tuple[int, int]]) -> None:
        """These messages are of one email, and another one is to come."""
        for mailbox_id, uid in members:
            message = read_message(self._batch, mailbox_id, uid)
            if message is not None and not message.is_shared:
                message.is_shared = True
                self.put_message(mailbox_id, uid, message)

    def remove_message(self, mailbox_id: int, uid: int) -> None:
        key = block_key(mailbox_id, uid)
        row = self._batch.get(MESSAGES, key)
        if row is not None:
            self._batch.put(MESSAGES, key, without_message(key, row, uid))

    def put_email(self, email_id: bytes, email: EmailRecord) -> None:
        self._batch.put(EMAILS, email_id, email.pack(email_id))

    @property
    def marks(self) -> bytes:
        """What was logged so far."""
        return b"".join(self._log)

    def finish(self) -> None:
        """Write the account and the log."""
        account, batch = self.account, self._batch
        number = batch.next_number(CHANGES)
        key = number_key(number)
        row = ChangeRecord(account.id, self.modseq, account.last_change, batch.now, self.marks).pack(key)
        account.last_change = number
        batch.put(CHANGES, key, row)
        batch.put(ACCOUNTS, number_key(account.id), account.pack())
        batch.note(account.id, self.modseq)
