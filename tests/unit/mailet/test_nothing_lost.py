"""The invariant: in any pipeline, every recipient ends in exactly one place of the plan.

Nothing is lost (each address of the envelope is stood for by an outcome, or refused), nobody is in it twice, and a refused
address has no other fate. It holds for what goes on from the queue later, too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from rusmes import log
from rusmes.errors import AuthUnavailable, ConfigError
from rusmes.mailet import api
from rusmes.mailet.api import CONTINUE, Decision, Split, Submit
from rusmes.model.address import Address
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Plan, Refusal

STATES = ("root", "error", "one", "two")
LOCAL = ("alice@here.org", "bob@here.org", "carol@here.org", "sales@here.org", "loop@here.org", "gone@here.org")
NAMES = (*LOCAL, "x@far.org", "y@far.org")
MADE_HERE = {"copy@other.org", "sam@elsewhere.org"}
"""Recipients of mails that are made on the way."""
ALIASES = {
    "sales@here.org": ["alice@here.org", "x@far.org", "gone@here.org"],
    "loop@here.org": ["loop2@here.org"],
    "loop2@here.org": ["loop@here.org"],
}


def address(text: str) -> Address:
    return Address(*text.split("@"))


class Choice(Struct):
    index: int = 0


class Wild:
    """A mailet that does what a number says, at once or later."""

    Parameters = Choice

    def __init__(self, parameters: Choice, toolbox: Any) -> None:
        self.index = parameters.index
        self.toolbox = toolbox

    def service(self, mail: Mail) -> Any:
        return self._later(mail) if self.index % 2 else self._decide(mail)

    async def _later(self, mail: Mail) -> Decision:
        await asyncio.sleep(0)
        return self._decide(mail)

    def _decide(self, mail: Mail) -> Decision:
        kind = self.index // 2 % 12
        first, *others = mail.recipients
        if kind == 0:
            raise RuntimeError("wild")
        if kind == 1:
            raise AuthUnavailable("wild")
        if kind == 2:
            mail.recipients = others or [first]
            return CONTINUE
        if kind == 3:
            made = Recipient(address("made@far.org"), forwarded=True, via=first.standing_for)
            mail.recipients = [made, *others]
            return CONTINUE
        if kind == 4:
            parts = [((first,), api.Goto("two"))]
            return Split(tuple(parts + [((r,), api.Drop("split")) for r in others[:1]]))
        if kind == 5:
            return Split((((first,), api.Reject(Refusal(550, "5.7.1", "wild"))),))
        if kind == 6:
            return Split((((first,), api.Reject(Refusal(451, "4.7.1", "wild"))),))
        if kind == 7:
            return Submit((self._another(mail),), CONTINUE)
        if kind == 8:
            return Submit((self._another(mail),), api.Bounce("wild"))
        if kind == 9:
            return api.Goto("nowhere")
        if kind == 10:
            mail.recipients = [*mail.recipients, *mail.recipients]
            return CONTINUE
        mail.recipients = []
        raise ValueError("half way")

    def _another(self, mail: Mail) -> Mail:
        clock = self.toolbox.clock
        body = type(mail.content)(self.toolbox.new_id(), 2, 2, data=b"\r\n")
        return Mail(self.toolbox.new_id(), None, [Recipient(address("copy@other.org"))], body, mail.origin, created=clock.now())


class WildMatcher:
    Parameters = Choice

    def __init__(self, parameters: Choice, toolbox: Any) -> None:
        self.index = parameters.index

    def match(self, mail: Mail) -> Any:
        kind = self.index % 6
        if kind == 0:
            raise RuntimeError("wild")
        if kind == 1:
            return mail.recipients[::2]
        if kind == 2:
            return set(mail.recipients[1:])
        if kind == 3:
            return [Recipient(address("stranger@far.org")), *mail.recipients[:1]]
        if kind == 4:
            return ["alice@here.org"]
        return None


small = st.integers(0, 23)
matchers = st.one_of(
    st.sampled_from(["All", "RecipientIsLocal", "RelayAllowed", "!RecipientIsLocal", "RecipientIs=bob@here.org", "SenderIsNull",
                     "SentByMailet", "AtMost=1", "HasHeader=X-A", "TooManyRecipients=2"]),
    st.sampled_from(NAMES).map(lambda name: {"any": [f"RecipientIs={name}", "RecipientIs=x@far.org"]}),
    small.map(lambda n: f"WildMatcher={n}"),
)  # fmt: skip
mailets = st.one_of(
    st.sampled_from([
        ("LocalDelivery", {}), ("RemoteDelivery", {}), ("Null", {}), ("Hold", {}), ("Bounce", {}), ("Reject", {}),
        ("Reject", {"code": 451, "status": "4.0.0"}), ("DSNBounce", {"pass_through": True}), ("RecipientRewrite", {}),
        ("Defer", {"delay": "1m"}), ("AddHeader", {"name": "X-A", "value": "{recipient}", "per_recipient": True}),
        ("RemoveHeader", {"names": "X-A"}), ("Forward", {"to": "y@far.org, bob@here.org"}),
        ("Forward", {"to": "x@far.org", "keep": True}), ("PostmasterAlias", {}), ("SetAttribute", {"name": "a"}),
    ]),
    st.sampled_from(STATES).map(lambda state: ("ToProcessor", {"processor": state})),
    small.map(lambda n: ("Wild", {"index": n})),
)  # fmt: skip
steps = st.builds(
    lambda matcher, mailet, on_match, on_mailet, later: {
        "matcher": matcher, "mailet": mailet[0], "params": mailet[1], "on_match_exception": on_match,
        "on_mailet_exception": on_mailet, "after_accept": later,
    },
    matchers,
    mailets,
    st.sampled_from(["error", "nomatch", "matchall"]),
    st.sampled_from(["error", "ignore"]),
    st.sampled_from([None, None, None, True]),
)  # fmt: skip
pipelines = st.fixed_dictionaries({state: st.lists(steps, max_size=5) for state in STATES})


def check(plan: Plan, mail: Mail, envelope: set[str]) -> None:
    """The invariant, for the mail itself; mails made on the way have addresses of their own."""
    mine = mail.content.id
    outcomes = [append.recipient for append in plan.appends if append.rendering.content.id == mine]
    outcomes += [r for row in plan.queued if row.rendering.content.id == mine for r in row.recipients]
    outcomes += [r for r, _ in plan.dropped if MADE_HERE.isdisjoint(map(str, r.standing_for))]
    # Identity, not equality: a configuration may well forward to one address in two steps.
    twice = [name for name, count in Counter(id(recipient) for recipient in outcomes).items() if count > 1]
    assert not twice, f"there twice: {outcomes}"
    stood_for = {str(address) for recipient in outcomes for address in recipient.standing_for}
    refused = {str(address) for address in plan.refused}
    assert stood_for | refused == envelope, f"lost or invented: {stood_for | refused ^ envelope}"
    assert not stood_for & refused, f"refused, and yet accepted: {stood_for & refused}"


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Any:
    before = log._CURRENT.sink
    log.configure(log.LogSink(lambda lines: None, level="error"))
    yield
    log.configure(before)


@settings(max_examples=50, deadline=None)
@given(
    pipeline=pipelines,
    recipients=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6),
    in_session=st.booleans(),
    budget=st.sampled_from([30.0, 30.0, -1.0]),
    sender=st.sampled_from(["sam@elsewhere.org", None]),
)
def test_every_recipient_ends_in_exactly_one_place(
    fresh_kit: Any, pipeline: Any, recipients: list[str], in_session: bool, budget: float, sender: str | None
) -> None:
    kit = fresh_kit()
    kit.mailets["Wild"] = Wild
    kit.matchers["WildMatcher"] = WildMatcher
    kit.directory.aliases = dict(ALIASES)
    try:
        built = kit.build(pipeline)
    except ConfigError:
        return  # it goes round for ever; tests/unit/mailet/test_assembly.py has that
    mail = kit.mail(*recipients, sender=sender)
    plan = kit.run(built, mail, accepted=not in_session, budget=budget)
    assert in_session or not plan.refused
    check(plan, mail, set(recipients))
    for _ in range(3):
        waiting = [row for row in plan.queued if row.action == "resume" and row.rendering.content is mail.content][:2]
        for row in waiting:
            again = kit.again(Plan(queued=[row]))
            envelope = {str(address) for recipient in row.recipients for address in recipient.standing_for}
            plan = kit.run(built, again, accepted=True)
            assert not plan.refused
            check(plan, again, envelope)
