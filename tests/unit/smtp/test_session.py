"""The session as a transcript: what the client sends, what the session tells the server, what goes back.

Names begin with the row of the security table they prove (P1, T1, ...), where there is one.
"""

from __future__ import annotations

import pytest

from rusmes._core.body import BARE_LF, HEADER_TOO_LARGE, MBOX_FROM, NUL, TOO_LARGE
from rusmes.model.address import Address
from rusmes.smtp import reply as r
from rusmes.smtp.limits import Limits
from rusmes.smtp.session import (
    CLOSED,
    NEED_DATA,
    BodyChunk,
    BodyEnd,
    Command,
    Line,
    Malformed,
    Session,
    State,
    refusal_of_body,
)
from tests.splits import assert_split_invariant

EVERYTHING = frozenset(
    ["SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "STARTTLS", "AUTH", "REQUIRETLS", "XCLIENT", "PIPELINING"]
)
SMALL = Limits(max_message_bytes=1000, max_header_bytes=500)

# What the server in these tests says to each command; a test overrides by verb.
ANSWERS = {
    "EHLO": r.hello("mx"),
    "HELO": r.hello("mx"),
    "LHLO": r.hello("mx"),
    "MAIL": r.R250_SENDER_OK,
    "RCPT": r.R250_RECIPIENT_OK,
    "DATA": r.R354_GO_AHEAD,
    "RSET": r.R250_OK,
    "NOOP": r.R250_OK,
    "QUIT": r.R221_BYE,
    "VRFY": r.R252_CANNOT_VERIFY,
    "HELP": r.R250_OK,
    "AUTH": r.challenge(b""),
    "STARTTLS": r.R220_READY_FOR_TLS,
    "XCLIENT": r.Reply(220, "", "mx"),
    "line": r.R235_AUTHENTICATED,
    "message": r.R250_OK,
    "chunk": r.R250_CHUNK_OK,
}


class Server:
    """Answers everything at once and writes down what it saw."""

    def __init__(self, *, limits=SMALL, answers=None, greet=True, **options):
        self.session = Session(limits, **{"extensions": EVERYTHING, **options})
        self.answers = {**ANSWERS, **(answers or {})}
        self.seen = []
        self.text = b""
        self.texts = []
        if greet:
            self.session.reply(r.greeting("mx"))
            self.session.data_to_send()

    def hears(self, data):
        """Feed the data, answer what comes of it, and return the codes that go back."""
        self.session.receive(data)
        while self.step():
            pass
        return codes(self.session.data_to_send())

    def step(self):
        session = self.session
        event = session.next_event()
        if event is NEED_DATA or event is CLOSED:
            return False
        if isinstance(event, BodyChunk):
            self.text += event.data
            return True
        self.seen.append(event)
        if isinstance(event, Command):
            if event.verb != "BDAT":
                self.say(self.answers[event.verb])
        elif isinstance(event, Line):
            self.say(self.answers["line"])
        elif isinstance(event, BodyEnd):
            answer = self.answers["message" if event.last else "chunk"]
            if event.faults:
                answer = refusal_of_body(event.faults)
            if event.last or answer.code >= 400:
                self.texts.append(self.text if answer.code < 400 else None)
                self.text = b""
            for _ in range(session.replies_due):
                session.reply(answer)
        else:
            assert isinstance(event, Malformed)
            session.reply(event.reply)
        return True

    def say(self, answer):
        self.session.reply(answer.pop(0) if isinstance(answer, list) else answer)

    @property
    def last(self):
        return self.seen[-1]


def codes(wire):
    """The codes of complete replies, one for each."""
    found = [int(line[:3]) for line in wire.decode("ascii").split("\r\n")[:-1] if line[3] == " "]
    assert wire == b"" or wire.endswith(b"\r\n")
    return found


def in_transaction(**options):
    server = Server(**options)
    assert server.hears(b"EHLO client.example\r\n") == [250]
    assert server.hears(b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\n") == [250, 250]
    return server


# A message


def test_p7_a_pipelined_message_is_answered_in_order_with_one_flush():
    server = Server()
    assert server.hears(b"EHLO client.example\r\n") == [250]
    assert server.hears(b"MAIL FROM:<a@b.c> SIZE=100\r\nRCPT TO:<d@e.f>\r\nRCPT TO:<g@h.i>\r\nDATA\r\n") == [250, 250, 250, 354]
    assert server.session.state is State.DATA
    assert server.hears(b"Subject: x\r\n\r\nhello\r\n..dot\r\n.\r\nQUIT\r\n") == [250, 221]
    assert server.texts == [b"Subject: x\r\n\r\nhello\r\n.dot\r\n"]
    assert server.session.closed
    mail, first, second = server.seen[1:4]
    assert (mail.address, mail.parameters.size) == (Address("a", "b.c"), 100)
    assert [first.address, second.address] == [Address("d", "e.f"), Address("g", "h.i")]
    end = server.seen[-2]
    assert (end.size, end.header_bytes, end.received_count, end.faults) == (27, 14, 0, 0)


def test_a_dialogue_is_the_same_however_it_is_cut():
    pieces_of_dialogue = [
        b"EHLO client.example\r\n",
        b"MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n",
        b"Subject: x\r\n\r\nhello\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<q@e.f>\r\n"
        b"BDAT 7\r\nabc\r\n.\rBDAT 3 LAST\r\n\nxyRSET\r\nNOOP\r\n",
        b"AUTH LOGIN\r\n",
        b"dXNlcg==\r\n",
        b"FOO\r\nQUIT\r\n",
    ]

    def run(pieces):
        server = Server()
        out = [code for group in pieces_of_dialogue[:2] for code in server.hears(group)]
        for piece in pieces:
            out += server.hears(piece)
        for group in pieces_of_dialogue[3:]:
            out += server.hears(group)
        return out, server.texts, [type(event).__name__ for event in server.seen]

    out, texts, _ = assert_split_invariant(run, pieces_of_dialogue[2], everywhere=True)
    assert out == [250, 250, 250, 354, 250, 250, 250, 250, 250, 250, 250, 334, 235, 500, 221]
    assert texts == [b"Subject: x\r\n\r\nhello\r\n", b"abc\r\n.\r\nxy"]


def test_session_starts_over_after_a_message():
    server = in_transaction()
    assert server.session.sender_given
    assert server.session.recipients == 1
    assert server.hears(b"DATA\r\n") == [354]
    assert server.hears(b"x\r\n.\r\n") == [250]
    assert server.session.state is State.READY
    assert not server.session.sender_given
    assert server.hears(b"DATA\r\n") == [503]


def test_a_refused_data_leaves_the_transaction():
    server = in_transaction(answers={"DATA": [r.R451_STORE_FAILED, r.R354_GO_AHEAD]})
    assert server.hears(b"DATA\r\n") == [451]
    assert server.hears(b"DATA\r\n") == [354]
    assert server.hears(b".\r\n") == [250]
    assert server.texts == [b""]


@pytest.mark.parametrize(
    ("body", "faults", "answer"),
    [
        (b"a\nb\r\n.\r\n", BARE_LF, (550, "5.6.0")),
        (b"a\0b\r\n.\r\n", NUL, (550, "5.6.0")),
        (b"From me\r\n\r\n.\r\n", MBOX_FROM, (550, "5.6.0")),
        (b"x: y\r\n" * 90 + b"\r\n.\r\n", HEADER_TOO_LARGE, (552, "5.3.4")),
        (b"a: b\r\n\r\n" + b"x" * 998 + b"\r\n.\r\n", TOO_LARGE, (552, "5.3.4")),
        (b"\n" + b"x" * 1200 + b"\r\n.\r\n", BARE_LF | TOO_LARGE | HEADER_TOO_LARGE, (552, "5.3.4")),
    ],
)
def test_s21_a_faulty_body_is_swallowed_to_its_true_end(body, faults, answer):
    server = in_transaction()
    assert server.hears(b"DATA\r\n") == [354]
    assert server.hears(body + b"RSET\r\n") == [answer[0], 250]
    assert server.seen[-2].faults == faults
    assert (refusal_of_body(faults).code, refusal_of_body(faults).status) == answer
    assert server.texts == [None]


def test_normalize_mends_and_says_so():
    server = in_transaction(limits=Limits(bare_newline="normalize"))
    assert server.hears(b"DATA\n") == [354]
    assert server.hears(b"a\nb\r\n.\r\n") == [250]
    assert server.last.repaired == BARE_LF
    assert server.texts == [b"a\r\nb\r\n"]


def test_a_body_that_will_be_refused_is_not_given_out():
    server = in_transaction()
    server.hears(b"DATA\r\n")
    server.hears(b"first\r\n")
    server.session.discard_body()
    assert server.hears(b"second\r\n.\r\n") == [250]
    assert server.texts == [b"first\r\n"]


def test_p14_a_body_without_end_ends_the_connection():
    server = in_transaction()
    server.hears(b"DATA\r\n")
    said = []
    for _ in range(80):
        said += server.hears(b"x" * 998 + b"\r\n")
    assert said == [552]
    assert server.session.closed
    assert server.last.fatal


# Order


@pytest.mark.parametrize("command", [b"MAIL FROM:<a@b>", b"RCPT TO:<a@b>", b"DATA", b"AUTH PLAIN", b"STARTTLS"])
def test_nothing_before_hello(command):
    server = Server()
    assert server.hears(command + b"\r\n") == [503]
    assert server.last.reason == "out-of-order"
    assert server.hears(b"NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\n") == [250, 250, 252, 250]
    assert server.hears(command + b"\r\n") == [503]
    assert server.hears(b"HELO x\r\n") == [250]
    assert not server.session.esmtp


@pytest.mark.parametrize(
    ("command", "code", "status"),
    [
        (b"RCPT TO:<a@b>", 503, "5.5.1"),
        (b"DATA", 503, "5.5.1"),
        (b"BDAT 3\r\nabc", 503, "5.5.1"),
        (b"EXPN list", 502, "5.5.1"),
        (b"TURN", 502, "5.5.1"),
        (b"ETRN x", 502, "5.5.1"),
        (b"LHLO x", 500, "5.5.1"),
    ],
)
def test_what_ready_does_not_take(command, code, status):
    server = Server()
    server.hears(b"EHLO x\r\n")
    wire = command if command.startswith(b"BDAT") else command + b"\r\n"
    assert server.hears(wire) == [code]
    assert server.last.reply.status == status
    assert server.session.state is State.READY


@pytest.mark.parametrize("command", [b"MAIL FROM:<a@b>", b"AUTH PLAIN AGEAYg==", b"STARTTLS", b"XCLIENT ADDR=1.2.3.4"])
def test_p10_t5_a5_what_a_transaction_does_not_take(command):
    server = in_transaction()
    assert server.hears(command + b"\r\n") == [503]
    assert server.session.state is State.RCPT
    assert server.hears(b"DATA\r\n") == [354]


@pytest.mark.parametrize("command", [b"RSET", b"EHLO x", b"HELO x"])
def test_what_ends_a_transaction(command):
    server = in_transaction()
    assert server.hears(command + b"\r\n") == [250]
    assert not server.session.sender_given
    assert server.session.recipients == 0
    assert server.hears(b"RCPT TO:<a@b>\r\n") == [503]
    assert server.hears(b"MAIL FROM:<a@b>\r\n") == [250]


def test_p8_data_after_refused_recipients():
    server = Server(answers={"RCPT": r.R550_UNKNOWN_USER})
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n") == [250, 550, 550, 554]
    assert server.last.reply == r.R554_NO_RECIPIENTS
    assert server.hears(b"RSET\r\nMAIL FROM:<a@b>\r\nDATA\r\n") == [250, 250, 503]
    assert server.hears(b"RCPT TO:<>\r\nDATA\r\n") == [501, 554]


def test_a_refused_mail_opens_no_transaction():
    server = Server(answers={"MAIL": r.Reply(550, "5.7.1", "no")})
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n") == [550, 503, 503]


def test_refused_greeting_leaves_only_quit():
    server = Server(greet=False)
    server.session.reply(r.Reply(554, "5.7.1", "go away"))
    assert server.hears(b"EHLO x\r\nMAIL FROM:<a@b>\r\n") == [554, 554]
    assert server.session.closed


def test_refused_greeting_answers_503_until_quit():
    server = Server(greet=False)
    server.session.reply(r.Reply(554, "5.7.1", "go away"))
    assert server.hears(b"EHLO x\r\n") == [554, 503]
    assert server.hears(b"MAIL FROM:<a@b>\r\n") == [503]
    assert server.hears(b"QUIT\r\n") == [221]


def test_p5_who_talks_before_the_greeting():
    server = Server(greet=False)
    assert server.session.next_event() is NEED_DATA
    assert server.hears(b"EHLO x\r\n") == [554]
    assert server.last.reason == "early-talker"
    assert server.session.closed


@pytest.mark.parametrize(
    "line", [b"DATA now", b"RSET x", b"QUIT x", b"STARTTLS x", b"EHLO", b"HELO ", b"VRFY", b"AUTH", b"AUTH a b c", b"XCLIENT"]
)
def test_t3_arguments_where_none_belong_and_none_where_one_does(line):
    server = in_transaction() if line.startswith(b"DATA") else Server()
    server.hears(b"" if line.startswith(b"DATA") else b"EHLO x\r\n")
    state = server.session.state
    assert server.hears(line + b"\r\n") == [501]
    assert server.last.reason == "syntax"
    assert server.session.state is state


# Synchronisation points (RFC 2920 §3.1)


@pytest.mark.parametrize("command", [b"EHLO x", b"HELO x", b"STARTTLS", b"AUTH LOGIN", b"QUIT", b"XCLIENT ADDR=1.2.3.4"])
@pytest.mark.parametrize("behind", [b"RSET\r\n", b"x", b"\r\n"])
def test_p6_t1_octets_behind_the_end_of_a_group(command, behind):
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(command + b"\r\n" + behind) == [554]
    assert server.last.reason == "early-data"
    assert server.last.verb == command.split()[0].decode()
    assert server.session.closed
    assert server.hears(b"NOOP\r\n") == []
    assert server.session.next_event() is CLOSED


def test_p6_text_that_does_not_wait_for_354():
    server = in_transaction()
    assert server.hears(b"DATA\r\nSubject: x\r\n\r\n.\r\n") == [554]
    assert server.session.closed


def test_a4_a_line_of_auth_is_a_point_too():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"AUTH LOGIN\r\n") == [334]
    assert server.hears(b"dQ==\r\ncA==\r\n") == [554]
    assert server.session.closed


def test_what_may_follow_does():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"NOOP\r\nVRFY x\r\nHELP\r\nRSET\r\nNOOP\r\n") == [250, 252, 250, 250, 250]
    assert server.hears(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\nQUIT\r\n") == [
        250,
        250,
        250,
        250,
        221,
    ]


