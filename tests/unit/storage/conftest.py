"""LMDB stores on a temporary directory; test functions are coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rusmes.clock import FakeClock
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import INLINE_LIMIT

MAP_BYTES = 1 << 28


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


@pytest.fixture
def mail_at(runner: asyncio.Runner, clock: FakeClock, tmp_path: Path) -> Iterator[Callable[..., LmdbMailStore]]:
    """Opens `mail.mdb` of the directory; what is still open at the end is closed."""
    made: list[LmdbMailStore] = []

    def make(path: Path = tmp_path, **more: Any) -> LmdbMailStore:
        store = LmdbMailStore(str(path), **{"clock": clock, "inline_limit": INLINE_LIMIT, "map_size": MAP_BYTES, **more})
        made.append(store)
        return store

    yield make
    for store in made:
        runner.run(store.close())


@pytest.fixture
def queue_at(runner: asyncio.Runner, clock: FakeClock, tmp_path: Path) -> Iterator[Callable[..., LmdbQueueStore]]:
    made: list[LmdbQueueStore] = []

    def make(path: Path = tmp_path, slot: int = 0, **more: Any) -> LmdbQueueStore:
        options = {"clock": clock, "inline_limit": INLINE_LIMIT, "map_size": MAP_BYTES, **more}
        store = LmdbQueueStore(str(path), slot, **options)
        made.append(store)
        return store

    yield make
    for store in made:
        runner.run(store.close())
