"""What of a large message is in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rusmes.log import LogSink, SessionLog
from rusmes.model.content import Content
from rusmes.net.connection import ConnectionLost
from rusmes.pop3.limits import FLUSH_OCTETS
from tests.fuzz.test_fuzz_pop3 import LOGIN, Pieces, finish
from tests.sessions.pop3.house import House

CHUNK = 64 * 1024
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef0123456789abcdef\r\n" * 300_000
SMALL = b"Subject: small\r\n\r\n" + b"0123456789abcdef0123456789abcdef\r\n" * 1_000


class Counting(Pieces):
    """Knows how much was written between two waits for the client."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__(pieces)
        self.total = 0
        self.most = 0
        self.aborted = False
        self._pending = 0

    def write(self, data: bytes) -> None:
        if len(data) < 1000:
            self.sent += data
        self.total += len(data)
        self._pending += len(data)
        self.most = max(self.most, self._pending)

    async def flush(self) -> None:
        self._pending = 0

    async def receive(self, *, interruptible: bool = False) -> bytes:
        self._pending = 0
        return await super().receive(interruptible=interruptible)

    def abort(self) -> None:
        self.aborted = True


def serve(house: House, data: bytes) -> Counting:
    connection = Counting([LOGIN, data])
    log = SessionLog("x", "127.0.0.1", "pop3", sink=LogSink(lambda line: None))
    try:
        finish(house.service.handle(connection, log))  # type: ignore[arg-type]
    except ConnectionLost:
        assert connection.aborted
    return connection


@pytest.mark.parametrize("message", [LARGE, LARGE[:-1], LARGE.replace(b"\r\n", b"\r\n.", 100)])
def test_a_large_message_is_never_in_memory(message: bytes) -> None:
    house = House(tls=False)
    finish(house.deliver("alice", message))
    connection = serve(house, b"RETR 1\r\nTOP 1 250000\r\nQUIT\r\n")
    assert connection.total > 1.8 * len(message)
    assert connection.most < 2 * CHUNK + FLUSH_OCTETS


def test_replies_to_pipelined_commands_are_bounded_too() -> None:
    house = House(tls=False)
    finish(house.deliver("alice", *[SMALL] * 40))
    connection = serve(house, b"".join(b"RETR %d\r\n" % n for n in range(1, 41)) + b"LIST\r\n" * 100)
    assert connection.total > 40 * len(SMALL)
    assert connection.most < FLUSH_OCTETS + len(SMALL) + 1000


def broken(house: House, chunks: Callable[[], Iterator[bytes]]) -> None:
    """Make the content of alice's only message read as `chunks` says."""
    finish(house.deliver("alice", LARGE))
    account = finish(house.store.account("alice@example.com"))
    mailbox = finish(house.store.mailbox(account.id, "INBOX"))
    [rendering] = finish(house.store.renderings(mailbox.id, [1]))

    class Broken(Content):
        __slots__ = ()

        def chunks(self, skip: int = 0) -> Iterator[bytes]:
            return chunks()

    rendering.content.__class__ = Broken


def test_a_message_that_cannot_be_read_to_its_end_does_not_look_whole() -> None:
    def chunks() -> Iterator[bytes]:
        yield LARGE[:CHUNK]
        raise OSError(5, "Input/output error")

    house = House(tls=False)
    broken(house, chunks)
    connection = serve(house, b"RETR 1\r\nQUIT\r\n")
    assert connection.aborted
    assert connection.total < 2 * CHUNK


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (FileNotFoundError(2, "gone"), b"-ERR the message was removed meanwhile\r\n"),
        (OSError(5, "Input/output error"), b"-ERR [SYS/PERM] the message cannot be read\r\n"),
    ],
)
@pytest.mark.parametrize("command", [b"RETR 1", b"TOP 1 1"])
def test_a_message_that_cannot_be_read_at_all_is_an_error(error: OSError, answer: bytes, command: bytes) -> None:
    def chunks() -> Iterator[bytes]:
        raise error
        yield b""

    house = House(tls=False)
    broken(house, chunks)
    connection = serve(house, command + b"\r\nNOOP\r\n")
    assert bytes(connection.sent).endswith(answer + b"+OK\r\n")
    assert not connection.aborted
