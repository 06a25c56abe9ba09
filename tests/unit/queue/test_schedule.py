"""Retry times, expiry and clocks that jump, in simulated time (D10)."""

from __future__ import annotations

import random

import pytest

from rusmes.clock import FakeClock
from rusmes.config.schema import Config
from rusmes.queue.schedule import Schedule, SteadyClock

HOUR = 3600.0
DAY = 24 * HOUR


def test_default_schedule_grows_and_its_last_wait_repeats() -> None:
    schedule = Schedule.of(Config())
    waits = [schedule.interval(attempt) for attempt in range(1, 10)]
    assert waits == [300, 600, 1200, 2400, HOUR, 2 * HOUR, 4 * HOUR, 4 * HOUR, 4 * HOUR]


def test_jitter_is_ten_percent_both_ways() -> None:
    schedule = Schedule([100.0], DAY, 0, random.Random(1).random)
    waits = [schedule.next_due(1, 1000.0) - 1000.0 for _ in range(2000)]
    assert 90.0 <= min(waits) < 91.0
    assert 109.0 < max(waits) <= 110.0
    assert sum(waits) / len(waits) == pytest.approx(100, abs=1)


def test_five_days_of_retries() -> None:
    schedule = Schedule.of(Config())
    now, attempts = 0.0, 0
    warned = []
    while True:
        attempts += 1
        if schedule.wants_warning(0.0, now):
            warned.append(now)
        if schedule.is_expired(0.0, now):
            break
        now = schedule.next_due(attempts, now)
    assert 5 * DAY <= now < 5 * DAY + 4.4 * HOUR
    assert 30 < attempts < 42
    assert warned[0] < 8.8 * HOUR


def test_no_warning_when_it_is_off() -> None:
    assert not Schedule([60], DAY, 0).wants_warning(0, 10 * DAY)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_d10_a_jump_of_the_wall_clock_is_absorbed_slowly(jump: float) -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    before = steady.now()
    clock.jump_wall_clock(jump)
    assert steady.now() == pytest.approx(before)
    for _ in range(60):
        clock.advance(60)
        last = steady.now()
    assert last - before == pytest.approx(HOUR + (360 if jump > 0 else -360))
    for _ in range(11 * 24):
        clock.advance(HOUR)
        steady.now()
    assert steady.now() == pytest.approx(clock.now(), abs=1)


def test_small_steps_are_followed_at_once() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    clock.jump_wall_clock(1.5)
    assert steady.now() == clock.now()


def test_steady_time_never_goes_back() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    chance = random.Random(2)
    last = steady.now()
    for _ in range(1000):
        clock.advance(chance.random() * 100)
        if chance.random() < 0.1:
            clock.jump_wall_clock(chance.uniform(-DAY, DAY))
        now = steady.now()
        assert now >= last - 2.0
        last = now


def test_d10_stored_time_far_ahead_is_brought_near() -> None:
    schedule = Schedule([300, HOUR], DAY, 0)
    assert schedule.plausible_due(1000.0 + 600, 1000.0) == 1600.0
    assert schedule.plausible_due(1000.0 + DAY, 1000.0) == 1000.0 + 1.1 * HOUR
