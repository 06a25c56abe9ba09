"""The engine in simulated time: what is tried when, what survives, what senders hear."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec import structs

from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Processor, Step
from rusmes.config.units import Duration, Size
from rusmes.errors import StoreError
from rusmes.model.content import Rendering
from rusmes.model.mail import NOTIFY_NEVER, NOTIFY_SUCCESS, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue import outcomes, sites
from rusmes.queue.api import Busy, Report, SiteLimits, Target
from rusmes.queue.runner import Runner
from rusmes.storage.memory_queue import MemoryQueueStore
from tests.sinks.engine import address
from tests.unit.queue.scripted import Bench, bench, delayed, delivered, failed, simulated

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


def run(test: Callable[[Bench], Awaitable[None]], *args: Any, **parts: Any) -> None:
    async def main() -> None:
        async with bench(*args, **parts) as made:
            await test(made)

    asyncio.run(main())


def test_delivered_at_once_and_gone() -> None:
    async def test(b: Bench) -> None:
        await b.engine.send("a@x.org", "b@x.org", "c@y.org")
        await b.settle()
        assert sorted(names for _, names in b.deliveries.sent) == [("a", "b"), ("c",)]
        assert not b.entries
        assert b.runner.size == 0
        assert b.runner._held_bytes == 0

    run(test)


def test_only_those_who_are_left_are_tried_again() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.by_recipient = {"b": delayed, "c": failed}
        await b.engine.send("a@x.org", "b@x.org", "c@x.org", sender=None)
        await b.settle()
        (entry,) = b.entries
        assert [state.status for state in entry.states] == ["delivered", "deferred", "failed"]
        assert entry.states[1].last_reply == "451 4.3.0 later"
        assert entry.states[1].attempts == 1
        assert 0.9 * 10 * MINUTE <= entry.states[1].due - b.clock.now() <= 1.1 * 10 * MINUTE
        b.deliveries.by_recipient = {}
        await b.advance(8 * MINUTE)
        assert len(b.deliveries.sent) == 1
        await b.advance(4 * MINUTE)
        assert b.deliveries.sent[-1][1] == ("b",)
        assert not b.entries

    run(test)


def test_a_restart_changes_no_schedule() -> None:
    async def main() -> None:
        store, clock = MemoryQueueStore(inline_limit=65536), FakeClock()
        async with bench(store=store, clock=clock) as first:
            first.deliveries.answer = delayed
            for _ in range(20):
                await first.engine.send("a@x.org")
            await first.settle()
            await first.advance(11 * MINUTE)
        before = {entry.item.id: [(s.due, s.attempts, s.status) for s in entry.states] for entry in store.entries()}
        clock.advance(5 * MINUTE)
        async with bench(store=store, clock=clock) as second:
            await second.settle()
            after = {entry.item.id: [(s.due, s.attempts, s.status) for s in entry.states] for entry in store.entries()}
            assert after == before
            assert not second.deliveries.sent
            assert second.runner._waiting._due == {id: states[0][0] for id, states in before.items()}
            for id, states in sorted(before.items(), key=lambda pair: pair[1][0][0]):
                await second.advance(states[0][0] - clock.now() + 1)
                assert id in {sent for sent, _ in second.deliveries.sent}

    asyncio.run(main())


def test_retries_until_the_end_of_the_mails_age_then_a_notice() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.by_recipient = {"bob": delayed}
        await b.engine.send("bob@x.org", sender="alice@example.com")
        start = b.clock.now()
        await b.settle()
        while b.entries and b.clock.now() < start + 3 * DAY:
            await b.advance(10 * MINUTE)
        assert DAY <= b.clock.now() - start < DAY + 2 * HOUR
        inbox = await b.engine.inbox("alice@example.com")
        assert len(inbox) == 2
        assert b"Subject: Your message is delayed" in inbox[0]
        assert b"Will-Retry-Until:" in inbox[0]
        assert b"Action: failed\r\nStatus: 4.4.7" in inbox[1]
        assert b"\r\nDiagnostic-Code: smtp; 451 4.3.0 later\r\n" in inbox[1]
        assert 23 <= len(b.deliveries.sent) <= 30

    run(test)


def test_delay_warning_comes_once() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = delayed
        await b.engine.send("bob@x.org", sender="alice@example.com")
        for _ in range(20):
            await b.advance(HOUR)
        assert len(await b.engine.inbox("alice@example.com")) == 1

    run(test)


def waiting(b: Bench, *recipients: str, seconds: float, **more: Any) -> Queued:
    """A mail that a mailet has deferred."""
    mail = b.engine.mail(*recipients, sender="alice@example.com", **more)
    return Queued(
        mail.id, "resume", mail.sender, tuple(mail.recipients), Rendering(mail.content), mail.origin, mail.created,
        state="root", step=0, due=b.clock.now() + seconds, reason="too early",
    )  # fmt: skip


def open_relay(*steps: Step, **queue: Any) -> Config:
    """What is not local goes through the steps and out."""
    mailets = (Step(matcher="RecipientIsLocal", mailet="LocalDelivery"), *steps, Step(mailet="RemoteDelivery"))
    error = Processor(name="error", state="error", mailets=(Step(mailet="Hold"),))
    return structs.replace(simulated(**queue), processors=(Processor(name="root", state="root", mailets=mailets), error))


@pytest.mark.parametrize("restart", [False, True])
def test_a_mail_that_waits_in_the_pipeline_gets_its_delay_warning_in_time(restart: bool) -> None:
    async def test(b: Bench) -> None:
        row = waiting(b, "bob@x.org", "carol@x.org", seconds=6 * HOUR)
        await b.store.put([row])
        if restart:
            await b.runner._recover_all()
        else:
            b.runner.kick([row])
        await b.advance(1.9 * HOUR)
        assert not await b.engine.inbox("alice@example.com")
        await b.advance(0.2 * HOUR)
        (notice,) = await b.engine.inbox("alice@example.com")
        assert b"Action: delayed" in notice
        assert b"bob@x.org" in notice
        assert b"carol@x.org" in notice
        assert b"too early" not in notice
        (entry,) = b.entries
        assert [(state.delay_noticed, state.attempts, state.due) for state in entry.states] == [(True, 0, row.due)] * 2
        b.deliveries.answer = delayed
        for _ in range(20):  # it goes on, fails and is late: the sender knows
            await b.advance(HOUR)
        assert len(b.deliveries.sent) > 5
        assert len(await b.engine.inbox("alice@example.com")) == 1

    run(test)


def test_a_mail_that_is_deferred_again_and_again_gets_one_warning() -> None:
    async def test(b: Bench) -> None:
        await b.store.put([row := waiting(b, "bob@x.org", seconds=HOUR)])
        b.runner.kick([row])
        for _ in range(4 * 24):
            await b.advance(HOUR / 4)
        assert b.deliveries.sent == []
        assert len(await b.engine.inbox("alice@example.com")) == 1

    run(test, config=open_relay(Step(mailet="Defer", params={"delay": "1h", "times": 1000})))


@pytest.mark.parametrize("case", ["null sender", "stranger", "off"])
def test_no_warning_about_waiting_to(case: str) -> None:
    async def test(b: Bench) -> None:
        row = waiting(b, "bob@x.org", seconds=6 * HOUR, trusted=case != "stranger")
        if case == "null sender":
            row.sender = None
        await b.store.put([row])
        b.runner.kick([row])
        await b.advance(5 * HOUR)
        assert len(b.entries) == 1
        assert not await b.engine.inbox("alice@example.com")
        await b.advance(2 * HOUR)
        assert len(b.deliveries.sent) == 1
        assert not await b.engine.inbox("alice@example.com")

    run(test, config=open_relay(delay_warning=Duration(0)) if case == "off" else open_relay())


def test_a_warning_that_cannot_be_written_comes_later() -> None:
    async def test(b: Bench) -> None:
        await b.store.put([row := waiting(b, "bob@x.org", seconds=6 * HOUR)])
        b.runner.kick([row])
        report = b.runner._notices.report
        b.runner._notices.report = lambda *_, **__: (_ for _ in ()).throw(StoreError("full"))  # type: ignore[method-assign]
        await b.advance(2.1 * HOUR)
        b.runner._notices.report = report  # type: ignore[method-assign]
        assert not await b.engine.inbox("alice@example.com")
        await b.advance(HOUR)
        assert len(await b.engine.inbox("alice@example.com")) == 1

    run(test)


def test_failure_notice_goes_with_the_outcome_and_through_the_pipeline() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.by_recipient = {"bob": failed}
        changes = []
        original = b.store.change

        async def change(what: Any, new: Any = ()) -> None:
            changes.append((list(what), list(new)))
            await original(what, new)

        b.store.change = change  # type: ignore[method-assign]
        await b.engine.send("bob@x.org", sender="alice@example.com")
        await b.settle()
        removed, rows = changes[0]
        assert removed[0].remove
        assert [(row.action, row.sender) for row in rows] == [("local", None)]
        assert len(await b.engine.inbox("alice@example.com")) == 1
        assert not b.entries

    run(test)


@pytest.mark.parametrize("case", ["null sender", "never", "untrusted"])
def test_b6_b9_no_notice(case: str) -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = failed
        notify = NOTIFY_NEVER if case == "never" else 0
        sender = None if case == "null sender" else "alice@example.com"
        recipient = Recipient(address("bob@x.org"), notify=notify, forwarded=True)
        await b.engine.send(recipient, sender=sender, trusted=case != "untrusted")
        await b.settle()
        assert not b.entries
        assert await b.engine.inbox("alice@example.com") == []

    run(test)


def test_b7_a_notice_that_fails_makes_no_notice() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = failed
        await b.engine.send("bob@x.org", sender="sam@y.org")
        await b.settle()
        assert [names for _, names in b.deliveries.sent] == [("bob",), ("sam",)]
        assert not b.entries

    run(test)


def test_relayed_and_local_success_notices() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = lambda r: Report(r, "relayed", 250, "2.0.0", "ok", "mx.example")
        wants = Recipient(address("bob@x.org"), notify=NOTIFY_SUCCESS)
        local = Recipient(address("bob@example.com"), account="bob@example.com", notify=NOTIFY_SUCCESS)
        await b.engine.send(wants, local, "c@x.org", sender="alice@example.com")
        await b.settle()
        inbox = await b.engine.inbox("alice@example.com")
        assert sorted(b"Action: relayed" in message for message in inbox) == [False, True]
        assert sorted(b"Action: delivered" in message for message in inbox) == [False, True]
        assert len(await b.engine.inbox("bob@example.com")) == 1

    run(test)


def test_local_rows_are_appended_once_even_when_the_outcome_is_lost() -> None:
    async def main() -> None:
        async with bench() as first:
            first.deliveries.answer = delayed
            original = first.store.change

            async def lost(what: Any, new: Any = ()) -> None:
                raise StoreError("disk", "test")

            first.store.change = lost  # type: ignore[method-assign]
            await first.engine.send("alice@example.com", "bob@x.org")
            for _ in range(300):
                await asyncio.sleep(0)
            assert len(await first.engine.inbox("alice@example.com")) == 1
            # The crash: what the runner knows is gone, the stores are as they were.
            for task in first.runner._tasks:
                task.cancel()
            first.runner._outcomes.abandon()
            first.runner._outcomes._waiting.clear()
            first.store.change = original  # type: ignore[method-assign]
            engine = first.engine
            again = Runner(
                engine.queue_store, engine.mail_store, engine.pipeline, first.deliveries, engine.notices,
                first.clock, engine.ids, engine.metrics, engine.config,
            )  # fmt: skip
            again.start()
            for _ in range(300):
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            assert len(await first.engine.inbox("alice@example.com")) == 1
            assert [entry.item.action for entry in first.entries] == ["relay"]
            await again.stop(1.0)

    asyncio.run(main())


def test_outcomes_survive_a_store_that_fails_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.queue.outcomes.MIN_RETRY_SECONDS", 0.01)

    async def test(b: Bench) -> None:
        original, failures = b.store.change, 3

        async def change(what: Any, new: Any = ()) -> None:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise StoreError("no", "test")
            await original(what, new)

        b.store.change = change  # type: ignore[method-assign]
        for _ in range(5):
            await b.engine.send("a@x.org")
        await asyncio.sleep(0.3)
        assert failures < 0
        assert len(b.deliveries.sent) == 5
        assert not b.entries

    run(test)


def test_outcomes_are_committed_together_within_50_ms() -> None:
    assert outcomes.WINDOW_SECONDS <= 0.05

    async def test(b: Bench) -> None:
        commits: list[int] = []
        original = b.store.change

        async def change(what: Any, new: Any = ()) -> None:
            commits.append(len(what))
            await original(what, new)

        b.store.change = change  # type: ignore[method-assign]
        rows = [b.engine.mail("a@x.org") for _ in range(50)]
        for mail in rows:
            await b.engine.intake.accept(mail)
        while b.entries:
            await asyncio.sleep(0.01)
        assert sum(commits) == 50
        assert max(commits) > 10

    run(test)


def test_outcomes_go_along_with_the_next_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "WINDOW_SECONDS", 60.0)

    async def test(b: Bench) -> None:
        await b.engine.send("first@x.org")
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(b.deliveries.sent) == len(b.entries) == 1
        await b.engine.send("second@x.org")
        for _ in range(100):
            await asyncio.sleep(0)
        assert [entry.item.recipients[0].address.local for entry in b.entries] == ["second"]

    run(test)


def test_crash_window_only_uncommitted_outcomes_are_repeated() -> None:
    """D3: what was delivered and not committed when the process died is delivered again, and nothing else is."""

    async def main() -> None:
        store, clock = MemoryQueueStore(inline_limit=65536), FakeClock()
        async with bench(store=store, clock=clock) as first:
            for _ in range(10):
                await first.engine.send("a@x.org")
            await first.settle()

            async def dead(what: Any, new: Any = ()) -> None:
                await asyncio.Event().wait()

            original, store.change = store.change, dead  # type: ignore[method-assign]
            for _ in range(7):
                await first.engine.send("a@x.org")
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(first.deliveries.sent) == 17
            uncommitted = {id for id, _ in first.deliveries.sent[10:]}
            for task in first.runner._tasks:
                task.cancel()
            first.runner._outcomes.abandon()
            first.runner._outcomes._waiting.clear()
            store.change = original  # type: ignore[method-assign]
        async with bench(store=store, clock=clock) as second:
            await second.settle()
            assert {id for id, _ in second.deliveries.sent} == uncommitted
            assert len(second.deliveries.sent) == 7
            assert not second.entries

    asyncio.run(main())


def test_site_concurrency_is_kept_and_used() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.gate = asyncio.Event()
        for _ in range(30):
            await b.engine.send("a@x.org")
            await b.engine.send("a@y.org")
        for _ in range(100):
            await asyncio.sleep(0)
        assert b.deliveries.under_way == 6
        b.deliveries.gate.set()
        await b.settle()
        assert b.deliveries.most_under_way == 6
        assert len(b.deliveries.sent) == 60

    run(test)


def test_more_than_this_process_share_of_a_site_is_used_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "GROWTH_SECONDS", 0.3)  # far more than what comes before the first look

    async def test(b: Bench) -> None:
        b.deliveries.limits = SiteLimits(connections=6, workers=2)
        b.deliveries.gate = asyncio.Event()
        for _ in range(30):
            await b.engine.send("a@x.org")
        for _ in range(100):
            await asyncio.sleep(0)
        assert b.deliveries.under_way == 3
        while b.deliveries.under_way < 6:
            await asyncio.sleep(0.01)
        b.deliveries.gate.set()
        await b.settle()
        assert b.deliveries.most_under_way == 6

    run(test)


def test_busy_keeps_the_mail_in_place() -> None:
    async def test(b: Bench) -> None:
        calls = 0
        original = b.deliveries.deliver

        async def deliver(item: Any, recipients: Any, destination: str, worker: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls in (1, 2, 3):
                raise Busy(0.01)
            return await original(item, recipients, destination)

        b.deliveries.deliver = deliver  # type: ignore[method-assign]
        ids = [(await b.engine.send("a@x.org")).queue_ids[0] for _ in range(5)]
        await asyncio.sleep(0.2)
        assert len(b.deliveries.sent) == len(ids)
        assert not b.entries
        assert b.runner._sites._sites == {}

    run(test)


def test_domains_with_one_site_share_a_transaction() -> None:
    async def test(b: Bench) -> None:
        shared = Target("mx.provider.example", SiteLimits(connections=2, recipients_per_transaction=3))
        b.deliveries.targets = dict.fromkeys(["x.org", "y.org", "z.org"], shared)
        b.deliveries.targets["gone.org"] = Refusal(550, "5.1.2", "no such domain")
        b.deliveries.targets["dark.org"] = Refusal(451, "4.4.3", "name service")
        await b.engine.send("a@x.org", "b@y.org", "c@z.org", "d@x.org", "e@gone.org", "f@dark.org", sender=None)
        await b.settle()
        assert sorted(names for _, names in b.deliveries.sent) == [("a", "d", "b"), ("c",)]
        (entry,) = b.entries
        assert [s.status for s in entry.states] == ["delivered"] * 4 + ["failed", "deferred"]

    run(test)


def test_a_defect_in_the_deliverer_delays() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.error = RuntimeError("boom")
        await b.engine.send("a@x.org")
        await b.settle()
        (entry,) = b.entries
        assert entry.states[0].status == "deferred"
        assert "internal error" in entry.states[0].last_reply

    run(test)


def test_a_notice_that_cannot_be_written_loses_nothing() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = failed
        original = b.engine.notices.report

        def report(*args: Any, **more: Any) -> Any:
            raise StoreError("no space", "test")

        b.engine.notices.report = report  # type: ignore[method-assign]
        await b.engine.send("bob@x.org", sender="alice@example.com")
        await b.settle()
        (entry,) = b.entries
        assert entry.states[0].status == "deferred"
        b.engine.notices.report = original  # type: ignore[method-assign]
        await b.advance(12 * MINUTE)
        assert not b.entries
        assert len(await b.engine.inbox("alice@example.com")) == 1

    run(test)


@pytest.mark.parametrize("jump", [DAY * 2, -DAY * 2])
def test_d10_a_clock_that_jumps_expires_nothing_and_starts_no_storm(jump: float) -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = delayed
        for _ in range(20):
            await b.engine.send("a@x.org", sender=None)
        await b.settle()
        b.clock.jump_wall_clock(jump)
        await b.advance(MINUTE)
        assert len(b.deliveries.sent) == 20
        assert len(b.entries) == 20
        await b.advance(11 * MINUTE)
        assert len(b.deliveries.sent) >= 30
        b.deliveries.answer = delivered
        await b.advance(2 * HOUR)
        assert not b.entries

    run(test)


def test_memory_is_bounded_and_every_mail_still_goes() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.gate = asyncio.Event()
        for _ in range(300):
            await b.engine.send("a@x.org", data=b"Subject: x\r\n\r\n" + b"y" * 10000 + b"\r\n")
        await asyncio.sleep(0)
        assert b.runner._held_bytes < 150_000
        b.deliveries.gate.set()
        await b.settle()
        assert len(b.deliveries.sent) == 300
        assert not b.entries
        assert b.runner._held_bytes == 0

    run(test, simulated(memory=Size("100KB")))


def test_a_waiting_recipient_takes_less_than_400_bytes() -> None:
    async def test(b: Bench) -> None:
        chance = random.Random(1)
        now = b.clock.now()
        ids = [b.engine.ids.next_id() for _ in range(20_000)]
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for id in ids:
            b.runner._wait(bytes(bytearray(id)), now + 1000 + chance.random())
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert (after - before) / len(ids) < 400

    run(test)


def test_new_mail_is_served_before_the_backlog_is_known() -> None:
    async def main() -> None:
        store, clock = MemoryQueueStore(inline_limit=65536), FakeClock()
        async with bench(store=store, clock=clock) as first:
            first.deliveries.answer = delayed
            for _ in range(300):
                await first.engine.send("a@x.org")
            await first.settle()
        made = Bench(simulated(), store=store, clock=clock)
        made.runner.start()
        await asyncio.sleep(0)
        assert not made.runner.recovered
        await made.engine.send("new@x.org")
        for _ in range(3):
            await asyncio.sleep(0)
        assert made.deliveries.sent[0][1] == ("new",)
        await made.settle()
        assert made.runner.recovered
        assert made.runner.size == 300
        await made.runner.stop(1.0)

    asyncio.run(main())


def test_stop_lets_deliveries_end_and_commits_them() -> None:
    async def main() -> None:
        made = Bench(simulated())
        made.runner.start()
        made.deliveries.gate = asyncio.Event()
        for _ in range(10):
            await made.engine.send("a@x.org")
        await asyncio.sleep(0.01)
        assert made.deliveries.under_way == 3
        asyncio.get_running_loop().call_later(0.05, made.deliveries.gate.set)
        await made.runner.stop(2.0)
        assert len(made.deliveries.sent) == 3
        assert len(made.entries) == 7

    asyncio.run(main())


def test_resume_replaces_the_entry_by_its_plan() -> None:
    async def test(b: Bench) -> None:
        mail = b.engine.mail("a@x.org", "alice@example.com")
        row = Queued(
            mail.id, "resume", mail.sender, tuple(mail.recipients), Rendering(mail.content), mail.origin, mail.created,
            state="root", step=0, due=b.clock.now() + 60,
        )  # fmt: skip
        await b.store.put([row])
        b.runner.kick([row])
        await b.settle()
        assert len(b.entries) == 1
        await b.advance(61)
        assert not b.entries
        assert b.deliveries.sent[0][1] == ("a",)
        assert len(await b.engine.inbox("alice@example.com")) == 1

    run(test)


def test_an_entry_that_cannot_be_read_comes_later() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = delayed
        await b.engine.send("a@x.org", sender=None)
        await b.settle()
        b.deliveries.answer = delivered
        original = b.store.get

        async def get(id: bytes) -> Any:
            raise StoreError("unreadable", "test")

        b.store.get = get  # type: ignore[method-assign]
        await b.advance(12 * MINUTE)
        assert b.runner.size == 1
        b.store.get = original  # type: ignore[method-assign]
        await b.advance(12 * MINUTE)
        assert not b.entries
        assert b.runner.size == 0

    run(test)


def test_a_defect_in_the_runner_loses_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(b: Bench) -> None:
        def broken(*args: Any) -> None:
            raise RuntimeError("boom")

        with monkeypatch.context() as patch:
            patch.setattr(b.runner._attempts, "count_delivered", broken)
            await b.engine.send("a@x.org")
            await b.settle()
        assert b.runner.size == 1
        assert b.runner._held_bytes == 0
        await b.advance(12 * MINUTE)
        assert len(b.deliveries.sent) == 2
        assert not b.entries

    run(test)


def test_a_reload_changes_the_schedule_of_later_attempts() -> None:
    async def test(b: Bench) -> None:
        b.deliveries.answer = delayed
        await b.engine.send("a@x.org", sender=None)
        await b.settle()
        due = b.entries[0].states[0].due
        b.runner.apply(simulated(retry_schedule=(Duration("1m"),)))
        assert b.entries[0].states[0].due == due
        await b.advance(due - b.clock.now() + 1)
        assert 50 <= b.entries[0].states[0].due - b.clock.now() <= 70

    run(test)


def test_a_name_server_that_hangs_holds_up_only_its_own_recipients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.queue.lookups.GROUP_SECONDS", 0.02)

    async def test(b: Bench) -> None:
        gate = asyncio.Event()
        original = b.deliveries.find_target
        b.deliveries.targets = {name: Target(name, SiteLimits()) for name in ("x.org", "slow.org")}

        async def find_target(destination: str) -> Any:
            if destination == "slow.org":
                await gate.wait()
            return await original(destination)

        b.deliveries.find_target = find_target  # type: ignore[method-assign]
        await b.engine.send("a@x.org", "b@slow.org", "c@y.org")
        await asyncio.sleep(0.1)
        assert sorted(names for _, names in b.deliveries.sent) == [("a",), ("c",)]
        assert [s.status for s in b.entries[0].states] == ["delivered", "queued", "delivered"]
        gate.set()
        await b.settle()
        assert not b.entries
        assert b.runner.size == 0

    run(test)
