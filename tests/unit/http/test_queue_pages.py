"""The queue in the administration API, against an operator that writes down what it is asked."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rusmes._core.counters import Metrics
from rusmes.errors import NotAllowed
from rusmes.http.admin import AdminApi
from rusmes.http.metrics import Exporter
from rusmes.http.queue import QueuePages
from rusmes.queue.api import QueueFilter, QueueOrder
from tests.unit.http.test_admin import FakeOperator

ID = "01m86wme8802p3qvpetqqwcpnd"


class FakeQueues:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None
        self.streamed = 5000

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def entries(self, which: dict[str, Any], limit: int, after: str) -> dict[str, Any]:
        self._note("list", which["sender"], limit, after)
        return {"entries": [{"id": "x"}], "next": ""}

    async def stream(self, which: dict[str, Any], after: str) -> AsyncIterator[dict[str, Any]]:
        self._note("stream", which["sender"], after)
        for number in range(self.streamed):
            yield {"id": number, "text": "x" * 100}

    async def show(self, id: str) -> dict[str, Any]:
        self._note("show", id)
        return {"id": id}

    async def summary(self, which: dict[str, Any], by: str, limit: int) -> dict[str, Any]:
        self._note("summary", by, limit)
        return {"rows": []}

    async def change(self, order: QueueOrder) -> dict[str, Any]:
        self.asked.append(order)
        return {"count": 3}

    async def suspend(self, scope: str, name: str, until: float, reason: str, by: str) -> None:
        self._note("suspend", scope, name, until, reason)

    async def resume(self, scope: str, name: str, by: str) -> bool:
        self._note("resume", scope, name)
        return True

    async def suspensions(self) -> list[dict[str, Any]]:
        return [{"scope": "everything"}]

    async def audit(self, limit: int) -> list[dict[str, Any]]:
        self._note("audit", limit)
        return []


Body = Callable[[aiohttp.ClientSession, FakeQueues], Awaitable[None]]


def over_control(tmp_path: Path, body: Body) -> None:
    async def main() -> None:
        path = str(tmp_path / "control.sock")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        queues = FakeQueues()
        exporter = Exporter(Metrics(), list)
        api = AdminApi(FakeOperator(), exporter, metrics_path="/m", token="", pages=[QueuePages(queues)])
        await api.serve_control(sock)
        async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(path)) as client:
            await body(client, queues)
        await api.close()

    asyncio.run(main())


def test_pages(tmp_path: Path) -> None:
    async def body(client: aiohttp.ClientSession, queues: FakeQueues) -> None:
        for method, path, asked, expected in [
            ("POST", "/queue/list", {"filter": {"sender": "a*"}, "limit": 5, "after": "id"}, ("list", "a*", 5, "id")),
            ("POST", "/queue/list", {}, ("list", "", 100, "")),
            ("POST", "/queue/list", {"limit": 0}, ("list", "", 10_000, "")),
            ("GET", f"/queue/entries/{ID}", None, ("show", ID)),
            ("POST", "/queue/summary", {"by": "tenant", "limit": 7}, ("summary", "tenant", 7)),
            ("POST", "/queue/suspend", {"scope": "site", "name": "x", "until": 5.5}, ("suspend", "site", "x", 5.5, "")),
            ("POST", "/queue/resume", {"scope": "everything"}, ("resume", "everything", "")),
            ("GET", "/queue/audit?limit=3", None, ("audit", 3)),
        ]:
            async with client.request(method, path, json=asked) as answer:
                assert answer.status == 200, path
                assert queues.asked.pop() == expected
        async with client.get("/queue/suspensions") as answer:
            assert await answer.json() == {"suspensions": [{"scope": "everything"}]}

    over_control(tmp_path, body)


@pytest.mark.parametrize("operation", ["retry", "hold", "release", "delete", "bounce", "expire", "reroute"])
def test_operations(tmp_path: Path, operation: str) -> None:
    async def body(client: aiohttp.ClientSession, queues: FakeQueues) -> None:
        asked = {"filter": {"domain": "x.org"}, "dry_run": True, "reason": "why", "route": "r", "sample": 3}
        async with client.post(f"/queue/{operation}", json=asked) as answer:
            assert await answer.json() == {"count": 3}
        (order,) = queues.asked
        assert order.by.endswith(")")
        assert order == QueueOrder(operation, QueueFilter(domain="x.org"), "why", "r", order.by, True, 3)
        async with client.post(f"/queue/{operation}", json={"all": True}) as answer:
            assert answer.status == 200
        assert queues.asked[1].which == QueueFilter()

    over_control(tmp_path, body)


def test_refusals(tmp_path: Path) -> None:
    async def body(client: aiohttp.ClientSession, queues: FakeQueues) -> None:
        for path, asked, reason in [
            ("/queue/delete", {}, "every entry"),
            ("/queue/delete", {"filter": {"recipent": "a typo"}}, "recipent"),
            ("/queue/delete", {"filtre": {"domain": "x"}}, "filtre"),
            ("/queue/delete", {"all": True, "sample": 1001}, "sample"),
            ("/queue/list", {"limit": -1}, "limit"),
            ("/queue/list", {"limit": 10_001}, "limit"),
            ("/queue/summary", {"limit": 50_001}, "limit"),
            ("/queue/suspend", {"scope": "site", "until": 1.0, "for_seconds": 1.0}, "until"),
            ("/queue/suspend", {"scope": "site", "for_seconds": -1.0}, "until"),
            ("/queue/suspend", {}, "scope"),
        ]:
            async with client.post(path, json=asked) as answer:
                assert answer.status == 400, path
                assert reason in (await answer.json())["error"]
        async with client.get("/queue/audit?limit=-1") as answer:
            assert answer.status == 400
        for id in ("abc", "%00", "é" * 26):
            async with client.get(f"/queue/entries/{id}") as answer:
                assert (answer.status, "no queue id" in (await answer.json())["error"]) == (400, True)
        async with client.post("/queue/explode", json={}) as answer:
            assert answer.status == 404
        assert queues.asked == []
        queues.error = NotAllowed("the reply pattern is no regular expression")
        for stream in (False, True):
            async with client.post("/queue/list", json={"stream": stream}) as answer:
                assert (answer.status, (await answer.json())["error"]) == (400, queues.error.public)

    over_control(tmp_path, body)


def test_a_list_is_streamed(tmp_path: Path) -> None:
    async def body(client: aiohttp.ClientSession, queues: FakeQueues) -> None:
        async with client.post("/queue/list", json={"stream": True, "filter": {"sender": "s"}, "after": "a"}) as answer:
            assert answer.content_type == "application/x-ndjson"
            lines = (await answer.text()).splitlines()
        assert [json.loads(line)["id"] for line in lines] == list(range(5000))
        assert queues.asked == [("stream", "s", "a")]
        queues.streamed = 0
        async with client.post("/queue/list", json={"stream": True}) as answer:
            assert (answer.status, await answer.text()) == (200, "")

    over_control(tmp_path, body)


def test_a_time_to_suspend_for_begins_now(tmp_path: Path) -> None:
    async def body(client: aiohttp.ClientSession, queues: FakeQueues) -> None:
        async with client.post("/queue/suspend", json={"scope": "tenant", "name": "t", "for_seconds": 60, "reason": "r"}) as a:
            until = (await a.json())["until"]
        assert queues.asked == [("suspend", "tenant", "t", until, "r")]
        assert until > 1_700_000_060

    over_control(tmp_path, body)
