"""The session without a socket: states, literals, limits, and that the dialogue stays in step."""

from __future__ import annotations

from typing import Any

import pytest

from rusmes._core.lines import EndlessLine, LineTooLong
from rusmes.imap import command as c
from rusmes.imap.limits import (
    APPEND_OCTETS,
    COMMAND_OCTETS,
    COMMAND_OCTETS_BEFORE_LOGIN,
    DISCARD_OCTETS,
    DISCARD_OCTETS_BEFORE_LOGIN,
    ERRORS_AFTER_LOGIN,
    ERRORS_BEFORE_LOGIN,
    FAILED_LOGINS,
    LINE_OCTETS,
    LITERAL_OCTETS,
    LITERAL_OCTETS_BEFORE_LOGIN,
    LITERALS,
    LITERALS_BEFORE_LOGIN,
)
from rusmes.imap.session import (
    ALLOWED,
    NEED_DATA,
    Continuation,
    LiteralOffer,
    Refusal,
    Session,
    SinkFailure,
    State,
)
from rusmes.model.content import Content


class Sink:
    def __init__(self, fails: bool = False) -> None:
        self.data = b""
        self.fails = fails
        self.aborted = False

    def write(self, data: bytes) -> None:
        if self.fails:
            raise OSError("full")
        self.data += data

    def finish(self) -> Content:
        return Content(bytes(16), len(self.data), 0, data=self.data)

    def abort(self) -> None:
        self.aborted = True


def session(state: State = State.SELECTED, **options: Any) -> Session:
    made = Session(**options)
    if state is not State.NOT_AUTHENTICATED:
        made.logged_in()
    if state is State.SELECTED:
        made.selected()
    return made


def events(made: Session, data: bytes = b"") -> list[Any]:
    """Everything until more is needed, an offer, or the end."""
    made.receive(data)
    seen: list[Any] = []
    while (event := made.next_event()) is not NEED_DATA:
        seen.append(event)
        if isinstance(event, LiteralOffer) or (isinstance(event, Refusal) and event.ends):
            break
    return seen


def replies(made: Session, data: bytes) -> list[Any]:
    """The same, refusals as their bytes and commands by their names."""
    return [event.data if isinstance(event, Refusal | Continuation) else type(event).__name__ for event in events(made, data)]


# States

EVERYWHERE = (b"CAPABILITY", b"NOOP", b"LOGOUT", b"ID NIL")
BEFORE_LOGIN = (b"STARTTLS", b"AUTHENTICATE PLAIN", b"LOGIN a b")
AFTER_LOGIN = (
    b"ENABLE X", b"NAMESPACE", b"COMPRESS DEFLATE", b"UNAUTHENTICATE", b"SELECT a", b"EXAMINE a", b"CREATE a", b"DELETE a",
    b"RENAME a b", b"SUBSCRIBE a", b"UNSUBSCRIBE a", b'LIST "" *', b'LSUB "" *', b"STATUS a (MESSAGES)", b"IDLE",
    b"NOTIFY NONE",
    b'GETQUOTA ""', b"GETQUOTAROOT a", b'SETQUOTA "" ()', b"GETACL a", b"SETACL a b l", b"DELETEACL a b", b"LISTRIGHTS a b",
    b"MYRIGHTS a", b"GETMETADATA a /x", b"SETMETADATA a (/x NIL)", b"GETJMAPACCESS",
    b"ESEARCH IN (personal) ALL",
)  # fmt: skip
WITH_A_MAILBOX = (
    b"CHECK", b"CLOSE", b"UNSELECT", b"EXPUNGE", b"UID EXPUNGE 1", b"FETCH 1 UID", b"UID FETCH 1 UID", b"STORE 1 FLAGS x",
    b"UID STORE 1 FLAGS x", b"COPY 1 a", b"UID COPY 1 a", b"MOVE 1 a", b"UID MOVE 1 a", b"SEARCH ALL", b"UID SEARCH ALL",
    b"SORT (SIZE) UTF-8 ALL", b"UID SORT (SIZE) UTF-8 ALL", b"THREAD REFERENCES UTF-8 ALL", b"ESEARCH ALL",
    b'CANCELUPDATE "x"',
    b"UID THREAD REFERENCES UTF-8 ALL",
)  # fmt: skip


