"""POP3's bytes: command lines (RFC 1939 §3) and messages on their way out, dot-stuffed (RFC 1939 §3 multi-line responses)."""

from typing import Final, Self, final

VERBS: Final[tuple[str, ...]]
"""Names by number; number 0 is any other word."""

CAPA: Final[int]
USER: Final[int]
PASS: Final[int]
AUTH: Final[int]
APOP: Final[int]
STLS: Final[int]
STAT: Final[int]
LIST: Final[int]
UIDL: Final[int]
RETR: Final[int]
TOP: Final[int]
DELE: Final[int]
RSET: Final[int]
NOOP: Final[int]
QUIT: Final[int]
UTF8: Final[int]
LANG: Final[int]

@final
class Command:
    """A command line, taken apart. Its repr shows no secret."""

    @property
    def verb(self) -> int: ...
    @property
    def well_formed(self) -> bool:
        """Whether the arguments fit the verb, and no control character is in the line."""

    @property
    def number(self) -> int:
        """The message number, -1 when there is none. Numbers that are too large are 2**31 - 1."""

    @property
    def lines(self) -> int:
        """Of TOP, -1 when there is none."""

    @property
    def argument(self) -> bytes:
        """Everything after the first space, for USER, PASS, AUTH, APOP and LANG."""

def parse(line: bytes) -> Command:
    """The command of a line without its line end. Never fails: what makes no sense is not `well_formed`."""

def message_reply(head: bytes, prefix: bytes, data: bytes, skip: int = 0) -> bytes:
    """A whole small message as one reply: `head` (the status line), `prefix` and `data[skip:]` stuffed, and the end."""

@final
class DotStuffer:
    """A message in chunks, out as it is sent. With `lines` >= 0 only the header and that many lines of the body (TOP)."""

    def __new__(cls, lines: int = -1) -> Self: ...
    def feed(self, chunk: bytes) -> bytes:
        """The next chunk, stuffed (the chunk itself when no line begins with a dot); b"" when `is_done`."""

    @property
    def is_done(self) -> bool:
        """Whether no more of the message is wanted."""

    @property
    def octets(self) -> int:
        """Octets of the message fed so far and wanted, without stuffing."""

    def finish(self) -> bytes:
        """The end of the reply; a line that has not ended is ended first (the terminator is CRLF, dot, CRLF)."""
