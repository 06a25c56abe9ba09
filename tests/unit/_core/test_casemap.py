"""Folding after RFC 5051, and finding one text in another."""

from __future__ import annotations

import random
import time

import pytest

from rusmes._core.casemap import Pattern, fold, fold_octets
from tests.oracles import text_search as oracle

SAMPLES = (
    "",
    "abc",
    "ABC xyz 019 []",
    "Straße",
    "éÉ e\u0301",
    "ﬁ ﬂ ﬃ",
    "ＡＢｃ",
    "Ωω Ω",
    "K k",
    "İi ı I",
    "ǆǅǄ",
    "ŉ",
    "한글",
    "日本語",
    "ﷺ",
    "Ꭰꭰ",
    "𐐀𐐨",
    "\U0001f600",
    "x" * 100 + "é" + "Y" * 100,
    "ΐ ᾳ ᾼ",
    "\0\x7f",
    "Ǆ" * 50,
)


@pytest.mark.rfc("5051", "2")
@pytest.mark.parametrize("text", SAMPLES)
def test_folding_is_titlecase_and_decomposition(text: str) -> None:
    assert fold(text).decode() == oracle.fold(text)
    assert fold(fold(text).decode()) == fold(text)


@pytest.mark.parametrize(
    ("text", "folded"),
    [("é", "E\u0301"), ("ﬁ", "FI"), ("ß", "ß"), ("ａ", "A"), ("\u212a", "K"), ("각", "각"), ("ж", "Ж"), ("²", "2")],
)
def test_single_characters(text: str, folded: str) -> None:
    assert fold(text).decode() == folded


def test_every_character_of_the_first_plane_folds_as_the_tables_of_python_say() -> None:
    rnd = random.Random(1)
    text = "".join(chr(code) for code in rnd.sample(range(0xD800), 4000)) + "".join(map(chr, range(0xFB00, 0xFFFF, 7)))
    assert fold(text).decode() == oracle.fold(text)


@pytest.mark.parametrize(
    "octets",
    [
        b"\xff",
        b"caf\xe9",
        b"\xc3",
        b"\xc3\xa9\xc3",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f\x98",
        b"a\xe2\x28\xa1b",
        b"\x80\xbf",
    ],
)
def test_octets_that_are_no_utf8_are_iso_8859_1(octets: bytes) -> None:
    assert fold_octets(octets).decode() == oracle.fold(oracle.utf8(octets))


def test_random_octets_fold_like_the_oracle() -> None:
    rnd = random.Random(2)
    for _ in range(300):
        octets = bytes(rnd.choice(b"aZ\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xff \xed\xa0") for _ in range(rnd.randrange(40)))
        assert fold_octets(octets).decode() == oracle.fold(oracle.utf8(octets))


def test_a_pattern_is_found_wherever_it_stands() -> None:
    rnd = random.Random(3)
    for _ in range(2000):
        alphabet = rnd.choice(("ab", "ab ", "abcdefgh", "Ab\r\n", "aAzZ019=-", "é€a"))
        text = "".join(rnd.choice(alphabet) for _ in range(rnd.randrange(200)))
        word = "".join(rnd.choice(alphabet) for _ in range(rnd.randrange(1, 8)))
        if rnd.random() < 0.5 and text:
            at = rnd.randrange(len(text))
            word = text[at : at + rnd.randrange(1, 80)].swapcase()
        pattern, folded = Pattern(word), fold(text)
        assert pattern.find_in_folded(folded) == folded.find(fold(word))
        if text.isascii():
            assert pattern.find_in_ascii(text.encode()) == text.upper().find(word.upper())


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 63, 64, 65, 79, 80, 81, 128, 200])
def test_a_pattern_is_found_at_the_edges_of_blocks(size: int) -> None:
    pattern = Pattern("Q-x")
    for behind in (0, 1, 14, 20, 70):
        assert pattern.find_in_ascii(b"." * size + b"q-X" + b"." * behind) == size
    assert pattern.find_in_ascii(b"." * size + b"q-") == -1


def test_nothing_is_found_in_less_than_itself() -> None:
    assert Pattern("").find_in_ascii(b"") == 0
    assert Pattern("a").find_in_ascii(b"") == -1
    assert Pattern("@[`{").find_in_ascii(b"`{@[") == -1  # 32 apart from one another, and no letters


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("a" * 500 + "b", b"a" * 2_000_000),
        ("b" + "a" * 500, b"a" * 2_000_000),
        ("ab" * 300 + "c", b"ab" * 1_000_000),
        ("a" * 400 + "b" + "a" * 400, b"a" * 2_000_000),
    ],
)
def test_texts_made_to_be_slow_take_linear_time(word: str, text: bytes) -> None:
    pattern = Pattern(word)
    begin = time.process_time()
    assert pattern.find_in_ascii(text) == -1
    assert pattern.find_in_folded(text.upper()) == -1
    assert time.process_time() - begin < 1.0  # the product of both sizes would be seconds
    assert pattern.find_in_ascii(text + word.encode()) >= 0
