"""A real SmtpService on a loopback port, in memory behind it, and a client that reads replies.

    async def scenario():
        async with Bench() as bench:
            client = await bench.connect()
            await client.expect(220)
            await client.command("EHLO client.example", 250)
    run(scenario())

Clients connect from an address of 127/8: TRUSTED is inside relay_networks and the like, STRANGER is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
import tempfile
from collections.abc import AsyncIterator, Coroutine
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import SystemClock
from rusmes.config import schema
from rusmes.config.units import Networks, parse_network
from rusmes.log import LogSink, SessionLog
from rusmes.model.ids import IdSource
from rusmes.net.connection import Connection, TlsInfo
from rusmes.smtp.server import SmtpService
from tests.fakes import FakeAuthenticator, FakeDirectory, FakeIntake

TRUSTED = "127.0.0.1"
STRANGER = "127.0.0.66"
HOSTNAME = "mx.example.com"
REPLY_SECONDS = 5.0


def run(scenario: Coroutine[Any, Any, Any], *, loop_factory: Any = uvloop.new_event_loop) -> Any:
    """Run on a fresh loop; a task that outlives the scenario is an error."""

    async def watched() -> Any:
        result = await asyncio.wait_for(scenario, 30)
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(watched())


def networks(*texts: str) -> Networks:
    return Networks(parse_network(text) for text in texts)


def make_config(**changes: Any) -> schema.Config:
    """127.0.0.1 is trusted, the rest of 127/8 is not; `changes` are keys as in `smtp__max_errors=3`."""
    local = networks(f"{TRUSTED}/32")
    config = schema.Config(
        domain="example.com",
        hostname=HOSTNAME,
        smtp=schema.Smtp(dsn_networks=local),
        security=schema.Security(relay_networks=local),
        auth=schema.Auth(plaintext_networks=local),
    )
    for key, value in changes.items():
        *path, name = key.split("__")
        config = _replaced(config, path, name, value)
    return config


def _replaced(struct: Any, path: list[str], name: str, value: Any) -> Any:
    if not path:
        return msgspec.structs.replace(struct, **{name: value})
    return msgspec.structs.replace(struct, **{path[0]: _replaced(getattr(struct, path[0]), path[1:], name, value)})


@lru_cache(maxsize=1)
def server_context() -> ssl.SSLContext:
    """A self-signed certificate for HOSTNAME."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOSTNAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOSTNAME), x509.IPAddress(ip_address(TRUSTED))]), False)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "pair.pem"
        pem.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        context.load_cert_chain(pem)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Bench:
    """A service with everything around it."""

    def __init__(
        self, listener: str = "mx", *, tls: bool = True, implicit_tls: bool = False, level: str = "debug", **changes: Any
    ) -> None:
        self.config = make_config(**changes)
        self.intake = FakeIntake()
        self.directory = FakeDirectory()
        self.authenticator = FakeAuthenticator()
        self.limits = SharedCounters(1, 4096)
        self.metrics = Metrics(1)
        self.lines: list[str] = []
        self.send_timeout = 300.0
        self.expect_defect = False
        self.defects: list[Exception] = []
        self.naps: list[float] = []
        self.connections: list[Connection] = []
        self._listener = listener
        self._tls = tls
        self._implicit = implicit_tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: list[Client] = []
        self._sink = LogSink(lambda line: self.lines.append(line.decode()), level=level)

    async def __aenter__(self) -> Bench:
        self.service = SmtpService(
            self.config,
            listener=self._listener,  # type: ignore[arg-type]
            intake=self.intake,
            directory=self.directory,
            authenticator=self.authenticator,
            tls=lambda: server_context() if self._tls else None,
            limits=self.limits,
            metrics=self.metrics,
            clock=SystemClock(),
            ids=IdSource(),
            implicit_tls=self._implicit,
            sleep=self._sleep,
        )
        loop = asyncio.get_running_loop()
        context = server_context() if self._implicit else None
        self._server = await loop.create_server(
            lambda: Connection(self._made, send_timeout=self.send_timeout),
            "127.0.0.1",
            0,
            ssl=context,
            ssl_handshake_timeout=1 if context else None,
        )
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
        assert exc[0] is not None or bool(self.defects) == self.expect_defect, self.defects

    async def _sleep(self, seconds: float) -> None:
        self.naps.append(seconds)

    def _made(self, connection: Connection) -> None:
        self.connections.append(connection)
        if self._implicit:
            connection.tls = TlsInfo(connection._transport.get_extra_info("ssl_object"))
        log = SessionLog(f"session-{len(self.connections)}", connection.peer_address, self.service.protocol, sink=self._sink)
        task = asyncio.get_running_loop().create_task(self._handle(connection, log))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, connection: Connection, log: SessionLog) -> None:
        try:
            await self.service.handle(connection, log)
        except Exception as error:
            self.defects.append(error)

    async def connect(self, source: str = TRUSTED, *, tls: bool | None = None) -> Client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self.port,
            local_addr=(source, 0),
            ssl=client_context() if (self._implicit if tls is None else tls) else None,
        )
        client = Client(reader, writer)
        self._clients.append(client)
        return client

    @contextlib.asynccontextmanager
    async def greeted(self, source: str = TRUSTED, hello: str = "EHLO client.example") -> AsyncIterator[Client]:
        """A client past the banner and its greeting."""
        client = await self.connect(source)
        await client.expect(220)
        await client.command(hello, 250)
        yield client
        await client.close()

    @property
    def bodies(self) -> list[bytes]:
        return self.intake.bodies

    def logged(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]


