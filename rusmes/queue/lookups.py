"""Finding out where the recipients of an entry go, when that is not known yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from rusmes.log import get_logger
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Deliverer, Target
from rusmes.queue.entry import Active

MAX_QUESTIONS: Final = 64
"""Destinations that are asked for at once, over all entries."""
GROUP_SECONDS: Final = 2.0
"""How long the recipients of a mail wait for each other's destinations."""

_log = get_logger("queue")

Found = Sequence[tuple[str, list[int], Target]]
"""Destination, the recipients with it by index, and where it leads."""


class Lookups:
    """The questions under way. `assign` gets what was found, `refuse` those whose destination takes no mail; `freed` is called
    when an entry has all its answers. While one waits for answers it counts a job more, so that it does not end before."""

    def __init__(
        self,
        deliverer: Deliverer,
        assign: Callable[[Active, Queued, Found], None],
        refuse: Callable[[Active, Queued, dict[int, Refusal]], Awaitable[None]],
        freed: Callable[[], None],
    ) -> None:
        self._deliverer = deliverer
        self._assign = assign
        self._refuse = refuse
        self._freed = freed
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, active: Active, item: Queued, by_destination: dict[str, list[int]]) -> None:
        """Ask for the destinations of an entry's recipients."""
        task = asyncio.get_running_loop().create_task(self._run(active, item, by_destination))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._freed()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("destinations could not be looked up", error=repr(error))

    async def _run(self, active: Active, item: Queued, by_destination: dict[str, list[int]]) -> None:
        """For a moment all answers are waited for, so that recipients of one site meet in one transaction; then nobody
        waits any longer for a name server that does not answer somebody else."""
        asking = {asyncio.ensure_future(self._target(name)): (name, members) for name, members in by_destination.items()}
        active.jobs += 1
        active.running += 1
        together: float | None = GROUP_SECONDS
        try:
            while asking:
                when = asyncio.FIRST_COMPLETED if together is None else asyncio.ALL_COMPLETED
                answered, _ = await asyncio.wait(asking, timeout=together, return_when=when)
                together = None
                found = [(*asking.pop(task), task.result()) for task in list(asking) if task in answered]
                if not found:
                    continue
                refused = {index: target for _, members, target in found if isinstance(target, Refusal) for index in members}
                active.jobs += bool(refused) - (not asking)
                active.running -= not asking
                self._assign(active, item, [(name, members, t) for name, members, t in found if isinstance(t, Target)])
                if refused:
                    await self._refuse(active, item, refused)
        finally:
            for task in asking:
                task.cancel()

    async def _target(self, destination: str) -> Target | Refusal:
        known = self._deliverer.known_target(destination)
        try:
            if known is not None:
                return known
            async with self._questions:
                return await self._deliverer.find_target(destination)
        except Exception as error:
            _log.exception("a destination could not be looked up", destination=destination)
            return Refusal(451, "4.3.0", f"internal error: {type(error).__name__}")

    async def stop(self) -> None:
        """Ask no more; what is not answered is asked again after a restart."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
