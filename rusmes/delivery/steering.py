"""What a deliverer asks of shaping and egress: by which source a mail is to leave, and what a refusal makes us do.

It holds what both of them share in a worker: the sources and pools (`egress.exits`), what rules have set for a time
(`shaping.overrides`) and the rules themselves (`shaping.rules`). Without [egress] a mail costs one comparison here.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.delivery.egress.exits import Errand, Exits
from rusmes.delivery.egress.sources import Source
from rusmes.delivery.routes import VIA, RoutePlan, RouteTable, parted
from rusmes.delivery.shaping.overrides import Overrides
from rusmes.delivery.shaping.rules import Automation, Place
from rusmes.metrics import SHAPING_SKIPPED, Metrics
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Report, Suspender, tenant_of
from rusmes.storage.api import Ledger


class Leave(Struct, frozen=True):
    """A mail may leave by a source, and its part of the source's day is taken."""

    source: Source
    errand: Errand


class Steering:
    """One for each worker."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        limits: SharedCounters,
        metrics: Metrics,
        ledger: Ledger | None = None,
        suspender: Suspender | None = None,
    ) -> None:
        self.overrides = Overrides(ledger, clock)
        self.exits = Exits(config, clock, limits, metrics, self.overrides, ledger, suspender)
        self._automation = Automation(config, self.overrides, clock, limits, metrics, suspender)
        self._metrics = metrics
        metrics.set(SHAPING_SKIPPED, len(config.shaping_problems))

    def apply(self, config: Config) -> None:
        self._metrics.set(SHAPING_SKIPPED, len(config.shaping_problems))
        self.exits.apply(config)
        self._automation.apply(config)

    def close(self) -> None:
        """Write what is counted."""
        self.exits.warmups.close()

    # Sources

    def destination(self, item: Queued, place: str, routes: RouteTable) -> str:
        """The key under which a mail waits: where it goes, and by which source."""
        exits = self.exits
        if not exits.is_used:
            return place
        tenant = tenant_of(item)
        known = routes.known_place(place)
        if known is None:
            known = ("", "", "")
            if routes.names_pools and not exits.has_pool(tenant):
                return place  # who takes the mail decides by which pool it leaves; the look-up will tell
        pool = exits.pool(tenant, known[0])
        if pool is None:
            return place
        return f"{place}{VIA}{exits.assign(item.id, pool, tenant, Errand(known[1], known[2]))}"

    async def leave(
        self, item: Queued, count: int, destination: str, plan: RoutePlan, routes: RouteTable
    ) -> tuple[RoutePlan, Leave | None] | Refusal:
        """How a mail to `count` recipients may leave now: by the plan's source, or by another one of its pool with a plan of
        its own.

        Raises:
            Postponed
        """
        exits = self.exits
        tenant = tenant_of(item)
        pool = exits.pool(tenant, plan.pool)
        errand = Errand(plan.provider, plan.site, count)
        preferred = exits.source(plan.source) if plan.source else None
        if pool is not None and (preferred is None or preferred not in pool.sources):
            preferred = exits.source(exits.assign(item.id, pool, tenant, errand))
        if preferred is None:
            if plan.source:  # a source that a reload has taken away, and nothing in its place
                found = await self._plan(parted(destination)[0], routes)
                return found if isinstance(found, Refusal) else (found, None)
            return plan, None
        admitted = exits.admit(preferred, pool, tenant, errand)
        if isinstance(admitted, Refusal):
            return admitted
        if admitted.name != plan.source:
            found = await self._plan(f"{parted(destination)[0]}{VIA}{admitted.name}", routes)
            if isinstance(found, Refusal):
                exits.settle(admitted, errand, 0)
                return found
            plan = found
        return plan, Leave(admitted, errand)

    def why_not(self, item: Queued, plan: RoutePlan) -> str:
        """Why a mail to one recipient may leave by no source now; "" = it may, or there are none."""
        pool = self.exits.pool(tenant_of(item), plan.pool)
        return self.exits.why_not(pool, Errand(plan.provider, plan.site)) if pool is not None else ""

    def leave_too(self, item: Queued, count: int, plan: RoutePlan) -> Leave | None:
        """The same for a mail that is begun behind another one, by the source of that one or not at all."""
        source = self.exits.source(plan.source)
        if source is None:
            return None
        errand = Errand(plan.provider, plan.site, count)
        if not self.exits.may_follow(source, errand):
            return None
        return Leave(source, errand)

    async def _plan(self, destination: str, routes: RouteTable) -> RoutePlan | Refusal:
        return routes.known_plan(destination) or await routes.find_plan(destination)

    def settle(self, leave: Leave | None, reports: Sequence[Report]) -> None:
        """What became of a mail that was let go: only what was taken counts for its source."""
        if leave is not None and leave.source.warmup is not None:
            sent = sum(report.action in ("delivered", "relayed") for report in reports)
            self.exits.settle(leave.source, leave.errand, sent)

    # Rules

    def heard(self, item: Queued, reports: Sequence[Report], plan: RoutePlan) -> None:
        """Have the rules listen to refusals among what was said."""
        if not any(report.code >= 400 for report in reports):
            return
        hosts = tuple(host for group in plan.hosts for host in group)
        self._automation.heard(item, reports, Place(plan.site, plan.provider, hosts, plan.source))