# BDAT


def test_p17_a_message_in_chunks():
    server = in_transaction()
    assert server.hears(b"BDAT 12\r\nSubject: x\r\n") == [250]
    assert server.session.state is State.BDAT
    assert server.hears(b"BDAT 2\r\n\r\nBDAT 9\r\nx\r\n.\r\ny\r\nBDAT 0 LAST\r\n") == [250, 250, 250]
    assert server.texts == [b"Subject: x\r\n\r\nx\r\n.\r\ny\r\n"]
    assert (server.last.last, server.last.size, server.last.header_bytes) == (True, 23, 14)
    assert server.session.state is State.READY


def test_p17_an_empty_last_chunk_is_a_message():
    server = in_transaction()
    assert server.hears(b"BDAT 0 LAST\r\n") == [250]
    assert server.texts == [b""]


@pytest.mark.parametrize("command", [b"MAIL FROM:<a@b>", b"RCPT TO:<a@b>", b"DATA", b"AUTH PLAIN", b"STARTTLS"])
def test_p17_only_chunks_after_a_chunk(command):
    server = in_transaction()
    server.hears(b"BDAT 3\r\nabc")
    assert server.hears(command + b"\r\n") == [503]
    assert server.last.reply == r.R503_CHUNKS_ONLY
    assert server.hears(b"NOOP\r\nBDAT 3 LAST\r\ndef") == [250, 250]
    assert server.texts == [b"abcdef"]


