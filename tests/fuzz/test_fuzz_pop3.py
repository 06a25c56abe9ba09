"""Invariant: whatever bytes come, in whatever pieces and in every state, the whole service gives the same octets however
they were cut; nothing but the errors of the connection escapes; a line gets at most one reply (and listings their end); the
maildrop is free afterwards, and nothing is gone that no QUIT removed.

Runs the real service over a connection that is a list of pieces; nothing here waits, so no event loop is needed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.log import LogSink, SessionLog
from rusmes.net.connection import ConnectionLost
from rusmes.pop3.commands import lock_key
from tests.sessions.pop3.house import PASSWORD, House
from tests.splits import assert_split_invariant, cut

MESSAGES = (b"Subject: one\r\n\r\n.first\r\n", b"Subject: two\r\n\r\nno end", b"Subject: big\r\n\r\n" + b".\r\n" * 30_000)
LOGIN = f"USER alice\r\nPASS {PASSWORD}\r\n".encode()


class Pieces:
    """What the service needs of a connection."""

    peer_address = "127.0.0.1"
    tls = None
    bytes_in = bytes_out = 0

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces[::-1]
        self.sent = bytearray()
        self.has_input = False

    async def receive(self, *, interruptible: bool = False) -> bytes:
        while self._pieces:
            if piece := self._pieces.pop():
                return piece
        return b""

    async def feed(self, take: Callable[[bytes], bytes | None]) -> None:
        while (answer := take(await self.receive())) is not None:
            self.write(answer)

    def write(self, data: bytes) -> None:
        self.sent += data

    async def flush(self) -> None: ...

    def set_deadline(self, seconds: float | None) -> None: ...

    async def close(self) -> None: ...

    def abort(self) -> None: ...


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it waits")


def serve(pieces: list[bytes]) -> bytes:
    house = House(tls=False)
    finish(house.deliver("alice", *MESSAGES))
    connection = Pieces(pieces)
    log = SessionLog("fuzz", "127.0.0.1", "pop3", sink=LogSink(lambda line: None, level="trace"))
    try:
        finish(house.service.handle(connection, log))  # type: ignore[arg-type]
    except ConnectionLost:
        connection.sent += b"<lost>"
    assert not house.limits.count(lock_key("alice@example.com"))
    data = b"".join(pieces)
    if b"quit" not in data.lower():
        account = finish(house.store.account("alice@example.com"))
        assert account.used_messages == len(MESSAGES)
    # A SCRAM challenge has a nonce in it.
    return re.sub(rb"\+ [A-Za-z0-9+/=]{40,}", b"+ <challenge>", bytes(connection.sent))


LINE = st.one_of(
    st.sampled_from(
        [
            "CAPA", "USER alice", "USER nobody", f"PASS {PASSWORD}", "PASS wrong", "AUTH", "AUTH PLAIN", "AUTH LOGIN",
            "AUTH PLAIN AGFsaWNlAHMzY3JldA==", "AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==", "YWxpY2U=", "czNjcmV0", "*", "",
            "STLS", "STAT", "LIST", "LIST 1", "LIST 9", "UIDL", "UIDL 2", "RETR 1", "RETR 2", "RETR 3", "RETR 4", "TOP 1 0",
            "TOP 3 2", "TOP 2 99", "DELE 1", "DELE 3", "RSET", "NOOP", "QUIT", "UTF8", "LANG", "APOP a b",
        ]
    ).map(str.encode),
    st.binary(max_size=30),
    st.integers(250, 310).map(lambda size: b"x" * size),
    st.just(b"A" * 12_400),
)  # fmt: skip


@given(st.booleans(), st.lists(LINE, max_size=12), st.sampled_from([b"\r\n", b"\r\n", b"\n"]), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_any_session(logged_in: bool, lines: list[bytes], end: bytes, seed: int) -> None:
    data = (LOGIN if logged_in else b"") + b"".join(line + end for line in lines)
    dice = random.Random(seed)
    places = sorted(dice.sample(range(1, len(data)), min(6, len(data) - 1))) if len(data) > 2 else []
    whole = serve([data])
    in_pieces = serve(cut(data, places))
    assert in_pieces == whole if len(whole) < 2000 else hash(in_pieces) == hash(whole)  # no diff of megabytes
    replies = whole.count(b"\r\n+OK") + whole.count(b"\r\n-ERR")
    # The line that is one too many gets a second reply, which says so.
    assert replies <= data.count(b"\n") + 1


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_bytes(data: bytes, logged_in: bool) -> None:
    serve([LOGIN, data] if logged_in else [data])


def test_one_whole_session_octet_by_octet() -> None:
    data = LOGIN + b"STAT\r\nRETR 1\r\nRETR 2\r\nTOP 2 0\r\nxyz\r\nDELE 1\r\nLIST\r\nQUIT\r\nNOOP\r\n"
    sent = assert_split_invariant(serve, data, everywhere=True)
    assert sent.endswith(b"+OK 1 messages removed, bye\r\n")


@pytest.mark.parametrize("size", [255, 256, 12_290, 100_000])
def test_endless_lines_cost_no_memory(size: int) -> None:
    sent = serve([b"x" * 1000] * (size // 1000 + 1))
    assert len(sent) < 300


@pytest.mark.parametrize("rest", [b"x" * 40_000, b"RETR 3\r\nNOOP\r\nQUIT\r\n", b"RE", b"DELE 3\r\nRETR 3\r\nQUIT\r\n"])
def test_what_comes_instead_of_the_expected_retrieval(rest: bytes) -> None:
    """In pieces, the fourth RETR is answered from what is ready; nothing else may look different for it."""
    before = [LOGIN, b"RETR 1\r\n", b"RETR 2\r\n"]
    assert serve([*before, rest]) == serve([b"".join(before) + rest])
