"""A bounded buffer of lines, for protocols that speak in lines.

It holds what arrived by reference, copies only to join a line that came in pieces, and holds nothing while nothing waits.
"""

from typing_extensions import disjoint_base

from rusmes.errors import PeerError

class LineTooLong(PeerError):
    """A line was longer than the limit; it has been read to its end and dropped."""

class EndlessLine(PeerError):
    """A line goes on after the limit and the discard limit; the connection is not worth more."""

@disjoint_base
class LineBuffer:
    """Bytes in, lines out, never more than `limit` + one read in memory.

    `limit` is octets of a line with its CRLF and may be changed between lines; `discard_limit` is how many octets of a
    line that is too long are read before `EndlessLine`. A line that is too long is discarded as it arrives and reported
    once, when its end is there, so that its rest is never taken for a command.
    """

    limit: int
    @property
    def discard_limit(self) -> int: ...
    @property
    def bare_lf(self) -> bool:
        """Whether the line taken last ended in an LF without a CR."""

    @property
    def waiting(self) -> int:
        """Octets that have arrived and are not consumed."""

    def __init__(self, limit: int, *, discard_limit: int = 65536) -> None: ...
    def __len__(self) -> int: ...
    def feed(self, data: bytes) -> None:
        """Add what arrived."""

    def take_line(self) -> bytes | None:
        """The next line without its line end, or None when it is not complete yet.

        Raises:
            LineTooLong: once for a line over `limit` (CRLF included), after all of it was dropped.
            EndlessLine: more than `discard_limit` octets of it were dropped and it has not ended.
        """

    def take_rest(self) -> bytes:
        """Everything that waits, out of the buffer."""
