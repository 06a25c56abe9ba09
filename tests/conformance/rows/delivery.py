"""What a server does to those who deliver mail to it: rows of the list of attacks, against the engine with a real deliverer."""

from __future__ import annotations

import asyncio
from unittest import mock

from rusmes.config.schema import Site
from rusmes.delivery import transaction
from rusmes.metrics import DELIVERIES
from tests.conformance.rows import row
from tests.sinks.engine import config_for, running
from tests.sinks.smtp_sink import Sink

CONNECTIONS = 2


@row("L6s")
async def hangs_after_the_message(_: str) -> None:
    """A server that says nothing after the final dot is waited for, but its place at the site is for others: as many
    deliveries as the site may have connections wait aside, and the rest of the mail goes on."""
    hung = asyncio.Event()
    finals = 0
    site = Site(match=("*",), connections_per_site=CONNECTIONS)
    times = {"RELEASE_SECONDS": 0.02, "ASIDE_SECONDS": 0.1, "FINAL_SECONDS": 20.0}
    with mock.patch.multiple(transaction, **times):
        async with Sink() as sink, running(config_for(sink.port, site=(site,))) as engine:
            answer = sink._answer

            async def hanging(writer: asyncio.StreamWriter, phase: str, default: str) -> str:
                nonlocal finals
                if phase == "final":
                    finals += 1
                    if finals <= CONNECTIONS:
                        await hung.wait()
                return await answer(writer, phase, default)

            sink._answer = hanging  # type: ignore[method-assign]
            await asyncio.gather(*(engine.send(f"r{number}@x.example") for number in range(8)))
            await sink.wait_for(6)  # six others, while the first two wait
            assert engine.metrics.count(DELIVERIES["deferred"]) == 0
            limits = engine.deliverer._limits
            assert limits.count(b"out-aside:127.0.0.1:%d" % sink.port) == CONNECTIONS
            assert limits.count(b"out:127.0.0.1:%d" % sink.port) <= CONNECTIONS
            hung.set()  # the last word comes after all: no mail is sent twice
            await sink.wait_for(8)
            async with asyncio.timeout(10):
                while engine.runner.size:
                    await asyncio.sleep(0.01)
            assert sorted(m.rcpts[0] for m in sink.messages) == sorted(f"<r{number}@x.example>" for number in range(8))
            assert limits.count(b"out-aside:127.0.0.1:%d" % sink.port) == 0
            assert sink.most_open <= 2 * CONNECTIONS

    # Without a last word its fate is unknown: it is tried again, and the log says that it may arrive twice (RFC 1047).
    with mock.patch.multiple(transaction, RELEASE_SECONDS=0.02, ASIDE_SECONDS=0.04, FINAL_SECONDS=0.1):
        async with Sink() as sink, running(config_for(sink.port, queue={"retry_schedule": (3600,)})) as engine:
            sink.delays["final"] = 30
            await engine.send("a@x.example")
            async with asyncio.timeout(10):
                while engine.metrics.count(DELIVERIES["deferred"]) == 0 or engine.runner._active:
                    await asyncio.sleep(0.01)
            (entry,) = engine.queue_store.entries()
            assert "may have arrived" in entry.states[0].last_reply
