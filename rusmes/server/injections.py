"""Injection on both sides of the channel: the supervisor chooses a worker, which accepts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from rusmes.injection.request import read_request
from rusmes.server.channel import Channel, ChannelClosed
from rusmes.server.fleet import Fleet

if TYPE_CHECKING:
    from rusmes.server.build import House


class Injections:
    """Implements `http.injection.InjectionOperator`.

    Items with a key go to the worker that the key chooses, so that requests with the same one meet; the others go round.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._turn = 0

    async def inject(self, request: Any, client: str) -> list[dict[str, Any]]:
        await asyncio.to_thread(read_request, request)  # all of it, before any of it is done
        channels = self._fleet.channels()
        if not channels:
            raise ChannelClosed("no worker serves")
        self._turn += 1
        shares: dict[int, list[int]] = {}
        for place, item in enumerate(request["messages"]):
            key = item.get("key")
            number = crc32(key.encode("utf-8", "surrogatepass")) if key else self._turn + place
            shares.setdefault(number % len(channels), []).append(place)
        answers = await asyncio.gather(
            *(self._ask(channels[number], request, places, client) for number, places in shares.items())
        )
        results: list[dict[str, Any]] = [{}] * len(request["messages"])
        for places, answer in zip(shares.values(), answers, strict=True):
            for place, result in zip(places, answer, strict=True):
                results[place] = result
        return results

    @staticmethod
    async def _ask(channel: Channel, request: Any, places: list[int], client: str) -> list[dict[str, Any]]:
        share = {"messages": [request["messages"][place] for place in places]}
        try:
            answer: list[dict[str, Any]] = await channel.call("inject", request=share, client=client)
        except ChannelClosed:
            # It died with what it had; nobody knows how far it came, and a key makes it safe to send it again.
            lost = {"address": "", "code": 451, "status": "4.3.0", "text": "the worker died; it may have been accepted"}
            return [{"status": "refused", "refused": [lost], "retry": True} for _ in places]
        return answer


def injection_handlers(house: Callable[[], House]) -> Mapping[str, Callable[..., Awaitable[Any]]]:
    """The worker's side."""

    async def inject(request: Any, client: str) -> list[Any]:
        results = await house().injector.inject(read_request(request), client)
        return [msgspec.to_builtins(result) for result in results]

    return {"inject": inject}
