"""Who may send at once: the mail that waits for a site, and the workers that serve it.

A site has workers, and each of them sends one mail after the other over a connection of its own. A worker is started when
mail waits: the first few at once, more when they do not keep up, up to this process's share of the site's connections; beyond
that one after the other, up to the limit. It ends when nothing waits. Every change is an event; a timer runs only while mail
waits for a site that may have more workers than it has.

A worker may take the mail after the present one early, so that both go out in one piece. And when mail moves fast, few workers
do more with less: then more are started only for mail that would wait for longer than `SOON_SECONDS`.

When the deliverer says Busy (the site, or its other users on this machine, have all the connections there may be), the
mail goes back to the front, and the site works with one worker less; with every ten deliveries it may have one more again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from rusmes.log import get_logger
from rusmes.queue.api import Begun, Busy, Following, SiteLimits
from rusmes.queue.entry import Job

EAGER_WORKERS: Final = 4
"""Started without waiting. Postfix default_destination_concurrency: initial 5."""
JOBS_PER_WORKER: Final = 2
"""More than this many waiting jobs for each worker start another one at once."""
SOON_SECONDS: Final = 0.01
"""Mail that waits no longer than this for a worker needs no other one."""
PACE_WEIGHT: Final = 0.2
"""Of the latest job in the average of what a site's jobs take."""
MAX_PACES: Final = 10_000
"""Sites whose pace is remembered while they have no mail."""
GROWTH_SECONDS: Final = 0.2
"""While mail waits, one more worker each time: slow servers must not hold up what the limit allows."""
BUSY_SECONDS: Final = 0.25
"""When other processes hold all connections of a site, ours asks again this often."""
JOBS_PER_GROWTH: Final = 10

_log = get_logger("queue")


class Site:
    """A site with its mail. `window` is how many workers it may have now, at most its limit."""

    __slots__ = ("done", "growth", "key", "limits", "pace", "pause", "ready", "window", "workers")

    def __init__(self, key: str, limits: SiteLimits) -> None:
        self.key = key
        self.limits = limits
        self.ready: deque[Job] = deque()
        self.workers = 0
        self.window = limits.connections
        self.done = 0
        self.pace = float("inf")
        """Seconds that a job takes, on average."""
        self.growth: asyncio.TimerHandle | None = None
        self.pause: asyncio.TimerHandle | None = None


class Worker:
    """Implements `queue.api.SiteWorker`. `next` is the job taken early; `is_aside`: counts no more, and ends with its job."""

    __slots__ = ("_sites", "begun", "is_aside", "next", "site")

    def __init__(self, sites: Sites, site: Site) -> None:
        self._sites = sites
        self.site = site
        self.next: Job | None = None
        self.begun: Begun | None = None
        self.is_aside = False

    def following(self) -> Following | None:
        site = self.site
        if self.next is not None or not site.ready or self._sites.stopping or site.workers > site.window:
            return None
        job = site.ready[0]
        item = job.active.item
        if item is None or job.is_void:
            return None
        site.ready.popleft()
        self._sites.jobs -= 1
        self.next = job
        return Following(item, job.recipients_of(item), job.destination)

    def return_following(self) -> None:
        job, self.next, self.begun = self.next, None, None
        if job is not None:
            self._sites.put_back(self.site, job)

    def step_aside(self) -> None:
        if not self.is_aside:
            self.is_aside = True
            self._sites.leave(self.site)


