"""ENVELOPE and BODYSTRUCTURE of good and broken mail, read back with a parser of IMAP's own."""

from __future__ import annotations

import email
import email.policy
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.mime.envelope import render_envelope
from rusmes.mime.fields import FieldNames, parse_fields, pick_fields, unfold
from rusmes.mime.identifiers import MAX_IDENTIFIERS, message_ids
from rusmes.mime.quoting import nstring
from rusmes.mime.structure import (
    MAX_DEPTH,
    MAX_PARTS,
    body_structure,
    parse_parameters,
    parse_structure,
    render_structure,
)


def read_list(data: bytes) -> Any:
    """What IMAP sends, as nested lists; None for NIL. Fails on anything that is not exactly one value."""
    value, at = _read(data, 0)
    assert at == len(data), data[at:]
    return value


def _read(data: bytes, at: int) -> tuple[Any, int]:
    first = data[at : at + 1]
    if first == b"(":
        items, at = [], at + 1
        while data[at : at + 1] != b")":
            if data[at : at + 1] == b" ":
                at += 1
            item, at = _read(data, at)
            items.append(item)
        return items, at + 1
    if first == b'"':
        text, at = bytearray(), at + 1
        while data[at] != 0x22:
            at += data[at] == 0x5C
            assert data[at] not in b"\0\r\n"
            assert data[at] < 0x80
            text.append(data[at])
            at += 1
        return bytes(text), at + 1
    if first == b"{":
        end = data.index(b"}\r\n", at)
        size = int(data[at + 1 : end])
        start = end + 3
        assert len(data) >= start + size
        assert b"\0" not in data[start : start + size]
        return data[start : start + size], start + size
    if data[at : at + 3] == b"NIL":
        return None, at + 3
    end = at
    while data[end : end + 1].isdigit():
        end += 1
    assert end > at, data[at : at + 20]
    return int(data[at:end]), end


def structure(message: bytes) -> Any:
    message = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    at = message.find(b"\r\n\r\n")
    start = at + 4 if at >= 0 else len(message)
    rendered = body_structure(message[:start], message, start, len(message))
    part = parse_structure(parse_fields(message[:start]), message, start, len(message))
    assert rendered == render_structure(part, message)  # what is done for a message in a file
    return read_list(rendered)


PLAIN = [b"text", b"plain", [b"charset", b"us-ascii"], None, None, b"7bit"]
EXTENSION = [None, None, None, None]


@pytest.mark.rfc("9051", "7.5.2")
def test_an_envelope() -> None:
    fields = parse_fields(
        b"Date: Tue, 24 Nov 2026 05:00:00 +0000\r\nSubject: a \\ \"b\"\r\nFrom: A <a@x.y>\r\nTo: b@x.y\r\nTo: c@x.y\r\n"
        b"Sender:\r\nReply-To: r@x.y\r\nIn-Reply-To: <1@x>\r\nMessage-Id: <2@x>\r\nSubject: second\r\n\r\nSubject: body\r\n"
    )
    a, b, c, r = ([b"A", None, b"a", b"x.y"], *([None, None, name, b"x.y"] for name in (b"b", b"c", b"r")))
    assert read_list(render_envelope(fields)) == [
        b"Tue, 24 Nov 2026 05:00:00 +0000", b'a \\ "b"', [a], [a], [r], [b, c], None, None, b"<1@x>", b"<2@x>"
    ]  # fmt: skip
    assert read_list(render_envelope([])) == [None] * 10


def test_strings() -> None:
    assert nstring(None) == b"NIL"
    assert nstring(b"") == b'""'
    assert nstring(b"a\\b") == b'"a\\\\b"'
    assert nstring(b"\xff\0") == b"{1}\r\n\xff"
    assert nstring(b"a\rb") == b"{3}\r\na\rb"
    assert nstring(b"x" * 1001).startswith(b"{1001}\r\n")


