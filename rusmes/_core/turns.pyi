"""The loop that takes the turns of an SMTP dialogue which need no waiting. What they mean is for the handlers.

`rusmes.smtp.server` has a subclass for everything that takes longer or does not happen in every message.
"""

from collections.abc import Callable
from typing import Any, Final, final

from typing_extensions import disjoint_base

from rusmes._core.counters import Metrics
from rusmes._core.session import SessionCore

MAX_UNSENT: Final = 256
"""Replies kept back for one write; 256 are about 8 KiB. More would let a client that never reads fill our memory."""

@final
class TurnRules:
    """What all dialogues share.

    Args:
        handlers: for verbs that need no other check first: called with conversation and command, it answers a `reply_type`, or
            something to wait for.
        commands: for each verb its counter.
        classes: counters of replies by the first digit of their code.
        take_chunk: called with conversation and bytes of a body.
        end_of_body: called with conversation, the event and `Turns.take_outcome`, it answers a list of replies, something that
            gives such a list when it is awaited, or None when `take_outcome` will be called, later.
        settle: makes replies of conversation and an outcome.
        bytes_per_second: how fast a body has to come.
        grace_seconds: what every body may take, if `policy.data_timeout` is not less.
    """

    def __init__(
        self,
        handlers: dict[str, Any],
        commands: dict[str, Any],
        classes: tuple[Any, ...],
        reply_type: type,
        take_chunk: Callable[[Any, bytes], object],
        end_of_body: Callable[[Any, Any, Callable[[Any], None]], Any],
        settle: Callable[[Any, Any], Any],
        bytes_per_second: float,
        grace_seconds: float,
    ) -> None: ...

@disjoint_base
class Turns:
    """One dialogue's turns, and its clocks.

    A command line has its time as a whole, counted from when we began to wait for it: a byte now and then does not prolong it.
    A body has a budget: `begin_body` says with how much it begins, and its bytes buy more, up to `policy.data_timeout`.

    A subclass
    1. calls `set_up` in its constructor;
    2. has `answer_command(reply)`: a reply to a command that is no plain success, which calls `answer`;
    3. has `answer_message(replies)`: the replies to a message;
    4. has `note_reply(reply)`: for the log, when it is not quiet;
    5. has `end_of_input()`, which raises.
    """

    def set_up(
        self,
        rules: TurnRules,
        session: SessionCore,
        metrics: Metrics,
        connection: Any,
        conversation: Any,
        monotonic: Callable[[], float],
        is_quiet: bool,
    ) -> None: ...
    def take_turns(self) -> Any:
        """Everything that needs no waiting; then NEED_DATA, or what has to be waited for.

        That is an event, what a handler answered that is no reply, or None: replies have to be sent before more are made.
        """

    def take_input(self, data: bytes) -> bytes | None:
        """What to send in answer to input; None when that takes longer, and is left in `rest`."""

    def take_outcome(self, outcome: Any) -> None:
        """The message that was waited for has an outcome: its replies are sent, and the turns go on."""

    def take_up_again(self) -> bytes | None:
        """What to send then; for the connection to call."""

    @property
    def rest(self) -> Any: ...
    def answer(self, reply: Any) -> None: ...
    def replies(self) -> bytes:
        """What was answered and is not on its way yet."""

    @property
    def unsent(self) -> int:
        """How many that are."""

    @property
    def last_reply(self) -> Any: ...
    def expect_input(self) -> None:
        """Set the connection's deadline, and whether it may be interrupted, before waiting for input."""

    @property
    def in_body(self) -> bool: ...
    def begin_line(self) -> None:
        """The next command line has its own time."""

    def begin_body(self, seconds: float) -> None: ...
    def end_body(self) -> None: ...