@pytest.mark.rfc("9051", "3")
@pytest.mark.parametrize("line", EVERYWHERE + BEFORE_LOGIN + AFTER_LOGIN + WITH_A_MAILBOX)
def test_a_command_belongs_to_its_states(line: bytes) -> None:
    allowed = {
        State.NOT_AUTHENTICATED: EVERYWHERE + BEFORE_LOGIN,
        State.AUTHENTICATED: EVERYWHERE + AFTER_LOGIN,
        State.SELECTED: EVERYWHERE + AFTER_LOGIN + WITH_A_MAILBOX,
    }
    for state, lines in allowed.items():
        (event,) = events(session(state), b"a " + line + b"\r\n")
        if line in lines:
            assert isinstance(event, c.Command)
            assert type(event) in ALLOWED[state] or line.startswith(b"ESEARCH")
        else:
            assert event.data in (
                b"a BAD log in first\r\n",
                b"a BAD already logged in\r\n",
                b"a BAD no mailbox is selected\r\n",
            )
            assert event.is_bad


def test_the_states_follow_one_another() -> None:
    made = Session()
    assert made.state is State.NOT_AUTHENTICATED
    made.logged_in()
    assert made.state is State.AUTHENTICATED
    made.selected(is_read_only=True)
    assert (made.state, made.is_read_only) == (State.SELECTED, True)
    made.unselected()
    made.enable("CONDSTORE")
    made.unauthenticated()
    assert made.state is State.NOT_AUTHENTICATED
    assert not made.enabled
    made.logged_out()
    assert made.is_over
    assert replies(made, b"a NOOP\r\n") == [b"a BAD logged out\r\n"]


@pytest.mark.rfc("9051", "6.2.1")
def test_starttls_forgets_what_was_said_in_the_clear() -> None:
    made = Session()
    assert replies(made, b"a STARTTLS\r\n") == ["StartTls"]
    made.receive(b"b LOGIN a b\r\nc NO")
    assert made.has_input
    made.tls_started()
    assert not made.has_input
    assert replies(made, b"OP\r\n") == [b"OP BAD missing argument\r\n"]


@pytest.mark.rfc("9051", "5.5")
def test_pipelined_commands_wait_their_turn() -> None:
    made = session(State.NOT_AUTHENTICATED)
    made.receive(b"a LOGIN a b\r\nb SELECT x\r\nc FETCH 1 UID\r\n")
    assert isinstance(made.next_event(), c.Login)
    made.logged_in()
    assert isinstance(made.next_event(), c.Select)
    made.selected()
    assert isinstance(made.next_event(), c.Fetch)
    assert made.next_event() is NEED_DATA


# What was enabled


@pytest.mark.rfc("7162", "3.2.3")
def test_enable() -> None:
    made = session()
    assert made.enable("QRESYNC")
    assert not made.enable("QRESYNC")
    assert not made.enable("CONDSTORE")
    assert made.has_qresync
    assert made.has_condstore
    assert not made.is_utf8
    assert made.enable("IMAP4REV2")
    assert made.is_rev2
    assert made.is_utf8


@pytest.mark.rfc("7162", "3.2.5")
def test_qresync_is_enabled_first() -> None:
    made = session()
    lines = b"a SELECT x (QRESYNC (1 2))\r\nb UID FETCH 1 UID (CHANGEDSINCE 1 VANISHED)\r\n"
    assert replies(made, lines) == [b"a BAD enable QRESYNC first\r\n", b"b BAD enable QRESYNC first\r\n"]
    made.enable("QRESYNC")
    assert replies(made, lines) == ["Select", "Fetch"]


@pytest.mark.rfc("9586", "3")
def test_uid_only() -> None:
    made = session()
    made.enable("UIDONLY")
    made.enable("QRESYNC")
    for line in (
        b"FETCH 1 UID", b"STORE 1 FLAGS x", b"COPY 1 a", b"MOVE 1 a", b"SEARCH ALL", b"SORT (SIZE) UTF-8 ALL",
        b"THREAD REFERENCES UTF-8 ALL", b"UID SEARCH 1", b"UID SEARCH OR ALL NOT (SEEN 1:*)", b"UID SORT (SIZE) UTF-8 FUZZY 1",
        b"SELECT x (QRESYNC (1 2 (1 5)))", b"UID THREAD REFERENCES UTF-8 1",
    ):  # fmt: skip
        assert replies(made, b"a " + line + b"\r\n") == [b"a BAD [UIDREQUIRED] only UIDs after ENABLE UIDONLY\r\n"]
    for line in (b"UID FETCH 1 UID", b"UID SEARCH UID 1", b"UID SEARCH $", b"EXPUNGE", b"SELECT x (QRESYNC (1 2 5))"):
        assert isinstance(events(made, b"a " + line + b"\r\n")[0], c.Command)


