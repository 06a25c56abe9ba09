"""A store that was not closed: what is there afterwards, and what is refused because files do not belong together."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from rusmes import metrics as m
from rusmes._core.batch import Batch
from rusmes.clock import FakeClock
from rusmes.errors import StoreCorrupt, StoreError
from rusmes.metrics import Metrics
from rusmes.storage.api import QueueChange
from rusmes.storage.commit import RECOVERY_SECONDS
from rusmes.storage.lmdb import checkpoint as checkpoints
from rusmes.storage.lmdb.journal import Journal
from rusmes.storage.lmdb.layout import Q_META, QUEUE_TABLES
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import append_of, message, queued_of

MailAt = Callable[..., LmdbMailStore]
QueueAt = Callable[..., LmdbQueueStore]


def ids(queue: LmdbQueueStore) -> list[int]:
    return [int.from_bytes(entry.item.id, "big") for entry in queue.entries()]


async def put(queue: LmdbQueueStore, *numbers: int) -> None:
    for number in numbers:
        await queue.put([queued_of(queue.blobs, number)])


def copy_of(path: Path, to: Path, *names: str) -> Path:
    """What a crash leaves now: everything, or the files that are named."""
    to.mkdir()
    for name in os.listdir(path):
        if (not names and path / name != to) or name in names:
            (shutil.copytree if (path / name).is_dir() else shutil.copy)(path / name, to / name)
    return to


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


async def test_what_was_acknowledged_is_there_after_a_crash(queue_at: QueueAt, tmp_path: Path) -> None:
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1, 2)
    environment = queue._environment
    assert environment._checkpointer is not None
    environment._checkpointer.checkpoint()
    await put(queue, 3, 4)
    await queue.change([QueueChange((2).to_bytes(16, "big"), {}, remove=True)])
    crashed = queue_at(copy_of(tmp_path / "a", tmp_path / "b"))
    await crashed.open()
    assert crashed._environment.recovered == 6  # with what `open` wrote
    assert ids(crashed) == [1, 3, 4]
    assert list(crashed.verify()) == []
    await put(crashed, 5)
    await crashed.close()
    crashed = queue_at(tmp_path / "b")
    await crashed.open()
    assert crashed._environment.recovered == 0
    assert ids(crashed) == [1, 3, 4, 5]


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_crash_at_any_step_of_opening_loses_nothing(
    queue_at: QueueAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    expected = []
    if not is_new:
        queue = queue_at(tmp_path / "a")
        await queue.open()
        await put(queue, 1, 2)
        await queue.close()
        expected = [1, 2]
    copies: list[Path] = []

    def watched(target: type, name: str) -> None:
        original = getattr(target, name)

        def step(*arguments: object) -> None:
            original(*arguments)
            copies.append(copy_of(tmp_path / "a", tmp_path / f"crash{len(copies)}"))

        monkeypatch.setattr(target, name, step)

    watched(Journal, "write_slot")
    watched(checkpoints.Checkpointer, "_mark")
    await queue_at(tmp_path / "a").open()
    monkeypatch.undo()
    assert len(copies) >= (3 if is_new else 2)
    for path in copies:
        crashed = queue_at(path)
        await crashed.open()
        assert ids(crashed) == expected
        await put(crashed, 9)
        await crashed.close()


async def test_a_crash_in_recovery_changes_nothing(queue_at: QueueAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1, 2, 3)
    path = copy_of(tmp_path / "a", tmp_path / "b")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    for _ in range(2):
        monkeypatch.setattr("rusmes.storage.lmdb.recovery.sync_data", broken)
        with pytest.raises(StoreError):
            await queue_at(path).open()
    monkeypatch.undo()
    crashed = queue_at(path)
    await crashed.open()
    assert ids(crashed) == [1, 2, 3]
    assert list(crashed.verify()) == []


async def test_a_reader_recovers_what_nobody_has_open(queue_at: QueueAt, tmp_path: Path) -> None:
    """`store verify` after a power loss: LMDB's own pages may be any."""
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1, 2, 3)
    path = copy_of(tmp_path / "a", tmp_path / "b")
    pages = (path / "queue-0.mdb").read_bytes()
    for at in (144, 4096 + 144):  # both meta pages are of a time whose pages never came to the disk
        number = int.from_bytes(pages[at : at + 8], "little") + 2
        overwrite(path / "queue-0.mdb", at, number.to_bytes(8, "little"))
    reader = queue_at(path, read_only=True)
    await reader.open()
    assert ids(reader) == [1, 2, 3]
    assert list(reader.verify()) == []
    await reader.close()
    writer = queue_at(path)
    await writer.open()
    assert (reader._environment.recovered, writer._environment.recovered) == (4, 0)  # with the one that names the layout


