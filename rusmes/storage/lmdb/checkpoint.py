"""Checkpoints of an environment that commits without syncing, and what processes that write it together know of each other.

A checkpoint, by whoever holds the journal's lock:

1. Under LMDB's writer mutex, for a moment: pin the newest transaction C with a read transaction, copy its meta page, see
   where the journal's head is.
2. Without the mutex: sync the data file. All that C's tree reaches was written before 1, so it is on the disk now.
3. Write the copy to the journal and sync that. From now on recovery begins at C; records before it are obsolete.
4. Let the pin of the checkpoint before go.

Why the pins: LMDB reuses pages that no reader's snapshot reaches and the transaction before does not. The tree of C has to
stay whole until the next checkpoint is complete, so every process holds a read transaction at or before the newest complete
checkpoint whenever it writes. Each its own: the slot of a process that was killed is cleared by whoever notices first. A
pin is newer than the checkpoint it is waiting for, so one waits for its checkpoint (`_next_pin`) while the one before still
holds. A process that does not write lets go, or the file would grow for it; it begins again with a checkpoint.

A transaction that is in no record (it was too large, or there was no place) is durable with the next checkpoint: nobody
writes, and its caller waits, until that is complete. The same holds after a transaction nobody knows of.

Lock order: `Checkpointer._lock`, the journal's lock, LMDB's writer mutex. Nobody waits for the first two while holding the
mutex.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import lmdb
from msgspec.structs import replace

from rusmes.errors import RusmesError, StoreCorrupt, StoreError
from rusmes.storage.lmdb.datafile import IDENTITY_BYTES, META_BYTES, Mark, Meta, newest_meta, parse_meta, read_mark, write_mark
from rusmes.storage.lmdb.journal import RING_START, Journal, Slot, sync_data
from rusmes.storage.writeback import start_writeback, sync_directory

# What a crash has to do again at most, and how long pages that came free wait for their use.
INTERVAL_SECONDS: Final = 1.0
# The same in bytes to be written to the data file. A record is synced late while a checkpoint is written, so many small ones
# are better than one large one. Measured (ext4, virtio, 2 cores, queue puts of 1 KiB; 2, 4, 8, 16, 64 MiB): by one caller 3,067
# 2,934 2,795 2,657 2,703 a second, at most 6 14 7 16 56 ms each; by 100 callers 36,300 47,900 49,100 46,600 40,800 a second,
# 99 % within 6.2 6.2 10 15 14 ms.
PRESSURE_BYTES: Final = 4 * 1024 * 1024
# The kernel begins to write after so many, so that the sync of a checkpoint finds little to do. Measured (queue puts of 1
# KiB by one caller, medians of 9 runs): 0.5 to 0.9 ms for that sync instead of 6 to 8; 99 % of the commits within 0.8 to
# 1.4 ms instead of 2.3.
START_BYTES: Final = 512 * 1024
# Pages a transaction copies, whatever it writes: a leaf and its way up in each table, and the free list.
COMMIT_BYTES: Final = 24 * 1024
# A process that wrote nothing for so many intervals lets its pin go.
IDLE_INTERVALS: Final = 3

_SHARED_BYTES: Final = 4096
(
    _EPOCH, _TAIL, _COMPLETED, _COMPLETED_AT, _IS_FAILED, _PRESSURE, _RELIEVED, _WRITER, _COMMITS,
) = range(9)  # fmt: skip
_COMMIT_WORDS: Final = 3
"""Of each of the last two transactions: its number, the head after it, whether it is in no record."""

Transaction = Any


class Shared:
    """A page in `<file>.users` that all who have the store open map. It is never read after everybody has gone.

    Words are 8 bytes at their natural boundaries, so none is ever half written. What describes transaction N is written before
    N commits, in the place of N - 2: whatever its writer dies of, the last committed one is described. Commits write under
    LMDB's mutex, checkpoints under the journal's lock.
    """

    def __init__(self, descriptor: int) -> None:
        if os.fstat(descriptor).st_size < _SHARED_BYTES:
            os.ftruncate(descriptor, _SHARED_BYTES)
        self._map = mmap.mmap(descriptor, _SHARED_BYTES)
        self._words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self._words.release()
        self._map.close()

    def reset(self, slot: Slot) -> None:
        words = self._words
        for at in range(len(words)):
            words[at] = 0
        words[_TAIL] = slot.offset
        words[_COMPLETED] = slot.txn_id
        words[_COMPLETED_AT] = time.monotonic_ns()
        self.describe(slot.txn_id, slot.offset, in_no_record=False)
        words[_EPOCH] = slot.epoch

    @property
    def epoch(self) -> int:
        return self._words[_EPOCH]

    @property
    def writer(self) -> int:
        """The process that writes now, 0 for nobody; one that was killed stays until somebody else has written."""
        return self._words[_WRITER]

    @writer.setter
    def writer(self, pid: int) -> None:
        self._words[_WRITER] = pid

    @property
    def tail(self) -> int:
        """Where in the ring begins what is needed."""
        return self._words[_TAIL]

    @property
    def completed(self) -> int:
        """The transaction of the newest checkpoint."""
        return self._words[_COMPLETED]

    @property
    def seconds_since(self) -> float:
        """How long ago that was."""
        return (time.monotonic_ns() - self._words[_COMPLETED_AT]) / 1e9

    @property
    def is_failed(self) -> bool:
        """The data file could not be synced: nobody knows what is on the disk until all have gone, and it is recovered."""
        return bool(self._words[_IS_FAILED])

    def mark_failed(self) -> None:
        self._words[_IS_FAILED] = 1

    def complete(self, slot: Slot, pressure: int) -> None:
        words = self._words
        words[_TAIL] = slot.offset
        words[_RELIEVED] = pressure
        words[_COMPLETED_AT] = time.monotonic_ns()
        words[_COMPLETED] = slot.txn_id

    @property
    def pressure(self) -> int:
        return self._words[_PRESSURE]

    @property
    def is_under_pressure(self) -> bool:
        return self._words[_PRESSURE] - self._words[_RELIEVED] >= PRESSURE_BYTES

    def describe(self, txn_id: int, head: int, *, in_no_record: bool, size: int = 0) -> None:
        """Say of a transaction that is about to commit where the journal's head is after it."""
        words = self._words
        at = _COMMITS + txn_id % 2 * _COMMIT_WORDS
        words[at] = txn_id
        words[at + 1] = head
        words[at + 2] = in_no_record
        words[_PRESSURE] += size

    def head_after(self, txn_id: int) -> int:
        """-1 for a transaction that nobody described."""
        at = _COMMITS + txn_id % 2 * _COMMIT_WORDS
        return self._words[at + 1] if self._words[at] == txn_id else -1

    def may_follow(self, txn_id: int) -> bool:
        """Whether a record may come after this transaction: it has one itself, or a checkpoint covers it."""
        words = self._words
        at = _COMMITS + txn_id % 2 * _COMMIT_WORDS
        return words[at] == txn_id and (not words[at + 2] or words[_COMPLETED] >= txn_id)


