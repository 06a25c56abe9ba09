"""Mailboxes as IMAP's sessions hold them: all rows at once, what changed since, and what FETCH and SEARCH ask of emails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rusmes._core.blocks import add_all_to, changed_messages, load_blocks
from rusmes._core.blocks import saved_dates as saved_of
from rusmes._core.rows import EmailFacts, bodies_to_send, facts_of
from rusmes._core.view import Uids
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
    EMAILS,
    MESSAGES,
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
        gone, there = changed
        for uid, modseq in gone:
            into.expunge(uid, modseq)
        add_all_to(into, txn.get, environment.handles[MESSAGES], mailbox_id, there)
        return mailbox_value(rows, mailbox)


def expunged_since(environment: Environment, mailbox_id: int, modseq: int) -> list[int] | None:
    with environment.reading() as txn:
        rows = Snapshot(environment, txn)
        changed = _changed(rows, read_mailbox(rows, mailbox_id), modseq, 0)
    return None if changed is None else [uid for uid, _ in changed[0]]


def _changed(
    rows: Snapshot, mailbox: MailboxRecord, since_modseq: int, limit: int
) -> tuple[list[tuple[int, int]], Uids] | None:
    """The messages that went, with the modseq of that, and those that are new or other than they were; None: the log does
    not tell. One that came and went is left out: who asks never knew it.
    """
    account = read_account(rows, mailbox.account_id)
    if not log_reaches(account, since_modseq):
        return None
    logged: list[tuple[int, bytes]] = []
    for _, record in change_chain(rows, account, since_modseq):
        if len(logged) >= limit > 0:
            return None
        logged.append((record.modseq, record.marks))
    return changed_messages(logged, number_key(mailbox.id))


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
