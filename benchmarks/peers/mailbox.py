"""IMAP beside Dovecot, on a Maildir and on mdbox: the same messages, the same client, one command after the other.

The mailbox has 10,000 messages of 3 KB, of two parts, with a word and a number; each four of them are copies.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import resource
import select
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.peers import measure, servers
from benchmarks.peers.measure import Sample

MESSAGES = 10_000
LARGE_MESSAGES = 100_000
OCTETS = 3000
SECONDS = 1.5
"""Of one sample."""

SELECT = ["-S", "SELECT INBOX"]
QUESTIONS: dict[str, tuple[int, list[str]]] = {
    "flags": (1, [*SELECT, "-x", "FETCH 1:* (FLAGS)"]),
    "listview": (1, [*SELECT, "-x", "UID FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)"]),
    "envelope": (1, [*SELECT, "-x", "FETCH 1:* (ENVELOPE)"]),
    "hdrfields": (1, [*SELECT, "-x", "FETCH 1:* (BODY.PEEK[HEADER.FIELDS (FROM TO SUBJECT DATE)])"]),
    "bodies": (1, [*SELECT, "-x", "FETCH 1:1000 (BODY.PEEK[])"]),
    "search-flag": (1, [*SELECT, "-x", "SEARCH UNSEEN"]),
    "search-header": (1, [*SELECT, "-x", "SEARCH SUBJECT quarterly"]),
    "search-body": (1, [*SELECT, "-x", "SEARCH BODY word000123"]),
    "search-miss": (1, [*SELECT, "-x", "SEARCH TEXT zebrafish"]),
    "sort": (1, [*SELECT, "-x", "SORT (SUBJECT) UTF-8 ALL"]),
    "thread": (1, [*SELECT, "-x", "THREAD REFERENCES UTF-8 ALL"]),
    "store-1000": (
        1,
        [*SELECT, "-x", "STORE 1:1000 +FLAGS.SILENT (\\Flagged)", "-x", "STORE 1:1000 -FLAGS.SILENT (\\Flagged)"],
    ),
    "store-one": (
        1,
        [*SELECT, "-S", "STORE 1:300 -FLAGS.SILENT (\\Answered)", "-n", "300", "-x", "STORE %d +FLAGS.SILENT (\\Answered)"],
    ),
    "append-1": (1, ["-a", str(OCTETS), "-m", "app"]),
    "append-10": (10, ["-a", str(OCTETS), "-m", "app"]),
    "login": (1, ["-L"]),
    "login-10": (10, ["-L"]),
    "noop": (1, [*SELECT, "-x", "NOOP"]),
    "noop-10": (10, [*SELECT, "-x", "NOOP"]),
    "select": (1, ["-x", "SELECT INBOX"]),
}
"""Sessions, and the arguments of imapload."""


class Peer:
    """A server, and how one logs in."""

    def __init__(self, server: servers.Server, port: int, user: str, password: str) -> None:
        self.server, self.port, self.user, self.password = server, port, user, password
        self.name = server.name

    def load(self, arguments: list[str], *, sessions: int = 1, seconds: float = SECONDS, user: str = "") -> Sample:
        """Raises RuntimeError: the generator failed, or the server did not say OK."""
        argv = [imapload(), "-c", str(sessions), "-w", str(seconds), "-U", user or self.user, "-P", self.password]
        roots = [self.server.root_pid()]
        cpu = measure.cpu_seconds(roots)
        result = measure.run_load([*argv, *arguments, str(self.port)], seconds=900)
        used = measure.cpu_seconds(roots) - cpu
        return Sample(result["rate"], used / result["ops"] * 1000, {"p99_ms": result["p99_ms"]})

    def fill(self, messages: int, user: str = "") -> None:
        argv = ["-n", str(messages // 4), "-a", str(OCTETS)]
        self.load(argv, sessions=4, seconds=600, user=user)

    def fill_by_copies(self, messages: int, doublings: int, user: str = "") -> None:
        """The first ones are appended, then all are copied again and again: a Maildir takes 50 to 300 appends a second."""
        self.fill(messages >> doublings, user)
        for _ in range(doublings):
            self.load([*SELECT, "-n", "1", "-x", "COPY 1:* INBOX"], seconds=600, user=user)


def imapload() -> str:
    """The path of the compiled load generator. Raises CalledProcessError: there is no working C compiler."""
    source = Path(__file__).with_name("imapload.c")
    binary = Path(tempfile.gettempdir()) / f"rusmes-imapload-{int(source.stat().st_mtime)}"
    if not binary.exists():
        subprocess.run(["cc", "-O2", "-pthread", "-o", str(binary), str(source)], check=True)
    return str(binary)


@contextlib.contextmanager
def peers(options: argparse.Namespace) -> Iterator[list[Peer]]:
    """All of them running, empty."""
    scratch = Path(options.scratch)
    maildir = servers.DovecotImap(scratch, options.port + 30, "maildir")
    mdbox = servers.DovecotImap(scratch, options.port + 40, "mdbox")
    ours = servers.Rusmes(scratch, options.port + 10, users=2, imap=True)
    with contextlib.ExitStack() as stack:
        found = []
        for server in (maildir, mdbox, ours):
            if server.name not in (options.only or server.name):
                continue
            stack.callback(server.stop)
            server.start()
            if server is ours:
                found.append(Peer(server, ours.imap_port, "user0@example.com", servers.PASSWORD))
            else:
                found.append(Peer(server, server.port, "user0", servers.PASSWORD.replace(" ", "_")))
        yield found


def imap(options: argparse.Namespace) -> None:
    """Every question of the list, or those of --cell."""
    wanted = options.cell.split(",") if options.cell else list(QUESTIONS)
    with peers(options) as all_peers:
        for peer in all_peers:
            begin = time.monotonic()
            peer.fill_by_copies(int(MESSAGES * options.scale), 2)
            peer.load(["-n", "1", "-x", "CREATE app"])
            print(f"{peer.name}: filled in {time.monotonic() - begin:.1f} s", flush=True)
        for question in wanted:
            if question not in QUESTIONS:
                continue
            sessions, arguments = QUESTIONS[question]
            runs: dict[str, Callable[[], Sample]] = {
                peer.name: functools.partial(peer.load, arguments, sessions=sessions) for peer in all_peers
            }
            measure.compare(f"imap {question}", runs, options.rounds, all_peers[0].name)
        if "select-large" in wanted or not options.cell:
            _large(all_peers, options)


def _large(all_peers: list[Peer], options: argparse.Namespace) -> None:
    """SELECT of a mailbox of 100,000, in a new session each time."""
    for peer in all_peers:
        user = peer.user.replace("user0", "user1")
        peer.fill_by_copies(int(LARGE_MESSAGES * options.scale), 6, user)
    runs: dict[str, Callable[[], Sample]] = {
        peer.name: (
            lambda peer=peer: peer.load(["-L", "-S", "SELECT INBOX"], user=peer.user.replace("user0", "user1"))  # type: ignore[misc]
        )
        for peer in all_peers
    }
    measure.compare(f"imap log in, SELECT of {LARGE_MESSAGES:,}", runs, options.rounds, all_peers[0].name)


# Waiting


def imapidle(options: argparse.Namespace) -> None:
    """10,000 sessions in IDLE, plain and in TLS: memory over the base; and how long an event takes to 1,000 of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = min(int(10_000 * options.scale), hard - 200)
    ours = servers.Rusmes(Path(options.scratch), options.port + 10, users=2, imap=True)
    ours.start()
    try:
        peer = Peer(ours, ours.imap_port, "user0@example.com", servers.PASSWORD)
        peer.fill(100)
        for tls in (False, True):
            _idle_memory(ours, wanted, tls)
        _event(ours, min(wanted, 1000))
    finally:
        ours.stop()


