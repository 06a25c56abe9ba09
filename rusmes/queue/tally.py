"""Who is busy now: attempts of the last seconds by domain, tenant and source, counted only while somebody looks."""

from __future__ import annotations

from typing import Any, Final

from rusmes.model.plan import Queued
from rusmes.queue.api import Report, tenant_of

PERIOD_SECONDS: Final = 5.0
"""A rate is over the present period and the one before."""
WATCHED_SECONDS: Final = 15.0
"""Who asked so long ago does not look any more, and nothing is counted."""
MAX_NAMES: Final = 5000
"""Of each kind and period, about 250 bytes each."""
KINDS: Final = ("domain", "tenant", "source", "site")
OUTCOMES: Final = {"delivered": 0, "deferred": 1, "failed": 2, "expired": 2}

Counts = dict[str, list[int]]


class Tally:
    """One for each runner. `is_on` is what a caller asks before it takes the trouble."""

    __slots__ = ("_before", "_begun", "_now", "_replies", "_until", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self._until = 0.0
        self._begun = 0.0
        self._now: dict[str, Counts] = {kind: {} for kind in KINDS}
        self._before: dict[str, Counts] = {kind: {} for kind in KINDS}
        self._replies: dict[str, str] = {}

    def count(self, item: Queued, report: Report, status: str, now: float) -> None:
        """One recipient was attempted."""
        self._turn(now)
        if not self.is_on:
            return
        how, place = report.attempt, OUTCOMES.get(status, 2)
        site = how.site if how is not None else ""
        names = (report.recipient.address.domain, tenant_of(item), how.source if how is not None else "", site)
        for kind, name in zip(KINDS, names, strict=True):
            counts = self._now[kind]
            row = counts.get(name)
            if row is None:
                if len(counts) >= MAX_NAMES:
                    continue
                row = counts[name] = [0, 0, 0]
            row[place] += 1
        if site and (site in self._replies or len(self._replies) < MAX_NAMES):
            self._replies[site] = report.reply[:200]

    def _turn(self, now: float) -> None:
        passed = now - self._begun
        if now >= self._until or passed < 0:
            self.is_on = False
            return
        if passed >= PERIOD_SECONDS:
            self._before = self._now if passed < 2 * PERIOD_SECONDS else {kind: {} for kind in KINDS}
            self._now = {kind: {} for kind in KINDS}
            self._begun = now

    def look(self, now: float) -> dict[str, Any]:
        """Attempts a second by kind and name, [delivered, deferred, failed], and the last reply of each site."""
        if not self.is_on:
            self.is_on, self._begun, self._replies = True, now, {}
            self._now, self._before = {kind: {} for kind in KINDS}, {kind: {} for kind in KINDS}
        self._until = now + WATCHED_SECONDS
        self._turn(now)
        seconds = now - self._begun + (PERIOD_SECONDS if any(self._before.values()) else 0.0)
        rates: dict[str, dict[str, list[float]]] = {}
        for kind in KINDS:
            own = rates[kind] = {}
            for counts in (self._now[kind], self._before[kind]):
                for name, row in counts.items():
                    sums = own.setdefault(name, [0.0, 0.0, 0.0])
                    for place, count in enumerate(row):
                        sums[place] += count / max(seconds, 1.0)
        return {"rates": rates, "replies": self._replies}
