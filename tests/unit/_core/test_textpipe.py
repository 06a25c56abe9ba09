"""Transfer encodings, charsets and encoded words become text, whatever they are."""

from __future__ import annotations

import base64
import random
import time

import pytest

from rusmes._core.textpipe import codec_of, decode_header, decode_text
from tests.oracles import text_search as oracle


@pytest.mark.rfc("2047", "8")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"=?ISO-8859-1?Q?a?=", "a"),
        (b"=?ISO-8859-1?Q?a?= b", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a?=  =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a?=\r\n    =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a_b?=", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
        (b"=?US-ASCII?Q?Keith_Moore?= <moore@cs.utk.edu>", "Keith Moore <moore@cs.utk.edu>"),
        (b"=?ISO-8859-1?Q?Andr=E9?= Pirard <PIRARD@vm1.ulg.ac.be>", "André Pirard <PIRARD@vm1.ulg.ac.be>"),
        (b"=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=", "If you can read this yo"),
        (b"=?iso-8859-8?b?7eXs+SDv4SDo7Oj08A==?=", "םולש ןב טלטפנ"),
    ],
)
def test_examples_of_encoded_words(value: bytes, text: str) -> None:
    assert decode_header(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"  plain \r\n  folded ", "plain   folded"),
        (b"=?utf-8?B?w6k=?= =?utf-8?q?=C3?= =?utf-8?q?=A9?=", "éé"),  # a character cut in two
        (b"=?utf-8*en?q?x?=", "x"),
        (b'"=?utf-8?q?quoted?="', '"quoted"'),
        (b"=?utf-8?q?with blanks?=", "with blanks"),
        (b"=?nobody?q?=C3=A9?=", "é"),
        (b"=?iso-2022-jp?b?GyRCJDMkcxsoQg==?=", "こん"),
        (b"=?gb2312?B?xOO6ww==?=", "你好"),
        (b"=?utf-7?q?+AOk-?=", "é"),
        (b"=?utf-8?x?a?=", "=?utf-8?x?a?="),
        (b"=?utf-8?q?a", "=?utf-8?q?a"),
        (b"=??q?a?=", "=??q?a?="),
        (b"a=?", "a=?"),
        (b"caf\xc3\xa9 caf\xe9", "café café"),
        (b"=?rot13?q?abc?=", "abc"),
        (b"=?utf-8?q?=ZZ=4?=", "=ZZ=4"),
        (b"", ""),
    ],
)
def test_broken_and_odd_header_values(value: bytes, text: str) -> None:
    assert decode_header(value) == text


@pytest.mark.rfc("2045", "6.7")
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a=C3=A9", "aé"),
        (b"one=\r\ntwo", "onetwo"),
        (b"one= \t\r\ntwo", "onetwo"),
        (b"a  \r\nb\t", "a\r\nb"),
        (b"a=", "a"),
        (b"=3D=3d", "=="),
        (b"=G1 =1", "=G1 =1"),
        (b"a=\nb", "ab"),
        (b"=\rx", "=\rx"),
        (b"  \n", "\n"),
    ],
)
def test_quoted_printable(data: bytes, text: str) -> None:
    assert decode_text(data, b"Quoted-Printable", b"utf-8") == text


@pytest.mark.rfc("2045", "6.8")
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"aGVsbG8=", "hello"),
        (b"aGVs\r\nbG8=\r\n", "hello"),
        (b"aGVsbG8", "hello"),
        (b"a!G*V s\tbG8=", "hello"),
        (b"aGk=aGk=", "hihi"),
        (b"====", ""),
        (b"a", ""),
    ],
)
def test_base64(data: bytes, text: str) -> None:
    assert decode_text(data, b"BASE64", b"us-ascii") == text


