"""A real Pop3Service on a loopback port, with the store in memory and the real authenticator behind it, and a client.

async def scenario():
    async with House() as house:
        await house.deliver("alice", b"Subject: x\\r\\n\\r\\nhello\\r\\n")
        client = await house.login()
        assert await client.command("STAT") == "+OK 1 21"
run(scenario())
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import uvloop

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.auth.authenticator import FullAuthenticator
from rusmes.clock import FakeClock, SystemClock
from rusmes.config import schema
from rusmes.config.units import Duration, Networks, parse_network
from rusmes.pop3.server import Pop3Service
from rusmes.storage.memory import MemoryMailStore
from tests.sessions.harness import client_context, run, server_context
from tests.sessions.service import PASSWORD, STRANGER, TRUSTED, Accounts, ServedHouse

__all__ = ["PASSWORD", "STRANGER", "TRUSTED", "Client", "House", "changed", "client_context", "run", "scenario"]

REPLY_SECONDS = 5.0


class House(ServedHouse):
    """A service with everything around it. `store` may be any mail store; tests wrap it to make it fail."""

    protocol = "pop3"

    def __init__(
        self,
        *,
        tls: bool = True,
        implicit_tls: bool = False,
        timeout: str = "10m",
        login_timeout: str = "5m",
        store: Any = None,
        limits: SharedCounters | None = None,
    ) -> None:
        super().__init__(implicit_tls=implicit_tls)
        self.config = schema.Config(
            domain="example.com",
            hostname="pop.example.com",
            auth=schema.Auth(plaintext_networks=Networks([parse_network(f"{TRUSTED}/32")])),
            pop3=schema.Pop3(timeout=Duration(timeout)),
            connection_limits=schema.ConnectionLimits(idle_timeout=Duration(login_timeout)),
        )
        self.backend = Accounts()
        self._owns_limits = limits is None
        self.limits = limits or SharedCounters(1, 4096)
        self.metrics = Metrics()
        self.clock = FakeClock()
        self.naps: list[float] = []
        self.authenticator = FullAuthenticator(
            self.backend, self.limits, self.clock, self.metrics, self.config, sleep=self._sleep
        )
        self.store = store if store is not None else MemoryMailStore(inline_limit=64 * 1024, clock=self.clock)
        self.service = Pop3Service(
            self.config,
            store=self.store,
            authenticator=self.authenticator,
            tls=lambda: server_context() if tls else None,
            limits=self.limits,
            metrics=self.metrics,
            clock=SystemClock(),
            implicit_tls=implicit_tls,
        )

    async def __aenter__(self) -> House:
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()
        if self._owns_limits:
            assert not any(self.limits.count(f"pop3:{name}".encode()) for name in self.backend.identities), (
                "a maildrop stays locked"
            )

    async def _sleep(self, seconds: float) -> None:
        self.naps.append(seconds)

    async def connect(self, source: str = TRUSTED, *, greeting: str = "+OK") -> Client:
        client = Client(*await self._streams(source))
        self._clients.append(client)
        assert (await client.line()).startswith(greeting)
        return client

    async def login(self, name: str = "alice", *, source: str = TRUSTED) -> Client:
        client = await self.connect(source)
        await client.expect(f"USER {name}", "+OK")
        await client.expect(f"PASS {PASSWORD}", "+OK")
        return client

    async def login_when_free(self) -> Client:
        """Log in as alice when the server has noticed that the session before is over."""
        async with asyncio.timeout(REPLY_SECONDS):
            while self.limits.count(b"pop3:alice@example.com"):
                await asyncio.sleep(0.01)
        return await self.login()


class Client:
    """Speaks whatever it is told to, and reads whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def line(self) -> str:
        return (await self.raw_line()).decode().removesuffix("\r\n")

    async def raw_line(self) -> bytes:
        async with asyncio.timeout(REPLY_SECONDS):
            return await self.reader.readline()

    async def rows(self) -> list[str]:
        """The rows of a multi-line reply after its first line, unstuffed."""
        return self.unstuffed(await self.stuffed_rows()).decode().split("\r\n")[:-1]

    async def stuffed_rows(self) -> bytes:
        rows = b""
        while (row := await self.raw_line()) != b".\r\n":
            assert row.endswith(b"\n"), f"closed after {rows + row!r}"
            rows += row
        return rows

    @staticmethod
    def unstuffed(data: bytes) -> bytes:
        lines = data.split(b"\n")
        return b"\n".join(line[1:] if line.startswith(b".") else line for line in lines)

    async def command(self, text: str | bytes) -> str:
        self.send((text.encode() if isinstance(text, str) else text) + b"\r\n")
        return await self.line()

    async def expect(self, text: str | bytes, start: str) -> str:
        answer = await self.command(text)
        assert answer.startswith(start), f"{text!r}: {answer}"
        return answer

    async def listing(self, text: str) -> list[str]:
        await self.expect(text, "+OK")
        return await self.rows()

    async def message(self, text: str) -> bytes:
        """RETR or TOP."""
        await self.expect(text, "+OK")
        return self.unstuffed(await self.stuffed_rows())

    async def start_tls(self) -> None:
        await self.expect("STLS", "+OK")
        await self.writer.start_tls(client_context())

    async def is_closed(self) -> bool:
        """Whether the server closes without another word."""
        async with asyncio.timeout(REPLY_SECONDS):
            with contextlib.suppress(ConnectionError):
                rest = await self.reader.read(4096)
                assert not rest, f"a further word before the end: {rest!r}"
        return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(2):
                await self.writer.wait_closed()


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def scenario(**options: Any) -> Callable[[Callable[[House], Awaitable[None]]], Callable[[str], None]]:
    """Decorates a coroutine of one House into a test, on each kind of event loop."""

    def decorate(body: Callable[[House], Awaitable[None]]) -> Callable[[str], None]:
        @pytest.mark.parametrize("loop", LOOPS)
        def test(loop: str) -> None:
            async def whole() -> None:
                async with House(**options) as house:
                    await body(house)

            run(whole(), loop_factory=LOOPS[loop])

        test.__name__ = body.__name__
        test.__doc__ = body.__doc__
        return test

    return decorate


def changed(value: Any, **values: Any) -> Any:
    return msgspec.structs.replace(value, **values)
