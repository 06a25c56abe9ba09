"""Looking at what goes on: `rusmes top` and the history, asked of all workers and of the courier."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rusmes import metrics as m
from rusmes.server.build import House
from rusmes.server.channel import Channel, ChannelClosed, Handler
from rusmes.server.fleet import Fleet

ANSWER_SECONDS: Final = 2.0
"""A worker that is busier than that is left out, and named."""
COUNTERS: Final = {
    "received": m.SMTP_MESSAGES_RECEIVED,
    "delivered": m.DELIVERIES["delivered"],
    "deferred": m.DELIVERIES["deferred"],
    "failed": m.DELIVERIES["failed"],
    "expired": m.DELIVERIES["expired"],
    "bounces": m.BOUNCES,
}
KINDS: Final = ("domain", "tenant", "source")


# In a worker


def watch_handlers(house: Callable[[], House]) -> Mapping[str, Handler]:
    async def top(limit: int, sites: list[str]) -> dict[str, Any]:
        own = house()
        rows: list[dict[str, Any]] = []
        tallies = []
        windows = {memory.key: memory.window for memory in own.deliverer.feedback.memories()} if limit else {}
        for engine in own.engines:
            engine.runner.measure()
            rows += engine.runner.overview(limit, set(sites))
            tallies.append(engine.runner.tally.look(engine.runner.clock.now()))
        for row in rows:
            row["learned_window"] = windows.get(row.pop("key"), 0.0)
        return {"sites": rows, "tallies": tallies}

    return {"top": top}


# In the supervisor


class Watch:
    """Implements `http.events.EventOperator`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def history(self, text: str, limit: int) -> dict[str, Any]:
        found: dict[str, Any] = await self._fleet.courier.ask("history", text=text, limit=limit)
        return found

    async def consumers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._fleet.courier.ask("shippers")
        return found

    async def top(self, limit: int, sites: Sequence[str]) -> dict[str, Any]:
        answers = await asyncio.gather(*(_ask(channel, limit, sites) for channel in self._fleet.channels()))
        known = [answer for answer in answers if answer is not None]
        rows = merged_sites([row for answer in known for row in answer["sites"]])
        tallies = [tally for answer in known for tally in answer["tallies"]]
        for row in rows:
            row["last_reply"] = next((reply for tally in tallies if (reply := tally["replies"].get(row["site"]))), "")
            row["rate"] = [sum(tally["rates"]["site"].get(row["site"], (0, 0, 0))[n] for tally in tallies) for n in range(3)]
        metrics, slots = self._fleet.ground.metrics, [worker.slot for worker in self._fleet.workers]
        return {
            "time": time.time(),
            "counters": {name: metrics.count(slot) for name, slot in COUNTERS.items()},
            "recipients": {
                status: int(sum(metrics.level(m.QUEUE_DEPTH[status], slot) for slot in slots))
                for status in ("queued", "deferred", "held")
            },
            "entries": int(sum(metrics.level(m.QUEUE_SIZE, slot) for slot in slots)),
            "oldest_seconds": max((metrics.level(m.QUEUE_OLDEST, slot) for slot in slots), default=0.0),
            "connections_in": self._fleet.ground.limits.count(b"total"),
            "connections_out": int(sum(metrics.level(m.DELIVERY_ACTIVE, slot) for slot in slots)),
            "sites": rows[:limit],
            "sites_shown": min(len(rows), limit),
            **{f"{kind}s": _busiest([tally["rates"][kind] for tally in tallies], limit) for kind in KINDS},
            "not_reached": len(answers) - len(known),
        }


async def _ask(channel: Channel, limit: int, sites: Sequence[str]) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer: dict[str, Any] = await channel.call("top", limit=limit, sites=list(sites))
            return answer
    except (TimeoutError, ChannelClosed):
        return None


def merged_sites(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each site and source, of what each worker said of it; the one with the most mail first."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["site"], row["source"])
        if key not in merged:
            merged[key] = dict(row)
            continue
        one = merged[key]
        for name in ("waiting", "active"):
            one[name] += row[name]
        for name in ("window", "limit", "tenants", "suspended_flows", "learned_window", "suspended", "paused"):
            one[name] = max(one[name], row[name])
        if row["stopped_until"] > one["stopped_until"]:
            one["stopped_until"], one["stop_reason"] = row["stopped_until"], row["stop_reason"]
    return sorted(merged.values(), key=lambda row: (-row["waiting"] - row["active"], row["site"], row["source"]))


def _busiest(parts: list[dict[str, list[float]]], limit: int) -> list[dict[str, Any]]:
    sums: dict[str, list[float]] = {}
    for part in parts:
        for name, row in part.items():
            own = sums.setdefault(name, [0.0, 0.0, 0.0])
            for place, value in enumerate(row):
                own[place] += value
    chosen = sorted(sums.items(), key=lambda one: (-sum(one[1]), one[0]))[:limit]
    names = ("delivered", "deferred", "failed")
    return [{"name": name} | {key: round(value, 3) for key, value in zip(names, row, strict=True)} for name, row in chosen]
