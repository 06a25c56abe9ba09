"""Bodies of an LMDB store: small ones in rows, large ones in files, both counted by reference.

A file lies under `blobs/<store>/<period>/<id>`, where a period is 17 minutes of the id's time: new files meet in few
directories, which are synced once a batch. A body that another store's writer made is moved here before the commit; one that
another store has committed is linked, so that each store removes its own name. A file whose commit never happened has no row,
and is removed at the next start of a process that has the store alone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from rusmes._core.batch import Batch
from rusmes._core.rows import crc32
from rusmes.errors import NotFound, StoreCorrupt, StoreError
from rusmes.model.content import CHUNK_BYTES, Content
from rusmes.model.ids import IdSource, id_text, parse_id
from rusmes.storage.lmdb.environment import Environment
from rusmes.storage.lmdb.layout import BLOB_HEAD_BYTES, FILE, INLINE, BlobHead, pack_count, unpack_count
from rusmes.storage.space import Space
from rusmes.storage.spool import SpoolWriter, store_failure
from rusmes.storage.writeback import start_writeback, sync_directory

PERIOD_LETTERS: Final = 6
"""Letters of the id's text that name its directory: 28 bits of 48, so a directory holds 2^20 ms."""


# A larger body is described and synced in the executor before it comes to the commit thread, where others would wait for it.
LARGE_BYTES: Final = 1 << 20


MAX_REFERRED_ONCE: Final = 20_000
"""100 bytes each: those that are delivered within seconds, and not a backlog."""


class Tables(NamedTuple):
    blobs: int
    references: int


class StoredContent(Content):
    """A content that is in the store; the bytes of a row are read, and checked, each time they are asked for."""

    __slots__ = ("_blobs",)

    def __init__(self, blobs: LmdbBlobs, id: bytes, size: int, header_bytes: int, *, path: str, checksum: int) -> None:
        self._blobs = blobs
        self.id = id
        self.size = size
        self.header_bytes = header_bytes
        self.path = path
        self.stored = True
        self.checksum = checksum

    @property
    def data(self) -> bytes | None:  # type: ignore[override]
        """Raises NotFound when it was removed meanwhile, StoreCorrupt."""
        return None if self.path else self._blobs.load(self.id)

    def read(self) -> bytes:
        data = self.data
        return data if data is not None else b"".join(self.chunks())

    def chunks(self, skip: int = 0) -> Iterator[bytes]:
        data = self.data
        if data is None:
            yield from super().chunks(skip)
            return
        for start in range(skip, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]