class Sites:
    """All sites that have mail. `run` carries out one job; it raises Busy or nothing."""

    def __init__(self, run: Callable[[Job, Worker], Awaitable[None]]) -> None:
        self._run = run
        self._sites: dict[str, Site] = {}
        self._paces: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.jobs = 0
        """Jobs that wait, over all sites."""
        self.stopping = False

    def submit(self, key: str, limits: SiteLimits, job: Job) -> int:
        """Add a job; how many wait for its site now."""
        site = self._sites.get(key)
        if site is None:
            site = self._sites[key] = Site(key, limits)
            site.pace = self._paces.get(key, site.pace)
        elif site.limits is not limits:
            site.window = min(site.window, limits.connections) if site.window < site.limits.connections else limits.connections
            site.limits = limits
        site.ready.append(job)
        self.jobs += 1
        waiting = len(site.ready)
        workers = site.workers
        is_behind = workers < EAGER_WORKERS or waiting > JOBS_PER_WORKER * workers
        if is_behind and workers < max(limits.share, 1) and (not workers or waiting * site.pace > SOON_SECONDS * workers):
            self._hire(site)
        elif site.growth is None:
            self._grow_later(site)
        return waiting

    def put_back(self, site: Site, job: Job) -> None:
        """A job that was taken and is not carried out is the first again."""
        site.ready.appendleft(job)
        self.jobs += 1
        self._sites.setdefault(site.key, site)
        if not self.stopping:
            self._hire(site)

    def leave(self, site: Site) -> None:
        """One of its workers counts no more."""
        site.workers -= 1
        if site.ready and not self.stopping:
            self._hire(site)

    def _hire(self, site: Site) -> None:
        if site.workers >= site.window or site.pause is not None or self.stopping:
            return
        site.workers += 1
        task = asyncio.get_running_loop().create_task(self._work(site))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _grow_later(self, site: Site) -> None:
        if site.workers < site.window:
            site.growth = asyncio.get_running_loop().call_later(GROWTH_SECONDS, self._grow, site)

    def _grow(self, site: Site) -> None:
        site.growth = None
        if site.ready and not self.stopping:
            self._hire(site)
            self._grow_later(site)

    async def _work(self, site: Site) -> None:
        worker = Worker(self, site)
        time = asyncio.get_running_loop().time
        ended = time()
        try:
            while (job := self._take(worker)) is not None:
                try:
                    await self._run(job, worker)
                except Busy as busy:
                    self._keep(site, job)
                    self._slow_down(site, busy.retry_after)
                    return
                except Exception:
                    _log.exception("a delivery job failed")  # the runner has put its recipients back
                if worker.is_aside:
                    return
                began, ended = ended, time()
                pace = site.pace
                site.pace = ended - began if pace == float("inf") else pace + PACE_WEIGHT * (ended - began - pace)
                site.done += 1
                if site.done >= JOBS_PER_GROWTH and site.window < site.limits.connections:
                    site.window += 1
                    site.done = 0
        finally:
            self._end(worker)

    def _take(self, worker: Worker) -> Job | None:
        """The worker's next job; None: it ends. What it has begun it carries out in any case."""
        job, worker.next = worker.next, None
        if job is not None and worker.begun is not None:
            return job
        site = worker.site
        if self.stopping or site.workers > site.window:
            if job is not None:
                self._keep(site, job)
            return None
        if job is None and site.ready:
            self.jobs -= 1
            return site.ready.popleft()
        return job

    def _keep(self, site: Site, job: Job) -> None:
        site.ready.appendleft(job)
        self.jobs += 1

    def _end(self, worker: Worker) -> None:
        site = worker.site
        if worker.begun is not None:
            worker.begun.abandon()
        if worker.next is not None:
            self._keep(site, worker.next)
        if not worker.is_aside:
            site.workers -= 1
        self._after_work(site)

    def _slow_down(self, site: Site, retry_after: float) -> None:
        site.window = max(1, site.workers - 1)
        site.done = 0
        if (retry_after or site.workers == 1) and site.pause is None:
            site.pause = asyncio.get_running_loop().call_later(retry_after or BUSY_SECONDS, self._resume, site)

    def _resume(self, site: Site) -> None:
        site.pause = None
        if site.ready and not self.stopping:
            self._hire(site)
        else:
            self._after_work(site)

    def _after_work(self, site: Site) -> None:
        if site.ready:
            if not site.workers:
                self._hire(site)
        elif not site.workers and site.pause is None:
            if site.growth is not None:
                site.growth.cancel()
                site.growth = None
            if self._sites.get(site.key) is site:
                del self._sites[site.key]
                self._paces.pop(site.key, None)
                while len(self._paces) >= MAX_PACES:
                    del self._paces[next(iter(self._paces))]
                self._paces[site.key] = site.pace

    async def stop(self, grace_seconds: float) -> None:
        """Start nothing new; wait for what is under way, then cut it off."""
        self.stopping = True
        for site in self._sites.values():
            for timer in (site.growth, site.pause):
                if timer is not None:
                    timer.cancel()
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
