"""What a worker does now and then about TLS: it goes on whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from rusmes.clock import SystemClock
from rusmes.config.schema import Config, Delivery
from rusmes.errors import StoreError
from rusmes.server import tlscare
from rusmes.server.tlscare import TlsCare


class Sts:
    def __init__(self) -> None:
        self.refreshed = 0

    async def refresh(self) -> int:
        self.refreshed += 1
        if self.refreshed == 1:
            raise RuntimeError("the first time it fails")
        return 0


class Counts:
    def __init__(self) -> None:
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1
        if self.flushed == 2:
            raise StoreError("no space")


def house() -> SimpleNamespace:
    deliverer = SimpleNamespace(counts=Counts(), sts=Sts())
    return SimpleNamespace(clock=SystemClock(), deliverer=deliverer, config=Config(delivery=Delivery()))


@pytest.mark.parametrize("is_first", [True, False])
def test_it_goes_on(monkeypatch: pytest.MonkeyPatch, is_first: bool) -> None:
    monkeypatch.setattr(tlscare, "FLUSH_SECONDS", 0.001)
    monkeypatch.setattr(tlscare, "CARE_SECONDS", 0.0)
    made: Any = house()

    async def main() -> None:
        running = asyncio.ensure_future(TlsCare(made, is_first=is_first).run())
        async with asyncio.timeout(10):
            while made.deliverer.counts.flushed < 10 or (is_first and made.deliverer.sts.refreshed < 3):
                await asyncio.sleep(0.001)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert bool(made.deliverer.sts.refreshed) is is_first
