"""Header blocks as (name, value) pairs (RFC 5322 §2.2)."""

from __future__ import annotations

from typing import Final

from rusmes._core import mime
from rusmes._core.mime import FieldNames
from rusmes._core.quoting import unfold

__all__ = ["CACHED_NAMES", "MAX_HEADER_BYTES", "FieldNames", "parse_fields", "pick_fields", "unfold"]

# What is over this of a header block is not looked at: no mail in practice has it, and nobody shall make us parse it.
MAX_HEADER_BYTES: Final = 256 * 1024

# What JMAP lists and IMAP's SEARCH and SORT look at (RFC 8621 §4.1.2, RFC 9051 §6.4.4, RFC 5256): the store keeps these fields
# of each email at hand.
CACHED_NAMES: Final = frozenset(
    b"date subject from sender reply-to to cc bcc message-id in-reply-to references content-type list-id list-unsubscribe "
    b"importance x-priority auto-submitted".split()
)


def parse_fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields in order: the name in lower case, the value with its folds and outer blanks as they are."""
    return mime.parse_fields(block if len(block) <= MAX_HEADER_BYTES else block[:MAX_HEADER_BYTES])


def pick_fields(block: bytes, names: FieldNames) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The named fields, and their lines as they were received, with CRLF at the end of each."""
    return mime.pick_fields(block if len(block) <= MAX_HEADER_BYTES else block[:MAX_HEADER_BYTES], names)
