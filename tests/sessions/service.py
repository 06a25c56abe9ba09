"""What every house of a protocol has: accounts, a loopback port with the service behind it, and a look at what is left.

A subclass sets `protocol`, `service` and `store` before it listens, and has a client of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from rusmes.auth.api import ScramCredentials
from rusmes.auth.passwords import Hasher
from rusmes.log import LogSink, SessionLog
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.identity import Identity
from rusmes.model.mail import Recipient
from rusmes.model.plan import Append, Refusal
from rusmes.net.connection import Connection, ConnectionLost, TlsInfo
from tests.sessions.harness import client_context, server_context

TRUSTED = "127.0.0.1"
STRANGER = "127.0.0.66"
"""Not inside [auth] plaintext_networks."""

PASSWORD = "s3cret"


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


class ServedHouse:
    """A service on a loopback port. Its end asserts that no session outlives its client, and that no password was logged."""

    protocol = ""
    service: Any
    store: Any

    def __init__(self, *, implicit_tls: bool) -> None:
        self.lines: list[str] = []
        self.connections: list[Connection] = []
        self._implicit = implicit_tls
        self._sink = LogSink(lambda line: self.lines.append(line.decode()), level="trace")
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: list[Any] = []

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        context = server_context() if self._implicit else None
        self._server = await loop.create_server(lambda: Connection(self._made), "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        for client in self._clients:
            await client.close()
        self._server.close()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=5)
            for task in pending:
                task.cancel()
            assert not pending, "a session did not end with its client"
        await self._server.wait_closed()
        assert not any(PASSWORD in line for line in self.lines), "a password is in the log"

    def _made(self, connection: Connection) -> None:
        self.connections.append(connection)
        log = SessionLog(f"session-{len(self.connections)}", connection.peer_address, self.protocol, sink=self._sink)
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

    async def _streams(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0), ssl=client_context() if self._implicit else None
        )
