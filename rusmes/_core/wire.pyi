"""What a body needs on its way out, found in one pass; and the replies that most replies are.

Most bodies need nothing (10 KiB: 2 us; four scans by `bytes` methods 25 us).
"""

from typing import Final

UNCLEAN: Final[int]
"""A CR or LF stands alone, or the last line is not ended; nothing more was looked at."""
DOTS: Final[int]
"""A line begins with a dot."""
LONG: Final[int]
"""A line is longer than 998 octets."""

def examine(data: bytes) -> int:
    """Which of the flags above are true of `data`; 0 = it can go out as it is (and a dot after it)."""

def simple_reply(data: bytes, start: int) -> tuple[int, bytes, int] | None:
    """Code, text and end of the reply at `start`; None when it is not one complete line of at most 512 octets with a code
    between 200 and 599 and a space after it."""

def plain_parts(code: int, line: bytes) -> tuple[str, str] | None:
    """The enhanced status code at the beginning of a reply's line, and the text after it. None when there is no such code, when
    its class is not that of `code`, or when the line is more than 1000 octets of printable ASCII."""
