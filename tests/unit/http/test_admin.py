"""The administration API over a unix socket and over TCP, against an operator that writes down what it is asked."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rusmes._core.counters import Metrics
from rusmes.errors import ConfigError, NotFound, RusmesError
from rusmes.http import admin
from rusmes.http.admin import AdminApi
from rusmes.http.health import Health
from rusmes.http.metrics import Exporter

TOKEN = "0123456789abcdef0123456789abcdef"


class FakeOperator:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def status(self) -> dict[str, Any]:
        self._note("status")
        return {"version": "1"}

    async def reload(self) -> dict[str, Any]:
        self._note("reload")
        return {"applied": [], "restart": []}

    async def queue_list(self, which: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        self._note("list", which, limit)
        return [{"id": "x"}]

    async def queue_change(self, operation: str, which: dict[str, Any]) -> int:
        self._note(operation, which)
        return 3

    async def store_verify(self) -> list[dict[str, Any]]:
        self._note("verify")
        return []

    async def reopen_logs(self) -> None:
        self._note("reopen")

    def health(self, page: str) -> Health:
        return Health(503, {"page": page})


Body = Callable[[aiohttp.ClientSession, str, FakeOperator], Awaitable[None]]


def over_control(tmp_path: Path, body: Body) -> None:
    async def main() -> None:
        path = str(tmp_path / "control.sock")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        operator = FakeOperator()
        api = AdminApi(operator, Exporter(Metrics(), list), metrics_path="/metrics", token="")
        await api.serve_control(sock)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as client:
            await body(client, "http://localhost", operator)
        await api.close()

    asyncio.run(main())


def over_tcp(token: str, body: Body) -> None:
    async def main() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        operator = FakeOperator()
        api = AdminApi(operator, Exporter(Metrics(), list), metrics_path="/numbers", token=token)
        await api.serve_metrics(sock)
        async with aiohttp.ClientSession() as client:
            await body(client, f"http://127.0.0.1:{sock.getsockname()[1]}", operator)
        await api.close()

    asyncio.run(main())


def test_operations_on_the_control_socket(tmp_path: Path) -> None:
    async def body(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        async with client.get(f"{base}/status") as answer:
            assert await answer.json() == {"version": "1"}
        async with client.post(f"{base}/queue/list", json={"filter": {"sender": "*"}, "limit": 5}) as answer:
            assert await answer.json() == {"entries": [{"id": "x"}]}
        async with client.post(f"{base}/queue/retry", json={"filter": {"ids": ["a"]}}) as answer:
            assert await answer.json() == {"count": 3}
        async with client.post(f"{base}/store/verify") as answer:
            assert await answer.json() == {"findings": []}
        async with client.post(f"{base}/logs/reopen") as answer:
            assert answer.status == 200
        async with client.post(f"{base}/reload") as answer:
            assert await answer.json() == {"applied": [], "restart": []}
        assert operator.asked == [
            ("status",), ("list", {"sender": "*"}, 5), ("retry", {"ids": ["a"]}), ("verify",), ("reopen",), ("reload",),
        ]

    over_control(tmp_path, body)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no such entry"), 404),
        (RusmesError("no worker"), 503),
        (ConfigError("bad", key="smtp.port"), 400),
        (KeyError("x"), 500),
    ],
)
def test_every_failure_is_a_document(tmp_path: Path, error: Exception, status: int) -> None:
    async def body(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        operator.error = error
        async with client.post(f"{base}/reload") as answer:
            assert answer.status == status
            document = await answer.json()
            assert document["error"]
            assert bool(document["problems"]) == isinstance(error, ConfigError)

    over_control(tmp_path, body)


def test_bad_requests(tmp_path: Path) -> None:
    async def body(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        for path, data, status in [
            ("/queue/list", b"no json", 400),
            ("/queue/list", b'{"limit": "many"}', 400),
            ("/queue/explode", b"{}", 404),
            ("/nothing", b"{}", 404),
            ("/queue/list", b" " * (2 << 20), 413),
        ]:
            async with client.post(base + path, data=io.BytesIO(data)) as answer:
                assert answer.status == status, path
                assert (await answer.json())["error"]
        async with client.get(f"{base}/reload") as answer:
            assert answer.status == 405
        assert operator.asked == []

    over_control(tmp_path, body)


def test_r16_the_metrics_address_wants_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "WRONG_TOKEN_SECONDS", 0.0)

    async def body(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        for header, status in [
            (None, 401),
            ("Basic " + TOKEN, 401),
            ("Bearer", 401),
            ("Bearer " + TOKEN[:-1], 403),
            ("Bearer " + TOKEN + "x", 403),
            ("Bearer \xff\xfe", 403),
            ("bearer " + TOKEN, 200),
        ]:
            headers = {"Authorization": header} if header else {}
            async with client.get(f"{base}/status", headers=headers) as answer:
                assert answer.status == status, header
                assert ("WWW-Authenticate" in answer.headers) == (status != 200)
        assert operator.asked == [("status",)]
        async with client.get(f"{base}/numbers") as answer:
            assert answer.status == 200
            assert "rusmes_smtp_connections_total" in await answer.text()
        for page in ("health", "ready", "live"):
            async with client.get(f"{base}/{page}") as answer:
                assert answer.status == 503
                assert await answer.json() == {"page": page}

    over_tcp(TOKEN, body)


def test_without_a_token_the_metrics_address_only_shows() -> None:
    async def body(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        async with client.post(f"{base}/reload", headers={"Authorization": "Bearer "}) as answer:
            assert answer.status == 403
        async with client.get(f"{base}/numbers") as answer:
            assert answer.status == 200
        assert operator.asked == []

    over_tcp("", body)
