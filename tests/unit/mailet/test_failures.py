"""Exceptions, timeouts, loops, unknown states, undecided recipients: never silent, never twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Struct

from rusmes.errors import AuthUnavailable, StoreFull
from rusmes.mailet.api import CONTINUE, Decision, Goto
from rusmes.metrics import PIPELINE_ERRORS
from rusmes.model.mail import Mail


class NoParameters(Struct):
    pass


def raising(error: BaseException, *, first: Any = None, awaits: bool = False) -> type:
    """A matcher and mailet in one that fails."""

    class Fails:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def match(self, mail: Mail) -> Any:
            raise error

        def service(self, mail: Mail) -> Any:
            if first is not None:
                first(mail)
            if awaits:
                return self._later()
            raise error

        async def _later(self) -> Decision:
            await asyncio.sleep(0)
            raise error

    return Fails


@pytest.fixture
def failing(kit: Any) -> Any:
    kit.mailets["Fails"] = raising(RuntimeError("broken"))
    kit.mailets["FailsLater"] = raising(RuntimeError("broken"), awaits=True)
    kit.matchers["Fails"] = raising(RuntimeError("broken"))
    return kit


@pytest.mark.parametrize("mailet", ["Fails", "FailsLater"])
def test_a_failing_mailet_sends_its_part_to_the_error_processor(failing: Any, mailet: str) -> None:
    steps = [("RecipientIs=bob@here.org", mailet), ("All", "LocalDelivery")]
    plan = failing.run(steps, failing.mail("alice@here.org", "bob@here.org"))
    assert [append.account for append in plan.appends] == ["alice@here.org"]
    (held,) = plan.queued
    assert held.action == "hold"
    assert [recipient.account for recipient in held.recipients] == ["bob@here.org"]
    assert held.reason == f"RecipientIs=bob@here.org=>{mailet}: RuntimeError: broken"
    assert (held.state, held.step) == ("root", 1), "a release goes on at the step that failed"


@pytest.mark.parametrize("mailet", ["Fails", "FailsLater"])
def test_on_mailet_exception(failing: Any, mailet: str) -> None:
    def run(wanted: str) -> Any:
        steps = [{"mailet": mailet, "on_mailet_exception": wanted}, ("All", "LocalDelivery")]
        return failing.run({"root": steps, "side": [("All", "LocalDelivery", {"mailbox": "Side"})]}, failing.mail())

    assert [append.mailbox for append in run("ignore").appends] == ["INBOX"]
    assert [append.mailbox for append in run("side").appends] == ["Side"]
    assert run("error").queued[0].action == "hold"


def test_on_match_exception(failing: Any) -> None:
    def run(wanted: str) -> Any:
        steps = [
            {"matcher": "Fails", "mailet": "Null", "on_match_exception": wanted},
            ("All", "LocalDelivery"),
        ]
        return failing.run({"root": steps, "side": [("All", "LocalDelivery", {"mailbox": "Side"})]}, failing.mail())

    assert len(run("matchall").dropped) == 1
    assert [append.mailbox for append in run("nomatch").appends] == ["INBOX"]
    assert [append.mailbox for append in run("side").appends] == ["Side"]
    assert run("error").queued[0].action == "hold"


def test_the_error_processor_knows_the_reason(failing: Any) -> None:
    reasons: list[str] = []

    class Reads:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            reasons.append(mail.error)
            return CONTINUE

    failing.mailets["Reads"] = Reads
    pipeline = {"root": [("All", "Fails")], "error": [("All", "Reads"), ("All", "Null", {"reason": "given up"})]}
    plan = failing.run(pipeline, failing.mail())
    assert reasons == ["All=>Fails: RuntimeError: broken"]
    assert plan.dropped[0][1] == "given up"


@pytest.mark.parametrize(
    "error_steps",
    [[("All", "Fails")], [("Fails", "Null")], [("RecipientIs=x@y.org", "Null")], [], [("All", "ToNowhere")]],
    ids=["mailet", "matcher", "undecided", "empty", "unknown state"],
)
def test_a_failure_inside_error_is_a_hold_with_both_reasons(failing: Any, error_steps: list[Any]) -> None:
    failing.mailets["ToNowhere"] = going("nowhere")
    plan = failing.run({"root": [("All", "Fails")], "error": error_steps}, failing.mail())
    (held,) = plan.queued
    assert held.action == "hold"
    assert held.reason.startswith("All=>Fails: RuntimeError: broken; then ")


def going(state: str) -> type:
    class Goes:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            return Goto(state)

    return Goes


def test_recipients_left_undecided_go_to_error(kit: Any) -> None:
    plan = kit.run([("RecipientIs=bob@here.org", "LocalDelivery")], kit.mail("alice@here.org", "bob@here.org"))
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    (held,) = plan.queued
    assert [recipient.account for recipient in held.recipients] == ["alice@here.org"]
    assert held.reason == "undecided at the end of processor 'root'"


def test_an_empty_processor_leaves_everyone_undecided(kit: Any) -> None:
    assert kit.run({"root": []}, kit.mail(), accepted=True).queued[0].reason.startswith("undecided")


def test_an_unknown_state_goes_to_error(kit: Any) -> None:
    kit.mailets["ToNowhere"] = going("nowhere")
    plan = kit.run([("All", "ToNowhere")], kit.mail())
    assert plan.queued[0].reason == "no processor handles the state 'nowhere'"


def test_a_mail_that_comes_with_an_unknown_state_goes_to_error(kit: Any) -> None:
    plan = kit.run(None, kit.mail(state="gone"), accepted=True)
    assert plan.queued[0].action == "hold"
    assert plan.queued[0].reason == "no processor handles the state 'gone'"


def test_processors_that_go_round_end_at_the_hop_budget(kit: Any) -> None:
    kit.mailets["ToRoot"] = going("root")
    kit.mailets["ToSide"] = going("side")
    plan = kit.run({"root": [("All", "ToSide")], "side": [("All", "ToRoot")]}, kit.mail())
    (held,) = plan.queued
    assert held.action == "hold"
    assert "more than 100 processor changes" in held.reason


def test_parts_that_multiply_while_they_go_round_end(kit: Any) -> None:
    """Each turn adds recipients to each part and splits it: without a budget for all parts, 2^100 of them."""
    kit.mailets["ToRoot"] = going("root")
    forward = {"mailet": "Forward", "params": {"to": "x@far.org", "keep": True}}
    steps = [
        {"matcher": "RecipientIsLocal", **forward},
        {"matcher": "!RecipientIsLocal", "mailet": "Forward", "params": {"to": "bob@here.org", "keep": True}},
        ("All", "ToRoot"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org"))
    assert {row.action for row in plan.queued} == {"hold"}
    assert any("go round and add recipients" in row.reason for row in plan.queued)
    assert len(plan.queued) < 2000


def test_error_and_root_that_throw_mail_at_each_other_end(failing: Any) -> None:
    failing.mailets["ToRoot"] = going("root")
    plan = failing.run({"root": [("All", "Fails")], "error": [("All", "ToRoot")]}, failing.mail())
    assert [row.action for row in plan.queued] == ["hold"]


def test_a_timeout_is_a_failure_and_the_mail_is_as_before(kit: Any) -> None:
    class Sleeps:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        async def service(self, mail: Mail) -> Decision:
            mail.recipients = []
            mail.prepended.append(b"X-Half: done\r\n")
            await asyncio.sleep(60)
            return CONTINUE

    kit.mailets["Sleeps"] = Sleeps
    steps = [{"mailet": "Sleeps", "timeout": 0.01, "on_mailet_exception": "ignore"}, ("All", "LocalDelivery")]
    plan = kit.run(steps, kit.mail())
    assert [append.rendering.prefix for append in plan.appends] == [b"Return-Path: <sam@elsewhere.org>\r\n"]
    assert kit.metrics.count(PIPELINE_ERRORS["timeout"]) == 1


def test_a_mailets_own_timeout_error_is_not_the_steps(kit: Any) -> None:
    kit.mailets["Fails"] = raising(TimeoutError("peer"), awaits=True)
    plan = kit.run([("All", "Fails")], kit.mail())
    assert "TimeoutError: peer" in plan.queued[0].reason
    assert kit.metrics.count(PIPELINE_ERRORS["mailet"]) == 1


@pytest.mark.parametrize("answer", [None, 5, "drop"])
def test_what_is_no_decision_is_a_failure(kit: Any, answer: Any) -> None:
    class Answers:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Any:
            return answer

    class AnswersLater(Answers):
        async def service(self, mail: Mail) -> Any:
            return answer

    kit.mailets |= {"Answers": Answers, "AnswersLater": AnswersLater}
    for name in ("Answers", "AnswersLater"):
        assert "which is no decision" in kit.run([("All", name)], kit.mail()).queued[0].reason


def test_a_mailet_that_fails_after_changing_recipients_loses_none(kit: Any) -> None:
    kit.mailets["Fails"] = raising(RuntimeError("broken"), first=lambda mail: setattr(mail, "recipients", mail.recipients[:1]))
    plan = kit.run([("All", "Fails")], kit.mail("alice@here.org", "bob@here.org"))
    assert len(plan.queued[0].recipients) == 2


def test_recipients_that_a_mailet_takes_out_are_accounted_for(kit: Any) -> None:
    class Removes:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            mail.recipients = mail.recipients[1:]
            return CONTINUE

    kit.mailets["Removes"] = Removes
    plan = kit.run([("All", "Removes"), ("All", "LocalDelivery")], kit.mail("alice@here.org", "bob@here.org"))
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    assert [(recipient.account, reason) for recipient, reason in plan.dropped] == [
        ("alice@here.org", "removed by All=>Removes")
    ]
    plan = kit.run([("All", "Removes"), ("All", "LocalDelivery")], kit.mail("alice@here.org"))
    assert len(plan.dropped) == 1
    assert not plan.appends


def test_changing_the_list_in_place_is_refused_loudly(kit: Any) -> None:
    class Pops:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            mail.recipients.pop()
            return CONTINUE

    kit.mailets["Pops"] = Pops
    with pytest.raises(RuntimeError, match="in place"):
        kit.run([("All", "Pops")], kit.mail())


def test_a_failing_store_ends_the_run(kit: Any) -> None:
    kit.mailets["Fails"] = raising(StoreFull("no space"))
    with pytest.raises(StoreFull):
        kit.run([("All", "Fails")], kit.mail())


def test_cancellation_is_no_failure_of_a_mailet(kit: Any) -> None:
    kit.mailets["Fails"] = raising(asyncio.CancelledError(), awaits=True)
    with pytest.raises(asyncio.CancelledError):
        kit.run([("All", "Fails")], kit.mail())


def test_a_directory_that_cannot_answer_is_a_temporary_refusal(kit: Any) -> None:
    kit.directory.unavailable = True
    plan = kit.run(None, kit.mail("nobody@here.org"))
    (refusal,) = plan.refused.values()
    assert (refusal.code, refusal.status) == (451, "4.3.0")
    later = kit.run(None, kit.mail("nobody@here.org"), accepted=True)
    (row,) = later.queued
    assert (row.action, row.state, row.step) == ("resume", "root", 0)
    assert row.due > kit.clock.now()


def test_auth_unavailable_follows_the_step_when_it_says_so(kit: Any) -> None:
    kit.mailets["Fails"] = raising(AuthUnavailable("down"))
    steps = [{"mailet": "Fails", "on_mailet_exception": "ignore"}, ("All", "LocalDelivery")]
    assert len(kit.run(steps, kit.mail()).appends) == 1


def test_delivery_of_a_stranger_to_a_mailbox_is_an_error_for_him_alone(kit: Any) -> None:
    plan = kit.run([("All", "LocalDelivery")], kit.mail("alice@here.org", "x@far.org"))
    assert [append.account for append in plan.appends] == ["alice@here.org"]
    (held,) = plan.queued
    assert "x@far.org delivers to no local account" in held.reason


def test_a_plan_has_room_for_a_bounded_number_of_new_mails(kit: Any) -> None:
    from rusmes.mailet.api import Submit

    class Breeds:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            return Submit((kit.mail(), kit.mail()))

    kit.mailets["Breeds"] = Breeds
    plan = kit.run([("All", "Breeds"), ("All", "LocalDelivery")], kit.mail())
    ended = len(plan.appends) + len(plan.queued)
    assert ended <= 2 * 1000 + 1
    assert any("more mails than a plan may have" in row.reason for row in plan.queued)
