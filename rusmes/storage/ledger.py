"""Small records of all processes in one LMDB file: suspensions, suppressed recipients, policies of other domains.

It is apart from mail and queues, because it has many writers, is written seldom, and needs no journal: LMDB syncs each of its
commits itself. Reading is in the map, without a system call. What is put waits in memory for at most `DELAY_SECONDS`, so that
many changes are one commit, made by a thread.

A record is `table NUL key` -> expiry (float64, little endian, seconds since the epoch, 0 = never) and the value.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections.abc import Iterator
from typing import Any, Final, Self

import lmdb

from rusmes.clock import Clock, SystemClock
from rusmes.errors import RusmesError, StoreError
from rusmes.log import get_logger
from rusmes.storage.lmdb.environment import translate
from rusmes.storage.spool import store_failure

FILE_NAME: Final = "ledger.mdb"
MAP_BYTES: Final = 16 << 30
"""Address space; the file is as large as what is in it."""
MAX_KEY_BYTES: Final = 511
"""Of LMDB, the table's name included."""
DELAY_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 10.0
"""After a commit that failed, unless somebody asks for one."""
SWEEP_SECONDS: Final = 600.0
SWEEP_BATCH: Final = 2000
"""Records looked at in one transaction of the sweep: others may write in between."""
MAX_READERS: Final = 1024

_EXPIRY: Final = struct.Struct("<d")
_NOTHING: Final = (0.0, None)

_log = get_logger("storage")


def record_key(table: str, key: bytes) -> bytes:
    """Raises ValueError: too long, or no name of a table."""
    if not table or "\0" in table:
        raise ValueError(f"{table!r} is no name of a table")
    name = table.encode() + b"\0" + key
    if len(name) > MAX_KEY_BYTES:
        raise ValueError(f"a key of {len(name)} bytes, {MAX_KEY_BYTES} may be")
    return name


