"""Texts are found in messages where the parts of `mime.structure` have them, decoded."""

from __future__ import annotations

import base64
import random
import time
from contextlib import nullcontext

import pytest

from rusmes._core.headers import HeaderScanner
from rusmes._core.rows import EmailRow, seal_blob
from rusmes._core.textscan import BODY, HEADER, MAX_TERMS, TEXT, FieldReader, TextScan
from tests import random_mime
from tests.oracles import text_search as oracle

THREAD = bytes(range(16))
NO_CACHE: frozenset[bytes] = frozenset()


def header_size(message: bytes) -> int:
    scanner = HeaderScanner()
    scanner.feed(message)
    return scanner.size


def found(message: bytes, *terms: tuple[int, bytes, str], prefix: bytes = b"", skip: int = 0) -> list[bool]:
    scan = TextScan(1, terms, NO_CACHE)
    scan.take_message(0, THREAD, b"", prefix, message, skip, header_size(message))
    return [bool(scan.hits(i)[0]) for i in range(len(terms))]


PLAIN = b"Subject: Hello there\r\nTo: bob@example.com,\r\n carol@example.com\r\n\r\nThe Body\r\nof it\r\n"


@pytest.mark.rfc("9051", "6.4.4")
@pytest.mark.parametrize(
    ("kind", "name", "text", "is_there"),
    [
        (HEADER, b"subject", "hello", True),
        (HEADER, b"subject", "body", False),
        (HEADER, b"to", "COM, CAROL", True),
        (HEADER, b"to", "", True),
        (HEADER, b"cc", "", False),
        (HEADER, b"sub", "hello", False),
        (TEXT, b"", "subject: HELLO", True),
        (TEXT, b"", "the body", True),
        (TEXT, b"", "nowhere", False),
        (TEXT, b"", "com, carol", True),
        (BODY, b"", "the body", True),
        (BODY, b"", "hello", False),
        (BODY, b"", "body\r\nof", True),
        (BODY, b"", "", True),
    ],
)
def test_a_plain_message(kind: int, name: bytes, text: str, is_there: bool) -> None:
    assert found(PLAIN, (kind, name, text)) == [is_there]


def test_an_accent_hides_no_letter() -> None:
    message = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nun caf\xc3\xa9 noir\r\n"
    assert found(message, (BODY, b"", "cafe"), (BODY, b"", "CAFÉ"), (BODY, b"", "cafè")) == [True, True, False]


def test_what_looks_like_the_text_in_base64_is_not_it() -> None:
    inner = base64.encodebytes(b"the secret word").rstrip()
    message = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n" + inner
    assert found(message, (BODY, b"", "secret"), (BODY, b"", inner.decode()[:10])) == [True, False]
    subject = b"Subject: =?utf-8?b?" + inner + b"?=\r\n\r\n"
    assert found(subject, (TEXT, b"", "secret"), (TEXT, b"", inner.decode()[:10]), (HEADER, b"subject", "the sec")) == [
        True,
        False,
        True,
    ]


def test_a_soft_line_break_does_not_part_a_word() -> None:
    message = b"Content-Transfer-Encoding: quoted-printable\r\n\r\nsec=\r\nret =73ign\r\n"
    assert found(message, (BODY, b"", "secret sign")) == [True]


def test_only_text_and_messages_are_looked_at() -> None:
    parts = (
        b"Content-Type: multipart/mixed; boundary=q\r\n\r\npreamble\r\n"
        b"--q\r\nContent-Type: application/x\r\nX-Mark: inmime\r\n\r\nbinary\r\n"
        b"--q\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninnerbody\r\n"
        b"--q\r\n\r\nlast\r\n--q--\r\nepilogue"
    )
    words = ("preamble", "binary", "epilogue", "inmime", "inner", "innerbody", "last")
    assert found(parts, *((BODY, b"", word) for word in words)) == [False, False, False, False, True, True, True]
    assert found(parts, *((TEXT, b"", word) for word in words)) == [False, False, False, True, True, True, True]


def test_the_prefix_takes_the_place_of_what_is_skipped() -> None:
    assert found(
        PLAIN,
        (HEADER, b"subject", "new"),
        (TEXT, b"", "hello"),
        (BODY, b"", "body"),
        prefix=b"Subject: new\r\n\r\n",
        skip=header_size(PLAIN),
    ) == [True, False, True]
    assert found(PLAIN, (HEADER, b"subject", "new"), (TEXT, b"", "hello"), prefix=b"Subject: new\r\n") == [True, True]


def test_random_messages_are_searched_like_the_oracle() -> None:
    rnd = random.Random(6)
    for _ in range(600):
        message = random_mime.damaged(rnd, random_mime.part(rnd)) if rnd.random() < 0.4 else random_mime.part(rnd)
        skip = 0
        prefix = random_mime.fields(rnd) if rnd.random() < 0.3 else b""
        size = header_size(message)
        if rnd.random() < 0.1:
            skip = size
        terms = []
        for _ in range(rnd.randrange(1, 12)):
            word = rnd.choice(random_mime.WORDS).swapcase()
            if rnd.random() < 0.3 and (text := message.decode("utf-8", "replace")):
                at = rnd.randrange(len(text))
                word = text[at : at + rnd.randrange(1, 12)]
            kind = rnd.choice((HEADER, TEXT, BODY))
            terms.append((kind, rnd.choice((b"subject", b"from", b"x-thing")) if kind == HEADER else b"", word))
        scan = TextScan(1, terms, NO_CACHE)
        scan.take_message(0, THREAD, b"", prefix, message, skip, size)
        for i, (kind, name, word) in enumerate(terms):
            expected = oracle.contains(kind, name, word, prefix, message, skip, size)
            assert bool(scan.hits(i)[0]) == expected, (kind, name, word, prefix, message, skip)


