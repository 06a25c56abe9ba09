"""`QueueStore` on LMDB: `queue-<slot>.mdb`, written by one process, read by anybody.

Nothing is held in memory for an entry: `entries` streams, `get` reads. A recipient has a row of its own only once its state
differs from the one it was put with, so a mail that is delivered at the first attempt costs one row and its body.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence

from rusmes._core.batch import Batch
from rusmes.clock import Clock, SystemClock
from rusmes.errors import AlreadyExists, NotFound
from rusmes.metrics import STORE_BYTES, STORE_WRITABLE, Metrics
from rusmes.model.content import Content
from rusmes.model.ids import IdSource
from rusmes.model.plan import Queued
from rusmes.storage.api import Answer, CompactResult, Finding, QueueChange, QueueEntry, RecipientState
from rusmes.storage.commit import LIGHT_ITEMS, Committer
from rusmes.storage.lmdb.blobs import LARGE_BYTES, LmdbBlobs, Tables, prepare_large
from rusmes.storage.lmdb.compact import compact_environment
from rusmes.storage.lmdb.edits import Snapshot, check_layout
from rusmes.storage.lmdb.environment import Environment
from rusmes.storage.lmdb.layout import (
    Q_BLOB_REFS,
    Q_BLOBS,
    Q_ENTRIES,
    Q_STATES,
    QUEUE_TABLES,
)
from rusmes.storage.lmdb.mail_store import INLINE_LIMIT_BYTES, MAP_BYTES, ROW_BYTES
from rusmes.storage.lmdb.queue_layout import (
    INDEX_BYTES,
    EntryRecord,
    pack_entry,
    pack_state,
    queued_of,
    repack_entry,
    state_key,
    state_of,
    unpack_entry,
    unpack_state,
)
from rusmes.storage.lmdb.verify import verify_queue
from rusmes.storage.space import Space

# Entries read from one snapshot while streaming: the snapshot ends before the caller gets the first of them.
ENTRIES_AT_ONCE = 200


class LmdbQueueStore:
    """Implements `QueueStore` in `<path>/queue-<slot>.mdb` and `<path>/blobs/queue-<slot>/`.

    A second writer is refused at `open`. With `read_only` it reads beside the writer.
    """

    def __init__(
        self,
        path: str,
        slot: int,
        *,
        inline_limit: int = INLINE_LIMIT_BYTES,
        map_size: int = MAP_BYTES,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        ids: IdSource | None = None,
        read_only: bool = False,
    ) -> None:
        self.slot = slot
        path = os.path.abspath(path)
        clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._space = Space(path, clock)
        name = f"queue-{slot}"
        self._environment = Environment(
            os.path.join(path, f"{name}.mdb"), QUEUE_TABLES, map_size=map_size, is_exclusive=True, read_only=read_only
        )
        self._space.inside = self._environment.free_bytes
        self.blobs = LmdbBlobs(
            self._environment,
            os.path.join(path, "blobs", name),
            Tables(Q_BLOBS, Q_BLOB_REFS),
            ids=ids or IdSource(),
            inline_limit=inline_limit,
            space=self._space,
            has_one_writer=True,
        )
        self._committer = Committer(
            self._environment, name="queue", prefixes={Q_STATES: 16}, leads=True, clock=clock, space=self._space,
            metrics=self._metrics,
        )  # fmt: skip

    async def open(self) -> None:
        """Raises StoreError (also when another process writes it), StoreCorrupt; NotFound when there is nothing to read."""
        self._environment.open()
        if self._environment.read_only:
            self._environment.share()
            return
        os.makedirs(self.blobs.directory, mode=0o700, exist_ok=True)
        self.blobs.forget()
        self.blobs.remove_orphans()
        self._environment.share()
        self._committer.start()
        await self._committer.submit(check_layout)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._committer.stop)
        self._environment.close()

    def is_writable(self) -> bool:
        return self._environment.is_open and self._committer.failure is None and not self._space.is_full

    def measure(self) -> None:
        """Bring the gauges up to date; for once a second."""
        if not self.is_writable():
            self._metrics.set(STORE_WRITABLE, 0.0)
        if self._environment.is_open:
            self._metrics.set(STORE_BYTES["queue"], float(self._environment.used_bytes()))

    async def put(self, items: Sequence[Queued]) -> None:
        contents = [item.rendering.content for item in items]
        preparations = self.blobs.preparations(contents) if any(content.path for content in contents) else []
        if preparations and any(content.path and content.size > LARGE_BYTES for content in contents):
            await prepare_large(preparations)
        operation, growth = self._insertion(items)
        await self._committer.submit(operation, prepared=preparations, growth=growth, light=len(items) <= LIGHT_ITEMS)

    def begin_put(self, items: Sequence[Queued], answer: Answer[None]) -> bool:
        for item in items:
            if item.rendering.content.path:
                return False
        operation, growth = self._insertion(items)
        self._committer.enqueue(operation, answer, growth=growth, light=len(items) <= LIGHT_ITEMS)
        return True

    def _insertion(self, items: Sequence[Queued]) -> tuple[Callable[[Batch], None], int]:
        """What the commit thread does, and by how much the store grows."""
        growth = ROW_BYTES
        rows = []
        for item in items:
            content = item.rendering.content
            # Encoded here and not in the commit thread, where the others would wait for it.
            rows.append((item.id, pack_entry(item), content))
            if not content.path:
                growth += content.size
        return lambda batch: self._put(batch, rows), growth

    def _put(self, batch: Batch, rows: Sequence[tuple[bytes, bytes, Content]]) -> None:
        for id, row, content in rows:
            self.blobs.refer(batch, content)
            if not batch.insert(Q_ENTRIES, id, row):
                raise AlreadyExists("queue entry exists", id.hex())

    async def change(self, changes: Sequence[QueueChange], new: Sequence[Queued] = ()) -> None:
        contents = [item.rendering.content for item in new]
        preparations = self.blobs.preparations(contents)
        rows = [(item.id, pack_entry(item), item.rendering.content) for item in new]
        states = [
            [(state_key(change.id, index), index, state) for index, state in change.states.items()] for change in changes
        ]
        packed = [[(key, index, pack_state(key, state)) for key, index, state in group] for group in states]

        def operation(batch: Batch) -> None:
            entries = [self._existing(batch, change) for change in changes]
            if any(id == change.id for id, _, _ in rows for change in changes):
                raise AlreadyExists("queue entry exists", "it is changed in the same call")
            for change, record, group in zip(changes, entries, packed, strict=True):
                self._change(batch, change, record, group)
            self._put(batch, rows)

        await self._committer.submit(operation, prepared=preparations)

    def _existing(self, batch: Batch, change: QueueChange) -> EntryRecord | None:
        """None = an entry that is removed unread, or of which only states change."""
        if change.remove and change.content_id and self.blobs.is_referred_once(batch, change.content_id):
            return None
        if change.is_known and not (change.remove or change.replace_action or change.route is not None):
            return None
        row = batch.get(Q_ENTRIES, change.id)
        if row is None:
            raise NotFound("no such queue entry", change.id.hex())
        record = unpack_entry(change.id, row)
        if any(not 0 <= index < len(record.recipients) for index in change.states):
            raise NotFound("no such recipient of the queue entry", change.id.hex())
        return record

    def _change(
        self, batch: Batch, change: QueueChange, record: EntryRecord | None, states: Sequence[tuple[bytes, int, bytes]]
    ) -> None:
        if record is None and not change.remove:
            for key, _, row in states:
                batch.put(Q_STATES, key, row)
            return
        if record is None:
            # Should it have gone already: its body has no other reference, so nothing is lost by removing both again.
            batch.delete(Q_ENTRIES, change.id)
            self.blobs.release(batch, change.content_id, False)
            return
        if not batch.has(Q_ENTRIES, change.id):  # removed by an earlier change of the same call
            return
        if change.remove:
            batch.delete(Q_ENTRIES, change.id)
            for key, _ in batch.scan(Q_STATES, change.id):
                batch.delete(Q_STATES, key)
            self.blobs.release(batch, record.blob_id, record.is_file)
            return
        for key, _, row in states:
            batch.put(Q_STATES, key, row)
        if change.replace_action or change.route is not None:
            record.action = change.replace_action or record.action
            record.route = record.route if change.route is None else change.route
            batch.put(Q_ENTRIES, change.id, repack_entry(change.id, record))

    async def get(self, id: bytes) -> QueueEntry | None:
        if not id:
            return None
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            row = rows.get(Q_ENTRIES, id)
            return self._entry(id, row, rows.scan(Q_STATES, id)) if row is not None else None

    def _entry(self, id: bytes, row: bytes, state_rows: Sequence[tuple[bytes, bytes]]) -> QueueEntry:
        record = unpack_entry(id, row)
        item = queued_of(id, record, self.blobs)
        states = [RecipientState(recipient, record.first_status, due=record.due) for recipient in item.recipients]
        for key, state in state_rows:
            index = int.from_bytes(key[len(id) :], "big")
            if index < len(states):
                states[index] = state_of(item.recipients[index], unpack_state(key, state))
        return QueueEntry(item, states)

    def entries(self) -> Iterator[QueueEntry]:
        """In id order, some hundred from one snapshot; what is put or removed meanwhile may or may not be seen."""
        last = b""
        while found := self.page(last, ENTRIES_AT_ONCE):
            yield from found
            if len(found) < ENTRIES_AT_ONCE:
                return
            last = found[-1].item.id

    def page(self, after: bytes, limit: int) -> list[QueueEntry]:
        with self._environment.reading() as txn:
            rows = Snapshot(self._environment, txn)
            found = rows.scan(Q_ENTRIES, b"", start=after + b"\0", limit=limit)
            if not found:
                return []
            # One way through the states for all of them: a cursor for each entry costs more than reading it.
            states: dict[bytes, list[tuple[bytes, bytes]]] = {}
            for key, state in rows.scan(Q_STATES, b"", start=found[0][0], stop=found[-1][0] + b"\xff" * (INDEX_BYTES + 1)):
                states.setdefault(key[:-INDEX_BYTES], []).append((key, state))
            return [self._entry(id, row, states.get(id, ())) for id, row in found]

    def verify(self) -> Iterator[Finding]:
        """Reads from one snapshot, so it may run in another process or thread beside the server."""
        return verify_queue(self._environment, self.blobs)

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

