"""Questions about delivery to many servers, and about too much mail: sites, blackhole, limiter, overload, copies.

The load plan by its numbers: L3 overload, L6 and L8 sites and blackhole, L7 limiter, L10 copies.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import smtplib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.peers import measure, servers
from benchmarks.peers.domains import address_of
from benchmarks.peers.measure import Sample

DOMAINS = 1000
REPLY_MS = 20


class Sink:
    """`smtpsink` on a port: many sites in one process; see its first lines for the options."""

    def __init__(self, port: int, *options: str) -> None:
        self.port = port
        argv = [measure.program("smtpsink"), *options, str(port)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        servers.wait_for_port(port)

    def stats(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(b"stats\n")
                self.process.stdin.flush()
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found

    def wait(self, seconds: float) -> dict[str, float]:
        """Until it has what -m asked for."""
        self.process.wait(seconds)
        return self.stats()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def sink(port: int, *options: object) -> Iterator[Sink]:
    running = Sink(port, *map(str, options))
    try:
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def name_server(port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.peers.domains", str(port)])
    time.sleep(0.5)
    try:
        yield
    finally:
        process.kill()
        process.wait()


class PostfixSites(servers.Postfix):
    """Postfix as its TUNING_README has it for mail to many destinations; it needs no name server: a table says where to."""

    name = "postfix-sites"

    def __init__(self, scratch: Path, port: int, sink_port: int, domains: int) -> None:
        super().__init__(scratch, port)
        self.domains = domains
        self.sink_port = sink_port
        self.extra = (
            f"transport_maps = texthash:{self.directory}/etc/transport\nsmtp_connection_cache_on_demand = yes\n"
            "default_destination_concurrency_limit = 20\ndefault_process_limit = 500\nminimal_backoff_time = 5s\n"
            "queue_run_delay = 5s\nsmtp_connect_timeout = 5s\nsmtp_helo_timeout = 5s\n"
        )

    def start(self) -> None:
        super().start()
        table = self.directory / "etc/transport"
        table.write_text("".join(f"d{n}.test smtp:[{address_of(n)}]:{self.sink_port}\n" for n in range(self.domains)))
        self.postfix("reload")
        time.sleep(1)


def rusmes_sites(
    scratch: Path, port: int, sink_port: int, dns_port: int, more: str = "", name: str = "rusmes"
) -> servers.Rusmes:
    extra = f"""
