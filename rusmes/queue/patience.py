"""How long a mail may wait without a word to its sender: what is not attempted for want of a chance is told of all the same.

Mail of a site that does not answer, wants it slower, or takes less than it is sent keeps its place, and no attempt is counted.
But when its sender should hear that it is late, or when its time is over, what keeps it waiting counts as an attempt that was
made now: so there is a notice, a row, and a line in the log.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from rusmes.errors import StoreError
from rusmes.log import get_logger
from rusmes.model.ids import id_text
from rusmes.model.plan import Queued
from rusmes.queue.api import Busy, Report
from rusmes.queue.entry import Active, Job
from rusmes.queue.schedule import Schedule, SteadyClock
from rusmes.queue.sites import Sites

MAX_SPARES: Final = 5
"""A mail that was offered so often without a word about it counts as attempted: perhaps it is its fault."""
OVERDUE_SECONDS: Final = 60.0
"""How often mail in memory is looked through."""
LOOK_AT_ONCE: Final = 500

_log = get_logger("queue")


class Engine(Protocol):
    """What is needed of the runner."""

    clock: SteadyClock
    schedule: Schedule

    async def content(self, active: Active) -> Queued | None:
        """Raises StoreError."""

    async def finish(self, job: Job, item: Queued, reports: list[Report]) -> None: ...

    def vanished(self, job: Job) -> None: ...

    def postpone(self, job: Job) -> None: ...

    def rest(self, active: Active) -> None: ...


class Patience:
    """Knows when it is over, and tells."""

    def __init__(self, engine: Engine, sites: Sites) -> None:
        self._engine = engine
        self._sites = sites
        self.tasks: set[asyncio.Task[None]] = set()

    def is_over(self, active: Active) -> bool:
        """Whether its sender has to hear that it is late, or that its time is over."""
        schedule, now = self._engine.schedule, self._engine.clock.now()
        if schedule.is_expired(active.created, now):
            return True
        return schedule.wants_warning(active.created, now) and not active.is_noticed

    def ends_at(self, active: Active) -> float:
        """When it will be."""
        schedule, now = self._engine.schedule, self._engine.clock.now()
        expires = schedule.expires_at(active.created)
        warning = schedule.warning_at(active.created)
        return max(expires if active.is_noticed else min(warning, expires), now + OVERDUE_SECONDS)

    def is_told_by_id(self, active: Active) -> bool:
        """Whether the id of an entry says when its patience ends: nothing was told yet, and it is as old as its id."""
        return not active.is_noticed and abs(_time_of(active.id) - active.created) < OVERDUE_SECONDS

    def is_late(self, id: bytes) -> bool:
        """Whether the patience of such an entry is over."""
        schedule, created = self._engine.schedule, _time_of(id)
        return self._engine.clock.now() >= min(schedule.warning_at(created), schedule.expires_at(created))

    async def spare(self, job: Job, busy: Busy) -> None:
        """A job was not carried out. If its patience is over it ends here."""
        if not busy.reason:
            return
        job.spares += bool(busy.reports)
        if job.spares >= MAX_SPARES or self.is_over(job.active):
            await self._tell(job, busy)

    def tell_later(self, job: Job, busy: Busy | None) -> None:
        """Tell of a job that waits; it is not in the queue of its site any more."""
        job.active.running += 1
        task = asyncio.get_running_loop().create_task(self._tell(job, busy))
        self.tasks.add(task)
        task.add_done_callback(lambda task: self._told(task, job.active))

    async def tell_overdue(self) -> None:
        """Look through what is in memory, with a turn for everybody else after some hundred jobs."""
        looked = 0
        for site, jobs in self._sites.waiting_jobs():
            for job in jobs:
                if not job.is_void and self.is_over(job.active):
                    again = Job(job.active, job.indexes, job.destination)
                    job.withdraw()
                    self.tell_later(again, site.stop)
            looked += len(jobs)
            if looked > LOOK_AT_ONCE:
                looked = 0
                await asyncio.sleep(0)

    async def _tell(self, job: Job, busy: Busy | None) -> None:
        active, engine = job.active, self._engine
        try:
            item = await engine.content(active)
            if item is None:
                engine.vanished(job)
                return
            reports = list(busy.reports) if busy is not None else []
            if not reports:
                code, status, text, host = 0, "4.4.5", "the message waits for its turn: the site takes less than it is sent", ""
                if busy is not None:
                    code, status, text, host = busy.code, busy.status or "4.4.1", busy.reason, busy.host
                reports = [Report(r, "delayed", code, status, text, host) for r in job.recipients_of(item)]
            await engine.finish(job, item, reports)
        except StoreError as error:
            _log.error("an entry cannot be read", queue_id=id_text(active.id), error=str(error))
            engine.postpone(job)

    def _told(self, task: asyncio.Task[None], active: Active) -> None:
        self.tasks.discard(task)
        active.running -= 1
        self._engine.rest(active)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a mail that waits cannot be told of", queue_id=id_text(active.id), error=repr(error))


def _time_of(id: bytes) -> float:
    """When an id was given: its first six bytes are milliseconds since the epoch."""
    return int.from_bytes(id[:6], "big") / 1000
