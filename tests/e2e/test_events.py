"""The event log of a running server: what `rusmes why` tells of mail that waits, goes, and is gone."""

from __future__ import annotations

import http.server
import json
import os
import signal
import smtplib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.e2e.running import RunningServer
from tests.ports import free_ports
from tests.sinks.thread import SinkThread


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    (closed,) = free_ports(1)
    route = f'[[delivery.route]]\nname = "closed"\nhost = "127.0.0.1"\nport = {closed}\ndomains = ["*"]\nuse_tls = false'
    with RunningServer(tmp_path, sections={"queue": 'retry_schedule = ["1h"]', "delivery": route}) as running:
        yield running


def send(server: RunningServer, number: int, *to: str) -> str:
    message_id = f"<{number}.wanted@example.org>"
    with smtplib.SMTP("127.0.0.1", server.smtp, timeout=10) as client:
        client.sendmail("sam@example.org", list(to), f"Message-ID: {message_id}\r\nSubject: x\r\n\r\nbody\r\n")
    return message_id


def why(server: RunningServer, text: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(server.rusmes("--json", "why", text))
    return answer


def kinds_of(server: RunningServer, text: str) -> list[str]:
    try:
        return [event["kind"] for event in why(server, text)["events"]]
    except AssertionError:  # nothing is known yet
        return []


def test_why_mail_is_still_here_and_what_became_of_it(server: RunningServer) -> None:
    message_id = send(server, 1, "bob@example.net")
    server.wait_until(lambda: kinds_of(server, message_id) == ["received", "deferred"], "deferred")
    answer = why(server, message_id)
    received, deferred = answer["events"]
    assert received["recipients"] == ["bob@example.net"]
    assert received["client"] == "127.0.0.1"
    assert deferred["attempt"] == 1
    (entry,) = answer["waiting"]
    assert entry["id"] == deferred["queue_id"] in received["queue_ids"]
    assert entry["recipients"][0]["why"].startswith("the next attempt is due in ")

    server.rusmes("queue", "hold", "--recipient", "bob@*")
    answer = why(server, entry["id"])
    assert answer["waiting"][0]["recipients"][0]["why"].startswith("held for an operator")
    text = server.rusmes("why", "bob@example.net")
    assert "deferred" in text
    assert "held for an operator" in text

    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    answer = why(server, message_id)
    assert [event["kind"] for event in answer["events"]][:2] == ["received", "deferred"]
    assert answer["waiting"][0]["recipients"][0]["why"].startswith("held for an operator")
    server.rusmes("queue", "release", "--recipient", "bob@*")  # without a server, and in the log all the same
    kinds = kinds_of(server, message_id)
    assert (kinds[:2], kinds[-1]) == (["received", "deferred"], "released")
    server.start()
    server.rusmes("queue", "delete", "--recipient", "bob@*", "--yes")
    server.wait_until(lambda: why(server, message_id)["waiting"] == [], "gone")
    server.wait_until(lambda: "deleted" in kinds_of(server, message_id), "told")


class Hook(http.server.BaseHTTPRequestHandler):
    """Takes events, or refuses everything while `Hook.is_down`."""

    taken: ClassVar[list[dict[str, Any]]] = []
    is_down: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not Hook.is_down:
            Hook.taken += json.loads(body)
        self.send_response(503 if Hook.is_down else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def hook() -> Iterator[int]:
    Hook.taken, Hook.is_down = [], False
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def webhook(port: int, **more: str) -> str:
    return "\n".join(
        [
            'segment_size = "64KB"',
            "[[events.webhook]]",
            'name = "hook"',
            f'url = "http://127.0.0.1:{port}/"',
            'batch_time = "50ms"',
            'retry_wait = "50ms"',
            'max_retry_wait = "200ms"',
            *(f"{key} = {value}" for key, value in more.items()),
        ]
    )


def test_every_event_comes_to_the_webhook_whoever_is_killed(tmp_path: Path, hook: int) -> None:
    with RunningServer(tmp_path, sections={"events": webhook(hook)}) as server:
        server.add_user()

        def received() -> set[str]:
            return {event["message_id"] for event in Hook.taken if event["kind"] == "received"}

        wanted = {send(server, n, "alice@example.com") for n in range(20)}
        server.wait_until(lambda: received() == wanted, "shipped")
        (consumer,) = json.loads(server.rusmes("--json", "status"))["event_consumers"]
        assert (consumer["name"], consumer["failures"]) == ("hook", 0)

        Hook.is_down = True
        wanted |= {send(server, n, "alice@example.com") for n in range(20, 40)}
        server.wait_until(lambda: server.metric("rusmes_events_ship_failures_total") > 2, "refused")
        server.wait_until(lambda: server.courier_pid() != 0, "a courier")
        first = server.courier_pid()
        os.kill(first, signal.SIGKILL)
        server.wait_until(lambda: server.courier_pid() not in (0, first), "another courier")
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        server.wait_until(lambda: len(server.worker_pids()) == 2 and server.page("/health")[0] == 200, "healthy")
        wanted |= {send(server, n, "alice@example.com") for n in range(40, 60)}
        Hook.is_down = False
        server.wait_until(lambda: received() == wanted, "shipped")

        server.write_config()
        second = server.courier_pid()
        server.sections["events"] = webhook(hook, kinds='["refused"]')
        server.write_config()
        server.signal(signal.SIGHUP)
        server.wait_until(lambda: server.courier_pid() not in (0, second), "a courier with the new configuration")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.orphans() == []
    position = json.loads((tmp_path / "data" / "events" / "hook.position").read_text())
    assert position


def test_a_place_of_its_own_and_an_end_with_the_supervisor(tmp_path: Path) -> None:
    with RunningServer(tmp_path, sections={"events": 'path = "log/of/events"'}) as server:
        server.add_user()
        message_id = send(server, 1, "alice@example.com")
        server.wait_until(lambda: kinds_of(server, message_id) == ["received"], "written")
        server.wait_until(lambda: server.courier_pid() != 0, "a courier")
        server.signal(signal.SIGKILL)
        server.wait()
        server.wait_until(lambda: server.orphans() == [], "ended")
        (event,) = why(server, message_id)["events"]
        assert (event["kind"], event["stored"], event.get("queued", 0)) == ("received", 1, 0)
        assert list((tmp_path / "log" / "of" / "events").glob("*.jsonl"))


def test_events_can_be_left_out(tmp_path: Path) -> None:
    with RunningServer(tmp_path, sections={"events": "enabled = false"}) as server:
        server.add_user()
        send(server, 1, "alice@example.com")
        assert server.courier_pid() == 0
        assert not (tmp_path / "data" / "events").exists()


def test_top_shows_what_waits_and_why(server: RunningServer) -> None:
    for n in range(3):
        send(server, n, f"user{n}@example.net")

    def look() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(server.rusmes("--json", "top"))
        return answer

    answer = look()
    assert answer["counters"]["received"] == 3
    assert set(answer["rates"]) == set(answer["counters"])
    server.rusmes("queue", "suspend", "domain", "example.net", "--reason", "a test")
    server.rusmes("queue", "retry", "--recipient", "*@example.net")
    server.wait_until(lambda: look()["recipients"]["held"] == 0, "seen")
    text = server.rusmes("top", "--once")
    assert "received 0/s" in text
    assert "SITE" in text
    status, body = server.page("/top")
    assert status == 403, body


def test_a_relayed_message_is_told_of_with_all_facts(tmp_path: Path) -> None:
    with SinkThread() as sink:
        route = f'[[delivery.route]]\nname = "sink"\nhost = "127.0.0.1"\nport = {sink.port}\ndomains = ["*"]\nuse_tls = false'
        sections = {"delivery": route, "events": f'[[events.file]]\nname = "a"\nformat = "csv"\npath = "{tmp_path}/acct.csv"'}
        with RunningServer(tmp_path, sections=sections) as server:
            message_id = send(server, 1, "bob@example.net", "carol@example.org")
            server.wait_until(lambda: kinds_of(server, message_id).count("delivered") == 2, "delivered")
            received, *delivered = why(server, message_id)["events"]
            assert received["recipients"] == ["bob@example.net", "carol@example.org"]
            for event in delivered:
                assert event["queue_id"] in received["queue_ids"]
                assert event["session_id"] == received["session_id"]
                assert (event["code"], event["attempt"], event["address"], event["port"]) == (250, 1, "127.0.0.1", sink.port)
                assert event["class"] == "accepted"
                assert event["site"]
                assert event["size"] == received["size"]
                assert set(event["phases"]) >= {"envelope", "reply"}, event
            path = tmp_path / "acct.csv"
            server.wait_until(lambda: path.exists() and path.read_text().count("\n") == 5, "copied")
