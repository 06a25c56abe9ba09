"""What each operation does to one entry, as data. Nothing here waits, writes or delivers; `control` carries it out.

    retry     due now, whatever the schedule says
    hold      wait until released; also what goes on in the pipeline
    release   let held recipients go on, now
    delete    their end, and nobody is told
    bounce    their end, and the sender is told that the operator returned it
    expire    their end, and the sender is told that it could not be delivered in time
    reroute   another way from now on, and due now

An entry whose way through the pipeline is not over is changed as a whole: held, released, retried when one of its recipients is
meant, ended only when all of them are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct, field, structs

from rusmes.errors import NotAllowed
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import QueueOrder, Report
from rusmes.queue.entry import OPEN, UNFINISHED
from rusmes.storage.api import QueueChange, QueueEntry, RecipientState

MAX_REASON_CHARS: Final = 500
EVENTS: Final = {
    "retry": "retried",
    "hold": "held",
    "release": "released",
    "delete": "deleted",
    "bounce": "bounced",
    "expire": "bounced",
    "reroute": "rerouted",
}
"""Operations, and what the event log calls them."""


class Edit(Struct):
    """What happens to one entry."""

    indexes: list[int]
    """The recipients it happens to."""
    change: QueueChange
    reports: list[Report] = field(default_factory=list)
    """What the sender is told."""
    moved: Queued | None = None
    """An entry of their own for recipients that part from the others."""

    @property
    def is_empty(self) -> bool:
        """Everything is already as it is wanted."""
        return not (self.change.states or self.change.remove or self.change.replace_action) and self.change.route is None


class Operation:
    """An order, made ready: `edit(entry, indexes, is_whole)` says what it does to the meant recipients of an entry; `is_whole`
    says that each has a fate of its own, or that they are all there are. None: nothing can be done to it."""

    def __init__(self, order: QueueOrder, now: float, new_id: Callable[[], bytes]) -> None:
        """Raises NotAllowed: there is no such operation."""
        if order.operation not in EVENTS:
            raise NotAllowed(f'there is no operation "{order.operation}" on the queue', f"there is {', '.join(EVENTS)}")
        self.order = order
        self.event = EVENTS[order.operation]
        self.reason = "".join(char if char.isprintable() else " " for char in order.reason)[:MAX_REASON_CHARS].strip()
        self._now = now
        self._new_id = new_id
        self.edit: Callable[[QueueEntry, list[int], bool], Edit | None] = getattr(self, f"_{order.operation}")

    @property
    def tells_senders(self) -> bool:
        return self.order.operation in ("bounce", "expire")

    def _retry(self, entry: QueueEntry, indexes: list[int], _is_whole: bool) -> Edit | None:
        if entry.item.action == "hold":
            return None
        states = entry.states
        open_ones = [index for index in indexes if states[index].status in OPEN]
        if not open_ones:
            return None
        late = {index: structs.replace(states[index], due=self._now) for index in open_ones if states[index].due > self._now}
        return Edit(open_ones, QueueChange(entry.item.id, late, is_known=True))

    def _hold(self, entry: QueueEntry, indexes: list[int], _is_whole: bool) -> Edit | None:
        before = entry.states
        states = {index: structs.replace(before[index], status="held") for index in indexes if before[index].status in OPEN}
        return Edit(list(states), QueueChange(entry.item.id, states, is_known=True)) if states else None

    def _release(self, entry: QueueEntry, indexes: list[int], _is_whole: bool) -> Edit | None:
        item = entry.item
        states = {
            index: structs.replace(entry.states[index], status="queued", due=self._now)
            for index in indexes
            if entry.states[index].status == "held"
        }
        if item.action == "hold":
            action = "resume" if item.state else "local" if item.mailbox else "relay"
            return Edit(indexes, QueueChange(item.id, states, replace_action=action))
        return Edit(list(states), QueueChange(item.id, states, is_known=True)) if states else None

    def _delete(self, entry: QueueEntry, indexes: list[int], is_whole: bool) -> Edit | None:
        return self._end(entry, indexes, is_whole, "failed", "deleted by the operator")

    def _bounce(self, entry: QueueEntry, indexes: list[int], is_whole: bool) -> Edit | None:
        text = "returned by the operator" + (f": {self.reason}" if self.reason else "")
        edit = self._end(entry, indexes, is_whole, "failed", text)
        if edit is not None:
            edit.reports = [
                Report(_recipient(entry, index), "failed", 0, "5.7.1", text, last_reply=entry.states[index].last_reply)
                for index in indexes
            ]
        return edit

    def _expire(self, entry: QueueEntry, indexes: list[int], is_whole: bool) -> Edit | None:
        edit = self._end(entry, indexes, is_whole, "expired", "expired by the operator")
        if edit is not None:
            edit.reports = [self._late(entry, index) for index in indexes]
        return edit

    def _late(self, entry: QueueEntry, index: int) -> Report:
        """RFC 3463 X.4.7: delivery time expired."""
        state = entry.states[index]
        answer = f"; at last: {state.last_host} said: {state.last_reply}" if state.last_reply else ""
        text = f"not delivered in time{answer}"[:1000]
        return Report(_recipient(entry, index), "failed", 0, "4.4.7", text, state.last_host, state.last_reply)

    def _end(self, entry: QueueEntry, indexes: list[int], is_whole: bool, status: str, text: str) -> Edit | None:
        item = entry.item
        if not is_whole:
            return None
        others = any(state.status in UNFINISHED for index, state in enumerate(entry.states) if index not in indexes)
        if not others:
            return Edit(indexes, QueueChange(item.id, {}, remove=True))
        states = {index: structs.replace(entry.states[index], status=status, last_reply=text) for index in indexes}
        return Edit(indexes, QueueChange(item.id, states, is_known=True))

    def _reroute(self, entry: QueueEntry, indexes: list[int], _is_whole: bool) -> Edit | None:
        item, route = entry.item, self.order.route
        if item.action != "relay" or item.route == route:
            return None
        others = any(state.status in UNFINISHED for index, state in enumerate(entry.states) if index not in indexes)
        if not others:
            states = {index: self._due_now(entry.states[index]) for index in indexes if entry.states[index].status in OPEN}
            return Edit(indexes, QueueChange(item.id, states, route=route))
        # A route is the entry's, so those who part from the others get one of their own; its content is stored once.
        open_ones = [index for index in indexes if entry.states[index].status in OPEN]
        if not open_ones:
            return None
        moved = structs.replace(
            item, id=self._new_id(), recipients=tuple(_recipient(entry, index) for index in open_ones), route=route, due=0.0
        )
        gone = {
            index: structs.replace(entry.states[index], status="failed", last_reply="goes another way, in an entry of its own")
            for index in open_ones
        }
        return Edit(open_ones, QueueChange(item.id, gone, is_known=True), moved=moved)

    def _due_now(self, state: RecipientState) -> RecipientState:
        return structs.replace(state, due=min(state.due, self._now))


def _recipient(entry: QueueEntry, index: int) -> Recipient:
    return entry.states[index].recipient


def applied(entry: QueueEntry, change: QueueChange) -> QueueEntry:
    """An entry as it is after a change that does not remove it."""
    for index, state in change.states.items():
        entry.states[index] = state
    if change.replace_action:
        entry.item.action = change.replace_action
    if change.route is not None:
        entry.item.route = change.route
    return entry