def _idler(ours: servers.Rusmes, number: int, tls: bool) -> socket.socket:
    source = (f"127.0.{number // 250 % 200}.{1 + number // 50000}", 0)
    peer = socket.create_connection(("127.0.0.1", ours.imaps_port if tls else ours.imap_port), 60, source)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        peer = context.wrap_socket(peer)
    _until(peer, b"\r\n")
    peer.sendall(f'a LOGIN "user0@example.com" "{servers.PASSWORD}"\r\n'.encode())
    _until(peer, b"a OK")
    peer.sendall(b"b EXAMINE INBOX\r\n")
    _until(peer, b"b OK")
    peer.sendall(b"c IDLE\r\n")
    _until(peer, b"+ ")
    return peer


def _until(peer: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data or not data.endswith(b"\n"):
        piece = peer.recv(65536)
        if not piece:
            raise RuntimeError(f"closed after {data!r}")
        data += piece
    return data


def _idle_memory(ours: servers.Rusmes, wanted: int, tls: bool) -> None:
    _idler(ours, 0, tls).close()
    time.sleep(0.5)
    base = measure.resident_bytes(ours.root_pid())
    idlers = [_idler(ours, number, tls) for number in range(wanted)]
    time.sleep(1)
    grown = measure.resident_bytes(ours.root_pid()) - base
    cpu = measure.cpu_seconds([ours.root_pid()])
    time.sleep(5)
    used = (measure.cpu_seconds([ours.root_pid()]) - cpu) / 5
    kind = "TLS" if tls else "plain"
    print(
        f"{len(idlers)} in IDLE, {kind}: {grown / 1e6:.1f} MB over a base of {base / 1e6:.1f} MB, "
        f"{grown / len(idlers):.0f} bytes each, {100 * used:.1f} % CPU",
        flush=True,
    )
    for idler in idlers:
        idler.close()
    time.sleep(1)


def _event(ours: servers.Rusmes, count: int) -> None:
    """From the OK of a STORE to the last idler that was told."""
    idlers = [_idler(ours, number, False) for number in range(count)]
    other = _idler(ours, 0, False)
    other.sendall(b"DONE\r\n")
    _until(other, b"c OK")
    other.sendall(b"d SELECT INBOX\r\n")
    _until(other, b"d OK")
    taken = []
    for number in range(10):
        poll = select.epoll()
        for idler in idlers:
            poll.register(idler.fileno(), select.EPOLLIN)
        by_number = {idler.fileno(): idler for idler in idlers}
        begin = time.monotonic()
        other.sendall(f"e STORE 1 {'+-'[number % 2]}FLAGS.SILENT (\\Flagged)\r\n".encode())
        while by_number:
            for descriptor, _ in poll.poll(10):
                _until(by_number.pop(descriptor), b"\n")
                poll.unregister(descriptor)
        taken.append(1000 * (time.monotonic() - begin))
        poll.close()
        _until(other, b"e OK")
        time.sleep(0.2)
    taken.sort()
    print(f"an event reaches {count} idlers in {taken[len(taken) // 2]:.0f} ms (median of 10, {taken[0]:.0f}-{taken[-1]:.0f})")
    for idler in idlers:
        idler.close()
