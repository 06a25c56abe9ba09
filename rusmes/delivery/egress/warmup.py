"""How much a new source may send to a provider on a day.

On day n after its first it may send `start * growth**n` messages to each provider the shaping files know, and as many to all
other sites together; after `days` as much as it likes. Days are UTC. A mail counts once for each recipient that takes it.

The count of a day is in the table that all workers share, so it is exact. The ledger has how far it may have come: a number
that runs ahead by a hundredth of the day's limit, written when it is reached, and the exact one at a clean end. So after a
crash a source sends up to one per cent less on that day, never more, unless the machine fell before the ledger's last half
second was on disk.
"""

from __future__ import annotations

from typing import Final

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config import names
from rusmes.config.schema import WarmUp
from rusmes.delivery.egress.sources import Source
from rusmes.log import get_logger
from rusmes.storage.api import Ledger

TABLE: Final = "warmup"
OTHERS: Final = "other"
"""All sites of no provider."""
DAY: Final = 86400.0
LOAD_TRIES: Final = 100
"""Of the lock with which one worker reads a count; it is held for microseconds."""
AHEAD: Final = 100
"""The ledger runs ahead by this part of a day's limit."""

_log = get_logger("delivery")


def limit_of(plan: WarmUp, provider: str, day: int) -> int:
    """Messages on a day of the plan (0 = the first); 0: the plan is over. A day before the first counts as the first."""
    if day >= plan.days:
        return 0
    start = plan.starts.get(provider, plan.start)
    try:
        return int(start * plan.growth ** max(day, 0))
    except OverflowError:
        return 0


class WarmUps:
    """The counts of all sources that have a plan."""

    def __init__(self, clock: Clock, limits: SharedCounters, ledger: Ledger | None) -> None:
        self._clock = clock
        self._limits = limits
        self._ledger = ledger
        self._first_days: dict[str, int] = {}
        self._written: dict[bytes, int] = {}
        """How far the ledger has each of the counts, as this process knows."""
        self._full: set[bytes] = set()
        """Counts at their limit, of which the log knows; those of days before are of no use, and few."""

    def limit(self, source: Source, provider: str, *, is_trial: bool = False) -> int:
        """What the source may send to a provider today; 0 = no limit. A trial begins no plan."""
        plan = source.warmup
        if plan is None:
            return 0
        return limit_of(plan, provider or OTHERS, self._today() - self._first_day(source, plan, is_trial))

    def used(self, source: Source, provider: str) -> int:
        """What it has sent to it today."""
        key = self._key(source, provider)
        found = self._limits.value(self._shared(key), self._clock.monotonic(), -1.0)
        return int(found) if found >= 0 else self._stored(key)

    def has_room(self, source: Source, provider: str, count: int) -> bool:
        """Whether `take` would give it now."""
        limit = self.limit(source, provider)
        if not limit:
            return True
        used = self.used(source, provider)
        return used + count <= limit or not used

    def take(self, source: Source, provider: str, count: int) -> bool:
        """Count `count` messages; False: the day has no room for them. A mail to more recipients than a day has goes on a day
        on which nothing else went."""
        limit = self.limit(source, provider)
        if not limit:
            return True
        key = self._key(source, provider)
        if not self._is_loaded(key):
            return False
        now = self._clock.monotonic()
        used = int(self._limits.add_value(self._shared(key), count, now + self._left() + DAY, now))
        if used > limit and used != count:
            self._add(key, -count)
            if key not in self._full:
                self._full.add(key)
                _log.info("a source has sent its part of the day", source=source.name, provider=provider or OTHERS, limit=limit)
            return False
        if used > self._written.get(key, 0):
            self._write(key, used + max(1, limit // AHEAD))
        return True

    def give_back(self, source: Source, provider: str, count: int) -> None:
        """What was taken was not sent after all."""
        if count and source.warmup is not None and self.limit(source, provider):
            self._add(self._key(source, provider), -count)

    def day(self, source: Source) -> int:
        """The day of its plan, 0 = the first; -1: it has not begun."""
        if source.warmup is None or (not source.warmup.since and self._begun(source) is None):
            return -1
        return self._today() - self._first_day(source, source.warmup, is_trial=True)

    def today(self, source: Source) -> dict[str, int]:
        """What the ledger knows of today, by provider."""
        if self._ledger is None:
            return {}
        found = {}
        for key, value in self._ledger.items(TABLE, f"{source.name}\0".encode()):
            _, provider, day = key.decode().split("\0")
            if int(day) == self._today():
                found[provider] = int(value)
        return found

    def _begun(self, source: Source) -> bytes | None:
        return self._ledger.get(TABLE, source.name.encode()) if self._ledger is not None else None

    def seconds_left(self) -> float:
        """Until the next day begins."""
        return self._left()

    def close(self) -> None:
        """Write the counts as they are."""
        for key in self._written:
            used = self._limits.value(self._shared(key), self._clock.monotonic(), -1.0)
            if used >= 0:
                self._write(key, int(used))
        self._written.clear()

    # Inside

    def _today(self) -> int:
        return int(self._clock.now() // DAY)

    def _left(self) -> float:
        return DAY - self._clock.now() % DAY

    def _key(self, source: Source, provider: str) -> bytes:
        return f"{source.name}\0{provider or OTHERS}\0{self._today()}".encode()

    @staticmethod
    def _shared(key: bytes) -> bytes:
        return b"warmup:" + key

    def _first_day(self, source: Source, plan: WarmUp, is_trial: bool = False) -> int:
        if plan.since:
            return names.date(plan.since).toordinal() - _EPOCH
        known = self._first_days.get(source.name)
        if known is None:
            row = self._begun(source)
            known = self._first_days[source.name] = int(row) if row is not None else self._today()
            if row is None and self._ledger is not None and not is_trial:
                self._ledger.put(TABLE, source.name.encode(), b"%d" % known)
        return known

    def _add(self, key: bytes, count: int) -> None:
        now = self._clock.monotonic()
        self._limits.add_value(self._shared(key), count, now + self._left() + DAY, now)

    def _stored(self, key: bytes) -> int:
        row = self._ledger.get(TABLE, key) if self._ledger is not None else None
        return int(row) if row is not None else 0

    def _is_loaded(self, key: bytes) -> bool:
        """The count of a day is in the shared table, where the first of all workers puts it."""
        shared = self._shared(key)
        for _ in range(LOAD_TRIES):
            now = self._clock.monotonic()
            if self._limits.value(shared, now, -1.0) >= 0:
                return True
            if self._limits.acquire(b"load:" + shared, 1):
                try:
                    if self._limits.value(shared, now, -1.0) < 0:
                        self._limits.set_value(shared, float(self._stored(key)), now + self._left() + DAY, now)
                finally:
                    self._limits.release(b"load:" + shared)
        return False

    def _write(self, key: bytes, used: int) -> None:
        self._written[key] = used
        if self._ledger is not None:
            self._ledger.put(TABLE, key, b"%d" % used, expires=self._clock.now() + 2 * DAY)


_EPOCH: Final = names.date("1970-01-01").toordinal()
