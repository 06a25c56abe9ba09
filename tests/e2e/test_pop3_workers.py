"""POP3 and logins over two workers of a real server: what has to be exact although the workers share nothing but a table."""

from __future__ import annotations

import contextlib
import os
import poplib
import signal
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.running import PASSWORD, RunningServer

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    made = RunningServer(tmp_path)
    made.add_user()
    with made:
        yield made


class Client(poplib.POP3):
    """Closes its socket when the server refuses at connect, which poplib forgets."""

    def _create_socket(self, timeout: float) -> socket.socket:
        self.opened = super()._create_socket(timeout)  # type: ignore[misc]
        return self.opened

    def __init__(self, host: str, port: int, timeout: float) -> None:
        try:
            super().__init__(host, port, timeout)
        except poplib.error_proto:
            self.file.close()
            self.opened.close()
            raise


def login(server: RunningServer, password: str = PASSWORD) -> poplib.POP3:
    with contextlib.ExitStack() as stack:
        client = Client("127.0.0.1", server.pop3, timeout=30)
        stack.callback(client.close)
        client.user("alice@example.com")
        client.pass_(password)
        stack.pop_all()
    return client


def is_in_use(server: RunningServer) -> bool:
    try:
        login(server).quit()
    except poplib.error_proto as error:
        return b"[IN-USE]" in error.args[0]
    return False


def test_a_maildrop_is_locked_over_both_workers_and_given_back_by_a_dead_one(server: RunningServer) -> None:
    first = login(server)
    # Enough connections for the kernel to have used both listening sockets.
    assert all(is_in_use(server) for _ in range(16))
    first.quit()
    assert not is_in_use(server)
    holder = login(server)
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    holder.close()
    server.wait_until(lambda: len(server.worker_pids()) == 2 and not is_in_use(server), "free again")


def test_unique_ids_and_deletions_survive_a_restart(server: RunningServer) -> None:
    for number in range(4):
        server.send(text=f"Subject: {number}\r\n\r\n.dot {number}\r\n")
    client = login(server)
    before = client.uidl()[1]
    assert len(before) == 4
    client.dele(2)
    client.quit()
    unfinished = login(server)
    unfinished.dele(1)
    unfinished.close()  # without QUIT: nothing is deleted
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server.start()
    client = login(server)
    assert [row.split()[1] for row in client.uidl()[1]] == [row.split()[1] for n, row in enumerate(before) if n != 1]
    assert client.retr(2)[1][-1] == b".dot 2"
    client.quit()


def test_parallel_guessing_is_blocked_after_ten_failures_over_both_workers(server: RunningServer) -> None:
    """A2."""

    def guess(number: int) -> str:
        try:
            login(server, f"guess {number}").quit()
        except poplib.error_proto as error:
            return error.args[0].decode()
        except (OSError, EOFError):
            return "closed"
        return "in"

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(guess, range(24)))
    assert "in" not in answers
    assert sum("[AUTH]" in answer for answer in answers) == 10
    with pytest.raises((poplib.error_proto, OSError)):
        login(server)
    assert server.metric('rusmes_auth_attempts_total{outcome="failure"}') == 10
    assert [event["client"] for event in server.events("too many failed logins: blocked")] == ["127.0.0.1"]
    text = server.everything_said()
    assert PASSWORD not in text
    assert "guess 3" not in text


def test_a_changed_password_counts_at_once_on_every_worker(server: RunningServer) -> None:
    for _ in range(6):
        login(server).quit()
    server.rusmes("user", "passwd", "alice@example.com", "--password-stdin", stdin="another long password")
    for _ in range(2):
        with pytest.raises(poplib.error_proto, match="AUTH"):
            login(server)
    for _ in range(6):
        login(server, "another long password").quit()


def test_scram_plus_is_offered_under_tls(server: RunningServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.closing(poplib.POP3_SSL("127.0.0.1", server.pop3s, context=context, timeout=10)) as client:
        assert client.capa()["SASL"] == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"]
