"""Where destinations lead (N1, N2, N3, R15), with a name service that is a table."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Delivery, Relay, Route, Site, Smtp
from rusmes.config.units import Secret
from rusmes.delivery.routes import OwnAddresses, RoutePlan, RouteTable
from rusmes.dns import DnsUnavailable, MxRecord, NoSuchDomain, Records, Resolver
from rusmes.model.content import Content, Rendering
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued, Refusal
from tests.sinks.engine import address

OURS = "mx.example.com"


class Zone:
    def __init__(self, **hosts: Any) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str]] = []

    def mx(self, domain: str, *records: tuple[int, str]) -> Zone:
        self.answers[domain, "MX"] = tuple(MxRecord(*record) for record in records)
        return self

    def a(self, host: str, *addresses: str) -> Zone:
        self.answers[host, "A"] = tuple(a for a in addresses if ":" not in a)
        self.answers[host, "AAAA"] = tuple(a for a in addresses if ":" in a)
        return self

    def broken(self, name: str, error: Exception, *kinds: str) -> Zone:
        for kind in kinds or ("MX", "A", "AAAA"):
            self.answers[name, kind] = error
        return self

    async def __call__(self, name: str, kind: str) -> Records:
        self.asked.append((name, kind))
        answer = self.answers.get((name, kind), ())
        if isinstance(answer, Exception):
            raise answer
        return Records(answer, 300)


def table(zone: Zone, config: Config | None = None, **more: Any) -> RouteTable:
    clock = FakeClock()
    own = more.pop("own", set())
    return RouteTable(
        config or Config(domain="example.com"), Resolver(clock, ask=zone), clock, OURS,
        is_own_address=lambda a: a in own, shuffle=more.pop("shuffle", lambda hosts: hosts.sort()),
    )  # fmt: skip


def item(recipient: str, route: str = "") -> Queued:
    made = (Recipient(address(recipient)),)
    return Queued(b"i" * 16, "relay", None, made, Rendering(Content(b"c" * 16, 0, 0, data=b"")), Origin(), 0.0, route=route)


def places(routes: RouteTable, domain: str) -> list[str] | Refusal:
    async def main() -> list[str] | Refusal:
        plan = await routes.find_plan(f"mx:{domain}")
        if isinstance(plan, Refusal):
            return plan
        found = await routes.endpoints(plan)
        return found if isinstance(found, Refusal) else [str(endpoint) for endpoint in found]

    return asyncio.run(main())


def test_mx_in_the_order_of_preference_with_all_addresses() -> None:
    zone = Zone().mx("x.org", (20, "b.x.org"), (10, "a.x.org")).a("a.x.org", "1.1.1.1", "2a00::1").a("b.x.org", "1.1.1.2")
    assert places(table(zone), "x.org") == ["a.x.org[2a00::1]:25", "a.x.org[1.1.1.1]:25", "b.x.org[1.1.1.2]:25"]


def test_ipv6_can_be_switched_off() -> None:
    zone = Zone().mx("x.org", (10, "a.x.org")).a("a.x.org", "1.1.1.1", "2a00::1")
    config = Config(domain="example.com", delivery=Delivery(ipv6=False, port=2525))
    assert places(table(zone, config), "x.org") == ["a.x.org[1.1.1.1]:2525"]
    assert ("a.x.org", "AAAA") not in zone.asked


def test_equals_are_shuffled() -> None:
    zone = Zone().mx("x.org", (10, "a.x.org"), (10, "b.x.org")).a("a.x.org", "1.1.1.1").a("b.x.org", "1.1.1.2")
    orders = {tuple(places(table(zone, shuffle=way), "x.org")) for way in (list.sort, lambda h: h.sort(reverse=True))}
    assert len(orders) == 2


def test_n1_hosts_and_addresses_are_capped() -> None:
    zone = Zone().mx("x.org", *((i, f"h{i:04}.x.org") for i in range(1000)))
    for i in range(100):
        zone.a(f"h{i:04}.x.org", *(f"1.1.{i}.{j}" for j in range(100)))
    found = places(table(zone), "x.org")
    assert len(found) == 50
    assert sum(kind == "A" for _, kind in zone.asked) == 5


def test_n2_null_mx_is_a_permanent_refusal() -> None:
    refusal = places(table(Zone().mx("x.org", (0, ""))), "x.org")
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.status) == (556, "5.1.10")


def test_n2_mx_that_is_an_address_or_nothing_is_used_as_far_as_possible() -> None:
    zone = Zone().mx("x.org", (5, ""), (10, "gone.x.org"), (20, "b.x.org")).a("b.x.org", "1.1.1.2")
    zone.broken("gone.x.org", NoSuchDomain("no"))
    assert places(table(zone), "x.org") == ["b.x.org[1.1.1.2]:25"]


@pytest.mark.parametrize(
    ("zone", "code", "status"),
    [
        (Zone().broken("x.org", NoSuchDomain("no")), 550, "5.1.2"),
        (Zone().broken("x.org", DnsUnavailable("servfail")), 451, "4.4.3"),
        (Zone(), 550, "5.4.4"),
        (Zone().mx("x.org", (10, "a.x.org")).broken("a.x.org", DnsUnavailable("servfail")), 451, "4.4.3"),
        (Zone().mx("x.org", (10, "a.x.org")).broken("a.x.org", NoSuchDomain("no")), 550, "5.4.4"),
        (Zone().mx("x.org", (10, "a.x.org")), 550, "5.4.4"),
    ],
    ids=["NXDOMAIN", "SERVFAIL", "nothing at all", "MX unavailable", "MX unknown", "MX without address"],
)
def test_n3_what_no_answer_means(zone: Zone, code: int, status: str) -> None:
    refusal = places(table(zone), "x.org")
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.status) == (code, status)


def test_n3_without_mx_the_address_of_the_domain_is_used() -> None:
    assert places(table(Zone().a("x.org", "1.1.1.1")), "x.org") == ["x.org[1.1.1.1]:25"]


def test_r15_we_are_the_best_exchanger() -> None:
    zone = Zone().mx("x.org", (10, OURS), (20, "b.x.org")).a("b.x.org", "1.1.1.2")
    refusal = places(table(zone), "x.org")
    assert isinstance(refusal, Refusal)
    assert refusal.status == "5.4.6"


def test_r15_only_better_exchangers_than_us_are_used() -> None:
    zone = Zone().mx("x.org", (10, "a.x.org"), (20, OURS), (20, "b.x.org"), (30, "c.x.org"))
    for number, host in enumerate("abc"):
        zone.a(f"{host}.x.org", f"1.1.1.{number}")
    assert places(table(zone), "x.org") == ["a.x.org[1.1.1.0]:25"]


PRIVATE = ["127.0.0.1", "::1", "0.0.0.0", "10.1.2.3", "192.168.1.1", "169.254.1.1", "fe80::1", "224.0.0.1"]


@pytest.mark.parametrize("target", PRIVATE)
def test_r15_private_addresses_of_a_stranger_are_refused(target: str) -> None:
    zone = Zone().mx("x.org", (10, "a.x.org")).a("a.x.org", target)
    refusal = places(table(zone), "x.org")
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.status) == (550, "5.4.4")
    refusal = places(table(zone, own={target}), "x.org")
    assert isinstance(refusal, Refusal)
    assert refusal.status == "5.4.6"


def test_r15_own_public_address() -> None:
    zone = Zone().mx("x.org", (10, "a.x.org"), (20, "b.x.org")).a("a.x.org", "1.1.1.1").a("b.x.org", "1.1.1.2")
    assert places(table(zone, own={"1.1.1.1"}), "x.org") == ["b.x.org[1.1.1.2]:25"]


def test_private_addresses_can_be_allowed_but_never_our_own_port() -> None:
    zone = Zone().mx("x.org", (10, "a.x.org")).a("a.x.org", "127.0.0.1")
    allowed = Config(domain="example.com", delivery=Delivery(private_hosts=True, port=2600))
    assert places(table(zone, allowed, own={"127.0.0.1"}), "x.org") == ["a.x.org[127.0.0.1]:2600"]
    ourselves = Config(domain="example.com", delivery=Delivery(private_hosts=True, port=2525), smtp=Smtp(port=2525))
    refusal = places(table(zone, ourselves, own={"127.0.0.1"}), "x.org")
    assert isinstance(refusal, Refusal)
    assert refusal.status == "5.4.6"


@pytest.mark.parametrize(("literal", "place"), [("[1.1.1.1]", "[1.1.1.1]:25"), ("[IPv6:2a00::1]", "[2a00::1]:25")])
def test_address_literals(literal: str, place: str) -> None:
    assert places(table(Zone()), literal) == [place]
    refusal = places(table(Zone()), "[what]")
    assert isinstance(refusal, Refusal)
    assert refusal.code == 550


def test_destinations() -> None:
    routes = (
        Route(name="out", host="smart.example.net", domains=("*.corp.example", "corp.example")),
        Route(name="named", host="other.example.net"),
    )
    with_routes = table(Zone(), Config(domain="example.com", delivery=Delivery(route=routes)))
    assert with_routes.destination(item("a@x.org"), item("a@x.org").recipients[0]) == "mx:x.org"
    assert with_routes.destination(item("a@a.corp.example"), item("a@a.corp.example").recipients[0]) == "route:out"
    named = item("a@x.org", "named")
    assert with_routes.destination(named, named.recipients[0]) == "route:named"
    literal = item("a@x.org", "127.0.0.1:2600")
    assert with_routes.destination(literal, literal.recipients[0]) == "host:127.0.0.1:2600"
    smart = table(Zone(), Config(domain="example.com", relay=Relay(host="smart.example.net")))
    assert smart.destination(item("a@x.org"), item("a@x.org").recipients[0]) == "relay"


def static(destination: str, config: Config, zone: Zone | None = None) -> tuple[RoutePlan | Refusal, list[str] | Refusal]:
    routes = table(zone or Zone(), config)

    async def main() -> tuple[RoutePlan | Refusal, list[str] | Refusal]:
        plan = await routes.find_plan(destination)
        if isinstance(plan, Refusal):
            return plan, plan
        found = await routes.endpoints(plan)
        return plan, found if isinstance(found, Refusal) else [str(endpoint) for endpoint in found]

    return asyncio.run(main())


def test_smart_host() -> None:
    relay = Relay(host="smart.example.net", username="me", password=Secret("s"))
    plan, found = static("relay", Config(domain="example.com", relay=relay), Zone().a("smart.example.net", "10.0.0.1"))
    assert found == ["smart.example.net[10.0.0.1]:587"]
    assert isinstance(plan, RoutePlan)
    assert (plan.tls, plan.implicit_tls) == ("verify", False)
    assert plan.login is not None
    plan, found = static("relay", Config(domain="example.com", relay=Relay(host="127.0.0.1", port=465, use_tls=False)))
    assert found == ["[127.0.0.1]:465"]
    assert isinstance(plan, RoutePlan)
    assert (plan.tls, plan.implicit_tls) == ("opportunistic", True)


def test_a_smart_host_without_address_delays() -> None:
    _, found = static("relay", Config(domain="example.com", relay=Relay(host="smart.example.net")))
    assert isinstance(found, Refusal)
    assert found.code == 451


@pytest.mark.parametrize(
    ("route", "place"),
    [
        ("127.0.0.1:2600", "[127.0.0.1]:2600"), ("[::1]:2600", "[::1]:2600"), ("::1", "[::1]:25"),
        ("localhost:26", "localhost[127.0.0.1]:26"), ("localhost", "localhost[127.0.0.1]:25"),
        ("missing", None), ("127.0.0.1:99999", None), ("[::1", None), ("", None),
    ],
)  # fmt: skip
def test_route_texts(route: str, place: str | None) -> None:
    _, found = static(f"host:{route}", Config(domain="example.com"))
    if place is None:
        assert isinstance(found, Refusal)
        assert (found.code, found.status) == (451, "4.3.5")
    else:
        assert found == [place]


def test_sites_and_their_overrides() -> None:
    site = Site(match=("*.big.example",), connections_per_site=3, messages_per_second=2.0, tls="verify", ipv6=False)
    config = Config(domain="example.com", delivery=Delivery(site=(site,)))
    zone = Zone()
    for domain in ("x.org", "y.org"):
        zone.mx(domain, (10, "mx1.big.example"), (20, "mx2.big.example"))
    zone.mx("z.org", (10, "mx.small.example"))
    routes = table(zone, config)

    async def main() -> None:
        plans = [await routes.find_plan(f"mx:{domain}") for domain in ("x.org", "y.org", "z.org")]
        assert all(isinstance(plan, RoutePlan) for plan in plans)
        x, y, z = plans
        assert isinstance(x, RoutePlan)
        assert isinstance(y, RoutePlan)
        assert isinstance(z, RoutePlan)
        assert x.site == y.site == "(mx1|mx2).big.example"
        assert (x.limits.connections, x.limits.messages_per_second, x.tls, x.ipv6) == (3, 2.0, "verify", False)
        assert (z.limits.connections, z.tls, z.ipv6) == (20, "opportunistic", True)
        assert routes.known_plan("mx:x.org") is x

    asyncio.run(main())


def test_plans_of_domains_are_looked_up_again_after_a_minute() -> None:
    clock = FakeClock()
    zone = Zone().mx("x.org", (10, "a.x.org"))
    routes = RouteTable(Config(domain="example.com"), Resolver(clock, ask=zone), clock, OURS)
    asyncio.run(routes.find_plan("mx:x.org"))
    assert routes.known_plan("mx:x.org") is not None
    clock.advance(61)
    assert routes.known_plan("mx:x.org") is None


def test_own_addresses_are_those_the_kernel_lets_us_bind_to() -> None:
    own = OwnAddresses()
    assert own("127.0.0.1")
    assert own("::1")
    assert not own("1.1.1.1")
