"""SIGKILL at random moments under load: every acknowledged message is at its destination, local ones exactly once.

RUSMES_KILLS is the number of kills (200 by default): three of four hit one worker, the fourth the whole server.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.crash.ledger import Client, Ledger, Sink, read_maildrop
from tests.ports import free_ports, wait_for_port

KILLS = int(os.environ.get("RUSMES_KILLS", "200"))
USERS = [f"user{n}@example.com" for n in range(4)]
PASSWORD = "a crash test password"
CLIENTS = 12


class Instance:
    """A server that can be killed and started again on the same data."""

    def __init__(self, directory: Path, sink_port: int) -> None:
        self.directory = directory
        self.smtp_port, self.pop3_port, self.metrics_port = free_ports(3)
        (directory / "data").mkdir()
        (directory / "rusmes.toml").write_text(f"""domain = "example.com"
hostname = "mx.example.com"
postmaster = "postmaster@example.com"
runtime_dir = "{directory}/run"
[server]
workers = 2
drain_timeout = "20s"
[smtp]
port = {self.smtp_port}
[submission]
port = 0
tls_port = 0
[imap]
port = 0
tls_port = 0
[pop3]
port = {self.pop3_port}
tls_port = 0
[jmap]
port = 0
[storage]
path = "{directory}/data"
map_size = "4GB"
[queue]
retry_schedule = ["1s", "1s", "2s"]
[logging]
output = "file"
file = {{ path = "{directory}/rusmes.log" }}
[metrics]
bind_address = "127.0.0.1:{self.metrics_port}"
[[delivery.route]]
name = "sink"
domains = ["*"]
host = "127.0.0.1"
port = {sink_port}
use_tls = false
""")
        for user in USERS:
            self.rusmes("user", "add", user, "--password-stdin", stdin=PASSWORD)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, module: str) -> list[str]:
        return [sys.executable, "-m", module]

    def rusmes(self, *arguments: str, stdin: str = "") -> str:
        """Run the command line tool; its output."""
        argv = [*self.command("rusmes.cli.entry"), "-c", str(self.directory / "rusmes.toml"), *arguments]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        with (self.directory / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                [*self.command("rusmes.server.entry"), str(self.directory / "rusmes.toml")],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        wait_for_port(self.smtp_port)

    def workers(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def kill_worker(self, chooser: random.Random) -> None:
        if workers := self.workers():
            os.kill(chooser.choice(workers), signal.SIGKILL)

    def kill_all(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


async def under_fire(instance: Instance, ledger: Ledger, chooser: random.Random) -> None:
    """Clients send all the time; something dies, again and again."""
    stop = asyncio.Event()
    mixes: list[tuple[str, ...]] = [
        (USERS[0],),
        ("far@example.net",),
        (USERS[1], USERS[2]),
        (USERS[3], "away@example.org"),
    ]
    bodies = [b"x" * 200, b"y" * 3000, (b"z" * 70 + b"\r\n") * 1500]
    clients = [
        asyncio.create_task(Client(instance.smtp_port, ledger).run(stop, mixes[n % 4 :] + mixes[: n % 4], bodies[n % 3]))
        for n in range(CLIENTS)
    ]
    for number in range(KILLS):
        await asyncio.sleep(chooser.uniform(0.02, 0.6))
        if number % 4 == 3:
            instance.kill_all()
            await asyncio.to_thread(instance.start)
        else:
            instance.kill_worker(chooser)
    await asyncio.sleep(1)
    stop.set()
    await asyncio.wait_for(asyncio.gather(*clients, return_exceptions=True), 60)


async def settle(ledger: Ledger, seconds: float) -> None:
    """Wait until every acknowledged remote message has been seen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not [place for place in ledger.lost() if not place[1].endswith("@example.com")]:
            return
        await asyncio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    ledger = Ledger()

    async def run() -> None:
        sink = Sink(ledger)
        await sink.start()
        instance = Instance(tmp_path, sink.port)
        instance.start()
        try:
            await under_fire(instance, ledger, random.Random(seed))
            await settle(ledger, 60)
            for user in USERS:
                await read_maildrop(instance.pop3_port, user, PASSWORD, ledger)
            assert instance.stop() == 0
        finally:
            if instance.process and instance.process.poll() is None:
                instance.kill_all()
        await sink.stop()
        await asyncio.to_thread(instance.rusmes, "store", "verify")

    asyncio.run(run())
    remote_doubles = ledger.doubled("example.net") + ledger.doubled("example.org")
    print(f"{len(ledger.acknowledged)} acknowledged of {ledger.attempted}, {len(remote_doubles)} sent again after a kill")
    assert len(ledger.acknowledged) > KILLS
    assert ledger.lost() == []
    assert ledger.doubled("example.com") == []
    # A kill can repeat only what was in flight: at most the outcome batch of 50 ms and the open transactions of one worker.
    assert len(remote_doubles) <= KILLS * 2 * CLIENTS
