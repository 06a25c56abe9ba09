"""The queue of one worker in memory: the specification of `storage.api.QueueStore`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import structs

from rusmes.clock import Clock
from rusmes.errors import AlreadyExists, NotFound
from rusmes.metrics import Metrics
from rusmes.model.content import Rendering
from rusmes.model.ids import IdSource
from rusmes.model.plan import Queued
from rusmes.storage.api import Answer, Finding, QueueChange, QueueEntry, RecipientState
from rusmes.storage.memory_answers import Telling
from rusmes.storage.memory_blobs import MemoryBlobs


class MemoryQueueStore:
    """Implements `QueueStore`. What goes in and out are copies, as they are with a store on a disk."""

    def __init__(
        self,
        *,
        slot: int = 0,
        inline_limit: int = 0,
        map_size: int = 0,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._telling = Telling()
        self.slot = slot
        self.blobs = MemoryBlobs(ids or IdSource(), inline_limit)
        self._entries: dict[bytes, QueueEntry] = {}
        self.writable = True
        """Tests set it to see what the server does when the store fails."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def is_writable(self) -> bool:
        return self.writable and not self.blobs.is_full

    async def put(self, items: Sequence[Queued]) -> None:
        self._check_new(items)
        for item in items:
            self._put(item)

    def begin_put(self, items: Sequence[Queued], answer: Answer[None]) -> bool:
        self._telling.begin(self.put(items), answer)
        return True

    def _check_new(self, items: Sequence[Queued]) -> None:
        ids = [item.id for item in items]
        if len(set(ids)) < len(ids) or any(id in self._entries for id in ids):
            raise AlreadyExists("queue entry exists")

    def _put(self, item: Queued) -> None:
        """Every recipient starts as the entry is: due when it is due, held when it is held."""
        self.blobs.refer(item.rendering.content)
        status = "held" if item.action == "hold" else "queued"
        states = [RecipientState(recipient, status, due=item.due) for recipient in item.recipients]
        self._entries[item.id] = QueueEntry(structs.replace(item), states)

    async def change(self, changes: Sequence[QueueChange], new: Sequence[Queued] = ()) -> None:
        for change in changes:
            entry = self._entries.get(change.id)
            if entry is None:
                raise NotFound("no such queue entry", change.id.hex())
            if any(not 0 <= index < len(entry.states) for index in change.states):
                raise NotFound("no such recipient of the queue entry", change.id.hex())
        self._check_new(new)
        for change in changes:
            self._change(change)
        for item in new:
            self._put(item)

    def _change(self, change: QueueChange) -> None:
        entry = self._entries.get(change.id)
        if entry is None:  # removed by an earlier change of the same call
            return
        if change.remove:
            del self._entries[change.id]
            self.blobs.release(entry.item.rendering.content.id)
            return
        for index, state in change.states.items():
            entry.states[index] = structs.replace(state)
        if change.replace_action:
            entry.item.action = change.replace_action
        if change.route is not None:
            entry.item.route = change.route

    async def get(self, id: bytes) -> QueueEntry | None:
        entry = self._entries.get(id)
        return self._copy(entry) if entry is not None else None

    def entries(self) -> Iterator[QueueEntry]:
        for id in sorted(self._entries):
            if (entry := self._entries.get(id)) is not None:
                yield self._copy(entry)

    def page(self, after: bytes, limit: int) -> list[QueueEntry]:
        ids = sorted(id for id in self._entries if id > after)[:limit]
        return [self._copy(self._entries[id]) for id in ids]

    def _copy(self, entry: QueueEntry) -> QueueEntry:
        rendering = entry.item.rendering
        kept = Rendering(self.blobs.contents[rendering.content.id], rendering.prefix, rendering.skip)
        item = structs.replace(entry.item, rendering=kept, attributes=dict(entry.item.attributes))
        return QueueEntry(item, [structs.replace(state) for state in entry.states])

    def verify(self) -> Iterator[Finding]:
        references: dict[bytes, int] = {}
        for entry in self._entries.values():
            id = entry.item.rendering.content.id
            references[id] = references.get(id, 0) + 1
        if references != self.blobs.references:
            yield Finding("blobs", "reference counts differ from the entries")
