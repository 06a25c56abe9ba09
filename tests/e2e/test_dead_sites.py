"""Servers that swallow connections, or take only a few, against everything else that is to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from msgspec import structs

from rusmes.config.schema import Config, Delivery, Queue
from rusmes.config.units import Duration
from tests.sinks.engine import HOSTNAME, route_to, running
from tests.sinks.smtp_sink import Sink

LIVE, EACH = 60, 20


@contextlib.contextmanager
def black_hole() -> Iterator[socket.socket]:
    """Takes connections into its backlog, and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        yield listening


def config(live: int, *holes: int, connections: int) -> Config:
    places = [("live.example", live), *((f"hole{n}.example", port) for n, port in enumerate(holes))]
    routes = [structs.replace(route_to(port, domains=(domain,)), name=domain) for domain, port in places]
    return Config(
        domain="example.com",
        hostname=HOSTNAME,
        queue=Queue(retry_schedule=(Duration("5m"),), delay_warning=Duration(0)),
        delivery=Delivery(route=tuple(routes), max_connections=connections),
    )


def accepted(listening: socket.socket) -> int:
    """How many connections wait there."""
    listening.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


@pytest.mark.parametrize("order", ["holes first", "mixed"])
def test_black_holes_with_most_of_the_mail_leave_room_for_the_rest(order: str) -> None:
    async def main() -> None:
        with contextlib.ExitStack() as stack:
            holes = [stack.enter_context(black_hole()) for _ in range(3)]
            async with (
                Sink() as sink,
                running(config(sink.port, *[hole.getsockname()[1] for hole in holes], connections=8)) as engine,
            ):
                dead = [f"u{n}@hole{n % 3}.example" for n in range(3 * EACH)]
                live = [f"u{n}@live.example" for n in range(LIVE)]
                mixed = [name for pair in zip(dead, live, strict=True) for name in pair]
                for recipient in dead + live if order == "holes first" else mixed:
                    await engine.send(recipient)
                started = time.monotonic()
                await sink.wait_for(LIVE)
                assert time.monotonic() - started < 25  # the time-out of a connection is 30 s
                assert sum(accepted(hole) for hole in holes) == 3  # one each finds out
                await engine.runner.stop(0.0)

    asyncio.run(main())


def test_a_provider_that_refuses_more_than_five_connections_is_not_bothered() -> None:
    """421 above 5 connections: what is refused is known after the first time, and no mail is the worse for it."""

    async def main() -> None:
        async with Sink() as sink:
            sink.most_connections = 5
            sink.delays["final"] = 0.02
            async with running(config(sink.port, connections=100)) as engine:
                for n in range(400):
                    await engine.send(f"u{n}@live.example")
                await sink.wait_for(400)
                assert sink.turned_away <= 4
                assert len({message.rcpts[0] for message in sink.messages}) == 400
                (memory,) = engine.deliverer.feedback.memories()
                assert memory.learned in (4, 5)
                assert memory.down is None

    asyncio.run(main())
