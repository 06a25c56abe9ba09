"""Header blocks: where they end while a message streams by, and where the fields of a complete one are (RFC 5322 §2.2).

The functions take a header block (with or without the empty line, or a whole small message) and stop at the first empty line.
A line that is no field is passed over. Names are compared without ASCII case; values are octets, unfolded (RFC 5322
§2.2.3), without blanks around them, and not decoded.
"""

from collections.abc import Container
from typing import Self, final

@final
class HeaderScanner:
    """Follows a message as it arrives and finds the end of its header block: the first line that is nothing but CRLF."""

    @property
    def size(self) -> int:
        """Octets of the header block so far, its empty line included."""

    @property
    def ended(self) -> bool:
        """Whether the empty line was seen."""

    @property
    def received_count(self) -> int:
        """Fields named Received so far (RFC 5321 §6.3)."""

    @property
    def mbox_from(self) -> bool:
        """Whether the first line is an mbox separator ("From " or ">From ") and no field."""

    def __new__(cls) -> Self: ...
    def feed(self, data: bytes) -> int:
        """Read on; the number of octets of `data` that belong to the header block."""

def offsets(block: bytes) -> list[tuple[int, int, int]]:
    """For each field the offsets of its start, of its colon, and after its last line end."""

def fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """Name (as written) and value of each field, in order."""

def find_value(block: bytes, name: bytes) -> bytes | None:
    """The value of the first field of this name, None when there is none."""

def find_values(block: bytes, name: bytes) -> list[bytes]:
    """The values of all fields of this name, in order."""

def without(block: bytes, names: Container[bytes]) -> bytes:
    """The block without the fields that have one of these lower-case names; everything else byte for byte."""

def only(block: bytes, names: Container[bytes]) -> bytes:
    """The lines of the fields that have one of these lower-case names, as they are, without the empty line."""
