"""From the intake to another server, over real sockets: routes, retries, notices, many messages, and Postfix's own sink."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from rusmes._core.counters import SharedCounters
from rusmes.clock import SystemClock
from rusmes.config.schema import Config, Site
from rusmes.config.units import Duration
from rusmes.dns import Resolver
from rusmes.metrics import DELIVERIES, DELIVERY_CONNECTIONS
from tests.loops import run_on_uvloop
from tests.sinks.engine import config_for, running
from tests.sinks.name_server import NameServer
from tests.sinks.smtp_sink import Sink


@pytest.fixture(autouse=True)
def _on_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of the server."""
    monkeypatch.setattr(asyncio, "run", run_on_uvloop)


BODY = b"Subject: a\r\n\r\n.dot\r\nb\r\n"


async def empty(engine: Any, seconds: float = 10.0) -> None:
    """Wait until the queue is empty."""
    async with asyncio.timeout(seconds):
        while engine.runner.size:
            await asyncio.sleep(0.005)
    assert not list(engine.queue_store.entries())


def test_one_message() -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port)) as engine:
            outcome = await engine.send("bob@example.org", data=BODY)
            assert outcome.refusals == [None]
            (message,) = await sink.wait_for(1)
            assert message.mail == "<sam@elsewhere.org> SIZE=23"
            assert message.rcpts == ["<bob@example.org>"]
            assert message.data == BODY
            await empty(engine)

    asyncio.run(main())


def test_many_messages_over_few_connections() -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port, messages_per_connection=50)) as engine:
            await asyncio.gather(*(engine.send("bob@example.org", data=BODY) for _ in range(500)))
            await empty(engine)
            assert len(sink.messages) == 500
            assert sink.most_open <= 20
            assert len(sink.peers) <= 40
            assert engine.metrics.count(DELIVERIES["delivered"]) == 500
            assert engine.metrics.count(DELIVERY_CONNECTIONS["reused"]) >= 460

    asyncio.run(main())


def test_a_server_that_comes_back() -> None:
    async def main() -> None:
        sink = Sink()
        async with sink:
            pass
        async with running(config_for(sink.port)) as engine:
            await engine.send("bob@example.org", data=BODY)
            await asyncio.sleep(0.2)
            (entry,) = engine.queue_store.entries()
            assert entry.states[0].status == "deferred"
            assert "Connection refused" in entry.states[0].last_reply
            engine.deliverer._pool._dead._dead.clear()
            async with sink:
                await sink.wait_for(1)
                await empty(engine)

    asyncio.run(main())


def test_mixed_answers_retry_and_notice() -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port, route={"domains": ("x.org",)})) as engine:
            sink.replies["rcpt:b@x.org"] = ["450 4.2.1 greylisted", "450 4.2.1 greylisted"]
            sink.replies["rcpt:c@x.org"] = "550 5.1.1 no such user"
            await engine.send("a@x.org", "b@x.org", "c@x.org", sender="alice@example.com", data=BODY)
            await empty(engine)
            assert [message.rcpts for message in sink.messages] == [["<a@x.org>"], ["<b@x.org>"]]
            (notice,) = await engine.inbox("alice@example.com")
            assert b"Final-Recipient: rfc822; c@x.org\r\nAction: failed\r\nStatus: 5.1.1" in notice

    asyncio.run(main())


@pytest.mark.parametrize("limit", [1, 3])
def test_connections_of_a_site_are_counted_over_all_workers(limit: int) -> None:
    async def main() -> None:
        shared = SharedCounters(1, 1024)
        async with Sink() as sink:
            config = config_for(sink.port, connections_per_site=limit, idle_timeout=Duration(0.05))
            async with running(config, limits=shared) as one, running(config, limits=shared) as two:
                sink.delays["final"] = 0.01
                for engine in (one, two):
                    for _ in range(20):
                        await engine.send("bob@example.org", data=BODY)
                await empty(one)
                await empty(two)
                assert len(sink.messages) == 40
                assert sink.most_open <= limit + 1  # one may still say QUIT
            await asyncio.sleep(0.05)
            assert shared.count(b"out") == 0

    asyncio.run(main())


def test_workers_that_share_a_site_take_turns() -> None:
    async def main() -> None:
        shared = SharedCounters(3, 1024)  # of a supervisor and two workers
        async with Sink() as sink:
            config = config_for(sink.port, connections_per_site=1)
            async with running(config, limits=shared) as busy, running(config, limits=shared) as other:
                sink.delays["final"] = 0.005
                for _ in range(400):
                    await busy.send("bob@example.org", data=BODY)
                await asyncio.sleep(0.05)
                await other.send("bob@example.org", data=BODY)
                await empty(other)
                assert busy.runner.size > 50

    asyncio.run(main())


def test_connection_limit_of_the_server_makes_us_use_fewer() -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port)) as engine:
            sink.delays["final"] = 0.01
            sink.replies["connect"] = ["220 hi", "220 hi", *["421 4.7.0 too many connections"] * 50]
            await asyncio.gather(*(engine.send("bob@example.org", data=BODY) for _ in range(40)))
            await empty(engine)
            assert len(sink.messages) == 40
            assert engine.metrics.count(DELIVERIES["deferred"]) <= 4

    asyncio.run(main())


