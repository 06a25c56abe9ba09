"""Mailboxes as IMAP's sessions hold them: all rows at once, what changed since, and what FETCH and SEARCH ask of emails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rusmes._core.blocks import add_all_to, load_blocks, message_marks
from rusmes._core.blocks import saved_dates as saved_of
from rusmes._core.rows import EmailFacts, bodies_to_send, facts_of
from rusmes.model.content import Rendering
from rusmes.model.mailbox import Mailbox
from rusmes.storage.lmdb.blobs import LmdbBlobs
from rusmes.storage.lmdb.edits import (
    Snapshot,
    change_chain,
    log_reaches,
    mailbox_value,
    read_account,
    read_mailbox,
)
from rusmes.storage.lmdb.environment import Environment
from rusmes.storage.lmdb.layout import (
    BLOBS,
    CREATED,
    DESTROYED,
    EMAILS,
    MESSAGES,
    UPDATED,
    MailboxRecord,
    number_key,
)
from rusmes.storage.lmdb.sending import content_of

if TYPE_CHECKING:
    from rusmes._core.view import MailboxRows

# Rows of the change log read for one refresh; a mailbox of 100,000 messages is loaded sooner than more of them are read.
MAX_REFRESH_ROWS: Final = 5_000


def load(environment: Environment, mailbox_id: int, into: MailboxRows, first_uid: int) -> Mailbox:
    with environment.reading() as txn:
        rows = Snapshot(environment, txn)
        mailbox = mailbox_value(rows, read_mailbox(rows, mailbox_id))
        with txn.cursor(environment.handles[MESSAGES]) as cursor:
            load_blocks(cursor, mailbox_id, max(first_uid, 1), into)
    return mailbox


def refresh(environment: Environment, mailbox_id: int, into: MailboxRows, since_modseq: int) -> Mailbox | None:
    with environment.reading() as txn:
        rows = Snapshot(environment, txn)
        mailbox = read_mailbox(rows, mailbox_id)
        if mailbox.highest_modseq <= since_modseq:
            return mailbox_value(rows, mailbox)
        changed = _changed(rows, mailbox, since_modseq, MAX_REFRESH_ROWS)
        if changed is None:
            return None
        there = []
        for uid, (action, modseq) in changed.items():
            if action == DESTROYED:
                into.expunge(uid, modseq)
            else:
                there.append(uid)
        there.sort()
        add_all_to(into, txn.get, environment.handles[MESSAGES], mailbox_id, there)
        return mailbox_value(rows, mailbox)


def expunged_since(environment: Environment, mailbox_id: int, modseq: int) -> list[int] | None:
    with environment.reading() as txn:
        rows = Snapshot(environment, txn)
        changed = _changed(rows, read_mailbox(rows, mailbox_id), modseq, 0)
    return None if changed is None else sorted(uid for uid, (action, _) in changed.items() if action == DESTROYED)


def _changed(rows: Snapshot, mailbox: MailboxRecord, since_modseq: int, limit: int) -> dict[int, tuple[int, int]] | None:
    """By UID: whether the message is new, other than it was or gone, and since when. None: the log does not tell.

    One that came and went is left out: who asks never knew it.
    """
    account = read_account(rows, mailbox.account_id)
    if not log_reaches(account, since_modseq):
        return None
    prefix = number_key(mailbox.id)
    changed: dict[int, tuple[int, int]] = {}
    for count, (_, record) in enumerate(change_chain(rows, account, since_modseq)):
        if count >= limit > 0:
            return None
        for action, uid in message_marks(record.marks, prefix):
            later = changed.get(uid)
            if later is None or (action == CREATED and later[0] == UPDATED):
                changed[uid] = (action, record.modseq)
            elif action == CREATED:
                del changed[uid]
    return changed


def email_facts(environment: Environment, account_id: int, ids: Sequence[bytes]) -> list[EmailFacts | None]:
    with environment.reading() as txn:
        return facts_of(txn.get, environment.handles[EMAILS], account_id, ids)


def email_bodies(
    environment: Environment, blobs: LmdbBlobs, account_id: int, ids: Sequence[bytes], limit_bytes: int
) -> list[Rendering | None]:
    handles = environment.handles
    with environment.reading() as txn:
        rows = bodies_to_send(txn.get, handles[EMAILS], handles[BLOBS], account_id, ids, limit_bytes)
        return [Rendering(content_of(blobs, row[0], row[3]), row[1], row[2]) if row is not None else None for row in rows]


def saved_dates(environment: Environment, mailbox_id: int, uids: Sequence[int]) -> list[float | None]:
    with environment.reading() as txn:
        read_mailbox(Snapshot(environment, txn), mailbox_id)
        return saved_of(txn.get, environment.handles[MESSAGES], mailbox_id, uids)
