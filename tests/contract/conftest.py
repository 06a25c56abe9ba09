"""Every backend, under one name. Test functions are coroutines; after each one its store must verify clean."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusmes.clock import FakeClock
from rusmes.storage.api import MailStore, QueueStore
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from rusmes.storage.memory import MemoryMailStore, MemoryQueueStore
from tests.contract.mails import INLINE_LIMIT

MAP_BYTES = 1 << 30


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    pyfuncitem.funcargs["runner"].run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True)
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, runner: asyncio.Runner, clock: FakeClock, tmp_path: Path) -> Iterator[MailStore]:
    store: MailStore
    if request.param == "memory":
        store = MemoryMailStore(clock=clock, inline_limit=INLINE_LIMIT)
    else:
        store = LmdbMailStore(str(tmp_path), clock=clock, inline_limit=INLINE_LIMIT, map_size=MAP_BYTES)
    runner.run(store.open())
    yield store
    assert list(store.verify()) == []
    runner.run(store.close())


@pytest.fixture(params=["memory", "lmdb"])
def queue(request: pytest.FixtureRequest, runner: asyncio.Runner, clock: FakeClock, tmp_path: Path) -> Iterator[QueueStore]:
    store: QueueStore
    if request.param == "memory":
        store = MemoryQueueStore(clock=clock, inline_limit=INLINE_LIMIT)
    else:
        store = LmdbQueueStore(str(tmp_path), 0, clock=clock, inline_limit=INLINE_LIMIT, map_size=MAP_BYTES)
    runner.run(store.open())
    yield store
    assert list(store.verify()) == []
    runner.run(store.close())
