"""What refusals of well-known servers are about."""

from __future__ import annotations

import pytest

from rusmes.delivery.replies import CLASSES, classify, is_about_the_mail, is_session_limit

TABLE = [
    # Postfix, Exim, Sendmail
    ("greeting", "421 4.7.0 mx.x.org Error: too many connections from 192.0.2.1", "rate"),
    ("greeting", "421 Too many concurrent SMTP connections; please try again later.", "rate"),
    ("mail", "450 4.7.1 Error: too much mail from 192.0.2.1", "rate"),
    ("greeting", "421 4.3.2 Service not available, closing transmission channel", "host"),
    ("mail", "452 4.3.1 Insufficient system storage", "host"),
    ("rcpt", "450 4.2.0 <a@x.org>: Recipient address rejected: Greylisted", "policy"),
    ("rcpt", "451 4.7.1 Greylisting in action, please come back later", "policy"),
    ("rcpt", "550 5.1.1 <a@x.org>: Recipient address rejected: User unknown in virtual mailbox table", "recipient"),
    ("rcpt", "550 5.1.1 no such user", "recipient"),
    ("rcpt", "550 No such user here", "recipient"),
    ("rcpt", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", "reputation"),
    ("rcpt", "450 4.7.25 Client host rejected: cannot find your hostname", "reputation"),
    ("rcpt", "552 5.2.2 Mailbox full", "recipient"),
    ("rcpt", "452 4.2.2 The recipient's inbox is out of storage space", "recipient"),
    ("message", "552 5.3.4 Message size exceeds fixed limit", "content"),
    ("message", "550 5.7.1 Message rejected as spam by content filter", "content"),
    ("message", "451 4.3.0 queue file write error", "host"),
    ("greeting", "554 no service for you", "reputation"),
    ("rcpt", "452 4.5.3 Too many recipients", "rate"),
    ("mail", "530 5.7.0 Must issue a STARTTLS command first", "auth"),
    ("login", "454 4.7.0 Temporary authentication failure", "auth"),
    # Gmail
    ("message", "421 4.7.28 Our system has detected an unusual rate of unsolicited mail originating from your IP", "rate"),
    ("rcpt", "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents", "recipient"),
    ("message", "550 5.7.26 This mail is unauthenticated, which poses a security risk", "auth"),
    ("message", "550 5.7.1 Our system has detected that this message is likely unsolicited mail", "content"),
    ("greeting", "421 4.7.0 Try again later, closing connection.", "rate"),
    ("rcpt", "550 5.2.1 The email account that you tried to reach is disabled", "recipient"),
    # Microsoft
    ("mail", "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", "rate"),
    ("mail", "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation", "rate"),
    ("greeting", "421 RP-001 The mail server IP connecting to Outlook.com server has exceeded the rate limit allowed.", "rate"),
    ("mail", "550 5.7.1 Unfortunately, messages from [192.0.2.1] are not sent. their network is on our block list (S3140)",
     "reputation"),
    ("rcpt", "550 5.7.606 Access denied, banned sending IP [192.0.2.1]", "reputation"),
    ("message", "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded", "recipient"),
    # Yahoo, Comcast, Orange, T-Online
    ("mail", "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume", "rate"),
    ("mail", "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred", "reputation"),
    ("mail", "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1", "reputation"),
    ("greeting", "421 resimta.x.net comcast RL000003 Try again later", "rate"),
    ("greeting", "421 mwinf.x.fr ME Trop de connexions. Too many connections, slow down. OFR_104",
     "rate"),
    ("greeting", "554 IP=192.0.2.1 - None/bad reputation. Ask your postmaster for help", "reputation"),
    # Codes alone
    ("rcpt", "451 4.4.5 x", "rate"),
    ("mail", "451 4.7.0 x", "policy"),
    ("greeting", "451 4.7.0 x", "rate"),
    ("rcpt", "451 4.7.0 x", "policy"),
    ("rcpt", "421 4.7.0 x", "rate"),
    ("rcpt", "450 x", "recipient"),
    ("message", "554 x", "content"),
    ("mail", "501 5.5.4 x", "policy"),
    ("mail", "500 x", "unknown"),
    ("message", "250 2.0.0 queued", "accepted"),
]  # fmt: skip


@pytest.mark.parametrize(("phase", "reply", "expected"), TABLE)
def test_class(phase: str, reply: str, expected: str) -> None:
    code, _, rest = reply.partition(" ")
    status, _, text = rest.partition(" ")
    if status[:2] not in ("4.", "5.", "2."):
        status, text = "", rest
    assert classify(int(code), status, text, phase) == expected
    assert expected in CLASSES


@pytest.mark.parametrize(
    ("status", "phase", "expected"),
    [
        ("4.4.1", "connect", "network"),
        ("4.4.2", "message", "network"),
        ("4.7.10", "tls", "policy"),
        ("4.4.3", "dns", "host"),
        ("5.1.2", "dns", "recipient"),
        ("5.6.7", "mail", "content"),
    ],
)
def test_what_we_found_ourselves(status: str, phase: str, expected: str) -> None:
    assert classify(0, status, "whatever spamhaus says", phase) == expected


def test_of_which_nothing_is_said_that_is_not_attempted() -> None:
    assert not is_about_the_mail("rate", 421, "greeting")
    assert not is_about_the_mail("rate", 450, "rcpt")
    assert not is_about_the_mail("host", 421, "mail")
    assert is_about_the_mail("host", 451, "message")
    assert is_about_the_mail("rate", 550, "mail")
    assert is_about_the_mail("recipient", 450, "rcpt")


def test_a_connection_that_has_carried_enough() -> None:
    assert is_session_limit("4.7.0 Too many messages in this connection")
    assert is_session_limit("Max message per connection reached, closing transmission channel")
    assert not is_session_limit("too many connections")
