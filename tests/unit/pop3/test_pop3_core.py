"""The lexer and the dot-stuffing encoder, against their oracles and however the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core.pop3 import VERBS, DotStuffer, message_reply, parse
from tests.oracles import pop3 as oracle
from tests.splits import assert_split_invariant

VERB = st.sampled_from([*VERBS[1:], "XYZ", "RET", "RETRX", ""]).flatmap(
    lambda verb: st.sampled_from([verb, verb.lower(), verb.capitalize()])
)
ARGUMENT = st.one_of(
    st.text(" 0123456789", max_size=14),
    st.text(max_size=8),
    st.sampled_from([" ", "  1", " 1 2", " 99999999999", " -1", " 1x", " a b", " 1 2 3"]),
)


def facts(line: bytes) -> tuple[str, bool, int, int, bytes]:
    command = parse(line)
    if not command.well_formed:
        return VERBS[command.verb], False, -1, -1, b""
    return VERBS[command.verb], True, command.number, command.lines, command.argument


def expected(line: bytes) -> tuple[str, bool, int, int, bytes]:
    verb, good, number, lines, argument = oracle.parse(line)
    return (verb, good, number, lines, argument) if good else (verb, False, -1, -1, b"")


@pytest.mark.rfc("1939", "3")
@pytest.mark.parametrize(
    ("line", "facts_"),
    [
        (b"retr 12", ("RETR", True, 12, -1, b"")),
        (b"TOP 1 20", ("TOP", True, 1, 20, b"")),
        (b"TOP 1", ("TOP", False, -1, -1, b"")),
        (b"LIST", ("LIST", True, -1, -1, b"")),
        (b"LIST 3 ", ("LIST", True, 3, -1, b"")),
        (b"LIST 3x", ("LIST", False, -1, -1, b"")),
        (b"RETR", ("RETR", False, -1, -1, b"")),
        (b"RETR -1", ("RETR", False, -1, -1, b"")),
        (b"RETR 0", ("RETR", True, 0, -1, b"")),
        (b"RETR 4294967297", ("RETR", True, 2**31 - 1, -1, b"")),
        (b"PASS two  words ", ("PASS", True, -1, -1, b"two  words ")),
        (b"PASS", ("PASS", False, -1, -1, b"")),
        (b"AUTH", ("AUTH", True, -1, -1, b"")),
        (b"STAT now", ("STAT", False, -1, -1, b"")),
        (b"utf8", ("UTF8", True, -1, -1, b"")),
        (b"UTFX", ("", False, -1, -1, b"")),
        (b"NOOP\0", ("", False, -1, -1, b"")),
        (b"USER a\0b", ("USER", False, -1, -1, b"")),
        (b"", ("", False, -1, -1, b"")),
    ],
)
def test_command_lines(line: bytes, facts_: tuple[str, bool, int, int, bytes]) -> None:
    assert facts(line) == facts_ == expected(line)


@given(VERB, ARGUMENT)
def test_command_lines_like_the_oracle(verb: str, argument: str) -> None:
    line = (verb + argument).encode()
    assert facts(line) == expected(line)


@given(st.binary(max_size=40))
def test_any_line_like_the_oracle(line: bytes) -> None:
    assert facts(line) == expected(line)


def test_no_secret_in_a_repr() -> None:
    for line in (b"PASS hunter2", b"AUTH PLAIN hunter2", b"APOP x hunter2"):
        assert "hunter2" not in repr(parse(line))
    assert "7" in repr(parse(b"RETR 7"))


MESSAGES = st.lists(
    st.sampled_from(
        [b".", b"..", b"\r\n", b"\n", b"\r", b"a", b"\r\n.", b"\r\n.\r\n", b"\r\n\r\n", b"Subject: x", b"\x00\xff"]
    ),
    max_size=12,
).map(b"".join)


@given(MESSAGES, st.integers(0, 30), st.integers(0, 30))
def test_a_whole_message_like_the_oracle(message: bytes, at: int, skip: int) -> None:
    assert message_reply(b"+OK\r\n", message[:at], message[at:]) == b"+OK\r\n" + oracle.stuffed(message)
    assert message_reply(b"", message[:at], b"x" * skip + message[at:], skip) == oracle.stuffed(message)


def test_skipping_too_much_is_an_error() -> None:
    with pytest.raises(ValueError, match="skip"):
        message_reply(b"", b"", b"abc", 4)
    with pytest.raises(ValueError, match="skip"):
        message_reply(b"", b"", b"abc", -1)


def in_pieces(lines: int):  # type: ignore[no-untyped-def]
    def run(pieces: list[bytes]) -> tuple[bytes, int]:
        stuffer = DotStuffer(lines)
        out = b"".join(stuffer.feed(piece) for piece in pieces)
        return out + stuffer.finish(), stuffer.octets

    return run


@given(MESSAGES)
def test_chunks_like_the_oracle(message: bytes) -> None:
    sent, octets = assert_split_invariant(in_pieces(-1), message, everywhere=True)
    assert sent == oracle.stuffed(message)
    assert octets == len(message)


@given(MESSAGES, st.integers(0, 4))
def test_top_like_the_oracle(message: bytes, lines: int) -> None:
    sent, octets = assert_split_invariant(in_pieces(lines), message, everywhere=True)
    wanted = oracle.top(message, lines)
    assert sent == oracle.stuffed(wanted)
    assert octets == len(wanted)


def test_top_says_when_it_has_enough() -> None:
    stuffer = DotStuffer(1)
    assert stuffer.feed(b"A: b\r\n\r\none\r\ntwo") == b"A: b\r\n\r\none\r\n"
    assert stuffer.is_done
    assert stuffer.feed(b"more") == b""
    assert stuffer.finish() == b".\r\n"


def test_a_chunk_without_dots_is_not_copied() -> None:
    chunk = b"x" * 70 + b"\r\n"
    assert DotStuffer().feed(chunk) is chunk


def test_many_dots() -> None:
    message = b".\r\n" * 70_000
    assert message_reply(b"", b"", message) == oracle.stuffed(message)
