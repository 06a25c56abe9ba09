"""What IMAP's responses are made of (RFC 9051 §4, §9). CR, LF and NUL are refused wherever they would break a line.

`utf8`: the client takes UTF-8 in quoted strings (IMAP4rev2 or UTF8=ACCEPT was enabled).
"""

from collections.abc import Iterable
from typing import final

@final
class Buffer:
    """Responses grow here and leave as one bytes object."""

    def __len__(self) -> int: ...
    def write(self, data: bytes) -> None: ...
    def take(self) -> bytes:
        """Everything that was written; the buffer is empty then."""

def literal(value: bytes) -> bytes:
    """Raises ValueError for NUL."""

def literal8(value: bytes) -> bytes:
    """RFC 9051 §4.3: any octets."""

def quoted(value: bytes, *, utf8: bool = False) -> bytes:
    """Raises ValueError for what cannot be quoted."""

def string(value: bytes, *, utf8: bool = False) -> bytes:
    """Quoted where it can be, a literal otherwise. Raises ValueError for NUL."""

def nstring(value: bytes | None, *, utf8: bool = False) -> bytes:
    """`string`, or NIL for None. Raises ValueError for NUL."""

def astring(value: bytes, *, utf8: bool = False) -> bytes:
    """An atom where it can be, else `string`. Raises ValueError for NUL."""

def atom(value: bytes) -> bytes:
    """The value itself. Raises ValueError when it is no atom."""

def line_text(value: str) -> bytes:
    """Text for people, at the end of a response: "?" stands for what is not printable ASCII."""

def line_bytes(value: bytes) -> bytes:
    """The value itself. Raises ValueError for CR, LF or NUL."""

def number_set(numbers: Iterable[int]) -> bytes:
    """A sequence-set or uid-set: runs of ascending numbers become ranges; b"" for none. The order is kept."""