class LmdbBlobs:
    """Implements `BlobStore`."""

    def __init__(
        self,
        environment: Environment,
        directory: str,
        tables: Tables,
        *,
        ids: IdSource,
        inline_limit: int,
        space: Space,
        has_one_writer: bool = False,
    ) -> None:
        self.directory = directory
        self._environment = environment
        self._tables = tables
        self._ids = ids
        self._inline_limit = inline_limit
        self._space = space
        self._known_directories: set[str] = set()
        self._has_one_writer = has_one_writer
        self._referred_once: set[bytes] = set()
        """Inline bodies that this process put and that have one reference; changed after commits only. Not all of them, and
        none where other processes write: they could refer to a body too."""

    def writer(self) -> SpoolWriter:
        return SpoolWriter(self._ids.next_id(), self.directory, self._inline_limit, self._note_failure, PERIOD_LETTERS)

    def _note_failure(self, error: StoreError) -> None:
        if error.public == "no space left":
            self._space.mark_full()

    def discard(self, content: Content) -> None:
        if content.path and not content.stored:
            self.remove_file(content.path)

    def check_space(self, size: int) -> bool:
        return self._space.admits(size) if size <= self._inline_limit else self._space.has_room(size)

    def path_of(self, id: bytes) -> str:
        name = id_text(id)
        return os.path.join(self.directory, name[:PERIOD_LETTERS], name)

    # Before the transaction

    def preparations(self, contents: Sequence[Content]) -> list[FilePreparation]:
        """What the commit has to do first for the contents that are in files."""
        return [FilePreparation(self, content) for content in contents if content.path]

    def adopt(self, content: Content, *, keep: bool) -> None:
        """Give a content's file its place here; `keep` leaves the other name, which another store has committed."""
        path = self.path_of(content.id)
        if content.path == path:
            return
        place = _link if keep else os.rename
        try:
            try:
                place(content.path, path)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                place(content.path, path)
        except FileExistsError:  # linked before
            pass
        except FileNotFoundError:
            raise NotFound("the body is gone", content.path) from None
        except OSError as error:
            raise store_failure(error, f"moving {content.path}") from None
        if not keep:
            content.path = path

    def sync(self, id: bytes, synced_directories: set[str]) -> None:
        """Make the file and its names durable."""
        path = self.path_of(id)
        directory = os.path.dirname(path)
        try:
            sync_file(path)
            if directory not in self._known_directories:
                sync_directory(self.directory)
                sync_directory(os.path.dirname(self.directory))
                self._known_directories.add(directory)
            if directory not in synced_directories:
                sync_directory(directory)
                synced_directories.add(directory)
        except OSError as error:
            raise store_failure(error, f"syncing {path}") from None

    # Inside the transaction

    def refer(self, batch: Batch, content: Content) -> bool:
        """Count one more reference; the first one stores the body. Whether it is in a file.

        A content that is not stored yet can only be here if this batch put it: its id was made for it, and the commit marks it
        before the next batch begins. That saves a look into the table for every new mail.
        """
        key = content.id
        if batch.has(self._tables.blobs, key) if content.stored else batch.holds(self._tables.blobs, key):
            row = batch.get(self._tables.references, key)
            count = unpack_count(key, row) if row is not None else 1
            batch.put(self._tables.references, key, pack_count(key, count + 1))
            if self._has_one_writer:
                batch.after_commit.append(partial(self._referred_once.discard, key))
            return bool(content.path)
        if content.path:
            head = BlobHead(FILE, content.size, content.header_bytes, content.checksum)
            batch.put(self._tables.blobs, key, head.pack(key))
        else:
            data = content.data or b""
            head = BlobHead(INLINE, content.size, content.header_bytes, crc32(data))
            batch.put(self._tables.blobs, key, head.pack(key, data))
        if not content.stored:
            batch.after_commit.append(partial(self._note_stored, content))
        return bool(content.path)

    def _note_stored(self, content: Content) -> None:
        content.stored = True
        if self._has_one_writer and not content.path and len(self._referred_once) < MAX_REFERRED_ONCE:
            self._referred_once.add(content.id)

    def forget(self) -> None:
        """Another process may have written."""
        self._referred_once.clear()

    def is_referred_once(self, batch: Batch, id: bytes) -> bool:
        """Whether it is known, without a look into the store, that an inline body has one reference. (Each look gives the GIL
        away to a loop that may not give it back soon.)"""
        return id in self._referred_once and not batch.holds(self._tables.references, id)

    def is_here(self, batch: Batch, id: bytes) -> bool:
        return batch.has(self._tables.blobs, id)

    def refer_again(self, batch: Batch, id: bytes) -> None:
        """One more reference to a body that is here."""
        row = batch.get(self._tables.references, id)
        batch.put(self._tables.references, id, pack_count(id, (unpack_count(id, row) if row is not None else 1) + 1))

    def release(self, batch: Batch, id: bytes, is_file: bool) -> None:
        """One reference less; the last one takes the body along, and its file after the commit."""
        is_last = self.is_referred_once(batch, id)
        if self._has_one_writer:
            batch.after_commit.append(partial(self._referred_once.discard, id))
        row = None if is_last else batch.get(self._tables.references, id)
        if row is None:
            batch.delete(self._tables.blobs, id)
            if is_file:
                batch.after_commit.append(lambda: self.remove_file(self.path_of(id)))
            return
        count = unpack_count(id, row) - 1
        batch.put(self._tables.references, id, pack_count(id, count) if count > 1 else None)

    # Reading

    def load(self, id: bytes) -> bytes:
        """The bytes of an inline body.

        Raises:
            NotFound: it is not there (any more).
            StoreCorrupt: the checksum does not fit.
        """
        with self._environment.reading(buffers=True) as txn:
            row = txn.get(id, db=self._environment.handles[self._tables.blobs])
            if row is None:
                raise NotFound("the body is gone", f"blob {id.hex()}")
            head = BlobHead.unpack(id, row)
            data = bytes(row[BLOB_HEAD_BYTES:])
            if len(data) != head.size or crc32(data) != head.checksum:
                raise StoreCorrupt("the store is damaged", f"blob {id.hex()}: checksum")
        return data

    def content(self, id: bytes) -> StoredContent:
        """Raises NotFound, StoreCorrupt."""
        with self._environment.reading(buffers=True) as txn:
            row = txn.get(id, db=self._environment.handles[self._tables.blobs])
            if row is None:
                raise StoreCorrupt("the store is damaged", f"blob {id.hex()} is missing")
            head = BlobHead.unpack(id, row)
        return self.content_of(id, head.size, head.header_bytes, is_file=head.kind == FILE, checksum=head.checksum)

    def content_of(self, id: bytes, size: int, header_bytes: int, *, is_file: bool, checksum: int = -1) -> StoredContent:
        path = self.path_of(id) if is_file else ""
        return StoredContent(self, id, size, header_bytes, path=path, checksum=checksum)

    # Files

    def remove_file(self, path: str) -> None:
        """Remove a file, and its directory when it was the last one."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        directory = os.path.dirname(path)
        try:
            os.rmdir(directory)
        except OSError:
            return
        self._known_directories.discard(directory)

    def files(self) -> Iterator[tuple[bytes | None, str]]:
        """(id, path) of every file; the id is None for what has no place here."""
        for directory, _, names in os.walk(self.directory):
            for name in sorted(names):
                path = os.path.join(directory, name)
                try:
                    id = parse_id(name)
                except ValueError:
                    yield None, path
                else:
                    yield (id if self.path_of(id) == path else None), path

    def remove_orphans(self) -> int:
        """Remove files no row names. Only for a process that has the store alone, before it writes."""
        orphans = [path for id, path in self.files() if id is None or not self.has_row(id)]
        for path in orphans:
            self.remove_file(path)
        return len(orphans)

    def has_row(self, id: bytes) -> bool:
        with self._environment.reading(buffers=True) as txn:
            return txn.get(id, db=self._environment.handles[self._tables.blobs]) is not None


class FilePreparation:
    """Implements `commit.Prepared` for a content in a file.

    The content counts as stored from here on, so that a caller who is cancelled meanwhile does not remove the file of a
    commit that goes on without it; `undo` takes that back.
    """

    __slots__ = ("_blobs", "_content", "_is_ours", "_was_stored")

    def __init__(self, blobs: LmdbBlobs, content: Content) -> None:
        self._blobs = blobs
        self._content = content
        self._was_stored = content.stored
        self._is_ours = content.stored and content.path == blobs.path_of(content.id)

    def begin(self) -> None:
        if self._is_ours:
            return
        content = self._content
        content.stored = True
        self._blobs.adopt(content, keep=self._was_stored)
        try:
            descriptor = os.open(self._blobs.path_of(content.id), os.O_RDONLY | os.O_CLOEXEC)
            try:
                start_writeback(descriptor)
                if content.checksum < 0:
                    content.checksum = file_checksum(self._blobs.path_of(content.id))
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise NotFound("the body is gone", content.path) from None
        except OSError as error:
            raise store_failure(error, f"reading {content.path}") from None

    def finish(self, synced_directories: set[str]) -> None:
        if not self._is_ours:
            self._blobs.sync(self._content.id, synced_directories)

    def undo(self) -> None:
        self._content.stored = self._was_stored

    def check_referred(self, batch: Batch) -> None:
        """At the end of an operation that may have decided not to keep the body (a mailbox is full, a key is known)."""
        if not self._is_ours and not self._blobs.is_here(batch, self._content.id):
            batch.after_commit.append(self._forget)

    def _forget(self) -> None:
        """The caller may discard the file, as before; the name that was made here for another store's file goes.

        Unless another operation of the batch, after this one, kept the body.
        """
        if self._blobs.has_row(self._content.id):
            return
        if self._was_stored:
            self._blobs.remove_file(self._blobs.path_of(self._content.id))
        self.undo()

    def abandon(self) -> None:
        self.undo()
        self._blobs.discard(self._content)


async def prepare_large(preparations: Sequence[FilePreparation]) -> None:
    """Sync files outside of the commit thread; it does it again, for nothing."""
    try:
        await asyncio.get_running_loop().run_in_executor(None, _prepare_now, preparations)
    except BaseException:
        for preparation in preparations:
            preparation.undo()
        raise


def _prepare_now(preparations: Sequence[FilePreparation]) -> None:
    for preparation in preparations:
        preparation.begin()
        preparation.finish(set())


def _link(source: str, target: str) -> None:
    """Another name for the same bytes; a copy where the file system cannot do that."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copyfile(source, target)


def sync_file(path: str) -> None:
    """Raises OSError, also when the file has lost its name meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        if not os.fstat(descriptor).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "removed while it was synced", path)
    finally:
        os.close(descriptor)


def file_checksum(path: str) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