[delivery]
port = {sink_port}
resolver = ["127.0.0.1:{dns_port}"]
private_hosts = true
ipv6 = false
connect_timeout = "5s"
max_connections = 4000
{more}
[queue]
retry_schedule = ["5s"]
"""
    return servers.Rusmes(scratch, port, extra=extra, name=name)


def load(port: int, messages: int, sessions: int = 100, *, size: int = 10240, users: int = DOMAINS) -> list[str]:
    flags = ["-c", str(sessions), "-m", str(messages), "-l", str(size), "-u", str(users), "-t", "user@d%d.test", "-w", "300"]
    return [measure.program("smtpload"), *flags, str(port)]


def sites(options: argparse.Namespace) -> None:
    """10 KiB to 1,000 domains whose servers answer after 20 ms, until the last message is at the sink."""
    scratch, port = Path(options.scratch), options.port
    postfix = PostfixSites(scratch, port, port + 90, DOMAINS)
    ours = rusmes_sites(scratch, port + 10, port + 90, port + 91)
    with name_server(port + 91), options.running(postfix, ours):

        def run(server: servers.Server) -> Sample:
            messages = max(DOMAINS, int((2000 if server is postfix else 10000) * options.scale))
            with sink(port + 90, "-d", REPLY_MS, "-m", messages) as taker:
                return options.timed(server, load(server.port, messages), messages, lambda: taker.wait(300) and None)

        runs: dict[str, Callable[[], Sample]] = {s.name: (lambda s=s: run(s)) for s in (postfix, ours)}  # type: ignore[misc]
        measure.compare("relay 10 KiB, 1,000 domains, 20 ms", runs, options.rounds, "postfix-sites")


def blackhole(options: argparse.Namespace) -> None:
    """Half of the mail is for one site: what it costs the other half that this site never speaks (bar: below 5 %)."""
    scratch, port = Path(options.scratch), options.port
    ours = rusmes_sites(scratch, port + 10, port + 90, port + 91)
    messages = max(1000, int(10000 * options.scale))
    with name_server(port + 91), options.running(ours):

        def rate(is_dead: bool, number: int) -> float:
            black = address_of(number) if is_dead else "0.0.0.0"
            wanted = messages if is_dead else 2 * messages
            with sink(port + 90, "-d", REPLY_MS, "-b", black, "-m", wanted) as taker:
                begin = time.monotonic()
                half = subprocess.Popen(_to_one(ours.port, messages, number), stdout=subprocess.DEVNULL)
                measure.run_load(load(ours.port, messages, 50))
                while taker.stats()["elsewhere"] < messages:
                    time.sleep(0.05)
                seconds = time.monotonic() - begin
                half.wait(300)
            return messages / seconds

        # A site that is dead once is left alone for long: each round has sites of its own.
        sites = itertools.count(DOMAINS)
        pairs = [(rate(False, next(sites)), rate(True, next(sites))) for _ in range(options.rounds + 1)][1:]
        clean, holed = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"blackhole: {clean:.0f}/s beside a site that works, {holed:.0f}/s beside a dead one: {1 - holed / clean:+.1%}")


def _to_one(port: int, messages: int, number: int) -> list[str]:
    flags = ["-c", "20", "-m", str(messages), "-l", "10240", "-t", f"user@d{number}.test", "-w", "300"]
    return [measure.program("smtpload"), *flags, str(port)]


def limiter(options: argparse.Namespace) -> None:
    """A provider that takes 5 connections and answers 421 to more: refused share, second minute (bar: 5 % or less)."""
    scratch, port = Path(options.scratch), options.port
    ours = rusmes_sites(scratch, port + 10, port + 90, port + 91)
    minute = max(5.0, 60 * options.scale)
    with name_server(port + 91), options.running(ours), sink(port + 90, "-d", REPLY_MS, "-c", 5) as taker:
        generator = subprocess.Popen(_to_one(ours.port, 1_000_000, 0), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            seen = [taker.stats()]
            for _ in range(3):
                time.sleep(minute)
                seen.append(taker.stats())
        finally:
            generator.kill()
            generator.wait()
    for number, (before, after) in enumerate(itertools.pairwise(seen), 1):
        refused = after["too_many"] - before["too_many"]
        taken = after["messages"] - before["messages"]
        share = refused / max(1.0, refused + taken)
        rate = f"{taken / minute:.0f}/s taken"
        print(f"limiter: minute {number} ({minute:.0f} s): {rate}, {refused:.0f} connections refused = {share:.2%}")


def overload(options: argparse.Namespace) -> None:
    """Connections at 10 times the rate that is the peak, a message each: goodput (bar: 90 % of peak), memory, recovery."""
    scratch, port = Path(options.scratch), options.port
    ours = servers.Rusmes(scratch, port + 10, users=1)
    seconds = max(5.0, 20 * options.scale)
    with options.running(ours):
        flood = [measure.program("smtpflood"), "-a", "127.2.0.1", "-n", "2000"]
        peak, rate, offered = 0.0, 500.0, 500.0
        while rate >= 0.7 * offered / 1.5:
            result = measure.run_load([*flood, "-r", str(offered), "-s", "5", str(ours.port)], 120)
            rate = statistics.mean(list(result["taken_in"])[1:5])  # type: ignore[call-overload]
            peak, offered = max(peak, rate), offered * 1.5
        memory = measure.resident_bytes(ours.root_pid())
        result = measure.run_load([*flood, "-r", str(10 * peak), "-s", str(seconds), str(ours.port)], 300)
        steady = list(result["taken_in"])[2 : int(seconds)]  # type: ignore[call-overload]
        goodput = statistics.mean(steady)
        after = measure.resident_bytes(ours.root_pid())
        calm = [measure.run_load([*flood, "-r", str(peak / 2), "-s", "2", str(ours.port)], 60) for _ in range(6)]
    offered = result["begun"] / seconds
    print(f"overload: peak {peak:.0f}/s; offered {offered:.0f}/s: {goodput:.0f}/s taken = {goodput / peak:.0%} of peak")
    counts = "refused {refused:.0f}, lost {lost:.0f}, 5xx {five_hundreds:.0f}, p99 {p99_ms:.0f} ms".format(**result)
    print(f"overload: {counts}; memory {memory / 1e6:.0f} -> {after / 1e6:.0f} MB")
    again = ", ".join(f"{one['taken'] / max(1, one['begun']):.0%} p99 {one['p99_ms']:.0f} ms" for one in calm)
    print(f"overload: then at half of peak, each 2 s: {again}")


def copies(options: argparse.Namespace) -> None:
    """One message of 100 KiB to 1,000 recipients in 1,000 domains: bytes on the disk while it waits (bar: about one copy)."""
    scratch, port = Path(options.scratch), options.port
    ours = rusmes_sites(scratch, port + 10, port + 90, port + 91, name="rusmes-copies")
    with name_server(port + 91), options.running(ours), sink(port + 90, "-t", 100):
        before = _disk_bytes(ours.directory / "data")
        count = max(1, int(10 * options.scale))
        body = "Subject: copies\r\n\r\n" + ("x" * 76 + "\r\n") * 1313
        with smtplib.SMTP("127.0.0.1", ours.port) as client:
            for _ in range(count):
                client.sendmail("a@example.org", [f"user@d{n}.test" for n in range(DOMAINS)], body)
        time.sleep(3)
        written = (_disk_bytes(ours.directory / "data") - before) / count
    print(f"copies: {written / 1024:.0f} KiB on disk for one message of {len(body) / 1024:.0f} KiB to {DOMAINS} recipients")


def _disk_bytes(directory: Path) -> int:
    """What files take of the disk, journals and logs of events apart."""
    kept = (
        path for path in directory.rglob("*") if path.is_file() and path.suffix != ".journal" and "events" not in path.parts
    )
    return sum(path.stat().st_blocks * 512 for path in kept)


QUESTIONS: Sequence[Callable[[argparse.Namespace], None]] = (sites, blackhole, limiter, overload, copies)
