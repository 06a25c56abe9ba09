"""What a large backlog costs: memory for each recipient, time to insert and to pick, and how soon a restart takes new mail.

    python -m benchmarks.backlog --recipients 1000000 --sites 10000

One process fills a queue in a directory of its own; another one opens it as a worker does after a restart. Of the sites one in
five defers everything, the others take at most `--connections` messages at once over all, each for 30 s. While the backlog
is being read, a probe is accepted and delivered every 0.2 s. What is printed last are bars: the exit status is 1 when one is
missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from rusmes.clock import SystemClock
from rusmes.config.schema import Config
from rusmes.log import LogSink, configure
from rusmes.metrics import Metrics
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Busy, Report, SiteLimits, Target
from rusmes.queue.runner import Runner
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from rusmes.storage.memory import MemoryMailStore

BATCH = 2000
BODY = b"Subject: backlog\r\n\r\nHello\r\n"
DEFERRING = 5
"""One site in so many defers."""
MAX_BYTES = 400
MAX_RESTART_SECONDS = 5.0
MAX_SLOWER = 3.0
"""Inserting and picking beside the whole backlog may take so many times what it takes beside none."""


class Sites:
    """Implements `queue.api.Deliverer`: one in five defers, the probe's takes everything, the others are slow together."""

    def __init__(self, connections: int) -> None:
        self.limits = SiteLimits(connections=20)
        self.connections = connections
        self.under_way = 0
        self.delivered = 0
        self.deferred = 0
        self.probed = asyncio.Event()

    def destination(self, item: Queued, recipient: Recipient) -> str:
        return recipient.address.domain

    def known_target(self, destination: str) -> Target | None:
        return Target(destination, self.limits)

    async def find_target(self, destination: str) -> Target | Refusal:
        return Target(destination, self.limits)

    def not_before(self, key: str) -> Busy | None:
        return None

    def try_now(self, key: str) -> None: ...

    async def deliver(
        self, item: Queued, recipients: Sequence[Recipient], destination: str, worker: Any = None
    ) -> list[Report]:
        if destination == "probe.example":
            self.probed.set()
            return [Report(recipient, "delivered", 250) for recipient in recipients]
        if int(destination[1:-8]) % DEFERRING == 0:
            self.deferred += len(recipients)
            return [Report(recipient, "delayed", 451, "4.3.0", "later", destination) for recipient in recipients]
        if self.under_way >= self.connections:
            raise Busy
        self.under_way += 1
        try:
            await asyncio.sleep(30)
        finally:
            self.under_way -= 1
        self.delivered += len(recipients)
        return [Report(recipient, "delivered", 250) for recipient in recipients]


def opened(path: str, metrics: Metrics, ids: IdSource) -> LmdbQueueStore:
    return LmdbQueueStore(path, 0, inline_limit=65536, map_size=1 << 36, clock=SystemClock(), metrics=metrics, ids=ids)


def item_to(domain: str, number: int, store: LmdbQueueStore, ids: IdSource) -> Queued:
    writer = store.blobs.writer()
    writer.write(BODY)
    recipient = Recipient(Address(f"user{number}", domain))
    rendering = Rendering(writer.finish())
    created = time.time()
    return Queued(
        ids.next_id(), "relay", Address("a", "example.org"), (recipient,), rendering, Origin(), created, size=len(BODY)
    )


async def fill(path: str, recipients: int, sites: int) -> None:
    ids = IdSource()
    store = opened(path, Metrics(), ids)
    await store.open()
    for start in range(0, recipients, BATCH):
        numbers = range(start, min(start + BATCH, recipients))
        await store.put([item_to(f"d{n % sites}.example", n, store, ids) for n in numbers])
    await store.close()


