import re

import pytest

from rusmes.model.plan import Refusal
from rusmes.smtp import reply as r
from rusmes.smtp.reply import Reply

CONSTANTS = {name: value for name, value in vars(r).items() if isinstance(value, Reply)}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_named_by_their_code_and_well_formed(name):
    reply = CONSTANTS[name]
    assert name.startswith(f"R{reply.code}_")
    assert re.fullmatch(rb"\d{3} ([245]\.\d\.\d{1,2} )?[ -~]+\r\n", reply.wire)
    # RFC 2034 §4: a status with every 2xx, 4xx and 5xx; 3xx has none.
    assert bool(reply.status) == (reply.code // 100 != 3)


def test_one_line_and_many():
    assert Reply(250, "2.1.0", "OK").wire == b"250 2.1.0 OK\r\n"
    assert Reply(250, "", "mx", "SIZE 1", "8BITMIME").wire == b"250-mx\r\n250-SIZE 1\r\n250 8BITMIME\r\n"
    assert Reply(550, "5.7.1", "no", "way").wire == b"550-5.7.1 no\r\n550 5.7.1 way\r\n"
    assert Reply(354, "").wire == b"354 \r\n"


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\n250 OK", "a\0b", "\n"])
def test_h7_line_ends_and_nul_are_refused(text):
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Reply(550, "5.0.0", text)
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Reply(250, "2.0.0", "fine", text)


@pytest.mark.parametrize(
    ("code", "status"),
    [(100, ""), (600, ""), (0, ""), (250, "5.0.0"), (550, "2.0.0"), (550, "5.0"), (550, "5.0.0\r\n"), (450, "x")],
)
def test_codes_and_statuses_are_checked(code, status):
    with pytest.raises(ValueError, match=r"reply code|no status"):
        Reply(code, status, "text")


def test_long_text_is_continued():
    wire = Reply(550, "5.7.1", "x" * 1200).wire
    lines = wire.split(b"\r\n")[:-1]
    assert all(len(line) + 2 <= r.LINE_BYTES for line in lines)
    assert [line[:10] for line in lines] == [b"550-5.7.1 ", b"550-5.7.1 ", b"550 5.7.1 "]
    assert b"".join(line[10:] for line in lines) == b"x" * 1200


def test_text_is_ascii():
    assert Reply(550, "5.7.1", "naïve \u2028").wire == b"550 5.7.1 na\\xefve \\u2028\r\n"


def test_a_peers_text_is_quoted_and_bounded():
    assert r.quoted(b"a\r\nb\0\xff") == "a??b??"
    assert r.quoted("a\r\né") == "a????"
    assert r.quoted("x" * 300, 20) == "x" * 17 + "..."
    assert r.quoted("x" * 20, 20) == "x" * 20
    Reply(550, "5.0.0", r.quoted(bytes(range(256))))


def test_a_refusal_becomes_a_reply():
    assert r.refused(Refusal(550, "5.7.1", "relaying denied")).wire == b"550 5.7.1 relaying denied\r\n"
    assert r.refused(Refusal(451, "4.3.0", "one\r\ntwo\0")).wire == b"451-4.3.0 one\r\n451 4.3.0 two?\r\n"
    assert r.refused(Refusal(451, "4.3.0", "")).wire == b"451 4.3.0 refused\r\n"


def test_made_on_the_spot():
    assert r.greeting("mx.example.com").wire == b"220 mx.example.com ESMTP RusMES\r\n"
    assert r.greeting("mx.example.com", lmtp=True).wire == b"220 mx.example.com LMTP RusMES\r\n"
    assert r.hello("mx", ("SIZE 1",), client="a\r\nb").wire == b"250-mx greets a??b\r\n250 SIZE 1\r\n"
    assert r.hello("mx").wire == b"250 mx\r\n"
    assert r.accepted("ABC").wire == b"250 2.0.0 OK queued as ABC\r\n"
    assert r.too_large(5).wire == b"552 5.3.4 Message is larger than 5 octets\r\n"


def test_a_challenge_is_one_line_of_base64():
    assert r.challenge(b"").wire == b"334 \r\n"
    assert r.challenge(b"Username:").wire == b"334 VXNlcm5hbWU6\r\n"
    assert r.challenge(b"x" * 600).wire.count(b"\r\n") == 1


def test_replies_are_values():
    assert Reply(250, "2.0.0", "OK") == r.R250_OK
    assert len({Reply(250, "2.0.0", "OK"), r.R250_OK}) == 1
    assert Reply(250, "2.0.0", "OK") != r.R250_SENDER_OK
    assert r.R250_OK.is_positive
    assert not r.R421_TIMEOUT.is_positive
