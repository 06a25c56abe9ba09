"""What happened, until it is committed.

Outcomes are collected for at most `WINDOW_SECONDS`, or until new mail is put, and committed together, with the notices they
cause, in one transaction: so a crash repeats only deliveries of that window (and of the commit that was under way). A commit
that fails is tried again with what has joined it meanwhile; nothing is taken back, because what was delivered stays delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from rusmes.errors import NotFound, StoreError
from rusmes.log import get_logger
from rusmes.model.ids import id_text
from rusmes.model.plan import Queued
from rusmes.queue.entry import Active
from rusmes.storage.api import QueueChange, QueueStore

WINDOW_SECONDS: Final = 0.025
MAX_BATCH: Final = 1000
"""Outcomes of one transaction."""
MIN_RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 30.0

_log = get_logger("queue")

Outcome = tuple[QueueChange, Active, Sequence[Queued]]
Committed = Callable[[Active, Sequence[Queued]], None]


class Outcomes:
    """`committed` is called for each outcome once it is durable, with the entries it caused."""

    def __init__(self, store: QueueStore, committed: Committed) -> None:
        self._store = store
        self._committed = committed
        self._waiting: list[Outcome] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, change: QueueChange, active: Active, new: Sequence[Queued] = ()) -> None:
        self._waiting.append((change, active, new))
        if self._timer is None and self._flushing is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._start)

    def join(self) -> None:
        """A transaction is about to be asked for anyway: what waits shares it, and the window's end needs none of its own."""
        if self._timer is not None:
            self._timer.cancel()
            self._start()

    def _start(self) -> None:
        self._timer = None
        self._flushing = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        retry_seconds = MIN_RETRY_SECONDS
        while self._waiting:
            batch = self._waiting[:MAX_BATCH]
            try:
                await self._commit(batch)
            except Exception as error:
                # A StoreError is expected to pass; anything else is a defect, and no reason to forget what happened.
                if isinstance(error, StoreError):
                    _log.error("outcomes cannot be committed", error=str(error), waiting=len(self._waiting))
                else:
                    _log.exception("outcomes cannot be committed", waiting=len(self._waiting))
                await asyncio.sleep(retry_seconds)
                retry_seconds = min(retry_seconds * 2, MAX_RETRY_SECONDS)
                continue
            del self._waiting[: len(batch)]
            retry_seconds = MIN_RETRY_SECONDS
            for _, active, new in batch:
                self._committed(active, new)
            if len(self._waiting) < MAX_BATCH:
                break
        self._flushing = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._start)

    async def _commit(self, batch: Sequence[Outcome]) -> None:
        """Raises StoreError."""
        new = [row for _, _, rows in batch for row in rows]
        try:
            await self._store.change([change for change, _, _ in batch], new)
        except NotFound:
            # An entry has gone, which nobody but us may do; its outcome is void, the others are not.
            for change, _, rows in batch:
                try:
                    await self._store.change([change], list(rows))
                except NotFound as error:
                    _log.error("outcome of an entry that is not there", queue_id=id_text(change.id), error=str(error))

    async def drain(self) -> None:
        """Commit what waits; StoreErrors are tried again until it works or the caller gives up."""
        while self._waiting or self._flushing is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._start()
            assert self._flushing is not None
            await asyncio.shield(self._flushing)

    def abandon(self) -> None:
        """Stop trying; what was not committed will be tried again after a restart."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            self._flushing.cancel()
