"""Entries that wait for a time: which is next, and which wait at all.

A heap and an index: O(log n) to add, O(1) to take out. What is taken out, or gets another time, leaves its place in the heap
behind, which is recognized when it comes up, and removed with all others like it when they are more than half. About 240 bytes
an entry. An entry without a time of its own (`FOREVER`) is only in the index.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

FOREVER: Final = float("inf")
MIN_SLACK: Final = 1000


class Waiting:
    """Ids by the time at which something is to be done about them."""

    __slots__ = ("_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[bytes, float] = {}
        self._heap: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, id: object) -> bool:
        return id in self._due

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._due)

    def put(self, id: bytes, due: float) -> bool:
        """Let `id` wait until `due`; whether it is the first now."""
        self._due[id] = due
        if due == FOREVER:
            return False
        heap = self._heap
        heapq.heappush(heap, (due, id))
        if len(heap) > MIN_SLACK + 2 * len(self._due):
            self._heap = heap = [(due, id) for id, due in self._due.items() if due != FOREVER]
            heapq.heapify(heap)
        return heap[0][1] == id

    def discard(self, id: bytes) -> bool:
        """Whether it waited."""
        return self._due.pop(id, None) is not None

    @property
    def first(self) -> float | None:
        """When something may be due: perhaps of an entry that has gone."""
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> bytes | None:
        """An entry whose time has come, taken out."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            due, id = heapq.heappop(heap)
            if self._due.get(id) == due:
                del self._due[id]
                return id
        return None