@pytest.mark.rfc("6855", "3")
def test_utf8_in_quoted_strings_is_enabled_first() -> None:
    made = session()
    line = 'a SELECT "é"\r\n'.encode()
    assert replies(made, line) == [b"a BAD octets above 127 in a quoted string\r\n"]
    made.enable("UTF8=ACCEPT")
    assert events(made, line) == [c.Select(b"a", "é")]
    assert replies(made, b"a SEARCH CHARSET UTF-8 ALL\r\n") == [b"a BAD no CHARSET after ENABLE UTF8=ACCEPT\r\n"]
    made.enable("IMAP4REV2")
    assert replies(made, b"a SEARCH CHARSET UTF-8 ALL\r\n") == ["Search"]


# Literals


def test_a_synchronising_literal_gets_its_continuation() -> None:
    made = Session()
    assert replies(made, b"a LOGIN {5}\r\n") == [b"+ go on\r\n"]
    assert replies(made, b"alice {0}\r\n") == [b"+ go on\r\n"]
    assert events(made, b"\r\n") == [c.Login(b"a", b"alice", b"")]
    assert events(made, b"a LOGIN {1+}\r\na {1+}\r\nb\r\n") == [c.Login(b"a", b"a", b"b")]


@pytest.mark.rfc("7888", "4")
def test_what_is_wrong_is_refused_before_its_literal() -> None:
    made = Session()
    assert replies(made, b"a APPEND x {50000000}\r\nb NOOP\r\n") == [b"a BAD log in first\r\n", "Noop"]
    assert replies(made, b"a FOO {5}\r\nb LOGIN ({5}\r\nc {5}\r\n") == [
        b"a BAD unknown command\r\n",
        b"b BAD expected a string\r\n",
        b"c BAD expected a name\r\n",
    ]
    # One that comes unasked is read and forgotten; what is in it is no command.
    assert replies(made, b"a APPEND x {10+}\r\nb LOGOUT\r\n\r\nc NOOP\r\n") == [b"a BAD log in first\r\n", "Noop"]


def test_literals_before_login_are_few_and_small() -> None:
    made = Session()
    size = LITERAL_OCTETS_BEFORE_LOGIN
    assert replies(made, b"a LOGIN {%d}\r\nb NOOP\r\n" % (size + 1)) == [b"a BAD [TOOBIG] literal too large\r\n", "Noop"]
    assert replies(made, b"a LOGIN {%d+}\r\n%s x\r\nb NOOP\r\n" % (size + 1, b"x" * (size + 1))) == [
        b"a BAD [TOOBIG] literal too large\r\n",
        "Noop",
    ]
    assert events(made, b"a LOGIN {%d+}\r\n%s {0+}\r\n\r\n" % (size, b"x" * size)) == [c.Login(b"a", b"x" * size, b"")]
    assert replies(made, b"a LOGIN {%d+}\r\n%s {1+}\r\nx\r\n" % (size, b"x" * size)) == [
        b"a BAD [TOOBIG] literal too large\r\n"
    ]
    many = b"{1+}\r\nx " * LITERALS_BEFORE_LOGIN
    assert replies(made, b"a ID (" + many.strip() + b")\r\n") == ["Id"]
    assert replies(made, b"a ID (" + many + b"{1+}\r\nx NIL)\r\n") == [b"a BAD too many literals\r\n"]
    assert replies(made, b"a ID (" + many + b"{1}\r\nb NOOP\r\n") == [b"a BAD too many literals\r\n", "Noop"]


def test_literals_after_login_have_limits_too() -> None:
    made = session()
    size = LITERAL_OCTETS
    assert replies(made, b"a SEARCH TEXT {%d}\r\n" % (size + 1)) == [b"a BAD [TOOBIG] literal too large\r\n"]
    assert replies(made, b"a SEARCH TEXT {%d}\r\n" % size) == [b"+ go on\r\n"]
    assert replies(made, b"x" * size + b"\r\n") == ["Search"]
    many = b"TEXT {1+}\r\nx " * LITERALS
    assert replies(made, b"a SEARCH " + many + b"\r\n") == ["Search"]
    assert replies(made, b"a SEARCH " + many + b"TEXT {1+}\r\nx\r\n") == [b"a BAD too many literals\r\n"]


