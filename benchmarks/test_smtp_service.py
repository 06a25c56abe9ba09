"""SMTP: what a message costs in the service itself (session, commands, Received, the loop), without sockets, pipeline or store.

.venv/bin/python -m pytest --benchmark benchmarks/test_smtp_service.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import SystemClock
from rusmes.log import LogSink, SessionLog
from rusmes.model.content import Content
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail
from rusmes.queue.api import Outcome
from rusmes.smtp.server import SmtpService
from tests.fakes import FakeAuthenticator, FakeDirectory
from tests.sessions.harness import make_config

MESSAGES = 500
BODY = b"Subject: bench\r\nFrom: a@x.example\r\nTo: u@example.com\r\n\r\n" + (b"x" * 70 + b"\r\n") * 14
ENVELOPE = (b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<u@example.com>\r\n", b"DATA\r\n")


class Writer:
    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._parts.append(data)

    def finish(self) -> Content:
        data = b"".join(self._parts)
        return Content(b"x" * 16, len(data), data.find(b"\r\n\r\n") + 4, data=data)

    def abort(self) -> None:
        pass


class Nowhere:
    """An intake that keeps nothing."""

    accepted = 0

    def admit(self, size: int = 0) -> None:
        return None

    async def room_for(self, account: str, size: int) -> bool:
        return True

    def writer(self) -> Writer:
        return Writer()

    def hand_over(self, mail: Mail, answer: object) -> Awaitable[Outcome]:
        return self.accept(mail)

    async def accept(self, mail: Mail) -> Outcome:
        self.accepted += 1
        return Outcome([None] * len(mail.recipients), [])


class Tape:
    """A connection whose client says what is on the tape, one piece a read."""

    peer_address, peer_port, draining, tls, has_input = "127.0.0.1", 4711, False, None, False
    interruptible = False
    bytes_in = bytes_out = 0

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def write(self, data: bytes) -> None:
        pass

    def set_deadline(self, seconds: float | None) -> None:
        pass

    async def receive(self, *, interruptible: bool = False) -> bytes:
        return next(self._pieces, b"")

    async def feed(self, take: Callable[[bytes], bytes | None]) -> None:
        while take(await self.receive()) is not None:
            pass

    async def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("pipelined", [False, True], ids=["line-by-line", "pipelined"])
def test_a_message_of_one_kilobyte(benchmark: Any, capsys: Any, pipelined: bool) -> None:
    """Goal: under 30 us line by line."""
    intake = Nowhere()
    service = SmtpService(
        make_config(),
        listener="mx",
        intake=intake,
        directory=FakeDirectory(accounts=("u@example.com",)),
        authenticator=FakeAuthenticator(),
        tls=lambda: None,
        limits=SharedCounters(1, 1024),
        metrics=Metrics(1),
        clock=SystemClock(),
        ids=IdSource(),
    )
    message = [b"".join(ENVELOPE), BODY + b".\r\n"] if pipelined else [*ENVELOPE, BODY + b".\r\n"]
    tape = [b"EHLO bench.example\r\n", *message * MESSAGES]
    sink = LogSink(lambda line: None, level="info")

    def session() -> None:
        asyncio.run(service.handle(Tape(tape), SessionLog("bench", "127.0.0.1", "smtp", sink=sink)))  # type: ignore[arg-type]

    benchmark.pedantic(session, rounds=7, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable: one pass without timing
        assert intake.accepted == MESSAGES
        return
    assert intake.accepted == 8 * MESSAGES
    with capsys.disabled():
        print(f"\n{benchmark.stats.stats.median / MESSAGES * 1e6:.1f} us a message")
