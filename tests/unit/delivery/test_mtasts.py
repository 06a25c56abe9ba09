"""Policies of other domains (RFC 8461): their text, how long they hold, and that nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rusmes.clock import FakeClock
from rusmes.delivery import mtasts
from rusmes.delivery.mtasts import BadPolicy, StsPolicies, StsPolicy, read_policy, read_record
from rusmes.dns import DnsUnavailable, NoSuchDomain, Records, Resolver
from rusmes.storage.ledger import MemoryLedger

POLICY = "version: STSv1\nmode: enforce\nmx: mx.x.org\nmx: *.mail.x.org\nmax_age: 604800\n"


@pytest.mark.rfc("8461", "3.1")
@pytest.mark.parametrize(
    ("records", "id"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=a"], "a"),
        ([b"v=STSv1 ; x=1; id = b ; y=2"], "b"),
        ([b"v=spf1 -all", b"v=STSv1; id=a;"], "a"),
        ([b"v=STSv1; id=a;", b"v=STSv1; id=b;"], ""),
        ([b"v=STSv1; id=;"], ""),
        ([b"v=STSv1; id=a-b"], ""),
        ([b"v=STSv1; id=" + b"a" * 33], ""),
        ([b"id=a; v=STSv1"], ""),
        ([b"v=STSv2; id=a"], ""),
        ([], ""),
    ],
)
def test_records(records: list[bytes], id: str) -> None:
    assert read_record(records) == id


@pytest.mark.rfc("8461", "3.2")
def test_a_policy() -> None:
    policy = read_policy(POLICY.replace("\n", "\r\n").encode() + b"future: x\r\nmode: none\r\n", "1", "x.org", 5.0)
    assert policy == StsPolicy("1", "enforce", ("mx.x.org", "*.mail.x.org"), 604800.0, 5.0, 5.0, "x.org")
    assert policy.lines == POLICY.splitlines()
    assert read_policy(b"version: STSv1\nmode: none\nmax_age: 99999999999"[:-1], "1", "x", 0.0).max_age == 31_557_600


@pytest.mark.parametrize(
    "text",
    ["", "mode: enforce\nmx: a\nmax_age: 1", POLICY.replace("enforce", "strict"), POLICY.replace("604800", "soon"),
     POLICY.replace("604800", "-1"), "version: STSv1\nmode: testing\nmax_age: 1", POLICY + "garbage\n", POLICY + "mx: a b\n",
     POLICY + "mx: *.*.org\n", "<html>"],
)  # fmt: skip
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(BadPolicy):
        read_policy(text.encode(), "1", "x.org", 0.0)
    with pytest.raises(BadPolicy):
        read_policy(b"\xff" + text.encode(), "1", "x.org", 0.0)


@pytest.mark.rfc("8461", "4.1")
@pytest.mark.parametrize(
    ("host", "allowed"),
    [("mx.x.org", True), ("MX.x.org.", True), ("a.mail.x.org", True), ("a.b.mail.x.org", False), ("mail.x.org", False),
     (".mail.x.org", False), ("mx.x.org.evil.org", False), ("x.org", False)],
)  # fmt: skip
def test_names_of_servers(host: str, allowed: bool) -> None:
    assert read_policy(POLICY.encode(), "1", "x.org", 0.0).allows(host) is allowed


class World:
    """DNS, HTTPS and time, in the hands of a test."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = MemoryLedger(clock=self.clock)
        self.records: dict[str, str | Exception] = {"_mta-sts.x.org": "v=STSv1; id=1;"}
        self.texts: dict[str, str | Exception] = {"x.org": POLICY}
        self.fetched: list[str] = []
        self.failures: list[tuple[str, str, str]] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.policies = self.start()

    def start(self) -> StsPolicies:
        """A worker; the ledger is what was before."""
        resolver = Resolver(self.clock, ask=self._ask)
        return StsPolicies(resolver, self.clock, self.ledger, self._fetch, lambda *failure: self.failures.append(failure))

    async def _ask(self, name: str, kind: str) -> Records:
        answer = self.records.get(name, NoSuchDomain(name))
        if isinstance(answer, Exception):
            raise answer
        return Records((answer.encode(),), 30.0)

    async def _fetch(self, domain: str) -> bytes:
        self.fetched.append(domain)
        if domain in self.gates:
            await self.gates[domain].wait()
        answer = self.texts[domain]
        if isinstance(answer, Exception):
            raise answer
        return answer.encode()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)