def private_bytes() -> int:
    """Memory of this process that no file stands behind."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


class Worker:
    """A runner on the backlog, as after a restart."""

    def __init__(self, path: str, options: argparse.Namespace) -> None:
        self.ids = IdSource()
        metrics, clock = Metrics(), SystemClock()
        self.store = opened(path, metrics, self.ids)
        self.sites = Sites(options.connections)
        mail_store = MemoryMailStore(inline_limit=65536, clock=clock, metrics=metrics, ids=self.ids)
        nothing: Any = None
        config = Config(domain="example.org")
        self.runner = Runner(self.store, mail_store, nothing, self.sites, Silent(), clock, self.ids, metrics, config)
        self.options = options
        self.slowest_probe = 0.0
        self.started = time.time()
        """What was due then has been looked at when nothing that waits is due before it."""

    async def probe(self) -> float:
        """Seconds from a mail's arrival to its delivery."""
        started = time.monotonic()
        self.sites.probed.clear()
        item = item_to("probe.example", 0, self.store, self.ids)
        await self.store.put([item])
        self.runner.kick([item])
        await self.sites.probed.wait()
        return time.monotonic() - started

    def insert_seconds(self, count: int = 2000) -> float:
        """To take one new mail in, without the store."""
        items = [item_to(f"d{n % self.options.sites}.example", n, self.store, self.ids) for n in range(count)]
        started = time.perf_counter()
        self.runner.kick(items)
        seconds = (time.perf_counter() - started) / count
        for item in items:
            self.runner.withdraw(item.id)
            self.runner.gone(item.id)
        return seconds

    def pick_seconds(self, rounds: int = 2000) -> float:
        """To take the next mail of a site, and put it back; over all sites in turn."""
        sites = self.runner._sites
        queues = [site for site in sites._sites.values() if site.queue.count][:500]
        if not queues:
            return 0.0
        started, count = time.perf_counter(), 0
        while count < rounds:
            for site in queues:
                job = sites.take(site)
                if job is not None:
                    sites._keep(site, job)
                count += 1
        return (time.perf_counter() - started) / count

    async def known(self) -> None:
        """Until every entry has been looked at: it is with its site, or deferred."""
        quiet = 0
        while quiet < 3:
            probe = await self.probe()
            self.slowest_probe = max(self.slowest_probe, probe)
            await asyncio.sleep(0.2)
            first = self.runner._waiting.first
            is_known = self.runner.recovered and (first is None or first > self.started + 1)
            quiet = quiet + 1 if is_known or not self.runner._has_room() else 0


class Silent:
    """Writes no notices."""

    def report(self, item: Queued, reports: Sequence[Report], *, will_retry_until: float = 0.0) -> None:
        return None


async def measure(path: str, options: argparse.Namespace) -> bool:
    empty = Worker(tempfile.mkdtemp(dir=os.path.dirname(path)), options)
    await empty.store.open()
    empty.runner.start()
    await asyncio.sleep(0.1)
    idle_insert = min(empty.insert_seconds() for _ in range(3))
    await asyncio.sleep(0.5)
    idle_pick = empty.pick_seconds()
    await empty.runner.stop(1.0)
    await empty.store.close()
    del empty
    gc.collect()
    before = private_bytes()
    started = time.monotonic()
    worker = Worker(path, options)
    await worker.store.open()
    worker.runner.start()
    first = await worker.probe()
    restart = time.monotonic() - started
    await worker.known()
    known = time.monotonic() - started
    gc.collect()
    each = (private_bytes() - before) / max(worker.runner.size, 1)
    insert = min(worker.insert_seconds() for _ in range(3))
    pick = worker.pick_seconds()
    loop_lag = await lag()
    print(f"{options.recipients} recipients, {options.sites} sites, {worker.sites.deferred} deferred, "
          f"{worker.sites.delivered} delivered meanwhile, {worker.runner.size} in the queue, "
          f"{worker.runner._sites.jobs} of them as jobs")  # fmt: skip
    print(f"memory               {each:8.0f} bytes a recipient")
    print(f"first mail after     {restart:8.3f} s ({first * 1000:.0f} ms after its arrival)")
    print(f"all known after      {known:8.1f} s; slowest mail meanwhile {worker.slowest_probe * 1000:.0f} ms")
    print(f"insert               {insert * 1e6:8.1f} us (empty queue {idle_insert * 1e6:.1f})")
    print(f"pick and put back    {pick * 1e6:8.1f} us (empty queue {idle_pick * 1e6:.1f})")
    print(f"lag of the loop      {loop_lag * 1000:8.1f} ms at most in 2 s")
    await worker.runner.stop(1.0)
    await worker.store.close()
    missed = [
        name
        for name, is_met in (
            ("memory", each < MAX_BYTES),
            ("restart", restart < MAX_RESTART_SECONDS and worker.slowest_probe < MAX_RESTART_SECONDS),
            ("insert", insert < MAX_SLOWER * idle_insert),
            ("pick", not idle_pick or pick < MAX_SLOWER * idle_pick),
        )
        if not is_met
    ]
    print("all bars are met" if not missed else f"missed: {', '.join(missed)}")
    return not missed


async def lag() -> float:
    worst, until = 0.0, time.monotonic() + 2.0
    while (started := time.monotonic()) < until:
        await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - started - 0.01)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=1000, help="at once, over all sites that are slow")
    parser.add_argument("--path", default="", help="of a backlog that is there already, or is to be kept")
    parser.add_argument("--fill", action="store_true", help="fill the path and nothing else")
    options = parser.parse_args()
    configure(LogSink(level="error"))
    if options.fill:
        uvloop.run(fill(options.path, options.recipients, options.sites))
        return 0
    with tempfile.TemporaryDirectory(prefix="rusmes-backlog-") as directory:
        path = options.path or os.path.join(directory, "store")
        if not os.path.exists(path):
            os.makedirs(path)
            sizes = ["--recipients", str(options.recipients), "--sites", str(options.sites)]
            subprocess.run([sys.executable, "-m", "benchmarks.backlog", "--fill", "--path", path, *sizes], check=True)
        return 0 if uvloop.run(measure(path, options)) else 1


if __name__ == "__main__":
    sys.exit(main())
