"""Reports on TLS (RFC 8460): what is counted, what a report says, and who gets it when."""

from __future__ import annotations

import asyncio
import email
import email.policy
import gzip
import json
from typing import Any

import pytest
from msgspec.structs import replace

from rusmes.clock import FakeClock
from rusmes.delivery.mtasts import StsPolicy
from rusmes.delivery.routes import Endpoint, RoutePlan
from rusmes.delivery.session import BrokenTls, Gone, NoTls, Refused
from rusmes.delivery.tlsrpt import TABLE, TlsCounts, TlsReporter, kind_of, read_rua
from rusmes.dns import DnsUnavailable, NoSuchDomain, Records, Resolver, TlsaRecord
from rusmes.model.address import Address
from rusmes.queue.api import Attempt, SiteLimits
from rusmes.smtp.received import date
from rusmes.storage.ledger import MemoryLedger

PLAN = RoutePlan(
    "mx.x.org", (("mx.x.org",),), 25, "opportunistic", False, SiteLimits(), 1, 1.0, 1.0, (), True, False, 1e9, domain="x.org"
)
STS = StsPolicy("1", "enforce", ("mx.x.org",), 86400.0, domain="x.org")
ENDPOINT = Endpoint("mx.x.org", "192.0.2.1", 25)
NOON = 1_700_049_600.0  # 2023-11-15T12:00:00Z


class Secured:
    """A session, as far as it is looked at."""

    source_address = "198.51.100.1"

    def __init__(self, tls: object = True) -> None:
        self.connection = type("Connection", (), {"tls": tls or None})()


class World:
    def __init__(self) -> None:
        self.clock = FakeClock(NOON)
        self.ledger = MemoryLedger(clock=self.clock)
        self.records: dict[str, str | Exception] = {"_smtp._tls.x.org": "v=TLSRPTv1; rua=mailto:tls@x.org"}
        self.mails: list[tuple[Address, bytes]] = []
        self.posts: list[tuple[str, bytes]] = []
        self.status = 201

    def counts(self, name: str = "w") -> TlsCounts:
        return TlsCounts(self.ledger, self.clock, name)

    async def _ask(self, name: str, kind: str) -> Records:
        answer = self.records.get(name, NoSuchDomain(name))
        if isinstance(answer, Exception):
            raise answer
        return Records((answer.encode(),), 30.0)

    async def _submit(self, sender: Address, to: Address, content: bytes) -> None:
        self.mails.append((to, content))

    async def _post(self, url: str, data: bytes) -> int:
        if not self.status:
            raise OSError("refused")
        self.posts.append((url, data))
        return self.status

    def send(self) -> int:
        resolver = Resolver(self.clock, ask=self._ask)
        reporter = TlsReporter(
            self.ledger, resolver, self.clock, Address("tls", "here.org"), self._submit, self._post, date
        )
        return asyncio.run(reporter.send())

    def rows(self) -> int:
        return len(list(self.ledger.items(TABLE)))


def document_of(content: bytes) -> dict[str, Any]:
    message = email.message_from_bytes(content, policy=email.policy.default)
    (attachment,) = message.iter_attachments()  # type: ignore[attr-defined]
    assert attachment.get_content_type() == "application/tlsrpt+gzip"
    found: dict[str, Any] = json.loads(gzip.decompress(attachment.get_content()))
    return found


@pytest.mark.rfc("8460", "3")
@pytest.mark.parametrize(
    ("record", "places"),
    [
        ("v=TLSRPTv1; rua=mailto:a@x.org", ["mailto:a@x.org"]),
        ("v=TLSRPTv1;rua=mailto:a@x.org,https://x.org/r ; ext=1", ["mailto:a@x.org", "https://x.org/r"]),
        ("v=TLSRPTv1; rua=http://x.org, ftp://x", []),
        ("v=TLSRPTv1;", []), ("v=TLSRPTv2; rua=mailto:a@x.org", []), ("rua=mailto:a@x.org", []),
        ("v=TLSRPTv1; rua=" + ",".join(["mailto:a@x.org"] * 50), ["mailto:a@x.org"] * 5),
    ],
)  # fmt: skip
def test_who_wants_reports(record: str, places: list[str]) -> None:
    assert read_rua([b"v=spf1 -all", record.encode()]) == places
    assert read_rua([record.encode(), record.encode()]) == []