@pytest.mark.parametrize(
    "charset",
    [
        "utf-8",
        "iso-8859-15",
        "windows-1251",
        "koi8-r",
        "utf-16",
        "utf-16le",
        "shift_jis",
        "euc-jp",
        "iso-2022-jp",
        "gb18030",
        "big5",
        "euc-kr",
        "cp437",
        "mac-roman",
        "utf-7",
    ],
)
def test_charsets_through_every_encoding(charset: str) -> None:
    text = {
        "windows-1251": "Привет",
        "koi8-r": "Привет",
        "shift_jis": "日本語",
        "euc-jp": "日本語",
        "iso-2022-jp": "日本語",
        "gb18030": "你好",
        "big5": "你好",
        "euc-kr": "한글",
    }.get(charset, "Café")
    data = (text * 3000).encode(charset)
    name = charset.upper().encode()
    assert decode_text(data, b"8bit", name) == text * 3000
    assert decode_text(base64.encodebytes(data), b"base64", name) == text * 3000


def test_what_is_no_charset_is_utf8() -> None:
    for name in (b"", b"x-unknown", b"rot13", b"base64", b"idna", b"punycode", b"unicode_escape", b"a" * 100, b"\xff\0"):
        assert codec_of(name) in (None, "utf_8")
        assert decode_text("é\\u0041".encode(), b"", name) == "é\\u0041"


def test_iso_8859_1_is_taken_as_windows_1252() -> None:
    assert decode_text(b"\x80\x81\xe9", b"8bit", b"iso-8859-1") == "€\x81é"


def test_random_texts_decode_like_the_oracle() -> None:
    rnd = random.Random(4)
    pieces = [
        b"=?utf-8?q?",
        b"=?ISO-8859-1?b?",
        b"?=",
        b"=?",
        b" ",
        b"\t",
        b"=C3",
        b"=A9",
        b"w6k=",
        b"a",
        b"_",
        b"\xc3\xa9",
        b"\xe9",
        b"=?koi8-r*ru?Q?=C1",
        b"?",
        b"=",
        b"=?utf-8?Q?x?=",
        b"=?utf-8?Q?=C3?=",
        b"\r\n ",
        b"\n",
    ]
    for _ in range(3000):
        value = b"".join(rnd.choice(pieces) for _ in range(rnd.randrange(14)))
        unfolded = b"".join(value.replace(b"\r\n", b"\n").split(b"\n"))
        assert decode_header(value) == oracle.words(unfolded).strip(" \t\r\n"), value
    for _ in range(1500):
        data = b"".join(rnd.choice(pieces) for _ in range(rnd.randrange(20)))
        for encoding in (b"", b"base64", b"quoted-printable"):
            for charset in (b"utf-8", b"koi8-r", b"shift_jis", b"iso-8859-1"):
                assert decode_text(data, encoding, charset) == oracle.decoded(data, encoding, charset), (
                    data,
                    encoding,
                    charset,
                )


def test_texts_longer_than_the_buffers_lose_nothing() -> None:
    rnd = random.Random(5)
    text = "".join(rnd.choice("aé€\U0001f600 xyz\r\n") for _ in range(60_000))
    assert decode_text(base64.encodebytes(text.encode()), b"base64", b"utf-8") == text
    assert decode_text(text.encode(), b"8bit", b"utf-8") == text


@pytest.mark.parametrize(
    "value", [b"=?a?q?" * 40_000, b"=?a?q?x " * 30_000, b"=?" * 100_000, b"=?utf-8?q?x?= " * 15_000, b"=?utf-7?q?+?= " * 15_000]
)
def test_header_values_made_to_be_slow_take_linear_time(value: bytes) -> None:
    begin = time.process_time()
    decode_header(value)
    assert time.process_time() - begin < 1.0


@pytest.mark.parametrize("charset", [b"utf-7", b"iso-2022-jp", b"hz", b"utf-16", b"gb18030"])
def test_texts_made_to_be_slow_take_linear_time(charset: bytes) -> None:
    begin = time.process_time()
    for data in (b"+" + b"A" * 3_000_000, b"~{" * 1_000_000, b"\x1b$B" * 500_000, b"\xff" * 1_000_000):
        decode_text(data, b"", charset)
    assert time.process_time() - begin < 4.0
