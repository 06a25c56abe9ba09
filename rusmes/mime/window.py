"""Large bodies: a file as a `structure.Buffer`."""

from __future__ import annotations

import errno
import os
from typing import Final

WINDOW_BYTES: Final = 256 * 1024


class FileWindow:
    """A file that can be searched like bytes, one window in memory. A memory map would count as resident, all of it, and a
    search in it would hold the GIL for its whole length.

    Every method raises OSError when the file cannot be read, or is shorter than it was.
    """

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