def test_more_than_will_be_read_is_the_end() -> None:
    for made, size in ((Session(), DISCARD_OCTETS_BEFORE_LOGIN + 1), (session(), DISCARD_OCTETS + 1), (session(), 10**30)):
        (event,) = events(made, b"a NOOP {%d+}\r\nb NOOP\r\n" % size)
        assert event.ends
        assert event.data == b"* BYE [TOOBIG] this is more than will be read\r\n"
        assert made.is_over
        assert made.next_event() is NEED_DATA
    made = Session()
    (event,) = events(made, b"x" * (COMMAND_OCTETS_BEFORE_LOGIN + DISCARD_OCTETS_BEFORE_LOGIN + 1))
    assert event.ends


def test_a_command_has_a_limit_that_login_raises() -> None:
    for made, limit in ((Session(), COMMAND_OCTETS_BEFORE_LOGIN), (session(), COMMAND_OCTETS)):
        line = b"a ID (" + b" " * (limit - 8)
        assert replies(made, line + b")\r\n") == [b"a BAD expected a string\r\n"]
        assert replies(made, line + b" x)\r\nb NOOP\r\n") == [b"a BAD [TOOBIG] command too long\r\n", "Noop"]


def test_nul_in_a_command() -> None:
    assert replies(session(), b"a NO\0OP\r\nb NOOP\r\n\0\r\n") == [
        b"a BAD NUL in a command\r\n",
        "Noop",
        b"* BAD NUL in a command\r\n",
    ]


def test_a_server_s_words_are_nobody_s_command() -> None:
    assert replies(session(), b"* 1 EXISTS\r\n+ OK\r\na+ NOOP\r\n\r\n \r\na\r\n") == [
        b"* BAD expected a tag\r\n",
        b"* BAD expected a tag\r\n",
        b"a BAD expected a space\r\n",
        b"* BAD expected a tag\r\n",
        b"* BAD expected a tag\r\n",
        b"a BAD missing argument\r\n",
    ]


# Messages


@pytest.mark.rfc("9051", "6.3.12")
def test_a_message_is_offered_and_streams() -> None:
    made = session()
    (offer,) = events(made, b"a APPEND inbox (\\Seen) {5}\r\n")
    assert offer == LiteralOffer(b"a", "INBOX", 5, 0, False, True, ("\\Seen",))
    with pytest.raises(RuntimeError):
        made.next_event()
    sink = Sink()
    made.accept_literal(sink)
    assert events(made, b"he") == []
    assert sink.data == b"he"
    (offer,) = events(made, b"llo ~{3+}\r\n\0\r\n")
    assert offer == LiteralOffer(b"a", "INBOX", 3, 0, True, False)
    made.accept_literal(Sink())
    (command,) = events(made, b"\r\n")
    assert [message.parts[0].data for message in command.messages] == [b"hello", b"\0\r\n"]


@pytest.mark.rfc("4469", "3")
def test_parts_of_a_message_are_offered_one_by_one() -> None:
    made = session(append_limit=10)
    (offer,) = events(made, b"a APPEND x CATENATE (URL {5}\r\n")
    assert isinstance(offer, Continuation)
    (offer,) = events(made, b"/y;UI TEXT {4+}\r\n")
    assert (offer.size, offer.size_before) == (4, 0)
    made.accept_literal(Sink())
    (offer,) = events(made, b"1234 TEXT {6+}\r\n")
    assert (offer.size, offer.size_before) == (6, 4)
    made.accept_literal(Sink())
    (refusal,) = events(made, b"123456 TEXT {1}\r\n")
    assert refusal.data == b"a NO [TOOBIG] message too large\r\n"
    assert [content.data for content in refusal.contents] == [b"1234", b"123456"]
    assert not refusal.is_bad


