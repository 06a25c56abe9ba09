"""How much room the file system has left, and a store's file inside, looked at once a second.

Two marks, so that a server whose disk is nearly full does not switch with every mail: it is full when less than the
reserve would be left, and stays so until a quarter more than the reserve is free. The reserve is what outcomes of deliveries,
expunges and compaction may still use: they are how space comes back.

A file does not get shorter when mail is removed: its pages come free, for rows to come. So a full disk is no reason to refuse
rows that fit there. Half of these pages count, because a body of many pages needs some that lie together and a reader may
still hold others, and they count only as long as half of the reserve is there, should the file grow all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from rusmes.clock import Clock

MAX_RESERVE_BYTES: Final = 256 * 1024 * 1024
RESERVE_SHARE: Final = 20
"""The reserve is at most one part in this many of the file system, for small ones."""
LARGE_SHARE: Final = 8
LOOK_SECONDS: Final = 1.0
INSIDE_SHARE: Final = 2
MIN_INSIDE_BYTES: Final = 256 * 1024


class Space:
    """`inside` tells how many bytes of the store's file are in pages that nothing uses."""

    __slots__ = ("_clock", "_free", "_inside", "_is_full", "_looked", "_path", "_reserve", "inside")

    def __init__(self, path: str, clock: Clock) -> None:
        self.inside: Callable[[], int] = lambda: 0
        self._inside = 0
        self._path = path
        self._clock = clock
        self._free = 0
        self._reserve = 0
        self._is_full = False
        self._looked = float("-inf")

    def has_room(self, size: int) -> bool:
        """Whether files may grow by `size` bytes beside the reserve."""
        now = self._clock.monotonic()
        if not 0 <= now - self._looked < LOOK_SECONDS:
            self._look()
            self._looked = now
        if not self._is_full and self._free - size < self._reserve:
            # A mail that is large beside the reserve does not close the store for smaller ones.
            self._is_full = size <= self._reserve // LARGE_SHARE
            return False
        return not self._is_full

    def admits(self, size: int) -> bool:
        """Whether `size` bytes of rows fit: beside the reserve, or inside the store's file."""
        return self.has_room(size) or self._inside - size >= MIN_INSIDE_BYTES

    def take(self, size: int) -> bool:
        """Like `admits`, and counts the bytes as gone until the next look: a second is long for a small disk."""
        if self.has_room(size):
            self._free -= size
            return True
        if self._inside - size < MIN_INSIDE_BYTES:
            return False
        self._inside -= size
        return True

    def mark_full(self) -> None:
        """A write failed for want of space, whatever the file system says; the next look decides."""
        self._is_full = True
        self._inside = 0
        self._looked = self._clock.monotonic()

    @property
    def is_full(self) -> bool:
        return not self.admits(0)

    def _look(self) -> None:
        """What root may use beyond others (`f_bavail`) does not count, whoever we are."""
        self._inside = 0
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
        if self._is_full and self._free >= self._reserve // 2:
            self._inside = self.inside() // INSIDE_SHARE
