"""`rusmes` beside a running server: what it changes is in force at once, and survives the server's end."""

from __future__ import annotations

import json
import os
import poplib
import select
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import PASSWORD, RunningServer
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Two workers, whose smart host does not answer: remote mail stays in the queue."""
    made = RunningServer(tmp_path, sections={"relay": f"host = '127.0.0.1'\nport = {free_ports(1)[0]}\nuse_tls = false"})
    made.add_user()
    with made:
        yield made


def rusmes(server: RunningServer, *arguments: str) -> Any:
    return json.loads(server.rusmes(*arguments, "--json"))


def attempt_on(path: Path, *arguments: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "rusmes", "-c", str(path), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def attempt(server: RunningServer, *arguments: str) -> tuple[int, str]:
    return attempt_on(server.config, *arguments)


def login(server: RunningServer, user: str, password: str) -> int:
    """The number of messages in a maildrop."""
    client = poplib.POP3("127.0.0.1", server.pop3, timeout=10)
    try:
        client.user(user)
        client.pass_(password)
        return client.stat()[0]
    finally:
        client.close()


def stop(server: RunningServer) -> None:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    server.output.close()


def is_refused(server: RunningServer, recipient: str) -> bool:
    try:
        server.send(recipient)
    except smtplib.SMTPRecipientsRefused:
        return True
    return False


def test_accounts_of_a_running_server(server: RunningServer) -> None:
    server.rusmes("user", "add", "bob@example.com", "--password-stdin", "--quota-messages", "2", stdin="first secret\n")
    assert login(server, "bob@example.com", "first secret") == 0
    server.send("bob@example.com")
    assert login(server, "bob@example.com", "first secret") == 1
    assert rusmes(server, "mailbox", "list", "bob")[0]["messages"] == 1
    server.rusmes("user", "passwd", "bob", "--password-stdin", stdin="second secret\n")
    with pytest.raises(poplib.error_proto):
        login(server, "bob@example.com", "first secret")
    assert login(server, "bob@example.com", "second secret") == 1
    server.send("bob@example.com")
    with pytest.raises(smtplib.SMTPException):
        server.send("bob@example.com")
    server.rusmes("user", "quota", "bob", "--quota-messages", "3")
    server.send("bob@example.com")
    assert {row["address"]: row["messages"] for row in rusmes(server, "user", "list")} == {
        "alice@example.com": 0,
        "bob@example.com": 3,
    }
    server.rusmes("user", "delete", "bob", "--yes")
    # An account that was there may be taken for there for a moment (auth.file.RECIPIENT_SECONDS).
    server.wait_until(lambda: is_refused(server, "bob@example.com"), "refused")


def test_domains_and_aliases_of_a_running_server(server: RunningServer) -> None:
    assert "uses it now" in server.rusmes("domain", "add", "other.example")
    server.rusmes("alias", "add", "sales@other.example", "alice@example.com")
    server.send("sales@other.example")
    server.rusmes("domain", "catch-all", "other.example", "alice@example.com")
    server.send("anybody@other.example")
    server.wait_until(lambda: login(server, "alice@example.com", PASSWORD) == 2, "delivered")
    server.rusmes("domain", "catch-all", "other.example", "--none")
    server.rusmes("alias", "delete", "sales@other.example")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        server.send("sales@other.example")


def test_the_queue_of_a_running_and_of_a_stopped_server(server: RunningServer) -> None:
    for name in ("one", "two", "three"):
        server.send(f"someone@{name}.invalid")

    def statuses() -> dict[str, str]:
        entries = rusmes(server, "queue", "list")["entries"]
        return {r["address"].rpartition("@")[2]: r["status"] for entry in entries for r in entry["recipients"]}

    # The smart host is left alone after the first refusal; the others wait for their turn.
    server.wait_until(lambda: "deferred" in statuses().values() and len(statuses()) == 3, "queued, and one deferred")
    assert rusmes(server, "queue", "hold", "--domain", "one.invalid")["count"] == 1
    server.wait_until(lambda: statuses()["one.invalid"] == "held", "held")

    def attempts(name: str) -> int:
        (entry,) = rusmes(server, "queue", "list", "--domain", name)["entries"]
        return int(entry["recipients"][0]["attempts"])

    before = attempts("two.invalid")
    assert rusmes(server, "queue", "retry", "--domain", "two.invalid")["count"] == 1
    server.wait_until(lambda: attempts("two.invalid") > before, "tried again")
    assert rusmes(server, "queue", "delete", "--domain", "three.invalid", "--yes")["count"] == 1
    assert rusmes(server, "status")["queue_entries"] == 2
    stop(server)

    assert statuses() == {"one.invalid": "held", "two.invalid": "deferred"}
    assert attempt(server, "status")[0] == 3
    assert rusmes(server, "queue", "release", "--domain", "one.invalid")["count"] == 1
    assert rusmes(server, "queue", "delete", "--domain", "two.invalid", "--yes")["count"] == 1
    assert statuses() == {"one.invalid": "queued"}
    server.start()
    before = attempts("one.invalid")
    rusmes(server, "queue", "retry", "--domain", "one.invalid")
    server.wait_until(lambda: attempts("one.invalid") > before, "tried after the start")


def test_the_store_is_verified_beside_the_server_and_compacted_without_it(server: RunningServer) -> None:
    for _ in range(20):
        server.send()
    assert rusmes(server, "store", "verify")["findings"] == []
    assert rusmes(server, "store", "stats")["messages"] == 20
    status, errors = attempt(server, "store", "compact")
    assert (status, "stop it first" in errors) == (2, True)
    stop(server)
    assert {row["store"] for row in rusmes(server, "store", "compact")} >= {"mail.mdb", "queue-0.mdb"}
    server.start()
    assert login(server, "alice@example.com", PASSWORD) == 20


def test_a_bad_edit_by_hand_is_refused_and_the_server_goes_on(server: RunningServer) -> None:
    good = server.config.read_text()
    server.config.write_text(good + "[security]\nrelay_networks = ['0.0.0.0/0']\n")
    status, errors = attempt(server, "domain", "add", "other.example")
    assert (status, "open relay" in errors) == (2, True)
    assert attempt(server, "status")[0] == 2
    server.config.write_text(good)
    assert attempt(server, "status")[0] == 0
    server.send()


def test_the_program_answers_quickly(server: RunningServer) -> None:
    """An operator types it all day; the budget is generous for a busy machine."""
    started = time.monotonic()
    server.rusmes("status")
    assert time.monotonic() - started < 10


def test_init_asks_on_a_terminal(tmp_path: Path) -> None:
    """The answers are typed on a terminal of its own; a password is not echoed, and no file shows it."""
    master, slave = os.openpty()
    path = tmp_path / "rusmes.toml"
    argv = ["setsid", "--ctty", "--wait", sys.executable, "-m", "rusmes", "-c", str(path), "init"]
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT) as process:
        os.close(slave)
        said = ""
        for question, answer in (
            ("Domain whose mail", "example.com"),
            ("Name of this machine", ""),
            ("Address of the postmaster", ""),
            ("First account", "alice"),
            ("Password of alice@example.com:", "correct horse"),
            ("Once more:", "correct horse"),
            ("Next: rusmes-server", None),
        ):
            until = time.monotonic() + 30
            while question not in said:
                assert time.monotonic() < until, said
                ready, _, _ = select.select([master], [], [], 1.0)
                if ready:
                    said += os.read(master, 65536).decode()
            if answer is not None:
                os.write(master, f"{answer}\n".encode())
        assert process.wait(30) == 0
    os.close(master)
    assert "correct horse" not in said
    assert "_domainkey.example.com. TXT" in said
    text = path.read_text()
    assert 'hostname = "mail.example.com"' in text
    assert "correct horse" not in text
    assert attempt_on(path, "user", "list")[0] == 0