@pytest.mark.rfc("8460", "4.3")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NoTls("no", "4.7.10"), "starttls-not-supported"),
        (BrokenTls("TLS failed: certificate verify failed: Hostname mismatch, certificate"), "certificate-host-mismatch"),
        (BrokenTls("TLS failed: certificate verify failed: certificate has expired"), "certificate-expired"),
        (BrokenTls("TLS failed: certificate verify failed: self-signed certificate"), "certificate-not-trusted"),
        (BrokenTls("TLS failed: WRONG_VERSION_NUMBER"), "validation-failure"),
        (Refused("the certificate does not match the TLSA records", "4.7.5"), "validation-failure"),
    ],
)
def test_kinds_of_failure(error: Gone, kind: str) -> None:
    assert kind_of(error) == kind


@pytest.mark.rfc("8460", "4.4")
def test_a_day_of_two_workers_is_one_report() -> None:
    world = World()
    plan = replace(PLAN, sts=STS, tls="mta-sts")
    for name in ("one", "two"):
        counts = world.counts(name)
        for _ in range(3):
            counts.opened(plan, ENDPOINT, "mta-sts", Secured())  # type: ignore[arg-type]
        error = BrokenTls("TLS failed: certificate has expired")
        error.attempt = Attempt(source_address="198.51.100.1")
        counts.failed(plan, ENDPOINT, "mta-sts", error)
        counts.flush()
    assert world.send() == 0  # the day is not over
    world.clock.advance(12 * 3600 + 60)
    assert world.send() == 0  # others may still write
    world.clock.advance(3600)
    assert world.send() == 1
    ((to, content),) = world.mails
    assert str(to) == "tls@x.org"
    document = document_of(content)
    assert document["organization-name"] == "here.org"
    assert document["date-range"] == {"start-datetime": "2023-11-15T00:00:00Z", "end-datetime": "2023-11-15T23:59:59Z"}
    (policy,) = document["policies"]
    assert policy["policy"] == {
        "policy-type": "sts", "policy-domain": "x.org", "policy-string": STS.lines, "mx-host": ["mx.x.org"],
    }  # fmt: skip
    assert policy["summary"] == {"total-successful-session-count": 6, "total-failure-session-count": 2}
    assert policy["failure-details"] == [
        {
            "result-type": "certificate-expired", "sending-mta-ip": "198.51.100.1", "receiving-mx-hostname": "mx.x.org",
            "receiving-ip": "192.0.2.1", "failed-session-count": 2,
            "failure-reason-code": "TLS failed: certificate has expired",
        }
    ]  # fmt: skip
    assert world.rows() == 0
    assert world.send() == 0


@pytest.mark.rfc("8460", "5.3")
def test_the_mail() -> None:
    world = World()
    counts = world.counts()
    counts.opened(PLAN, ENDPOINT, "opportunistic", Secured())  # type: ignore[arg-type]
    counts.opened(PLAN, ENDPOINT, "opportunistic", Secured(None))  # type: ignore[arg-type]
    counts.flush()
    world.clock.advance(86400)
    world.send()
    ((_, content),) = world.mails
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert message["From"] == "tls@here.org"
    assert message["TLS-Report-Domain"] == "x.org"
    assert message["TLS-Report-Submitter"] == "here.org"
    assert message["TLS-Required"] == "No"
    assert message["Subject"].startswith("Report Domain: x.org Submitter: here.org Report-ID: <2023-11-15.")
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"
    assert all(len(line) <= 78 for line in content.split(b"\r\n"))
    (attachment,) = message.iter_attachments()  # type: ignore[attr-defined]
    assert attachment.get_filename().startswith("here.org!x.org!1700006400!1700092799!")
    (policy,) = document_of(content)["policies"]
    assert policy["policy"] == {"policy-type": "no-policy-found", "policy-domain": "x.org"}
    assert policy["failure-details"][0]["result-type"] == "starttls-not-supported"


