"""Accounts, mailboxes, messages and their changes (RFC 9051, RFC 7162, RFC 8620, RFC 8621)."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

SPECIAL_USES: Final = ("\\Drafts", "\\Sent", "\\Trash", "\\Junk", "\\Archive", "\\All", "\\Flagged", "\\Important")


class Account(Struct, frozen=True):
    """`name` is the canonical address. `modseq` is the account's highest modification sequence."""

    id: int
    name: str
    modseq: int
    used_bytes: int
    used_messages: int
    quota_bytes: int = 0
    quota_messages: int = 0


class Mailbox(Struct, frozen=True):
    """`name` is the full hierarchical name with "/" between levels, in Unicode; "INBOX" is always there.

    UIDVALIDITY, `uid_next` and `highest_modseq` never go back (RFC 9051 §2.3.1.1, RFC 7162 §3.1.2.1).
    """

    id: int
    account_id: int
    name: str
    uid_validity: int
    uid_next: int
    highest_modseq: int
    exists: int
    unseen: int
    deleted: int
    recent: int
    size: int
    special_use: str = ""
    """Of RFC 6154; more than one are separated by blanks."""
    subscribed: bool = True
    object_id: str = ""
    deleted_size: int = 0
    """Octets of the messages that have \\Deleted (RFC 9208 §4.1.4)."""


class Message(Struct, frozen=True, gc=False):
    """One message of a mailbox: (mailbox, UID). `flags` are system flags and keywords, without \\Recent."""

    uid: int
    modseq: int
    email_id: bytes
    internal_date: float
    """Seconds since the epoch."""
    size: int
    """Octets, RFC822.SIZE."""
    flags: tuple[str, ...] = ()
    recent: bool = False
    saved: float = 0.0
    """When it came into this mailbox (RFC 8514), seconds since the epoch."""


class Email(Struct, frozen=True):
    """What a message points to. COPY makes a new email that shares the blob; JMAP adds memberships to one email."""

    id: bytes
    blob_id: bytes
    prefix: bytes
    skip: int
    size: int
    thread_id: bytes
    keywords: tuple[str, ...]
    memberships: tuple[tuple[int, int], ...]
    """(mailbox id, UID) pairs."""
    received: float
    envelope: bytes
    """IMAP ENVELOPE as it is sent (RFC 9051 §7.5.2)."""
    body_structure: bytes
    """IMAP BODYSTRUCTURE as it is sent."""
    headers: bytes
    """The header fields JMAP and SEARCH ask for, as they were received."""


class Change(Struct, frozen=True, gc=False):
    """One line of an account's change log."""

    modseq: int
    kind: str
    """mailbox | email | thread | message."""
    id: bytes
    """Mailbox: 8 bytes. Email, thread: 16 bytes. Message: 8 bytes mailbox + 4 bytes UID."""
    action: str
    """created | updated | destroyed."""


class Appended(Struct, frozen=True, gc=False):
    """What an append made: for UIDPLUS (RFC 4315) and the log."""

    account_id: int
    mailbox_id: int
    uid_validity: int
    uid: int
    modseq: int
    email_id: bytes
    duplicate: bool = False
    """The idempotency key was known: nothing was stored."""
