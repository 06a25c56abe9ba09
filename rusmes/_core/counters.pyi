"""Counters in memory that the supervisor and all workers share: metrics, and the keyed table of limits.

The memory is an anonymous shared mapping, made before the workers are forked. Every process names the column it writes with
`use_column`; the other columns it only reads. So a worker that dies leaves its numbers in place: the metrics of its column stay
as they are (they never go back), its places in the table are given back by `reset_worker`.
"""

from typing import Final, final

SLOT_COUNT: Final[int]
"""Metric slots in a column."""

@final
class Histogram:
    """Where a histogram's numbers lie: `len(bounds) + 1` bucket counts from `slot` on, then the sum.

    Bounds are upper bounds, ascending, at most 32.
    """

    slot: Final[int]
    bounds: Final[tuple[float, ...]]
    def __init__(self, slot: int, bounds: tuple[float, ...]) -> None: ...

@final
class Metrics:
    """The metric slots, seen by one process. Without arguments: one private column, for tests.

    Counters are 64-bit integers, gauges and sums are doubles; updates are atomic, so threads may share an object. A slot that
    is out of range raises IndexError.
    """

    columns: Final[int]
    column: Final[int]
    def __init__(self, columns: int = 1) -> None: ...
    def use_column(self, column: int) -> None:
        """Write into `column` from now on (after a fork)."""

    def inc(self, slot: int, n: int = 1) -> None:
        """Add `n` to a counter."""

    def set(self, slot: int, value: float) -> None:
        """Set a gauge of this process."""

    def add(self, slot: int, delta: float) -> None:
        """Add to a gauge of this process."""

    def observe(self, histogram: Histogram, value: float) -> None:
        """Count a value in its bucket and in the sum."""

    def count(self, slot: int, column: int = -1) -> int:
        """A counter over all columns, or in one."""

    def level(self, slot: int, column: int) -> float:
        """A gauge in one column."""

    def sample(self, histogram: Histogram) -> tuple[list[int], float]:
        """The bucket counts (not cumulated, the last one without bound) and the sum, over all columns."""

    def clear_level(self, slot: int, column: int) -> None:
        """Forget a gauge of a process that died."""

@final
class SharedCounters:
    """Limits that are exact over all workers: places in use, events per time, and values that expire.

    A key is any bytes; it is kept as a 128-bit keyed hash. `now` is always the monotonic clock's time in seconds. The
    table is bounded: when a stripe of it is full, what has expired goes first, then what would expire next; when all of it
    is in use, `acquire` refuses. A process that dies inside an operation does not stop the others.
    """

    columns: Final[int]
    column: Final[int]
    def __init__(self, columns: int = 1, entries: int = 131072) -> None: ...
    def use_column(self, column: int) -> None:
        """Take places in the name of `column` from now on (after a fork)."""

    def acquire(self, key: bytes, limit: int) -> bool:
        """Take a place under `key` unless `limit` of them are in use over all columns; 0 = no limit, only counted."""

    def release(self, key: bytes) -> None:
        """Give a place of this column back; giving back more than was taken does nothing."""

    def count(self, key: bytes) -> int:
        """Places in use over all columns."""

    def take_rate(self, key: bytes, limit: int, window_seconds: float, now: float, n: int = 1) -> bool:
        """Count `n` events under `key` unless more than `limit` would fall into the last `window_seconds`; 0 = no limit.

        A sliding window: the previous window counts by the part of it that is still inside.
        """

    def take_paced(self, key: bytes, interval_seconds: float, burst: float, now: float, n: int = 1) -> float:
        """Take `n` events under `key` at a pace of one each `interval_seconds`, up to `burst` of them at once; 0.0 = taken, or
        after how many seconds it will be so. A negative `n` gives back what was taken and not used.

        The generic cell rate algorithm (ITU-T I.371): the key's number is the theoretical arrival time of the next event. No
        more than period / interval + burst - 1 events fall into any period.
        """

    def peek_rate(self, key: bytes, window_seconds: float, now: float) -> float:
        """How many events fall into the last `window_seconds`."""

    def set_value(self, key: bytes, value: float, expires: float, now: float) -> None:
        """Keep a number under `key` until the time `expires`, seen by all workers."""

    def add_value(self, key: bytes, delta: float, expires: float, now: float) -> float:
        """Add to the number under `key` (0 when there is none) and keep it until `expires`; the new number."""

    def value(self, key: bytes, now: float, default: float = 0.0) -> float:
        """The number under `key`, or `default` when there is none or it has expired."""

    def clear(self, key: bytes) -> None:
        """Forget rate and value of `key`; places in use stay."""

    def reset_worker(self, column: int) -> int:
        """Give back every place of a column whose worker died; how many there were."""

    def used(self) -> int:
        """Entries in the table."""
