"""FETCH responses, many at a time, from the columns of a mailbox and the emails' stored forms (RFC 9051 §7.5.2).

What is to be rendered is a sum of these numbers:
"""

from collections.abc import Iterable, Sequence
from typing import Final, final

from rusmes._core.cursor import Cursor
from rusmes._core.rows import EmailFacts
from rusmes._core.view import Uids

UID: Final[int]
FLAGS: Final[int]
INTERNALDATE: Final[int]
SIZE: Final[int]
"""RFC822.SIZE"""
MODSEQ: Final[int]
EMAILID: Final[int]
THREADID: Final[int]
ENVELOPE: Final[int]
BODYSTRUCTURE: Final[int]
BODY: Final[int]
"""BODYSTRUCTURE without extension data"""
UIDFETCH: Final[int]
"""The response has the UID instead of the sequence number (RFC 9586 §3.3)"""
FACTS: Final[int]
"""All those that need facts"""

@final
class HeaderPick:
    """Header fields that the store keeps of an email, as one item: `heading` ("BODY[HEADER.FIELDS (TO)] ") and a literal.

    Raises:
        ValueError: a name (in lower case) is empty, or there are more than 32.
    """

    def __new__(cls, heading: bytes, names: Iterable[bytes]) -> HeaderPick: ...

def have_headers(facts: list[EmailFacts | None]) -> bool:
    """Whether the store has fields of each of these emails; without any there were too many, or none."""

def fetch_responses(
    cursor: Cursor,
    uids: Uids,
    start: int,
    stop: int,
    items: int,
    facts: list[EmailFacts | None] | None = None,
    more: Sequence[bytes | tuple[bytes, ...] | None] | None = None,
    picks: tuple[HeaderPick, ...] = (),
) -> tuple[bytes, int]:
    """The responses for `uids[start:stop]`, and how many messages were left out: those the client does not know, and those
    whose facts or `more` are None.

    `facts` and `more` have an element for each of these messages; `more` is sent as it is, behind the items, a tuple piece by
    piece. `picks` are of the fields in the facts.

    Raises:
        IndexError
        ValueError: the lists are not as long as they should be, or a stored structure is broken.
    """

def numbers(found: Uids, start: int, stop: int) -> bytes:
    """The numbers `found[start:stop]`, a blank before each. Raises IndexError."""

def body_of(structure: bytes) -> bytes:
    """BODY of a BODYSTRUCTURE. Raises ValueError."""

def internal_date(seconds: int) -> bytes:
    """A date-time in quotes, in UTC; years from 0 to 9999."""
