"""A real ImapService on a loopback port, with a store and the real authenticator behind it, and clients.

async def scenario():
    async with ImapHouse() as house:
        await house.deliver("alice", b"Subject: x\\r\\n\\r\\nhello\\r\\n")
        client = await house.login()
        assert await client.ok("SELECT INBOX") ...
run(scenario())
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.auth.authenticator import FullAuthenticator
from rusmes.clock import FakeClock, SystemClock
from rusmes.config import schema
from rusmes.config.units import Duration, Networks, parse_network
from rusmes.imap.hub import Hub
from rusmes.imap.server import ImapService
from rusmes.log import LogSink, SessionLog
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import Recipient
from rusmes.model.plan import Append, Refusal
from rusmes.net.connection import Connection, ConnectionLost, TlsInfo
from rusmes.search.scan import ScanSearcher
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.memory import MemoryMailStore
from tests.sessions.harness import client_context, run, server_context
from tests.sessions.pop3.house import PASSWORD, STRANGER, TRUSTED, Accounts

__all__ = ["PASSWORD", "STRANGER", "TRUSTED", "ImapClient", "ImapHouse", "run"]

REPLY_SECONDS = 10.0
SETTINGS = {"idle_timeout": "30m", "append_limit": 1_000_000, "commands_per_minute": 0, "idle_keepalive": "0s"}


def store_of(kind: str, directory: Path | None = None) -> Any:
    clock = FakeClock()
    if kind == "memory":
        return MemoryMailStore(inline_limit=64 * 1024, clock=clock)
    assert directory is not None
    return LmdbMailStore(
        str(directory), inline_limit=64 * 1024, map_size=1 << 28, clock=clock, metrics=Metrics(), ids=IdSource()
    )


class ImapHouse:
    """A service with everything around it. `store` is closed with it."""

    def __init__(
        self,
        *,
        tls: bool = True,
        implicit_tls: bool = False,
        login_timeout: str = "5m",
        store: Any = None,
        dice: random.Random | None = None,
        **imap: Any,
    ) -> None:
        settings = {**SETTINGS, **imap}
        for name in ("idle_timeout", "idle_keepalive"):
            settings[name] = Duration(settings[name])
        self.config = schema.Config(
            domain="example.com",
            hostname="imap.example.com",
            auth=schema.Auth(plaintext_networks=Networks([parse_network(f"{TRUSTED}/32")])),
            imap=schema.Imap(**settings),
            connection_limits=schema.ConnectionLimits(idle_timeout=Duration(login_timeout)),
        )
        self.backend = Accounts()
        self.limits = SharedCounters(1, 4096)
        self.metrics = Metrics()
        self.clock = FakeClock()
        self.authenticator = FullAuthenticator(
            self.backend, self.limits, self.clock, self.metrics, self.config, sleep=self._sleep
        )
        self.store = store if store is not None else store_of("memory")
        self.hub = Hub(self.store, metrics=self.metrics)
        self.searcher = ScanSearcher(self.store, clock=self.clock)
        self.lines: list[str] = []
        self.connections: list[Connection] = []
        self.service = ImapService(
            self.config,
            store=self.store,
            hub=self.hub,
            authenticator=self.authenticator,
            tls=lambda: server_context() if tls else None,
            limits=self.limits,
            metrics=self.metrics,
            clock=SystemClock(),
            searcher=self.searcher,
            implicit_tls=implicit_tls,
        )
        self._implicit = implicit_tls
        self._dice = dice
        self._sink = LogSink(lambda line: self.lines.append(line.decode()), level="trace")
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: list[ImapClient] = []

    async def __aenter__(self) -> ImapHouse:
        await self.store.open()
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
        await self.hub.stop()
        self.searcher.close()
        await self.store.close()
        assert not any(PASSWORD in line for line in self.lines), "a password is in the log"
        assert not any(rows.users or rows.idlers for rows in self.hub._rows.values()), "rows stay in use"
        assert not any("a command failed" in line for line in self.lines), [x for x in self.lines if "a command failed" in x]

    async def _sleep(self, seconds: float) -> None:
        """Failed logins are not slowed down here."""

    def _made(self, connection: Connection) -> None:
        self.connections.append(connection)
        log = SessionLog(f"session-{len(self.connections)}", connection.peer_address, "imap", sink=self._sink)
        task = asyncio.get_running_loop().create_task(self._serve(connection, log))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection, log: SessionLog) -> None:
        if self._implicit:
            connection.tls = TlsInfo(connection._transport.get_extra_info("ssl_object"))
        with contextlib.suppress(ConnectionLost):
            await self.service.handle(connection, log)

    async def deliver(self, name: str, *messages: bytes, mailbox: str = "INBOX", flags: Sequence[str] = ()) -> None:
        """Append messages to a mailbox of an account, as a delivery does."""
        account = f"{name}@example.com"
        for message in messages:
            writer = self.store.blobs.writer()
            writer.write(message)
            rendering = Rendering(writer.finish())
            append = Append(Recipient(Address(name, "example.com"), account), account, rendering, mailbox, tuple(flags))
            [result] = await self.store.append([append])
            assert not isinstance(result, Refusal), result

    async def connect(self, source: str = TRUSTED) -> ImapClient:
        """A connection; its greeting is still to be read."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0), ssl=client_context() if self._implicit else None
        )
        client = ImapClient(reader, writer, self._dice)
        self._clients.append(client)
        return client

    async def login(self, name: str = "alice", *, source: str = TRUSTED) -> ImapClient:
        client = await self.connect(source)
        assert (await client.line()).startswith("* OK")
        await client.ok(f"LOGIN {name}@example.com {PASSWORD}")
        return client

    def apply(self, **changes: Any) -> None:
        imap = msgspec.structs.replace(self.config.imap, **changes)
        self.service.apply(msgspec.structs.replace(self.config, imap=imap))


