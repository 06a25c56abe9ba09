"""The turns of an SMTP dialogue that every message takes: MAIL, RCPT, DATA, its end, and their replies.

`rusmes.smtp.session` is the theory, and a subclass that knows the rest: it is asked whenever a turn is not one of these.
"""

from typing import Any, Final, final

from typing_extensions import disjoint_base

from rusmes._core.smtp import CommandReader

NOTHING: Final = 0
GREETING: Final = -1
MESSAGE: Final = -2
CHUNK: Final = -3
MALFORMED: Final = -4
FATAL: Final = -5
LINE: Final = -6
"""What a reply is due to when it is not due to a command (then it is the command's bit)."""

@final
class Grammar:
    """What all sessions share.

    Args:
        states: all states, in the order of session.pyx.
        allowed: for each of them the bits of the commands that may come.
        address_type: called with local part and domain.
        mail_parameters: what MAIL has that names none; `rcpt_parameters` the same for RCPT.

    Raises:
        ValueError: the number of states is another one.
    """

    def __init__(
        self, states: tuple[Any, ...], allowed: list[int], address_type: Any, mail_parameters: object, rcpt_parameters: object
    ) -> None: ...

@disjoint_base
class SessionCore:
    """A session's state, what is owed to the peer, and what was said and is not sent.

    A subclass
    1. calls `set_up` in its constructor;
    2. has `next_event_while_due()`: what comes while a reply is due;
    3. has `take_slowly(command)`: checks a command of any kind, calls `expect_reply` and returns the event;
    4. has `take_other(event)`: what is made of faults and lines;
    5. has `settle_other(due, code)`: what a reply of this code to this changes, when it is not MAIL, RCPT, NOOP or MESSAGE;
    6. has `close()`, which calls `shut`.
    """

    def set_up(self, grammar: Grammar, reader: CommandReader, is_lmtp: bool) -> None:
        """The session begins: our greeting is due."""

    def receive(self, data: bytes) -> None:
        """Hand in what arrived. Dropped when the session is closed."""

    def next_event(self) -> Any:
        """The next event; NEED_DATA when there is none, CLOSED for ever once the session is closed.

        Raises:
            RuntimeError: the last event is not answered yet.
        """

    def reply(self, reply: Any) -> None:
        """Give a reply. It is what moves the session on. Nothing is said any more in a session that is closed.

        Raises:
            RuntimeError: no reply is due (a 421 always may be given).
        """

    def data_to_send(self) -> bytes:
        """The replies given since the last call, as one piece; b"" when there are none."""

    @property
    def state(self) -> Any: ...
    @property
    def due(self) -> int:
        """What the next reply answers."""

    @property
    def replies_due(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def recipients(self) -> int:
        """Accepted in this transaction."""

    @property
    def rejected(self) -> int: ...
    @property
    def utf8(self) -> bool: ...
    @property
    def binary(self) -> bool: ...
    def set_state(self, state: object) -> None: ...
    def limit_bodies(self, max_message_bytes: int, max_header_bytes: int, normalizes: bool) -> None:
        """For bodies that begin from now on."""

    def allows(self, bit: int) -> bool:
        """Whether the command may come in this state."""

    def expect_reply(self, due: int, replies: int = 1) -> None: ...
    def shut(self) -> None:
        """The end: what waits is dropped, nothing more is read."""

    def count_rejected(self) -> None: ...
    def declare(self, utf8: bool, binary: bool) -> None:
        """What MAIL said of the message: SMTPUTF8, BODY=BINARYMIME."""

    def forget_transaction(self) -> None: ...
