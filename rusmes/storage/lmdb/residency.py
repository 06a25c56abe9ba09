"""Keeping resident memory small: pages of a database that were looked at once need not stay mapped.

LMDB reads through a shared file mapping. Each touched page, with its neighbours that the kernel maps along, counts as resident
until somebody unmaps it: a worker that delivered 200,000 messages of 3 KB showed 1,068 MB, 46 of them its own; now 100. The
pages are the kernel's cache and would go under pressure, but an operator's alarm or a container's limit sees them. So above a
mark they are given back: the next look finds them in the page cache, and nothing is written or lost, since the mapping is never
written through.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

KEPT_BYTES: Final = 16 * 1024 * 1024
"""File pages that may stay resident, over those of programs and libraries at the start."""

_PAGE_BYTES: Final = mmap.PAGESIZE


class MappedPages:
    """Gives this process's mapped database pages back when they are many. `look` is cheap; call it once a second.

    Without /proc, as in a chroot, it does nothing.
    """

    def __init__(self, directory: str, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._directory = os.path.realpath(directory)
        self._kept_bytes = kept_bytes
        self._base = self.resident()
        self._madvise = ctypes.CDLL(None, use_errno=True).madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    @staticmethod
    def resident() -> int:
        """Bytes of file pages that are mapped now (proc(5), statm: "shared")."""
        try:
            with open("/proc/self/statm", "rb") as file:
                return int(file.read().split()[2]) * _PAGE_BYTES
        except OSError:
            return 0

    def look(self) -> bool:
        """Give the pages back if they are more than may be kept; whether that was so."""
        if self.resident() - self._base <= self._kept_bytes:
            return False
        for start, length in self._mappings():
            # Of a shared file mapping MADV_DONTNEED drops the page table entries alone (madvise(2)).
            self._madvise(start, length, mmap.MADV_DONTNEED)
        self._base = max(self._base, self.resident())  # what is left is not ours to give
        return True

    def _mappings(self) -> list[tuple[int, int]]:
        """(address, length) of the databases under the directory."""
        found = []
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(maxsplit=5)
                if len(fields) == 6 and fields[5].startswith(self._directory) and fields[5].endswith(".mdb"):
                    start, end = (int(text, 16) for text in fields[0].split("-"))
                    found.append((start, end - start))
        return found
