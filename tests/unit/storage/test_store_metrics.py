"""What the store counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rusmes import metrics as m
from rusmes.clock import FakeClock
from rusmes.errors import StoreCorrupt, StoreError
from rusmes.metrics import Metrics
from rusmes.model.mailbox import Appended
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import ALICE, append_of, message, queued_of
from tests.unit.storage.test_damage import flip


async def test_commits_batches_and_messages(mail_at: Callable[..., LmdbMailStore]) -> None:
    metrics = Metrics()
    store = mail_at(metrics=metrics)
    await store.open()
    before = metrics.count(m.COMMITS["mail"])
    await asyncio.gather(*(store.append([append_of(store.blobs)]) for _ in range(50)))
    commits = metrics.count(m.COMMITS["mail"]) - before
    assert 1 <= commits < 50
    counts, total = metrics.sample(m.COMMIT_BATCH)
    assert sum(counts) == before + commits
    assert total == before + 50
    assert metrics.count(m.MESSAGES_APPENDED) == 50
    store.measure()
    assert metrics.level(m.STORE_WRITABLE, 0) == 1
    assert metrics.level(m.STORE_BYTES["mail"], 0) > 4096


async def test_failures_by_kind(
    mail_at: Callable[..., LmdbMailStore], queue_at: Callable[..., LmdbQueueStore], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock,
) -> None:  # fmt: skip
    metrics = Metrics()
    store = mail_at()
    await store.open()
    await store.create_account(ALICE, quota_messages=1)
    [made] = await store.append([append_of(store.blobs, message(body=b"unmistakable"))])
    assert isinstance(made, Appended)
    await store.close()
    flip(tmp_path / "mail.mdb", b"unmistakable")
    store = mail_at(metrics=metrics)
    await store.open()
    await store.append([append_of(store.blobs)])
    assert metrics.count(m.STORE_ERRORS["quota"]) == 1
    with pytest.raises(StoreCorrupt):
        (await store.open_message(made.mailbox_id, made.uid)).rendering.content.read()
    assert metrics.count(m.STORE_ERRORS["corrupt"]) == 1
    queue = queue_at(metrics=metrics)
    await queue.open()
    queue._committer._catch_up()
    queue._committer._leads = False
    monkeypatch.setattr(queue._environment, "begin_write", lambda: 1 / 0)
    with pytest.raises(StoreError):
        await queue.put([queued_of(queue.blobs, 1)])
    assert metrics.count(m.STORE_ERRORS["io"]) == 1
    queue.measure()
    assert metrics.level(m.STORE_WRITABLE, 0) == 0
