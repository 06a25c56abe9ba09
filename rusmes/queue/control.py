"""The operator's hands on a queue, of a running worker (with its runner) or of a stopped one (the store alone).

A filter that names recipients is about these recipients alone: the others of an entry stay as they are. An entry whose way
through the pipeline is not over has no fates of its own for them; it is held, released or deleted as a whole, and deleted
only when the filter means all of them.

With a runner, an entry that waits is taken out of its index, changed and put back; one that is being delivered is asked to be
held or deleted as soon as what is under way has ended. Either way `list` shows what is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from msgspec import structs

from rusmes.clock import Clock
from rusmes.errors import NotFound
from rusmes.model.ids import id_text
from rusmes.queue.api import QueueFilter
from rusmes.queue.entry import OPEN, UNFINISHED
from rusmes.queue.runner import Runner
from rusmes.storage.api import QueueChange, QueueEntry, QueueStore, RecipientState

BATCH: Final = 200
"""Entries changed in one transaction, and looked at before others get a turn."""

ENDS: Final = frozenset({"relay", "local"})
"""Entries whose recipients have a fate each; the others (hold, resume) go on in the pipeline together."""

Edit = Callable[[QueueEntry], QueueChange | None]


class StoreControl:
    """Implements `queue.api.QueueControl` on one worker's store; `runner` is None on a stopped server."""

    def __init__(self, store: QueueStore, clock: Clock, runner: Runner | None = None) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner

    async def list(self, which: QueueFilter, *, limit: int = 0) -> Sequence[QueueEntry]:
        """In the order of acceptance; at most `limit` (0 = all)."""
        found = []
        async for entry in self._matching(which):
            found.append(entry)
            if limit and len(found) >= limit:
                break
        return found

    async def show(self, id: bytes) -> QueueEntry:
        """One entry.

        Raises:
            NotFound
        """
        entry = await self._store.get(id)
        if entry is None:
            raise NotFound("no such queue entry", id_text(id))
        return entry

    async def retry(self, which: QueueFilter) -> int:
        now = self._clock.now()

        def make_due(entry: QueueEntry) -> QueueChange | None:
            states = {
                index: structs.replace(state, due=min(state.due, now))
                for index, state in enumerate(entry.states)
                if state.status in OPEN and _is_meant(state, which, entry)
            }
            return QueueChange(entry.item.id, states) if states and entry.item.action != "hold" else None

        return await self._edit(which, make_due, "")

    async def hold(self, which: QueueFilter) -> int:
        def hold(entry: QueueEntry) -> QueueChange | None:
            states = _with_status(entry, OPEN, "held", which)
            return QueueChange(entry.item.id, states) if states else None

        return await self._edit(which, hold, "hold")

    async def release(self, which: QueueFilter) -> int:
        now = self._clock.now()

        def release(entry: QueueEntry) -> QueueChange | None:
            states = {i: structs.replace(state, due=now) for i, state in _with_status(entry, {"held"}, "queued", which).items()}
            item = entry.item
            if not states and item.action != "hold":
                return None
            action = ("resume" if item.state else "local" if item.mailbox else "relay") if item.action == "hold" else ""
            return QueueChange(item.id, states, replace_action=action)

        return await self._edit(which, release, "")

    async def delete(self, which: QueueFilter) -> int:
        def delete(entry: QueueEntry) -> QueueChange | None:
            if _means_all(entry, which):
                return QueueChange(entry.item.id, {}, remove=True)
            if entry.item.action not in ENDS:
                return None
            states = {
                index: structs.replace(state, status="failed", last_reply="deleted by the operator")
                for index, state in enumerate(entry.states)
                if state.status in UNFINISHED and _is_meant(state, which, entry)
            }
            return QueueChange(entry.item.id, states) if states else None

        return await self._edit(which, delete, "delete")

    # How

    async def _edit(self, which: QueueFilter, edit: Edit, wish: str) -> int:
        count = 0
        batch: list[QueueEntry] = []
        async for entry in self._matching(which):
            batch.append(entry)
            if len(batch) >= BATCH:
                count += await self._edit_batch(batch, edit, wish, which)
                batch = []
        return count + await self._edit_batch(batch, edit, wish, which)

    async def _edit_batch(self, batch: Sequence[QueueEntry], edit: Edit, wish: str, which: QueueFilter) -> int:
        count = 0
        free = []
        for entry in batch:
            id = entry.item.id
            if self._runner is None:
                free.append(entry)
            elif self._runner.is_active(id):
                if wish and (wish != "delete" or _means_all(entry, which)):
                    self._runner.wish(id, wish)
                    count += 1
            else:
                self._runner.take(id)
                free.append(entry)
        # What was listed may be older than what is stored; from here on nobody else changes these.
        current = [entry for entry in [await self._store.get(entry.item.id) for entry in free] if entry is not None]
        changes: dict[bytes, QueueChange] = {}
        try:
            for entry in current:
                change = edit(entry)
                if change is not None:
                    changes[entry.item.id] = change
            if changes:
                await self._store.change(list(changes.values()))
        except BaseException:
            self._put_back(current, {})
            raise
        self._put_back(current, changes)
        return count + len(changes)

    def _put_back(self, entries: Sequence[QueueEntry], changes: dict[bytes, QueueChange]) -> None:
        if self._runner is None:
            return
        for entry in entries:
            change = changes.get(entry.item.id)
            if change is not None:
                if change.remove:
                    continue
                for index, state in change.states.items():
                    entry.states[index] = state
                if change.replace_action:
                    entry.item.action = change.replace_action
            self._runner.put_back(entry)

    async def _matching(self, which: QueueFilter) -> AsyncIterator[QueueEntry]:
        now = self._clock.now()
        for count, entry in enumerate(self._store.entries(), 1):
            if matches(entry, which, now):
                yield entry
            if count % BATCH == 0:
                await asyncio.sleep(0)


