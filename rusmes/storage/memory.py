"""The store in memory: the specification of `storage.api`, written to be read, in one piece and so in one long file. The
queue's half is in `memory_queue.py`, the bodies are in `memory_blobs.py`.

Everything is a plain Python object, and a coroutine never waits, so each call is a transaction by itself: it checks first
and changes afterwards. The other backends are compared with this one (`tests/contract/`). It forgets everything with the
process; tests of other rooms use it as their store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import structs

from rusmes._core.rows import EmailFacts
from rusmes._core.textscan import EmailReader
from rusmes.clock import Clock, SystemClock
from rusmes.errors import AlreadyExists, LimitReached, NotAllowed, NotFound, OverQuota
from rusmes.metrics import Metrics
from rusmes.model.content import Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mailbox import Account, Appended, Change, Email, Mailbox, Message
from rusmes.model.plan import Append, Refusal
from rusmes.storage.api import ALL_FLAGS, Answer, ChangeListener, CompactResult, Finding, FlagChange, StoredMessage
from rusmes.storage.changes import ChangeNotices
from rusmes.storage.description import Description, describe
from rusmes.storage.flags import DELETED, SEEN, change, jmap_keywords, kept_flags, split_flags
from rusmes.storage.memory_answers import Telling
from rusmes.storage.memory_blobs import MemoryBlobs
from rusmes.storage.memory_queue import MemoryQueueStore
from rusmes.storage.memory_records import (
    AccountRecord,
    EmailRecord,
    MailboxRecord,
    Row,
    account_value,
    add_row,
    facts_of,
    mailbox_key,
    mailbox_value,
    message_key,
    message_value,
)
from rusmes.storage.memory_sharing import MemorySharing
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

if TYPE_CHECKING:
    from rusmes._core.view import MailboxRows

__all__ = ["MemoryBlobs", "MemoryMailStore", "MemoryQueueStore"]

CHANGE_RETENTION_SECONDS: Final = 30 * 86400.0
"""How long the change log reaches back. A client that was away for longer compares everything once."""
KEY_RETENTION_SECONDS: Final = 7 * 86400.0
"""How long an append's key is remembered at least; it must be longer than a mail may wait in the queue ([queue] max_age)."""


