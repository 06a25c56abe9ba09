"""Where a body goes while it arrives: memory up to the inline limit, then a file.

A 50 MB message never occupies 50 MB: what is over the limit is written as it comes, and the kernel is asked to start
writing it back early, so that the sync in the commit has little left to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final
from zlib import crc32

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


class SpoolWriter:
    """Implements `ContentWriter`. `directory` "" keeps everything in memory."""

    __slots__ = (
        "_checksum", "_chunks", "_content", "_descriptor", "_directory", "_header_bytes", "_id", "_inline_limit",
        "_on_failure", "_pending_bytes", "_tail", "path", "size",
    )  # fmt: skip

    def __init__(
        self, id: bytes, directory: str, inline_limit: int, on_failure: Callable[[StoreError], None] | None = None
    ) -> None:
        self.size = 0
        self.path = ""
        self._id = id
        self._directory = directory
        self._inline_limit = inline_limit
        self._on_failure = on_failure
        self._chunks: list[bytes] = []
        self._pending_bytes = 0
        self._descriptor = -1
        self._checksum = 0
        self._header_bytes = -1
        self._tail = b"\r\n"  # as if a line had ended before the first byte: a message may begin with the empty line
        self._content: Content | None = None

    def write(self, data: bytes) -> None:
        if not data:
            return
        if self._header_bytes < 0:
            self._find_header_end(data)
        self._chunks.append(data)
        self._pending_bytes += len(data)
        self.size += len(data)
        if self._directory and (self._pending_bytes >= WRITE_BYTES if self.path else self.size > self._inline_limit):
            self._spill()

    def _find_header_end(self, data: bytes) -> None:
        """The header ends with the first empty line (RFC 5322 §2.1); it may arrive in pieces."""
        at = data.find(b"\r\n\r\n")
        joint = (self._tail + data[:3]).find(b"\r\n\r\n")
        if joint >= 0:
            self._header_bytes = self.size + joint + 4 - len(self._tail)
        elif at >= 0:
            self._header_bytes = self.size + at + 4
        else:
            self._tail = (self._tail + data[-3:])[-3:]

    def _spill(self) -> None:
        try:
            if self._descriptor < 0:
                self.path = os.path.join(self._directory, id_text(self._id))
                self._descriptor = self._create()
            view = memoryview(b"".join(self._chunks))
            self._checksum = crc32(view, self._checksum)
            self._chunks.clear()
            self._pending_bytes = 0
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.abort()
            failure = store_failure(error, f"writing {self.path}")
            if self._on_failure is not None:
                self._on_failure(failure)
            raise failure from None

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(3):
            try:
                return os.open(self.path, flags, 0o600)
            except FileNotFoundError:  # the directory is new, or its last file was removed just now
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
        return os.open(self.path, flags, 0o600)

    def finish(self) -> Content:
        if self._content is not None:
            return self._content
        if self.path and self._chunks:
            self._spill()
        header_bytes = self._header_bytes if self._header_bytes >= 0 else self.size
        if self.path:
            os.close(self._descriptor)
            self._descriptor = -1
            content = Content(self._id, self.size, header_bytes, path=self.path, checksum=self._checksum)
        else:
            chunks = self._chunks
            content = Content(self._id, self.size, header_bytes, data=chunks[0] if len(chunks) == 1 else b"".join(chunks))
            self._chunks = []
        self._content = content
        return content

    def abort(self) -> None:
        self._chunks = []
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        content = self._content
        if self.path and not (content is not None and content.stored):  # after the commit the file is the store's
            try:
                os.unlink(content.path if content is not None else self.path)
            except OSError:  # gone already, or the next start removes it
                pass