@pytest.mark.parametrize("command", [b"RSET", b"EHLO x"])
def test_chunks_are_forgotten(command):
    server = in_transaction()
    server.hears(b"BDAT 3\r\nabc")
    assert server.hears(command + b"\r\n") == [250]
    server.text = b""
    assert server.hears(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3 LAST\r\nx\r\n") == [250, 250, 250]
    assert server.texts == [b"x\r\n"]
    assert server.last.size == 3


def test_p18_the_payload_of_a_refused_bdat_is_no_command():
    server = Server(answers={"RCPT": r.R550_UNKNOWN_USER})
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"BDAT 6\r\nQUIT\r\nNOOP\r\n") == [503, 250]
    assert server.hears(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 12\r\nQUIT\r\nQ") == [250, 550]
    assert server.hears(b"UIT\r") == []
    assert server.hears(b"\nNOOP\r\n") == [554, 250]
    assert not server.session.closed


def test_p18_chunks_behind_a_refused_chunk_are_swallowed():
    server = in_transaction(answers={"chunk": r.R452_STORE_FULL})
    assert server.hears(b"BDAT 6\r\nRSET\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n") == [452, 503, 503, 250]
    assert server.session.state is State.READY


def test_chunks_over_the_limit():
    server = in_transaction()
    assert server.hears(b"BDAT 900\r\n" + b"a: b\r\n\r\n" + b"x" * 892) == [250]
    assert server.hears(b"BDAT 101\r\n" + b"x" * 101) == [552]
    assert server.hears(b"BDAT 1 LAST\r\nxNOOP\r\n") == [503, 250]


def test_p17_a_chunk_nobody_would_swallow():
    for size, code in (
        (b"2001", 552),
        (b"18446744073709551615", 501),
        (b"99999999999999999999999", 501),
        (b"x", 501),
        (b"", 501),
    ):
        server = in_transaction()
        assert server.hears(b"BDAT " + size + b"\r\n") == [code]
        assert server.session.closed
        assert server.last.fatal
    server = Server()
    assert server.hears(b"BDAT 4611686018427387000\r\n") == [552]
    assert server.session.closed


def test_bdat_without_chunking_is_not_implemented():
    server = in_transaction(extensions=frozenset({"SIZE"}))
    assert server.hears(b"BDAT 6\r\nQUIT\r\nNOOP\r\n") == [502, 250]


def test_p16_binary_needs_chunks():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"MAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\nDATA\r\n") == [250, 250, 503]
    assert server.hears(b"BDAT 5 LAST\r\n\0\n\r\xff.") == [250]
    assert server.texts == [b"\0\n\r\xff."]
    assert server.last.eight_bit
    assert server.hears(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\n\0") == [250, 250, 550]


# Lines


@pytest.mark.parametrize("verb", [b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"CONNECT x:25 HTTP/1.1"])
def test_p4_http(verb):
    server = Server()
    assert server.hears(verb + b"\r\nHost: x\r\n\r\n") == [554]
    assert server.session.closed


def test_a_tls_hello_in_the_clear():
    server = Server()
    assert server.hears(b"\x16\x03\x01\x02\x00\x01") == [554]
    assert server.session.closed


def test_p1_a_long_line_is_one_error():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"NOOP " + b"x" * 2000 + b"QUIT\r\n" + b"NOOP\r\n") == [500, 250]
    assert server.seen[-2].reason == "line-too-long"
    assert server.hears(b"MAIL FROM:<a@b> " + b"x" * 5000 + b"\r\n") == [500]


