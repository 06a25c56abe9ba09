"""Answers of one turn of the event loop, written together at its end.

Each write wakes its client, and what the kernel does for it throws out of the caches what the next command needs. So where
several connections have input in one turn, all of it is read and dealt with first, and then all answers are written.

Order: a connection hands over an answer only while its own task sleeps, and whatever else it writes hurries the answers first.

Measured (100 sessions, 1 KiB into a queue, two cores shared with others, medians of ten interleaved runs): CPU 129 us a message
instead of 137, the least 122 instead of 133.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

CROWD: Final = 3
"""With fewer answers in a turn there is nothing to gain."""
PROBE: Final = 32
"""So many answers are written by themselves before it is asked again how many come in a turn."""


class Sender(Protocol):
    def send_answer(self, answer: bytes) -> None: ...


class Outbox:
    """Shared by the connections of a listener."""

    __slots__ = ("_alone", "_is_crowded", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[Sender, bytes]] = []
        self._is_crowded = False
        self._alone = 0

    def add(self, sender: Sender, answer: bytes) -> None:
        """Have an answer sent, now or at the end of this turn."""
        if not self._waiting:
            if not self._is_crowded:
                self._alone += 1
                if self._alone == PROBE:
                    self._loop.call_soon(self._probe)
                sender.send_answer(answer)
                return
            self._loop.call_soon(self._send)
        self._waiting.append((sender, answer))

    def _probe(self) -> None:
        """See from the next answer on how many a turn has."""
        self._alone = 0
        self._is_crowded = True

    def hurry(self) -> None:
        """Send now: something is about to be written besides."""
        if self._waiting:
            self._send_waiting()

    def _send(self) -> None:
        self._is_crowded = len(self._waiting) >= CROWD
        self._send_waiting()

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for sender, answer in waiting:
            sender.send_answer(answer)
