"""What a pool does with sources and with places that several sites share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from rusmes._core.counters import SharedCounters
from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Delivery, Route
from rusmes.delivery.egress.sources import SYSTEM, Source
from rusmes.delivery.pool import Pool
from rusmes.delivery.routes import Endpoint, RoutePlan, RouteTable
from rusmes.delivery.session import Gone, Session
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.dns import Resolver
from rusmes.net.outbound import WayFailed
from rusmes.queue.api import Busy, SharedLimits
from rusmes.smtp.exchange import Extensions


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
    """Opens sessions; `fail` maps names of sources to what goes wrong with them."""

    def __init__(self) -> None:
        self.fail: dict[str, Exception] = {}
        self.tried: list[tuple[str, str, str]] = []

    async def __call__(self, endpoint: Endpoint, plan: RoutePlan, mode: str, tls: Any, name: str, source: Source) -> Session:
        self.tried.append((endpoint.address, source.label, name))
        if source.label in self.fail:
            raise self.fail[source.label]
        session = Session(FakeConnection(), endpoint)  # type: ignore[arg-type]
        session.offered = Extensions(esmtp=True, pipelining=True)
        session._reader.expected = 0
        return session


SOURCES = {"a": Source("a", ehlo="a.example"), "b": Source("b"), "four": Source("four", "192.0.2.9")}


class Bench:
    def __init__(self, *hosts: str, **delivery: Any) -> None:
        self.clock = FakeClock()
        routes = tuple(Route(name=f"r{i}", host=host, port=25) for i, host in enumerate(hosts))
        config = Config(domain="example.com", delivery=Delivery(route=routes, **delivery))
        self.routes = RouteTable(config, Resolver(self.clock, ["127.0.0.1:9"]), self.clock, "mx.example.com")
        self.net = Net()
        self.limits = SharedCounters(1, 4096)
        self.pool = Pool(
            self.routes, TlsPolicy(self.clock), self.clock, "me", max_connections=50, limits=self.limits, opener=self.net,
            source=SOURCES.get,
        )  # fmt: skip

    async def plan(self, number: int = 0, source: str = "", **more: Any) -> RoutePlan:
        plan = await self.routes.find_plan(f"route:r{number}" + (f" via {source}" if source else ""))
        assert isinstance(plan, RoutePlan)
        return structs.replace(plan, **more)


def lane(plan: RoutePlan) -> tuple[str, str]:
    return plan.key, plan.tls


def test_each_source_says_its_name_and_is_judged_alone() -> None:
    async def main() -> None:
        bench = Bench("192.0.2.1")
        a, b = await bench.plan(source="a"), await bench.plan(source="b")
        bench.net.fail["a"] = Gone("refused")
        with pytest.raises(Gone):
            await bench.pool.open(lane(a), a)
        session = await bench.pool.open(lane(b), b)
        assert (session.source, session.site) == ("b", b.site)
        with pytest.raises(Busy):  # still left alone
            await bench.pool.open(lane(a), a)
        assert bench.net.tried == [("192.0.2.1", "a", "a.example"), ("192.0.2.1", "b", "me")]

    asyncio.run(main())


def test_a_source_that_does_not_work_gives_its_places_back() -> None:
    async def main() -> None:
        bench = Bench("192.0.2.1")
        plan = await bench.plan(source="a")
        bench.net.fail["a"] = WayFailed("bind", "not ours")
        with pytest.raises(WayFailed):
            await bench.pool.open(lane(plan), plan)
        assert bench.limits.count(b"out") == 0
        assert bench.limits.count(b"out:" + plan.key.encode()) == 0

    asyncio.run(main())


def test_only_addresses_of_its_families_are_tried() -> None:
    async def main() -> None:
        bench = Bench("192.0.2.1")
        plan = await bench.plan(source="four")

        async def endpoints(_plan: RoutePlan) -> Any:
            return [Endpoint("mx", address, 25, source="four") for address in ("2001:db8::1", "192.0.2.1")]

        bench.routes.endpoints = endpoints  # type: ignore[method-assign]
        await bench.pool.open(lane(plan), plan)
        assert [address for address, _, _ in bench.net.tried] == ["192.0.2.1"]

    asyncio.run(main())


def test_addresses_of_delivery_take_turns_and_those_that_do_not_work_are_left_out() -> None:
    async def main() -> None:
        bench = Bench("192.0.2.1", source_addresses=("198.51.100.1", "198.51.100.2", "2001:db8::2"), initial_connections=0)
        plan = await bench.plan()
        for _ in range(4):
            await bench.pool.open(lane(plan), plan)
        assert [label for _, label, _ in bench.net.tried] == ["198.51.100.1", "198.51.100.2"] * 2
        bench.net.fail["198.51.100.1"] = WayFailed("bind", "not ours")
        with pytest.raises(WayFailed):
            await bench.pool.open(lane(plan), plan)
        assert bench.pool.has_working_address(plan)
        for _ in range(3):
            await bench.pool.open(lane(plan), plan)
        assert [label for _, label, _ in bench.net.tried[5:]] == ["198.51.100.2"] * 3
        assert bench.pool._source(Endpoint("h", "2001:db8::9", 25), plan).label == "2001:db8::2"
        nowhere = await Bench("192.0.2.1").plan()
        assert bench.pool._source(Endpoint("h", "192.0.2.9", 25), nowhere) is SYSTEM

    asyncio.run(main())


def test_a_shared_place_of_an_idle_connection_goes_to_another_site() -> None:
    async def main() -> None:
        bench = Bench("192.0.2.1", "192.0.2.2")
        shared = (SharedLimits("provider:big", 1),)
        plans = [await bench.plan(number) for number in range(2)]
        plans = [structs.replace(plan, limits=structs.replace(plan.limits, shared=shared)) for plan in plans]
        first = await bench.pool.open(lane(plans[0]), plans[0])
        with pytest.raises(Busy):
            await bench.pool.open(lane(plans[1]), plans[1])
        bench.pool.give_back(lane(plans[0]), first, plans[0])
        await bench.pool.open(lane(plans[1]), plans[1])
        assert bench.limits.count(b"out-shared:provider:big") == 1
        await bench.pool.stop()
        assert first.connection.is_lost

    asyncio.run(main())
