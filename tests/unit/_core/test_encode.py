"""What responses are made of; CR, LF and NUL never get into a line."""

from __future__ import annotations

import pytest

from rusmes._core import encode
from rusmes._core.encode import Buffer
from rusmes._core.view import Uids


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"INBOX", b"INBOX"),
        (b"a/b]c", b"a/b]c"),
        (b"", b'""'),
        (b"nil", b'"nil"'),
        (b"two words", b'"two words"'),
        (b'q"\\', b'"q\\"\\\\"'),
        (b"(", b'"("'),
        (b"line\r\nend", b"{9}\r\nline\r\nend"),
        ("ä".encode(), b"{2}\r\n\xc3\xa4"),
        (b"x" * 1001, b"{1001}\r\n" + b"x" * 1001),
    ],
)
def test_astring_takes_the_shortest_form(value, expected):
    assert encode.astring(value) == expected


def test_utf8_is_quoted_for_those_who_take_it():
    assert encode.string("ä".encode(), utf8=True) == b'"\xc3\xa4"'
    assert encode.string(b"\xe4", utf8=True) == b"{1}\r\n\xe4"


def test_nothing_is_nil():
    assert encode.nstring(None) == b"NIL"
    assert encode.nstring(b"NIL") == b'"NIL"'


@pytest.mark.parametrize("function", [encode.astring, encode.string, encode.nstring, encode.quoted, encode.literal])
def test_nul_is_refused(function):
    with pytest.raises(ValueError, match="NUL"):
        function(b"a\0b")


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"a\rb"])
def test_line_ends_are_refused_outside_of_literals(value):
    with pytest.raises(ValueError, match="quoted"):
        encode.quoted(value)
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        encode.line_bytes(value)
    with pytest.raises(ValueError, match="atom"):
        encode.atom(value)


def test_a_literal8_holds_everything():
    assert encode.literal8(b"\0\r\n") == b"~{3}\r\n\0\r\n"


def test_text_for_people_is_made_safe():
    assert encode.line_text("fine") == b"fine"
    assert encode.line_text("a\r\n* BYE ä\0") == b"a??* BYE ??"


def test_numbers_become_ranges():
    assert encode.number_set([]) == b""
    assert encode.number_set([4]) == b"4"
    assert encode.number_set([1, 2, 3, 5, 7, 8]) == b"1:3,5,7:8"
    assert encode.number_set([9, 1, 2]) == b"9,1:2"
    assert encode.number_set(Uids([4294967294, 4294967295])) == b"4294967294:4294967295"


def test_a_buffer_grows_and_is_empty_when_taken():
    buffer = Buffer()
    for _ in range(1000):
        buffer.write(b"0123456789")
    assert len(buffer) == 10_000
    assert buffer.take() == b"0123456789" * 1000
    assert buffer.take() == b""
