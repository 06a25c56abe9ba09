"""One LMDB environment: opening and locking, named tables, reading, committing, growing. (Over 500 lines, because all of it
shares the locks below and depends on their order.)

LMDB itself syncs nothing (NOSYNC). A commit is durable by its record in the journal, which is synced under the writer mutex
(of a lead: under the committer's turn) and before LMDB commits: so records are durable in order, nobody ever reads what a
power loss could take back, and a sync that fails leaves no trace. `journal` has the records, `lead` those that LMDB has not
seen yet, `checkpoint` what makes the data file whole again, `recovery` what puts all together.
WRITEMAP would write pages before they are committed, and stays off.

Readers are short and belong to one call; a reader is never held across an `await`, because its pages cannot be reused while
it lives.

Locks, in this order: `<file>.writer` (exclusive, by the one writer of a queue) and `<file>.users` (shared, by everybody who
has the file open, readers included; exclusive, by who has to be alone: recovery, clean-up at the start, compaction), both
for as long as the environment is open, and taken while holding the journal's lock, which nobody has who waits for `.users`;
the committer's turn; those of `checkpoint`; LMDB's writer mutex (by the commit thread, for one batch); the gate (for moments;
it keeps readers out while the map moves).
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import lmdb
import lmdb.verify

from rusmes._core.batch import write_rows
from rusmes.errors import NotFound, StoreCorrupt, StoreError, StoreFull
from rusmes.storage.lmdb.checkpoint import COMMIT_BYTES, Checkpointer, Shared
from rusmes.storage.lmdb.journal import Journal
from rusmes.storage.lmdb.lead import LEAD_BYTES, ROOM_BYTES, Lead
from rusmes.storage.lmdb.recovery import recover
from rusmes.storage.spool import store_failure
from rusmes.storage.writeback import sync_directory

# Workers, the CLI, and short-lived readers of executors; a slot is 64 bytes.
MAX_READERS: Final = 1024
GROWTH_FACTOR: Final = 2
GATE_SECONDS: Final = 30.0
MAX_KEY_BYTES: Final = 511
# How long a process that opens a store waits for another one that cleans up.
USERS_SECONDS: Final = 10.0
# The file grows in steps of an eighth of what is used, ahead of need, so that a full disk is met before a commit and not
# inside LMDB, which takes a short write for a broken disk.
MIN_STEP_BYTES: Final = 256 * 1024
MAX_STEP_BYTES: Final = 4 * 1024 * 1024
STEP_SHARE: Final = 8
META_PAGES: Final = 2
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC

Transaction = Any
"""lmdb.Transaction; the binding's stubs do not tell bytes from buffers."""


def _nothing() -> None: ...


def translate(error: lmdb.Error, what: str) -> StoreError:
    """The taxonomy's error for LMDB's."""
    detail = f"{what}: {error}"
    if isinstance(error, lmdb.DiskError | lmdb.MapFullError):
        return StoreFull("no space left", detail)
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.VersionMismatchError):
        return StoreCorrupt("the store is damaged", detail)
    return StoreError("storage failure", detail)


