"""Pools, the health of sources, warm-up plans, and by which source a mail leaves."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import FakeClock
from rusmes.config.load import parse_config
from rusmes.config.schema import WarmUp
from rusmes.delivery.egress.exits import Errand, Exits
from rusmes.delivery.egress.pools import Pool
from rusmes.delivery.egress.sources import MAX_DOWN_SECONDS, Health, Source
from rusmes.delivery.egress.warmup import WarmUps, limit_of
from rusmes.delivery.shaping.overrides import Override, Overrides
from rusmes.metrics import EGRESS_CHOICES, EGRESS_DOWN
from rusmes.model.plan import Refusal
from rusmes.queue.api import Postponed
from rusmes.queue.suspensions import Suspensions
from rusmes.storage.ledger import LmdbLedger, MemoryLedger

DAY = 86400.0
MIDNIGHT = 1_700_006_400.0  # 2023-11-15T00:00:00Z


def anything(_source: Source) -> bool:
    return True


def pool(members: dict[str, int], *, sticky: bool = False) -> Pool:
    return Pool("p", members, {name: Source(name) for name in members}, sticky=sticky)


def names(found: list[Source | None]) -> str:
    return "".join(source.name if source is not None else "-" for source in found)


# Pools


def test_weighted_choice_is_smooth() -> None:
    mixed = pool({"a": 5, "b": 1, "c": 1})
    assert names([mixed.choose(anything) for _ in range(14)]) == "aabacaaaabacaa"
    assert Counter(names([mixed.choose(anything) for _ in range(700)])) == {"a": 500, "b": 100, "c": 100}


def test_sources_that_cannot_be_used_are_left_out_and_come_back_in_turn() -> None:
    mixed = pool({"a": 1, "b": 1, "c": 1})
    chosen = names([mixed.choose(lambda source: source.name != "b") for _ in range(60)])
    assert Counter(chosen) == {"a": 30, "c": 30}
    assert "aaa" not in chosen
    assert "ccc" not in chosen
    assert Counter(names([mixed.choose(anything) for _ in range(30)])) == {"a": 10, "b": 10, "c": 10}
    assert mixed.choose(lambda _: False) is None
    asked: list[str] = []
    large = pool({f"s{number}": 1 for number in range(100)})
    assert large.choose(lambda source: not asked.append(source.name)) is large.sources[0]
    assert asked == ["s0"]  # whether it can be used is asked of the one whose turn it is


def test_a_sticky_pool_gives_a_tenant_the_same_source_and_moves_only_those_of_one_that_fails() -> None:
    sticky = pool({"a": 1, "b": 1, "c": 2}, sticky=True)
    tenants = [f"tenant{i}" for i in range(4000)]
    before = {tenant: sticky.choose(anything, tenant) for tenant in tenants}
    assert all(sticky.choose(anything, tenant) is before[tenant] for tenant in tenants)
    shares = Counter(source.name for source in before.values() if source is not None)
    assert 800 < shares["a"] < 1200
    assert 1800 < shares["c"] < 2200
    after = {tenant: sticky.choose(lambda source: source.name != "b", tenant) for tenant in tenants}
    moved = [tenant for tenant in tenants if before[tenant] is not after[tenant]]
    assert len(moved) == shares["b"]


# Health


def test_a_source_that_fails_is_left_alone_for_longer_each_time_by_all_workers() -> None:
    clock, limits = FakeClock(), SharedCounters(1, 1024)
    health, other = Health(clock, limits, Metrics()), Health(clock, limits, Metrics())
    source = Source("ip1")
    waits = []
    for _ in range(12):
        waits.append(health.failed(source, "bind", "not ours", clock.monotonic()))
        assert other.down_for(source) == pytest.approx(waits[-1])
        clock.advance(waits[-1] + 0.001)
        assert not other.down_for(source)
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == MAX_DOWN_SECONDS
    other.works(source)
    assert health.failed(source, "bind", "not ours", clock.monotonic()) == 5


def test_tries_that_fail_together_count_once() -> None:
    clock = FakeClock()
    health = Health(clock, SharedCounters(1, 1024), Metrics())
    started = clock.monotonic()
    clock.advance(1)
    assert [health.failed(Source("ip1"), "proxy", "gone", started) for _ in range(3)] == pytest.approx([5, 5, 5])


# Warm-up


def test_the_curve() -> None:
    plan = WarmUp(start=50, growth=1.5, days=5, starts={"google": 10})
    assert [limit_of(plan, "yahoo", day) for day in range(7)] == [50, 75, 112, 168, 253, 0, 0]
    assert [limit_of(plan, "google", day) for day in range(3)] == [10, 15, 22]
    assert limit_of(plan, "yahoo", -3) == 50
    assert limit_of(WarmUp(start=50, growth=100.0, days=3650), "x", 3000) == 0


class Workers:
    """Warm-up of several workers on one table and one ledger."""

    def __init__(self, plan: WarmUp, count: int = 2) -> None:
        self.clock = FakeClock(MIDNIGHT)
        self.ledger = MemoryLedger(clock=self.clock)
        self.source = Source("new", warmup=plan)
        self.count = count
        self.restart()

    def restart(self) -> None:
        self.limits = SharedCounters(1, 4096)
        self.workers = [WarmUps(self.clock, self.limits, self.ledger) for _ in range(self.count)]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def send(self, tries: int, provider: str = "google", count: int = 1) -> int:
        return sum(self.workers[i % len(self.workers)].take(self.source, provider, count) for i in range(tries))


def test_thirty_days_of_warm_up_are_counted_exactly() -> None:
    plan = WarmUp(start=50, growth=1.2, days=30, starts={"google": 20})
    bench = Workers(plan)
    sent: dict[str, list[int]] = {"google": [], "yahoo": []}
    for day in range(32):
        for provider, list_ in sent.items():
            most = limit_of(plan, provider, day)
            done = 0
            for part in range(4):  # six hours each; after the second the server is restarted
                done += bench.send((most // 2 if most else 6000) + 3, provider)
                if part == 1:
                    bench.close()
                    bench.restart()
                bench.clock.advance(DAY / 8)
            list_.append(done)
    expected = {provider: [limit_of(plan, provider, day) for day in range(30)] for provider in sent}
    assert {provider: days[:30] for provider, days in sent.items()} == expected
    assert all(days[30] > 20_000 for days in sent.values())


def test_a_new_day_begins_at_midnight_utc() -> None:
    bench = Workers(WarmUp(start=5, growth=2.0, days=9))
    bench.clock.advance(DAY - 10)
    assert bench.send(9) == 5
    assert bench.workers[0].seconds_left() == pytest.approx(10)
    bench.clock.advance(10)
    assert bench.send(20) == 10


def test_after_a_crash_less_is_sent_never_more() -> None:
    plan = WarmUp(start=1000, days=3)
    bench = Workers(plan)
    before = bench.send(395)
    bench.restart()
    after = bench.send(1000)
    assert 985 <= before + after <= 1000


def test_what_was_not_sent_is_given_back() -> None:
    bench = Workers(WarmUp(start=10, days=3))
    assert bench.send(2, count=5) == 2
    assert bench.send(1) == 0
    bench.workers[0].give_back(bench.source, "google", 3)
    assert bench.send(9) == 3


def test_a_mail_to_more_recipients_than_a_day_has_goes_when_nothing_else_went() -> None:
    bench = Workers(WarmUp(start=10, days=3))
    assert bench.send(2, count=50) == 1
    bench.clock.advance(DAY)
    assert bench.send(1) == 1
    assert bench.send(1, count=50) == 0


def test_providers_are_counted_apart_and_all_others_together() -> None:
    bench = Workers(WarmUp(start=10, days=3))
    assert [bench.send(20, provider) for provider in ("google", "yahoo", "", "")] == [10, 10, 10, 0]


def test_the_first_day_is_that_of_the_first_mail_or_a_date() -> None:
    bench = Workers(WarmUp(start=10, growth=2.0, days=9))
    assert bench.send(99) == 10
    bench.clock.advance(2 * DAY)
    bench.restart()
    assert bench.send(99) == 40
    dated = Workers(WarmUp(start=10, growth=2.0, days=9, since="2023-11-12"))
    assert dated.send(99) == 80


def test_counts_are_kept_in_the_file(tmp_path: Any) -> None:
    clock, source = FakeClock(MIDNIGHT), Source("new", warmup=WarmUp(start=10, days=3))
    for expected in (6, 4):
        with LmdbLedger(str(tmp_path), clock=clock) as ledger:
            worker = WarmUps(clock, SharedCounters(1, 1024), ledger)
            assert sum(worker.take(source, "google", 1) for _ in range(6)) == expected
            worker.close()


# By which source a mail leaves

CONFIG = """
domain = "example.com"
[egress]
default_pool = "mixed"
tenant_pools = { shop = "warm", fixed = "a" }
[[egress.source]]
name = "a"
[[egress.source]]
name = "b"
[[egress.source]]
name = "new"
warmup = { start = 2, growth = 2.0, days = 3 }
[[egress.pool]]
name = "mixed"
sources = ["a", "b"]
[[egress.pool]]
name = "warm"
sources = { new = 10, b = 1 }
[[egress.pool]]
name = "only-new"
sources = ["new"]
"""
ERRAND = Errand("google", "gmail")


class Bench:
    def __init__(self, text: str = CONFIG) -> None:
        self.clock = FakeClock(MIDNIGHT)
        self.ledger = MemoryLedger(clock=self.clock)
        self.metrics = Metrics()
        self.overrides = Overrides(self.ledger, self.clock)
        self.suspensions = Suspensions(self.ledger, self.clock)
        self.config = parse_config(text, environ={}, base="/")
        self.exits = Exits(
            self.config,
            self.clock,
            SharedCounters(1, 4096),
            self.metrics,
            self.overrides,
            self.ledger,
            self.suspensions,
        )

    def pool(self, tenant: str = "", of_site: str = "") -> Pool:
        found = self.exits.pool(tenant, of_site)
        assert found is not None
        return found

    def admit(self, name: str, tenant: str = "", of_site: str = "", errand: Errand = ERRAND) -> str:
        source = self.exits.source(name)
        assert source is not None
        found = self.exits.admit(source, self.pool(tenant, of_site), tenant, errand)
        return found.name if isinstance(found, Source) else found.text


def test_the_pool_is_the_tenants_or_the_sites_or_the_default() -> None:
    bench = Bench()
    assert [bench.pool(*who).name for who in (("", ""), ("", "warm"), ("shop", "mixed"), ("fixed", ""), ("", "b"))] == [
        "mixed", "warm", "warm", "a", "b",
    ]  # fmt: skip
    assert Bench('domain = "example.com"\n').exits.pool("", "") is None


def test_a_mail_keeps_its_source_as_long_as_that_works() -> None:
    bench = Bench()
    given = {n: bench.exits.assign(b"%d" % n, bench.pool(), "", ERRAND) for n in range(20)}
    assert Counter(given.values()) == {"a": 10, "b": 10}
    assert {n: bench.exits.assign(b"%d" % n, bench.pool(), "", ERRAND) for n in range(20)} == given
    source = bench.exits.source("a")
    assert source is not None
    bench.exits.health.failed(source, "bind", "not ours", bench.clock.monotonic())
    assert {bench.exits.assign(b"%d" % n, bench.pool(), "", ERRAND) for n in range(20)} == {"b"}


def test_overflow_of_a_warm_up_goes_to_others_of_the_pool_or_waits() -> None:
    bench = Bench()
    assert [bench.admit("new", "shop") for _ in range(4)] == ["new", "new", "b", "b"]
    with pytest.raises(Postponed) as caught:
        bench.admit("new", of_site="only-new")
    assert caught.value.retry_after == 3600  # asked again each hour
    assert "has sent its 2 messages of today to google" in caught.value.reason
    assert bench.admit("new", of_site="only-new", errand=Errand("yahoo", "y")) == "new"
    assert {outcome: bench.metrics.count(slot) for outcome, slot in EGRESS_CHOICES.items()} == {
        "chosen": 3, "overflow": 2, "postponed": 1, "other": 0,
    }  # fmt: skip
    assert "has sent its 2 messages" in bench.exits.why_not(bench.pool("", "only-new"), ERRAND)
    assert bench.exits.why_not(bench.pool("shop"), ERRAND) == ""
    bench.clock.advance(DAY)
    assert bench.admit("new", of_site="only-new") == "new"


def test_sources_that_are_suspended_are_not_used() -> None:
    bench = Bench()
    bench.suspensions.suspend("source", "a", bench.clock.now() + 100, "by hand")
    assert bench.admit("a") == "b"
    stop = Override("source-site", "gmail", "b", bench.clock.now() + 50, bench.clock.now(), "r", "", "550 no", {}, True)
    bench.overrides.put(stop)
    with pytest.raises(Postponed) as caught:
        bench.admit("a")
    assert caught.value.retry_after == pytest.approx(50)
    assert bench.admit("b", errand=Errand("", "elsewhere")) == "b"
    bench.clock.advance(51)
    assert bench.admit("a") == "b"


def test_mail_waits_for_sources_that_are_down_for_a_moment_and_is_deferred_when_it_lasts() -> None:
    bench = Bench()

    def fail() -> None:
        for name in ("a", "b"):
            source = bench.exits.source(name)
            assert source is not None
            bench.exits.health.failed(source, "proxy", "no answer", bench.clock.monotonic())

    fail()
    with pytest.raises(Postponed) as caught:
        bench.admit("a")
    assert caught.value.retry_after == pytest.approx(5)
    for _ in range(5):
        bench.clock.advance(bench.exits.health.down_for(Source("a")) + 0.01)
        fail()
    source, mixed = bench.exits.source("a"), bench.pool()
    assert source is not None
    refusal = bench.exits.admit(source, mixed, "", ERRAND)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.status) == (451, "4.3.5")
    assert "no answer" in refusal.text


def test_how_many_sources_are_down_is_measured() -> None:
    bench = Bench()
    source = bench.exits.source("a")
    assert source is not None
    bench.exits.health.failed(source, "bind", "not ours", bench.clock.monotonic())
    bench.exits.measure()
    assert bench.metrics.level(EGRESS_DOWN, 0) == 1.0
    bench.clock.advance(6)
    bench.exits.measure()
    assert bench.metrics.level(EGRESS_DOWN, 0) == 0.0


def test_a_reload_takes_over_sources_and_pools() -> None:
    bench = Bench()
    assert bench.exits.assign(b"x", bench.pool(), "", ERRAND) == "a"
    bench.exits.apply(parse_config(CONFIG.replace('sources = ["a", "b"]', 'sources = ["b", "new"]'), environ={}, base="/"))
    assert bench.pool().name == "mixed"
    assert [source.name for source in bench.pool().sources] == ["b", "new"]


def test_families() -> None:
    both, four, none = Source("s", "192.0.2.1", "2001:db8::1"), Source("s", "192.0.2.1"), Source("s")
    assert [one.reaches("2001:db8::9") for one in (both, four, none)] == [True, False, True]
    assert (both.address_for("2001:db8::9"), both.address_for("192.0.2.9"), none.address_for("192.0.2.9")) == (
        "2001:db8::1", "192.0.2.1", "",
    )  # fmt: skip
