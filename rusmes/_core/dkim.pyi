"""Canonical forms of messages for DKIM and ARC (RFC 6376 §3.4).

A line ends with CRLF; CR or LF alone is an octet like any other. Blanks are SP and HTAB.
"""

from collections.abc import Callable, Iterable
from typing import Self, final

@final
class BodyCanonicalizer:
    """Gives the canonical form of a body to `sink`, as the body comes; in which pieces it comes makes no difference.

    `sink` takes bytes or a memoryview that is valid during the call: the `update` of a hash. Memory does not grow with the
    body, whatever is in it.
    """

    def __new__(cls, sink: Callable[[bytes | memoryview], object], *, relaxed: bool) -> Self: ...
    def feed(self, data: bytes) -> None:
        """The next octets.

        Raises:
            ValueError: after `finish`.
        """

    def finish(self) -> None:
        """The end of the body; safe to call twice."""

def relaxed_field(field: bytes) -> bytes:
    """The relaxed form of one header field, with CRLF.

    Raises:
        ValueError: there is no colon.
    """

def field_names(block: bytes) -> tuple[bytes, ...]:
    """The names of a header block's fields in lower case, in order."""

def select_fields(block: bytes, names: Iterable[bytes], *, relaxed: bool) -> bytes:
    """The canonical forms of the fields that `names` (lower case) means, in the order of `names`.

    A name given twice means the last field of this name and the one before it (RFC 6376 §5.4.2); a name without a field
    gives nothing.
    """
