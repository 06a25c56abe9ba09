"""POP3: a client that retrieves a mailbox of 1,000 messages of 3 KB, one RETR after the other or all at once."""

from __future__ import annotations

import argparse
import smtplib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers import measure, servers
from benchmarks.peers.measure import Sample

MESSAGES = 1000
BODY = b"x" * 76 + b"\r\n"
ROUNDS_EACH = 5
"""Times the mailbox is read in one sample: reading it once takes less than a tick of the CPU clock."""


def message(number: int) -> bytes:
    head = (
        f"From: Alice <alice@example.org>\r\nTo: user0@example.com\r\nSubject: message {number}\r\n"
        f"Date: Tue, 24 Nov 2026 05:00:00 +0000\r\nMessage-ID: <{number}@example.org>\r\n\r\n"
    ).encode()
    return head + BODY * ((3000 - len(head)) // len(BODY))


def fill(client: smtplib.SMTP, recipient: str) -> None:
    """Deliver the same mail to either server."""
    for number in range(MESSAGES):
        client.sendmail("alice@example.org", [recipient], message(number))
    client.quit()


class Client:
    """A session after login, over a plain socket: as little work of its own as possible."""

    def __init__(self, port: int, name: str, password: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(1 << 20)
        self._line(b"")
        self._line(f"USER {name}\r\n".encode())
        self._line(f"PASS {password}\r\n".encode())

    def _line(self, command: bytes) -> bytes:
        self.socket.sendall(command)
        reply = b""
        while not reply.endswith(b"\r\n"):
            reply += self.socket.recv(4096)
        if not reply.startswith(b"+OK"):
            raise RuntimeError(f"{command!r}: {reply!r}")
        return reply

    def retrieve_waiting(self) -> int:
        """RETR of each, waiting for its end; the octets received."""
        total = 0
        buffer, receive = memoryview(self.buffer), self.socket.recv_into
        for number in range(1, MESSAGES + 1):
            self.socket.sendall(b"RETR %d\r\n" % number)
            size = receive(buffer)
            while self.buffer[size - 5 : size] != b"\r\n.\r\n":
                size += receive(buffer[size:])
            total += size
        return total

    def retrieve_pipelined(self) -> int:
        """All commands at once."""
        self.socket.sendall(b"".join(b"RETR %d\r\n" % number for number in range(1, MESSAGES + 1)))
        ends = total = 0
        tail = b""
        while ends < MESSAGES:
            data = tail + self.socket.recv(1 << 20)
            ends += data.count(b"\r\n.\r\n")
            total += len(data) - len(tail)
            tail = data[-4:]
        return total

    def quit(self) -> None:
        self._line(b"QUIT\r\n")
        self.socket.close()


@contextmanager
def logged_in(port: int, name: str, password: str) -> Iterator[Client]:
    client = Client(port, name, password)
    yield client
    client.quit()


def pop3(options: argparse.Namespace) -> None:
    """1,000 messages of 3 KB by POP3: Dovecot on a Maildir against RusMES."""
    scratch = Path(options.scratch)
    dovecot = servers.Dovecot(scratch, options.port)
    ours = servers.Rusmes(scratch, options.port + 10, users=1)
    dovecot.start()
    try:
        ours.start()
        try:
            lmtp = smtplib.LMTP(str(dovecot.directory / "run/lmtp"))
            fill(lmtp, "user0@example.com")
            fill(smtplib.SMTP("127.0.0.1", ours.port), "user0@example.com")
            logins: dict[str, tuple[servers.Server, int, str, str]] = {
                dovecot.name: (dovecot, dovecot.port, "user0", servers.PASSWORD.replace(" ", "_")),
                ours.name: (ours, ours.pop3_port, "user0@example.com", servers.PASSWORD),
            }
            for title, method in (("waiting for each", Client.retrieve_waiting), ("pipelined", Client.retrieve_pipelined)):

                def run(name: str, method: Callable[[Client], int] = method) -> Sample:
                    server, port, user, password = logins[name]
                    seconds = 0.0
                    cpu = measure.cpu_seconds([server.root_pid()])
                    with logged_in(port, user, password) as client:
                        for _ in range(ROUNDS_EACH):
                            begin = time.monotonic()
                            octets = method(client)
                            seconds += time.monotonic() - begin
                            if octets < MESSAGES * 2900:
                                raise RuntimeError(f"{name} sent {octets} octets")
                    used = measure.cpu_seconds([server.root_pid()]) - cpu
                    return Sample(MESSAGES * ROUNDS_EACH / seconds, used / ROUNDS_EACH)

                runs: dict[str, Callable[[], Sample]] = {name: (lambda name=name, run=run: run(name)) for name in logins}  # type: ignore[misc]
                measure.compare(f"pop3, 1,000 RETR, {title}", runs, options.rounds, dovecot.name)
        finally:
            ours.stop()
    finally:
        dovecot.stop()
