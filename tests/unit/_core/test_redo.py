"""Records of the redo journal: read back as written, or not at all."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from rusmes._core import redo

HELD: list[dict[bytes, bytes | None]] = [{b"k": b"v" * 5000, b"gone": None}, {}, {b"z" * 511: b"", b"long": b"x" * 100_000}]
ROWS = [(0, b"k", b"v" * 5000), (0, b"gone", None), (2, b"z" * 511, b""), (2, b"long", b"x" * 100_000)]


@pytest.fixture
def written(tmp_path: Path) -> bytes:
    record = redo.encode(HELD, 7, 41)
    assert record is not None
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    redo.append(descriptor, record, 8192)
    os.close(descriptor)
    return (tmp_path / "file").read_bytes()


def test_a_record_comes_back(written: bytes) -> None:
    assert redo.read(written, 8192, 7, 41) == (len(written), ROWS)
    assert len(written) % redo.PAGE_BYTES == 0
    assert redo.transaction_at(written, 8192, 7) == (41, 0)


@pytest.mark.parametrize(("at", "epoch", "txn_id"), [(8192, 8, 41), (8192, 7, 40), (8192, 7, 42), (0, 7, 41), (1 << 40, 7, 41)])
def test_a_record_of_another_life_place_or_transaction_is_none(written: bytes, at: int, epoch: int, txn_id: int) -> None:
    assert redo.read(written, at, epoch, txn_id) is None


def test_a_part_is_found_by_its_number(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    record = redo.encode([{b"k": b"v"}], 7, 41, 3)
    assert record is not None
    redo.append(descriptor, record, 0)
    os.close(descriptor)
    data = (tmp_path / "file").read_bytes()
    assert redo.transaction_at(data, 0, 7) == (41, 3)
    assert redo.read(data, 0, 7, 41, 3) == (len(data), [(0, b"k", b"v")])
    assert redo.read(data, 0, 7, 41) is None
    assert redo.read(data, 0, 7, 41, 2) is None


def test_a_record_that_was_cut_is_none(written: bytes) -> None:
    for end in (8192, 8193, 8192 + 39, 8192 + 40, 12288, len(written) - 4096):
        assert redo.read(written[:end], 8192, 7, 41) is None


def test_a_torn_record_is_none(written: bytes) -> None:
    for page in range(8192, len(written), 4096):
        torn = written[:page] + bytes(4096) + written[page + 4096 :]
        assert redo.read(torn, 8192, 7, 41) is None


def test_a_flipped_bit_is_found(written: bytes) -> None:
    dice = random.Random(3)
    end = 8192 + 40 + sum(8 + len(key) + len(value or b"") for _, key, value in ROWS)
    for _ in range(300):
        damaged = bytearray(written)
        damaged[dice.randrange(8192, end)] ^= 1 << dice.randrange(8)
        assert redo.read(bytes(damaged), 8192, 7, 41) is None


def test_what_is_too_large_has_no_record() -> None:
    rows: dict[bytes, bytes | None] = {b"%d" % n: bytes(1 << 20) for n in range(17)}
    assert redo.encode([rows], 1, 1) is None


def test_an_append_that_fails_says_so(tmp_path: Path) -> None:
    record = redo.encode(HELD, 1, 1)
    assert record is not None
    descriptor = os.open(tmp_path / "file", os.O_RDONLY | os.O_CREAT)
    with pytest.raises(OSError, match="journal"):
        redo.append(descriptor, record, 0)
    os.close(descriptor)
    with pytest.raises(ValueError, match="record"):
        redo.append(0, bytearray(10), 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B), (b"abc", 0x44BC2CF5AD770999),
        (bytes(range(100)), 0x6AC1E58032166597),
    ],
)  # fmt: skip
def test_checksums_are_those_of_the_reference(data: bytes, expected: int) -> None:
    """Computed with the xxhash package."""
    assert redo.checksum(data) == expected
