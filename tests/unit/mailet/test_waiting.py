"""The session's budget, steps after acceptance, and going on from the queue after a restart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Struct

from rusmes.mailet.api import CONTINUE, Decision
from rusmes.model.mail import Mail


class NoParameters(Struct):
    pass


@pytest.fixture
def slow(kit: Any) -> Any:
    """`Slow` takes as long as `kit.pause` says; `kit.visits` counts who came."""
    kit.pause = 60.0
    kit.visits = []

    class Slow:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        async def service(self, mail: Mail) -> Decision:
            kit.visits.append([recipient.address.local for recipient in mail.recipients])
            mail.prepended.insert(0, b"X-Slow: 1\r\n")
            await asyncio.sleep(kit.pause)
            return CONTINUE

    class Later(Slow):
        after_accept = True

    kit.mailets |= {"Slow": Slow, "Later": Later}
    return kit


def texts(prefix: bytes) -> list[str]:
    return prefix.decode().splitlines()


def test_a_session_that_runs_out_of_time_is_resumed_at_the_step(slow: Any) -> None:
    steps = [("All", "AddHeader", {"name": "X-One", "value": "1"}), ("All", "Slow"), ("All", "LocalDelivery")]
    plan = slow.run(steps, slow.mail("alice@here.org", "bob@here.org"), budget=0.01)
    (row,) = plan.queued
    assert (row.action, row.state, row.step, row.due) == ("resume", "root", 2, 0.0)
    assert len(row.recipients) == 2
    assert (row.rendering.prefix, row.rendering.skip) == (b"", 0), "a waiting row holds the content as it came"
    slow.pause = 0.0
    after = slow.run(steps, slow.again(plan), accepted=True)
    assert [texts(append.rendering.prefix) for append in after.appends] == [
        ["Return-Path: <sam@elsewhere.org>", "X-Slow: 1", "X-One: 1"]
    ] * 2, "the cancelled run left no trace"


def test_every_part_under_way_is_resumed_where_it_is(slow: Any) -> None:
    pipeline = {
        "root": [
            ("RecipientIs=carol@here.org", "ToProcessor", {"processor": "side"}),
            ("RecipientIs=bob@here.org", "Slow"),
            ("All", "LocalDelivery"),
        ],
        "side": [("All", "LocalDelivery", {"mailbox": "Side"})],
    }
    mail = slow.mail("alice@here.org", "bob@here.org", "carol@here.org")
    plan = slow.run(pipeline, mail, budget=0.2)  # far more than what comes before the wait takes
    assert [(append.account, append.mailbox) for append in plan.appends] == [("carol@here.org", "Side")]
    places = {row.recipients[0].account: (row.state, row.step) for row in plan.queued}
    assert places == {"bob@here.org": ("root", 2), "alice@here.org": ("root", 3)}


def test_a_budget_that_is_spent_before_the_start_resumes_at_the_first_step(slow: Any) -> None:
    plan = slow.run(None, slow.mail(), budget=-1.0)
    assert [(row.action, row.step) for row in plan.queued] == [("resume", 0)]
    assert len(slow.run(None, slow.again(plan), accepted=True).appends) == 1


def test_the_steps_timeout_is_not_the_budget(slow: Any) -> None:
    steps = [{"mailet": "Slow", "timeout": 0.01}, ("All", "LocalDelivery")]
    (row,) = slow.run(steps, slow.mail()).queued
    assert row.action == "hold"
    assert "no decision within 0.01 s" in row.reason


def test_without_a_session_only_the_steps_timeout_counts(slow: Any) -> None:
    slow.pause = 0.02
    assert len(slow.run([("All", "Slow"), ("All", "LocalDelivery")], slow.mail(), accepted=True).appends) == 1


@pytest.mark.parametrize("step", [("All", "Later"), {"mailet": "Slow", "after_accept": True}])
def test_after_accept_runs_once_the_client_has_its_reply(slow: Any, step: Any) -> None:
    slow.pause = 0.0
    steps = [("RecipientIs=bob@here.org", "LocalDelivery"), step, ("All", "LocalDelivery")]
    plan = slow.run(steps, slow.mail("alice@here.org", "bob@here.org"))
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    assert slow.visits == []
    (row,) = plan.queued
    assert (row.action, row.state, row.step) == ("resume", "root", 2)
    after = slow.run(steps, slow.again(plan), accepted=True)
    assert [append.account for append in after.appends] == ["alice@here.org"]
    assert slow.visits == [["alice"]]


def test_after_accept_can_be_switched_off(slow: Any) -> None:
    slow.pause = 0.0
    steps = [{"mailet": "Later", "after_accept": False}, ("All", "LocalDelivery")]
    assert len(slow.run(steps, slow.mail()).appends) == 1


def test_edits_attributes_hops_and_error_survive_a_restart(slow: Any) -> None:
    seen: list[Mail] = []

    class Looks:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            seen.append(mail)
            return CONTINUE

    slow.mailets["Looks"] = Looks
    pipeline = {
        "root": [
            ("All", "AddHeader", {"name": "X-For", "value": "{recipient}", "per_recipient": True}),
            ("All", "AddHeader", {"name": "X-All", "value": "ü"}),
            ("All", "RemoveHeader", {"names": "X-Spam, Subject"}),
            ("All", "SetAttribute", {"name": "score", "value": 4.5}),
            ("All", "ToProcessor", {"processor": "side"}),
        ],
        "side": [{"mailet": "Looks", "after_accept": True}, ("All", "LocalDelivery")],
    }
    plan = slow.run(pipeline, slow.mail("alice@here.org", "bob@here.org"))
    (row,) = plan.queued
    assert all(isinstance(value, (str, int, float, bool, bytes, tuple)) for value in row.attributes.values())
    after = slow.run(pipeline, slow.again(plan), accepted=True)
    (mail,) = seen
    assert (mail.attributes, mail.hops, mail.removed) == ({"score": 4.5}, 1, frozenset({"x-spam", "subject"}))
    for append in after.appends:
        text = b"".join(append.rendering.chunks()).decode()
        assert text == (
            f"Return-Path: <sam@elsewhere.org>\r\nX-For: {append.account}\r\nX-All: ü\r\n"
            "Received: by mx.here; now\r\nFrom: a@elsewhere.org\r\n\r\nhello\r\n"
        )


def test_defer_waits_at_the_step_then_goes_on(kit: Any) -> None:
    steps = [("All", "Defer", {"delay": "10m", "times": 2, "reason": "greylisted"}), ("All", "LocalDelivery")]
    plan = kit.run(steps, kit.mail())
    for _ in range(2):
        (row,) = plan.queued
        assert (row.action, row.state, row.step, row.reason) == ("resume", "root", 1, "greylisted")
        assert row.due == kit.clock.now() + 600
        kit.clock.advance(600)
        plan = kit.run(steps, kit.again(plan), accepted=True)
    assert len(plan.appends) == 1


def test_two_defers_wait_one_after_the_other(kit: Any) -> None:
    steps = [("All", "Defer", {"delay": "1m"}), ("All", "Defer", {"delay": "2m"}), ("All", "LocalDelivery")]
    plan = kit.run(steps, kit.mail())
    places = []
    while plan.queued:
        places.append(plan.queued[0].step)
        plan = kit.run(steps, kit.again(plan), accepted=True)
    assert places == [1, 2]


def test_a_step_that_moved_in_the_configuration_is_found_again(kit: Any) -> None:
    before = [("All", "Hold"), ("All", "Defer", {"delay": "1m"}), ("All", "LocalDelivery")]
    plan = kit.run(before[1:], kit.mail())
    assert plan.queued[0].step == 1
    after = kit.run(before, kit.again(plan), accepted=True)
    assert len(after.appends) == 1


def test_a_step_that_is_gone_is_an_error_not_another_step(kit: Any) -> None:
    plan = kit.run([("All", "Defer", {"delay": "1m"}), ("All", "LocalDelivery")], kit.mail())
    after = kit.run([("All", "Null"), ("All", "LocalDelivery")], kit.again(plan), accepted=True)
    (row,) = after.queued
    assert row.action == "hold"
    assert "'All=>Defer' of processor 'root' is no longer there" in row.reason
    assert not after.dropped


def test_a_processor_that_is_gone_is_an_error(kit: Any) -> None:
    pipeline = {"root": [("All", "ToProcessor", {"processor": "side"})], "side": [("All", "Defer", {"delay": "1m"})]}
    plan = kit.run(pipeline, kit.mail())
    assert plan.queued[0].state == "side"
    (row,) = kit.run(None, kit.again(plan), accepted=True).queued
    assert (row.action, row.reason) == ("hold", "no processor handles the state 'side'")


@pytest.mark.parametrize("place", [7, -1])
def test_a_place_outside_the_processor_is_undecided(kit: Any, place: int) -> None:
    (row,) = kit.run(None, kit.mail(step=place), accepted=True).queued
    assert row.action == "hold"


def test_a_failure_is_retried_at_its_step_when_released(slow: Any) -> None:
    class Fails:
        Parameters = NoParameters
        broken = True

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            if Fails.broken:
                raise RuntimeError("broken")
            return CONTINUE

    slow.mailets["Fails"] = Fails
    steps = [("All", "AddHeader", {"name": "X-One", "value": "1"}), ("All", "Fails"), ("All", "LocalDelivery")]
    plan = slow.run(steps, slow.mail())
    Fails.broken = False
    after = slow.run(steps, slow.again(plan), accepted=True)
    assert [texts(append.rendering.prefix) for append in after.appends] == [["Return-Path: <sam@elsewhere.org>", "X-One: 1"]]


def test_cancelling_the_session_cancels_the_mailet(slow: Any) -> None:
    async def session() -> None:
        pipeline = slow.build([("All", "Slow")])
        task = asyncio.create_task(pipeline.run(slow.mail(), deadline=slow.clock.monotonic() + 30))
        while not slow.visits:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(session())