def test_p2_a_line_without_end():
    server = Server()
    assert [code for _ in range(700) for code in server.hears(b"x" * 16384)] == [500]
    assert server.session.closed


def test_p3_unknown_commands():
    server = Server()
    assert server.hears(b"FOO\r\nBAR x\r\n\r\n" + b"\xff\xfe\r\n") == [500, 500, 500, 500]
    assert [event.reason for event in server.seen] == ["unknown-command", "unknown-command", "syntax", "unknown-command"]


def test_s19_bare_newline_in_a_command():
    server = Server()
    assert server.hears(b"NOOP\nNOOP\r\n") == [500]
    assert server.session.closed
    server = Server(limits=Limits(bare_newline="normalize"))
    assert server.hears(b"NOOP\nNOOP\r\n") == [250, 250]


# Envelope


@pytest.mark.parametrize(
    ("line", "code", "status"),
    [
        (b"MAIL FROM:a@b", 501, "5.5.2"),
        (b"MAIL FROM:<a@b> FOO=1", 555, "5.5.4"),
        (b"MAIL FROM:<a@b> HOLDFOR=60", 555, "5.5.4"),
        (b"MAIL FROM:<a@b> SIZE=x", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> SIZE=1001", 552, "5.3.4"),
        (b"MAIL FROM:<a@b> SIZE=99999999999999999999", 552, "5.3.4"),
        (b"MAIL FROM:<a@b> SIZE=999999999999999999999", 501, "5.5.4"),
        (b"MAIL FROM:<a@b> SIZE=1 SIZE=2", 501, "5.5.4"),
        (b"MAIL FROM:<a@b>x", 501, "5.5.4"),
        (b"MAIL FROM:<a>", 501, "5.1.7"),
        (b"MAIL FROM:<postmaster>", 501, "5.1.7"),
        (b"MAIL FROM:<a@b..c>", 501, "5.1.2"),
        (b"MAIL FROM:<a\0@b>", 501, "5.5.2"),
        (b"MAIL FROM:<a\t@b>", 501, "5.5.2"),
        (b"MAIL FROM:<\xc3\xa9@b>", 553, "5.6.7"),
        (b"MAIL FROM:<\xc3@b> SMTPUTF8", 501, "5.1.7"),
    ],
)
def test_p11_p12_p13_p24_what_mail_refuses(line, code, status):
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(line + b"\r\n") == [code]
    assert server.last.reply.status == status
    assert server.session.state is State.READY


@pytest.mark.parametrize(
    ("line", "code", "status"),
    [
        (b"RCPT TO:<>", 501, "5.1.3"),
        (b"RCPT TO:<user>", 501, "5.1.3"),
        (b"RCPT TO:<user@>", 501, "5.1.2"),
        (b"RCPT TO:<@local>", 501, "5.1.3"),
        (b"RCPT TO:<user@foreign@local>", 501, "5.1.2"),
        (b'RCPT TO:<"user@foreign">', 501, "5.1.3"),
        (b"RCPT TO:<a@b> NOTIFY=NEVER,SUCCESS", 501, "5.5.4"),
        (b"RCPT TO:<a@b> SIZE=1", 555, "5.5.4"),
        (b"RCPT TO:<\xc3\xa9@b>", 553, "5.6.7"),
    ],
)
def test_r4_r5_r7_b2_what_rcpt_refuses(line, code, status):
    server = in_transaction()
    assert server.hears(line + b"\r\n") == [code]
    assert server.last.reply.status == status
    assert server.session.recipients == 1


def test_a_parameter_is_known_while_its_extension_is_offered():
    server = Server(extensions=frozenset({"SIZE"}))
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"MAIL FROM:<a@b> RET=HDRS\r\n") == [555]
    server.session.extensions = frozenset({"SIZE", "DSN"})
    assert server.hears(b"MAIL FROM:<a@b> RET=HDRS\r\n") == [250]
    assert server.last.parameters.ret == "HDRS"


