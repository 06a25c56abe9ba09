"""Transcripts: a dialogue as a text file, played against a real service. A failure names the line of the script.

# a comment
! listener submission                   mx (default) | submission | lmtp
! set smtp.max_recipients=2             a key of the configuration (numbers, true, false, text)
! from 127.0.0.66                       the client's address (default: a trusted one)
S: 220 mx.example.com ESMTP *           what the server says: one line, "*" matches anything
S: 250-...                              any number of lines of one reply, up to the next S line that matches
C: EHLO client.example                  a line of the client, sent with CRLF; consecutive ones in one segment
C> Subject: x\\r\\n\\r\\n.\\r\\n             bytes with escapes, sent as they are
T: handshake                            the client begins TLS
X: closed                               the server has closed the connection
X: mails 1                              how many mails were accepted so far
X: mail 0 recipients=alice@example.com,bob@example.com sender=a@b.example body_type=8BITMIME
X: header 0 Received: from client.example *
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

from tests.sessions.harness import TRUSTED, Bench, Client


class Line:
    """One line of a script."""

    def __init__(self, path: Path, number: int, text: str) -> None:
        self.place = f"{path}:{number}"
        self.mark, _, rest = text.partition(" ")
        self.rest = rest

    def fail(self, reason: str) -> AssertionError:
        return AssertionError(f"\n{self.place}: {self.mark} {self.rest}\n  {reason}")


def read_script(path: Path) -> list[Line]:
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if text.strip() and not text.startswith("#"):
            lines.append(Line(path, number, text))
            assert lines[-1].mark in {"!", "S:", "C:", "C>", "T:", "X:"}, f"{lines[-1].place}: no line of a transcript"
    return lines


def value_of(text: str) -> Any:
    if text in {"true", "false"}:
        return text == "true"
    return int(text) if text.isdecimal() else text


async def play(path: Path) -> None:
    """Raises AssertionError with the place in the script."""
    script = read_script(path)
    settings: dict[str, Any] = {}
    listener, source = "mx", TRUSTED
    for line in script:
        if line.mark == "!":
            what, _, value = line.rest.partition(" ")
            if what == "listener":
                listener = value
            elif what == "from":
                source = value
            else:
                key, _, text = value.partition("=")
                settings[key.replace(".", "__")] = value_of(text)
    async with Bench(listener, **settings) as bench:
        client = await bench.connect(source)
        player = Player(bench, client)
        for at, line in enumerate(script):
            try:
                await player.step(line, script[at + 1 :])
            except AssertionError as error:
                raise line.fail(str(error)) from None


class Player:
    """Both ends of one dialogue."""

    def __init__(self, bench: Bench, client: Client) -> None:
        self.bench = bench
        self.client = client
        self.waiting: list[str] = []
        self.unsent = b""

    async def step(self, line: Line, rest: list[Line]) -> None:
        if line.mark in {"C:", "C>"}:
            text = line.rest
            data = (
                text.encode() + b"\r\n"
                if line.mark == "C:"
                else text.encode("latin-1").decode("unicode_escape").encode("latin-1")
            )
            self.unsent += data
            if not rest or rest[0].mark not in {"C:", "C>"}:
                self.client.send(self.unsent)
                self.unsent = b""
        elif line.mark == "S:":
            await self.hear(line, rest)
        elif line.mark == "T:":
            await self.client.handshake()
        elif line.mark == "X:":
            assert not self.waiting, f"the server also said {self.waiting}"
            await self.check(line.rest)

    async def next_line(self) -> str:
        if not self.waiting:
            reply = await self.client.reply()
            self.waiting = reply.raw.decode().split("\r\n")[:-1]
        return self.waiting.pop(0)

    async def hear(self, line: Line, rest: list[Line]) -> None:
        if not line.rest.endswith("..."):
            said = await self.next_line()
            assert matches(said, line.rest), f"the server said: {said}"
            return
        following = next((other.rest for other in rest if other.mark == "S:"), "")
        while True:
            said = await self.next_line()
            if matches(said, following):
                self.waiting.insert(0, said)
                return
            assert said.startswith(line.rest[:-3]), f"the server said: {said}"
            assert said[3] == "-", f"the reply ends with: {said}"

    async def check(self, text: str) -> None:
        what, *words = text.split(" ")
        if what == "closed":
            assert await self.client.is_closed(), "the connection is open"
        elif what == "mails":
            assert len(self.bench.intake.mails) == int(words[0]), f"{len(self.bench.intake.mails)} mails were accepted"
        elif what == "mail":
            self.check_mail(int(words[0]), words[1:])
        elif what == "header":
            header = self.bench.intake.mails[int(words[0])].content.header_block().decode()
            lines = re.sub(r"\r\n[ \t]+", " ", header).split("\r\n")
            pattern = " ".join(words[1:])
            assert any(matches(line, pattern) for line in lines), f"the header is {lines}"
        else:
            raise AssertionError(f"unknown check {what}")

    def check_mail(self, number: int, words: list[str]) -> None:
        mail = self.bench.intake.mails[number]
        for word in words:
            name, _, expected = word.partition("=")
            if name == "recipients":
                found = ",".join(str(recipient.address) for recipient in mail.recipients)
            elif name in {"account", "protocol", "helo", "trusted"}:
                found = str(getattr(mail.origin, name))
            else:
                found = str(getattr(mail, name) if getattr(mail, name) is not None else "")
            assert matches(found, expected), f"{name} is {found}"


def matches(said: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(said, pattern.replace("[", "[[]"))
