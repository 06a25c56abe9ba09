"""What a crash test knows for sure: which messages were acknowledged, and where each of them was seen afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter

MESSAGE_ID = re.compile(rb"^Message-ID: <([^@>]+)@ledger\.example>", re.MULTILINE | re.IGNORECASE)


class Ledger:
    """`acknowledged` maps a message to its recipients; `seen` counts (message, recipient) at their destinations."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, tuple[str, ...]] = {}
        self.attempted = 0
        self.seen: Counter[tuple[str, str]] = Counter()

    def next_name(self) -> str:
        self.attempted += 1
        return f"m{self.attempted}"

    def lost(self) -> list[tuple[str, str]]:
        return [(m, r) for m, recipients in self.acknowledged.items() for r in recipients if not self.seen[m, r]]

    def doubled(self, domain: str) -> list[tuple[str, str]]:
        return [place for place, times in self.seen.items() if times > 1 and place[1].endswith("@" + domain)]


class Reply(Exception):
    """The server said no, or went away."""


class Client:
    """A bare SMTP client: one connection, one message after another, until told to stop."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self.port = port
        self.ledger = ledger

    async def run(self, stop: asyncio.Event, recipients: list[tuple[str, ...]], body: bytes) -> None:
        turn = 0
        while not stop.is_set():
            writer = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                await self._expect(reader, b"220")
                await self._say(reader, writer, b"EHLO crash.example", b"250")
                while not stop.is_set():
                    turn += 1
                    await self._send(reader, writer, recipients[turn % len(recipients)], body)
            except (OSError, Reply, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)
            finally:
                if writer is not None:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recipients: tuple[str, ...], body: bytes
    ) -> None:
        name = self.ledger.next_name()
        await self._say(reader, writer, b"MAIL FROM:<sender@ledger.example>", b"250")
        for recipient in recipients:
            await self._say(reader, writer, f"RCPT TO:<{recipient}>".encode(), b"250")
        await self._say(reader, writer, b"DATA", b"354")
        header = f"Message-ID: <{name}@ledger.example>\r\nSubject: crash\r\n\r\n".encode()
        await self._say(reader, writer, header + body + b"\r\n.", b"250")
        self.ledger.acknowledged[name] = recipients

    async def _say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, code: bytes) -> None:
        writer.write(data + b"\r\n")
        await self._expect(reader, code)

    async def _expect(self, reader: asyncio.StreamReader, code: bytes) -> None:
        while True:
            line = await reader.readuntil(b"\n")
            if line[3:4] != b"-":
                break
        if not line.startswith(code):
            raise Reply(line)


class Sink:
    """A server that takes every message and writes it into the ledger before its 250."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._session, "127.0.0.1", 0, limit=1 << 22)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        recipients: list[str] = []
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                line = await reader.readuntil(b"\r\n")
                verb = line[:4].upper()
                if verb == b"EHLO":
                    writer.write(b"250-sink\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING\r\n")
                elif verb == b"RCPT":
                    recipients.append(line[line.index(b"<") + 1 : line.index(b">")].decode())
                    writer.write(b"250 ok\r\n")
                elif verb == b"DATA":
                    writer.write(b"354 go\r\n")
                    data = await reader.readuntil(b"\r\n.\r\n")
                    found = MESSAGE_ID.search(data)
                    for recipient in recipients if found else ():
                        assert found
                        self.ledger.seen[found[1].decode(), recipient] += 1
                    recipients = []
                    writer.write(b"250 ok\r\n")
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                else:
                    if verb in (b"RSET", b"MAIL"):
                        recipients = []
                    writer.write(b"250 ok\r\n")
        writer.close()


async def read_maildrop(port: int, user: str, password: str, ledger: Ledger) -> int:
    """Enter every message of a maildrop into the ledger, over POP3; the number of messages."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def say(line: str) -> bytes:
        writer.write(line.encode() + b"\r\n")
        reply = await reader.readuntil(b"\r\n")
        assert reply.startswith(b"+OK"), reply
        return reply

    await reader.readuntil(b"\r\n")
    await say(f"USER {user}")
    await say(f"PASS {password}")
    count = int((await say("STAT")).split()[1])
    for number in range(1, count + 1):
        writer.write(f"TOP {number} 0\r\n".encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"+OK")
        found = MESSAGE_ID.search(await reader.readuntil(b"\r\n.\r\n"))
        if found:
            ledger.seen[found[1].decode(), user] += 1
    await say("QUIT")
    writer.close()
    return count
