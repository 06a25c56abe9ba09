"""What /health, /ready and /live say. They tell the truth: each answer is made of what is measured now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

HEARTBEAT_LATE_SECONDS: Final = 10.0
"""A worker that has said nothing for so long does not serve, whatever its process state is."""

DISK_RESERVE_BYTES: Final = 100 << 20
DISK_RESERVE_SHARE: Final = 0.02
"""Below the larger of both, a disk counts as nearly full; the stores refuse mail at their own reserve below that."""


class WorkerFacts(Struct, frozen=True):
    """What is known of one worker."""

    slot: int
    pid: int
    is_ready: bool
    """It has opened its stores and listens."""
    heartbeat_age_seconds: float

    @property
    def is_alive(self) -> bool:
        return bool(self.pid) and self.is_ready and self.heartbeat_age_seconds < HEARTBEAT_LATE_SECONDS


class Facts(Struct, frozen=True):
    """What the server knows of itself."""

    workers: Sequence[WorkerFacts]
    store_writable: bool
    disk_free_bytes: int
    disk_total_bytes: int
    draining: bool = False


class Health(Struct, frozen=True):
    """An answer: an HTTP status and a document."""

    status: int
    document: dict[str, object] = field(default_factory=dict)


def health(facts: Facts) -> Health:
    """Every check with its result; 503 when one of them fails."""
    checks = {
        "workers": _workers(facts),
        "store": "ok" if facts.store_writable else "failed: it does not take writes",
        "disk": _disk(facts),
        "draining": "ok" if not facts.draining else "failed: the server is stopping",
    }
    is_ok = all(result == "ok" for result in checks.values())
    document: dict[str, object] = {
        "status": "healthy" if is_ok else "unhealthy",
        "checks": checks,
        "disk_free_bytes": facts.disk_free_bytes,
    }
    return Health(200 if is_ok else 503, document)


def ready(facts: Facts) -> Health:
    """Whether to send it new connections: some worker serves, the store takes writes, nobody stops it."""
    is_ready = any(worker.is_alive for worker in facts.workers) and facts.store_writable and not facts.draining
    return Health(200 if is_ready else 503, {"ready": is_ready})


def live() -> Health:
    """Whether to leave the process alone; who can answer this is alive."""
    return Health(200, {"alive": True})


def _workers(facts: Facts) -> str:
    # A worker without a process has ended, as it should, when the server stops.
    down = [str(worker.slot) for worker in facts.workers if not worker.is_alive and (worker.pid or not facts.draining)]
    return f"failed: no sign of life from worker {', '.join(down)}" if down else "ok"


def _disk(facts: Facts) -> str:
    reserve = max(DISK_RESERVE_BYTES, int(facts.disk_total_bytes * DISK_RESERVE_SHARE))
    reserve = min(reserve, facts.disk_total_bytes // 10)  # a small disk is not full from the start
    return "ok" if facts.disk_free_bytes > reserve else f"failed: {facts.disk_free_bytes >> 20} MB are free"