class ImapClient:
    """Says what it is told to, cut at random places where there are dice, and reads lines with their literals."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dice: random.Random | None = None) -> None:
        self.reader = reader
        self.writer = writer
        self._dice = dice
        self._number = 0

    def send_now(self, data: bytes) -> None:
        self.writer.write(data)

    async def send(self, data: bytes) -> None:
        if self._dice is None:
            self.writer.write(data)
            return
        at = 0
        while at < len(data):
            end = at + self._dice.choice((1, 1, 2, 5, 20, 1000))
            self.writer.write(data[at:end])
            await self.writer.drain()
            await asyncio.sleep(0)
            at = end

    async def line(self) -> str:
        """One response, its literals in it."""
        return (await self.raw_line()).decode("utf-8", "surrogateescape").removesuffix("\r\n")

    async def raw_line(self) -> bytes:
        async with asyncio.timeout(REPLY_SECONDS):
            data = await self.reader.readline()
            while found := re.search(rb"\{(\d+)\}\r\n$", data):
                data += await self.reader.readexactly(int(found[1]))
                data += await self.reader.readline()
        return data

    async def command(self, text: str | bytes) -> list[str]:
        """All lines of the answer, the tagged one last and without its tag."""
        self._number += 1
        tag = f"t{self._number}"
        await self.send(tag.encode() + b" " + (text.encode() if isinstance(text, str) else text) + b"\r\n")
        return await self.answer(tag)

    async def answer(self, tag: str) -> list[str]:
        lines = []
        while True:
            line = await self.line()
            assert line, f"closed after {lines}"
            if line.startswith(f"{tag} "):
                return [*lines, line.removeprefix(f"{tag} ")]
            lines.append(line)

    async def ok(self, text: str | bytes) -> list[str]:
        """The untagged lines; the answer must be OK."""
        *lines, last = await self.command(text)
        assert last.startswith("OK"), f"{text!r}: {last}"
        return lines

    async def append(self, mailbox: str, message: bytes, arguments: str = "") -> str:
        [*_, last] = await self.command(f"APPEND {mailbox} {arguments}{{{len(message)}+}}\r\n".encode() + message)
        return last

    async def start_tls(self) -> None:
        await self.ok("STARTTLS")
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
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                await self.writer.wait_closed()