def test_fields_of_broken_headers() -> None:
    block = b"From me Mon\r\nA: 1\r\n 2\r\n\t3\r\nno colon\r\nB : 4\nC:\r\n: empty\r\n\xe4: 5\r\nD:6"
    assert parse_fields(block) == [(b"a", b" 1\r\n 2\r\n\t3\r"), (b"b", b" 4"), (b"c", b"\r"), (b"d", b"6")]
    assert unfold(b" 1\r\n 2\r\n\t3\0\r") == b"1 2\t3"
    fields, picked = pick_fields(block, FieldNames([b"a", b"d"]))
    assert fields == [field for field in parse_fields(block) if field[0] in (b"a", b"d")]
    assert picked == b"A: 1\r\n 2\r\n\t3\r\nD:6\r\n"


def test_identifiers_come_with_the_nearest_first() -> None:
    fields = parse_fields(
        b"References: <a@x> junk <b@x>\r\n <c@x>\r\nMessage-ID: <own@x> <other@x>\r\nIn-Reply-To: Your mail <c@x>\r\n"
    )
    assert message_ids(fields) == (b"own@x", b"c@x", b"b@x", b"a@x")
    many = parse_fields(b"References: " + b" ".join(b"<%d@x>" % n for n in range(500)))
    assert message_ids(many) == tuple(b"%d@x" % n for n in range(499, 499 - MAX_IDENTIFIERS, -1))
    assert message_ids([]) == ()


def test_a_plain_message() -> None:
    assert structure(b"Subject: x\n\none\ntwo\n") == [*PLAIN, 10, 2, *EXTENSION]
    assert structure(b"Subject: x\n\n") == [*PLAIN, 0, 0, *EXTENSION]
    assert structure(b"") == [*PLAIN, 0, 0, *EXTENSION]


def test_a_single_part_with_everything() -> None:
    found = structure(
        b"Content-Type: Application/PDF; name=\"a \\\"b\\\".pdf\";\n x=y (comment) ; z*0*=utf-8''q\n"
        b"Content-ID: <id@x>\nContent-Description: d\nContent-Transfer-Encoding: base64\nContent-MD5: m==\n"
        b"Content-Disposition: attachment; filename=\"a.pdf\"\nContent-Language: de, en\nContent-Location: http://x/\n\nAAAA\n"
    )
    assert found == [
        b"Application", b"PDF", [b"name", b'a "b".pdf', b"x", b"y", b"z*0*", b"utf-8''q"], b"<id@x>", b"d", b"base64", 6,
        b"m==", [b"attachment", [b"filename", b"a.pdf"]], [b"de", b"en"], b"http://x/",
    ]  # fmt: skip


MULTIPART = b"""Content-Type: multipart/mixed; boundary="out"

preamble --out
--out
Content-Type: text/html

<p>
--out --
--outer
--out\t
Content-Type: multipart/alternative; boundary=in

--in

one
--in
Content-Type: text/plain; charset=utf-8

two

--in--
epilogue
--out
Content-Type: message/rfc822

Subject: inner
Content-Type: multipart/digest; boundary=dig

--dig

Subject: digested

text
--dig--

--out--
epilogue
--out
"""


def test_nested_parts() -> None:
    found = structure(MULTIPART)
    html, alternative, message, subtype, parameters = found[:5]
    assert (subtype, parameters, found[5:]) == (b"mixed", [b"boundary", b"out"], [None, None, None])
    assert html[:8] == [b"text", b"html", None, None, None, b"7bit", len(b"<p>\r\n--out --\r\n--outer"), 2]
    assert alternative[0] == [*PLAIN, 3, 0, *EXTENSION]
    assert alternative[1][6:8] == [5, 1]
    assert alternative[2:] == [b"alternative", [b"boundary", b"in"], None, None, None]
    assert message[:2] == [b"message", b"rfc822"]
    envelope, digest, lines = message[7:10]
    assert envelope[1] == b"inner"
    assert lines == 9
    assert digest[0][:2] == [b"message", b"rfc822"]
    assert digest[0][7][1] == b"digested"
    assert digest[0][8][:2] == [b"text", b"plain"]


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"multipart/mixed", b"--x\n\na\n--x--\n"),
        (b"multipart/mixed; boundary=", b"--\n\na\n----\n"),
        (b"multipart/mixed; boundary=never", b"text\n"),
        (b'multipart/mixed; boundary="' + b"x" * 201 + b'"', b"--" + b"x" * 201 + b"\n\n"),
    ],
)
def test_a_multipart_without_parts_gets_an_empty_one(header: bytes, body: bytes) -> None:
    found = structure(b"Content-Type: " + header + b"\n\n" + body)
    assert found[0] == [*PLAIN, 0, 0, *EXTENSION]
    assert found[1] == b"mixed"


