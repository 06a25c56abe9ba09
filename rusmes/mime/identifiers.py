"""Message identifiers of a header, for threads (RFC 5322 §3.6.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rusmes._core.mime import identifiers

# RFC 5322 §3.6.4 advises to keep References; real threads longer than this are joined by their youngest members.
MAX_IDENTIFIERS: Final = 40


def message_ids(fields: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """The mail's own id, then what it answers to, then its references, the youngest first; without repetitions."""
    own: list[bytes] = []
    parents: list[bytes] = []
    references: list[bytes] = []
    for name, value in fields:
        if name == b"message-id":
            own += identifiers(value)[:1]
        elif name == b"in-reply-to":
            parents += identifiers(value)
        elif name == b"references":
            references += identifiers(value)
    return tuple(dict.fromkeys(own + parents + references[::-1]))[:MAX_IDENTIFIERS]
