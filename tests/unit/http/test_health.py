"""Health is what is measured, not what is hoped."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from rusmes.http.health import Facts, WorkerFacts, health, live, ready

GB = 1 << 30
GOOD = Facts([WorkerFacts(0, 10, True, 0.5), WorkerFacts(1, 11, True, 0.5)], True, 50 * GB, 100 * GB)


def test_all_well() -> None:
    assert health(GOOD).status == 200
    assert health(GOOD).document["status"] == "healthy"
    assert ready(GOOD).status == 200
    assert live().status == 200


@pytest.mark.parametrize(
    "sick", [WorkerFacts(1, 0, False, 0.0), WorkerFacts(1, 11, False, 0.5), WorkerFacts(1, 11, True, 11.0)]
)
def test_a_worker_that_does_not_serve(sick: WorkerFacts) -> None:
    facts = replace(GOOD, workers=[GOOD.workers[0], sick])
    assert health(facts).status == 503
    assert "worker 1" in str(health(facts).document["checks"])
    assert ready(facts).status == 200, "the other one serves"
    assert ready(replace(GOOD, workers=[sick])).status == 503


def test_a_store_that_takes_no_writes() -> None:
    facts = replace(GOOD, store_writable=False)
    assert health(facts).status == ready(facts).status == 503


def test_a_disk_that_is_nearly_full() -> None:
    assert health(replace(GOOD, disk_free_bytes=1 * GB)).status == 503
    assert ready(replace(GOOD, disk_free_bytes=1 * GB)).status == 200, "mail still fits"
    assert health(replace(GOOD, disk_free_bytes=60 << 20, disk_total_bytes=100 << 20)).status == 200, "a small disk"


def test_a_server_that_stops_wants_no_connections() -> None:
    facts = replace(GOOD, draining=True)
    assert ready(facts).status == 503
    assert live().status == 200


def test_a_worker_that_ended_while_the_server_stops_is_no_failure() -> None:
    ended = WorkerFacts(1, 0, False, 0.0)
    facts = replace(GOOD, draining=True, workers=[GOOD.workers[0], ended])
    assert health(facts).document["checks"] == {
        "workers": "ok",
        "store": "ok",
        "disk": "ok",
        "draining": "failed: the server is stopping",
    }
