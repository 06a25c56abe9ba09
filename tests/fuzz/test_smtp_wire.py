"""Invariant: whole, octet by octet and randomly split input give the same events; nothing but an event comes of any octets, an
exception never; no more waits in memory than the limits and one read allow; on message text and plain addresses the lexers
agree with the slow oracles of `tests/oracles`.

Runs briefly in `make test`; `FUZZ_EXAMPLES=1000000` goes on for longer.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rusmes._core.body import BodyScanner
from rusmes._core.headers import HeaderScanner, fields, find_value, find_values, offsets, without
from rusmes._core.lines import EndlessLine, LineBuffer, LineTooLong
from rusmes._core.smtp import (
    BODY_CHUNK,
    BODY_END,
    COMMAND,
    FAULT,
    NEED_DATA,
    CommandReader,
    decode_xtext,
    encode_xtext,
    printable,
)
from rusmes.model.address import Address
from rusmes.smtp import reply as r
from rusmes.smtp.address import AddressError, parse_address, parse_path
from rusmes.smtp.limits import Limits
from rusmes.smtp.session import CLOSED, BodyEnd, Command, Line, Malformed, Session, State
from tests.oracles import smtp_address, smtp_text
from tests.splits import assert_split_invariant

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)

FATAL = {"tls", "http", "line-endless", "body-endless", "chunk-size", "bare-newline"}


def from_tokens(*tokens: bytes, max_size: int = 30) -> st.SearchStrategy[bytes]:
    """Octets made of pieces that matter to a lexer, with some noise between them."""
    return st.lists(st.sampled_from(tokens) | st.binary(max_size=3), max_size=max_size).map(b"".join)


TEXT = from_tokens(
    b"\r", b"\n", b"\r\n", b".", b"..", b"\r\n.", b"\r\n.\r", b"\0", b"a", b"\xff", b"Received: x", b"From ", b"\r\n\r\n"
)
PATH = from_tokens(
    b"a",
    b"B",
    b"0",
    b".",
    b"@",
    b"-",
    b"_",
    b"+",
    b'"',
    b"\\",
    b">",
    b"<",
    b" ",
    b"[1.2.3.4]",
    b"[IPv6:::1]",
    b"@x:",
    b"\xc3\xa9",
    b"\xe2\x80\xa8",
    b"x" * 60,
    b"d.e",
    max_size=8,
)
DIALOGUE = from_tokens(
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"EHLO x\r\n",
    b"HELO x\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"MAIL FROM:<",
    b"RCPT TO:<c@d>\r\n",
    b"RCPT TO:<",
    b"DATA\r\n",
    b"BDAT 5\r\n",
    b"BDAT 3 LAST\r\n",
    b"BDAT ",
    b"\r\n.\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"AUTH PLAIN\r\n",
    b"AUTH LOGIN =\r\n",
    b"STARTTLS\r\n",
    b" SIZE=10",
    b" BODY=BINARYMIME",
    b" SMTPUTF8",
    b" NOTIFY=NEVER",
    b"x" * 70,
    b"y" * 700,
    b"GET / HTTP/1.0\r\n",
    b"\x16",
    b"\0",
    b".",
    b"VRFY x\r\n",
    b"HELP\r\n",
    b"XCLIENT a\r\n",
    b"LHLO x\r\n",
    b"EXPN\r\n",
)


# Message text


def read_text(pieces, normalize):
    scanner = BodyScanner(max_bytes=10_000, max_header_bytes=10_000, normalize=normalize)
    used = 0
    chunks = []
    for piece in pieces:
        step, chunk = scanner.feed(piece)
        assert scanner.ended or step == len(piece)
        assert len(chunk) <= 2 * len(piece) + 2
        used += step
        chunks.append(chunk)
        if scanner.ended:
            break
    return (
        used,
        scanner.ended,
        b"" if scanner.faults else b"".join(chunks),
        scanner.faults,
        scanner.repaired,
        scanner.size,
        scanner.header.size,
        scanner.header.received_count,
        scanner.eight_bit,
    )


@fuzz
@given(TEXT, st.booleans(), st.integers())
def test_message_text(wire, normalize, seed):
    whole = assert_split_invariant(lambda pieces: read_text(pieces, normalize), wire, seed=seed)
    text = smtp_text.read_data(wire, normalize=normalize)
    if text.used is None:
        assert not whole[1]
        return
    assert whole == (
        text.used,
        True,
        b"" if text.faults else text.content,
        text.faults,
        text.repaired,
        len(text.content),
        text.header_bytes,
        text.received_count,
        text.eight_bit,
    )


@fuzz
@given(
    st.lists(st.sampled_from(["␊.␊", "␍.␍", "␍␊.␊", "␍␍␊.␍␍␊", "␍␊.␍", "␊.␍␊", "␍.␍␊"]), min_size=1, max_size=4), st.booleans()
)
def test_no_sequence_ends_a_message_twice(sequences, normalize):
    """One message or none, never two: everything up to the only CRLF.CRLF belongs to the message."""
    middle = b"".join(b"x" + s.replace("␍", "\r").replace("␊", "\n").encode() + b"RSET" for s in sequences)
    assume(b"\r\n.\r\n" not in middle)
    wire = middle + b"\r\n.\r\n"
    assert read_text([wire], normalize)[:2] == (len(wire), True)
    assert_split_invariant(lambda pieces: read_text(pieces, normalize), wire)


@fuzz
@given(st.lists(TEXT, max_size=4), st.booleans(), st.booleans(), st.integers())
def test_chunks(chunks, normalize, binary, seed):
    """Cut in other places, a message is the same; and what is clean or binary comes out as it went in."""
    wire = b"".join(chunks)

    def read(pieces):
        scanner = BodyScanner(max_bytes=10_000, max_header_bytes=10_000, normalize=normalize, binary=binary)
        text = b"".join([scanner.feed_octets(piece) for piece in pieces]) + scanner.feed_octets(b"", last=True)
        return (
            b"" if scanner.faults else text,
            scanner.faults,
            scanner.repaired,
            scanner.size,
            scanner.header.size,
            scanner.eight_bit,
        )

    text, faults, repaired, size, header_size, _ = assert_split_invariant(read, wire, seed=seed)
    assert header_size <= size
    if not faults and not repaired:
        assert text == wire


# Lines and commands


@fuzz
@given(from_tokens(b"\r\n", b"\n", b"\r", b"aaaa", b"x" * 30), st.integers())
def test_lines(data, seed):
    def read(pieces):
        buffer = LineBuffer(20, discard_limit=60)
        seen = []
        for piece in pieces:
            buffer.feed(piece)
            while True:
                try:
                    line = buffer.take_line()
                except LineTooLong:
                    seen.append("too long")
                    continue
                except EndlessLine:
                    return [*seen, "endless"]
                if line is None:
                    break
                seen.append(line)
            assert len(buffer) < 20
        return seen

    assert_split_invariant(read, data, seed=seed)


def observe(event):
    if event.kind == COMMAND:
        return event.verb, event.line, event.local, event.domain, event.path, event.pairs, event.size, event.last
    if event.kind == FAULT:
        return event.reason, event.verb
    if event.kind == BODY_END:
        return event.faults, event.repaired, event.last, event.eight_bit, event.size, event.header_bytes, event.received_count
    return event.data


@fuzz
@given(DIALOGUE, st.booleans(), st.integers())
def test_commands(data, lenient, seed):
    """A driver that goes where the commands lead; it does not mind what waits, so cuts cannot matter."""

    def read(pieces):
        reader = CommandReader(100, envelope_limit=300, auth_limit=600, discard_limit=900, bare_newline_allowed=lenient)
        seen = []
        text = b""
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next_event()) is not NEED_DATA:
                if event.kind == BODY_CHUNK:
                    text += event.data
                    continue
                seen.append(observe(event))
                if event.kind == BODY_END:
                    seen.append(b"" if event.faults else text)
                    text = b""
                if event.kind == FAULT and event.reason in FATAL:
                    return seen
                if event.kind == COMMAND:
                    if event.verb == "DATA":
                        reader.expect_data(200, 100, lenient)
                    elif event.verb == "AUTH":
                        reader.expect_line()
                    elif event.verb == "BDAT" and event.size < 100:
                        reader.expect_chunk(event.size, event.last, 200, 100, lenient, False)
                    elif event.verb == "BDAT":
                        reader.skip_chunk(event.size)
            assert reader.waiting <= 600
        return seen

    assert_split_invariant(read, data, seed=seed)


@fuzz
@given(PATH)
def test_plain_addresses(path):
    """The fast path and the oracle take the same texts; the grammar gives the same values for them."""
    reader = CommandReader(512, envelope_limit=4096, auth_limit=12288)
    reader.feed(b"MAIL FROM:<" + path + b">\r\n")
    event = reader.next_event()
    plain = smtp_address.read_plain(path)
    if plain is None:
        assert event.kind == FAULT or event.local is None
        return
    assert (event.local, event.domain) == plain
    assert parse_path(path, smtputf8=False) == Address(*plain)
    assert parse_address(path.decode()) == Address(*plain)


@fuzz
@given(PATH | st.binary(max_size=80), st.booleans())
def test_paths(path, smtputf8):
    try:
        address = parse_path(path, smtputf8=smtputf8)
    except AddressError:
        return
    if address is None:
        assert path == b""
        return
    text = str(address)
    assert text.isprintable()
    assert address.domain.isascii()
    assert address.domain == address.domain.lower() or address.domain.startswith("[IPv6:")
    if address.domain:
        assert parse_address(text) == address


@fuzz
@given(st.text(max_size=40))
def test_any_text_as_an_address(text):
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert parse_address(str(address)) == address


# Sessions, in every state

SHORT = Limits(
    max_message_bytes=300,
    max_header_bytes=100,
    command_line_bytes=100,
    envelope_line_bytes=300,
    auth_line_bytes=600,
    discard_line_bytes=900,
)
EVERYTHING = frozenset(
    {"SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "STARTTLS", "AUTH", "REQUIRETLS", "XCLIENT"}
)
LEADS_TO = {
    State.GREET: [],
    State.READY: [b"EHLO x\r\n"],
    State.MAIL: [b"EHLO x\r\n", b"MAIL FROM:<a@b>\r\n"],
    State.RCPT: [b"EHLO x\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\n"],
    State.DATA: [b"EHLO x\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n"],
    State.BDAT: [b"EHLO x\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nBDAT 2\r\nxx"],
    State.AUTH: [b"EHLO x\r\n", b"AUTH LOGIN\r\n"],
}


class Driver:
    """A server that says yes to everything, or no to what the dice say."""

    def __init__(self, state, *, refuse=(), protocol="smtp"):
        self.session = Session(SHORT, extensions=EVERYTHING, protocol=protocol)
        self.session.reply(r.greeting("mx"))
        self.refuse = set()
        for piece in LEADS_TO[state]:
            self.hears(piece)
        assert self.session.state is state
        self.refuse = set(refuse)
        self.replies = 0

    def hears(self, data):
        session = self.session
        session.receive(data)
        for _ in range(20 * len(data) + 20):
            event = session.next_event()
            if event is NEED_DATA or event is CLOSED:
                break
            if isinstance(event, Malformed):
                self.say(event.reply)
            elif isinstance(event, Command):
                if event.verb != "BDAT":
                    self.say(r.R550_NOT_PERMITTED if event.verb in self.refuse else YES.get(event.verb, r.R250_OK))
                if event.verb == "STARTTLS" and session.state is State.TLS:
                    session.tls_started()
            elif isinstance(event, Line):
                self.say(r.R235_AUTHENTICATED)
            elif isinstance(event, BodyEnd):
                for _ in range(session.replies_due):
                    self.say(r.R550_NOT_PERMITTED if "BODY" in self.refuse else r.R250_OK)
        else:
            raise AssertionError("the session goes on for ever")
        assert session._reader.waiting <= 600

    def say(self, reply):
        self.session.reply(reply)
        self.replies = getattr(self, "replies", 0) + 1


YES = {
    "DATA": r.R354_GO_AHEAD,
    "AUTH": r.challenge(b""),
    "STARTTLS": r.R220_READY_FOR_TLS,
    "QUIT": r.R221_BYE,
    "XCLIENT": r.R250_OK,
}


@pytest.mark.parametrize("state", LEADS_TO)
@fuzz
@given(
    pieces=st.lists(DIALOGUE | st.binary(max_size=60), max_size=6),
    refuse=st.sets(st.sampled_from(["MAIL", "RCPT", "DATA", "BODY", "AUTH"])),
)
def test_p30_sessions(state, pieces, refuse):
    driver = Driver(state, refuse=refuse)
    for piece in pieces:
        driver.hears(piece)
    heard = b"".join(pieces)
    # RFC 5321 §4.2: no more than a reply for each line, and one for what never became a line.
    assert driver.replies <= heard.count(b"\n") + heard.upper().count(b"BDAT") + 2
    wire = driver.session.data_to_send()
    assert wire.count(b"\r\n") == wire.count(b"\n") == wire.count(b"\r")


@fuzz
@given(pieces=st.lists(DIALOGUE, max_size=6))
def test_no_pipelining_is_accepted_past_tls(pieces):
    """T1: what came before the handshake has no effect after it."""
    driver = Driver(State.READY)
    driver.session.receive(b"STARTTLS\r\n")
    assert isinstance(driver.session.next_event(), Command)
    driver.session.reply(r.R220_READY_FOR_TLS)
    for piece in pieces:
        driver.session.receive(piece)
    driver.session.tls_started()
    assert driver.session.next_event() is NEED_DATA
    assert driver.session.state is State.GREET


# Header blocks, xtext, replies


@fuzz
@given(
    from_tokens(b"\r\n", b"\n", b":", b" ", b"\t", b"Received", b"received:", b"Subject: ", b"From ", b"\r\n\r\n", b"\r"),
    st.integers(),
)
def test_headers(block, seed):
    def scan(pieces):
        scanner = HeaderScanner()
        return [
            sum(scanner.feed(piece) for piece in pieces),
            scanner.size,
            scanner.ended,
            scanner.received_count,
            scanner.mbox_from,
        ]

    assert_split_invariant(scan, block, seed=seed)
    places = offsets(block)
    assert all(start < colon < end for start, colon, end in places)
    assert all(block[colon : colon + 1] == b":" for _, colon, _ in places)
    found = fields(block)
    assert len(found) == len(places)
    assert all(b"\n" not in value for _, value in found)
    for name, _ in found:
        values = [value for other, value in found if other.lower() == name.lower()]
        assert find_values(block, name.lower()) == values
        assert find_value(block, name) == values[0]
        assert find_values(without(block, {name.lower()}), name) == []


@fuzz
@given(st.binary(max_size=100))
def test_xtext(data):
    encoded = encode_xtext(data)
    assert decode_xtext(encoded) == data
    assert encoded.isascii()
    try:
        decoded = decode_xtext(data)
    except ValueError:
        return
    assert decode_xtext(encode_xtext(decoded)) == decoded


@fuzz
@given(st.binary(max_size=600) | st.text(max_size=600), st.integers(4, 300))
def test_quoted_text_is_always_fit_for_a_reply(text, limit):
    quoted = r.quoted(text, limit)
    assert len(quoted) <= limit
    assert quoted.isascii()
    wire = r.Reply(550, "5.0.0", quoted).wire
    assert all(len(line) <= 510 for line in wire.split(b"\r\n"))
    if isinstance(text, bytes):
        assert len(printable(text)) == len(text)
