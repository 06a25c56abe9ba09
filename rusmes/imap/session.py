"""The states of an IMAP session, sans-IO (RFC 9051 §3).

NOT AUTHENTICATED: who are you? LOGIN, AUTHENTICATE and STARTTLS belong here alone. A login leads to AUTHENTICATED: mailboxes as
wholes. SELECT and EXAMINE lead to SELECTED, which allows all of that and commands on messages; CLOSE, UNSELECT and a SELECT
that fails lead back. UNAUTHENTICATE (RFC 8437) leads back to the beginning. LOGOUT ends it from anywhere.

    session.receive(data)
    while (event := session.next_event()) is not NEED_DATA:
        match event:
            a command      carry it out; its class is one the state allows
            Refusal        send its data (and forget its contents)
            Continuation   send its data: the client waits for it before it sends a literal
            LiteralOffer   decide: session.accept_literal(sink), and say "+" if it is synchronising; or session.refuse_literal()
            SinkFailure    reply with what its error means

One command at a time: what follows it waits in the buffer, so that no pipelining is ambiguous (RFC 9051 §5.5). A command that
is wrong before its first literal is refused before the literal is asked for; one that comes unasked is read and forgotten.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, Protocol

from msgspec import Struct

from rusmes._core import framer as core
from rusmes._core.framer import Framer
from rusmes._core.lines import EndlessLine
from rusmes.imap import command as c
from rusmes.imap.command import AnyCommand
from rusmes.imap.grammar import Announced, Malformed, parse, parse_announced, tag_of
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
    MESSAGE_OCTETS,
)
from rusmes.model import query as q
from rusmes.model.content import Content


class State(Enum):
    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    SELECTED = "selected"
    LOGOUT = "logout"


class NeedData(Enum):
    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA


class Refusal(Struct, frozen=True):
    """A command that is answered already by `data`.

    `contents`: messages of it that were finished and that nobody will refer to. `is_bad`: it was not grammar, or not allowed
    here. `ends`: the client sends more than will be read of it; the data is a BYE, and the connection ends.
    """

    tag: bytes
    data: bytes
    contents: tuple[Content, ...] = ()
    is_bad: bool = True
    ends: bool = False


class Continuation(Struct, frozen=True, gc=False):
    """The client waits for these bytes before it goes on."""

    data: bytes


class LiteralOffer(Struct, frozen=True, gc=False):
    """A message, or a part of one (CATENATE), that is announced and not read yet.

    `size_before` counts the parts of the same message that have come. Without `is_synchronising` it comes whatever we say
    (LITERAL+).
    """

    tag: bytes
    mailbox: str
    size: int
    size_before: int
    is_binary: bool
    is_synchronising: bool
    flags: tuple[str, ...] = ()


class Sink(Protocol):
    """Where a literal goes as it arrives: `storage.api.ContentWriter`."""

    def write(self, data: bytes, /) -> None: ...

    def finish(self) -> Content: ...

    def abort(self) -> None: ...


class SinkFailure(Struct, frozen=True):
    """A command whose message could not be stored while it arrived; all of it was read."""

    tag: bytes
    error: Exception
    contents: tuple[Content, ...] = ()


Event = AnyCommand | Refusal | Continuation | LiteralOffer | SinkFailure | NeedData

_GO_ON: Final = Continuation(b"+ go on\r\n")

_ANY_STATE: Final[tuple[type[c.Command], ...]] = (c.Capability, c.Noop, c.Logout, c.Id)
_NOT_AUTHENTICATED: Final[tuple[type[c.Command], ...]] = (c.StartTls, c.Authenticate, c.Login)
_AUTHENTICATED: Final[tuple[type[c.Command], ...]] = (
    c.Enable, c.Namespace, c.Compress, c.Unauthenticate, c.Select, c.Create, c.Delete, c.Rename, c.Subscribe, c.List, c.Status,
    c.Append, c.Idle, c.Notify, c.GetQuota, c.GetQuotaRoot, c.SetQuota, c.GetAcl, c.SetAcl, c.DeleteAcl, c.ListRights,
    c.MyRights, c.GetMetadata, c.SetMetadata, c.GetJmapAccess,
)  # fmt: skip
_SELECTED: Final[tuple[type[c.Command], ...]] = (
    c.Check, c.Close, c.Expunge, c.Fetch, c.Store, c.Copy, c.Search, c.Sort, c.Thread, c.Replace, c.CancelUpdate,
)  # fmt: skip

ALLOWED: Final[dict[State, frozenset[type[c.Command]]]] = {
    State.NOT_AUTHENTICATED: frozenset(_ANY_STATE + _NOT_AUTHENTICATED),
    State.AUTHENTICATED: frozenset(_ANY_STATE + _AUTHENTICATED),
    State.SELECTED: frozenset(_ANY_STATE + _AUTHENTICATED + _SELECTED),
    State.LOGOUT: frozenset(),
}
"""Which command may be said where (RFC 9051 §3). ESEARCH with sources needs no selected mailbox (RFC 7377 §2.1)."""

ENABLED_TOO: Final = {"QRESYNC": {"CONDSTORE"}}
"""What an extension enables besides itself (RFC 7162 §3.2.3)."""


class Session:
    """One client's state; knows no socket and no store. `append_limit` may be changed at any time."""

    __slots__ = (
        "_allowed", "_framer", "_kind", "_pending", "_refusal", "append_limit", "enabled", "errors", "failed_logins",
        "has_condstore", "has_qresync", "is_read_only", "is_rev2", "is_uid_only", "is_utf8", "state",
    )  # fmt: skip

    def __init__(self, *, append_limit: int = MESSAGE_OCTETS) -> None:
        self._framer = Framer(text_limit=COMMAND_OCTETS_BEFORE_LOGIN, discard_limit=DISCARD_OCTETS_BEFORE_LOGIN)
        self.append_limit = append_limit
        self.errors = 0
        self.failed_logins = 0
        self._pending: Refusal | None = None
        self._refusal: Malformed | None = None
        """Why the command that is being read to its end is refused."""
        self._kind: type[c.Command] | None = None
        """Of the command whose literals are being read."""
        self.is_read_only = False
        """Of the selected mailbox."""
        self._set_state(State.NOT_AUTHENTICATED)

    def _set_state(self, state: State) -> None:
        self.state = state
        self._allowed = ALLOWED[state]
        if state is State.NOT_AUTHENTICATED:
            self._set_enabled(frozenset())
        is_known = state is not State.NOT_AUTHENTICATED
        self._framer.text_limit = COMMAND_OCTETS if is_known else COMMAND_OCTETS_BEFORE_LOGIN
        self._framer.discard_limit = DISCARD_OCTETS if is_known else DISCARD_OCTETS_BEFORE_LOGIN

    def _set_enabled(self, names: frozenset[str]) -> None:
        self.enabled = names
        self.has_condstore = "CONDSTORE" in names
        self.has_qresync = "QRESYNC" in names
        self.is_rev2 = "IMAP4REV2" in names
        self.is_utf8 = self.is_rev2 or "UTF8=ACCEPT" in names
        """Names are UTF-8, and quoted strings may hold it (RFC 9051 §5.1, RFC 6855 §3)."""
        self.is_uid_only = "UIDONLY" in names

    # Input

    def receive(self, data: bytes) -> None:
        self._framer.feed(data)

    def next_event(self) -> Event:
        """What comes next; the module's head says what to do with it.

        Raises:
            RuntimeError: a LiteralOffer waits for `accept_literal` or `refuse_literal`.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return pending
        try:
            return self._next_event()
        except EndlessLine:
            return self._end()

    def _next_event(self) -> Event:
        framer = self._framer
        while True:
            event = framer.next()
            if event == core.NEED_DATA:
                return NEED_DATA
            if event == core.COMMAND:
                return self._command()
            if event == core.REFUSED:
                return self._refused()
            offered = self._offered()
            if offered is not None:
                return offered

    def _end(self) -> Refusal:
        """Nothing that follows can be told from the rest of what is refused."""
        contents = self._contents()
        self._set_state(State.LOGOUT)
        self._framer.take_rest()
        return Refusal(b"", b"* BYE [TOOBIG] this is more than will be read\r\n", contents, ends=True)

    def _command(self) -> AnyCommand | Refusal:
        framer = self._framer
        self._kind = None
        command: Any = parse(
            framer.text or b"",
            framer.literals or (),
            is_utf8=self.is_utf8,
            forbids_charset=self.is_utf8 and not self.is_rev2,
        )
        if type(command) is Malformed:
            return self._refusal_of(command)
        kind = type(command)
        if kind not in self._allowed and not (self.state is State.AUTHENTICATED and _names_mailboxes(command)):
            return self._refusal_of(self._not_here(kind, command.tag))
        if self.is_uid_only or not self.has_qresync:
            objection = self._objection(command)
            if objection is not None:
                return self._refusal_of(objection)
        return command

    def _not_here(self, kind: type[c.Command], tag: bytes) -> Malformed:
        if self.state is State.NOT_AUTHENTICATED:
            return Malformed(tag, "log in first")
        if kind in _NOT_AUTHENTICATED:
            return Malformed(tag, "already logged in")
        return Malformed(tag, "no mailbox is selected" if self.state is State.AUTHENTICATED else "logged out")

    def _objection(self, command: AnyCommand) -> Malformed | None:
        """What is grammar, but not for a client that enabled this and not that."""
        kind = type(command)
        needs_qresync = (kind is c.Select and command.qresync is not None) or (kind is c.Fetch and command.vanished)
        if needs_qresync and not self.has_qresync:
            # RFC 7162 §3.2.5, §3.2.6: BAD before ENABLE QRESYNC.
            return Malformed(command.tag, "enable QRESYNC first")
        if self.is_uid_only:
            # RFC 9586 §3: BAD with UIDREQUIRED for everything that speaks in sequence numbers.
            speaks_in_numbers = kind in _NUMBERED and not command.is_uid
            query = command.query if kind in (c.Search, c.Sort, c.Thread) else None
            if speaks_in_numbers or (query is not None and _has_numbers(query)):
                return Malformed(command.tag, "only UIDs after ENABLE UIDONLY", b"UIDREQUIRED")
            if kind is c.Select and command.qresync is not None and command.qresync.known_sequence is not None:
                return Malformed(command.tag, "only UIDs after ENABLE UIDONLY", b"UIDREQUIRED")
        return None

    # Literals

    def _offered(self) -> LiteralOffer | Refusal | Continuation | None:
        """Decide on the literal that is announced; None when it is read or skipped."""
        framer = self._framer
        text, literals = framer.text or b"", framer.literals or []
        found: Announced | Malformed | None = None
        if self._kind in (None, c.Append, c.Replace):
            # Later literals of other commands are not looked at: reading the text again for each would be quadratic.
            found = parse_announced(text, literals, is_utf8=self.is_utf8, forbids_charset=self.is_utf8 and not self.is_rev2)
            if type(found) is Malformed:
                return self._refuse(found)
        if isinstance(found, Announced):
            if found.kind not in self._allowed and not (found.kind is c.Search and self.state is State.AUTHENTICATED):
                return self._refuse(self._not_here(found.kind, found.tag))
            self._kind = found.kind
        is_known = self.state is not State.NOT_AUTHENTICATED
        if len(literals) >= (LITERALS if is_known else LITERALS_BEFORE_LOGIN):
            return self._refuse(Malformed(tag_of(text), "too many literals"))
        if isinstance(found, Announced) and found.mailbox is not None:
            if framer.literal_size + found.size_before > self.append_limit:
                # RFC 7889 §5, RFC 4469 §4.2
                return self._refuse(Malformed(found.tag, "message too large", b"TOOBIG", b"NO"))
            if len(text) > APPEND_OCTETS:
                return self._refuse(Malformed(found.tag, "command too long", b"TOOBIG"))
            return LiteralOffer(
                found.tag,
                found.mailbox,
                framer.literal_size,
                found.size_before,
                framer.is_binary,
                framer.is_synchronising,
                found.flags,
            )
        kept = sum(len(literal) for literal in literals if type(literal) is bytes)
        if kept + framer.literal_size > (LITERAL_OCTETS if is_known else LITERAL_OCTETS_BEFORE_LOGIN):
            return self._refuse(Malformed(tag_of(text), "literal too large", b"TOOBIG"))
        framer.accept()
        return _GO_ON if framer.is_synchronising else None

    def accept_literal(self, sink: Sink | None = None) -> None:
        """Read the literal that was offered: into `sink` as it arrives (what it finishes is the literal's value), or into
        memory, which is for what is known to be small. The caller says "+" if it is synchronising."""
        self._framer.accept(sink)

    def refuse_literal(self, text: str, code: bytes = b"") -> None:
        """Refuse the command of the LiteralOffer with NO; the Refusal comes when the command is at its end."""
        try:
            self._pending = self._refuse(Malformed(tag_of(self._framer.text or b""), text, code, b"NO"))
        except EndlessLine:
            self._pending = self._end()

    def _refuse(self, malformed: Malformed) -> Refusal | None:
        self._kind = None
        is_synchronising = self._framer.is_synchronising
        self._framer.refuse()
        if is_synchronising:
            return self._refusal_of(malformed)
        self._refusal = malformed
        return None

    def _refused(self) -> Refusal | SinkFailure:
        framer = self._framer
        tag = tag_of(framer.text or b"")
        refusal, self._refusal, self._kind = self._refusal, None, None
        if framer.reason == core.SINK_FAILED and framer.failure is not None:
            return SinkFailure(tag, framer.failure, self._contents())
        if framer.reason == core.TOO_LONG:
            refusal = Malformed(tag, "command too long", b"TOOBIG")
        elif framer.reason == core.HAS_NUL or refusal is None:
            refusal = Malformed(tag, "NUL in a command")
        return self._refusal_of(refusal)

    def _refusal_of(self, malformed: Malformed) -> Refusal:
        return Refusal(malformed.tag, malformed.wire(), self._contents(), malformed.status == b"BAD")

    def _contents(self) -> tuple[Content, ...]:
        return tuple(literal for literal in self._framer.literals or () if type(literal) is not bytes)

    # Lines that are not commands

    def next_line(self) -> bytes | None:
        """The next line as the answer to a SASL challenge or the end of IDLE, None when it is not there yet.

        Raises:
            LineTooLong, EndlessLine
        """
        return self._framer.take_line(LINE_OCTETS)

    @property
    def has_input(self) -> bool:
        """Whether bytes wait that no event was made of."""
        return self._framer.waiting > 0

    def take_input(self) -> bytes:
        """All of those bytes, out of the session: for a change of how they are encoded (COMPRESS)."""
        return self._framer.take_rest()

    # What happened

    def count_error(self) -> bool:
        """Count a command that was refused; True when it was the last one allowed."""
        self.errors += 1
        return self.errors >= (ERRORS_BEFORE_LOGIN if self.state is State.NOT_AUTHENTICATED else ERRORS_AFTER_LOGIN)

    def count_failed_login(self) -> bool:
        """True when it was the last one allowed."""
        self.failed_logins += 1
        return self.failed_logins >= FAILED_LOGINS

    def enable(self, name: str) -> bool:
        """Enable an extension (its name in capitals); whether it was not before. Which ones exist is the caller's."""
        if name in self.enabled:
            return False
        self._set_enabled(self.enabled | {name} | ENABLED_TOO.get(name, set()))
        return True

    def tls_started(self) -> None:
        """RFC 9051 §6.2.1: what was said in the clear is forgotten."""
        self._framer.take_rest()
        self._set_state(State.NOT_AUTHENTICATED)

    def logged_in(self) -> None:
        self.errors = 0
        self._set_state(State.AUTHENTICATED)

    def selected(self, *, is_read_only: bool = False) -> None:
        self.is_read_only = is_read_only
        self._set_state(State.SELECTED)

    def unselected(self) -> None:
        self._set_state(State.AUTHENTICATED)

    def unauthenticated(self) -> None:
        """RFC 8437 §3: as after the greeting; nothing stays enabled. TLS, compression and what was pipelined stay."""
        self._set_state(State.NOT_AUTHENTICATED)

    def logged_out(self) -> None:
        self._set_state(State.LOGOUT)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be obeyed."""
        return self.state is State.LOGOUT

    def abandon(self) -> tuple[Content, ...]:
        """The connection is gone: the sink of a literal is aborted, and messages of an unfinished command are returned for
        their deletion."""
        return tuple(literal for literal in self._framer.abandon() if type(literal) is not bytes)


_NUMBERED: Final = frozenset({c.Fetch, c.Store, c.Copy, c.Search, c.Sort, c.Thread, c.Replace})


def _names_mailboxes(command: AnyCommand) -> bool:
    """Whether it is an ESEARCH that looks into other mailboxes than the selected one."""
    if type(command) is not c.Search or command.source is None:
        return False
    return any(not kind.startswith("selected") for kind, _ in command.source.filters)


def _has_numbers(query: q.Query) -> bool:
    match query:
        case q.Numbers(set=numbers):
            return not numbers.saved
        case q.And(parts=parts) | q.Or(parts=parts):
            return any(_has_numbers(part) for part in parts)
        case q.Not(part=part) | q.Fuzzy(part=part):
            return _has_numbers(part)
        case _:
            return False