class MemoryMailStore(MemorySharing):
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
        change_retention: float = CHANGE_RETENTION_SECONDS,
    ) -> None:
        self._telling = Telling()
        super().__init__()
        self._clock = clock or SystemClock()
        self._change_retention = change_retention
        self._ids = ids or IdSource()
        self._key_retention = key_retention
        self._notices = ChangeNotices()
        self._accounts: dict[str, AccountRecord] = {}
        self._mailboxes: dict[int, MailboxRecord] = {}
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

    async def append(
        self, appends: Sequence[Append], *, all_or_none: bool = False, expunge: tuple[int, int] | None = None
    ) -> list[Appended | Refusal]:
        if expunge is not None and expunge[1] not in self._mailbox_by_id(expunge[0]).rows:
            raise NotFound("no such message", f"mailbox {expunge[0]}, UID {expunge[1]}")
        if all_or_none:
            self._check_appends(appends, expunge)
        if expunge is not None:
            await self.expunge(expunge[0], [expunge[1]])
        return [self._append(item) for item in appends]

    def begin_append(self, appends: Sequence[Append], answer: Answer[list[Appended | Refusal]]) -> bool:
        self._telling.begin(self.append(appends), answer)
        return True

    def _check_appends(self, appends: Sequence[Append], expunge: tuple[int, int] | None) -> None:
        """Raises what one of them would be refused with; what goes at the same time makes room."""
        sizes: dict[str, list[int]] = {}
        for item in appends:
            normal_name(item.mailbox)
            split_flags(item.flags)
            check_account_name(item.account)
            sizes.setdefault(item.account, []).append(item.rendering.size)
        for name, added in sizes.items():
            account = self._accounts.get(name)
            gone = 0
            if expunge is not None and account is not None and self._mailboxes[expunge[0]].account is account:
                gone = self._mailboxes[expunge[0]].rows[expunge[1]].size
            if account is not None and not account.has_room(sum(added) - gone, len(added) - bool(gone)):
                raise OverQuota("mailbox full", name)

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
        self._log(account, modseq, "mailbox", mailbox_key(mailbox.id), "updated")
        self._tell(account)
        result = Appended(account.id, mailbox.id, mailbox.uid_validity, row.uid, modseq, email.id)
        if item.key:
            self._keys[item.key] = (now + self._key_retention, result)
        return result

    def _new_email(
        self,
        account: AccountRecord,
        rendering: Rendering,
        received: float,
        description: Description,
        modseq: int,
        thread_id: bytes = b"",
    ) -> EmailRecord:
        self.blobs.refer(rendering.content)
        id = self._ids.next_id()
        email = EmailRecord(
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

    def _thread_for(self, account: AccountRecord, email_id: bytes, message_ids: tuple[bytes, ...]) -> bytes:
        """The thread of the first of the mail's identifiers that is known, else a new one named like its first email.

        All identifiers of the mail then lead to that thread, so that an answer which arrives before its question meets it.
        """
        thread_id = next((account.thread_of[id] for id in message_ids if id in account.thread_of), email_id)
        for id in message_ids:
            account.thread_of.setdefault(id, thread_id)
        return thread_id

    def _new_row(
        self, mailbox: MailboxRecord, email: EmailRecord, modseq: int, date: float, bits: int, keywords: tuple[str, ...]
    ) -> Row:
        row = Row(mailbox.uid_next, modseq, email.id, date, email.size, bits, keywords, self._clock.now())
        mailbox.rows[row.uid] = row
        mailbox.uid_next += 1
        mailbox.highest_modseq = modseq
        email.memberships.append((mailbox.id, row.uid))
        self._log(mailbox.account, modseq, "message", message_key(mailbox.id, row.uid), "created")
        return row

    def retain_keys(self, seconds: float) -> None:
        self._key_retention = max(self._key_retention, seconds)

    # Accounts

    async def account(self, name: str) -> Account | None:
        account = self._accounts.get(name)
        return account_value(account) if account is not None else None

    async def account_by_id(self, account_id: int) -> Account | None:
        return next((account_value(account) for account in self._accounts.values() if account.id == account_id), None)

    async def accounts(self) -> list[Account]:
        return [account_value(self._accounts[name]) for name in sorted(self._accounts)]

    async def create_account(
        self, name: str, *, mailboxes: Sequence[str] = (), quota_bytes: int = 0, quota_messages: int = 0
    ) -> Account:
        names = [normal_name(mailbox) for mailbox in mailboxes]
        if name in self._accounts:
            raise AlreadyExists("account exists", name)
        account = self._new_account(name, names, quota_bytes, quota_messages)
        self._tell(account)
        return account_value(account)

    def _new_account(self, name: str, mailboxes: Sequence[str], quota_bytes: int, quota_messages: int) -> AccountRecord:
        check_account_name(name)
        self._last_account_id += 1
        account = AccountRecord(self._last_account_id, name, quota_bytes, quota_messages)
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
        return account_value(account)

    async def delete_account(self, name: str) -> None:
        account = self._existing_account(name)
        for email in account.emails.values():
            self.blobs.release(email.blob_id)
        for mailbox in account.mailboxes.values():
            del self._mailboxes[mailbox.id]
        for mailbox in self._mailboxes.values():
            for identifier in (name, f"-{name}"):
                mailbox.acl.pop(identifier, None)
            mailbox.metadata.pop(account.id, None)
        self._server_metadata.pop(account.id, None)
        del self._accounts[name]

    async def room_for(self, name: str, size: int) -> bool:
        account = self._accounts.get(name)
        return account is None or account.has_room(size)

    def _existing_account(self, name: str) -> AccountRecord:
        if name not in self._accounts:
            raise NotFound("no such account", name)
        return self._accounts[name]

    def _account_by_id(self, account_id: int) -> AccountRecord:
        for account in self._accounts.values():
            if account.id == account_id:
                return account
        raise NotFound("no such account", str(account_id))

    # Mailboxes

    async def mailboxes(self, account_id: int) -> list[Mailbox]:
        account = self._account_by_id(account_id)
        return [mailbox_value(account.mailboxes[name]) for name in sorted(account.mailboxes)]

    async def mailbox(self, account_id: int, name: str) -> Mailbox | None:
        name = normal_name(name)
        mailbox = self._account_by_id(account_id).mailboxes.get(name)
        return mailbox_value(mailbox) if mailbox is not None else None

    async def mailbox_by_id(self, mailbox_id: int) -> Mailbox | None:
        mailbox = self._mailboxes.get(mailbox_id)
        return mailbox_value(mailbox) if mailbox is not None else None

    async def create_mailbox(self, account_id: int, name: str, *, special_use: str = "") -> Mailbox:
        name = normal_name(name)
        account = self._account_by_id(account_id)
        if name in account.mailboxes:
            raise AlreadyExists("mailbox exists", name)
        mailbox = self._new_mailbox(account, name, self._next_modseq(account))
        mailbox.special_use = special_use or mailbox.special_use
        self._tell(account)
        return mailbox_value(mailbox)

    def _new_mailbox(self, account: AccountRecord, name: str, modseq: int) -> MailboxRecord:
        """Makes the superior names too (RFC 9051 §6.3.4); "Sent" and its like get their special use if it is free."""
        if len(account.mailboxes) + sum(level not in account.mailboxes for level in (*parents(name), name)) > MAX_MAILBOXES:
            raise LimitReached("too many mailboxes", f"at most {MAX_MAILBOXES}")
        for level in (*parents(name), name):
            if level in account.mailboxes:
                continue
            self._last_mailbox_id += 1
            use = SPECIAL_USE_BY_NAME.get(level, "")
            if any(other.special_use == use for other in account.mailboxes.values()):
                use = ""
            above = account.mailboxes.get(level.rpartition("/")[0])
            mailbox = MailboxRecord(self._last_mailbox_id, account, level, self._next_uid_validity(), modseq, use)
            mailbox.acl = dict(above.acl) if above is not None else {}
            account.mailboxes[level] = mailbox
            account.subscriptions.add(level)
            self._mailboxes[mailbox.id] = mailbox
            self._log(account, modseq, "mailbox", mailbox_key(mailbox.id), "created")
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
                self._log(account, modseq, "mailbox", mailbox_key(mailbox.id), "updated")
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
        self._log(account, modseq, "mailbox", mailbox_key(mailbox.id), "destroyed")
        self._tell(account)

    async def subscribe(self, account_id: int, name: str, subscribed: bool) -> None:
        name = normal_name(name)
        account = self._account_by_id(account_id)
        if subscribed and name not in account.subscriptions and len(account.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise LimitReached("too many subscriptions", f"at most {MAX_SUBSCRIPTIONS}")
        (account.subscriptions.add if subscribed else account.subscriptions.discard)(name)
        if name in account.mailboxes:
            modseq = self._next_modseq(account)
            self._log(account, modseq, "mailbox", mailbox_key(account.mailboxes[name].id), "updated")
            self._tell(account)

    async def subscriptions(self, account_id: int) -> list[str]:
        return sorted(self._account_by_id(account_id).subscriptions)

    async def claim_recent(self, mailbox_id: int) -> int:
        mailbox = self._mailbox_by_id(mailbox_id)
        first, mailbox.first_recent = mailbox.first_recent, mailbox.uid_next
        return first

    async def set_special_use(self, mailbox_id: int, special_use: str) -> None:
        mailbox = self._mailbox_by_id(mailbox_id)
        if mailbox.special_use != special_use:
            mailbox.special_use = special_use
            self._touch(mailbox)

    def _touch(self, mailbox: MailboxRecord) -> None:
        modseq = self._next_modseq(mailbox.account)
        self._log(mailbox.account, modseq, "mailbox", mailbox_key(mailbox.id), "updated")
        self._tell(mailbox.account)

    def _value(self, mailbox: MailboxRecord) -> Mailbox:
        return mailbox_value(mailbox)

    # Messages

    async def load_messages(self, mailbox_id: int, into: MailboxRows, *, first_uid: int = 1) -> Mailbox:
        mailbox = self._mailbox_by_id(mailbox_id)
        for row in mailbox.rows.values():
            if row.uid >= first_uid:
                add_row(into, row)
        return mailbox_value(mailbox)

    async def refresh_messages(self, mailbox_id: int, into: MailboxRows, since_modseq: int) -> Mailbox | None:
        mailbox = self._mailbox_by_id(mailbox_id)
        changes = await self.changes(mailbox.account.id, since_modseq)
        if changes is None:
            return None
        prefix = mailbox_key(mailbox_id)
        lines = [line for line in changes if line.kind == "message" and line.id.startswith(prefix)]
        created = {line.id for line in lines if line.action == "created"}
        for line in sorted(lines, key=lambda line: line.id):
            uid = int.from_bytes(line.id[8:], "big")
            row = mailbox.rows.get(uid)
            if line.action == "destroyed" and line.id not in created:
                into.expunge(uid, line.modseq)
            elif line.action == "created" and row is not None:
                add_row(into, row)
            elif line.action == "updated" and row is not None and line.id not in created:
                into.update(uid, row.modseq, row.bits, row.keywords)
        return mailbox_value(mailbox)

    async def expunged_since(self, mailbox_id: int, modseq: int) -> list[int] | None:
        mailbox = self._mailbox_by_id(mailbox_id)
        changes = await self.changes(mailbox.account.id, modseq)
        if changes is None:
            return None
        prefix = mailbox_key(mailbox_id)
        gone = [line for line in changes if line.kind == "message" and line.action == "destroyed"]
        return sorted(int.from_bytes(line.id[8:], "big") for line in gone if line.id.startswith(prefix))

    def saved_dates(self, mailbox_id: int, uids: Sequence[int]) -> list[float | None]:
        rows = self._mailbox_by_id(mailbox_id).rows
        return [rows[uid].saved if uid in rows else None for uid in uids]

    def email_facts(self, account_id: int, email_ids: Sequence[bytes]) -> list[EmailFacts | None]:
        emails = self._account_by_id(account_id).emails
        return [facts_of(emails[id]) if id in emails else None for id in email_ids]

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

    def scan_emails(self, account_id: int, email_ids: Sequence[bytes], reader: EmailReader, *, first: int = 0) -> None:
        emails = self._account_by_id(account_id).emails
        for position, id in enumerate(email_ids, first):
            email = emails.get(id)
            if email is not None:
                body = self.blobs.contents[email.blob_id]
                reader.take_message(
                    position,
                    email.thread_id,
                    email.description.headers,
                    email.prefix,
                    body.data,
                    email.skip,
                    body.header_bytes,
                )

    def _rendering(self, email: EmailRecord) -> Rendering:
        return Rendering(self.blobs.contents[email.blob_id], email.prefix, email.skip)

    async def messages(self, mailbox_id: int, *, first_uid: int = 1, last_uid: int = 0) -> list[Message]:
        mailbox = self._mailbox_by_id(mailbox_id)
        return [
            message_value(row, mailbox)
            for row in mailbox.rows.values()
            if row.uid >= first_uid and (not last_uid or row.uid <= last_uid)
        ]

    async def open_message(self, mailbox_id: int, uid: int) -> StoredMessage:
        mailbox = self._mailbox_by_id(mailbox_id)
        if uid not in mailbox.rows:
            raise NotFound("no such message", f"mailbox {mailbox_id}, UID {uid}")
        row = mailbox.rows[uid]
        email = mailbox.account.emails[row.email_id]
        return StoredMessage(message_value(row, mailbox), self._email_value(email), self._rendering(email))

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

    async def change_flags(self, mailbox_id: int, change: FlagChange, *, rows: MailboxRows | None = None) -> list[int]:
        mailbox = self._mailbox_by_id(mailbox_id)
        bits, keywords = split_flags(change.flags)
        limit = change.unchanged_since
        there = [mailbox.rows[uid] for uid in sorted(set(change.uids)) if uid in mailbox.rows]
        there = [row for row in there if limit is None or row.modseq <= limit]
        changed = [row for row in there if (row.bits, row.keywords) != _changed_flags(change.operation, row, bits, keywords)]
        if changed:
            modseq = self._next_modseq(mailbox.account)
            unseen_in: set[int] = set()
            for row in changed:
                unseen_in |= self._set_flags(mailbox, row, *_changed_flags(change.operation, row, bits, keywords), modseq)
            for id in unseen_in:
                self._log(mailbox.account, modseq, "mailbox", mailbox_key(id), "updated")
            self._tell(mailbox.account)
        return [row.uid for row in there]

    def _set_flags(self, mailbox: MailboxRecord, row: Row, bits: int, keywords: tuple[str, ...], modseq: int) -> set[int]:
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
            self._log(account, modseq, "message", message_key(mailbox_id, uid), "updated")
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
            self._log(mailbox.account, modseq, "mailbox", mailbox_key(mailbox_id), "updated")
            self._tell(mailbox.account)
        return gone

    def _remove_rows(self, mailbox: MailboxRecord, uids: Sequence[int], modseq: int) -> None:
        account = mailbox.account
        for uid in uids:
            row = mailbox.rows.pop(uid)
            mailbox.highest_modseq = modseq
            self._log(account, modseq, "message", message_key(mailbox.id, uid), "destroyed")
            email = account.emails[row.email_id]
            email.memberships.remove((mailbox.id, uid))
            if email.memberships:
                self._log(account, modseq, "email", email.id, "updated")
            else:
                self._remove_email(account, email, modseq)

    def _remove_email(self, account: AccountRecord, email: EmailRecord, modseq: int) -> None:
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

    async def copy(
        self, mailbox_id: int, uids: Sequence[int], target_id: int, *, keep: str = ALL_FLAGS
    ) -> list[tuple[int, int]]:
        source, target = self._mailbox_by_id(mailbox_id), self._mailbox_by_id(target_id)
        rows = [source.rows[uid] for uid in sorted(set(uids)) if uid in source.rows]
        return self._copy_rows(source, rows, target, keep) if rows else []

    def _copy_rows(self, source: MailboxRecord, rows: list[Row], target: MailboxRecord, keep: str) -> list[tuple[int, int]]:
        """In another account an email finds its thread as a new one does, and each is a change of its own."""
        account = target.account
        if not account.has_room(sum(row.size for row in rows), len(rows)):
            raise OverQuota("over quota", account.name)
        is_own = source.account is account
        modseq = self._next_modseq(account)
        pairs: list[tuple[int, int]] = []
        for row in rows:
            if not is_own and pairs:
                modseq = self._next_modseq(account)
            email = source.account.emails[row.email_id]
            thread_id = email.thread_id if is_own else b""
            copied = self._new_email(account, self._rendering(email), email.received, email.description, modseq, thread_id)
            new = self._new_row(target, copied, modseq, row.internal_date, *kept_flags(keep, row.bits, row.keywords))
            pairs.append((row.uid, new.uid))
            if not is_own:
                self._log(account, modseq, "mailbox", mailbox_key(target.id), "updated")
        if is_own:
            self._log(account, modseq, "mailbox", mailbox_key(target.id), "updated")
        self._tell(account)
        return pairs

    async def move(
        self, mailbox_id: int, uids: Sequence[int], target_id: int, *, keep: str = ALL_FLAGS
    ) -> list[tuple[int, int]]:
        source, target = self._mailbox_by_id(mailbox_id), self._mailbox_by_id(target_id)
        present = [uid for uid in sorted(set(uids)) if uid in source.rows]
        if not present:
            return []
        if source.account is not target.account:
            pairs = self._copy_rows(source, [source.rows[uid] for uid in present], target, keep)
            await self.expunge(mailbox_id, present)
            return pairs
        modseq = self._next_modseq(source.account)
        pairs = self._move_rows(source, present, target, modseq, keep)
        self._tell(source.account)
        return pairs

    def _move_rows(
        self, source: MailboxRecord, uids: Sequence[int], target: MailboxRecord, modseq: int, keep: str = ALL_FLAGS
    ) -> list[tuple[int, int]]:
        """The email stays the same one (RFC 8474 §4.2): only where it is a member changes."""
        account = source.account
        pairs = []
        for uid in uids:
            row = source.rows.pop(uid)
            email = account.emails[row.email_id]
            email.memberships.remove((source.id, uid))
            self._log(account, modseq, "message", message_key(source.id, uid), "destroyed")
            new = self._new_row(target, email, modseq, row.internal_date, *kept_flags(keep, row.bits, row.keywords))
            self._log(account, modseq, "email", email.id, "updated")
            pairs.append((uid, new.uid))
        source.highest_modseq = modseq
        for mailbox_id in dict.fromkeys((source.id, target.id)):
            self._log(account, modseq, "mailbox", mailbox_key(mailbox_id), "updated")
        return pairs

    # Changes

    def commit_number(self) -> tuple[int, int]:
        return 0, 0

    async def changes(self, account_id: int, since_modseq: int, *, limit: int = 0) -> list[Change] | None:
        account = self._account_by_id(account_id)
        if not account.floor_modseq <= since_modseq <= account.modseq:
            return None
        found = [line for line in account.log if line.modseq > since_modseq]
        if not limit or len(found) <= limit:
            return found
        last = found[limit - 1].modseq
        return [line for line in found if line.modseq <= last]

    def _next_modseq(self, account: AccountRecord) -> int:
        account.modseq += 1
        account.times.append((account.modseq, self._clock.now()))
        oldest = self._clock.now() - self._change_retention
        while len(account.times) > 1 and account.times[0][1] < oldest:
            account.floor_modseq = account.times.pop(0)[0]
            account.log = [line for line in account.log if line.modseq > account.floor_modseq]
        return account.modseq

    def _log(self, account: AccountRecord, modseq: int, kind: str, id: bytes, action: str) -> None:
        account.log.append(Change(modseq, kind, id, action))

    def _tell(self, account: AccountRecord) -> None:
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

    def _email_value(self, email: EmailRecord) -> Email:
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


def _changed_flags(operation: str, row: Row, bits: int, keywords: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return change(operation, row.bits, row.keywords, bits, keywords)