def test_policies_are_told_apart() -> None:
    world = World()
    counts = world.counts()
    record = TlsaRecord(3, 1, 1, b"\xab" * 32)
    counts.opened(PLAN, replace(ENDPOINT, tlsa=(record,)), "dane", Secured())  # type: ignore[arg-type]
    counts.not_named(replace(PLAN, sts=STS), "mx.x.org is not in the MTA-STS policy of x.org")
    counts.no_policy("x.org", "sts-webpki-invalid", "expired")
    counts.opened(replace(PLAN, domain=""), ENDPOINT, "opportunistic", Secured())  # type: ignore[arg-type]
    counts.opened(PLAN, ENDPOINT, "verify", Secured())  # type: ignore[arg-type]
    counts.flush()
    world.clock.advance(86400)
    world.send()
    policies = {one["policy"]["policy-type"]: one for one in document_of(world.mails[0][1])["policies"]}
    assert set(policies) == {"tlsa", "sts"}
    assert policies["tlsa"]["policy"]["policy-domain"] == "mx.x.org"
    assert policies["tlsa"]["policy"]["policy-string"] == ["3 1 1 " + "ab" * 32]
    assert {one["result-type"] for one in policies["sts"]["failure-details"]} == {"validation-failure", "sts-webpki-invalid"}


@pytest.mark.rfc("8460", "5.4")
def test_reports_by_https() -> None:
    world = World()
    world.records["_smtp._tls.x.org"] = "v=TLSRPTv1; rua=https://x.org/reports"
    counts = world.counts()
    counts.opened(PLAN, ENDPOINT, "opportunistic", Secured())  # type: ignore[arg-type]
    counts.flush()
    world.clock.advance(86400)
    for status in (0, 503):
        world.status = status
        assert world.send() == 0
        assert world.rows() == 1  # later
    world.status = 200
    assert world.send() == 1
    url, data = world.posts[-1]
    assert url == "https://x.org/reports"
    assert json.loads(gzip.decompress(data))["policies"][0]["summary"]["total-successful-session-count"] == 1
    assert world.rows() == 0


@pytest.mark.parametrize(
    ("answer", "rows"), [(NoSuchDomain("x"), 0), ("v=spf1", 0), ("v=TLSRPTv1; rua=mailto:nobody", 0), (DnsUnavailable("x"), 1)]
)
def test_who_asks_for_nothing_gets_nothing(answer: str | Exception, rows: int) -> None:
    world = World()
    world.records["_smtp._tls.x.org"] = answer
    counts = world.counts()
    counts.opened(PLAN, ENDPOINT, "opportunistic", Secured())  # type: ignore[arg-type]
    counts.flush()
    world.clock.advance(86400)
    assert world.send() == 0
    assert world.rows() == rows
    assert not world.mails
    world.clock.advance(2 * 86400)
    assert world.rows() == 0


def test_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.delivery.tlsrpt.MAX_TALLIES", 3)
    monkeypatch.setattr("rusmes.delivery.tlsrpt.MAX_FAILURES", 2)
    world = World()
    counts = world.counts()
    for number in range(10):
        counts.opened(replace(PLAN, domain=f"d{number}.org"), ENDPOINT, "opportunistic", Secured())  # type: ignore[arg-type]
        endpoint = replace(ENDPOINT, address=f"192.0.2.{number}")
        counts.failed(replace(PLAN, domain="d0.org"), endpoint, "opportunistic", NoTls("x", "4.7.10"))
    counts.flush()
    assert world.rows() == 3
    world.records["_smtp._tls.d0.org"] = "v=TLSRPTv1; rua=mailto:tls@x.org"
    world.clock.advance(86400)
    world.send()
    (policy,) = document_of(world.mails[0][1])["policies"]
    assert policy["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 10}
    assert len(policy["failure-details"]) == 2


def test_a_new_day_begins_anew() -> None:
    world = World()
    counts = world.counts()
    counts.opened(PLAN, ENDPOINT, "opportunistic", Secured())  # type: ignore[arg-type]
    world.clock.advance(86400)
    counts.opened(PLAN, ENDPOINT, "opportunistic", Secured())  # type: ignore[arg-type]
    counts.flush()
    assert world.rows() == 2
    world.clock.advance(3600 * 13)
    assert world.send() == 2
