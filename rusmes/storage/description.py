"""What is computed of a message once, at delivery, and kept with the email: ENVELOPE, BODYSTRUCTURE, header cache, ids.

A body over the inline limit is read in windows: 50 MB never occupy 50 MB.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from msgspec import Struct

from rusmes.errors import StoreError
from rusmes.mime.envelope import render_envelope
from rusmes.mime.fields import MAX_HEADER_BYTES, FieldNames, pick_fields
from rusmes.mime.identifiers import message_ids
from rusmes.mime.structure import Buffer, body_structure
from rusmes.model.content import Rendering

# What JMAP lists and IMAP's SEARCH and SORT look at (RFC 8621 §4.1.2, RFC 9051 §6.4.4, RFC 5256).
CACHED_FIELDS: Final = FieldNames(
    b"date subject from sender reply-to to cc bcc message-id in-reply-to references content-type list-id list-unsubscribe "
    b"importance x-priority auto-submitted".split()
)
# Larger than this, the cache is left empty, and who asks reads the message.
MAX_CACHED_BYTES: Final = 32 * 1024
WINDOW_BYTES: Final = 256 * 1024


class Description(Struct, frozen=True, gc=False):
    envelope: bytes
    body_structure: bytes
    headers: bytes
    message_ids: tuple[bytes, ...]


def describe(rendering: Rendering) -> Description:
    """Raises StoreError when the content's file cannot be read."""
    try:
        return _describe(rendering)
    except OSError as error:
        raise StoreError("storage failure", f"reading {rendering.content.path}: {error}") from None


def _describe(rendering: Rendering) -> Description:
    content = rendering.content
    data = content.data
    if data is not None:
        return _describe_in(data, rendering)
    with contextlib.closing(_FileBuffer(content.path)) as file:
        return _describe_in(file, rendering)


def _describe_in(buffer: Buffer, rendering: Rendering) -> Description:
    content, skip = rendering.content, rendering.skip
    block = rendering.prefix + buffer[skip : min(content.header_bytes, skip + MAX_HEADER_BYTES)]
    fields, headers = pick_fields(block, CACHED_FIELDS)
    return Description(
        render_envelope(fields),
        body_structure(block, buffer, max(content.header_bytes, skip), content.size),
        headers if len(headers) <= MAX_CACHED_BYTES else b"",
        message_ids(fields),
    )


class _FileBuffer:
    """A file that can be searched like bytes, one window in memory. A memory map would count as resident, all of it, and a
    search in it would hold the GIL for its whole length."""

    __slots__ = ("_at", "_descriptor", "_path", "_size", "_window")

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size
        self._at = 0
        self._window = b""

    def close(self) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: slice) -> bytes:
        start, stop, _ = key.indices(self._size)
        if start >= stop:
            return b""
        if stop - start > WINDOW_BYTES:
            return os.pread(self._descriptor, stop - start, start)
        if not self._at <= start <= stop <= self._at + len(self._window):
            self._read(start)
        return self._window[start - self._at : stop - self._at]

    def _read(self, start: int) -> None:
        self._at = start
        self._window = os.pread(self._descriptor, WINDOW_BYTES, start)
        if not self._window:
            raise OSError(errno.EIO, "the file is shorter than it was", self._path)

    def find(self, sub: bytes, start: int = 0, end: int | None = None, /) -> int:
        end = self._size if end is None else min(end, self._size)
        while end - start >= len(sub):
            if not self._at <= start < self._at + len(self._window) - len(sub) + 1:
                self._read(start)
            found = self._window.find(sub, start - self._at, end - self._at)
            if found >= 0:
                return self._at + found
            # The last octets of the window may be the beginning of what is looked for.
            start = max(self._at + len(self._window) - len(sub) + 1, start + 1)
        return -1

