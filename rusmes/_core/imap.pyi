"""IMAP's bytes: commands with their literals cut out of the stream, and the lexer of one command (RFC 9051 §4, §9).

A command is its lines, joined, with one NUL in the place of each literal ("~" before it: literal8), and the list of the
literals. Line ends are CRLF or a bare LF.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, Self, final

from rusmes.errors import PeerError

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

class GrammarError(PeerError):
    """A command is not what the grammar allows; `public` says what was expected."""

class LiteralReached(Exception):
    """The lexer came to the literal that is only announced yet: everything before it is grammar."""

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

@final
class Lexer:
    """One command, read from left to right. Methods take what they name, or raise GrammarError where it is not.

    `is_utf8`: quoted strings may hold UTF-8 (RFC 9051 §9, RFC 6855 §3), and names of mailboxes are UTF-8.
    `forbids_charset`: SEARCH must not say one (RFC 6855 §3).
    """

    def __new__(
        cls, text: bytes, literals: Sequence[Any] = (), *, is_utf8: bool = False, forbids_charset: bool = False
    ) -> Self: ...
    @property
    def is_utf8(self) -> bool: ...
    @property
    def forbids_charset(self) -> bool: ...
    @property
    def text(self) -> bytes: ...
    @property
    def literals(self) -> Sequence[Any]: ...
    @property
    def at(self) -> int:
        """How many octets were taken."""

    def peek(self) -> int:
        """The next octet; -1 at the end, 0 where a literal is."""

    def is_at(self, octet: int) -> bool:
        """Whether the next octet is this one."""

    def skip(self, octet: int) -> bool:
        """Take the octet if it is the next one."""

    def take(self, octet: int) -> None:
        """The octet, which must be there."""

    def space(self) -> None:
        """One space."""

    def skip_space(self) -> bool:
        """A space, if one is there and something follows it: spaces at the end of a line are no argument."""

    def end(self) -> None:
        """The end of the command. Spaces before it are forgiven, as some clients send one."""

    def rest(self) -> bytes:
        """Everything to the end, for one who takes it apart elsewhere. There is no literal in it.

        Returns b"" when there is one.
        """

    def tag(self) -> bytes:
        """tag = 1*<any ASTRING-CHAR except "+">, and at most 128 of them."""

    def word(self) -> str:
        """An atom of at most 64 octets, in capitals: the name of a command, option or item."""

    def attribute(self) -> str:
        """The name of a FETCH attribute, in capitals, up to its section or arguments."""

    def atom(self) -> str:
        """An atom as it was written."""

    def flag(self) -> str:
        """flag = "\\" atom / atom; system flags in the RFC's spelling."""

    def flag_list(self) -> tuple[str, ...]:
        """flag-list = "(" [flag *(SP flag)] ")"."""

    def literal(self) -> Any:
        """The literal that begins here, as it was collected. `~` before it is taken with `skip`.

        Raises:
            GrammarError
            LiteralReached: it is only announced yet.
        """

    def string(self) -> bytes:
        """string = quoted / literal."""

    def astring(self) -> bytes:
        """astring = 1*ASTRING-CHAR / string."""

    def list_mailbox(self) -> bytes:
        """list-mailbox = 1*list-char / string."""

    def nstring(self) -> bytes | None:
        """nstring = string / nil."""

    def number(self) -> int:
        """number = 1*DIGIT, 32 bits."""

    def nz_number(self) -> int:
        """nz-number: not 0, 32 bits."""

    def number64(self) -> int:
        """number64, and mod-sequence-valzer: 63 bits (RFC 7162 §7)."""

    def nz_number64(self) -> int:
        """nz-number64, and mod-sequence-value: not 0, 63 bits."""

    def sequence_set(self, limit: int) -> tuple[tuple[int, int], ...] | None:
        """sequence-set: its ranges as pairs, 0 for "*"; None for "$", the saved result.

        A single number is a pair of it. More than `limit` ranges are refused.
        """
