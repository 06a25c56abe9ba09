"""The questions: accept, relay, signed, local, pop3, imap, imapidle, large, idle, syncs; and those of `outbound`.

python -m benchmarks.peers accept --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.peers import measure, outbound, servers
from benchmarks.peers.mailbox import imap, imapidle
from benchmarks.peers.measure import Sample
from benchmarks.peers.retrieve import pop3

HOLD = """[[processors]]
name = "root"
state = "root"
mailets = [{ matcher = "All", mailet = "Hold" }]
[[processors]]
name = "error"
state = "error"
mailets = [{ matcher = "All", mailet = "Hold" }]
"""
PORT = int(os.environ.get("RUSMES_PEERS_PORT", "14000"))
"""The first of a hundred ports."""
SINK_PORT = PORT + 90
ROUTE = f"""[[delivery.route]]
name = "sink"
domains = ["*"]
host = "127.0.0.1"
port = {SINK_PORT}
use_tls = false
"""


@contextlib.contextmanager
def running(*all_servers: servers.Server) -> Iterator[None]:
    """All of them started, and stopped whatever happens."""
    with contextlib.ExitStack() as stack:
        for server in all_servers:
            stack.callback(server.stop)
            server.start()
        yield


def timed(server: servers.Server, argv: Sequence[str], messages: int, finished: Callable[[], None] | None = None) -> Sample:
    """Rate and CPU of one generator run, until `finished` returns."""
    roots = [server.root_pid()]
    if isinstance(server, servers.PostfixDovecot):
        roots.append(server.dovecot.root_pid())
    cpu_before, begin = measure.cpu_seconds(roots), time.monotonic()
    result = measure.run_load(argv)
    if finished:
        finished()
    seconds = time.monotonic() - begin
    more = {"p99_ms": result["p99_ms"]} if "p99_ms" in result else {}
    return Sample(messages / seconds, (measure.cpu_seconds(roots) - cpu_before) / messages * 1000, more)


def smtp_source(port: int, sessions: int, messages: int, size: int, recipient: str) -> list[str]:
    return ["smtp-source", "-d", "-s", str(sessions), "-m", str(messages), "-l", str(size), "-f", "a@example.org",
            "-t", recipient, f"127.0.0.1:{port}"]  # fmt: skip


GRID = ((100, 1024), (10, 1024), (1, 1024), (10, 10240), (100, 102400), (10, 1 << 20))


def accept(options: argparse.Namespace) -> None:
    """Accept and keep, durable: Postfix holds, RusMES delivers (default pipeline) or holds, smtp-sink stores nothing."""
    scratch = Path(options.scratch)
    postfix = servers.PostfixHold(scratch, PORT)
    sink = servers.SmtpSink(scratch, SINK_PORT)
    held = servers.Rusmes(scratch, PORT + 10, name="rusmes-hold", processors=HOLD)
    local = servers.Rusmes(scratch, PORT + 20, name="rusmes-deliver", users=1)
    recipient = {postfix: "user0@example.com", sink: "user0@example.com", held: "user0@example.org", local: "user0@example.com"}
    with running(postfix, sink, held, local):
        for sessions, size in GRID:
            if options.cell and options.cell != f"{sessions}x{size}":
                continue

            def run(server: servers.Server, sessions: int = sessions, size: int = size) -> Sample:
                pace = 0.3 if isinstance(server, servers.Postfix) else 1.0
                wanted = (4000 if sessions == 1 else 20000) if size <= 10240 else 3000 if size <= 102400 else 300
                messages = max(2 * sessions, int(wanted * pace * options.scale))
                return timed(server, smtp_source(server.port, sessions, messages, size, recipient[server]), messages)

            runs: dict[str, Callable[[], Sample]] = {s.name: (lambda s=s, run=run: run(s)) for s in recipient}  # type: ignore[misc]
            measure.compare(f"accept {size} B, {sessions} sessions", runs, options.rounds, "postfix")


def relay(options: argparse.Namespace) -> None:
    """smtp-source -> server -> smtp-sink, until the sink has the last message."""
    scratch = Path(options.scratch)
    postfix = servers.PostfixRelay(scratch, PORT, SINK_PORT)
    ours = servers.Rusmes(scratch, PORT + 10, extra=ROUTE)
    with running(postfix, ours):
        for sessions in (10, 100):

            def run(server: servers.Server, sessions: int = sessions) -> Sample:
                messages = int((1000 if server is postfix else 5000) * options.scale)
                sink = subprocess.Popen(["smtp-sink", "-u", "postfix", "-M", str(messages), f"127.0.0.1:{SINK_PORT}", "1000"])
                servers.wait_for_port(SINK_PORT)
                argv = smtp_source(server.port, sessions, messages, 10240, "user@example.net")
                try:
                    return timed(server, argv, messages, lambda: sink.wait(120) and None)
                finally:
                    sink.kill()
                    sink.wait()

            runs: dict[str, Callable[[], Sample]] = {s.name: (lambda s=s, run=run: run(s)) for s in (postfix, ours)}  # type: ignore[misc]
            measure.compare(f"relay 10 KiB, {sessions} sessions", runs, options.rounds, "postfix-relay")


SIGNING = """[[processors]]
name = "root"
state = "root"
mailets = [{ matcher = "All", mailet = "DKIMSign" }, { matcher = "All", mailet = "RemoteDelivery" }]
"""


def signed(options: argparse.Namespace) -> None:
    """As relay, with a DKIM signature on each message (RSA-2048), beside the same without one and the raw rate of a core."""
    from rusmes.dkim.keys import SigningKey, new_key, pem_of

    scratch = Path(options.scratch)
    plain = servers.Rusmes(scratch, PORT + 10, name="rusmes-plain", extra=ROUTE)
    keys = f'[dkim]\ndirectory = "{scratch}/dkim"\n'
    ours = servers.Rusmes(scratch, PORT + 20, name="rusmes-signed", extra=ROUTE + keys, processors=SIGNING)
    private = new_key("rsa")
    (scratch / "dkim").mkdir(exist_ok=True)
    (scratch / "dkim" / "example.org.s.pem").write_bytes(pem_of(private))
    key = SigningKey("example.org", "s", private)

    def raw() -> Sample:
        begin = time.process_time()
        for _ in range(1000):
            key.sign(b"x" * 900)
        seconds = time.process_time() - begin
        return Sample(1000 / seconds, seconds, {})

    with running(plain, ours):
        for sessions in (10, 100):

            def run(server: servers.Server, sessions: int = sessions) -> Sample:
                messages = int(5000 * options.scale)
                sink = subprocess.Popen(["smtp-sink", "-u", "postfix", "-M", str(messages), f"127.0.0.1:{SINK_PORT}", "1000"])
                servers.wait_for_port(SINK_PORT)
                argv = smtp_source(server.port, sessions, messages, 10240, "user@example.net")
                try:
                    return timed(server, argv, messages, lambda: sink.wait(120) and None)
                finally:
                    sink.kill()
                    sink.wait()

            runs: dict[str, Callable[[], Sample]] = {"raw signing": raw}
            runs |= {s.name: (lambda s=s, run=run: run(s)) for s in (plain, ours)}  # type: ignore[misc]
            measure.compare(f"signed relay 10 KiB, {sessions} sessions", runs, options.rounds, "raw signing")


def local(options: argparse.Namespace) -> None:
    """Into 100 local mailboxes, 3 KB: Postfix + Dovecot LMTP + Maildir against RusMES."""
    scratch = Path(options.scratch)
    chain = servers.PostfixDovecot(scratch, PORT, servers.Dovecot(scratch, PORT + 5))
    ours = servers.Rusmes(scratch, PORT + 10, users=servers.USERS)
    cases = {
        "local 3 KB, 100 sessions": ["-c", "100"],
        "local 3 KB, 10 sessions": ["-c", "10"],
        "local 3 KB, 100 pipelined": ["-p", "-c", "100"],
        "local 3 KB, a connection each": ["-k", "1", "-c", "100"],
    }
    with running(chain, ours):
        for title, flags in cases.items():

            def run(server: servers.Server, flags: Sequence[str] = flags) -> Sample:
                messages = int((600 if server is chain else 10000) * options.scale)
                argv = [measure.program("smtpload"), *flags, "-u", str(servers.USERS), "-m", str(messages), "-l", "3000"]
                argv.append(str(server.port))
                if server is not chain:
                    return timed(server, argv, messages)
                target = chain.delivered() + messages

                def delivered() -> None:
                    end = time.monotonic() + 120
                    while chain.delivered() < target:
                        if time.monotonic() > end:
                            raise TimeoutError(f"{target - chain.delivered()} messages never reached a Maildir")
                        time.sleep(0.02)

                return timed(server, argv, messages, delivered)

            runs: dict[str, Callable[[], Sample]] = {s.name: (lambda s=s, run=run: run(s)) for s in (chain, ours)}  # type: ignore[misc]
            measure.compare(title, runs, options.rounds, "postfix+dovecot")


def large(options: argparse.Namespace) -> None:
    """20 sessions with one message of 50 MB each: growth of resident memory."""
    ours = servers.Rusmes(Path(options.scratch), PORT + 10, users=1)
    with running(ours):
        measure.run_load(smtp_source(ours.port, 1, 5, 1024, "user0@example.com"))
        base = measure.resident_bytes(ours.root_pid())
        load = subprocess.Popen(smtp_source(ours.port, 20, 20, 50_000_000, "user0@example.com"))
        peak = base
        while load.poll() is None:
            peak = max(peak, measure.resident_bytes(ours.root_pid()))
            time.sleep(0.1)
        grown = (peak - base) / 1e6
        print(f"20 x 50 MB: base {base / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, growth {grown:.0f} MB, exit {load.returncode}")


def idle(options: argparse.Namespace) -> None:
    """10,000 idle SMTP connections after the banner and EHLO: memory over the base."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = min(10_000, hard - 100)
    ours = servers.Rusmes(Path(options.scratch), PORT + 10, users=1)
    with running(ours):
        measure.run_load(smtp_source(ours.port, 10, 100, 1024, "user0@example.com"))
        base = measure.resident_bytes(ours.root_pid())
        for pid in measure.process_tree(ours.root_pid()):
            print(f"process {pid}: {measure.resident_bytes(pid) >> 20} MiB with its children")

        async def connect() -> list[socket.socket]:
            open_sockets = []
            for number in range(wanted):
                peer = socket.create_connection(("127.0.0.1", ours.port), source_address=(f"127.0.{number // 250}.1", 0))
                peer.recv(512)
                peer.sendall(b"EHLO idle.example.org\r\n")
                peer.recv(2048)
                open_sockets.append(peer)
            return open_sockets

        sockets = asyncio.run(connect())
        time.sleep(1)
        grown = measure.resident_bytes(ours.root_pid()) - base
        each = grown / len(sockets)
        print(f"{len(sockets)} idle: {grown / 1e6:.1f} MB over a base of {base / 1e6:.1f} MB, {each:.0f} bytes each")
        for peer in sockets:
            peer.close()


