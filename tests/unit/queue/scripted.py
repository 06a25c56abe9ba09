"""A deliverer that does what a test says, and a runner around it in simulated time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Queue
from rusmes.config.units import Duration
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Busy, Report, SiteLimits, Target
from rusmes.storage.memory_queue import MemoryQueueStore
from tests.sinks.engine import HOSTNAME, Engine

LIMITS = SiteLimits(connections=3)
Answer = Callable[[Recipient], Report]


def delivered(recipient: Recipient) -> Report:
    return Report(recipient, "delivered", 250, "2.0.0", "ok", "mx.example")


def delayed(recipient: Recipient) -> Report:
    return Report(recipient, "delayed", 451, "4.3.0", "later", "mx.example")


def failed(recipient: Recipient) -> Report:
    return Report(recipient, "failed", 550, "5.1.1", "no such user", "mx.example")


class Deliveries:
    """`answer` decides about each recipient; `gate` (when set) holds deliveries up; what was sent is in `sent`."""

    def __init__(self) -> None:
        self.answer: Answer = delivered
        self.by_recipient: dict[str, Answer] = {}
        self.sent: list[tuple[bytes, tuple[str, ...]]] = []
        self.gate: asyncio.Event | None = None
        self.under_way = 0
        self.most_under_way = 0
        self.limits = LIMITS
        self.targets: dict[str, Target | Refusal] = {}
        self.error: Exception | None = None
        self.sites: dict[str, str] = {}
        """Of domains that share one."""
        self.dead: dict[str, tuple[float, str]] = {}
        self.now: Callable[[], float] = lambda: 0.0
        self.lookups = 0

    def destination(self, item: Queued, recipient: Recipient) -> str:
        return recipient.address.domain

    def known_target(self, destination: str) -> Target | None:
        if destination in self.targets:
            return None
        return Target(self.sites.get(destination, destination), self.limits)

    async def find_target(self, destination: str) -> Target | Refusal:
        self.lookups += 1
        await asyncio.sleep(0)
        return self.targets[destination]

    def not_before(self, key: str) -> Busy | None:
        """What `dead` says of it."""
        until, reason = self.dead.get(key, (0.0, ""))
        return Busy(until - self.now(), reason) if until > self.now() else None

    def try_now(self, key: str) -> None:
        self.dead.pop(key, None)

    async def deliver(
        self, item: Queued, recipients: Sequence[Recipient], destination: str, worker: Any = None
    ) -> Sequence[Report]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            self.sent.append((item.id, tuple(r.address.local for r in recipients)))
            return [self.by_recipient.get(r.address.local, self.answer)(r) for r in recipients]
        finally:
            self.under_way -= 1


def simulated(**queue: Any) -> Config:
    defaults = {"retry_schedule": (Duration("10m"), Duration("1h")), "max_age": Duration("1d"), "delay_warning": Duration("2h")}
    return Config(domain="example.com", hostname=HOSTNAME, queue=Queue(**{**defaults, **queue}))


class Bench:
    """An engine in simulated time: `settle` lets everything happen that can, `advance` moves the clock."""

    def __init__(self, config: Config, *, store: MemoryQueueStore | None = None, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.deliveries = Deliveries()
        self.deliveries.now = self.clock.monotonic
        self.engine = Engine(config, clock=self.clock, deliverer=self.deliveries, queue_store=store)
        self.runner = self.engine.runner
        self.store = self.engine.queue_store

    async def settle(self) -> None:
        """An outcome can cause mail, whose outcome can cause mail: three rounds are enough for all tests."""
        outcomes = self.runner._outcomes
        for _ in range(3):
            for _ in range(100):
                await asyncio.sleep(0)
            while len(outcomes) or outcomes._flushing is not None:
                if outcomes._timer is not None:
                    outcomes._timer.cancel()
                    outcomes._start()
                await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.runner.wake()
        await self.settle()

    @property
    def entries(self) -> list[Any]:
        return list(self.store.entries())


@contextlib.asynccontextmanager
async def bench(config: Config | None = None, **parts: Any) -> AsyncIterator[Bench]:
    made = Bench(config or simulated(), **parts)
    made.runner.start()
    await made.settle()
    try:
        yield made
    finally:
        if made.deliveries.gate is not None:
            made.deliveries.gate.set()
        await made.runner.stop(1.0)
