"""Emails shown where they lie to something that only looks at them: searches, sorting, threading.

Rows and inline bodies are looked at in the mapped pages, without a copy and without their checksums; files are mapped while
they are looked at. Keys are looked up in the pages themselves (`_core.pages`), because the binding gives the GIL away for each
of them, and makes two objects; where that is not possible the binding is asked. Measured (CPU, 10,000 emails of 3.6 KB): rows
and bodies looked up 15 ms by the binding, 2 in pages.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from rusmes._core.pages import Snapshot
from rusmes._core.textscan import EmailReader
from rusmes.errors import StoreError
from rusmes.storage.lmdb.blobs import LmdbBlobs
from rusmes.storage.lmdb.environment import Environment, Transaction
from rusmes.storage.lmdb.layout import BLOBS, EMAILS

# Emails looked at in one snapshot: some milliseconds, so that a search keeps no pages from being used again.
EMAILS_AT_ONCE: Final = 512

OpenFile = Callable[[bytes], AbstractContextManager[memoryview]]


class MappedFile:
    """A map of an environment's file of our own, made again when the file has grown or another has taken its place."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._is: tuple[int, int, int] | None = None

    def snapshot(self, txn_id: int) -> Snapshot | None:
        """That of an open transaction; None when it cannot be had."""
        try:
            return Snapshot(self._mapped(), txn_id)
        except (OSError, ValueError):
            return None

    def _mapped(self) -> mmap.mmap:
        with self._lock:
            found = os.stat(self._path)
            now = found.st_dev, found.st_ino, found.st_size
            if self._map is None or now != self._is:
                # The old map goes when the last snapshot in it does.
                with open(self._path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                self._map.madvise(mmap.MADV_RANDOM)
                self._is = now
            return self._map

    def close(self) -> None:
        with self._lock:
            self._map = self._is = None


def scan_emails(
    environment: Environment,
    blobs: LmdbBlobs,
    file: MappedFile,
    account_id: int,
    email_ids: Sequence[bytes],
    reader: EmailReader,
    first: int,
) -> None:
    """As `MailStore.scan_emails` says."""
    open_file = _opener(blobs)
    for start in range(0, len(email_ids), EMAILS_AT_ONCE):
        part = list(email_ids[start : start + EMAILS_AT_ONCE])
        with environment.reading(buffers=True) as txn:
            snapshot = file.snapshot(txn.id())
            if snapshot is None:
                _take(environment, txn, account_id, part, reader, first + start, open_file)
                continue
            emails, bodies = (snapshot.table(environment.tables[table]) for table in (EMAILS, BLOBS))
            for place in reader.take_pages(first + start, account_id, part, emails, bodies, open_file):
                # Gone, most likely; it is for LMDB to say so.
                _take(environment, txn, account_id, part[place : place + 1], reader, first + start + place, open_file)


def _take(
    environment: Environment,
    txn: Transaction,
    account_id: int,
    ids: list[bytes],
    reader: EmailReader,
    first: int,
    open_file: OpenFile,
) -> None:
    with (
        txn.cursor(environment.handles[EMAILS]) as emails,
        txn.cursor(environment.handles[BLOBS]) as bodies,
    ):
        reader.take(first, account_id, ids, emails.getmulti(ids), bodies.getmulti, open_file)


def _opener(blobs: LmdbBlobs) -> OpenFile:
    @contextmanager
    def open_file(id: bytes) -> Iterator[Any]:
        try:
            with open(blobs.path_of(id), "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise StoreError("storage failure", f"reading {blobs.path_of(id)}: {error}") from None
        with mapped:
            mapped.madvise(mmap.MADV_SEQUENTIAL)
            with memoryview(mapped) as view:
                yield view

    return open_file