def test_smtputf8_lasts_for_a_transaction():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears("MAIL FROM:<é@b> SMTPUTF8\r\nRCPT TO:<ü@bücher.example>\r\n".encode()) == [250, 250]
    assert server.last.address == Address("ü", "xn--bcher-kva.example")
    assert server.hears("RSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<ü@b>\r\n".encode()) == [250, 250, 553]


def test_paths():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nRCPT TO:<@a.b,@c.d:u@E.f>\r\n") == [250, 250, 250]
    assert [event.address for event in server.seen[1:]] == [None, Address("Postmaster", ""), Address("u", "e.f")]


# AUTH, STARTTLS, XCLIENT, LMTP


def test_auth_exchange():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"AUTH scram-sha-256 =\r\n") == [334]
    assert (server.last.mechanism, server.last.initial) == ("SCRAM-SHA-256", b"=")
    assert server.session.state is State.AUTH
    server.answers["line"] = [r.challenge(b"more"), r.R235_AUTHENTICATED]
    assert server.hears(b"one\r\n") == [334]
    assert server.hears(b"*\r\n") == [235]
    assert [event.data for event in server.seen if isinstance(event, Line)] == [b"one", b"*"]
    assert server.session.authenticated
    assert server.hears(b"AUTH PLAIN\r\n") == [503]
    assert server.hears(b"EHLO y\r\nX"[:8]) == [250]
    assert server.session.authenticated


