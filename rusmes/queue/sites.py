"""Who may send at once: the mail that waits for a site, and the workers that serve it.

A site has workers, and each of them sends one mail after the other over a connection of its own. A worker is started when
mail waits: the first few at once, more when they do not keep up, up to this process's share of the site's connections; beyond
that one after the other, up to the limit. It ends when nothing waits. Every change is an event; a timer runs only while mail
waits for a site that may have more workers than it has.

When the deliverer says Busy (the site, or its other users on this machine, have all the connections there may be), the
mail goes back to the front, and the site works with one worker less; with every ten deliveries it may have one more again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from rusmes.log import get_logger
from rusmes.queue.api import Busy, SiteLimits
from rusmes.queue.entry import Job

EAGER_WORKERS: Final = 4
"""Started without waiting. Postfix default_destination_concurrency: initial 5."""
JOBS_PER_WORKER: Final = 2
"""More than this many waiting jobs for each worker start another one at once."""
GROWTH_SECONDS: Final = 0.2
"""While mail waits, one more worker each time: slow servers must not hold up what the limit allows."""
BUSY_SECONDS: Final = 0.25
"""When other processes hold all connections of a site, ours asks again this often."""
JOBS_PER_GROWTH: Final = 10

_log = get_logger("queue")


class Site:
    """A site with its mail. `window` is how many workers it may have now, at most its limit."""

    __slots__ = ("done", "growth", "key", "limits", "pause", "ready", "window", "workers")

    def __init__(self, key: str, limits: SiteLimits) -> None:
        self.key = key
        self.limits = limits
        self.ready: deque[Job] = deque()
        self.workers = 0
        self.window = limits.connections
        self.done = 0
        self.growth: asyncio.TimerHandle | None = None
        self.pause: asyncio.TimerHandle | None = None


class Sites:
    """All sites that have mail. `run` carries out one job; it raises Busy or nothing."""

    def __init__(self, run: Callable[[Job], Awaitable[None]]) -> None:
        self._run = run
        self._sites: dict[str, Site] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.jobs = 0
        """Jobs that wait, over all sites."""
        self.stopping = False

    def submit(self, key: str, limits: SiteLimits, job: Job) -> int:
        """Add a job; how many wait for its site now."""
        site = self._sites.get(key)
        if site is None:
            site = self._sites[key] = Site(key, limits)
        elif site.limits is not limits:
            site.window = min(site.window, limits.connections) if site.window < site.limits.connections else limits.connections
            site.limits = limits
        site.ready.append(job)
        self.jobs += 1
        waiting = len(site.ready)
        is_behind = site.workers < EAGER_WORKERS or waiting > JOBS_PER_WORKER * site.workers
        if is_behind and site.workers < max(limits.share, 1):
            self._hire(site)
        elif site.growth is None:
            self._grow_later(site)
        return waiting

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
        ready = site.ready
        try:
            while ready and not self.stopping and site.workers <= site.window:
                job = ready.popleft()
                self.jobs -= 1
                try:
                    await self._run(job)
                except Busy as busy:
                    ready.appendleft(job)
                    self.jobs += 1
                    self._slow_down(site, busy.retry_after)
                    return
                except Exception:
                    _log.exception("a delivery job failed")  # the runner has put its recipients back
                site.done += 1
                if site.done >= JOBS_PER_GROWTH and site.window < site.limits.connections:
                    site.window += 1
                    site.done = 0
        finally:
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
            self._sites.pop(site.key, None)

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
