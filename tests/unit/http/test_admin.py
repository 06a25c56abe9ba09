"""The administration API over a unix socket and over TCP, against an operator that writes down what it is asked."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import pwd
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from rusmes._core.counters import Metrics
from rusmes.errors import ConfigError, NotAllowed, NotFound, RusmesError
from rusmes.http import admin
from rusmes.http.admin import AdminApi
from rusmes.http.answers import body_of, document, who_asks
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

    async def store_verify(self) -> list[dict[str, Any]]:
        self._note("verify")
        return []

    async def reopen_logs(self) -> None:
        self._note("reopen")

    def health(self, page: str) -> Health:
        return Health(503, {"page": page})


class Echo(msgspec.Struct):
    number: int = 0


class EchoPages:
    """Pages of one part of the server."""

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/pages/echo", self._echo)

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        return document({"number": (await body_of(request, Echo)).number, "who": who_asks(request)})


Body = Callable[[aiohttp.ClientSession, str, FakeOperator], Awaitable[None]]


def over_control(tmp_path: Path, body: Body) -> None:
    async def main() -> None:
        path = str(tmp_path / "control.sock")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        operator = FakeOperator()
        api = AdminApi(operator, Exporter(Metrics(), list), metrics_path="/metrics", token="", pages=[EchoPages()])
        await api.serve_control(sock)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as client:
            await body(client, "http://localhost", operator)
        await api.close()

    asyncio.run(main())


def over_tcp(token: str, body: Body) -> None:
    async def main() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        operator = FakeOperator()
        api = AdminApi(operator, Exporter(Metrics(), list), metrics_path="/numbers", token=token, pages=[EchoPages()])
        await api.serve_metrics(sock)
        async with aiohttp.ClientSession() as client:
            await body(client, f"http://127.0.0.1:{sock.getsockname()[1]}", operator)
        await api.close()

    asyncio.run(main())


def test_operations_on_the_control_socket(tmp_path: Path) -> None:
    async def body(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        async with client.get(f"{base}/status") as answer:
            assert await answer.json() == {"version": "1"}
        async with client.post(f"{base}/store/verify") as answer:
            assert await answer.json() == {"findings": []}
        async with client.post(f"{base}/logs/reopen") as answer:
            assert answer.status == 200
        async with client.post(f"{base}/reload") as answer:
            assert await answer.json() == {"applied": [], "restart": []}
        assert operator.asked == [("status",), ("verify",), ("reopen",), ("reload",)]

    over_control(tmp_path, body)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("no such entry"), 404),
        (NotAllowed("no such operation"), 400),
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
            ("/pages/echo", b"no json", 400),
            ("/pages/echo", b'{"number": "many"}', 400),
            ("/pages/explode", b"{}", 404),
            ("/nothing", b"{}", 404),
            ("/pages/echo", b" " * (2 << 20), 413),
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


def test_who_asks_is_known(tmp_path: Path) -> None:
    async def unix(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        async with client.post(f"{base}/pages/echo", json={"number": 3}) as answer:
            name = pwd.getpwuid(os.getuid()).pw_name
            assert await answer.json() == {"number": 3, "who": f"{name} (uid {os.getuid()}, pid {os.getpid()})"}

    async def tcp(client: aiohttp.ClientSession, base: str, operator: FakeOperator) -> None:
        async with client.post(f"{base}/pages/echo", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert await answer.json() == {"number": 0, "who": "token from 127.0.0.1"}
        async with client.post(f"{base}/pages/echo") as answer:
            assert answer.status == 401

    over_control(tmp_path, unix)
    over_tcp(TOKEN, tcp)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\0\0\r\n\r\n", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_leaves_nothing_on_stderr(sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    async def body(_client: aiohttp.ClientSession, base: str, _operator: FakeOperator) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        writer.write(sent)
        assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()

    logging.getLogger("aiohttp.server").addHandler(handler := logging.StreamHandler())
    try:
        over_tcp(TOKEN, body)
    finally:
        logging.getLogger("aiohttp.server").removeHandler(handler)
    assert "Traceback" not in capfd.readouterr().err
