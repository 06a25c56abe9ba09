"""Invariant: whatever bytes come, in whatever pieces and in every state, each command gets exactly one answer, in order, and
nothing that is inside of a literal is ever taken for a command.
"""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rusmes._core import framer as core
from rusmes._core.framer import Framer
from rusmes._core.imap import GrammarError, Lexer
from rusmes.imap import command as c
from rusmes.imap.grammar import COMMANDS, UID_COMMANDS, Malformed, parse, parse_announced
from rusmes.imap.session import ALLOWED, NEED_DATA, Continuation, LiteralOffer, Refusal, Session, SinkFailure, State
from rusmes.model.content import Content
from tests.oracles.imap_framing import frames
from tests.splits import assert_split_invariant
from tests.unit.imap.test_grammar import BAD, GOOD, MESSAGES

TEXTS = [*GOOD, *BAD, *MESSAGES]
STATES = [State.NOT_AUTHENTICATED, State.AUTHENTICATED, State.SELECTED]
ENABLED: list[tuple[str, ...]] = [(), ("UTF8=ACCEPT",), ("IMAP4REV2", "QRESYNC"), ("UIDONLY", "CONDSTORE")]
REPLY = re.compile(rb"([!-~]+|\*) (BAD|NO|BYE) [\x20-\x7e]+\r\n")


