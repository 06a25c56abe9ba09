"""Reports: standard ones, those from before the standard, broken and hostile ones."""

from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.bounces.report import MAX_RECIPIENTS, Complaint, DeliveryReport, read_report

DSN = b"""Return-Path: <>
From: MAILER-DAEMON@mx.example.org
To: bounces+abc@example.com
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B"

--B
Content-Type: text/plain

I'm sorry.

--B
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org
Original-Envelope-Id: id-77
Arrival-Date: Mon, 23 Nov 2026 10:00:00 +0000

Final-Recipient: rfc822; user@example.org
Original-Recipient: rfc822;User@example.org
Action: failed
Status: 5.1.1
Remote-MTA: dns; inner.example.org
Diagnostic-Code: smtp; 550 5.1.1 <user@example.org>: Recipient address
    rejected: User unknown

Final-Recipient: rfc822; full@example.org
Action: delayed
Status: 4.2.2

--B
Content-Type: message/rfc822

Return-Path: <sender@example.com>
Message-ID: <m1@example.com>
To: "User" <user@example.org>, full@example.org
Subject: hello

body
--B--
"""

ARF = b"""From: <abuse@example.net>
Subject: FW: offer
To: <abuse@example.com>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="P"

--P
Content-Type: text/plain; charset="US-ASCII"

This is an email abuse report.

--P
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: SomeGenerator/1.0
Version: 1
Original-Mail-From: <bounces+xyz@example.com>
Original-Rcpt-To: <user@example.net>
Received-Date: Thu, 8 Mar 2026 14:00:00 EDT
Source-IP: 192.0.2.2
Reported-Domain: Example.com

--P
Content-Type: message/rfc822

From: <news@example.com>
Message-ID: <m2@example.com>
To: <user@example.net>
Subject: offer

spam
--P--
"""

QSBMF = b"""From: MAILER-DAEMON@qmail.example
To: sender@example.com
Subject: failure notice

Hi. This is the qmail-send program at qmail.example.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<nobody@qmail.example>:
Sorry, no mailbox here by that name. (#5.1.1)

<other@far.example>:
192.0.2.9 does not like recipient.
Remote host said: 550 no such user

--- Below this line is a copy of the message.

Return-Path: <sender@example.com>
Message-ID: <m3@example.com>
To: nobody@qmail.example

hello
"""

EXIM = b"""X-Failed-Recipients: user@exim.example
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@exim.example>
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.

  user@exim.example
    host mx.far.example [192.0.2.7]
    SMTP error from remote mail server after RCPT TO:<user@exim.example>:
    550 5.1.1 unknown user

------ This is a copy of the message ------
"""


@pytest.mark.rfc("3464", "2.2-2.3")
@pytest.mark.parametrize("message", [DSN, DSN.replace(b"\n", b"\r\n")], ids=["lf", "crlf"])
def test_dsn(message):
    report = read_report(message)
    assert isinstance(report, DeliveryReport)
    assert (report.envelope_id, report.reporting_host) == ("id-77", "mx.example.org")
    first, second = report.recipients
    assert (first.address, first.original, first.action, first.status, first.code, first.host) == (
        "user@example.org",
        "User@example.org",
        "failed",
        "5.1.1",
        550,
        "inner.example.org",
    )
    assert first.text.endswith("rejected: User unknown")
    assert (second.address, second.action, second.status) == ("full@example.org", "delayed", "4.2.2")
    assert report.returned.message_id == "<m1@example.com>"
    assert report.returned.sender == "sender@example.com"
    assert report.returned.to == ("user@example.org", "full@example.org")


@pytest.mark.rfc("6522", "3")
def test_dsn_with_header_only():
    message = DSN.replace(b"Content-Type: message/rfc822", b"Content-Type: text/rfc822-headers")
    assert read_report(message).returned.message_id == "<m1@example.com>"


@pytest.mark.rfc("6533", "3")
def test_internationalized_dsn():
    message = DSN.replace(b"message/delivery-status", b"message/global-delivery-status\nContent-Transfer-Encoding: 8bit")
    message = message.replace(b"rfc822; user@", "utf-8; jörg@".encode())
    report = read_report(message)
    assert report.recipients[0].status == "5.1.1"
    assert report.envelope_id == "id-77"


@pytest.mark.rfc("5965", "3")
def test_complaint():
    complaint = read_report(ARF)
    assert isinstance(complaint, Complaint)
    assert complaint.feedback_type == "abuse"
    assert complaint.recipients == ("user@example.net",)
    assert complaint.sender == "bounces+xyz@example.com"
    assert (complaint.source_ip, complaint.reported_domain) == ("192.0.2.2", "example.com")
    assert complaint.returned.message_id == "<m2@example.com>"


@pytest.mark.rfc("5965", "3.2")
def test_redacted_complaint_names_whom_the_message_was_to():
    complaint = read_report(
        ARF.replace(b"Original-Rcpt-To: <user@example.net>\n", b"").replace(b"Original-Mail-From", b"X-Gone")
    )
    assert complaint.recipients == ("user@example.net",)
    assert complaint.sender == ""


def test_qsbmf():
    report = read_report(QSBMF)
    assert [(r.address, r.status, r.code) for r in report.recipients] == [
        ("nobody@qmail.example", "5.1.1", 0),
        ("other@far.example", "", 550),
    ]
    assert report.returned.message_id == "<m3@example.com>"


def test_exim():
    report = read_report(EXIM)
    (recipient,) = report.recipients
    assert (recipient.address, recipient.status, recipient.code) == ("user@exim.example", "5.1.1", 550)


def test_a_persons_answer_is_no_report():
    message = EmailMessage()
    message["From"], message["Subject"] = "user@example.org", "Re: hello"
    message.set_content("I am away until Monday.")
    assert read_report(message.as_bytes()) is None
    assert read_report(b"") is None


def test_a_report_inside_a_returned_message_does_not_count():
    message = b"Content-Type: message/rfc822\n\n" + DSN
    assert read_report(message) is None


def test_controls_do_not_come_through():
    message = DSN.replace(b"User unknown", b"User \x00\x1b[31munknown\xc2\x85end")
    assert "\x1b" not in read_report(message).recipients[0].text


def test_a_report_about_very_many_is_cut():
    group = b"Final-Recipient: rfc822; u@example.org\nAction: failed\nStatus: 5.1.1\n\n"
    message = DSN.replace(b"Final-Recipient: rfc822; full", group * (MAX_RECIPIENTS + 5) + b"Final-Recipient: rfc822; full")
    assert len(read_report(message).recipients) == MAX_RECIPIENTS


def test_deep_nesting_ends():
    message = DSN
    for level in range(200):
        message = (
            b'Content-Type: multipart/mixed; boundary="x%d"\n\n--x%d\n' % (level, level) + message + b"\n--x%d--\n" % level
        )
    assert read_report(message) is None


@given(st.data())
def test_whatever_comes_is_read_without_a_fault(data):
    base = bytearray(data.draw(st.sampled_from([DSN, ARF, QSBMF, EXIM])))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(base) - 1))
        base[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=20))
    report = read_report(bytes(base))
    if isinstance(report, DeliveryReport):
        assert report.recipients
        assert all("\n" not in recipient.text and len(recipient.text) <= 1000 for recipient in report.recipients)
