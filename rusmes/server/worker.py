"""A worker: one event loop with everything in it, from the fork to its end.

Its end comes in one of four ways: the supervisor says `stop` (drain, commit, exit 0), SIGTERM (the same; the supervisor then
starts a new worker), the supervisor is gone (the same, in a hurry), or it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import uvloop

from rusmes import log as log_module
from rusmes import metrics as m
from rusmes.config.schema import Config
from rusmes.errors import ConfigError, RusmesError
from rusmes.log import get_logger
from rusmes.server.build import Ground, House
from rusmes.server.channel import Channel
from rusmes.server.injections import injection_handlers
from rusmes.server.logs import FLUSH_SECONDS, collect_lines, file_of
from rusmes.server.provision import LOOK_SECONDS
from rusmes.server.reload import unpacked
from rusmes.server.steering import Steering
from rusmes.server.watch import watch_handlers
from rusmes.storage.api import Finding
from rusmes.storage.commit import SWITCH_INTERVAL_SECONDS

HEARTBEAT_SECONDS: Final = 1.0
ORPHAN_DRAIN_SECONDS: Final = 5.0
"""Without a supervisor nobody restarts or reloads us; what is under way may end."""
STOP_GRACE_SECONDS: Final = 5.0
"""For deliveries under way, after the sessions have ended."""

EXIT_DONE: Final = 0
EXIT_CANNOT_START: Final = 3

_log = get_logger("worker")


def run_worker(ground: Ground, slot: int, adopted: Sequence[int], channel_socket: socket.socket) -> int:
    """The whole life of a worker in a process that was just forked; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everybody; the supervisor decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    ground.metrics.use_column(slot)
    ground.limits.use_column(slot)
    collect_lines(ground.sink)
    log_module.configure(ground.sink)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)  # so that the commit thread gets the GIL from a busy loop
    try:
        return uvloop.run(Worker(ground, slot, adopted, channel_socket).run())
    except KeyboardInterrupt:
        return EXIT_DONE
    except Exception:
        _log.exception("worker failed", slot=slot)
        return 1
    finally:
        ground.sink.flush()


class Worker:
    """The running worker, and what the supervisor may ask of it."""

    def __init__(self, ground: Ground, slot: int, adopted: Sequence[int], channel_socket: socket.socket) -> None:
        self._ground = ground
        self._slot = slot
        self._adopted = adopted
        self._stop = asyncio.Event()
        self._drain_seconds = float(ground.config.server.drain_timeout)
        self._house: House
        self._channel = Channel(
            channel_socket,
            {
                "stop": self._on_stop,
                "reload": self._on_reload,
                "reopen_logs": self._on_reopen_logs,
                "cover": self._on_cover,
                "uncover": self._on_uncover,
                "status": self._on_status,
                "store.verify": self._on_verify,
                **Steering(lambda: self._house).handlers(),
                **injection_handlers(lambda: self._house),
                **watch_handlers(lambda: self._house),
            },
            self._on_orphaned,
        )

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        await self._channel.open()
        try:
            self._house = House(self._ground, self._slot, self._adopted)
            await self._house.open()
        except (RusmesError, OSError) as error:
            _log.error("worker cannot start", slot=self._slot, error=str(error))
            self._channel.tell("failed", reason=str(error))
            await asyncio.sleep(0.05)
            return EXIT_CANNOT_START
        gc.collect()
        gc.freeze()  # what lives as long as the worker is never looked at again
        gc.set_threshold(20_000, 50, 100)
        work = [self._beat, self._flush_log, self._reap, self._house.watch_load, self._house.tls_care.run]
        if self._slot == 0:
            work += [self._provide, self._house.maildrop.run]  # one worker is enough
        ticking = [loop.create_task(one()) for one in work]
        self._channel.tell("ready")
        _log.info("worker serves", slot=self._slot, pid=os.getpid(), adopted=list(self._adopted))
        await self._stop.wait()
        cut = await self._house.drain(self._drain_seconds)
        await self._house.close(STOP_GRACE_SECONDS)
        for task in ticking:
            task.cancel()
        _log.info("worker ends", slot=self._slot, sessions_cut=cut)
        self._ground.sink.flush()
        await self._channel.close()
        return EXIT_DONE

    def _on_orphaned(self) -> None:
        if not self._stop.is_set():
            _log.error("the supervisor is gone, the worker ends", slot=self._slot)
            self._drain_seconds = min(self._drain_seconds, ORPHAN_DRAIN_SECONDS)
            self._stop.set()

    # Every second, and so on

    async def _beat(self) -> None:
        """Signs of life, how late they come, and whether the store takes writes."""
        loop, metrics = asyncio.get_running_loop(), self._ground.metrics
        while True:
            metrics.set(m.WORKER_HEARTBEAT, time.monotonic())
            self._house.measure()
            metrics.set(m.WORKER_UP, 1.0)
            for listener in self._house.listeners:
                listener.allow_refusal_logs()
            released = await self._house.release_adopted()
            if released:
                self._channel.tell("released", slots=released)
                _log.info("adopted queues are empty", slots=released)
            due = loop.time() + HEARTBEAT_SECONDS
            await asyncio.sleep(HEARTBEAT_SECONDS)
            metrics.observe(m.LOOP_LAG_SECONDS, max(0.0, loop.time() - due))

    async def _flush_log(self) -> None:
        sink, counted = self._ground.sink, 0
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            sink.flush()
            if sink.dropped > counted:
                self._ground.metrics.inc(m.LOG_LINES_DROPPED, sink.dropped - counted)
                counted = sink.dropped

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, float(self._house.config.connection_limits.reaper_interval)))
            for listener in self._house.listeners:
                listener.reap(time.monotonic())

    async def _provide(self) -> None:
        while True:
            await self._house.provision.look()
            await asyncio.sleep(LOOK_SECONDS)

    # What the supervisor asks

    async def _on_stop(self, seconds: float) -> None:
        self._drain_seconds = seconds
        self._stop.set()

    async def _on_reload(self, config: str) -> None:
        new: Config = unpacked(config)
        try:
            await self._house.apply(new)
        except ConfigError as error:
            raise RusmesError(str(error)) from None
        self._drain_seconds = float(new.server.drain_timeout)

    async def _on_reopen_logs(self) -> None:
        self._ground.sink.flush()
        file = file_of(self._ground.sink)
        if file is not None:
            with contextlib.suppress(OSError):
                file.reopen()

    async def _on_cover(self, slot: int) -> None:
        if not self._stop.is_set():
            await self._house.cover(slot)
            _log.info("accepting for a worker that is down", slot=self._slot, other=slot)

    async def _on_uncover(self, slot: int) -> None:
        if not self._stop.is_set():
            self._house.uncover(slot)

    async def _on_status(self) -> dict[str, Any]:
        house = self._house
        return {
            "connections": house.gate.here,
            "by_protocol": {listener.service.protocol: listener.connections for listener in house.listeners},
            "queue_entries": sum(engine.runner.size for engine in house.engines),
            "adopted": [engine.slot for engine in house.adopted],
        }

    async def _on_verify(self, mail: bool) -> list[dict[str, Any]]:
        """Read the queues of this worker, and the mail store if asked; in a thread, for it takes as long as it takes."""
        checks: list[Callable[[], Any]] = [engine.store.verify for engine in self._house.engines]
        if mail:
            checks.append(self._house.mail_store.verify)

        def read() -> list[Finding]:
            return [finding for check in checks for finding in check()]

        findings = await asyncio.get_running_loop().run_in_executor(None, read)
        return [msgspec.to_builtins(finding) for finding in findings]
