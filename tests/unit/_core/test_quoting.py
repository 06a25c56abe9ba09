"""Strings of IMAP and values of fields: what C makes is what the plain version makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core.quoting import MAX_QUOTED_BYTES, field_text, nstring, unfold
from tests.oracles import mime_quoting as oracle

PIECES = st.sampled_from([b"\r", b"\n", b"\0", b" ", b"\t", b'"', b"\\", b"a"])
TEXTS = st.one_of(st.binary(max_size=40), st.lists(PIECES).map(b"".join))


@given(TEXTS)
def test_it_agrees_with_the_oracle(value: bytes) -> None:
    assert nstring(value) == oracle.nstring(value)
    assert unfold(value) == oracle.unfold(value)
    assert field_text(value) == oracle.nstring(oracle.unfold(value))


def test_nothing_is_nil() -> None:
    assert nstring(None) == field_text(None) == b"NIL"
    assert nstring(b"") == field_text(b" ") == b'""'


@pytest.mark.parametrize("size", [MAX_QUOTED_BYTES, MAX_QUOTED_BYTES + 1])
def test_long_text_is_a_literal(size: int) -> None:
    assert nstring(b"x" * size) == oracle.nstring(b"x" * size)
    assert nstring(b"x" * size).startswith(b'"') == (size <= MAX_QUOTED_BYTES)


def test_a_value_that_needs_nothing_is_not_copied() -> None:
    value = b"Tue, 24 Nov 2026 06:00:00 +0000"
    assert unfold(value) is value
