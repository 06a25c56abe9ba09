"""Shared counters are exact over processes, bounded, and survive a process that is killed inside an operation."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from rusmes._core.counters import SLOT_COUNT, Histogram, Metrics, SharedCounters


def in_children(count: int, work: Callable[[int], None]) -> None:
    """Run `work(index)` in forked processes at the same time; every one must succeed."""
    children = []
    for index in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(index)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * count


def test_metrics_add_up_over_processes() -> None:
    metrics = Metrics(4)
    histogram = Histogram(10, (1.0, 10.0))

    def work(index: int) -> None:
        metrics.use_column(index)
        for _ in range(5000):
            metrics.inc(0)
            metrics.observe(histogram, 5.0)
        metrics.set(1, index + 0.5)

    in_children(4, work)
    assert metrics.count(0) == 20000
    assert metrics.count(0, 2) == 5000
    assert metrics.sample(histogram) == ([0, 20000, 0], 100000.0)
    assert [metrics.level(1, column) for column in range(4)] == [0.5, 1.5, 2.5, 3.5]
    metrics.clear_level(1, 3)
    assert metrics.level(1, 3) == 0


def test_a_value_on_a_bound_belongs_to_the_bucket_below() -> None:
    metrics = Metrics()
    histogram = Histogram(0, (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        metrics.observe(histogram, value)
    assert metrics.sample(histogram) == ([2, 2, 1], 8.0)


def test_slots_have_an_end() -> None:
    metrics = Metrics()
    for slot in (-1, SLOT_COUNT):
        with pytest.raises(IndexError):
            metrics.inc(slot)
        with pytest.raises(IndexError):
            metrics.set(slot, 1.0)
        with pytest.raises(IndexError):
            metrics.count(slot)
    with pytest.raises(IndexError):
        metrics.use_column(1)
    with pytest.raises(ValueError, match="ascend"):
        Histogram(0, (2.0, 1.0))


def test_places_are_limited_over_columns() -> None:
    table = SharedCounters(2)
    assert table.acquire(b"a", 2)
    table.use_column(1)
    assert table.acquire(b"a", 2)
    assert not table.acquire(b"a", 2)
    assert table.acquire(b"b", 2)
    assert table.count(b"a") == 2
    table.release(b"a")
    table.release(b"a")
    assert table.count(b"a") == 1, "a column gives back only what it took"
    assert table.acquire(b"a", 2)


def test_an_entry_that_is_given_back_leaves_the_table() -> None:
    table = SharedCounters()
    for number in range(1000):
        table.acquire(b"%d" % number, 1)
    assert table.used() == 1000
    for number in range(1000):
        table.release(b"%d" % number)
    assert table.used() == 0


def test_exact_under_contention_of_processes() -> None:
    """Never more than the limit inside at once, and nothing is left over: counted by a second, unlimited key."""
    table = SharedCounters(4)
    limit = 3
    over = Metrics(4)

    def work(index: int) -> None:
        table.use_column(index)
        over.use_column(index)
        for _ in range(20000):
            if table.acquire(b"site", limit):
                if table.count(b"site") > limit:
                    over.inc(0)
                over.inc(1)
                table.release(b"site")
            table.acquire(b"total", 0)

    in_children(4, work)
    assert over.count(0) == 0
    assert over.count(1) > 0
    assert table.count(b"site") == 0
    assert table.count(b"total") == 80000


def test_places_of_a_dead_worker_are_given_back() -> None:
    table = SharedCounters(3)

    def work(index: int) -> None:
        table.use_column(index)
        for number in range(100):
            table.acquire(b"client%d" % number, 0)

    in_children(2, work)
    assert table.count(b"client7") == 2
    assert table.reset_worker(0) == 100
    assert table.count(b"client7") == 1
    assert table.reset_worker(1) == 100
    assert table.used() == 0


def test_a_killed_process_leaves_no_lock_behind() -> None:
    """Kill processes that do nothing but take and give back; every stripe must still work, with exact counts."""
    table = SharedCounters(3)
    for _ in range(20):
        child = os.fork()
        if child == 0:
            table.use_column(1)
            while True:
                for number in range(64):
                    table.acquire(b"%d" % number, 5)
                    table.release(b"%d" % number)
        time.sleep(random.uniform(0.001, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        table.reset_worker(1)
        for number in range(64):
            key = b"%d" % number
            assert table.acquire(key, 1)
            assert not table.acquire(key, 1)
            table.release(key)
    assert table.used() == 0


def test_rates_are_limited_in_a_sliding_window() -> None:
    table = SharedCounters()
    now = 1000.0
    assert [table.take_rate(b"r", 3, 60.0, now) for _ in range(5)] == [True, True, True, False, False]
    assert table.peek_rate(b"r", 60.0, now) == 3.0
    # Half a window later in the next window, half of the old events still count.
    assert table.peek_rate(b"r", 60.0, now + 90.0) == 1.5
    assert table.take_rate(b"r", 3, 60.0, now + 90.0)
    assert not table.take_rate(b"r", 3, 60.0, now + 90.0)
    assert table.take_rate(b"r", 3, 60.0, now + 300.0)
    assert table.take_rate(b"other", 0, 60.0, now), "0 is no limit"
    assert not table.take_rate(b"many", 10, 60.0, now, 11)


def test_rates_are_exact_over_processes() -> None:
    table = SharedCounters(4)
    taken = Metrics(4)

    def work(index: int) -> None:
        table.use_column(index)
        taken.use_column(index)
        for _ in range(2000):
            if table.take_rate(b"r", 5000, 3600.0, 1000.0):
                taken.inc(0)

    in_children(4, work)
    assert taken.count(0) == 5000


def test_values_expire() -> None:
    table = SharedCounters()
    assert table.value(b"dead until", 1.0, -1.0) == -1.0
    table.set_value(b"dead until", 60.0, 50.0, 1.0)
    assert table.value(b"dead until", 49.0) == 60.0
    assert table.value(b"dead until", 50.0) == 0.0
    assert table.add_value(b"window", 2.5, 100.0, 1.0) == 2.5
    assert table.add_value(b"window", 2.5, 100.0, 1.0) == 5.0
    assert table.add_value(b"window", 1.0, 300.0, 200.0) == 1.0
    table.clear(b"window")
    assert table.value(b"window", 200.0) == 0.0


def test_clearing_keeps_places_in_use() -> None:
    table = SharedCounters()
    table.acquire(b"k", 0)
    table.take_rate(b"k", 1, 60.0, 1.0)
    table.clear(b"k")
    assert table.count(b"k") == 1
    assert table.peek_rate(b"k", 60.0, 1.0) == 0.0


def test_the_table_is_bounded_and_forgets_what_expires_first() -> None:
    table = SharedCounters(1, 1024)
    for number in range(20000):
        assert table.take_rate(b"%d" % number, 5, 60.0, 1000.0 + number)
    assert table.used() <= 1024
    assert table.peek_rate(b"19999", 60.0, 20999.0) == 1.0
    assert table.peek_rate(b"1", 60.0, 20999.0) == 0.0


def test_places_in_use_are_never_evicted() -> None:
    table = SharedCounters(1, 1024)
    taken = [number for number in range(5000) if table.acquire(b"c%d" % number, 1)]
    assert 512 < len(taken) < 1024
    for number in range(20000):
        table.take_rate(b"r%d" % number, 5, 60.0, 1000.0)
    assert all(table.count(b"c%d" % number) == 1 for number in taken)
    for number in taken:
        table.release(b"c%d" % number)
    # Keys fall on stripes by chance: of 200, one stripe got more than it holds once in a hundred runs.
    assert all(table.acquire(b"new%d" % number, 1) for number in range(80))


def test_the_table_agrees_with_a_dictionary() -> None:
    """Random operations against an oracle: insertion, deletion and probing with collisions."""
    chance = random.Random(7)
    table = SharedCounters(1, 2048)
    oracle: dict[bytes, int] = {}
    for _ in range(20000):
        key = b"%d" % chance.randrange(600)
        if chance.random() < 0.5:
            assert table.acquire(key, 3) == (oracle.get(key, 0) < 3)
            oracle[key] = min(3, oracle.get(key, 0) + 1)
        else:
            table.release(key)
            oracle[key] = max(0, oracle.get(key, 0) - 1)
    for key, count in oracle.items():
        assert table.count(key) == count
    assert table.used() == sum(1 for count in oracle.values() if count)


def test_a_pace_lets_no_more_through_than_its_rate_in_any_period_over_all_workers() -> None:
    table = SharedCounters(2, 1024)
    now, sent = 1000.0, []
    interval, burst = 60.0 / 98, 3  # 100 a minute
    for step in range(12_000):
        table.use_column(step % 2)
        at = now + step * 0.02
        if not table.take_paced(b"p", interval, burst, at):
            sent.append(at)
    assert max(sum(1 for other in sent if at <= other < at + 60) for at in sent) <= 100
    assert len(sent) >= 98 * 4


def test_a_pace_says_when_and_takes_back_what_was_not_used() -> None:
    table = SharedCounters(1, 1024)
    assert table.take_paced(b"p", 10.0, 1.0, 100.0) == 0.0
    assert table.take_paced(b"p", 10.0, 1.0, 103.0) == pytest.approx(7.0)
    table.take_paced(b"p", 10.0, 1.0, 103.0, -1)
    assert table.take_paced(b"p", 10.0, 1.0, 103.0) == 0.0
    assert table.take_paced(b"p", 10.0, 1.0, 113.0) == 0.0
    assert table.take_paced(b"nothing", 0.0, 1.0, 100.0) == 0.0
