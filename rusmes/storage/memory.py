"""The store in memory: the specification of `storage.api`, written to be read, in one piece and so in one long file. The
queue's half is in `memory_queue.py`, the bodies are in `memory_blobs.py`.

Everything is a plain Python object, and a coroutine never waits, so each call is a transaction by itself: it checks first
and changes afterwards. The other backends are compared with this one (`tests/contract/`). It forgets everything with the
process; tests of other rooms use it as their store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field, structs

from rusmes._core.rows import EmailFacts, EmailRow
from rusmes.clock import Clock, SystemClock
from rusmes.errors import AlreadyExists, NotAllowed, NotFound, OverQuota
from rusmes.metrics import Metrics
from rusmes.model.content import Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mailbox import Account, Appended, Change, Email, Mailbox, Message
from rusmes.model.plan import Append, Refusal
from rusmes.storage.api import ChangeListener, CompactResult, Finding, FlagChange, StoredMessage
from rusmes.storage.changes import ChangeNotices
from rusmes.storage.description import Description, describe
from rusmes.storage.flags import DELETED, SEEN, change, jmap_keywords, join_flags, split_flags
from rusmes.storage.memory_blobs import MemoryBlobs
from rusmes.storage.memory_queue import MemoryQueueStore
from rusmes.storage.names import INBOX, SPECIAL_USE_BY_NAME, check_account_name, is_below, normal_name, parents

if TYPE_CHECKING:
    from rusmes._core.view import MailboxRows

__all__ = ["MemoryBlobs", "MemoryMailStore", "MemoryQueueStore"]

KEY_RETENTION_SECONDS: Final = 7 * 86400.0
"""How long an append's key is remembered at least; it must be longer than a mail may wait in the queue ([queue] max_age)."""


class _Row(Struct):
    """A message of a mailbox. The keywords of an email's messages are the same in all of its mailboxes."""

    uid: int
    modseq: int
    email_id: bytes
    internal_date: float
    size: int
    bits: int
    keywords: tuple[str, ...]
    saved: float


class _Email(Struct):
    id: bytes
    blob_id: bytes
    prefix: bytes
    skip: int
    size: int
    thread_id: bytes
    received: float
    description: Description
    memberships: list[tuple[int, int]] = field(default_factory=list)


class _Mailbox(Struct):
    id: int
    account: _Account
    name: str
    uid_validity: int
    highest_modseq: int
    special_use: str = ""
    uid_next: int = 1
    first_recent: int = 1
    rows: dict[int, _Row] = field(default_factory=dict)
    """By UID, in the order of UIDs."""


class _Account(Struct):
    id: int
    name: str
    quota_bytes: int
    quota_messages: int
    modseq: int = 0
    mailboxes: dict[str, _Mailbox] = field(default_factory=dict)
    subscriptions: set[str] = field(default_factory=set)
    emails: dict[bytes, _Email] = field(default_factory=dict)
    threads: dict[bytes, list[bytes]] = field(default_factory=dict)
    thread_of: dict[bytes, bytes] = field(default_factory=dict)
    """Message-ID -> thread."""
    log: list[Change] = field(default_factory=list)
    floor_modseq: int = 0
    """What the log does not reach any more."""

    def has_room(self, size: int, count: int = 1) -> bool:
        used_bytes = sum(email.size for email in self.emails.values())
        return not (self.quota_bytes and used_bytes + size > self.quota_bytes) and not (
            self.quota_messages and len(self.emails) + count > self.quota_messages
        )


