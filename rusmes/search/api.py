"""The contract of searching. All of it works on UIDs, because rows and sequence numbers move while a search waits."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct

from rusmes._core.view import MailboxRows, Mask, Uids
from rusmes.errors import LimitReached
from rusmes.model.query import Query

Ranges = list[tuple[int, int]]


class TooComplex(LimitReached):
    """The query asks for more than one query may (RFC 5530 §3, LIMIT)."""


class Scope(Struct):
    """A mailbox as somebody sees it.

    `known` are the rows that may be found; None: all messages. The functions about sequence numbers are None where there are
    none (several mailboxes, JMAP): a query that has them finds nothing by them.
    """

    rows: MailboxRows
    known: Mask | None = None
    largest_uid: int = 0
    """What "*" stands for."""
    largest_number: int = 0
    by_numbers: Callable[[Ranges], Mask] | None = None
    recent: Callable[[], Mask] | None = None
    saved: Sequence[int] = ()
    """UIDs that "$" stands for (RFC 9051 §6.4.4.1)."""


class Threads(Struct):
    """Messages in threads: each before its answers, which are `counts` many; UID 0 for one that is not there, or not found
    (RFC 5256 §5, thread-members). Four octets a number."""

    uids: array[int]
    counts: array[int]


Progress = Callable[[int, int], Awaitable[None]]
"""Awaited with (messages looked at, messages to look at) between slices of a long search (RFC 9585)."""


class Searcher(Protocol):
    async def search(self, scope: Scope, query: Query, *, progress: Progress | None = None) -> Uids:
        """The messages that the query describes, ascending.

        Raises:
            TooComplex: before anything was read.
            StoreError
        """

    async def sort(self, scope: Scope, uids: Uids, criteria: Sequence[tuple[str, bool]]) -> list[int]:
        """The UIDs in the order of the criteria, (key of RFC 5256 §5 in capitals, whether reversed); those that were expunged
        meanwhile are left out."""

    async def thread(self, scope: Scope, uids: Uids, algorithm: str) -> Threads:
        """The messages in threads: `algorithm` is ORDEREDSUBJECT or REFERENCES."""
