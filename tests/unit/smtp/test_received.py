import email.policy
import email.utils
from email.parser import BytesParser

import pytest

from rusmes.model.address import Address
from rusmes.model.mail import Origin
from rusmes.smtp.received import date, neutralised, received_line, return_path, with_protocol

NOW = 1893456000.9  # Tue, 1 Jan 2030


def test_everything_is_said():
    origin = Origin(
        client_address="192.0.2.1",
        client_name="mail.example.net",
        helo="client.example",
        protocol="ESMTPS",
        tls="TLSv1.3 TLS_AES_256",
    )
    assert received_line(origin, "mx.example.com", "A1B2", NOW, recipient=Address("x y", "example.com")) == (
        b"Received: from client.example (mail.example.net [192.0.2.1])\r\n"
        b"\tby mx.example.com with ESMTPS id A1B2\r\n"
        b"\t(TLSv1.3 TLS_AES_256)\r\n"
        b'\tfor <"x y"@example.com>;\r\n'
        b"\tTue, 1 Jan 2030 00:00:00 +0000\r\n"
    )


def test_what_is_not_known_is_left_out():
    line = received_line(Origin(), "mx", "ID", NOW)
    assert line == b"Received: from unknown (unknown)\r\n\tby mx with SMTP id ID;\r\n\tTue, 1 Jan 2030 00:00:00 +0000\r\n"
    line = received_line(Origin(client_address="2001:db8::1", helo="[IPv6:2001:db8::1]"), "mx", "ID", NOW, protocol="LMTP")
    assert line.startswith(b"Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\tby mx with LMTP id ID;\r\n")


@pytest.mark.parametrize(
    "helo",
    [
        "a\r\nBcc: x@y",
        "a) (b",
        "a\0b",
        "a b;c",
        'a"b',
        "a\\",
        "é",
        "x" * 10_000,
        "<a@b>",
        "a,b",
        "\t",
        "a\u2028b",
        "\n\n",
        "((((",
        "=?utf-8?q?x?=",
    ],
)
def test_h5_the_clients_text_stays_a_word(helo):
    line = received_line(Origin(helo=helo, client_name=helo, client_address="192.0.2.1", tls=helo), "mx", "ID", NOW)
    assert max(len(part) for part in line.split(b"\r\n")) <= 998
    message = BytesParser(policy=email.policy.default).parsebytes(line + b"\r\n")
    assert message.keys() == ["Received"]
    assert not message.defects
    text = line.decode("ascii")
    assert text.count("(") == text.count(")")
    assert text.startswith("Received: from ")
    assert text.count(";") == 1
    assert "\r" not in text.replace("\r\n\t", "").removesuffix("\r\n")


def test_neutralised():
    assert neutralised("plain.example-1.com") == "plain.example-1.com"
    assert neutralised("a b)\r\né", 5) == "a?b??"
    assert len(neutralised("x" * 1000)) == 255


@pytest.mark.rfc("3848", "")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"esmtp": False}, "SMTP"),
        ({"esmtp": False, "tls": True}, "SMTP"),
        ({"esmtp": True}, "ESMTP"),
        ({"esmtp": True, "authenticated": True}, "ESMTPA"),
        ({"esmtp": True, "tls": True}, "ESMTPS"),
        ({"esmtp": True, "tls": True, "authenticated": True}, "ESMTPSA"),
        ({"esmtp": True, "lmtp": True}, "LMTP"),
        ({"esmtp": True, "lmtp": True, "tls": True}, "LMTPS"),
        ({"esmtp": True, "utf8": True}, "UTF8SMTP"),
        ({"esmtp": True, "utf8": True, "tls": True, "authenticated": True}, "UTF8SMTPSA"),
        ({"esmtp": True, "utf8": True, "lmtp": True, "tls": True}, "UTF8LMTPS"),
    ],
)
def test_with(options, word):
    assert with_protocol(**options) == word


@pytest.mark.parametrize("now", [0, 86399, 951782400, 1709208000, NOW])
def test_dates_are_those_of_rfc_5322(now):
    parsed = email.utils.parsedate_to_datetime(date(now))
    assert parsed.timestamp() == int(now)
    assert parsed.strftime("%a, ") == date(now)[:5]


def test_return_path():
    assert return_path(None) == b"Return-Path: <>\r\n"
    assert return_path(Address("a b", "c")) == b'Return-Path: <"a b"@c>\r\n'
    assert return_path(Address("é", "c")) == "Return-Path: <é@c>\r\n".encode()
