"""Group commit: a thread in which every waiting caller's operation shares one transaction and one sync. (Over 500 lines,
because all of it shares the turn and the callers that wait.)

The loop's thread hands operations over and awaits their futures. The commit thread takes everything that is waiting, runs the
operations one after another on a `Batch` (a view of the transaction that holds their writes back), makes a record of what
they wrote, commits, and answers all of them with one call into the loop. While it syncs, the next batch gathers.

Rules for operations:
1. An operation reads and writes through the batch only, and may run twice (the map grew, another operation had to be taken
   out): it must have no effect outside of it. What happens outside happens in `after_commit`.
2. An operation that raises is undone alone; the others of its batch commit.
3. It never blocks: files are synced before the transaction begins (`Prepared`).

A lone caller whose operation is light is served in its loop's thread, as long as commits are quick (`_commit_here`).

Where one process writes, a batch is durable by its record alone and goes to LMDB later, together with others (`lmdb.lead`).

A commit that fails answers every waiting caller with StoreError and closes the store for writing; after a second (at once
for what makes space, when space was the reason) the next operation is let through, and its success opens it again. The
journal is synced before LMDB commits, so what a failed sync left behind is never referred to.

Measured (2 cores, 200 puts a batch, a commit of 1 ms): the binding gives the GIL away around each put. With an idle loop the
puts of a batch take 0.06 ms. With a loop that is never idle the median is the same, but the 99th percentile is 17 to 24 ms
at Python's switch interval of 5 ms and 3.7 ms at 0.5 ms. So writes are held back and written with one call a table, and the
server sets the interval (`SWITCH_INTERVAL_SECONDS`). A committer process of its own was not needed.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import lmdb

from rusmes._core.batch import Batch, NotAhead, NotNew
from rusmes._core.redo import encode
from rusmes.clock import Clock
from rusmes.errors import StoreCorrupt, StoreError, StoreFull
from rusmes.metrics import COMMIT_BATCH, COMMIT_SECONDS, COMMIT_WAIT_SECONDS, COMMITS, STORE_ERRORS, Metrics
from rusmes.storage.api import Answer
from rusmes.storage.lmdb.environment import Environment, Transaction, translate
from rusmes.storage.lmdb.lead import LEAD_SECONDS
from rusmes.storage.space import Space
from rusmes.storage.spool import store_failure

SWITCH_INTERVAL_SECONDS: Final = 0.0005
RECOVERY_SECONDS: Final = 1.0
# More than a batch of any load has; a bound for the time the writer mutex is held and for what is lost by one failure.
MAX_BATCH: Final = 1024
# The longest wait for callers of a moment ago; it is never longer than the last commit took (PostgreSQL: commit_delay).
MAX_GATHER_SECONDS: Final = 0.001
# A lone caller's commit is made in its loop's thread after so many commits that were quick. Measured (2 cores, queue puts of
# 1 KiB by one caller): p50 0.28 ms and 204 us of CPU by way of the thread, 0.21 ms and 179 us here.
QUICK_COMMITS: Final = 8
QUICK_SECONDS: Final = 0.001
# Mails or deliveries of an operation that is still light.
LIGHT_ITEMS: Final = 4
# Rows of the cached tables kept between batches.
MAX_CACHED_ROWS: Final = 20_000

T = TypeVar("T")
Operation = Callable[[Batch], T]


class Prepared(Protocol):
    """Work outside the transaction that an operation needs first, such as syncing its file."""

    def begin(self) -> None:
        """Start what takes time. Raises StoreError, NotFound; the operation is then refused alone."""

    def finish(self, synced_directories: set[str]) -> None:
        """Wait for it; the set is of this batch. Raises like `begin`."""

    def undo(self) -> None:
        """The operation did not commit."""

    def abandon(self) -> None:
        """The operation was never begun, and its caller is gone: undo, and remove what nobody else will."""


class _Waiting(Generic[T]):
    """An operation with the future of its caller."""

    __slots__ = ("asked", "error", "future", "is_light", "operation", "prepared", "result")

    def __init__(
        self, operation: Operation[T], prepared: Sequence[Prepared], future: Answer[T], asked: float, is_light: bool
    ) -> None:
        self.operation = operation
        self.is_light = is_light
        self.prepared = prepared
        self.future = future
        self.asked = asked
        self.result: T | None = None
        self.error: BaseException | None = None


class _NotHere(Exception):
    """What a loop began takes longer than it may stand still."""


class Committer:
    """The commit thread of one environment.

    `cached_tables` are small hot tables whose rows are kept between batches; the cache is dropped when another process
    has committed in between, which LMDB's transaction ids tell.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        name: str,
        clock: Clock,
        space: Space,
        metrics: Metrics,
        cached_tables: Iterable[int] = (),
        prefixes: Mapping[int, int] | None = None,
        leads: bool = False,
        on_notes: Callable[[list[tuple[int, int]]], None] | None = None,
    ) -> None:
        self._environment = environment
        self._name = name
        self._clock = clock
        self._space = space
        self._metrics = metrics
        self._commits = COMMITS[name]
        self._cached_tables = tuple(cached_tables)
        self._cache: dict[int, dict[bytes, bytes | None]] = {table: {} for table in self._cached_tables}
        self._numbers: dict[int, int] = {}
        self._prefixes = prefixes
        self._expected_id = 0
        self._on_notes = on_notes
        self._waiting: deque[_Waiting[Any]] = deque()
        self._wake_ups: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True: look at what is waiting; False: and then end."""
        self._is_wake_up_due = False
        self._leads = leads
        self._is_busy = False
        """Who has the turn is in the middle of a commit."""
        self._lead_timer: asyncio.TimerHandle | None = None
        self._turn = threading.RLock()
        """Held by who commits, the thread or a loop, and by who has to read what a lead has."""
        self._crowd = 0
        """How many the last commit had to do with: its own, and those who waited at its end."""
        self._seconds = 0.0
        self._quick_commits = 0
        self._thread: threading.Thread | None = None
        self._failure: StoreError | None = None
        self._failed_at = 0.0
        self._is_dead = False
        environment.on_damage = lambda: metrics.inc(STORE_ERRORS["corrupt"])
        environment.has_room = space.has_room
        environment.catch_up = self._catch_up
        environment.on_checkpoint_failure = lambda: metrics.inc(STORE_ERRORS["io"])

    def start(self) -> None:
        self._forget_cache()  # the file may have been replaced
        self._is_wake_up_due = False  # a loop that was closed took its calls along
        self._lead_timer = None
        self._thread = threading.Thread(target=self._run, name=f"commit-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Commit what waits, then end the thread. Blocks."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._wake_ups.put(False)
            thread.join()

    @property
    def failure(self) -> StoreError | None:
        if self._environment.needs_recovery:
            return self._failure or StoreError("storage failure", f"{self._environment.path} needs a restart")
        return self._failure

    async def submit(
        self, operation: Operation[T], *, prepared: Sequence[Prepared] = (), growth: int = 0, light: bool = False
    ) -> T:
        """Run an operation in the next batch; returns its result once it is durable. Arguments and errors as of `enqueue`."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.enqueue(operation, future, prepared=prepared, growth=growth, light=light)
        return await future

    def enqueue(
        self,
        operation: Operation[T],
        answer: Answer[T],
        *,
        prepared: Sequence[Prepared] = (),
        growth: int = 0,
        light: bool = False,
    ) -> None:
        """Run an operation in the next batch, and give its result or error to `answer` once that is durable.

        Args:
            growth: bytes the operation adds; 0 for what may use the reserve because it makes space.
            light: it takes some ten microseconds, whatever it meets; so a loop may do it by itself.

        Raises:
            StoreFull: `growth` does not fit beside the reserve.
            StoreError: the store is closed, or failed a moment ago.
        """
        if self._thread is None:
            raise StoreError("the store is closed", self._environment.path)
        if self._failure is not None and not self._may_probe(growth):
            raise type(self._failure)(self._failure.public, self._failure.detail)
        if growth and not self._space.take(growth):
            raise StoreFull("no space left", f"{self._environment.path}: only the reserve is left")
        self._waiting.append(_Waiting(operation, prepared, answer, time.perf_counter(), light))
        if not self._is_wake_up_due:
            self._is_wake_up_due = True
            answer.get_loop().call_soon(self._wake_up)

    def _wake_up(self) -> None:
        """Once a turn of the loop, however many came in it: one switch of threads, and a fuller batch."""
        self._is_wake_up_due = False  # before the token: who comes later asks for another one
        if len(self._waiting) == 1 and self._crowd <= 1 and self._quick_commits >= QUICK_COMMITS and self._commit_here():
            return
        self._wake_ups.put(True)

    def _commit_here(self) -> bool:
        """Commit for a lone caller in its loop's thread, if that takes but a moment; False: it is left to the commit thread.

        The way to the thread and back costs as much as the commit. The loop stands still meanwhile, so a disk that was slow
        a moment ago, a checkpoint, another process that writes, and whatever is not light are the thread's; and a disk that
        begins to be slow just now stops the loop once.
        """
        waiting = self._waiting
        if not waiting[0].is_light or waiting[0].prepared or not self._turn.acquire(blocking=False):
            return False
        environment = self._environment
        try:
            if len(waiting) != 1:
                return False
            txn = None
            if not self._leads or not environment.may_lead:
                txn = environment.begin_write_at_once() if environment.lead is None else None
                if txn is None:
                    return False
            items = [waiting.popleft()]
            notes = self._commit(items, txn, is_here=True)
        finally:
            self._turn.release()
        if notes is None:
            return False
        if environment.lead is not None and self._lead_timer is None:
            self._lead_timer = items[0].future.get_loop().call_later(LEAD_SECONDS, self._end_lead)
        self._resolve(items, notes)
        return True

    def _end_lead(self) -> None:
        """The thread looks after it from now on."""
        self._lead_timer = None
        if self._environment.lead is not None:
            self._wake_ups.put(True)

    def _catch_up(self) -> None:
        """Somebody is about to read the data file. Raises StoreError: the store is closed until it works."""
        with self._turn:
            if self._is_busy:  # this thread, in the middle of it: somebody looks how much of the file is free
                return
            self._is_busy = True
            try:
                self._environment.write_lead()
            except Exception as error:
                failure = self._failure_of(error)
                self._fail([], failure)
                raise failure from None
            finally:
                self._is_busy = False

    def _write_lead(self) -> None:
        """When its time has come; nobody waits for it."""
        try:
            self._catch_up()
        except StoreError:
            if self._environment.lead is not None:
                self._environment.lead.until = time.perf_counter() + RECOVERY_SECONDS

    def _may_probe(self, growth: int) -> bool:
        """What makes space need not wait when space is what failed."""
        makes_space = not growth and isinstance(self._failure, StoreFull)
        is_fresh = 0 <= self._clock.monotonic() - self._failed_at < RECOVERY_SECONDS
        return not self._is_dead and (makes_space or not is_fresh)

    def _run(self) -> None:
        waiting = self._waiting
        is_open = True
        while is_open or waiting:
            if not waiting:
                is_open = self._await_work()
            if waiting and len(waiting) < self._crowd and is_open:
                is_open = self._gather(self._crowd, time.perf_counter() + min(self._seconds, MAX_GATHER_SECONDS))
            with self._turn:
                batch: list[_Waiting[Any]] = []
                while waiting and len(batch) < MAX_BATCH:
                    batch.append(waiting.popleft())
                notes = self._commit(batch) if batch else None
            if notes is not None:
                self._answer(batch, notes)
        self._write_lead()

    def _await_work(self) -> bool:
        """Wait for a wake-up, and write the lead when its time has come; False when the end was asked for."""
        while True:
            lead = self._environment.lead
            try:
                return self._wake_ups.get(timeout=None if lead is None else max(lead.until - time.perf_counter(), 0.0))
            except queue.Empty:
                self._write_lead()

    def _gather(self, crowd: int, until: float) -> bool:
        """Wait a moment for those who were here a moment ago; False when the end was asked for.

        Who had an answer a commit ago comes back with the next mail, mostly sooner than a commit takes: waiting for them
        makes one commit out of two. A single caller never waits.
        """
        while len(self._waiting) < crowd:
            left = until - time.perf_counter()
            if left <= 0:
                return True
            try:
                if not self._wake_ups.get(timeout=left):
                    return False
            except queue.Empty:
                return True
        return True

    def _commit(
        self, items: list[_Waiting[Any]], txn: Transaction | None = None, *, is_here: bool = False
    ) -> list[tuple[int, int]] | None:
        """Commit, or fail; what was noted. A loop may have begun `txn`, and hears by None that it is the thread's after all."""
        started = time.perf_counter()
        notes: list[tuple[int, int]] = []
        after: list[Callable[[], None]] = []
        self._is_busy = True
        try:
            ready = self._prepare(items)
            if ready:
                outcome = self._try_to_lead(ready, is_here) if self._leads and txn is None else None
                if outcome is None and txn is None and is_here:
                    raise _NotHere
                notes, after = outcome or self._transact_until_done(ready, items, txn)
            elif txn is not None:
                txn.abort()
                self._environment.end_write()
        except _NotHere:
            self._waiting.extendleft(reversed(items))
            self._quick_commits = 0
            return None
        except BaseException as error:
            self._fail(items, self._failure_of(error))
        finally:
            self._is_busy = False
        ended = time.perf_counter()
        for item in items:
            if item.error is not None:
                for step in item.prepared:
                    step.undo()
                if isinstance(item.error, StoreCorrupt):
                    self._metrics.inc(STORE_ERRORS["corrupt"])
        for action in after:
            try:
                action()
            except OSError:  # a file that could not be removed: the clean-up at the next start finds it
                pass
        self._metrics.inc(self._commits)
        self._metrics.observe(COMMIT_BATCH, len(items))
        self._metrics.observe(COMMIT_SECONDS, ended - started)
        self._metrics.observe(COMMIT_WAIT_SECONDS, ended - items[0].asked)
        self._seconds = ended - started
        self._crowd = len(items) + len(self._waiting)
        self._quick_commits = self._quick_commits + 1 if self._seconds < QUICK_SECONDS else 0
        return notes

    def _prepare(self, items: list[_Waiting[Any]]) -> list[_Waiting[Any]]:
        """The items that can go on: nobody cancelled them, and their files are synced."""
        ready = [item for item in items if not item.future.cancelled()]
        if len(ready) < len(items):
            for item in items:
                if item.future.cancelled() and item not in ready:
                    self._try_steps(item, [step.abandon for step in item.prepared])
        if not any(item.prepared for item in ready):
            return ready
        synced_directories: set[str] = set()
        for item in ready:
            self._try_steps(item, [step.begin for step in item.prepared])
        for item in ready:
            if item.error is None:
                self._try_steps(item, [partial(step.finish, synced_directories) for step in item.prepared])
        return [item for item in ready if item.error is None]

    def _try_steps(self, item: _Waiting[Any], steps: Sequence[Callable[[], None]]) -> None:
        try:
            for step in steps:
                step()
        except Exception as error:
            item.error = error
            if isinstance(error, StoreFull):
                self._space.mark_full()

    def _join_late(self, ready: list[_Waiting[Any]], items: list[_Waiting[Any]]) -> None:
        """Those who came while another process held the writer mutex, and need nothing outside of the transaction."""
        waiting = self._waiting
        while waiting and len(items) < MAX_BATCH and not waiting[0].prepared:
            item = waiting.popleft()
            if not item.future.cancelled():
                items.append(item)
                ready.append(item)

    def _try_to_lead(
        self, items: list[_Waiting[Any]], is_here: bool
    ) -> tuple[list[tuple[int, int]], list[Callable[[], None]]] | None:
        """Make them durable by the journal alone; None when they need a transaction, which comes after the lead."""
        environment = self._environment
        lead = environment.lead
        if lead is not None and lead.is_due:
            environment.write_lead()
        if environment.begin_lead():
            lead = environment.lead
            assert lead is not None
            try:
                batch = Batch(lead, environment.handles, {}, now=self._clock.now(), ahead=lead.rows, newest=lead.newest)
                self._run_operations(batch, items)
                if not batch.has_writes:
                    return [], batch.after_commit
                record = encode(batch.held, environment.epoch, lead.txn_id, lead.parts)
                if record is not None and environment.add_to_lead(lead, batch.held, record):
                    self._failure = None
                    return batch.notes, batch.after_commit
            except NotAhead:
                pass
            finally:
                lead.end_batch()
        if not is_here:
            environment.write_lead()
        return None

    def _transact_until_done(
        self, items: list[_Waiting[Any]], batch_items: list[_Waiting[Any]], begun: Transaction | None
    ) -> tuple[list[tuple[int, int]], list[Callable[[], None]]]:
        is_careful = False
        while True:
            is_here, txn, begun = begun is not None, begun or self._environment.begin_write(), None
            try:
                self._join_late(items, batch_items)
                batch = self._begin_batch(txn, is_careful)
                stranded = self._run_operations(batch, items)
                if stranded is not None:
                    items = [item for item in items if item is not stranded]
                    self._forget_cache()
                    continue
                id = txn.id()
                if not batch.has_writes:
                    self._expected_id = id  # an aborted transaction gives its id back
                    return [], batch.after_commit
                record = encode(batch.held, self._environment.epoch, id) if not batch.spilled_rows else None
                batch.flush()
                self._environment.commit(txn, record)
                self._expected_id = id + 1
                self._failure = None
                return batch.notes, batch.after_commit
            except NotNew:
                is_careful = True
                self._forget_cache()
            except lmdb.MapFullError:
                txn.abort()
                self._forget_cache()
                if is_here:
                    raise _NotHere from None
                self._environment.grow()
            except BaseException:
                self._forget_cache()
                raise
            finally:
                txn.abort()  # does nothing after a commit
                self._environment.end_write()

    def _begin_batch(self, txn: Transaction, is_careful: bool) -> Batch:
        if txn.id() != self._expected_id or any(len(rows) > MAX_CACHED_ROWS for rows in self._cache.values()):
            self._forget_cache()
        return Batch(
            txn, self._environment.handles, self._cache, careful=is_careful, prefixes=self._prefixes, numbers=self._numbers,
            now=self._clock.now(),
        )  # fmt: skip

    def _run_operations(self, batch: Batch, items: list[_Waiting[Any]]) -> _Waiting[Any] | None:
        """Run all, or up to an operation that has to be taken out of the batch, which then begins anew; that one."""
        for item in items:
            mark = batch.begin_operation()
            item.error = None
            try:
                item.result = item.operation(batch)
            except (lmdb.MapFullError, NotNew, NotAhead):
                raise
            except BaseException as error:
                item.error = translate(error, self._environment.path) if isinstance(error, lmdb.Error) else error
                if not batch.undo_operation(mark):
                    return item
        return None

    def _forget_cache(self) -> None:
        for rows in self._cache.values():
            rows.clear()
        self._numbers.clear()
        self._expected_id = 0

    def _failure_of(self, error: BaseException) -> StoreError:
        what = f"committing to {self._environment.path}"
        if isinstance(error, StoreError):
            return error
        if isinstance(error, OSError):
            return store_failure(error, what)
        if isinstance(error, lmdb.Error):
            self._is_dead = self._is_dead or isinstance(error, lmdb.PanicError)
            return translate(error, what)
        return StoreError("storage failure", f"{what}: {error!r}")

    def _fail(self, items: list[_Waiting[Any]], error: StoreError) -> None:
        for item in items:
            if item.error is None:
                item.error = type(error)(error.public, error.detail)
        if isinstance(error, StoreFull):
            self._space.mark_full()
        self._metrics.inc(STORE_ERRORS["full" if isinstance(error, StoreFull) else "io"], len(items) or 1)
        self._failure = error
        self._failed_at = self._clock.monotonic()

    def _answer(self, items: list[_Waiting[Any]], notes: list[tuple[int, int]]) -> None:
        """One call into each waiting loop; there is one, but for tests."""
        loops: dict[asyncio.AbstractEventLoop, list[_Waiting[Any]]] = {}
        for item in items:
            loops.setdefault(item.future.get_loop(), []).append(item)
        for loop, waiting in loops.items():
            try:
                loop.call_soon_threadsafe(self._resolve, waiting, notes)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass
            notes = []

    def _resolve(self, items: list[_Waiting[Any]], notes: list[tuple[int, int]]) -> None:
        if notes and self._on_notes is not None:
            self._on_notes(notes)
        for item in items:
            future = item.future
            if future.done():
                continue
            if item.error is None:
                future.set_result(item.result)
            else:
                future.set_exception(item.error)

