"""What the store costs: messages a second, CPU a message and latency, for callers that wait together.

Targets: 20,000 queue puts of 1 KiB a second at 100 waiting sessions, also beside a loop that is never idle; 6,000 deliveries of
3 KB into 100 mailboxes a second at 50 to 100 waiting callers with at most 100 us of CPU each. CPU is that of the whole
process, sync included. `python -m pytest benchmarks/test_store.py` prints a line for each question.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Append, Queued
from rusmes.storage.api import BlobStore, FlagChange, QueueChange
from rusmes.storage.commit import SWITCH_INTERVAL_SECONDS
from rusmes.storage.description import describe
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore

HEADER = (
    b"Return-Path: <alice@example.org>\r\nReceived: from client.example.org (client.example.org [192.0.2.1])\r\n"
    b"\tby mx.example.com with ESMTPS id 01abc\r\n\tfor <bob@example.com>; Tue, 24 Nov 2026 05:00:00 +0000\r\n"
    b"From: Alice Example <alice@example.org>\r\nTo: Bob <bob@example.com>\r\nSubject: a test of delivery\r\n"
    b"Date: Tue, 24 Nov 2026 05:00:00 +0000\r\nMessage-ID: <%d@example.org>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
)
LINE = b"x" * 76 + b"\r\n"
ORIGIN = Origin("192.0.2.1", 40000, "client.example.org", "client.example.org", "ESMTPS", "mx", "TLSv1.3", "", "01abc", False)
ACCOUNTS = [f"user{n}@example.com" for n in range(100)]
IDS = IdSource()
Step = Callable[[int], Awaitable[object]]


def written(blobs: BlobStore, number: int, size: int) -> Content:
    header = HEADER % number
    writer = blobs.writer()
    writer.write(header + LINE * ((size - len(header)) // len(LINE)))
    return writer.finish()


def queued(blobs: BlobStore, number: int, size: int) -> Queued:
    content = written(blobs, number, size)
    return Queued(
        id=IDS.next_id(),
        action="relay",
        sender=Address("alice", "example.org"),
        recipients=(Recipient(Address("bob", "example.com")),),
        rendering=Rendering(content),
        origin=ORIGIN,
        created=time.time(),
        size=content.size,
    )


def append(blobs: BlobStore, number: int, size: int) -> Append:
    account = ACCOUNTS[number % len(ACCOUNTS)]
    recipient = Recipient(Address(*account.split("@")), account)
    prefix = f"Delivered-To: {account}\r\n".encode()
    return Append(recipient, account, Rendering(written(blobs, number, size), prefix))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)  # as the server does
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner
    sys.setswitchinterval(interval)


@pytest.fixture
def queue(runner: asyncio.Runner, tmp_path: Path) -> Iterator[LmdbQueueStore]:
    store = LmdbQueueStore(str(tmp_path), 0, ids=IDS)
    runner.run(store.open())
    yield store
    runner.run(store.close())
    shutil.rmtree(tmp_path)


@pytest.fixture
def mail(runner: asyncio.Runner, tmp_path: Path) -> Iterator[LmdbMailStore]:
    store = LmdbMailStore(str(tmp_path), ids=IDS)
    runner.run(store.open())

    async def accounts() -> None:
        await asyncio.gather(*(store.create_account(account) for account in ACCOUNTS))

    runner.run(accounts())
    yield store
    runner.run(store.close())
    shutil.rmtree(tmp_path)


@pytest.fixture
def measure(benchmark, capsys, runner):
    """Have `waiting` callers do `step` until `count` are done, five times; print medians."""

    def run(name: str, step: Step, *, count: int, waiting: int) -> None:
        rates, cpu, latencies = [], [], []
        total = 0

        async def session(numbers: Iterator[int]) -> None:
            for number in numbers:
                began = time.perf_counter()
                await step(number)
                latencies.append(time.perf_counter() - began)

        async def together() -> None:
            nonlocal total
            numbers = iter(range(total, total + count))
            total += count
            await asyncio.gather(*(session(numbers) for _ in range(waiting)))

        def once() -> None:
            began, used = time.perf_counter(), time.process_time()
            runner.run(together())
            rates.append(count / (time.perf_counter() - began))
            cpu.append((time.process_time() - used) / count * 1e6)

        benchmark.pedantic(once, rounds=5, warmup_rounds=1)
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * share)] * 1e3 for share in (0.5, 0.99))
        with capsys.disabled():
            print(
                f"\n{name}, {waiting} waiting: {sorted(rates)[len(rates) // 2]:,.0f}/s, "
                f"{sorted(cpu)[len(cpu) // 2]:.0f} us CPU each, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
            )

    return run


@pytest.mark.parametrize(("waiting", "count"), [(1, 500), (10, 4000), (100, 10_000)])
def test_queue_put_1_kib(queue: LmdbQueueStore, measure, waiting: int, count: int) -> None:
    measure("queue put 1 KiB", lambda n: queue.put([queued(queue.blobs, n, 1024)]), count=count, waiting=waiting)


@pytest.mark.parametrize(("size", "waiting", "count"), [(10_240, 10, 2000), (102_400, 100, 1000), (1 << 20, 10, 50)])
def test_queue_put_larger(queue: LmdbQueueStore, measure, size: int, waiting: int, count: int) -> None:
    measure(
        f"queue put {size >> 10} KiB", lambda n: queue.put([queued(queue.blobs, n, size)]), count=count, waiting=waiting
    )


ECHO_CLIENT = """
    import selectors, socket, sys
    selector = selectors.DefaultSelector()
    for _ in range(32):
        connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        selector.register(connection, selectors.EVENT_READ)
        connection.send(b"x" * 64)
    while True:
        for key, _ in selector.select():
            data = key.fileobj.recv(4096)
            if not data:
                sys.exit()
            key.fileobj.send(data)
