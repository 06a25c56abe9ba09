"""Which entries and recipients a filter means."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from rusmes.errors import NotAllowed
from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import CAMPAIGN, TENANT, QueueFilter, SiteLimits, Target
from rusmes.queue.selection import MAX_PATTERN_CHARS, Places, ReplyPattern, Selection, check_filter
from rusmes.storage.api import QueueEntry, RecipientState

NOW = 1_700_000_000.0
IDS = IdSource()
HEADER = b"Subject: Your invoice\r\n of May\r\nX-Job: 7\r\nMessage-ID: <abc@x.example>\r\n\r\n"


def entry(*states: RecipientState, **more: Any) -> QueueEntry:
    content = Content(IDS.next_id(), len(HEADER) + 1000, len(HEADER), data=HEADER + b"x" * 1000)
    made: dict[str, Any] = {
        "id": IDS.next_id(),
        "action": "relay",
        "sender": Address("News", "example.com"),
        "recipients": tuple(state.recipient for state in states),
        "rendering": Rendering(content),
        "origin": Origin(account="alice@example.com", client_address="192.0.2.7"),
        "created": NOW - 3600,
        "attributes": {TENANT: "Acme", CAMPAIGN: "spring"},
        **more,
    }
    return QueueEntry(Queued(**made), list(states))


def state(address: str, status: str = "deferred", reply: str = "", attempts: int = 0) -> RecipientState:
    local, _, domain = address.partition("@")
    return RecipientState(Recipient(Address(local, domain)), status, attempts, last_reply=reply)


def meant(which: QueueFilter, *entries: QueueEntry) -> list[list[int]]:
    return [Selection(which, NOW).meant(one) for one in entries]


@pytest.mark.parametrize(
    ("which", "is_meant"),
    [
        (QueueFilter(), True),
        (QueueFilter(sender="news@example.com"), True),
        (QueueFilter(sender="NEWS@*"), True),
        (QueueFilter(sender="<>"), False),
        (QueueFilter(account="ALICE@example.com"), True),
        (QueueFilter(account="bob@*"), False),
        (QueueFilter(tenant="Acme"), True),
        (QueueFilter(tenant="acme"), False),
        (QueueFilter(campaign="spr*"), True),
        (QueueFilter(campaign="summer"), False),
        (QueueFilter(client="192.0.2.0/24"), True),
        (QueueFilter(client="192.0.2.8"), False),
        (QueueFilter(client="2001:db8::/32"), False),
        (QueueFilter(message_id="<abc@x.example>"), True),
        (QueueFilter(message_id="abc@x.example"), True),
        (QueueFilter(message_id="abd@x.example"), False),
        (QueueFilter(header="subject: *INVOICE of may"), True),
        (QueueFilter(header="X-Job: 8"), False),
        (QueueFilter(header="X-Other: *"), False),
        (QueueFilter(older_than_seconds=3600), True),
        (QueueFilter(older_than_seconds=3601), False),
        (QueueFilter(younger_than_seconds=3601), True),
        (QueueFilter(younger_than_seconds=3600), False),
        (QueueFilter(larger_than_bytes=1000), True),
        (QueueFilter(larger_than_bytes=len(HEADER) + 1000), False),
        (QueueFilter(smaller_than_bytes=len(HEADER) + 1001), True),
        (QueueFilter(smaller_than_bytes=1000), False),
        (QueueFilter(recipient="Bob@x.example"), True),
        (QueueFilter(domain="*.example"), True),
        (QueueFilter(domain="y.example"), False),
        (QueueFilter(status="deferred"), True),
        (QueueFilter(status="held"), False),
        (QueueFilter(attempts_at_least=3), True),
        (QueueFilter(attempts_at_least=4), False),
        (QueueFilter(attempts_at_most=3), True),
        (QueueFilter(attempts_at_most=0), False),
        (QueueFilter(reply="mailbox|QUOTA"), True),
        (QueueFilter(reply="^quota"), False),
        (QueueFilter(sender="news@*", tenant="Acme", domain="x.*", reply="552"), True),
        (QueueFilter(sender="news@*", tenant="Acme", domain="x.*", reply="553"), False),
    ],
)
def test_fields(which: QueueFilter, is_meant: bool) -> None:
    one = entry(state("bob@x.example", reply="552 5.2.2 over quota", attempts=3))
    assert bool(meant(which, one)[0]) == is_meant
    check_filter(which)


def test_ids() -> None:
    one, two = entry(state("a@x.org")), entry(state("b@x.org"))
    assert meant(QueueFilter(ids=(id_text(one.item.id).upper(),)), one, two) == [[0], []]


def test_without_attributes_the_account_is_the_tenant() -> None:
    one = entry(state("a@x.org"), attributes={})
    assert meant(QueueFilter(tenant="alice@example.com"), one) == [[0]]
    assert meant(QueueFilter(campaign="*"), one) == [[0]]


def test_one_and_the_same_recipient_must_match_and_only_those_are_meant() -> None:
    one = entry(state("a@x.org"), state("b@y.org", "held"), state("c@x.org", "delivered"), state("d@x.org"))
    assert meant(QueueFilter(), one) == [[0, 1, 3]]
    assert meant(QueueFilter(domain="x.org"), one) == [[0, 3]]
    assert meant(QueueFilter(domain="x.org", status="held"), one) == [[]]
    assert not Selection(QueueFilter(domain="x.org"), NOW).means_all(one)
    assert Selection(QueueFilter(domain="*.org"), NOW).means_all(one)


def test_an_entry_in_the_pipeline_is_meant_as_a_whole() -> None:
    for action in ("resume", "hold"):
        one = entry(state("a@x.org"), state("b@y.org"), action=action, state="root")
        assert meant(QueueFilter(domain="x.org"), one) == [[0, 1]]
        assert not Selection(QueueFilter(domain="x.org"), NOW).means_all(one)
        assert meant(QueueFilter(status="held"), one) == ([[0, 1]] if action == "hold" else [[]])


class Deliverer:
    """Knows where x.org goes; has to ask for the others."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def destination(self, item: Queued, recipient: Recipient) -> str:
        return recipient.address.domain

    def known_target(self, destination: str) -> Target | None:
        return Target("mx1.x.org,mx2.x.org", SiteLimits(), source="ip1") if destination == "x.org" else None

    async def find_target(self, destination: str) -> Target | Refusal:
        self.asked.append(destination)
        await asyncio.sleep(0)
        if destination == "gone.org":
            return Refusal(550, "5.1.2", "no such domain")
        if destination == "broken.org":
            raise OSError("no name server")
        return Target("mx.y.org", SiteLimits(), source="ip2")


