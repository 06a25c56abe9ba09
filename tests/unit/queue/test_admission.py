"""When load is shed, in which order, and when no longer."""

from __future__ import annotations

from typing import Any

import pytest

from rusmes.clock import FakeClock
from rusmes.config.overload import Overload
from rusmes.config.units import Duration
from rusmes.metrics import OVERLOAD_LEVEL, Metrics
from rusmes.queue.admission import FINE, OVERLOADED, SAMPLE_SECONDS, STRESSED, Admission, Commits

SETTINGS = Overload(max_commit_delay=Duration("500ms"), max_loop_delay=Duration("200ms"), max_memory=80)


class House:
    """A worker's measures in a test's hands."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.commits = Commits(10, 5.0)
        self.used = 0.0
        self.deliveries = 0
        self.heard: list[bool] = []
        self.admission = Admission(
            SETTINGS,
            self.commits,
            self.clock,
            self.metrics,
            memory=lambda: self.used,
            deliveries=lambda: self.deliveries,
            is_trusted=lambda address: address.startswith("10."),
        )
        self.admission.listeners.append(self.heard.append)
        self.sessions = 1000
        self.admission.sessions = lambda: self.sessions

    def run(self, seconds: float, *, late: float = 0.0, commit: float | None = None) -> int:
        """Let time pass with the same measures; the level at the end."""
        level = self.admission.level
        for _ in range(round(seconds / SAMPLE_SECONDS)):
            self.clock.advance(SAMPLE_SECONDS)
            if commit is not None:
                self.admission.committed(commit)
            level = self.admission.sample(late)
        return level


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize(
    ("measures", "level"),
    [
        ({"late": 0.19}, FINE),
        ({"late": 0.21}, STRESSED),
        ({"late": 9.0}, STRESSED),
        ({"commit": 0.49}, FINE),
        ({"commit": 0.51}, STRESSED),
    ],
)
def test_marks(house: House, measures: dict[str, Any], level: int) -> None:
    assert house.run(2.0, **measures) == level


@pytest.mark.parametrize(("used", "level"), [(0.79, FINE), (0.81, STRESSED), (0.91, OVERLOADED)])
def test_memory(house: House, used: float, level: int) -> None:
    house.used = used
    assert house.run(2.0) == level


def test_a_burst_is_no_standing_queue(house: House) -> None:
    for _ in range(20):
        assert house.run(SAMPLE_SECONDS, late=1.0) == FINE
        assert house.run(SAMPLE_SECONDS, late=0.0) == FINE


def test_it_ends_after_five_calm_seconds_and_does_not_flicker(house: House) -> None:
    assert house.run(1.0, late=0.21) == STRESSED
    for _ in range(10):
        assert house.run(3.0, late=0.1) == STRESSED
        assert house.run(2.0, late=0.17) == STRESSED, "above four fifths of the mark it is not calm"
    assert house.run(4.0, late=0.1) == STRESSED
    assert house.run(3.0, late=0.1) == FINE
    assert house.heard == [True, False]


def test_levels_end_one_after_the_other(house: House) -> None:
    house.used = 0.95
    house.run(1.0)
    house.used = 0.0
    assert house.run(6.5) == STRESSED
    assert house.run(6.5) == FINE
    assert house.admission.turns_away("smtp", "10.0.0.1"), "the cap rises slowly"
    house.run(30.0)
    assert house.admission.cap == float("inf")
    assert house.heard == [True, False]


def test_strangers_are_turned_away_first(house: House) -> None:
    admission = house.admission
    admission.brought_mail("192.0.2.1")
    assert not admission.turns_away("smtp", "192.0.2.2")
    house.run(1.0, late=0.21)
    assert house.admission.cap < 1000
    assert admission.turns_away("smtp", "10.0.0.1")
    house.sessions = round(0.7 * house.admission.cap)
    assert admission.turns_away("smtp", "192.0.2.2")
    assert not admission.turns_away("smtp", "192.0.2.1"), "it brought mail before"
    assert not admission.turns_away("smtp", "10.0.0.1"), "it is ours"
    assert not admission.turns_away("submission", "192.0.2.2")
    assert not admission.refuses_mail
    house.sessions = round(0.4 * house.admission.cap)
    assert not admission.turns_away("smtp", "192.0.2.2"), "there is room for strangers too"
    house.sessions = 1000
    assert admission.turns_away("smtp", "10.0.0.1")
    assert admission.turns_away("submission", "192.0.2.2")
    house.used = 0.95
    house.run(1.0)
    assert admission.refuses_mail


def test_the_cap_falls_while_it_is_too_much_and_rises_while_it_is_not(house: House) -> None:
    house.run(1.0, late=0.3)
    falling = house.admission.cap
    house.run(1.0, late=0.3)
    assert house.admission.cap < falling
    house.run(60.0, late=0.3)
    assert house.admission.cap == 200, "some are always served"
    house.sessions = 250
    house.run(2.0, late=0.1)
    risen = house.admission.cap
    assert 200 < risen < 350
    house.sessions = 50
    house.run(1.0, late=0.1)
    assert house.admission.cap == risen, "it rises only as far as it is used"
    house.run(10.0)
    assert house.admission.cap == float("inf")


def test_a_client_that_brought_mail_is_known_for_an_hour_at_most(house: House) -> None:
    house.run(1.0)
    house.admission.brought_mail("192.0.2.1")
    house.run(1500.0)
    house.run(1.0, late=0.21)
    house.sessions = round(0.7 * house.admission.cap)
    assert not house.admission.turns_away("smtp", "192.0.2.1")
    house.run(2200.0, late=0.17)
    house.sessions = round(0.7 * house.admission.cap)
    assert house.admission.turns_away("smtp", "192.0.2.1")


def test_deliveries_come_before_new_mail_when_the_loop_is_late(house: House) -> None:
    house.deliveries = 5000
    assert house.run(1.0) == FINE, "a long queue alone is no load"
    assert house.run(1.0, late=0.21) == OVERLOADED
    assert house.admission.reason == "mail"
    house.deliveries = 10
    assert house.run(1.0, late=0.21) == STRESSED


def test_a_machine_that_others_keep_busy_refuses_nobody(house: House) -> None:
    house.sessions = 99
    house.deliveries = 5000
    house.run(60.0, late=3.0, commit=3.0)
    assert not house.admission.turns_away("smtp", "192.0.2.2")
    assert not house.admission.refuses_mail
    assert house.heard == []


def test_waiting_commits_count_at_once(house: House) -> None:
    for _ in range(11):
        house.commits.begin()
    assert house.admission.turns_away("smtp", "10.0.0.1")
    assert house.admission.refuses_mail
    house.run(0.1)
    assert house.metrics.level(OVERLOAD_LEVEL["commits"], 0) == OVERLOADED


def test_a_reload_moves_the_marks(house: House) -> None:
    house.admission.apply(Overload(max_loop_delay=Duration("2s"), max_memory=100), lambda address: False)
    house.used = 0.99
    assert house.run(2.0, late=0.9) == FINE
    house.run(2.0, late=2.1)
    house.sessions = round(0.7 * house.admission.cap)
    assert house.admission.turns_away("smtp", "10.0.0.1"), "nobody is trusted any more"
