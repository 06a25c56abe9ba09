"""The courier: a process beside the workers that keeps the event log and hands events to others.

It packs and sorts what the workers have written, removes what is old, and runs the webhooks and copies of [events]. None of
that is done by a process that handles mail, so no consumer and no amount of packing holds mail up; and when the courier dies
it is started again, and goes on where it was. A reload ends it, and the next one has the new configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from msgspec import to_builtins

from rusmes import log as log_module
from rusmes import metrics as m
from rusmes.config.events import EventFile, Webhook
from rusmes.events.history import find_history
from rusmes.events.keeper import Keeper
from rusmes.events.segments import Segment
from rusmes.events.shipping import Shipper, shipper_of
from rusmes.events.writer import directory_of
from rusmes.log import get_logger
from rusmes.server.build import Ground
from rusmes.server.channel import Channel, ChannelClosed, Handler

TEND_SECONDS: Final = 5.0
MEASURE_SECONDS: Final = 5.0
STOP_SECONDS: Final = 3.0
"""How long the supervisor waits for its end; what is under way then is offered again after the next start."""
COMPLAINT_SECONDS: Final = 300.0
MIN_LIFE_SECONDS: Final = 10.0
MAX_BACKOFF_SECONDS: Final = 30.0
NICENESS: Final = 5
PROCESS_NAME: Final = "rusmes-courier"

_log = get_logger("events")


# In its process


def run_courier(ground: Ground, channel_socket: socket.socket) -> int:
    """The whole life of a courier in a process that was just forked; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write(PROCESS_NAME)
    log_module.configure(ground.sink)
    os.nice(NICENESS)
    try:
        return asyncio.run(Courier(ground, channel_socket).run())
    except Exception:
        _log.exception("the courier failed")
        return 1
    finally:
        ground.sink.flush()


class Courier:
    """The running courier."""

    def __init__(self, ground: Ground, channel_socket: socket.socket) -> None:
        self._config = ground.config
        self._metrics = ground.metrics
        self._sink = ground.sink
        self._directory = directory_of(ground.config.events, ground.config.storage.path)
        self._stop = asyncio.Event()
        self._shippers: list[Shipper] = []
        handlers: dict[str, Handler] = {"history": self._on_history, "shippers": self._on_shippers}
        self._channel = Channel(channel_socket, handlers, self._stop.set)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        await self._channel.open()
        os.makedirs(self._directory, 0o750, exist_ok=True)
        events = self._config.events
        consumers: list[Webhook | EventFile] = [*events.webhook, *events.file]
        self._shippers = [shipper_of(one, self._directory, self._metrics) for one in consumers]
        tasks = [loop.create_task(self._tend()), loop.create_task(self._measure())]
        tasks += [loop.create_task(self._ship(shipper)) for shipper in self._shippers]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=STOP_SECONDS)
        await self._channel.close()
        return 0

    async def _ship(self, shipper: Shipper) -> None:
        while True:
            try:
                await shipper.run()
            except Exception:
                _log.exception("a consumer of events failed", consumer=shipper.state.name)
                await asyncio.sleep(TEND_SECONDS)

    async def _tend(self) -> None:
        keeper = Keeper(self._directory, self._config.events, on_removed=self._removed)
        next_complaint = 0.0
        while True:
            try:
                await asyncio.to_thread(keeper.tend, time.time(), self._pause)
            except OSError as error:
                if time.monotonic() >= next_complaint:
                    next_complaint = time.monotonic() + COMPLAINT_SECONDS
                    _log.error("the event log cannot be kept", reason=str(error))
            except _Stopped:
                return
            self._sink.flush()
            await asyncio.sleep(TEND_SECONDS)

    def _pause(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _removed(self, segment: Segment) -> None:
        """A file goes, whoever has not seen it."""
        late = [shipper.state.name for shipper in self._shippers if shipper.needs(segment)]
        if late:
            self._metrics.inc(m.EVENTS_LOST, segment.disk_bytes)
            _log.error("events removed before they were taken", consumers=late, bytes=segment.disk_bytes, file=segment.name)

    async def _measure(self) -> None:
        while True:
            states = [shipper.measure() for shipper in self._shippers]
            for kind in ("webhook", "file"):
                own = [state for state in states if state.kind == kind]
                self._metrics.set(m.EVENTS_LAG_SECONDS[kind], max((state.lag_seconds for state in own), default=0.0))
                self._metrics.set(m.EVENTS_LAG_BYTES[kind], max((state.lag_bytes for state in own), default=0))
            await asyncio.sleep(MEASURE_SECONDS)

    # What the supervisor asks

    async def _on_history(self, text: str, limit: int) -> dict[str, Any]:
        return dict(to_builtins(await asyncio.to_thread(find_history, self._directory, text, limit=limit)))

    async def _on_shippers(self) -> list[dict[str, Any]]:
        return [to_builtins(shipper.measure()) for shipper in self._shippers]


class _Stopped(Exception):
    """The courier ends, and sealing is left for the next one."""


# In the supervisor


class CourierProcess:
    """The supervisor's side. Forking is left to it, for it knows when that is safe."""

    def __init__(self, ground: Ground, wants_fork: Callable[[], None]) -> None:
        self._ground = ground
        self._wants_fork = wants_fork
        self.pid = 0
        self.channel: Channel | None = None
        self._started = 0.0
        self._quick_deaths = 0
        self._is_ending = False
        self._is_expected = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_wanted(self) -> bool:
        return self._ground.config.events.enabled and not self._is_ending

    def forked(self, pid: int, ours: socket.socket) -> None:
        ours.setblocking(False)
        self.pid = pid
        self._started = time.monotonic()
        self.channel = Channel(ours, {}, lambda: None)

    async def attach(self) -> None:
        if self.channel is not None:
            await self.channel.open()

    async def died(self, code: int) -> None:
        """Start it again: at once after a reload, else with a growing pause."""
        lived, self.pid = time.monotonic() - self._started, 0
        if self.channel is not None:
            await self.channel.close()
            self.channel = None
        if not self.is_wanted:
            return
        if self._is_expected:
            self._is_expected = False
            self._wants_fork()
            return
        _log.error("the courier died", code=code, lived_seconds=round(lived, 1))
        self._quick_deaths = self._quick_deaths + 1 if lived < MIN_LIFE_SECONDS else 0
        delay = min(2.0 ** (self._quick_deaths - 1), MAX_BACKOFF_SECONDS) if self._quick_deaths else 0.0
        self._timer = asyncio.get_running_loop().call_later(delay, self._wants_fork)

    def reload(self) -> None:
        """The next one has the configuration that the ground has now."""
        if self.pid:
            self._is_expected = True
            os.kill(self.pid, signal.SIGTERM)

    async def ask(self, name: str, **arguments: Any) -> Any:
        """Raises ChannelClosed: it does not run now. RusmesError: what it says."""
        if self.channel is None:
            raise ChannelClosed("the event log is not kept now", "see [events] enabled, or try again in a moment")
        return await self.channel.call(name, **arguments)

    def end(self) -> None:
        """Mail has ended; so does this, in a moment."""
        self._is_ending = True
        if self._timer is not None:
            self._timer.cancel()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> None:
        """Outside of the loop: until it has ended, or is killed."""
        self.end()
        until = time.monotonic() + STOP_SECONDS
        while self.pid:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                    if time.monotonic() > until:
                        os.kill(self.pid, signal.SIGKILL)
                        os.waitpid(self.pid, 0)
                        break
                    time.sleep(0.01)
                    continue
            break
        self.pid = 0
