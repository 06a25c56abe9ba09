"""Handing events to others, at least once: a task for each consumer, its place in the log kept in a file beside it.

A batch is offered until it is taken, with growing pauses, and only then the place moves on. So a consumer that is down costs
nothing but its own lag: the events wait in the log, where they are anyway, until [events] max_age or max_size removes them.
After a restart or a kill, what was taken and not yet noted is offered once more.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from rusmes.config.events import EventFile, Webhook
from rusmes.events.consumer import Consumer, NotTaken
from rusmes.events.copies import FileCopies
from rusmes.events.segments import Segment, decoded
from rusmes.events.tail import Batch, Tail, end_of, load_position, save_position
from rusmes.events.webhook import WebhookSender
from rusmes.log import get_logger
from rusmes.metrics import EVENTS_SHIP_FAILURES, EVENTS_SHIPPED, Metrics

POLL_SECONDS: Final = 0.25
"""How often the log is looked at when there was nothing new."""
SAVE_SECONDS: Final = 1.0
"""A place is noted at most this often; what a kill repeats is what was taken since."""
COMPLAINT_SECONDS: Final = 60.0
JITTER: Final = 0.2

_log = get_logger("events")


class State(Struct):
    """How a consumer is doing, for the operator."""

    name: str
    kind: str
    taken: int = 0
    """Since the start of this process."""
    failures: int = 0
    """In a row."""
    last_failure: str = ""
    lag_seconds: float = 0.0
    lag_bytes: int = 0


class Shipper:
    """One consumer on its way through the log."""

    def __init__(
        self, settings: Webhook | EventFile, consumer: Consumer, directory: str, kinds: tuple[str, ...], metrics: Metrics
    ) -> None:
        self._settings = settings
        self._consumer = consumer
        self._metrics = metrics
        self._path = os.path.join(directory, f"{settings.name}.position")
        position = load_position(self._path)
        if position is None:
            position = end_of(directory) if settings.begin == "now" else {}
        self.tail = Tail(directory, position, kinds)
        self._saved: dict[str, Any] | None = None
        self._next_save = 0.0
        self._next_complaint = 0.0
        self._oldest = 0.0
        self._size = settings.batch_size if isinstance(settings, Webhook) else 2000
        self._wait = float(settings.batch_time) if isinstance(settings, Webhook) else POLL_SECONDS
        self.state = State(settings.name, consumer.kind)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    is_busy = await self._step()
                except OSError as error:
                    self._complain(f"the event log cannot be read: {error}")
                    is_busy = False
                if not is_busy:
                    self._save()
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            self._save(is_last=True)
            self.tail.close()
            await self._consumer.close()

    async def _step(self) -> bool:
        """Ship one batch; whether there was one."""
        batch = self.tail.next_batch(self._size)
        if not batch.lines:
            self._oldest = 0.0
            self.tail.commit(batch.position)
            return False
        self._oldest = self._oldest or _time_of(batch.lines[0].data)
        if len(batch.lines) < self._size and self._wait:
            await asyncio.sleep(self._wait)
            batch = self.tail.next_batch(self._size)
        await self._offer(batch)
        return True

    async def _offer(self, batch: Batch) -> None:
        """Until it is taken."""
        wait, count = self._first_wait, len(batch.lines)
        while True:
            try:
                await self._consumer.take(batch.lines[:count])
                break
            except NotTaken as error:
                self.state.failures += 1
                self.state.last_failure = error.reason
                self._metrics.inc(EVENTS_SHIP_FAILURES[self._consumer.kind])
                if error.is_too_large and count > 1:
                    count = (count + 1) // 2
                    continue
                self._complain(error.reason)
                pause = min(max(wait, error.retry_after), self._last_wait)
                wait = min(wait * 2, self._last_wait)
                await asyncio.sleep(pause * random.uniform(1 - JITTER, 1 + JITTER))
        if self.state.failures:
            _log.info("events are taken again", consumer=self.state.name, failures=self.state.failures)
        self.state.failures = 0
        self.state.last_failure = ""
        self._next_complaint = 0.0
        self.state.taken += count
        self._metrics.inc(EVENTS_SHIPPED[self._consumer.kind], count)
        self.tail.commit(batch.position_after(count))
        self._oldest = _time_of(batch.lines[count].data) if count < len(batch.lines) else 0.0
        self._save()

    @property
    def _first_wait(self) -> float:
        return float(self._settings.retry_wait) if isinstance(self._settings, Webhook) else 1.0

    @property
    def _last_wait(self) -> float:
        return float(self._settings.max_retry_wait) if isinstance(self._settings, Webhook) else 60.0

    def measure(self) -> State:
        """How far behind it is, now."""
        self.state.lag_seconds = max(time.time() - self._oldest, 0.0) if self._oldest else 0.0
        self.state.lag_bytes = self.tail.behind()
        return self.state

    def needs(self, segment: Segment) -> bool:
        return not self.tail.has_passed(segment)

    def _complain(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_SECONDS
            _log.warn("events are not taken", consumer=self.state.name, reason=reason, failures=self.state.failures)

    def _save(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self.tail.position == self._saved or (now < self._next_save and not is_last):
            return
        try:
            save_position(self._path, self.tail.position)
        except OSError as error:
            self._complain(f"its place cannot be noted: {error}")
            return
        self._saved = dict(self.tail.position)
        self._next_save = now + SAVE_SECONDS


def _time_of(line: bytes) -> float:
    """Seconds since the epoch."""
    event = decoded(line)
    try:
        return datetime.fromisoformat(str(event["time"]).replace("Z", "+00:00")).timestamp() if event else 0.0
    except (KeyError, ValueError):
        return 0.0


def shipper_of(settings: Webhook | EventFile, directory: str, metrics: Metrics) -> Shipper:
    """A consumer of the configuration. Raises OSError: a file cannot be opened."""
    consumer: Consumer
    if isinstance(settings, Webhook):
        consumer = WebhookSender(settings)
        return Shipper(settings, consumer, directory, settings.kinds, metrics)
    consumer = FileCopies(settings)
    return Shipper(settings, consumer, directory, consumer.kinds, metrics)
