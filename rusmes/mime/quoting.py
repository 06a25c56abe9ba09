"""Strings as IMAP sends them (RFC 9051 §4.3)."""

from __future__ import annotations

import re
from typing import Final

# Octets of a quoted string that need neither backslash nor literal. Longer text goes as a literal, which every client takes.
_PLAIN: Final = re.compile(rb'[ !#-\[\]-~]*').fullmatch
MAX_QUOTED_BYTES: Final = 1000


def nstring(value: bytes | None) -> bytes:
    """A quoted string, a literal where it must be one (8-bit, CR, LF, long), or NIL. NUL is left out: no string may hold it."""
    if value is None:
        return b"NIL"
    if len(value) <= MAX_QUOTED_BYTES:
        if _PLAIN(value):
            return b'"' + value + b'"'
        if value.isascii() and not _NEEDS_LITERAL.search(value):
            return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    value = value.replace(b"\0", b"")
    return b"{%d}\r\n%b" % (len(value), value)


_NEEDS_LITERAL: Final = re.compile(rb"[\0\r\n]")