async def test_a_reader_beside_the_writer_recovers_nothing(queue_at: QueueAt, tmp_path: Path) -> None:
    queue = queue_at()
    await queue.open()
    await put(queue, 1, 2)
    script = f"""
        import asyncio
        from rusmes.storage.lmdb.queue_store import LmdbQueueStore
        async def main():
            reader = LmdbQueueStore({str(tmp_path)!r}, 0, read_only=True)
            await reader.open()
            print(reader._environment.recovered, len(list(reader.entries())), list(reader.verify()))
            await reader.close()
        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(script), stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.split() == [b"0", b"2", b"[]"]
    await put(queue, 3)
    assert ids(queue) == [1, 2, 3]


async def test_a_writer_may_come_and_go_beside_a_reader(queue_at: QueueAt, tmp_path: Path) -> None:
    """It is never alone then: once it begins with a clean store, once it goes on with one that was left open."""
    queue = queue_at()
    await queue.open()
    await put(queue, 1)
    await queue.close()
    script = f"""
        import asyncio, sys
        from rusmes.storage.lmdb.queue_store import LmdbQueueStore
        async def main():
            reader = LmdbQueueStore({str(tmp_path)!r}, 0, read_only=True)
            await reader.open()
            for line in sys.stdin:
                print(len(list(reader.entries())), flush=True)
            await reader.close()
        asyncio.run(main())
    """
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    for number in range(1, 4):
        reader.stdin.write(b"\n")
        assert await reader.stdout.readline() == b"%d\n" % number
        queue = queue_at()
        await queue.open()
        assert queue._environment.recovered == 0
        await put(queue, number + 1)
        crashed = queue_at(copy_of(tmp_path, tmp_path / f"b{number}", "queue-0.mdb", "queue-0.mdb.journal"))
        await crashed.open()
        assert ids(crashed) == list(range(1, number + 2))
        await queue.close()
    await reader.communicate(b"")
    await (queue := queue_at()).open()
    assert ids(queue) == [1, 2, 3, 4]


async def test_files_that_do_not_belong_together_are_refused(queue_at: QueueAt, tmp_path: Path) -> None:
    """Each says what is wrong, and touches nothing: with the right files everything is there."""
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1)
    other = queue_at(tmp_path / "other")
    await other.open()
    await put(other, 7, 8, 9)
    assert (ids(queue), ids(other)) == ([1], [7, 8, 9])  # all of it is in the data files
    early = copy_of(tmp_path / "a", tmp_path / "early")
    await put(queue, 2, 3)
    assert ids(queue) == [1, 2, 3]
    assert queue._environment._checkpointer is not None
    queue._environment._checkpointer.checkpoint()
    late = copy_of(tmp_path / "a", tmp_path / "late")
    foreign = copy_of(tmp_path / "other", tmp_path / "foreign")
    for number, (data, journal, reason) in enumerate(
        [
            (late, foreign, "another file's"),
            (early, late, "older than its journal"),
            (late, None, "journal is missing"),
            (None, late, "store is gone"),
        ]
    ):
        path = tmp_path / str(number)
        path.mkdir()
        if data:
            shutil.copy(data / "queue-0.mdb", path)
        if journal:
            shutil.copy(journal / "queue-0.mdb.journal", path)
        before = {name: (path / name).read_bytes() for name in os.listdir(path)}
        for read_only in (False, True):
            if data or not read_only:
                with pytest.raises(StoreCorrupt, match=reason):
                    await queue_at(path, read_only=read_only).open()
        for name, content in before.items():
            assert (path / name).read_bytes() == content
    await (whole := queue_at(late)).open()
    assert ids(whole) == [1, 2, 3]


async def test_a_store_that_was_closed_needs_no_journal(queue_at: QueueAt, tmp_path: Path) -> None:
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1, 2)
    await queue.close()
    alone = queue_at(copy_of(tmp_path / "a", tmp_path / "b", "queue-0.mdb"))
    await alone.open()
    await put(alone, 3)
    assert ids(alone) == [1, 2, 3]
    await alone.close()
    os.unlink(tmp_path / "b/queue-0.mdb")
    alone = queue_at(tmp_path / "b")  # and a journal that says nothing needs no store
    await alone.open()
    assert ids(alone) == []
    await alone.close()
    shutil.copy(tmp_path / "a/queue-0.mdb", tmp_path / "b")  # an older copy, put back while nothing ran
    alone = queue_at(tmp_path / "b")
    await alone.open()
    assert ids(alone) == [1, 2]


async def test_a_store_from_before_there_were_journals(queue_at: QueueAt, tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "queue-0.mdb"), subdir=False, max_dbs=10, map_size=1 << 28) as env:
        for name in QUEUE_TABLES[:-1]:
            env.open_db(name)  # a table is missing, as in an older layout
    (tmp_path / "old").mkdir()
    shutil.copy(tmp_path / "queue-0.mdb", tmp_path / "old")
    reader = queue_at(tmp_path / "old", read_only=True)
    with pytest.raises(StoreError):  # a table is missing; and a reader makes nothing, as root may be one
        await reader.open()
    assert not (tmp_path / "old/queue-0.mdb.journal").exists()
    shutil.rmtree(tmp_path / "old")
    queue = queue_at()
    await queue.open()
    await put(queue, 1, 2)
    crashed = queue_at(copy_of(tmp_path, tmp_path / "b"))
    await crashed.open()
    assert ids(crashed) == [1, 2]


@pytest.mark.parametrize(("at", "data", "reason"), [(20, b"\3", "data version 3"), (24, b"\xde\xc0\xef\xbe", "LMDB 1")])
async def test_another_lmdb_is_refused_before_anything_is_written(
    queue_at: QueueAt, tmp_path: Path, at: int, data: bytes, reason: str
) -> None:
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1)
    path = copy_of(tmp_path / "a", tmp_path / "b")
    for page in (0, 4096):
        overwrite(path / "queue-0.mdb", page + at, data)
    before = (path / "queue-0.mdb").read_bytes()
    with pytest.raises(StoreCorrupt, match=reason):
        await queue_at(path).open()
    assert (path / "queue-0.mdb").read_bytes() == before


async def test_compaction_after_a_crash_and_a_crash_after_compaction(mail_at: MailAt, tmp_path: Path) -> None:
    store = mail_at(tmp_path / "a")
    await store.open()
    await store.append([append_of(store.blobs, message(body=b"x" * 4000)) for _ in range(100)])
    crashed = mail_at(copy_of(tmp_path / "a", tmp_path / "b"))
    await crashed.open()
    await crashed.append([append_of(crashed.blobs, message("two"))])
    await crashed.compact()
    await crashed.append([append_of(crashed.blobs, message("three"))])
    again = mail_at(copy_of(tmp_path / "b", tmp_path / "c"))
    await again.open()
    [account] = await again.accounts()
    assert account.used_messages == 102
    assert list(again.verify()) == []


@pytest.mark.parametrize("is_spilled", [True, False])
async def test_a_batch_without_a_record_is_durable_too(
    queue_at: QueueAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_spilled: bool
) -> None:
    """What was spilled, or is larger than a record, waits for a checkpoint; and so does whoever comes next."""
    monkeypatch.setattr("rusmes._core.batch.MAX_HELD_WRITES", 10)
    if not is_spilled:
        monkeypatch.setattr("rusmes._core.redo.MAX_RECORD_BYTES", 5000)
    queue = queue_at(tmp_path / "a")
    await queue.open()

    def long(batch: Batch) -> None:
        for n in range(35):
            batch.put(Q_META, b"row %d" % n, b"x" * 200)
            if is_spilled:
                batch.spill_if_large()

    for round in range(3):
        await queue._committer.submit(long)
        crashed = queue_at(copy_of(tmp_path / "a", tmp_path / f"b{round}"))
        await crashed.open()
        assert len(await crashed._committer.submit(lambda batch: batch.scan(Q_META, b"row "))) == 35
        await put(queue, round)
        crashed = queue_at(copy_of(tmp_path / "a", tmp_path / f"c{round}"))
        await crashed.open()
        assert ids(crashed) == list(range(round + 1))


class Failing:
    """A sync that fails while it is told to."""

    def __init__(self, real: Callable[..., None]) -> None:
        self.real = real
        self.is_failing = False

    def __call__(self, *arguments: object) -> None:
        if self.is_failing:
            raise OSError(errno.EIO, "Input/output error")
        self.real(*arguments)


async def test_a_journal_that_cannot_be_synced_refuses_and_leaves_no_trace(
    queue_at: QueueAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    from rusmes._core import redo

    append = Failing(redo.append)
    monkeypatch.setattr("rusmes.storage.lmdb.journal.redo.append", append)
    queue = queue_at(tmp_path / "a")
    await queue.open()
    await put(queue, 1)
    append.is_failing = True
    with pytest.raises(StoreError):
        await put(queue, 2)
    assert not queue.is_writable()
    assert ids(queue) == [1]
    clock.advance(RECOVERY_SECONDS)
    append.is_failing = False
    await put(queue, 3)
    assert queue.is_writable()
    crashed = queue_at(copy_of(tmp_path / "a", tmp_path / "b"))
    await crashed.open()
    assert ids(crashed) == [1, 3]


async def test_a_data_file_that_cannot_be_synced_closes_the_store_until_it_is_recovered(
    queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    """The kernel says it once, and takes the pages for clean: only the journal knows then."""
    metrics = Metrics()
    sync = Failing(checkpoints.sync_data)
    monkeypatch.setattr(checkpoints, "sync_data", sync)
    queue = queue_at(metrics=metrics)
    await queue.open()
    checkpointer = queue._environment._checkpointer
    assert checkpointer is not None
    await put(queue, 1)
    assert ids(queue) == [1]
    sync.is_failing = True
    with pytest.raises(OSError, match="error"):
        checkpointer.checkpoint()
    sync.is_failing = False
    assert not queue.is_writable()  # it is said before anybody is refused
    for _ in range(2):
        clock.advance(RECOVERY_SECONDS)
        with pytest.raises(StoreError):
            await put(queue, 2)
        assert not queue.is_writable()
    assert ids(queue) == [1]
    await queue.close()
    await (queue := queue_at()).open()
    assert queue._environment.recovered
    await put(queue, 3)
    assert ids(queue) == [1, 3]
    assert metrics.count(m.STORE_ERRORS["io"]) >= 2


async def test_a_batch_without_a_record_whose_checkpoint_fails_is_gone_after_recovery(
    queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller was refused."""
    sync = Failing(checkpoints.sync_data)
    monkeypatch.setattr(checkpoints, "sync_data", sync)
    queue = queue_at()
    await queue.open()
    await put(queue, 1)
    monkeypatch.setattr("rusmes._core.redo.MAX_RECORD_BYTES", 100)
    sync.is_failing = True
    with pytest.raises(StoreError):
        await put(queue, 2)
    sync.is_failing = False
    await queue.close()
    await (queue := queue_at()).open()
    assert ids(queue) == [1]
    assert list(queue.verify()) == []


