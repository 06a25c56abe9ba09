"""Questions, answers and their cache (N2, N3, N4, N8); the network is a function."""

from __future__ import annotations

import asyncio

import pytest

from rusmes import dns
from rusmes.clock import FakeClock
from rusmes.dns import DnspythonAsk, DnsUnavailable, MxRecord, NoSuchDomain, Records, Resolver
from rusmes.errors import ConfigError


class Zone:
    """Answers by (name, type); counts what it is asked."""

    def __init__(self, answers: dict[tuple[str, str], object]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, name: str, kind: str) -> Records:
        self.asked.append((name, kind))
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.get((name, kind), Records((), 60))
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Records)
        return answer


def test_mx_by_preference_and_null() -> None:
    zone = Zone({("example.org", "MX"): Records((MxRecord(20, "b.example.org"), MxRecord(10, "a.example.org")), 60)})
    resolver = Resolver(FakeClock(), ask=zone)
    assert asyncio.run(resolver.mx("Example.ORG.")) == [MxRecord(10, "a.example.org"), MxRecord(20, "b.example.org")]
    assert asyncio.run(resolver.mx("none.example")) == []


def test_n4_ttl_0_is_kept_for_30_seconds() -> None:
    zone = Zone({("h.example", "A"): Records(("192.0.2.1",), 0)})
    clock = FakeClock()
    resolver = Resolver(clock, ask=zone)

    async def ask() -> list[str]:
        return await resolver.addresses("h.example", ipv6=False)

    for _ in range(3):
        assert asyncio.run(ask()) == ["192.0.2.1"]
    assert len(zone.asked) == 1
    clock.advance(29)
    asyncio.run(ask())
    assert len(zone.asked) == 1
    clock.advance(2)
    asyncio.run(ask())
    assert len(zone.asked) == 2


def test_n3_nothing_no_such_name_and_unknown_are_different_and_cached() -> None:
    zone = Zone({("gone.example", "MX"): NoSuchDomain("no such domain"), ("dark.example", "MX"): DnsUnavailable("no answer")})
    clock = FakeClock()
    resolver = Resolver(clock, ask=zone)

    async def ask() -> None:
        for _ in range(2):
            assert await resolver.mx("nothing.example") == []
            with pytest.raises(NoSuchDomain):
                await resolver.mx("gone.example")
            with pytest.raises(DnsUnavailable):
                await resolver.mx("dark.example")

    asyncio.run(ask())
    assert len(zone.asked) == 3
    clock.advance(31)
    asyncio.run(ask())
    assert zone.asked[3:] == [("dark.example", "MX")]


def test_one_question_for_all_who_ask_at_once_and_giving_up_harms_nobody() -> None:
    zone = Zone({("h.example", "A"): Records(("192.0.2.1",), 60)})
    resolver = Resolver(FakeClock(), ask=zone)

    async def main() -> None:
        zone.gate = asyncio.Event()
        asking = [asyncio.create_task(resolver.addresses("h.example", ipv6=False)) for _ in range(10)]
        await asyncio.sleep(0)
        asking[0].cancel()
        await asyncio.sleep(0)
        zone.gate.set()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [["192.0.2.1"]] * 9

    asyncio.run(main())
    assert len(zone.asked) == 1


def test_addresses_of_both_families() -> None:
    zone = Zone({
        ("both.example", "A"): Records(("192.0.2.1",), 60), ("both.example", "AAAA"): Records(("2001:db8::1",), 60),
        ("half.example", "A"): Records(("192.0.2.2",), 60), ("half.example", "AAAA"): DnsUnavailable("x"),
        ("dark.example", "A"): DnsUnavailable("x"),
        ("gone.example", "A"): NoSuchDomain("x"), ("gone.example", "AAAA"): NoSuchDomain("x"),
    })  # fmt: skip

    async def main() -> None:
        resolver = Resolver(FakeClock(), ask=zone)
        assert await resolver.addresses("both.example") == ["2001:db8::1", "192.0.2.1"]
        assert await resolver.addresses("both.example", ipv6=False) == ["192.0.2.1"]
        assert await resolver.addresses("half.example") == ["192.0.2.2"]
        with pytest.raises(DnsUnavailable):
            await resolver.addresses("dark.example")
        with pytest.raises(NoSuchDomain):
            await resolver.addresses("gone.example")

    asyncio.run(main())


def test_cache_and_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "MAX_CACHED", 50)
    zone = Zone({("big.example", "A"): Records(tuple(f"192.0.2.{i % 256}" for i in range(1000)), 60)})
    resolver = Resolver(FakeClock(), ask=zone)

    async def main() -> None:
        assert len(await resolver.addresses("big.example", ipv6=False)) == 100
        for i in range(200):
            await resolver.mx(f"d{i}.example")

    asyncio.run(main())
    assert len(resolver._cache) == 50


@pytest.mark.parametrize("name", ["evil\r\n.example", "b\u00fccher.example", "a b.example", ""])
def test_n8_strange_client_names_are_not_believed(name: str) -> None:
    zone = Zone({("1.2.0.192.in-addr.arpa", "PTR"): Records((name,), 60), (name, "A"): Records(("192.0.2.1",), 60)})
    assert asyncio.run(Resolver(FakeClock(), ask=zone).verified_name("192.0.2.1")) == ""


def test_client_name_must_lead_back() -> None:
    zone = Zone({
        ("1.2.0.192.in-addr.arpa", "PTR"): Records(("liar.example", "mx.example"), 60),
        ("liar.example", "A"): Records(("192.0.2.9",), 60), ("mx.example", "A"): Records(("192.0.2.1",), 60),
    })  # fmt: skip
    assert asyncio.run(Resolver(FakeClock(), ask=zone).verified_name("192.0.2.1")) == "mx.example"
    assert asyncio.run(Resolver(FakeClock(), ask=zone).verified_name("192.0.2.2")) == ""


@pytest.mark.parametrize("text", ["ns.example", "127.0.0.1:x", "[::1", "1.2.3.4:5:6"])
def test_bad_name_server_is_the_operators_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"delivery\.resolver"):
        Resolver(FakeClock(), [text])
    Resolver(FakeClock(), ["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]:53"])


def test_a_reload_asks_other_name_servers_and_forgets_what_the_old_ones_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    async def ask(self: DnspythonAsk, name: str, kind: str) -> Records:
        asked.append(self.name_servers)
        return Records(("192.0.2.1",), 3600)

    monkeypatch.setattr(DnspythonAsk, "__call__", ask)
    resolver = Resolver(FakeClock(), ["127.0.0.1:1"])

    async def look_up() -> None:
        assert await resolver.addresses("h.example", ipv6=False) == ["192.0.2.1"]

    asyncio.run(look_up())
    resolver.apply(["127.0.0.1:1"])  # nothing has changed
    asyncio.run(look_up())
    resolver.apply(["127.0.0.1:2", "[::1]:53"])
    asyncio.run(look_up())
    assert asked == [("127.0.0.1:1",), ("127.0.0.1:2", "[::1]:53")]
    assert [str(place) for place in DnspythonAsk(["127.0.0.1:2", "[::1]:53"])._open().nameservers] == [
        "Do53:127.0.0.1@2",
        "Do53:::1@53",
    ]
    with pytest.raises(ConfigError, match="no name server"):
        resolver.apply(["ns.example"])
