"""Header blocks as (name, value) pairs (RFC 5322 §2.2)."""

from __future__ import annotations

import re
from typing import Final

from rusmes._core.quoting import unfold

__all__ = ["MAX_HEADER_BYTES", "parse_and_pick", "parse_fields", "unfold"]

# What is over this of a header block is not looked at: no mail in practice has it, and nobody shall make us parse it.
MAX_HEADER_BYTES: Final = 256 * 1024

# RFC 5322 §2.2 and §4.5: a name, blanks before the colon (obsolete), a value with its folded lines. Each class stops where the
# next begins, so the time is linear. Lines that are no field (a stray "From " line, junk) are stepped over.
_FIELD: Final = re.compile(rb"^(([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*))", re.M)


def parse_fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields in order: the name in lower case, the value with its folds and outer blanks as they are."""
    if len(block) > MAX_HEADER_BYTES:
        block = block[:MAX_HEADER_BYTES]
    return [(name.lower(), value) for _, name, value in _FIELD.findall(block)]


def parse_and_pick(block: bytes, names: frozenset[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields, and the lines of the named ones as they were received, with CRLF at the end of each."""
    if len(block) > MAX_HEADER_BYTES:
        block = block[:MAX_HEADER_BYTES]
    fields, picked = [], []
    for raw, name, value in _FIELD.findall(block):
        name = name.lower()
        fields.append((name, value))
        if name in names:
            picked.append(raw.rstrip(b"\r"))
    picked.append(b"")
    return fields, b"\r\n".join(picked)
