"""Power loss at any moment: pages that were not synced are old or new as it happens, and the last record is torn.

A `Disk` keeps what each file surely holds (as of the beginning of its last sync) and what else it has held since. A crash
takes for each page of 4 KiB one of those, for the journal's last pages each sector. Whatever it takes, every acknowledged
operation must be there, each refused or unanswered one wholly or not at all, and every page and row must verify.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rusmes._core import redo
from rusmes.storage.api import QueueChange
from rusmes.storage.lmdb import checkpoint, journal, recovery
from rusmes.storage.lmdb.environment import structure_errors
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import message, queued_of

QueueAt = Callable[..., LmdbQueueStore]
PAGE = 4096
SECTOR = 512
NAMES = ("queue-0.mdb", "queue-0.mdb.journal")


class Disk:
    """Watches the syncs of one directory and crashes now and then, into directories of its own."""

    def __init__(self, path: Path, crashes: Path, dice: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.crashes = crashes
        self.dice = dice
        self.lock = threading.RLock()
        self.durable: dict[str, bytes] = {}
        self.versions: dict[str, list[bytes]] = {name: [] for name in NAMES}
        self.syncs: Counter[str] = Counter()
        self.acknowledged: dict[int, bool] = {}
        """By number: whether it is there, of what was answered last."""
        self.begun: set[int] = set()
        self.likelihood = 0.0
        self.taken: list[tuple[Path, dict[int, bool], set[int]]] = []
        self._append, self._sync = redo.append, journal.sync_data
        monkeypatch.setattr("rusmes.storage.lmdb.journal.redo.append", self.append)
        for module in (journal, checkpoint, recovery):
            monkeypatch.setattr(module, "sync_data", self.sync)

    def now(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def sync(self, descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if place.parent != self.path:
            self._sync(descriptor)
            return
        with self.lock:
            self.crash()
            before, number = self.now(place.name), self.syncs[place.name]
            self.versions[place.name] = [before]
        self._sync(descriptor)
        with self.lock:
            if self.syncs[place.name] == number:  # else a record was synced meanwhile, and with it what is here
                self.durable[place.name] = before
            self.crash()

    def append(self, descriptor: int, record: bytearray, at: int) -> None:
        name = NAMES[1]
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent != self.path:
            self._append(descriptor, record, at)
            return
        self._append(descriptor, record, at)
        with self.lock:
            before = self.durable.get(name, b"")
            after = self.now(name)
            self.crash({name: torn(self.dice, before, after, at, len(record))})
            self.durable[name] = after
            self.syncs[name] += 1
            self.versions[name] = []
            if self.dice.random() < 0.3:
                self.versions[NAMES[0]].append(self.now(NAMES[0]))
            self.crash()

    def crash(self, given: dict[str, bytes] | None = None) -> None:
        """Perhaps."""
        if self.dice.random() >= self.likelihood:
            return
        state = dict(self.acknowledged), set(self.begun)  # before the files: what was said by now is in them
        into = self.crashes / str(len(self.taken))
        into.mkdir()
        bias = self.dice.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for name in NAMES:
            image = (given or {}).get(name) or self.mixed(name, bias)
            (into / name).write_bytes(image)
        self.taken.append((into, *state))

    def mixed(self, name: str, bias: float) -> bytes:
        versions = [*self.versions[name][-6:], self.now(name)]
        old = self.durable[name]
        pages = []
        for at in range(0, max(map(len, versions)), PAGE):
            source = old if self.dice.random() >= bias else self.dice.choice(versions)
            pages.append(source[at : at + PAGE].ljust(PAGE, b"\0"))
        return b"".join(pages)


def torn(dice: random.Random, before: bytes, after: bytes, at: int, size: int) -> bytes:
    """A record of which some sectors came to the disk; and of the rest of the file nothing but what was synced."""
    image = bytearray(before.ljust(len(after), b"\0"))
    for sector in range(at, at + size, SECTOR):
        if dice.random() < dice.choice((0.5, 0.98)):
            image[sector : sector + SECTOR] = after[sector : sector + SECTOR]
    return bytes(image)


async def work(queue: LmdbQueueStore, disk: Disk, operations: int) -> None:
    """Three sessions put and remove, sizes differ, while checkpoints come at any time."""
    dice, numbers = disk.dice, iter(range(1, 1 << 30))
    alive: list[int] = []

    async def session() -> None:
        for _ in range(operations // 3):
            if len(alive) > 12 and dice.random() < 0.6:
                number = alive.pop(dice.randrange(len(alive)))
                with disk.lock:
                    disk.begun.add(number)
                await queue.change([QueueChange(number.to_bytes(16, "big"), {}, remove=True)])
                with disk.lock:
                    disk.acknowledged[number] = False
                    disk.begun.discard(number)
                continue
            number = next(numbers)
            with disk.lock:
                disk.begun.add(number)
            await queue.put([queued_of(queue.blobs, number, data=body_of(number))])
            alive.append(number)
            with disk.lock:
                disk.acknowledged[number] = True
                disk.begun.discard(number)

    async def checkpoints() -> None:
        checkpointer = queue._environment._checkpointer
        assert checkpointer is not None
        while True:
            await asyncio.sleep(dice.random() * 0.02)
            await asyncio.to_thread(checkpointer.checkpoint)

    task = asyncio.create_task(checkpoints())
    await asyncio.gather(*(session() for _ in range(3)))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def body_of(number: int) -> bytes:
    return message(str(number), body=b"%d " % number * (number * 7919 % 700))


async def check(queue: LmdbQueueStore, acknowledged: dict[int, bool], begun: set[int]) -> None:
    await queue.open()
    found = {int.from_bytes(entry.item.id, "big"): entry for entry in queue.entries()}
    for number, is_there in acknowledged.items():
        assert number in begun or (number in found) is is_there, (number, is_there)
    assert found.keys() <= acknowledged.keys() | begun
    for number, entry in found.items():
        assert entry.item.rendering.content.read() == body_of(number)
    assert list(queue.verify()) == []
    await queue.put([queued_of(queue.blobs, 1 << 40)])
    await queue.close()
    assert structure_errors(queue._environment.path) == []


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 60))])
async def test_nothing_acknowledged_is_lost_whatever_came_to_the_disk(
    queue_at: QueueAt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(checkpoint, "INTERVAL_SECONDS", 1000.0)
    if seed % 3 == 0:  # often without a place in the ring, or too large for a record
        monkeypatch.setattr("rusmes.storage.lmdb.journal.MAX_BYTES", 256 * 1024)
        monkeypatch.setattr("rusmes._core.redo.MAX_RECORD_BYTES", 6000)
    (tmp_path / "crashes").mkdir()
    queue = queue_at(tmp_path / "a", inline_limit=1 << 20)
    disk = Disk(tmp_path / "a", tmp_path / "crashes", dice, monkeypatch)
    (tmp_path / "a").mkdir()
    await queue.open()
    disk.durable = {name: disk.now(name) for name in NAMES}
    disk.likelihood = 0.06
    await work(queue, disk, 600)
    await queue.close()
    disk.likelihood = 0.0
    assert len(disk.taken) > 10
    for path, acknowledged, begun in disk.taken:
        crashed = queue_at(path, inline_limit=1 << 20)
        if dice.random() < 0.3:  # and again while it recovers
            disk_of_recovery = Disk(path, tmp_path, dice, monkeypatch)
            disk_of_recovery.durable = {name: disk_of_recovery.now(name) for name in NAMES}
            await again_and_again(disk_of_recovery, queue_at, acknowledged, begun)
        await check(crashed, acknowledged, begun)
        shutil.rmtree(path)


async def again_and_again(disk: Disk, queue_at: QueueAt, acknowledged: dict[int, bool], begun: set[int]) -> None:
    """Recover a copy, crash in the middle, and look at what that left."""
    aside = disk.path.parent / f"{disk.path.name}-kept"
    shutil.copytree(disk.path, aside)
    disk.likelihood = 0.5
    queue = queue_at(disk.path, inline_limit=1 << 20)
    await queue.open()
    disk.likelihood = 0.0
    await queue.close()
    shutil.rmtree(disk.path)
    os.rename(aside, disk.path)
    for path, _, _ in disk.taken:
        await check(queue_at(path, inline_limit=1 << 20), acknowledged, begun)
        shutil.rmtree(path)
