"""What the rows of the LMDB store look like.

Keys are fixed-width and big-endian (names aside), so rows of one account, mailbox or entry lie together, and what grows with
time is appended. Every value ends with the CRC-32 of key and value: a row that rotted, or that stands in another row's
place, is found when it is read. A blob's row has one checksum for its head and another for the body.

Numbers in the tables below are lengths in bytes.

mail.mdb

| table         | key                                   | value                                                              |
| ------------- | ------------------------------------- | ------------------------------------------------------------------ |
| meta          | "layout"                              | version 4                                                          |
|               | "last"                                | account id 8, mailbox id 8, UIDVALIDITY 8: the last ones given     |
|               | "names", account 8                    | mailboxes 4, subscriptions 4; no row: they have to be counted      |
| accounts      | account 8                             | modseq 8, used bytes 8, messages 8, quota bytes 8, messages 8,     |
|               |                                       | last change 8, modseq and number of the last one removed 8, 8, name |
| account_names | name                                  | account 8                                                          |
| mailboxes     | mailbox 8                             | account 8, UIDVALIDITY 4, UIDNEXT 8, first recent 8, modseq 8,     |
|               |                                       | messages 4, unseen 4, deleted 4, recent 4, size 8, size of the     |
|               |                                       | deleted 8, special uses, NUL, name                                 |
| mailbox_names | account 8, name                       | mailbox 8                                                          |
| subscriptions | account 8, name                       |                                                                    |
| messages      | mailbox 8, UID / 16 4                 | for each of up to 16: UID mod 16 1, flags 1, modseq 8, email 16,   |
|               |                                       | date 8, size 8, saved 8, length 2, keywords separated by blanks    |
| emails        | email 16                              | account 8, blob 16, thread 16, received 8, size 8, skip 8, file 1, |
|               |                                       | counts of what follows (5 of 4): memberships 12 each, prefix,      |
|               |                                       | envelope, structure, identifiers 12 each; headers                  |
| threads       | account 8, thread 16, email 16        | no rows: the thread is its first email, whose id it has, alone     |
| message_ids   | account 8, BLAKE2 of a Message-ID 12  | thread 16                                                          |
| changes       | number 8                              | account 8, modseq 8, the account's row before 8, seconds 8,        |
|               |                                       | (kind and action 1, id) ...; of many flags (16, or 17 with their   |
|               |                                       | emails 1, mailbox 8, first UID 4, last UID 4) ...                  |
| keys          | generation 4, key                     | expiry 8, `_APPENDED`                                              |
| blobs         | blob 16                               | `_BLOB`, checksum of key and head 4, body (if inline)              |
| blob_refs     | blob 16                               | count 4; no row means one reference                                |
| acl           | mailbox 8, identifier                 | rights                                                             |
| shares        | identifier, NUL, mailbox 8            |                                                                    |
| metadata      | mailbox 8, account 8, name            | value; mailbox 0 is the server, account 0 what all see             |

queue-<slot>.mdb

| table     | key                 | value                                                                          |
| --------- | ------------------- | ------------------------------------------------------------------------------ |
| meta      | "layout"            | version 4                                                                      |
| entries   | entry 16            | MessagePack of `EntryRecord`                                                   |
| states    | entry 16, index 4   | MessagePack of `StateRecord`; no row: as the entry was put                     |
| blobs, blob_refs | as above                                                                                       |

Flags and keywords are in the message's row, because a client that opens a mailbox reads those rows and nothing else; 16
messages share one, since looks are what costs (`_core.blocks`). All messages of one email have the same ones but for
`\\Deleted`. Counts are kept in the rows of mailbox and account, and `verify` counts again. Rows of emails and changes are in
the order of time and not by account: what a batch writes for many accounts is then in few pages. So the changes of an account
are a chain, from the row that the account names back to the last one that was removed. An idempotency key begins with its
generation, a week: it is looked for in this one and as far back as keys are kept, and older ones are removed whole. Mailboxes
that others may use are found by identifier, in `shares`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct

from rusmes._core.rows import (
    AccountRow,
    EmailRow,
    MailboxRow,
    MessageRow,
    seal,
    seal_blob,
    unseal,
)
from rusmes.errors import StoreCorrupt
from rusmes.model.mailbox import Account, Appended, Change, Email, Mailbox, Message
from rusmes.storage.flags import jmap_keywords, join_flags

LAYOUT_VERSION: Final = 2

MAIL_TABLES: Final = (
    b"meta", b"accounts", b"account_names", b"mailboxes", b"mailbox_names", b"subscriptions", b"messages", b"emails",
    b"threads", b"message_ids", b"changes", b"keys", b"blobs", b"blob_refs", b"acl", b"shares", b"metadata",
)  # fmt: skip
(
    META, ACCOUNTS, ACCOUNT_NAMES, MAILBOXES, MAILBOX_NAMES, SUBSCRIPTIONS, MESSAGES, EMAILS,
    THREADS, MESSAGE_IDS, CHANGES, KEYS, BLOBS, BLOB_REFS, ACL, SHARES, METADATA,
) = range(len(MAIL_TABLES))  # fmt: skip

QUEUE_TABLES: Final = (b"meta", b"entries", b"states", b"blobs", b"blob_refs")
Q_META, Q_ENTRIES, Q_STATES, Q_BLOBS, Q_BLOB_REFS = range(len(QUEUE_TABLES))

LAYOUT_KEY: Final = b"layout"
LAST_KEY: Final = b"last"
CRC_BYTES: Final = 4


# Keys

_U64: Final = struct.Struct(">Q")
_U64_U32: Final = struct.Struct(">QI")
number_key: Final = _U64.pack
"""An account's or a mailbox's key."""
message_id: Final = _U64_U32.pack
"""How the change log names a message: by mailbox and UID."""


def key_number(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def name_key(account_id: int, name: str) -> bytes:
    return _U64.pack(account_id) + name.encode()


def identifier_key(account_id: int, identifier: bytes) -> bytes:
    return _U64.pack(account_id) + hashlib.blake2b(identifier, digest_size=12).digest()


def acl_key(mailbox_id: int, identifier: str) -> bytes:
    return _U64.pack(mailbox_id) + identifier.encode()


def share_prefix(identifier: str) -> bytes:
    return identifier.encode() + b"\0"


def share_key(identifier: str, mailbox_id: int) -> bytes:
    return share_prefix(identifier) + _U64.pack(mailbox_id)


def metadata_key(mailbox_id: int, account_id: int, name: str) -> bytes:
    return _U64.pack(mailbox_id) + _U64.pack(account_id) + name.encode()


MAX_PLAIN_KEY_BYTES: Final = 400


def idempotency_key(generation: int, key: bytes) -> bytes:
    """A key that is too long for LMDB is replaced by its hash."""
    if len(key) > MAX_PLAIN_KEY_BYTES:
        key = hashlib.blake2b(key, digest_size=32).digest()
    return generation.to_bytes(4, "big") + key


# meta

_LAST: Final = struct.Struct(">QQQ")


class LastGiven(Struct):
    """The last numbers that were given away; none of them is ever given again."""

    account_id: int = 0
    mailbox_id: int = 0
    uid_validity: int = 0

    def pack(self) -> bytes:
        return seal(LAST_KEY, _LAST.pack(self.account_id, self.mailbox_id, self.uid_validity))

    @classmethod
    def unpack(cls, row: bytes) -> LastGiven:
        return cls(*_LAST.unpack(unseal("meta", LAST_KEY, row)))


_NAMES: Final = struct.Struct(">II")
NAMES_PREFIX: Final = b"names"


def names_key(account_id: int) -> bytes:
    return NAMES_PREFIX + _U64.pack(account_id)


class NameCounts(Struct):
    """How many names an account has, so that a limit needs no look at all of them. Not in the account's row, which every
    message writes."""

    mailboxes: int
    subscriptions: int

    def pack(self, key: bytes) -> bytes:
        return seal(key, _NAMES.pack(self.mailboxes, self.subscriptions))

    @classmethod
    def unpack(cls, key: bytes, row: bytes) -> NameCounts:
        return cls(*_NAMES.unpack(unseal("meta", key, row)))


# accounts


class AccountRecord(AccountRow):
    __slots__ = ()

    def value(self) -> Account:
        return Account(
            self.id, self.name, self.modseq, self.used_bytes, self.used_messages, self.quota_bytes, self.quota_messages
        )


# mailboxes


class MailboxRecord(MailboxRow):
    __slots__ = ()

    def value(self, subscribed: bool) -> Mailbox:
        return Mailbox(
            id=self.id,
            account_id=self.account_id,
            name=self.name,
            uid_validity=self.uid_validity,
            uid_next=self.uid_next,
            highest_modseq=self.highest_modseq,
            exists=self.exists,
            unseen=self.unseen,
            deleted=self.deleted,
            recent=self.recent,
            size=self.size,
            special_use=self.special_use,
            subscribed=subscribed,
            object_id=f"m{self.id:x}",
            deleted_size=self.deleted_size,
        )


# messages


def message_value(message: MessageRow, uid: int, first_recent: int) -> Message:
    flags = join_flags(message.bits, message.keywords)
    return Message(
        uid, message.modseq, message.email_id, message.internal_date, message.size, flags, uid >= first_recent, message.saved
    )


# emails


class EmailRecord(EmailRow):
    __slots__ = ()

    def value(self, id: bytes, bits: int, keywords: tuple[str, ...]) -> Email:
        return Email(
            id=id,
            blob_id=self.blob_id,
            prefix=self.prefix,
            skip=self.skip,
            size=self.size,
            thread_id=self.thread_id,
            keywords=jmap_keywords(bits, keywords),
            memberships=tuple(self.memberships),
            received=self.received,
            envelope=self.envelope,
            body_structure=self.body_structure,
            headers=self.headers,
        )


# changes

_KINDS: Final = ("mailbox", "email", "thread", "message")
_ACTIONS: Final = ("created", "updated", "destroyed")
_ID_BYTES: Final = (8, 16, 16, 12)
MAILBOX, EMAIL, THREAD, MESSAGE = 0, 4, 8, 12
CREATED, UPDATED, DESTROYED = 0, 1, 2
MARKS: Final = tuple(bytes((mark,)) for mark in range(16))
FLAGGED: Final = 4
_RANGE: Final = struct.Struct(">QII")


_CHANGE: Final = struct.Struct(">QQQd")


class ChangeRecord(Struct):
    """What one commit did to one account; `before` is the number of the account's row before it, 0 for the first."""

    account_id: int
    modseq: int
    before: int
    seconds: float
    marks: bytes
    """For each change its kind and action in one byte, and the id."""

    def pack(self, key: bytes) -> bytes:
        return seal(key, _CHANGE.pack(self.account_id, self.modseq, self.before, self.seconds) + self.marks)

    @classmethod
    def unpack(cls, key: bytes, row: bytes) -> ChangeRecord:
        value = unseal("changes", key, row)
        if len(value) < _CHANGE.size:
            raise StoreCorrupt("the store is damaged", f"changes {key.hex()}: {len(value)} octets")
        fields: list[Any] = [*_CHANGE.unpack_from(value), value[_CHANGE.size :]]
        return cls(*fields)

    def changes(self, emails_of: Callable[[int, int, int], Iterable[bytes]]) -> list[Change]:
        """`emails_of` says which emails a mailbox has from one UID to another: of a change of many flags they are not kept,
        and those that went since then have a later row."""
        marks, changes, at = self.marks, [], 0
        while at < len(marks):
            kind, action = divmod(marks[at], 4)
            if kind == FLAGGED:
                mailbox_id, first, last = _RANGE.unpack_from(marks, at + 1)
                at += 1 + _RANGE.size
                ids = [message_id(mailbox_id, uid) for uid in range(first, last + 1)]
                changes += [Change(self.modseq, "message", id, "updated") for id in ids]
                if action:
                    changes += [Change(self.modseq, "email", id, "updated") for id in emails_of(mailbox_id, first, last)]
                continue
            end = at + 1 + _ID_BYTES[kind]
            changes.append(Change(self.modseq, _KINDS[kind], marks[at + 1 : end], _ACTIONS[action]))
            at = end
        return changes


