"""The first process: binds, drops privileges, starts workers, keeps them alive, answers the operator, ends in order.

It handles no mail. Its loop runs in pieces, each until the next `Plan`: what must be done outside of the loop (fork a worker,
or end). So forks happen between two pieces, when no callback and no thread of ours is under way.

A worker that dies is started again at once, and if it dies soon again, after 1, 2, 4 ... 30 seconds; meanwhile another worker
accepts for it, its places in the shared table are given back, its queue stays as it is on the disk.
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
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from rusmes import metrics as m
from rusmes._version import __version__
from rusmes.config.schema import Config
from rusmes.http.admin import AdminApi, Pages
from rusmes.http.events import EventPages
from rusmes.http.injection import InjectionPages
from rusmes.http.metrics import Exporter
from rusmes.http.queue import QueuePages
from rusmes.log import get_logger
from rusmes.logfiles import compress_file
from rusmes.server.allocator import keep_large_blocks_apart
from rusmes.server.build import Ground
from rusmes.server.channel import Channel
from rusmes.server.control import Control
from rusmes.server.courier import CourierProcess, run_courier
from rusmes.server.fleet import Fleet, Worker
from rusmes.server.injections import Injections
from rusmes.server.logs import file_of
from rusmes.server.queues import Queues
from rusmes.server.readiness import Readiness
from rusmes.server.watch import Watch
from rusmes.server.worker import EXIT_CANNOT_START, STOP_GRACE_SECONDS, run_worker

HEALTHY_SECONDS: Final = 10.0
"""A worker that lived so long died of something new: no back-off."""
MAX_BACKOFF_SECONDS: Final = 30.0
MAX_DEATHS_AT_START: Final = 3
HUNG_SECONDS: Final = 120.0
"""A worker without a sign of life for so long is killed, and started again."""
STOP_MARGIN_SECONDS: Final = 5.0
"""For commits, after the drain and the grace of deliveries; then a worker is killed."""
LOG_PROBLEM_SECONDS: Final = 600.0
"""A log that cannot be rotated is tried again each second; it need not be filled with that."""

_log = get_logger("supervisor")


class Plan(Struct, frozen=True):
    """What has to be done outside of the loop."""

    fork: int = -1
    """A slot that needs a process."""
    courier: bool = False
    """The courier needs one."""
    end: int = -1
    """The exit status to end with."""


class Supervisor:
    """Made when everything is bound and privileges are dropped; `run` returns the exit status."""

    def __init__(
        self,
        ground: Ground,
        loaded: Config,
        *,
        slots: int,
        adopted: list[int],
        control: socket.socket,
        metrics_socket: socket.socket | None,
        token: str,
        readiness: Readiness,
        keep_open: list[int],
    ) -> None:
        self._ground = ground
        self._fleet = Fleet(ground, loaded, slots)
        self._workers = self._fleet.workers
        self._control_socket = control
        self._metrics_socket = metrics_socket
        self._token = token
        self._readiness = readiness
        self._keep_open = keep_open
        self._adoption = {slot: [other for other in adopted if other % slots == slot] for slot in range(slots)}
        self._plans: asyncio.Queue[Plan]
        self._drain_deadline = 0.0
        self._has_served = False
        self._next_log_problem = 0.0
        self.failure = ""
        """Why no worker could start."""
        self._control: Control
        self._api: AdminApi
        self._courier = CourierProcess(ground, lambda: self._plans.put_nowait(Plan(courier=True)))
        self._fleet.courier = self._courier
        self._covers: dict[int, int] = {}
        """Slots without a worker: which slot's worker accepts for them."""
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._children: set[int] = set()
        """Processes that are no workers: compression of log files."""

    # Outside of the loop

    def run(self) -> int:
        slots = len(self._workers)
        self._ground.metrics.use_column(slots)
        self._ground.limits.use_column(slots)
        keep_large_blocks_apart()
        gc.collect()
        gc.freeze()  # shared with the workers, as long as nobody's collector writes into it
        for worker in self._workers:
            self._fork(worker)
        self._fork_courier()
        # Not uvloop: that keeps SIGCHLD for itself, and here is nothing to be fast at.
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._open())
            while True:
                plan = loop.run_until_complete(self._plans.get())
                if plan.end >= 0:
                    loop.run_until_complete(self._close())
                    return plan.end
                if plan.courier:
                    self._fork_courier()
                    loop.run_until_complete(self._courier.attach())
                    continue
                self._fork(self._workers[plan.fork])
                loop.run_until_complete(self._attach(self._workers[plan.fork]))
        finally:
            # From here on a signal could only turn a good end into a bad one.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
            self._kill_all()
            self._courier.wait()
            asyncio.set_event_loop(None)
            loop.close()

    def _fork(self, worker: Worker) -> None:
        """Start the process of a slot. In the child this does not return."""
        ours, theirs = socket.socketpair()
        self._ground.sink.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        self._ground.metrics.clear_level(m.WORKER_HEARTBEAT, worker.slot)
        pid = self._child(theirs, lambda: run_worker(self._ground, worker.slot, self._adoption[worker.slot], theirs))
        theirs.close()
        worker.pid = pid
        worker.started = time.monotonic()
        worker.is_ready = False
        worker.generation = self._fleet.generation
        ours.setblocking(False)
        handlers = {
            "ready": self._on_ready(worker),
            "failed": self._on_failed(worker),
            "released": self._on_released(worker),
        }
        worker.channel = Channel(ours, handlers, lambda: None)

    def _child(self, channel: socket.socket, work: Callable[[], int], *, serves: bool = True) -> int:
        """Fork; the child does the work and ends with its status."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                # Nothing inherited is ever collected here, so no object closes a descriptor whose number means something new.
                gc.freeze()
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
                    signal.signal(number, signal.SIG_DFL)
                self._close_foreign(channel, serves)
                status = work()
            finally:
                os._exit(status)
        return pid

    def _fork_courier(self) -> None:
        if not self._courier.is_wanted:
            return
        ours, theirs = socket.socketpair()
        self._ground.sink.flush()
        pid = self._child(theirs, lambda: run_courier(self._ground, theirs), serves=False)
        theirs.close()
        self._courier.forked(pid, ours)

    def _close_foreign(self, channel: socket.socket, serves: bool) -> None:
        """In a new process: close what is the supervisor's. A worker keeps the sockets of other slots, it may have to cover for
        them; who does not serve keeps none, for a port is closed only when nobody has its socket any more."""
        ground = self._ground
        keep = {0, 1, 2, channel.fileno(), *self._keep_open}
        if serves:
            keep |= {end.fileno() for pair in ground.notices for end in pair}
            keep |= {sock.fileno() for binding in ground.bindings for sock in binding.sockets}
        file = file_of(ground.sink)
        if file is not None:
            keep.add(file.fileno())
        last = -1
        for number in [*sorted(keep), 1 << 20]:
            if number > last + 1:
                os.closerange(last + 1, min(number, 1 << 20))
            last = number

    def _kill_all(self) -> None:
        for worker in self._workers:
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(worker.pid, 0)
                worker.pid = 0

    # Inside: opening and closing

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._plans = asyncio.Queue()
        self._control = Control(self._fleet, self._readiness)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR1, self._on_user_signal)
        loop.add_signal_handler(signal.SIGCHLD, self._on_child)
        exporter = Exporter(self._ground.metrics, self._fleet.processes)
        config = self._ground.config
        pages: list[Pages] = [QueuePages(Queues(self._fleet)), InjectionPages(Injections(self._fleet))]
        pages.append(EventPages(Watch(self._fleet)))
        self._api = AdminApi(self._control, exporter, metrics_path=config.metrics.path, token=self._token, pages=pages)
        await self._api.serve_control(self._control_socket)
        if self._metrics_socket is not None:
            await self._api.serve_metrics(self._metrics_socket)
        for worker in self._workers:
            await self._attach(worker)
        await self._courier.attach()
        self._spawn(self._tend())
        if self._readiness.watchdog_seconds:
            self._spawn(self._tell_watchdog())
        self._on_child()  # one may have died before there was a handler

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._api.close()
        for worker in self._workers:
            if worker.channel is not None:
                await worker.channel.close()
        _log.info("server ends")
        self._ground.sink.flush()

    async def _attach(self, worker: Worker) -> None:
        assert worker.channel is not None
        await worker.channel.open()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the supervisor failed", error=repr(error))

    # Workers

    def _on_ready(self, worker: Worker) -> Callable[[], Any]:
        async def handle() -> None:
            worker.is_ready = True
            if worker.generation != self._fleet.generation:  # a reload came while it was starting
                self._spawn(self._control.catch_up(worker))
            for other in self._workers:
                if self._covers.get(worker.slot) == other.slot and other.channel is not None:
                    other.channel.tell("uncover", slot=worker.slot)
            self._covers.pop(worker.slot, None)
            self._cover_gaps()
            if not self._has_served and all(other.is_ready for other in self._workers):
                self._has_served = True
                self._readiness.ready(f"{len(self._workers)} workers serve")
                _log.info("server is ready", version=__version__, workers=len(self._workers), pid=os.getpid())

        return handle

    def _on_failed(self, worker: Worker) -> Callable[..., Any]:
        async def handle(reason: str) -> None:
            worker.failure = reason

        return handle

    def _on_released(self, worker: Worker) -> Callable[..., Any]:
        async def handle(slots: list[int]) -> None:
            self._adoption[worker.slot] = [slot for slot in self._adoption[worker.slot] if slot not in slots]

        return handle

    def _on_child(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._children.discard(pid)
            if pid == self._courier.pid:
                self._spawn(self._courier.died(os.waitstatus_to_exitcode(status)))
            for worker in self._workers:
                if worker.pid == pid:
                    self._died(worker, os.waitstatus_to_exitcode(status))

    def _died(self, worker: Worker, code: int) -> None:
        lived = time.monotonic() - worker.started
        was_ready, worker.is_ready, worker.pid = worker.is_ready, False, 0
        if worker.channel is not None:
            self._spawn(worker.channel.close())
            worker.channel = None
        given_back = self._ground.limits.reset_worker(worker.slot)
        for definition in m.definitions():
            if definition.kind == "gauge":
                for slot in definition.slots.values():
                    if isinstance(slot, int):
                        self._ground.metrics.clear_level(slot, worker.slot)
        if self._fleet.draining:
            if not any(other.pid for other in self._workers):
                self._plans.put_nowait(Plan(end=0))
            return
        _log.error("worker died", slot=worker.slot, code=code, lived_seconds=round(lived, 1), connections_given_back=given_back)
        # Who was killed by a signal did not fail by itself; but not again and again.
        if not self._has_served and not was_ready and (code >= 0 or worker.quick_deaths >= MAX_DEATHS_AT_START):
            self.failure = f"worker {worker.slot} cannot start: {worker.failure or f'exit status {code}'}"
            _log.error("the server cannot start", slot=worker.slot, reason=worker.failure or f"exit status {code}")
            self._plans.put_nowait(Plan(end=1))
            return
        if code == EXIT_CANNOT_START or lived < HEALTHY_SECONDS:
            worker.quick_deaths += 1
        else:
            worker.quick_deaths = 0
        delay = min(MAX_BACKOFF_SECONDS, 2.0 ** (worker.quick_deaths - 2)) if worker.quick_deaths > 1 else 0.0
        loop = asyncio.get_running_loop()
        self._timers[worker.slot] = loop.call_later(delay, self._restart, worker)
        if delay or worker.slot in self._covers.values():
            self._cover_gaps()

    def _cover_gaps(self) -> None:
        """Let a worker that serves accept for each one that does not, and will not at once."""
        serving = [worker for worker in self._workers if worker.is_ready and worker.channel is not None]
        for worker in self._workers:
            if not serving or not self._has_served or worker.is_ready:
                continue
            if self._covers.get(worker.slot) not in {other.slot for other in serving}:
                helper = serving[worker.slot % len(serving)]
                assert helper.channel is not None
                helper.channel.tell("cover", slot=worker.slot)
                self._covers[worker.slot] = helper.slot

    def _restart(self, worker: Worker) -> None:
        if not self._fleet.draining and not worker.pid:
            worker.restarts += 1
            worker.failure = ""
            self._ground.metrics.inc(m.WORKER_RESTARTS)
            self._plans.put_nowait(Plan(fork=worker.slot))

    async def _tend(self) -> None:
        """Every second: hung workers, full log files, a drain that takes too long."""
        while True:
            await asyncio.sleep(1.0)
            for facts in self._fleet.facts().workers:
                if facts.pid and facts.is_ready and facts.heartbeat_age_seconds > HUNG_SECONDS:
                    _log.error("worker hangs, killing it", slot=facts.slot, silent_seconds=round(facts.heartbeat_age_seconds))
                    os.kill(facts.pid, signal.SIGKILL)
            if self._fleet.draining and time.monotonic() > self._drain_deadline:
                _log.error("workers do not end, killing them")
                self._kill_all()
                self._plans.put_nowait(Plan(end=1))
                return
            self._tend_log()
            self._ground.sink.flush()

    def _tend_log(self) -> None:
        file = file_of(self._ground.sink)
        if file is None:
            return
        try:
            file.rotate_when_full()
            for path in file.compressible():
                if not self._children:  # one at a time
                    self._compress(path)
        except OSError as error:
            if time.monotonic() >= self._next_log_problem:
                self._next_log_problem = time.monotonic() + LOG_PROBLEM_SECONDS
                _log.error("the log cannot be rotated", reason=str(error))

    def _compress(self, path: str) -> None:
        """In a process of its own: a thread here would make the next fork unsafe."""
        pid = os.fork()
        if pid == 0:
            try:
                os.nice(10)
                compress_file(path)
            finally:
                os._exit(0)
        self._children.add(pid)

    async def _tell_watchdog(self) -> None:
        while True:
            if self._fleet.draining or any(worker.is_alive for worker in self._fleet.facts().workers):
                self._readiness.alive()
            await asyncio.sleep(self._readiness.watchdog_seconds)

    # Signals

    def _on_stop_signal(self, number: int) -> None:
        if self._fleet.draining:
            _log.warn("second signal, stopping at once", signal=signal.Signals(number).name)
            self._kill_all()
            self._plans.put_nowait(Plan(end=1))
            return
        _log.info("draining", signal=signal.Signals(number).name)
        self._fleet.draining = True
        self._readiness.stopping()
        for timer in self._timers.values():
            timer.cancel()
        for binding in self._ground.bindings:
            for sock in binding.sockets:
                sock.close()
        seconds = float(self._ground.config.server.drain_timeout)
        self._drain_deadline = time.monotonic() + seconds + STOP_GRACE_SECONDS + STOP_MARGIN_SECONDS
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.tell("stop", seconds=seconds)
        if not any(worker.pid for worker in self._workers):
            self._plans.put_nowait(Plan(end=0))

    def _on_hangup(self) -> None:
        self._spawn(self._control.reload_quietly())

    def _on_user_signal(self) -> None:
        self._spawn(self._control.reopen_logs())
