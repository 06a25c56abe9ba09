"""The configuration's words: matcher forms, parameters, states; every mistake names its place and the way out."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from rusmes.config import schema
from rusmes.config.problems import InvalidConfig
from rusmes.errors import ConfigError
from rusmes.mailet.api import CONTINUE
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry

END = ("All", "LocalDelivery")


def chosen(kit: Any, matcher: Any, *recipients: str, matchers: Any = None, **step: Any) -> list[str]:
    """Who a matcher chooses."""
    steps = [{"matcher": matcher, "mailet": "Null", **step}, ("All", "Reject")]
    pipeline = kit.build(steps, matchers=matchers or {}, rewrite=False)
    plan = kit.run(pipeline, kit.mail(*(recipients or ("alice@here.org", "bob@here.org", "x@far.org"))))
    return [recipient.address.local for recipient, _ in plan.dropped]


@pytest.mark.parametrize(
    ("matcher", "locals_"),
    [
        ("All", ["alice", "bob", "x"]),
        ("!All", []),
        ("RecipientIs=bob@here.org", ["bob"]),
        ("RecipientIs = bob@here.org, alice@here.org", ["alice", "bob"]),
        ("!RecipientIs=bob@here.org", ["alice", "x"]),
        ("! RecipientIs=bob@here.org", ["alice", "x"]),
        ("!!RecipientIs=bob@here.org", ["bob"]),
        ({"all": ["RecipientIsLocal", "!RecipientIs=bob@here.org"]}, ["alice"]),
        ({"all": ["All", "RecipientIsLocal"]}, ["alice", "bob"]),
        ({"all": ["All", "All"]}, ["alice", "bob", "x"]),
        ({"all": ["!All", "All"]}, []),
        ({"any": ["RecipientIs=bob@here.org", "RecipientDomainIs=far.org"]}, ["bob", "x"]),
        ({"any": ["!All", "All"]}, ["alice", "bob", "x"]),
        ({"any": ["!All"]}, []),
        ({"not": "RecipientIsLocal"}, ["x"]),
        ({"not": {"any": ["RecipientIsLocal", "SenderIsNull"]}}, ["x"]),
        ({"matcher": "RecipientIs", "params": {"addresses": ["x@far.org"]}}, ["x"]),
        ({"not": {"matcher": "!RecipientIs", "params": {"addresses": "x@far.org"}}}, ["x"]),
    ],
    ids=str,
)
def test_matcher_forms(kit: Any, matcher: Any, locals_: list[str]) -> None:
    assert chosen(kit, matcher) == locals_


def test_notmatch(kit: Any) -> None:
    assert chosen(kit, "All", notmatch="RecipientIs=bob@here.org") == ["alice", "x"]


def test_and_or_not_by_name(kit: Any) -> None:
    both = {"matchers": ["RecipientIsLocal", "RecipientIs=bob@here.org"]}
    assert chosen(kit, "And", matcher_params=both) == ["bob"]
    assert chosen(kit, "Or", matcher_params=both) == ["alice", "bob"]
    assert chosen(kit, "Not", matcher_params=both) == ["x"]
    assert chosen(kit, "Not", matcher_params={"matchers": ["RecipientIsLocal"]}) == ["x"]
    assert chosen(kit, "!Not", matcher_params={"matchers": ["RecipientIsLocal"]}) == ["alice", "bob"]


def test_named_matchers_of_a_processor(kit: Any) -> None:
    named = {"team": {"any": ["RecipientIs=bob@here.org", "boss"]}, "boss": "RecipientIs=alice@here.org"}
    assert chosen(kit, "team", matchers=named) == ["alice", "bob"]
    assert chosen(kit, "!team", matchers=named) == ["x"]
    assert chosen(kit, {"all": ["team", "!boss"]}, matchers=named) == ["bob"]


def test_one_table_of_parameters_serves_both(kit: Any) -> None:
    """As in the reference configuration: `limit` is the matcher's, the others are the mailet's."""
    params = {"limit": 2, "code": 452, "status": "4.5.3", "text": "too many recipients"}
    plan = kit.run([("TooManyRecipients", "Reject", params), END], kit.mail("a@here.org", "b@here.org", "c@here.org"))
    assert {refusal.code for refusal in plan.refused.values()} == {550}, "unknown users come first"
    plan = kit.run([("TooManyRecipients", "Reject", params), END], kit.mail("alice@here.org", "bob@here.org", "carol@here.org"))
    assert {(refusal.code, refusal.text) for refusal in plan.refused.values()} == {(452, "too many recipients")}


def test_a_condition_leaves_the_parameters_to_the_mailet(kit: Any) -> None:
    step = {"matcher": "HasMailAttribute=a", "mailet": "SetAttribute", "params": {"name": "b"}}
    kit.build([step, END])


def test_matcher_params(kit: Any) -> None:
    matcher = {"name": "a", "value": 3}
    steps = [
        {"mailet": "SetAttribute", "params": {"name": "a", "value": 3}},
        {"matcher": "HasMailAttribute", "mailet": "SetAttribute", "params": {"name": "b"}, "matcher_params": matcher},
        ("HasMailAttribute=b", "Null"),
        END,
    ]
    assert len(kit.run(steps, kit.mail()).dropped) == 1


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"mailet": "LocalDelivry"}, ["mailets[0].mailet", "'LocalDelivry'", 'did you mean "LocalDelivery"']),
        ({"matcher": "RecipientIsLocl", "mailet": "Null"}, ["mailets[0].matcher", 'did you mean "RecipientIsLocal"']),
        ({"mailet": "Reject", "params": {"cod": 550}}, ["'root', step 1", "mailets[0].params.cod", 'did you mean "code"']),
        ({"mailet": "Reject", "params": {"code": "550"}}, ["mailet Reject", "parameter 'code'", "Expected `int`, got `str`"]),
        ({"mailet": "Reject", "params": {"code": 250, "status": "2.0.0"}}, ["'code'", ">= 400"]),
        ({"mailet": "Reject", "params": {"code": 450}}, ["status 5.7.1 does not belong to code 450"]),
        ({"mailet": "Reject", "params": {"status": "5.7"}}, ["'status'"]),
        ({"mailet": "Reject", "params": {"text": "two\r\nlines"}}, ["one line"]),
        ({"mailet": "ToProcessor"}, ["the parameter 'processor' is missing"]),
        ({"mailet": "ToProcessor", "params": {"processor": "errr"}}, ["no processor handles", 'did you mean "error"']),
        ({"mailet": "Defer", "params": {"delay": "soon"}}, ["'delay'", "30s"]),
        ({"mailet": "Defer", "params": {"delay": 10, "times": 0}}, ["'times'", ">= 1"]),
        ({"matcher": "RelayLimit=many", "mailet": "Null"}, ["matcher RelayLimit", "condition 'many'"]),
        ({"matcher": "RelayLimit=0", "mailet": "Null"}, ["'limit'", ">= 1"]),
        ({"matcher": "All=x", "mailet": "Null"}, ["matcher All", "takes no condition"]),
        ({"matcher": "SizeGreaterThan=big", "mailet": "Null"}, ["'size'", "64KB"]),
        ({"matcher": "SizeGreaterThan", "mailet": "Null"}, ["the parameter 'size' is missing"]),
        ({"matcher": "RecipientIs=bob", "mailet": "Null"}, ["'addresses'", "is not an address"]),
        ({"matcher": "RecipientIs=", "mailet": "Null"}, ["the list is empty"]),
        ({"matcher": "RecipientDomainIs=a b@c", "mailet": "Null"}, ["'domains'", "not a domain"]),
        ({"matcher": "RemoteAddrInNetwork=10.0.0.300/8", "mailet": "Null"}, ["'networks'"]),
        ({"matcher": "SenderIsRegex=(", "mailet": "Null"}, ["'pattern'", "no regular expression"]),
        ({"matcher": "SenderIsRegex=^(a+)+$", "mailet": "Null"}, ["exponential time"]),
        ({"matcher": "", "mailet": "Null"}, ["there is no matcher ''"]),
        ({"matcher": 5, "mailet": "Null"}, ["a string or a table"]),
        ({"matcher": {"al": ["All"]}, "mailet": "Null"}, ["'al' is no composite"]),
        ({"matcher": {"all": []}, "mailet": "Null"}, ["all takes a list"]),
        ({"matcher": {"all": "All"}, "mailet": "Null"}, ["all takes a list"]),
        ({"matcher": {"all": ["All"], "any": ["All"]}, "mailet": "Null"}, ["one of all, any, not"]),
        ({"matcher": {"matcher": "All", "parms": {}}, "mailet": "Null"}, ["matcher and params"]),
        ({"matcher": {"all": ["All", "Al"]}, "mailet": "Null"}, ["mailets[0].matcher.all[1]", 'did you mean "All"']),
        ({"matcher": "And", "mailet": "Null"}, ["And takes matcher_params"]),
        ({"matcher": "All", "notmatch": "All", "mailet": "Null"}, []),
        ({"matcher": "RecipientIsLocal", "notmatch": "All", "mailet": "Null"}, ["exclude each other"]),
        ({"mailet": "Null", "on_mailet_exception": "ignor"}, ["on_mailet_exception", 'did you mean "ignore"']),
        ({"mailet": "Null", "on_match_exception": "ignore"}, ["on_match_exception"]),
        ({"mailet": "Null", "on_mailet_exception": "root"}, ["leads back to its own processor"]),
        ({"matcher": "HasHeader", "mailet": "AddHeader", "params": {"nme": "x"}}, ["neither HasHeader nor AddHeader"]),
        (
            {"matcher": "HasMailAttribute", "mailet": "SetAttribute", "params": {"name": "x"}},
            ["both HasMailAttribute and SetAttribute", "matcher_params"],
        ),
        ({"mailet": "AddHeader", "params": {"name": "X Y", "value": "1"}}, ["no name of a header field"]),
        ({"mailet": "AddHeader", "params": {"name": "X", "value": "1\r\nY: 2"}}, ["no line ends"]),
        ({"mailet": "SetAttribute", "params": {"name": "rusmes.resume"}}, ["not for configurations"]),
        ({"mailet": "Forward", "params": {"to": "x@far.org", "sender": "nobody"}}, ["sender:"]),
        ({"mailet": "Copy", "params": {"to": "x@far.org", "state": "journal"}}, ["no processor handles the state 'journal'"]),
        ({"mailet": "Metrics", "params": {"event": "a b"}}, ["'event'"]),
        ({"mailet": "LogMessage", "params": {"level": "loud"}}, ["'level'"]),
    ],
    ids=str,
)
def test_mistakes(kit: Any, step: dict[str, Any], words: list[str]) -> None:
    if not words:
        kit.build([step, END])
        return
    with pytest.raises(ConfigError) as caught:
        kit.build([step, END])
    text = f"{caught.value.public} ({caught.value.hint})"
    for word in words:
        assert word in text
    assert caught.value.key.startswith("processors[0]")


def test_all_mistakes_are_told_at_once(kit: Any) -> None:
    """In the order of the file; one alone is what it is."""
    bad = (
        schema.Step(mailet="Nul"),
        schema.Step(matcher="Alll", mailet="Null"),
        schema.Step(mailet="Null", on_mailet_exception="ignor"),
    )
    processors = (
        schema.Processor(name="root", state="root", mailets=bad),
        schema.Processor(name="again", state="root", mailets=(schema.Step(mailet="Null"),)),
        schema.Processor(name="side", state="side", mailets=(schema.Step(mailet="ToProcesor"),)),
    )
    with pytest.raises(InvalidConfig) as caught:
        Pipeline.build(processors, kit.toolbox, Registry.load())
    assert [problem.key for problem in caught.value.problems] == [
        "processors[1].state",
        "processors[0].mailets[0].mailet",
        "processors[0].mailets[1].matcher",
        "processors[0].mailets[2].on_mailet_exception",
        "processors[2].mailets[0].mailet",
    ]


def test_a_matcher_made_of_itself(kit: Any) -> None:
    with pytest.raises(ConfigError, match="made of itself"):
        kit.build([("a", "Null"), END], matchers={"a": {"not": "b"}, "b": {"all": ["a"]}})


def test_a_matcher_that_is_nested_without_end(kit: Any) -> None:
    with pytest.raises(ConfigError, match="too deep"):
        kit.build([("!" * 50 + "All", "Null"), END])


@pytest.mark.parametrize(
    ("processors", "words"),
    [
        ((schema.Processor(name="a", state="side"),), 'no processor has the state "root"'),
        ((schema.Processor(name="a", state="root"), schema.Processor(name="b", state="root")), "has a processor already"),
        ((schema.Processor(name="a", state=""),), "has no state"),
    ],
)
def test_states(kit: Any, processors: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Pipeline.build(processors, kit.toolbox, Registry())


def test_error_is_there_without_being_named(kit: Any) -> None:
    pipeline = kit.build([END])
    assert pipeline.states == ("root", "error")
    assert pipeline.warnings == []


def test_the_implicit_first_step(kit: Any) -> None:
    def labels(**options: Any) -> list[str]:
        return [step.label for step in kit.build(**options).steps("root")]

    assert labels()[0] == "All=>RecipientRewrite"
    assert labels(rewrite=False)[0] == "RelayLimit=>Reject"
    assert labels(processors=[("All", "RecipientRewrite"), END]) == ["All=>RecipientRewrite", "All=>LocalDelivery"]
    own = {"root": [("All", "ToProcessor", {"processor": "side"})], "side": [("All", "RecipientRewrite"), END]}
    assert labels(processors=own) == ["All=>ToProcessor"]


def test_step_options(kit: Any) -> None:
    pipeline = kit.build([{"mailet": "Null", "timeout": 5.0, "after_accept": True}, END], default_timeout=9.0)
    _, one, two = pipeline.steps("root")
    assert (one.timeout, one.after_accept) == (5.0, True)
    assert (two.timeout, two.after_accept) == (9.0, False)


# Static checks


def test_a_state_nobody_enters(kit: Any) -> None:
    assert kit.build({"root": [END], "side": [END]}).warnings == ["no step leads to processor 'side'"]


@pytest.mark.parametrize(
    "way",
    [
        {"matcher": "SenderIsNull", "mailet": "ToProcessor", "params": {"processor": "side"}},
        {"matcher": "SenderIsNull", "mailet": "Null", "on_match_exception": "side"},
        {"matcher": "SenderIsNull", "mailet": "Null", "on_mailet_exception": "side"},
        {"mailet": "Copy", "params": {"to": "x@far.org", "state": "side"}},
    ],
)
def test_ways_into_a_state(kit: Any, way: Any) -> None:
    assert kit.build({"root": [way, END], "side": [END]}).warnings == []


def test_a_path_that_ends_undecided(kit: Any) -> None:
    (warning,) = kit.build([("RecipientIsLocal", "LocalDelivery")]).warnings
    assert "end of processor 'root' undecided" in warning
    (warning,) = kit.build([{"mailet": "LocalDelivery", "on_mailet_exception": "ignore"}]).warnings
    assert "undecided" in warning
    (warning,) = kit.build([("All", "DSNBounce", {"pass_through": True})]).warnings
    assert "undecided" in warning


def test_a_step_that_is_never_reached(kit: Any) -> None:
    (warning,) = kit.build([END, ("SenderIsNull", "Null")]).warnings
    assert warning == "processor 'root': step SenderIsNull=>Null is never reached"


def test_cycles(kit: Any) -> None:
    def to(state: str, matcher: str = "All") -> Any:
        return (matcher, "ToProcessor", {"processor": state})

    with pytest.raises(ConfigError, match="go round for ever: root -> side -> root"):
        kit.build({"root": [to("side")], "side": [("All", "SetAttribute", {"name": "x"}), to("root")]})
    with pytest.raises(ConfigError, match="for ever: root -> root"):
        kit.build({"root": [to("root")]})
    (warning,) = kit.build({"root": [to("side")], "side": [to("root", "AtMost=3"), END]}).warnings
    assert "can go round: root -> side -> root" in warning


# Third parties


def test_a_third_partys_classes(kit: Any) -> None:
    class Sized(Struct):
        limit: int

    class Longer:
        Parameters = Sized

        def __init__(self, parameters: Sized, toolbox: Any) -> None:
            self.limit = parameters.limit

        def match(self, mail: Any) -> Any:
            return [r for r in mail.recipients if len(r.address.local) > self.limit]

    class Counts:
        Parameters = Sized

        def __init__(self, parameters: Sized, toolbox: Any) -> None:
            self.toolbox = toolbox

        def service(self, mail: Any) -> Any:
            self.toolbox.count("counted")
            return CONTINUE

    kit.matchers["Longer"] = Longer
    kit.mailets["Counts"] = Counts
    steps = [
        {"matcher": "Longer=3", "mailet": "Null"},
        {"mailet": "Counts", "params": {"limit": 1}},
        END,
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", "bob@here.org"))
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    assert kit.events == ["counted"]
    with pytest.raises(ConfigError, match="name of a built-in"):
        Registry({"All": Longer})


def test_entry_points(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from rusmes.mailet import registry

    points = {
        "rusmes.mailets": [
            EntryPoint("Drop", "rusmes.mailet.mailets.ends:Null", "rusmes.mailets"),
            EntryPoint("Missing", "no_such_package:Thing", "rusmes.mailets"),
            EntryPoint("Odd", "rusmes.mailet.mailets.ends:STATUS", "rusmes.mailets"),
        ],
        "rusmes.matchers": [],
    }
    monkeypatch.setattr(registry, "entry_points", lambda group: points[group])
    loaded = Registry.load()
    assert "Drop" in loaded.mailet_names
    root = schema.Processor(name="root", state="root", mailets=(schema.Step(mailet="Drop"),))
    pipeline = Pipeline.build((root,), kit.toolbox, loaded)
    assert len(kit.run(pipeline, kit.mail()).dropped) == 1
    with pytest.raises(ConfigError, match="cannot be imported: ModuleNotFoundError"):
        loaded.mailet("Missing")
    with pytest.raises(ConfigError, match="has no Parameters"):
        loaded.mailet("Odd")
    points["rusmes.mailets"].append(EntryPoint("Drop", "other:Null", "rusmes.mailets"))
    with pytest.raises(ConfigError, match="two packages give 'Drop'"):
        Registry.load()
