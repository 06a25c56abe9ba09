"""Mapped pages of a database are given back, and the database reads as before."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

from rusmes.storage.lmdb.residency import MappedPages


def test_pages_that_were_read_are_given_back(tmp_path: Path) -> None:
    environment = lmdb.open(str(tmp_path / "x.mdb"), subdir=False, map_size=1 << 30)
    with environment.begin(write=True) as txn:
        for number in range(2000):
            txn.put(number.to_bytes(4, "big"), os.urandom(6000))
    pages = MappedPages(str(tmp_path), kept_bytes=1 << 20)

    def read_all() -> int:
        with environment.begin() as txn:
            return sum(len(value) for _, value in txn.cursor())

    assert not pages.look()
    assert read_all() == 2000 * 6000
    resident = MappedPages.resident()
    assert pages.look()
    assert MappedPages.resident() < resident - 8_000_000
    assert read_all() == 2000 * 6000
    environment.close()
