"""Accounts and mailboxes inside a transaction: making, renaming, removing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rusmes._core.batch import Batch
from rusmes._core.rows import seal
from rusmes.errors import AlreadyExists, LimitReached, NotAllowed
from rusmes.model.mailbox import Mailbox
from rusmes.storage.lmdb.blobs import LmdbBlobs
from rusmes.storage.lmdb.edits import (
    Edit,
    Rows,
    account_named,
    change_chain,
    find_account_id,
    find_email,
    find_mailbox_id,
    mailbox_named,
    put_name_counts,
    read_account,
    read_last,
    read_mailbox,
    read_name_counts,
)
from rusmes.storage.lmdb.layout import (
    ACCOUNT_NAMES,
    ACCOUNTS,
    CHANGES,
    CREATED,
    DESTROYED,
    EMAILS,
    LAST_KEY,
    MAILBOX,
    MAILBOX_NAMES,
    MAILBOXES,
    MESSAGE_IDS,
    MESSAGES,
    META,
    SUBSCRIPTIONS,
    THREADS,
    UPDATED,
    AccountRecord,
    MailboxRecord,
    NameCounts,
    name_key,
    names_key,
    number_key,
)
from rusmes.storage.lmdb.messages import all_messages, move_messages, remove_messages
from rusmes.storage.lmdb.sharing import forget_account, forget_mailbox, inherit, touch
from rusmes.storage.names import (
    INBOX,
    MAX_MAILBOXES,
    MAX_SUBSCRIPTIONS,
    SPECIAL_USE_BY_NAME,
    check_account_name,
    is_below,
    normal_name,
    parents,
)

# More than an account can have had between a backup and the loss of what came after it.
LOST_MODSEQS: Final = 1 << 32

# Accounts


def create_account(
    batch: Batch, name: str, mailboxes: Sequence[str], quota_bytes: int, quota_messages: int, now: float
) -> AccountRecord:
    if find_account_id(batch, name):
        raise AlreadyExists("account exists", name)
    edit = new_account(batch, name, mailboxes, quota_bytes, quota_messages, now)
    edit.finish()
    return edit.account


def new_account(
    batch: Batch, name: str, mailboxes: Sequence[str], quota_bytes: int, quota_messages: int, now: float
) -> Edit:
    """Its edit is not finished yet."""
    check_account_name(name)
    key = name.encode()
    last = read_last(batch)
    last.account_id += 1
    batch.put(META, LAST_KEY, last.pack())
    account = AccountRecord(last.account_id, 0, 0, 0, quota_bytes, quota_messages, name)
    batch.put(ACCOUNT_NAMES, key, seal(key, number_key(account.id)))
    edit = Edit(batch, account)
    for mailbox in dict.fromkeys([INBOX, *mailboxes]):
        if not find_mailbox_id(batch, account.id, mailbox):
            new_mailbox(batch, edit, mailbox, now)
    return edit


def set_quota(batch: Batch, name: str, quota_bytes: int, quota_messages: int) -> AccountRecord:
    account = account_named(batch, name)
    account.quota_bytes = quota_bytes
    account.quota_messages = quota_messages
    batch.put(ACCOUNTS, number_key(account.id), account.pack())
    return account


def delete_account(batch: Batch, blobs: LmdbBlobs, name: str) -> None:
    account = account_named(batch, name)
    prefix = number_key(account.id)
    for mailbox in mailboxes_of(batch, account.id):
        for _, message in all_messages(batch, mailbox.id):
            email = find_email(batch, account.id, message.email_id)
            if email is not None:  # None: it was in an earlier mailbox too
                blobs.release(batch, email.blob_id, email.is_file)
                batch.delete(EMAILS, message.email_id)
        for key, _ in batch.scan(MESSAGES, number_key(mailbox.id)):
            batch.delete(MESSAGES, key)
            batch.spill_if_large()
        forget_mailbox(batch, mailbox.id)
        batch.delete(MAILBOXES, number_key(mailbox.id))
    forget_account(batch, account.id, name)
    last = batch.next_number(CHANGES) - 1
    for number, _ in change_chain(batch, account):
        if number == last:  # it holds the number, so that none is given twice; `trim_changes` removes it one day
            continue
        batch.delete(CHANGES, number_key(number))
        batch.spill_if_large()
    for table in (MAILBOX_NAMES, SUBSCRIPTIONS, THREADS, MESSAGE_IDS):
        for key, _ in batch.scan(table, prefix):
            batch.delete(table, key)
            batch.spill_if_large()
    batch.delete(META, names_key(account.id))
    batch.delete(ACCOUNT_NAMES, name.encode())
    batch.delete(ACCOUNTS, prefix)


# Mailboxes


def mailboxes_of(rows: Rows, account_id: int) -> list[MailboxRecord]:
    """In the order of names."""
    named = rows.scan(MAILBOX_NAMES, number_key(account_id))
    return [read_mailbox(rows, int.from_bytes(row[:8], "big")) for _, row in named]


def mailbox_values(rows: Rows, account_id: int) -> list[Mailbox]:
    """In the order of names."""
    subscribed = {key for key, _ in rows.scan(SUBSCRIPTIONS, number_key(account_id))}
    return [box.value(name_key(account_id, box.name) in subscribed) for box in mailboxes_of(rows, account_id)]


def create_mailbox(batch: Batch, account_id: int, name: str, special_use: str, now: float) -> MailboxRecord:
    account = read_account(batch, account_id)
    if find_mailbox_id(batch, account_id, name):
        raise AlreadyExists("mailbox exists", name)
    edit = Edit(batch, account)
    mailbox = new_mailbox(batch, edit, name, now)
    if special_use:
        mailbox.special_use = special_use
        edit.put_mailbox(mailbox)
    edit.finish()
    return mailbox


def new_mailbox(batch: Batch, edit: Edit, name: str, now: float) -> MailboxRecord:
    """Makes the superior names too (RFC 9051 §6.3.4); "Sent" and its like get their special use if it is free."""
    account_id = edit.account.id
    taken: set[str] | None = None
    above = 0
    missing = sum(not find_mailbox_id(batch, account_id, level) for level in (*parents(name), name))
    counts = read_name_counts(batch, account_id)
    if counts.mailboxes + missing > MAX_MAILBOXES:
        raise LimitReached("too many mailboxes", f"at most {MAX_MAILBOXES}")
    for level in (*parents(name), name):
        known = find_mailbox_id(batch, account_id, level)
        if known:
            above = known
            continue
        use = SPECIAL_USE_BY_NAME.get(level, "")
        if use and taken is None:
            taken = {mailbox.special_use for mailbox in mailboxes_of(batch, account_id)}
        last = read_last(batch)
        last.mailbox_id += 1
        last.uid_validity = next_uid_validity(last.uid_validity, now)
        batch.put(META, LAST_KEY, last.pack())
        mailbox = MailboxRecord(
            id=last.mailbox_id,
            account_id=account_id,
            uid_validity=last.uid_validity,
            uid_next=1,
            first_recent=1,
            highest_modseq=edit.modseq,
            exists=0,
            unseen=0,
            deleted=0,
            recent=0,
            size=0,
            special_use="" if taken and use in taken else use,
            name=level,
        )
        edit.put_mailbox(mailbox)
        _put_name(batch, account_id, level, mailbox.id)
        counts.mailboxes += 1
        _subscribe(batch, account_id, level, True, counts)
        edit.log(MAILBOX | CREATED, number_key(mailbox.id))
        if above:
            inherit(batch, above, mailbox.id)
        above = mailbox.id
    put_name_counts(batch, account_id, counts)
    return mailbox


def set_special_use(batch: Batch, mailbox_id: int, special_use: str) -> None:
    mailbox = read_mailbox(batch, mailbox_id)
    if mailbox.special_use != special_use:
        mailbox.special_use = special_use
        batch.put(MAILBOXES, number_key(mailbox_id), mailbox.pack())
        touch(batch, mailbox)


def next_uid_validity(last: int, now: float) -> int:
    """Grows with every mailbox ever made; near the time, so that it also grows over a restore from a backup."""
    return max(last + 1, int(now) & 0xFFFFFFFF)


def renew_uid_validity(batch: Batch, now: float) -> int:
    """Give every mailbox a new UIDVALIDITY, because the store is an older copy of itself and UIDs that clients know will be
    given again (RFC 9051 §2.3.1.1); how many. Modseqs leap over those that were lost."""
    renewed = 0
    for key, row in batch.scan(ACCOUNTS, b""):
        account = AccountRecord.unpack(key, row)
        account.modseq += LOST_MODSEQS
        edit = Edit(batch, account)
        # What happened between the copy and the loss is in no log.
        account.floor_modseq, account.floor_change = account.modseq - 1, account.last_change
        for mailbox in mailboxes_of(batch, account.id):
            last = read_last(batch)
            last.uid_validity = mailbox.uid_validity = next_uid_validity(last.uid_validity, now)
            batch.put(META, LAST_KEY, last.pack())
            mailbox.highest_modseq = edit.modseq
            edit.put_mailbox(mailbox)
            edit.log(MAILBOX | UPDATED, number_key(mailbox.id))
            renewed += 1
        edit.finish()
        batch.spill_if_large()
    return renewed


def _put_name(batch: Batch, account_id: int, name: str, mailbox_id: int) -> None:
    key = name_key(account_id, name)
    batch.put(MAILBOX_NAMES, key, seal(key, number_key(mailbox_id)))


def rename_mailbox(batch: Batch, account_id: int, old: str, new: str, now: float) -> None:
    account = read_account(batch, account_id)
    mailbox_named(batch, account_id, old)
    if find_mailbox_id(batch, account_id, new):
        raise AlreadyExists("mailbox exists", new)
    if old == INBOX:  # RFC 9051 §6.3.6: only its messages move, names below stay
        edit = Edit(batch, account)
        target = new_mailbox(batch, edit, new, now)
        inbox = mailbox_named(batch, account_id, INBOX)
        move_messages(batch, edit, inbox, target, all_messages(batch, inbox.id))
        edit.finish()
        return
    if is_below(new, old):
        raise NotAllowed("a mailbox cannot move into itself", f"{old} to {new}")
    boxes = mailboxes_of(batch, account_id)
    moved = {box.name: new + box.name[len(old) :] for box in boxes if box.name == old or is_below(box.name, old)}
    for name in moved.values():
        normal_name(name)
        if name not in moved and find_mailbox_id(batch, account_id, name):
            raise AlreadyExists("mailbox exists", name)
    edit = Edit(batch, account)
    superior = parents(new)
    if superior and not find_mailbox_id(batch, account_id, superior[-1]):
        new_mailbox(batch, edit, superior[-1], now)
    counts = read_name_counts(batch, account_id)
    renamed = [box for box in boxes if box.name in moved]
    subscribed = {box.name for box in renamed if batch.has(SUBSCRIPTIONS, name_key(account_id, box.name))}
    for box in renamed:
        batch.delete(MAILBOX_NAMES, name_key(account_id, box.name))
        if box.name in subscribed:
            _subscribe(batch, account_id, box.name, False, counts)
    for box in renamed:
        was_subscribed = box.name in subscribed
        box.name = moved[box.name]
        box.highest_modseq = edit.modseq
        _put_name(batch, account_id, box.name, box.id)
        if was_subscribed:
            _subscribe(batch, account_id, box.name, True, counts)
        edit.put_mailbox(box)
        edit.log(MAILBOX | UPDATED, number_key(box.id))
    put_name_counts(batch, account_id, counts)
    edit.finish()


def delete_mailbox(batch: Batch, blobs: LmdbBlobs, account_id: int, name: str) -> None:
    account = read_account(batch, account_id)
    if name == INBOX:
        raise NotAllowed("INBOX cannot be deleted")  # RFC 9051 §6.3.5
    mailbox = mailbox_named(batch, account_id, name)
    edit = Edit(batch, account)
    remove_messages(batch, edit, blobs, mailbox, all_messages(batch, mailbox.id))
    forget_mailbox(batch, mailbox.id)
    batch.delete(MAILBOXES, number_key(mailbox.id))
    counts = read_name_counts(batch, account_id)
    batch.delete(MAILBOX_NAMES, name_key(account_id, name))
    counts.mailboxes -= 1
    put_name_counts(batch, account_id, counts)
    edit.log(MAILBOX | DESTROYED, number_key(mailbox.id))
    edit.finish()


def subscribe(batch: Batch, account_id: int, name: str, subscribed: bool) -> None:
    account = read_account(batch, account_id)
    counts = read_name_counts(batch, account_id)
    before = counts.subscriptions
    _subscribe(batch, account_id, name, subscribed, counts)
    if before < counts.subscriptions > MAX_SUBSCRIPTIONS:
        raise LimitReached("too many subscriptions", f"at most {MAX_SUBSCRIPTIONS}")
    put_name_counts(batch, account_id, counts)
    mailbox_id = find_mailbox_id(batch, account_id, name)
    if mailbox_id:
        edit = Edit(batch, account)
        edit.log(MAILBOX | UPDATED, number_key(mailbox_id))
        edit.finish()


def _subscribe(batch: Batch, account_id: int, name: str, subscribed: bool, counts: NameCounts) -> None:
    key = name_key(account_id, name)
    counts.subscriptions += subscribed - batch.has(SUBSCRIPTIONS, key)
    batch.put(SUBSCRIPTIONS, key, seal(key, b"") if subscribed else None)


def subscriptions(rows: Rows, account_id: int) -> list[str]:
    return [key[8:].decode() for key, _ in rows.scan(SUBSCRIPTIONS, number_key(account_id))]


def claim_recent(batch: Batch, mailbox_id: int) -> int:
    mailbox = read_mailbox(batch, mailbox_id)
    first = mailbox.first_recent
    if mailbox.uid_next != first:
        mailbox.first_recent = mailbox.uid_next
        mailbox.recent = 0
        batch.put(MAILBOXES, number_key(mailbox_id), mailbox.pack())
    return first
