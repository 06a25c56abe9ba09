"""POP3: what a command, a megabyte and a maildrop cost.

.venv/bin/python -m pytest --benchmark benchmarks/test_pop3.py
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rusmes._core.pop3 import DotStuffer, message_reply, parse
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from tests.fuzz.test_fuzz_pop3 import LOGIN, Pieces, finish
from tests.sessions.pop3.house import PASSWORD, House

MESSAGES = 1000
BODY = b"Return-Path: <a@bench.test>\r\nSubject: bench\r\nMessage-ID: <%d@bench.test>\r\n\r\n" + (b"y" * 70 + b"\r\n") * 40


def test_lex_a_command(benchmark: Any) -> None:
    """Goal: under 1 us."""
    benchmark(parse, b"RETR 123")


def test_stuff_a_megabyte_without_dots(benchmark: Any) -> None:
    chunk = ((b"y" * 76 + b"\r\n") * 900)[:65536]

    def run() -> None:
        stuffer = DotStuffer()
        for _ in range(16):
            stuffer.feed(chunk)

    benchmark(run)


def test_stuff_a_megabyte_of_dots(benchmark: Any) -> None:
    chunk = (b"." + b"y" * 75 + b"\r\n") * 840

    def run() -> None:
        stuffer = DotStuffer()
        for _ in range(16):
            stuffer.feed(chunk)

    benchmark(run)


def test_encode_a_small_message(benchmark: Any) -> None:
    benchmark(message_reply, b"+OK 3000 octets\r\n", b"", BODY)


def test_thousand_retr_without_network(benchmark: Any) -> None:
    """The session, the commands and the encoder, over the store in memory."""
    house = House(tls=False)
    finish(house.deliver("alice", *[BODY % n for n in range(MESSAGES)]))

    def run() -> None:
        from rusmes.log import LogSink, SessionLog

        pieces = [LOGIN, *(b"RETR %d\r\n" % n for n in range(1, MESSAGES + 1)), b"QUIT\r\n"]
        log = SessionLog("bench", "127.0.0.1", "pop3", sink=LogSink(lambda line: None))
        finish(house.service.handle(Pieces(pieces), log))  # type: ignore[arg-type]

    benchmark.pedantic(run, rounds=7, warmup_rounds=1)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service over LMDB with a thousand messages of 3 KB, on a loop in a thread."""
    folder: Path = tmp_path_factory.mktemp("pop3")
    ready = threading.Event()
    facts: dict[str, Any] = {}

    async def main() -> None:
        stop = facts["stop"] = asyncio.Event()
        facts["loop"] = asyncio.get_running_loop()
        store = LmdbMailStore(str(folder), inline_limit=64 * 1024, map_size=1 << 30)
        await store.open()
        async with House(store=store) as house:
            await house.deliver("alice", *[BODY % n for n in range(MESSAGES)])
            facts["port"] = house.port
            ready.set()
            await stop.wait()
        await store.close()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    assert ready.wait(60)
    yield facts["port"]
    facts["loop"].call_soon_threadsafe(facts["stop"].set)
    thread.join(20)


class Client:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for command in (b"", b"USER alice\r\n", b"PASS " + PASSWORD.encode() + b"\r\n"):
            self._socket.sendall(command)
            assert self._socket.recv(1000).startswith(b"+OK")

    def until(self, end: bytes, count: int = 1) -> None:
        data = b""
        while count > 0:
            data = data[-4:] + self._socket.recv(1 << 20)
            count -= data.count(end)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def quit(self) -> None:
        self._socket.sendall(b"QUIT\r\n")
        while self._socket.recv(1000):
            pass
        self._socket.close()


def test_thousand_retr_one_after_the_other(benchmark: Any, port: int) -> None:
    """Client and server share this process and its lock; `benchmarks/peers` compares with Dovecot."""

    def run() -> None:
        client = Client(port)
        for number in range(1, MESSAGES + 1):
            client.send(b"RETR %d\r\n" % number)
            client.until(b"\r\n.\r\n")
        client.quit()

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


def test_thousand_retr_pipelined(benchmark: Any, port: int) -> None:
    def run() -> None:
        client = Client(port)
        client.send(b"".join(b"RETR %d\r\n" % number for number in range(1, MESSAGES + 1)))
        client.until(b"\r\n.\r\n", MESSAGES)
        client.quit()

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


def test_log_in_and_out(benchmark: Any, port: int) -> None:
    """With a maildrop of a thousand; the password is in the credential cache."""
    benchmark.pedantic(lambda: Client(port).quit(), rounds=50, warmup_rounds=2)
