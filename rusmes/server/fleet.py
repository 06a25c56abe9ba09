"""The workers as the supervisor knows them, and what can be said of them without asking them."""

from __future__ import annotations

import os
import shutil
import time

from msgspec import Struct

from rusmes import metrics as m
from rusmes.config.schema import Config
from rusmes.errors import RusmesError
from rusmes.http.health import Facts, WorkerFacts
from rusmes.http.metrics import Process
from rusmes.server.build import Ground
from rusmes.server.channel import Channel
from rusmes.server.courier import CourierProcess


class Worker(Struct):
    """One slot: its process, if there is one, and the line to it."""

    slot: int
    pid: int = 0
    channel: Channel | None = None
    is_ready: bool = False
    started: float = 0.0
    restarts: int = 0
    quick_deaths: int = 0
    """Deaths in a row, each soon after the start."""
    generation: int = 0
    """Of the configuration it has."""
    failure: str = ""
    """Why it could not start, in its own words."""


class Fleet:
    """All workers, what they stand on, and the configuration they have."""

    def __init__(self, ground: Ground, loaded: Config, slots: int) -> None:
        self.ground = ground
        self.loaded = loaded
        """The configuration as it was read, without what this machine adds."""
        self.workers = [Worker(slot) for slot in range(slots)]
        self.generation = 0
        """Grows with each reload."""
        self.restart_needed: list[str] = []
        """Keys whose new values wait for a restart."""
        self.draining = False
        self.started = time.time()
        self.courier: CourierProcess
        """Set by the supervisor."""

    def channels(self) -> list[Channel]:
        """Lines to the workers that serve. Raises RusmesError: none does."""
        found = [worker.channel for worker in self.workers if worker.channel is not None and worker.is_ready]
        if not found:
            raise RusmesError("no worker serves now", "try again in a moment")
        return found

    def processes(self) -> list[Process]:
        own = Process("supervisor", len(self.workers), os.getpid())
        return [own, *(Process(f"worker {worker.slot}", worker.slot, worker.pid) for worker in self.workers)]

    def facts(self) -> Facts:
        """Read from shared memory and the file system: true also when no worker would answer."""
        metrics, now = self.ground.metrics, time.monotonic()
        workers = [
            WorkerFacts(worker.slot, worker.pid, worker.is_ready, now - metrics.level(m.WORKER_HEARTBEAT, worker.slot))
            for worker in self.workers
        ]
        serving = [worker.slot for worker in workers if worker.is_alive]
        writable = bool(serving) and all(metrics.level(m.STORE_WRITABLE, slot) for slot in serving)
        try:
            disk = shutil.disk_usage(self.ground.config.storage.path)
        except OSError:
            return Facts(workers, False, 0, 1, self.draining)
        return Facts(workers, writable, disk.free, disk.total, self.draining)
