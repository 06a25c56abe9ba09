"""Whose mail is next at a site: deficit round robin over tenants, and in turn over the campaigns of each.

A *flow* is the mail of one tenant and campaign at one site (of one domain too, where that domain alone is suspended). Tenants
with mail stand in a ring. The first has a deficit: how many mails it may still send before the next one's turn; when it has
used it up it goes to the end of the ring, and gets its weight again when it is first once more. So a tenant with ten mails
waits for one round, however many the others have; picking is O(1), and a site with one tenant and campaign pays an append and
a popleft.

A flow has its next jobs in memory (`ready`); behind them it has the ids of entries that wait in the store (`parked`), which
are read when there is room. A flow that is `blocked` (suspended) is not in the ring.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rusmes.queue.entry import Job

MANY_FLOWS: Final = 64
"""Up to so many of a site are kept while they are empty."""

FlowKey = tuple[str, str, str]
"""Tenant, campaign, domain ("" = all)."""


class Flow:
    """The mail of one tenant and campaign at a site."""

    __slots__ = ("blocked_until", "is_hungry", "key", "parked", "ready", "share")

    def __init__(self, key: FlowKey, share: Share) -> None:
        self.key = key
        self.share = share
        self.ready: deque[Job] = deque()
        self.parked: deque[bytes] = deque()
        self.blocked_until = 0.0
        """Seconds since the epoch; 0 = not blocked."""
        self.is_hungry = False
        """It has asked for parked entries."""

    @property
    def tenant(self) -> str:
        return self.key[0]

    @property
    def campaign(self) -> str:
        return self.key[1]


class Share:
    """What one tenant has at a site. `flows`: those with ready jobs, in turn."""

    __slots__ = ("count", "deficit", "flows", "tenant", "weight")

    def __init__(self, tenant: str, weight: float) -> None:
        self.tenant = tenant
        self.weight = weight
        self.deficit = 0.0
        self.flows: deque[Flow] = deque()
        self.count = 0
        """Flows of the tenant, those without ready jobs too."""


class FairQueue:
    """The mail of one site."""

    __slots__ = ("_flows", "_last", "_ring", "_shares", "_weights", "count")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._flows: dict[FlowKey, Flow] = {}
        self._shares: dict[str, Share] = {}
        self._ring: deque[Share] = deque()
        self._last: Flow | None = None
        """The flow that was asked for last: often the only one."""
        self.count = 0
        """Ready jobs that are not blocked."""

    def flow(self, tenant: str, campaign: str, domain: str = "") -> Flow:
        """The flow of a tenant and campaign, made when there is none."""
        last = self._last
        if last is not None and last.key[0] == tenant and last.key[1] == campaign and last.key[2] == domain:
            return last
        key = (tenant, campaign, domain)
        flow = self._flows.get(key)
        if flow is None:
            share = self._shares.get(tenant)
            if share is None:
                weights = self._weights
                share = self._shares[tenant] = Share(tenant, weights.get(tenant) or weights.get("", 1.0))
            share.count += 1
            flow = self._flows[key] = Flow(key, share)
        self._last = flow
        return flow

    def add(self, flow: Flow, job: Job) -> None:
        """Add a job behind the others of its flow."""
        job.flow = flow
        if not flow.ready and not flow.blocked_until:
            self._enter(flow)
        flow.ready.append(job)
        if not flow.blocked_until:
            self.count += 1

    def put_back(self, job: Job) -> None:
        """A job that was taken and is not carried out is the next again."""
        flow = job.flow
        assert flow is not None
        if self._flows.get(flow.key) is not flow:
            flow = job.flow = self.flow(*flow.key)
        if flow.blocked_until:
            flow.ready.appendleft(job)
            return
        share = flow.share
        if not flow.ready:
            share.flows.appendleft(flow)
        elif share.flows[0] is not flow:
            share.flows.remove(flow)
            share.flows.appendleft(flow)
        flow.ready.appendleft(job)
        self.count += 1
        if not self._ring or self._ring[0] is not share:
            if share in self._ring:
                self._ring.remove(share)
            self._ring.appendleft(share)
        share.deficit += 1.0

    def _enter(self, flow: Flow) -> None:
        share = flow.share
        if not share.flows:
            self._ring.append(share)
        share.flows.append(flow)

    def peek(self) -> Job | None:
        """The job that `take` gives next."""
        return self._ring[0].flows[0].ready[0] if self._ring else None

    def take(self) -> Job | None:
        """The next job; None: there is none, or what there is is blocked."""
        ring = self._ring
        if not ring:
            return None
        share = ring[0]
        if share.deficit < 1.0:
            share.deficit += share.weight
        flow = share.flows[0]
        job = flow.ready.popleft()
        self.count -= 1
        share.deficit -= 1.0
        if not flow.ready:
            share.flows.popleft()
            if not share.flows:
                ring.popleft()
                share.deficit = 0.0
                return job
        elif len(share.flows) > 1:
            share.flows.rotate(-1)
        if share.deficit < 1.0 and len(ring) > 1:
            ring.rotate(-1)
        return job

    def block(self, flow: Flow, until: float) -> None:
        """Nothing of a flow is taken until `release`."""
        if not flow.blocked_until and flow.ready:
            share = flow.share
            share.flows.remove(flow)
            if not share.flows:
                self._ring.remove(share)
            self.count -= len(flow.ready)
        flow.blocked_until = until

    def release(self, flow: Flow) -> None:
        if flow.blocked_until:
            flow.blocked_until = 0.0
            if flow.ready:
                self._enter(flow)
                self.count += len(flow.ready)

    def tidy(self, flow: Flow) -> None:
        """Forget a flow without any mail, where there are many."""
        if len(self._flows) > MANY_FLOWS and not flow.ready and not flow.parked and self._flows.get(flow.key) is flow:
            del self._flows[flow.key]
            share = flow.share
            share.count -= 1
            if not share.count:
                del self._shares[share.tenant]
            if self._last is flow:
                self._last = None

    def flows(self) -> list[Flow]:
        return list(self._flows.values())

    @property
    def is_empty(self) -> bool:
        """Whether no mail is known here, ready, parked or blocked."""
        return not any(flow.ready or flow.parked for flow in self._flows.values())


def weights_of(configured: Mapping[str, float]) -> dict[str, float]:
    """Weights as they are used: the least is 1, so that everybody may send one mail in each round. The tenant "" stands for all
    that are not named."""
    least = min([1.0, *configured.values()])
    return {"": 1.0 / least, **{tenant: weight / least for tenant, weight in configured.items()}}
