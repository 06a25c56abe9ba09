"""NOTIFY (RFC 5465): a client that is told of more than its selected mailbox, without waiting in IDLE.

What was asked for is kept as it was said; for each mailbox all event groups that fit count together, down to one that says
NONE (§6). The hub calls `Notification.account_changed` after each change of the account; a task then compares all mailboxes
with what they were, and tells the differences as soon as no response is under way. What is not told is not stored: whoever is
too slow gets NOTIFICATIONOVERFLOW (§5.8) and is told nothing more.

For the selected mailbox only SELECTED and SELECTED-DELAYED count, and what they leave out is not told at all, neither at the
end of commands nor in IDLE (§4, §5): without FlagChange no changed flags, and without both of them, or with NONE, nothing
(§3.1: a snapshot) but the answers to what the client does itself. What was held back is told by the next NOTIFY SET, whatever
it asks for (§3.1: it implies a NOOP), and after NOTIFY NONE and an overflow as if there were no NOTIFY: who is told of nothing
must be able to poll with NOOP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from rusmes import metrics as m
from rusmes.errors import NotFound, RusmesError
from rusmes.imap.command import Command, Fetch, Notify, NotifyEvents
from rusmes.imap.commands.context import ITEMS_AT_ONCE, Bad, Context, Handler, No, Ok, Outcome, in_turns
from rusmes.imap.names import encode_name
from rusmes.imap.response import astring, list_line, status_line, untagged_ok
from rusmes.model.mailbox import Mailbox
from rusmes.model.query import SequenceSet
from rusmes.storage.names import parents

MESSAGE_EVENTS: Final = frozenset({"MessageNew", "MessageExpunge", "FlagChange"})
SUPPORTED: Final = (
    "MessageNew",
    "MessageExpunge",
    "FlagChange",
    "MailboxName",
    "SubscriptionChange",
    "MailboxMetadataChange",
    "ServerMetadataChange",
)
"""AnnotationChange belongs to RFC 5257, which we do not have."""
SELECTED_FILTERS: Final = ("selected", "selected-delayed")

MAX_GROUPS: Final = 100
OVERFLOW_LINES: Final = 10_000
"""Differences told at once; with more of them the client is better off asking."""


async def notify(context: Context, command: Notify) -> Outcome:
    if len(command.groups) > MAX_GROUPS:
        return No("too many event groups", b"LIMIT")
    for group in command.groups:
        if isinstance(problem := _problem(group), (No, Bad)):
            return problem
    end(context)
    if not command.groups:
        return Ok("no notifications")
    notification = Notification(context, command.groups)
    context.notify = notification
    if notification.selected is not None:
        context.conversation.begin_idling()
    await notification.begin(tell_status=command.status)
    return Ok("you will be told")


def _problem(group: NotifyEvents) -> Outcome | None:
    events = set(group.events)
    if unknown := events - set(SUPPORTED):
        return No(f"not offered: {', '.join(sorted(unknown))}", b"BADEVENT (%b)" % " ".join(SUPPORTED).encode())
    # RFC 5465 §5.1 to §5.3: these come together.
    if ("MessageNew" in events) != ("MessageExpunge" in events):
        return Bad("MessageNew and MessageExpunge go together")
    if "FlagChange" in events and "MessageNew" not in events:
        return Bad("FlagChange needs MessageNew and MessageExpunge")
    if group.filter in SELECTED_FILTERS and events - MESSAGE_EVENTS:
        return Bad("only events of messages can be asked for the selected mailbox")  # §6.1
    if group.fetch and group.filter not in SELECTED_FILTERS:
        return Bad("FETCH items can be asked for the selected mailbox only")  # §5.1
    return None


def end(context: Context) -> None:
    """Nothing is told any more; safe without anything."""
    notification: Notification | None = context.notify
    context.notify = None
    if notification is not None:
        notification.stop()
        context.conversation.stop_idling()


class Notification:
    """What one session asked for. `selected` is the group of the selected mailbox, None when nothing of it is told."""

    __slots__ = (
        "_annotated", "_context", "_entries", "_groups", "_known", "_server_entries", "_stale", "_subscribed", "_task",
        "is_over", "pending", "selected",
    )  # fmt: skip

    def __init__(self, context: Context, groups: tuple[NotifyEvents, ...]) -> None:
        self._context = context
        self.selected = next((group for group in groups if group.filter in SELECTED_FILTERS and group.events), None)
        self._groups = tuple(group for group in groups if group.filter not in SELECTED_FILTERS)
        self._known: dict[int, Mailbox] = {}
        self._subscribed: frozenset[str] = frozenset()
        self._entries: dict[int, dict[str, bytes]] = {}
        """Annotations by mailbox, where there are any, as of modseq `_annotated`."""
        self._annotated = 0
        self._server_entries: dict[str, bytes] = {}
        self._task: asyncio.Task[None] | None = None
        self._stale = False
        self.is_over = False
        """With `pending`, all is told that is going to be told."""
        self.pending: list[bytes] = []
        """Lines that wait for the end of a response."""

    @property
    def may_expunge(self) -> bool:
        """SELECTED-DELAYED: EXPUNGE waits for a command (§6.1)."""
        return self.selected is None or self.selected.filter == "selected"

    async def begin(self, *, tell_status: bool) -> None:
        """Remember how things are, and tell them with STATUS (§3.1). Raises StoreError."""
        context = self._context
        if not self._groups:
            return
        self._known = mailboxes = await context.hub.mailboxes(context.account_id)
        self._annotated, _ = context.hub.touched(context.account_id, 0)
        self._subscribed = await self._subscriptions()
        if self._wants("MailboxMetadataChange"):
            async for mailbox in in_turns(context, mailboxes.values()):
                if self._has(mailbox.name, "MailboxMetadataChange"):
                    await self._read_annotations(mailbox.id)
        if self._wants("ServerMetadataChange"):
            self._server_entries = await self._metadata(0)
        context.hub.follow(context.account_id, self)
        if self._annotated:
            self.account_changed(context.account_id)  # what happened while others had their turn
        if not tell_status:
            return
        async for mailbox in in_turns(context, mailboxes.values()):
            events = self._events_of(mailbox.name)
            if MESSAGE_EVENTS & events and not self._is_selected(mailbox.id):
                context.output.write(self._status(mailbox, "FlagChange" in events, is_first=True))

    async def _subscriptions(self) -> frozenset[str]:
        """Names, where they make a difference."""
        uses_them = any(group.filter == "subscribed" for group in self._groups)
        if uses_them or self._wants("SubscriptionChange") or self._wants("MailboxName"):
            return await self._context.hub.subscriptions(self._context.account_id)
        return frozenset()

    async def tell_selected(self, may_expunge: bool, *, is_answer: bool) -> None:
        """News of the selected mailbox, whose rows are up to date; new messages with what was asked for (§5.2).

        With `is_answer` also flags that nobody wants to hear of: the client has changed some itself.
        """
        context, group = self._context, self.selected
        assert group is not None
        known = context.view.largest_uid()
        with_flags = is_answer or "FlagChange" in group.events
        context.output.write(context.view.sync(may_expunge, with_flags=with_flags))
        while context.view.is_unfinished:
            await context.output.room()
            context.output.write(context.view.sync(may_expunge, with_flags=with_flags))
        newest = context.view.largest_uid()
        if group.fetch and newest > known:
            fetch = Fetch(b"*", SequenceSet(((known + 1, newest),)), group.fetch, is_uid=True)
            await context.conversation.carry_out(fetch)

    def stop(self) -> None:
        self._context.hub.unfollow(self._context.account_id, self)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # From the hub

    def account_changed(self, account_id: int) -> None:
        self._stale = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        context, loop = self._context, asyncio.get_running_loop()
        try:
            while self._stale:
                self._stale = False
                began = loop.time()
                lines = await self._differences()
                if len(self.pending) + len(lines) > OVERFLOW_LINES:
                    self._overflow()
                    return
                self.pending += lines
                context.conversation.tell_pending()
                # Whoever follows much is told less often, so that it costs the others of the worker a tenth at most.
                await asyncio.sleep(9 * (loop.time() - began))
        except RusmesError as error:
            context.log.warn("notifications end", reason=str(error))
            self._overflow()
        finally:
            self._task = None

    def _overflow(self) -> None:
        self.pending[:] = [untagged_ok("too much happens", b"NOTIFICATIONOVERFLOW")]
        self.is_over = True
        self._context.hub.unfollow(self._context.account_id, self)
        self._context.conversation.tell_pending()

    # What is different

    async def _differences(self) -> list[bytes]:
        context = self._context
        now = await context.hub.mailboxes(context.account_id)
        self._annotated, touched = context.hub.touched(context.account_id, self._annotated)
        before, self._known = self._known, now
        subscribed = await self._subscriptions()
        changed, self._subscribed = subscribed ^ self._subscribed, subscribed
        different = [mailbox for id, mailbox in now.items() if before.get(id) is not mailbox]
        lines, told = self._names(before, now, different)
        if self._wants("SubscriptionChange"):
            lines += [
                list_line(self._encoded(name), (b"\\Subscribed",) if name in subscribed else ())
                for name in sorted(changed - told)
                if self._has(name, "SubscriptionChange")
            ]
        for mailbox in different:
            old = before.get(mailbox.id)
            if old is None or old.highest_modseq == mailbox.highest_modseq or self._is_selected(mailbox.id):
                continue
            events = self._events_of(mailbox.name)
            came_or_went = old.uid_next != mailbox.uid_next or old.exists != mailbox.exists
            if (came_or_went and "MessageNew" in events) or "FlagChange" in events:
                lines.append(self._status(mailbox, "FlagChange" in events))
        lines += await self._annotations(now, touched)
        return lines

    def _names(
        self, before: dict[int, Mailbox], now: dict[int, Mailbox], different: list[Mailbox]
    ) -> tuple[list[bytes], set[str]]:
        """§5.4: created, deleted and renamed mailboxes; the lines, and the names they told of. With a mailbox that is made or
        goes, the one above it is told too, and with one that is renamed those below it are not."""
        lines: list[bytes] = []
        told: set[str] = set()
        names = {mailbox.name for mailbox in now.values()}

        def tell(name: str, extended: bytes = b"") -> None:
            told.add(name)
            attributes: tuple[bytes, ...] = () if name in names else (b"\\NonExistent",)
            if name in self._subscribed:
                attributes += (b"\\Subscribed",)
            lines.append(list_line(self._encoded(name), attributes, extended=extended))

        renamed = {}
        for mailbox in different:
            old = before.get(mailbox.id)
            if old is not None and old.name != mailbox.name:
                renamed[old.name] = mailbox.name
        for old_name, new_name in renamed.items():
            if any(above in renamed and renamed[above] + old_name[len(above) :] == new_name for above in parents(old_name)):
                told |= {old_name, new_name}
            elif self._has(new_name, "MailboxName") or self._has(old_name, "MailboxName"):
                tell(new_name, b'"OLDNAME" (%b)' % astring(self._encoded(old_name), utf8=True))
                told.add(old_name)
        came_or_went = [mailbox.name for mailbox in different if mailbox.id not in before]
        came_or_went += [before[id].name for id in before.keys() - now.keys()]
        for name in came_or_went:
            for affected in (name, name.rpartition("/")[0]):
                if affected and affected not in told and self._has(affected, "MailboxName"):
                    tell(affected)
        return lines, told

    async def _annotations(self, now: dict[int, Mailbox], touched: list[int]) -> list[bytes]:
        """§5.6, §5.7: the names of the entries that changed, without values."""
        lines = []
        if self._wants("MailboxMetadataChange"):
            for number, id in enumerate(touched, 1):
                mailbox = now.get(id)
                if mailbox is None or not self._has(mailbox.name, "MailboxMetadataChange"):
                    self._entries.pop(id, None)
                    continue
                if not number % ITEMS_AT_ONCE:
                    await asyncio.sleep(0)
                before = self._entries.get(id, {})
                if changed := _changed(before, await self._read_annotations(id)):
                    lines.append(self._metadata_line(self._encoded(mailbox.name), changed))
        if self._wants("ServerMetadataChange"):
            entries = await self._metadata(0)
            changed = _changed(self._server_entries, entries)
            self._server_entries = entries
            if changed:
                lines.append(self._metadata_line(b"", changed))
        return lines

    async def _read_annotations(self, mailbox_id: int) -> dict[str, bytes]:
        try:
            entries = await self._metadata(mailbox_id)
        except NotFound:  # it went just now
            entries = {}
        if entries:
            self._entries[mailbox_id] = entries
        else:
            self._entries.pop(mailbox_id, None)
        return entries

    async def _metadata(self, mailbox_id: int) -> dict[str, bytes]:
        store, account_id = self._context.store, self._context.account_id
        shared = {f"/shared{name}" if not name.startswith("/shared") else name: value
                  for name, value in (await store.metadata(mailbox_id, 0)).items()}  # fmt: skip
        private = {f"/private{name}" if not name.startswith("/private") else name: value
                   for name, value in (await store.metadata(mailbox_id, account_id)).items()}  # fmt: skip
        return {**shared, **private}

    @staticmethod
    def _metadata_line(name: bytes, changed: list[str]) -> bytes:
        """RFC 5464 §4.4.2."""
        return b"* METADATA %b %b\r\n" % (
            astring(name, utf8=True) if name else b'""',
            b" ".join(astring(entry.encode(), utf8=True) for entry in changed),
        )

    def _status(self, mailbox: Mailbox, with_flags: bool, *, is_first: bool = False) -> bytes:
        """§5.1 to §5.3; the first one by §3.1."""
        self._context.metrics.inc(m.IMAP_NEWS)
        items: list[tuple[bytes, int | bytes]] = [(b"MESSAGES", mailbox.exists), (b"UIDNEXT", mailbox.uid_next)]
        if with_flags:
            items.append((b"UNSEEN", mailbox.unseen))
        if with_flags or is_first:
            items.append((b"UIDVALIDITY", mailbox.uid_validity))
        if with_flags or "CONDSTORE" in self._context.session.enabled:
            items.append((b"HIGHESTMODSEQ", mailbox.highest_modseq))
        return status_line(self._encoded(mailbox.name), items)

    # Filters

    def _events_of(self, name: str) -> frozenset[str]:
        """What is told of a mailbox: all groups that take it in count (§6), but none behind one that says NONE."""
        events: frozenset[str] = frozenset()
        for group in self._groups:
            if self._fits(group, name):
                if not group.events:
                    break
                events = events.union(group.events)
        return events

    def _fits(self, group: NotifyEvents, name: str) -> bool:
        match group.filter:
            case "inboxes":
                return name == "INBOX"  # nothing else is delivered to by default
            case "personal":
                return True
            case "subscribed":
                return name in self._subscribed
            case "subtree":
                return any(name == root or name.startswith(f"{root}/") for root in group.mailboxes)
            case _:
                return name in group.mailboxes

    def _has(self, name: str, event: str) -> bool:
        return event in self._events_of(name)

    def _wants(self, event: str) -> bool:
        return any(event in group.events for group in self._groups)

    def _is_selected(self, mailbox_id: int) -> bool:
        selected = self._context.selected
        return selected is not None and selected.mailbox_id == mailbox_id

    def _encoded(self, name: str) -> bytes:
        return encode_name(name, is_utf8=self._context.session.is_utf8)


def _changed(before: dict[str, bytes], now: dict[str, bytes]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


HANDLERS: Final[Mapping[type[Command], Handler]] = {Notify: notify}
