"""A file system that is really full: refusals, no loss, and on again when there is room."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rusmes.clock import SystemClock
from rusmes.errors import StoreFull
from rusmes.model.mailbox import Appended
from rusmes.storage.api import QueueChange
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import append_of, message, queued_of

SIZE_MB = 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def test_mail_is_refused_when_the_disk_is_full_and_taken_when_it_is_not(
    mail_at: Callable[..., LmdbMailStore], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rusmes.storage.space.LOOK_SECONDS", 0.0)
    store = mail_at(small_disk, clock=SystemClock())
    await store.open()
    kept: list[int] = []
    is_full = False
    while not is_full and len(kept) < 3000:
        try:
            [made] = await store.append([append_of(store.blobs, message(body=os.urandom(3000)))])
        except StoreFull:
            is_full = True
        else:
            assert isinstance(made, Appended)
            kept.append(made.uid)
    assert is_full
    assert len(kept) > 200
    assert not store.is_writable()
    assert not store.blobs.check_space(1)
    [account] = await store.accounts()
    inbox = await store.mailbox(account.id, "INBOX")
    assert inbox is not None
    assert [found.uid for found in await store.messages(inbox.id)] == kept
    ballast = len(kept) * 2 // 3
    for at in range(0, ballast, 20):
        assert await store.expunge(inbox.id, kept[at : at + 20]) == kept[at : at + 20]
    assert list(store.verify()) == []
    # Nothing was given back to the disk, but the pages are there for new mail.
    assert store.is_writable()
    for _ in range(50):
        [made] = await store.append([append_of(store.blobs, message(body=os.urandom(3000)))])
        assert isinstance(made, Appended)
    assert list(store.verify()) == []


async def test_the_last_page_is_refused_without_a_reserve_too(
    queue_at: Callable[..., LmdbQueueStore], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reserve is taken away, so that the writes themselves meet ENOSPC: in the commit, and while a body is spooled."""
    monkeypatch.setattr("rusmes.storage.space.Space.has_room", lambda self, size: True)
    queue = queue_at(small_disk, clock=SystemClock())
    await queue.open()
    done, refused = [], 0
    for id in range(1, 3000):
        try:
            size = 20_000 if id % 10 == 0 else 3000
            await queue.put([queued_of(queue.blobs, id, data=message(body=os.urandom(size)))])
            done.append(id)
        except StoreFull:
            refused += 1
            if refused > 30 and not queue.is_writable():
                break
            await asyncio.sleep(0)
    assert refused
    assert not queue.is_writable()
    assert [int.from_bytes(entry.item.id, "big") for entry in queue.entries()] == done
    for entry in queue.entries():
        assert len(entry.item.rendering.content.read()) == entry.item.size
    monkeypatch.setattr("rusmes.storage.commit.RECOVERY_SECONDS", 0.0)
    for file in (small_disk / "blobs").rglob("*"):  # somebody makes room
        if file.is_file() and file.stat().st_size > 10_000:
            os.truncate(file, 0)
    await queue.change([QueueChange(id.to_bytes(16, "big"), {}, remove=True) for id in done])
    await queue.put([queued_of(queue.blobs, 9999)])
    assert queue.is_writable()
    assert [int.from_bytes(entry.item.id, "big") for entry in queue.entries()] == [9999]
    assert list(queue.verify()) == []