def test_messages_per_second() -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port, messages_per_second=20.0)) as engine:
            started = time.monotonic()
            for _ in range(30):
                await engine.send("bob@example.org", data=BODY)
            await asyncio.sleep(0.3)
            assert len(sink.messages) <= 20
            await empty(engine)
            assert time.monotonic() - started > 0.4
            assert len(sink.messages) == 30

    asyncio.run(main())


def test_source_addresses_take_turns() -> None:
    async def main() -> None:
        async with Sink() as sink:
            seen = []
            original = sink._serve

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                seen.append(writer.get_extra_info("peername")[0])
                await original(reader, writer)

            sink._serve = serve  # type: ignore[method-assign]
            await sink.close()
            async with sink:
                sources = ("127.0.0.2", "127.0.0.3", "2001:db8::1")
                config = config_for(sink.port, source_addresses=sources, messages_per_connection=1)
                async with running(config) as engine:
                    for _ in range(4):
                        await engine.send("bob@example.org", data=BODY)
                    await empty(engine)
                assert sorted(seen) == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]

    asyncio.run(main())


# By MX


def mx_config(port: int, names: NameServer, **more: Any) -> Config:
    config = config_for(0, resolver=(names.address,), private_hosts=True, **more)
    return structs.replace(config, delivery=structs.replace(config.delivery, port=port))


def test_by_mx_the_best_host_that_answers() -> None:
    async def main() -> None:
        async with NameServer() as names, Sink() as sink:
            names.records = {
                ("x.org.", "MX"): ["10 dead.x.org.", "20 alias.x.org."],
                ("dead.x.org.", "A"): ["127.0.0.9"],
                ("alias.x.org.", "CNAME"): ["live.x.org."],
                ("live.x.org.", "A"): ["127.0.0.1"],
                ("gone.org.", "MX"): "NXDOMAIN",
                ("null.org.", "MX"): ["0 ."],
                ("dark.org.", "MX"): "SERVFAIL",
            }
            clock = SystemClock()
            resolver = Resolver(clock, [names.address])
            async with running(mx_config(sink.port, names), resolver=resolver) as engine:
                await engine.send("a@x.org", "b@gone.org", "c@null.org", "d@dark.org", sender="alice@example.com", data=BODY)
                (message,) = await sink.wait_for(1)
                assert message.rcpts == ["<a@x.org>"]
                async with asyncio.timeout(10):
                    while len(await engine.inbox("alice@example.com")) < 1:
                        await asyncio.sleep(0.01)
                notices = b"".join(await engine.inbox("alice@example.com"))
                assert b"b@gone.org" in notices
                assert b"Status: 5.1.10" in notices
                async with asyncio.timeout(10):
                    while (entry := next(iter(engine.queue_store.entries()))).states[0].status == "queued":
                        await asyncio.sleep(0.01)
                assert [state.status for state in entry.states] == ["delivered", "failed", "failed", "deferred"]
                assert entry.states[3].last_reply.startswith("4.4.3")

    asyncio.run(main())


def test_domains_with_the_same_exchangers_share_a_connection_and_a_transaction() -> None:
    async def main() -> None:
        async with NameServer() as names, Sink() as sink:
            for domain in ("x.org.", "y.org."):
                names.records[domain, "MX"] = ["10 mx.provider.org."]
            names.records["mx.provider.org.", "A"] = ["127.0.0.1"]
            resolver = Resolver(SystemClock(), [names.address])
            config = mx_config(sink.port, names, site=(Site(match=("mx.provider.org",), messages_per_connection=5),))
            async with running(config, resolver=resolver) as engine:
                await engine.send("a@x.org", "b@y.org", data=BODY)
                await empty(engine)
                await engine.send("c@y.org", data=BODY)
                await empty(engine)
            assert [message.rcpts for message in sink.messages] == [["<a@x.org>", "<b@y.org>"], ["<c@y.org>"]]
            assert len(sink.peers) == 1

    asyncio.run(main())


# Postfix


@pytest.fixture
def postfix_sink() -> Iterator[int]:
    program = shutil.which("smtp-sink", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.skip("Postfix's smtp-sink is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "-u", "nobody", f"127.0.0.1:{port}", "100"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def test_postfix_smtp_sink_takes_everything(postfix_sink: int) -> None:
    async def main() -> None:
        async with running(config_for(postfix_sink)) as engine:
            large = b"Subject: big\r\n\r\n" + b".line\r\n" * 100_000
            for number in range(200):
                await engine.send("bob@example.org", data=large if number % 50 == 0 else BODY)
            await empty(engine, 20)
            assert engine.metrics.count(DELIVERIES["delivered"]) == 200
            assert engine.metrics.count(DELIVERIES["deferred"]) == 0

    asyncio.run(main())
