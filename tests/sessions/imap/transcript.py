"""Transcripts of IMAP: a dialogue as a text file, played against a real service. A failure names the line of the script.

# RFC 9051 §6.3.2                       what it proves; other comments have two "#"
! set append_limit=100                  a key of [imap]
! connect                               begin before the login (default: alice is logged in, the greeting read)
! stranger                              from an address that is not inside [auth] plaintext_networks
D: Subject: x\\r\\n\\r\\nhello\\r\\n           a message is delivered to alice's INBOX ("D Archive: ..." to another mailbox)
C: a1 NOOP                              a line of the client, sent with CRLF; consecutive ones in one segment
C> a2 LOGIN {5}\\r\\n                     bytes with escapes, sent as they are
S: * 1 EXISTS                           one response of the server, literals in it as they are; "…" stands for anything
S? * FLAGS (…)                          a response that comes among those up to the next "S:", in any order
T: handshake                            the client begins TLS
Z: compress                             both sides deflate from here on
X: closed                               the server has closed the connection
X: silent                               the server says nothing more for now

A digit behind the letter is another client of alice's: "C2: a1 NOOP", "S2: a1 OK …". It is logged in when it is first met.
"""

from __future__ import annotations

import asyncio
import random
import re
import zlib
from pathlib import Path
from typing import Any

from tests.sessions.imap.house import STRANGER, TRUSTED, ImapClient, ImapHouse

_LINE = re.compile(r"([A-Z])(\d?)([:>?])? ?(.*)$")
SILENCE_SECONDS = 0.1


class Line:
    """One line of a script."""

    def __init__(self, path: Path, number: int, text: str) -> None:
        self.place = f"{path}:{number}"
        self.text = text
        if text.startswith("!"):
            self.mark, self.who, self.kind, self.rest = "!", "", ":", text[1:].strip()
            return
        if text.startswith("D "):
            where, _, message = text[2:].partition(": ")
            self.mark, self.who, self.kind, self.rest = "D", where, ":", message
            return
        found = _LINE.match(text)
        assert found, f"{self.place}: no line of a transcript"
        self.mark, self.who, kind, self.rest = found.groups()
        self.kind = kind or ":"
        assert self.mark in "DCSTZX", f"{self.place}: no line of a transcript"

    def fail(self, reason: str) -> AssertionError:
        return AssertionError(f"\n{self.place}: {self.text}\n  {reason}")


def read_script(path: Path) -> list[Line]:
    numbered = enumerate(path.read_text().splitlines(), 1)
    return [Line(path, number, text) for number, text in numbered if text.strip() and not text.startswith("#")]


def proves(path: Path) -> list[tuple[str, str]]:
    """(RFC, section) pairs of a script's head."""
    return re.findall(r"^# RFC (\d+) §([\w.]+)", path.read_text(), re.MULTILINE)


def unescaped(text: str) -> bytes:
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")


def matches(said: str, pattern: str) -> bool:
    parts = pattern.replace("\\r\\n", "\r\n").split("…")
    return re.fullmatch(".*?".join(map(re.escape, parts)), said, re.DOTALL) is not None


async def play(path: Path, *, store: Any = None, dice: random.Random | None = None) -> None:
    """Raises AssertionError with the place in the script."""
    script = read_script(path)
    settings: dict[str, Any] = {}
    words = [line.rest.split(maxsplit=1) for line in script if line.mark == "!"]
    for word in words:
        if word[0] == "set":
            key, _, text = word[1].partition("=")
            settings[key] = int(text) if text.isdecimal() else text
    source = STRANGER if ["stranger"] in words else TRUSTED
    async with ImapHouse(store=store, dice=dice, **settings) as house:
        await house.store.create_account("alice@example.com", mailboxes=("Drafts", "Sent", "Trash", "Junk", "Archive"))
        player = Player(house, source, logs_in=["connect"] not in words)
        for at, line in enumerate(script):
            if line.mark != "!":
                try:
                    await player.step(line, script[at + 1 :])
                except (AssertionError, TimeoutError, EOFError) as error:
                    raise line.fail(str(error) or type(error).__name__) from None
        player.check_end()


