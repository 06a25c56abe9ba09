"""Message identifiers of a header, for threads (RFC 5322 §3.6.4)."""

from __future__ import annotations

from typing import Final

from rusmes._core import mime

# RFC 5322 §3.6.4 advises to keep References; real threads longer than this are joined by their youngest members.
MAX_IDENTIFIERS: Final = 40


def message_ids(fields: list[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """The mail's own id, then what it answers to, then its references, the youngest first; without repetitions."""
    return mime.message_ids(fields, MAX_IDENTIFIERS)