def stored(message: bytes, key: bytes, blob: bytes, *, cached: bytes = b"", is_file: bool = False) -> tuple[bytes, bytes]:
    row = EmailRow(
        7, blob, THREAD, 0.0, len(message), 0, is_file, [(1, 2)], b"", b"(envelope)", b"(structure)", cached, b"i" * 24
    )
    head = seal_blob(blob, int(is_file), len(message), header_size(message), 0, b"" if is_file else message)
    return row.pack(key), head


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Table(dict[bytes, bytes]):
    """Answers as LMDB's `getmulti` does, and counts."""

    asked = 0

    def get_many(self, keys: list[bytes]) -> list[tuple[memoryview, memoryview]]:
        self.asked += len(keys)
        return [(memoryview(key), memoryview(self[key])) for key in keys if key in self]


def test_rows_are_read_where_they_lie_and_bodies_only_when_they_are_needed() -> None:
    emails, blobs, files = Table(), Table(), {}
    for number in range(20):
        message = b"Subject: number %d\r\n\r\nbody %d\r\n" % (number, number * 10)
        is_file = number % 5 == 0
        emails[key_of(number)], blobs[key_of(100 + number)] = stored(
            message,
            key_of(number),
            key_of(100 + number),
            cached=b"Subject: number %d\r\n" % number if number % 2 else b"",
            is_file=is_file,
        )
        files[key_of(100 + number)] = message
    ids = [key_of(number) for number in (3, 99, 0, 1, 2, 17)]  # 99 is missing
    rows = emails.get_many(ids)

    def look(terms: list[tuple[int, bytes, str]], account_id: int = 7) -> list[bytes]:
        scan = TextScan(8, terms, frozenset({b"subject"}))
        scan.take(1, account_id, ids, rows, blobs.get_many, lambda id: nullcontext(memoryview(files[id])))
        return [scan.hits(i) for i in range(len(terms))]

    assert look([(HEADER, b"subject", "number 1")]) == [bytes((0, 0, 0, 0, 1, 0, 1, 0))]
    assert blobs.asked == 2  # those without a cache: 0 and 2
    assert look([(BODY, b"", "body 0"), (BODY, b"", "BODY 30")]) == [
        bytes((0, 0, 0, 1, 0, 0, 0, 0)),
        bytes((0, 1, 0, 0, 0, 0, 0, 0)),
    ]
    assert look([(BODY, b"", "")], account_id=8) == [bytes(8)]
    del blobs[key_of(103)]  # a body that is gone
    assert look([(TEXT, b"", "body")]) == [bytes((0, 0, 0, 1, 1, 1, 1, 0))]


def test_rows_that_rotted_are_passed_over() -> None:
    row, head = stored(PLAIN, key_of(1), key_of(2))
    for emails, blobs in (
        ([(key_of(1), row[:60])], [(key_of(2), head)]),
        ([(key_of(1), row)], [(key_of(2), head[:-3])]),
        (
            [(key_of(1), row[:69] + b"\xff\xff\xff\xff" + row[73:])],
            [(key_of(2), head)],
        ),
    ):
        scan = TextScan(1, [(BODY, b"", "body")], NO_CACHE)
        scan.take(0, 7, [key_of(1)], emails, lambda keys, blobs=blobs: blobs, nullcontext)
        assert scan.hits(0) == b"\0"


def test_values_of_fields() -> None:
    reader = FieldReader(2, (b"subject", b"to", b"cc"), NO_CACHE)
    reader.take_message(1, THREAD, b"Subject: not asked\r\n", b"Cc: x\r\n", PLAIN + b"Cc: y", 0, header_size(PLAIN))
    assert reader.values(0) is None
    assert reader.values(1) == (THREAD, [b" Hello there\r", b" bob@example.com,\r\n carol@example.com\r", b" x\r"])
    cached = FieldReader(1, (b"subject",), frozenset({b"subject"}))
    cached.take_message(0, THREAD, b"subject: kept\r\n", b"", PLAIN, 0, 0)
    assert cached.values(0) == (THREAD, [b" kept\r"])


def test_limits() -> None:
    with pytest.raises(ValueError, match="64"):
        TextScan(1, [(BODY, b"", "a")] * (MAX_TERMS + 1), NO_CACHE)
    scan = TextScan(1, [(BODY, b"", "a")], NO_CACHE)
    with pytest.raises(IndexError):
        scan.take_message(1, THREAD, b"", b"", b"", 0, 0)
    with pytest.raises(IndexError):
        scan.take(1, 1, [key_of(1)], [], list, nullcontext)


@pytest.mark.parametrize(
    "message",
    [
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\n" * 200_000,
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a" * 300_000,
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n"
        + b"--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n" * 20_000,
        b"Content-Type: message/rfc822\r\n\r\n" * 30_000,
        b"Content-Type: text/plain" + b"; a=b" * 100_000 + b"\r\n\r\nx",
        b"Content-Type: text/plain; " + b"a" * 500_000 + b"\r\n\r\nx",
        b"X:" + b" =?utf-8?b?" * 50_000 + b"\r\n\r\n",
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (i, i) for i in range(10_000)),
        b"\r\n" + b"zebra".join([b"zebr"] * 300_000),
    ],
)
def test_messages_made_to_be_slow_take_linear_time(message: bytes) -> None:
    begin = time.process_time()
    assert found(message, (TEXT, b"", "zebras"), (BODY, b"", "é zebra"), (HEADER, b"x", "zebra")) == [False, False, False]
    assert time.process_time() - begin < 1.5
