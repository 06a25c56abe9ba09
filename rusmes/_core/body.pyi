"""Message text on its way in: what follows DATA, and the octets of BDAT chunks.

The rules, in every mode (RFC 5321 §4.1.1.4, §4.5.2):
1. Only CRLF "." CRLF ends it, or "." CRLF as the first line. An LF or CR alone ends nothing, whatever surrounds a dot.
2. A dot that begins a line is dropped where the line begins after CRLF (or is the first), and nowhere else.
3. After a fault the scanner goes on to the true end; it gives out no more text.
"reject": an LF or CR alone is a fault. "normalize": an LF alone becomes CRLF, a CR alone a space (one message still; a line "."
that comes to be this way keeps its dot and is stuffed again on its way out). NUL is a fault in both.
"""

from typing import Final, Self, final

from rusmes._core.headers import HeaderScanner

BARE_CR: Final = 1
BARE_LF: Final = 2
NUL: Final = 4
TOO_LARGE: Final = 8
HEADER_TOO_LARGE: Final = 16
MBOX_FROM: Final = 32

@final
class BodyScanner:
    """Message text on its way in: the rules above, the limits, and the facts `BodyEnd` reports.

    `binary` (BODY=BINARYMIME, RFC 3030 §3) takes octets as they come.
    """

    def __new__(cls, *, max_bytes: int, max_header_bytes: int, normalize: bool = False, binary: bool = False) -> Self: ...
    @property
    def faults(self) -> int: ...
    @property
    def repaired(self) -> int: ...
    @property
    def eight_bit(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def size(self) -> int: ...
    @property
    def header(self) -> HeaderScanner: ...
    def feed(self, data: bytes) -> tuple[int, bytes]:
        """Read octets that follow DATA: how many belong to the message with its end, and the content they give."""

    def feed_octets(self, data: bytes, *, last: bool = False) -> bytes:
        """Read octets of a BDAT chunk: the content they give. `last` ends the message after them."""
