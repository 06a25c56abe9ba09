"""Rights of others on mailboxes (RFC 4314) and annotations (RFC 5464) inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rusmes._core.batch import Batch
from rusmes._core.rows import seal, unseal
from rusmes.errors import LimitReached
from rusmes.storage.lmdb.edits import Edit, Rows, read_account, read_mailbox
from rusmes.storage.lmdb.layout import (
    ACL,
    MAILBOX,
    METADATA,
    SHARES,
    UPDATED,
    MailboxRecord,
    acl_key,
    metadata_key,
    number_key,
    share_key,
    share_prefix,
)
from rusmes.storage.names import MAX_IDENTIFIERS, check_identifier


def acl(rows: Rows, mailbox_id: int) -> dict[str, str]:
    return {key[8:].decode(): unseal("acl", key, row).decode() for key, row in rows.scan(ACL, number_key(mailbox_id))}


def set_rights(batch: Batch, mailbox_id: int, identifier: str, rights: str) -> None:
    check_identifier(identifier)
    mailbox = read_mailbox(batch, mailbox_id)
    known = acl(batch, mailbox_id)
    if known.get(identifier, "") == rights:
        return
    if rights and identifier not in known and len(known) >= MAX_IDENTIFIERS:
        raise LimitReached("too many identifiers", f"at most {MAX_IDENTIFIERS}")
    _put_rights(batch, mailbox_id, identifier, rights)
    touch(batch, mailbox)


def touch(batch: Batch, mailbox: MailboxRecord) -> None:
    """Log that something about the mailbox is other than before; the row itself is written by the caller."""
    edit = Edit(batch, read_account(batch, mailbox.account_id))
    edit.log(MAILBOX | UPDATED, number_key(mailbox.id))
    edit.finish()


def _put_rights(batch: Batch, mailbox_id: int, identifier: str, rights: str) -> None:
    key, share = acl_key(mailbox_id, identifier), share_key(identifier, mailbox_id)
    batch.put(ACL, key, seal(key, rights.encode()) if rights else None)
    batch.put(SHARES, share, seal(share, b"") if rights else None)


def inherit(batch: Batch, parent_id: int, mailbox_id: int) -> None:
    """A new mailbox has the rights of the one above it (RFC 4314 §3.1 leaves it to the server)."""
    for identifier, rights in acl(batch, parent_id).items():
        _put_rights(batch, mailbox_id, identifier, rights)


def shared_mailboxes(rows: Rows, identifiers: Sequence[str]) -> list[MailboxRecord]:
    """Those whose lists name one of the identifiers, by account and name."""
    ids = {
        int.from_bytes(key[-8:], "big")
        for identifier in identifiers
        for key, _ in rows.scan(SHARES, share_prefix(identifier))
    }
    return sorted((read_mailbox(rows, id) for id in ids), key=lambda mailbox: (mailbox.account_id, mailbox.name))


def forget_mailbox(batch: Batch, mailbox_id: int) -> None:
    """The mailbox goes: its list, and what anybody wrote about it."""
    for identifier in acl(batch, mailbox_id):
        _put_rights(batch, mailbox_id, identifier, "")
    for key, _ in batch.scan(METADATA, number_key(mailbox_id)):
        batch.delete(METADATA, key)


def forget_account(batch: Batch, account_id: int, name: str) -> None:
    """The account goes: from the lists of others, and with its private annotations. An account of this name that is made later
    must not inherit them."""
    for identifier in (name, f"-{name}"):
        for key, _ in batch.scan(SHARES, share_prefix(identifier)):
            _put_rights(batch, int.from_bytes(key[-8:], "big"), identifier, "")
    for key, _ in batch.scan(METADATA, b""):
        if key[8:16] == number_key(account_id):
            batch.delete(METADATA, key)


# Annotations


def metadata(rows: Rows, mailbox_id: int, account_id: int) -> dict[str, bytes]:
    if mailbox_id:
        read_mailbox(rows, mailbox_id)
    found = rows.scan(METADATA, metadata_key(mailbox_id, account_id, ""))
    return {key[16:].decode(): unseal("metadata", key, row) for key, row in found}


def set_metadata(
    batch: Batch, mailbox_id: int, account_id: int, entries: Mapping[str, bytes | None], max_entries: int
) -> None:
    known = metadata(batch, mailbox_id, account_id)
    after = {name for name, value in {**known, **entries}.items() if value is not None}
    if len(after) > max_entries > 0 and any(value is not None for value in entries.values()):
        raise LimitReached("too many annotations", f"at most {max_entries}")
    for name, value in entries.items():
        key = metadata_key(mailbox_id, account_id, name)
        batch.put(METADATA, key, seal(key, value) if value is not None else None)
    if not mailbox_id:
        batch.note(account_id, 0)
        return
    mailbox = read_mailbox(batch, mailbox_id)
    if account_id in (0, mailbox.account_id):  # private ones of others are nothing new to the owner
        touch(batch, mailbox)
