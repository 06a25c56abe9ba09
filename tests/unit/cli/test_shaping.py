"""`rusmes shaping` says what holds and why, and ends what rules have set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rusmes._core.counters import SharedCounters
from rusmes.clock import SystemClock
from rusmes.config.load import load_config
from rusmes.delivery.egress.sources import source_of
from rusmes.delivery.egress.warmup import WarmUps
from rusmes.delivery.shaping.overrides import Override, Overrides
from rusmes.storage.ledger import LmdbLedger

MORE = """
[[delivery.route]]
name = "out"
host = "smart.example.net"
port = 2525
domains = ["x.example"]
use_tls = false
[[delivery.site]]
mx = ["smart.example.net"]
messages_per_minute = 7
[egress]
default_pool = "ip1"
[[egress.source]]
name = "ip1"
addresses = ["127.0.0.2"]
ehlo = "one.example.com"
"""


@pytest.fixture
def shaped(installation: Path) -> Path:
    installation.write_text(installation.read_text() + MORE)
    return installation


def test_explain(rusmes: Any, shaped: Path) -> None:
    found = rusmes("shaping", "explain", "X.example", "--json").document
    assert (found["destination"], found["site"], found["pool"]) == ("route:out", "smart.example.net:2525", "ip1")
    value = next(one for one in found["values"] if one["key"] == "messages_per_minute")
    line = shaped.read_text().splitlines().index("messages_per_minute = 7") + 1
    assert (value["value"], value["by"], value["file"], value["line"]) == (7.0, "site smart.example.net", str(shaped), line)
    shown = rusmes("shaping", "explain", "x.example").output
    assert f"{shaped}:{line}" in shown
    assert "one.example.com" in shown


def test_what_is_asked_for_wrongly(rusmes: Any, shaped: Path) -> None:
    for arguments, words in ((("x.example", "--source", "ip9"), "ip9"), (("not a domain",), "not a domain")):
        refused = rusmes("shaping", "explain", *arguments)
        assert (refused.status, words in refused.errors) == (2, True)


def test_active_and_forget(rusmes: Any, shaped: Path) -> None:
    assert "No rule is in force" in rusmes("shaping", "active").output
    now = time.time()
    with LmdbLedger(load_config(str(shaped), environ={}).storage.path) as ledger:
        Overrides(ledger, SystemClock()).put(
            Override("site", "smart.example.net:2525", "", now + 600, now, "slow", "r:1", "421 no", {"connections_per_site": 2})
        )
    (active,) = rusmes("shaping", "active", "--json").document["rules"]
    assert (active["rule"], active["values"]) == ("slow", {"connections_per_site": 2})
    assert "connections_per_site = 2" in rusmes("shaping", "active").output
    explained = rusmes("shaping", "explain", "x.example", "--json").document
    assert next(one for one in explained["values"] if one["key"] == "connections_per_site")["by"] == "rule slow"
    assert rusmes("shaping", "forget", "smart.example.net:2525").status == 0
    assert "No rule is in force" in rusmes("shaping", "active").output
    assert rusmes("shaping", "forget", "smart.example.net:2525").status == 2


def test_sources(rusmes: Any, shaped: Path) -> None:
    shaped.write_text(shaped.read_text() + "warmup = { start = 20, days = 5 }\n")
    (one,) = rusmes("shaping", "sources", "--json").document["sources"]
    assert (one["name"], one["addresses"], one["ehlo"], one["day"]) == ("ip1", ["127.0.0.2"], "one.example.com", 0)
    config = load_config(str(shaped), environ={})
    with LmdbLedger(config.storage.path) as ledger:
        clock = SystemClock()
        warmups = WarmUps(clock, SharedCounters(1, 1024), ledger)
        assert warmups.take(source_of(config.egress.source[0]), "google", 7)
        warmups.close()
    (one,) = rusmes("shaping", "sources", "--json").document["sources"]
    assert (one["day"], one["days"], one["today"]) == (1, 5, {"google": {"sent": 7, "limit": 20}})
    assert "google 7/20" in rusmes("shaping", "sources").output


def test_without_sources(rusmes: Any, installation: Path) -> None:
    assert "as the system chooses" in rusmes("shaping", "sources").output
