"""The stores and accounts of a configuration, opened from outside the server.

The mail store may be opened beside a running server; a queue may only be read then, its changes go through the control socket.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from rusmes._core.counters import Metrics
from rusmes.auth.file import FileBackend
from rusmes.cli.context import give_to_server_user
from rusmes.clock import SystemClock
from rusmes.config.schema import Config
from rusmes.errors import NotFound
from rusmes.events.api import Events, NullEvents
from rusmes.events.writer import EventLog, directory_of
from rusmes.storage.ledger import FILE_NAME, LmdbLedger
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore

_QUEUE_FILE = re.compile(r"queue-(\d+)\.mdb")


@asynccontextmanager
async def accounts_of(config: Config) -> AsyncIterator[FileBackend]:
    """The file of accounts; a running server notices its changes at once."""
    path = os.path.join(config.storage.path, config.auth.path)
    backend = FileBackend.of(config)
    try:
        yield backend
    finally:
        backend.close()
        give_to_server_user(config, path, f"{path}.lock")


@asynccontextmanager
async def mail_store_of(config: Config, *, read_only: bool = False) -> AsyncIterator[LmdbMailStore]:
    """The mail store.

    Raises:
        NotFound: it is to be read, and no server or command has made it yet.
        StoreError
    """
    storage = config.storage
    if not read_only:
        os.makedirs(storage.path, mode=0o700, exist_ok=True)
    store = LmdbMailStore(storage.path, inline_limit=storage.inline_limit, map_size=storage.map_size, read_only=read_only)
    try:
        await store.open()
    except BaseException:
        await store.close()
        raise
    try:
        yield store
    finally:
        await store.close()
        if not read_only:
            made = glob.glob(os.path.join(glob.escape(storage.path), "mail.mdb*"))
            blobs = os.path.join(storage.path, "blobs")
            give_to_server_user(config, storage.path, *made, blobs, os.path.join(blobs, "mail"))


@contextmanager
def ledger_of(config: Config, *, read_only: bool = False) -> Iterator[LmdbLedger | None]:
    """The small records of the data directory, beside a running server or without one; None: there are none to be read.

    Raises:
        StoreError
    """
    path = config.storage.path
    if read_only and not os.path.exists(os.path.join(path, FILE_NAME)):
        yield None
        return
    if not read_only:
        os.makedirs(path, mode=0o700, exist_ok=True)
    try:
        with LmdbLedger(path, read_only=read_only) as ledger:
            yield ledger
    finally:
        if not read_only:
            give_to_server_user(config, path, *glob.glob(os.path.join(glob.escape(path), f"{FILE_NAME}*")))


@contextmanager
def events_of(config: Config) -> Iterator[Events]:
    """The event log, for what is done while the server is stopped."""
    if not config.events.enabled:
        yield NullEvents()
        return
    directory = directory_of(config.events, config.storage.path)
    log = EventLog(config.events, directory, "cli", clock=SystemClock(), metrics=Metrics())
    log.start()
    try:
        yield log
    finally:
        log.stop()
        give_to_server_user(config, directory, *glob.glob(os.path.join(glob.escape(directory), "*.cli.*")))


def queue_slots(config: Config) -> list[int]:
    """The slots that have a queue on the disk."""
    try:
        names = os.listdir(config.storage.path)
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for name in names if (match := _QUEUE_FILE.fullmatch(name)))


@asynccontextmanager
async def queue_stores_of(config: Config, *, read_only: bool) -> AsyncIterator[list[LmdbQueueStore]]:
    """Every queue of the data directory, one for each worker slot.

    Raises:
        StoreError: among others, when another process writes one of them.
    """
    storage = config.storage
    opened: list[LmdbQueueStore] = []
    try:
        for slot in queue_slots(config):
            store = LmdbQueueStore(
                storage.path, slot, inline_limit=storage.inline_limit, map_size=storage.map_size, read_only=read_only
            )
            try:
                await store.open()
            except NotFound:
                continue  # adopted and removed since the directory was read
            opened.append(store)
        yield opened
    finally:
        for store in opened:
            await store.close()
