"""Bodies on their way in."""

from __future__ import annotations

import itertools
import os
import resource
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.errors import StoreError, StoreFull
from rusmes.storage.spool import SpoolWriter

ID = bytes(range(16))


def written(directory: str, pieces: list[bytes], limit: int = 64) -> SpoolWriter:
    writer = SpoolWriter(ID, directory, limit)
    for piece in pieces:
        writer.write(piece)
    return writer


def test_up_to_the_limit_it_stays_in_memory(tmp_path: Path) -> None:
    content = written(str(tmp_path), [b"x" * 32, b"", b"y" * 32]).finish()
    assert (content.data, content.path, content.size) == (b"x" * 32 + b"y" * 32, "", 64)
    assert list(tmp_path.iterdir()) == []


def test_over_the_limit_it_is_a_file(tmp_path: Path) -> None:
    writer = written(str(tmp_path / "new" / "directory"), [b"x" * 32] * 3)
    content = writer.finish()
    assert content.data is None
    assert Path(content.path).read_bytes() == content.read() == b"x" * 96
    assert content.checksum == crc32(b"x" * 96)
    assert os.stat(content.path).st_mode & 0o777 == 0o600
    assert writer.finish() is content


def test_abort_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    for finish in (False, True):
        writer = written(str(tmp_path), [b"x" * 100])
        if finish:
            writer.finish()
        writer.abort()
        writer.abort()
        assert list(tmp_path.iterdir()) == []


def test_a_committed_file_is_not_removed_by_abort(tmp_path: Path) -> None:
    writer = written(str(tmp_path), [b"x" * 100])
    writer.finish().stored = True
    writer.abort()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_large_body_does_not_stay_in_memory(tmp_path: Path) -> None:
    writer = SpoolWriter(ID, str(tmp_path), 64 * 1024)
    piece = b"x" * 65536
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(480):  # 30 MB
        writer.write(piece)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
    assert writer.finish().size == 480 * 65536


def test_a_directory_that_cannot_be_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    failures: list[StoreError] = []
    writer = SpoolWriter(ID, str(tmp_path / "file" / "below"), 10, failures.append)
    with pytest.raises(StoreError) as caught:
        writer.write(b"x" * 11)
    assert not isinstance(caught.value, StoreFull)
    assert failures == [caught.value]


@settings(deadline=None)
@given(
    data=st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"xy: z\r\n"]), max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 40), max_size=8),
)
def test_the_header_ends_at_the_first_empty_line_however_it_is_split(data: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    content = written("", [data[a:b] for a, b in itertools.pairwise(bounds)]).finish()
    at = (b"\r\n" + data).find(b"\r\n\r\n")
    assert content.header_bytes == (at + 2 if at >= 0 else len(data))
    assert content.read() == data
