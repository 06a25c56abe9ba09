"""Long work in slices, so that everybody else has a turn.

A slice is some hundred emails and runs on the loop, because the rows of a mailbox in use are in memory, and taking them to
another thread and back costs more than looking at them. A slice with major page faults (a disk was waited for) shows that this
mailbox is not in memory: what follows it goes to an executor, and so do large messages.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

SLICE_EMAILS: Final = 256
SLICE_BYTES: Final = 1 << 20
# A larger message is searched in the executor, which has the GIL for hardly any of that time.
LARGE_BYTES: Final = 256 * 1024
# More of them in one slice are no accident.
MAJOR_FAULTS: Final = 2
THREADS: Final = 2

T = TypeVar("T")


def major_faults() -> int:
    """Pages that this thread has waited for a disk for, until now (getrusage(2))."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


class Slices:
    """The turns of one worker, and the threads for what takes longer."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    @property
    def has_gone_aside(self) -> bool:
        return self._executor is not None

    def close(self) -> None:
        """Safe to call twice; a slice that runs is waited for."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    async def run(
        self,
        look: Callable[[int, int], None],
        count: int,
        sizes: Sequence[int] | None = None,
        progress: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Call `look` with (start, stop) of one slice after the other, here or aside."""
        is_slow = False
        for start, stop, is_large in cut(count, sizes):
            if start and not is_slow:
                await asyncio.sleep(0)
            if is_slow or is_large:
                await self.aside(partial(look, start, stop))
            else:
                faults = major_faults()
                look(start, stop)
                is_slow = major_faults() - faults > MAJOR_FAULTS
            if progress is not None:
                await progress(stop)

    async def aside(self, work: Callable[[], T]) -> T:
        """One job after the other as they come, so that searches take turns."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "search")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def cut(count: int, sizes: Sequence[int] | None = None) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, whether it is large)"""
    start = 0
    while start < count:
        stop = min(start + SLICE_EMAILS, count)
        total = 0
        if sizes is not None:
            for place in range(start, stop):
                total += sizes[place]
                if total > SLICE_BYTES:
                    stop = max(place, start + 1)
                    break
        yield start, stop, sizes is not None and max(sizes[start:stop]) > LARGE_BYTES
        start = stop