def in_a_world(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def run() -> None:
        world = World()
        await test(world)
        await world.policies.stop()

    def wrapped() -> None:
        asyncio.run(run())

    wrapped.__name__ = test.__name__
    return wrapped


@in_a_world
async def test_a_policy_is_fetched_once_and_kept(world: World) -> None:
    first = await asyncio.gather(*(world.policies.policy("x.org") for _ in range(5)))
    assert {policy.mode for policy in first if policy is not None} == {"enforce"}
    world.later(3600)
    assert (await world.policies.policy("x.org")) is not None
    assert world.fetched == ["x.org"]
    again = world.start()  # another worker, or after a restart
    assert (await again.policy("x.org")) is not None
    assert world.fetched == ["x.org"]


@in_a_world
async def test_domains_without_a_policy_are_left_in_peace(world: World) -> None:
    assert await world.policies.policy("plain.org") is None
    world.records["_mta-sts.dark.org"] = DnsUnavailable("no answer")
    assert await world.policies.policy("dark.org") is None
    assert world.fetched == []


@in_a_world
async def test_a_new_id_is_fetched_while_the_old_policy_is_used(world: World) -> None:
    await world.policies.policy("x.org")
    world.records["_mta-sts.x.org"] = "v=STSv1; id=2;"
    world.texts["x.org"] = POLICY.replace("enforce", "testing")
    world.gates["x.org"] = asyncio.Event()
    world.later(61)
    policy = await world.policies.policy("x.org")
    assert policy is not None
    assert policy.mode == "enforce"
    world.gates["x.org"].set()
    await world.settle()
    policy = await world.policies.policy("x.org")
    assert policy is not None
    assert (policy.mode, policy.id) == ("testing", "2")


@pytest.mark.rfc("8461", "3.1")
@in_a_world
async def test_a_known_policy_holds_whatever_the_dns_says(world: World) -> None:
    await world.policies.policy("x.org")
    for answer in (NoSuchDomain("x"), DnsUnavailable("x"), "v=STSv2"):
        world.records["_mta-sts.x.org"] = answer
        world.later(400)
        policy = await world.policies.policy("x.org")
        assert policy is not None
        assert policy.mode == "enforce"
    world.later(604800)
    assert await world.policies.policy("x.org") is None


@in_a_world
async def test_a_policy_in_use_never_ends_by_age(world: World) -> None:
    await world.policies.policy("x.org")
    for _ in range(20):
        world.later(86_500)
        assert (await world.policies.policy("x.org")) is not None
        await world.settle()
    assert 19 <= len(world.fetched) <= 21


@in_a_world
async def test_what_is_kept_is_refreshed_without_mail(world: World) -> None:
    await world.policies.policy("x.org")
    assert await world.policies.refresh() == 0
    world.later(86_500)
    assert await world.policies.refresh() == 1
    await world.settle()
    assert world.fetched == ["x.org", "x.org"]
    world.later(5 * 86_400)
    assert await world.policies.refresh() == 1
    await world.settle()
    world.later(26 * 86_400)
    assert await world.policies.refresh() == 0  # nobody has sent there for a month


@in_a_world
async def test_a_host_that_failed_is_left_alone_and_what_is_kept_stays(world: World) -> None:
    world.texts["x.org"] = BadPolicy("404", "sts-policy-fetch-error")
    assert await world.policies.policy("x.org") is None
    assert world.failures == [("x.org", "sts-policy-fetch-error", "404")]
    world.later(61)
    assert await world.policies.policy("x.org") is None
    assert world.fetched == ["x.org"]
    world.texts["x.org"] = POLICY
    world.later(300)
    assert await world.policies.policy("x.org") is not None
    world.texts["x.org"] = "nonsense"
    world.records["_mta-sts.x.org"] = "v=STSv1; id=2;"
    world.later(61)
    policy = await world.policies.policy("x.org")
    await world.settle()
    assert policy is not None
    assert policy.id == "1"
    assert world.failures[-1][1] == "sts-policy-invalid"


def test_a_slow_host_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """N7: the first mail waits a moment, others for other domains not at all."""
    monkeypatch.setattr(mtasts, "FIRST_WAIT_SECONDS", 0.05)

    async def main() -> None:
        world = World()
        world.gates["x.org"] = asyncio.Event()
        world.records["_mta-sts.y.org"] = "v=STSv1; id=1;"
        world.texts["y.org"] = POLICY
        slow = asyncio.ensure_future(world.policies.policy("x.org"))
        assert (await world.policies.policy("y.org")) is not None
        assert await slow is None
        world.gates["x.org"].set()
        await world.settle()
        assert (await world.policies.policy("x.org")) is not None
        assert sorted(world.fetched) == ["x.org", "y.org"]
        await world.policies.stop()

    asyncio.run(main())


def test_many_slow_hosts_hold_up_nobody() -> None:
    """N7: beyond a number of them, nobody waits at all."""

    async def main() -> None:
        world = World()
        for number in range(200):
            domain = f"d{number}.org"
            world.records[f"_mta-sts.{domain}"] = "v=STSv1; id=1;"
            world.gates[domain] = asyncio.Event()
        waiting = [asyncio.ensure_future(world.policies.policy(f"d{number}.org")) for number in range(200)]
        await world.settle()
        assert sum(not one.done() for one in waiting) == mtasts.MAX_WAITING
        assert len(world.fetched) == mtasts.MAX_FETCHES
        for gate in world.gates.values():
            gate.set()
        for domain in world.gates:
            world.texts[domain] = POLICY
        async with asyncio.timeout(10):
            while len(world.fetched) < 200:
                await asyncio.sleep(0)
        assert all(one.done() for one in waiting)
        assert await world.policies.policy("d199.org") is not None
        await world.policies.stop()

    asyncio.run(main())


def test_a_dark_name_server_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtasts, "FIRST_WAIT_SECONDS", 0.05)

    async def main() -> None:
        world = World()
        gate = asyncio.Event()
        ask = world._ask

        async def slowly(name: str, kind: str) -> Records:
            await gate.wait()
            return await ask(name, kind)

        world._ask = slowly  # type: ignore[method-assign]
        world.policies = world.start()
        assert await world.policies.policy("x.org") is None
        gate.set()
        await world.settle()
        assert await world.policies.policy("x.org") is not None
        await world.policies.stop()

    asyncio.run(main())


def test_a_host_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtasts, "FETCH_SECONDS", 0.05)

    async def main() -> None:
        world = World()
        world.gates["x.org"] = asyncio.Event()
        assert await world.policies.policy("x.org") is None
        assert world.failures == [("x.org", "sts-policy-fetch-error", "no policy within 0.05 s")]
        await world.policies.stop()

    asyncio.run(main())
