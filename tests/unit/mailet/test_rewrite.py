"""Aliases, sub-addresses, postmaster, forwards, copies: who gets the mail in the end, and what the sender hears."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rusmes.mailet.api import CONTINUE
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS, Recipient
from rusmes.model.plan import Plan, Refusal
from tests.unit.mailet.conftest import address

END = ("All", "LocalDelivery")


def fates(plan: Plan) -> dict[str, str]:
    """Every address of the plan and where it ended."""
    found = {str(append.recipient.address): "mailbox" for append in plan.appends}
    for row in plan.queued:
        found |= {str(recipient.address): row.action for recipient in row.recipients}
    found |= {str(address): refusal.status for address, refusal in plan.refused.items()}
    found |= {str(recipient.address): reason for recipient, reason in plan.dropped}
    return found


def test_an_alias_leads_to_an_account(kit: Any) -> None:
    kit.directory.aliases = {"sales@here.org": ["alice@here.org", "bob@here.org"]}
    plan = kit.run(None, kit.mail("sales@here.org"))
    assert fates(plan) == {"alice@here.org": "mailbox", "bob@here.org": "mailbox"}
    assert [str(address) for address in plan.appends[0].recipient.via] == ["sales@here.org"]


def test_aliases_of_aliases_and_elsewhere(kit: Any) -> None:
    kit.directory.aliases = {
        "all@here.org": ["sales@here.org", "carol@here.org"],
        "sales@here.org": ["alice@here.org", "x@far.org"],
    }
    plan = kit.run(None, kit.mail("all@here.org"))
    assert fates(plan) == {"alice@here.org": "mailbox", "carol@here.org": "mailbox", "x@far.org": "relay"}
    assert plan.queued[0].recipients[0].forwarded, "the local configuration chose it, so it may be relayed for anyone"


def test_a_stranger_may_not_relay_although_an_alias_does(kit: Any) -> None:
    kit.directory.aliases = {"out@here.org": ["x@far.org"]}
    assert fates(kit.run(None, kit.mail("out@here.org", "y@far.org"))) == {"x@far.org": "relay", "y@far.org": "5.7.1"}


def test_an_alias_that_names_itself_keeps_its_account(kit: Any) -> None:
    kit.directory.aliases = {"alice@here.org": ["alice@here.org", "bob@here.org"]}
    assert fates(kit.run(None, kit.mail("alice@here.org"))) == {"alice@here.org": "mailbox", "bob@here.org": "mailbox"}


def test_a_recipient_reached_by_two_ways_gets_the_mail_once(kit: Any) -> None:
    kit.directory.aliases = {"one@here.org": ["alice@here.org"], "two@here.org": ["alice@here.org", "bob@here.org"]}
    plan = kit.run(None, kit.mail("one@here.org", "two@here.org", "alice@here.org"))
    assert sorted(append.account for append in plan.appends) == ["alice@here.org", "bob@here.org"]
    (alice,) = [append.recipient for append in plan.appends if append.account == "alice@here.org"]
    assert {str(address) for address in alice.standing_for} == {"one@here.org", "two@here.org", "alice@here.org"}


@pytest.mark.parametrize(
    "aliases",
    [
        {"a@here.org": ["b@here.org"], "b@here.org": ["a@here.org"]},
        {"a@here.org": ["b@here.org"], "b@here.org": ["c@here.org"], "c@here.org": ["b@here.org"]},
    ],
)
def test_an_alias_that_only_leads_to_itself_is_refused(kit: Any, aliases: dict[str, list[str]]) -> None:
    kit.directory.aliases = aliases
    plan = kit.run(None, kit.mail("a@here.org", "alice@here.org"))
    assert fates(plan) == {"a@here.org": "5.4.6", "alice@here.org": "mailbox"}


def test_a_loop_beside_a_mailbox_gives_the_mailbox(kit: Any) -> None:
    kit.directory.aliases = {"a@here.org": ["b@here.org", "alice@here.org"], "b@here.org": ["a@here.org"]}
    assert fates(kit.run(None, kit.mail("a@here.org"))) == {"alice@here.org": "mailbox"}


@pytest.mark.parametrize(("depth", "status"), [(3, "mailbox"), (4, "5.4.6")])
def test_the_depth_is_limited(kit: Any, depth: int, status: str) -> None:
    kit.directory.aliases = {f"a{n}@here.org": [f"a{n + 1}@here.org"] for n in range(depth)}
    kit.directory.aliases[f"a{depth - 1}@here.org"] = ["alice@here.org"]
    plan = kit.run([("All", "RecipientRewrite", {"limit": 3}), END], kit.mail("a0@here.org"))
    assert list(fates(plan).values()) == [status]


def test_an_alias_tree_is_walked_once_however_it_branches(kit: Any) -> None:
    for level in range(9):
        for n in range(10):
            kit.directory.aliases[f"a{level}.{n}@here.org"] = [f"a{level + 1}.{m}@here.org" for m in range(10)]
    for n in range(10):
        kit.directory.aliases[f"a9.{n}@here.org"] = ["alice@here.org"]
    assert fates(kit.run(None, kit.mail("a0.0@here.org"))) == {"alice@here.org": "mailbox"}


def test_an_alias_has_a_limit_of_recipients(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.mailet.mailets.rewrite.MAX_EXPANDED", 50)
    kit.directory.aliases = {"many@here.org": [f"u{n}@far.org" for n in range(50)]}
    assert fates(kit.run(None, kit.mail("many@here.org"))) == {"many@here.org": "5.3.4"}


def test_unknown_users(kit: Any) -> None:
    kit.directory.aliases = {"half@here.org": ["alice@here.org", "gone@here.org"], "gone2@here.org": ["gone@here.org"]}
    assert fates(kit.run(None, kit.mail("nobody@here.org", "bob@here.org"))) == {
        "nobody@here.org": "5.1.1",
        "bob@here.org": "mailbox",
    }
    assert fates(kit.run(None, kit.mail("gone2@here.org"))) == {"gone2@here.org": "5.1.1"}


def test_unknown_users_may_pass(kit: Any) -> None:
    steps = [("All", "RecipientRewrite", {"unknown": "pass"}), ("RecipientIsLocal", "LocalDelivery"), ("All", "Hold")]
    assert fates(kit.run(steps, kit.mail("nobody@here.org", "alice@here.org"))) == {
        "nobody@here.org": "hold",
        "alice@here.org": "mailbox",
    }


def test_half_an_alias_refused_is_a_notice_not_a_refusal(kit: Any) -> None:
    """The client named one address, and that one was accepted: it cannot be told that half of it was not."""
    kit.directory.aliases = {"half@here.org": ["alice@here.org", "gone@here.org"]}
    plan = kit.run(None, kit.mail("half@here.org", sender="bob@here.org"))
    assert plan.refused == {}
    assert [append.account for append in plan.appends] == ["alice@here.org", "bob@here.org"]
    ((_, recipients, refusal),) = kit.notices.written
    assert ([str(recipient.address) for recipient in recipients], refusal.status) == (["gone@here.org"], "5.1.1")


def test_half_an_alias_refused_for_now_is_tried_again(kit: Any) -> None:
    kit.directory.aliases = {"half@here.org": ["alice@here.org", "bob@here.org"]}
    later = {"code": 451, "status": "4.7.1", "text": "later"}
    plan = kit.run([("RecipientIs=bob@here.org", "Reject", later), END], kit.mail("half@here.org"))
    assert fates(plan) == {"alice@here.org": "mailbox", "bob@here.org": "resume"}
    assert (plan.queued[0].state, plan.queued[0].step) == ("root", 1)
    assert plan.queued[0].due > kit.clock.now()


@pytest.mark.parametrize(("listener", "fate"), [("mx", "resume"), ("lmtp", "4.7.1")])
def test_a_recipient_refused_for_now_beside_accepted_ones_is_tried_again(kit: Any, listener: str, fate: str) -> None:
    """The client hears 250, and never comes back for the other one; over LMTP it hears both."""
    later = {"code": 451, "status": "4.7.1", "text": "later"}
    mail = kit.mail("alice@here.org", "bob@here.org")
    mail.origin = msgspec.structs.replace(mail.origin, listener=listener)
    plan = kit.run([("RecipientIs=bob@here.org", "Reject", later), END], mail)
    assert fates(plan) == {"alice@here.org": "mailbox", "bob@here.org": fate}
    assert not kit.notices.written


def test_an_alias_half_of_which_is_tried_again_bounces_the_other_half(kit: Any) -> None:
    kit.directory.aliases = {"half@here.org": ["bob@here.org", "gone@here.org"]}
    later = {"code": 451, "status": "4.7.1", "text": "later"}
    plan = kit.run([("RecipientIs=bob@here.org", "Reject", later), END], kit.mail("half@here.org", "alice@here.org"))
    assert not plan.refused
    assert {str(row.recipients[0].address): row.action for row in plan.queued}["bob@here.org"] == "resume"
    assert [str(recipients[0].address) for _, recipients, _ in kit.notices.written] == ["gone@here.org"]


def test_a_whole_alias_refused_is_a_refusal_of_the_alias(kit: Any) -> None:
    kit.directory.aliases = {"sales@here.org": ["alice@here.org", "bob@here.org"]}
    steps = [
        ("RecipientIs=alice@here.org", "Reject", {"code": 550, "status": "5.7.1", "text": "no"}),
        ("All", "Reject", {"code": 451, "status": "4.7.1", "text": "later"}),
    ]
    plan = kit.run(steps, kit.mail("sales@here.org"))
    assert {str(address): refusal.code for address, refusal in plan.refused.items()} == {"sales@here.org": 451}
    assert not kit.notices.written


def test_one_refused_recipient_that_stands_for_two_addresses(kit: Any) -> None:
    kit.directory.aliases = {"one@here.org": ["alice@here.org"], "two@here.org": ["alice@here.org", "bob@here.org"]}
    steps = [("RecipientIs=alice@here.org", "Reject", {"text": "no"}), END]
    plan = kit.run(steps, kit.mail("one@here.org", "two@here.org", sender="carol@here.org"))
    assert {str(address) for address in plan.refused} == {"one@here.org"}
    ((_, recipients, _),) = kit.notices.written
    assert [str(recipient.address) for recipient in recipients] == ["alice@here.org"], "two@ was accepted for bob"


def test_settled_recipients_cost_no_question(kit: Any) -> None:
    kit.run(None, kit.mail("alice@here.org", "x@far.org"))
    assert kit.directory.questions == 0


def test_after_acceptance_a_loop_is_a_notice(kit: Any) -> None:
    kit.directory.aliases = {"a@here.org": ["a2@here.org"], "a2@here.org": ["a@here.org"]}
    plan = kit.run(None, kit.mail("a@here.org", sender="bob@here.org"), accepted=True)
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    assert kit.notices.written[0][2] == Refusal(554, "5.4.6", "the alias leads back to itself")


@pytest.mark.rfc("3461", "5.2.7")
def test_one_heir_keeps_the_notice_wishes(kit: Any) -> None:
    kit.directory.aliases = {"out@here.org": ["x@far.org"]}
    wish = NOTIFY_SUCCESS | NOTIFY_DELAY
    mail = kit.mail(Recipient(kit.recipient("out@here.org").address, notify=wish), envid="e", ret="HDRS")
    (row,) = kit.run(None, mail).queued
    assert (row.recipients[0].notify, row.recipients[0].orcpt, row.envid, row.ret) == (wish, "rfc822;out@here.org", "e", "HDRS")
    assert not kit.notices.written


@pytest.mark.rfc("3461", "5.2.7")
@pytest.mark.parametrize(
    ("wish", "left", "told"),
    [
        (NOTIFY_SUCCESS | NOTIFY_FAILURE, NOTIFY_FAILURE, True),
        (NOTIFY_SUCCESS, NOTIFY_NEVER, True),
        (NOTIFY_FAILURE, NOTIFY_FAILURE, False),
        (NOTIFY_NEVER, NOTIFY_NEVER, False),
        (0, 0, False),
    ],
)
def test_several_heirs_do_not_report_success(kit: Any, wish: int, left: int, told: bool) -> None:
    kit.directory.aliases = {"list@here.org": ["x@far.org", "y@far.org"]}
    asked = Recipient(kit.recipient("list@here.org").address, notify=wish, orcpt="rfc822;first@elsewhere.org")
    plan = kit.run(None, kit.mail(asked, sender="alice@here.org"))
    (row,) = plan.queued
    assert {recipient.notify for recipient in row.recipients} == {left}
    assert {recipient.orcpt for recipient in row.recipients} == {"rfc822;first@elsewhere.org"}, "ORCPT is never changed"
    assert [append.account for append in plan.appends] == (["alice@here.org"] if told else [])
    if told:
        assert [str(recipient.address) for recipient in kit.notices.written[0][1]] == ["list@here.org"]


def test_orcpt_of_an_internationalized_alias(kit: Any) -> None:
    kit.directory.aliases = {"bücher@here.org": ["x@far.org"]}
    (row,) = kit.run(None, kit.mail("bücher@here.org")).queued
    assert row.recipients[0].orcpt == "utf-8;bücher@here.org"


def test_per_recipient_lines_follow_the_heirs(kit: Any) -> None:
    kit.directory.aliases = {"sales@here.org": ["alice@here.org", "bob@here.org"]}
    steps = [
        ("All", "AddHeader", {"name": "X-Asked", "value": "{recipient}", "per_recipient": True}),
        ("All", "RecipientRewrite"),
        END,
    ]
    plan = kit.run(steps, kit.mail("sales@here.org", "carol@here.org"))
    asked = {append.account: append.rendering.prefix.splitlines()[1] for append in plan.appends}
    assert asked == {
        "alice@here.org": b"X-Asked: sales@here.org",
        "bob@here.org": b"X-Asked: sales@here.org",
        "carol@here.org": b"X-Asked: carol@here.org",
    }


def test_who_is_reached_by_two_steps_gets_the_same_mail_once(kit: Any) -> None:
    kit.directory.aliases = {"team@here.org": ["alice@here.org", "bob@here.org", "x@far.org", "y@far.org"]}
    steps = [
        ("RecipientIs=alice@here.org", "Forward", {"to": "bob@here.org, x@far.org", "keep": True}),
        ("RecipientIsLocal", "LocalDelivery"),
        ("All", "RemoteDelivery"),
    ]
    plan = kit.run(steps, kit.mail("team@here.org", "alice@here.org"))
    assert sorted(append.account for append in plan.appends) == ["alice@here.org", "bob@here.org"]
    relayed = [str(recipient.address) for row in plan.queued for recipient in row.recipients]
    assert sorted(relayed) == ["x@far.org", "y@far.org"]
    (bob,) = [append.recipient for append in plan.appends if append.account == "bob@here.org"]
    assert {str(address) for address in bob.via} == {"team@here.org", "alice@here.org"}


def test_a_recipient_that_stood_for_two_and_is_taken_out_is_accounted_for(kit: Any) -> None:
    class TakesOut:
        Parameters = msgspec.defstruct("Nothing", [])

        def __init__(self, parameters: Any, toolbox: Any) -> None:
            pass

        def service(self, mail: Any) -> Any:
            mail.recipients = mail.recipients[1:]
            return CONTINUE

    kit.mailets["TakesOut"] = TakesOut
    kit.directory.aliases = {"sales@here.org": ["alice@here.org", "bob@here.org"]}
    plan = kit.run([("All", "TakesOut"), END], kit.mail("alice@here.org", "sales@here.org"))
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    ((gone, _),) = plan.dropped
    assert [str(address) for address in gone.standing_for] == ["alice@here.org"], "sales@ goes on as bob@"


# Postmaster


@pytest.mark.rfc("5321", "4.5.1")
@pytest.mark.parametrize("asked", ["postmaster@here.org", "PostMaster@here.org", "postmaster"])
def test_postmaster(kit: Any, asked: str) -> None:
    kit.directory.domains.add("")
    plan = kit.run([("All", "PostmasterAlias"), ("All", "RecipientRewrite"), END], kit.mail(asked, "bob@here.org"))
    assert fates(plan) == {"alice@here.org": "mailbox", "bob@here.org": "mailbox"}


def test_a_domain_with_a_postmaster_of_its_own_keeps_it(kit: Any) -> None:
    kit.directory.accounts.add("postmaster@here.org")
    assert fates(kit.run([("All", "PostmasterAlias"), END], kit.mail("postmaster@here.org"))) == {
        "postmaster@here.org": "mailbox"
    }


def test_postmaster_elsewhere_is_none_of_ours(kit: Any) -> None:
    steps = [("All", "PostmasterAlias"), ("All", "RemoteDelivery")]
    assert fates(kit.run(steps, kit.mail("postmaster@far.org"))) == {"postmaster@far.org": "relay"}


def test_a_postmaster_of_several_people_is_an_expansion(kit: Any) -> None:
    kit.directory.aliases = {"alice@here.org": ["bob@here.org", "carol@here.org"]}
    asked = Recipient(address("postmaster@here.org"), notify=NOTIFY_SUCCESS)
    steps = [("SenderIsNull", "Null"), ("All", "PostmasterAlias"), ("All", "RecipientRewrite"), END]
    plan = kit.run(steps, kit.mail(asked))
    assert {append.recipient.notify for append in plan.appends} == {NOTIFY_NEVER}
    ((_, recipients, _),) = kit.notices.written
    assert [str(recipient.address) for recipient in recipients] == ["postmaster@here.org"]


# Forward


def test_forward_replaces_the_recipients(kit: Any) -> None:
    kit.directory.aliases = {"team@here.org": ["bob@here.org", "carol@here.org"]}
    steps = [
        ("RecipientIs=alice@here.org", "Forward", {"to": ["x@far.org", "team@here.org"]}),
        ("RecipientIsLocal", "LocalDelivery"),
        ("RelayAllowed", "RemoteDelivery"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org"))
    assert fates(plan) == {"x@far.org": "relay", "bob@here.org": "mailbox", "carol@here.org": "mailbox"}
    assert plan.queued[0].sender == kit.mail().sender
    assert {str(address) for address in plan.queued[0].recipients[0].via} == {"alice@here.org"}


def test_forward_keeps_when_told(kit: Any) -> None:
    steps = [
        ("All", "Forward", {"to": "x@far.org", "keep": True}),
        ("RecipientIsLocal", "LocalDelivery"),
        ("All", "RemoteDelivery"),
    ]
    assert fates(kit.run(steps, kit.mail("alice@here.org", "bob@here.org"))) == {
        "alice@here.org": "mailbox",
        "bob@here.org": "mailbox",
        "x@far.org": "relay",
    }


@pytest.mark.parametrize(
    ("choice", "sender", "result"),
    [
        ("keep", "sam@elsewhere.org", "sam@elsewhere.org"),
        ("null", "sam@elsewhere.org", "None"),
        ("postmaster", "sam@elsewhere.org", "alice@here.org"),
        ("bounces@here.org", "sam@elsewhere.org", "bounces@here.org"),
        ("bounces@here.org", None, "None"),
    ],
)
def test_forward_and_the_sender(kit: Any, choice: str, sender: str | None, result: str) -> None:
    steps = [("All", "Forward", {"to": "x@far.org", "sender": choice}), ("All", "RemoteDelivery")]
    (row,) = kit.run(steps, kit.mail(sender=sender)).queued
    assert str(row.sender) == result


@pytest.mark.rfc("3461", "5.2.7")
def test_forward_to_several_tells_who_asked_for_success(kit: Any) -> None:
    steps = [("RecipientIs=alice@here.org", "Forward", {"to": "x@far.org, y@far.org"}), ("All", "RemoteDelivery")]
    mail = kit.mail(Recipient(address("alice@here.org"), "alice@here.org", NOTIFY_SUCCESS | NOTIFY_FAILURE))
    plan = kit.run(steps, mail)
    assert {r.notify for row in plan.queued for r in row.recipients if row.sender is not None} == {NOTIFY_FAILURE}
    ((_, recipients, refusal),) = kit.notices.written
    assert ([str(r.address) for r in recipients], refusal.text) == (["alice@here.org"], "expanded")


@pytest.mark.rfc("3461", "5.2.7")
def test_wishes_of_the_old_sender_mean_nothing_to_a_new_one(kit: Any) -> None:
    steps = [
        ("RecipientIs=alice@here.org", "Forward", {"to": "x@far.org", "sender": "bounces@here.org"}),
        ("All", "RemoteDelivery"),
    ]
    mail = kit.mail(Recipient(address("alice@here.org"), "alice@here.org", NOTIFY_SUCCESS, "rfc822;old@here.org"))
    mail.ret, mail.envid = "FULL", "secret"
    row = next(row for row in kit.run(steps, mail).queued if row.sender is not None)
    assert (row.recipients[0].notify, row.ret, row.envid) == (0, "", "")
    assert len(kit.notices.written) == 1


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [(0, 0, 0), (NOTIFY_NEVER, 0, NOTIFY_FAILURE | NOTIFY_DELAY), (NOTIFY_NEVER, NOTIFY_FAILURE, NOTIFY_FAILURE)],
)
def test_a_forward_of_several_recipients_has_the_wishes_of_all(kit: Any, first: int, second: int, result: int) -> None:
    recipients = [Recipient(address(f"{n}@here.org"), f"{n}@here.org", w) for n, w in (("alice", first), ("bob", second))]
    steps = [("RecipientIsLocal", "Forward", {"to": "x@far.org"}), ("All", "RemoteDelivery")]
    (row,) = kit.run(steps, kit.mail(*recipients)).queued
    assert row.recipients[0].notify == result


def test_a_refused_forward_refuses_the_address_that_was_asked_for(kit: Any) -> None:
    steps = [("All", "Forward", {"to": "x@far.org"}), ("All", "Reject")]
    assert {str(address) for address in kit.run(steps, kit.mail("alice@here.org", "bob@here.org")).refused} == {
        "alice@here.org",
        "bob@here.org",
    }


# Copy


def test_copy_adds_a_mail_and_changes_nothing(kit: Any) -> None:
    steps = [
        ("All", "AddHeader", {"name": "X-A", "value": "1"}),
        ("All", "Copy", {"to": ["journal@far.org", "carol@here.org"]}),
        ("RecipientIsLocal", "LocalDelivery"),
        ("RelayAllowed", "RemoteDelivery"),
    ]
    mail = kit.mail("alice@here.org")
    plan = kit.run(steps, mail)
    assert fates(plan) == {"alice@here.org": "mailbox", "carol@here.org": "mailbox", "journal@far.org": "relay"}
    (row,) = plan.queued
    assert row.rendering.content is mail.content
    assert row.rendering.prefix == b"X-A: 1\r\nX-A: 1\r\n", "a copy that starts in root runs root"
    assert row.recipients[0].notify == NOTIFY_NEVER, "the sender hears nothing of a journal"
    assert str(row.sender) == "sam@elsewhere.org"


def test_copy_starts_in_its_own_processor(kit: Any) -> None:
    pipeline = {
        "root": [
            ("All", "AddHeader", {"name": "X-A", "value": "1"}),
            ("All", "Copy", {"to": "x@far.org", "state": "journal"}),
            END,
        ],
        "journal": [("All", "RemoteDelivery", {"route": "archive"})],
    }
    plan = kit.run(pipeline, kit.mail("alice@here.org"))
    assert (plan.queued[0].route, plan.queued[0].rendering.prefix) == ("archive", b"X-A: 1\r\n")


def test_copies_of_notices_but_no_copies_of_copies(kit: Any) -> None:
    steps = [
        ("All", "Copy", {"to": "x@far.org", "sender": "null"}),
        ("All", "Copy", {"to": "y@far.org", "sender": "null"}),
        ("RelayAllowed", "RemoteDelivery"),
        ("SentByMailet", "LocalDelivery"),
        ("All", "Bounce"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", sender="bob@here.org"))
    copies = [str(recipient.address) for row in plan.queued for recipient in row.recipients]
    assert sorted(copies) == ["bob@here.org", "x@far.org", "x@far.org", "y@far.org", "y@far.org"]


def test_a_copy_to_an_unknown_local_address_is_not_lost(kit: Any) -> None:
    plan = kit.run(
        [("All", "Copy", {"to": "gone@here.org"}), ("RecipientIsLocal", "LocalDelivery")], kit.mail("alice@here.org")
    )
    assert fates(plan) == {"alice@here.org": "mailbox", "gone@here.org": "no such user here (no notice is wanted)"}
