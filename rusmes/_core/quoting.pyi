"""Strings of IMAP and values of header fields. `rusmes.mime.quoting` and `rusmes.mime.fields` are their places."""

from typing import Final

MAX_QUOTED_BYTES: Final = 1000
"""Octets of a quoted string. Longer text goes as a literal, which every client takes."""

def nstring(value: bytes | None) -> bytes:
    """A quoted string, a literal where it must be one (8-bit, CR, LF, long), or NIL (RFC 9051 §4.3).

    NUL is left out: no string may hold it.
    """

def unfold(value: bytes) -> bytes:
    """RFC 5322 §2.2.3: a fold is removed, its blank stays. NUL, which no string of IMAP may hold, goes too."""

def field_text(value: bytes | None) -> bytes:
    """`nstring` of the unfolded value."""
