"""An SMTP server that does what it is told, at any point of the dialogue.

    async with Sink() as sink:
        sink.replies["rcpt"] = ["452 4.5.3 enough"]        # once; a plain string answers always
        sink.replies["rcpt:bob@example.org"] = "550 5.1.1 no such user"
        sink.drops["data"] = 1                             # close without an answer, that many times
        sink.delays["final"] = 0.5
        ...
        assert sink.messages[0].data == b"..."

Phases: connect ehlo helo starttls auth mail rcpt data body bdat final rset quit. What was received is kept as it was on the
wire; `data` is what a correct server makes of it (dots removed).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from dataclasses import dataclass, field

DEFAULT_EXTENSIONS = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")


@dataclass
class Message:
    """A transaction that was accepted, or refused at its end."""

    mail: str
    rcpts: list[str]
    wire: bytes = b""
    """The body as it came: with dots for DATA, as it is for BDAT."""
    by: str = "DATA"
    tls: bool = False
    connection: int = 0

    @property
    def data(self) -> bytes:
        if self.by == "BDAT":
            return self.wire
        lines = self.wire.removesuffix(b".\r\n").split(b"\r\n")
        return b"\r\n".join(line.removeprefix(b".") if line.startswith(b".") else line for line in lines)


@dataclass
class Peer:
    """One connection."""

    number: int
    tls: bool = False
    address: str = ""
    """From where it came."""
    helo: str = ""
    commands: list[str] = field(default_factory=list)
    reads: list[bytes] = field(default_factory=list)
    """What each read gave: shows what was pipelined."""
    mail: str = ""
    rcpts: list[str] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    buffer: bytes = b""


class Dropped(Exception):
    """The sink was told to close the connection here."""


class Sink:
    def __init__(
        self,
        *,
        extensions: tuple[str, ...] = DEFAULT_EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        users: dict[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.extensions = list(extensions)
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.users = users or {}
        self.host = host
        self.port = 0
        self.messages: list[Message] = []
        self.refused: list[Message] = []
        self.peers: list[Peer] = []
        self.replies: dict[str, str | list[str]] = {}
        self.delays: dict[str, float] = {}
        self.drops: dict[str, int] = {}
        self.surplus: dict[str, bytes] = {}
        """Bytes that follow the reply of a phase in the same write (SO9, SO10)."""
        self.garbage_handshake = False
        """Say 220 to STARTTLS and then send no TLS (T13)."""
        self.stops_reading_in_body = False
        """Never read again once the body begins (L4s)."""
        self.fragment_bytes = 0
        """Replies are sent in pieces of so many bytes."""
        self.keeps_refused = False
        """After a refused message the transaction is not over (against RFC 5321 §4.1.1.4)."""
        self.forgets_pipelined = False
        """What came in one piece with the end of a message is lost (against RFC 2920 §3.2)."""
        self.most_connections = 0
        """More than this get 421; 0 = any number."""
        self.turned_away = 0
        self.open = 0
        self.most_open = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._new_message = asyncio.Event()

    async def __aenter__(self) -> Sink:
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self.tls if self.implicit_tls else None, limit=1 << 20
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def wait_for(self, count: int, seconds: float = 10.0) -> list[Message]:
        """The messages, once there are `count`."""
        async with asyncio.timeout(seconds):
            while len(self.messages) < count:
                self._new_message.clear()
                await self._new_message.wait()
        return self.messages

    # One connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(len(self.peers), tls=self.implicit_tls, address=writer.get_extra_info("peername")[0])
        self.peers.append(peer)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            is_full = 0 < self.most_connections < self.open
            self.turned_away += is_full
            greeting = "421 4.7.0 too many connections" if is_full else "220 sink.example ESMTP"
            await self._answer(writer, "connect", greeting)
            while (line := await self._line(peer, reader)) is not None:
                peer.commands.append(line)
                if not await self._command(peer, line, reader, writer):
                    break
        except (Dropped, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort() if self.stops_reading_in_body else writer.close()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)

    async def _fill(self, peer: Peer, reader: asyncio.StreamReader) -> bool:
        data = await reader.read(1 << 16)
        if data:
            peer.reads.append(data)
            peer.buffer += data
        return bool(data)

    async def _line(self, peer: Peer, reader: asyncio.StreamReader) -> str | None:
        while b"\r\n" not in peer.buffer:
            if not await self._fill(peer, reader):
                return None
        line, _, peer.buffer = peer.buffer.partition(b"\r\n")
        return line.decode("utf-8")

    async def _answer(self, writer: asyncio.StreamWriter, phase: str, default: str) -> str:
        base = phase.partition(":")[0]
        for key in (phase, base):
            if key in self.delays:
                await asyncio.sleep(self.delays[key])
                break
        for key in dict.fromkeys((phase, base)):
            if self.drops.get(key, 0) > 0:
                self.drops[key] -= 1
                raise Dropped
        reply = default
        for key in dict.fromkeys((phase, base)):
            planned = self.replies.get(key)
            if isinstance(planned, str):
                reply = planned
                break
            if planned:
                reply = planned.pop(0)
                break
        await self._send(writer, reply.encode("utf-8", "surrogateescape") + b"\r\n" + self.surplus.get(base, b""))
        if reply.startswith("421"):
            raise Dropped
        return reply

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = self.fragment_bytes or len(data)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            if self.fragment_bytes:
                await asyncio.sleep(0)

    async def _command(self, peer: Peer, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        verb = line.partition(" ")[0].upper()
        if verb == "EHLO":
            peer.helo = line[5:]
            offers = list(self.extensions)
            if self.tls is not None and not peer.tls:
                offers.append("STARTTLS")
            lines = ["sink.example", *offers]
            text = "\r\n".join(f"250{' ' if i == len(lines) - 1 else '-'}{text}" for i, text in enumerate(lines))
            await self._answer(writer, "ehlo", text)
        elif verb == "HELO":
            peer.helo = line[5:]
            await self._answer(writer, "helo", "250 sink.example")
        elif verb == "STARTTLS":
            return await self._starttls(peer, writer)
        elif verb == "AUTH":
            await self._auth(peer, line, reader, writer)
        elif verb == "MAIL":
            if peer.mail:
                await self._answer(writer, "nested", "503 5.5.1 nested MAIL")
            elif (await self._answer(writer, "mail", "250 2.1.0 sender ok")).startswith("2"):
                peer.mail, peer.rcpts, peer.chunks = line[10:], [], []
        elif verb == "RCPT":
            address = line[line.index("<") + 1 : line.index(">")]
            default = "250 2.1.5 recipient ok" if peer.mail else "503 5.5.1 MAIL first"
            if (await self._answer(writer, f"rcpt:{address}", default)).startswith("2"):
                peer.rcpts.append(line[8:])
        elif verb == "DATA":
            await self._data(peer, reader, writer)
        elif verb == "BDAT":
            await self._bdat(peer, line, reader, writer)
        elif verb == "RSET":
            peer.mail, peer.rcpts, peer.chunks = "", [], []
            await self._answer(writer, "rset", "250 2.0.0 flushed")
        elif verb == "QUIT":
            await self._answer(writer, "quit", "221 2.0.0 bye")
            return False
        else:
            await self._answer(writer, "unknown", "502 5.5.2 unknown command")
        return True

    async def _data(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        default = "354 go on" if peer.rcpts else "554 5.5.1 no valid recipients" if peer.mail else "503 5.5.1 MAIL first"
        if not (await self._answer(writer, "data", default)).startswith("354"):
            return
        await self._misbehave_in_body()
        while not (peer.buffer.startswith(b".\r\n") or b"\r\n.\r\n" in peer.buffer):
            if not await self._fill(peer, reader):
                raise Dropped
        end = 3 if peer.buffer.startswith(b".\r\n") else peer.buffer.index(b"\r\n.\r\n") + 5
        wire, peer.buffer = peer.buffer[:end], peer.buffer[end:]
        await self._end(peer, writer, wire, "DATA")

    async def _misbehave_in_body(self) -> None:
        if self.stops_reading_in_body:
            await asyncio.sleep(3600)
        if self.drops.get("body", 0) > 0:
            self.drops["body"] -= 1
            raise Dropped

    async def _bdat(self, peer: Peer, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = line.split()
        size = int(parts[1])
        await self._misbehave_in_body()
        while len(peer.buffer) < size:
            if not await self._fill(peer, reader):
                raise Dropped
        chunk, peer.buffer = peer.buffer[:size], peer.buffer[size:]
        if not peer.rcpts:
            await self._answer(writer, "bdat", "503 5.5.1 no valid recipients")
            return
        peer.chunks.append(chunk)
        if parts[-1].upper() == "LAST":
            await self._end(peer, writer, b"".join(peer.chunks), "BDAT")
        else:
            await self._answer(writer, "bdat", f"250 2.0.0 {size} bytes")

    async def _end(self, peer: Peer, writer: asyncio.StreamWriter, wire: bytes, by: str) -> None:
        message = Message(peer.mail, list(peer.rcpts), wire, by, peer.tls, peer.number)
        mail, peer.mail, peer.rcpts, peer.chunks = peer.mail, "", [], []
        if self.forgets_pipelined:
            peer.buffer = b""
        try:
            reply = await self._answer(writer, "final", f"250 2.0.0 ok, message {len(self.messages)}")
        except Dropped:
            self.refused.append(message)
            raise
        (self.messages if reply.startswith("2") else self.refused).append(message)
        if self.keeps_refused and not reply.startswith("2"):
            peer.mail = mail
        self._new_message.set()

    async def _starttls(self, peer: Peer, writer: asyncio.StreamWriter) -> bool:
        if not (await self._answer(writer, "starttls", "220 2.0.0 go on")).startswith("220"):
            return True
        if self.garbage_handshake:
            writer.write(b"this is not TLS\r\n")
            await writer.drain()
            return False
        assert self.tls is not None
        await writer.start_tls(self.tls)
        peer.tls = True
        peer.helo, peer.buffer = "", b""
        return True

    async def _auth(self, peer: Peer, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = line.split()
        if parts[1] == "PLAIN":
            _, username, password = base64.b64decode(parts[2]).decode().split("\0")
        else:
            await self._answer(writer, "auth-continue", "334 VXNlcm5hbWU6")
            username = base64.b64decode(await self._line(peer, reader) or "").decode()
            await self._answer(writer, "auth-continue", "334 UGFzc3dvcmQ6")
            password = base64.b64decode(await self._line(peer, reader) or "").decode()
        good = self.users.get(username) == password
        await self._answer(writer, "auth", "235 2.7.0 welcome" if good else "535 5.7.8 wrong")
