"""Mail that leaves by named sources: addresses of this machine, proxies, a new address that warms up, rules on replies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import SystemClock
from rusmes.config.load import parse_config
from rusmes.delivery.egress import exits
from rusmes.delivery.remote import RemoteDeliverer
from rusmes.dns import Resolver
from rusmes.metrics import EGRESS_CHOICES, EGRESS_FAILURES, SHAPING_ACTIONS
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import TENANT, Busy, Postponed, Report
from rusmes.queue.suspensions import Suspensions
from rusmes.storage.ledger import MemoryLedger
from tests.loops import run_on_uvloop
from tests.sinks.engine import HOSTNAME, address, running
from tests.sinks.name_server import NameServer
from tests.sinks.proxies import HeaderProxy, SocksProxy
from tests.sinks.smtp_sink import Sink


@pytest.fixture(autouse=True, params=["uvloop", "asyncio"])
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", run_on_uvloop)


BODY = b"Subject: test\r\n\r\nHello\r\n"
_ids = IdSource()

SOURCES = """
[egress]
default_pool = "both"
tenant_pools = { shop = "three" }
[[egress.source]]
name = "two"
addresses = ["127.0.0.2"]
ehlo = "two.example.com"
[[egress.source]]
name = "three"
addresses = ["127.0.0.3"]
ehlo = "three.example.com"
[[egress.pool]]
name = "both"
sources = { two = 3, three = 1 }
"""


def item(recipient: str = "bob@example.org", *, tenant: str = "") -> Queued:
    content = Content(_ids.next_id(), len(BODY), BODY.find(b"\r\n\r\n") + 4, data=BODY)
    attributes: Any = {TENANT: tenant} if tenant else None
    recipients = (Recipient(address(recipient)),)
    return Queued(
        _ids.next_id(), "relay", None, recipients, Rendering(content), Origin(trusted=True), 1.7e9, attributes=attributes
    )


class Out:
    """A deliverer that sends everything to one port; several of them are workers of one server."""

    def __init__(self, port: int, text: str = SOURCES, *, other: Out | None = None, resolver: str = "127.0.0.1:9") -> None:
        route = f'[[delivery.route]]\nname = "sink"\nhost = "127.0.0.1"\nport = {port}\ndomains = ["*"]\nuse_tls = false\n'
        route = route if port else ""
        self.config = parse_config(f'domain = "example.com"\n{route}{text}', environ={}, base="/")
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.ledger = other.ledger if other else MemoryLedger()
        self.limits = other.limits if other else SharedCounters(1, 4096)
        self.suspensions = Suspensions(self.ledger, self.clock)
        self.deliverer = RemoteDeliverer(
            self.config,
            Resolver(self.clock, [resolver]),
            self.metrics,
            self.clock,
            self.limits,
            HOSTNAME,
            ledger=self.ledger,
            suspender=self.suspensions,
        )

    async def send(self, mail: Queued | None = None) -> Report:
        mail = mail or item()
        destination = self.deliverer.destination(mail, mail.recipients[0])
        (report,) = await self.deliverer.deliver(mail, mail.recipients, destination)
        return report


Test = Callable[[Sink, Out], Awaitable[None]]


def against(test: Test, text: str = SOURCES) -> None:
    async def main() -> None:
        async with Sink() as sink:
            out = Out(sink.port, text)
            try:
                async with asyncio.timeout(30):
                    await test(sink, out)
            finally:
                await out.deliverer.stop()

    asyncio.run(main())


def by(sink: Sink) -> Counter[str]:
    """How many messages came from each address."""
    return Counter(sink.peers[message.connection].address for message in sink.messages)


def test_mail_leaves_by_its_sources_in_proportion_each_with_its_name() -> None:
    async def test(sink: Sink, out: Out) -> None:
        reports = [await out.send() for _ in range(12)]
        assert {report.action for report in reports} == {"delivered"}
        assert by(sink) == {"127.0.0.2": 9, "127.0.0.3": 3}
        assert {(peer.address, peer.helo) for peer in sink.peers} == {
            ("127.0.0.2", "two.example.com"),
            ("127.0.0.3", "three.example.com"),
        }
        assert len(sink.peers) == 2  # a connection of a source serves its mail
        attempts = [report.attempt for report in reports]
        assert Counter((one.source, one.source_address) for one in attempts if one is not None) == {
            ("two", "127.0.0.2"): 9,
            ("three", "127.0.0.3"): 3,
        }

    against(test)


def test_a_tenants_mail_leaves_by_its_pool_and_the_queue_knows_it() -> None:
    async def test(sink: Sink, out: Out) -> None:
        mail = item(tenant="shop")
        target = await out.deliverer.find_target(out.deliverer.destination(mail, mail.recipients[0]))
        assert (getattr(target, "source", ""), getattr(target, "site", "")) == ("three", f"127.0.0.1:{sink.port}")
        for _ in range(4):
            await out.send(item(tenant="shop"))
        assert by(sink) == {"127.0.0.3": 4}

    against(test)


def test_a_site_can_name_the_pool() -> None:
    async def test(sink: Sink, out: Out) -> None:
        for _ in range(3):  # at first nobody knows which site it is
            await out.send()
        await out.send(item(tenant="shop"))
        assert by(sink) == {"127.0.0.2": 3, "127.0.0.3": 1}

    against(test, '[[delivery.site]]\nmx = ["127.0.0.1"]\npool = "two"\n' + SOURCES)


def test_a_source_without_an_address_of_the_family_sends_nothing() -> None:
    async def test(sink: Sink, out: Out) -> None:
        report = await out.send(item(tenant="shop"))
        assert (report.action, report.status) == ("delayed", "4.4.4")
        assert "source three none" in report.text
        assert sink.messages == []

    against(test, SOURCES.replace('["127.0.0.3"]', '["::1"]'))


def test_an_address_that_is_not_ours_is_passed_over() -> None:
    async def test(sink: Sink, out: Out) -> None:
        assert {(await out.send()).action for _ in range(6)} == {"delivered"}
        assert by(sink) == {"127.0.0.3": 6}
        assert out.metrics.count(EGRESS_FAILURES["bind"]) == 1

    against(test, SOURCES.replace('["127.0.0.2"]', '["198.51.100.1"]'))


def test_without_any_source_that_works_mail_waits_and_is_then_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sink: Sink, out: Out) -> None:
        with pytest.raises(Postponed, match=r"198\.51\.100\.1"):
            await out.send(item(tenant="shop"))
        monkeypatch.setattr(exits, "PATIENCE_SECONDS", 0.0)
        report = await out.send(item(tenant="shop"))
        assert (report.action, report.status) == ("delayed", "4.3.5")
        assert "198.51.100.1" in report.text
        assert sink.messages == []

    against(test, SOURCES.replace('["127.0.0.3"]', '["198.51.100.1"]'))


def test_a_server_that_refuses_is_no_fault_of_the_source() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["connect"] = "554 5.7.1 not from you"
        report = await out.send()
        assert report.code == 554
        assert out.metrics.count(EGRESS_FAILURES["bind"]) == 0
        assert out.deliverer.steering.exits.health.down_for(out.deliverer.steering.exits.source("two")) == 0.0  # type: ignore[arg-type]
        del sink.replies["connect"]
        # What it does to one source is not held against the others.
        assert (await out.send(item(tenant="shop"))).action == "delivered"

    against(test)


def test_socks5_and_proxy_protocol() -> None:
    async def main() -> None:
        async with Sink() as sink, SocksProxy(users={"u": "p"}, source="127.0.0.5") as socks, HeaderProxy() as header:
            text = f"""
