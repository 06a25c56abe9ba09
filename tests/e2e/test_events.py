"""The event log of a running server: what `rusmes why` tells of mail that waits, goes, and is gone."""

from __future__ import annotations

import json
import signal
import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import RunningServer
from tests.ports import free_ports


@pytest.fixture()
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
    server.start()
    server.rusmes("queue", "delete", "--recipient", "bob@*", "--yes")
    assert why(server, message_id)["waiting"] == []
