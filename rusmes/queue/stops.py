"""What holds a site, a tenant, a campaign or a domain back: suspensions, and what the deliverer knows of a site.

Asked when a site gets its first mail, when its pause is over, and for every mail that is about to be sent; the answers decide
where it waits. Resuming is an event: what may go on goes on at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

from rusmes.clock import Clock
from rusmes.model.plan import Queued
from rusmes.queue.api import Busy, Deliverer, Suspender, campaign_of, tenant_of
from rusmes.queue.entry import Job
from rusmes.queue.fairness import Flow
from rusmes.queue.sites import Site, Sites, Stopped

WATCH_SECONDS: Final = 1.0
"""While something is suspended: for what other processes resume, and for ends by time."""


class Stops:
    """Applies suspensions to the sites of one runner."""

    def __init__(self, suspender: Suspender | None, clock: Clock, sites: Sites, deliverer: Deliverer) -> None:
        self._suspender = suspender
        self._clock = clock
        self._sites = sites
        self._deliverer = deliverer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._is_called = False
        self.is_on = suspender is not None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if self._suspender is not None:
            self._suspender.on_change(self._changed)

    def stop(self) -> None:
        self._loop = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _changed(self) -> None:
        """Whoever has noticed may be in the middle of a question of ours, or in another thread."""
        if self._loop is not None and not self._is_called:
            self._is_called = True
            self._loop.call_soon_threadsafe(self._look_again)

    def _look_again(self) -> None:
        self._is_called = False
        if self._loop is not None:
            self._sites.look_again()
            self._keep_watch()

    def _keep_watch(self) -> None:
        if self._watch is None and self._loop is not None:
            self._watch = self._loop.call_later(WATCH_SECONDS, self._watched)

    def _watched(self) -> None:
        self._watch = None
        if self._sites.has_suspended:
            self._sites.look_again()
            self._keep_watch()

    # Questions

    def objection(self, site: Site) -> Busy | None:
        """Why nothing of a site is to be started."""
        if site.key.startswith("\0"):
            return None
        suspender = self._suspender
        if suspender is not None and (found := suspender.until(site=site.name, source=site.source)) is not None:
            site.is_suspended = True
            self._keep_watch()
            return Busy(found[0] - self._clock.now(), found[1] or "suspended")
        site.is_suspended = False
        return self._deliverer.not_before(site.key)

    def until(self, flow: Flow) -> float:
        """Until when a flow is suspended, 0 = it is not."""
        if self._suspender is None:
            return 0.0
        tenant, campaign, domain = flow.key
        found = self._suspender.until(tenant=tenant, campaign=campaign, domain=domain)
        return found[0] if found is not None else 0.0

    def means(self, site: Site, job: Job, item: Queued) -> bool:
        """Whether a suspension means any of a job's mail."""
        suspender = self._suspender
        if suspender is None or not suspender.is_any:
            return False
        tenant, campaign = tenant_of(item), campaign_of(item)
        recipients = job.recipients_of(item)
        domain = recipients[0].address.domain
        if suspender.until(site=site.name, domain=domain, tenant=tenant, campaign=campaign, source=site.source) is not None:
            return True
        if len(recipients) == 1:
            return False
        return any(suspender.until(domain=d) for d in {recipient.address.domain for recipient in recipients[1:]} - {domain})

    def check(self, site: Site, job: Job, item: Queued) -> None:
        """Let a job pass, or say where it waits. Where only some of its recipients are meant, it goes on without them.

        Raises:
            Stopped
        """
        suspender = self._suspender
        if suspender is None or not self.means(site, job, item):
            return
        now = self._clock.now()
        self._keep_watch()
        if (found := suspender.until(site=site.name, source=site.source)) is not None:
            site.is_suspended = True
            raise Stopped(None, found[0] - now, found[1] or "suspended")
        tenant, campaign = tenant_of(item), campaign_of(item)
        if (found := suspender.until(tenant=tenant, campaign=campaign)) is not None:
            flow = site.queue.flow(tenant, campaign)
            job.flow = flow
            self._sites.block(site, flow, found[0])
            raise Stopped(flow, found[0] - now, found[1])
        by_domain: dict[str, list[int]] = {}
        for index in job.indexes:
            by_domain.setdefault(item.recipients[index].address.domain, []).append(index)
        ends = {domain: found for domain in by_domain if (found := suspender.until(domain=domain)) is not None}
        if not ends:
            return  # it was resumed this moment
        passing = [index for domain, indexes in by_domain.items() if domain not in ends for index in indexes]
        meant = iter(ends.items())
        own: Flow | None = None
        if not passing:
            domain, (until, _) = next(meant)
            passing = by_domain[domain]
            own = job.flow = site.queue.flow(tenant, campaign, domain)
            self._sites.block(site, own, until)
        job.indexes = passing
        for domain, (until, _) in meant:
            rest = Job(job.active, by_domain[domain], job.destination)
            job.active.jobs += 1
            self._sites.add_blocked(site, site.queue.flow(tenant, campaign, domain), rest, until)
        if own is not None:
            raise Stopped(own, own.blocked_until - now, "suspended")
