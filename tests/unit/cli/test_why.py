"""Sentences of `rusmes why` and `rusmes top`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from rusmes.cli.context import Context
from rusmes.cli.control import ControlSocket, ServerFailed
from rusmes.cli.entry import root
from rusmes.cli.output import Output
from rusmes.cli.top import picture, rates_of, state_of
from rusmes.cli.why import lines_of, reason_of
from rusmes.clock import FakeClock
from rusmes.errors import NotFound
from tests.unit.events.made import item, log_at, mail, report

NOW = 1_800_000_000.0


def entry(**more: Any) -> dict[str, Any]:
    return {"id": "x", "action": "relay", "reason": "", **more}


def recipient(**more: Any) -> dict[str, Any]:
    return {"address": "a@b.c", "status": "deferred", "due": NOW - 1, **more}


def site(**more: Any) -> dict[str, Any]:
    values = {
        "waiting": 0,
        "active": 1,
        "window": 3,
        "paused": False,
        "stopped_until": 0.0,
        "stop_reason": "",
        "suspended": False,
        "suspended_flows": 0,
        "last_reply": "",
    }
    return values | more


@pytest.mark.parametrize(
    ("whole", "one", "place", "expected"),
    [
        (entry(), recipient(status="delivered"), None, ""),
        (entry(action="hold", reason="looks odd"), recipient(), None, "held for an operator: looks odd"),
        (entry(), recipient(status="held"), None, "held for an operator"),
        (entry(), recipient(suspended={"until": 0.0, "reason": "spam run"}), None, "suspended until it is resumed: spam run"),
        (entry(), recipient(suspended={"until": NOW, "reason": ""}), None, "no reason given"),
        (entry(), recipient(due=NOW + 60), None, "the next attempt is due in 1m"),
        (entry(action="resume"), recipient(), None, "goes on in the pipeline now"),
        (entry(), recipient(), None, "waits for its turn or is being delivered"),
        (entry(), recipient(), site(stopped_until=NOW + 9, stop_reason="421 slow down"), "421 slow down"),
        (entry(), recipient(), site(waiting=7, active=3), "its site's 3 connections are all in use, and 7 wait for one"),
        (entry(), recipient(), site(waiting=7, paused=True), "its site waits for its rate"),
        (entry(), recipient(), site(waiting=7), "its site has 1 connections at work, and 7 wait"),
    ],
)
def test_why_it_waits(whole: dict[str, Any], one: dict[str, Any], place: dict[str, Any] | None, expected: str) -> None:
    reason = reason_of(whole, one, place, NOW)
    assert expected in reason
    assert bool(reason) == bool(expected)


def test_the_history_for_people_and_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "rusmes.toml"
    config.write_text('domain = "example.com"\nruntime_dir = "run"\n[storage]\npath = "data"\n')
    log = log_at(str(tmp_path / "data" / "events"), clock=FakeClock(NOW))
    one, queued = mail("<1@x>", "a@b.c"), item("<1@x>", "a@b.c")
    log.received("received", one, one.recipients, [queued])
    log.attempted(queued, report(queued.recipients[0], "delayed", code=451, text="\x1b[31mlater"), "deferred", 1, NOW, NOW)
    log.changed("held", queued, by="root")
    log.stop()
    done = CliRunner().invoke(root, ["-c", str(config), "why", "<1@x>"], standalone_mode=False)
    assert done.exception is None, done.output
    lines = done.output.splitlines()
    assert "received  from alice@example.com to a@b.c by ESMTPSA from [192.0.2.7] as alice@example.com" in lines[0]
    assert "a@b.c (attempt 1 relay" in lines[1]
    assert "by mx1.example.net [198.51.100.4]:25 from pool-a tls TLSv1.3" in lines[1]
    assert "\x1b" not in done.output
    assert "451 2.0.0" in lines[2]
    assert "dns 1 ms, connect 20 ms, reply 300 ms" in lines[3]
    assert lines[-2].endswith("held      a@b.c tenant=shop campaign=spring by=root")
    assert lines[-1] == "now: nothing of it is in the queue"
    missing = CliRunner().invoke(root, ["-c", str(config), "why", "<2@x>"], standalone_mode=False)
    assert isinstance(missing.exception, NotFound)


def test_a_server_that_does_not_answer_hides_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "rusmes.toml"
    config.write_text('domain = "example.com"\nruntime_dir = "run"\n[storage]\npath = "data"\n')
    log = log_at(str(tmp_path / "data" / "events"))
    queued = item("<1@x>", "a@b.c")
    log.attempted(queued, report(queued.recipients[0]), "delivered", 1, 0.0, NOW)
    log.stop()

    def silent(*_: object) -> None:
        raise ServerFailed("the server did not answer within 30 s")

    monkeypatch.setattr(Context, "is_running", True)
    monkeypatch.setattr(ControlSocket, "get", silent)
    done = CliRunner().invoke(root, ["-c", str(config), "why", "<1@x>"], standalone_mode=False)
    assert done.exception is None
    assert "a@b.c (attempt 1" in done.output
    assert "now: the queue does not tell: the server did not answer" in done.output
    nothing = CliRunner().invoke(root, ["-c", str(config), "why", "7zzzzzzzzzzzzzzzzzzzzzzzzz"], standalone_mode=False)
    assert isinstance(nothing.exception, ServerFailed)


def test_an_event_of_a_later_version_is_shown() -> None:
    (line,) = lines_of({"time": "2026-11-24T12:00:00.000Z", "kind": "teleported", "to": "Mars"})
    assert line.startswith("2026-11-2")  # by the clocks of this machine
    assert line.endswith(":00 teleported to=Mars")


def test_a_picture_of_everything() -> None:
    rates = rates_of(
        {"time": 1.0, "counters": {"received": 5}},
        {"time": 3.0, "counters": {"received": 9, "delivered": 4, "deferred": 0, "failed": 0}},
    )
    assert rates["received"] == rates["delivered"] == 2.0
    rows = [
        site(site="mx\x1b[2J", source="s", rate=[1.0, 2.0, 3.0], suspended=False, last_reply="250 ok", stopped_until=0.0),
        site(site="x", source="", rate=[0, 0, 0], suspended=False, last_reply="", stopped_until=NOW + 90, stop_reason="no way"),
    ]
    data = {
        "time": NOW, "rates": rates, "recipients": {"queued": 1, "deferred": 2, "held": 3}, "entries": 6,
        "oldest_seconds": 60.0, "connections_in": 1, "connections_out": 2, "not_reached": 1, "sites": rows, "domains": [],
        "tenants": [{"name": "", "delivered": 1.0, "deferred": 0.0, "failed": 0.0}], "sources": [],
    }  # fmt: skip
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(picture(data))
    text = console.export_text()
    assert "received 2/s" in text
    assert "1 workers do not answer" in text
    assert "\x1b" not in text
    assert "stopped for 90s: no way" in text
    assert "(none)" in text
    assert state_of(site(stopped_until=NOW + 1e9, suspended=True, stop_reason="x"), NOW) == "suspended until resumed: x"
    assert state_of(site(suspended_flows=1, active=0), NOW).startswith("suspended: the mail that waits")
    assert state_of(site(suspended_flows=1, active=2), NOW) == state_of(site(active=2), NOW)


def test_top_needs_a_server(tmp_path: Path) -> None:
    config = tmp_path / "rusmes.toml"
    config.write_text('domain = "example.com"\nruntime_dir = "run"\n[storage]\npath = "data"\n')
    done = CliRunner().invoke(root, ["-c", str(config), "top"], standalone_mode=False)
    assert "does not answer" in str(done.exception)
    assert Context(str(config), Output()).is_running is False
