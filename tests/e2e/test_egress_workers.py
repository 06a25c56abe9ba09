"""Sources over real workers and restarts: a day of a warm-up is counted once, and what a rule has set stays."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.running import RunningServer
from tests.sinks.thread import SinkThread

EXTRA = """
[[delivery.route]]
name = "sink"
host = "127.0.0.1"
port = {port}
domains = ["*.example.org"]
use_tls = false
[[delivery.rule]]
name = "slow"
reply = "slow down"
action = "set"
set = {{ connections_per_site = 1 }}
[egress]
default_pool = "both"
[[egress.source]]
name = "new"
addresses = ["127.0.0.2"]
ehlo = "new.example.com"
warmup = {{ start = 10 }}
[[egress.source]]
name = "old"
addresses = ["127.0.0.3"]
[[egress.pool]]
name = "both"
sources = ["new", "old"]
"""


@pytest.mark.slow
def test_two_workers_share_a_day_over_restarts(tmp_path: Path) -> None:
    with SinkThread() as sink:
        server = RunningServer(tmp_path, workers=2, extra=EXTRA.format(port=sink.port))
        with server:
            for number in range(40):
                server.send(f"user{number}@x.example.org")
            server.wait_until(lambda: len(sink.messages) == 40, "delivered")
            assert by(sink) == {"127.0.0.2": 10, "127.0.0.3": 30}
            sink.sink.replies["rcpt"] = ["450 4.7.0 slow down"]
            server.send("slow@x.example.org")
            server.wait_until(lambda: json.loads(server.rusmes("shaping", "active", "--json"))["rules"], "a rule in force", 20)
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            server.start()
            (active,) = json.loads(server.rusmes("shaping", "active", "--json"))["rules"]
            assert active["values"] == {"connections_per_site": 1}
            before = len(sink.messages)
            for number in range(10):
                server.send(f"more{number}@x.example.org")
            server.wait_until(lambda: len(sink.messages) >= before + 10, "delivered")
            assert by(sink)["127.0.0.2"] == 10
            explained = json.loads(server.rusmes("shaping", "explain", "x.example.org", "--json"))
            assert [(one["name"], one["used"], one["limit"]) for one in explained["sources"]] == [
                ("new", 10, 10),
                ("old", 0, 0),
            ]
            value = next(one for one in explained["values"] if one["key"] == "connections_per_site")
            assert (value["value"], value["by"]) == (1, "rule slow")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


def by(sink: SinkThread) -> Counter[str]:
    return Counter(sink.sink.peers[message.connection].address for message in sink.messages)
