"""What is kept of sorted mailboxes and threads is right after messages came and went, and is not too much."""

from __future__ import annotations

import asyncio
import random
from array import array
from typing import Any

import pytest

from rusmes._core.view import Uids
from rusmes.search import arrange
from rusmes.search.api import Scope, Threads
from rusmes.search.orders import Order, Orders, packed
from rusmes.search.scan import ScanSearcher
from rusmes.storage.memory import MemoryMailStore
from tests.contract.mails import append_of
from tests.unit.search.test_scan import Counting, filled, loaded

CRITERIA = (
    (("SUBJECT", False),),
    (("SUBJECT", True), ("FROM", False)),
    (("ARRIVAL", True),),
    (("SIZE", False), ("DATE", True)),
)


def message(rnd: random.Random) -> bytes:
    date = f"{rnd.randrange(1, 5)} Mar 2026 10:00:00 +0000"
    head = f"From: {rnd.choice('abc')}@x.org\r\nSubject: {rnd.choice('pqr')}\r\nDate: {date}\r\n"
    return f"{head}\r\n{'x' * rnd.randrange(3)}\r\n".encode()


def play(scenario: Any) -> None:
    async def whole() -> None:
        store = MemoryMailStore(inline_limit=1 << 16)
        await store.open()
        await scenario(store)
        await store.close()

    asyncio.run(whole())


def test_an_order_follows_the_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrange, "KEPT_FROM", 1)
    monkeypatch.setattr(arrange, "MAX_INSERTED", 5)

    async def scenario(store: Any) -> None:
        rnd = random.Random(12)
        rows, mailbox = await filled(store, [append_of(store.blobs, message(rnd)) for _ in range(20)])
        kept = ScanSearcher(store)
        for _ in range(40):
            if rnd.random() < 0.6:
                received = float(rnd.randrange(1, 5))
                more = rnd.choice((1, 1, 2, 7))
                await store.append([append_of(store.blobs, message(rnd), received=received) for _ in range(more)])
            else:
                await store.expunge(mailbox.id, rnd.sample(rows.mask_live().uids().list(), 2))
            rows = await loaded(store, mailbox)
            live = rows.mask_live().uids().list()
            asked = Uids(sorted(rnd.sample(live, rnd.randrange(len(live) // 2, len(live) + 1))))
            for criteria in CRITERIA:
                order = await kept.sort(Scope(rows), asked, criteria)
                with monkeypatch.context() as patch:
                    patch.setattr(arrange, "KEPT_FROM", 1 << 30)
                    assert order == await ScanSearcher(store).sort(Scope(rows), asked, criteria)

    play(scenario)


def test_what_was_asked_before_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrange, "KEPT_FROM", 1)
    monkeypatch.setattr(arrange, "MANY_MESSAGES", 1)

    async def scenario(store: Any) -> None:
        rnd = random.Random(13)
        rows, mailbox = await filled(store, [append_of(store.blobs, message(rnd)) for _ in range(64)])
        counting = Counting(store)
        searcher = ScanSearcher(counting)  # type: ignore[arg-type]
        uids = rows.mask_live().uids()
        first = await searcher.sort(Scope(rows), uids, CRITERIA[0])
        threads = await searcher.thread(Scope(rows), uids, "REFERENCES")
        counting.looks.clear()
        assert await searcher.sort(Scope(rows), uids, CRITERIA[0]) == first
        assert await searcher.thread(Scope(rows), uids, "REFERENCES") is threads
        assert counting.looks == []
        await store.append([append_of(store.blobs, message(rnd))])
        rows = await loaded(store, mailbox)
        uids = rows.mask_live().uids()
        assert len(await searcher.sort(Scope(rows), uids, CRITERIA[0])) == 65
        assert 1 < len(counting.looks) < 9  # the new one, and some of the others
        assert len((await searcher.thread(Scope(rows), uids, "REFERENCES")).uids) > 64
        few = Uids(uids.list()[:5])
        counting.looks.clear()
        assert len(await searcher.sort(Scope(rows), few, CRITERIA[0])) == 5
        assert counting.looks == [("FieldReader", 5)]  # a small part is sorted as it comes
        searcher.close()

    play(scenario)


def test_the_least_asked_for_goes_first() -> None:
    orders = Orders(100)
    criteria = (("DATE", False),)
    for mailbox_id in (1, 2, 3):
        orders.keep_order(mailbox_id, criteria, Order(array("I", range(40)), 40))
        orders.order(1, criteria)
    assert [orders.order(mailbox_id, criteria) is not None for mailbox_id in (1, 2, 3)] == [True, False, True]
    assert orders.messages == 80
    orders.keep_order(1, criteria, Order(array("I", range(101)), 101))  # more than all
    assert orders.order(1, criteria) is None
    assert orders.messages == 40
    threads = Threads(array("I", [1, 2]), array("I", [1, 0]))
    orders.keep_threads(3, "REFERENCES", packed([1, 2]), threads)
    assert orders.messages == 46
    assert orders.threads(3, "REFERENCES", packed([1, 2])) is threads
    assert orders.threads(3, "REFERENCES", packed([1])) is None
    assert orders.threads(3, "ORDEREDSUBJECT", packed([1, 2])) is None


def test_mailboxes_and_criteria_are_told_apart() -> None:
    orders = Orders()
    orders.keep_order(1, (("DATE", False),), Order(array("I", [1]), 1))
    assert orders.order(2, (("DATE", False),)) is None
    assert orders.order(1, (("DATE", True),)) is None
