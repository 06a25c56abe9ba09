"""What operators' operations on a long queue cost, and how long they keep others waiting.

    python -m benchmarks.queue_operations [entries]

One worker's queue in LMDB, filled with deferred mail of one recipient each, its runner, and no network.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable
from typing import Any

import uvloop

from rusmes.clock import SystemClock
from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import QueueFilter, QueueOrder
from rusmes.queue.control import StoreControl
from rusmes.storage.api import QueueChange, RecipientState
from rusmes.storage.commit import SWITCH_INTERVAL_SECONDS
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.sinks.engine import Engine
from tests.unit.queue.scripted import Deliveries, simulated

HEADER = b"Subject: hello\r\nMessage-ID: <x@y.example>\r\n\r\n"
IDS = IdSource()


def entry(number: int) -> Queued:
    content = Content(IDS.next_id(), len(HEADER) + 1000, len(HEADER), data=HEADER + b"x" * 1000)
    return Queued(
        IDS.next_id(),
        "relay",
        Address("news", f"s{number % 100}.example"),
        (Recipient(Address(f"u{number}", f"d{number % 1000}.example")),),
        Rendering(content, b"Received: from x by y; date\r\n"),
        Origin(account=f"t{number % 7}@example.com", client_address="192.0.2.1"),
        time.time(),
        size=content.size,
    )


async def fill(store: LmdbQueueStore, count: int) -> None:
    for start in range(0, count, 500):
        items = [entry(number) for number in range(start, min(start + 500, count))]
        await store.put(items)
        now = time.time()
        await store.change(
            [
                QueueChange(item.id, {0: RecipientState(item.recipients[0], "deferred", 1, now + 36000, "451 try again", now)})
                for item in items
            ]
        )


class Watch:
    """Measures work, and the longest time in which nothing else ran."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._longest = 0.0

    async def beat(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self._longest = max(self._longest, time.perf_counter() - began - 0.001)

    async def time(self, name: str, work: Awaitable[Any]) -> None:
        await asyncio.sleep(0.01)
        self._longest, began, cpu = 0.0, time.perf_counter(), time.process_time()
        await work
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        each = f"{cpu / self._count * 1e6:5.1f} us of CPU an entry"
        print(f"{name:24} {seconds:6.2f} s, {each}, longest wait {self._longest * 1000:5.1f} ms", flush=True)


async def main(count: int) -> None:
    directory = tempfile.mkdtemp(prefix="rusmes-queue-")
    store = LmdbQueueStore(directory, 0, map_size=64 << 30, ids=IDS)
    await store.open()
    try:
        await fill(store, count)
        deliveries = Deliveries()
        engine = Engine(simulated(), deliverer=deliveries, queue_store=store)  # type: ignore[arg-type]
        control = StoreControl(store, SystemClock(), engine.runner, deliverer=deliveries, ids=IDS)
        engine.runner.start()
        while not engine.runner.recovered:
            await asyncio.sleep(0.01)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)  # as in a worker
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        watch = Watch(count)
        beat = asyncio.ensure_future(watch.beat())
        which = QueueFilter(reply="try again", domain="d*.example")
        await watch.time("dry run", control.carry_out(QueueOrder("hold", which, dry_run=True)))
        await watch.time("summary by domain", control.summarize(QueueFilter(), "domain"))
        await watch.time("hold", control.carry_out(QueueOrder("hold", which)))
        await watch.time("nothing matches", control.carry_out(QueueOrder("hold", QueueFilter(tenant="nobody"))))
        await watch.time("delete", control.carry_out(QueueOrder("delete", which)))
        beat.cancel()
        await control.close()
        await engine.runner.stop(1.0)
    finally:
        await store.close()
        shutil.rmtree(directory)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
