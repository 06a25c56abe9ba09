"""What survives: restarts, kills, failing commits, a full map. What is refused: a second writer, another layout."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from rusmes._core.batch import Batch
from rusmes._core.delivery import TABLES
from rusmes.clock import FakeClock
from rusmes.errors import NotFound, StoreError, StoreFull
from rusmes.model.mailbox import Appended
from rusmes.model.plan import Refusal
from rusmes.storage.api import QueueChange
from rusmes.storage.commit import RECOVERY_SECONDS
from rusmes.storage.lmdb import layout
from rusmes.storage.lmdb.layout import BLOBS, Q_META
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import ALICE, append_of, content_of, large_message, message, queued_of

MailAt = Callable[..., LmdbMailStore]
QueueAt = Callable[..., LmdbQueueStore]


async def test_numbers_go_on_after_a_restart(mail_at: MailAt) -> None:
    store = mail_at()
    await store.open()
    [first] = await store.append([append_of(store.blobs, key=b"k")])
    account = await store.account(ALICE)
    assert isinstance(first, Appended)
    assert account is not None
    await store.create_mailbox(account.id, "gone")
    await store.delete_mailbox(account.id, "gone")
    await store.expunge(first.mailbox_id, [first.uid])
    before = await store.account(ALICE)
    await store.close()
    store = mail_at()
    await store.open()
    assert await store.account(ALICE) == before
    [again, new] = await store.append([append_of(store.blobs, key=b"k"), append_of(store.blobs)])
    assert isinstance(again, Appended)
    assert isinstance(new, Appended)
    assert (again.duplicate, new.uid, new.uid_validity) == (True, 2, first.uid_validity)
    made = await store.create_mailbox(account.id, "gone")
    assert made.id == first.mailbox_id + 2
    assert made.uid_validity == first.uid_validity + 2


async def test_a_store_that_is_closed_says_so(mail_at: MailAt) -> None:
    store = mail_at()
    with pytest.raises(StoreError):
        await store.append([append_of(store.blobs)])
    await store.open()
    assert store.is_writable()
    await store.close()
    await store.close()
    with pytest.raises(StoreError):
        await store.append([append_of(store.blobs)])
    with pytest.raises(StoreError):
        await store.account(ALICE)
    assert not store.is_writable()


async def test_close_finishes_what_waits(mail_at: MailAt) -> None:
    store = mail_at()
    await store.open()
    waiting = [asyncio.ensure_future(store.append([append_of(store.blobs)])) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    results = [result for [result] in await asyncio.gather(*waiting)]
    assert sorted(result.uid for result in results if isinstance(result, Appended)) == list(range(1, 21))


async def test_a_caller_that_is_cancelled_does_not_take_the_body_along(
    queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is gone while its commit is under way: the entry is there with its body, or is not there."""
    queue = queue_at()
    await queue.open()
    queue._committer._catch_up()
    queue._committer._leads = False
    begun, go_on = threading.Event(), threading.Event()
    begin = queue._environment.begin_write

    def slowly() -> Any:
        begun.set()
        assert go_on.wait(5)
        return begin()

    monkeypatch.setattr(queue._environment, "begin_write", slowly)
    writers = [queue.blobs.writer() for _ in range(2)]
    items = [queued_of(queue.blobs, n) for n in (1, 2)]
    tasks = []
    for item, writer in zip(items, writers, strict=True):
        writer.write(large_message())
        item.rendering.content = writer.finish()
        tasks.append(asyncio.ensure_future(queue.put([item])))
        await asyncio.to_thread(begun.wait, 5)  # the first is under way, the second waits
    for task, writer in zip(tasks, writers, strict=True):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        writer.abort()
    go_on.set()
    await queue.put([queued_of(queue.blobs, 3)])
    assert [entry.item.id[-1] for entry in queue.entries()] == [1, 3]
    first = await queue.get(items[0].id)
    assert first is not None
    assert first.item.rendering.content.read() == large_message()
    assert len(list(queue.blobs.files())) == 1
    assert list(queue.verify()) == []


