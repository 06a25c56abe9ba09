"""Messages and emails inside a transaction: adding, flagging, removing, copying, moving."""

from __future__ import annotations

from collections.abc import Sequence

from rusmes._core.batch import Batch
from rusmes._core.blocks import UID_BITS, Flagging, block_key, messages_in
from rusmes._core.delivery import add_new
from rusmes._core.rows import MessageRow, seal
from rusmes.errors import NotAllowed, OverQuota
from rusmes.mime.fields import parse_fields
from rusmes.mime.identifiers import message_ids
from rusmes.model.ids import IdSource
from rusmes.storage.api import ALL_FLAGS, FlagChange
from rusmes.storage.flags import DELETED, SEEN, change, kept_flags, split_flags
from rusmes.storage.lmdb.blobs import LmdbBlobs
from rusmes.storage.lmdb.edits import Edit, Rows, read_account, read_email, read_mailbox, read_message
from rusmes.storage.lmdb.layout import (
    CREATED,
    DESTROYED,
    EMAIL,
    EMAILS,
    MAILBOX,
    MESSAGE,
    MESSAGE_IDS,
    MESSAGES,
    THREAD,
    THREADS,
    UPDATED,
    AccountRecord,
    EmailRecord,
    MailboxRecord,
    message_id,
    number_key,
)

MAX_UID = 0xFFFFFFFF  # RFC 9051 §2.3.1.1: UIDs have 32 bits
_IDENTIFIER_BYTES = 12
# What one email keeps for those of its thread that are gone; answers to older ones begin a thread of their own.
_MAX_IDENTIFIERS_BYTES = 500 * _IDENTIFIER_BYTES


def count_email(batch: Batch, edit: Edit, id: bytes, email: EmailRecord, *, is_first: bool) -> None:
    """Add the email to account and thread. A thread has rows from its second email on: most never get one."""
    account = edit.account
    if not is_first:
        prefix = number_key(account.id) + email.thread_id
        members = [id] if batch.scan(THREADS, prefix, limit=1) else [email.thread_id, id]
        for member in members:
            batch.put(THREADS, prefix + member, seal(prefix + member, b""))
    account.used_bytes += email.size
    account.used_messages += 1
    edit.log(EMAIL | CREATED, id)
    edit.log(THREAD | (CREATED if is_first else UPDATED), email.thread_id)


def add_message(edit: Edit, mailbox: MailboxRecord, email: EmailRecord, message: MessageRow) -> int:
    """Give the email a place in the mailbox; the UID. The caller writes mailbox and email, and gives the time of saving."""
    uid = mailbox.uid_next
    if uid > MAX_UID:
        raise NotAllowed("the mailbox has no UID left", mailbox.name)
    message.modseq = mailbox.highest_modseq = edit.modseq
    mailbox.uid_next += 1
    mailbox.count(message, uid, 1)
    if email.memberships:
        edit.mark_shared(email.memberships)
        message.is_shared = True
    email.memberships.append((mailbox.id, uid))
    edit.put_message(mailbox.id, uid, message)
    edit.log(MESSAGE | CREATED, message_id(mailbox.id, uid))
    return uid


def _present(rows: Rows, mailbox_id: int, uids: Sequence[int]) -> list[tuple[int, MessageRow]]:
    """The messages that exist, in UID order."""
    found: list[tuple[int, MessageRow]] = []
    for key, wanted in _blocks(mailbox_id, uids):
        row = rows.get(MESSAGES, key)
        if row is not None:
            found += [pair for pair in messages_in(key, row) if pair[0] in wanted]
    return found


def _blocks(mailbox_id: int, uids: Sequence[int]) -> list[tuple[bytes, list[int]]]:
    """The keys of the rows in which these messages would be, with the UIDs of each, in order."""
    groups: dict[int, list[int]] = {}
    for uid in sorted(set(uids)):
        if 0 < uid <= MAX_UID:
            groups.setdefault(uid >> UID_BITS, []).append(uid)
    return [(block_key(mailbox_id, group[0]), group) for group in groups.values()]


