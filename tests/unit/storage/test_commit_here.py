"""A lone caller's commit is made in its loop's thread, unless that could stop the loop for longer than a moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from rusmes._core.batch import Batch
from rusmes.errors import StoreError
from rusmes.storage import commit
from rusmes.storage.lmdb.layout import Q_META
from rusmes.storage.lmdb.queue_store import LmdbQueueStore

QueueAt = Callable[..., LmdbQueueStore]


@pytest.fixture
def queue(queue_at: QueueAt, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> LmdbQueueStore:
    """Open, and every commit so far was quick, on any machine."""
    monkeypatch.setattr(commit, "QUICK_SECONDS", 60.0)
    queue = queue_at()
    runner.run(queue.open())
    for _ in range(commit.QUICK_COMMITS):
        runner.run(queue._committer.submit(lambda batch: batch.put(Q_META, b"row", b"x")))
    return queue


def where(batch: Batch) -> int:
    batch.put(Q_META, b"row", b"x")
    return threading.get_ident()


async def is_here(queue: LmdbQueueStore, *, light: bool = True) -> bool:
    return await queue._committer.submit(where, light=light) == threading.get_ident()


async def test_a_lone_light_operation_runs_in_the_loop(queue: LmdbQueueStore) -> None:
    assert await is_here(queue)
    assert not await is_here(queue, light=False)
    assert await is_here(queue)


async def test_several_go_to_the_thread_and_so_does_who_comes_after_them(queue: LmdbQueueStore) -> None:
    assert await asyncio.gather(is_here(queue), is_here(queue)) == [False, False]
    assert not await is_here(queue)
    assert await is_here(queue)


async def test_a_slow_commit_sends_the_next_ones_to_the_thread(queue: LmdbQueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "QUICK_SECONDS", 0.0)
    assert await is_here(queue)
    monkeypatch.setattr(commit, "QUICK_SECONDS", 60.0)
    for _ in range(commit.QUICK_COMMITS):
        assert not await is_here(queue)
    assert await is_here(queue)


@pytest.mark.parametrize("leads", [True, False])
async def test_who_might_have_to_wait_goes_to_the_thread(queue: LmdbQueueStore, leads: bool) -> None:
    checkpointer = queue._environment._checkpointer
    assert checkpointer is not None
    queue._committer._catch_up()
    queue._committer._leads = leads
    if not leads:
        checkpointer.shared.writer = 1  # another process
        assert not await is_here(queue)
        assert checkpointer.shared.writer == 0
    checkpointer.is_busy = True
    assert not await is_here(queue)
    checkpointer.is_busy = False
    queue._committer._catch_up()
    checkpointer.let_go()
    assert not await is_here(queue)  # a checkpoint comes first
    assert await is_here(queue)


async def test_an_operation_that_raises_here_is_undone_and_the_next_one_runs(queue: LmdbQueueStore) -> None:
    def broken(batch: Batch) -> None:
        batch.put(Q_META, b"half", b"done")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await queue._committer.submit(broken, light=True)
    assert await queue._committer.submit(lambda batch: batch.get(Q_META, b"half"), light=True) is None
    assert await is_here(queue)


async def test_what_fails_here_closes_the_store_like_anywhere(queue: LmdbQueueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr("rusmes.storage.lmdb.journal.redo.append", broken)
    with pytest.raises(StoreError):
        await is_here(queue)
    assert not queue.is_writable()


async def test_a_map_that_is_full_is_the_threads(queue_at: QueueAt, queue: LmdbQueueStore) -> None:
    await queue.close()
    queue = queue_at(map_size=1 << 20)
    await queue.open()
    places = set()

    def large(batch: Batch) -> int:
        batch.put(Q_META, b"row %d" % len(places), bytes(50_000))
        places.add(len(places))
        return threading.get_ident()

    seen = {await queue._committer.submit(large, light=True) == threading.get_ident() for _ in range(60)}
    assert seen == {True, False}
    assert queue._environment._env.info()["map_size"] > 1 << 20


async def test_a_cancelled_caller_leaves_no_transaction(queue: LmdbQueueStore) -> None:
    task = asyncio.ensure_future(queue._committer.submit(where, light=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_here(queue)
