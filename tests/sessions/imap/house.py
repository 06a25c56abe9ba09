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
from rusmes.model.ids import IdSource
from rusmes.search.scan import ScanSearcher
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.memory import MemoryMailStore
from tests.sessions.harness import client_context, run, server_context
from tests.sessions.service import PASSWORD, STRANGER, TRUSTED, Accounts, ServedHouse

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


class ImapHouse(ServedHouse):
    """A service with everything around it. `store` is closed with it."""

    protocol = "imap"

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
        super().__init__(implicit_tls=implicit_tls)
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
        self._dice = dice

    async def __aenter__(self) -> ImapHouse:
        await self.store.open()
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._close()
        await self.hub.stop()
        self.searcher.close()
        await self.store.close()
        assert not any(rows.users or rows.idlers for rows in self.hub._rows.values()), "rows stay in use"
        assert not any("a command failed" in line for line in self.lines), [x for x in self.lines if "a command failed" in x]

    async def _sleep(self, seconds: float) -> None:
        """Failed logins are not slowed down here."""

    async def connect(self, source: str = TRUSTED) -> ImapClient:
        """A connection; its greeting is still to be read."""
        client = ImapClient(*await self._streams(source), self._dice)
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