class Reply:
    """What a server said."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.lines = [line[4:] for line in raw.decode("utf-8", "replace").split("\r\n")[:-1]]
        self.code = int(raw[:3])

    @property
    def status(self) -> str:
        word = self.lines[-1].split(" ", 1)[0]
        return word if word.count(".") == 2 and word.replace(".", "").isdigit() else ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return repr(self.raw)


class Closed(AssertionError):
    """The server closed the connection where a reply was expected."""


class Client:
    """Speaks whatever it is told to, and reads whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def dribble(self, data: bytes, pieces: list[bytes] | None = None, pause: float = 0.0) -> None:
        """Send in separate segments: byte by byte, or in `pieces`."""
        for piece in pieces if pieces is not None else [data[i : i + 1] for i in range(len(data))]:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause)

    async def reply(self) -> Reply:
        raw = b""
        while True:
            try:
                line = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), REPLY_SECONDS)
            except asyncio.IncompleteReadError as error:
                raise Closed(f"closed after {raw + error.partial!r}") from None
            except ConnectionError as error:
                raise Closed(f"{type(error).__name__} after {raw!r}") from None
            except TimeoutError:
                raise AssertionError(f"no reply within {REPLY_SECONDS} s; so far {raw!r}") from None
            raw += line
            if line[3:4] != b"-":
                return Reply(raw)

    async def expect(self, code: int, status: str = "") -> Reply:
        reply = await self.reply()
        assert reply.code == code, reply
        assert not status or reply.status == status, reply
        return reply

    async def command(self, line: str | bytes, code: int, status: str = "") -> Reply:
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.expect(code, status)

    async def command_any(self, line: str) -> Reply:
        """Whatever the server says to it."""
        self.send(line + "\r\n")
        return await self.reply()

    async def is_closed(self, seconds: float = REPLY_SECONDS) -> bool:
        """Whether the server closes without another word."""
        try:
            rest = await asyncio.wait_for(self.reader.read(4096), seconds)
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        assert not rest, f"a further word before the end: {rest!r}"
        return True

    async def is_silent(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes, not even the end."""
        try:
            await asyncio.wait_for(self.reader.read(1), seconds)
        except TimeoutError:
            return True
        return False

    async def start_tls(self) -> None:
        """STARTTLS and the handshake."""
        await self.command("STARTTLS", 220)
        await self.handshake()

    async def handshake(self) -> None:
        await self.writer.start_tls(client_context())

    async def transaction(self, sender: str = "<a@client.example>", *recipients: str) -> None:
        """MAIL and RCPT."""
        await self.command(f"MAIL FROM:{sender}", 250)
        for recipient in recipients or ("<alice@example.com>",):
            await self.command(f"RCPT TO:{recipient}", 250)

    async def data(self, body: bytes, code: int, status: str = "") -> Reply:
        await self.command("DATA", 354)
        self.send(body + b"\r\n.\r\n" if not body.endswith(b"\r\n") else body + b".\r\n")
        return await self.expect(code, status)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), 2)
