"""What is looked for in mailboxes: a tree that IMAP SEARCH (RFC 9051 §6.4.4) and JMAP filters (RFC 8621 §4.4.1) both become."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

STAR: Final = 0
"""The largest number in use, as an end of a range."""


class SequenceSet(Struct, frozen=True):
    """Ranges as they were written, `STAR` for "*"; `saved` is "$" (RFC 9051 §6.4.4.1), and has no ranges."""

    ranges: tuple[tuple[int, int], ...] = ()
    saved: bool = False

    def resolve(self, largest: int) -> list[tuple[int, int]]:
        """Disjoint ranges in ascending order, each from low to high; "*" is `largest`. RFC 9051 §9: "*:4" is "4:*"."""
        ends = sorted(
            (min(a, b), max(a, b)) for a, b in ((first or largest, last or largest) for first, last in self.ranges) if a and b
        )
        joined: list[tuple[int, int]] = []
        for low, high in ends:
            if joined and low <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(joined[-1][1], high))
            else:
                joined.append((low, high))
        return joined


class Query(Struct, frozen=True):
    """One node. Texts are Unicode and compared without case (i;unicode-casemap, RFC 5051)."""


class Everything(Query, frozen=True): ...


class And(Query, frozen=True):
    parts: tuple[Query, ...]


class Or(Query, frozen=True):
    parts: tuple[Query, ...]


class Not(Query, frozen=True):
    part: Query


class Numbers(Query, frozen=True):
    """Sequence numbers."""

    set: SequenceSet


class Uids(Query, frozen=True):
    set: SequenceSet


class HasFlag(Query, frozen=True):
    """A system flag in the RFC's spelling, a keyword, or \\Recent."""

    flag: str


class HeaderContains(Query, frozen=True):
    """Empty text: the field is there."""

    name: str
    text: str


class TextContains(Query, frozen=True):
    """In header or body (decoded)."""

    text: str


class BodyContains(Query, frozen=True):
    text: str


class SizeAbove(Query, frozen=True):
    size: int


class SizeBelow(Query, frozen=True):
    size: int


class DateIs(Query, frozen=True):
    """A comparison of a date, without its time and zone."""

    field: str
    """internal | sent | saved."""
    relation: str
    """before | on | since."""
    day: int
    """Proleptic ordinal of the day (`datetime.date.toordinal`)."""


class YoungerThan(Query, frozen=True):
    """WITHIN (RFC 5032)."""

    seconds: int


class OlderThan(Query, frozen=True):
    seconds: int


class ModifiedSince(Query, frozen=True):
    """RFC 7162 §3.1.5: modseq >= this one."""

    modseq: int


class EmailIdIs(Query, frozen=True):
    id: str


class ThreadIdIs(Query, frozen=True):
    id: str


class SaveDateSupported(Query, frozen=True): ...


class Fuzzy(Query, frozen=True):
    """RFC 6203."""

    part: Query
