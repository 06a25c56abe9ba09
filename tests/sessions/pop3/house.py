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
from rusmes.auth.api import ScramCredentials
from rusmes.auth.authenticator import FullAuthenticator
from rusmes.auth.passwords import Hasher
from rusmes.clock import FakeClock, SystemClock
from rusmes.config import schema
from rusmes.config.units import Duration, Networks, parse_network
from rusmes.log import LogSink, SessionLog
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.identity import Identity
from rusmes.model.mail import Recipient
from rusmes.model.plan import Append, Refusal
from rusmes.net.connection import Connection, ConnectionLost, TlsInfo
from rusmes.pop3.server import Pop3Service
from rusmes.storage.memory import MemoryMailStore
from tests.sessions.harness import client_context, run, server_context

__all__ = ["PASSWORD", "STRANGER", "TRUSTED", "Client", "House", "changed", "client_context", "run", "scenario"]

TRUSTED = "127.0.0.1"
STRANGER = "127.0.0.66"
"""Not inside [auth] plaintext_networks."""

PASSWORD = "s3cret"
REPLY_SECONDS = 5.0


class Accounts:
    """Two accounts with the same password; `error` makes it fail."""

    mechanisms = frozenset({"PLAIN", "LOGIN", "SCRAM-SHA-256", "EXTERNAL"})
    decoy_secret = b"d" * 32
    scram_iterations = 4096

    def __init__(self) -> None:
        self.identities = {name: Identity(name, frozenset({name})) for name in ("alice@example.com", "bob@example.com")}
        self.error: Exception | None = None
        self._keys = Hasher(time_cost=1, memory_kib=8, scram_iterations=4096).scram_keys(PASSWORD)

    async def generation(self) -> int:
        return 1

    async def verify(self, name: str, password: str) -> Identity | None:
        if self.error is not None:
            raise self.error
        return self.identities.get(name) if password == PASSWORD else None

    async def scram(self, name: str) -> ScramCredentials | None:
        return self._keys if name in self.identities else None

    async def find(self, name: str) -> Identity | None:
        return self.identities.get(name)

    async def deliverable(self, name: str) -> str:
        return name if name in self.identities else ""

    def known(self, name: str) -> bool:
        return name in self.identities

    async def verify_token(self, name: str, token: str) -> Identity | None:
        return None


class House:
    """A service with everything around it. `store` may be any mail store; tests wrap it to make it fail."""

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
        self.lines: list[str] = []
        self.connections: list[Connection] = []
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
        self._implicit = implicit_tls
        self._sink = LogSink(lambda line: self.lines.append(line.decode()), level="trace")
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: list[Client] = []

    async def __aenter__(self) -> House:
        loop = asyncio.get_running_loop()
        context = server_context() if self._implicit else None
        self._server = await loop.create_server(lambda: Connection(self._made), "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for client in self._clients:
            await client.close()
        self._server.close()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=5)
            for task in pending:
                task.cancel()
            assert not pending, "a session did not end with its client"
        await self._server.wait_closed()
        if self._owns_limits:
            assert not any(self.limits.count(f"pop3:{name}".encode()) for name in self.backend.identities), (
                "a maildrop stays locked"
            )
        assert not any(PASSWORD in line for line in self.lines), "a password is in the log"

    async def _sleep(self, seconds: float) -> None:
        self.naps.append(seconds)

    def _made(self, connection: Connection) -> None:
        self.connections.append(connection)
        log = SessionLog(f"session-{len(self.connections)}", connection.peer_address, "pop3", sink=self._sink)
        task = asyncio.get_running_loop().create_task(self._serve(connection, log))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection, log: SessionLog) -> None:
        if self._implicit:
            connection.tls = TlsInfo(connection._transport.get_extra_info("ssl_object"))
        with contextlib.suppress(ConnectionLost):
            await self.service.handle(connection, log)

    async def deliver(self, name: str, *messages: bytes) -> None:
        """Append messages to an account's INBOX."""
        account = f"{name}@example.com"
        for message in messages:
            writer = self.store.blobs.writer()
            writer.write(message)
            append = Append(Recipient(Address(name, "example.com"), account), account, Rendering(writer.finish()))
            [result] = await self.store.append([append])
            assert not isinstance(result, Refusal), result

    async def connect(self, source: str = TRUSTED, *, greeting: str = "+OK") -> Client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0), ssl=client_context() if self._implicit else None
        )
        client = Client(reader, writer)
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
