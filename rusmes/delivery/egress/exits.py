"""Which source has a mail, and whether it may leave by it now.

A mail is given to a source when it is queued (`assign`), and the source is part of the destination under which it waits, so
every source has a queue of its own to each site. It keeps its source when it is tried again, for some servers let only those
pass that come back from the same address. When its turn comes and the source cannot be used (`admit`), another one of its pool
has it; when none can, the mail waits, and no attempt is counted.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.config.shaping import pool_weights
from rusmes.delivery.egress.pools import Pool
from rusmes.delivery.egress.sources import Health, Source, source_of
from rusmes.delivery.egress.warmup import WarmUps
from rusmes.delivery.shaping.overrides import Overrides
from rusmes.metrics import EGRESS_CHOICES, EGRESS_DOWN, Metrics
from rusmes.model.plan import Refusal
from rusmes.queue.api import Postponed, Suspender
from rusmes.storage.api import Ledger

MAX_ASSIGNED: Final = 20_000
"""Mails whose source is remembered, about 150 bytes each."""
PATIENCE_SECONDS: Final = 60.0
"""Mail waits so long for sources that do not work; then it counts as an attempt, and its sender will hear of it."""
RECHECK_SECONDS: Final = 300.0
"""Then mail of a source that is suspended asks again: somebody may have resumed it."""
RECHECK_DAY_SECONDS: Final = 3600.0
"""The same for what waits for the next day of a warm-up: another source may have come."""


class Errand(Struct, frozen=True):
    """Where a mail goes, as far as sources care. `provider` and `site` are "" while they are not known."""

    provider: str
    site: str
    count: int = 1
    """Recipients."""


class _Obstacle(Struct, frozen=True):
    seconds: float
    reason: str
    is_broken: bool = False


class Exits:
    """All sources and pools of a worker."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        limits: SharedCounters,
        metrics: Metrics,
        overrides: Overrides,
        ledger: Ledger | None = None,
        suspender: Suspender | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._overrides = overrides
        self._suspender = suspender
        self.health = Health(clock, limits, metrics)
        self.warmups = WarmUps(clock, limits, ledger)
        self._assigned: dict[tuple[bytes, str], str] = {}
        self.apply(config)

    def apply(self, config: Config) -> None:
        """A reload: mail that waits keeps a source as long as there is one of that name."""
        egress = config.egress
        self._sources = {keys.name: source_of(keys) for keys in egress.source}
        self._pools = {
            pool.name: Pool(pool.name, pool_weights(pool), self._sources, sticky=pool.sticky) for pool in egress.pool
        }
        for name in self._sources:
            self._pools.setdefault(name, Pool(name, {name: 1}, self._sources))
        self._tenants = dict(egress.tenant_pools)
        self._default = egress.default_pool

    @property
    def is_used(self) -> bool:
        """Whether there are named sources at all."""
        return bool(self._sources)

    def source(self, name: str) -> Source | None:
        return self._sources.get(name)

    def pool(self, tenant: str, of_site: str) -> Pool | None:
        """By which pool a tenant's mail leaves to a site whose values name `of_site`; None: by no named source."""
        return self._pools.get(self._tenants.get(tenant) or of_site or self._default) if self._sources else None

    def measure(self) -> None:
        """Bring the gauge of sources that do not work up to date."""
        if self._sources:
            down = sum(self.health.down_for(source) > 0 for source in self._sources.values())
            self._metrics.set(EGRESS_DOWN, down)

    def pools_of(self, source: Source) -> list[str]:
        """The pools that a source is in."""
        return [pool.name for pool in self._pools.values() if source in pool.sources and pool.name != source.name]

    def has_pool(self, tenant: str) -> bool:
        """Whether a tenant's mail leaves by a pool of its own, wherever it goes."""
        return tenant in self._tenants

    # When it is queued

    def assign(self, item_id: bytes, pool: Pool, tenant: str, errand: Errand) -> str:
        """The source of a mail; always the same one for a mail that is known, while it can be used."""
        if len(pool.sources) == 1:
            return pool.sources[0].name
        key = (item_id, pool.name)
        known = self._assigned.get(key)
        if known is not None and known in self._sources and self._obstacle(self._sources[known], errand) is None:
            return known
        chosen = pool.choose(lambda source: self._obstacle(source, errand) is None, tenant) or pool.choose(_any, tenant)
        assert chosen is not None  # a pool has sources
        self._assigned.pop(key, None)
        while len(self._assigned) >= MAX_ASSIGNED:
            del self._assigned[next(iter(self._assigned))]
        self._assigned[key] = chosen.name
        return chosen.name

    # When its turn has come

    def admit(self, preferred: Source, pool: Pool | None, tenant: str, errand: Errand) -> Source | Refusal:
        """The source by which a mail may leave now, with its part of the day's warm-up taken.

        Raises:
            Postponed: none of them may be used for some time.
        """
        tried: set[str] = set()
        obstacles: list[_Obstacle] = []
        source: Source | None = preferred
        while source is not None:
            obstacle = self._obstacle(source, errand)
            if obstacle is None and not self.warmups.take(source, errand.provider, errand.count):
                obstacle = self._no_room(source, errand)
            if obstacle is None:
                self._metrics.inc(EGRESS_CHOICES["overflow" if tried else "chosen"])
                return source
            obstacles.append(obstacle)
            tried.add(source.name)
            source = pool.choose(lambda other: other.name not in tried, tenant) if pool is not None else None
        nearest = min(obstacles, key=lambda one: one.seconds)
        self._metrics.inc(EGRESS_CHOICES["postponed"])
        if nearest.is_broken and nearest.seconds > PATIENCE_SECONDS:
            return Refusal(451, "4.3.5", f"no egress source works: {nearest.reason}")
        raise Postponed(max(nearest.seconds, 0.05), nearest.reason)

    def why_not(self, pool: Pool, errand: Errand) -> str:
        """Why a mail can leave by no source of a pool now; "" = it can."""
        obstacles = [self._obstacle(source, errand) for source in pool.sources]
        found = [one for one in obstacles if one is not None]
        return min(found, key=lambda one: one.seconds).reason if len(found) == len(obstacles) else ""

    def may_follow(self, source: Source, errand: Errand) -> bool:
        """Whether a mail may leave by a source right now, with its part taken; like `admit`, for whoever has another way."""
        if self._obstacle(source, errand) is not None or not self.warmups.take(source, errand.provider, errand.count):
            return False
        self._metrics.inc(EGRESS_CHOICES["chosen"])
        return True

    def settle(self, source: Source, errand: Errand, sent: int) -> None:
        """How many recipients were sent to in the end; the rest was not used."""
        if source.warmup is not None:
            self.warmups.give_back(source, errand.provider, errand.count - sent)

    def _obstacle(self, source: Source, errand: Errand) -> _Obstacle | None:
        """Why a source cannot be used now."""
        seconds = self.health.down_for(source)
        if seconds:
            return _Obstacle(seconds, f"source {source.name}: {self.health.reason(source)}", True)
        now = self._clock.now()
        if self._suspender is not None and (found := self._suspender.until(source=source.name)) is not None:
            until, reason = found
            return _Obstacle(min(until - now, RECHECK_SECONDS), f"source {source.name} is suspended: {reason}")
        if errand.site and (stopped := self._overrides.suspension(errand.site, source.name)) is not None:
            seconds = min(stopped.until - now, RECHECK_SECONDS)
            return _Obstacle(seconds, f"source {source.name} is suspended for {errand.site}: {stopped.reply}")
        if source.warmup is not None and not self.warmups.has_room(source, errand.provider, errand.count):
            return self._no_room(source, errand)
        return None

    def _no_room(self, source: Source, errand: Errand) -> _Obstacle:
        whom = errand.provider or "other sites"
        limit = self.warmups.limit(source, errand.provider)
        seconds = min(self.warmups.seconds_left(), RECHECK_DAY_SECONDS)
        return _Obstacle(seconds, f"source {source.name} has sent its {limit} messages of today to {whom}")


def _any(_source: Source) -> bool:
    return True
