"""Mail that may come back, and what does: return paths, forwarded senders, reports, suppressed recipients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from rusmes.bounces.addresses import ReturnAddresses
from rusmes.bounces.classify import Classifier
from rusmes.bounces.verp import tenant_key
from rusmes.config.returns import Returns, Suppression
from rusmes.errors import ConfigError
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import TENANT, VERP, Report
from rusmes.returns.feed import SuppressionFeed
from rusmes.returns.suppression import Suppressions
from rusmes.storage.ledger import MemoryLedger
from tests.unit.mailet.conftest import address
from tests.unit.mailet.test_rewrite import fates

REPORT = b"""From: MAILER-DAEMON@far.org\r
Content-Type: multipart/report; report-type=delivery-status; boundary=B\r
\r
--B\r
Content-Type: text/plain\r
\r
sorry\r
--B\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; mx.far.org\r
\r
Final-Recipient: rfc822; %(final)s\r
Action: %(action)s\r
Status: %(status)s\r
Diagnostic-Code: smtp; %(text)s\r
\r
--B\r
Content-Type: text/rfc822-headers\r
\r
Message-ID: <m1@here.org>\r
\r
--B--\r
"""
ARF = b"""From: <abuse@far.org>\r
Content-Type: multipart/report; report-type=feedback-report; boundary=P\r
\r
--P\r
Content-Type: message/feedback-report\r
\r
Feedback-Type: %(kind)s\r
User-Agent: FarLoop/1\r
Original-Mail-From: <%(sender)s>\r
\r
--P\r
Content-Type: text/rfc822-headers\r
\r
Message-ID: <m2@here.org>\r
To: <user@far.org>\r
\r
--P--\r
"""


@pytest.fixture
def kit(kit: Any) -> Any:
    config = SimpleNamespace(returns=Returns(address="bounces@here.org"), domain="here.org")
    ledger = MemoryLedger(clock=kit.clock)
    toolbox = kit.toolbox
    toolbox.returns = ReturnAddresses(config, (b"secret",), kit.clock)  # type: ignore[arg-type]
    toolbox.suppressions = Suppressions(ledger, kit.clock, Suppression(enabled=True))
    toolbox.classifier = Classifier.load()
    kit.records = []
    toolbox.record = lambda kind, *_, **facts: kit.records.append((kind, facts))
    kit.directory.accounts.add("bounces@here.org")
    return kit


def returned(kit: Any, path: str, body: bytes = b"", **values: str) -> Any:
    facts = {"final": "user@far.org", "action": "failed", "status": "5.1.1", "text": "550 5.1.1 no such user"} | values
    body = body or REPORT % {name.encode(): value.encode() for name, value in facts.items()}
    mail = kit.mail(Recipient(address(path), "bounces@here.org"), sender=None, body=body)
    return kit.run(None, mail)


def verp(kit: Any, tenant: str = "") -> str:
    return str(kit.toolbox.returns.make(address("user@far.org"), tenant))


def test_a_report_suppresses_the_recipient_of_its_return_path(kit: Any) -> None:
    kit.toolbox.suppressions.remember_tenant(tenant_key("acme"), "acme")
    path = verp(kit, "acme")
    assert fates(returned(kit, path)) == {path: "a report, read"}
    assert [kind for kind, _ in kit.records] == ["reported", "suppressed"]
    _, facts = kit.records[0]
    assert facts["category"] == "InvalidRecipient"
    assert facts["message_id"] == "<m1@here.org>"
    assert facts["tenant"] == "acme"
    assert kit.toolbox.suppressions.find("acme", address("User@far.org")) == "InvalidRecipient"
    assert kit.toolbox.suppressions.find("other", address("user@far.org")) == ""


def test_what_a_report_claims_suppresses_nobody_else(kit: Any) -> None:
    path = verp(kit)
    returned(kit, path, final="victim@far.org")
    assert kit.toolbox.suppressions.find("", address("victim@far.org")) == ""
    assert kit.toolbox.suppressions.find("", address("user@far.org")) == "InvalidRecipient"


@pytest.mark.parametrize(
    "values",
    [
        {"action": "delayed", "status": "4.4.1", "text": "451 later"},
        {"status": "5.2.2", "text": "552 5.2.2 mailbox full"},
        {"status": "5.7.1", "text": "554 5.7.1 blocked using zen.spamhaus.org"},
        {"status": "4.1.1", "text": "450 4.1.1 user unknown for now"},
    ],
)
def test_only_addresses_that_are_refused_for_ever_are_suppressed(kit: Any, values: dict[str, str]) -> None:
    path = verp(kit)
    assert fates(returned(kit, path, **values)) == {path: "a report, read"}
    assert [kind for kind, _ in kit.records] == ["reported"]
    assert kit.toolbox.suppressions.find("", address("user@far.org")) == ""


def test_a_report_to_the_bare_address_is_heard_and_suppresses_nobody(kit: Any) -> None:
    assert fates(returned(kit, "bounces@here.org")) == {"bounces@here.org": "a report, read"}
    assert [kind for kind, _ in kit.records] == ["reported"]
    assert not list(kit.toolbox.suppressions.entries())


@pytest.mark.parametrize("spoil", [lambda path: path.replace("user=", "other="), lambda path: "bounces+x@here.org"])
def test_a_forged_return_path_is_refused(kit: Any, spoil: Any) -> None:
    path = spoil(verp(kit))
    assert fates(returned(kit, path)) == {path: "5.1.1"}
    assert not kit.records


def test_an_old_return_path_is_refused(kit: Any) -> None:
    path = verp(kit)
    kit.clock.advance(40 * 86400)
    assert fates(returned(kit, path)) == {path: "5.1.1"}


def test_a_persons_answer_goes_to_the_mailbox(kit: Any) -> None:
    path = verp(kit)
    plan = returned(kit, path, b"Subject: I am away\r\n\r\nuntil Monday\r\n")
    assert [append.account for append in plan.appends] == ["bounces@here.org"]


def test_reports_can_be_kept(kit: Any) -> None:
    kit.toolbox.keep_reports = True
    assert fates(returned(kit, verp(kit)))[verp(kit)] == "mailbox"
    assert kit.records


def test_a_complaint_encloses_the_return_path(kit: Any) -> None:
    body = ARF % {b"kind": b"abuse", b"sender": verp(kit).encode()}
    assert fates(returned(kit, "bounces@here.org", body)) == {"bounces@here.org": "a report, read"}
    assert [kind for kind, _ in kit.records] == ["complained", "suppressed"]
    assert kit.toolbox.suppressions.find("", address("user@far.org")) == "Complaint"


@pytest.mark.parametrize(("kind", "sender"), [(b"not-spam", None), (b"abuse", b"somebody@here.org")])
def test_complaints_that_suppress_nobody(kit: Any, kind: bytes, sender: bytes | None) -> None:
    body = ARF % {b"kind": kind, b"sender": sender or verp(kit).encode()}
    returned(kit, "bounces@here.org", body)
    assert [kind for kind, _ in kit.records] == ["complained"]
    assert not list(kit.toolbox.suppressions.entries())


def test_other_recipients_of_the_same_mail_get_it(kit: Any) -> None:
    path = verp(kit)
    body = REPORT % {b"final": b"u@far.org", b"action": b"failed", b"status": b"5.1.1", b"text": b"550 no"}
    mail = kit.mail(Recipient(address(path), "bounces@here.org"), "alice@here.org", sender=None, body=body)
    assert fates(kit.run(None, mail)) == {path: "a report, read", "alice@here.org": "mailbox"}


# Outward


def test_suppressed_recipients_are_refused_and_the_others_sent(kit: Any) -> None:
    kit.toolbox.suppressions.add("acme", address("gone@far.org"), "asked for")
    plan = kit.run(None, kit.mail("gone@far.org", "here@far.org", trusted=True, attributes={TENANT: "acme"}))
    assert fates(plan) == {"gone@far.org": "5.7.1", "here@far.org": "relay"}
    other = kit.run(None, kit.mail("gone@far.org", trusted=True, attributes={TENANT: "else"}))
    assert fates(other) == {"gone@far.org": "relay"}


def test_suppressed_recipients_can_end_without_a_word(kit: Any) -> None:
    kit.toolbox.suppressions.settings = Suppression(enabled=True, action="drop")
    kit.toolbox.suppressions.add("", address("gone@far.org"), "")
    plan = kit.run(None, kit.mail("gone@far.org", trusted=True))
    assert fates(plan) == {"gone@far.org": "the recipient is suppressed: Manual"}


def test_a_list_that_is_off_stops_nobody(kit: Any) -> None:
    kit.toolbox.suppressions.settings = Suppression()
    kit.toolbox.suppressions.add("", address("gone@far.org"), "")
    assert fates(kit.run(None, kit.mail("gone@far.org", trusted=True))) == {"gone@far.org": "relay"}


@pytest.mark.parametrize(
    ("sender", "is_marked"),
    [("alice@here.org", True), (None, False), ("sam@elsewhere.org", False), ("SRS0=aaaaaa=AA=far.org=u@here.org", False)],
)
def test_verp_marks_mail_of_our_own_senders(kit: Any, sender: str | None, is_marked: bool) -> None:
    mail = kit.mail("u@far.org", sender=sender, trusted=True)
    assert (VERP in kit.run([("All", "VERP"), ("All", "RemoteDelivery")], mail).queued[0].attributes) is is_marked


def test_verp_needs_an_address(kit: Any) -> None:
    kit.toolbox.returns.address = None
    with pytest.raises(ConfigError, match="returns"):
        kit.build([("All", "VERP")])


def test_srs_for_what_is_forwarded(kit: Any) -> None:
    kit.directory.aliases = {"out@here.org": ["x@far.org"]}
    steps = [("RecipientIsLocal", "LocalDelivery"), ("IsForwarded", "SRS"), ("All", "RemoteDelivery")]
    plan = kit.run(steps, kit.mail("out@here.org", "y@far.org", trusted=True))
    senders = {str(row.recipients[0].address): str(row.sender) for row in plan.queued}
    assert senders["y@far.org"] == "sam@elsewhere.org"
    assert senders["x@far.org"].startswith("SRS0=")
    assert kit.toolbox.returns.reverse(address(senders["x@far.org"])) == address("sam@elsewhere.org")


@pytest.mark.parametrize("sender", [None, "alice@here.org"])
def test_srs_leaves_our_own_senders_and_the_null_sender(kit: Any, sender: str | None) -> None:
    plan = kit.run([("All", "SRS"), ("All", "RemoteDelivery")], kit.mail("x@far.org", sender=sender, trusted=True))
    assert str(plan.queued[0].sender or None) == str(sender)


# From deliveries


class Heard:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def received(self, *_: Any, **__: Any) -> None:
        self.calls.append("received")

    def attempted(self, *_: Any, **__: Any) -> None:
        self.calls.append("attempted")

    def changed(self, kind: str, *_: Any, **__: Any) -> None:
        self.calls.append(kind)


def attempt(
    kit: Any, *, status: str = "failed", code: int = 550, host: str = "mx.far.org", text: str = "no such user"
) -> Heard:
    heard = Heard()
    feed = SuppressionFeed(heard, kit.toolbox.suppressions, kit.toolbox.classifier, kit.metrics)
    mail = kit.mail("other@far.org", trusted=True)
    row: Queued = kit.run(None, mail).queued[0]
    row.recipients = (Recipient(address("user@far.org")),)
    report = Report(row.recipients[0], "failed", code, "5.1.1" if code >= 500 else "4.1.1", text, host)
    feed.attempted(row, report, status, 1, 0.0, kit.clock.now())
    return heard


def test_a_refusal_by_another_server_suppresses(kit: Any) -> None:
    assert attempt(kit).calls == ["attempted", "suppressed"]
    assert kit.toolbox.suppressions.find("", address("user@far.org")) == "InvalidRecipient"
    kit.clock.advance(181 * 86400)
    assert kit.toolbox.suppressions.find("", address("user@far.org")) == "", "it is tried again one day"


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "deferred", "code": 450},
        {"code": 0, "text": "no such domain"},
        {"host": ""},
        {"text": "5.7.1 blocked using zen.spamhaus.org"},
    ],
)
def test_refusals_that_say_nothing_of_the_address_do_not(kit: Any, facts: dict[str, Any]) -> None:
    assert attempt(kit, **facts).calls == ["attempted"]
    assert not list(kit.toolbox.suppressions.entries())


def test_several_refusals_can_be_asked_for(kit: Any) -> None:
    kit.toolbox.suppressions.settings = Suppression(enabled=True, bounces=2)
    assert attempt(kit).calls == ["attempted"]
    assert kit.toolbox.suppressions.find("", address("user@far.org")) == ""
    assert attempt(kit).calls == ["attempted", "suppressed"]
    assert kit.toolbox.suppressions.find("", address("user@far.org")) == "InvalidRecipient"


def test_an_operators_word_stays(kit: Any) -> None:
    suppressions = kit.toolbox.suppressions
    suppressions.add("", address("user@far.org"), "asked for")
    assert attempt(kit).calls == ["attempted"]
    assert suppressions.get("", address("user@far.org")).category == "Manual"
    assert suppressions.remove("", address("user@far.org"))
    assert not suppressions.remove("", address("user@far.org"))


def test_addresses_of_any_length_have_a_place(kit: Any) -> None:
    long = msgspec.structs.replace(address("u@far.org"), local="u" * 900)
    kit.toolbox.suppressions.add("t" * 900, long, "")
    assert kit.toolbox.suppressions.find("t" * 900, long) == "Manual"
