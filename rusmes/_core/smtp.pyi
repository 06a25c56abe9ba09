"""The SMTP wire: command lines, and which octets belong to what. xtext.

It knows octets and the limits it was given; order, replies and policy are `rusmes.smtp.session`'s; message text is
`_core.body`'s.
"""

from typing import Any, Final, Literal, Self, final

from rusmes._core.lines import LineBuffer

COMMAND: Final = 1
LINE: Final = 2
BODY_CHUNK: Final = 3
BODY_END: Final = 4
MALFORMED: Final = 5
FAULT: Final = 6

VERBS: Final[tuple[str, ...]]
"""The verbs that are known; `Command.bit` is 1 << the place in here."""

@final
class Command:
    """One command line. `session.py` says which attributes belong to which verb."""

    @property
    def kind(self) -> Literal[1]: ...
    @property
    def bit(self) -> int: ...
    @property
    def verb(self) -> str: ...
    @property
    def line(self) -> bytes:
        """The whole line without its line end."""

    @property
    def argument(self) -> bytes:
        """What follows the verb, without blanks around it."""

    @property
    def text(self) -> str:
        """The argument with "?" for what is not printable ASCII; of AUTH, which may hold a password, the mechanism."""

    @property
    def mechanism(self) -> str:
        """AUTH: the first word of the argument, in upper case."""

    @property
    def initial(self) -> bytes | None:
        """AUTH: the initial response as sent (base64), None when there is none."""

    @property
    def local(self) -> str | None:
        """MAIL, RCPT: the local part when the path is a plain ASCII address; then `domain` is set and `path` is not."""

    @property
    def domain(self) -> str | None: ...
    @property
    def path(self) -> bytes | None:
        """MAIL, RCPT: what is between the angle brackets, when it takes the grammar of `rusmes.smtp.address`."""

    @property
    def pairs(self) -> list[tuple[str, bytes | None]] | None:
        """MAIL, RCPT: keywords in upper case with their values."""

    @property
    def address(self) -> Any:
        """MAIL, RCPT: `rusmes.model.address.Address`; None is the null path."""

    @property
    def parameters(self) -> Any:
        """MAIL, RCPT: `MailParameters` or `RcptParameters` of `rusmes.smtp.parameters`."""

    @property
    def size(self) -> int:
        """BDAT: octets of the chunk."""

    @property
    def last(self) -> bool: ...
    def complete(self, address: object, parameters: object) -> None:
        """Set `address` and `parameters`; the session does, once, before it hands the command on."""

@final
class Line:
    """A line of an AUTH exchange."""

    def __new__(cls, data: bytes) -> Self: ...
    @property
    def kind(self) -> Literal[2]: ...
    @property
    def data(self) -> bytes: ...

@final
class BodyChunk:
    """Octets of the message, in order, dots unstuffed."""

    def __new__(cls, data: bytes) -> Self: ...
    @property
    def kind(self) -> Literal[3]: ...
    @property
    def data(self) -> bytes: ...

@final
class BodyEnd:
    """The end of DATA or of one BDAT chunk, and what is known of the message so far."""

    @property
    def kind(self) -> Literal[4]: ...
    @property
    def faults(self) -> int:
        """BARE_CR | BARE_LF | NUL | TOO_LARGE | HEADER_TOO_LARGE | MBOX_FROM; 0 = clean."""

    @property
    def repaired(self) -> int:
        """BARE_CR | BARE_LF: what "normalize" mended."""

    @property
    def last(self) -> bool: ...
    @property
    def eight_bit(self) -> bool: ...
    @property
    def size(self) -> int:
        """Octets of content, those included that a fault kept from being given out."""

    @property
    def header_bytes(self) -> int:
        """Length of the header block with its empty line; the whole size when there is no empty line."""

    @property
    def received_count(self) -> int: ...

@final
class Fault:
    """A line, or the stream, that makes no sense; what was wrong is consumed."""

    def __new__(cls, reason: str, verb: str = "") -> Self: ...
    @property
    def kind(self) -> Literal[6]: ...
    @property
    def reason(self) -> str:
        """empty unknown http tls control syntax brackets parameters chunk-size chunk-skipped bare-newline line-too-long
        line-endless body-endless."""

    @property
    def verb(self) -> str: ...

@final
class Signal:
    """NEED_DATA or CLOSED."""

    def __new__(cls, kind: int, name: str) -> Self: ...
    @property
    def kind(self) -> Literal[0, 255]: ...

NEED_DATA: Final[Signal]
CLOSED: Final[Signal]

WireEvent = Command | Line | BodyChunk | BodyEnd | Fault | Signal

@final
class CommandReader(LineBuffer):
    """Octets in, events out. It owns the bytes that wait and knows what they are part of; it holds nothing while idle.

    Limits are octets with CRLF: `limit` for commands, `envelope_limit` for MAIL and RCPT, `auth_limit` for AUTH.
    """

    def __init__(
        self,
        limit: int,
        *,
        envelope_limit: int,
        auth_limit: int,
        discard_limit: int = 65536,
        bare_newline_allowed: bool = False,
    ) -> None: ...
    def next_event(self) -> WireEvent:
        """The next event, NEED_DATA when there is none."""

    def expect_line(self) -> None:
        """The next line is no command but an answer to a challenge."""

    def expect_data(self, max_bytes: int, max_header_bytes: int, normalize: bool) -> None:
        """Message text follows (after 354)."""

    def expect_chunk(self, size: int, last: bool, max_bytes: int, max_header_bytes: int, normalize: bool, binary: bool) -> None:
        """`size` octets of a chunk follow; the first chunk begins a message."""

    def skip_chunk(self, size: int) -> None:
        """`size` octets follow that nobody wants; then comes Fault("chunk-skipped")."""

    def discard_body(self) -> None:
        """Give out no more of this message; its BodyEnd comes all the same."""

    def end_body(self) -> None:
        """Forget a message that was begun with BDAT and will not be finished."""

    def forget(self) -> None:
        """Drop everything that waits."""

def printable(text: bytes) -> str:
    """The text with "?" for everything that is not printable ASCII."""

def is_dot_string(text: str) -> bool:
    """Whether it is a Dot-string of ASCII (RFC 5321 §4.1.2), which is written without quotes."""

def decode_xtext(text: bytes) -> bytes:
    """Decode xtext (RFC 3461 §4).

    Raises:
        ValueError: it is not xtext.
    """

def encode_xtext(text: bytes) -> bytes:
    """Encode as xtext (RFC 3461 §4)."""