class MemoryMailStore:
    """Accounts, mailboxes and messages in memory. Implements `MailStore`."""

    def __init__(
        self,
        *,
        inline_limit: int = 0,
        map_size: int = 0,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        ids: IdSource | None = None,
        key_retention: float = KEY_RETENTION_SECONDS,
    ) -> None:
        self._clock = clock or SystemClock()
        self._ids = ids or IdSource()
        self._key_retention = key_retention
        self._notices = ChangeNotices()
        self._accounts: dict[str, _Account] = {}
        self._mailboxes: dict[int, _Mailbox] = {}
        self._keys: dict[bytes, tuple[float, Appended]] = {}
        self._last_account_id = 0
        self._last_mailbox_id = 0
        self._last_uid_validity = 0
        self.blobs = MemoryBlobs(self._ids, inline_limit)
        self.writable = True
        """Tests set it to see what the server does when the store fails."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def is_writable(self) -> bool:
        return self.writable and not self.blobs.is_full

    def on_change(self, listener: ChangeListener) -> None:
        self._notices.add(listener)

    # Delivery

    async def append(self, appends: Sequence[Append]) -> list[Appended | Refusal]:
        return [self._append(item) for item in appends]

    def _append(self, item: Append) -> Appended | Refusal:
        now = self._clock.now()
        expires, known = self._keys.get(item.key, (0.0, None))
        if item.key and known is not None and expires > now:
            return structs.replace(known, duplicate=True)
        try:
            name = normal_name(item.mailbox)
            bits, keywords = split_flags(item.flags)
        except NotAllowed as error:
            return Refusal(554, "5.6.0", error.public)
        size = item.rendering.size
        account = self._accounts.get(item.account)
        if account is not None and not account.has_room(size):
            return Refusal(552, "5.2.2", "mailbox full")
        if account is None:
            try:
                account = self._new_account(item.account, (), 0, 0)
            except NotAllowed as error:
                return Refusal(554, "5.6.0", error.public)
        modseq = self._next_modseq(account)
        mailbox = account.mailboxes.get(name) or self._new_mailbox(account, name, modseq)
        received = item.received or now
        description = describe(item.rendering)
        email = self._new_email(account, item.rendering, received, description, modseq)
        row = self._new_row(mailbox, email, modseq, received, bits, keywords)
        self._log(account, modseq, "mailbox", _mailbox_key(mailbox.id), "updated")
        self._tell(account)
        result = Appended(account.id, mailbox.id, mailbox.uid_validity, row.uid, modseq, email.id)
        if item.key:
            self._keys[item.key] = (now + self._key_retention, result)
        return result

    def _new_email(
        self,
        account: _Account,
        rendering: Rendering,
        received: float,
        description: Description,
        modseq: int,
        thread_id: bytes = b"",
    ) -> _Email:
        self.blobs.refer(rendering.content)
        id = self._ids.next_id()
        email = _Email(
            id=id,
            blob_id=rendering.content.id,
            prefix=rendering.prefix,
            skip=rendering.skip,
            size=rendering.size,
            thread_id=thread_id or self._thread_for(account, id, description.message_ids),
            received=received,
            description=description,
        )
        account.emails[id] = email
        members = account.threads.setdefault(email.thread_id, [])
        self._log(account, modseq, "email", id, "created")
        self._log(account, modseq, "thread", email.thread_id, "updated" if members else "created")
        members.append(id)
        return email

    def _thread_for(self, account: _Account, email_id: bytes, message_ids: tuple[bytes, ...]) -> bytes:
        """The thread of the first of the mail's identifiers that is known, else a new one named like its first email.

        All identifiers of the mail then lead to that thread, so that an answer which arrives before its question meets it.
        """
        thread_id = next((account.thread_of[id] for id in message_ids if id in account.thread_of), email_id)
        for id in message_ids:
            account.thread_of.setdefault(id, thread_id)
        return thread_id

    def _new_row(
        self, mailbox: _Mailbox, email: _Email, modseq: int, date: float, bits: int, keywords: tuple[str, ...]
    ) -> _Row:
        row = _Row(mailbox.uid_next, modseq, email.id, date, email.size, bits, keywords, self._clock.now())
        mailbox.rows[row.uid] = row
        mailbox.uid_next += 1
        mailbox.highest_modseq = modseq
        email.memberships.append((mailbox.id, row.uid))
        self._log(mailbox.account, modseq, "message", _message_key(mailbox.id, row.uid), "created")
        return row

    def retain_keys(self, seconds: float) -> None:
        self._key_retention = max(self._key_retention, seconds)

    # Accounts

    async def account(self, name: str) -> Account | None:
        account = self._accounts.get(name)
        return _account_value(account) if account is not None else None

    async def account_by_id(self, account_id: int) -> Account | None:
        return next((_account_value(account) for account in self._accounts.values() if account.id == account_id), None)

    async def accounts(self) -> list[Account]:
        return [_account_value(self._accounts[name]) for name in sorted(self._accounts)]

    async def create_account(
        self, name: str, *, mailboxes: Sequence[str] = (), quota_bytes: int = 0, quota_messages: int = 0
    ) -> Account:
        names = [normal_name(mailbox) for mailbox in mailboxes]
        if name in self._accounts:
            raise AlreadyExists("account exists", name)
        account = self._new_account(name, names, quota_bytes, quota_messages)
        self._tell(account)
        return _account_value(account)

    def _new_account(self, name: str, mailboxes: Sequence[str], quota_bytes: int, quota_messages: int) -> _Account:
        check_account_name(name)
        self._last_account_id += 1
        account = _Account(self._last_account_id, name, quota_bytes, quota_messages)
        self._accounts[name] = account
        modseq = self._next_modseq(account)
        for mailbox in dict.fromkeys([INBOX, *mailboxes]):
            if mailbox not in account.mailboxes:
                self._new_mailbox(account, mailbox, modseq)
        return account

    async def set_quota(self, name: str, *, quota_bytes: int, quota_messages: int) -> Account:
        account = self._existing_account(name)
        account.quota_bytes = quota_bytes
        account.quota_messages = quota_messages
        return _account_value(account)

    async def delete_account(self, name: str) -> None:
        account = self._existing_account(name)
        for email in account.emails.values():
            self.blobs.release(email.blob_id)
        for mailbox in account.mailboxes.values():
            del self._mailboxes[mailbox.id]
        del self._accounts[name]

    async def room_for(self, name: str, size: int) -> bool:
        account = self._accounts.get(name)
        return account is None or account.has_room(size)

    def _existing_account(self, name: str) -> _Account:
        if name not in self._accounts:
            raise NotFound("no such account", name)
        return self._accounts[name]

    def _account_by_id(self, account_id: int) -> _Account:
        for account in self._accounts.values():
            if account.id == account_id:
                return account
        raise NotFound("no such account", str(account_id))

    # Mailboxes

    async def mailboxes(self, account_id: int) -> list[Mailbox]:
        account = self._account_by_id(account_id)
        return [_mailbox_value(account.mailboxes[name]) for name in sorted(account.mailboxes)]

    async def mailbox(self, account_id: int, name: str) -> Mailbox | None:
        name = normal_name(name)
        mailbox = self._account_by_id(account_id).mailboxes.get(name)
        return _mailbox_value(mailbox) if mailbox is not None else None

    async def mailbox_by_id(self, mailbox_id: int) -> Mailbox | None:
        mailbox = self._mailboxes.get(mailbox_id)
        return _mailbox_value(mailbox) if mailbox is not None else None

    async def create_mailbox(self, account_id: int, name: str, *, special_use: str = "") -> Mailbox:
        name = normal_name(name)
        account = self._account_by_id(account_id)
        if name in account.mailboxes:
            raise AlreadyExists("mailbox exists", name)
        mailbox = self._new_mailbox(account, name, self._next_modseq(account))
        mailbox.special_use = special_use or mailbox.special_use
        self._tell(account)
        return _mailbox_value(mailbox)

    def _new_mailbox(self, account: _Account, name: str, modseq: int) -> _Mailbox:
        """Makes the superior names too (RFC 9051 §6.3.4); "Sent" and its like get their special use if it is free."""
        for level in (*parents(name), name):
            if level in account.mailboxes:
                continue
            self._last_mailbox_id += 1
            use = SPECIAL_USE_BY_NAME.get(level, "")
            if any(other.special_use == use for other in account.mailboxes.values()):
                use = ""
            mailbox = _Mailbox(self._last_mailbox_id, account, level, self._next_uid_validity(), modseq, use)
            account.mailboxes[level] = mailbox
            account.subscriptions.add(level)
            self._mailboxes[mailbox.id] = mailbox
            self._log(account, modseq, "mailbox", _mailbox_key(mailbox.id), "created")
        return account.mailboxes[name]

    def _next_uid_validity(self) -> int:
        """Grows with every mailbox ever made; near the time, so that it also grows over a restore from a backup."""
        self._last_uid_validity = max(self._last_uid_validity + 1, int(self._clock.now()) & 0xFFFFFFFF)
        return self._last_uid_validity

    async def rename_mailbox(self, account_id: int, old: str, new: str) -> None:
        old, new = normal_name(old), normal_name(new)
        account = self._account_by_id(account_id)
        if old not in account.mailboxes:
            raise NotFound("no such mailbox", old)
        if new in account.mailboxes:
            raise AlreadyExists("mailbox exists", new)
        if is_below(new, old) and old != INBOX:
            raise NotAllowed("a mailbox cannot move into itself", f"{old} to {new}")
        moved = {name: new + name[len(old) :] for name in account.mailboxes if name == old or is_below(name, old)}
        if old == INBOX:  # RFC 9051 §6.3.6: only its messages move, names below stay
            moved = {}
        for name in moved.values():
            normal_name(name)
            if name in account.mailboxes and name not in moved:
                raise AlreadyExists("mailbox exists", name)
        modseq = self._next_modseq(account)
        if old == INBOX:
            target = self._new_mailbox(account, new, modseq)
            inbox = account.mailboxes[INBOX]
            self._move_rows(inbox, list(inbox.rows), target, modseq)
        else:
            superior = parents(new)
            if superior and superior[-1] not in account.mailboxes:
                self._new_mailbox(account, superior[-1], modseq)
            renamed = [(account.mailboxes.pop(name), moved[name]) for name in sorted(moved)]
            for mailbox, name in renamed:
                if mailbox.name in account.subscriptions:
                    account.subscriptions.remove(mailbox.name)
                    account.subscriptions.add(name)
                mailbox.name = name
                mailbox.highest_modseq = modseq
                account.mailboxes[name] = mailbox
                self._log(account, modseq, "mailbox", _mailbox_key(mailbox.id), "updated")
        self._tell(account)

    async def delete_mailbox(self, account_id: int, name: str) -> None:
        name = normal_name(name)
        account = self._account_by_id(account_id)
        if name == INBOX:
            raise NotAllowed("INBOX cannot be deleted")  # RFC 9051 §6.3.5
        if name not in account.mailboxes:
            raise NotFound("no such mailbox", name)
        mailbox = account.mailboxes[name]
        modseq = self._next_modseq(account)
        self._remove_rows(mailbox, list(mailbox.rows), modseq)
        del account.mailboxes[name], self._mailboxes[mailbox.id]
        self._log(account, modseq, "mailbox", _mailbox_key(mailbox.id), "destroyed")
        self._tell(account)

    async def subscribe(self, account_id: int, name: str, subscribed: bool) -> None:
        name = normal_name(name)
        account = self._account_by_id(account_id)
        (account.subscriptions.add if subscribed else account.subscriptions.discard)(name)
        if name in account.mailboxes:
            modseq = self._next_modseq(account)
            self._log(account, modseq, "mailbox", _mailbox_key(account.mailboxes[name].id), "updated")
            self._tell(account)

    async def subscriptions(self, account_id: int) -> list[str]:
        return sorted(self._account_by_id(account_id).subscriptions)

    async def claim_recent(self, mailbox_id: int) -> int:
        mailbox = self._mailbox_by_id(mailbox_id)
        first, mailbox.first_recent = mailbox.first_recent, mailbox.uid_next
        return first

    def _mailbox_by_id(self, mailbox_id: int) -> _Mailbox:
        if mailbox_id not in self._mailboxes:
            raise NotFound("no such mailbox", str(mailbox_id))
        return self._mailboxes[mailbox_id]

    # Messages

    async def load_messages(self, mailbox_id: int, into: MailboxRows, *, first_uid: int = 1) -> Mailbox:
        mailbox = self._mailbox_by_id(mailbox_id)
        for row in mailbox.rows.values():
            if row.uid >= first_uid:
                _add_row(into, row)
        return _mailbox_value(mailbox)

    async def refresh_messages(self, mailbox_id: int, into: MailboxRows, since_modseq: int) -> Mailbox | None:
        mailbox = self._mailbox_by_id(mailbox_id)
        changes = await self.changes(mailbox.account.id, since_modseq)
        if changes is None:
            return None
        prefix = _mailbox_key(mailbox_id)
        lines = [line for line in changes if line.kind == "message" and line.id.startswith(prefix)]
        created = {line.id for line in lines if line.action == "created"}
        for line in sorted(lines, key=lambda line: line.id):
            uid = int.from_bytes(line.id[8:], "big")
            row = mailbox.rows.get(uid)
            if line.action == "destroyed" and line.id not in created:
                into.expunge(uid, line.modseq)
            elif line.action == "created" and row is not None:
                _add_row(into, row)
            elif line.action == "updated" and row is not None and line.id not in created:
                into.update(uid, row.modseq, row.bits, row.keywords)
        return _mailbox_value(mailbox)

    async def expunged_since(self, mailbox_id: int, modseq: int) -> list[int] | None:
        mailbox = self._mailbox_by_id(mailbox_id)
        changes = await self.changes(mailbox.account.id, modseq)
        if changes is None:
            return None
        prefix = _mailbox_key(mailbox_id)
        gone = [line for line in changes if line.kind == "message" and line.action == "destroyed"]
        return sorted(int.from_bytes(line.id[8:], "big") for line in gone if line.id.startswith(prefix))

    def saved_dates(self, mailbox_id: int, uids: Sequence[int]) -> list[float | None]:
        rows = self._mailbox_by_id(mailbox_id).rows
        return [rows[uid].saved if uid in rows else None for uid in uids]

    def email_facts(self, account_id: int, email_ids: Sequence[bytes]) -> list[EmailFacts | None]:
        emails = self._account_by_id(account_id).emails
        return [_email_facts(emails[id]) if id in emails else None for id in email_ids]

    def email_bodies(self, account_id: int, email_ids: Sequence[bytes], *, limit_bytes: int = 0) -> list[Rendering | None]:
        emails = self._account_by_id(account_id).emails
        found: list[Rendering | None] = []
        total = 0
        for id in email_ids:
            email = emails.get(id)
            if email is None:
                found.append(None)
                continue
            total += email.size
            if found and total > limit_bytes > 0:
                break
            found.append(self._rendering(email))
        return found

    def _rendering(self, email: _Email) -> Rendering:
        return Rendering(self.blobs.contents[email.blob_id], email.prefix, email.skip)

    async def messages(self, mailbox_id: int, *, first_uid: int = 1, last_uid: int = 0) -> list[Message]:
        mailbox = self._mailbox_by_id(mailbox_id)
        return [
            _message_value(row, mailbox)
            for row in mailbox.rows.values()
            if row.uid >= first_uid and (not last_uid or row.uid <= last_uid)
        ]

    async def open_message(self, mailbox_id: int, uid: int) -> StoredMessage:
        mailbox = self._mailbox_by_id(mailbox_id)
        if uid not in mailbox.rows:
            raise NotFound("no such message", f"mailbox {mailbox_id}, UID {uid}")
        row = mailbox.rows[uid]
        email = mailbox.account.emails[row.email_id]
        return StoredMessage(_message_value(row, mailbox), self._email_value(email), self._rendering(email))

    async def renderings(self, mailbox_id: int, uids: Sequence[int], *, limit_bytes: int = 0) -> list[Rendering]:
        mailbox = self._mailbox_by_id(mailbox_id)
        found: list[Rendering] = []
        total = 0
        for uid in uids:
            row = mailbox.rows.get(uid)
            total += row.size if row is not None else 0
            if found and (row is None or total > limit_bytes > 0):
                break
            if row is None:
                raise NotFound("no such message", f"mailbox {mailbox_id}, UID {uid}")
            found.append(self._rendering(mailbox.account.emails[row.email_id]))
        return found

    async def emails(self, account_id: int, ids: Sequence[bytes]) -> list[Email | None]:
        emails = self._account_by_id(account_id).emails
        return [self._email_value(emails[id]) if id in emails else None for id in ids]

    async def thread(self, account_id: int, thread_id: bytes) -> list[bytes]:
        return sorted(self._account_by_id(account_id).threads.get(thread_id, ()))

    async def change_flags(self, mailbox_id: int, change: FlagChange) -> list[Message]:
        mailbox = self._mailbox_by_id(mailbox_id)
        bits, keywords = split_flags(change.flags)
        limit = change.unchanged_since
        rows = [mailbox.rows[uid] for uid in sorted(set(change.uids)) if uid in mailbox.rows]
        rows = [row for row in rows if limit is None or row.modseq <= limit]
        changed = [row for row in rows if (row.bits, row.keywords) != _changed_flags(change.operation, row, bits, keywords)]
        if changed:
            modseq = self._next_modseq(mailbox.account)
            unseen_in: set[int] = set()
            for row in changed:
                unseen_in |= self._set_flags(mailbox, row, *_changed_flags(change.operation, row, bits, keywords), modseq)
            for id in unseen_in:
                self._log(mailbox.account, modseq, "mailbox", _mailbox_key(id), "updated")
            self._tell(mailbox.account)
        return [_message_value(row, mailbox) for row in rows]

    def _set_flags(self, mailbox: _Mailbox, row: _Row, bits: int, keywords: tuple[str, ...], modseq: int) -> set[int]:
        """Keywords belong to the email: its messages in other mailboxes get them too. `\\Deleted` is the message's own.

        The mailboxes that have another number of unseen messages now.
        """
        unseen_in: set[int] = set()
        account = mailbox.account
        if (row.bits ^ bits) & ~DELETED or row.keywords != keywords:
            self._log(account, modseq, "email", row.email_id, "updated")
        unseen_changed = (row.bits ^ bits) & SEEN
        for mailbox_id, uid in account.emails[row.email_id].memberships:
            member_box = self._mailboxes[mailbox_id]
            member = member_box.rows[uid]
            new_bits = bits if member is row else (bits & ~DELETED) | (member.bits & DELETED)
            if (member.bits, member.keywords) == (new_bits, keywords):
                continue
            member.bits, member.keywords, member.modseq = new_bits, keywords, modseq
            member_box.highest_modseq = modseq
            self._log(account, modseq, "message", _message_key(mailbox_id, uid), "updated")
            if unseen_changed:
                unseen_in.add(mailbox_id)
        return unseen_in

    async def expunge(self, mailbox_id: int, uids: Sequence[int], *, only_deleted: bool = False) -> list[int]:
        mailbox = self._mailbox_by_id(mailbox_id)
        gone = [uid for uid in sorted(set(uids)) if uid in mailbox.rows]
        gone = [uid for uid in gone if not only_deleted or mailbox.rows[uid].bits & DELETED]
        if gone:
            modseq = self._next_modseq(mailbox.account)
            self._remove_rows(mailbox, gone, modseq)
            self._log(mailbox.account, modseq, "mailbox", _mailbox_key(mailbox_id), "updated")
            self._tell(mailbox.account)
        return gone

    def _remove_rows(self, mailbox: _Mailbox, uids: Sequence[int], modseq: int) -> None:
        account = mailbox.account
        for uid in uids:
            row = mailbox.rows.pop(uid)
            mailbox.highest_modseq = modseq
            self._log(account, modseq, "message", _message_key(mailbox.id, uid), "destroyed")
            email = account.emails[row.email_id]
            email.memberships.remove((mailbox.id, uid))
            if email.memberships:
                self._log(account, modseq, "email", email.id, "updated")
            else:
                self._remove_email(account, email, modseq)

    def _remove_email(self, account: _Account, email: _Email, modseq: int) -> None:
        del account.emails[email.id]
        self.blobs.release(email.blob_id)
        self._log(account, modseq, "email", email.id, "destroyed")
        members = account.threads[email.thread_id]
        members.remove(email.id)
        self._log(account, modseq, "thread", email.thread_id, "updated" if members else "destroyed")
        if not members:
            del account.threads[email.thread_id]
            for id in [id for id, thread_id in account.thread_of.items() if thread_id == email.thread_id]:
                del account.thread_of[id]

    async def copy(self, mailbox_id: int, uids: Sequence[int], target_id: int) -> list[tuple[int, int]]:
        source, target = self._mailbox_by_id(mailbox_id), self._target(mailbox_id, target_id)
        account = source.account
        rows = [source.rows[uid] for uid in sorted(set(uids)) if uid in source.rows]
        if not rows:
            return []
        if not account.has_room(sum(row.size for row in rows), len(rows)):
            raise OverQuota("over quota", account.name)
        modseq = self._next_modseq(account)
        pairs = []
        for row in rows:
            email = account.emails[row.email_id]
            rendering = self._rendering(email)
            copied = self._new_email(account, rendering, email.received, email.description, modseq, email.thread_id)
            new = self._new_row(target, copied, modseq, row.internal_date, row.bits, row.keywords)
            pairs.append((row.uid, new.uid))
        self._log(account, modseq, "mailbox", _mailbox_key(target_id), "updated")
        self._tell(account)
        return pairs

    async def move(self, mailbox_id: int, uids: Sequence[int], target_id: int) -> list[tuple[int, int]]:
        source, target = self._mailbox_by_id(mailbox_id), self._target(mailbox_id, target_id)
        present = [uid for uid in sorted(set(uids)) if uid in source.rows]
        if not present:
            return []
        modseq = self._next_modseq(source.account)
        pairs = self._move_rows(source, present, target, modseq)
        self._tell(source.account)
        return pairs

    def _move_rows(self, source: _Mailbox, uids: Sequence[int], target: _Mailbox, modseq: int) -> list[tuple[int, int]]:
        """The email stays the same one (RFC 8474 §4.2): only where it is a member changes."""
        account = source.account
        pairs = []
        for uid in uids:
            row = source.rows.pop(uid)
            email = account.emails[row.email_id]
            email.memberships.remove((source.id, uid))
            self._log(account, modseq, "message", _message_key(source.id, uid), "destroyed")
            new = self._new_row(target, email, modseq, row.internal_date, row.bits, row.keywords)
            self._log(account, modseq, "email", email.id, "updated")
            pairs.append((uid, new.uid))
        source.highest_modseq = modseq
        for mailbox_id in dict.fromkeys((source.id, target.id)):
            self._log(account, modseq, "mailbox", _mailbox_key(mailbox_id), "updated")
        return pairs

    def _target(self, mailbox_id: int, target_id: int) -> _Mailbox:
        target = self._mailbox_by_id(target_id)
        if target.account is not self._mailbox_by_id(mailbox_id).account:
            raise NotAllowed("the target is in another account")
        return target

    # Changes

    async def changes(self, account_id: int, since_modseq: int, *, limit: int = 0) -> list[Change] | None:
        account = self._account_by_id(account_id)
        if not account.floor_modseq <= since_modseq <= account.modseq:
            return None
        found = [line for line in account.log if line.modseq > since_modseq]
        if not limit or len(found) <= limit:
            return found
        last = found[limit - 1].modseq
        return [line for line in found if line.modseq <= last]

    def _next_modseq(self, account: _Account) -> int:
        account.modseq += 1
        return account.modseq

    def _log(self, account: _Account, modseq: int, kind: str, id: bytes, action: str) -> None:
        account.log.append(Change(modseq, kind, id, action))

    def _tell(self, account: _Account) -> None:
        self._notices.tell([(account.id, account.modseq)])

    # Care

    def verify(self) -> Iterator[Finding]:
        """Nothing can rot here; checks what the other backends also promise: counts and references."""
        references: dict[bytes, int] = {}
        for account in self._accounts.values():
            for email in account.emails.values():
                references[email.blob_id] = references.get(email.blob_id, 0) + 1
                for mailbox_id, uid in email.memberships:
                    if self._mailboxes[mailbox_id].rows[uid].email_id != email.id:
                        yield Finding(f"message {mailbox_id}/{uid}", "belongs to another email")
        if references != self.blobs.references:
            yield Finding("blobs", "reference counts differ from the emails")

    async def compact(self) -> CompactResult:
        size = sum(content.size for content in self.blobs.contents.values())
        return CompactResult(size, size)

    def _email_value(self, email: _Email) -> Email:
        mailbox_id, uid = email.memberships[0]
        row = self._mailboxes[mailbox_id].rows[uid]
        return Email(
            id=email.id,
            blob_id=email.blob_id,
            prefix=email.prefix,
            skip=email.skip,
            size=email.size,
            thread_id=email.thread_id,
            keywords=jmap_keywords(row.bits, row.keywords),
            memberships=tuple(email.memberships),
            received=email.received,
            envelope=email.description.envelope,
            body_structure=email.description.body_structure,
            headers=email.description.headers,
        )


def _mailbox_key(mailbox_id: int) -> bytes:
    return mailbox_id.to_bytes(8, "big")


def _message_key(mailbox_id: int, uid: int) -> bytes:
    return mailbox_id.to_bytes(8, "big") + uid.to_bytes(4, "big")


def _changed_flags(operation: str, row: _Row, bits: int, keywords: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return change(operation, row.bits, row.keywords, bits, keywords)


def _add_row(into: MailboxRows, row: _Row) -> None:
    into.add(row.uid, row.modseq, row.email_id, row.internal_date, row.size, row.bits, row.keywords)


def _email_facts(email: _Email) -> EmailFacts:
    described = email.description
    row = EmailRow(
        0, email.blob_id, email.thread_id, email.received, email.size, email.skip, False, [], email.prefix,
        described.envelope, described.body_structure, described.headers,
    )  # fmt: skip
    return EmailFacts.unpack(email.id, row.pack(email.id))


def _message_value(row: _Row, mailbox: _Mailbox) -> Message:
    flags = join_flags(row.bits, row.keywords)
    recent = row.uid >= mailbox.first_recent
    return Message(row.uid, row.modseq, row.email_id, row.internal_date, row.size, flags, recent, row.saved)


def _mailbox_value(mailbox: _Mailbox) -> Mailbox:
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


def _account_value(account: _Account) -> Account:
    return Account(
        id=account.id,
        name=account.name,
        modseq=account.modseq,
        used_bytes=sum(email.size for email in account.emails.values()),
        used_messages=len(account.emails),
        quota_bytes=account.quota_bytes,
        quota_messages=account.quota_messages,
    )