def emails_in(rows: Rows, mailbox_id: int, first_uid: int, last_uid: int) -> list[bytes]:
    """The emails of the messages from one UID to another, in the order of these."""
    found: list[bytes] = []
    for block in range(first_uid >> UID_BITS, (last_uid >> UID_BITS) + 1):
        key = block_key(mailbox_id, block << UID_BITS)
        row = rows.get(MESSAGES, key)
        if row is not None:
            found += [message.email_id for uid, message in messages_in(key, row) if first_uid <= uid <= last_uid]
    return found


# Flags


class TooManyShared(Exception):
    """More emails than the caller allows are in other mailboxes too: each of them costs many looks."""


def change_flags(batch: Batch, mailbox_id: int, request: FlagChange, *, max_shared: int = MAX_UID) -> Flagging:
    """Raises TooManyShared."""
    mailbox = read_mailbox(batch, mailbox_id)
    account = read_account(batch, mailbox.account_id)
    bits, keywords = split_flags(request.flags)
    since = -1 if request.unchanged_since is None else min(request.unchanged_since, (1 << 63) - 1)
    flagging = Flagging(mailbox, account.modseq + 1, request.operation, bits, keywords, since, change)
    flagging.change(batch, MESSAGES, request.uids)
    if len(flagging.shared) > max_shared:
        raise TooManyShared
    if flagging.changed or flagging.shared:
        edit = Edit(batch, account)
        edit.log_marks(flagging.marks)
        boxes = {mailbox_id: mailbox}
        unseen_in = {mailbox_id} if flagging.unseen_changed else set()
        for uid in flagging.shared:
            message = read_message(batch, mailbox_id, uid)
            if message is not None:
                new_flags = change(request.operation, message.bits, message.keywords, bits, keywords)
                _set_flags(batch, edit, boxes, unseen_in, mailbox_id, uid, message, *new_flags)
        for box_id, box in boxes.items():
            box.highest_modseq = edit.modseq
            edit.put_mailbox(box)
            if box_id in unseen_in:
                edit.log(MAILBOX | UPDATED, number_key(box_id))
        edit.finish()
    return flagging


def _set_flags(
    batch: Batch, edit: Edit, boxes: dict[int, MailboxRecord], unseen_in: set[int], mailbox_id: int, uid: int,
    message: MessageRow, bits: int, keywords: tuple[str, ...],
) -> None:  # fmt: skip
    """Keywords belong to the email: its messages in other mailboxes get them too. `\\Deleted` is the message's own."""
    if (message.bits ^ bits) & ~DELETED or message.keywords != keywords:
        edit.log(EMAIL | UPDATED, message.email_id)
        members = read_email(batch, edit.account.id, message.email_id).memberships
    else:
        members = [(mailbox_id, uid)]
    unseen_changed = (message.bits ^ bits) & SEEN
    for box_id, member_uid in members:
        is_this = (box_id, member_uid) == (mailbox_id, uid)
        member = message if is_this else read_message(batch, box_id, member_uid)
        if member is None:
            continue
        member_bits = bits if is_this else (bits & ~DELETED) | (member.bits & DELETED)
        if (member.bits, member.keywords) == (member_bits, keywords):
            continue
        box = boxes.get(box_id)
        if box is None:
            box = boxes[box_id] = read_mailbox(batch, box_id)
        box.count(member, member_uid, -1)
        member.bits, member.keywords, member.modseq = member_bits, keywords, edit.modseq
        box.count(member, member_uid, 1)
        edit.put_message(box_id, member_uid, member)
        edit.log(MESSAGE | UPDATED, message_id(box_id, member_uid))
        if unseen_changed:
            unseen_in.add(box_id)


# Removal


