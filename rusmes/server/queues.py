"""The queue operations of the whole server, for the administration API: implements `http.queue.QueueOperator`.

Every worker is asked at the same time, for each owns its part of the queue. What concerns all of them (suspensions, the audit
trail) is written by one, and the others are told to look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from rusmes.errors import NotFound, RusmesError
from rusmes.queue.api import QueueOrder
from rusmes.queue.audit import what_of
from rusmes.queue.summary import Row, Summary
from rusmes.server.channel import Channel, ChannelClosed
from rusmes.server.fleet import Fleet

STREAM_ENTRIES: Final = 500
"""Of one question to the workers, while everything is listed."""


class Queues:
    """Asks the workers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def _ask_all(self, name: str, **arguments: Any) -> list[Any]:
        """The answers of all workers that serve; the first failure, when all have ended."""
        channels = self._fleet.channels()
        answers = await asyncio.gather(*(one.call(name, **arguments) for one in channels), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    @property
    def _not_reached(self) -> list[int]:
        """Workers that are down: their part of the queue is not in the answer."""
        return [worker.slot for worker in self._fleet.workers if worker.channel is None or not worker.is_ready]

    async def _ask_one(self, name: str, **arguments: Any) -> Any:
        return await self._fleet.channels()[0].call(name, **arguments)

    # Looking

    async def entries(self, which: dict[str, Any], limit: int, after: str) -> dict[str, Any]:
        answers = await self._ask_all("queue.list", which=which, limit=limit, after=after)
        found = sorted((entry for answer in answers for entry in answer), key=lambda entry: str(entry["id"]))[:limit]
        following = found[-1]["id"] if len(found) == limit else ""
        return {"entries": found, "next": following, "not_reached": self._not_reached}

    async def stream(self, which: dict[str, Any], after: str) -> AsyncIterator[dict[str, Any]]:
        while True:
            page = await self.entries(which, STREAM_ENTRIES, after)
            for entry in page["entries"]:
                yield entry
            after = page["next"]
            if not after:
                return

    async def show(self, id: str) -> dict[str, Any]:
        for answer in await self._ask_all("queue.show", id=id):
            if answer is not None:
                found: dict[str, Any] = answer
                return found
        raise NotFound("there is no such queue entry", id)

    async def summary(self, which: dict[str, Any], by: str, limit: int) -> dict[str, Any]:
        whole = Summary.of_rows(by)
        for answer in await self._ask_all("queue.summary", which=which, by=by):
            total, *rows = [_row(row) for row in answer]
            whole.add_rows(rows, total)
        return whole.document(limit) | {"not_reached": self._not_reached}

    # Steering

    async def change(self, order: QueueOrder) -> dict[str, Any]:
        whole: dict[str, Any] = {"count": 0, "recipients": 0, "size_bytes": 0, "later": 0, "notices": 0, "sample": []}
        failure: RusmesError | None = None
        try:
            answers = await self._ask_all("queue.order", order=msgspec.to_builtins(order))
        except RusmesError as error:
            answers, failure = [], error
        for answer in answers:
            for key, value in answer.items():
                whole[key] += value
        whole["sample"] = sorted(whole["sample"], key=lambda entry: str(entry["id"]))[: order.sample]
        if not order.dry_run:
            what = what_of(order) | ({"failed": str(failure)} if failure is not None else {})
            await self._ask_one(
                "queue.deed",
                operation=order.operation,
                by=order.by,
                what=what,
                entries=whole["count"],
                recipients=whole["recipients"],
            )
        if failure is not None:
            raise failure
        return whole | {"dry_run": order.dry_run, "not_reached": self._not_reached}

    async def suspend(self, scope: str, name: str, until: float, reason: str, by: str) -> None:
        await self._ask_one("queue.suspend", scope=scope, subject=name, until=until, reason=reason, by=by)
        await self._tell_of_suspensions("suspend", by, {"scope": scope, "name": name, "until": until, "reason": reason})

    async def resume(self, scope: str, name: str, by: str) -> bool:
        was_suspended = bool(await self._ask_one("queue.resume", scope=scope, subject=name, by=by))
        if was_suspended:
            await self._tell_of_suspensions("resume", by, {"scope": scope, "name": name})
        return was_suspended

    async def _tell_of_suspensions(self, operation: str, by: str, what: dict[str, Any]) -> None:
        async def tell(channel: Channel) -> None:
            with contextlib.suppress(ChannelClosed):
                await channel.call("queue.look")

        await asyncio.gather(*map(tell, self._fleet.channels()))
        await self._ask_one("queue.deed", operation=operation, by=by, what=what, entries=0, recipients=0)

    async def suspensions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._ask_one("queue.suspensions")
        return found

    async def audit(self, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._ask_one("queue.audit", limit=limit)
        return found


def _row(document: dict[str, Any]) -> Row:
    oldest = document["oldest"]
    return msgspec.convert(document | {"oldest": float("inf") if oldest is None else oldest}, Row)