class LmdbLedger:
    """Implements `storage.api.Ledger`; `path` is the data directory. Use it in the process that opened it only.

    A program without a loop opens, changes and closes it, or uses `with`.
    """

    def __init__(self, path: str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        self.path = os.path.join(path, FILE_NAME)
        self._clock = clock or SystemClock()
        self._read_only = read_only
        self._env: Any = None
        self._waiting: dict[bytes, tuple[float, bytes | None]] = {}
        """What is not committed yet; None = deleted."""
        self._writing: dict[bytes, tuple[float, bytes | None]] = {}
        self._puts = 0
        self._condition = threading.Condition()
        self._is_urgent = False
        self._is_closing = False
        self._flushed: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Raises StoreError, StoreFull."""
        if self._env is not None:
            return
        try:
            if not self._read_only:
                os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            elif not os.path.exists(self.path):
                return  # nothing was ever put
            self._env = lmdb.Environment(
                self.path,
                subdir=False,
                map_size=MAP_BYTES,
                readonly=self._read_only,
                mode=0o600,
                max_readers=MAX_READERS,
                max_spare_txns=4,
            )
            self._env.reader_check()
        except OSError as error:
            raise store_failure(error, f"opening {self.path}") from None
        except lmdb.Error as error:
            raise translate(error, f"opening {self.path}") from None
        if not self._read_only:
            self._is_closing = False
            self._thread = threading.Thread(target=self._write_on, name="ledger", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Commit what waits, and close; a failure is logged."""
        if self._thread is not None:
            with self._condition:
                self._is_closing = True
                self._condition.notify()
            self._thread.join()
            self._thread = None
        if self._env is not None:
            self._env.close()
            self._env = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading

    @property
    def generation(self) -> int:
        return self._puts + (self._env.info()["last_txnid"] if self._env is not None else 0)

    def get(self, table: str, key: bytes) -> bytes | None:
        name = record_key(table, key)
        if self._waiting or self._writing:
            waiting = self._waiting.get(name) or self._writing.get(name)
            if waiting is not None:
                return waiting[1] if self._is_current(waiting[0]) else None
        if self._env is None:
            return None
        with self._env.begin() as transaction:
            row = transaction.get(name)
        return self._value(row) if row is not None else None

    def items(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        start = record_key(table, prefix)
        skip = len(table.encode()) + 1
        # The committed rows first: what the thread commits meanwhile is then in one of the two, or in both.
        with self._condition:
            changed = {**self._writing, **self._waiting}
            found = dict(self._rows(start)) if self._env is not None else {}
        for name, (expires, value) in changed.items():
            if name.startswith(start):
                if value is None or not self._is_current(expires):
                    found.pop(name, None)
                else:
                    found[name] = value
        for name in sorted(found):
            yield name[skip:], found[name]

    def _rows(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._env.begin() as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range(start):
                return
            for name, row in cursor:
                if not name.startswith(start):
                    return
                value = self._value(row)
                if value is not None:
                    yield name, value

    def _value(self, row: bytes) -> bytes | None:
        return row[_EXPIRY.size :] if self._is_current(_EXPIRY.unpack_from(row)[0]) else None

    def _is_current(self, expires: float) -> bool:
        return not expires or expires > self._clock.now()

    # Writing

    def put(self, table: str, key: bytes, value: bytes, *, expires: float = 0.0) -> None:
        self._change(record_key(table, key), (expires, bytes(value)))

    def delete(self, table: str, key: bytes) -> None:
        self._change(record_key(table, key), _NOTHING)

    def _change(self, name: bytes, record: tuple[float, bytes | None]) -> None:
        if self._thread is None:
            raise StoreError("the ledger cannot be written", self.path)
        with self._condition:
            self._waiting[name] = record
            self._puts += 1
            if len(self._waiting) == 1:
                self._condition.notify()

    async def flush(self) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        with self._condition:
            if self._thread is None:
                raise StoreError("the ledger cannot be written", self.path)
            self._flushed.append((loop, done))
            self._is_urgent = True
            self._condition.notify()
        await done

    # The thread

    def _write_on(self) -> None:
        pause = DELAY_SECONDS
        swept = float("-inf")
        while True:
            with self._condition:
                while not (self._waiting or self._is_urgent or self._is_closing):
                    if not self._condition.wait(SWEEP_SECONDS):
                        break
                if not (self._is_urgent or self._is_closing):
                    self._condition.wait_for(lambda: self._is_urgent or self._is_closing, pause)
                is_closing = self._is_closing
                self._is_urgent = False
                waiters, self._flushed = self._flushed, []
                self._writing, self._waiting = self._waiting, {}
            error = self._commit()
            pause = RETRY_SECONDS if error is not None else DELAY_SECONDS
            for loop, done in waiters:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_tell, done, error)
            if is_closing:
                return
            now = self._clock.monotonic()
            if error is None and now - swept >= SWEEP_SECONDS:
                swept = now
                self._sweep()

    def _commit(self) -> RusmesError | None:
        """Commit `_writing`; on failure it waits again, behind what was put meanwhile."""
        error: RusmesError | None = None
        try:
            if self._writing:
                with self._env.begin(write=True) as transaction:
                    for name, (expires, value) in self._writing.items():
                        if value is None:
                            transaction.delete(name)
                        else:
                            transaction.put(name, _EXPIRY.pack(expires) + value)
        except lmdb.Error as failure:
            error = translate(failure, f"writing {self.path}")
            _log.error("the ledger cannot be written", problem=str(error), waiting=len(self._writing))
        with self._condition:
            if error is not None:
                self._waiting = {**self._writing, **self._waiting}
            self._writing = {}
        return error

    def _sweep(self) -> None:
        """Delete what has expired, a piece at a time."""
        start: bytes | None = b""
        try:
            while start is not None:
                start = self._sweep_from(start)
        except lmdb.Error as failure:
            _log.warn("expired records of the ledger stay", problem=str(translate(failure, f"writing {self.path}")))

    def _sweep_from(self, start: bytes) -> bytes | None:
        """Where to go on; None = it was the last piece."""
        expired: list[bytes] = []
        after: bytes | None = None
        with self._env.begin() as transaction:
            cursor = transaction.cursor()
            found = cursor.set_range(start) if start else cursor.first()
            for count, (name, row) in enumerate(cursor if found else ()):
                if count == SWEEP_BATCH:
                    after = name
                    break
                if not self._is_current(_EXPIRY.unpack_from(row)[0]):
                    expired.append(name)
        if expired:
            with self._env.begin(write=True) as transaction:
                for name in expired:
                    row = transaction.get(name)  # somebody may have put it anew
                    if row is not None and not self._is_current(_EXPIRY.unpack_from(row)[0]):
                        transaction.delete(name)
        return after


def _tell(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(None)


class MemoryLedger:
    """The reference: like `LmdbLedger`, for one process and as long as it lives."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._rows: dict[bytes, tuple[float, bytes]] = {}
        self.generation = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        expires, value = self._rows.get(record_key(table, key), _NOTHING)
        return value if not expires or expires > self._clock.now() else None

    def items(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        start = record_key(table, prefix)
        now = self._clock.now()
        skip = len(table.encode()) + 1
        found = sorted((name, row) for name, row in self._rows.items() if name.startswith(start))
        return iter([(name[skip:], value) for name, (expires, value) in found if not expires or expires > now])

    def put(self, table: str, key: bytes, value: bytes, *, expires: float = 0.0) -> None:
        self._rows[record_key(table, key)] = (expires, bytes(value))
        self.generation += 1

    def delete(self, table: str, key: bytes) -> None:
        self._rows.pop(record_key(table, key), None)
        self.generation += 1

    async def flush(self) -> None:
        """Nothing waits."""
