"""`MailStore` on LMDB: the public face. Changes go through the commit thread, reads through snapshots of one call.

Several processes share `mail.mdb` (workers, the CLI). A read happens on the caller's thread: pages are usually in memory, and a
row costs microseconds; long listings go to the loop's executor.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from rusmes._core.batch import Batch
from rusmes._core.blocks import Flagging, block_key, messages_in
from rusmes._core.rows import EmailFacts
from rusmes._core.textscan import EmailReader
from rusmes.clock import Clock, SystemClock
from rusmes.errors import NotFound
from rusmes.metrics import MESSAGES_APPENDED, STORE_BYTES, STORE_ERRORS, STORE_WRITABLE, Metrics
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mailbox import Account, Appended, Change, Email, Mailbox, Message
from rusmes.model.plan import Append, Refusal
from rusmes.storage.api import ALL_FLAGS, Answer, ChangeListener, CompactResult, Finding, FlagChange, StoredMessage
from rusmes.storage.changes import ChangeNotices
from rusmes.storage.commit import LIGHT_ITEMS, Committer, Operation
from rusmes.storage.description import Description, describe
from rusmes.storage.lmdb import listing, sharing
from rusmes.storage.lmdb import mailboxes as boxes
from rusmes.storage.lmdb import messages as mail
from rusmes.storage.lmdb.blobs import LARGE_BYTES, FilePreparation, LmdbBlobs, Tables, prepare_large
from rusmes.storage.lmdb.compact import compact_environment
from rusmes.storage.lmdb.delivery import Delivery
from rusmes.storage.lmdb.edits import (
    Snapshot,
    change_chain,
    check_layout,
    find_account_id,
    find_email,
    has_many_names,
    log_reaches,
    mailbox_named,
    mailbox_value,
    read_account,
    read_email,
    read_mailbox,
    read_message,
    trim_changes,
)
from rusmes.storage.lmdb.environment import Environment
from rusmes.storage.lmdb.layout import (
    ACCOUNT_NAMES,
    ACCOUNTS,
    BLOB_REFS,
    BLOBS,
    MAIL_TABLES,
    MAILBOX_NAMES,
    MAILBOXES,
    MESSAGES,
    META,
    THREADS,
    AccountRecord,
    MailboxRecord,
    message_value,
    number_key,
)
from rusmes.storage.lmdb.scanning import MappedFile, scan_emails
from rusmes.storage.lmdb.sending import renderings
from rusmes.storage.lmdb.verify import verify_mail
from rusmes.storage.memory import CHANGE_RETENTION_SECONDS, KEY_RETENTION_SECONDS
from rusmes.storage.names import normal_name
from rusmes.storage.space import Space

if TYPE_CHECKING:
    from rusmes._core.view import MailboxRows

INLINE_LIMIT_BYTES: Final = 64 * 1024
MAP_BYTES: Final = 1 << 40
# Listing more messages than this at once would hold up the loop for more than about 10 ms.
LONG_LISTING: Final = 5000
# The same for names of mailboxes and subscriptions, 6 to 9 us each.
LONG_NAMES: Final = 500
# What the rows of one message add beside its body, for the check of free space.
ROW_BYTES: Final = 4096
# Messages whose flags a loop changes by itself when it is alone: 100 us, and less than the sync takes.
LIGHT_FLAGS: Final = 1000
# How often old rows of the change log are looked for, and how many go with one change: little enough not to be felt.
TRIM_SECONDS: Final = 60.0
TRIMMED_AT_ONCE: Final = 200
# Rows of the change log, some 150 bytes each, of all accounts together: 1.5 GB at most. Not for each account: its rows lie
# among those of others, the oldest at the end of a chain that had to be walked. Who loses rows compares everything once.
MAX_CHANGES: Final = 10_000_000

T = TypeVar("T")


class LmdbMailStore:
    """Implements `MailStore` in `<path>/mail.mdb` and `<path>/blobs/mail/`.

    With `read_only` it reads beside a running server and refuses changes. `key_retention` must be longer than a mail may
    wait in the queue.
    """

    def __init__(
        self,
        path: str,
        *,
        inline_limit: int = INLINE_LIMIT_BYTES,
        map_size: int = MAP_BYTES,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        ids: IdSource | None = None,
        key_retention: float = KEY_RETENTION_SECONDS,
        change_retention: float = CHANGE_RETENTION_SECONDS,
        read_only: bool = False,
    ) -> None:
        self._path = os.path.abspath(path)
        self._clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._ids = ids or IdSource()
        self._notices = ChangeNotices()
        self._space = Space(self._path, self._clock)
        self._environment = Environment(
            os.path.join(self._path, "mail.mdb"), MAIL_TABLES, map_size=map_size, is_exclusive=False, read_only=read_only
        )
        self._space.inside = self._environment.free_bytes
        self._mapped = MappedFile(self._environment.path)
        self.blobs = LmdbBlobs(
            self._environment,
            os.path.join(self._path, "blobs", "mail"),
            Tables(BLOBS, BLOB_REFS),
            ids=self._ids,
            inline_limit=inline_limit,
            space=self._space,
        )
        self._delivery = Delivery(self.blobs, self._ids, key_retention)
        self._change_retention = change_retention
        self._trimmed = 0.0
        self._committer = Committer(
            self._environment,
            name="mail",
            clock=self._clock,
            space=self._space,
            metrics=self._metrics,
            cached_tables=(META, ACCOUNTS, ACCOUNT_NAMES, MAILBOXES, MAILBOX_NAMES),
            prefixes={THREADS: 24},
            on_notes=self._notices.tell,
        )

    async def open(self) -> None:
        """Raises StoreError, StoreCorrupt; NotFound when it is to be read and does not exist."""
        self._environment.open()
        if self._environment.read_only:
            self._environment.share()
            return
        os.makedirs(self.blobs.directory, mode=0o700, exist_ok=True)
        if self._environment.is_alone:
            self.blobs.remove_orphans()
            self._environment.share()
        self._committer.start()
        await self._committer.submit(check_layout)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._committer.stop)
        self._mapped.close()
        self._environment.close()

    def is_writable(self) -> bool:
        return self._environment.is_open and self._committer.failure is None and not self._space.is_full

    def measure(self) -> None:
        """Bring the gauges up to date; for once a second (it costs 10 us, and `is_writable` is asked for every mail)."""
        self._metrics.set(STORE_WRITABLE, float(self.is_writable()))
        if self._environment.is_open:
            self._metrics.set(STORE_BYTES["mail"], float(self._environment.used_bytes()))

    def on_change(self, listener: ChangeListener) -> None:
        self._notices.add(listener)

    # Delivery

    async def append(
        self, appends: Sequence[Append], *, all_or_none: bool = False, expunge: tuple[int, int] | None = None
    ) -> list[Appended | Refusal]:
        contents = list({id(item.rendering.content): item.rendering.content for item in appends}.values())
        if any(content.size > LARGE_BYTES for content in contents):
            descriptions = await asyncio.get_running_loop().run_in_executor(None, _describe, appends)
        else:
            descriptions = _describe(appends)
        preparations = self.blobs.preparations(contents)
        if any(content.path and content.size > LARGE_BYTES for content in contents):
            await prepare_large(preparations)
        operation = self._delivering(appends, descriptions, preparations, all_or_none, expunge)
        growth = sum(0 if content.path else content.size for content in contents) + ROW_BYTES * len(appends)
        light = len(appends) <= LIGHT_ITEMS and expunge is None
        return await self._committer.submit(operation, prepared=preparations, growth=growth, light=light)

    def begin_append(self, appends: Sequence[Append], answer: Answer[list[Appended | Refusal]]) -> bool:
        growth = 0
        for item in appends:
            content = item.rendering.content
            if content.path or content.size > LARGE_BYTES:
                return False
            growth += content.size + ROW_BYTES
        operation = self._delivering(appends, _describe(appends), ())
        self._committer.enqueue(operation, answer, growth=growth, light=len(appends) <= LIGHT_ITEMS)
        return True

    def _delivering(
        self,
        appends: Sequence[Append],
        descriptions: Sequence[Description],
        preparations: Sequence[FilePreparation],
        all_or_none: bool = False,
        expunge: tuple[int, int] | None = None,
    ) -> Callable[[Batch], list[Appended | Refusal]]:
        """What the commit thread does."""
        now = self._clock.now()

        def operation(batch: Batch) -> list[Appended | Refusal]:
            self._delivery.expire_keys(batch, now)
            self._trim(batch)
            if expunge is not None and not mail.expunge(batch, self.blobs, expunge[0], expunge[1:], only_deleted=False):
                raise NotFound("no such message", f"mailbox {expunge[0]}, UID {expunge[1]}")
            results = self._delivery.append(batch, appends, descriptions, now, all_or_none=all_or_none)
            for preparation in preparations:
                preparation.check_referred(batch)
            batch.after_commit.append(partial(self._count, results))
            return results

        return operation

    def _count(self, results: Sequence[Appended | Refusal]) -> None:
        stored = sum([type(result) is Appended for result in results])
        self._metrics.inc(MESSAGES_APPENDED, stored)
        if stored < len(results):
            full = sum([isinstance(result, Refusal) and result.status == "5.2.2" for result in results])
            self._metrics.inc(STORE_ERRORS["quota"], full)

    def retain_keys(self, seconds: float) -> None:
        """A reload: mail may wait for longer now, and keys have to be remembered for longer than it."""
        self._delivery.retain(seconds)

    # Accounts

    async def account(self, name: str) -> Account | None:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            account_id = find_account_id(rows, name)
            return read_account(rows, account_id).value() if account_id else None

    async def account_by_id(self, account_id: int) -> Account | None:
        with self._environment.reading() as txn:
            try:
                return read_account(Snapshot(self._environment, txn), account_id).value()
            except NotFound:
                return None

    async def accounts(self) -> list[Account]:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            found = [AccountRecord.unpack(key, row).value() for key, row in rows.scan(ACCOUNTS, b"")]
        return sorted(found, key=lambda account: account.name)

    async def create_account(
        self, name: str, *, mailboxes: Sequence[str] = (), quota_bytes: int = 0, quota_messages: int = 0
    ) -> Account:
        names = [normal_name(mailbox) for mailbox in mailboxes]
        now = self._clock.now()

        def operation(batch: Batch) -> Account:
            return boxes.create_account(batch, name, names, quota_bytes, quota_messages, now).value()

        return await self._committer.submit(operation, growth=ROW_BYTES)

    async def set_quota(self, name: str, *, quota_bytes: int, quota_messages: int) -> Account:
        return await self._committer.submit(lambda batch: boxes.set_quota(batch, name, quota_bytes, quota_messages).value())

    async def delete_account(self, name: str) -> None:
        await self._committer.submit(lambda batch: boxes.delete_account(batch, self.blobs, name))

    async def room_for(self, name: str, size: int) -> bool:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            account_id = find_account_id(rows, name)
            return not account_id or read_account(rows, account_id).has_room(size)

    # Mailboxes

    async def mailboxes(self, account_id: int) -> list[Mailbox]:
        return await self._names(account_id, boxes.mailbox_values)

    async def _names(self, account_id: int, read: Callable[[Snapshot, int], list[T]]) -> list[T]:
        """What is read of names of an account, from one snapshot; a lot of them beside the loop."""
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            read_account(rows, account_id)
            if not has_many_names(rows, account_id, LONG_NAMES):
                return read(rows, account_id)

        def read_later() -> list[T]:
            with self._environment.reading() as txn:
                rows = Snapshot(self._environment, txn)
                read_account(rows, account_id)
                return read(rows, account_id)

        return await asyncio.get_running_loop().run_in_executor(None, read_later)

    async def mailbox(self, account_id: int, name: str) -> Mailbox | None:
        name = normal_name(name)
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            read_account(rows, account_id)
            try:
                return mailbox_value(rows, mailbox_named(rows, account_id, name))
            except NotFound:
                return None

    async def mailbox_by_id(self, mailbox_id: int) -> Mailbox | None:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            try:
                return mailbox_value(rows, read_mailbox(rows, mailbox_id))
            except NotFound:
                return None

    async def set_special_use(self, mailbox_id: int, special_use: str) -> None:
        await self._committer.submit(lambda batch: boxes.set_special_use(batch, mailbox_id, special_use))

    async def create_mailbox(self, account_id: int, name: str, *, special_use: str = "") -> Mailbox:
        name = normal_name(name)
        now = self._clock.now()

        def operation(batch: Batch) -> Mailbox:
            return mailbox_value(batch, boxes.create_mailbox(batch, account_id, name, special_use, now))

        return await self._committer.submit(operation, growth=ROW_BYTES)

    async def rename_mailbox(self, account_id: int, old: str, new: str) -> None:
        old, new = normal_name(old), normal_name(new)
        now = self._clock.now()
        await self._committer.submit(lambda batch: boxes.rename_mailbox(batch, account_id, old, new, now))

    async def delete_mailbox(self, account_id: int, name: str) -> None:
        name = normal_name(name)
        await self._committer.submit(lambda batch: boxes.delete_mailbox(batch, self.blobs, account_id, name))

    async def subscribe(self, account_id: int, name: str, subscribed: bool) -> None:
        name = normal_name(name)
        await self._committer.submit(lambda batch: boxes.subscribe(batch, account_id, name, subscribed))

    async def subscriptions(self, account_id: int) -> list[str]:
        return await self._names(account_id, boxes.subscriptions)

    async def claim_recent(self, mailbox_id: int) -> int:
        return await self._committer.submit(lambda batch: boxes.claim_recent(batch, mailbox_id))

    # Sharing and annotations

    async def acl(self, mailbox_id: int) -> dict[str, str]:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            read_mailbox(rows, mailbox_id)
            return sharing.acl(rows, mailbox_id)

    async def set_rights(self, mailbox_id: int, identifier: str, rights: str) -> None:
        await self._committer.submit(
            lambda batch: sharing.set_rights(batch, mailbox_id, identifier, rights), growth=ROW_BYTES if rights else 0
        )

    async def shared_mailboxes(self, identifiers: Sequence[str]) -> list[tuple[Mailbox, dict[str, str]]]:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            found = sharing.shared_mailboxes(rows, identifiers)
            return [(mailbox_value(rows, mailbox), sharing.acl(rows, mailbox.id)) for mailbox in found]

    async def metadata(self, mailbox_id: int, account_id: int) -> dict[str, bytes]:
        with self._environment.reading() as txn:
            return sharing.metadata(Snapshot(self._environment, txn), mailbox_id, account_id)

    async def set_metadata(
        self, mailbox_id: int, account_id: int, entries: Mapping[str, bytes | None], *, max_entries: int = 0
    ) -> None:
        await self._committer.submit(
            lambda batch: sharing.set_metadata(batch, mailbox_id, account_id, entries, max_entries),
            growth=sum(ROW_BYTES + len(value) for value in entries.values() if value is not None),
        )

    # Messages

    async def load_messages(self, mailbox_id: int, into: MailboxRows, *, first_uid: int = 1) -> Mailbox:
        return listing.load(self._environment, mailbox_id, into, first_uid)

    async def refresh_messages(self, mailbox_id: int, into: MailboxRows, since_modseq: int) -> Mailbox | None:
        return listing.refresh(self._environment, mailbox_id, into, since_modseq)

    async def expunged_since(self, mailbox_id: int, modseq: int) -> list[int] | None:
        return listing.expunged_since(self._environment, mailbox_id, modseq)

    def saved_dates(self, mailbox_id: int, uids: Sequence[int]) -> list[float | None]:
        return listing.saved_dates(self._environment, mailbox_id, uids)

    def email_facts(self, account_id: int, email_ids: Sequence[bytes]) -> list[EmailFacts | None]:
        return listing.email_facts(self._environment, account_id, email_ids)

    def email_bodies(self, account_id: int, email_ids: Sequence[bytes], *, limit_bytes: int = 0) -> list[Rendering | None]:
        return listing.email_bodies(self._environment, self.blobs, account_id, email_ids, limit_bytes)

    def scan_emails(self, account_id: int, email_ids: Sequence[bytes], reader: EmailReader, *, first: int = 0) -> None:
        scan_emails(self._environment, self.blobs, self._mapped, account_id, email_ids, reader, first)

    async def messages(self, mailbox_id: int, *, first_uid: int = 1, last_uid: int = 0) -> list[Message]:
        with self._environment.reading() as txn:
            mailbox = read_mailbox(Snapshot(self._environment, txn), mailbox_id)
        if mailbox.exists <= LONG_LISTING:
            return self._messages(mailbox, first_uid, last_uid)
        return await asyncio.get_running_loop().run_in_executor(None, self._messages, mailbox, first_uid, last_uid)

    def _messages(self, mailbox: MailboxRecord, first_uid: int, last_uid: int) -> list[Message]:
        end = last_uid if 0 < last_uid <= 0xFFFFFFFF else 0xFFFFFFFF
        start = max(first_uid, 1)
        if start > end:
            return []
        prefix = number_key(mailbox.id)
        found = []
        with (
            self._environment.reading() as txn,
            txn.cursor(self._environment.handles[MESSAGES]) as cursor,
        ):
            last = block_key(mailbox.id, end)
            if cursor.set_range(block_key(mailbox.id, start)):
                for key, row in cursor:
                    if key > last or not key.startswith(prefix):
                        break
                    found += [
                        message_value(message, uid, mailbox.first_recent)
                        for uid, message in messages_in(key, row)
                        if start <= uid <= end
                    ]
        return found

    async def open_message(self, mailbox_id: int, uid: int) -> StoredMessage:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            mailbox = read_mailbox(rows, mailbox_id)
            message = read_message(rows, mailbox_id, uid)
            if message is None:
                raise NotFound("no such message", f"mailbox {mailbox_id}, UID {uid}")
            email = read_email(rows, mailbox.account_id, message.email_id)
        content: Content = self.blobs.content(email.blob_id)
        return StoredMessage(
            message_value(message, uid, mailbox.first_recent),
            email.value(message.email_id, message.bits, message.keywords),
            Rendering(content, email.prefix, email.skip),
        )

    async def renderings(self, mailbox_id: int, uids: Sequence[int], *, limit_bytes: int = 0) -> list[Rendering]:
        return renderings(self._environment, self.blobs, mailbox_id, uids, limit_bytes)

    async def emails(self, account_id: int, ids: Sequence[bytes]) -> list[Email | None]:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            read_account(rows, account_id)
            return [_email_value(rows, account_id, id) for id in ids]

    async def thread(self, account_id: int, thread_id: bytes) -> list[bytes]:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            read_account(rows, account_id)
            found = [key[24:] for key, _ in rows.scan(THREADS, number_key(account_id) + thread_id)]
            if found:
                return found
            email = find_email(rows, account_id, thread_id)  # one that is alone in its thread has no row there
            return [thread_id] if email is not None and email.thread_id == thread_id else []

    async def change_flags(self, mailbox_id: int, change: FlagChange, *, rows: MailboxRows | None = None) -> list[int]:
        flagging = await self._change_flags(mailbox_id, change)
        if rows is not None:
            flagging.apply(rows)
        return flagging.passed.list()

    async def _change_flags(self, mailbox_id: int, change: FlagChange) -> Flagging:
        if len(change.uids) <= LIGHT_FLAGS:
            try:
                return await self._submit(
                    lambda batch: mail.change_flags(batch, mailbox_id, change, max_shared=LIGHT_ITEMS), light=True
                )
            except mail.TooManyShared:
                pass
        return await self._submit(lambda batch: mail.change_flags(batch, mailbox_id, change))

    async def expunge(self, mailbox_id: int, uids: Sequence[int], *, only_deleted: bool = False) -> list[int]:
        return await self._submit(lambda batch: mail.expunge(batch, self.blobs, mailbox_id, uids, only_deleted=only_deleted))

    async def copy(
        self, mailbox_id: int, uids: Sequence[int], target_id: int, *, keep: str = ALL_FLAGS
    ) -> list[tuple[int, int]]:
        return await self._submit(
            lambda batch: mail.copy(batch, self.blobs, self._ids, mailbox_id, uids, target_id, keep),
            growth=ROW_BYTES * len(uids),
        )

    async def move(
        self, mailbox_id: int, uids: Sequence[int], target_id: int, *, keep: str = ALL_FLAGS
    ) -> list[tuple[int, int]]:
        return await self._submit(lambda batch: mail.move(batch, self.blobs, self._ids, mailbox_id, uids, target_id, keep))

    async def _submit(self, operation: Operation[T], *, growth: int = 0, light: bool = False) -> T:
        """An operation that adds to the change log, and removes what is old there."""

        def run(batch: Batch) -> T:
            self._trim(batch)
            return operation(batch)

        return await self._committer.submit(run, growth=growth, light=light)

    def _trim(self, batch: Batch) -> None:
        """Once in a while, or again at once while there is much to remove."""
        if batch.now - self._trimmed >= TRIM_SECONDS or batch.now < self._trimmed:
            removed = trim_changes(batch, batch.now - self._change_retention, MAX_CHANGES, TRIMMED_AT_ONCE)
            if removed < TRIMMED_AT_ONCE:
                self._trimmed = batch.now

    # Changes

    def commit_number(self) -> tuple[int, int]:
        return self._environment.commit_number()

    async def changes(self, account_id: int, since_modseq: int, *, limit: int = 0) -> list[Change] | None:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            account = read_account(rows, account_id)
            if not log_reaches(account, since_modseq):
                return None
            chain = [record for _, record in change_chain(rows, account, since_modseq)]
            found: list[Change] = []
            for record in reversed(chain):
                if limit and len(found) >= limit:
                    break
                found += record.changes(partial(mail.emails_in, rows))
        return found

    # Care

    def verify(self) -> Iterator[Finding]:
        """Reads from one snapshot, so it may run in another process or thread beside the server."""
        return verify_mail(self._environment, self.blobs)

    async def renew_uid_validity(self) -> int:
        """After an older copy took the store's place: clients forget what they know of its mailboxes. How many there are."""
        now = self._clock.now()
        return await self._committer.submit(lambda batch: boxes.renew_uid_validity(batch, now))

    async def compact(self) -> CompactResult:
        """Copy what is in use and take the copy's place.

        Raises:
            StoreError: another process has the store open.
            StoreFull: there is no room for the copy.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._committer.stop)
        try:
            return await loop.run_in_executor(None, compact_environment, self._environment)
        finally:
            if self._environment.is_open:
                self._environment.share()
                self._committer.start()


def _describe(appends: Sequence[Append]) -> list[Description]:
    """One description for each different rendering; most plans have one."""
    if len(appends) == 1:
        return [describe(appends[0].rendering)]
    known: dict[tuple[int, bytes, int], Description] = {}
    descriptions = []
    for item in appends:
        rendering = item.rendering
        key = (id(rendering.content), rendering.prefix, rendering.skip)
        description = known.get(key)
        if description is None:
            description = known[key] = describe(rendering)
        descriptions.append(description)
    return descriptions


def _email_value(rows: Snapshot, account_id: int, id: bytes) -> Email | None:
    email = find_email(rows, account_id, id)
    if email is None:
        return None
    mailbox_id, uid = email.memberships[0]
    message = read_message(rows, mailbox_id, uid)
    if message is None:
        return email.value(id, 0, ())
    return email.value(id, message.bits, message.keywords)
