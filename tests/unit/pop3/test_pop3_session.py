"""The session's states, the maildrop and the replies, without a socket."""

from __future__ import annotations

import pytest

from rusmes._core import pop3 as core
from rusmes._core.lines import EndlessLine
from rusmes._core.pop3 import Command
from rusmes.model.mailbox import Message
from rusmes.pop3 import reply
from rusmes.pop3.limits import DISCARD_OCTETS, LISTING_ROWS
from rusmes.pop3.maildrop import Maildrop
from rusmes.pop3.reply import Reply
from rusmes.pop3.session import NEED_DATA, Session, State
from tests.splits import assert_split_invariant

EVERY = {
    "CAPA": "CAPA", "USER": "USER a", "PASS": "PASS b", "AUTH": "AUTH PLAIN", "APOP": "APOP a b", "STLS": "STLS",
    "STAT": "STAT", "LIST": "LIST", "UIDL": "UIDL 1", "RETR": "RETR 1", "TOP": "TOP 1 0", "DELE": "DELE 1", "RSET": "RSET",
    "NOOP": "NOOP", "QUIT": "QUIT", "UTF8": "UTF8", "LANG": "LANG",
}  # fmt: skip
BEFORE = {"CAPA", "USER", "PASS", "AUTH", "APOP", "STLS", "QUIT", "UTF8", "LANG"}
AFTER = {"CAPA", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP", "QUIT"}


def drop(*sizes: int) -> Maildrop:
    return Maildrop(1, 0xABC, [Message(uid * 10, 1, b"", 0.0, size) for uid, size in enumerate(sizes, start=1)])


def test_every_verb_is_in_the_table() -> None:
    assert set(EVERY) == set(core.VERBS[1:])


@pytest.mark.rfc("1939", "3")
@pytest.mark.parametrize("verb", sorted(EVERY))
def test_commands_belong_to_states(verb: str) -> None:
    session = Session()
    line = EVERY[verb].encode() + b"\r\n"
    session.receive(line)
    event = session.next_event()
    assert isinstance(event, Command if verb in BEFORE else Reply)
    session.logged_in("a@example.com", drop(1))
    assert session.state is State.TRANSACTION
    session.receive(line)
    event = session.next_event()
    assert isinstance(event, Command if verb in AFTER else Reply)
    if isinstance(event, Reply):
        assert event.text == "not after login"


def events(pieces: list[bytes]) -> list[object]:
    session = Session()
    found: list[object] = []
    for piece in pieces:
        session.receive(piece)
        while (event := session.next_event()) is not NEED_DATA:
            found.append(repr(event))
            if len(found) == 2:
                session.logged_in("a@example.com", drop(1))
    return found


@pytest.mark.rfc("2449", "6.6")
def test_pipelined_commands_however_they_are_cut() -> None:
    data = b"USER a\r\nPASS b c\r\nSTAT\r\nLIST 1\r\nxyzzy\r\nTOP 1\r\nNOOP " + b"x" * 300 + b"\r\nRETR 1\r\nQUIT\r\n"
    found = assert_split_invariant(events, data, everywhere=True)
    assert len(found) == 9


def test_a_line_without_end_ends_the_session() -> None:
    session = Session()
    session.receive(b"x" * (DISCARD_OCTETS + 300))
    with pytest.raises(EndlessLine):
        session.next_event()


def test_responses_may_be_longer_than_commands() -> None:
    session = Session()
    session.receive(b"A" * 5000)
    assert session.next_response() is None
    session.receive(b"\r\nQUIT\r\n")
    assert session.next_response() == b"A" * 5000
    assert session.has_input
    event = session.next_event()
    assert isinstance(event, Command)
    assert event.verb == core.QUIT


def test_tls_forgets() -> None:
    session = Session()
    session.user = b"a"
    session.utf8 = True
    session.receive(b"NOO")
    session.tls_started()
    assert session.user is None
    assert not session.utf8
    assert not session.has_input


def test_errors_are_counted_lower_before_login() -> None:
    session = Session()
    assert [session.count_error() for _ in range(5)] == [False] * 4 + [True]
    session.logged_in("a", drop())
    assert not session.count_error()
    assert [session.count_failed_login() for _ in range(3)] == [False, False, True]


def test_maildrop() -> None:
    maildrop = drop(5, 7, 11)
    assert (maildrop.count, maildrop.octets) == (3, 23)
    maildrop.deleted.add(2)
    assert (maildrop.count, maildrop.octets) == (2, 16)
    assert [maildrop.has(n) for n in (-1, 0, 1, 2, 3, 4, 2**31 - 1)] == [False, False, True, False, True, False, False]
    assert b"".join(maildrop.sizes()) == b"1 5\r\n3 11\r\n"
    assert b"".join(maildrop.unique_ids()) == b"1 00000abc0000000a\r\n3 00000abc0000001e\r\n"
    assert maildrop.deleted_uids() == [20]


@pytest.mark.rfc("1939", "7")
def test_unique_ids_are_printable_and_short() -> None:
    maildrop = Maildrop(1, 2**32 - 1, [Message(2**32 - 1, 1, b"", 0.0, 2**40)])
    text = maildrop.unique_id(1)
    assert 1 <= len(text) <= 70
    assert all("!" <= c <= "~" for c in text)
    assert b"".join(maildrop.sizes()) == b"1 1099511627776\r\n"


def test_listings_come_in_pieces() -> None:
    maildrop = drop(*range(2 * LISTING_ROWS + 1))
    pieces = list(maildrop.sizes())
    assert len(pieces) == 3
    assert max(map(len, pieces)) < 64 * 1024
    assert b"".join(pieces).count(b"\r\n") == 2 * LISTING_ROWS + 1


def test_replies_on_the_wire() -> None:
    assert reply.line(Reply(True, "")) == b"+OK\r\n"
    assert reply.line(Reply(True, "hi")) == b"+OK hi\r\n"
    assert reply.line(Reply(False, "no", "IN-USE")) == b"-ERR [IN-USE] no\r\n"
    assert reply.rows(["a", ".b"]) == b"a\r\n..b\r\n"
    assert reply.continuation(b"") == b"+ \r\n"


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\0b"])
def test_no_reply_has_two_lines(text: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        reply.line(Reply(True, text))
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        reply.rows([text])