def expunge(batch: Batch, blobs: LmdbBlobs, mailbox_id: int, uids: Sequence[int], *, only_deleted: bool) -> list[int]:
    mailbox = read_mailbox(batch, mailbox_id)
    present = _present(batch, mailbox_id, uids)
    gone = [(uid, message) for uid, message in present if not only_deleted or message.bits & DELETED]
    if not gone:
        return []
    edit = Edit(batch, read_account(batch, mailbox.account_id))
    remove_messages(batch, edit, blobs, mailbox, gone)
    edit.log(MAILBOX | UPDATED, number_key(mailbox_id))
    edit.put_mailbox(mailbox)
    edit.finish()
    return [uid for uid, _ in gone]


def all_messages(rows: Rows, mailbox_id: int) -> list[tuple[int, MessageRow]]:
    return [pair for key, row in rows.scan(MESSAGES, number_key(mailbox_id)) for pair in messages_in(key, row)]


def remove_messages(
    batch: Batch, edit: Edit, blobs: LmdbBlobs, mailbox: MailboxRecord, messages: Sequence[tuple[int, MessageRow]]
) -> None:
    """The caller writes the mailbox."""
    for uid, message in messages:
        edit.remove_message(mailbox.id, uid)
        mailbox.count(message, uid, -1)
        mailbox.highest_modseq = edit.modseq
        edit.log(MESSAGE | DESTROYED, message_id(mailbox.id, uid))
        email = read_email(batch, edit.account.id, message.email_id)
        email.memberships.remove((mailbox.id, uid))
        if email.memberships:
            edit.put_email(message.email_id, email)
            edit.log(EMAIL | UPDATED, message.email_id)
        else:
            _remove_email(batch, edit, blobs, message.email_id, email)
        batch.spill_if_large()


def _remove_email(batch: Batch, edit: Edit, blobs: LmdbBlobs, id: bytes, email: EmailRecord) -> None:
    account = edit.account
    batch.delete(EMAILS, id)
    blobs.release(batch, email.blob_id, email.is_file)
    account.used_bytes -= email.size
    account.used_messages -= 1
    edit.log(EMAIL | DESTROYED, id)
    prefix = number_key(account.id) + email.thread_id
    own = prefix + id
    heir = b""
    if batch.has(THREADS, own):
        batch.delete(THREADS, own)
        # A younger one first: threads are removed from the oldest email on, and looking back would pass all that are gone.
        others = batch.scan(THREADS, prefix, start=own, limit=1) or batch.scan(THREADS, prefix, stop=own, limit=1)
        heir = others[0][0][len(prefix) :] if others else b""
    identifiers = email.identifiers
    if heir and identifiers:  # they stay with the thread: another of its emails keeps the list
        keeper = read_email(batch, account.id, heir)
        both = keeper.identifiers + identifiers
        keeper.identifiers, identifiers = both[:_MAX_IDENTIFIERS_BYTES], both[_MAX_IDENTIFIERS_BYTES:]
        edit.put_email(heir, keeper)
    for at in range(0, len(identifiers), _IDENTIFIER_BYTES):
        batch.delete(MESSAGE_IDS, number_key(account.id) + identifiers[at : at + _IDENTIFIER_BYTES])
    edit.log(THREAD | (UPDATED if heir else DESTROYED), email.thread_id)


# Copying and moving


def _pair(batch: Batch, mailbox_id: int, target_id: int) -> tuple[MailboxRecord, MailboxRecord]:
    """Source and target, one object when they are the same mailbox."""
    source = read_mailbox(batch, mailbox_id)
    return source, source if target_id == mailbox_id else read_mailbox(batch, target_id)


