"""Names of mailboxes on the wire, and LIST's patterns."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.imap.names import BadName, decode_name, decode_utf7, encode_name, encode_utf7, fold_inbox, matcher

EXAMPLES = {
    "Entwürfe": b"Entw&APw-rfe",
    "日本語": b"&ZeVnLIqe-",
    "~peter/mail/台北/日本語": b"~peter/mail/&U,BTFw-/&ZeVnLIqe-",
    "A & B": b"A &- B",
    "&": b"&-",
    "😀": b"&2D3eAA-",
    "": b"",
    "plain/name": b"plain/name",
    "é&é": b"&AOk-&-&AOk-",
}


@pytest.mark.rfc("3501", "5.1.3")
@pytest.mark.parametrize(("name", "coded"), EXAMPLES.items())
def test_modified_utf7(name: str, coded: bytes) -> None:
    assert encode_utf7(name) == coded
    assert decode_utf7(coded) == name


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_modified_utf7_goes_both_ways(name: str) -> None:
    assert decode_utf7(encode_utf7(name)) == name
    assert encode_utf7(name).isascii()


@given(st.binary(max_size=20) | st.text("&-AO,abc+/kU", max_size=12).map(str.encode))
@settings(deadline=None)
def test_one_name_has_one_spelling(raw: bytes) -> None:
    try:
        name = decode_utf7(raw)
    except BadName:
        return
    assert encode_utf7(name) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"&", b"a&", b"&AGE-", b"&U,BTFw-&ZeVnLIqe-", b"&ZeVnLIq-", b"&2D0-", b"&!-", b"&AOk", b"\xc3\xa9",
        b"&AOk=-", b"&AOl-&", b"&A-", b"&AOk-\xe9", b"&AO/-x", b"&----&",
    ],
)  # fmt: skip
def test_what_is_no_modified_utf7(raw: bytes) -> None:
    with pytest.raises(BadName):
        decode_name(raw, is_utf8=False)


@pytest.mark.rfc("9051", "5.1")
def test_names_in_utf8() -> None:
    assert decode_name("Entwürfe/A & B".encode(), is_utf8=True) == "Entwürfe/A & B"
    assert encode_name("Entwürfe", is_utf8=True) == "Entwürfe".encode()
    assert encode_name("Entwürfe", is_utf8=False) == b"Entw&APw-rfe"
    assert decode_name(b"&AOk-", is_utf8=True) == "&AOk-"
    for raw in (b"\xff", b"\xed\xa0\x80", b"\xc3"):
        with pytest.raises(BadName):
            decode_name(raw, is_utf8=True)


@pytest.mark.parametrize("name", ["a\tb", "\x7f", "a\u0085", "\u2028", "x" * 1001, "a\r", "a\n"])
def test_names_without_control_characters(name: str) -> None:
    for is_utf8 in (True, False):
        with pytest.raises(BadName):
            decode_name(encode_name(name, is_utf8=is_utf8), is_utf8=is_utf8)


def test_inbox_is_the_same_in_every_case() -> None:
    assert decode_name(b"inBox", is_utf8=False) == "INBOX"
    assert fold_inbox("inbox/a") == "INBOX/a"
    assert fold_inbox("inboxes") == "inboxes"
    assert fold_inbox("a/inbox") == "a/inbox"


@pytest.mark.rfc("9051", "6.3.9")
@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["", "a", "a/b"], []),
        ("%", ["", "a", "INBOX"], ["a/b", "/"]),
        ("", [""], ["a"]),
        ("a", ["a"], ["A", "ab", "", "a/b"]),
        ("a/*", ["a/", "a/b", "a/b/c"], ["a", "b/a/x"]),
        ("a*", ["a", "ab", "a/b"], ["b"]),
        ("a/%", ["a/b", "a/"], ["a/b/c", "a"]),
        ("%/%", ["a/b", "/"], ["a", "a/b/c"]),
        ("*a%b", ["ab", "x/a/ab", "aab", "a/axxb"], ["a/b", "ab/", "b"]),
        ("%a*b", ["ab", "xa/b"], ["x/ab"]),
        ("*%", ["", "a/b"], []),
        ("%%%", ["", "abc"], ["a/b"]),
        ("inbox", ["INBOX"], ["inbox", "INBOX/a", "INBOXES"]),
        ("iN*", ["INBOX", "INBOX/a", "iNk"], ["INK", "in"]),
        ("inb%", ["INBOX"], ["INBOX/a", "INBX"]),
        ("%box", ["INBOX", "box"], ["INBOX/box", "BOX"]),
        ("inbox/%", ["INBOX/a"], ["INBOX/a/b", "a"]),
        ("in%x/A", ["INBOX/A"], ["INBOX/a"]),
        ("inbox*", ["INBOX", "INBOX/a", "inboxes"], ["INBOXES"]),
        ("Entwürfe%", ["Entwürfe"], ["entwürfe"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = matcher(pattern)
    assert [name for name in yes if not matches(name)] == []
    assert [name for name in no if matches(name)] == []


@given(st.text("ab/%*", max_size=10), st.text("ab/", max_size=12))
@settings(deadline=None)
def test_patterns_match_what_a_regular_expression_matches(pattern: str, name: str) -> None:
    expression = "".join({"*": "(?s:.*)", "%": "[^/]*"}.get(c, re.escape(c)) for c in pattern)
    assert matcher(pattern)(name) == (re.fullmatch(expression, name) is not None)


def test_patterns_take_linear_time() -> None:
    """A backtracking matcher needs years for this one."""
    matches = matcher("*a%a" * 100 + "b")
    began = time.perf_counter()
    for _ in range(10):
        assert not matches("a" * 480)
    assert time.perf_counter() - began < 2