async def test_an_operation_that_raises_is_undone_alone(queue_at: QueueAt) -> None:
    queue = queue_at()
    await queue.open()

    def broken(batch: Batch) -> None:
        batch.put(Q_META, b"half", b"done")
        batch.after_commit.append(lambda: os.abort())
        raise ZeroDivisionError

    def too_long(batch: Batch) -> None:
        batch.put(Q_META, b"half", b"done")
        batch.put(Q_META, b"k" * 600, b"")

    submit = queue._committer.submit
    results = await asyncio.gather(
        queue.put([queued_of(queue.blobs, 1)]),
        submit(broken),
        queue.put([queued_of(queue.blobs, 2)]),
        submit(too_long),
        submit(lambda batch: batch.get(Q_META, b"half")),
        queue.put([queued_of(queue.blobs, 3)]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [
        type(None), ZeroDivisionError, type(None), StoreError, type(None), type(None)
    ]  # fmt: skip
    assert [entry.item.id[-1] for entry in queue.entries()] == [1, 2, 3]


async def test_a_long_operation_that_fails_late_costs_the_others_nothing(
    queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rusmes._core.batch.MAX_HELD_WRITES", 10)
    queue = queue_at()
    await queue.open()

    def long(batch: Batch) -> None:
        for n in range(35):
            batch.put(Q_META, b"row %d" % n, b"x")
            batch.spill_if_large()
        assert batch.get(Q_META, b"row 3") == b"x"
        assert len(batch.scan(Q_META, b"row ")) == 35
        raise ZeroDivisionError

    results = await asyncio.gather(
        queue.put([queued_of(queue.blobs, 1)]),
        queue._committer.submit(long),
        queue.put([queued_of(queue.blobs, 2)]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), ZeroDivisionError, type(None)]
    assert [entry.item.id[-1] for entry in queue.entries()] == [1, 2]
    assert await queue._committer.submit(lambda batch: batch.scan(Q_META, b"row ")) == []


async def test_expunging_a_long_thread_takes_linear_time(mail_at: MailAt) -> None:
    store = mail_at()
    await store.open()
    taken = []
    for count in (300, 1200):
        data = message(message_id="a@x", references="b@x")
        results = await store.append([append_of(store.blobs, data) for _ in range(count)])
        assert isinstance(results[0], Appended)
        first = results[0].uid
        started = time.process_time()
        await store.expunge(results[0].mailbox_id, range(first, first + count))
        taken.append(time.process_time() - started)
    assert taken[1] < 10 * taken[0] + 0.05  # four times the work; quadratic would be sixteen
    account = await store.account(ALICE)
    assert account is not None
    assert account.used_messages == 0
    assert list(store.verify()) == []


async def test_a_failed_commit_is_no_acknowledgement(
    queue_at: QueueAt, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_at()
    await queue.open()
    queue._committer._catch_up()
    queue._committer._leads = False
    content = content_of(queue.blobs, large_message())

    def failing() -> Any:
        raise lmdb.Error("mdb_txn_commit: Input/output error", 5)

    begin = queue._environment.begin_write
    monkeypatch.setattr(queue._environment, "begin_write", failing)
    item = queued_of(queue.blobs, 1)
    item.rendering.content = content
    results = await asyncio.gather(
        queue.put([item]), queue.put([queued_of(queue.blobs, 2)]), return_exceptions=True
    )
    assert [type(result) for result in results] == [StoreError, StoreError]
    assert not queue.is_writable()
    assert not content.stored
    with pytest.raises(StoreError):  # at once: nobody tries
        await queue.put([queued_of(queue.blobs, 3)])
    monkeypatch.setattr(queue._environment, "begin_write", begin)
    with pytest.raises(StoreError):
        await queue.put([queued_of(queue.blobs, 3)])
    assert list(queue.entries()) == []
    clock.advance(RECOVERY_SECONDS)
    await queue.put([item])
    assert queue.is_writable()
    assert [entry.item.rendering.content.read() for entry in queue.entries()] == [large_message()]


class Broken:
    """While it lasts, the descriptor LMDB writes with is a pipe: whatever the kernel is asked to do with it fails."""

    def __init__(self, path: Path) -> None:
        of_file = [int(fd) for fd in os.listdir("/proc/self/fd") if _target(fd) == str(path)]
        [self.descriptor] = [fd for fd in of_file if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR]

    def __enter__(self) -> None:
        self.kept = os.dup(self.descriptor)
        reader, writer = os.pipe()
        os.dup2(writer, self.descriptor)
        os.close(reader)
        os.close(writer)

    def __exit__(self, *_: object) -> None:
        os.dup2(self.kept, self.descriptor)
        os.close(self.kept)


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""


async def test_a_commit_that_cannot_write_leaves_no_trace(queue_at: QueueAt, clock: FakeClock, tmp_path: Path) -> None:
    queue = queue_at()
    await queue.open()
    queue._committer._catch_up()
    queue._committer._leads = False
    await queue.put([queued_of(queue.blobs, 1)])
    with Broken(tmp_path / "queue-0.mdb"), pytest.raises(StoreError):
        await queue.put([queued_of(queue.blobs, 2)])
    assert not queue.is_writable()
    clock.advance(RECOVERY_SECONDS)
    await queue.put([queued_of(queue.blobs, 3)])
    assert queue.is_writable()
    assert [entry.item.id[-1] for entry in queue.entries()] == [1, 3]
    assert list(queue.verify()) == []


async def test_the_map_grows_when_it_is_full(mail_at: MailAt) -> None:
    store = mail_at(map_size=1 << 20)
    await store.open()
    body = os.urandom(2000)
    for _ in range(30):
        await asyncio.gather(*(store.append([append_of(store.blobs, message(body=body))]) for _ in range(20)))
    account = await store.account(ALICE)
    assert account is not None
    assert account.used_messages == 600
    assert store._environment._env.info()["map_size"] > 1 << 20
    assert list(store.verify()) == []


async def test_another_process_sees_a_map_that_grew(mail_at: MailAt, tmp_path: Path) -> None:
    store = mail_at(map_size=1 << 20)
    await store.open()
    await store.append([append_of(store.blobs)])
    script = f"""
        import asyncio
        from rusmes.storage.lmdb.mail_store import LmdbMailStore
        from tests.contract.mails import append_of, message
        async def main():
            store = LmdbMailStore({str(tmp_path)!r}, map_size=1 << 20)
            await store.open()
            for _ in range(40):
                await store.append([append_of(store.blobs, message(body=b"x" * 4000)) for _ in range(10)])
            await store.close()
        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(script))
    assert await process.wait() == 0
    [made] = await store.append([append_of(store.blobs)])
    assert isinstance(made, Appended)
    assert made.uid == 402
    assert len(await store.messages(made.mailbox_id)) == 402
    assert list(store.verify()) == []


async def test_a_second_writer_of_a_queue_is_refused(queue_at: QueueAt, tmp_path: Path) -> None:
    queue = queue_at()
    await queue.open()
    await queue.put([queued_of(queue.blobs, 1, data=large_message())])
    script = f"""
        import asyncio
        from rusmes.errors import StoreError
        from rusmes.storage.lmdb.queue_store import LmdbQueueStore
        async def main():
            try:
                await LmdbQueueStore({str(tmp_path)!r}, 0).open()
            except StoreError as error:
                assert error.public == "the store is in use", error
            else:
                raise SystemExit("opened twice")
            reader = LmdbQueueStore({str(tmp_path)!r}, 0, read_only=True)
            await reader.open()
            [entry] = reader.entries()
            print(entry.item.id.hex(), len(entry.item.rendering.content.read()), list(reader.verify()))
            try:
                await reader.put([entry.item])
            except StoreError:
                print("refused")
            await reader.close()
        asyncio.run(main())
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().split() == [(1).to_bytes(16, "big").hex(), str(len(large_message())), "[]", "refused"]


async def test_reading_what_does_not_exist(mail_at: MailAt, queue_at: QueueAt) -> None:
    for store in (mail_at(read_only=True), queue_at(read_only=True)):
        with pytest.raises(NotFound):
            await store.open()


async def test_another_layout_is_refused(queue_at: QueueAt) -> None:
    queue = queue_at()
    await queue.open()

    def from_the_future(batch: Batch) -> None:
        from rusmes.storage.lmdb.layout import LAYOUT_KEY, seal

        batch.put(Q_META, LAYOUT_KEY, seal(LAYOUT_KEY, (99).to_bytes(4, "big")))

    await queue._committer.submit(from_the_future)
    await queue.close()
    with pytest.raises(StoreError, match="layout 99"):
        await queue_at().open()


async def test_files_nobody_refers_to_are_removed_at_the_start(mail_at: MailAt, tmp_path: Path) -> None:
    store = mail_at()
    await store.open()
    [kept] = await store.append([append_of(store.blobs, large_message())])
    content_of(store.blobs, large_message())  # a mail whose commit never came
    (tmp_path / "blobs" / "mail" / "stray").write_bytes(b"x")
    assert len(list(store.blobs.files())) == 3
    await store.close()
    store = mail_at()
    await store.open()
    assert len(list(store.blobs.files())) == 1
    assert isinstance(kept, Appended)
    opened = await store.open_message(kept.mailbox_id, kept.uid)
    assert opened.rendering.content.read() == large_message()


async def test_a_body_goes_from_the_queue_to_the_mailbox(mail_at: MailAt, queue_at: QueueAt) -> None:
    """Committed in the queue first, or never there: each store ends with a name of its own."""
    store, queue = mail_at(), queue_at()
    await store.open()
    await queue.open()
    for data in (message(), large_message()):
        item = queued_of(queue.blobs, 1, data=data)
        await queue.put([item])
        entry = await queue.get(item.id)
        assert entry is not None
        append = append_of(store.blobs)
        append.rendering = entry.item.rendering
        [made] = await store.append([append])
        await queue.change([QueueChange(item.id, {}, remove=True)])
        assert isinstance(made, Appended)
        assert (await store.open_message(made.mailbox_id, made.uid)).rendering.content.read() == data
        direct = append_of(queue.blobs, data)
        [made] = await store.append([direct])
        assert isinstance(made, Appended)
        queue.blobs.discard(direct.rendering.content)
        assert (await store.open_message(made.mailbox_id, made.uid)).rendering.content.read() == data
    assert list(queue.blobs.files()) == []
    assert [*store.verify(), *queue.verify()] == []


async def test_a_refused_body_leaves_no_file(mail_at: MailAt, queue_at: QueueAt) -> None:
    """A full mailbox, and a key that is known: fresh bodies go when they are discarded, the queue's keep their own name."""
    store, queue = mail_at(), queue_at()
    await store.open()
    await queue.open()
    await store.create_account(ALICE, quota_messages=1)
    await store.append([append_of(store.blobs, key=b"k")])
    item = queued_of(queue.blobs, 1, data=large_message())
    await queue.put([item])
    entry = await queue.get(item.id)
    assert entry is not None
    for key in (b"", b"k"):
        fresh = append_of(queue.blobs, large_message(), key=key)
        again = append_of(store.blobs, key=key)
        again.rendering = entry.item.rendering
        results = await store.append([fresh, again])
        assert all(isinstance(result, Refusal) or result.duplicate for result in results)
        queue.blobs.discard(fresh.rendering.content)
        queue.blobs.discard(again.rendering.content)
    assert list(store.blobs.files()) == []
    assert entry.item.rendering.content.read() == large_message()
    assert [*store.verify(), *queue.verify()] == []


async def test_a_body_one_caller_is_refused_and_another_keeps(mail_at: MailAt) -> None:
    store = mail_at()
    await store.open()
    await store.create_account(ALICE, quota_messages=1)
    await store.append([append_of(store.blobs)])
    content = content_of(store.blobs, large_message())
    appends = [append_of(store.blobs, account=account) for account in (ALICE, "carol@example.com")]
    for append in appends:
        append.rendering.content = content
    [refused], [kept] = await asyncio.gather(*(store.append([append]) for append in appends))
    assert isinstance(refused, Refusal)
    assert isinstance(kept, Appended)
    assert (await store.open_message(kept.mailbox_id, kept.uid)).rendering.content.read() == large_message()
    assert list(store.verify()) == []


async def test_a_body_that_is_gone_refuses_only_its_own_operation(mail_at: MailAt, queue_at: QueueAt) -> None:
    store, queue = mail_at(), queue_at()
    await store.open()
    await queue.open()
    contents = []
    for data in (message(), large_message()):
        item = queued_of(queue.blobs, 1, data=data)
        await queue.put([item])
        entry = await queue.get(item.id)
        assert entry is not None
        contents.append(entry.item.rendering)
        await queue.change([QueueChange(item.id, {}, remove=True)])
    appends = []
    for rendering in contents:
        append = append_of(store.blobs)
        append.rendering = rendering
        appends.append(append)
    results = await asyncio.gather(
        *(store.append([append]) for append in appends), store.append([append_of(store.blobs)]), return_exceptions=True
    )
    assert isinstance(results[0], NotFound)
    assert isinstance(results[1], NotFound | StoreError)
    assert isinstance(results[2], list)
    assert store.is_writable()
    assert list(store.verify()) == []


async def test_compaction_gives_space_back_and_needs_the_store_alone(mail_at: MailAt, tmp_path: Path) -> None:
    store = mail_at()
    await store.open()
    [made] = await store.append([append_of(store.blobs, message("kept"))])
    assert isinstance(made, Appended)
    await store.append([append_of(store.blobs, message(body=b"x" * 4000)) for _ in range(300)])
    await store.expunge(made.mailbox_id, range(2, 302))
    script = f"""
        import asyncio, sys
        from rusmes.storage.lmdb.mail_store import LmdbMailStore
        async def main():
            store = LmdbMailStore({str(tmp_path)!r}, read_only=True)
            await store.open()
            print("open", flush=True)
            sys.stdin.read()
        asyncio.run(main())
    """
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert await reader.stdout.readline() == b"open\n"
    with pytest.raises(StoreError, match="stop the server"):
        await store.compact()
    await reader.communicate(b"")
    await store.append([append_of(store.blobs)])
    result = await store.compact()
    assert result.bytes_after < result.bytes_before / 4
    assert (tmp_path / "mail.mdb").stat().st_size <= result.bytes_after
    [after] = await store.append([append_of(store.blobs)])
    assert isinstance(after, Appended)
    assert after.uid == 303
    assert (await store.open_message(made.mailbox_id, 1)).rendering.content.read() == message("kept")
    assert list(store.verify()) == []


async def test_space_keeps_its_reserve(mail_at: MailAt, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full below the reserve, open again only a quarter above it; what makes space goes on."""
    free = [1000]

    class Facts:
        f_frsize = 1 << 20
        f_blocks = 20_000  # a reserve of 256 MB

        @property
        def f_bavail(self) -> int:
            return free[0]

    store = mail_at()
    await store.open()
    [made] = await store.append([append_of(store.blobs)])
    assert isinstance(made, Appended)
    monkeypatch.setattr("rusmes.storage.space.os.statvfs", lambda path: Facts())
    clock.advance(2)
    assert store.blobs.check_space(700 << 20)
    assert not store.blobs.check_space(800 << 20)
    assert store.blobs.check_space(1)
    for megabytes, writable in ((255, False), (257, False), (319, False), (321, True), (257, True)):
        free[0] = megabytes
        clock.advance(1)
        assert store.is_writable() is writable, megabytes
        if not writable:
            with pytest.raises(StoreFull):
                await store.append([append_of(store.blobs)])
    free[0] = 1
    clock.advance(1)
    assert await store.expunge(made.mailbox_id, [made.uid]) == [made.uid]


async def test_pages_that_came_free_are_room_for_mail(
    mail_at: MailAt, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk refuses no mail that fits where other mail was, as long as half of the reserve is there."""
    free = [1000]

    class Facts:
        f_frsize = 1 << 20
        f_blocks = 20_000

        @property
        def f_bavail(self) -> int:
            return free[0]

    monkeypatch.setattr("rusmes.storage.space.os.statvfs", lambda path: Facts())
    store = mail_at(inline_limit=60_000)
    await store.open()
    body = b"x" * 70 + b"\r\n"
    large = message(body=body * 800)
    await store.append([append_of(store.blobs, large) for _ in range(60)])
    [inbox] = [box for box in await store.mailboxes(1) if box.name == "INBOX"]
    free[0] = 200
    clock.advance(2)
    assert not store.is_writable()
    assert store._environment.free_bytes() < 200_000
    await store.expunge(inbox.id, range(1, 41))
    inside = store._environment.free_bytes()
    assert 40 * len(large) * 0.9 < inside < 42 * 65_536
    assert not store.is_writable()  # looked at a moment ago
    clock.advance(2)
    assert store.is_writable()
    assert store.blobs.check_space(50_000)
    assert not store.blobs.check_space(70_000)  # would be a file
    for _ in range(12):
        await store.append([append_of(store.blobs, large)])
    with pytest.raises(StoreFull):  # half of what came free is taken
        await asyncio.gather(*[store.append([append_of(store.blobs, large)]) for _ in range(10)])
    free[0] = 100
    clock.advance(2)
    assert not store.is_writable()
    assert list(store.verify()) == []


async def test_a_blob_row_is_one_put(mail_at: MailAt) -> None:
    """A shared body costs one row; the count's row exists only while there is more than one reference."""
    store = mail_at()
    await store.open()
    content = content_of(store.blobs, message())
    items = [append_of(store.blobs) for _ in range(3)]
    for item in items:
        item.rendering.content = content
    results = await store.append(items)
    assert isinstance(results[0], Appended)
    rows = await store._committer.submit(lambda batch: (len(batch.scan(BLOBS, b"")), len(batch.scan(BLOBS + 1, b""))))
    assert rows == (1, 1)
    await store.expunge(results[0].mailbox_id, [1, 2])
    rows = await store._committer.submit(lambda batch: (len(batch.scan(BLOBS, b"")), len(batch.scan(BLOBS + 1, b""))))
    assert rows == (1, 0)


async def test_the_file_is_longer_than_used_while_it_is_open_and_not_afterwards(queue_at: QueueAt, tmp_path: Path) -> None:
    await (queue := queue_at()).open()
    await queue.put([queued_of(queue.blobs, 1)])
    path = tmp_path / "queue-0.mdb"
    assert path.stat().st_size > 128 * 1024
    await queue.close()
    assert path.stat().st_size < 128 * 1024
    await (queue := queue_at()).open()
    assert len(list(queue.entries())) == 1
    assert not list(queue.verify())


def test_tables_have_the_same_numbers_in_c() -> None:
    assert TABLES == (
        layout.ACCOUNTS, layout.MAILBOXES, layout.MESSAGES, layout.EMAILS, layout.THREADS, layout.MESSAGE_IDS, layout.CHANGES,
    )  # fmt: skip


async def test_a_restored_store_has_new_uid_validities_and_goes_on_counting(mail_at: MailAt) -> None:
    await (store := mail_at()).open()
    [made] = await store.append([append_of(store.blobs, message("one"))])
    assert isinstance(made, Appended)
    before = {box.name: box for box in await store.mailboxes(made.account_id)}
    assert await store.renew_uid_validity() == len(before)
    after = {box.name: box for box in await store.mailboxes(made.account_id)}
    newest = max(box.uid_validity for box in before.values())
    assert all(after[name].uid_validity > newest for name in before)
    assert len({box.uid_validity for box in after.values()}) == len(after)
    assert all(after[name].highest_modseq > before[name].highest_modseq + 1000 for name in before)
    [again] = await store.append([append_of(store.blobs, message("two"))])
    assert isinstance(again, Appended)
    assert again.uid == made.uid + 1
    assert len(await store.messages(made.mailbox_id)) == 2
    assert not list(store.verify())


async def test_who_comes_while_another_process_writes_joins_the_batch(
    queue_at: QueueAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (queue := queue_at()).open()
    environment = queue._environment
    begin, entered, go, begun = environment.begin_write, threading.Event(), threading.Event(), []

    def begin_later() -> Any:
        entered.set()
        assert go.wait(5)
        begun.append(1)
        return begin()

    monkeypatch.setattr(environment, "begin_write", begin_later)
    first = asyncio.create_task(queue.put([queued_of(queue.blobs, 1)]))
    await asyncio.to_thread(entered.wait, 5)
    second = asyncio.create_task(queue.put([queued_of(queue.blobs, 2)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, second)
    assert len(begun) == 1
    assert len(list(queue.entries())) == 2
