"""Header blocks as (name, value) pairs (RFC 5322 §2.2)."""

from __future__ import annotations

from typing import Final

from rusmes._core import mime
from rusmes._core.quoting import unfold

__all__ = ["MAX_HEADER_BYTES", "parse_and_pick", "parse_fields", "unfold"]

# What is over this of a header block is not looked at: no mail in practice has it, and nobody shall make us parse it.
MAX_HEADER_BYTES: Final = 256 * 1024
_NOTHING: Final[frozenset[bytes]] = frozenset()


def parse_fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields in order: the name in lower case, the value with its folds and outer blanks as they are."""
    return parse_and_pick(block, _NOTHING)[0]


def parse_and_pick(block: bytes, names: frozenset[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields, and the lines of the named ones as they were received, with CRLF at the end of each."""
    return mime.parse_and_pick(block if len(block) <= MAX_HEADER_BYTES else block[:MAX_HEADER_BYTES], names)
