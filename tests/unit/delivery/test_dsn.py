"""Notices: who gets one, and what is in it (B5, B6, B7, B9, B15, RFC 3461, 3464, 6522, 6533)."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, Message
from typing import Any

import pytest
from msgspec import structs

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Queue
from rusmes.config.units import Size
from rusmes.delivery.dsn import DsnWriter
from rusmes.metrics import BOUNCES, DELAY_NOTICES
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS, Mail, Origin, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Report
from rusmes.storage.memory_blobs import MemoryBlobs
from tests.sinks.engine import address

BODY = b"Received: from x\r\nSubject: hello\r\nMessage-ID: <1@x>\r\n\r\nthe text\r\n"
ids = IdSource()


def content(data: bytes) -> Content:
    end = data.find(b"\r\n\r\n")
    return Content(ids.next_id(), len(data), end + 4 if end >= 0 else len(data), data=data)


def item(*recipients: Recipient, data: bytes = BODY, sender: str | None = "sam@y.org", **more: Any) -> Queued:
    origin = more.pop("origin", Origin(trusted=True, listener="mx", helo="client.example"))
    from_ = None if sender is None else address(sender)
    return Queued(ids.next_id(), "relay", from_, recipients, Rendering(content(data)), origin, 1.7e9, **more)


def rcpt(text: str = "bob@x.org", notify: int = 0, **more: Any) -> Recipient:
    return Recipient(address(text), notify=notify, **more)


def writer(config: Config | None = None, metrics: Metrics | None = None) -> DsnWriter:
    config = config or Config(domain="example.com", hostname="mx.example.com")
    blobs = MemoryBlobs(ids, 1 << 20)
    return DsnWriter(config, blobs.writer, FakeClock(), ids, "mx.example.com", metrics)


def failed(recipient: Recipient, text: str = "no such user") -> Report:
    return Report(recipient, "failed", 550, "5.1.1", text, "mx.x.org[192.0.2.1]")


def parsed(mail: Mail | None) -> EmailMessage:
    assert mail is not None
    data = mail.content.read()
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert data.replace(b"\r\n", b"").count(b"\r") == data.replace(b"\r\n", b"").count(b"\n") == 0
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def machine(message: EmailMessage) -> list[Message]:
    """The blocks of the delivery-status part."""
    status = list(message.iter_parts())[1]
    assert status.get_content_type() in ("message/delivery-status", "message/global-delivery-status")
    if status.get_content_type() == "message/delivery-status":
        return list(status.get_payload())  # type: ignore[arg-type]
    text = status.get_payload(decode=True) or str(status.get_payload()[0]).encode()  # type: ignore[union-attr]
    return [email.message_from_string(block) for block in text.decode().split("\r\n\r\n") if block.strip()]  # type: ignore[union-attr]


@pytest.mark.rfc("3464", "2")
def test_failure_notice() -> None:
    metrics = Metrics()
    about = item(rcpt(orcpt="rfc822;Bob+x@x.org"), envid="QQ 1", ret="HDRS")
    mail = writer(metrics=metrics).report(about, [failed(about.recipients[0])])
    assert mail is not None
    assert mail.sender is None
    assert [str(r.address) for r in mail.recipients] == ["sam@y.org"]
    assert mail.origin.trusted
    assert mail.origin.listener == ""
    message = parsed(mail)
    assert message["Auto-Submitted"] == "auto-replied"  # B15
    assert message["From"] == "Mail Delivery System <postmaster@example.com>"
    assert message["To"] == "sam@y.org"
    assert message["Message-ID"].endswith("@mx.example.com>")
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    text, _, returned = message.iter_parts()
    assert "<bob@x.org>: mx.x.org[192.0.2.1] said: 550 5.1.1 no such user" in text.get_content().replace("\n    ", " ")
    assert returned.get_content_type() == "text/rfc822-headers"
    assert "Subject: hello" in returned.get_content()
    assert "the text" not in returned.get_content()
    about_mail, about_bob = machine(message)
    assert dict(about_mail) == {
        "Reporting-MTA": "dns; mx.example.com", "Original-Envelope-Id": "QQ 1", "Received-From-MTA": "dns; client.example",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 -0000",
    }  # fmt: skip
    assert dict(about_bob) == {
        "Original-Recipient": "rfc822; Bob+x@x.org", "Final-Recipient": "rfc822; bob@x.org", "Action": "failed",
        "Status": "5.1.1", "Remote-MTA": "dns; mx.x.org", "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
    }  # fmt: skip
    assert metrics.count(BOUNCES) == 1


def test_delay_notice() -> None:
    metrics = Metrics()
    about = item(rcpt())
    report = Report(about.recipients[0], "delayed", 0, "4.4.1", "connect: refused")
    message = parsed(writer(metrics=metrics).report(about, [report], will_retry_until=1.7e9 + 432000))
    _, bob = machine(message)
    assert bob["Action"] == "delayed"
    assert bob["Will-Retry-Until"] == "Sun, 19 Nov 2023 22:13:20 -0000"
    assert bob["Diagnostic-Code"] == "x-rusmes; connect: refused"
    assert bob["Remote-MTA"] is None
    assert "Sun, 19 Nov 2023" in next(iter(message.iter_parts())).get_content()
    assert metrics.count(DELAY_NOTICES) == 1


@pytest.mark.rfc("3461", "4.1")
@pytest.mark.parametrize(
    ("notify", "wanted"),
    [
        (0, {"failed", "delayed"}),
        (NOTIFY_NEVER, set()),
        (NOTIFY_FAILURE, {"failed"}),
        (NOTIFY_DELAY, {"delayed"}),
        (NOTIFY_SUCCESS, {"delivered", "relayed"}),
        (NOTIFY_SUCCESS | NOTIFY_FAILURE, {"delivered", "relayed", "failed"}),
    ],
)
def test_notify_decides_who_hears_of_what(notify: int, wanted: set[str]) -> None:
    about = item(rcpt(notify=notify))
    got = set()
    for action in ("failed", "delayed", "delivered", "relayed"):
        mail = writer().report(about, [Report(about.recipients[0], action, 250, "", "x")])
        if mail is not None:
            assert machine(parsed(mail))[1]["Action"] == action
            got.add(action)
    assert got == wanted


def test_only_those_who_want_it_are_listed() -> None:
    about = item(rcpt("a@x.org"), rcpt("b@x.org", NOTIFY_NEVER), rcpt("c@x.org"))
    message = parsed(writer().report(about, [failed(r) for r in about.recipients]))
    assert [block["Final-Recipient"] for block in machine(message)[1:]] == ["rfc822; a@x.org", "rfc822; c@x.org"]


def test_b6_b7_null_sender_never_gets_a_notice() -> None:
    about = item(rcpt(), sender=None)
    assert writer().report(about, [failed(about.recipients[0])]) is None
    mail = Mail(ids.next_id(), None, [rcpt()], content(BODY), Origin(), created=0.0)
    assert writer().failure(mail, mail.recipients, Refusal(550, "5.0.0", "no")) is None


def test_b9_strangers_mail_makes_no_backscatter() -> None:
    origin = Origin(listener="mx", trusted=False)
    config = Config(domain="example.com", hostname="mx.example.com", queue=Queue(backscatter=True))
    about = item(rcpt(), rcpt("alice@example.com", account="alice@example.com"), origin=origin)
    reports = [failed(r) for r in about.recipients]
    message = parsed(writer().report(about, reports))
    assert [block["Final-Recipient"] for block in machine(message)[1:]] == ["rfc822; alice@example.com"]
    assert writer().report(about, reports[:1]) is None
    assert len(machine(parsed(writer(config).report(about, reports)))) == 3
    for known in ({"listener": "submission", "account": "a"}, {"listener": "lmtp"}, {}, {"listener": "mx", "trusted": True}):
        origin = Origin(**known)  # type: ignore[arg-type]
        assert writer().report(structs.replace(about, origin=origin), reports[:1]) is not None


def test_b10_notices_to_a_domain_are_limited_over_all_workers() -> None:
    config = Config(domain="example.com", hostname="mx.example.com", queue=Queue(notices_per_hour=3))
    clock, limits = FakeClock(), SharedCounters(1, 1024)
    blobs = MemoryBlobs(ids, 1 << 20)
    one, two = (DsnWriter(config, blobs.writer, clock, ids, "mx.example.com", limits=limits) for _ in range(2))
    about = item(rcpt())
    other = item(rcpt(), sender="carol@elsewhere.net")
    mail = Mail(ids.next_id(), address("ann@Y.org"), [rcpt()], content(BODY), Origin(trusted=True), created=0.0)
    reports = [failed(rcpt())]
    assert all(writer.report(about, reports) for writer in (one, two, one))
    assert two.report(about, reports) is None
    assert one.failure(mail, mail.recipients, Refusal(550, "5.0.0", "no")) is None
    assert two.report(other, reports) is not None
    clock.advance(2 * 3600.0)
    assert two.report(about, reports) is not None
    one.apply(Config(domain="example.com", hostname="mx.example.com", queue=Queue(notices_per_hour=0)))
    assert all(one.report(about, reports) for _ in range(10))


def test_b9_what_this_server_refused_after_its_250_is_told_to_strangers_too() -> None:
    origin = Origin(listener="mx", trusted=False)
    refused = structs.replace(item(rcpt("team@example.com"), origin=origin), action="resume")
    report = Report(refused.recipients[0], "failed", 554, "5.4.6", "the alias leads back to itself")
    assert machine(parsed(writer().report(refused, [report])))[1]["Final-Recipient"] == "rfc822; team@example.com"


@pytest.mark.rfc("8689", "5")
def test_a_notice_about_mail_with_requiretls_returns_no_content_and_asks_for_tls() -> None:
    about = item(rcpt(), ret="FULL", requiretls=True)
    mail = writer().report(about, [failed(about.recipients[0])])
    assert list(parsed(mail).iter_parts())[2].get_content_type() == "text/rfc822-headers"
    assert mail is not None
    assert mail.requiretls


@pytest.mark.rfc("3464", "2.3.6")
def test_the_diagnostic_code_is_what_the_server_said_and_nothing_else() -> None:
    about = item(rcpt())
    end = Report(about.recipients[0], "failed", 0, "4.4.7", "not delivered in time", "mx.x.org[192.0.2.1]", "451 4.7.1 later")
    block = machine(parsed(writer().report(about, [end])))[1]
    assert (block["Status"], block["Diagnostic-Code"]) == ("4.4.7", "smtp; 451 4.7.1 later")
    assert block["Remote-MTA"] == "dns; mx.x.org"


@pytest.mark.rfc("6533", "3")
def test_an_internationalized_address_in_an_ascii_notice() -> None:
    about = item(rcpt("b\u00fc@x.org", orcpt="utf-8;b\u00fc@x.org"))
    block = machine(parsed(writer().report(about, [failed(about.recipients[0])])))[1]
    assert block["Final-Recipient"] == block["Original-Recipient"] == r"utf-8; b\x{FC}@x.org"


@pytest.mark.parametrize(
    ("ret", "size", "body_type", "kind"),
    [
        ("FULL", 1000, "7BIT", "message/rfc822"),
        ("FULL", 100_000, "7BIT", "text/rfc822-headers"),
        ("FULL", 1000, "BINARYMIME", "text/rfc822-headers"),
        ("HDRS", 1000, "7BIT", "text/rfc822-headers"),
        ("", 1000, "7BIT", "text/rfc822-headers"),
    ],
)
def test_b5_what_is_returned(ret: str, size: int, body_type: str, kind: str) -> None:
    about = item(rcpt(), data=BODY + b"y" * 70 + b"\r\n" + (b"z" * 78 + b"\r\n") * (size // 80), ret=ret, body_type=body_type)
    mail = writer().report(about, [failed(about.recipients[0])])
    returned = list(parsed(mail).iter_parts())[2]
    assert returned.get_content_type() == kind
    assert mail is not None
    assert mail.content.size < 70_000


def test_b5_limit_is_a_setting() -> None:
    config = Config(domain="example.com", hostname="h", queue=Queue(notice_content_limit=Size(10)))
    about = item(rcpt(), ret="FULL")
    returned = list(parsed(writer(config).report(about, [failed(about.recipients[0])])).iter_parts())[2]
    assert returned.get_content_type() == "text/rfc822-headers"


def test_ret_full_is_for_failures_only() -> None:
    about = item(rcpt(notify=NOTIFY_SUCCESS), ret="FULL")
    mail = writer().report(about, [Report(about.recipients[0], "relayed", 250, "2.0.0", "ok", "mx")])
    assert list(parsed(mail).iter_parts())[2].get_content_type() == "text/rfc822-headers"


def test_eight_bit_content_makes_an_eight_bit_notice() -> None:
    data = "Subject: gr\u00fc\u00dfe\r\n\r\n\u00fc\r\n".encode()
    about = item(rcpt(), data=data, ret="FULL", body_type="8BITMIME")
    mail = writer().report(about, [failed(about.recipients[0])])
    assert mail is not None
    assert mail.body_type == "8BITMIME"
    assert data in mail.content.read()
    assert b"Content-Transfer-Encoding: 8bit" in mail.content.read()


@pytest.mark.rfc("6533", "4")
@pytest.mark.rfc("6522", "4")
def test_a_returned_header_with_eight_bits_is_encoded() -> None:
    data = "From: x\r\nSubject: Gr\u00fc\u00dfe ={}\r\n\r\nthe text\r\n".format("y" * 200).encode("latin-1")
    mail = writer().report(about := item(rcpt(), data=data, body_type="8BITMIME"), [failed(about.recipients[0])])
    assert mail is not None
    assert mail.body_type == "7BIT"
    returned = list(parsed(mail).iter_parts())[2]
    assert returned["Content-Transfer-Encoding"] == "quoted-printable"
    assert returned.get_payload(decode=True) == data[: data.index(b"\r\n\r\n") + 4]


def test_internationalized_notice() -> None:
    about = item(rcpt("jos\u00e9@x.org", orcpt="utf-8;jos\u00e9@x.org"), sender="zo\u00eb@y.org", smtputf8=True)
    mail = writer().report(about, [failed(about.recipients[0], "nicht erw\u00fcnscht")])
    assert mail is not None
    assert mail.smtputf8
    data = mail.content.read().decode()
    assert "Content-Type: message/global-delivery-status" in data
    assert "Content-Type: message/global-headers" in data
    assert "Final-Recipient: utf-8; jos\u00e9@x.org" in data
    assert "Original-Recipient: utf-8; jos\u00e9@x.org" in data
    assert "nicht erw\u00fcnscht" in data


def test_ascii_notice_stays_ascii_whatever_the_server_said() -> None:
    about = item(rcpt())
    mail = writer().report(about, [failed(about.recipients[0], "nicht erw\u00fcnscht")])
    assert mail is not None
    assert mail.content.read().isascii()
    assert not mail.smtputf8


@pytest.mark.parametrize("evil", ["x\r\nBcc: victim@y.org", "x\nBcc: v", "x\rBcc: v", "a\0b", "x\u2028Bcc: v", "y" * 5000])
def test_h6_h7_nothing_a_stranger_says_makes_a_line(evil: str) -> None:
    about = item(rcpt(orcpt=f"rfc822;{evil}"), envid=evil, origin=Origin(trusted=True, helo=evil))
    message = parsed(writer().report(about, [Report(about.recipients[0], "failed", 550, "5.1.1", evil, evil)]))
    assert message["Bcc"] is None
    assert all(block["Bcc"] is None for block in machine(message))
    assert len(machine(message)) == 2


def test_a_huge_header_is_cut_at_a_line() -> None:
    data = b"".join(b"X-%d: %s\r\n" % (i, b"v" * 900) for i in range(1000)) + b"\r\nbody\r\n"
    mail = writer().report(about := item(rcpt(), data=data), [failed(about.recipients[0])])
    assert mail is not None
    assert mail.content.size < 70_000
    parsed(mail)


def test_pipeline_failure_uses_the_header_as_it_is_now() -> None:
    mail = Mail(ids.next_id(), address("sam@y.org"), [rcpt()], content(BODY), Origin(listener="mx"), created=1.7e9)
    mail.prepended = [b"X-Added: yes\r\n"]
    notice = writer().failure(mail, mail.recipients, Refusal(550, "5.7.1", "not wanted"))
    assert notice is not None
    assert b"X-Added: yes\r\nReceived: from x" in notice.content.read()
    assert machine(parsed(notice))[1]["Diagnostic-Code"] == "smtp; 550 5.7.1 not wanted"