@pytest.mark.rfc("7889", "5")
def test_a_message_over_the_limit_is_not_asked_for() -> None:
    made = session(append_limit=10)
    assert replies(made, b"a APPEND x {11}\r\nb NOOP\r\n") == [b"a NO [TOOBIG] message too large\r\n", "Noop"]
    assert replies(made, b"a APPEND x {11+}\r\nb LOGOUT\r\nx\r\nb NOOP\r\n") == [b"a NO [TOOBIG] message too large\r\n", "Noop"]
    assert replies(made, b"a APPEND x (" + b"x " * (APPEND_OCTETS // 2) + b"x) {1}\r\n") == [
        b"a BAD [TOOBIG] command too long\r\n"
    ]


def test_a_message_can_be_refused() -> None:
    made = session()
    events(made, b"a APPEND x {5}\r\n")
    made.refuse_literal("there is no such mailbox", b"TRYCREATE")
    (refusal,) = events(made, b"b NOOP\r\n")[:1]
    assert refusal == Refusal(b"a", b"a NO [TRYCREATE] there is no such mailbox\r\n", is_bad=False)
    # Unasked: the reply comes when all of it was read.
    events(made, b"a APPEND x {12+}\r\n")
    made.refuse_literal("no")
    assert events(made, b"b LOGOUT\r\n") == []
    assert replies(made, b"\r\n (x) {3+}\r\nabc\r\nc NOOP\r\n") == [b"a NO no\r\n", "Noop"]
    events(made, b"a APPEND x {50000000+}\r\n")
    made._framer.discard_limit = 10
    made.refuse_literal("no")
    (refusal,) = events(made)
    assert refusal.ends


def test_a_sink_that_fails() -> None:
    made = session()
    events(made, b"a APPEND x {2+}\r\nhi")
    made.accept_literal(Sink())
    events(made, b" {12+}\r\n")
    made.accept_literal(Sink(fails=True))
    assert events(made, b"b LOGOUT\r\n") == []
    failure, noop = events(made, b"\r\n\r\nc NOOP\r\n")
    assert isinstance(failure, SinkFailure)
    assert (failure.tag, str(failure.error)) == (b"a", "full")
    assert [content.data for content in failure.contents] == [b"hi"]
    assert noop == c.Noop(b"c")


def test_messages_of_a_command_that_is_no_grammar_are_given_back() -> None:
    made = session()
    events(made, b"a APPEND x {2+}\r\n")
    made.accept_literal(Sink())
    (refusal,) = events(made, b"hix\r\n")
    assert refusal.data == b"a BAD too many arguments\r\n"
    assert [content.data for content in refusal.contents] == [b"hi"]


def test_a_connection_that_breaks_leaves_nothing() -> None:
    made = session()
    events(made, b"a APPEND x {2+}\r\n")
    made.accept_literal(Sink())
    events(made, b"hi {5+}\r\n")
    sink = Sink()
    made.accept_literal(sink)
    events(made, b"he")
    assert [content.data for content in made.abandon()] == [b"hi"]
    assert sink.aborted
    assert made.abandon() == ()


# Lines


def test_answers_are_taken_as_they_are() -> None:
    made = Session()
    made.receive(b"a AUTHENTICATE PLAIN\r\nAGEAYg=={3}\r\nb")
    assert isinstance(made.next_event(), c.Authenticate)
    assert made.next_line() == b"AGEAYg=={3}"
    assert made.next_line() is None
    made.receive(b"\n")
    assert made.next_line() == b"b"
    made.receive(b"x" * LINE_OCTETS + b"y\r\nc NOOP\r\n")
    with pytest.raises(LineTooLong):
        made.next_line()
    assert made.next_event() == c.Noop(b"c")
    made.receive(b"x" * (LINE_OCTETS + DISCARD_OCTETS_BEFORE_LOGIN + 1))
    with pytest.raises(EndlessLine):
        made.next_line()


def test_errors_are_counted() -> None:
    made = Session()
    assert [made.count_error() for _ in range(ERRORS_BEFORE_LOGIN)] == [False] * (ERRORS_BEFORE_LOGIN - 1) + [True]
    assert [made.count_failed_login() for _ in range(FAILED_LOGINS)] == [False] * (FAILED_LOGINS - 1) + [True]
    made.logged_in()
    assert [made.count_error() for _ in range(ERRORS_AFTER_LOGIN)] == [False] * (ERRORS_AFTER_LOGIN - 1) + [True]


def test_input_can_be_taken_out() -> None:
    made = session()
    made.receive(b"a COMPRESS DEFLATE\r\nxyz")
    assert isinstance(made.next_event(), c.Compress)
    assert made.take_input() == b"xyz"
    assert not made.has_input
