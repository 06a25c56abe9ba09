"""The SMTP server's session without its sockets: states, the order of commands, and what is owed to the peer.

Its interface, its theory and its transitions are one thing and stay in one file, which makes it a long one.

How a server drives it (this is the whole interface):

    session = Session(limits, protocol="smtp", extensions=frozenset({"SIZE", "8BITMIME", ...}))
    session.reply(greeting)                       # 220 ...: START -> GREET
    while not session.closed:
        event = session.next_event()
        if event is NEED_DATA:                    # the only place where bytes are flushed and awaited
            connection.write(session.data_to_send())
            session.receive(await connection.receive())
            continue
        ...                                       # decide; then reply exactly once where a reply is due
    connection.write(session.data_to_send())

Events (`event.kind` is the class's constant; `isinstance` works as well):

    NEED_DATA    singleton, kind 0
    Command      kind COMMAND. One reply is due (but for BDAT, see below). `.verb` is one of
                 EHLO HELO LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP AUTH STARTTLS XCLIENT, `.argument` the bytes
                 after it (no surrounding blanks), `.text` the same as printable str (for logs, HELO; of AUTH only
                 the mechanism).
                 MAIL: `.address` (Address, None = null path) and `.parameters` (MailParameters).
                 RCPT: `.address` (never None) and `.parameters` (RcptParameters).
                 AUTH: `.mechanism` (upper case) and `.initial` (bytes | None, still base64; b"=" is the empty response).
                 BDAT: `.size` and `.last`.
    Line         kind LINE. A line of an AUTH exchange (after a 334 reply): `.data` without CRLF. One reply is due.
    BodyChunk    kind BODY_CHUNK. `.data` bytes of the message, dots unstuffed. No reply.
    BodyEnd      kind BODY_END. The end of DATA, or of one BDAT chunk (`.last` False when more must follow). One reply is due;
                 for LMTP at the end of a message `session.replies_due` replies, one for each accepted recipient in order.
                 `.faults` (0 = clean; BARE_CR | BARE_LF | NUL | TOO_LARGE | HEADER_TOO_LARGE | MBOX_FROM: refuse, see
                 `refusal_of_body(faults)` for the reply), `.repaired` (the same bits, for what "normalize" mended),
                 `.size` octets of the whole message so far as delivered in chunks, `.header_bytes` (with the empty line;
                 = size when there is none), `.received_count` ("Received:" fields in it), `.eight_bit` (any octet > 127).
    Malformed    kind MALFORMED. The wire or the order was broken and the line (or the BDAT payload) is consumed. `.reply` is
                 the Reply to give, `.reason` one of the REASON_* words (for log and metrics), `.fatal`: give the reply, then
                 close (the session is closed by that reply). `.verb` "" or the command's. One reply is due: normally
                 `session.reply(event.reply)`; the server may answer 421 in its place.
    CLOSED       singleton, kind 0xFF: after 221, 421 or a fatal reply, `next_event` gives nothing else.

DATA: answer the Command with 354 (then BodyChunk*, BodyEnd follow) or with a refusal (then commands follow). The session has
checked already that a recipient was accepted. BDAT: **no** reply to the Command; its BodyChunk* follow at once and the
reply is due at BodyEnd. A server that has decided to refuse the body calls `session.discard_body()`: the rest is swallowed
without BodyChunks up to the true end, where BodyEnd comes as always. After a BodyEnd that was refused, pipelined BDATs are
swallowed and come as Malformed (503). After BodyEnd's last reply the transaction is over (state READY).

STARTTLS: reply 220, take `final = session.data_to_send()`, `await connection.start_tls(context, final)`, then
`session.tls_started()`. The session has made sure that nothing was pipelined behind it (Malformed, fatal, otherwise).
AUTH: reply 334 (`reply.challenge(bytes)`) for one more Line; 235 sets `session.authenticated`; anything else ends the exchange.

`session.close()` ends the dialogue without a further reply; `data_to_send` still gives what was said.

Attributes (read only unless said): `state` (State), `closed`, `helo` (str, printable), `esmtp` (EHLO or LHLO was used),
`protocol`, `authenticated`, `tls` (set by tls_started or `tls=True`), `replies_due`, `recipients` (accepted in this
transaction), `sender_given` (a transaction is open), `extensions` (settable: what is offered now; decides which parameters,
BODY values and commands are known: SIZE 8BITMIME SMTPUTF8 CHUNKING BINARYMIME DSN STARTTLS AUTH REQUIRETLS XCLIENT).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, Literal

from msgspec import Struct

from rusmes._core.body import BARE_CR, BARE_LF, HEADER_TOO_LARGE, MBOX_FROM, NUL, TOO_LARGE
from rusmes._core.session import CHUNK, FATAL, GREETING, Grammar, SessionCore
from rusmes._core.session import LINE as DUE_LINE
from rusmes._core.session import MALFORMED as DUE_MALFORMED
from rusmes._core.smtp import (
    BODY_CHUNK,
    BODY_END,
    CLOSED,
    COMMAND,
    FAULT,
    LINE,
    MALFORMED,
    NEED_DATA,
    VERBS,
    BodyChunk,
    BodyEnd,
    Command,
    CommandReader,
    Fault,
    Line,
    Signal,
)
from rusmes.model.address import Address
from rusmes.smtp import reply as replies
from rusmes.smtp.address import AddressError, parse_path
from rusmes.smtp.limits import Limits
from rusmes.smtp.parameters import (
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    MailParameters,
    ParameterError,
    parse_mail_parameters,
    parse_rcpt_parameters,
)
from rusmes.smtp.reply import Reply

__all__ = [
    "BARE_CR", "BARE_LF", "BODY_CHUNK", "BODY_END", "CLOSED", "COMMAND", "HEADER_TOO_LARGE", "LINE", "MALFORMED",
    "MBOX_FROM", "NEED_DATA", "NUL", "TOO_LARGE", "BodyChunk", "BodyEnd", "Command", "Event", "Line", "Malformed", "Session",
    "State", "refusal_of_body",
]  # fmt: skip


class Malformed(Struct, frozen=True):
    """The wire or the order of commands was broken; what was wrong is consumed, and one reply is due."""

    reason: str
    reply: Reply
    fatal: bool = False
    verb: str = ""
    kind: Literal[5] = MALFORMED


Event = Signal | Command | Line | BodyChunk | BodyEnd | Malformed


# The states, and how one leads to another.
#
# 1. A state changes only by a reply, never by what arrives: the peer and we must agree what has happened, and a reply is
#    what makes it so. (One exception: the payload of BDAT follows its command without waiting for us.)
# 2. Each state has a set of commands that may come; another one is answered 503 and changes nothing.
# 3. EHLO (LHLO, HELO) and RSET end a transaction; so does the last reply to a message, whatever it says.
# 4. A transaction is MAIL accepted, then RCPT accepted at least once, then DATA, or BDAT until LAST. A BDAT that is refused
#    ends the transaction; chunks that were pipelined behind it are swallowed and answered 503 (RFC 3030 §2).
# 5. EHLO, HELO, LHLO, DATA, STARTTLS, AUTH and its lines, QUIT and XCLIENT end a group of pipelined commands: after them the
#    client waits, since their reply changes what its next octets mean (RFC 2920 §3.1, RFC 3207 §4.2, RFC 4954 §4). Octets
#    that wait behind one of them when we read it are an attack or a client that is out of step: 554, and the end. Whatever
#    follows the end of a message is the next group and is welcome there, QUIT included; so is what follows BDAT's payload.
#    VRFY, NOOP and HELP would end a group too, but no answer to them changes the meaning of what follows: nothing is refused.
# 6. CLOSED (221, 421, or the reply to something fatal) has no way out, and everything that waits is dropped.


class State(Enum):
    """Where the dialogue is."""

    START = "start"
    """Our greeting is due."""
    REFUSED = "refused"
    """We greeted with 554: only QUIT is of use (RFC 5321 §3.1)."""
    GREET = "greet"
    READY = "ready"
    MAIL = "mail"
    """A sender, no accepted recipient yet."""
    RCPT = "rcpt"
    DATA = "data"
    """Message text is coming in."""
    BDAT = "bdat"
    """A chunk was begun and the last one is not answered."""
    AUTH = "auth"
    """A challenge is out."""
    TLS = "tls"
    """220 to STARTTLS is given, the handshake is not done."""
    CLOSED = "closed"


_BIT: Final = {verb: 1 << place for place, verb in enumerate(VERBS)}


def _bits(verbs: str) -> int:
    return sum(_BIT[verb] for verb in verbs.split())


_MAIL, _RCPT, _DATA, _BDAT, _QUIT, _AUTH = (_BIT[verb] for verb in ("MAIL", "RCPT", "DATA", "BDAT", "QUIT", "AUTH"))
_ENVELOPE: Final = _MAIL | _RCPT
_HELLO: Final = _bits("EHLO HELO LHLO")
_ANYWHERE: Final = _bits("EHLO HELO LHLO RSET NOOP QUIT VRFY HELP")
_SYNCHRONIZES: Final = _bits("EHLO HELO LHLO DATA STARTTLS AUTH QUIT XCLIENT")
_NOT_IMPLEMENTED: Final = _bits("EXPN TURN ETRN")
_CHECKED: Final = _HELLO | _SYNCHRONIZES | _NOT_IMPLEMENTED | _bits("RSET VRFY BDAT")

_ALLOWED: Final[dict[State, int]] = {
    State.START: 0,
    State.REFUSED: _QUIT,
    State.GREET: _ANYWHERE | _bits("XCLIENT"),
    State.READY: _ANYWHERE | _bits("MAIL AUTH STARTTLS XCLIENT"),
    State.MAIL: _ANYWHERE | _RCPT,
    State.RCPT: _ANYWHERE | _RCPT | _DATA | _BDAT,
    State.DATA: 0,
    State.BDAT: _ANYWHERE | _BDAT,
    State.AUTH: 0,
    State.TLS: 0,
    State.CLOSED: 0,
}

_GRAMMAR: Final = Grammar(
    tuple(State), [_ALLOWED[state] for state in State], Address, NO_MAIL_PARAMETERS, NO_RCPT_PARAMETERS
)

_FAULTS: Final = {
    "empty": ("syntax", replies.R500_SYNTAX, False),
    "unknown": ("unknown-command", replies.R500_UNKNOWN, False),
    "http": ("not-smtp", replies.R554_NOT_SMTP, True),
    "tls": ("not-smtp", replies.R554_NOT_SMTP, True),
    "control": ("syntax", replies.R501_SYNTAX, False),
    "parameters": ("syntax", replies.R501_PARAMETERS, False),
    "chunk-size": ("chunk-size", replies.R501_CHUNK_SIZE, True),
    "bare-newline": ("bare-newline", replies.R500_BARE_NEWLINE, True),
    "line-too-long": ("line-too-long", replies.R500_LINE_TOO_LONG, False),
    "line-endless": ("line-too-long", replies.R500_LINE_TOO_LONG, True),
    "body-endless": ("too-large", replies.R552_TOO_LARGE, True),
}
"""Reasons of the wire -> (our reason, reply, fatal)."""

_NO_ARGUMENT: Final = frozenset({"DATA", "RSET", "QUIT", "STARTTLS"})
_NEEDS_ARGUMENT: Final = frozenset({"EHLO", "HELO", "LHLO", "VRFY", "AUTH", "XCLIENT"})


def refusal_of_body(faults: int) -> Reply:
    """The reply to a message whose BodyEnd reports these faults (not 0)."""
    if faults & TOO_LARGE:
        return replies.R552_TOO_LARGE
    if faults & HEADER_TOO_LARGE:
        return replies.R552_HEADER_TOO_LARGE
    if faults & NUL:
        return replies.R550_NUL
    if faults & (BARE_CR | BARE_LF):
        return replies.R550_BARE_NEWLINE
    return replies.R550_MBOX_FROM


class Session(SessionCore):
    """One SMTP, submission or LMTP dialogue. See the top of this module.

    The turns that every message takes are in `_core.session`; here are those with something to decide.
    """

    __slots__ = ("_limits", "_reader", "_skipped", "authenticated", "esmtp", "extensions", "helo", "protocol", "tls")

    def __init__(
        self, limits: Limits, *, protocol: str = "smtp", extensions: frozenset[str] = frozenset(), tls: bool = False
    ) -> None:
        self._set_limits(limits)
        self.protocol = protocol
        self.extensions = extensions
        self.tls = tls
        self._reader = CommandReader(
            limits.command_line_bytes,
            envelope_limit=limits.envelope_line_bytes,
            auth_limit=limits.auth_line_bytes,
            discard_limit=limits.discard_line_bytes,
            bare_newline_allowed=limits.bare_newline == "normalize",
        )
        self._skipped: Malformed | None = None
        """What to say when the payload of a refused BDAT is swallowed."""
        self.helo = ""
        self.esmtp = False
        self.authenticated = False
        self.set_up(_GRAMMAR, self._reader, protocol == "lmtp")

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._set_limits(limits)

    def _set_limits(self, limits: Limits) -> None:
        self._limits = limits
        self.limit_bodies(limits.max_message_bytes, limits.max_header_bytes, limits.bare_newline == "normalize")

    @property
    def sender_given(self) -> bool:
        """Whether a transaction is open."""
        return self.state in (State.MAIL, State.RCPT, State.DATA, State.BDAT)

    def discard_body(self) -> None:
        """Give out no more BodyChunks of the message that is coming in; its BodyEnd comes as always."""
        self._reader.discard_body()

    def tls_started(self) -> None:
        """The handshake that a 220 to STARTTLS announced is done: as if the client had just connected (RFC 3207 §4.2).

        Raises:
            RuntimeError: no 220 was given.
        """
        if self.state is not State.TLS:
            raise RuntimeError("STARTTLS was not accepted")
        self._reader.forget()
        self.tls = True
        self.authenticated = False
        self._forget_hello()

    def close(self) -> None:
        """End the dialogue from our side: nothing more is read. Replies already given are still to be sent."""
        self.shut()

    # Events

    def next_event_while_due(self) -> Event:
        if self.closed:
            return CLOSED
        if self.due == GREETING:
            if self._reader.waiting:
                # RFC 5321 §4.3.1: the client waits for the greeting.
                return self._fatal(Malformed("early-talker", replies.R554_EARLY_TALKER, True))
            return NEED_DATA
        raise RuntimeError(f"a reply is due in state {self.state.value}")

    def take_other(self, event: Fault | Line) -> Event:
        return self._take_fault(event) if event.kind == FAULT else self._take_line(event)

    def take_slowly(self, command: Command) -> Event:
        bit = command.bit
        if not self.allows(bit) or bit & _CHECKED:
            wrong = self._check(command, bit)
            if wrong is not None:
                return wrong
        if bit & _ENVELOPE:
            wrong = self._take_envelope(command, bit)
            if wrong is not None:
                return wrong
        if bit != _BDAT:  # whose reply is due at the end of its chunk
            self.expect_reply(bit)
        return command

    def _check(self, command: Command, bit: int) -> Event | None:
        """What the hot commands do not need: waiting octets, order, arguments. NEED_DATA while a refused BDAT is swallowed."""
        verb = command.verb
        if bit & _SYNCHRONIZES and self._reader.waiting:
            return self._fatal(Malformed("early-data", replies.R554_EARLY_DATA, True, verb))
        if bit == _BDAT and command.size > 2 * self.limits.max_message_bytes:
            # Neither stored nor worth swallowing, whatever the state.
            return self._fatal(Malformed("too-large", replies.R552_TOO_LARGE, True, verb))
        wrong = self._find_wrong_order(bit)
        if wrong is None and bit & _HELLO and (verb == "LHLO") != (self.protocol == "lmtp"):
            wrong = replies.R500_WRONG_HELLO
        if wrong is None and bit == _BDAT and "CHUNKING" not in self.extensions:
            wrong = replies.R502_NOT_IMPLEMENTED
        if wrong is not None:
            refusal = Malformed("out-of-order" if wrong.code in (503, 554) else "not-implemented", wrong, False, verb)
            if bit == _BDAT:
                # RFC 3030 §2: the octets it announced are coming whatever we think of them.
                self._skipped = refusal
                self._reader.skip_chunk(command.size)
                following: Event = self.next_event()
                return following
            return self._refuse(refusal)
        if bit == _BDAT:
            self._begin_chunk(command)
            return None
        argument = command.argument
        if (verb in _NO_ARGUMENT and argument) or (verb in _NEEDS_ARGUMENT and not argument):
            wrong = replies.R501_NO_ARGUMENTS if argument else replies.R501_HELLO if bit & _HELLO else replies.R501_ARGUMENTS
            return self._refuse(Malformed("syntax", wrong, False, verb))
        if bit == _AUTH and len(argument.split(b" ")) > 2:
            return self._refuse(Malformed("syntax", replies.R501_ARGUMENTS, False, verb))
        if bit & _HELLO:
            self.helo = command.text
            self.esmtp = verb != "HELO"
        return None

    def _find_wrong_order(self, bit: int) -> Reply | None:
        if bit & _NOT_IMPLEMENTED:
            return replies.R502_NOT_IMPLEMENTED
        if self.allows(bit):
            if bit == _DATA and self.binary:
                return replies.R503_BINARY_NEEDS_BDAT
            if bit == _BIT["STARTTLS"] and self.tls:
                return replies.R503_ALREADY_TLS
            if bit == _AUTH and self.authenticated:
                return replies.R503_ALREADY_AUTHENTICATED  # RFC 4954 §4
            return None
        return self._explain_order(bit)

    def _explain_order(self, bit: int) -> Reply:
        """The reply to a command that this state does not allow."""
        state = self.state
        if state is State.GREET:
            return replies.R503_HELLO_FIRST
        if state is State.READY:
            return replies.R503_NO_TRANSACTION
        if state is State.BDAT:
            return replies.R503_CHUNKS_ONLY
        if state is State.REFUSED:
            return replies.R503_BAD_SEQUENCE
        if bit & (_DATA | _BDAT):
            return replies.R554_NO_RECIPIENTS if self.rejected else replies.R503_NO_RECIPIENT
        return replies.R503_NESTED_MAIL if bit == _MAIL else replies.R503_IN_TRANSACTION

    def _begin_chunk(self, command: Command) -> None:
        limits = self.limits
        self._reader.expect_chunk(
            command.size,
            command.last,
            limits.max_message_bytes,
            limits.max_header_bytes,
            limits.bare_newline == "normalize",
            self.binary,
        )
        self.set_state(State.BDAT)

    def _take_envelope(self, command: Command, bit: int) -> Malformed | None:
        """Address and parameters of MAIL and RCPT; what is wrong with them, or None."""
        try:
            if bit == _MAIL:
                parameters = self._mail_parameters(command)
                address = self._address(command, parameters.smtputf8)
                if address is not None and not address.domain:
                    raise AddressError("Address needs a domain")
                self.declare(parameters.smtputf8, parameters.body == "BINARYMIME")
                command.complete(address, parameters)
                return None
            pairs = command.pairs
            found = NO_RCPT_PARAMETERS if pairs is None else parse_rcpt_parameters(pairs, self.extensions)
            address = self._address(command, self.utf8)
            if address is None:
                raise AddressError("Recipient is empty")
            command.complete(address, found)
            return None
        except ParameterError as error:
            return self._refuse(Malformed("parameters", error.reply, False, command.verb))
        except AddressError as error:
            status = "5.1.7" if bit == _MAIL and error.status == "5.1.3" else error.status  # RFC 3463 §3.2
            return self._refuse(Malformed("address", Reply(error.code, status, error.public), False, command.verb))

    def _address(self, command: Command, smtputf8: bool) -> Address | None:
        local = command.local
        if local is not None:
            return Address(local, command.domain)  # type: ignore[arg-type]
        return parse_path(command.path or b"", smtputf8=smtputf8)

    def _mail_parameters(self, command: Command) -> MailParameters:
        pairs = command.pairs
        if pairs is None:
            return NO_MAIL_PARAMETERS
        parameters = parse_mail_parameters(pairs, self.extensions)
        if parameters.size > self.limits.max_message_bytes:
            raise ParameterError(replies.too_large(self.limits.max_message_bytes))  # RFC 1870 §6.1
        return parameters

    def _take_line(self, line: Line) -> Event:
        if self._reader.waiting:
            return self._fatal(Malformed("early-data", replies.R554_EARLY_DATA, True, "AUTH"))
        self.expect_reply(DUE_LINE)
        return line

    def _take_fault(self, fault: Fault) -> Malformed:
        reason = fault.reason
        if reason == "chunk-skipped":
            assert self._skipped is not None
            refusal, self._skipped = self._skipped, None
            return self._refuse(refusal)
        if self.state is State.AUTH:
            self.set_state(State.READY)
        if reason == "syntax" or reason == "brackets":
            syntax = replies.R501_MAIL_SYNTAX if fault.verb == "MAIL" else replies.R501_RCPT_SYNTAX
            return self._refuse(Malformed("syntax", syntax, False, fault.verb))
        word, reply, fatal = _FAULTS[reason]
        malformed = Malformed(word, reply, fatal, fault.verb)
        return self._fatal(malformed) if fatal else self._refuse(malformed)

    def _refuse(self, malformed: Malformed) -> Malformed:
        if malformed.verb == "RCPT":
            self.count_rejected()
        self.expect_reply(DUE_MALFORMED)
        return malformed

    def _fatal(self, malformed: Malformed) -> Malformed:
        self._reader.forget()
        self.expect_reply(FATAL)
        return malformed

    # Transitions: what a reply of this code to this means

    def settle_other(self, due: int, code: int) -> None:
        settle = _SETTLE.get(due)
        if settle is not None:
            settle(self, code)

    def _forget_hello(self) -> None:
        self.helo = ""
        self.esmtp = False
        self.forget_transaction()
        self.set_state(State.GREET)

    def _settle__greeting(self, code: int) -> None:
        self.set_state(State.GREET if code < 400 else State.REFUSED)

    def _settle__hello(self, code: int) -> None:
        if code < 400:
            self._reader.end_body()
            self.forget_transaction()
            self.set_state(State.READY)

    def _settle__chunk(self, code: int) -> None:
        if code >= 400:
            self._settle__reset(250)

    def _settle__reset(self, code: int) -> None:
        if code < 400:
            self._reader.end_body()
            self.forget_transaction()
            if self.state is not State.GREET:
                self.set_state(State.READY)

    def _settle__quit(self, code: int) -> None:
        if code < 400:
            self.close()

    def _settle__auth(self, code: int) -> None:
        if code == 334:
            self._reader.expect_line()
            self.set_state(State.AUTH)
            return
        self.authenticated = code < 300
        self.set_state(State.READY)

    def _settle__starttls(self, code: int) -> None:
        if code < 400:
            self.set_state(State.TLS)

    def _settle__xclient(self, code: int) -> None:
        if code < 400:
            self.authenticated = False
            self._forget_hello()


_SETTLE: Final[dict[int, Callable[[Session, int], None]]] = {
    GREETING: Session._settle__greeting,
    _BIT["EHLO"]: Session._settle__hello,
    _BIT["HELO"]: Session._settle__hello,
    _BIT["LHLO"]: Session._settle__hello,
    CHUNK: Session._settle__chunk,
    _BIT["RSET"]: Session._settle__reset,
    _QUIT: Session._settle__quit,
    _AUTH: Session._settle__auth,
    DUE_LINE: Session._settle__auth,
    _BIT["STARTTLS"]: Session._settle__starttls,
    _BIT["XCLIENT"]: Session._settle__xclient,
}