def test_a_multipart_that_stops_in_the_middle() -> None:
    found = structure(b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\none\n--x\nContent-Type: image/png\n\nAA")
    assert found[0] == [*PLAIN, 3, 0, *EXTENSION]
    assert found[1][:7] == [b"image", b"png", None, None, None, b"7bit", 2]
    found = structure(b"Content-Type: multipart/mixed; boundary=x\n\n--x")
    assert found[0][:2] == [b"text", b"plain"]


@pytest.mark.parametrize("value", [b"", b"nonsense", b"/", b"text/", b"a b/c", b";charset=x", b"\xff/\xff"])
def test_an_unreadable_type_is_plain_text(value: bytes) -> None:
    assert structure(b"Content-Type: " + value + b"\n\nx\n")[:3] == PLAIN[:3]


def test_parameters() -> None:
    assert parse_parameters(b"; a=1; B = \"two words\" ;c='x'; d=\"open") == [
        (b"a", b"1"), (b"B", b"two words"), (b"c", b"'x'"), (b"d", b"open")
    ]  # fmt: skip
    assert parse_parameters(b"; =x; a; b=") == [(b"b", b"")]
    assert len(parse_parameters(b";a=1" * 1000)) == 50


def test_depth_and_count_are_limited() -> None:
    deep = b""
    for n in range(100):
        deep += b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n)
    found, depth = structure(deep + b"\nend"), 0
    while isinstance(found[0], list):
        found, depth = found[0], depth + 1
    assert depth == MAX_DEPTH + 1
    nested = structure(b"Content-Type: message/rfc822\n\n" * 200)
    assert nested[0] == b"message"
    wide = structure(b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--x\n\na\n" * (MAX_PARTS + 500))
    assert sum(isinstance(part, list) and part[:1] == [b"text"] for part in wide) == MAX_PARTS - 1


@pytest.mark.parametrize(
    "body",
    [b"--x\n" * 200_000, b"--x" * 300_000, b"\n" * 900_000, b"-" * 900_000, b"Content-Type: message/rfc822\n\n" * 30_000],
    ids=["parts", "near", "lines", "dashes", "messages"],
)
def test_a_megabyte_takes_no_second(body: bytes) -> None:
    message = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + body
    started = time.process_time()
    part = parse_structure(parse_fields(message[:44]), message, 45, len(message))
    slowly = render_structure(part, message)
    middle = time.process_time()
    assert body_structure(message[:44], message, 45, len(message)) == slowly
    assert middle - started < 1.0
    assert time.process_time() - middle < 1.0


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_mail(message: bytes) -> None:
    structure(message)
    read_list(render_envelope(parse_fields(message)))


PIECES = [
    b"Content-Type: multipart/mixed; boundary=a\n", b"Content-Type: multipart/digest; boundary=b\n", b"\n", b"--a\n",
    b"--a--\n", b"--b\n", b"--b--\n", b"Content-Type: message/rfc822\n", b"text\n", b"Content-Type: text/html\n",
    b"Subject: x\n", b"\0\xff\n",
]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join))
def test_any_sequence_of_mime_lines_has_a_structure(message: bytes) -> None:
    structure(b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=a\n\n" + message)


def test_the_parts_are_those_the_standard_library_finds() -> None:
    """An oracle: leaf types and sizes of a well-formed message."""
    parsed = email.message_from_bytes(MULTIPART.split(b"--out\t")[0] + b"--out--\n", policy=email.policy.compat32)
    leaves = [part for part in parsed.walk() if not part.is_multipart()]
    found = structure(MULTIPART.split(b"--out\t")[0] + b"--out--\n")
    assert [f"{part[0].decode()}/{part[1].decode()}" for part in found[:-5]] == [leaf.get_content_type() for leaf in leaves]