class Environment:
    """An environment with its tables, numbered in the order of `tables`.

    With `is_exclusive` one process at a time may open it for writing; readers are always welcome. `is_alone` says that no other
    process has it open, and that none can open it until `share` is called.
    """

    def __init__(
        self, path: str, tables: Sequence[bytes], *, map_size: int, is_exclusive: bool, read_only: bool = False
    ) -> None:
        self.path = path
        self.read_only = read_only
        self.is_alone = False
        self.on_damage: Callable[[], None] = _nothing
        """Called when a reader met a row that fails its checksum."""
        self.handles: list[Any] = []
        self.tables = tables
        self._map_size = map_size
        self._is_exclusive = is_exclusive
        self._env: Any = None
        self._writer_lock = -1
        self._users_lock = -1
        self._journal = Journal(path)
        self._checkpointer: Checkpointer | None = None
        self.recovered = 0
        """Records of the journal that were done again when it was opened."""
        self.on_checkpoint_failure: Callable[[], None] = _nothing
        self.has_room: Callable[[int], bool] = lambda size: True
        """Whether the files may grow by so many bytes."""
        self.lead: Lead | None = None
        """What the journal has and the data file not yet; only who has the committer's turn changes it."""
        self.catch_up: Callable[[], None] = _nothing
        """Waits for the turn and writes the lead to the data file."""
        self._file = -1
        self._file_bytes = 0
        self._page_bytes = 0
        self._is_tight = False
        self._pid = os.getpid()
        self._gate = threading.Condition()
        self._readers = 0
        self._openings = 0
        self._is_moving = False

    def open(self) -> None:
        """Raises StoreError (also when another process holds it), StoreCorrupt, NotFound (reading, and nothing is there)."""
        if self._env is not None:
            return
        if self.read_only and not os.path.exists(self.path):
            raise NotFound("no such store", self.path)
        try:
            if not self.read_only:
                os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            self._journal.open(create=not self.read_only)
            with self._take_locks():
                if self.is_alone:
                    self.recovered = recover(self.path, self.tables, self._journal, self._map_size)
                self._open_environment()
        except OSError as error:
            self.close()
            raise store_failure(error, f"opening {self.path}") from None
        except lmdb.Error as error:
            self.close()
            raise translate(error, f"opening {self.path}") from None
        except BaseException:
            self.close()
            raise

    def _open_environment(self) -> None:
        if not self.read_only and not (os.path.exists(self.path) and os.path.getsize(self.path)):
            self._create()
        self._env = self._mapped(is_synced=False)
        self._openings += 1
        self._check_length()
        self._env.reader_check()  # slots of processes that were killed keep old pages alive
        if self.read_only:
            self.handles = [self._env.open_db(name, create=False) for name in self.tables]
            return
        self._checkpointer = Checkpointer(self.path, self._journal, Shared(self._users_lock), self._begin_any)
        self._checkpointer.on_failure = lambda: self.on_checkpoint_failure()
        self._checkpointer.start(self._env)
        # A transaction that makes a table is in no record; the next one waits for a checkpoint then.
        with self._begin_any() as txn:
            self.handles = [self._env.open_db(name, txn=txn) for name in self.tables]
        self._page_bytes = self._env.stat()["psize"]
        self._file = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        if self._is_exclusive and not self.is_alone:
            self._take_over_lead()

    def _take_over_lead(self) -> None:
        """A writer was killed while somebody reads, so nobody recovers: its lead is in the journal alone."""
        checkpointer = self._checkpointer
        assert checkpointer is not None
        shared, id = checkpointer.shared, self._env.info()["last_txnid"] + 1
        head = shared.head_after(id - 1)
        parts, head = self._journal.parts_of(checkpointer.epoch, id, head) if head >= 0 else ([], head)
        if not parts:
            return
        txn = self.begin_write()
        try:
            for rows in parts:
                for table, key, value in rows:
                    if value is None:
                        txn.delete(key, db=self.handles[table])
                    else:
                        txn.put(key, value, db=self.handles[table])
            shared.describe(id, head, in_no_record=False)
            self._commit_unsynced(txn)
            self.recovered = len(parts)
            checkpointer.wrote()
        finally:
            txn.abort()
            self.end_write()

    def _create(self) -> None:
        """A new file, synced, as if it had been closed."""
        env = self._mapped(is_synced=True)
        try:
            with env.begin(write=True) as txn:
                for name in self.tables:
                    env.open_db(name, txn=txn)
        finally:
            env.close()
        sync_directory(os.path.dirname(self.path))

    def _mapped(self, *, is_synced: bool) -> Any:
        return lmdb.open(
            self.path,
            subdir=False,
            map_size=self._map_size,
            max_dbs=len(self.tables),
            max_readers=MAX_READERS,
            mode=0o600,
            readonly=self.read_only,
            readahead=False,
            sync=is_synced,
        )

    def _check_length(self) -> None:
        """Reading a page behind the end of a file that was cut would kill the process (SIGBUS).

        A file may be shorter than it says, when its last pages were never written, so this is only the reason to look.
        """
        if self.is_alone and os.path.getsize(self.path) < self.used_bytes():
            for reason in structure_errors(self.path):
                raise StoreCorrupt("the store is damaged", f"{self.path} is too short: {reason}")

    @contextmanager
    def _take_locks(self) -> Iterator[None]:
        """All locks; within the context also the journal's: whoever is a user of the file has found or made it whole."""
        if self._is_exclusive and not self.read_only:
            self._writer_lock = os.open(f"{self.path}.writer", _LOCK_FLAGS, 0o600)
            if not _lock(self._writer_lock, fcntl.LOCK_EX, 0.0):
                raise StoreError("the store is in use", f"another process writes {self.path}")
        self._users_lock = os.open(f"{self.path}.users", _LOCK_FLAGS, 0o600)
        end = time.monotonic() + USERS_SECONDS
        while True:
            with self._journal.locked():
                self.is_alone = _lock(self._users_lock, fcntl.LOCK_EX, 0.0)
                if self.is_alone or _lock(self._users_lock, fcntl.LOCK_SH, 0.0):
                    yield
                    return
            if time.monotonic() >= end:
                raise StoreError("the store is in use", f"another process cleans up or compacts {self.path}")
            time.sleep(0.05)

    def share(self) -> None:
        """Let others in, once what had to be done alone is done."""
        if self._users_lock >= 0:
            fcntl.flock(self._users_lock, fcntl.LOCK_SH)
            self.is_alone = False

    def claim(self) -> bool:
        """Become the only process that has it open, if that is so."""
        if _lock(self._users_lock, fcntl.LOCK_EX, 0.0):
            self.is_alone = True
            return True
        # A conversion that fails may have dropped the shared lock (flock(2)).
        fcntl.flock(self._users_lock, fcntl.LOCK_SH)
        return False

    def close(self) -> None:
        """A failing disk may leave the store as a crash would: the next one to open it recovers it."""
        try:
            self._end_checkpoints()
        except (OSError, lmdb.Error, StoreError):
            self.on_checkpoint_failure()
        env, self._env = self._env, None
        self.handles = []
        if env is not None:
            env.close()
        self._close_file()
        for descriptor in (self._users_lock, self._writer_lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._users_lock = self._writer_lock = -1
        self._journal.close()

    def _end_checkpoints(self) -> None:
        """Raises StoreError, OSError, lmdb.Error: the store is not clean then."""
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is None:
            return
        checkpointer.stop()
        if self.lead is not None:  # it could not be written: recovery does it
            checkpointer.shared.mark_failed()
            self.lead = None
        is_last = self.claim()
        if is_last and self._file >= 0:
            self._give_back()
        try:
            checkpointer.finish(is_last=is_last)
        finally:
            checkpointer.shared.close()

    def commit_number(self) -> tuple[int, int]:
        """Another one after each commit of any process (0.9 us; a compaction begins anew). (0, 0): not known at the moment."""
        try:
            return (self._openings, self._env.info()["last_txnid"]) if self._env is not None else (0, 0)
        except lmdb.Error:
            return 0, 0

    @property
    def needs_recovery(self) -> bool:
        """Whether nothing is written any more until all processes have gone and the store is recovered."""
        return self._checkpointer is not None and self._checkpointer.shared.is_failed

    @property
    def may_lead(self) -> bool:
        """Whether a lead can go on, or begin, with nothing else to do first."""
        checkpointer = self._checkpointer
        if checkpointer is None or checkpointer.is_busy or not checkpointer.is_pinned:
            return False
        return self.lead is None or not self.lead.is_due

    @property
    def is_open(self) -> bool:
        return self._env is not None

    @contextmanager
    def reading(self, *, buffers: bool = False) -> Iterator[Transaction]:
        """A snapshot for one call. LMDB's errors become the taxonomy's."""
        if self.lead is not None:
            self.catch_up()
        with self._gate:
            while self._is_moving:
                self._gate.wait()
            if self._env is None:
                raise StoreError("the store is closed", self.path)
            self._readers += 1
        try:
            try:
                txn = self._env.begin(buffers=buffers)
            except lmdb.MapResizedError:
                self._adopt_size()
                txn = self._env.begin(buffers=buffers)
            with txn:
                yield txn
        except lmdb.Error as error:
            raise translate(error, f"reading {self.path}") from None
        except StoreCorrupt:
            self.on_damage()
            raise
        finally:
            with self._gate:
                self._readers -= 1
                if self._is_moving:
                    self._gate.notify_all()

    def begin_write(self) -> Transaction:
        """Waits for LMDB's writer mutex, and for a checkpoint if one has to come first.

        Raises:
            StoreError: it is closed, or closed for writing.
            OSError, lmdb.Error
        """
        checkpointer = self._checkpointer
        if self._env is None or checkpointer is None:
            raise StoreError("the store is closed", self.path)
        is_checked = False
        while True:
            txn = self._begin_any()
            try:
                if checkpointer.may_write(txn.id()) and (self._extend(0) or is_checked or not checkpointer.can_relieve):
                    checkpointer.shared.writer = self._pid
                    return txn
            except BaseException:
                txn.abort()
                raise
            txn.abort()
            checkpointer.checkpoint()  # also when the file cannot grow: pages that came free have to do, and may be used then
            is_checked = True

    def begin_write_at_once(self) -> Transaction | None:
        """Like `begin_write`, or None when somebody else writes, a checkpoint is under way or due, or anything is to be said.

        Another process may begin to write just now; then this waits for one commit.
        """
        checkpointer = self._checkpointer
        if self._env is None or checkpointer is None or checkpointer.is_busy:
            return None
        if checkpointer.shared.writer or checkpointer.shared.is_under_pressure:
            return None
        try:
            txn = self._env.begin(write=True, buffers=True)
        except lmdb.Error:
            return None
        try:
            if checkpointer.may_write(txn.id()) and self._extend(0):
                checkpointer.shared.writer = self._pid
                return txn
        except StoreError:
            pass
        txn.abort()
        return None

    def begin_lead(self) -> bool:
        """Make a lead if there is none; False when it has to be a transaction. The caller has the committer's turn, and no
        other process writes.

        Raises:
            StoreError: it is closed, or closed for writing.
        """
        checkpointer = self._checkpointer
        if self._env is None or checkpointer is None:
            raise StoreError("the store is closed", self.path)
        id = self.lead.txn_id if self.lead is not None else self._env.info()["last_txnid"] + 1
        if not checkpointer.may_write(id):
            return False
        if self.lead is None:
            head = checkpointer.shared.head_after(id - 1)
            if head < 0 or not self._extend(ROOM_BYTES):
                return False
            self.lead = Lead(id, head, self.handles, self._env.begin)
        return True

    def add_to_lead(self, lead: Lead, held: list[dict[bytes, bytes | None]], record: bytearray) -> bool:
        """Make a batch durable; False when its record is too large for a lead, or has no place.

        Raises:
            OSError: it is not durable.
        """
        assert self._checkpointer is not None  # `begin_lead` was asked
        if len(record) > LEAD_BYTES:
            return False
        at = self._journal.find_place(len(record), lead.head, self._checkpointer.shared.tail, self.has_room)
        if at < 0:
            return False
        self._journal.append(record, at)
        lead.add(held, len(record), at + len(record))
        return True

    def write_lead(self) -> None:
        """Write the lead to the data file. The caller has the committer's turn.

        Raises:
            StoreError, OSError, lmdb.Error: the lead stays.
        """
        lead = self.lead
        if lead is None:
            return
        lead.is_stuck = True
        while lead.parts:
            txn = self.begin_write()
            checkpointer = self._checkpointer
            assert checkpointer is not None
            try:
                if txn.id() != lead.txn_id:
                    raise StoreCorrupt("the store is damaged", f"{self.path}: somebody else wrote transaction {lead.txn_id}")
                write_rows(txn, self.handles, lead.rows)
                checkpointer.shared.describe(lead.txn_id, lead.head, in_no_record=False, size=lead.size + COMMIT_BYTES)
                self._commit_unsynced(txn)
                checkpointer.wrote()
                break
            except lmdb.MapFullError:
                txn.abort()
                self.grow()
            finally:
                txn.abort()
                self.end_write()
        self.lead = None

    def end_write(self) -> None:
        """The transaction of `begin_write` has ended."""
        if self._checkpointer is not None:
            self._checkpointer.shared.writer = 0

    def _begin_any(self) -> Transaction:
        try:
            return self._env.begin(write=True, buffers=True)
        except lmdb.MapResizedError:
            with self._moving():
                self._env.set_mapsize(0)
            return self._env.begin(write=True, buffers=True)

    @property
    def epoch(self) -> int:
        """What records of the journal have to name."""
        return self._checkpointer.epoch if self._checkpointer is not None else 0

    def commit(self, txn: Transaction, record: bytearray | None) -> None:
        """Make a transaction of `begin_write` durable, then visible.

        Args:
            record: what it wrote; None when that is too much for a record, and a checkpoint has to make it durable.

        Raises:
            lmdb.Error, OSError, StoreError: it is not committed; without a record, the store may be closed until recovery.
        """
        checkpointer, journal = self._checkpointer, self._journal
        assert checkpointer is not None  # `begin_write` was asked
        shared, id = checkpointer.shared, txn.id()
        head = shared.head_after(id - 1)
        at = journal.find_place(len(record), head, shared.tail, self.has_room) if record is not None else -1
        if record is None or at < 0:
            shared.describe(id, head, in_no_record=True)
            self._commit_unsynced(txn)
            checkpointer.wrote()
            try:
                checkpointer.checkpoint()
            except BaseException:
                shared.mark_failed()  # its callers are refused, so it has to go: recovery begins before it
                raise
            return
        self._extend(2 * len(record))
        journal.append(record, at)
        shared.describe(id, at + len(record), in_no_record=False, size=len(record) + COMMIT_BYTES)
        try:
            self._commit_unsynced(txn)
        except BaseException:
            journal.void(at)
            raise
        checkpointer.wrote()

    def _commit_unsynced(self, txn: Transaction) -> None:
        try:
            txn.commit()
        except lmdb.DiskError:
            raise
        except lmdb.Error as error:
            if self._is_tight and not isinstance(error, lmdb.MapFullError):  # a short write is EIO to LMDB
                raise StoreFull("no space left", f"{self.path}: {error}") from None
            raise

    def _extend(self, more: int) -> bool:
        """Make the file longer when it is nearly used up, with `more` bytes to come; False when it cannot be.

        The caller holds the writer mutex.
        """
        used = (self._env.info()["last_pgno"] + 1) * self._page_bytes
        step = min(max(used // STEP_SHARE, MIN_STEP_BYTES), MAX_STEP_BYTES)
        needed = used + max(more, step // 2)
        if needed <= self._file_bytes:
            return True
        at = os.fstat(self._file).st_size  # another process may have done it
        if needed > at:
            end = max(used + step, needed)
            self._is_tight = not self.has_room(end - at)
            try:
                if self._is_tight:
                    return False
                os.posix_fallocate(self._file, at, end - at)
                at = end
            except OSError:
                self._is_tight = True
                return False
        self._is_tight = False
        self._file_bytes = at
        return True

    def _give_back(self) -> None:
        """Cut what was allocated ahead. The caller has the store alone."""
        try:
            if os.fstat(self._file).st_size > self.used_bytes():
                os.ftruncate(self._file, self.used_bytes())
        except OSError:  # a longer file is as good
            pass

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._file_bytes = 0

    def _adopt_size(self) -> None:
        """Another process made the map larger; the caller counts itself as a reader but has no transaction yet."""
        with self._gate:
            self._readers -= 1
        try:
            with self._moving():
                self._env.set_mapsize(0)
        finally:
            with self._gate:
                self._readers += 1

    def grow(self) -> None:
        """Double the map. No transaction of this thread may be open.

        Raises:
            StoreFull: a reader does not end, or the address space does.
        """
        with self._moving():
            size = self._env.info()["map_size"] * GROWTH_FACTOR
            try:
                self._env.set_mapsize(size)
            except (lmdb.Error, OverflowError) as error:
                raise StoreFull("no space left", f"{self.path} cannot grow to {size} bytes: {error}") from None
            self._map_size = size

    @contextmanager
    def _moving(self) -> Iterator[None]:
        with self._gate:
            self._is_moving = True
            if not self._gate.wait_for(lambda: not self._readers, GATE_SECONDS):
                self._is_moving = False
                self._gate.notify_all()
                raise StoreFull("no space left", f"{self.path}: a reader kept the map from growing")
        try:
            if self._checkpointer is None:
                yield
            else:
                with self._checkpointer.paused():
                    yield
        finally:
            with self._gate:
                self._is_moving = False
                self._gate.notify_all()

    def structure_errors(self) -> list[str]:
        """What is wrong with the file's pages. Looks only when it was opened for reading and no other process has it open."""
        if not self.read_only or not self.claim():
            return []
        try:
            return structure_errors(self.path)
        finally:
            self.share()

    def copy_compact(self, target: str) -> None:
        """Raises StoreError, OSError, lmdb.Error."""
        if self.lead is not None:
            raise StoreError("storage failure", f"{self.path} does not take what its journal has")
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._env.copyfd(descriptor, compact=True)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, copy: str) -> None:
        """Let a copy take the file's place and open it. The caller has the store alone; readers of this process wait.

        The store is clean while the files change places, so that the journal says nothing of either.
        """
        self._end_checkpoints()
        with self._moving():
            self._env.close()
            self._env = None
            self._close_file()
            os.replace(copy, self.path)
            with self._journal.locked():
                self._open_environment()

    def used_bytes(self) -> int:
        """Pages in use or free inside the file, in bytes."""
        return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def free_bytes(self) -> int:
        """Of pages inside the file that no table uses (20 us); some may be held by a reader or a checkpoint for a moment."""
        if self._env is None or self._is_moving:
            return 0
        with self.reading() as txn:
            facts = [self._env.stat(), *(txn.stat(handle) for handle in self.handles)]
        pages: int = sum(fact["branch_pages"] + fact["leaf_pages"] + fact["overflow_pages"] for fact in facts)
        return max(0, self.used_bytes() - (pages + META_PAGES) * self._page_bytes)

    def check_readers(self) -> int:
        return int(self._env.reader_check())


def _lock(descriptor: int, kind: int, seconds: float) -> bool:
    """Take a flock(2), waiting at most so long."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)


def structure_errors(path: str) -> list[str]:
    """What is wrong with the pages of a file that nobody has open; LMDB itself does not touch it."""
    try:
        return [str(reason) for reason in lmdb.verify.verify(path, subdir=False)]  # type: ignore[no-untyped-call]
    except lmdb.verify.VerifyError as error:
        return [str(error)]
