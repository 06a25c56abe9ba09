"""The walk over a message in C against the one in Python, which messages in files take."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core import structure as walk
from rusmes.mime import fields as mime_fields
from rusmes.mime import structure as theory

LINES = [
    b"Content-Type: multipart/mixed; boundary=a\n", b"Content-Type: multipart/digest; boundary=b\n", b"\n", b"--a\n",
    b"--a--\n", b"--b\n", b"--b--\n", b"Content-Type: message/rfc822\n", b"text\n", b"Content-Type: text/html\n",
    b"Subject: x\n", b"\0\xff\n", b"--a", b"--", b"-", b"\r", b"\r\n", b" ", b"--a \t\r\n", b"--a--  \n", b"--ab\n",
    b"Content-Type: text/plain; charset=\"utf-8\"; format=flowed\r\n", b"Content-Transfer-Encoding: base64\r\n",
    b"Content-ID: <a@b>\n", b"Content-Description: \"x\\y\n", b"content-md5: q\n", b"Content-Location: http://x\n",
    b"Content-Disposition: attachment; filename=\"x y.pdf\"\n", b"Content-Language: de, en\n", b"From: a <b@c>\n",
    b"Content-Type: multipart/alternative;\r\n\tboundary=\"a\"\r\n", b"Content-Type: MULTIPART/Mixed; Boundary=\"a \"; x=y\n",
    b"Content-Type: text\n", b"Content-Type: message/global; a=b\n",
]  # fmt: skip
WORDS = [
    b"text", b"/", b"plain", b"multipart", b"mixed", b";", b" ", b"\t", b"\r\n ", b"charset", b"boundary", b"=", b"\"", b"a",
    b"b c", b"\\", b"\0", b"\xe9", b"\x0b", b"(", b"utf-8", b"\x1c", b"'", b"%", b"\r", b"name*0", b"\x7f", b"x" * 90,
    b"x=y;" * 25,
]  # fmt: skip


def compare(block: bytes, data: bytes, start: int, end: int) -> bytes:
    fields = mime_fields.parse_fields(block)
    expected = theory.render_structure(theory.parse_structure(fields, data, start, end), data)
    assert theory.body_structure(block, data, start, end) == expected
    return expected


def test_the_limits_are_the_same() -> None:
    assert walk.LIMITS == (
        theory.MAX_DEPTH, theory.MAX_PARTS, mime_fields.MAX_HEADER_BYTES, theory._MAX_VALUE_BYTES, theory._MAX_BOUNDARY_BYTES
    )  # fmt: skip


@given(st.lists(st.sampled_from(LINES), max_size=5).map(b"".join), st.lists(st.sampled_from(LINES), max_size=30).map(b"".join))
def test_any_sequence_of_lines(block: bytes, body: bytes) -> None:
    compare(block, body, 0, len(body))
    compare(b"Content-Type: multipart/mixed; boundary=a\r\n", body, 0, len(body))


@given(st.sampled_from([b"", b"text/a;", b" multipart/b;"]), st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join))
def test_any_content_type(beginning: bytes, rest: bytes) -> None:
    body = b"\n--a\n\nx\n--b c\n\ny\n--a--\n"
    compare(b"Content-Type:" + beginning + rest + b"\r\n", body, 0, len(body))


def test_any_part_of_the_data() -> None:
    made = random.Random(7)
    for _ in range(300):
        data = b"".join(made.choices(LINES, k=20))
        start = made.randrange(len(data))
        compare(b"Content-Type: multipart/mixed; boundary=a\r\n", data, start, made.randrange(start, len(data) + 1))


def test_long_values() -> None:
    value = b"x" * 20_000
    assert value[:16_000] in compare(b"Content-ID: " + value + b"\r\n", b"", 0, 0)
    compare(b"Content-Type: text/plain; a=" + value + b"\r\n", b"", 0, 0)
    compare(b"Content-Type: multipart/mixed; boundary=" + b"x" * 300 + b"\r\n", b"--" + b"x" * 300 + b"\n", 0, 303)
    compare(b"X: " + b"y" * (300 * 1024) + b"\r\nContent-Type: text/html\r\n", b"", 0, 0)


@given(st.binary(max_size=600))
def test_lines_are_counted(data: bytes) -> None:
    assert walk.count_lines(data, 0, len(data)) == data.count(b"\n")
    assert walk.count_lines(b"\n" * len(data), 0, len(data)) == len(data)


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (2, 1), (0, 4)])
def test_what_is_not_in_the_data(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="in the data"):
        walk.count_lines(b"abc", start, end)
    with pytest.raises(ValueError, match="in the data"):
        theory.body_structure(b"", b"abc", start, end)
