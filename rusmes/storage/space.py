"""How much room the file system has left, looked at once a second.

Two marks, so that a server whose disk is nearly full does not switch with every mail: it is full when less than the
reserve would be left, and stays so until a quarter more than the reserve is free. The reserve is what outcomes of deliveries,
expunges and compaction may still use: they are how space comes back.
"""

from __future__ import annotations

import os
from typing import Final

from rusmes.clock import Clock

MAX_RESERVE_BYTES: Final = 256 * 1024 * 1024
RESERVE_SHARE: Final = 20
"""The reserve is at most one part in this many of the file system, for small ones."""
LARGE_SHARE: Final = 8
LOOK_SECONDS: Final = 1.0


class Space:
    __slots__ = ("_clock", "_free", "_is_full", "_looked", "_path", "_reserve")

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._free = 0
        self._reserve = 0
        self._is_full = False
        self._looked = float("-inf")

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit beside the reserve."""
        now = self._clock.monotonic()
        if not 0 <= now - self._looked < LOOK_SECONDS:
            self._look()
            self._looked = now
        if not self._is_full and self._free - size < self._reserve:
            # A mail that is large beside the reserve does not close the store for smaller ones.
            self._is_full = size <= self._reserve // LARGE_SHARE
            return False
        return not self._is_full

    def take(self, size: int) -> bool:
        """Like `has_room`, and counts the bytes as gone until the next look: a second is long for a small disk."""
        if not self.has_room(size):
            return False
        self._free -= size
        return True

    def mark_full(self) -> None:
        """A write failed for want of space, whatever the file system says; the next look decides."""
        self._is_full = True
        self._looked = self._clock.monotonic()

    @property
    def is_full(self) -> bool:
        return not self.has_room(0)

    def _look(self) -> None:
        """What root may use beyond others (`f_bavail`) does not count, whoever we are."""
        try:
            facts = os.statvfs(self._path)
        except OSError:
            self._is_full = True
            return
        self._free = facts.f_bavail * facts.f_frsize
        self._reserve = min(MAX_RESERVE_BYTES, facts.f_blocks * facts.f_frsize // RESERVE_SHARE)
        if self._free < self._reserve:
            self._is_full = True
        elif self._free >= self._reserve + self._reserve // 4:
            self._is_full = False
