"""What a commit costs: latency and CPU with 1, 10 and 100 waiting callers, and the parts of it.

`python -m pytest --benchmark benchmarks/test_commit.py` prints a line for each question. Compare runs of one machine, one
after the other: a sync depends on what else the disk has to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from benchmarks.test_store import measure, runner  # noqa: F401
from rusmes._core import redo
from rusmes._core.batch import Batch
from rusmes.clock import SystemClock
from rusmes.metrics import Metrics
from rusmes.storage.commit import Committer
from rusmes.storage.lmdb.environment import Environment
from rusmes.storage.space import Space

TABLES = (b"rows", b"others")
ROW = os.urandom(1400)
LOOP_SECONDS = 1.0


@pytest.fixture
def committer(tmp_path: Path) -> Iterator[Committer]:
    environment = Environment(str(tmp_path / "x.mdb"), TABLES, map_size=1 << 34, is_exclusive=True)
    environment.open()
    environment.share()
    clock = SystemClock()
    committer = Committer(
        environment, name="queue", clock=clock, space=Space(str(tmp_path), clock), metrics=Metrics()
    )  # fmt: skip
    committer.start()
    yield committer
    committer.stop()
    environment.close()


def row_of(number: int) -> Callable[[Batch], None]:
    key = (time.time_ns() + number).to_bytes(16, "big")

    def operation(batch: Batch) -> None:
        batch.put(0, key, ROW)
        batch.put(1, key, ROW[:300])

    return operation


@pytest.mark.parametrize(("waiting", "count"), [(1, 1000), (10, 10_000), (100, 30_000)])
def test_a_commit_of_two_rows(committer: Committer, measure, waiting: int, count: int) -> None:  # noqa: F811
    measure("commit of two rows", lambda n: committer.submit(row_of(n), light=True), count=count, waiting=waiting)


@pytest.mark.parametrize("waiting", [1])
def test_a_commit_by_way_of_the_thread(committer: Committer, measure, waiting: int) -> None:  # noqa: F811
    measure("the same by way of the thread", lambda n: committer.submit(row_of(n)), count=1000, waiting=waiting)


def told(capsys, name: str, step: Callable[[int], None]) -> None:
    seconds, end = [], time.perf_counter() + LOOP_SECONDS
    while (began := time.perf_counter()) < end:
        step(len(seconds))
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    p50, p99 = (seconds[int(len(seconds) * share)] * 1e6 for share in (0.5, 0.99))
    with capsys.disabled():
        print(f"\n{name}: p50 {p50:.0f} us, p99 {p99:.0f} us")


@pytest.mark.parametrize("size", [1, 4, 16, 64, 256])
def test_the_sync_of_a_record(benchmark, capsys, tmp_path: Path, size: int) -> None:
    descriptor = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, bytes(1 << 24), 0)
    os.fsync(descriptor)
    record = redo.encode([{b"key": os.urandom(size * 1024 - 100)}], 1, 1)
    assert record is not None
    places = (1 << 24) // len(record)
    told(capsys, f"record of {size} KiB", lambda n: redo.append(descriptor, record, n % places * len(record)))
    benchmark.pedantic(lambda: None)
    os.close(descriptor)


@pytest.mark.parametrize("is_synced", [True, False])
def test_lmdb_alone(benchmark, capsys, tmp_path: Path, is_synced: bool) -> None:
    with lmdb.open(str(tmp_path / "x"), subdir=False, map_size=1 << 34, max_dbs=2, sync=is_synced) as env:
        tables = [env.open_db(name) for name in TABLES]

        def step(number: int) -> None:
            key = time.time_ns().to_bytes(16, "big")
            with env.begin(write=True) as txn:
                txn.put(key, ROW, db=tables[0])
                txn.put(key, ROW[:300], db=tables[1])

        told(capsys, f"LMDB's commit, {'synced' if is_synced else 'not synced'}", step)
    benchmark.pedantic(lambda: None)