async def test_a_process_that_writes_nothing_holds_no_pages(queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL_SECONDS", 0.02)
    queue = queue_at()
    await queue.open()
    await put(queue, 1)
    checkpointer = queue._environment._checkpointer
    assert checkpointer is not None
    for _ in range(500):
        if checkpointer._pin is None:
            break
        await asyncio.sleep(0.02)
    assert checkpointer._pin is None
    assert checkpointer.shared.completed == queue._environment._env.info()["last_txnid"]
    await put(queue, 2)
    assert checkpointer._pin is not None
    assert ids(queue) == [1, 2]


async def test_pages_are_used_again_after_checkpoints(queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "PRESSURE_BYTES", 1 << 20)
    queue = queue_at()
    await queue.open()
    for _ in range(600):
        await queue._committer.submit(lambda batch: batch.put(Q_META, b"row", b"x" * 3000))
    assert queue._environment.used_bytes() < 600 * 4 * 4096


async def test_a_journal_without_room_waits_for_checkpoints(
    queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rusmes.storage.lmdb.journal.MAX_BYTES", 300 * 1024)
    queue = queue_at(tmp_path / "a")
    await queue.open()
    for number in range(60):
        await queue.put([queued_of(queue.blobs, number, data=message(body=b"x" * 3500)) for _ in range(1)])
        await queue._committer.submit(lambda batch: batch.put(Q_META, b"row", b"x" * 20_000))
    crashed = queue_at(copy_of(tmp_path / "a", tmp_path / "b"))
    await crashed.open()
    assert ids(crashed) == list(range(60))
    assert (tmp_path / "a/queue-0.mdb.journal").stat().st_size <= 300 * 1024
