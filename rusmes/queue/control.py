"""The operator's hands on a queue, of a running worker (with its runner) or of a stopped one (the store alone).

The queue is read in pages, and after each of them others get a turn, so an operation on a million entries takes some seconds
and holds up nobody. What is meant is withdrawn from the runner in the same breath in which its page was read, so nothing
happens to it until it is changed and put back. An entry that is being delivered is changed when that has ended, if it still
waits then. Changes are committed in batches: an operation that is interrupted has been done to some entries and not to others,
and can be given again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from msgspec import structs

from rusmes.clock import Clock
from rusmes.errors import NotAllowed, NotFound, RusmesError
from rusmes.events.api import Events, NullEvents
from rusmes.log import get_logger
from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource, id_text, parse_id
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Deliverer, QueueFilter, QueueOrder, QueueResult
from rusmes.queue.operations import Edit, Operation, applied
from rusmes.queue.runner import Runner
from rusmes.queue.selection import ENDS, Places, Selection
from rusmes.queue.summary import Summary
from rusmes.storage.api import QueueEntry, QueueStore

PAGE: Final = 200
"""Entries read before others get a turn: two milliseconds."""
BATCH: Final = 500
"""Entries changed in one transaction, or a few more."""
NOTICE_BATCH: Final = 100
"""The same where a notice is written for each."""
NOTICES_AT_ONCE: Final = 20
"""Written before others get a turn."""
MAX_SAMPLE: Final = 1000
MAX_IDS: Final = 10_000

Batch = list[tuple[QueueEntry, Edit]]
_log = get_logger("queue")


class StoreControl:
    """Implements `queue.api.QueueControl` on one worker's store; `runner` and `deliverer` are None on a stopped server."""

    def __init__(
        self,
        store: QueueStore,
        clock: Clock,
        runner: Runner | None = None,
        *,
        deliverer: Deliverer | None = None,
        events: Events | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner
        self._deliverer = deliverer
        self._events = events or NullEvents()
        self._ids = ids or IdSource()
        self._hands = asyncio.Lock()
        """Held from reading a page to the end of its changes: two operations never have the same entry in their hands."""
        self._later: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Forget what was to be done when deliveries under way have ended."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    # Looking

    async def list(self, which: QueueFilter, *, limit: int = 0, after: str = "") -> Sequence[QueueEntry]:
        found = []
        async for page, selection in self._pages(which, _id(after) if after else b""):
            found += [entry for entry in page if selection.meant(entry)]
            if limit and len(found) >= limit:
                return found[:limit]
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

    async def places(self, entry: QueueEntry) -> Sequence[tuple[str, str]]:
        """The site and the egress source of each recipient, "" where there is none or it is not known."""
        if self._deliverer is None:
            return [("", "")] * len(entry.states)
        places = Places(self._deliverer)
        await places.resolve([entry])
        return [places.of(entry.item, state) or ("", "") for state in entry.states]

    async def summarize(self, which: QueueFilter, by: str) -> Summary:
        """Count what is meant, by age and by one of its properties.

        Raises:
            NotAllowed
        """
        places = Places(self._deliverer) if self._deliverer is not None else None
        summary = Summary(by, self._clock.now(), places)
        if summary.needs_places and places is None:
            raise NotAllowed("where mail goes is known to a running server only", "use --by domain, or start the server")
        async for page, selection in self._pages(which):
            meant = [(entry, indexes) for entry in page if (indexes := selection.meant(entry))]
            if summary.needs_places and places is not None:
                await places.resolve([entry for entry, _ in meant])
            for entry, indexes in meant:
                summary.add(entry, indexes)
        return summary

    async def _pages(self, which: QueueFilter, after: bytes = b"") -> AsyncIterator[tuple[Sequence[QueueEntry], Selection]]:
        """The queue in pages, each with what is known of it for the selection."""
        selection = self._selection(which)
        cursor = _Cursor(self._store, which, after)
        while page := await cursor.next():
            await selection.resolve(page)
            yield page, selection
            await asyncio.sleep(0)

    def _selection(self, which: QueueFilter) -> Selection:
        """Raises NotAllowed."""
        return Selection(which, self._clock.now(), Places(self._deliverer) if self._deliverer is not None else None)

    # Steering

    async def carry_out(self, order: QueueOrder) -> QueueResult:
        """Do it, or count what it would be done to.

        Raises:
            NotAllowed: the filter, the operation or the route is none.
            StoreError: it was done to some entries, the others are as they were.
        """
        operation = Operation(order, self._clock.now(), self._ids.next_id)
        if operation.tells_senders and self._runner is None and not order.dry_run:
            raise NotAllowed("a stopped server writes no notices", "start it, or use delete")
        if order.operation == "reroute":
            await self._check_route(order.route)
        selection = self._selection(order.which)
        result = QueueResult()
        if order.dry_run:
            async for page, _ in self._pages(order.which):
                for entry in page:
                    if (edit := _edit_of(entry, operation, selection)) is not None:
                        _count(result, order, entry, edit)
            return result
        # What comes meanwhile is not meant, least of all the notices that a bounce writes.
        cursor = _Cursor(self._store, order.which, until=self._ids.next_id())
        while not cursor.is_at_end:
            async with self._hands:
                batch = await self._gather(cursor, operation, selection, result)
                result.notices += await self._change(batch, operation)
        return result

    async def _check_route(self, route: str) -> None:
        """Raises NotAllowed: mail cannot go that way."""
        if not route or self._deliverer is None:
            return
        nobody = Recipient(Address("postmaster", "example.invalid"))
        nothing = Rendering(Content(b"", 0, 0, data=b""))
        item = Queued(b"", "relay", None, (nobody,), nothing, Origin(), self._clock.now(), route=route)
        destination = self._deliverer.destination(item, nobody)
        found = self._deliverer.known_target(destination) or await self._deliverer.find_target(destination)
        if isinstance(found, Refusal) and found.status.endswith(".3.5"):
            raise NotAllowed(found.text, "name a [[delivery.route]], or a host: mx.example.net, mx.example.net:2525, [::1]:25")

    async def _gather(self, cursor: _Cursor, operation: Operation, selection: Selection, result: QueueResult) -> Batch:
        """Go on until there is enough for a transaction; what is found is in our hands."""
        batch: Batch = []
        try:
            while not cursor.is_at_end and len(batch) < (NOTICE_BATCH if operation.tells_senders else BATCH):
                page = await cursor.next()
                if await selection.resolve(page):
                    page = await cursor.again()
                for entry in page:
                    edit = _edit_of(entry, operation, selection)
                    if edit is None:
                        continue
                    _count(result, operation.order, entry, edit)
                    if self._is_in_hand(entry.item.id, edit, operation):
                        batch.append((entry, edit))
                    elif not edit.is_empty:
                        result.later += 1
                await asyncio.sleep(0)
        except BaseException:
            self._put_back(batch)
            raise
        return batch

    def _is_in_hand(self, id: bytes, edit: Edit, operation: Operation) -> bool:
        """Take an entry into our hands, or wait until its delivery has ended."""
        if edit.is_empty:
            # Due already. In the line of a site that is left alone it is put to the front, which has the site tried.
            return self._runner is not None and self._runner.is_active(id) and self._runner.withdraw(id)
        return self._runner is None or self._runner.withdraw(id, self._catcher(id, operation))

    async def _change(self, batch: Batch, operation: Operation) -> int:
        """Commit what happens to entries in our hands, and let go of them; how many notices were written."""
        rows: list[Queued] = []
        try:
            for count, (entry, edit) in enumerate(batch, 1):
                if edit.reports and self._runner is not None:
                    rows += await self._runner.notice_rows(entry.item, edit.reports)
                    if count % NOTICES_AT_ONCE == 0:
                        await asyncio.sleep(0)
            moved = [edit.moved for _, edit in batch if edit.moved is not None]
            changes = [edit.change for _, edit in batch if not edit.is_empty]
            if changes:
                await self._store.change(changes, [*rows, *moved])
        except BaseException:
            for row in rows:
                self._store.blobs.discard(row.rendering.content)
            self._put_back(batch)
            raise
        order = operation.order
        for entry, edit in batch:
            whole = len(edit.indexes) == len(entry.states)
            recipients = () if whole else tuple(entry.states[index].recipient for index in edit.indexes)
            self._events.changed(
                operation.event,
                entry.item,
                recipients,
                by=order.by,
                reason=operation.reason,
                route=order.route,
                new_ids=id_text(edit.moved.id) if edit.moved is not None else "",
            )
            if self._runner is None:
                continue
            if edit.change.remove:
                self._runner.gone(entry.item.id)
            else:
                self._runner.put_back(applied(entry, edit.change))
        if self._runner is not None and (rows or moved):
            self._runner.kick([*rows, *moved])
        return len(rows)

    def _put_back(self, batch: Batch) -> None:
        """Nothing happened to them after all."""
        if self._runner is not None:
            for entry, _ in batch:
                self._runner.put_back(entry)

    # What is being delivered

    def _catcher(self, id: bytes, operation: Operation) -> Callable[[], None]:
        def catch() -> None:
            if self._runner is not None and self._runner.withdraw(id, catch):
                task = asyncio.get_running_loop().create_task(self._change_later(id, operation))
                self._later.add(task)
                task.add_done_callback(self._later.discard)

        return catch

    async def _change_later(self, id: bytes, operation: Operation) -> None:
        """Its delivery has ended; it is in our hands now."""
        assert self._runner is not None
        async with self._hands:
            try:
                entry = await self._store.get(id)
                if entry is None:
                    self._runner.gone(id)
                    return
                selection = self._selection(operation.order.which)
                await selection.resolve([entry])
                edit = _edit_of(entry, operation, selection)
                if edit is None or edit.is_empty:
                    self._runner.put_back(entry)
                else:
                    await self._change([(entry, edit)], operation)
            except RusmesError as error:
                # `_change` has put it back; otherwise it waits for the next start, where the queue is read anew.
                _log.error(
                    "an operation could not be carried out",
                    operation=operation.order.operation,
                    queue_id=id_text(id),
                    error=str(error),
                )


class _Cursor:
    """Reads the queue in pages, or the entries that are named."""

    def __init__(self, store: QueueStore, which: QueueFilter, after: bytes = b"", until: bytes = b"") -> None:
        """Those behind the id `after`, up to `until` (b"" = to the end). Raises NotAllowed."""
        if len(which.ids) > MAX_IDS:
            raise NotAllowed(f"{len(which.ids)} ids are too many at once", f"at most {MAX_IDS}")
        self._store = store
        self._ids = sorted(id for id in map(_id, which.ids) if id > after) if which.ids else None
        self._after = self._before = after
        self._until = until
        self.is_at_end = False

    async def next(self) -> Sequence[QueueEntry]:
        """The next entries; none, at the end."""
        self._before = self._after
        return await self._read()

    async def again(self) -> Sequence[QueueEntry]:
        """The same place once more, as it is now."""
        self._after = self._before
        return await self._read()

    async def _read(self) -> Sequence[QueueEntry]:
        if self._ids is None:
            page = self._store.page(self._after, PAGE)
            self.is_at_end = len(page) < PAGE
            if self._until and page and page[-1].item.id > self._until:
                page = [entry for entry in page if entry.item.id <= self._until]
                self.is_at_end = True
            if page:
                self._after = page[-1].item.id
            return page
        names = [id for id in self._ids if id > self._after][:PAGE]
        self.is_at_end = len(names) < PAGE
        if names:
            self._after = names[-1]
        return [entry for entry in [await self._store.get(id) for id in names] if entry is not None]


def _edit_of(entry: QueueEntry, operation: Operation, selection: Selection) -> Edit | None:
    indexes = selection.meant(entry)
    if not indexes:
        return None
    return operation.edit(entry, indexes, entry.item.action in ENDS or selection.means_all(entry))


def _count(result: QueueResult, order: QueueOrder, entry: QueueEntry, edit: Edit) -> None:
    result.entries += 1
    result.recipients += len(edit.indexes)
    result.size_bytes += entry.item.rendering.size
    if len(result.sample) < min(order.sample, MAX_SAMPLE):
        result.sample.append(structs.replace(entry, states=[structs.replace(state) for state in entry.states]))


def _id(text: str) -> bytes:
    """Raises NotAllowed."""
    try:
        return parse_id(text)
    except ValueError as error:
        raise NotAllowed(f'"{text}" is no queue id', str(error)) from None
