"""What `memory.py` keeps: accounts, mailboxes, messages and emails as plain objects, and the values made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from rusmes._core.rows import EmailFacts, EmailRow
from rusmes.model.mailbox import Account, Change, Mailbox, Message
from rusmes.storage.description import Description
from rusmes.storage.flags import DELETED, SEEN, join_flags

if TYPE_CHECKING:
    from rusmes._core.view import MailboxRows


class Row(Struct):
    """A message of a mailbox. The keywords of an email's messages are the same in all of its mailboxes."""

    uid: int
    modseq: int
    email_id: bytes
    internal_date: float
    size: int
    bits: int
    keywords: tuple[str, ...]
    saved: float


class EmailRecord(Struct):
    id: bytes
    blob_id: bytes
    prefix: bytes
    skip: int
    size: int
    thread_id: bytes
    received: float
    description: Description
    memberships: list[tuple[int, int]] = field(default_factory=list)


class MailboxRecord(Struct):
    id: int
    account: AccountRecord
    name: str
    uid_validity: int
    highest_modseq: int
    special_use: str = ""
    uid_next: int = 1
    first_recent: int = 1
    rows: dict[int, Row] = field(default_factory=dict)
    """By UID, in the order of UIDs."""
    acl: dict[str, str] = field(default_factory=dict)
    metadata: dict[int, dict[str, bytes]] = field(default_factory=dict)
    """By account, 0 for what all see."""


class AccountRecord(Struct):
    id: int
    name: str
    quota_bytes: int
    quota_messages: int
    modseq: int = 0
    mailboxes: dict[str, MailboxRecord] = field(default_factory=dict)
    subscriptions: set[str] = field(default_factory=set)
    emails: dict[bytes, EmailRecord] = field(default_factory=dict)
    threads: dict[bytes, list[bytes]] = field(default_factory=dict)
    thread_of: dict[bytes, bytes] = field(default_factory=dict)
    """Message-ID -> thread."""
    log: list[Change] = field(default_factory=list)
    times: list[tuple[int, float]] = field(default_factory=list)
    """When each modseq was given."""
    floor_modseq: int = 0
    """What the log does not reach any more."""

    def has_room(self, size: int, count: int = 1) -> bool:
        used_bytes = sum(email.size for email in self.emails.values())
        return not (self.quota_bytes and used_bytes + size > self.quota_bytes) and not (
            self.quota_messages and len(self.emails) + count > self.quota_messages
        )


def mailbox_key(mailbox_id: int) -> bytes:
    return mailbox_id.to_bytes(8, "big")


def message_key(mailbox_id: int, uid: int) -> bytes:
    return mailbox_id.to_bytes(8, "big") + uid.to_bytes(4, "big")


def add_row(into: MailboxRows, row: Row) -> None:
    into.add(row.uid, row.modseq, row.email_id, row.internal_date, row.size, row.bits, row.keywords)


def facts_of(email: EmailRecord) -> EmailFacts:
    described = email.description
    row = EmailRow(
        0, email.blob_id, email.thread_id, email.received, email.size, email.skip, False, [], email.prefix,
        described.envelope, described.body_structure, described.headers,
    )  # fmt: skip
    return EmailFacts.unpack(email.id, row.pack(email.id))


def message_value(row: Row, mailbox: MailboxRecord) -> Message:
    flags = join_flags(row.bits, row.keywords)
    recent = row.uid >= mailbox.first_recent
    return Message(row.uid, row.modseq, row.email_id, row.internal_date, row.size, flags, recent, row.saved)


def mailbox_value(mailbox: MailboxRecord) -> Mailbox:
    rows = mailbox.rows.values()
    return Mailbox(
        id=mailbox.id,
        account_id=mailbox.account.id,
        name=mailbox.name,
        uid_validity=mailbox.uid_validity,
        uid_next=mailbox.uid_next,
        highest_modseq=mailbox.highest_modseq,
        exists=len(rows),
        unseen=sum(1 for row in rows if not row.bits & SEEN),
        deleted=sum(1 for row in rows if row.bits & DELETED),
        recent=sum(1 for row in rows if row.uid >= mailbox.first_recent),
        size=sum(row.size for row in rows),
        special_use=mailbox.special_use,
        subscribed=mailbox.name in mailbox.account.subscriptions,
        object_id=f"m{mailbox.id:x}",
        deleted_size=sum(row.size for row in rows if row.bits & DELETED),
    )


def account_value(account: AccountRecord) -> Account:
    return Account(
        id=account.id,
        name=account.name,
        modseq=account.modseq,
        used_bytes=sum(email.size for email in account.emails.values()),
        used_messages=len(account.emails),
        quota_bytes=account.quota_bytes,
        quota_messages=account.quota_messages,
    )
