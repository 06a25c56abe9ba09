"""What is not sent for now: by scope, for a time, in every process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from rusmes.clock import FakeClock
from rusmes.errors import LimitReached, NotAllowed
from rusmes.queue import suspensions as module
from rusmes.queue.api import FOREVER, SCOPES
from rusmes.queue.suspensions import LOOK_SECONDS, TABLE, Suspensions


class TinyLedger:
    """Shared by the processes of a test."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.generation = 0
        self.rows: dict[tuple[str, bytes], tuple[bytes, float]] = {}
        self.reads = 0
        self.flushes = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        value, expires = self.rows.get((table, key), (b"", -1.0))
        return value if not expires or expires > self.clock.now() else None

    def items(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self.reads += 1
        for (name, key), _ in sorted(self.rows.items()):
            value = self.get(name, key)
            if name == table and key.startswith(prefix) and value is not None:
                yield key, value

    def put(self, table: str, key: bytes, value: bytes, *, expires: float = 0.0) -> None:
        self.generation += 1
        self.rows[table, key] = value, expires

    def delete(self, table: str, key: bytes) -> None:
        self.generation += 1
        self.rows.pop((table, key), None)

    async def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> TinyLedger:
    return TinyLedger(clock)


@pytest.fixture
def suspensions(ledger: TinyLedger, clock: FakeClock) -> Suspensions:
    return Suspensions(ledger, clock)


ASKED = {"site": "mx.x.org", "domain": "x.org", "tenant": "acme", "campaign": "spring", "source": "ip1"}


@pytest.mark.parametrize(
    ("scope", "name", "other"),
    [
        ("everything", "", None),
        ("domain", "X.org.", "y.org"),
        ("domain", "*.org", "*.x.org"),
        ("domain", "bücher.example", None),
        ("site", "MX.x.org", "mx.y.org"),
        ("tenant", "acme", "Acme"),
        ("campaign", "spring", "summer"),
        ("campaign", "acme/spring", "other/spring"),
        ("source", "ip1", "ip2"),
    ],
)
def test_each_scope_means_its_own(suspensions: Suspensions, clock: FakeClock, scope: str, name: str, other: str | None) -> None:
    asked = ASKED | ({"domain": "xn--bcher-kva.example"} if "bücher" in name else {})
    if other is not None:
        suspensions.suspend(scope, other, FOREVER, "another one")
    assert suspensions.until(**asked) is None
    suspensions.suspend(scope, name, clock.now() + 60, "too many complaints", by="rule")
    assert suspensions.until(**asked) == (clock.now() + 60, "too many complaints")
    assert suspensions.resume(scope, name)
    assert not suspensions.resume(scope, name)
    assert suspensions.until(**asked) is None


def test_what_is_not_asked_for_is_not_meant(suspensions: Suspensions) -> None:
    for scope in SCOPES[1:]:
        suspensions.suspend(scope, "x.org", FOREVER, "")
    assert suspensions.until() is None
    assert suspensions.until(domain="sub.x.org", site="sub.x.org", tenant="x", campaign="y", source="z") is None


def test_the_last_to_end_answers(suspensions: Suspensions, clock: FakeClock) -> None:
    suspensions.suspend("domain", "x.org", clock.now() + 60, "short")
    suspensions.suspend("site", "mx.x.org", clock.now() + 600, "long")
    assert suspensions.until(**ASKED) == (clock.now() + 600, "long")
    suspensions.suspend("everything", "", FOREVER, "moving house")
    assert suspensions.until(**ASKED) == (FOREVER, "moving house")


def test_time_ends_it(suspensions: Suspensions, clock: FakeClock) -> None:
    suspensions.suspend("tenant", "acme", clock.now() + 60, "")
    clock.advance(59.9)
    assert suspensions.until(**ASKED) is not None
    clock.advance(0.2)
    assert suspensions.until(**ASKED) is None
    assert suspensions.list() == []
    assert not suspensions.resume("tenant", "acme")


def test_another_process_and_a_restart_know(ledger: TinyLedger, clock: FakeClock, suspensions: Suspensions) -> None:
    other = Suspensions(ledger, clock)
    told: list[int] = []
    other.on_change(lambda: told.append(1))
    assert other.until(**ASKED) is None
    suspensions.suspend("site", "mx.x.org", FOREVER, "why not", by="root")
    clock.advance(LOOK_SECONDS)
    assert other.until(**ASKED) == (FOREVER, "why not")
    suspensions.resume("site", "mx.x.org")
    assert other.look()
    assert other.until(**ASKED) is None
    assert len(told) == 2
    suspensions.suspend("tenant", "acme", FOREVER, "paid nothing", by="root")
    (kept,) = Suspensions(ledger, clock).list()
    assert (kept.scope, kept.name, kept.reason, kept.by, kept.since) == ("tenant", "acme", "paid nothing", "root", clock.now())


def test_who_listens_is_told_at_once_and_only_of_changes(
    ledger: TinyLedger, clock: FakeClock, suspensions: Suspensions
) -> None:
    told: list[tuple[float, str] | None] = []
    suspensions.on_change(lambda: told.append(suspensions.until(**ASKED)))
    suspensions.suspend("domain", "x.org", FOREVER, "stop")
    suspensions.resume("domain", "x.org")
    ledger.put("another table", b"key", b"value")
    assert not suspensions.look()
    suspensions.resume("domain", "x.org")
    assert told == [(FOREVER, "stop"), None]


def test_suspending_again_keeps_the_beginning(suspensions: Suspensions, clock: FakeClock) -> None:
    began = clock.now()
    suspensions.suspend("tenant", "acme", began + 60, "")
    clock.advance(30)
    suspensions.suspend("tenant", "acme", began + 600, "still")
    assert [(one.since, one.until, one.reason) for one in suspensions.list()] == [(began, began + 600, "still")]
    clock.advance(1000)
    suspensions.suspend("tenant", "acme", FOREVER, "again")
    assert suspensions.list()[0].since == clock.now()


@pytest.mark.parametrize(
    ("scope", "name"),
    [("weather", "x"), ("everything", "x"), ("domain", ""), ("tenant", "  "), ("tenant", "a\nb"), ("site", "x" * 201),
     ("domain", "ü" * 70), ("campaign", "\ud800")],
)  # fmt: skip
def test_what_is_no_name_is_refused(suspensions: Suspensions, scope: str, name: str) -> None:
    with pytest.raises(NotAllowed):
        suspensions.suspend(scope, name, FOREVER, "")
    with pytest.raises(NotAllowed):
        suspensions.resume(scope, name)
    assert suspensions.list() == []


def test_a_time_that_has_passed_is_refused(suspensions: Suspensions, clock: FakeClock) -> None:
    for until in (clock.now(), 0.0, float("nan")):
        with pytest.raises(NotAllowed):
            suspensions.suspend("tenant", "acme", until, "")


def test_there_is_a_limit(suspensions: Suspensions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUSPENSIONS", 2)
    suspensions.suspend("tenant", "a", FOREVER, "")
    suspensions.suspend("tenant", "b", FOREVER, "")
    with pytest.raises(LimitReached):
        suspensions.suspend("site", "c", FOREVER, "")
    suspensions.suspend("tenant", "b", FOREVER, "there already")


def test_reasons_are_one_bounded_line(suspensions: Suspensions) -> None:
    suspensions.suspend("tenant", "a", FOREVER, "one\r\ntwo\x1b" + "x" * 1000)
    (one,) = suspensions.list()
    assert one.reason.startswith("one  two x")
    assert len(one.reason) == 500


def test_what_cannot_be_read_stops_nothing(ledger: TinyLedger, suspensions: Suspensions) -> None:
    ledger.put(TABLE, b"tenant\0acme", b"\xc1 no record")
    ledger.put(TABLE, b"moon phase\0full", b"\x94\xcb\x7f\xf0\0\0\0\0\0\0\xa0\xcb\0\0\0\0\0\0\0\0\xa0")
    assert suspensions.until(**ASKED) is None
    assert suspensions.list() == []


def test_flush_is_the_ledgers(ledger: TinyLedger, suspensions: Suspensions) -> None:
    asyncio.run(suspensions.flush())
    assert ledger.flushes == 1


def test_nothing_suspended_costs_no_reading(ledger: TinyLedger, clock: FakeClock, suspensions: Suspensions) -> None:
    began = time.perf_counter()
    for _ in range(10_000):
        suspensions.until(**ASKED)
    assert time.perf_counter() - began < 1.0  # measured: 0.3 us each
    assert ledger.reads == 1
    clock.advance(10)
    suspensions.until(**ASKED)
    assert ledger.reads == 1
