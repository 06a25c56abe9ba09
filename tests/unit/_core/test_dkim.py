"""Canonical forms in C, against their text in `tests/oracles/dkim.py`, however the input is cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core.dkim import BodyCanonicalizer, field_names, relaxed_field, select_fields
from tests.oracles import dkim as oracle
from tests.splits import assert_split_invariant

PIECES = [b"\r\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"  ", b"a", b"word", b"\r", b"\n", b"\0", b"\xff"]
BODIES = st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join)


def canonical(pieces: list[bytes], relaxed: bool) -> bytes:
    out: list[bytes] = []
    made = BodyCanonicalizer(lambda data: out.append(bytes(data)), relaxed=relaxed)
    for piece in pieces:
        made.feed(piece)
    made.finish()
    made.finish()
    return b"".join(out)


@pytest.mark.rfc("6376", "3.4.5")
def test_the_examples_of_the_rfc() -> None:
    body = b" C \r\nD \t E\r\n\r\n\r\n"
    assert canonical([body], True) == b" C\r\nD E\r\n"
    assert canonical([body], False) == b" C \r\nD \t E\r\n"
    block = b"A: X\r\nB : Y\t\r\n\tZ  \r\n"
    assert select_fields(block, [b"a", b"b"], relaxed=True) == b"a:X\r\nb:Y Z\r\n"
    assert select_fields(block, [b"a", b"b"], relaxed=False) == block


@pytest.mark.rfc("6376", "3.4.3")
@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_an_empty_body(body: bytes) -> None:
    assert canonical([body], False) == b"\r\n"
    assert canonical([body], True) == b""


@given(BODIES)
def test_bodies(body: bytes) -> None:
    for relaxed, slow in ((False, oracle.simple_body), (True, oracle.relaxed_body)):
        assert assert_split_invariant(lambda pieces: canonical(pieces, relaxed), body) == slow(body)  # noqa: B023


def test_every_cut_of_a_nasty_body() -> None:
    body = b"a \r\r\n \t\r\n\r\n\r \r\nb\t\r\r\n\r\n\r\n \r\n\r\n"
    for relaxed, slow in ((False, oracle.simple_body), (True, oracle.relaxed_body)):
        found = assert_split_invariant(lambda pieces: canonical(pieces, relaxed), body, everywhere=True)  # noqa: B023
        assert found == slow(body)


@pytest.mark.parametrize("relaxed", [False, True])
def test_line_ends_without_end_are_not_kept(relaxed: bool) -> None:
    pieces: list[int] = []
    made = BodyCanonicalizer(lambda data: pieces.append(len(data)), relaxed=relaxed)
    for _ in range(40):
        made.feed(b"\r\n" * 10_000)
    assert pieces == []
    made.feed(b"x")
    assert sum(pieces) == 800_001
    assert max(pieces) <= 32_768
    made.finish()
    with pytest.raises(ValueError, match="has ended"):
        made.feed(b"x")


NAMES = st.sampled_from(["From", "from", "To", "Subject ", "X-A", "Received"])
VALUE_PIECES = [b" ", b"\t", b"a", b"B:c", b"\r\n ", b"\r\n\t", b"\xc3\xa4", b";"]
VALUES = st.lists(st.sampled_from(VALUE_PIECES), max_size=8).map(b"".join)
FIELDS = st.tuples(NAMES, VALUES).map(lambda pair: pair[0].encode() + b":" + pair[1] + b"\r\n")


ASKED = [b"from", b"to", b"subject", b"x-a", b"received", b"cc"]


@given(st.lists(FIELDS, max_size=8), st.lists(st.sampled_from(ASKED), max_size=9))
def test_choices(fields: list[bytes], names: list[bytes]) -> None:
    block = b"".join(fields)
    assert oracle.split_fields(block) == fields
    for field in fields:
        assert relaxed_field(field) == oracle.relaxed_header(field)
    for form in ("relaxed", "simple"):
        assert select_fields(block + b"\r\n", names, relaxed=form == "relaxed") == oracle.chosen(block, names, form)
    assert field_names(block) == tuple(f.partition(b":")[0].rstrip(b" ").lower() for f in fields)


def test_a_last_line_without_its_end() -> None:
    assert select_fields(b"From: a", [b"from"], relaxed=False) == b"From: a\r\n"
    assert select_fields(b"From: a", [b"from"], relaxed=True) == b"from:a\r\n"
    with pytest.raises(ValueError, match="colon"):
        relaxed_field(b"From")


def test_large_random_bodies() -> None:
    chance = random.Random(6)
    for _ in range(20):
        body = b"".join(chance.choice([b"word ", b"  ", b"\r\n", b"\t\r\n", b"x" * 100]) for _ in range(4000))
        cuts = [body[i : i + 8192] for i in range(0, len(body), 8192)]
        assert canonical(cuts, True) == oracle.relaxed_body(body)
        assert canonical(cuts, False) == oracle.simple_body(body)
