"""What sites teach: windows, learned limits, pauses, dead sites; in simulated time, over workers and restarts."""

from __future__ import annotations

import asyncio

import pytest

from rusmes._core.counters import SharedCounters
from rusmes.clock import FakeClock
from rusmes.delivery.feedback import DOWN, MAX_DOWN_SECONDS, WINDOWS, Feedback, SiteMemory, Words
from rusmes.delivery.session import Gone
from rusmes.metrics import Metrics
from rusmes.queue.api import Busy, SharedLimits, SiteLimits
from rusmes.storage.ledger import MemoryLedger

WORDS = Words("connect: refused", 0, "4.4.1", "mx.x.org[192.0.2.1]")


class Lab:
    """One machine: a clock, the shared table, a ledger; `worker` makes a process of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.shared = SharedCounters(3, 1024)
        self.ledger = MemoryLedger(clock=self.clock)

    def worker(self) -> Feedback:
        feedback = Feedback(self.clock, self.shared, Metrics(), self.ledger, random=lambda: 0.0)
        feedback.restore()
        return feedback


@pytest.fixture
def lab() -> Lab:
    return Lab()


def use(lab: Lab, memory: SiteMemory, count: int) -> None:
    """Have `count` connections in use."""
    while lab.shared.count(memory.place_key) < count:
        assert lab.shared.acquire(memory.place_key, 0)
    while lab.shared.count(memory.place_key) > count:
        lab.shared.release(memory.place_key)


def test_a_window_grows_by_one_for_each_of_its_successes_up_to_the_limit(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits(connections=8))
        rooms = []
        for _ in range(60):
            rooms.append(feedback.may_open(memory))
            use(lab, memory, rooms[-1])
            feedback.accepted(memory)
        assert rooms[0] == 5
        assert rooms[-1] == 8
        assert [rooms.index(n) for n in (6, 7, 8)] == [5, 11, 18]
        feedback.save()

    asyncio.run(main())


def test_a_window_does_not_run_away_from_what_is_in_use(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits(connections=100))
        feedback.may_open(memory)
        use(lab, memory, 1)
        for _ in range(1000):
            feedback.accepted(memory)
        assert feedback.may_open(memory) == 6  # one in use, and five more
        feedback.save()

    asyncio.run(main())


def test_failures_shrink_it_at_once_and_then_slowly_and_a_windowful_in_a_row_is_death(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits())
        feedback.may_open(memory)
        feedback.failed(memory, lab.clock.monotonic(), WORDS)
        assert feedback.may_open(memory) == 4
        for _ in range(20):
            feedback.accepted(memory)
            feedback.failed(memory, lab.clock.monotonic(), WORDS)
        assert memory.down is None  # successes between them
        assert feedback.may_open(memory) == 1
        feedback.failed(memory, lab.clock.monotonic(), WORDS)
        assert memory.down is not None
        feedback.save()

    asyncio.run(main())


def test_a_dead_site_is_probed_by_one_connection_after_5_seconds_then_twice_as_long_up_to_half_an_hour(lab: Lab) -> None:
    async def main() -> None:
        feedback, other = lab.worker(), lab.worker()
        memory = feedback.site("s", SiteLimits())
        waits = []
        for _ in range(12):
            feedback.may_open(memory)
            feedback.unreachable(memory, lab.clock.monotonic(), WORDS)
            busy = feedback.not_before("s")
            assert busy is not None
            assert busy.reason == WORDS.text
            with pytest.raises(Busy):
                other.may_open(other.site("s", SiteLimits()))  # known to all workers
            waits.append(busy.retry_after)
            lab.clock.advance(busy.retry_after)
            assert feedback.not_before("s") is None
            assert feedback.may_open(memory) == 1
        assert waits[:4] == [5, 10, 20, 40]
        assert waits[-1] == MAX_DOWN_SECONDS
        feedback.greeted(memory)
        assert feedback.may_open(memory) == 1  # the mail that has waited does not come all at once
        assert other.may_open(other.site("s", SiteLimits())) == 1
        feedback.save()
        other.save()

    asyncio.run(main())


def test_another_worker_that_reaches_it_ends_the_wait_of_all(lab: Lab) -> None:
    async def main() -> None:
        feedback, other = lab.worker(), lab.worker()
        feedback.unreachable(feedback.site("s", SiteLimits()), lab.clock.monotonic(), WORDS)
        with pytest.raises(Busy):
            other.may_open(other.site("s", SiteLimits()))
        lab.clock.advance(3)
        feedback.greeted(feedback.site("s", SiteLimits()))
        assert other.not_before("s") is None
        feedback.save()
        other.save()

    asyncio.run(main())


def test_of_tries_that_fail_together_the_first_counts(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits())
        started = lab.clock.monotonic()
        lab.clock.advance(30)
        for _ in range(5):
            feedback.unreachable(memory, started, WORDS)
        busy = feedback.not_before("s")
        assert busy is not None
        assert busy.retry_after == 5
        feedback.save()

    asyncio.run(main())


def test_a_refusal_for_ever_is_shared_by_its_mail_and_not_kept_over_a_restart(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits())
        feedback.unreachable(memory, lab.clock.monotonic(), WORDS, Gone("521"))
        assert feedback.not_before("s") is None
        with pytest.raises(Gone):
            feedback.may_open(memory)
        feedback.save()
        assert list(lab.ledger.items(DOWN)) == []

    asyncio.run(main())


def test_a_server_that_refuses_the_sixth_connection_is_asked_for_a_sixth_ever_more_rarely(lab: Lab) -> None:
    """A provider that answers 421 above 5 connections sees <= 5 % refused after two minutes."""

    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits(connections=20))
        tries: list[tuple[float, bool]] = []
        began = lab.clock.monotonic()
        for _ in range(3600):
            # Each second: connections are renewed, and ten messages are accepted.
            use(lab, memory, 0)
            for _ in range(feedback.may_open(memory)):
                lab.shared.acquire(memory.place_key, 0)
                memory.opening += 1
                refused = lab.shared.count(memory.place_key) > 5
                tries.append((lab.clock.monotonic() - began, refused))
                if refused:
                    feedback.crowded(memory)
                    lab.shared.release(memory.place_key)
                else:
                    feedback.greeted(memory)
                memory.opening -= 1
            for _ in range(10):
                feedback.accepted(memory)
            lab.clock.advance(1)
        late = [refused for at, refused in tries if at > 120]
        assert sum(late) / len(late) < 0.001
        assert max(feedback.may_open(memory) for _ in range(3)) >= 5
        feedback.save()

    asyncio.run(main())


def test_a_limit_that_was_lifted_is_found_out(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits(connections=20))
        feedback.may_open(memory)
        use(lab, memory, 3)
        memory.opening = 1
        feedback.crowded(memory)
        memory.opening = 0
        assert feedback.may_open(memory) == 2
        for _ in range(600):
            room = feedback.may_open(memory)
            use(lab, memory, room)
            feedback.greeted(memory)
            for _ in range(30):
                feedback.accepted(memory)
            lab.clock.advance(5)
        assert feedback.may_open(memory) == 20
        feedback.save()

    asyncio.run(main())


def test_who_says_that_we_are_too_fast_is_left_alone_longer_each_time_and_forgiven_slowly(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits())
        waits = []
        for _ in range(10):
            started = lab.clock.monotonic()
            waits.append(feedback.slow_down(memory, started, Words("slow down", 421)))
            assert feedback.slow_down(memory, started - 1, Words("slow down", 421)) == waits[-1]  # said at once by another
            busy = feedback.not_before("s")
            assert busy is not None
            assert (busy.code, busy.reason) == (421, "slow down")
            lab.clock.advance(waits[-1])
            assert feedback.not_before("s") is None
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
        for _ in range(20):
            feedback.accepted(memory)
        assert feedback.slow_down(memory, lab.clock.monotonic(), Words("slow down")) == 300
        lab.clock.advance(300)
        for _ in range(40):
            feedback.accepted(memory)
        assert feedback.slow_down(memory, lab.clock.monotonic(), Words("slow down")) == 150
        feedback.save()

    asyncio.run(main())


def test_all_of_it_is_there_after_a_restart(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        limits = SiteLimits(connections=20)
        learned = feedback.site("learned", limits)
        feedback.may_open(learned)
        use(lab, learned, 4)
        learned.opening = 1
        feedback.crowded(learned)
        dead = feedback.site("dead", limits)
        for _ in range(4):
            feedback.unreachable(dead, lab.clock.monotonic(), WORDS)
            lab.clock.advance(40)
        feedback.unreachable(dead, lab.clock.monotonic(), WORDS)
        slow = feedback.site("slow", limits)
        feedback.slow_down(slow, lab.clock.monotonic(), Words("slow down", 421))
        feedback.slow_down(slow, lab.clock.monotonic(), Words("slow down", 421))
        feedback.save()
        before = {key: busy.retry_after for key in ("dead", "slow") if (busy := feedback.not_before(key)) is not None}
        lab.shared = SharedCounters(3, 1024)
        again = lab.worker()
        after = {key: busy.retry_after for key in ("dead", "slow") if (busy := again.not_before(key)) is not None}
        assert after == pytest.approx(before)
        assert set(after) == {"dead", "slow"}
        memory = again.site("learned", limits)
        assert again.may_open(memory) == 3
        lab.clock.advance(before["dead"])
        dead = again.site("dead", limits)
        assert again.may_open(dead) == 1
        again.unreachable(dead, lab.clock.monotonic(), WORDS)
        busy = again.not_before("dead")
        assert busy is not None
        assert busy.retry_after > before["dead"]  # the wait grows on from where it was

    asyncio.run(main())


def test_what_is_written_is_written_once_a_second_at_most(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        memory = feedback.site("s", SiteLimits(connections=100))
        for _ in range(500):
            use(lab, memory, feedback.may_open(memory))
            feedback.accepted(memory)
        assert lab.ledger.generation == 0  # nothing yet, though the window has changed many times
        feedback.save()
        assert len(list(lab.ledger.items(WINDOWS))) == 1
        lab.ledger.put(WINDOWS, b"damaged", b"\xff")
        lab.worker()

    asyncio.run(main())


def test_rates_hold_over_workers_and_shared_names_and_what_is_refused_is_given_back(lab: Lab) -> None:
    feedback, other = lab.worker(), lab.worker()
    provider = SharedLimits("provider", messages_per_minute=60.0)
    one = feedback.site("one", SiteLimits(messages_per_second=100.0, shared=(provider,)))
    two = other.site("two", SiteLimits(shared=(provider,)))
    assert feedback.take(one.message_rates) == 0.0
    sent, at = 1, lab.clock.monotonic()
    while lab.clock.monotonic() < at + 59.9:
        for worker, memory in ((feedback, one), (other, two)):
            sent += not worker.take(memory.message_rates)
        lab.clock.advance(0.05)
    assert 55 <= sent <= 60
    assert 0 < feedback.take(one.message_rates) < 2
    feedback.give_back(one.message_rates)


def test_a_reload_changes_limits_and_rates(lab: Lab) -> None:
    feedback = lab.worker()
    memory = feedback.site("s", SiteLimits(connections=20))
    assert memory.message_rates == ()
    assert feedback.site("s", SiteLimits(connections=3, messages_per_hour=10.0, connections_per_second=1.0)) is memory
    assert len(memory.message_rates) == len(memory.start_rates) == 1
    assert feedback.may_open(memory) == 3


def test_an_operator_may_have_it_tried_now(lab: Lab) -> None:
    async def main() -> None:
        feedback = lab.worker()
        feedback.unreachable(feedback.site("s", SiteLimits()), lab.clock.monotonic(), WORDS)
        feedback.forget_trouble("s")
        feedback.forget_trouble("unknown")
        assert feedback.not_before("s") is None
        assert feedback.may_open(feedback.site("s", SiteLimits())) == 1
        feedback.save()

    asyncio.run(main())