[egress]
default_pool = "both"
[[egress.source]]
name = "far"
proxy = "socks5://127.0.0.1:{socks.port}"
proxy_username = "u"
proxy_password = "p"
ehlo = "far.example.com"
[[egress.source]]
name = "told"
addresses = ["127.0.0.6"]
proxy = "haproxy://127.0.0.1:{header.port}"
[[egress.pool]]
name = "both"
sources = ["far", "told"]
"""
            out = Out(sink.port, text)
            async with asyncio.timeout(20):
                reports = [await out.send() for _ in range(4)]
            assert by(sink) == {"127.0.0.5": 2, "127.0.0.6": 2}
            assert {(report.attempt.source, report.attempt.source_address) for report in reports if report.attempt} == {
                ("far", "127.0.0.5"),
                ("told", "127.0.0.6"),
            }
            assert {peer.helo for peer in sink.peers} == {"far.example.com", HOSTNAME}
            assert set(socks.asked) == set(header.asked) == {("127.0.0.1", sink.port)}
            await out.deliverer.stop()

    asyncio.run(main())


def test_a_proxy_that_is_gone_is_passed_over() -> None:
    async def test(sink: Sink, out: Out) -> None:
        assert {(await out.send()).action for _ in range(4)} == {"delivered"}
        assert by(sink) == {"127.0.0.3": 4}
        assert out.metrics.count(EGRESS_FAILURES["proxy"]) == 1

    against(test, SOURCES.replace('addresses = ["127.0.0.2"]', 'proxy = "socks5://127.0.0.1:1"'))


WARM = SOURCES.replace('ehlo = "two.example.com"', "warmup = { start = 3, growth = 2.0, days = 5 }")


def test_a_new_source_sends_its_part_of_the_day_and_others_the_rest() -> None:
    async def main() -> None:
        async with Sink() as sink, asyncio.timeout(30):
            one = Out(sink.port, WARM)
            other = Out(sink.port, WARM, other=one)
            for out in (one, other) * 8:
                await out.send()
            assert by(sink) == {"127.0.0.2": 3, "127.0.0.3": 13}
            sink.replies["rcpt"] = "550 5.1.1 no such user"
            await one.deliverer.stop()
            await other.deliverer.stop()
            again = Out(sink.port, WARM)
            again.ledger = one.ledger
            again = Out(sink.port, WARM, other=again)
            del sink.replies["rcpt"]
            for _ in range(4):
                await again.send()
            assert by(sink) == {"127.0.0.2": 3, "127.0.0.3": 17}
            await again.deliverer.stop()

    asyncio.run(main())


def test_mail_that_was_refused_is_not_counted() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["rcpt"] = "550 5.1.1 no such user"
        for _ in range(6):
            assert (await out.send()).code == 550
        del sink.replies["rcpt"]
        for _ in range(8):
            await out.send()
        assert by(sink)["127.0.0.2"] == 3

    against(test, WARM)


def test_alone_a_source_that_has_sent_its_part_lets_mail_wait() -> None:
    async def test(sink: Sink, out: Out) -> None:
        for _ in range(3):
            await out.send()
        mail = item()
        with pytest.raises(Postponed, match="has sent its 3 messages of today"):
            await out.send(mail)
        assert "has sent its 3 messages" in out.deliverer.egress_obstacle(mail, mail.recipients[0])
        assert len(sink.messages) == 3
        assert out.metrics.count(EGRESS_CHOICES["postponed"]) == 1

    against(test, WARM.replace("{ two = 3, three = 1 }", '["two"]'))


RULE = """
[[delivery.rule]]
name = "blocked"
reply = 'blocked using'
scope = "%s"
duration = "1h"
[[delivery.rule]]
name = "slower"
reply = 'too fast'
after = 2
action = "set"
set = { connections_per_site = 1, messages_per_connection = 1 }
"""


def test_a_rule_keeps_a_source_from_a_site_and_another_one_takes_over() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["rcpt"] = ["550 5.7.1 blocked using a list"]
        first = await out.send()
        assert (first.code, first.attempt.source if first.attempt else "") == (550, "two")
        for _ in range(4):
            await out.send()
        assert by(sink) == {"127.0.0.3": 4}
        assert out.metrics.count(SHAPING_ACTIONS["suspend"]) == 1
        sink.replies["rcpt"] = ["550 5.7.1 blocked using a list"]
        await out.send()
        with pytest.raises(Postponed, match="is suspended for"):
            await out.send()

    against(test, SOURCES + RULE % "source-site")


def test_a_rule_changes_what_holds_for_a_site() -> None:
    async def test(sink: Sink, out: Out) -> None:
        mail = item()
        destination = out.deliverer.destination(mail, mail.recipients[0])
        assert (await out.deliverer.find_target(destination)).limits.connections == 20  # type: ignore[union-attr]
        sink.replies["rcpt"] = ["450 4.2.0 too fast for this mailbox", "450 4.2.0 too fast for this mailbox"]
        for _ in range(2):
            await out.send()
        assert out.deliverer.known_target(destination) is None
        assert (await out.deliverer.find_target(destination)).limits.connections == 1  # type: ignore[union-attr]
        connections = len(sink.peers)
        for _ in range(3):
            await out.send()
        assert len(sink.peers) >= connections + 2

    against(test, "[delivery]\nbundled_shaping = false\n" + RULE % "site")


def test_a_refusal_at_the_greeting_is_heard_too() -> None:
    async def test(sink: Sink, out: Out) -> None:
        sink.replies["connect"] = ["421 4.7.0 too fast, you", "421 4.7.0 too many connections, too fast"]
        for _ in range(2):
            try:
                await out.send()
            except Busy:
                pass
            out.deliverer.feedback._sites.clear()
            out.deliverer._pool._dead._dead.clear()
            for key in (f"127.0.0.1:{sink.port}@{name}" for name in ("two", "three")):
                out.limits.clear(b"site-down:" + key.encode())
        assert out.metrics.count(SHAPING_ACTIONS["set"]) == 1

    against(test, SOURCES.replace("{ two = 3, three = 1 }", '["two"]') + RULE % "site")


@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"], ["198.51.100.1", "127.0.0.2"]])
def test_source_addresses_without_egress(addresses: list[str]) -> None:
    async def test(sink: Sink, out: Out) -> None:
        for _ in range(4):
            assert (await out.send()).action == "delivered"
        assert set(by(sink)) == {one for one in addresses if one.startswith("127.")}

    quoted = ", ".join(f'"{one}"' for one in addresses)
    against(test, f"[delivery]\nsource_addresses = [{quoted}]\nmessages_per_connection = 1\n")


def test_source_addresses_of_which_none_works() -> None:
    async def test(sink: Sink, out: Out) -> None:
        report = await out.send()
        assert (report.action, report.status) == ("delayed", "4.3.5")

    against(test, '[delivery]\nsource_addresses = ["198.51.100.1", "198.51.100.2"]\n')


def test_much_mail_through_the_queue_by_two_sources() -> None:
    """Pipelined behind each other, and with limits of the day that end in the middle."""

    async def main() -> None:
        async with Sink() as sink:
            out = Out(sink.port, WARM.replace("start = 3", "start = 40"))
            async with running(out.config, deliverer=out.deliverer) as engine, asyncio.timeout(30):
                for number in range(300):
                    await engine.send(f"user{number}@example.org")
                await sink.wait_for(300, 25)
            assert by(sink) == {"127.0.0.2": 40, "127.0.0.3": 260}
            await out.deliverer.stop()

    asyncio.run(main())


def test_in_the_queue_mail_that_must_wait_holds_up_no_other() -> None:
    text = WARM.replace("start = 3", "start = 1") + '[[egress.pool]]\nname = "alone"\nsources = ["two"]\n'
    text = text.replace('shop = "three"', 'shop = "alone"')

    async def main() -> None:
        async with Sink() as sink:
            out = Out(sink.port, text)
            async with running(out.config, deliverer=out.deliverer) as engine, asyncio.timeout(20):
                for tenant in ("shop", "shop", "", "", "shop", ""):
                    mail = engine.mail("bob@example.org")
                    if tenant:
                        mail.attributes[TENANT] = tenant
                    await engine.intake.accept(mail)
                await sink.wait_for(4)
                while len(entries := list(engine.queue_store.entries())) > 2:
                    await asyncio.sleep(0.01)
                assert by(sink) == {"127.0.0.2": 1, "127.0.0.3": 3}
                assert [state.attempts for entry in entries for state in entry.states] == [0, 0]
            await out.deliverer.stop()

    asyncio.run(main())


def test_by_mx_a_provider_has_one_limit_and_one_part_of_the_day() -> None:
    text = """
