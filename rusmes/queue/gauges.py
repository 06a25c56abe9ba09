"""How much waits, as metrics."""

from __future__ import annotations

from collections.abc import Collection

from rusmes.metrics import QUEUE_DEPTH, QUEUE_OLDEST, QUEUE_SIZE, Gauge, Metrics


class Gauges:
    """Of one queue. A worker with adopted queues has several, so each adds its difference."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._measured: dict[Gauge, int] = {}

    def measure(self, active: Collection[bytes], waiting: Collection[bytes], held: Collection[bytes], now: float) -> None:
        """The ids of entries in each place."""
        values = {
            QUEUE_SIZE: len(active) + len(waiting) + len(held),
            QUEUE_DEPTH["queued"]: len(active),
            QUEUE_DEPTH["deferred"]: len(waiting),
            QUEUE_DEPTH["held"]: len(held),
        }
        for slot, value in values.items():
            self._metrics.add(slot, value - self._measured.get(slot, 0))
        self._measured = values
        oldest = min((int.from_bytes(next(iter(ids))[:6], "big") for ids in (active, waiting) if ids), default=0)
        self._metrics.set(QUEUE_OLDEST, max(now - oldest / 1000, 0.0) if oldest else 0.0)
