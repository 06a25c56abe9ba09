"""The mailboxes that sessions of this worker have selected: one array of rows each, and who waits for news of it.

Rows are kept once a worker, whoever looks at them; each session's `View` says what of them its client was told. Three ways
lead to news:

1. A commit of this process (`store.on_change`) or of another worker (a notice with the account's id) marks an account. Soon
   after, the rows of its mailboxes that somebody idles on are refreshed once, and every idler tells its client at once.
2. Every command ends with `refresh`: one row is read, and more only when the mailbox's modseq has moved. So a notice that was
   lost costs nothing but time.
3. Once in a while all rows with idlers are looked at, for the notices lost on clients that say nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import structs

from rusmes._core.view import MailboxRows
from rusmes.errors import NotFound, StoreError
from rusmes.log import get_logger
from rusmes.metrics import IMAP_MAILBOXES, Metrics
from rusmes.model.mailbox import Mailbox
from rusmes.storage.api import MailStore

COALESCE_SECONDS: Final = 0.05
"""News of one worker's mailboxes is told at once when there was none for this long, and otherwise this much later: 1,000
deliveries a second to a mailbox with 1,000 idlers are 20 turns, not a million lines."""

IDLERS_AT_ONCE: Final = 64
"""Told in one turn of the loop."""

LOOK_SECONDS: Final = 30.0
"""How often mailboxes are looked at without a notice."""

CLAIM_SECONDS: Final = 1.0

KEPT_MAILBOXES: Final = 256
KEPT_ROWS: Final = 1_000_000
"""Of mailboxes that nobody has selected any more, so that the next SELECT only reads what is new (40 bytes a row)."""

UNKNOWN: Final = (0, 0)

CHANGES_AT_ONCE: Final = 10_000
"""Looked at one by one in an account that is followed; for more of them all its mailboxes are read again."""

_log = get_logger("imap")


class Idler(Protocol):
    """A session that waits for news of its mailbox."""

    def rows_changed(self) -> None:
        """The rows are up to date; tell the client. Must not wait and must not raise."""

    def mailbox_gone(self) -> None: ...


class Follower(Protocol):
    """A session that wants to know of other mailboxes (NOTIFY)."""

    def account_changed(self, account_id: int) -> None:
        """Must not wait and must not raise."""


class Rows:
    """One mailbox: its array, and how far it follows the store."""

    __slots__ = ("account_id", "commit_number", "idlers", "is_gone", "lock", "mailbox", "mailbox_id", "modseq", "rows", "users")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox_id = mailbox.id
        self.account_id = mailbox.account_id
        self.mailbox = mailbox
        """As it was when the rows were refreshed last."""
        self.rows = new_rows(mailbox)
        self.commit_number = UNKNOWN
        """Of the store, before the rows were refreshed last."""
        self.modseq = 0
        """Changes up to this one are in the rows."""
        self.users = 0
        self.idlers: dict[Idler, None] = {}
        self.is_gone = False
        """The mailbox was deleted."""
        self.lock: asyncio.Lock | None = None


class Followed:
    """An account that sessions follow: its mailboxes, read once for all of them (10,000 take 100 ms)."""

    __slots__ = (
        "commit_number", "followers", "lock", "mailboxes", "modseq", "read_at", "subscribed", "subscribed_at", "touched",
    )  # fmt: skip

    def __init__(self) -> None:
        self.followers: dict[Follower, None] = {}
        self.mailboxes: dict[int, Mailbox] = {}
        """By id; replaced, never changed."""
        self.modseq = -1
        """Changes of the account up to this one are in `mailboxes`."""
        self.touched: dict[int, int] = {}
        """The modseq of the last change of a mailbox, for those that changed since all were read, at modseq `read_at`."""
        self.read_at = -1
        self.commit_number = UNKNOWN
        self.subscribed: frozenset[str] = frozenset()
        self.subscribed_at = UNKNOWN
        self.lock = asyncio.Lock()


def new_rows(mailbox: Mailbox) -> MailboxRows:
    return MailboxRows(mailbox.id, account_id=mailbox.account_id, uid_validity=mailbox.uid_validity)


def become(rows: MailboxRows, fresh: MailboxRows, modseq: int) -> None:
    """Make `rows` say what `fresh` says, by way of news: what is not in it is expunged at `modseq`."""
    there = {fresh.uid(row): row for row in range(fresh.size)}
    here = {rows.uid(row): row for row in range(rows.size) if not rows.is_expunged(row)}
    for uid in here.keys() - there.keys():
        rows.expunge(uid, modseq)
    for uid, row in there.items():
        keywords = fresh.keywords(row)
        if uid not in here:
            rows.add(
                uid,
                fresh.modseq_of(row),
                fresh.email_id(row),
                fresh.internal_date(row),
                fresh.message_size(row),
                fresh.system_bits(row),
                keywords,
            )
        elif fresh.modseq_of(row) != rows.modseq_of(here[uid]):
            rows.update(uid, fresh.modseq_of(row), fresh.system_bits(row), keywords)


class Hub:
    """All of them; one for a worker."""

    def __init__(
        self, store: MailStore, *, metrics: Metrics, tell_others: Callable[[int], None] = lambda account_id: None
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._tell_others = tell_others
        self._rows: dict[int, Rows] = {}
        self._by_account: dict[int, dict[Rows, None]] = {}
        self._unused: OrderedDict[int, Rows] = OrderedDict()
        self._unused_rows = 0
        self._followed: dict[int, Followed] = {}
        self._changed: set[int] = set()
        self._noticed: set[int] = set()
        """Accounts of which the other workers heard since `_window` began; and those that changed once more."""
        self._owed: set[int] = set()
        self._window: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._claims: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.TimerHandle | None = None
        store.on_change(self.changed_here)

    # What changed

    def changed_here(self, account_id: int, modseq: int) -> None:
        """After a commit of this process."""
        self._tell_elsewhere(account_id)
        self.changed(account_id)

    def _tell_elsewhere(self, account_id: int) -> None:
        """At once, and again `COALESCE_SECONDS` later at the earliest: the others would not tell it sooner, and a notice costs
        both sides 40 us."""
        if account_id in self._noticed:
            self._owed.add(account_id)
            return
        self._noticed.add(account_id)
        self._tell_others(account_id)
        if self._window is None:
            self._window = asyncio.get_running_loop().call_later(COALESCE_SECONDS, self._next_window)

    def _next_window(self) -> None:
        self._window = None
        self._noticed, self._owed = self._owed, set()
        for account_id in self._noticed:
            self._tell_others(account_id)
        if self._noticed:
            self._window = asyncio.get_running_loop().call_later(COALESCE_SECONDS, self._next_window)

    def changed_elsewhere(self, payload: bytes) -> None:
        """A notice of another worker: 8 bytes of account id."""
        self.changed(int.from_bytes(payload, "big"))

    def changed(self, account_id: int) -> None:
        if not account_id:  # something that all accounts see
            self._changed.update(self._followed)
            if self._changed:
                self._begin_telling()
        elif account_id in self._by_account or account_id in self._followed:
            self._changed.add(account_id)
            self._begin_telling()

    def all_changed(self, payload: bytes = b"") -> None:
        """Notices were lost; look at everything somebody waits for."""
        self._changed.update(self._followed)
        self._changed.update(account_id for account_id, all_rows in self._by_account.items() if any(r.idlers for r in all_rows))
        if self._changed:
            self._begin_telling()

    def _begin_telling(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._changed:
                wait = self._told_at + COALESCE_SECONDS - loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                changed, self._changed = self._changed, set()
                self._told_at = loop.time()
                for account_id in changed:
                    await self._tell_account(account_id)
        except Exception:
            _log.exception("telling of changes failed")
        finally:
            self._telling = None
            if self._changed:
                self._begin_telling()

    async def _tell_account(self, account_id: int) -> None:
        for rows in list(self._by_account.get(account_id, ())):
            if not rows.idlers:
                continue
            try:
                await self.refresh(rows)
            except NotFound:
                for idler in list(rows.idlers):
                    idler.mailbox_gone()
                continue
            except StoreError as error:
                _log.error("a mailbox cannot be looked at", mailbox_id=rows.mailbox_id, reason=str(error))
                continue
            for number, idler in enumerate(list(rows.idlers), 1):
                if idler in rows.idlers:
                    idler.rows_changed()
                if not number % IDLERS_AT_ONCE:
                    await asyncio.sleep(0)
        followed = self._followed.get(account_id)
        for follower in list(followed.followers) if followed is not None else ():
            follower.account_changed(account_id)

    def start(self) -> None:
        """Look at mailboxes now and then, on the running loop."""
        self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self.all_changed()
        self.start()

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for handle in self._claims.values():
            handle.cancel()
        self._claims.clear()
        if self._window is not None:
            self._window.cancel()
            self._window = None
        for account_id in self._owed:
            self._tell_others(account_id)
        self._owed.clear()
        if self._telling is not None:
            self._changed.clear()
            self._telling.cancel()
            self._tasks.add(self._telling)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Rows

    async def open(self, mailbox: Mailbox) -> Rows:
        """The rows of a mailbox, up to date; given back by `release`. Raises NotFound, StoreError."""
        rows = self._rows.get(mailbox.id)
        if rows is None:
            rows = self._rows[mailbox.id] = Rows(mailbox)
            self._by_account.setdefault(mailbox.account_id, {})[rows] = None
            self._metrics.set(IMAP_MAILBOXES, len(self._rows))
        elif mailbox.id in self._unused:
            del self._unused[mailbox.id]
            self._unused_rows -= len(rows.rows)
        rows.users += 1
        try:
            await self.refresh(rows)
        except BaseException:
            self.release(rows)
            raise
        return rows

    def release(self, rows: Rows) -> None:
        """A session does not look at them any more."""
        rows.users -= 1
        if rows.users:
            return
        if rows.is_gone or not rows.modseq:
            self._forget(rows)
            return
        self._unused[rows.mailbox_id] = rows
        self._unused_rows += len(rows.rows)
        while self._unused and (len(self._unused) > KEPT_MAILBOXES or self._unused_rows > KEPT_ROWS):
            _, oldest = self._unused.popitem(last=False)
            self._unused_rows -= len(oldest.rows)
            self._forget(oldest)

    def _forget(self, rows: Rows) -> None:
        if self._rows.get(rows.mailbox_id) is rows:
            del self._rows[rows.mailbox_id]
            self._metrics.set(IMAP_MAILBOXES, len(self._rows))
        of_account = self._by_account.get(rows.account_id)
        if of_account is not None and of_account.pop(rows, True) is None and not of_account:
            del self._by_account[rows.account_id]

    async def refresh(self, rows: Rows) -> None:
        """Bring rows to the state of the store.

        Raises:
            NotFound: the mailbox is gone.
            StoreError
        """
        if rows.is_gone:
            raise NotFound("the mailbox was deleted")
        number = self._store.commit_number()
        if number == rows.commit_number and number != UNKNOWN:
            return
        if rows.lock is None:
            rows.lock = asyncio.Lock()
        async with rows.lock:
            try:
                rows.modseq = max(rows.modseq, rows.rows.modseq)  # a change of flags has brought them further
                if not rows.modseq:
                    mailbox: Mailbox | None = await self._store.load_messages(rows.mailbox_id, rows.rows)
                else:
                    mailbox = await self._store.refresh_messages(rows.mailbox_id, rows.rows, rows.modseq)
                if mailbox is None:
                    mailbox = await self._reload(rows)
            except NotFound:
                rows.is_gone = True
                raise
            rows.mailbox = mailbox
            rows.commit_number = number
            rows.modseq = max(mailbox.highest_modseq, 1)
            rows.rows.modseq = mailbox.highest_modseq
            rows.rows.uid_next = mailbox.uid_next

    async def _reload(self, rows: Rows) -> Mailbox:
        """The change log does not reach back: compare everything."""
        fresh = new_rows(rows.mailbox)
        mailbox = await self._store.load_messages(rows.mailbox_id, fresh)
        become(rows.rows, fresh, mailbox.highest_modseq)
        return mailbox

    # \\Recent

    def claim_soon(self, rows: Rows) -> None:
        """A session was told of messages that are \\Recent (RFC 3501 §2.3.2); later ones need not be. One commit for all that
        come within `CLAIM_SECONDS`, and nobody waits for it."""
        if not rows.mailbox.recent or rows.mailbox_id in self._claims:
            return
        self._claims[rows.mailbox_id] = asyncio.get_running_loop().call_later(CLAIM_SECONDS, self._claim, rows)

    def _claim(self, rows: Rows) -> None:
        task = asyncio.get_running_loop().create_task(self._claimed(rows))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _claimed(self, rows: Rows) -> None:
        try:
            await self._store.claim_recent(rows.mailbox_id)
            rows.mailbox = structs.replace(rows.mailbox, recent=0)
        except (NotFound, StoreError):
            pass  # they are recent once more, which is allowed
        finally:
            self._claims.pop(rows.mailbox_id, None)

    # Waiting

    def idle(self, rows: Rows, idler: Idler) -> None:
        rows.idlers[idler] = None

    def end_idle(self, rows: Rows, idler: Idler) -> None:
        rows.idlers.pop(idler, None)

    def follow(self, account_id: int, follower: Follower) -> None:
        self._followed.setdefault(account_id, Followed()).followers[follower] = None

    def unfollow(self, account_id: int, follower: Follower) -> None:
        followed = self._followed.get(account_id)
        if followed is not None:
            followed.followers.pop(follower, None)
            if not followed.followers:
                del self._followed[account_id]

    async def mailboxes(self, account_id: int) -> dict[int, Mailbox]:
        """The mailboxes of an account by id, for those who follow it; one that has not changed is the same object.

        Raises:
            NotFound: the account is gone.
            StoreError
        """
        followed = self._followed.setdefault(account_id, Followed())
        async with followed.lock:
            number = self._store.commit_number()
            if number != followed.commit_number or number == UNKNOWN:
                await self._bring_up_to_date(account_id, followed)
                followed.commit_number = number
            return followed.mailboxes

    async def _bring_up_to_date(self, account_id: int, followed: Followed) -> None:
        store = self._store
        changes = None
        if followed.modseq >= 0:
            changes = await store.changes(account_id, followed.modseq, limit=CHANGES_AT_ONCE)
        if changes is None or len(changes) >= CHANGES_AT_ONCE:
            account = await store.account_by_id(account_id)
            if account is None:
                raise NotFound("the account was deleted")
            followed.modseq = account.modseq
            followed.mailboxes = {mailbox.id: mailbox for mailbox in await store.mailboxes(account_id)}
            followed.read_at, followed.touched = followed.modseq, {}
            return
        touched = {
            int.from_bytes(change.id[:8], "big"): change.modseq for change in changes if change.kind in ("mailbox", "message")
        }
        followed.touched.update(touched)
        mailboxes = dict(followed.mailboxes)
        for id in touched:
            mailbox = await store.mailbox_by_id(id)
            if mailbox is None or mailbox.account_id != account_id:
                mailboxes.pop(id, None)
            elif mailbox != mailboxes.get(id):
                mailboxes[id] = mailbox
        followed.modseq = max((change.modseq for change in changes), default=followed.modseq)
        followed.mailboxes = mailboxes

    def touched(self, account_id: int, since: int) -> tuple[int, list[int]]:
        """Of an account that is followed, the modseq that `mailboxes` is of, and the mailboxes that were made or changed after
        `since`, what was written about them included; they may be gone."""
        followed = self._followed[account_id]
        if since < followed.read_at:
            return followed.modseq, list(followed.mailboxes)
        return followed.modseq, [id for id, modseq in followed.touched.items() if modseq > since]

    async def subscriptions(self, account_id: int) -> frozenset[str]:
        """What the account is subscribed to, for those who follow it. Raises NotFound, StoreError."""
        followed = self._followed.setdefault(account_id, Followed())
        number = self._store.commit_number()
        if number != followed.subscribed_at or number == UNKNOWN:
            followed.subscribed = frozenset(await self._store.subscriptions(account_id))
            followed.subscribed_at = number
        return followed.subscribed
