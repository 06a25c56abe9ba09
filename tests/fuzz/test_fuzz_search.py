"""Invariant: whatever a message is made of, and whatever is looked for, searching it gives an answer, the oracle's, in time
that grows linearly with the message; and so do the texts of fields, subjects, dates and threads that it has.
"""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rusmes._core.casemap import Pattern, fold, fold_octets
from rusmes._core.headers import HeaderScanner
from rusmes._core.mime import identifiers
from rusmes._core.textpipe import codec_of, decode_header, decode_text
from rusmes._core.textscan import BODY, HEADER, TEXT, FieldReader, TextScan
from rusmes.search.sentdate import parse_sent_date
from rusmes.search.subject import base_subject
from tests import random_mime
from tests.oracles import text_search as oracle

THREAD = bytes(16)
NAMES = (b"subject", b"x-thing", b"content-type")
PIECES = st.sampled_from(
    [
        b"Content-Type:",
        b" multipart/mixed",
        b" message/rfc822",
        b" text/plain",
        b" multipart/digest",
        b";boundary=",
        b'"b"',
        b"b",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"--b",
        b"--",
        b"Subject: ",
        b"X-Thing:",
        b"=?utf-8?q?",
        b"=?koi8-r?B?",
        b"?=",
        b"zebra",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"emVicmE=",
        b"=7A=65",
        b"=",
        b"charset=utf-16",
        b";charset=iso-2022-jp",
        b"\x1b$B",
        b"\xc3",
        b"\xa9",
        b"\xff",
        b"\0",
        b" ",
        b"\t",
        b"+AOk-",
        b"caf\xc3\xa9",
    ]
)
MESSAGES = st.one_of(
    st.binary(max_size=300),
    st.lists(PIECES, max_size=60).map(b"".join),
    st.integers(0, 1 << 32).map(lambda seed: random_mime.damaged(random.Random(seed), random_mime.part(random.Random(seed)))),
)
TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["zebra", "Zebra ", "é", "CAFÉ", "", "a\r\nb", "\0", "=?utf-8?q?", "--b"])
)


def header_size(message: bytes) -> int:
    scanner = HeaderScanner()
    scanner.feed(message)
    return scanner.size


@settings(max_examples=400, deadline=None)
@given(
    MESSAGES,
    st.lists(st.tuples(st.sampled_from([HEADER, TEXT, BODY]), st.sampled_from(NAMES), TEXTS), max_size=6),
    st.booleans(),
)
@example(b"", [(TEXT, b"subject", "")], True)
@example(b"\r\n", [(BODY, b"subject", "x")], False)
def test_every_message_can_be_searched(message: bytes, terms: list[tuple[int, bytes, str]], is_skipped: bool) -> None:
    size = header_size(message)
    skip = size if is_skipped else 0
    prefix = b"Subject: instead\r\n\r\n" if is_skipped else b""
    scan = TextScan(1, terms, frozenset())
    scan.take_message(0, THREAD, b"", prefix, message, skip, size)
    for i, (kind, name, text) in enumerate(terms):
        if b"utf-7" not in message.lower():
            expected = oracle.contains(kind, name, text, prefix, message, skip, size)
            assert bool(scan.hits(i)[0]) == expected, (kind, name, text)
    reader = FieldReader(1, NAMES, frozenset())
    reader.take_message(0, THREAD, b"", prefix, message, skip, size)
    values = reader.values(0)
    assert values is not None
    for value in values[1]:
        if value is not None:
            decode_header(value)
            base_subject(value)
            parse_sent_date(value)
            identifiers(value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"base64", b"quoted-printable"]), st.binary(max_size=20))
def test_every_text_can_be_decoded(data: bytes, encoding: bytes, charset: bytes) -> None:
    text = decode_text(data, encoding, charset)
    text.encode()
    decode_header(data).encode()
    codec_of(charset)
    assert decode_text(data, encoding, b"utf-8") == oracle.decoded(data, encoding, b"utf-8")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.text(min_size=1, max_size=5))
def test_folding_is_stable_and_finds_what_it_folds(text: str, word: str) -> None:
    folded = fold(text)
    assert fold_octets(folded) == folded
    assert folded.decode("utf-8", "surrogatepass") == oracle.fold(text)
    assert Pattern(word).find_in_folded(folded) == folded.find(fold(word))
    assert Pattern(word).find_in_folded(fold(text + word)) >= 0


@pytest.mark.parametrize("seed", range(6))
def test_twice_the_message_takes_no_more_than_some_times_the_time(seed: int) -> None:
    """Repetitions of odd pieces, which is what is quadratic when something is."""
    rnd = random.Random(seed)
    pieces = [
        b"=?utf-8?q?",
        b"=?a?b?",
        b"?=",
        b"--b",
        b"--b\r\n",
        b"=\r\n",
        b"\r\n ",
        b";",
        b'"',
        b"[a]",
        b"re:",
        b"\n\n",
        b"zebr",
        b"(",
        b"<",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n",
        b"Content-Type: message/rfc822\r\n\r\n",
        b"+AAAA",
        b"\xc3",
    ]
    head = rnd.choice(
        (b"", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", b"Subject: ", b"Content-Type: text/plain;", b"X:")
    )
    for _ in range(4):
        piece = rnd.choice(pieces) + rnd.choice(pieces)

        def seconds(count: int, piece: bytes = piece) -> float:
            message = head + piece * count
            begin = time.process_time()
            scan = TextScan(1, [(TEXT, b"", "zebra zebra"), (BODY, b"", "é"), (HEADER, b"subject", "zebra")], frozenset())
            scan.take_message(0, THREAD, b"", b"", message, 0, header_size(message))
            decode_header(message)
            base_subject(message)
            return time.process_time() - begin

        count = 400_000 // len(piece)
        assert seconds(count) < 0.5, (head, piece)
