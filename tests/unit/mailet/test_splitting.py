"""Subset matching: who runs which step, in which order, with which headers. James JAMES-3589 is the yardstick."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from rusmes.mailet.api import CONTINUE, EVERYONE, Decision, Drop
from rusmes.model.mail import Mail


class NoParameters(Struct):
    pass


class Label(Struct):
    name: str = ""


def remember(log: list[tuple[str, tuple[str, ...]]]) -> type:
    """A mailet that writes down who came by."""

    class Remember:
        Parameters = Label

        def __init__(self, parameters: Label, toolbox: Any) -> None:
            self.name = parameters.name

        def service(self, mail: Mail) -> Decision:
            log.append((self.name, tuple(r.address.local for r in mail.recipients)))
            return CONTINUE

    return Remember


def matcher(answer: Any) -> type:
    class Answers:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def match(self, mail: Mail) -> Any:
            return answer(mail) if callable(answer) else answer

    return Answers


@pytest.fixture
def log(kit: Any) -> list[tuple[str, tuple[str, ...]]]:
    seen: list[tuple[str, tuple[str, ...]]] = []
    kit.mailets["Remember"] = remember(seen)
    return seen


END = ("All", "Null")


def test_a_step_runs_once_for_each_recipient_and_the_copy_comes_first(kit: Any, log: Any) -> None:
    steps = [
        ("RecipientIs=bob@here.org", "Remember", {"name": "one"}),
        ("All", "Remember", {"name": "two"}),
        ("All", "Remember", {"name": "three"}),
        END,
    ]
    kit.run(steps, kit.mail("alice@here.org", "bob@here.org", "carol@here.org"))
    assert log == [
        ("one", ("bob",)),
        # Breadth first: both parts run step two before any runs step three.
        ("two", ("bob",)),
        ("two", ("alice", "carol")),
        ("three", ("bob",)),
        ("three", ("alice", "carol")),
    ]


def test_a_processor_switch_is_finished_before_the_other_parts_go_on(kit: Any, log: Any) -> None:
    pipeline = {
        "root": [
            ("RecipientIs=bob@here.org", "ToProcessor", {"processor": "side"}),
            ("All", "Remember", {"name": "root"}),
            END,
        ],
        "side": [("All", "Remember", {"name": "side one"}), ("All", "Remember", {"name": "side two"}), END],
    }
    kit.run(pipeline, kit.mail("alice@here.org", "bob@here.org"))
    assert log == [("side one", ("bob",)), ("side two", ("bob",)), ("root", ("alice",))]


def test_an_ending_part_does_not_stop_the_others(kit: Any) -> None:
    plan = kit.run([("RecipientIs=bob@here.org", "Null"), ("All", "LocalDelivery")], kit.mail("alice@here.org", "bob@here.org"))
    assert [append.account for append in plan.appends] == ["alice@here.org"]
    assert [str(recipient.address) for recipient, _ in plan.dropped] == ["bob@here.org"]


def test_nobody_and_none_skip_the_mailet(kit: Any, log: Any) -> None:
    for name, answer in (("Empty", ()), ("Nothing", None), ("EmptySet", set())):
        kit.matchers[name] = matcher(answer)
        kit.run([(name, "Remember"), END], kit.mail())
    assert log == []


def test_everyone_and_a_full_list_do_not_split(kit: Any) -> None:
    seen: list[int] = []

    class Identify:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            seen.append(id(mail))
            return CONTINUE

    kit.mailets["Identify"] = Identify
    kit.matchers["Full"] = matcher(lambda mail: set(mail.recipients))
    kit.matchers["Everyone"] = matcher(EVERYONE)
    mail = kit.mail("alice@here.org", "bob@here.org")
    kit.run([("Full", "Identify"), ("Everyone", "Identify"), ("All", "Identify"), END], mail)
    assert seen == [id(mail)] * 3


def test_a_matcher_cannot_add_recipients(kit: Any, log: Any) -> None:
    stranger = kit.recipient("x@far.org")
    kit.matchers["Invents"] = matcher(lambda mail: [stranger, mail.recipients[0]])
    plan = kit.run([("Invents", "Remember"), END], kit.mail("alice@here.org", "bob@here.org"))
    assert log == [("", ("alice",))]
    assert sorted(str(recipient.address) for recipient, _ in plan.dropped) == ["alice@here.org", "bob@here.org"]


def test_only_strangers_is_no_match(kit: Any, log: Any) -> None:
    kit.matchers["Invents"] = matcher([kit.recipient("x@far.org")])
    kit.run([("Invents", "Remember"), END], kit.mail())
    assert log == []


def test_a_matcher_may_answer_in_any_order_with_equal_objects(kit: Any, log: Any) -> None:
    kit.matchers["Reversed"] = matcher(lambda mail: [kit.recipient("carol@here.org"), kit.recipient("alice@here.org")])
    kit.run([("Reversed", "Remember"), END], kit.mail("alice@here.org", "bob@here.org", "carol@here.org"))
    assert log == [("", ("alice", "carol"))]


def test_an_answer_of_another_type_is_an_error(kit: Any) -> None:
    for name, answer in (("Text", ["alice@here.org"]), ("True", True)):
        kit.matchers[name] = matcher(answer)
        plan = kit.run([(name, "Null"), END], kit.mail())
        assert plan.queued[0].action == "hold"
        assert "TypeError" in plan.queued[0].reason


def test_parts_keep_their_own_edits(kit: Any) -> None:
    steps = [
        ("RecipientIs=bob@here.org", "AddHeader", {"name": "X-Bob", "value": "1"}),
        {"matcher": "RecipientIs=bob@here.org", "mailet": "SetAttribute", "params": {"name": "bob"}},
        ("HasMailAttribute=bob", "AddHeader", {"name": "X-Attribute", "value": "1"}),
        ("All", "LocalDelivery"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", "bob@here.org"))
    prefixes = {append.account: append.rendering.prefix for append in plan.appends}
    assert prefixes["alice@here.org"] == b"Return-Path: <sam@elsewhere.org>\r\n"
    assert prefixes["bob@here.org"] == b"Return-Path: <sam@elsewhere.org>\r\nX-Attribute: 1\r\nX-Bob: 1\r\n"


def test_per_recipient_headers_stay_with_their_recipients(kit: Any) -> None:
    steps = [
        ("All", "AddHeader", {"name": "X-For", "value": "<{recipient}>", "per_recipient": True}),
        {"matcher": "RecipientIs=bob@here.org", "mailet": "SetAttribute", "params": {"name": "split"}},
        ("RecipientIsLocal", "LocalDelivery"),
        ("All", "RemoteDelivery"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", "bob@here.org", "x@far.org", "y@far.org"))
    top = b"Return-Path: <sam@elsewhere.org>\r\n"
    for append in plan.appends:
        assert append.rendering.prefix == top + b"X-For: <" + append.account.encode() + b">\r\n"
    assert [(len(row.recipients), row.rendering.prefix) for row in plan.queued] == [
        (1, b"X-For: <x@far.org>\r\n"),
        (1, b"X-For: <y@far.org>\r\n"),
    ]
    contents = {id(made.rendering.content) for made in (*plan.appends, *plan.queued)}
    assert len(contents) == 1, "splitting copies no bytes"


def test_the_same_look_is_one_rendering(kit: Any) -> None:
    steps = [
        {"matcher": "RecipientIs=bob@here.org", "mailet": "SetAttribute", "params": {"name": "split"}},
        ("RecipientIsLocal", "LocalDelivery"),
        ("RecipientIs=x@far.org", "RemoteDelivery", {"route": "one"}),
        ("All", "RemoteDelivery"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", "bob@here.org", "carol@here.org", "x@far.org", "y@far.org"))
    assert len({id(append.rendering) for append in plan.appends}) == 1
    assert len(plan.queued) == 2
    assert plan.queued[0].rendering is plan.queued[1].rendering


def test_a_recipient_named_twice_gets_the_mail_once(kit: Any) -> None:
    plan = kit.run(None, kit.mail("alice@here.org", "alice@here.org"))
    assert len(plan.appends) == 1


def test_a_mailet_may_split_by_itself(kit: Any) -> None:
    from rusmes.mailet.api import Deliver, Split

    class Divider:
        Parameters = NoParameters

        def __init__(self, parameters: NoParameters, toolbox: Any) -> None:
            pass

        def service(self, mail: Mail) -> Decision:
            one, two, *_ = mail.recipients
            return Split((((one,), Drop("one")), ((two,), Deliver("Two"))))

    kit.mailets["Divider"] = Divider
    plan = kit.run([("All", "Divider"), ("All", "LocalDelivery")], kit.mail("alice@here.org", "bob@here.org", "carol@here.org"))
    assert [(append.account, append.mailbox) for append in plan.appends] == [
        ("bob@here.org", "Two"),
        ("carol@here.org", "INBOX"),
    ]
    assert [recipient.account for recipient, _ in plan.dropped] == ["alice@here.org"]


def test_a_split_about_strangers_or_twice_about_one_is_an_error(kit: Any) -> None:
    from rusmes.mailet.api import Split

    class Confused:
        Parameters = Label

        def __init__(self, parameters: Label, toolbox: Any) -> None:
            self.stranger = parameters.name

        def service(self, mail: Mail) -> Decision:
            first = mail.recipients[0]
            second = kit.recipient("x@far.org")
            return Split((((first,), Drop("once")), ((second if self.stranger else first,), Drop("twice"))))

    kit.mailets["Confused"] = Confused
    for name in ("", "stranger"):
        plan = kit.run([("All", "Confused", {"name": name}), END], kit.mail("alice@here.org", "bob@here.org"))
        assert [str(recipient.address) for recipient, _ in plan.dropped] == ["alice@here.org"]
        assert [str(recipient.address) for recipient in plan.queued[0].recipients] == ["bob@here.org"]
        assert "ValueError" in plan.queued[0].reason
