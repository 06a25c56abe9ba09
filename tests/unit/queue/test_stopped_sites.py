"""Sites that are down, too slow or suspended: their mail keeps its place, costs no attempt and no room, and holds up nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec import structs

from rusmes.clock import FakeClock
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued
from rusmes.queue import patience
from rusmes.queue import runner as runner_room
from rusmes.queue import sites as sites_room
from rusmes.queue.api import FOREVER, Busy, Paced, Postponed, Report, SiteLimits
from rusmes.queue.suspensions import Suspensions
from rusmes.storage.ledger import MemoryLedger
from tests.unit.queue.scripted import Bench, bench, delayed, simulated

pytestmark = pytest.mark.usefixtures("_small_rooms")

HOUR = 3600.0


@pytest.fixture
def _small_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites_room, "SITE_JOBS", 20)
    monkeypatch.setattr(sites_room, "FLOW_JOBS", 10)


def resume(b: Bench) -> None:
    """What the pauses' timers do."""
    for site in list(b.runner._sites._sites.values()):
        b.runner._sites._resume(site)


async def accept(b: Bench, count: int, domain: str, *, tenant: str = "") -> None:
    for n in range(count):
        mail = b.engine.mail(f"u{n}@{domain}")
        if tenant:
            mail.origin = structs.replace(mail.origin, account=tenant)
        await b.engine.intake.accept(mail)


def test_mail_of_a_dead_site_waits_as_ids_and_counts_no_attempt() -> None:
    async def main() -> None:
        async with bench() as b:
            b.deliveries.dead["dead.example"] = (FOREVER, "no answer")
            await accept(b, 60, "dead.example")
            await accept(b, 5, "live.example")
            await b.settle()
            assert len(b.deliveries.sent) == 5
            assert b.runner._sites.jobs <= sites_room.STOPPED_JOBS
            assert len(b.runner._waiting) >= 50
            assert all(state.attempts == 0 for entry in b.entries for state in entry.states)
            b.deliveries.dead.clear()
            resume(b)
            for _ in range(30):
                await b.settle()
            assert len(b.deliveries.sent) == 65
            assert [recipients for _, recipients in b.deliveries.sent[5:]] == [(f"u{n}",) for n in range(60)]  # in order
            assert b.entries == []
            assert b.runner._sites._sites == {}
            assert b.runner.size == 0

    asyncio.run(main())


def test_a_site_that_dies_gives_up_its_jobs_in_their_order() -> None:
    async def main() -> None:
        async with bench() as b:
            b.deliveries.gate = asyncio.Event()
            await accept(b, 30, "x.example")
            await b.settle()
            b.deliveries.error = Busy(600.0, "no answer")
            b.deliveries.gate.set()
            await b.settle()
            assert b.runner._sites.jobs <= sites_room.STOPPED_JOBS
            b.deliveries.error = None
            resume(b)
            for _ in range(30):
                await b.settle()
            assert sorted(int(r[0][1:]) for _, r in b.deliveries.sent) == list(range(30))
            order = [int(r[0][1:]) for _, r in b.deliveries.sent]
            assert order[3:] == sorted(order[3:])  # the first three were under way

    asyncio.run(main())


