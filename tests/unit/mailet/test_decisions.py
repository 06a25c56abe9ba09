"""What decisions mean in the plan, in the session and after acceptance."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from rusmes.mailet.api import Bounce, Continue, Decision, Reject, Submit
from rusmes.metrics import MAIL_OUTCOMES, MAIL_PROCESSED, STEP_SECONDS
from rusmes.model.mail import NOTIFY_NEVER, Mail, Recipient
from rusmes.model.plan import Refusal


class NoParameters(Struct):
    pass


def deciding(decision: Any) -> type:
    class Decides:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            made: Decision = decision(mail) if callable(decision) else decision
            return made

    return Decides


DENY = ("All", "Reject", {"code": 550, "status": "5.7.1", "text": "no"})
TRY_LATER = ("All", "Reject", {"code": 451, "status": "4.7.1", "text": "later"})


@pytest.mark.rfc("5321", "4.4")
@pytest.mark.parametrize(
    ("sender", "line"),
    [
        ("sam@elsewhere.org", b"<sam@elsewhere.org>"),
        (None, b"<>"),
        ("odd name@elsewhere.org", b'<"odd name"@elsewhere.org>'),
        ("a..b@elsewhere.org", b'<"a..b"@elsewhere.org>'),
        ("jürgen@elsewhere.org", "<jürgen@elsewhere.org>".encode()),
        ("postmaster", b"<postmaster>"),
    ],
)
def test_return_path_is_added_at_final_delivery(kit: Any, sender: str | None, line: bytes) -> None:
    (append,) = kit.run(None, kit.mail(sender=sender)).appends
    assert append.rendering.prefix == b"Return-Path: " + line + b"\r\n"


@pytest.mark.rfc("5321", "4.4")
def test_a_return_path_that_came_with_the_mail_is_replaced(kit: Any) -> None:
    header = b"Received: a\r\nReturn-Path:\r\n <forged@elsewhere.org>\r\nSubject: x\r\nreturn-path: <again>\r\n\r\n"
    body = header + b"Return-Path: body\r\n"
    mail = kit.mail("alice@here.org", "x@far.org", body=body, trusted=True)
    plan = kit.run(None, mail)
    assert b"".join(plan.appends[0].rendering.chunks()) == (
        b"Return-Path: <sam@elsewhere.org>\r\nReceived: a\r\nSubject: x\r\n\r\nReturn-Path: body\r\n"
    )
    assert b"".join(plan.queued[0].rendering.chunks()) == body, "a relay changes nothing"


@pytest.mark.parametrize("local", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
def test_an_address_with_line_ends_never_becomes_a_header(kit: Any, local: str) -> None:
    mail = kit.mail(sender=f"{local}@elsewhere.org")
    with pytest.raises(ValueError, match="line ends"):
        kit.run(None, mail)


def test_append_carries_mailbox_flags_and_time(kit: Any) -> None:
    steps = [("All", "LocalDelivery", {"mailbox": "Lists", "flags": ["\\Seen", "$list"]})]
    (append,) = kit.run(steps, kit.mail()).appends
    assert (append.mailbox, append.flags, append.received) == ("Lists", ("\\Seen", "$list"), kit.clock.now())


def test_a_relay_row_carries_the_whole_envelope(kit: Any) -> None:
    mail = kit.mail(
        Recipient(kit.recipient("x@far.org").address, notify=2, orcpt="rfc822;x@far.org"),
        trusted=True, body_type="8BITMIME", smtputf8=True, requiretls=True, ret="HDRS", envid="e1",
    )  # fmt: skip
    steps = [("All", "SetAttribute", {"name": "class", "value": "bulk"}), ("All", "RemoteDelivery", {"route": "slow"})]
    (row,) = kit.run(steps, mail).queued
    assert (row.action, row.route, row.sender, row.created) == ("relay", "slow", mail.sender, mail.created)
    assert (row.body_type, row.smtputf8, row.requiretls, row.ret, row.envid) == ("8BITMIME", True, True, "HDRS", "e1")
    assert (row.recipients[0].notify, row.recipients[0].orcpt) == (2, "rfc822;x@far.org")
    assert (row.size, row.attributes, row.origin) == (mail.content.size, {"class": "bulk"}, mail.origin)


def test_every_row_has_its_own_id(kit: Any) -> None:
    steps = [("RecipientIs=x@far.org", "RemoteDelivery", {"route": "one"}), ("All", "RemoteDelivery")]
    mail = kit.mail("x@far.org", "y@far.org")
    ids = [row.id for row in kit.run(steps, mail).queued]
    assert len({*ids, mail.id}) == 3


def test_reject_in_the_session_is_a_reply(kit: Any) -> None:
    plan = kit.run(
        [("RecipientIs=bob@here.org", *DENY[1:]), ("All", "LocalDelivery")], kit.mail("alice@here.org", "bob@here.org")
    )
    assert {address.local: refusal for address, refusal in plan.refused.items()} == {"bob": Refusal(550, "5.7.1", "no")}
    assert [append.account for append in plan.appends] == ["alice@here.org"]
    assert not kit.notices.written


def test_permanent_reject_after_acceptance_is_a_notice(kit: Any) -> None:
    plan = kit.run([("SentByMailet", "RemoteDelivery"), DENY], kit.mail("alice@here.org"), accepted=True)
    assert not plan.refused
    assert plan.dropped[0][1] == "bounced: no"
    (notice,) = plan.queued
    assert (notice.action, notice.sender) == ("relay", None)
    assert str(notice.recipients[0].address) == "sam@elsewhere.org"


def test_temporary_reject_after_acceptance_is_tried_again_at_that_step(kit: Any) -> None:
    steps = [("All", "SetAttribute", {"name": "x"}), TRY_LATER]
    plan = kit.run(steps, kit.mail(), accepted=True)
    (row,) = plan.queued
    assert (row.action, row.state, row.step, row.due) == ("resume", "root", 2, kit.clock.now() + 300)
    assert not kit.notices.written


def test_a_temporary_reject_does_not_last_for_ever(kit: Any) -> None:
    mail = kit.mail()
    mail.created -= kit.toolbox.max_age_seconds
    plan = kit.run([TRY_LATER], mail, accepted=True)
    assert [row.sender for row in plan.queued] == [None], "the notice alone"
    ((_, _, refusal),) = kit.notices.written
    assert refusal == Refusal(451, "4.4.7", "not delivered in time; at last: 451 4.7.1 later")


@pytest.mark.rfc("5321", "4.5.5")
@pytest.mark.parametrize("step", [DENY, ("All", "Bounce"), ("All", "DSNBounce")])
def test_no_bounce_of_a_bounce(kit: Any, step: Any) -> None:
    plan = kit.run([step], kit.mail(sender=None), accepted=True)
    assert not kit.notices.written
    ((_, reason),) = plan.dropped
    assert "reverse-path is null" in reason
    assert (plan.appends, plan.queued) == ([], [])


def test_a_notice_that_cannot_be_delivered_ends(kit: Any) -> None:
    plan = kit.run([DENY], kit.mail("alice@here.org"), accepted=True)
    assert len(kit.notices.written) == 1
    assert [reason for _, reason in plan.dropped] == ["bounced: no", "no (no notice: the reverse-path is null)"]


def test_bounce_in_the_session_accepts_and_tells_the_sender_in_the_same_plan(kit: Any) -> None:
    steps = [("SentByMailet=notice", "LocalDelivery"), ("All", "DSNBounce", {"code": 552, "status": "5.2.2", "text": "full"})]
    plan = kit.run(steps, kit.mail("alice@here.org", sender="bob@here.org"))
    assert plan.refused == {}
    assert [recipient.account for recipient, _ in plan.dropped] == ["alice@here.org"]
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    assert kit.notices.written[0][2] == Refusal(552, "5.2.2", "full")
    assert plan.appends[0].rendering.prefix == b"Return-Path: <>\r\n"


def test_a_notice_may_be_relayed_by_the_default_pipeline(kit: Any) -> None:
    kit.mailets["Bounces"] = deciding(Bounce("no", "5.1.2", 550))
    steps = [("RecipientIs=alice@here.org", "Bounces"), ("RelayAllowed", "RemoteDelivery"), DENY]
    (row,) = kit.run(steps, kit.mail("alice@here.org")).queued
    assert (row.action, str(row.recipients[0].address)) == ("relay", "sam@elsewhere.org")


@pytest.mark.rfc("3461", "4.1")
def test_notify_never_is_dropped_with_the_reason(kit: Any) -> None:
    mail = kit.mail(Recipient(kit.recipient("alice@here.org").address, "alice@here.org", NOTIFY_NEVER))
    plan = kit.run([("All", "Bounce", {"text": "no"})], mail)
    assert plan.dropped[0][1] == "no (no notice is wanted)"


def test_hold_is_released_to_the_next_step(kit: Any) -> None:
    plan = kit.run([("All", "Hold", {"reason": "look at it"}), ("All", "LocalDelivery")], kit.mail())
    (row,) = plan.queued
    assert (row.action, row.reason, row.state, row.step) == ("hold", "look at it", "root", 2)
    assert len(kit.run([("All", "Hold"), ("All", "LocalDelivery")], kit.again(plan), accepted=True).appends) == 1


def test_hold_at_the_end_is_released_to_the_beginning(kit: Any) -> None:
    pipeline = {"root": [("All", "ToProcessor", {"processor": "side"})], "side": [("All", "Hold")]}
    (row,) = kit.run(pipeline, kit.mail()).queued
    assert (row.state, row.step) == ("root", 0)


def test_drop_has_its_reason(kit: Any) -> None:
    plan = kit.run([("All", "Null", {"reason": "spam trap"})], kit.mail())
    assert [(recipient.account, reason) for recipient, reason in plan.dropped] == [("alice@here.org", "spam trap")]


def test_continue_need_not_be_the_constant(kit: Any) -> None:
    kit.mailets["Goes"] = deciding(Continue())
    assert len(kit.run([("All", "Goes"), ("All", "LocalDelivery")], kit.mail()).appends) == 1


def test_an_unknown_kind_of_decision_is_an_error(kit: Any) -> None:
    class Invented(Decision, frozen=True, gc=False):
        pass

    kit.mailets["Invents"] = deciding(Invented())
    assert "Invented is no decision" in kit.run([("All", "Invents")], kit.mail()).queued[0].reason


def test_submitted_mail_runs_in_the_same_plan_after_the_mail(kit: Any) -> None:
    kit.mailets["Adds"] = deciding(lambda mail: Submit((kit.mail("bob@here.org", sender=None),)))
    steps = [("!SentByMailet", "Adds"), ("All", "LocalDelivery")]
    plan = kit.run(steps, kit.mail("alice@here.org"))
    assert [append.account for append in plan.appends] == ["alice@here.org", "bob@here.org"]
    assert plan.appends[1].recipient.forwarded, "the local configuration chose it"


def test_submit_with_a_decision(kit: Any) -> None:
    refuse = Reject(Refusal(550, "5.7.1", "no"))
    kit.mailets["Adds"] = deciding(lambda mail: Submit((kit.mail("bob@here.org"),), refuse))
    plan = kit.run([("!SentByMailet", "Adds"), ("All", "LocalDelivery")], kit.mail("alice@here.org"))
    assert list(plan.refused.values()) == [refuse.refusal]
    assert [append.account for append in plan.appends] == ["bob@here.org"]


def test_a_refused_mail_of_our_own_is_bounced_not_refused(kit: Any) -> None:
    kit.mailets["Adds"] = deciding(lambda mail: Submit((kit.mail("x@far.org", sender="bob@here.org"),)))
    steps = [("!SentByMailet", "Adds"), ("RecipientIsLocal", "LocalDelivery"), DENY]
    plan = kit.run(steps, kit.mail("alice@here.org"))
    assert plan.refused == {}
    assert [append.account for append in plan.appends] == ["alice@here.org", "bob@here.org"]


def test_a_mail_without_recipients_has_an_empty_plan(kit: Any) -> None:
    mail = kit.mail()
    mail.recipients = []
    plan = kit.run(None, mail)
    assert (plan.appends, plan.queued, plan.refused, plan.dropped) == ([], [], {}, [])


def test_outcomes_and_step_times_are_counted(kit: Any) -> None:
    kit.run(None, kit.mail("alice@here.org", "x@far.org", "bob@here.org"))
    assert kit.metrics.count(MAIL_PROCESSED) == 1
    assert kit.metrics.count(MAIL_OUTCOMES["local"]) == 2
    assert kit.metrics.count(MAIL_OUTCOMES["rejected"]) == 1
    counts, seconds = kit.metrics.sample(STEP_SECONDS["LocalDelivery"])
    assert sum(counts) == 1
    assert 0 < seconds < 1