"""


class Echo(asyncio.Protocol):
    """Some 10 us of Python for each read, as a session has."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for number in range(60):
            str(number)
        self.transport.write(data)  # type: ignore[attr-defined]


def test_queue_put_beside_a_busy_loop(queue: LmdbQueueStore, measure, runner: asyncio.Runner) -> None:
    async def listen() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)

    server = runner.run(listen())
    port = server.sockets[0].getsockname()[1]
    client = subprocess.Popen([sys.executable, "-c", textwrap.dedent(ECHO_CLIENT), str(port)], stderr=subprocess.DEVNULL)
    try:
        measure(
            "queue put 1 KiB, busy loop", lambda n: queue.put([queued(queue.blobs, n, 1024)]), count=5000, waiting=100
        )
    finally:
        client.kill()
        client.wait()
        server.close()


def test_queue_put_and_remove(queue: LmdbQueueStore, measure) -> None:
    async def step(number: int) -> None:
        item = queued(queue.blobs, number, 1024)
        await queue.put([item])
        await queue.change([QueueChange(item.id, {}, remove=True)])

    measure("queue put and remove 1 KiB", step, count=5000, waiting=100)


@pytest.mark.parametrize("waiting", [1, 10, 50, 100])
def test_delivery_3_kb(mail: LmdbMailStore, measure, waiting: int) -> None:
    count = 300 if waiting == 1 else 2000
    measure("delivery 3 KB", lambda n: mail.append([append(mail.blobs, n, 3000)]), count=count, waiting=waiting)


def test_flags(mail: LmdbMailStore, runner: asyncio.Runner, measure) -> None:
    results = runner.run(mail.append([append(mail.blobs, 0, 3000) for _ in range(1000)]))
    mailbox_id = results[0].mailbox_id  # type: ignore[union-attr]

    async def step(number: int) -> None:
        operation = "add" if number // 1000 % 2 else "remove"
        await mail.change_flags(mailbox_id, FlagChange((number % 1000 + 1,), operation, ("\\Seen",)))

    measure("flag of one message", step, count=3000, waiting=50)


def test_describe_a_text(mail: LmdbMailStore, benchmark) -> None:
    rendering = append(mail.blobs, 1, 3000).rendering
    benchmark(describe, rendering)


def test_list_10_000_messages(mail: LmdbMailStore, runner: asyncio.Runner, benchmark) -> None:
    for _ in range(20):
        results = runner.run(mail.append([append(mail.blobs, 0, 1024) for _ in range(500)]))
    mailbox_id = results[0].mailbox_id  # type: ignore[union-attr]
    found = benchmark(lambda: runner.run(mail.messages(mailbox_id)))
    assert len(found) == 10_000


def test_open_and_read_a_message(mail: LmdbMailStore, runner: asyncio.Runner, benchmark) -> None:
    [made] = runner.run(mail.append([append(mail.blobs, 0, 3000)]))
    uid, mailbox_id = made.uid, made.mailbox_id  # type: ignore[union-attr]

    async def read() -> int:
        opened = await mail.open_message(mailbox_id, uid)
        return sum(map(len, opened.rendering.chunks()))

    assert benchmark(lambda: runner.run(read())) > 2900


def test_stream_20_000_entries(queue: LmdbQueueStore, runner: asyncio.Runner, benchmark) -> None:
    for start in range(0, 20_000, 500):
        runner.run(queue.put([queued(queue.blobs, start + n, 1024) for n in range(500)]))
    assert benchmark.pedantic(lambda: sum(1 for _ in queue.entries()), rounds=5) == 20_000


def test_memory_of_a_large_queue(tmp_path: Path, capsys) -> None:
    """Not a time: resident bytes for each of 200,000 recipients that wait, with the store alone."""
    script = """
        import asyncio, resource, sys
        from benchmarks.test_store import queued
        from rusmes.model.address import Address
        from rusmes.model.mail import Recipient
        from rusmes.storage.lmdb.queue_store import LmdbQueueStore
        def resident():
            return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:")) * 1024
        async def main():
            store = LmdbQueueStore(sys.argv[1], 0)
            await store.open()
            people = tuple(Recipient(Address(f"user{n}", "example.net")) for n in range(1000))
            before = 0
            for n in range(210):
                item = queued(store.blobs, n, 1024)
                item.recipients = people
                await store.put([item])
                if n == 9:
                    before = resident()
            count = sum(len(entry.states) for entry in store.entries())
            print((resident() - before) / 200_000, count)
            await store.close()
        asyncio.run(main())
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ).stdout.split()  # fmt: skip
    assert output[1] == "210000"
    with capsys.disabled():
        print(f"\nmemory of a waiting recipient in the store: {float(output[0]):.0f} bytes")
    assert float(output[0]) < 400
