"""Kills at random moments: what was acknowledged is there, and everything verifies."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rusmes.clock import SystemClock
from rusmes.model.mailbox import Appended
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import ALICE, append_of, large_message, message

MailAt = Callable[..., LmdbMailStore]
QueueAt = Callable[..., LmdbQueueStore]

WRITER = """
    import asyncio, sys
    from rusmes.model.content import Rendering
    from rusmes.model.ids import IdSource
    from rusmes.storage.api import QueueChange
    from rusmes.storage.lmdb.mail_store import LmdbMailStore
    from rusmes.storage.lmdb.queue_store import LmdbQueueStore
    from tests.contract.mails import append_of, large_message, message, queued_of
    path, seed = sys.argv[1], int(sys.argv[2])

    async def main():
        store, queue = LmdbMailStore(path, inline_limit=4096), LmdbQueueStore(path, 0, inline_limit=4096)
        await store.open()
        await queue.open()
        async def session(n):
            for turn in range(1000000):
                number = seed * 10**12 + n * 10**9 + turn
                data = large_message() if turn % 3 == 0 else message(str(number))
                item = queued_of(queue.blobs, number, data=data)
                await queue.put([item])
                print("put", number, flush=True)
                if turn % 2:
                    append = append_of(store.blobs, key=item.id)
                    append.rendering = (await queue.get(item.id)).item.rendering
                    await store.append([append])
                    print("append", number, flush=True)
                    print("removing", number, flush=True)
                    await queue.change([QueueChange(item.id, {}, remove=True)])
        await asyncio.gather(*(session(n) for n in range(8)))
    asyncio.run(main())
"""


def killed_run(path: Path, seed: int, seconds: float) -> list[tuple[str, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(seed)], stdout=subprocess.PIPE
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0]
    lines = [line.split() for line in (first + rest).split(b"\n")[:-1]]
    return [(line[0].decode(), int(line[1])) for line in lines]


async def check_after_kill(store: LmdbMailStore, queue: LmdbQueueStore, said: list[tuple[str, int]]) -> None:
    put = {number for word, number in said if word == "put"}
    appended = {number for word, number in said if word == "append"}
    removing = {number for word, number in said if word == "removing"}
    queued = {int.from_bytes(entry.item.id, "big"): entry for entry in queue.entries()}
    assert put - removing <= queued.keys()
    for entry in queued.values():
        assert entry.item.rendering.content.read() in (large_message(), message(str(int.from_bytes(entry.item.id, "big"))))
    before = await store.account(ALICE)
    for number in appended:  # the key says that it is there, and stores nothing
        [result] = await store.append([append_of(store.blobs, key=number.to_bytes(16, "big"))])
        assert isinstance(result, Appended)
        assert result.duplicate
        opened = await store.open_message(result.mailbox_id, result.uid)
        assert opened.rendering.content.read() in (large_message(), message(str(number)))
    assert await store.account(ALICE) == before
    assert [*store.verify(), *queue.verify()] == []


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kills(
    runner: asyncio.Runner, mail_at: MailAt, queue_at: QueueAt, tmp_path: Path, rounds: int
) -> None:
    said: list[tuple[str, int]] = []
    dice = random.Random(rounds)
    for seed in range(rounds):
        said += killed_run(tmp_path, seed, dice.uniform(0.01, 0.35))
        store, queue = mail_at(clock=SystemClock()), queue_at()  # the keys were written by the real clock
        runner.run(store.open())
        runner.run(queue.open())
        runner.run(check_after_kill(store, queue, said))
        runner.run(store.close())
        runner.run(queue.close())
    assert len(said) > 10 * rounds


SHARING_WRITER = """
    import asyncio, sys
    from rusmes.storage.lmdb import checkpoint
    from rusmes.storage.lmdb.mail_store import LmdbMailStore
    from tests.contract.mails import append_of, message
    checkpoint.PRESSURE_BYTES = 256 * 1024  # many checkpoints, by either process
    path, seed = sys.argv[1], int(sys.argv[2])

    async def main():
        store = LmdbMailStore(path, inline_limit=4096)
        await store.open()
        async def session(n):
            for turn in range(1000000):
                number = seed * 10**12 + n * 10**9 + turn
                data = message(str(number), body=b"x" * (number * 7919 % 3000))
                [made] = await store.append([append_of(store.blobs, data, key=number.to_bytes(16, "big"))])
                print("append", number, flush=True)
                if turn % 3 == 2:
                    await store.expunge(made.mailbox_id, [made.uid - 5])
        await asyncio.gather(*(session(n) for n in range(4)))
    asyncio.run(main())
"""


@pytest.mark.parametrize("rounds", [6, pytest.param(24, marks=pytest.mark.slow)])
def test_two_writers_of_one_store_may_be_killed_at_any_time(
    runner: asyncio.Runner, mail_at: MailAt, tmp_path: Path, rounds: int
) -> None:
    """One of two is killed, and another takes its place; now and then all are, and the store is recovered."""
    dice = random.Random(rounds)
    processes: list[subprocess.Popen[bytes]] = []
    said: set[int] = set()
    lengths = []

    def start(seed: int) -> None:
        argv = [sys.executable, "-c", textwrap.dedent(SHARING_WRITER), str(tmp_path), str(seed)]
        processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
        stdout = processes[-1].stdout
        assert stdout is not None
        said.add(int(stdout.readline().split()[1]))

    def kill(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        said.update(int(line.split()[1]) for line in output.split(b"\n")[:-1] if line)
        processes.remove(process)

    for seed in range(1, rounds + 1):
        while len(processes) < 2:
            start(seed * 10 + len(processes))
        time.sleep(dice.uniform(0.01, 0.2))
        kill(dice.choice(processes))
        if seed % 3 == 0:
            time.sleep(dice.uniform(0.0, 0.1))
            while processes:
                kill(processes[0])
            store = mail_at(clock=SystemClock())
            runner.run(store.open())
            lengths.append(store._environment.recovered)
            runner.run(check_keys(store, said))
            runner.run(store.close())
    assert sum(lengths) > 0
    assert len(said) > rounds


async def check_keys(store: LmdbMailStore, said: set[int]) -> None:
    keys = [number.to_bytes(16, "big") for number in said]
    found = await asyncio.gather(*(store.append([append_of(store.blobs, key=key)]) for key in keys))
    assert all(isinstance(result, Appended) and result.duplicate for [result] in found)
    assert list(store.verify()) == []
