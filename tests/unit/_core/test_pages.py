"""Keys are found in LMDB's pages as LMDB finds them, and damage is met by finding nothing."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from rusmes._core.pages import Snapshot

TABLES = (b"emails", b"blobs", b"empty", b"mixed")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Any]:
    found = lmdb.open(str(tmp_path / "x.mdb"), subdir=False, max_dbs=8, map_size=1 << 28)
    yield found
    found.close()


def mapped(tmp_path: Path) -> mmap.mmap:
    with open(tmp_path / "x.mdb", "rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def fill(environment: Any, rnd: random.Random, count: int) -> dict[bytes, dict[bytes, bytes]]:
    """Ids that grow, with values of all sizes; keys of all lengths in a table of their own."""
    content: dict[bytes, dict[bytes, bytes]] = {name: {} for name in TABLES}
    for number in range(count):
        key = (number * 7 + 5).to_bytes(16, "big")
        content[b"emails"][key] = rnd.randbytes(rnd.randrange(600))
        content[b"blobs"][key] = rnd.randbytes(rnd.choice((0, 100, 1500, 2100, 5000, 20_000)))
        content[b"mixed"][rnd.randbytes(rnd.randrange(1, 60))] = rnd.randbytes(rnd.randrange(40))
    with environment.begin(write=True) as txn:
        for name, rows in content.items():
            table = environment.open_db(name, txn=txn)
            for key, value in rows.items():
                txn.put(key, value, db=table)
    return content


@pytest.mark.parametrize("count", [0, 1, 30, 3000])
def test_what_is_there_is_found_and_nothing_else(environment: Any, tmp_path: Path, count: int) -> None:
    rnd = random.Random(count)
    content = fill(environment, rnd, count)
    with environment.begin() as txn:
        snapshot = Snapshot(mapped(tmp_path), txn.id())
        for name, rows in content.items():
            table = snapshot.table(name)
            keys = list(rows)
            for order in (sorted(keys), rnd.sample(keys, len(keys))):
                assert [table.get(key) for key in order] == [rows[key] for key in order]
            for key in (*rnd.sample(keys, min(200, len(keys))), b"", b"\xff" * 20, b"\0"):
                for other in (key[:-1], key + b"\0", rnd.randbytes(len(key)), bytes(len(key))):
                    assert table.get(other) == rows.get(other)
        with pytest.raises(KeyError):
            snapshot.table(b"nobody")


def test_a_snapshot_is_that_of_its_transaction(environment: Any, tmp_path: Path) -> None:
    key = bytes(16)

    def put(value: bytes) -> None:
        with environment.begin(write=True) as txn:
            txn.put(key, value, db=environment.open_db(b"emails", txn=txn))

    put(b"one")
    with environment.begin() as old:
        put(b"two")
        with environment.begin() as new:
            assert Snapshot(mapped(tmp_path), old.id()).table(b"emails").get(key) == b"one"
            assert Snapshot(mapped(tmp_path), new.id()).table(b"emails").get(key) == b"two"
            table = Snapshot(mapped(tmp_path), old.id()).table(b"emails")
            put(b"three")
            assert table.get(key) == b"one"  # its pages stay
            with pytest.raises(ValueError, match="before"):
                Snapshot(mapped(tmp_path), old.id())


def test_a_map_that_is_too_short_or_of_something_else_is_refused(environment: Any, tmp_path: Path) -> None:
    fill(environment, random.Random(1), 500)
    whole = (tmp_path / "x.mdb").read_bytes()
    with environment.begin() as txn:
        for data in (b"", bytes(100_000), os.urandom(100_000), whole[:9000], whole[:4096] + bytes(100_000)):
            with pytest.raises(ValueError, match=r"LMDB|snapshot"):
                Snapshot(data, txn.id())
        with pytest.raises(ValueError, match=r"LMDB|snapshot"):
            Snapshot(whole, txn.id() + 2)


def test_damaged_pages_give_nothing_or_something_else_but_no_end_of_the_process(environment: Any, tmp_path: Path) -> None:
    rnd = random.Random(2)
    content = fill(environment, rnd, 400)
    whole = (tmp_path / "x.mdb").read_bytes()
    with environment.begin() as txn:
        id = txn.id()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rnd.choice((1, 10, 400))):
            at = rnd.randrange(len(data))
            if rnd.random() < 0.5:
                at = at // 4096 * 4096 + rnd.randrange(40)  # the head of a page
            data[at] = rnd.choice((0, 1, 127, 255, rnd.randrange(256)))
        try:
            snapshot = Snapshot(bytes(data), id)
            tables = [snapshot.table(name) for name in (b"emails", b"blobs")]
        except (ValueError, KeyError):
            continue
        for table in tables:
            for key in rnd.sample(list(content[b"emails"]), 60):
                table.get(key)
