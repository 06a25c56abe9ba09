"""Identifiers: they grow, they sort as their texts do, and a text leads back to its bytes."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.model.ids import IdSource, id_text, parse_id

IDS = st.binary(min_size=16, max_size=16)


@given(IDS)
def test_a_text_leads_back(value: bytes) -> None:
    assert parse_id(id_text(value)) == value


@given(IDS, IDS)
def test_texts_sort_like_bytes(one: bytes, other: bytes) -> None:
    assert (one < other) == (id_text(one) < id_text(other))


def test_the_alphabet_is_crockfords() -> None:
    assert id_text(bytes(16)) == "0" * 26
    assert id_text(b"\xff" * 16) == "7" + "z" * 25
    assert id_text((31 << 5 | 18).to_bytes(16, "big")) == "0" * 24 + "zj"


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_identifier_has_sixteen_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        id_text(bytes(size))


def test_identifiers_grow_within_a_millisecond() -> None:
    source = IdSource()
    made = [source.next_id() for _ in range(5000)]
    assert made == sorted(set(made))
    assert all(len(value) == 16 for value in made)


def test_an_identifier_begins_with_its_time() -> None:
    before = time.time_ns() // 1_000_000
    ms = int.from_bytes(IdSource().next_id()[:6], "big")
    assert before <= ms <= time.time_ns() // 1_000_000


def test_the_counter_carries_into_its_upper_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: b"\x07" + b"\xff" * (size - 2) + b"\xfe")
    source = IdSource()
    one, two = (source.next_id()[6:] for _ in range(2))
    assert one == b"\x00\x07" + b"\xff" * 8
    assert two == b"\x00\x08" + bytes(8)


def test_two_sources_do_not_meet() -> None:
    assert IdSource().next_id()[7:] != IdSource().next_id()[7:]