def test_a_failed_exchange_ends():
    server = Server(answers={"line": r.R535_AUTH_FAILED})
    server.hears(b"EHLO x\r\n")
    server.hears(b"AUTH LOGIN\r\n")
    assert server.hears(b"x\r\n") == [535]
    assert not server.session.authenticated
    assert server.session.state is State.READY
    assert server.hears(b"NOOP\r\n") == [250]


def test_a4_a_line_of_auth_has_a_limit():
    server = Server()
    server.hears(b"EHLO x\r\n")
    server.hears(b"AUTH PLAIN\r\n")
    assert server.hears(b"A" * 12286 + b"\r\n") == [235]
    server = Server()
    server.hears(b"EHLO x\r\n")
    server.hears(b"AUTH PLAIN\r\n")
    assert server.hears(b"A" * 12287 + b"\r\nNOOP\r\n") == [500, 250]
    assert server.session.state is State.READY
    assert not server.session.authenticated


def test_t2_t4_tls_starts_everything_over():
    server = Server()
    server.hears(b"EHLO x\r\n")
    server.hears(b"AUTH PLAIN\r\n")
    server.hears(b"x\r\n")
    assert server.hears(b"STARTTLS\r\n") == [220]
    assert server.session.state is State.TLS
    server.session.receive(b"RSET\r\n")  # arrived in the clear after the 220
    server.session.tls_started()
    assert server.session.next_event() is NEED_DATA
    assert (server.session.tls, server.session.authenticated, server.session.helo, server.session.esmtp) == (
        True,
        False,
        "",
        False,
    )
    assert server.hears(b"RCPT TO:<a@b>\r\n") == [503]
    assert server.hears(b"MAIL FROM:<a@b>\r\n") == [503]
    assert server.hears(b"EHLO x\r\n") == [250]
    assert server.hears(b"STARTTLS\r\n") == [503]


