"""Messages as they are sent, many in one look: POP3 and IMAP send whole mailboxes through here, so rows are unpacked no further
than sending needs, and each table is asked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from rusmes._core.rows import email_of_message, email_to_send, open_blob
from rusmes.errors import NotFound, StoreCorrupt
from rusmes.model.content import Content, Rendering
from rusmes.storage.lmdb.blobs import LmdbBlobs
from rusmes.storage.lmdb.edits import Snapshot, read_mailbox
from rusmes.storage.lmdb.environment import Environment, Transaction
from rusmes.storage.lmdb.layout import BLOBS, EMAILS, MESSAGES, message_key

# Rows of messages read before it is known how many of them go out.
ROWS_AT_ONCE: Final = 64


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
    with txn.cursor(environment.handles[MESSAGES]) as cursor:
        for start in range(0, len(uids), ROWS_AT_ONCE):
            keys = [message_key(mailbox_id, uid) for uid in takewhile(_is_uid, uids[start : start + ROWS_AT_ONCE])]
            rows = cursor.getmulti(keys)
            for expected, (key, row) in zip(keys, rows, strict=False):
                email_id, size = email_of_message(key, row)
                total += size
                if key != expected or (found and total > limit_bytes > 0):
                    return found
                found.append(email_id)
            if len(rows) < ROWS_AT_ONCE:
                return found
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
    size, header_bytes, checksum, data = open_blob(id, row)
    if data is None:
        return blobs.content_of(id, size, header_bytes, is_file=True, checksum=checksum)
    return Content(id, size, header_bytes, data=data, stored=True)
