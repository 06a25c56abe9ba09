"""Reports come back to the server that sent the mail, and it stops sending to addresses that do not exist."""

from __future__ import annotations

import json
import smtplib
from pathlib import Path

import pytest

from tests.e2e.running import RunningServer
from tests.sinks.thread import SinkThread
from tests.unit.mailet.test_returning import REPORT

RETURNS = """
[returns]
address = "bounces@example.com"

[suppression]
enabled = true

[[delivery.route]]
name = "sink"
host = "127.0.0.1"
port = {port}
domains = ["*"]
use_tls = false

[[processors]]
name = "root"
state = "root"
mailets = [
  {{ matcher = "RecipientIsLocal", mailet = "LocalDelivery" }},
  {{ matcher = "IsForwarded", mailet = "SRS" }},
  {{ matcher = "RemoteAddrInNetwork=127.0.0.0/8", mailet = "VERP" }},
  {{ matcher = "RelayAllowed", mailet = "RemoteDelivery" }},
]
"""


@pytest.fixture
def sink():
    with SinkThread() as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, sink: SinkThread):
    server = RunningServer(tmp_path, workers=2)
    server.write_config()
    server.config.write_text(server.config.read_text() + RETURNS.format(port=sink.port))
    server.add_user()
    return server


def send(server: RunningServer, sender: str, recipients: list[str], text: str) -> dict[str, tuple[int, bytes]]:
    with smtplib.SMTP("127.0.0.1", server.smtp, timeout=10) as client:
        return client.sendmail(sender, recipients, text)


def test_a_report_to_the_return_path_suppresses_its_recipient(server: RunningServer, sink: SinkThread) -> None:
    with server:
        send(server, "news@example.com", ["one@example.org", "two@example.org"], "Subject: hi\r\n\r\nhello\r\n")
        server.wait_until(lambda: sink.count == 2, "sent")
        paths = {message.rcpts[0]: message.mail.partition(">")[0].lstrip("<") for message in sink.messages}
        assert all(len(message.rcpts) == 1 for message in sink.messages)
        path = paths["<one@example.org>"]
        assert path.startswith("bounces+")
        assert path.endswith("-one=example.org@example.com")
        assert path != paths["<two@example.org>"]
        facts = {b"final": b"one@example.org", b"action": b"failed", b"status": b"5.1.1", b"text": b"550 5.1.1 no such user"}
        send(server, "", [path], (REPORT % facts).decode())
        server.wait_until(lambda: server.events("suppressed"), "read")
        server.wait_until(lambda: "one@example.org" in server.rusmes("suppression", "list"), "in the list")
        with pytest.raises(smtplib.SMTPDataError, match="suppressed: InvalidRecipient"):
            send(server, "news@example.com", ["one@example.org"], "Subject: again\r\n\r\nhello\r\n")
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, "", [path.replace("one=", "two=").replace("bounces", "bounced")], "Subject: x\r\n\r\n")
        with pytest.raises(smtplib.SMTPDataError, match=r"5\.1\.1 this return path is not one of ours"):
            send(server, "", [path.replace("one=", "two=")], "Subject: x\r\n\r\n")
        server.rusmes("suppression", "remove", "one@example.org")
        server.wait_until(lambda: _is_sent(server), "may be sent to again")


def listed(server: RunningServer) -> list[tuple[str, str]]:
    return [(entry["address"], entry["category"]) for entry in json.loads(server.rusmes("suppression", "list", "--json"))]


def _is_sent(server: RunningServer) -> bool:
    try:
        send(server, "news@example.com", ["one@example.org"], "Subject: again\r\n\r\nhello\r\n")
    except smtplib.SMTPDataError:
        return False
    return True


def test_a_refusal_in_our_own_delivery_suppresses(server: RunningServer, sink: SinkThread) -> None:
    sink.sink.replies["rcpt"] = "550 5.1.1 no such user"
    with server:
        send(server, "alice@example.com", ["gone@example.org"], "Subject: hi\r\n\r\nhello\r\n")
        server.wait_until(lambda: server.events("address suppressed"), "suppressed")
        server.wait_until(lambda: listed(server) == [("gone@example.org", "InvalidRecipient")], "in the list")


def test_forwarded_mail_has_a_sender_that_leads_back(server: RunningServer, sink: SinkThread) -> None:
    server.rusmes("alias", "add", "away@example.com", "me@example.org")
    with server:
        send(server, "friend@example.net", ["away@example.com"], "Subject: hi\r\n\r\nhello\r\n")
        server.wait_until(lambda: sink.count == 1, "forwarded")
        sender = sink.messages[0].mail.partition(">")[0].lstrip("<")
        assert sender.startswith("SRS0="), "VERP leaves senders elsewhere alone"
        send(server, "", [sender], "Subject: I am away\r\n\r\n")
        server.wait_until(lambda: sink.count == 2, "led back")
        assert sink.messages[1].rcpts[0].startswith("<friend@example.net>")
        forged = sender.replace("friend", "victim")
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, "", [forged], "Subject: x\r\n\r\n")
