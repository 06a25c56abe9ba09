"""Looking at a runner while it works: its sites, and who is busy."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import structs

from rusmes.model.plan import Queued
from rusmes.queue.api import Attempt, Report
from rusmes.queue.tally import PERIOD_SECONDS, WATCHED_SECONDS, Tally
from rusmes.server.watch import merged_sites
from tests.unit.events.made import item, report
from tests.unit.queue.scripted import bench, delayed


def count(tally: Tally, entry: Queued, status: str, now: float, times: int = 1, source: str = "a") -> None:
    how = Attempt(site="mx", source=source)
    for _ in range(times):
        tally.count(entry, structs.replace(report(entry.recipients[0]), attempt=how), status, now)


def test_nothing_is_counted_until_somebody_looks_nor_long_after() -> None:
    tally, entry = Tally(), item()
    assert not tally.is_on
    assert tally.look(100.0)["rates"]["domain"] == {}
    assert tally.is_on
    count(tally, entry, "delivered", 101.0)
    count(tally, entry, "delivered", 101.0 + WATCHED_SECONDS)
    assert not tally.is_on


def test_rates_are_over_the_present_period_and_the_one_before() -> None:
    tally, entry = Tally(), item()
    tally.look(100.0)
    for second in range(12):
        count(tally, entry, "delivered", 100.0 + second, 10)
        count(tally, entry, "failed" if second % 2 else "deferred", 100.0 + second, 2, "b")
    answer = tally.look(112.0)
    delivered, deferred, failed = answer["rates"]["domain"]["example.net"]
    assert 8 <= delivered <= 12
    assert 1 <= deferred + failed <= 3
    assert set(answer["rates"]["source"]) == {"a", "b"}
    assert list(answer["rates"]["tenant"]) == ["shop"]
    assert answer["replies"] == {"mx": "250 2.0.0 queued"}
    assert tally.look(112.0 + 3 * PERIOD_SECONDS - 1)["rates"]["domain"] == {}


def test_a_site_with_mail_is_shown_with_what_stops_it() -> None:
    async def main() -> None:
        async with bench() as b:
            b.deliveries.gate = asyncio.Event()
            for n in range(8):
                await b.engine.send(f"a{n}@x.org")
            await b.engine.send("b@y.org")
            await asyncio.sleep(0)
            rows = {row["site"]: row for row in b.runner.overview(10)}
            assert rows["x.org"]["waiting"] + rows["x.org"]["active"] >= 8
            assert rows["x.org"]["limit"] == 3
            assert rows["x.org"]["stopped_until"] == 0
            assert [row["site"] for row in b.runner.overview(1)] == ["x.org"]
            assert [row["site"] for row in b.runner.overview(5, ["y.org", "z.org"])] == ["y.org"]
            b.deliveries.answer = delayed
            b.runner.tally.look(b.runner.clock.now())
            b.deliveries.gate.set()
            await b.settle()
            rates = b.runner.tally.look(b.runner.clock.now())["rates"]
            assert set(rates["domain"]) == {"x.org", "y.org"}
            assert rates["domain"]["x.org"][1] > 0

    asyncio.run(main())


def row(site: str, **more: Any) -> dict[str, Any]:
    values = {
        "source": "", "waiting": 1, "active": 1, "window": 2, "limit": 3, "tenants": 1, "suspended": False, "paused": False,
        "suspended_flows": 0, "learned_window": 0.0, "stopped_until": 0.0, "stop_reason": "",
    }  # fmt: skip
    return {"site": site, **values, **more}


def test_what_workers_say_of_one_site_is_added() -> None:
    stopped = row("a", stopped_until=9.0, stop_reason="x")
    merged = merged_sites([row("a"), row("b", waiting=9), row("a"), row("a", source="s"), stopped])
    assert [(one["site"], one["source"], one["waiting"], one["active"]) for one in merged] == [
        ("b", "", 9, 1),
        ("a", "", 3, 3),
        ("a", "s", 1, 1),
    ]
    assert (merged[1]["stopped_until"], merged[1]["stop_reason"]) == (9.0, "x")


def test_a_report_without_an_attempt_counts_too() -> None:
    tally, entry = Tally(), item()
    tally.look(0.0)
    tally.count(entry, Report(entry.recipients[0], "failed", 0, "5.1.2", "no such domain"), "failed", 1.0)
    assert tally.look(1.0)["rates"]["domain"] == {"example.net": [0.0, 0.0, 1.0]}