def test_tls_needs_a_220():
    server = Server(answers={"STARTTLS": r.R454_TLS_UNAVAILABLE})
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"STARTTLS\r\n") == [454]
    with pytest.raises(RuntimeError):
        server.session.tls_started()


def test_r14_xclient_starts_over():
    server = Server()
    server.hears(b"EHLO x\r\n")
    assert server.hears(b"XCLIENT ADDR=192.0.2.1\r\n") == [220]
    assert server.session.state is State.GREET
    assert server.session.helo == ""


def test_lmtp_answers_for_each_recipient():
    server = Server(protocol="lmtp", answers={"RCPT": [r.R250_RECIPIENT_OK, r.R550_UNKNOWN_USER, r.R250_RECIPIENT_OK] * 2})
    assert server.hears(b"EHLO x\r\n") == [500]
    assert server.hears(b"LHLO x\r\n") == [250]
    assert server.session.esmtp
    envelope = b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<b@b>\r\nRCPT TO:<c@b>\r\n"
    assert server.hears(envelope + b"DATA\r\n") == [250, 250, 550, 250, 354]
    assert server.hears(b"x\r\n.\r\nNOOP\r\n") == [250, 250, 250]
    assert server.hears(envelope + b"BDAT 2\r\nabBDAT 0 LAST\r\n") == [250, 250, 550, 250, 250, 250, 250]
    assert server.session.state is State.READY


# The contract with the server


def test_a_reply_is_due_before_the_next_event():
    session = Session(SMALL)
    session.reply(r.greeting("mx"))
    session.receive(b"NOOP\r\nNOOP\r\n")
    assert session.next_event().verb == "NOOP"
    with pytest.raises(RuntimeError, match="due"):
        session.next_event()
    session.reply(r.R250_OK)
    with pytest.raises(RuntimeError, match="due"):
        session.reply(r.R250_OK)


def test_421_may_be_said_at_any_time():
    for beginning in (b"", b"NOOP\r\n", b"EHLO x\r\n"):
        server = Server()
        server.session.receive(beginning)
        server.session.next_event()
        server.session.reply(r.R421_SHUTTING_DOWN)
        assert server.session.closed
        assert server.session.next_event() is CLOSED
        server.session.reply(r.R250_OK)
        assert codes(server.session.data_to_send()) == [421]
        server.session.receive(b"NOOP\r\n")
        assert server.session.next_event() is CLOSED


def test_close_says_nothing():
    server = in_transaction()
    server.session.close()
    assert server.hears(b"NOOP\r\n") == []
    assert server.session.closed


def test_helo_is_printable():
    server = Server()
    server.hears("EHLO é(\x80\r\n".encode("latin-1"))
    assert server.session.helo == "?(?"


def test_an_idle_session_is_small():
    import sys

    session = in_transaction().session
    assert session._reader.waiting == 0
    assert sys.getsizeof(session) + sys.getsizeof(session._reader) + sys.getsizeof([]) < 700