class Deflated:
    """A client's reader and writer on top of raw deflate (RFC 4978)."""

    def __init__(self, client: ImapClient) -> None:
        self._writer = client.writer
        self._reader = client.reader
        self._deflate = zlib.compressobj(wbits=-15)
        self._inflate = zlib.decompressobj(wbits=-15)
        self._waiting = b""
        self.drain, self.close, self.wait_closed = self._writer.drain, self._writer.close, self._writer.wait_closed

    def write(self, data: bytes) -> None:
        self._writer.write(self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH))

    async def _more(self) -> bool:
        data = await self._reader.read(4096)
        self._waiting += self._inflate.decompress(data)
        return bool(data)

    async def readline(self) -> bytes:
        while b"\n" not in self._waiting and await self._more():
            pass
        line, newline, self._waiting = self._waiting.partition(b"\n")
        return line + newline

    async def readexactly(self, size: int) -> bytes:
        while len(self._waiting) < size and await self._more():
            pass
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return data

    async def read(self, size: int) -> bytes:
        return self._waiting or await self._reader.read(size)


class Player:
    """All ends of one dialogue."""

    def __init__(self, house: ImapHouse, source: str, *, logs_in: bool) -> None:
        self.house = house
        self.source = source
        self.logs_in = logs_in
        self.clients: dict[str, ImapClient] = {}
        self.unsent = b""
        self.expected: dict[str, list[str]] = {}
        """Patterns of responses that may come in any order, by client."""

    async def client(self, who: str) -> ImapClient:
        if who not in self.clients:
            if self.logs_in or who:
                self.clients[who] = await self.house.login(source=self.source)
            else:
                self.clients[who] = await self.house.connect(self.source)
        return self.clients[who]

    async def step(self, line: Line, rest: list[Line]) -> None:
        if line.mark == "D":
            await self.house.deliver("alice", unescaped(line.rest), mailbox=line.who or "INBOX")
            return
        client = await self.client(line.who)
        if line.mark == "C":
            self.unsent += line.rest.encode() + b"\r\n" if line.kind == ":" else unescaped(line.rest)
            if not rest or rest[0].mark != "C" or rest[0].who != line.who:
                data, self.unsent = self.unsent, b""
                await client.send(data)
        elif line.mark == "S" and line.kind == "?":
            self.expected.setdefault(line.who, []).append(line.rest)
        elif line.mark == "S":
            await self.hear(line, client)
        elif line.mark == "T":
            await client.writer.start_tls(_client_context())
        elif line.mark == "Z":
            deflated = Deflated(client)
            client.reader = client.writer = deflated  # type: ignore[assignment]
        else:
            await self.check(line, client)

    async def hear(self, line: Line, client: ImapClient) -> None:
        expected = self.expected.setdefault(line.who, [])
        while True:
            said = await client.line()
            found = next((pattern for pattern in expected if matches(said, pattern)), None)
            if found is None:
                break
            expected.remove(found)
        assert matches(said, line.rest), f"the server said: {said}"
        assert not expected, f"the server did not say {expected}"

    async def check(self, line: Line, client: ImapClient) -> None:
        if line.rest == "closed":
            assert await client.is_closed(), "the connection is open"
        elif line.rest == "silent":
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    said = await client.reader.readline()
            except TimeoutError:
                return
            raise AssertionError(f"the server said: {said!r}")
        else:
            raise AssertionError(f"unknown check {line.rest}")

    def check_end(self) -> None:
        assert not any(self.expected.values()), f"never said: {self.expected}"


def _client_context() -> Any:
    from tests.sessions.harness import client_context

    return client_context()
