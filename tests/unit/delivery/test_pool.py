"""Which servers are left alone, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rusmes._core.counters import SharedCounters
from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Delivery, Route
from rusmes.delivery.pool import MAX_DEAD_SECONDS, YIELD_AFTER, DeadHosts, NoEndpoint, Pool
from rusmes.delivery.routes import Endpoint, RoutePlan, RouteTable
from rusmes.delivery.session import Gone, Refused, Session, is_permanent
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.dns import Resolver
from rusmes.model.plan import Refusal
from rusmes.queue.api import Busy
from rusmes.smtp.exchange import Extensions

HERE = Endpoint("mx.x.org", "192.0.2.1", 25)


def test_dead_time_doubles_up_to_half_an_hour_and_one_probe_decides() -> None:
    clock = FakeClock()
    dead = DeadHosts(clock)
    assert dead.reason(HERE) == ""
    waits = []
    for _ in range(12):
        dead.failed(HERE, "refused", clock.monotonic())
        seconds = 0.0
        while dead.reason(HERE):
            clock.advance(2.5)
            seconds += 2.5
        waits.append(seconds)
        assert dead.reason(HERE) == "refused"  # the probe is taken
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == MAX_DEAD_SECONDS
    dead.reached(HERE)
    assert dead.reason(HERE) == ""


def test_tries_that_fail_together_count_once() -> None:
    clock = FakeClock()
    dead = DeadHosts(clock)
    started = clock.monotonic()
    clock.advance(1)
    for _ in range(10):
        dead.failed(HERE, "refused", started)
    clock.advance(5)
    assert dead.reason(HERE) == ""


class FakeConnection:
    is_lost = False
    has_input = False
    tls = None

    def abort(self) -> None:
        self.is_lost = True

    async def close(self) -> None:
        self.is_lost = True

    def write(self, data: bytes) -> None: ...

    def set_deadline(self, seconds: float) -> None: ...

    async def receive(self) -> bytes:
        return b""


class Net:
    """Opens sessions; `fail` maps addresses to what goes wrong there."""

    def __init__(self) -> None:
        self.fail: dict[str, Exception] = {}
        self.tried: list[str] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, endpoint: Endpoint, plan: RoutePlan, mode: str, tls: Any, name: str, source: str) -> Session:
        self.tried.append(endpoint.address)
        if self.gate is not None:
            await self.gate.wait()
        if endpoint.address in self.fail:
            raise self.fail[endpoint.address]
        session = Session(FakeConnection(), endpoint)  # type: ignore[arg-type]
        session.offered = Extensions(esmtp=True, pipelining=True)
        session._reader.expected = 0
        return session


def setup(
    net: Net, *addresses: str, limits: SharedCounters | None = None, most: int = 10, workers: int = 1, **delivery: Any
) -> tuple[Pool, RoutePlan]:
    clock = FakeClock()
    route = Route(name="r", host=addresses[0], port=25)
    config = Config(domain="example.com", delivery=Delivery(route=(route,), **delivery))
    routes = RouteTable(config, Resolver(clock, ["127.0.0.1:9"]), clock, "mx.example.com", workers=workers)
    plan = asyncio.run(routes.find_plan("route:r"))
    assert isinstance(plan, RoutePlan)

    async def endpoints(_plan: RoutePlan) -> Any:
        return [Endpoint(address, address, 25) for address in addresses]

    routes.endpoints = endpoints  # type: ignore[method-assign]
    return Pool(routes, TlsPolicy(clock), clock, "me", max_connections=most, limits=limits, opener=net), plan


LANE = ("site", "opportunistic")


def test_limits_of_site_and_of_all_are_places_in_the_shared_table() -> None:
    shared = SharedCounters(1, 1024)
    pool, plan = setup(Net(), "192.0.2.1", limits=shared, most=3, connections_per_site=2)

    async def main() -> None:
        first = await pool.open(LANE, plan)
        await pool.open(LANE, plan)
        with pytest.raises(Busy):
            await pool.open(LANE, plan)
        assert shared.count(b"out") == 2
        pool.drop(LANE, first)
        await pool.open(LANE, plan)
        other = await pool.open(("other", "none"), plan)
        with pytest.raises(Busy):
            await pool.open(("third", "none"), plan)
        pool.give_back(("other", "none"), other, plan)
        await pool.open(("third", "none"), plan)  # an idle one makes room
        assert shared.count(b"out") == 3
        await pool.stop()

    asyncio.run(main())


@pytest.mark.parametrize(("limit", "kept"), [(3, 1), (1, 0)])
def test_only_what_is_beyond_its_share_does_a_worker_leave_to_another(limit: int, kept: int) -> None:
    shared = SharedCounters(1, 1024)
    parts: dict[str, Any] = {"limits": shared, "workers": 2, "connections_per_site": limit}
    pool, plan = setup(Net(), "192.0.2.1", **parts)
    other, _ = setup(Net(), "192.0.2.1", **parts)

    async def main() -> None:
        sessions = [await pool.open(LANE, plan) for _ in range(limit)]
        with pytest.raises(Busy):
            await other.open(LANE, plan)
        for session in sessions:
            session.sent = YIELD_AFTER
            pool.give_back(LANE, session, plan)
        assert shared.count(b"out:site") == kept
        with pytest.raises(Busy):
            await pool.open(LANE, plan)
        for _ in range(limit - kept):
            await other.open(LANE, plan)
        await pool.stop()

    asyncio.run(main())


def test_failures_give_places_back() -> None:
    net, shared = Net(), SharedCounters(1, 1024)
    net.fail["192.0.2.1"] = Gone("refused")
    pool, plan = setup(net, "192.0.2.1", limits=shared)

    async def main() -> None:
        with pytest.raises(Gone):
            await pool.open(LANE, plan)
        assert shared.count(b"out") == shared.count(b"out:site") == 0
        with pytest.raises(Busy) as busy:
            await pool.open(LANE, plan)
        assert net.tried == ["192.0.2.1"]  # the site is down: not tried again, and no mail is the worse for it
        assert 4 < busy.value.retry_after < 6
        assert busy.value.reason == "refused"

    asyncio.run(main())


def test_the_next_host_is_tried_and_permanent_needs_all() -> None:
    net = Net()
    net.fail = {"192.0.2.1": Refused("521 no", "5.3.2"), "192.0.2.2": Gone("refused")}
    pool, plan = setup(net, "192.0.2.1", "192.0.2.2", "192.0.2.3")
    clock = pool._clock
    assert isinstance(clock, FakeClock)

    async def main() -> None:
        session = await pool.open(LANE, plan)
        assert session.endpoint.address == "192.0.2.3"
        pool.drop(LANE, session)
        net.fail["192.0.2.3"] = Refused("521 no", "5.3.2")
        clock.advance(10)
        with pytest.raises(Gone) as caught:
            await pool.open(LANE, plan)
        assert not is_permanent(caught.value)
        net.fail["192.0.2.2"] = Refused("521 no", "5.3.2")
        clock.advance(30)
        with pytest.raises(Refused) as refused:
            await pool.open(LANE, plan)
        assert is_permanent(refused.value)
        tried = len(net.tried)
        with pytest.raises(Refused):
            await pool.open(LANE, plan)  # its other mail shares the answer for a while
        assert len(net.tried) == tried

    asyncio.run(main())


def test_a_server_that_works_is_not_dead_when_it_refuses_one_more() -> None:
    net = Net()
    pool, plan = setup(net, "192.0.2.1", "192.0.2.2")

    async def main() -> None:
        await pool.open(LANE, plan)
        net.fail["192.0.2.1"] = Refused("421 too many", "4.3.2")
        with pytest.raises(Busy):
            await pool.open(LANE, plan)
        assert net.tried == ["192.0.2.1", "192.0.2.1"]  # and the backup host is left alone

    asyncio.run(main())


def test_of_those_who_try_at_once_the_last_to_fail_decides() -> None:
    net = Net()
    net.fail["192.0.2.1"] = Gone("refused")
    pool, plan = setup(net, "192.0.2.1")

    async def main() -> None:
        net.gate = asyncio.Event()
        tries = [asyncio.ensure_future(pool.open(LANE, plan)) for _ in range(3)]
        await asyncio.sleep(0.01)
        net.gate.set()
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["Busy", "Busy", "Gone"]

    asyncio.run(main())


def test_no_endpoint_is_told() -> None:
    pool, plan = setup(Net(), "192.0.2.1")

    async def endpoints(_plan: RoutePlan) -> Any:
        return Refusal(550, "5.4.4", "none")

    pool.routes.endpoints = endpoints  # type: ignore[method-assign]

    async def main() -> None:
        with pytest.raises(NoEndpoint):
            await pool.open(LANE, plan)

    asyncio.run(main())


def test_l6s_who_only_waits_has_a_place_beside_those_of_the_site() -> None:
    shared = SharedCounters(1, 1024)
    pool, plan = setup(Net(), "192.0.2.1", limits=shared, most=6, connections_per_site=1)

    async def main() -> None:
        first = await pool.open(LANE, plan)
        assert pool.set_aside(LANE, first, plan)
        assert not pool.set_aside(LANE, first, plan)
        second = await pool.open(LANE, plan)
        assert not pool.set_aside(LANE, second, plan)  # as many as the site may have connections
        with pytest.raises(Busy):
            await pool.open(LANE, plan)
        assert [shared.count(key) for key in (b"out", b"out:site", b"out-aside:site")] == [2, 1, 1]
        pool.give_back(LANE, first, plan)  # closed: its place is another's
        assert [shared.count(key) for key in (b"out", b"out:site", b"out-aside:site")] == [1, 1, 0]
        pool.drop(LANE, second)
        await pool.stop()
        assert [shared.count(key) for key in (b"out", b"out:site", b"out-aside:site")] == [0, 0, 0]

    asyncio.run(main())


def test_nothing_is_begun_with_a_server_with_whom_it_went_wrong_three_times_in_a_row() -> None:
    pool, plan = setup(Net(), "192.0.2.1")
    clock = pool._clock
    assert isinstance(clock, FakeClock)

    async def main() -> None:
        session = await pool.open(LANE, plan)
        assert not pool.may_begin_another(LANE, session, plan)  # it has not shown yet that it is quick
        session.is_quick = True
        for _ in range(5):
            pool.strike(session)
            pool.strike(session)
            assert pool.may_begin_another(LANE, session, plan)
            pool.forgive(session)
        for _ in range(3):
            pool.strike(session)
        assert not pool.may_begin_another(LANE, session, plan)
        pool.forgive(session)  # of a mail that had been begun before
        assert not pool.may_begin_another(LANE, session, plan)
        clock.advance(3601)
        assert pool.may_begin_another(LANE, session, plan)
        pool.drop(LANE, session)

    asyncio.run(main())


def test_a_site_with_a_rate_has_nothing_begun() -> None:
    pool, plan = setup(Net(), "192.0.2.1", messages_per_second=100.0)

    async def main() -> None:
        session = await pool.open(LANE, plan)
        session.is_quick = True
        assert not pool.may_begin_another(LANE, session, plan)
        pool.drop(LANE, session)

    asyncio.run(main())