class Checkpointer:
    """Makes checkpoints of one environment, in a thread of its own and whenever a commit has to wait for one.

    `begin` begins a write transaction and waits for the mutex; `on_failure` hears of a checkpoint that failed in the thread.
    """

    def __init__(self, path: str, journal: Journal, shared: Shared, begin: Callable[[], Transaction]) -> None:
        self._path = path
        self._journal = journal
        self._begin = begin
        self.shared = shared
        self.on_failure: Callable[[], None] = _nothing
        self.epoch = 0
        self.is_busy = False
        """A checkpoint is being made, and the disk with it."""
        self._env: Any = None
        self._data = -1
        self._lock = threading.RLock()
        self._pin: Transaction | None = None
        self._next_pin: Transaction | None = None
        self._has_written = False
        self._idle_intervals = 0
        self._seen = 0
        self._relieved = 0
        self._started = 0
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    # Beginning and ending

    def start(self, env: lmdb.Environment) -> None:
        """The caller holds the journal's lock, and a store that is clean or in use by others.

        Raises:
            StoreError, StoreCorrupt, OSError
        """
        self._env = env
        self._data = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        slot = self._journal.newest_slot()
        if slot is None or slot.is_clean:
            slot = self._begin_epoch(slot)
        elif self.shared.epoch != slot.epoch:
            raise StoreError("the store is in use", f"{self._path}: what its processes share is damaged; stop them all")
        self.epoch = slot.epoch
        self.checkpoint()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"checkpoint-{os.path.basename(self._path)}", daemon=True)
        self._thread.start()

    def _begin_epoch(self, last: Slot | None) -> Slot:
        if self._journal.allocate():
            sync_directory(os.path.dirname(self._journal.path))
        mark = read_mark(self._data)
        is_known = last is not None and last.identity == mark.identity
        meta = newest_meta(self._data, self._path)
        slot = Slot(
            sequence=last.sequence + 1 if last else 1,
            is_clean=True,
            identity=mark.identity if is_known else os.urandom(IDENTITY_BYTES),
            # Below 2^63, and never one that a journal of this name had before.
            epoch=last.epoch + 1 if last else int.from_bytes(os.urandom(7), "big") + 1,
            txn_id=meta.txn_id,
            offset=RING_START,
            meta=meta.raw,
        )
        if not is_known:  # the journal knows its file before the file says that it is in use: a crash may come in between
            self._journal.write_slot(slot)
        self._mark(Mark(slot.identity, True))
        slot = replace(slot, sequence=slot.sequence + 1, is_clean=False)
        self._journal.write_slot(slot)
        self.shared.reset(slot)
        return slot

    def _mark(self, mark: Mark) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_mark(descriptor, mark)
            sync_data(descriptor)  # and what others wrote to the file, who may not have
        finally:
            os.close(descriptor)

    def stop(self) -> None:
        """End the thread. Blocks."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._is_stopping = True
            self._wake.set()
            thread.join()

    def finish(self, *, is_last: bool) -> None:
        """A last checkpoint; with `is_last` (nobody else has it open) the store is clean then. `stop` comes first.

        Raises:
            StoreError, OSError, lmdb.Error: the next one to open it recovers it.
        """
        try:
            with self._lock, self._journal.locked():
                if self.epoch and not self.shared.is_failed:
                    self.checkpoint(is_clean=is_last)
                    if is_last:
                        self._mark(replace(read_mark(self._data), is_open=False))
        finally:
            self.let_go()
            self._env = None
            if self._data >= 0:
                os.close(self._data)
            self._data = -1

    # Commits; the caller holds the writer mutex

    def may_write(self, txn_id: int) -> bool:
        """Whether this transaction may be written now; if not, it has to end, and begin again after a checkpoint.

        Raises:
            StoreError: the store is closed for writing.
        """
        if self.shared.is_failed:
            raise StoreError(
                "storage failure", f"{self._path} could not be synced: stop all its processes, so that it can be recovered"
            )
        return self._pin is not None and self.shared.may_follow(txn_id - 1)

    @property
    def is_pinned(self) -> bool:
        return self._pin is not None

    @property
    def can_relieve(self) -> bool:
        """Whether a checkpoint would let pages be used again."""
        return self.shared.pressure != self._relieved

    def wrote(self) -> None:
        """A transaction was committed."""
        self._has_written = True
        shared = self.shared
        is_much = shared.pressure - self._started >= START_BYTES
        if is_much or shared.is_under_pressure or shared.completed != self._seen:
            self._wake.set()

    # Checkpoints

    def checkpoint(self, *, is_clean: bool = False) -> None:
        """Make what is committed durable without the journal. Blocks for a sync of the data file if there is anything new.

        Raises:
            StoreError, OSError, lmdb.Error
        """
        self.is_busy = True
        try:
            self._checkpoint(is_clean)
        finally:
            self.is_busy = False

    def _checkpoint(self, is_clean: bool) -> None:
        with self._lock, self._journal.locked():
            if self.shared.is_failed:
                raise StoreError("storage failure", f"{self._path} could not be synced")
            pin, meta, head, pressure = self._pin_newest()
            if meta.txn_id == self.shared.completed and not is_clean:
                self._hold(pin)
                return
            try:
                last = self._journal.newest_slot()
                if last is None:
                    raise StoreCorrupt("the journal is damaged", f"{self._journal.path} was emptied")
                try:
                    sync_data(self._data)
                except OSError:
                    # The kernel takes pages for clean that it could not write, and will not say so twice.
                    self.shared.mark_failed()
                    raise
                slot = replace(
                    last, sequence=last.sequence + 1, is_clean=is_clean, txn_id=meta.txn_id, offset=head, meta=meta.raw
                )
                self._journal.write_slot(slot)
            except BaseException:
                pin.abort()
                raise
            self.shared.complete(slot, pressure)
            self._relieved = pressure
            self._hold(pin)

    def _pin_newest(self) -> tuple[Transaction, Meta, int, int]:
        """The newest transaction pinned, its meta page, the journal's head after it, and the pressure so far."""
        txn = self._begin()
        try:
            id = txn.id() - 1
            page_bytes = self._env.stat()["psize"]
            meta = parse_meta(os.pread(self._data, META_BYTES, (id & 1) * page_bytes), self._path)
            pin = self._env.begin()
            if meta.txn_id != id or pin.id() != id:
                pin.abort()
                raise StoreCorrupt("the store is damaged", f"{self._path}: transaction {id} is not in its meta page")
            head = self.shared.head_after(id)
            if head < 0:
                # Nobody writes a record before the checkpoint is complete, and then the whole ring is free.
                head = RING_START
                self.shared.describe(id, head, in_no_record=True)
            return pin, meta, head, self.shared.pressure
        finally:
            txn.abort()

    def _hold(self, pin: Transaction) -> None:
        """Have a pin at a complete checkpoint instead of those before."""
        old, self._pin = (self._pin, self._next_pin), pin
        self._next_pin = None
        self._seen = self.shared.completed
        for transaction in old:
            if transaction is not None:
                transaction.abort()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The map moves meanwhile, which ends every read transaction of the process."""
        with self._lock:
            self.let_go()
            yield

    def let_go(self) -> None:
        """Hold no pin any more, so no write begins without a checkpoint. Nobody of this process may be writing."""
        with self._lock:
            pins, self._pin, self._next_pin = (self._pin, self._next_pin), None, None
            for transaction in pins:
                if transaction is not None:
                    transaction.abort()

    def _run(self) -> None:
        while True:
            self._wake.wait(INTERVAL_SECONDS)
            self._wake.clear()
            if self._is_stopping:
                return
            try:
                self._look()
            except (OSError, lmdb.Error, RusmesError):
                # A record that finds no place any more makes its caller wait for a checkpoint, and hear of this.
                self.on_failure()

    def _look(self) -> None:
        shared = self.shared
        with self._lock:
            if self._pin is None:
                return
            self._idle_intervals = 0 if self._has_written else self._idle_intervals + 1
            self._has_written = False
            if self._idle_intervals >= IDLE_INTERVALS:
                txn = self._begin()  # who writes asks for the pin while it has the mutex
                self.let_go()
                txn.abort()
                return
            is_due = shared.is_under_pressure or shared.seconds_since >= 0.9 * INTERVAL_SECONDS
            if is_due and self._env.info()["last_txnid"] > shared.completed and not shared.is_failed:
                self.checkpoint()
            else:
                self._follow()
                if shared.pressure - self._started >= START_BYTES:
                    self._started = shared.pressure
                    start_writeback(self._data)

    def _follow(self) -> None:
        """Another process made a checkpoint: pin what is newest, and let the old pin go once a checkpoint has come so far."""
        completed = self.shared.completed
        if self._next_pin is not None and completed >= self._next_pin.id():
            pin, self._next_pin = self._next_pin, None
            self._hold(pin)
        self._seen = completed
        if self._pin is not None and self._next_pin is None and self._pin.id() < completed:
            self._next_pin = self._env.begin()


def _nothing() -> None: ...
