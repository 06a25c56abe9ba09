"""Deficit round robin over tenants and their campaigns."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from rusmes.queue.entry import Job
from rusmes.queue.fairness import MANY_FLOWS, FairQueue, weights_of


class Entry:
    round = 0


def job(name: str = "") -> Job:
    entry: Any = Entry()
    return Job(entry, [0], name)


def filled(queue: FairQueue, **counts: int) -> FairQueue:
    for tenant, count in counts.items():
        flow = queue.flow(tenant, "")
        for _ in range(count):
            queue.add(flow, job(tenant))
    return queue


def drain(queue: FairQueue, most: int = 10**9) -> list[str]:
    taken = []
    while len(taken) < most and (peeked := queue.peek()) is not None:
        found = queue.take()
        assert found is peeked
        taken.append(found.destination)
    return taken


def test_a_tenant_with_ten_mails_waits_for_ten_of_the_one_with_ten_thousand() -> None:
    queue = filled(FairQueue({}), big=10_000, small=10)
    order = drain(queue)
    assert len(order) == 10_010
    assert [i for i, name in enumerate(order) if name == "small"] == list(range(1, 20, 2))
    assert queue.count == 0
    assert queue.is_empty


def test_weights_decide_how_much_of_a_round_each_has() -> None:
    queue = filled(FairQueue(weights_of({"gold": 3.0, "slow": 0.5})), gold=1000, plain=1000, slow=1000)
    assert Counter(drain(queue, 900)) == {"gold": 600, "plain": 200, "slow": 100}


def test_a_weight_that_is_no_number_of_mails_adds_up() -> None:
    queue = filled(FairQueue(weights_of({"a": 1.5})), a=1000, b=1000)
    assert Counter(drain(queue, 1000)) == {"a": 600, "b": 400}


def test_campaigns_share_what_their_tenant_has() -> None:
    queue = FairQueue({})
    for tenant, campaign in [("a", f"c{n}") for n in range(9)] + [("b", "")]:
        for _ in range(100):
            queue.add(queue.flow(tenant, campaign), job(f"{tenant}/{campaign}"))
    taken = Counter(drain(queue, 180))
    assert taken["b/"] == 90
    assert {taken[f"a/c{n}"] for n in range(9)} == {10}


def test_within_a_flow_it_is_the_order_of_arrival_and_what_is_put_back_is_next() -> None:
    queue = FairQueue({})
    flow = queue.flow("a", "")
    jobs = [job(str(n)) for n in range(5)]
    for one in jobs:
        queue.add(flow, one)
    queue.add(queue.flow("b", ""), job("b"))
    first = queue.take()
    assert first is jobs[0]
    queue.put_back(first)
    assert drain(queue) == ["0", "b", "1", "2", "3", "4"]
    queue.put_back(first)
    assert drain(queue) == ["0"]


def test_a_blocked_flow_keeps_its_mail_and_its_order_and_holds_up_nobody() -> None:
    queue = filled(FairQueue({}), a=3, b=3)
    flow = queue.flow("a", "")
    queue.block(flow, 1.0)
    assert queue.count == 3
    queue.add(flow, job("a"))
    assert drain(queue) == ["b"] * 3
    assert not queue.is_empty
    queue.release(flow)
    assert drain(queue) == ["a"] * 4


def test_flows_without_mail_are_forgotten_when_there_are_many() -> None:
    queue = FairQueue({})
    for n in range(1000):
        queue.add(queue.flow(f"t{n}", ""), job())
        taken = queue.take()
        assert taken is not None
        assert taken.flow is not None
        queue.tidy(taken.flow)
    assert len(queue.flows()) <= MANY_FLOWS + 1
    queue.put_back(taken)  # its flow is not there any more
    assert queue.take() is taken


@pytest.mark.parametrize("tenants", [1, 1000])
def test_picking_costs_the_same_however_much_waits(tenants: int) -> None:
    def seconds(waiting: int) -> float:
        queue = FairQueue({})
        jobs = [job() for _ in range(waiting)]
        for n, one in enumerate(jobs):
            queue.add(queue.flow(f"t{n % tenants}", ""), one)
        best = 1.0
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(500):
                taken = queue.take()
                assert taken is not None
                assert taken.flow is not None
                queue.add(taken.flow, taken)
            best = min(best, time.perf_counter() - started)
        return best

    assert seconds(50_000) < 10 * seconds(2000)