def test_sites_and_sources_are_looked_up_once() -> None:
    entries = [entry(state(f"a@{domain}")) for domain in ("x.org", "y.org", "y.org", "gone.org", "broken.org")]
    local = entry(state("a@x.org"), action="local")

    async def main() -> None:
        deliverer = Deliverer()
        for which, expected in [
            (QueueFilter(site="mx.y.org"), [False, True, True, False, False]),
            (QueueFilter(site="mx2.x.org"), [True, False, False, False, False]),
            (QueueFilter(site="mx1.x.org,mx2.x.org"), [True, False, False, False, False]),
            (QueueFilter(site="mx*"), [True, True, True, False, False]),
            (QueueFilter(source="ip2"), [False, True, True, False, False]),
        ]:
            selection = Selection(which, NOW, Places(deliverer))
            assert await selection.resolve(entries)
            assert not await selection.resolve(entries), "all is known now"
            assert [bool(selection.meant(one)) for one in entries] == expected, which
            assert not selection.meant(local)
        assert deliverer.asked == ["broken.org", "gone.org", "y.org"] * 5
        cheap = Selection(QueueFilter(site="*", tenant="nobody"), NOW, Places(deliverer))
        assert not await cheap.resolve(entries), "nothing is asked for what is not meant anyway"

    asyncio.run(main())


def test_nothing_is_known_of_sites_on_a_stopped_server() -> None:
    with pytest.raises(NotAllowed, match="running server"):
        Selection(QueueFilter(site="x"), NOW)
    check_filter(QueueFilter(site="x"))


@pytest.mark.parametrize(
    "which",
    [
        QueueFilter(reply="("),
        QueueFilter(reply="a" * (MAX_PATTERN_CHARS + 1)),
        QueueFilter(client="nowhere"),
        QueueFilter(header="no colon"),
        QueueFilter(header=": x"),
        QueueFilter(header="X:"),
    ],
)
def test_what_is_no_pattern_is_refused(which: QueueFilter) -> None:
    with pytest.raises(NotAllowed):
        check_filter(which)


@pytest.mark.parametrize(
    ("pattern", "reply"),
    [(r"(a+)+$", "a" * 60 + "b"), (r"(a|aa)+$", "a" * 80 + "b"), (r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)x", "a" * 1000)],
)
def test_a_pattern_that_never_ends_is_ended(pattern: str, reply: str) -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    began = time.process_time()
    with pytest.raises(NotAllowed, match="too long"):
        ReplyPattern(pattern).is_in(reply)
    assert time.process_time() - began < 2.0
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_reply_is_searched_once() -> None:
    pattern = ReplyPattern("over quota")
    answers = [pattern.is_in(f"552 mailbox {number % 3} is over Quota") for number in range(3000)]
    assert all(answers)
    assert len(pattern._answers) == 3


def test_what_cannot_be_read_is_not_meant(tmp_path: Any) -> None:
    missing = Content(IDS.next_id(), 100, 10, path=str(tmp_path / "gone"))
    one = entry(state("a@x.org"), rendering=Rendering(missing))
    assert meant(QueueFilter(message_id="x"), one) == [[]]
