"""IMAP's words: the lexer of one command (RFC 9051 §9).

It reads what `framer` makes of the stream: the lines of a command, joined, with one NUL in the place of each literal ("~"
before it: literal8), and the list of the literals.
"""

from collections.abc import Sequence
from typing import Any, Self, final

from rusmes.errors import PeerError

class GrammarError(PeerError):
    """A command is not what the grammar allows; `public` says what was expected."""

class LiteralReached(Exception):
    """The lexer came to the literal that is only announced yet: everything before it is grammar."""

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
