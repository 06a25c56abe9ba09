"""Calls between processes: answers, errors with their kind, and the end of the other side."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from rusmes.errors import NotFound, RusmesError, StoreFull
from rusmes.server.channel import Channel, ChannelClosed


class Pair:
    def __init__(self, **handlers: Any) -> None:
        self.closed = asyncio.Event()
        left, right = socket.socketpair()
        for end in (left, right):
            end.setblocking(False)
        self.left = Channel(left, {}, self.closed.set)
        self.right = Channel(right, handlers, lambda: None)

    async def __aenter__(self) -> Channel:
        await self.left.open()
        await self.right.open()
        return self.left

    async def __aexit__(self, *_: object) -> None:
        await self.right.close()
        await self.left.close()


def test_answers_come_to_whoever_asked() -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0.01 * (3 - n))
        return 2 * n

    async def main() -> None:
        async with Pair(double=double) as channel:
            assert await asyncio.gather(*(channel.call("double", n=n) for n in range(3))) == [0, 2, 4]

    asyncio.run(main())


def test_errors_keep_their_kind_and_texts() -> None:
    async def missing() -> None:
        raise NotFound("no such entry", "abc")

    async def full() -> None:
        raise StoreFull("no space")

    async def defect() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with Pair(missing=missing, full=full, defect=defect) as channel:
            with pytest.raises(NotFound) as caught:
                await channel.call("missing")
            assert (caught.value.public, caught.value.detail) == ("no such entry", "abc")
            with pytest.raises(StoreFull):
                await channel.call("full")
            with pytest.raises(RusmesError, match="ZeroDivisionError"):
                await channel.call("defect")
            with pytest.raises(RusmesError, match="unknown"):
                await channel.call("unknown")

    asyncio.run(main())


def test_what_is_told_has_no_answer() -> None:
    async def main() -> None:
        heard: list[int] = []

        async def hear(n: int) -> None:
            heard.append(n)

        async with Pair(hear=hear) as channel:
            channel.tell("hear", n=7)
            await asyncio.sleep(0.02)
            assert heard == [7]

    asyncio.run(main())


def test_the_end_of_the_other_side_ends_what_waits() -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        pair = Pair(never=never)
        async with pair as channel:
            waiting = asyncio.ensure_future(channel.call("never"))
            await asyncio.sleep(0.01)
            await pair.right.close()
            with pytest.raises(ChannelClosed):
                await waiting
            await asyncio.wait_for(pair.closed.wait(), 1.0)
            with pytest.raises(ChannelClosed):
                await channel.call("never")
            channel.tell("never")

    asyncio.run(main())


def test_a_large_answer_crosses() -> None:
    async def large() -> str:
        return "x" * 5_000_000

    async def main() -> None:
        async with Pair(large=large) as channel:
            assert len(await channel.call("large")) == 5_000_000

    asyncio.run(main())
