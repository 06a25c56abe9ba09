"""Who may send at once: the mail that waits for a site, and the workers that serve it. (Longer than most, because mail, workers
and pauses of a site are one state.)

A site has workers, and each of them sends one mail after the other over a connection of its own. A worker is started when
mail waits: the first few at once, more when they do not keep up, up to this process's share of the site's connections; beyond
that one after the other, up to the limit. It ends when nothing waits. Every change is an event; a timer runs only while mail
waits for a site that may have more workers than it has, or while a site pauses.

A worker may take the mail after the present one early, so that both go out in one piece. And when mail moves fast, few workers
do more with less: then more are started only for mail that would wait for longer than `SOON_SECONDS`. Which mail is next is
fair among tenants (`fairness`).

When the deliverer says Busy without a reason (all connections there may be are in use), the mail goes back to the front, and
the site works with one worker less; with every ten deliveries it may have one more again. With a reason (the site does not
answer, or wants us slower) and while it is suspended, the site *stops*: nothing of it is started until its time has come, its
mail stays where it is, and nothing is done for each mail. So that a site that takes less than it is sent leaves room for
others, only its next mails are in memory; of the rest the ids are (`park`, and `hungry` when some are wanted back).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, Protocol

from rusmes.log import get_logger
from rusmes.model.plan import Queued
from rusmes.queue.api import Begun, Busy, Following, Paced, SiteLimits
from rusmes.queue.entry import Job
from rusmes.queue.fairness import FairQueue, Flow

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
BUSY_SPREAD_SECONDS: Final = 0.002
"""And not more than this often for each site that waits so, whatever their number."""
JOBS_PER_GROWTH: Final = 10

MAX_JOBS: Final = 100_000
"""Jobs in memory, about 400 bytes each without content; more mail stays in the store until there is room."""
SITE_JOBS: Final = 8000
FLOW_JOBS: Final = 200
"""A site with so many ready jobs has no more of a flow that has so many; less, the more of the room is taken."""
PRESSURE: Final = ((1, 1), (10, 10), (200, 50), (2000, 200))
"""By quarters of the room that are taken: parts of the two that hold then. At last a site has four jobs, or one a flow."""
CROWDED: Final = 4
STOPPED_JOBS: Final = 4
"""Of a flow of a site that is stopped; one, when a quarter of the room is taken."""
CHECK_SECONDS: Final = 15.0
"""How often it is asked whether a stopped site may go on: another worker may have reached it."""
LONG_STOP_SECONDS: Final = 20.0
"""A site that stops for so long gives up its ready jobs."""
UNKNOWN_PACE: Final = 0.5
MANY_PAUSED: Final = 100
"""When so many sites wait, those whose turn is not now have no contents in memory."""
FULL_JOBS: Final = 4000
FULL_SECONDS: Final = 5.0
"""What a site gets through in so long keeps its content in memory, up to so many jobs."""

_log = get_logger("queue")


class Stopped(Busy):
    """A suspension means this mail: all of its site (`flow` None), or a flow."""

    def __init__(self, flow: Flow | None, seconds: float, reason: str) -> None:
        super().__init__(seconds, reason)
        self.flow = flow


class Site:
    """A site with its mail. `window` is how many workers it may have now, at most its limit; `stop` is why nothing of it is
    started, None when it is."""

    __slots__ = (
        "done", "growth", "is_suspended", "key", "limits", "name",
        "pace", "paced", "pause", "queue", "source", "stop", "window", "workers",
    )  # fmt: skip

    def __init__(self, key: str, limits: SiteLimits, name: str, source: str, weights: Mapping[str, float]) -> None:
        self.key = key
        self.name = name
        self.source = source
        self.limits = limits
        self.queue = FairQueue(weights)
        self.workers = 0
        self.window = limits.connections
        self.done = 0
        self.pace = float("inf")
        """Seconds that a job takes, on average."""
        self.paced = 0
        """Workers that a rate has sent away; as many come back when it allows."""
        self.growth: asyncio.TimerHandle | None = None
        self.pause: asyncio.TimerHandle | None = None
        self.stop: Busy | None = None
        self.is_suspended = False


class Engine(Protocol):
    """What the sites ask of the runner."""

    async def carry_out(self, job: Job, worker: Worker) -> None:
        """Raises Busy, with nothing done; when the job has ended all the same, only the site is meant."""

    def park(self, job: Job, site: Site, flow: Flow) -> None:
        """There is no room for a job: its entry is to wait as an id in the flow."""

    def forget_content(self, job: Job) -> None:
        """A job is not carried out soon."""

    def objection(self, site: Site) -> Busy | None:
        """Why nothing of a site is to be started; sets `is_suspended`."""

    def stopped_until(self, site: Site, flow: Flow) -> float:
        """Until when a flow is suspended (seconds since the epoch), 0 = it is not."""

    def wake(self) -> None:
        """A flow is hungry."""


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
        if self.next is not None or self._sites.stopping or site.workers > site.window or site.stop is not None:
            return None
        job = site.queue.peek()
        item = job.active.item if job is not None else None
        if job is None or item is None or job.is_void or self._sites.is_suspended(site, job, item):
            return None
        self._sites.take(site)
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
    """All sites that have mail."""

    def __init__(self, engine: Engine, weights: Mapping[str, float] | None = None) -> None:
        self._engine = engine
        self.weights: Mapping[str, float] = weights or {}
        self._sites: dict[str, Site] = {}
        self._paces: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = 0
        self._blocked: set[tuple[Site, Flow]] = set()
        self.hungry: deque[tuple[Site, Flow]] = deque()
        """Flows that have room for what they have parked."""
        self.is_suspended: Callable[[Site, Job, Queued], bool] = lambda _site, _job, _item: False
        self.jobs = 0
        """Jobs in memory that wait, over all sites."""
        self.stopping = False

    def all(self) -> list[Site]:
        return list(self._sites.values())

    def submit(
        self, key: str, limits: SiteLimits, job: Job, tenant: str = "", campaign: str = "", name: str = "", source: str = ""
    ) -> bool:
        """Add a job; whether its content is worth the memory."""
        site = self._sites.get(key)
        if site is None:
            site = self._sites[key] = Site(key, limits, name or key, source, self.weights)
            site.pace = self._paces.get(key, site.pace)
            if (stop := self._engine.objection(site)) is not None:
                self._stop_site(site, stop)
        elif site.limits is not limits:
            site.window = min(site.window, limits.connections) if site.window < site.limits.connections else limits.connections
            site.limits = limits
        queue = site.queue
        flow = queue.flow(tenant, campaign)
        waiting = queue.count
        is_crowded = waiting >= CROWDED or flow.parked or flow.blocked_until or site.stop is not None
        if is_crowded and self._must_park(site, flow, job):
            self._engine.park(job, site, flow)
            return False
        queue.add(flow, job)
        self.jobs += 1
        waiting += 1
        workers = site.workers
        is_behind = workers < EAGER_WORKERS or waiting > JOBS_PER_WORKER * workers
        if is_behind and workers < max(limits.share, 1) and (not workers or waiting * site.pace > SOON_SECONDS * workers):
            self._hire(site)
        elif site.growth is None:
            self._grow_later(site)
        if site.stop is not None or (site.pause is not None and self._paused > MANY_PAUSED):
            return False
        if waiting <= CROWDED:
            return True
        pace = site.pace if site.pace < 1e9 else UNKNOWN_PACE
        return waiting <= FULL_JOBS and waiting * pace <= FULL_SECONDS * max(workers, 1)

    def _must_park(self, site: Site, flow: Flow, job: Job) -> bool:
        if flow.parked and not job.active.was_parked:
            return True  # behind those
        if flow.blocked_until or site.stop is not None:
            return len(flow.ready) >= (STOPPED_JOBS if self.jobs < MAX_JOBS // 4 else 1)
        site_part, flow_part = self._pressure
        return site.queue.count >= max(SITE_JOBS // site_part, CROWDED) and len(flow.ready) >= max(FLOW_JOBS // flow_part, 1)

    @property
    def _pressure(self) -> tuple[int, int]:
        return PRESSURE[min(4 * self.jobs // MAX_JOBS, 3)]

    def parked(self, site: Site, flow: Flow, id: bytes) -> None:
        """An entry waits as an id now."""
        site = self._sites.setdefault(site.key, site)  # it may have gone and come back meanwhile
        flow = site.queue.flow(*flow.key)
        flow.parked.append(id)
        self._feed(site, flow)

    def _feed(self, site: Site, flow: Flow) -> None:
        """Ask for what a flow has parked, when there is room for it."""
        if not flow.is_hungry and flow.parked and self._may_eat(site, flow):
            flow.is_hungry = True
            self.hungry.append((site, flow))
            self._engine.wake()

    def _may_eat(self, site: Site, flow: Flow) -> int:
        """How many of its parked entries are wanted in memory."""
        if site.stop is not None or flow.blocked_until:
            return not flow.ready and self.jobs < MAX_JOBS // 4  # the one that will try
        most = max(FLOW_JOBS // self._pressure[1], 1)
        return most - len(flow.ready) if len(flow.ready) <= most // 2 else 0

    def next_hungry(self) -> tuple[Site, Flow, int] | None:
        """A flow whose parked entries are to be read now, and how many of them."""
        while self.hungry:
            site, flow = self.hungry.popleft()
            flow.is_hungry = False
            if flow.parked and (room := self._may_eat(site, flow)):
                return site, flow, room
        return None

    def fed(self, site: Site, flow: Flow) -> None:
        """Some of what a flow had parked is ready now, or has gone."""
        self._feed(site, flow)
        self._after_work(site)

    def put_back(self, site: Site, job: Job) -> None:
        """A job that was taken and is not carried out is the first again."""
        self._keep(site, job)
        self._sites.setdefault(site.key, site)
        if not self.stopping:
            self._hire(site)

    def leave(self, site: Site) -> None:
        """One of its workers counts no more."""
        site.workers -= 1
        if site.queue.count and not self.stopping:
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
        if site.queue.count and not self.stopping:
            self._hire(site)
            self._grow_later(site)

    async def _work(self, site: Site) -> None:
        worker = Worker(self, site)
        time = asyncio.get_running_loop().time
        ended = time()
        try:
            while (job := self._take(worker)) is not None:
                try:
                    await self._engine.carry_out(job, worker)
                except Stopped as stopped:
                    self._keep(site, job)
                    if stopped.flow is None:
                        self._stop_site(site, stopped)
                        return
                    continue
                except Busy as busy:
                    if not job.is_ended:
                        self._keep(site, job, is_last=bool(busy.reports))
                    self._slow_down(site, busy)
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
        if self.stopping or site.workers > site.window or site.stop is not None:
            if job is not None:
                self._keep(site, job)
            return None
        return job if job is not None else self.take(site)

    def take(self, site: Site) -> Job | None:
        """The next job of a site."""
        job = site.queue.take()
        if job is not None:
            self.jobs -= 1
            flow = job.flow
            if flow is not None and flow.parked:
                self._feed(site, flow)
            elif flow is not None and not flow.ready:
                site.queue.tidy(flow)
        return job

    def _keep(self, site: Site, job: Job, *, is_last: bool = False) -> None:
        if is_last and job.flow is not None:
            site.queue.add(site.queue.flow(*job.flow.key), job)
        else:
            site.queue.put_back(job)
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

    def _slow_down(self, site: Site, busy: Busy) -> None:
        if busy.reason:
            self._stop_site(site, busy)
            return
        if isinstance(busy, Paced):
            site.paced = max(site.paced, site.workers)
            if site.pause is None:
                self._pause(site, busy.retry_after)
            return
        site.window = max(1, site.workers - 1)
        site.done = 0
        if (busy.retry_after or site.workers == 1) and site.pause is None:
            self._pause(site, busy.retry_after or max(BUSY_SECONDS, self._paused * BUSY_SPREAD_SECONDS))

    def _pause(self, site: Site, seconds: float) -> None:
        if site.pause is not None:
            site.pause.cancel()
            self._paused -= 1
        site.pause = asyncio.get_running_loop().call_later(seconds, self._resume, site)
        self._paused += 1
        if self._paused > MANY_PAUSED:
            for flow in site.queue.flows():
                for job in islice(flow.ready, MANY_PAUSED):
                    self._engine.forget_content(job)

    def _resume(self, site: Site) -> None:
        if site.pause is not None:
            site.pause.cancel()
            site.pause = None
            self._paused -= 1
        if self.stopping:
            return
        if (stop := self._engine.objection(site)) is not None:
            self._stop_site(site, stop)
            return
        if site.stop is not None:
            site.stop = None
            for flow in site.queue.flows():
                self._feed(site, flow)
        if site.queue.count:
            paced, site.paced = site.paced, 0
            for _ in range(min(max(paced, 1), site.queue.count)):
                self._hire(site)
            if site.growth is None:
                self._grow_later(site)
        else:
            self._after_work(site)

    def _after_work(self, site: Site) -> None:
        if site.queue.count:
            if not site.workers:
                self._hire(site)
        elif not site.workers and site.pause is None and site.queue.is_empty:
            if site.growth is not None:
                site.growth.cancel()
                site.growth = None
            if self._sites.get(site.key) is site:
                del self._sites[site.key]
                self._paces.pop(site.key, None)
                while len(self._paces) >= MAX_PACES:
                    del self._paces[next(iter(self._paces))]
                self._paces[site.key] = site.pace

    # What is not sent for now

    def _stop_site(self, site: Site, stop: Busy) -> None:
        """Start nothing of a site until its time has come."""
        site.stop = stop
        self._pause(site, min(stop.retry_after, CHECK_SECONDS) or BUSY_SECONDS)
        if stop.retry_after >= LONG_STOP_SECONDS or self.jobs > MAX_JOBS // 4:
            for flow in site.queue.flows():
                self._park_rest(site, flow)

    def _park_rest(self, site: Site, flow: Flow) -> None:
        """Give up the ready jobs of a flow that has to wait, but for the first few."""
        is_blocked = bool(flow.blocked_until)
        surplus = [flow.ready.pop() for _ in range(len(flow.ready) - STOPPED_JOBS)]
        self.jobs -= len(surplus)
        if not is_blocked:
            site.queue.count -= len(surplus)
        parked, flow.parked = flow.parked, deque()
        for job in reversed(surplus):
            if not job.is_void:
                self._engine.park(job, site, flow)
        flow.parked += parked  # they were behind

    def block(self, site: Site, flow: Flow, until: float) -> None:
        """A flow is suspended."""
        site.queue.block(flow, until)
        self._blocked.add((site, flow))
        self._park_rest(site, flow)

    def add_blocked(self, site: Site, flow: Flow, job: Job, until: float) -> None:
        """A job whose recipients are suspended, while others of its mail are not."""
        site.queue.add(flow, job)
        self.jobs += 1
        self.block(site, flow, until)

    @property
    def has_suspended(self) -> bool:
        return bool(self._blocked) or any(site.is_suspended for site in self._sites.values())

    def look_again(self) -> None:
        """Suspensions have changed, or the time of one may be over: what may go on goes on at once."""
        if self.stopping:
            return
        for site, flow in list(self._blocked):
            until = self._engine.stopped_until(site, flow)
            if until:
                flow.blocked_until = until
                continue
            self._blocked.discard((site, flow))
            site.queue.release(flow)
            self._feed(site, flow)
            self._after_work(site)
        for site in list(self._sites.values()):
            if site.is_suspended:
                self._resume(site)

    def try_now(self, key: str) -> None:
        """An operator wants a site tried now."""
        site = self._sites.get(key)
        if site is not None and site.stop is not None and not site.is_suspended:
            site.stop = None
            self._resume(site)

    def parked_flows(self) -> list[Flow]:
        """Flows with parked entries that nobody holds back."""
        return [
            flow
            for site in self._sites.values()
            if not site.is_suspended
            for flow in site.queue.flows()
            if flow.parked and not flow.blocked_until
        ]

    def waiting_jobs(self) -> Iterator[tuple[Site, list[Job]]]:
        """What is in memory and waits for its turn, site by site, without what an operator holds back."""
        for site in list(self._sites.values()):
            if not site.is_suspended:
                yield site, [job for flow in site.queue.flows() if not flow.blocked_until for job in flow.ready]

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
