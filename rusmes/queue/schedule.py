"""When a recipient is tried again, and when its time is over (RFC 5321 §4.5.4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import random as _random
from typing import Final

from rusmes.clock import Clock
from rusmes.config.schema import Config

JITTER: Final = 0.1
"""Of an interval, to both sides: mail that failed together does not come back together."""

MAX_SLEW: Final = 0.1
"""How much faster or slower than the monotonic clock queue time may run to catch up with the wall clock."""

SMALL_STEP_SECONDS: Final = 2.0
"""Differences up to this are followed at once: NTP's steps, leap seconds."""


class Schedule:
    """The waits between attempts, the age limit and the delay warning; immutable, replaced at a reload."""

    __slots__ = ("_random", "delay_warning_seconds", "intervals", "max_age_seconds")

    def __init__(
        self,
        intervals: Sequence[float],
        max_age_seconds: float,
        delay_warning_seconds: float,
        random: Callable[[], float] = _random,
    ) -> None:
        self.intervals = tuple(float(interval) for interval in intervals)
        self.max_age_seconds = float(max_age_seconds)
        self.delay_warning_seconds = float(delay_warning_seconds)
        self._random = random

    @classmethod
    def of(cls, config: Config) -> Schedule:
        queue = config.queue
        return cls(queue.retry_schedule, queue.max_age, queue.delay_warning)

    def interval(self, attempts: int) -> float:
        """The wait after attempt number `attempts` (1 = the first), without jitter; the last one repeats."""
        return self.intervals[min(max(attempts, 1), len(self.intervals)) - 1]

    def next_due(self, attempts: int, now: float) -> float:
        """The exact time of the next attempt; it is stored, so that a restart changes nothing."""
        return now + self.interval(attempts) * (1.0 + JITTER * (2.0 * self._random() - 1.0))

    def is_expired(self, created: float, now: float) -> bool:
        """Whether a failed attempt was the last one: never decided without an attempt, so a clock that was set forward
        returns no mail that can be delivered."""
        return now - created >= self.max_age_seconds

    def expires_at(self, created: float) -> float:
        return created + self.max_age_seconds

    def wants_warning(self, created: float, now: float) -> bool:
        return 0 < self.delay_warning_seconds <= now - created

    def warning_at(self, created: float) -> float:
        """From when on the sender should know that the mail is late; infinity when warnings are off."""
        return created + self.delay_warning_seconds if self.delay_warning_seconds > 0 else math.inf

    def plausible_due(self, due: float, now: float) -> float:
        """A stored time, but never further ahead than the schedule could have put it: the clock was set back meanwhile."""
        return min(due, now + max(self.intervals) * (1.0 + JITTER))


class SteadyClock:
    """Wall-clock time that does not jump: seconds since the epoch by which the queue lives.

    It starts as the wall clock and then runs with the monotonic clock. When the two drift apart (somebody set the clock), it
    catches up by at most a tenth of the time that passes. So a jump by a day, in either direction, starts no storm of
    retries and expires nothing.
    """

    __slots__ = ("_clock", "_last_monotonic", "_offset")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_monotonic = clock.monotonic()
        self._offset = clock.now() - self._last_monotonic

    def now(self) -> float:
        monotonic = self._clock.monotonic()
        difference = self._clock.now() - monotonic - self._offset
        if -SMALL_STEP_SECONDS <= difference <= SMALL_STEP_SECONDS:
            self._offset += difference
        else:
            slew = MAX_SLEW * (monotonic - self._last_monotonic)
            self._offset += min(difference, slew) if difference > 0 else max(difference, -slew)
        self._last_monotonic = monotonic
        return monotonic + self._offset

    @property
    def behind(self) -> float:
        """Seconds the wall clock is ahead (negative: it was set back)."""
        return self._clock.now() - self._clock.monotonic() - self._offset