def _with_status(
    entry: QueueEntry, old: set[str] | frozenset[str], new: str, which: QueueFilter
) -> dict[int, RecipientState]:
    return {
        i: structs.replace(state, status=new)
        for i, state in enumerate(entry.states)
        if state.status in old and _is_meant(state, which, entry)
    }


def _is_meant(state: RecipientState, which: QueueFilter, entry: QueueEntry) -> bool:
    return entry.item.action not in ENDS or _matches_recipient(state, which, entry.item.action)


def _means_all(entry: QueueEntry, which: QueueFilter) -> bool:
    """Whether a filter that matches an entry means all of its recipients that have not ended."""
    action = entry.item.action
    return all(_matches_recipient(state, which, action) for state in entry.states if state.status in UNFINISHED)


def matches(entry: QueueEntry, which: QueueFilter, now: float) -> bool:
    """Whether a filter means an entry: every field that is set must match, for the recipients' fields one and the same
    unfinished recipient."""
    item = entry.item
    if which.ids and id_text(item.id) not in which.ids:
        return False
    if which.account and item.origin.account != which.account:
        return False
    if which.older_than_seconds and now - item.created < which.older_than_seconds:
        return False
    if which.sender and not fnmatchcase(item.sender.folded if item.sender is not None else "<>", which.sender.lower()):
        return False
    if not (which.recipient or which.domain or which.status):
        return True
    return any(_matches_recipient(state, which, item.action) for state in entry.states if state.status in UNFINISHED)


def _matches_recipient(state: RecipientState, which: QueueFilter, action: str) -> bool:
    address = state.recipient.address
    status = "held" if action == "hold" else state.status
    return (
        (not which.recipient or fnmatchcase(address.folded, which.recipient.lower()))
        and (not which.domain or fnmatchcase(address.domain, which.domain.lower()))
        and (not which.status or status == which.status)
    )
