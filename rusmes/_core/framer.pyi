"""IMAP's stream: commands with their literals cut out of it (RFC 9051 §4.3, RFC 7888).

A command is its lines, joined, with one NUL in the place of each literal ("~" before it: literal8), and the list of the
literals. Line ends are CRLF or a bare LF.
"""

from typing import Any, Final, Protocol, Self, final

NEED_DATA: Final[int]
COMMAND: Final[int]
OFFER: Final[int]
REFUSED: Final[int]
"""What `Framer.next` reports."""

BY_CALLER: Final[int]
TOO_LONG: Final[int]
HAS_NUL: Final[int]
SINK_FAILED: Final[int]
"""Why a command was dropped."""

class _Sink(Protocol):
    """Where a literal goes as it arrives: `storage.api.ContentWriter`."""

    def write(self, data: bytes, /) -> None: ...
    def finish(self) -> Any: ...
    def abort(self) -> None: ...

@final
class Framer:
    """Bytes in, commands with their literals out; never more in memory than the limits allow.

    `text_limit` is octets of a command without its literals, `discard_limit` octets of a refused command that are read and
    forgotten before the connection is not worth more. Both may be changed between commands.

    What was refused is read to its end: neither the rest of a line that is too long nor a literal that came without being
    asked for is ever taken for a command.
    """

    text_limit: int
    discard_limit: int

    def __new__(cls, *, text_limit: int, discard_limit: int) -> Self: ...
    def feed(self, data: bytes) -> None:
        """Add what arrived."""

    def next(self) -> int:
        """What comes next: NEED_DATA, COMMAND, OFFER or REFUSED.

        Raises:
            EndlessLine: more than `discard_limit` octets of one command had to be dropped.
            RuntimeError: a literal that was offered is neither accepted nor refused.
        """

    def accept(self, sink: _Sink | None = None) -> None:
        """Read the literal that was offered: into memory, or into `sink` as it arrives.

        What `sink.finish` returns takes the literal's place. If the sink fails, the command is read to its end and REFUSED
        (`failure` is what it raised).
        """

    def refuse(self) -> None:
        """Drop the command. A literal that comes without being asked for is read and forgotten, with the rest of the command;
        REFUSED follows at its end. After a synchronising one the next event is another command's.

        Raises:
            EndlessLine: it is larger than what is left of `discard_limit`.
        """

    def take_line(self, limit: int) -> bytes | None:
        """The next line without its line end, for answers that are not commands; None when it is not complete yet.

        Raises:
            LineTooLong: once for a line over `limit` octets, after all of it was dropped.
            EndlessLine
        """

    def take_rest(self) -> bytes:
        """Everything that waits and that no event was made of, out of the buffer."""

    def abandon(self) -> list[Any]:
        """Forget the command that has not ended: its sink is aborted, and the literals that were complete are returned."""

    @property
    def text(self) -> bytes | None:
        """Of the command so far, after COMMAND, OFFER (the announced literal's NUL included) and REFUSED (the part that was
        kept)."""

    @property
    def literals(self) -> list[Any] | None:
        """In order; None when there are none."""

    @property
    def literal_size(self) -> int:
        """Of the literal that is offered. Numbers over 63 bits are 2**63 - 1."""

    @property
    def is_synchronising(self) -> bool:
        """Whether the client waits for "+" before it sends the literal."""

    @property
    def is_binary(self) -> bool:
        """literal8 (RFC 3516 §4.4)."""

    @property
    def reason(self) -> int:
        """Why the command was dropped: BY_CALLER, TOO_LONG, HAS_NUL or SINK_FAILED."""

    @property
    def failure(self) -> Exception | None:
        """What the sink raised."""

    @property
    def waiting(self) -> int:
        """Octets that have arrived and that no event was made of (those of literals aside)."""
