"""The client's half of SMTP: replies in any pieces, commands, and the bytes of a body (SO1 to SO10)."""

from __future__ import annotations

import random

import pytest

from rusmes.model.address import Address
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, Recipient
from rusmes.smtp import exchange
from rusmes.smtp.exchange import BodyEncoder, Extensions, LineTooLong, MalformedReply, Reply, ReplyReader


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    out, at = [], 0
    for size in sizes:
        out.append(data[at : at + size])
        at += size
    out.append(data[at:])
    return [piece for piece in out if piece]


def splits(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and a few random ways."""
    chance = random.Random(7)
    ways = [[data], [data[i : i + 1] for i in range(len(data))]]
    ways += [pieces(data, [chance.randint(1, 9) for _ in range(40)]) for _ in range(5)]
    return ways


def read_all(chunks: list[bytes], expected: int) -> list[Reply]:
    reader = ReplyReader()
    reader.expected = expected
    out = []
    for chunk in chunks:
        reader.feed(chunk)
        while (reply := reader.next_reply()) is not None:
            out.append(reply)
    assert reader.is_clean
    return out


def test_replies_are_the_same_in_any_pieces() -> None:
    data = b"220 mx ready\r\n250-mx.example\r\n250-SIZE 1000\r\n250 DSN\r\n550 5.1.1 no\r\n250\r\n354 go\n"
    for way in splits(data):
        replies = read_all(way, 5)
        assert [reply.code for reply in replies] == [220, 250, 550, 250, 354]
        assert replies[1].lines == (b"mx.example", b"SIZE 1000", b"DSN")
        assert replies[2].status == "5.1.1"
        assert replies[2].text == "no"


def test_status_of_another_class_is_text() -> None:
    assert Reply(450, (b"5.1.1 strange",)).status == ""
    assert Reply(450, (b"5.1.1 strange",)).text == "5.1.1 strange"


def test_text_is_harmless_and_short() -> None:
    reply = Reply(550, (b"5.7.1 bad\x1b[31m\x00 \xff news", b"5.7.1 " + b"x" * 2000))
    assert reply.text.startswith("bad [31m  \ufffd news x")
    assert reply.text.isprintable()
    assert len(reply.text) == 1000


@pytest.mark.parametrize("junk", [b"hello\r\n", b"99 x\r\n", b"250_x\r\n", b"650 x\r\n", b"199 x\r\n", b"\r\n", b"\x16\x03\n"])
def test_what_is_no_reply_is_refused(junk: bytes) -> None:
    reader = ReplyReader()
    reader.feed(junk)
    with pytest.raises(MalformedReply):
        reader.next_reply()


def test_so8_endless_line_is_cut() -> None:
    reader = ReplyReader()
    reader.feed(b"250 " + b"x" * 5000)
    with pytest.raises(MalformedReply):
        reader.next_reply()


def test_so8_endless_reply_is_cut() -> None:
    reader = ReplyReader()

    def endless() -> None:
        for _ in range(1_000_000):
            reader.feed(b"250-" + b"x" * 100 + b"\r\n")
            reader.next_reply()

    with pytest.raises(MalformedReply):
        endless()


def test_so8_unread_bytes_are_bounded() -> None:
    reader = ReplyReader()

    def flood() -> None:
        for _ in range(100):
            reader.feed(b"x" * 4000)

    with pytest.raises(MalformedReply):
        flood()


def test_so10_reply_before_its_command() -> None:
    reader = ReplyReader()
    reader.feed(b"220 hi\r\n250 too early\r\n")
    assert reader.next_reply() == Reply(220, (b"hi",))
    assert not reader.is_clean
    with pytest.raises(MalformedReply):
        reader.expect()
    with pytest.raises(MalformedReply):
        reader.next_reply()


def test_goodbye_may_come_at_any_time() -> None:
    reader = ReplyReader()
    reader.expected = 0
    reader.feed(b"421 4.3.2 going down\r\n")
    reply = reader.next_reply()
    assert reply is not None
    assert (reply.code, reply.status) == (421, "4.3.2")


def test_extensions() -> None:
    reply = Reply(250, (b"mx.example greets", b"PIPELINING", b"size 5000", b"AUTH PLAIN login", b"AUTH=PLAIN", b"8bitmime",
                        b"LIMITS RCPTMAX=50 MAILMAX=9 X=", b"STARTTLS", b"DSN", b"CHUNKING", b"BINARYMIME", b"SMTPUTF8",
                        b"REQUIRETLS"))  # fmt: skip
    got = exchange.read_extensions(reply)
    assert got == Extensions(
        name="mx.example", esmtp=True, pipelining=True, size=5000, eightbit=True, smtputf8=True, starttls=True, chunking=True,
        binarymime=True, dsn=True, requiretls=True, auth=("PLAIN", "LOGIN", "PLAIN"), max_recipients=50, max_messages=9,
    )  # fmt: skip
    assert exchange.read_extensions(Reply(250, (b"",))).size is None
    assert exchange.read_extensions(Reply(250, (b"x", b"SIZE"))).size == 0
    assert exchange.read_extensions(Reply(250, (b"x", b"SIZE " + b"9" * 30))).size == 0


def test_mail_parameters_only_where_offered() -> None:
    sender = Address("a b", "example.com")
    all_of_it = {"size": 12, "body": "8BITMIME", "smtputf8": True, "requiretls": True, "ret": "HDRS", "envid": "q+1=x"}
    offered = Extensions(size=0, dsn=True)
    assert exchange.mail_command(sender, offered, **all_of_it) == (  # type: ignore[arg-type]
        b'MAIL FROM:<"a b"@example.com> SIZE=12 BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=q+2B1+3Dx\r\n'
    )
    assert exchange.mail_command(None, Extensions(), size=12, ret="HDRS", envid="q") == b"MAIL FROM:<>\r\n"


def test_rcpt_parameters() -> None:
    address = Address("b", "example.com")
    rcpt = Recipient(address, notify=NOTIFY_FAILURE | NOTIFY_DELAY, orcpt="rfc822;B+x@example.com")
    assert exchange.rcpt_command(rcpt, Extensions(dsn=True)) == (
        b"RCPT TO:<b@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;B+2Bx@example.com\r\n"
    )
    assert exchange.rcpt_command(rcpt, Extensions()) == b"RCPT TO:<b@example.com>\r\n"
    never = Recipient(address, notify=NOTIFY_NEVER, orcpt="utf-8;jos\u00e9+x@example.com")
    assert exchange.rcpt_command(never, Extensions(dsn=True)) == (
        b"RCPT TO:<b@example.com> NOTIFY=NEVER ORCPT=utf-8;jos\\x{E9}\\x{2B}x@example.com\r\n"
    )
    assert "jos\u00e9".encode() in exchange.rcpt_command(never, Extensions(dsn=True), smtputf8=True)


@pytest.mark.parametrize("bad", ["a\r\nDATA", "a\nb", "a\0b"])
def test_injection_is_refused_in_the_encoder(bad: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        exchange.mail_command(Address(bad, "example.com"), Extensions())
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        exchange.rcpt_command(Recipient(Address(bad, "example.com")), Extensions())


LONG = b"x" * 1500
BODIES = [
    pytest.param(b"a\r\nb\r\n", b"a\r\nb\r\n.\r\n", id="clean"),
    pytest.param(b"a\nb\r\n", b"a\r\nb\r\n.\r\n", id="SO1"),
    pytest.param(b"a\rb\r\n", b"a\r\nb\r\n.\r\n", id="SO2"),
    pytest.param(b"a\r\r\nb\r\r\r\n", b"a\r\nb\r\n.\r\n", id="SO3"),
    pytest.param(b".\r\n..a\r\nb.\r\n.c\r\n", b"..\r\n...a\r\nb.\r\n..c\r\n.\r\n", id="SO4"),
    pytest.param(b"a\n.\nb\r.\rc\r\n", b"a\r\n..\r\nb\r\n..\r\nc\r\n.\r\n", id="SO4-smuggled"),
    pytest.param(b"a\r\nb", b"a\r\nb\r\n.\r\n", id="SO5"),
    pytest.param(b"a\r\nb\r", b"a\r\nb\r\n.\r\n", id="SO5-cr"),
    pytest.param(b"", b".\r\n", id="empty"),
    pytest.param(LONG + b"\r\n", b"x" * 998 + b"\r\n " + b"x" * 502 + b"\r\n.\r\n", id="SO6-fold"),
    pytest.param(b"y\r\n" + LONG, b"y\r\n" + b"x" * 998 + b"\r\n " + b"x" * 502 + b"\r\n.\r\n", id="SO6-fold-last"),
    pytest.param(b"x" * 998 + b"\r\n", b"x" * 998 + b"\r\n.\r\n", id="SO6-just-fits"),
]


@pytest.mark.parametrize(("stored", "wire"), BODIES)
def test_body_on_the_wire(stored: bytes, wire: bytes) -> None:
    assert BodyEncoder().whole(stored) == wire
    for way in splits(stored):
        encoder = BodyEncoder()
        assert b"".join(encoder.chunk(piece) for piece in way) + encoder.finish() == wire
        encoder = BodyEncoder(dots=False)
        without = b"".join(encoder.chunk(piece) for piece in way) + encoder.finish()
        assert without == BodyEncoder(dots=False).whole(stored)
        assert (b"\r\n" + without).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n" == wire


def test_long_lines_can_fail_or_be_kept() -> None:
    with pytest.raises(LineTooLong):
        BodyEncoder(long_lines="fail").whole(LONG + b"\r\n")
    with pytest.raises(LineTooLong):
        BodyEncoder(long_lines="fail").chunk(LONG)
    for way in splits(LONG + b"\r\n.x"):
        encoder = BodyEncoder(long_lines="keep")
        assert b"".join(map(encoder.chunk, way)) + encoder.finish() == LONG + b"\r\n..x\r\n.\r\n"


def test_folding_tears_no_character() -> None:
    line = ("x" * 997 + "\u20ac" * 700).encode()
    out = BodyEncoder().whole(line + b"\r\n")
    lines = out.split(b"\r\n")[:-2]
    assert all(len(line) <= 998 for line in lines)
    assert "".join(line.decode().lstrip(" ") for line in lines) == line.decode()


def test_random_bodies_are_safe_and_the_same_in_any_pieces() -> None:
    """Invariant: no bare CR or LF, no line that is a lone dot but the last, and pieces do not matter."""
    chance = random.Random(3)
    for _ in range(400):
        stored = bytes(chance.choice(b"\r\n\r\n.ab") for _ in range(chance.randint(0, 60)))
        wire = BodyEncoder().whole(stored)
        assert wire.replace(b"\r\n", b"").count(b"\r") == wire.replace(b"\r\n", b"").count(b"\n") == 0
        lines = wire.split(b"\r\n")
        assert lines.count(b".") == 1
        assert lines[-2:] == [b".", b""]
        encoder = BodyEncoder()
        way = pieces(stored, [chance.randint(1, 5) for _ in range(20)])
        assert b"".join(encoder.chunk(piece) for piece in way) + encoder.finish() == wire