def syncs(options: argparse.Namespace) -> None:
    """fsync-like system calls per accepted message at 100 sessions, by strace."""
    ours = servers.Rusmes(Path(options.scratch), PORT + 10, users=1)
    with running(ours):
        trace = Path(options.scratch) / "strace.out"
        pids = [argument for pid in measure.process_tree(ours.root_pid()) for argument in ("-p", str(pid))]
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,msync", "-o", str(trace), *pids])
        time.sleep(1)
        measure.run_load(smtp_source(ours.port, 100, 5000, 1024, "user0@example.com"))
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        calls = len(re.findall(r"(?:fsync|fdatasync|msync)\(", trace.read_text()))
        print(f"{calls} syncs for 5000 messages = {calls / 5000:.3f} a message")


def main() -> int:
    questions = {
        f.__name__: f for f in (accept, relay, signed, local, pop3, imap, imapidle, large, idle, syncs, *outbound.QUESTIONS)
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("question", choices=[*questions, "all"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of messages")
    parser.add_argument("--cell", default="", help="accept: only this cell, as 100x1024; imap: only these")
    parser.add_argument("--only", default="", help="imap: only these servers")
    parser.add_argument("--scratch", default="", help="directory for all data; a temporary one by default")
    options = parser.parse_args()
    options.port, options.running, options.timed = PORT, running, timed
    if os.geteuid() != 0:
        print("the peers need root: Postfix and Dovecot start as root", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="rusmes-peers-") as scratch:
        Path(scratch).chmod(0o755)
        options.scratch = options.scratch or scratch
        print(measure.environment())
        for name in questions if options.question == "all" else [options.question]:
            questions[name](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