[delivery]
port = {port}
resolver = ["{names}"]
private_hosts = true
ipv6 = false
[smtp]
port = 0
[[delivery.provider]]
name = "big"
mx = ["*.big.example"]
connections_per_provider = 1
[egress]
default_pool = "both"
[[egress.source]]
name = "new"
addresses = ["127.0.0.2"]
warmup = {{ start = 1, starts = {{ big = 3 }} }}
[[egress.source]]
name = "old"
addresses = ["127.0.0.3"]
[[egress.pool]]
name = "both"
sources = ["new", "old"]
"""

    async def main() -> None:
        async with NameServer() as names, Sink() as sink:
            for domain in ("x", "y", "z"):
                names.records[f"{domain}.example.", "MX"] = [f"10 mx.{domain}.big.example."]
                names.records[f"mx.{domain}.big.example.", "A"] = ["127.0.0.1"]
            sink.delays["final"] = 0.02
            out = Out(0, text.format(port=sink.port, names=names.address), resolver=names.address)
            async with running(out.config, deliverer=out.deliverer) as engine, asyncio.timeout(30):
                for number in range(24):
                    await engine.send(f"user{number}@{'xyz'[number % 3]}.example")
                await sink.wait_for(24, 25)
            assert by(sink) == {"127.0.0.2": 3, "127.0.0.3": 21}
            assert sink.most_open <= 2  # one for each source
            await out.deliverer.stop()

    asyncio.run(main())


def test_a_rule_stops_a_site_in_the_queue_until_it_is_resumed() -> None:
    rule = "[[delivery.rule]]\nname = 'stop'\nreply = 'go away'\nduration = '1h'\n[queue]\nretry_schedule = ['100ms']\n"

    async def main() -> None:
        async with Sink() as sink:
            out = Out(sink.port, rule)
            async with (
                running(out.config, deliverer=out.deliverer, suspender=out.suspensions) as engine,
                asyncio.timeout(20),
            ):
                sink.replies["rcpt"] = ["450 4.7.1 go away for now"]
                await engine.send("first@example.org")
                while not (found := out.suspensions.list()):
                    await asyncio.sleep(0.01)
                assert (found[0].scope, found[0].name, found[0].by) == ("site", f"127.0.0.1:{sink.port}", "rule stop")
                for number in range(5):
                    await engine.send(f"user{number}@example.org")
                await asyncio.sleep(0.3)
                assert sink.messages == []
                attempts = [state.attempts for entry in engine.queue_store.entries() for state in entry.states]
                assert sorted(attempts) == [0, 0, 0, 0, 0, 1]
                assert out.suspensions.resume("site", found[0].name)
                await sink.wait_for(6)
            await out.deliverer.stop()

    asyncio.run(main())


def test_mail_that_was_begun_and_given_up_is_not_counted() -> None:
    text = WARM.replace("start = 3", "start = 4").replace("{ two = 3, three = 1 }", '["two"]')

    async def main() -> None:
        async with Sink() as sink:
            out = Out(sink.port, "[delivery]\nconnections_per_site = 2\n" + text)
            async with running(out.config, deliverer=out.deliverer) as engine, asyncio.timeout(30):
                await engine.send("first@example.org")
                await sink.wait_for(1)
                sink.delays["final"] = 1.3  # longer than a mail waits that was begun behind another one
                for number in range(3):
                    await engine.send(f"user{number}@example.org")
                await sink.wait_for(4, 25)
                while list(engine.queue_store.entries()):
                    await asyncio.sleep(0.01)
            warmups = out.deliverer.steering.exits.warmups
            source = out.deliverer.steering.exits.source("two")
            assert source is not None
            assert warmups.used(source, "") == 4
            await out.deliverer.stop()

    asyncio.run(main())


def test_mail_that_waited_for_a_source_that_a_reload_took_away() -> None:
    async def test(sink: Sink, out: Out) -> None:
        mails = [item(), item(), item()]
        destinations = [out.deliverer.destination(mail, mail.recipients[0]) for mail in mails]
        assert destinations[0].endswith(" via two")

        async def deliver(number: int) -> Report:
            mail = mails[number]
            (report,) = await out.deliverer.deliver(mail, mail.recipients, destinations[number])
            return report

        await deliver(0)
        only_three = SOURCES.replace("{ two = 3, three = 1 }", '["three"]')
        for text, expected in ((only_three, "127.0.0.3"), ("", "127.0.0.1")):
            out.deliverer.apply(Out(sink.port, text).config)
            assert (await deliver(1 if text else 2)).action == "delivered"
            assert sink.peers[sink.messages[-1].connection].address == expected

    against(test)
