"""Time as the rest of the project sees it, so that tests can hold it in their hands."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """`now()` is seconds since the epoch (may jump); `monotonic()` is seconds that never go back."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class FakeClock:
    """A clock that moves only when told."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds

    def jump_wall_clock(self, seconds: float) -> None:
        """Move the wall clock alone, as an operator or NTP does."""
        self._now += seconds