class Sink:
    """A writer that fails on what has "full" in it."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self) -> Content:
        if b"full" in self.data:
            raise OSError("full")
        return Content(bytes(16), len(self.data), 0, data=self.data)

    def abort(self) -> None: ...


def session(state: State, enabled: tuple[str, ...] = ()) -> Session:
    made = Session(append_limit=2000)
    if state is not State.NOT_AUTHENTICATED:
        made.logged_in()
    if state is State.SELECTED:
        made.selected()
    for name in enabled:
        made.enable(name)
    return made


def shown(value: Any) -> Any:
    """Comparable: contents by their bytes."""
    return re.sub(r"<[\w.]+Content object at \w+>", "content", repr(value))


def checked(made: Session, event: Any) -> str:
    """What an event looks like, after what must be true of every one."""
    if isinstance(event, Refusal):
        assert REPLY.fullmatch(event.data)
        assert event.data.startswith((event.tag or b"*") + b" ")
        assert event.is_bad == (b" BAD " in event.data[:140] or event.ends)
        return shown((event.data, [content.data for content in event.contents]))
    if isinstance(event, SinkFailure):
        return shown((event.tag, str(event.error), [content.data for content in event.contents]))
    if isinstance(event, Continuation | LiteralOffer):
        return shown(event)
    assert isinstance(event, c.Command)
    assert type(event) in ALLOWED[made.state] or (type(event) is c.Search and event.source is not None)
    return shown(event)


def conversation(pieces: list[bytes], state: State, enabled: tuple[str, ...] = ()) -> list[str]:
    """All events; messages are taken, but those to a mailbox called "no"."""
    made = session(state, enabled)
    seen: list[str] = []
    for piece in pieces:
        made.receive(piece)
        while (event := made.next_event()) is not NEED_DATA:
            seen.append(checked(made, event))
            if isinstance(event, LiteralOffer):
                if event.mailbox == "no":
                    made.refuse_literal("no such mailbox", b"TRYCREATE")
                else:
                    made.accept_literal(Sink())
    made.abandon()
    return seen


# Bytes

LITERAL = st.builds(
    lambda body, plus, tilde: tilde + b"{%d%s}\r\n" % (len(body), plus) + body,
    st.one_of(st.binary(max_size=40), st.just(b"\r\nevil LOGOUT\r\n"), st.just(b"full"), st.just(b"x" * 5000)),
    st.sampled_from([b"+", b"+", b""]),
    st.sampled_from([b"", b"", b"~"]),
)
WORD = st.one_of(
    st.sampled_from([text.encode("latin-1") for text in TEXTS if "{}" not in text]),
    st.sampled_from(
        [b" ", b"(", b")", b"\r\n", b"\n", b"\r", b"\0", b'"', b"{", b"}", b"{5}", b"{99999999999999999999}", b"*", b"+"]
    ),
    st.sampled_from([b"a ", b"a1 ", b"* ", b"no", b"x", b"APPEND x ", b"LOGIN ", b"TEXT ", b"a APPEND no ", b"a SEARCH TEXT "]),
    LITERAL,
    st.binary(max_size=12),
)
STREAM = st.lists(WORD, max_size=14).map(b"".join)


@given(STREAM, st.sampled_from(STATES), st.sampled_from(ENABLED), st.integers(0, 2**16))
@settings(max_examples=150, deadline=None)
def test_any_bytes_in_any_state_in_any_pieces(data: bytes, state: State, enabled: tuple[str, ...], seed: int) -> None:
    seen = assert_split_invariant(lambda pieces: conversation(pieces, state, enabled), data, seed=seed)
    answers = [event for event in seen if not event.startswith(("Continuation", "LiteralOffer"))]
    assert len(answers) <= data.count(b"\n") + 1


@given(st.lists(st.one_of(WORD, st.sampled_from([b"x" * 60, b"y" * 9])), max_size=10).map(b"".join))
@example(b"x" * 63 + b"{1+}\r\n.\r\na\n")
@settings(max_examples=200, deadline=None)
def test_frames_are_what_the_oracle_reads(data: bytes) -> None:
    def framed(pieces: list[bytes]) -> list[tuple[str, bytes, list[bytes]]]:
        framer = Framer(text_limit=64, discard_limit=2**62)
        found = []
        for piece in pieces:
            framer.feed(piece)
            while (event := framer.next()) != core.NEED_DATA:
                if event == core.OFFER:
                    framer.accept(Sink() if framer.literal_size > 1000 else None)
                    continue
                kind = {core.TOO_LONG: "too long", core.HAS_NUL: "nul", core.SINK_FAILED: "failed"}.get(
                    framer.reason, "command"
                )
                literals = [item if isinstance(item, bytes) else item.data for item in framer.literals or []]
                found.append((kind, framer.text or b"", literals))
        return found

    assert assert_split_invariant(framed, data) == frames(data, 64)


# Clients that keep to the rules of literals, whatever else they say

PARTS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([text.encode("latin-1") for text in TEXTS if "{}" not in text]),
            st.sampled_from(
                [b"LOGIN ", b"APPEND x ", b"APPEND no ", b"APPEND x CATENATE (TEXT ", b" URL ", b" TEXT ", b")", b" ", b"",
                 b"(", b"SEARCH TEXT ", b" (x) ", b"SETMETADATA a (/x ", b"REPLACE 1 a ", b"NO\0OP", b"x" * 9000, b"\r"]
            ),
        ),
        st.sampled_from([b"\r\nevil LOGOUT\r\n", b"evil LOGOUT\r\n" * 9, b"full", b"", b"a\0b", b"{9+}\r\n", b"z" * 6000]),
        st.sampled_from([b"{%d+}\r\n", b"{%d}\r\n", b"~{%d+}\r\n", b"~{%d}\r\n"]),
    ),
    max_size=4,
)  # fmt: skip


@given(st.lists(PARTS, max_size=6), st.sampled_from(STATES), st.sampled_from(ENABLED))
@settings(max_examples=150, deadline=None)
def test_the_dialogue_stays_in_step(commands: list[Any], state: State, enabled: tuple[str, ...]) -> None:
    """A client that waits where it must gets one answer to each command, with its tag, and nothing else."""
    made = session(state, enabled)
    for number, parts in enumerate(commands):
        tag = b"t%d" % number
        answers: list[Any] = []

        def say(data: bytes, answers: list[Any] = answers) -> bool:
            """Whether the server asked to go on."""
            go_on = False
            made.receive(data)
            while (event := made.next_event()) is not NEED_DATA:
                checked(made, event)
                if isinstance(event, Continuation):
                    go_on = True
                elif isinstance(event, LiteralOffer):
                    if event.mailbox == "no":
                        made.refuse_literal("no")
                    else:
                        made.accept_literal(Sink())
                        go_on = go_on or event.is_synchronising
                else:
                    answers.append(event)
            return go_on

        text = tag + b" "
        for words, body, announcement in parts:
            is_synchronising = b"+" not in announcement
            if say(text + words + announcement % len(body)) != is_synchronising and is_synchronising:
                break
            assert is_synchronising or not answers or answers[0].ends
            say(body)
            text = b" "
        else:
            say(b"\r\n" if parts else text + b"NOOP\r\n")
        if made.is_over:
            assert answers[-1].ends
            return
        assert [answer.tag for answer in answers] == [tag]


# The grammar

TOKENS = st.one_of(
    st.sampled_from(sorted({word for text in TEXTS for word in re.findall(r"[A-Za-z0-9.$\\/*%-]+|.", text) if len(word) < 40})),
    st.sampled_from([" ", "(", ")", "\0", "~", '"', "[", "]", "<", ">", ":", ",", "\xe9", "\\"]),
    st.sampled_from(["4294967296", "9223372036854775808"]),
    st.text(max_size=3),
)  # fmt: skip


@given(
    st.sampled_from([*COMMANDS, *(f"UID {name}" for name in UID_COMMANDS)]),
    st.lists(TOKENS, max_size=16),
    st.sampled_from([b"x", b"", b"\0", b"\xff", "é".encode()]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_arguments(name: str, tokens: list[str], literal: bytes, is_utf8: bool) -> None:
    text = b"a " + name.encode() + b" " + "".join(tokens).encode()
    literals = [literal] * text.count(b"\0")
    found = parse(text, literals, is_utf8=is_utf8)
    assert found.tag == b"a"
    if isinstance(found, Malformed):
        assert REPLY.fullmatch(found.wire())
    for end in [at for at in range(len(text)) if text[at] == 0]:
        before = text[:end].count(b"\0")
        announced = parse_announced(text[: end + 1], literals[:before], is_utf8=is_utf8)
        # What is refused before a literal would be refused with it, whatever came then.
        if isinstance(announced, Malformed):
            assert isinstance(found, Malformed)


@given(st.sampled_from(TEXTS), st.integers(0, 200), st.binary(min_size=1, max_size=2), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_a_command_with_a_fault(text: str, place: int, noise: bytes, width: int) -> None:
    raw = text.encode("latin-1").replace(b"{}", b"\0")
    place = min(place, len(raw))
    raw = b"a " + raw[:place] + noise + raw[place + width :]
    found = parse(raw, [b"x"] * raw.count(b"\0"))
    assert isinstance(found, c.Command | Malformed)
    if isinstance(found, Malformed):
        assert REPLY.fullmatch(found.wire())


@given(st.binary(max_size=40), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_text(text: bytes, is_utf8: bool) -> None:
    for literals in ([], [b"x"]):
        assert isinstance(parse(text, literals, is_utf8=is_utf8), c.Command | Malformed)
        assert parse_announced(text, literals, is_utf8=is_utf8) is not None


QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00\x80-\xff]|\\["\\])*)"')


@given(st.text('ab"\\ (\x01\r\n\xe9', max_size=12).map(lambda text: text.encode("latin-1")))
@settings(deadline=None)
def test_quoted_strings_are_what_a_regular_expression_reads(inner: bytes) -> None:
    raw = b'"' + inner
    expected = QUOTED.match(raw)
    lexer = Lexer(raw)
    if expected is None:
        with pytest.raises(GrammarError):
            lexer.string()
    else:
        assert lexer.string() == re.sub(rb"\\(.)", rb"\1", expected[1])
        assert lexer.at == expected.end()


@given(st.lists(st.integers(1, 2**32 - 1) | st.just(0), min_size=1, max_size=20), st.randoms())
@settings(deadline=None)
def test_sets_are_what_was_written(numbers: list[int], dice: random.Random) -> None:
    pairs = [(number, dice.choice(numbers)) for number in numbers]
    written = ",".join(f"{first or '*'}:{last or '*'}" for first, last in pairs)
    assert Lexer(written.encode()).sequence_set(100) == tuple(pairs)
