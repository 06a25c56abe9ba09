"""What the operator may ask of a running server: implements `http.admin.Operator` for the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any, Final

from rusmes import metrics as m
from rusmes._version import __version__
from rusmes.config.load import load_config
from rusmes.config.schema import Config
from rusmes.config.shaping import with_kept_files
from rusmes.errors import ConfigError, RusmesError
from rusmes.http.health import Health, health, live, ready
from rusmes.log import get_logger
from rusmes.server.build import contexts_of
from rusmes.server.channel import Channel, ChannelClosed
from rusmes.server.check import check_all
from rusmes.server.fleet import Fleet, Worker
from rusmes.server.logs import file_of
from rusmes.server.readiness import Readiness
from rusmes.server.reload import changes_of, packed, with_old_values

ANSWER_SECONDS: Final = 2.0
"""How long `status` waits for a worker; one that is busier than that shows no numbers."""

_log = get_logger("supervisor")


class Control:
    """The supervisor's ears."""

    def __init__(self, fleet: Fleet, readiness: Readiness) -> None:
        self._fleet = fleet
        self._readiness = readiness
        self._reloading = asyncio.Lock()

    # Reload

    async def reload_quietly(self) -> None:
        """For SIGHUP: what is wrong is told to the log."""
        try:
            await self.reload()
        except ConfigError as error:
            for line in str(error).splitlines():
                _log.error("the configuration is wrong, nothing was changed", problem=line)
        except RusmesError as error:
            _log.error("reload failed", reason=str(error))

    async def reload(self) -> dict[str, Any]:
        async with self._reloading:
            self._readiness.reloading()
            try:
                return await self._reload()
            except RusmesError:
                self._fleet.ground.metrics.inc(m.RELOADS["refused"])
                raise
            finally:
                self._readiness.ready("serving")

    async def _reload(self) -> dict[str, Any]:
        ground = self._fleet.ground
        if ground.config.chroot:
            raise RusmesError("with chroot, a running server cannot reach its configuration", "restart it")
        new = with_kept_files(load_config(self._fleet.loaded.path or None), self._fleet.loaded)
        warnings = check_all(new)
        changes = changes_of(self._fleet.loaded, new)
        keys = [change.key for change in changes.restart]
        protocols = [binding.protocol for binding in ground.bindings]
        # What needs a restart, and what this machine added (host name, runtime directory), stays as it is.
        effective = with_old_values(new, ground.config, [*keys, "hostname", "runtime_dir", "storage"])
        contexts = contexts_of(effective, protocols)
        await self._hand_out(effective)
        concerns_courier = (effective.events, effective.logging) != (ground.config.events, ground.config.logging)
        ground.config = effective
        self._fleet.generation += 1
        if concerns_courier:
            self._fleet.courier.reload()
        for worker in self._fleet.workers:
            if worker.is_ready:
                worker.generation = self._fleet.generation
        ground.contexts.update(contexts)
        ground.sink.set_levels(effective.logging.level, effective.logging.levels)
        # A key that waits for a restart is compared with the running value next time too.
        self._fleet.loaded = with_old_values(new, self._fleet.loaded, keys)
        self._fleet.restart_needed = keys
        for change in changes.applied:
            _log.info("changed", key=change.key, old=change.old, new=change.new)
        for change in changes.restart:
            _log.warn("needs a restart", key=change.key, old=change.old, new=change.new)
        for warning in warnings:
            _log.warn("configuration", warning=warning)
        _log.info("reloaded", applied=len(changes.applied), restart=len(changes.restart))
        ground.metrics.inc(m.RELOADS["applied"])
        return {"applied": [change.key for change in changes.applied], "restart": keys}

    async def catch_up(self, worker: Worker) -> None:
        """Give the present configuration to a worker that was forked before a reload and serves only now."""
        async with self._reloading:
            if worker.channel is not None and worker.generation != self._fleet.generation:
                await worker.channel.call("reload", config=packed(self._fleet.ground.config))
                worker.generation = self._fleet.generation

    async def _hand_out(self, config: Config) -> None:
        """Give every worker the configuration, or none of them. Raises RusmesError."""
        channels = [worker.channel for worker in self._fleet.workers if worker.channel is not None and worker.is_ready]
        done: list[Channel] = []
        try:
            for channel in channels:
                done.append(channel)
                with contextlib.suppress(ChannelClosed):
                    await channel.call("reload", config=packed(config))
        except RusmesError:
            for channel in done:
                with contextlib.suppress(RusmesError):
                    await channel.call("reload", config=packed(self._fleet.ground.config))
            raise

    async def reopen_logs(self) -> None:
        file = file_of(self._fleet.ground.sink)
        if file is not None:
            file.reopen()
        for channel in self._fleet.channels():
            with contextlib.suppress(ChannelClosed):
                await channel.call("reopen_logs")

    async def _event_consumers(self) -> list[dict[str, Any]]:
        """How far webhooks and copies of the event log are; nothing when the courier is busy or away."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found: list[dict[str, Any]] = await self._fleet.courier.ask("shippers")
                return found
        except (ChannelClosed, TimeoutError):
            return []

    async def status(self) -> dict[str, Any]:
        facts = self._fleet.facts()
        workers = []
        for worker, known in zip(self._fleet.workers, facts.workers, strict=True):
            row: dict[str, Any] = {
                "slot": worker.slot,
                "pid": worker.pid,
                "alive": known.is_alive,
                "restarts": worker.restarts,
                "connections": 0,
                "queue_entries": 0,
            }
            if worker.channel is not None and worker.is_ready:
                with contextlib.suppress(ChannelClosed, TimeoutError):
                    async with asyncio.timeout(ANSWER_SECONDS):
                        answer = await worker.channel.call("status")
                    row["connections"] = answer["connections"]
                    row["queue_entries"] = answer["queue_entries"]
            workers.append(row)
        config = self._fleet.ground.config
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - self._fleet.started),
            "config": self._fleet.loaded.path,
            "hostname": config.hostname,
            "domains": list(config.local_domains),
            "health": health(facts).document,
            "draining": self._fleet.draining,
            "restart_needed": list(self._fleet.restart_needed),
            "connections": self._fleet.ground.limits.count(b"total"),
            "queue_entries": sum(row["queue_entries"] for row in workers),
            "disk_free_bytes": facts.disk_free_bytes,
            "listeners": [
                {"protocol": b.protocol, "address": b.address, "tls": b.implicit_tls} for b in self._fleet.ground.bindings
            ],
            "event_consumers": await self._event_consumers(),
            "workers": workers,
        }

    async def store_verify(self) -> list[dict[str, Any]]:
        findings: list[dict[str, Any]] = []
        for number, channel in enumerate(self._fleet.channels()):
            findings += await channel.call("store.verify", mail=number == 0)
        return findings

    def health(self, page: str) -> Health:
        return live() if page == "live" else (ready if page == "ready" else health)(self._fleet.facts())
