"""The states of a POP3 session, sans-IO (RFC 1939 §3 to §6).

AUTHORIZATION: who are you? USER and PASS, AUTH; STLS starts over. A successful login that also gets the maildrop leads to
TRANSACTION: look at the maildrop, read, mark for deletion. QUIT leads to UPDATE, where the deletion happens; a connection that
ends in any other way changes nothing. Each command belongs to one state, CAPA and QUIT to both.

    session.receive(data)
    while (event := session.next_event()) is not NEED_DATA: ...     a Command, or a Refusal that is to be sent
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from rusmes._core import pop3 as core
from rusmes._core.lines import LineBuffer, LineTooLong
from rusmes._core.pop3 import Command, parse
from rusmes.pop3.limits import (
    COMMAND_LINE_OCTETS,
    DISCARD_OCTETS,
    ERRORS_AFTER_LOGIN,
    ERRORS_BEFORE_LOGIN,
    FAILED_LOGINS,
    SASL_LINE_OCTETS,
)
from rusmes.pop3.maildrop import Maildrop
from rusmes.pop3.reply import Reply


class State(Enum):
    AUTHORIZATION = "authorization"
    TRANSACTION = "transaction"
    UPDATE = "update"


class NeedData(Enum):
    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA

_IN_AUTHORIZATION: Final = frozenset(
    {core.CAPA, core.USER, core.PASS, core.AUTH, core.STLS, core.UTF8, core.QUIT, core.APOP, core.LANG}
)
_IN_TRANSACTION: Final = frozenset(
    {core.CAPA, core.STAT, core.LIST, core.UIDL, core.RETR, core.TOP, core.DELE, core.RSET, core.NOOP, core.QUIT}
)

TOO_LONG: Final = Reply(False, "line too long")
UNKNOWN: Final = Reply(False, "unknown command")
MALFORMED: Final = Reply(False, "malformed command")
WRONG_STATE_BEFORE: Final = Reply(False, "log in first")
WRONG_STATE_AFTER: Final = Reply(False, "not after login")


class Session:
    """One peer's state; knows no socket and no store."""

    __slots__ = ("_allowed", "_lines", "account", "errors", "failed_logins", "maildrop", "state", "user", "utf8")

    def __init__(self) -> None:
        self._lines = LineBuffer(COMMAND_LINE_OCTETS, discard_limit=DISCARD_OCTETS)
        self.errors = 0
        self.failed_logins = 0
        self.account = ""
        self.maildrop: Maildrop | None = None
        self._set_state(State.AUTHORIZATION)

    def _set_state(self, state: State) -> None:
        self.state = state
        self.user: bytes | None = None
        """The name USER gave, until PASS (RFC 1939 §7)."""
        if state is State.AUTHORIZATION:
            self.utf8 = False
        self._allowed = _IN_AUTHORIZATION if state is State.AUTHORIZATION else _IN_TRANSACTION

    # Input

    def receive(self, data: bytes) -> None:
        self._lines.feed(data)

    def next_event(self) -> Command | Reply | NeedData:
        """The next command that fits the state, or the refusal of one that does not.

        Raises:
            EndlessLine: the peer sends no line ends; the connection is not worth more.
        """
        try:
            line = self._lines.take_line()
        except LineTooLong:
            return TOO_LONG
        if line is None:
            return NEED_DATA
        command = parse(line)
        if command.verb in self._allowed and command.well_formed:
            return command
        if command.verb == 0:
            return UNKNOWN
        if command.verb not in self._allowed:
            return WRONG_STATE_BEFORE if self.state is State.AUTHORIZATION else WRONG_STATE_AFTER
        return MALFORMED

    def next_response(self) -> bytes | None:
        """The next line as the answer to a SASL challenge, None when it is not there yet.

        Raises:
            LineTooLong, EndlessLine
        """
        self._lines.limit = SASL_LINE_OCTETS
        try:
            return self._lines.take_line()
        finally:
            self._lines.limit = COMMAND_LINE_OCTETS

    @property
    def has_input(self) -> bool:
        """Whether bytes wait that no event was made of."""
        return self._lines.waiting > 0

    # What happened

    def count_error(self) -> bool:
        """Count a command that made no sense; True when it was the last one allowed."""
        self.errors += 1
        limit = ERRORS_BEFORE_LOGIN if self.state is State.AUTHORIZATION else ERRORS_AFTER_LOGIN
        return self.errors >= limit

    def count_failed_login(self) -> bool:
        """True when it was the last one allowed."""
        self.user = None
        self.failed_logins += 1
        return self.failed_logins >= FAILED_LOGINS

    def tls_started(self) -> None:
        """RFC 2595 §4: what was said in the clear is forgotten."""
        self._lines.take_rest()
        self._set_state(State.AUTHORIZATION)

    def logged_in(self, account: str, maildrop: Maildrop) -> None:
        self.account = account
        self.maildrop = maildrop
        self._set_state(State.TRANSACTION)

    def quit(self) -> None:
        self._set_state(State.UPDATE)
