"""Every built-in matcher: whom it chooses."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rusmes.mailet.matchers import BUILT_IN
from rusmes.mailet.parameters import Pattern
from rusmes.model.content import Content

LOCAL = ("alice@here.org", "bob@here.org", "x@far.org")


def chosen(kit: Any, matcher: Any, mail: Any = None, **step: Any) -> list[str]:
    steps = [{"matcher": matcher, "mailet": "Null", **step}, ("All", "Hold")]
    plan = kit.run(kit.build(steps, rewrite=False), mail or kit.mail(*LOCAL))
    return [recipient.address.local for recipient, _ in plan.dropped]


def test_all_of_them_are_there() -> None:
    names = """All RecipientIsLocal HostIsLocal RelayAllowed SMTPAuthSuccessful RemoteAddrInNetwork SenderIs SenderIsNull
        SenderIsLocal SenderDomainIs RecipientIs RecipientDomainIs SenderIsRegex SenderDomainIsRegex RecipientIsRegex
        RecipientDomainIsRegex HasHeader HeaderMatches SizeGreaterThan RelayLimit TooManyRecipients HasMailAttribute AtMost
        SentByMailet IsForwarded"""
    assert set(names.split()) <= set(BUILT_IN)


@pytest.mark.parametrize(
    ("matcher", "locals_"),
    [
        ("RecipientIsLocal", ["alice", "bob"]),
        ("HostIsLocal", ["alice", "bob"]),
        ("RecipientIs=ALICE@Here.ORG", ["alice"]),
        ("RecipientIsRegex=^(alice|x)@", ["alice", "x"]),
        ("RecipientIsRegex=HERE", ["alice", "bob"]),
        ("RecipientDomainIs=here.org,near.org", ["alice", "bob"]),
        ("RecipientDomainIs=.org", ["alice", "bob", "x"]),
        ("RecipientDomainIs=.far.org", []),
        ("RecipientDomainIsRegex=^far", ["x"]),
    ],
)
def test_recipients(kit: Any, matcher: str, locals_: list[str]) -> None:
    assert chosen(kit, matcher) == locals_


def test_host_is_local_knows_no_accounts(kit: Any) -> None:
    assert chosen(kit, "HostIsLocal", kit.mail("nobody@here.org")) == ["nobody"]
    assert chosen(kit, "RecipientIsLocal", kit.mail("nobody@here.org")) == []


def test_domains_below(kit: Any) -> None:
    mail = kit.mail("a@far.org", "b@mail.far.org", "c@notfar.org")
    assert chosen(kit, "RecipientDomainIs=.far.org", mail) == ["b"]
    mail = kit.mail("a@far.org", "b@mail.far.org", "c@notfar.org")
    assert chosen(kit, {"any": ["RecipientDomainIs=far.org .far.org"]}, mail) == ["a", "b"]


def test_domains_are_compared_as_a_labels(kit: Any) -> None:
    assert chosen(kit, "RecipientDomainIs=Bücher.example", kit.mail("a@xn--bcher-kva.example")) == ["a"]


@pytest.mark.parametrize(
    ("matcher", "sender", "matches"),
    [
        ("SenderIs=Sam@Elsewhere.org", "sam@elsewhere.org", True),
        ("SenderIs=sam@elsewhere.org", "other@elsewhere.org", False),
        ("SenderIs=sam@elsewhere.org", None, False),
        ("SenderIsRegex=^s.m@", "sam@elsewhere.org", True),
        ("SenderIsRegex=.*", None, False),
        ("SenderIsNull", None, True),
        ("SenderIsNull", "sam@elsewhere.org", False),
        ("SenderIsLocal", "alice@here.org", True),
        ("SenderIsLocal", "sam@elsewhere.org", False),
        ("SenderIsLocal", None, False),
        ("SenderDomainIs=elsewhere.org", "sam@elsewhere.org", True),
        ("SenderDomainIs=.elsewhere.org", "sam@a.elsewhere.org", True),
        ("SenderDomainIs=elsewhere.org", None, False),
        ("SenderDomainIsRegex=where", "sam@elsewhere.org", True),
        ("SenderDomainIsRegex=where", None, False),
    ],
)
def test_senders(kit: Any, matcher: str, sender: str | None, matches: bool) -> None:
    assert bool(chosen(kit, matcher, kit.mail(sender=sender))) is matches


def test_relay_allowed(kit: Any) -> None:
    from rusmes.model.mail import Recipient

    forwarded = Recipient(kit.recipient("f@far.org").address, forwarded=True)
    assert chosen(kit, "RelayAllowed", kit.mail("x@far.org", forwarded)) == ["f"]
    assert chosen(kit, "RelayAllowed", kit.mail("x@far.org", forwarded, trusted=True)) == ["x", "f"]


def test_authentication(kit: Any) -> None:
    assert chosen(kit, "SMTPAuthSuccessful") == []
    assert chosen(kit, "SMTPAuthSuccessful", kit.mail(account="alice@here.org")) == ["alice"]


@pytest.mark.parametrize(
    ("client", "matches"),
    [
        ("192.0.2.1", True), ("192.0.3.1", False), ("2001:db8::5", True), ("::ffff:192.0.2.9", True), ("", False),
        ("no address", False), ("10.1.2.3", True),
    ],
)  # fmt: skip
def test_networks(kit: Any, client: str, matches: bool) -> None:
    matcher = "RemoteAddrInNetwork=192.0.2.0/24, 2001:db8::/32 10.1.2.3"
    assert bool(chosen(kit, matcher, kit.mail(client=client))) is matches
    step = {"matcher_params": {"networks": ["192.0.2.0/24", "2001:db8::/32", "10.1.2.3"]}}
    assert bool(chosen(kit, "RemoteAddrInNetwork", kit.mail(client=client), **step)) is matches


@pytest.mark.parametrize(
    ("matcher", "matches"),
    [
        ("HasHeader=subject", True),
        ("HasHeader=X-SPAM", True),
        ("HasHeader=X-Spa", False),
        ("HasHeader=hello", False),
        ("HasHeader=X-Spam=yes", True),
        ("HasHeader=X-Spam = yes", True),
        ("HasHeader=X-Spam=no", False),
    ],
)
def test_has_header(kit: Any, matcher: str, matches: bool) -> None:
    assert bool(chosen(kit, matcher, kit.mail())) is matches


def test_header_matchers_see_the_edits_of_steps_before(kit: Any) -> None:
    def run(*steps: Any) -> bool:
        plan = kit.run([*steps, ("All", "Hold")], kit.mail())
        return bool(plan.dropped)

    assert run(("All", "AddHeader", {"name": "X-New", "value": "1"}), ("HasHeader=x-new", "Null"))
    assert not run(("All", "RemoveHeader", {"names": "Subject"}), ("HasHeader=Subject", "Null"))
    replaced = ("All", "AddHeader", {"name": "Subject", "value": "three", "replace": True})
    assert run(
        replaced, {"matcher": "HeaderMatches", "mailet": "Null", "matcher_params": {"header": "subject", "pattern": "^three$"}}
    )
    assert not run(
        replaced, {"matcher": "HeaderMatches", "mailet": "Null", "matcher_params": {"header": "subject", "pattern": "one"}}
    )


def test_per_recipient_headers_match_their_recipients(kit: Any) -> None:
    steps = [
        {
            "matcher": "RecipientIs=bob@here.org",
            "mailet": "AddHeader",
            "params": {"name": "X-Bob", "value": "1", "per_recipient": True},
        },
        ("HasHeader=X-Bob=1", "Null"),
        ("All", "LocalDelivery"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", "bob@here.org"))
    assert [append.account for append in plan.appends] == ["alice@here.org"]


def test_header_matches_unfolds(kit: Any) -> None:
    params = {"matcher_params": {"header": "Subject", "pattern": "^one two$"}}
    assert chosen(kit, "HeaderMatches", **params) == ["alice", "bob", "x"]
    assert chosen(kit, "HeaderMatches", **{"matcher_params": {"header": "Subject", "pattern": "three"}}) == []


def test_header_matches_reads_a_bounded_part(kit: Any) -> None:
    body = b"X-Long: " + b"a" * 5000 + b"needle\r\n\r\n"
    params = {"matcher_params": {"header": "X-Long", "pattern": "needle"}}
    assert chosen(kit, "HeaderMatches", kit.mail(body=body), **params) == []


EXPONENTIAL = [
    "(a+)+", "(a*)*b", "(a+b?)*", "((a|b)+c?)+", "(?:x{2,}y*)+", "(a{0,500}b*)+", "(?=(a+)+)", "(a{1,3})+", "(a|ab)+",
    "(a|A.)*", "(a?b?)*", r"([a-z]+\.)+org", r"(\wa|\d)*x", "(a+){5}", "(?>(a+)+)",
]  # fmt: skip


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_patterns_that_can_take_exponential_time_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="inside a repeat"):
        Pattern(pattern)


@pytest.mark.parametrize("pattern", ["a*b*c*d*", ".*a.*b.*c", "^a*b*c*d*"])
def test_patterns_with_too_many_repeats_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="too many repeats"):
        Pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^a+b+$", "aab"), ("(a++)+", "aa"), ("(?>a+)+", "aa"), ("(abc)+", "abcabc"), ("^[a-z]+@(x|y)$", "a@x"),
        ("(?:a|b)*c", "abc"), (r"^(\w+)-\1$", "ab-ab"), (r"^([a-z0-9-]++\.)+org$", "a.b.org"), ("(foo|bar)+", "barfoo"),
        ("(a{3})+", "aaa"), ("(?i:x)?(?(1)a|b)?(y)?", ""), (r"\A.*-bounces\+.*@.*$", "list-bounces+x@y.org"),
    ],
)  # fmt: skip
def test_patterns_without_that_danger_are_taken(pattern: str, text: str) -> None:
    assert Pattern(pattern).search(text)


@pytest.mark.parametrize("pattern", ["a+a+$ b", "a*a* b", "a+$ b", "^a*a*a* b"])
def test_the_worst_patterns_that_are_taken_end_soon(kit: Any, pattern: str) -> None:
    body = b"X-Long: " + b"a" * 20000 + b"\r\n\r\n"
    params = {"matcher_params": {"header": "X-Long", "pattern": pattern}}
    started = time.process_time()
    assert chosen(kit, "HeaderMatches", kit.mail(body=body), **params) == []
    assert time.process_time() - started < 5


def test_size(kit: Any) -> None:
    mail = kit.mail(body=b"x" * 2048)
    assert chosen(kit, "SizeGreaterThan=2KB", mail) == []
    assert chosen(kit, "SizeGreaterThan=2047", kit.mail(body=b"x" * 2048)) == ["alice"]


def test_relay_limit_counts_fields_not_words(kit: Any) -> None:
    body = b"Received: a\r\n received: folded\r\nReceived : b\r\nX-Received: c\r\nRECEIVED:d\r\n\r\nReceived: body\r\n"
    assert chosen(kit, "RelayLimit=3", kit.mail(body=body)) == []
    assert chosen(kit, "RelayLimit=2", kit.mail(body=body)) == ["alice"]


def test_relay_limit_of_a_content_in_a_file(kit: Any, tmp_path: Any) -> None:
    data = b"Received: a\r\n" * 5 + b"\r\n" + b"Received: x\r\n" * 5
    (tmp_path / "blob").write_bytes(data)
    for limit, names in ((4, ["alice"]), (5, [])):
        mail = kit.mail()
        mail.content = Content(b"i" * 16, len(data), 5 * 13 + 2, path=str(tmp_path / "blob"))
        assert chosen(kit, f"RelayLimit={limit}", mail) == names


def test_removing_received_fields_does_not_hide_a_loop(kit: Any) -> None:
    steps = [("All", "RemoveHeader", {"names": "Received"}), ("RelayLimit=2", "Null"), ("All", "Hold")]
    assert len(kit.run(steps, kit.mail(body=b"Received: a\r\n" * 3 + b"\r\n")).dropped) == 1


def test_too_many_recipients(kit: Any) -> None:
    assert chosen(kit, "TooManyRecipients=3") == []
    assert chosen(kit, "TooManyRecipients=2") == ["alice", "bob", "x"]


def test_attributes(kit: Any) -> None:
    steps = [("All", "SetAttribute", {"name": "a", "value": "one"}), {"matcher": "HasMailAttribute=a=one", "mailet": "Null"}]
    assert len(kit.run(steps, kit.mail()).dropped) == 1
    assert chosen(kit, "HasMailAttribute=a") == []
    mail = kit.mail()
    mail.attributes["a"] = "two"
    assert chosen(kit, "HasMailAttribute=a=one", mail) == []
    assert chosen(kit, "HasMailAttribute=a", mail) == ["alice"]


def test_at_most_counts_over_processors_and_restarts(kit: Any) -> None:
    visit = {"matcher": "AtMost=3", "mailet": "ToProcessor", "params": {"processor": "root"}}
    plan = kit.run([visit, ("All", "Defer", {"delay": "1m"}), visit, ("All", "LocalDelivery")], kit.mail())
    assert plan.queued[0].attributes["rusmes.count.at_most"] == 3
    again = kit.again(plan)
    assert (
        len(kit.run([visit, ("All", "Defer", {"delay": "1m"}), visit, ("All", "LocalDelivery")], again, accepted=True).appends)
        == 1
    )


def test_sent_by_mailet(kit: Any) -> None:
    steps = [
        ("SentByMailet=Copy", "LocalDelivery", {"mailbox": "Journal"}),
        ("SentByMailet=notice", "LocalDelivery", {"mailbox": "Notices"}),
        ("All", "Copy", {"to": "bob@here.org"}),
        ("All", "Bounce"),
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", sender="carol@here.org"))
    assert [(append.account, append.mailbox) for append in plan.appends] == [
        ("bob@here.org", "Journal"),
        ("carol@here.org", "Notices"),
    ]