def copy(
    batch: Batch, blobs: LmdbBlobs, ids: IdSource, mailbox_id: int, uids: Sequence[int], target_id: int, keep: str
) -> list[tuple[int, int]]:
    source, target = _pair(batch, mailbox_id, target_id)
    messages = _present(batch, mailbox_id, uids)
    if not messages:
        return []
    account = read_account(batch, target.account_id)
    if not account.has_room(sum(message.size for _, message in messages), len(messages)):
        raise OverQuota("over quota", account.name)
    if source.account_id != target.account_id:
        return _copy_across(batch, blobs, ids, source.account_id, account, target, messages, keep)
    edit = Edit(batch, account)
    pairs = []
    for uid, message in messages:
        email = read_email(batch, account.id, message.email_id)
        id = ids.next_id()
        email.memberships = []
        email.identifiers = b""  # they are with the original, or its heir
        blobs.refer_again(batch, email.blob_id)
        count_email(batch, edit, id, email, is_first=False)
        flags = kept_flags(keep, message.bits, message.keywords)
        copied = MessageRow(0, id, message.internal_date, message.size, *flags, batch.now)
        pairs.append((uid, add_message(edit, target, email, copied)))
        edit.put_email(id, email)
        batch.spill_if_large()
    edit.log(MAILBOX | UPDATED, number_key(target_id))
    edit.put_mailbox(target)
    edit.finish()
    return pairs


def _copy_across(
    batch: Batch, blobs: LmdbBlobs, ids: IdSource, source_account_id: int, account: AccountRecord, target: MailboxRecord,
    messages: Sequence[tuple[int, MessageRow]], keep: str,
) -> list[tuple[int, int]]:  # fmt: skip
    """Into another account: the emails are new there, and find their threads as if they had just come."""
    pairs = []
    for uid, message in messages:
        email = read_email(batch, source_account_id, message.email_id)
        email.account_id, email.memberships = account.id, []
        blobs.refer_again(batch, email.blob_id)
        account.modseq += 1
        flags = kept_flags(keep, message.bits, message.keywords)
        identifiers = message_ids(parse_fields(email.headers))
        new = add_new(
            batch, account, target, email, ids.next_id(), identifiers, *flags, internal_date=message.internal_date
        )  # fmt: skip
        pairs.append((uid, new))
        batch.spill_if_large()
    return pairs


def move(
    batch: Batch, blobs: LmdbBlobs, ids: IdSource, mailbox_id: int, uids: Sequence[int], target_id: int, keep: str
) -> list[tuple[int, int]]:
    source, target = _pair(batch, mailbox_id, target_id)
    messages = _present(batch, mailbox_id, uids)
    if not messages:
        return []
    if source.account_id != target.account_id:
        pairs = copy(batch, blobs, ids, mailbox_id, uids, target_id, keep)
        expunge(batch, blobs, mailbox_id, uids, only_deleted=False)
        return pairs
    edit = Edit(batch, read_account(batch, source.account_id))
    pairs = move_messages(batch, edit, source, target, messages, keep)
    edit.finish()
    return pairs


def move_messages(
    batch: Batch, edit: Edit, source: MailboxRecord, target: MailboxRecord, messages: Sequence[tuple[int, MessageRow]],
    keep: str = ALL_FLAGS,
) -> list[tuple[int, int]]:  # fmt: skip
    """The email stays the same one (RFC 8474 §4.2): only where it is a member changes. Writes both mailboxes."""
    pairs = []
    for uid, message in messages:
        email = read_email(batch, edit.account.id, message.email_id)
        email.memberships.remove((source.id, uid))
        edit.remove_message(source.id, uid)
        source.count(message, uid, -1)
        edit.log(MESSAGE | DESTROYED, message_id(source.id, uid))
        message.saved = batch.now
        message.bits, message.keywords = kept_flags(keep, message.bits, message.keywords)
        pairs.append((uid, add_message(edit, target, email, message)))
        edit.put_email(message.email_id, email)
        edit.log(EMAIL | UPDATED, message.email_id)
        batch.spill_if_large()
    source.highest_modseq = edit.modseq
    for mailbox in (source, target) if source is not target else (source,):
        edit.log(MAILBOX | UPDATED, number_key(mailbox.id))
        edit.put_mailbox(mailbox)
    return pairs
