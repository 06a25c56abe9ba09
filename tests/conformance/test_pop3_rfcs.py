"""What the RFCs of POP3 ask of a server, one script a requirement.

A script has the lines of a dialogue: "C:" is sent, "S:" is expected whole, "S~" is expected as a beginning, "S..." stands for
the rest of a multi-line reply. It begins after the greeting; the maildrop of alice has the three MESSAGES.
"""

from __future__ import annotations

import textwrap

import pytest

from rusmes.log import LogSink, SessionLog
from tests.fuzz.test_fuzz_pop3 import Pieces, finish
from tests.sessions.pop3.house import PASSWORD, House

MESSAGES = (
    b"Subject: one\r\n\r\nfirst\r\n",
    b"Subject: two\r\n\r\n.\r\n..\r\n.x\r\n",
    b"Subject: =?utf-8?q?=C3=BC?=\r\n\r\n\xc3\xbc\r\n",
)
SIZES = [len(message) for message in MESSAGES]
LOGIN = f"""
C: USER alice
S: +OK send PASS
C: PASS {PASSWORD}
S: +OK 3 messages, {sum(SIZES)} octets
"""

REQUIREMENTS = {
    # RFC 1939
    ("1939", "3", "keywords are case-insensitive"): LOGIN + "C: sTaT\nS~ +OK 3",
    ("1939", "3", "unknown commands are refused"): "C: XYZZY\nS~ -ERR\nC: QUIT\nS~ +OK",
    ("1939", "3", "commands of another state are refused"): "C: STAT\nS~ -ERR\nC: RETR 1\nS~ -ERR\nC: NOOP\nS~ -ERR",
    ("1939", "3", "multi-line replies are stuffed and end in a dot"): LOGIN
    + f"C: RETR 2\nS: +OK {SIZES[1]} octets\nS: Subject: two\nS:\nS: ..\nS: ...\nS: ..x\nS: .",
    ("1939", "4", "QUIT before login"): "C: QUIT\nS~ +OK",
    ("1939", "5", "STAT"): LOGIN + f"C: STAT\nS: +OK 3 {sum(SIZES)}",
    ("1939", "5", "STAT leaves deleted messages out"): LOGIN + f"C: DELE 1\nS~ +OK\nC: STAT\nS: +OK 2 {sum(SIZES) - SIZES[0]}",
    ("1939", "5", "LIST"): LOGIN
    + f"C: LIST\nS~ +OK 3 messages\nS: 1 {SIZES[0]}\nS: 2 {SIZES[1]}\nS: 3 {SIZES[2]}\nS: .\nC: LIST 2\nS: +OK 2 {SIZES[1]}",
    ("1939", "5", "LIST of a message that is not there"): LOGIN + "C: LIST 4\nS~ -ERR no such message",
    ("1939", "5", "RETR of a message that is not there"): LOGIN + "C: RETR 0\nS~ -ERR\nC: RETR 9\nS~ -ERR\nC: RETR\nS~ -ERR",
    ("1939", "5", "DELE twice"): LOGIN + "C: DELE 1\nS~ +OK\nC: DELE 1\nS~ -ERR\nC: RETR 1\nS~ -ERR",
    ("1939", "5", "message numbers do not change in a session"): LOGIN + f"C: DELE 1\nS~ +OK\nC: LIST 2\nS: +OK 2 {SIZES[1]}",
    ("1939", "5", "RSET takes deletions back"): LOGIN + "C: DELE 1\nS~ +OK\nC: RSET\nS~ +OK\nC: RETR 1\nS~ +OK\nS...",
    ("1939", "5", "NOOP"): LOGIN + "C: NOOP\nS: +OK",
    ("1939", "6", "QUIT removes"): LOGIN + "C: DELE 2\nS~ +OK\nC: DELE 3\nS~ +OK\nC: QUIT\nS: +OK 2 messages removed, bye",
    ("1939", "7", "TOP"): LOGIN + "C: TOP 2 1\nS~ +OK\nS: Subject: two\nS:\nS: ..\nS: .",
    ("1939", "7", "TOP of more lines than there are"): LOGIN + "C: TOP 1 9\nS~ +OK\nS: Subject: one\nS:\nS: first\nS: .",
    ("1939", "7", "TOP without lines"): LOGIN + "C: TOP 1\nS~ -ERR\nC: TOP 1 0\nS~ +OK\nS: Subject: one\nS:\nS: .",
    ("1939", "7", "UIDL"): LOGIN + "C: UIDL\nS~ +OK\nS~ 1 \nS~ 2 \nS~ 3 \nS: .\nC: UIDL 3\nS~ +OK 3 \nC: UIDL 4\nS~ -ERR",
    ("1939", "7", "a wrong name is not told apart from a wrong password"): (
        "C: USER nobody\nS: +OK send PASS\nC: PASS x\nS: -ERR [AUTH] authentication failed\n"
        "C: USER alice\nS: +OK send PASS\nC: PASS x\nS: -ERR [AUTH] authentication failed"
    ),
    ("1939", "7", "PASS comes right after USER"): (
        f"C: USER alice\nS~ +OK\nC: CAPA\nS~ +OK\nS...\nC: PASS {PASSWORD}\nS~ +OK\nC: PASS x\nS~ -ERR"
    ),
    ("1939", "7", "APOP is optional and not offered"): "C: APOP alice c4c9334bac560ecc979e58001b3e22fb\nS~ -ERR",
    # RFC 2449
    ("2449", "5", "CAPA before and after login"): "C: CAPA\nS~ +OK\nS...\n" + LOGIN.strip() + "\nC: CAPA\nS~ +OK\nS...",
    ("2449", "4", "lines of 255 octets"): f"C: CAPA{' ' * 249}\nS~ +OK\nS...\nC: CAPA{' ' * 250}\nS: -ERR line too long",
    ("2449", "8.1.2", "IN-USE"): "C: USER bob\nS~ +OK\nC: PASS s3cret\nS~ -ERR [IN-USE]",
    # RFC 3206
    ("3206", "4", "AUTH says that the credentials are wrong"): "C: USER alice\nS~ +OK\nC: PASS no\nS~ -ERR [AUTH]",
    # RFC 5034
    ("5034", "4", "AUTH with an initial response"): "C: AUTH PLAIN AGFsaWNlAHMzY3JldA==\nS~ +OK 3 messages",
    ("5034", "4", "AUTH without an initial response"): "C: AUTH PLAIN\nS~ +\nC: AGFsaWNlAHMzY3JldA==\nS~ +OK 3 messages",
    ("5034", "4", "a cancelled exchange"): "C: AUTH PLAIN\nS~ +\nC: *\nS~ -ERR\nC: CAPA\nS~ +OK\nS...",
    ("5034", "4", "a response that is no base64"): "C: AUTH PLAIN\nS~ +\nC: ?\nS~ -ERR",
    ("5034", "4", "an unknown mechanism"): "C: AUTH KERBEROS_V4\nS~ -ERR",
    ("5034", "4", "no AUTH after login"): LOGIN + "C: AUTH PLAIN\nS~ -ERR",
    # RFC 6856
    ("6856", "2.1", "UTF8 before login"): "C: UTF8\nS~ +OK\n" + LOGIN.strip() + "\nC: RETR 3\nS~ +OK\nS...",
    ("6856", "2.1", "no UTF8 after login"): LOGIN + "C: UTF8\nS~ -ERR",
    ("6856", "2.2", "names in UTF-8"): "C: USER jürgen\nS~ +OK\nC: PASS grüße\nS~ -ERR [AUTH]",
}


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, id=f"RFC {number} §{section}: {text}", marks=pytest.mark.rfc(number, section))
        for (number, section, text), script in REQUIREMENTS.items()
    ],
)
def test_requirement(script: str) -> None:
    run(script)


def run(script: str) -> None:
    lines = [line for line in textwrap.dedent(script).strip().split("\n") if line]
    house = House(tls=False)
    finish(house.deliver("alice", *MESSAGES))
    house.limits.acquire(b"pop3:bob@example.com", 1)
    sent = [line[3:].encode() + b"\r\n" for line in lines if line.startswith("C:")]
    connection = Pieces(sent)
    log = SessionLog("script", "127.0.0.1", "pop3", sink=LogSink(lambda line: None))
    try:
        finish(house.service.handle(connection, log))  # type: ignore[arg-type]
    finally:
        house.limits.release(b"pop3:bob@example.com")
    said = bytes(connection.sent).decode().split("\r\n")
    assert said.pop() == ""
    assert said.pop(0).startswith("+OK")
    for number, line in enumerate(lines, start=1):
        kind, text = line[:2], line[3:]
        if line == "S...":
            while said.pop(0) != ".":
                pass
        elif kind == "S:":
            assert said.pop(0) == text, f"script line {number}: {line}"
        elif kind == "S~":
            assert said.pop(0).startswith(text), f"script line {number}: {line}"
    assert not said, f"more was said: {said}"
