"""Where a body goes while it arrives: memory up to the inline limit, then a file.

A 50 MB message never occupies 50 MB: what is over the limit is written as it comes, and the kernel is asked to start
writing it back early, so that the sync in the commit has little left to do.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Final
from zlib import crc32

from rusmes._core.spool import Collector
from rusmes.errors import StoreError, StoreFull
from rusmes.model.content import Content
from rusmes.model.ids import id_text

# Chunks are joined to one write of about this size; below, the cost is the system call, above it is memory.
WRITE_BYTES: Final = 256 * 1024
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def store_failure(error: OSError, what: str) -> StoreError:
    """The error of the taxonomy for a failed system call: StoreFull when space is out."""
    detail = f"{what}: {error.strerror or error}"
    return StoreFull("no space left", detail) if error.errno in _NO_SPACE else StoreError("storage failure", detail)


class SpoolWriter(Collector):
    """Implements `ContentWriter`. `directory` "" keeps everything in memory.

    Args:
        period_letters: how many letters of the id's text name a directory below `directory`.
    """

    __slots__ = ("_checksum", "_content", "_descriptor", "_directory", "_id", "_on_failure", "_period_letters", "path")

    def __init__(
        self,
        id: bytes,
        directory: str,
        inline_limit: int,
        on_failure: Callable[[StoreError], None] | None = None,
        period_letters: int = 0,
    ) -> None:
        self.spill_above = inline_limit if directory else sys.maxsize
        self.path = ""
        self._id = id
        self._directory = directory
        self._period_letters = period_letters
        self._on_failure = on_failure
        self._descriptor = -1
        self._checksum = 0
        self._content: Content | None = None

    def spill(self) -> None:
        """Write what is in memory to the file.

        Raises:
            StoreFull, StoreError: the writer is aborted.
        """
        try:
            if self._descriptor < 0:
                self._create()
                self.spill_above = WRITE_BYTES - 1
            view = memoryview(self.take_chunks())
            self._checksum = crc32(view, self._checksum)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.abort()
            failure = store_failure(error, f"writing {self.path}")
            if self._on_failure is not None:
                self._on_failure(failure)
            raise failure from None

    def _create(self) -> None:
        name = id_text(self._id)
        directory = os.path.join(self._directory, name[: self._period_letters]) if self._period_letters else self._directory
        self.path = os.path.join(directory, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(3):
            try:
                self._descriptor = os.open(self.path, flags, 0o600)
                return
            except FileNotFoundError:  # the directory is new, or its last file was removed just now
                os.makedirs(directory, mode=0o700, exist_ok=True)
        self._descriptor = os.open(self.path, flags, 0o600)

    def finish(self) -> Content:
        if self._content is not None:
            return self._content
        if self.path:
            if self.in_memory:
                self.spill()
            os.close(self._descriptor)
            self._descriptor = -1
            content = Content(self._id, self.size, self.header_bytes, path=self.path, checksum=self._checksum)
        else:
            content = Content(self._id, self.size, self.header_bytes, data=self.take_chunks())
        self._content = content
        return content

    def abort(self) -> None:
        self.take_chunks()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        content = self._content
        if self.path and not (content is not None and content.stored):  # after the commit the file is the store's
            try:
                os.unlink(content.path if content is not None else self.path)
            except OSError:  # gone already, or the next start removes it
                pass
