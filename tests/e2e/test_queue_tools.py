"""The queue's tools beside a running server: selectors, suspensions, dry runs, the audit trail, Postfix's tools."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import RunningServer
from tests.ports import free_ports
from tests.sinks.thread import SinkThread

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Two workers, whose smart host does not answer: remote mail stays in the queue."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    (silent,) = free_ports(1)
    sections = {
        "relay": f'host = "127.0.0.1"\nport = {silent}\nuse_tls = false',
        "admin": f'token_file = "{token}"',
        "queue": 'retry_schedule = ["1h"]',
    }
    running = RunningServer(tmp_path, sections=sections)
    running.add_user()
    with running:
        yield running


def rusmes(server: RunningServer, *arguments: str) -> Any:
    return json.loads(server.rusmes("--json", *arguments))


def entries(server: RunningServer, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rusmes(server, "queue", "list", *arguments)["entries"]
    return found


def fill(server: RunningServer, *names: str) -> None:
    for name in names:
        server.send(f"someone@{name}.invalid", f"Subject: {name}\r\nMessage-ID: <{name}@x>\r\n\r\nhello\r\n")
    server.wait_until(lambda: len(entries(server)) == len(names), "queued")


def tool(
    server: RunningServer, module: str, *arguments: str, stdin: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", f"rusmes.cli.{module}", *arguments]
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ}
    )


def api(server: RunningServer, method: str, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {token}"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_operations_by_selector(server: RunningServer) -> None:
    fill(server, "one", "two", "three", "four")
    assert len(entries(server, "--header", "Subject: t*")) == 2
    assert len(entries(server, "--message-id", "<one@x>")) == 1
    assert len(entries(server, "--client", "127.0.0.0/8", "--younger-than", "1h", "--smaller-than", "10KB")) == 4
    would = rusmes(server, "queue", "hold", "--domain", "t*.invalid", "--dry-run")
    assert (would["count"], would["recipients"], len(would["sample"]), would["dry_run"]) == (2, 2, 2, True)
    assert not entries(server, "--status", "held")
    assert rusmes(server, "queue", "hold", "--domain", "t*.invalid", "--reason", "checking")["count"] == 2
    assert len(entries(server, "--status", "held")) == 2
    # The site is the smart host's; only the running server knows.
    assert len(entries(server, "--site", "127.0.0.1:*")) == 4
    summary = rusmes(server, "queue", "summary", "--by", "site")
    assert [row["recipients"] for row in summary["rows"]] == [4]
    assert summary["rows"][0]["name"].startswith("127.0.0.1:")
    assert rusmes(server, "queue", "qshape", "--status", "held")["total"]["counts"][0] == 2
    assert rusmes(server, "queue", "reroute", "127.0.0.2:9", "--domain", "three.invalid")["count"] == 1
    assert [one["route"] for one in entries(server, "--domain", "three.invalid")] == ["127.0.0.2:9"]
    assert rusmes(server, "queue", "bounce", "--domain", "four.invalid", "--yes", "--reason", "no")["count"] == 1
    server.wait_until(lambda: not entries(server, "--domain", "four.invalid"), "bounced")
    deeds = rusmes(server, "queue", "audit")["deeds"]
    assert [deed["operation"] for deed in deeds] == ["bounce", "reroute", "hold"]
    assert deeds[2]["what"] == {"filter": {"domain": "t*.invalid"}, "reason": "checking"}
    assert deeds[2]["by"].startswith("root (uid 0, pid ") or f"uid {os.getuid()}" in deeds[2]["by"]
    assert [event["operation"] for event in server.events("queue operation")] == ["hold", "reroute", "bounce"]


def test_what_is_suspended_survives_a_restart(server: RunningServer) -> None:
    server.rusmes("queue", "suspend", "domain", "One.invalid", "--for", "2h", "--reason", "they asked")
    server.rusmes("queue", "suspend", "tenant", "acme")
    (first, second) = rusmes(server, "queue", "suspensions")["suspensions"]
    assert (first["scope"], first["name"], first["reason"], bool(first["until"])) == (
        "domain",
        "one.invalid",
        "they asked",
        True,
    )
    assert (second["scope"], second["name"], second["until"]) == ("tenant", "acme", 0.0)
    server.signal(15)
    assert server.wait() == 0
    assert len(rusmes(server, "queue", "suspensions")["suspensions"]) == 2
    server.rusmes("queue", "resume", "tenant", "acme")
    server.start()
    assert [one["scope"] for one in rusmes(server, "queue", "suspensions")["suspensions"]] == ["domain"]
    fill(server, "one")
    (entry,) = entries(server)
    shown = rusmes(server, "queue", "show", entry["id"])["recipients"][0]
    assert shown["suspended"]["reason"] == "they asked"
    server.rusmes("queue", "resume", "domain", "one.invalid")
    assert "suspended" not in rusmes(server, "queue", "show", entry["id"])["recipients"][0]
    with pytest.raises(AssertionError, match="is not suspended"):
        server.rusmes("queue", "resume", "domain", "one.invalid")
    deeds = [deed["operation"] for deed in rusmes(server, "queue", "audit")["deeds"]]
    assert sorted(deeds) == ["resume", "resume", "suspend", "suspend"]


def test_the_api_with_a_token(server: RunningServer) -> None:
    fill(server, "one", "two", "three")
    assert api(server, "POST", "/queue/hold", {"all": True}, token="wrong")[0] == 403
    page = json.loads(api(server, "POST", "/queue/list", {"limit": 2})[1])
    assert len(page["entries"]) == 2
    assert page["next"] == page["entries"][1]["id"]
    rest = json.loads(api(server, "POST", "/queue/list", {"limit": 2, "after": page["next"]})[1])
    assert (len(rest["entries"]), rest["next"], rest["not_reached"]) == (1, "", [])
    lines = api(server, "POST", "/queue/list", {"stream": True})[1].splitlines()
    assert [json.loads(line)["id"] for line in lines] == [one["id"] for one in page["entries"] + rest["entries"]]
    for path, body in [
        ("/queue/delete", {}),
        ("/queue/delete", {"filter": {"domian": "x"}}),
        ("/queue/hold", {"filter": {"reply": "("}}),
    ]:
        assert api(server, "POST", path, body)[0] == 400
    assert api(server, "POST", "/queue/reroute", {"all": True, "route": "nowhere"})[0] == 400
    found = json.loads(api(server, "POST", "/queue/list", {"filter": {"reply": "^(?!no such thing)"}})[1])
    assert len(found["entries"]) == 3, "a pattern is bounded in time inside a worker too"
    assert len(entries(server)) == 3
    assert json.loads(api(server, "POST", "/queue/delete", {"filter": {"domain": "one.invalid"}})[1])["count"] == 1
    assert json.loads(api(server, "GET", "/queue/audit")[1])["deeds"][0]["by"] == "token from 127.0.0.1"
    assert api(server, "GET", "/queue/entries/" + "0" * 26)[0] == 404


def test_a_list_on_a_terminal_of_100_columns(server: RunningServer) -> None:
    server.send(f"{'a' * 60}@{'b' * 60}.{'c' * 60}.invalid")
    server.wait_until(lambda: len(entries(server)) == 1, "queued")
    main, side = pty.openpty()
    try:
        argv = [sys.executable, "-m", "rusmes.cli.entry", "-c", str(server.config), "queue", "list"]
        environ = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
        subprocess.run(argv, stdout=side, stdin=subprocess.DEVNULL, env=environ, timeout=60, check=True)
        text = os.read(main, 100_000).decode()
    finally:
        os.close(side)
        os.close(main)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    assert lines[0].startswith("ID")
    assert max(map(len, lines)) <= 100
    assert "a" * 60 in server.rusmes("queue", "list"), "what is piped is whole"


def test_sendmail_while_the_server_runs_and_while_it_does_not(server: RunningServer) -> None:
    config = str(server.config)
    done = tool(
        server, "sendmail", "-C", config, "-t", "-oi", "-f", "alice@example.com", stdin="To: alice\nSubject: one\n\n.\nx\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    inbox = lambda: rusmes(server, "mailbox", "list", "alice")[0]["messages"]  # noqa: E731
    server.wait_until(lambda: inbox() == 1, "delivered")
    # Nobody of that name: the sender is told.
    assert (
        tool(server, "sendmail", "-C", config, "-f", "alice@example.com", "nobody", stdin="Subject: two\n\nx\n").returncode == 0
    )
    server.wait_until(lambda: inbox() == 2, "returned")
    server.signal(15)
    assert server.wait() == 0
    assert tool(server, "sendmail", "-C", config, "alice@example.com", stdin="Subject: three\n\nx\n").returncode == 0
    (waiting,) = tool(server, "postqueue", "-c", config, "-j").stdout.splitlines()
    assert json.loads(waiting)["queue_name"] == "maildrop"
    server.start()
    server.wait_until(lambda: inbox() == 3, "delivered after the start")
    assert tool(server, "postqueue", "-c", config, "-p").stdout == "Mail queue is empty\n"
    assert os.listdir(server.directory / "data" / "maildrop") == []


def test_sendmail_of_a_user_without_rights(server: RunningServer) -> None:
    environ = {"RUSMES_SENDMAIL_SERVER": f"127.0.0.1:{server.smtp}"}
    nowhere = ["-C", "/proc/1/mem"] if os.geteuid() != 0 else []
    if os.geteuid() == 0:
        environ["RUSMES_CONFIG"] = ""

    def send(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import sys; from rusmes.cli import sendmail as s; s.load_config = lambda *_: (_ for _ in ()).throw(OSError('no'));"
            "s.main()"
        )
        argv = [sys.executable, "-c", code, *nowhere, *arguments]
        return subprocess.run(
            argv,
            input="Subject: x\n\nx\n",
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environ},
            check=False,
        )

    assert send("-f", "bob@example.org", "alice@example.com").returncode == 0
    server.wait_until(lambda: rusmes(server, "mailbox", "list", "alice")[0]["messages"] == 1, "delivered")
    refused = send("-f", "bob@example.org", "alice@example.com", "nobody@example.com")
    assert refused.returncode == 67
    assert "nobody@example.com: 5.1.1" in refused.stderr
    assert rusmes(server, "mailbox", "list", "alice")[0]["messages"] == 1, "all or none"
    environ["RUSMES_SENDMAIL_SERVER"] = "127.0.0.1:1"
    assert send("alice@example.com").returncode == 75
    environ["RUSMES_SENDMAIL_SERVER"] = f"127.0.0.1:{server.smtp}"
    argv = [sys.executable, "-m", "rusmes.cli.sendmail", "-bs"]
    said = "EHLO x\nMAIL FROM:<bob@example.org>\nRCPT TO:<alice@example.com>\nDATA\nSubject: y\n\ny\n.\nQUIT\n"
    done = subprocess.run(
        argv, input=said, capture_output=True, text=True, timeout=60, env={**os.environ, **environ}, check=False
    )
    assert done.returncode == 0
    assert [line[:3] for line in done.stdout.splitlines() if line[3:4] == " "] == [
        "220",
        "250",
        "250",
        "250",
        "354",
        "250",
        "221",
    ]


def test_mailq_and_postqueue(server: RunningServer) -> None:
    fill(server, "one", "two")
    config = str(server.config)
    held = entries(server, "--domain", "two.invalid")[0]["id"]
    server.rusmes("queue", "hold", held)
    rows = [json.loads(line) for line in tool(server, "postqueue", "-c", config, "-j").stdout.splitlines()]
    assert list(rows[0]) == ["queue_name", "queue_id", "arrival_time", "message_size", "forced_expire", "sender", "recipients"]
    assert rows[1]["queue_name"] == "hold"
    listing = tool(server, "sendmail", "-bp", "-C", config).stdout
    assert f"{held}!" in listing
    assert listing.rstrip().endswith("in 2 Requests.")
    for arguments in (["-f"], ["-i", rows[0]["queue_id"]], ["-s", "one.invalid"]):
        assert tool(server, "postqueue", "-c", config, *arguments).returncode == 0
    assert [deed["operation"] for deed in rusmes(server, "queue", "audit")["deeds"][:3]] == ["retry"] * 3


def test_what_is_suspended_waits_and_goes_on_at_once(tmp_path: Path) -> None:
    with SinkThread() as sink:
        sink.sink.replies["rcpt:slow@x.invalid"] = "451 4.7.1 not now"
        sections = {
            "relay": f'host = "127.0.0.1"\nport = {sink.port}\nuse_tls = false',
            "queue": 'retry_schedule = ["1h"]',
        }
        with RunningServer(tmp_path, sections=sections) as server:
            server.rusmes("queue", "suspend", "domain", "x.invalid", "--reason", "they asked")
            for name in ("one@x.invalid", "two@x.invalid", "other@y.invalid"):
                server.send(name)
            server.wait_until(lambda: sink.count == 1, "the other one sent")
            waiting = entries(server)
            assert [one["recipients"][0]["attempts"] for one in waiting] == [0, 0]
            server.signal(15)
            assert server.wait() == 0
            server.start()
            assert len(entries(server)) == 2
            assert sink.count == 1
            server.rusmes("queue", "resume", "domain", "x.invalid")
            server.wait_until(lambda: sink.count == 3, "sent after the resumption")
            server.rusmes("queue", "suspend", "everything", "--for", "2s")
            server.send("three@x.invalid")
            server.wait_until(lambda: sink.count == 4, "sent when the time was over", 30)
            server.send("slow@x.invalid")
            server.wait_until(lambda: any(one["recipients"][0]["attempts"] for one in entries(server)), "deferred")
            (entry,) = entries(server)
            server.wait_until(lambda: "last" in rusmes(server, "queue", "show", entry["id"])["recipients"][0], "recorded")
            shown = rusmes(server, "queue", "show", entry["id"])["recipients"][0]
            assert shown["site"] == f"127.0.0.1:{sink.port}"
            assert shown["last"]["class"]
            output = server.rusmes("queue", "show", entry["id"])
            assert "451 4.7.1 not now" in output
            assert "in the clear" in output
            sink.sink.replies.clear()
            assert rusmes(server, "queue", "retry", entry["id"])["count"] == 1
            server.wait_until(lambda: sink.count == 5, "tried again")
