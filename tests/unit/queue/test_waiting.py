"""The index of what waits for a time."""

from __future__ import annotations

import random

from rusmes.queue.waiting import FOREVER, Waiting


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_taken_in_the_order_of_time_whatever_was_changed_meanwhile() -> None:
    shuffle = random.Random(7)
    waiting, due = Waiting(), dict[int, float]()
    for _ in range(20_000):
        number, action = shuffle.randrange(500), shuffle.random()
        if action < 0.3:
            assert waiting.discard(id_of(number)) == (due.pop(number, None) is not None)
        else:
            due[number] = shuffle.uniform(0, 100)
            waiting.put(id_of(number), due[number])
    assert len(waiting) == len(due)
    assert {int.from_bytes(id, "big") for id in waiting} == set(due)
    taken = []
    while (id := waiting.take_due(60.0)) is not None:
        taken.append(due.pop(int.from_bytes(id, "big")))
    assert taken == sorted(taken)
    assert min(due.values()) > 60.0
    assert waiting.take_due(60.0) is None
    assert len(waiting) == len(due)


def test_places_that_were_left_behind_do_not_add_up() -> None:
    waiting = Waiting()
    for n in range(100_000):
        waiting.put(id_of(n % 10), float(n))
    assert len(waiting) == 10
    assert len(waiting._heap) < 2000


def test_the_first_is_told_and_who_waits_for_ever_is_never_due() -> None:
    waiting = Waiting()
    assert waiting.first is None
    assert waiting.put(id_of(1), 5.0)
    assert not waiting.put(id_of(2), 6.0)
    assert waiting.put(id_of(3), 4.0)
    assert not waiting.put(id_of(4), FOREVER)
    assert waiting.first == 4.0
    assert id_of(4) in waiting
    assert [waiting.take_due(1e18) for _ in range(4)] == [id_of(3), id_of(1), id_of(2), None]
    assert len(waiting) == 1