@pytest.mark.parametrize("by_id", [True, False])
def test_the_sender_of_mail_at_a_dead_site_hears_in_time_that_it_is_late_and_that_it_is_over(
    by_id: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_id:  # ids have the time of the real clock, the mail that of the simulated one
        monkeypatch.setattr(patience, "_time_of", lambda _id: FakeClock().now())

    async def main() -> None:
        async with bench(simulated()) as b:
            b.deliveries.dead["dead.example"] = (FOREVER, "connect to mx.dead.example: no answer")
            await accept(b, 12, "dead.example")
            await b.settle()
            await b.advance(2.01 * HOUR)  # delay_warning = "2h"
            await b.runner._patience.tell_overdue()
            await b.runner._begin_overdue()
            await b.settle()
            mine = [entry for entry in b.entries if entry.item.recipients[0].address.domain == "dead.example"]
            assert len(mine) == 12
            assert all(entry.states[0].delay_noticed and entry.states[0].attempts == 1 for entry in mine)
            assert "no answer" in mine[0].states[0].last_reply
            for _ in range(30):
                await b.advance(HOUR)  # max_age = "1d"
                await b.runner._patience.tell_overdue()
                await b.runner._begin_overdue()
                await b.settle()
            assert [e for e in b.entries if e.item.recipients[0].address.domain == "dead.example"] == []
            assert all(reason.attempts <= 3 for entry in b.entries for reason in entry.states)

    asyncio.run(main())


def test_a_site_with_more_than_has_room_is_fair_to_the_tenant_with_ten() -> None:
    async def main() -> None:
        async with bench(simulated(tenant_weights={})) as b:
            b.deliveries.gate = asyncio.Event()
            b.deliveries.limits = SiteLimits(connections=1)
            await accept(b, 300, "x.example", tenant="big")
            await accept(b, 10, "x.example", tenant="small")
            await b.settle()
            assert b.runner._sites.jobs < 60
            b.deliveries.gate.set()
            for _ in range(200):
                await b.settle()
            tenants = [len(b.deliveries.sent)]
            assert tenants == [310]

    asyncio.run(main())


def test_the_order_among_tenants_is_that_of_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with bench() as b:
            seen: list[str] = []

            async def deliver(item: Queued, recipients: Any, destination: str, worker: Any) -> list[Report]:
                if b.deliveries.gate is not None:
                    await b.deliveries.gate.wait()
                seen.append(item.origin.account)
                return [Report(r, "delivered", 250) for r in recipients]

            b.deliveries.gate = asyncio.Event()
            b.deliveries.limits = SiteLimits(connections=1)
            monkeypatch.setattr(b.deliveries, "deliver", deliver)
            await accept(b, 200, "x.example", tenant="big")
            await accept(b, 10, "x.example", tenant="small")
            await b.settle()
            b.deliveries.gate.set()
            for _ in range(100):
                await b.settle()
            assert len(seen) == 210
            assert max(i for i, tenant in enumerate(seen) if tenant == "small") < 40

    asyncio.run(main())


def test_offered_again_and_again_without_a_word_a_mail_counts_as_attempted() -> None:
    async def main() -> None:
        async with bench() as b:
            await accept(b, 1, "x.example")
            report = delayed(Recipient(b.engine.mail("u0@x.example").recipients[0].address))
            b.deliveries.error = Busy(1.0, "slow down", code=421, reports=[report])
            for _ in range(8):
                resume(b)
                await b.settle()
            (entry,) = b.entries
            assert (entry.states[0].status, entry.states[0].attempts) == ("deferred", 1)

    asyncio.run(main())


def test_a_mail_without_a_source_waits_alone() -> None:
    async def main() -> None:
        async with bench() as b:
            b.deliveries.error = Postponed(60.0)
            await accept(b, 1, "x.example")
            await b.settle()
            b.deliveries.error = None
            await accept(b, 3, "x.example")
            await b.settle()
            assert len(b.deliveries.sent) == 3
            await b.advance(61)
            assert len(b.deliveries.sent) == 4

    asyncio.run(main())


def test_a_rate_does_not_make_a_site_serial() -> None:
    """Slow answers under a high rate need several connections at once, also after the rate was used up."""

    async def main() -> None:
        async with bench() as b:
            b.deliveries.limits = SiteLimits(connections=8)
            tokens, most = [4], []
            original = b.deliveries.deliver

            async def deliver(item: Queued, recipients: Any, destination: str, worker: Any) -> Any:
                if not tokens[0]:
                    raise Paced(0.01)
                tokens[0] -= 1
                return await original(item, recipients, destination, worker)

            b.deliveries.deliver = deliver  # type: ignore[method-assign]
            for _ in range(3):
                b.deliveries.gate = asyncio.Event()
                await accept(b, 8, "x.example")
                async with asyncio.timeout(20):
                    while b.deliveries.under_way < 4:
                        await asyncio.sleep(0.005)
                most.append(b.deliveries.under_way)
                b.deliveries.gate.set()
                await b.settle()
                tokens[0] = 4
            assert most == [4, 4, 4]
            tokens[0] = 1000
            async with asyncio.timeout(20):
                while len(b.deliveries.sent) < 24:
                    await asyncio.sleep(0.005)

    asyncio.run(main())


def test_an_operators_retry_is_tried_though_the_site_is_down() -> None:
    async def main() -> None:
        async with bench() as b:
            b.deliveries.dead["dead.example"] = (FOREVER, "no answer")
            await accept(b, 30, "dead.example")
            await b.settle()
            (entry, *_) = b.entries
            assert b.runner.withdraw(entry.item.id)
            b.runner.put_back(entry)
            for _ in range(10):
                await b.settle()
            assert len(b.deliveries.sent) == 30

    asyncio.run(main())


class Suspended:
    """A bench whose runner knows suspensions."""

    def __init__(self, b: Bench) -> None:
        self.suspensions = Suspensions(MemoryLedger(clock=b.clock), b.clock)
        b.runner._stops._suspender = self.suspensions
        b.runner._stops.is_on = True
        self.suspensions.on_change(b.runner._stops._changed)


@pytest.mark.parametrize(
    ("scope", "name", "held"),
    [
        ("site", "a.example", {"a.example"}),
        ("domain", "a.example", {"a.example"}),
        ("tenant", "t1", {"a.example", "b.example"}),
        ("everything", "", {"a.example", "b.example", "c.example"}),
    ],
)
@pytest.mark.parametrize("is_before", [True, False])
def test_what_is_suspended_keeps_its_place_and_goes_on_at_once(scope: str, name: str, held: set[str], is_before: bool) -> None:
    async def main() -> None:
        async with bench() as b:
            s = Suspended(b)
            if is_before:
                s.suspensions.suspend(scope, name, FOREVER, "told to")
            b.deliveries.gate = asyncio.Event()
            for domain, tenant in (("a.example", "t1"), ("b.example", "t1"), ("c.example", "t2")):
                await accept(b, 30, domain, tenant=tenant)
            await b.settle()
            if not is_before:
                s.suspensions.suspend(scope, name, FOREVER, "told to")
            b.deliveries.gate.set()
            for _ in range(30):
                await b.settle()
            left = Counter(entry.item.recipients[0].address.domain for entry in b.entries)
            assert set(left) == held
            assert all(count >= 25 for count in left.values())  # a few were under way already
            assert all(state.attempts == 0 for entry in b.entries for state in entry.states)
            assert b.runner._sites.jobs <= 3 * sites_room.STOPPED_JOBS
            await b.advance(3 * HOUR)
            assert all(state.attempts == 0 for entry in b.entries for state in entry.states)  # it is the operator's wish
            s.suspensions.resume(scope, name)
            for _ in range(40):
                await b.settle()
            assert b.entries == []
            assert b.runner._sites.jobs == 0

    asyncio.run(main())


def test_of_a_mail_to_several_domains_of_a_site_only_the_suspended_ones_wait() -> None:
    async def main() -> None:
        async with bench() as b:
            s = Suspended(b)
            for domain in ("a.example", "b.example", "c.example"):
                b.deliveries.sites[domain] = "shared"
            s.suspensions.suspend("domain", "b.example", FOREVER, "")
            s.suspensions.suspend("domain", "c.example", FOREVER, "")
            await b.engine.intake.accept(b.engine.mail("u@a.example", "u@b.example", "v@b.example", "w@c.example"))
            await b.settle()
            assert [r for _, r in b.deliveries.sent] == [("u",)]
            s.suspensions.resume("domain", "b.example")
            await b.settle()
            assert sorted(r for _, r in b.deliveries.sent) == [("u",), ("u", "v")]
            s.suspensions.resume("domain", "c.example")
            await b.settle()
            assert b.entries == []

    asyncio.run(main())


def test_a_suspension_ends_by_time() -> None:
    async def main() -> None:
        async with bench() as b:
            s = Suspended(b)
            s.suspensions.suspend("tenant", "t1", b.clock.now() + 100, "")
            await accept(b, 3, "x.example", tenant="t1")
            await b.settle()
            assert b.deliveries.sent == []
            b.clock.advance(101)
            b.runner._stops._watched()
            await b.settle()
            assert len(b.deliveries.sent) == 3

    asyncio.run(main())


def test_places_are_never_lost_when_rooms_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops and goes on meanwhile: every mail goes exactly once."""
    monkeypatch.setattr(runner_room, "MAX_JOBS", 50)
    monkeypatch.setattr(sites_room, "MAX_JOBS", 50)

    async def main() -> None:
        async with bench() as b:
            s = Suspended(b)
            domains = [f"d{n}.example" for n in range(8)]
            for n, domain in enumerate(domains):
                if n % 3 == 0:
                    b.deliveries.dead[domain] = (b.clock.monotonic() + 50 * n, "no answer")
                await accept(b, 20, domain, tenant=f"t{n % 2}")
                await b.settle()
            s.suspensions.suspend("tenant", "t1", b.clock.now() + 200, "")
            for _ in range(60):
                await b.advance(10)
                resume(b)
                b.runner._sites.look_again()
                await b.settle()
            assert b.entries == []
            assert len(b.deliveries.sent) == 160
            assert len({id for id, _ in b.deliveries.sent}) == 160
            assert b.runner.size == b.runner._sites.jobs == 0
            assert b.runner._sites._sites == {}

    asyncio.run(main())
