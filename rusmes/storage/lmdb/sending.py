"""Messages as they are sent, many in one look: POP3 and IMAP send whole mailboxes through here, so rows are unpacked no further
than sending needs, and each table is asked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from rusmes._core.blocks import block_key, email_in
from rusmes._core.rows import email_to_send, open_blob
from rusmes.errors import NotFound, StoreCorrupt
from rusmes.model.content import Content, Rendering
from rusmes.storage.lmdb.blobs import LmdbBlobs
from rusmes.storage.lmdb.edits import Snapshot, read_mailbox
from rusmes.storage.lmdb.environment import Environment, Transaction
from rusmes.storage.lmdb.layout import BLOBS, EMAILS, MESSAGES


def renderings(
    environment: Environment, blobs: LmdbBlobs, mailbox_id: int, uids: Sequence[int], limit_bytes: int
) -> list[Rendering]:
    """As `MailStore.renderings` says."""
    with environment.reading() as txn:
        read_mailbox(Snapshot(environment, txn), mailbox_id)
        emails = _emails(environment, txn, mailbox_id, uids, limit_bytes)
        if uids and not emails:
            raise NotFound("no such message", f"mailbox {mailbox_id}, UID {uids[0]}")
        to_send = [email_to_send(key, row) for key, row in _present(environment, txn, EMAILS, emails)]
        bodies = _present(environment, txn, BLOBS, [blob_id for blob_id, _, _ in to_send])
        return [
            Rendering(content_of_row(blobs, blob_id, row), prefix, skip)
            for (_, prefix, skip), (blob_id, row) in zip(to_send, bodies, strict=True)
        ]


def _emails(
    environment: Environment, txn: Transaction, mailbox_id: int, uids: Sequence[int], limit_bytes: int
) -> list[bytes]:
    """The emails of the messages up to the first that is missing or too much."""
    found: list[bytes] = []
    total = 0
    block: tuple[bytes, bytes | None] = (b"", None)
    for uid in takewhile(_is_uid, uids):
        key = block_key(mailbox_id, uid)
        if key != block[0]:
            block = (key, txn.get(key, db=environment.handles[MESSAGES]))
        email = email_in(key, block[1], uid) if block[1] is not None else None
        if email is None:
            break
        total += email[1]
        if found and total > limit_bytes > 0:
            break
        found.append(email[0])
    return found


def _is_uid(uid: int) -> bool:
    return 0 < uid <= 0xFFFFFFFF


def _present(environment: Environment, txn: Transaction, table: int, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The rows of all the keys, in their order.

    Raises:
        StoreCorrupt: one is missing.
    """
    with txn.cursor(environment.handles[table]) as cursor:
        rows: list[tuple[bytes, bytes]] = cursor.getmulti(keys)
    if len(rows) < len(keys):
        missing = set(keys) - {key for key, _ in rows}
        name = environment.tables[table].decode()
        raise StoreCorrupt("the store is damaged", f"{name} {', '.join(key.hex() for key in sorted(missing))}: missing")
    return rows


def content_of_row(blobs: LmdbBlobs, id: bytes, row: bytes) -> Content:
    return content_of(blobs, id, open_blob(id, row))


def content_of(blobs: LmdbBlobs, id: bytes, opened: tuple[int, int, int, bytes | None]) -> Content:
    """`opened` is what `open_blob` says."""
    size, header_bytes, checksum, data = opened
    if data is None:
        return blobs.content_of(id, size, header_bytes, is_file=True, checksum=checksum)
    return Content(id, size, header_bytes, data=data, stored=True)
