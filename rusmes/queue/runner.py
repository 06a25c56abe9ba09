"""The engine: carries out what waits in the queue of one worker, now or when it is due. (Longer than most files, because the
five places of an entry and the moves between them are one invariant.)

An entry is in one of five places, and only there:
  waiting   in `_waiting`: something is to be done at a known time. 240 bytes, whatever the mail's size. A *parked* entry has
            a place in the queue of a site besides, which takes it from there when its turn comes; 150 bytes, for mostly it has
            no time: when its sender has to hear of it is known from its id.
  held      in `_held`: waits for an operator.
  active    in `_active`: jobs for its recipients wait for their sites, or are under way, or their outcomes wait for the commit.
  taken     in `_taken`: an operator changes it (`withdraw` to `put_back`).
  gone      removed from the store.

An accepted mail becomes active at once (`kick`), with its content in memory as long as there is room; so the way through
is: put, job, delivery, outcome, and nothing is read from the store. Where content has no room, or many jobs wait for one
site, it is dropped and read again when a worker takes the job. Entries that were there before the start are read in the
background, while new ones are served already.

Time is queue time (`schedule.SteadyClock`); the stored due times are exact, so a restart changes no schedule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.errors import RusmesError, StoreError
from rusmes.events.api import Events
from rusmes.log import get_logger
from rusmes.mailet.api import PipelineRunner
from rusmes.metrics import Metrics
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import NOTIFY_SUCCESS
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import (
    Busy,
    Deliverer,
    NoticeWriter,
    Postponed,
    Report,
    SiteLimits,
    Suspender,
    Target,
    campaign_of,
    tenant_of,
)
from rusmes.queue.attempts import Attempts
from rusmes.queue.entry import (
    DELAY_NOTICED,
    OPEN,
    UNFINISHED,
    Active,
    Job,
    cost,
    lacks_warning,
    mail_of,
    next_due,
    rows_of,
)
from rusmes.queue.fairness import Flow, weights_of
from rusmes.queue.gauges import Gauges
from rusmes.queue.local import append
from rusmes.queue.lookups import Lookups
from rusmes.queue.outcomes import Outcomes
from rusmes.queue.overview import overview
from rusmes.queue.patience import OVERDUE_SECONDS, Patience
from rusmes.queue.schedule import Schedule, SteadyClock
from rusmes.queue.sites import MAX_JOBS, Site, Sites, Stopped, Worker
from rusmes.queue.stops import Stops
from rusmes.queue.waiting import FOREVER, Waiting
from rusmes.storage.api import MailStore, QueueChange, QueueEntry, QueueStore, RecipientState

MAX_LOOKUPS: Final = 500
"""Entries whose destinations are being looked up at once."""
LOCAL: Final = Target("\0local", SiteLimits(connections=64))
"""Local appends at once: they wait for the mail store, which commits them together."""
RESUME: Final = Target("\0resume", SiteLimits(connections=16))
"""Pipelines at once that go on after acceptance."""
RECOVERY_BATCH: Final = 100
EXPECT_SECONDS: Final = 30.0
GAUGE_SECONDS: Final = 10.0
MAX_SLEEP_SECONDS: Final = 3600.0
SOON_SECONDS: Final = 0.5
"""Recipients due this close together are tried together."""
MAX_OVERDUE: Final = 20_000
"""Parked entries that are told of at a time."""
REFILL: Final = 50
"""Parked entries of a flow that are read before another flow has its turn."""

_log = get_logger("queue")


class Runner:
    """Runs one queue. `start` begins at once with new mail and recovers the old in the background."""

    def __init__(
        self,
        queue_store: QueueStore,
        mail_store: MailStore,
        pipeline: PipelineRunner,
        deliverer: Deliverer,
        notices: NoticeWriter,
        clock: Clock,
        ids: IdSource,
        metrics: Metrics,
        config: Config,
        *,
        events: Events | None = None,
        suspender: Suspender | None = None,
    ) -> None:
        self.store = queue_store
        self._mail_store = mail_store
        self._pipeline = pipeline
        self._deliverer = deliverer
        self._notices = notices
        self._ids = ids
        self.clock = SteadyClock(clock)
        self.schedule = Schedule.of(config)
        self._attempts = Attempts(self.schedule, metrics, events)
        self.tally = self._attempts.tally
        self._memory_bytes = int(config.queue.memory)
        self._held_bytes = 0
        self._waiting = Waiting()
        self._held: set[bytes] = set()
        self._active: dict[bytes, Active] = {}
        self._taken: set[bytes] = set()
        self._urgent: set[bytes] = set()
        """Entries that an operator wants tried, wherever they go."""
        self._sites = Sites(self, weights_of(config.queue.tenant_weights))
        self._stops = Stops(suspender, clock, self._sites, deliverer)
        self._sites.is_suspended = self._stops.means
        self._patience = Patience(self, self._sites)
        self._outcomes = Outcomes(queue_store, self._committed)
        self._lookups = Lookups(deliverer, self._assign, self._refuse, self._freed)
        self._starved = False
        """Due entries are kept back for want of room."""
        self._wake = asyncio.Event()
        self._wake_timer: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._gauges = Gauges(metrics)
        self.recovered = False
        """Whether every entry that was there at the start is known."""

    def overview(self, limit: int, names: Collection[str] = ()) -> list[dict[str, Any]]:
        """Its sites at a glance (`queue.overview`)."""
        return overview(self._sites.all(), self._deliverer, self.clock.now(), limit, names)

    # Life

    def start(self) -> None:
        """Begin; needs a running loop."""
        loop = asyncio.get_running_loop()
        self._stops.start(loop)
        self._tasks = [loop.create_task(work()) for work in (self._pump, self._recover, self._measure)]

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Start nothing new, let deliveries under way end within the grace, commit their outcomes."""
        for task in self._tasks:
            task.cancel()
        await self._sites.stop(grace_seconds)
        self.measure()
        self._stops.stop()
        await self._lookups.stop()
        await asyncio.gather(*self._tasks, *self._patience.tasks, return_exceptions=True)
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        try:
            async with asyncio.timeout(max(grace_seconds, 1.0)):
                await self._outcomes.drain()
        except TimeoutError:
            _log.error("outcomes were not committed; their deliveries will be repeated", outcomes=len(self._outcomes))
            self._outcomes.abandon()

    def apply(self, config: Config, pipeline: PipelineRunner | None = None) -> None:
        """A reload. Times that are stored already stay as they are."""
        self.schedule = self._attempts.schedule = Schedule.of(config)
        self._memory_bytes = int(config.queue.memory)
        self._sites.weights = weights_of(config.queue.tenant_weights)
        if pipeline is not None:
            self._pipeline = pipeline

    @property
    def size(self) -> int:
        """Entries known."""
        return len(self._waiting) + len(self._active) + len(self._held)

    @property
    def waiting_jobs(self) -> int:
        """Deliveries that wait for their turn."""
        return self._sites.jobs

    # In

    def kick(self, items: Sequence[Queued]) -> None:
        """Entries that were committed just now: start what is due."""
        for item in items:
            if self._taken and item.id in self._taken:
                continue  # an operator was quicker; `put_back` says where it belongs
            if item.action == "hold":
                self._held.add(item.id)
            elif (item.due and item.due > self.clock.now()) or not self._has_room():
                self._wait(item.id, self._look_at(QueueEntry(item, []), item.due) if item.action == "resume" else item.due)
            else:
                self._activate(Active(item, None), range(len(item.recipients)))

    def join(self) -> None:
        """New entries are about to be put: outcomes that wait for their commit share it."""
        self._outcomes.join()

    def expect(self, items: Sequence[Queued]) -> None:
        """Entries whose commit nobody waits for any more; in a moment they are there or never will be."""
        for item in items:
            self._wait(item.id, max(item.due, self.clock.now() + EXPECT_SECONDS))

    def wake(self) -> None:
        """Look at what is due, now (somebody moved a clock or a due time)."""
        self._wake.set()

    def _has_room(self) -> bool:
        return self._sites.jobs < MAX_JOBS and len(self._lookups) < MAX_LOOKUPS

    def _look_at(self, entry: QueueEntry, due: float) -> float:
        """When to look at an entry that is due then: earlier, when its sender must be warned while it waits."""
        return min(due, self.schedule.warning_at(entry.item.created)) if lacks_warning(entry) else due

    def _wait(self, id: bytes, due: float) -> None:
        if self._waiting.put(id, due):
            self._wake.set()

    def _activate(self, active: Active, indexes: Sequence[int]) -> None:
        item = active.item
        assert item is not None
        self._active[active.id] = active
        self._held_bytes += active.cost
        if item.action == "relay":
            self._route(active, item, indexes)
        elif item.action == "local":
            self._submit(LOCAL, Job(active, indexes, ""), item)
        else:
            self._submit(RESUME, Job(active, indexes, ""), item)

    def _route(self, active: Active, item: Queued, indexes: Sequence[int]) -> None:
        if len(indexes) == 1:
            destination = self._deliverer.destination(item, item.recipients[indexes[0]])
            target = self._deliverer.known_target(destination)
            if target is not None:
                self._submit(target, Job(active, indexes, destination), item)
                return
        by_destination: dict[str, list[int]] = {}
        for index in indexes:
            by_destination.setdefault(self._deliverer.destination(item, item.recipients[index]), []).append(index)
        known = [(name, members, self._deliverer.known_target(name)) for name, members in by_destination.items()]
        if all(target is not None for _, _, target in known):
            self._assign(active, item, [(name, members, target) for name, members, target in known if target is not None])
            return
        self._lookups.start(active, item, by_destination)

    def _assign(self, active: Active, item: Queued, found: Sequence[tuple[str, list[int], Target]]) -> None:
        """One job for each site and transaction."""
        if active.then:
            self.rest(active)
            return
        by_site: dict[tuple[str, str], tuple[Target, str, list[int]]] = {}
        for name, members, target in found:
            place = target.site, target.source
            if place in by_site:
                by_site[place][2].extend(members)
            else:
                by_site[place] = (target, name, list(members))
        jobs = [
            (target, Job(active, part, name))
            for target, name, members in by_site.values()
            for part in _parts(members, target.limits.recipients_per_transaction)
        ]
        active.running += 1  # none of them may end the entry before all are there
        for target, job in jobs:
            self._submit(target, job, item)
        active.running -= 1
        self.rest(active)

    async def _refuse(self, active: Active, item: Queued, refused: dict[int, Refusal]) -> None:
        """Recipients whose destination takes no mail, now or ever."""
        reports = [
            Report(item.recipients[index], "failed" if refusal.is_permanent else "delayed", 0, refusal.status, refusal.text)
            for index, refusal in refused.items()
        ]
        active.running += 1
        try:
            await self.finish(Job(active, list(refused), ""), item, reports)
        finally:
            active.running -= 1

    def _submit(self, target: Target, job: Job, item: Queued) -> None:
        active = job.active
        active.jobs += 1
        site, source = target.site, target.source
        key = f"{site}@{source}" if source else site
        if active.is_urgent:
            self._deliverer.try_now(key)
            self._sites.try_now(key)
        tenant, campaign = (tenant_of(item), campaign_of(item)) if item.action == "relay" else ("", "")
        is_soon = self._sites.submit(key, target.limits, job, tenant, campaign, site, source)
        if not is_soon or self._held_bytes > self._memory_bytes:
            self.forget_content(job)

    def forget_content(self, job: Job) -> None:
        """A job is not carried out soon: what it needs is read again then."""
        active = job.active
        item = active.item
        if item is None:
            return
        self._forget_content(active)
        if len(item.recipients) == 1 and active.jobs == 1 and not active.running:
            active.forget_states()

    def _forget_content(self, active: Active) -> None:
        if active.item is not None:
            active.item = None
            self._held_bytes -= active.cost

    async def content(self, active: Active) -> Queued | None:
        """The item, read again where it was dropped; None when its entry has gone."""
        if active.item is None:
            entry = await self.store.get(active.id)
            if entry is None:
                return None
            if active.has_states:
                active.has_states = False
                active.states = entry.states
            if active.item is None:
                active.item = entry.item
                active.cost = cost(entry.item)
                self._held_bytes += active.cost
        return active.item

    # Work

    async def carry_out(self, job: Job, worker: Worker) -> None:
        """Carry out one job. Raises Busy, with nothing done; with the job ended where only the site is meant."""
        active = job.active
        if job.is_void:
            if worker.begun is not None:
                worker.begun.abandon()
                worker.begun = None
            return
        active.running += 1
        try:
            item = active.item or await self.content(active)
            if item is None:
                self.vanished(job)
            elif item.action == "resume":
                await self._resume(job, item)
            else:
                if worker.begun is None and item.action == "relay" and self._stops.is_on:
                    self._stops.check(worker.site, job, item)
                reports = await self._attempt(job, item, worker)
                if not self._finish_delivered(job, item, reports):
                    await self.finish(job, item, reports)
        except Stopped:
            raise
        except Postponed as postponed:
            self.postpone(job, postponed.retry_after)
        except Busy as busy:
            await self._patience.spare(job, busy)
            raise
        except StoreError as error:
            _log.error("an entry cannot be read", queue_id=id_text(active.id), error=str(error))
            self.postpone(job)
        except Exception:
            _log.exception("a job failed; its recipients are tried again later", queue_id=id_text(active.id))
            self.postpone(job)
        finally:
            active.running -= 1
            if active.then or not active.jobs:
                self.rest(active)

    # Parking

    def park(self, job: Job, site: Site, flow: Flow) -> None:
        """There is no room for a job: its entry is to wait as an id in the flow."""
        active = job.active
        is_suspended = site.is_suspended or bool(flow.blocked_until)
        if not is_suspended and not active.was_parked and self._patience.is_over(active):
            self._patience.tell_later(job, site.stop)
            return
        job.end()
        active.parking = site, flow
        self.rest(active)

    def _wait_parked(self, active: Active, site: Site, flow: Flow) -> None:
        # What an operator holds back waits for him; of the others those at the front are looked at from time to time.
        is_suspended = site.is_suspended or bool(flow.blocked_until)
        has_time = not is_suspended and not self._patience.is_told_by_id(active)
        self._wait(active.id, self._patience.ends_at(active) if has_time else FOREVER)
        self._sites.parked(site, flow, active.id)

    async def _feed(self) -> None:
        """Read what hungry flows have parked."""
        for _ in range(RECOVERY_BATCH):
            if not self._has_room() or (found := self._sites.next_hungry()) is None:
                return
            site, flow, room = found
            room = min(room, REFILL)
            while flow.parked and room:
                id = flow.parked.popleft()
                if self._waiting.discard(id):
                    room -= 1
                    await self._begin_stored(id, was_parked=True)
            self._sites.fed(site, flow)

    async def _begin_overdue(self) -> None:
        """Parked entries whose senders have to hear of them; the oldest are in front."""
        left = MAX_OVERDUE
        for flow in self._sites.parked_flows():
            while left and flow.parked and self._patience.is_late(flow.parked[0]):
                id = flow.parked.popleft()
                if self._waiting.discard(id):
                    left -= 1
                    await self._begin_stored(id)

    def objection(self, site: Site) -> Busy | None:
        """Why nothing of a site is to be started."""
        return self._stops.objection(site)

    def stopped_until(self, site: Site, flow: Flow) -> float:
        """Until when a flow is suspended, 0 = it is not."""
        return self._stops.until(flow)

    # Attempts

    async def _attempt(self, job: Job, item: Queued, worker: Worker) -> Sequence[Report]:
        recipients = job.recipients_of(item)
        try:
            if item.action == "local":
                return await append(self._mail_store, item, job.indexes, recipients)
            return await self._deliverer.deliver(item, recipients, job.destination, worker)
        except Busy:
            raise
        except Exception as error:
            _log.exception("a delivery failed inside", queue_id=id_text(item.id))
            return [Report(r, "delayed", 0, "4.3.0", f"internal error: {type(error).__name__}") for r in recipients]

    async def _resume(self, job: Job, item: Queued) -> None:
        """Go on in the pipeline; the plan replaces the entry, in one transaction."""
        active = job.active
        due = active.next_due
        if due is not None and due > self.clock.now() + SOON_SECONDS:
            await self._warn(job, item)
            return
        mail = mail_of(item)
        if any(state.delay_noticed for state in active.states or ()):
            mail.attributes[DELAY_NOTICED] = 1
        try:
            plan = await self._pipeline.run(mail)
            rows = rows_of(plan, mail, self._ids)
            if plan.refused:
                reports = [
                    Report(r, "failed", x.code, x.status, x.text) for r in item.recipients if (x := plan.refused.get(r.address))
                ]
                rows += await self._notify(item, reports)
        except Exception as error:
            _log.exception("a mail cannot go on in the pipeline", queue_id=id_text(item.id))
            reports = [Report(r, "delayed", 0, "4.3.0", f"pipeline: {type(error).__name__}") for r in item.recipients]
            await self.finish(job, item, reports)
            return
        job.end()
        active.left = 0
        self._attempts.record_continued(item, rows)
        self._conclude(active, {}, rows, is_done=True)

    async def _warn(self, job: Job, item: Queued) -> None:
        """The sender hears that the mail is late, though nothing was attempted: it waits to go on in the pipeline."""
        changed, reports = self._attempts.waiting_states(job, item)
        try:
            rows = await self._notify(item, reports, self.schedule.expires_at(item.created))
        except Exception as error:
            log = _log.error if isinstance(error, RusmesError) else _log.exception
            log("a notice cannot be written", queue_id=id_text(item.id), error=str(error))
            self.postpone(job)
            return
        job.end()
        self._settle(job.active, changed, rows)

    # Outcomes

    def _conclude(
        self,
        active: Active,
        changed: dict[int, RecipientState],
        rows: Sequence[Queued] = (),
        *,
        is_done: bool = False,
        content_id: bytes = b"",
    ) -> None:
        active.outcomes += 1
        change = QueueChange(active.id, {} if is_done else changed, remove=is_done, content_id=content_id)
        self._outcomes.add(change, active, rows)

    def _finish_delivered(self, job: Job, item: Queued, reports: Sequence[Report]) -> bool:
        """The end of most mail: all recipients that were left are delivered, and nobody wants to hear of it. False: not so."""
        active = job.active
        if len(reports) != active.left:
            return False
        for report in reports:
            if report.action not in ("delivered", "relayed") or report.recipient.notify & NOTIFY_SUCCESS:
                return False
        job.end()
        now = self.clock.now()
        self._attempts.count_delivered(item, reports, len(reports), now)
        self._attempts.record_delivered(job, item, reports, now)
        active.left = 0
        untouched = item.rendering.content.id if active.states is None else b""
        self._conclude(active, {}, is_done=True, content_id=untouched)
        return True

    async def finish(self, job: Job, item: Queued, reports: Sequence[Report]) -> None:
        """Turn reports into an outcome, with the notices that are due."""
        active = job.active
        job.end()
        now = self.clock.now()
        delivered = sum(report.action in ("delivered", "relayed") for report in reports)
        if delivered:
            self._attempts.count_delivered(item, reports, delivered, now)
        changed, notices = self._attempts.new_states(job, item, reports, now)
        rows = []
        try:
            for about, until in notices:
                rows += await self._notify(item, about, until)
        except Exception as error:
            # The failure is known, but nobody can be told now: these recipients stay, and are tried once more.
            log = _log.error if isinstance(error, RusmesError) else _log.exception
            log("a notice cannot be written", queue_id=id_text(item.id), error=str(error))
            self._attempts.revive(changed, now)
            rows = []
        self._settle(active, changed, rows)

    def _settle(self, active: Active, changed: dict[int, RecipientState], rows: Sequence[Queued] = ()) -> None:
        """Write changed states, or the end of the entry."""
        active.left = sum(state.status in UNFINISHED for state in active.states or ())
        self._conclude(active, changed, rows, is_done=not active.jobs and not active.left)

    async def _notify(self, item: Queued, reports: Sequence[Report], until: float = 0.0) -> list[Queued]:
        """The rows of one notice, after its way through the pipeline.

        Raises:
            StoreError
        """
        notice = self._notices.report(item, reports, will_retry_until=until)
        if notice is None:
            return []
        plan = await self._pipeline.run(notice)
        rows = rows_of(plan, notice, self._ids)
        if rows:
            self._attempts.record_notice(item, reports, rows)
        else:
            self.store.blobs.discard(notice.content)
        for address, refusal in plan.refused.items():
            _log.warn("notice refused by the pipeline", recipient=str(address), reply=f"{refusal.code} {refusal.text}")
        return rows

    def _committed(self, active: Active, new: Sequence[Queued]) -> None:
        """An outcome is durable."""
        active.outcomes -= 1
        self.rest(active)
        if new:
            self.kick(new)

    def rest(self, active: Active) -> None:
        """Release an entry for which nothing is to be done any more; with an operator waiting, nothing is under way."""
        is_idle = not active.outcomes and not active.running and (active.then or not active.jobs)
        if is_idle and self._active.get(active.id) is active:
            self._release(active)

    def _leave(self, active: Active) -> bool:
        """The entry is active no more; False: it was not."""
        if self._active.pop(active.id, None) is None:
            return False
        self._forget_content(active)
        return True

    def _release(self, active: Active) -> None:
        """Nothing is under way for the entry any more: it goes back to those that wait, or it is gone."""
        self._leave(active)
        if active.left:
            due = active.next_due
            if due is None:
                self._held.add(active.id)
            elif active.parking is not None and due <= self.clock.now() + SOON_SECONDS:
                self._wait_parked(active, *active.parking)
            else:
                self._wait(active.id, due)
        self._call_back(active)
        self._freed()

    def _call_back(self, active: Active) -> None:
        """Tell the operators who wait for the entry."""
        active.round += 1
        waiting, active.then = active.then, []
        for then in waiting:
            then()

    def _freed(self) -> None:
        """Something gave room; half of the memory free is worth a look at what is due."""
        if self._starved and self._held_bytes <= self._memory_bytes // 2 and self._has_room():
            self._wake.set()

    def vanished(self, job: Job) -> None:
        """The entry is not in the store any more."""
        job.end()
        active = job.active
        if not active.jobs and self._leave(active):
            self._call_back(active)

    def postpone(self, job: Job, seconds: float = 0.0) -> None:
        """Come back to the entry later. Nothing is written, for nothing is known."""
        active = job.active
        job.end()
        is_last = not active.jobs and not active.outcomes and active.running <= 1  # which is this one
        if is_last and self._leave(active):
            now = self.clock.now()
            self._wait(active.id, now + seconds if seconds else self.schedule.next_due(1, now))
            self._call_back(active)

    # Time

    async def _pump(self) -> None:
        """Make due entries active, as long as there is room."""
        while True:
            await self._sleep()
            try:
                await self._feed()
                await self._start_due()
            except Exception:
                _log.exception("due entries cannot be read")
                await asyncio.sleep(1.0)

    async def _sleep(self) -> None:
        loop = asyncio.get_running_loop()
        if self._wake_timer is not None:
            self._wake_timer.cancel()
            self._wake_timer = None
        self._starved = not self._has_room()
        if self._sites.hungry and not self._starved:
            await asyncio.sleep(0)
            return
        first = self._waiting.first
        if first is not None and not self._starved:
            seconds = min(first - self.clock.now(), MAX_SLEEP_SECONDS)
            if seconds <= 0:
                return
            self._wake_timer = loop.call_later(seconds, self._wake.set)
        await self._wake.wait()
        self._wake.clear()

    async def _start_due(self) -> None:
        now = self.clock.now()
        for _ in range(RECOVERY_BATCH):
            if not self._has_room():
                return
            id = self._waiting.take_due(now)
            if id is None:
                return
            await self._begin_stored(id)

    async def _begin_stored(self, id: bytes, *, was_parked: bool = False) -> None:
        now = self.clock.now()
        try:
            entry = await self.store.get(id)
        except StoreError as error:
            _log.error("an entry cannot be read", queue_id=id_text(id), error=str(error))
            self._wait(id, self.schedule.next_due(1, now))
            return
        if entry is not None and id not in self._active and id not in self._taken:
            self._begin(entry, now, was_parked=was_parked)

    def _begin(self, entry: QueueEntry, now: float, *, was_parked: bool = False) -> None:
        states = entry.states
        soon = now + SOON_SECONDS
        indexes = [i for i, state in enumerate(states) if state.status in OPEN and state.due <= soon]
        if not indexes and lacks_warning(entry) and self.schedule.wants_warning(entry.item.created, soon):
            indexes = [i for i, state in enumerate(states) if state.status in OPEN]
        active = Active(entry.item, states)
        active.was_parked = was_parked
        if self._urgent and active.id in self._urgent:
            self._urgent.discard(active.id)
            active.is_urgent = True
        if indexes and entry.item.action != "hold":
            self._activate(active, indexes)
            return
        due = next_due(entry)
        if due is not None:
            self._wait(active.id, self._look_at(entry, due))
        elif active.left:
            self._held.add(active.id)

    async def _recover(self) -> None:
        """Find what was there before the start."""
        try:
            await self._recover_all()
        except Exception:
            _log.exception("the queue cannot be read; run `rusmes store verify`")

    async def _recover_all(self) -> None:
        count = 0
        now = self.clock.now()
        for entry in self.store.entries():
            id = entry.item.id
            count += 1
            if id not in self._active and id not in self._waiting and id not in self._held and id not in self._taken:
                due = next_due(entry)
                if due is None:
                    self._held.add(id)
                else:
                    if any(state.attempts for state in entry.states):
                        due = self.schedule.plausible_due(due, now)
                    # What was read may be old by now, so nothing is begun with it.
                    self._wait(id, self._look_at(entry, due))
            if count % RECOVERY_BATCH == 0:
                await asyncio.sleep(0)
        self.recovered = True
        if count:
            _log.info("queue recovered", entries=count, slot=self.store.slot)

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            self.measure()
            if loop.time() - looked >= OVERDUE_SECONDS:
                looked = loop.time()
                await self._patience.tell_overdue()
                await self._begin_overdue()
            await asyncio.sleep(GAUGE_SECONDS)

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self._gauges.measure(self._active, self._waiting, self._held, self.clock.now())

    # For `control`

    def withdraw(self, id: bytes, then: Callable[[], None] | None = None) -> bool:
        """Take an entry into an operator's hands: nothing happens to it until `put_back` or `gone`. Jobs that wait for their
        turn are void from now on.

        False: something is under way for it. `then` is called once that has ended, when the entry waits again or is gone, and
        has to withdraw it at once to find it so.
        """
        active = self._active.get(id)
        if active is not None:
            if active.running or active.outcomes:
                if then is not None:
                    active.round += 1
                    active.then.append(then)
                return False
            self._leave(active)
            active.round += 1
            self._freed()
        self._waiting.discard(id)
        self._held.discard(id)
        self._taken.add(id)
        return True

    def is_active(self, id: bytes) -> bool:
        return id in self._active

    def gone(self, id: bytes) -> None:
        """An entry that was withdrawn is removed."""
        self._taken.discard(id)

    async def notice_rows(self, item: Queued, reports: Sequence[Report]) -> list[Queued]:
        """The rows of the notice about recipients whose end an operator decided.

        Raises:
            StoreError
        """
        return await self._notify(item, reports)

    def put_back(self, entry: QueueEntry) -> None:
        """Let an entry that was withdrawn wait as it is now."""
        self._taken.discard(entry.item.id)
        due = next_due(entry)
        if due is None:
            self._held.add(entry.item.id)
        else:
            if due <= self.clock.now():
                self._urgent.add(entry.item.id)
            self._wait(entry.item.id, self._look_at(entry, due))
            self._wake.set()


def _parts(members: list[int], most: int) -> list[list[int]]:
    return [members[start : start + most] for start in range(0, len(members), most)]
