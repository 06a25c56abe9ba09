"""What is paid for every connection and message beside the protocol: counters, limits, a log line, the connection's turn.

Budget: 80 us of CPU for a whole accepted message. `python -m pytest benchmarks/test_plumbing.py` prints the medians.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import subprocess
import sys
import textwrap

import pytest
import uvloop

from rusmes import metrics as m
from rusmes._core.counters import Metrics, SharedCounters
from rusmes.http.metrics import Exporter, Process
from rusmes.log import LogSink, SessionLog
from rusmes.net.connection import Connection

BATCH = 1000


@pytest.fixture
def report(benchmark, capsys):
    """Print what one of the things in a batch took."""

    def say(name, things=BATCH):
        if benchmark.stats is None:  # --benchmark-disable: one pass without timing
            return
        with capsys.disabled():
            print(f"\n{name}: {benchmark.stats.stats.median / things * 1e6:.3f} us each")

    return say


def test_counting(benchmark, report):
    metrics, slot = Metrics(3), m.SMTP_CONNECTIONS

    def run():
        for _ in range(BATCH):
            metrics.inc(slot)

    benchmark(run)
    report("count one event")


def test_observing(benchmark, report):
    metrics = Metrics(3)

    def run():
        for _ in range(BATCH):
            metrics.observe(m.COMMIT_SECONDS, 0.004)

    benchmark(run)
    report("observe one value in a histogram of 12 buckets")


def test_taking_and_giving_back_a_place(benchmark, report):
    table = SharedCounters(3)

    def run():
        for _ in range(BATCH):
            table.acquire(b"client\0\xc0\x00\x02\x01", 50)
            table.release(b"client\0\xc0\x00\x02\x01")

    benchmark(run)
    report("take a place of an address and give it back")


def test_rate(benchmark, report):
    table = SharedCounters(3)

    def run():
        for number in range(BATCH):
            table.take_rate(b"messages\0\xc0\x00\x02\x01", 1 << 30, 3600.0, 1000.0 + number / 1000)

    benchmark(run)
    report("count one message against its address's rate")


def test_a_sessions_log_line(benchmark, report):
    log = SessionLog("0192aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee", "192.0.2.1", "smtp", sink=LogSink(len, buffer_bytes=16384))
    log.user = "alice@example.com"

    def run():
        for _ in range(BATCH):
            log.info("message accepted", queue_id="01m863j7ca02d388tabjqjmgsf", size=1024, recipients=1, sender="a@b.example")

    benchmark(run)
    report("render one info line with nine fields")


def test_a_log_line_that_is_not_wanted(benchmark, report):
    log = SessionLog("0192", "192.0.2.1", "smtp", sink=LogSink(len))

    def run():
        for _ in range(BATCH):
            log.debug("command", verb="MAIL")

    benchmark(run)
    report("drop one debug line")


def test_scrape(benchmark, report):
    exporter = Exporter(Metrics(3), lambda: [Process("worker 0", 0, os.getpid())])
    benchmark(exporter.render)
    report("render all metrics", 1)


def test_request_and_reply_over_loopback(benchmark, report):
    """CPU and kernel included: a client thread is not, it is the same loop's socket pair."""
    loop = uvloop.new_event_loop()
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(True)

    async def connect() -> Connection:
        made = loop.create_future()
        await loop.create_unix_connection(lambda: Connection(made.set_result, loop=loop), sock=here)
        return await made

    connection = loop.run_until_complete(connect())

    async def turns() -> None:
        for _ in range(BATCH):
            there.send(b"MAIL FROM:<a@b.example>\r\n")
            await connection.receive()
            connection.set_deadline(300.0)
            connection.write(b"250 2.1.0 ok\r\n")
            await connection.flush()
            there.recv(100)

    benchmark(lambda: loop.run_until_complete(turns()))
    report("receive a command and send a reply (with the peer's own two calls)")
    connection.abort()
    loop.run_until_complete(asyncio.sleep(0))
    there.close()
    loop.close()


def test_memory_of_idle_connections(benchmark, capsys):
    """10,000 plain connections on one process, each with a waiting coroutine: KiB of private memory for each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard // 2 - 200)
    script = textwrap.dedent(
        """
        import asyncio, re, resource, socket, sys, uvloop
        from rusmes.net.connection import Connection
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        def private():
            return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

        async def serve(connection):
            connection.set_deadline(300.0)
            await connection.receive()

        async def main(count):
            loop, tasks = asyncio.get_running_loop(), []
            server = await loop.create_server(
                lambda: Connection(lambda c: tasks.append(loop.create_task(serve(c)))), "127.0.0.1", 0, backlog=4096)
            address = server.sockets[0].getsockname()
            before, clients = private(), []
            for number in range(count):
                client = socket.socket()
                client.bind((f"127.0.0.{1 + number % 50}", 0))
                client.connect(address)
                clients.append(client)
                await asyncio.sleep(0)  # libuv accepts one connection in a turn of the loop
            while len(tasks) < count:
                await asyncio.sleep(0.01)
            clients_kib = count * sys.getsizeof(clients[0]) / 1024
            print((private() - before - clients_kib) / count)
            import os
            os._exit(0 if sys.stdout.flush() is None else 1)

        uvloop.run(main(int(sys.argv[1])))
        """
    )

    def run() -> str:
        argv = [sys.executable, "-c", script, str(count)]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout

    printed = benchmark.pedantic(run, rounds=1)
    with capsys.disabled():
        print(f"\nidle connection: {float(re.sub(chr(10), '', printed)):.2f} KiB of {count} plain ones")
