"""Rows of the list of attacks, and promises about notices, against the whole server with its real stores and accounts.

A2 is in test_pop3_workers.py.
"""

from __future__ import annotations

import poplib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from email import message_from_bytes

import pytest

from tests.e2e.running import PASSWORD, RunningServer

pytestmark = pytest.mark.slow

STRANGER = "203.0.113.9"
SEQUENCES = (
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\n", b"\r.\r\n", b"\n.\r", b"\r\n.\r", b"\r\r\n.\r\r\n", b"\r\n.\r\r\n",
    b"\r\n\0.\r\n", b"\r\n.\0\r\n",
)  # fmt: skip
SECOND = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled"

LATER = """
[[processors]]
name = "root"
state = "root"
mailets = [
  { matcher = "RecipientIs=bob+later@example.com", mailet = "Reject", params = { code = 451, status = "4.7.1" } },
  { matcher = "RecipientIs=bob+never@example.com", mailet = "Reject", params = { text = "never" } },
  { matcher = "RecipientIsLocal", mailet = "LocalDelivery" },
  { matcher = "RelayAllowed", mailet = "RemoteDelivery" },
]
[[processors]]
name = "error"
state = "error"
mailets = [{ matcher = "All", mailet = "Hold" }]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    made = RunningServer(
        tmp_path_factory.mktemp("attacks"),
        extra=LATER,
        sections={"server": 'proxy_networks = ["127.0.0.0/8"]', "smtp": "greet_delay = 0"},
    )
    made.add_user("alice@example.com")
    made.add_user("bob@example.com")
    with made:
        yield made


def connect(server: RunningServer, *, client: str = "", tls: bool = False) -> smtplib.SMTP:
    smtp = smtplib.SMTP("127.0.0.1", server.smtp, timeout=20)
    smtp.ehlo("client.example")
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        smtp.starttls(context=context)
        smtp.ehlo("client.example")
    if client:
        assert smtp.docmd("XCLIENT", f"ADDR={client}")[0] == 220
        smtp.ehlo("client.example")
    return smtp


def inbox(server: RunningServer, user: str) -> list[bytes]:
    """Everything in a maildrop, which is empty afterwards."""
    pop = poplib.POP3("127.0.0.1", server.pop3, timeout=20)
    pop.user(user)
    pop.pass_(PASSWORD)
    found = []
    for number in range(1, pop.stat()[0] + 1):
        found.append(b"\r\n".join(pop.retr(number)[1]))
        pop.dele(number)
    pop.quit()
    return found


def wait_for(server: RunningServer, user: str, count: int) -> list[bytes]:
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(inbox(server, user))
        return len(found) >= count

    server.wait_until(enough, f"{count} mails of {user}")
    return found


@pytest.mark.parametrize("tls", [False, True])
def test_s1_to_s11_nothing_is_smuggled(server: RunningServer, tls: bool) -> None:
    smtp = connect(server, tls=tls)
    assert smtp.sock is not None
    for sequence in SEQUENCES:
        smtp.mail("a@client.example")
        smtp.rcpt("bob@example.com")
        assert smtp.docmd("DATA")[0] == 354
        smtp.sock.sendall(b"Subject: outer\r\n\r\nx" + sequence + SECOND + b"\r\n.\r\n")
        assert smtp.getreply()[0] == 550, sequence
        assert smtp.docmd("NOOP")[0] == 250
        smtp.docmd("NOOP")  # in step: no reply is left over
    smtp.sendmail("a@client.example", ["bob@example.com"], "Subject: good\r\n\r\n.\r\n")
    smtp.quit()
    (only,) = inbox(server, "bob@example.com")
    assert b"Subject: good" in only


@pytest.mark.parametrize(
    "recipient",
    [
        "x@foreign.example", "x%foreign.example@example.com", "foreign.example!x@example.com", '"x@foreign.example"',
        '"x@foreign.example"@example.com', "@example.com:x@foreign.example", "x@[127.0.0.1]", "x@foreign.example.",
        "nobody@example.com",
    ],
)  # fmt: skip
@pytest.mark.parametrize("sender", ["", "alice@example.com"])
def test_r1_to_r10_strangers_relay_nothing(server: RunningServer, recipient: str, sender: str) -> None:
    smtp = connect(server, client=STRANGER)
    assert smtp.docmd(f"MAIL FROM:<{sender}>")[0] == 250
    code, text = smtp.docmd(f"RCPT TO:<{recipient}>")
    assert code in (501, 550, 553, 554), text
    smtp.close()


def test_h5_h6_what_a_client_says_makes_no_line(server: RunningServer) -> None:
    smtp = connect(server)
    assert smtp.docmd("XCLIENT", "NAME=evil+0D+0AX-Evil:+20yes ADDR=10.1.2.3")[0] == 501
    assert smtp.docmd("MAIL FROM:<a@b.example> ENVID=a+0D+0AX-Evil:1")[0] == 501
    smtp.docmd("XCLIENT", "NAME=a+29+28b ADDR=10.1.2.3 HELO=x)(y+22+20z")
    smtp.docmd('EHLO a)(b"x')
    smtp.mail("a@client.example")
    smtp.rcpt("bob@example.com")
    smtp.data(b"Subject: x\r\n\r\n")
    smtp.quit()
    (mail,) = inbox(server, "bob@example.com")
    received = message_from_bytes(mail)["Received"]
    assert received.startswith("from x??y??z (a??b [10.1.2.3])")
    assert "X-Evil" not in server.log.read_text().replace("+0AX-Evil", "")


def test_one_reply_hides_no_fate(server: RunningServer) -> None:
    """Refused for good: a notice. For now: kept. Strangers are told as well, for the 250 was ours."""
    smtp = connect(server, client=STRANGER)
    to = ["alice@example.com", "bob+never@example.com", "bob+later@example.com"]
    assert smtp.sendmail("alice@example.com", to, "Subject: three\r\n\r\n") == {}
    smtp.quit()
    mails = wait_for(server, "alice@example.com", 2)
    (notice,) = [mail for mail in mails if b"Return-Path: <>" in mail]
    assert b"Final-Recipient: rfc822; bob+never@example.com" in notice
    assert b"bob+later" not in notice
    assert "bob+later@example.com" in server.rusmes("queue", "list")


def test_t1_pipelined_bytes_after_starttls_are_never_commands(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.smtp), timeout=10) as sock:
        sock.recv(1000)
        sock.sendall(b"EHLO x\r\n")
        while b"250 " not in sock.recv(4000):
            pass
        sock.sendall(b"STARTTLS\r\nMAIL FROM:<injected@x.example>\r\n")
        assert sock.recv(1000).startswith(b"554 5.5.0")
        assert sock.recv(1000) == b""