# keys

_KEY: Final = struct.Struct(">dQQIIQ16s")


def pack_appended(key: bytes, expires: float, appended: Appended) -> bytes:
    a = appended
    return seal(key, _KEY.pack(expires, a.account_id, a.mailbox_id, a.uid_validity, a.uid, a.modseq, a.email_id))


def unpack_appended(key: bytes, row: bytes) -> tuple[float, Appended]:
    expires, *fields = _KEY.unpack(unseal("keys", key, row))
    return expires, Appended(*fields)


# blobs

_BLOB: Final = struct.Struct(">BQQI")
BLOB_HEAD_BYTES: Final = _BLOB.size + CRC_BYTES
INLINE, FILE = 0, 1


class BlobHead(Struct, frozen=True):
    kind: int
    size: int
    header_bytes: int
    checksum: int
    """CRC-32 of the body."""

    def pack(self, key: bytes, body: bytes = b"") -> bytes:
        return seal_blob(key, self.kind, self.size, self.header_bytes, self.checksum, body)

    @classmethod
    def unpack(cls, key: bytes, row: bytes | memoryview) -> BlobHead:
        return cls(*_BLOB.unpack(unseal("blobs", key, bytes(row[:BLOB_HEAD_BYTES]))))


def pack_count(key: bytes, count: int) -> bytes:
    return seal(key, count.to_bytes(4, "big"))


def unpack_count(key: bytes, row: bytes) -> int:
    return int.from_bytes(unseal("blob_refs", key, row), "big")
