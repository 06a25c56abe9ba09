"""The messages of a mailbox as packed columns, shared by all sessions of a worker, and what each session knows of them.

`MailboxRows` has a row for each message, in UID order: 39 octets. An expunged row stays as a tombstone until every `Cursor` has
told its client (its sequence numbers count it until then); then rows are compacted. So an index of a row, and a `Mask`, is good
until the next `await` only. What lives longer holds UIDs (`Uids`).

Flags are system bits (by place in `storage.flags.SYSTEM_FLAGS`) and keywords.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import final

@final
class Uids:
    """UIDs, packed; ascending wherever this module makes them."""

    def __new__(cls, uids: Iterable[int] = ()) -> Uids: ...
    def __len__(self) -> int: ...
    def __getitem__(self, at: int, /) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def __contains__(self, uid: int, /) -> bool:
        """Only for ascending UIDs."""

    def list(self, start: int = 0, stop: int = -1) -> list[int]: ...
    def slice(self, start: int, stop: int) -> Uids:
        """Raises IndexError."""

@final
class Mask:
    """A yes or no for each row: the answer to a question, to be joined with others by `&`, `|` and `~`."""

    @property
    def rows(self) -> MailboxRows: ...
    @property
    def size(self) -> int: ...
    def __new__(cls, rows: MailboxRows, value: int = 0) -> Mask: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool:
        """Whether any row is in it."""

    def __getitem__(self, row: int, /) -> bool: ...
    def __setitem__(self, row: int, value: bool, /) -> None: ...
    def __and__(self, other: Mask, /) -> Mask: ...
    def __or__(self, other: Mask, /) -> Mask: ...
    def __rand__(self, other: Mask, /) -> Mask: ...
    def __ror__(self, other: Mask, /) -> Mask: ...
    def __invert__(self) -> Mask: ...
    def count(self) -> int: ...
    def row_list(self) -> list[int]:
        """The rows in it, ascending."""

    def octets(self, row_list: list[int]) -> bytes:
        """What it says of some rows: 0 or 1 for each."""

    def uids(self) -> Uids: ...

@final
class MailboxRows:
    """One mailbox. `modseq`: every change up to this modification sequence of the account is applied; who loads and refreshes
    sets it, and `uid_next`. Rows may be changed ahead of it: an older change that comes later alters nothing."""

    account_id: int
    modseq: int
    uid_next: int
    uid_validity: int
    @property
    def mailbox_id(self) -> int: ...
    @property
    def size(self) -> int:
        """Rows, with tombstones."""

    @property
    def dead(self) -> int:
        """Tombstones."""

    @property
    def exists(self) -> int:
        """Messages."""

    @property
    def version(self) -> int:
        """Changes with every change; while it does not, rows and masks stay good."""

    @property
    def updates(self) -> int:
        """Changes of flags so far."""

    @property
    def expunges(self) -> int:
        """Expunges so far."""

    @property
    def nbytes(self) -> int:
        """Memory of the columns."""

    @property
    def keyword_names(self) -> tuple[str, ...]:
        """Every keyword seen here, in its first spelling, in order of appearance."""

    @property
    def watcher_count(self) -> int:
        """Cursors that are attached."""

    def __new__(cls, mailbox_id: int = 0, *, account_id: int = 0, uid_validity: int = 0) -> MailboxRows: ...
    def __len__(self) -> int:
        """Messages, without tombstones."""

    def reserve(self, count: int) -> None:
        """Make room for `count` rows at once."""

    def add(
        self,
        uid: int,
        modseq: int,
        email_id: bytes,
        internal_date: float,
        size: int,
        bits: int,
        keywords: tuple[str, ...] = (),
    ) -> None:
        """A message; one that is there already is updated.

        Raises:
            ValueError: the UID is below the last one and not there.
        """

    def update(self, uid: int, modseq: int, bits: int, keywords: tuple[str, ...] = ()) -> bool:
        """Its flags are these now. False: it is not there, or what is known is as new."""

    def expunge(self, uid: int, modseq: int) -> bool:
        """It is gone. False: it is not there."""

    def become(self, fresh: MailboxRows, modseq: int) -> None:
        """Do what makes these rows the same as `fresh`, which was loaded anew: add, update, and expunge at `modseq`."""

    # One row

    def row_of(self, uid: int) -> int:
        """-1: there is no such message, or it is expunged."""

    def uid(self, row: int) -> int: ...
    def modseq_of(self, row: int) -> int: ...
    def email_id(self, row: int) -> bytes: ...
    def internal_date(self, row: int) -> int:
        """Seconds since the epoch."""

    def message_size(self, row: int) -> int: ...
    def system_bits(self, row: int) -> int: ...
    def keywords(self, row: int) -> tuple[str, ...]: ...
    def is_expunged(self, row: int) -> bool: ...
    def email_ids(self, row_list: list[int]) -> list[bytes]: ...
    def uids_of(self, row_list: list[int]) -> list[int]: ...

    # All rows; tombstones are in the answers like others

    def count(self, *, which: int = 0, want: int = 0) -> int:
        """Messages (no tombstones) whose system bits under the mask `which` are exactly `want`: all, unseen (1, 0), ..."""

    def total_size(self) -> int:
        """Octets of all messages (no tombstones)."""

    def mask_live(self) -> Mask:
        """Rows that are no tombstones."""

    def mask_flags(self, which: int, want: int) -> Mask: ...
    def mask_keyword(self, keyword: str) -> Mask: ...
    def mask_sizes(self, *, above: int = -1, below: int = 0x7FFFFFFFFFFFFFFF) -> Mask:
        """Size > `above` and < `below`."""

    def mask_dates(self, *, since: float = -1e18, before: float = 1e18) -> Mask:
        """Internal date >= `since` and < `before`, seconds since the epoch."""

    def mask_modseq(self, modseq: int) -> Mask:
        """Modification sequence >= this one."""

    def mask_uids(self, ranges: list[tuple[int, int]]) -> Mask:
        """Ranges from low to high, both in it (`SequenceSet.resolve`)."""

    def mask_rows(self, row_list: list[int]) -> Mask: ...
    def mask_email(self, email_id: bytes) -> Mask: ...

@final
class Cursor:
    """What one session knows of the rows: which its client was told of, and which expunges. Attached until `detach`."""

    recent_from: int
    """Messages from this UID on are \\Recent for this session."""
    @property
    def rows(self) -> MailboxRows: ...
    @property
    def exists(self) -> int:
        """Messages as the client counts them: its largest sequence number."""

    @property
    def has_news(self) -> bool:
        """Whether `advance(True)` would find something."""

    def __new__(cls, rows: MailboxRows, *, recent_from: int = 0xFFFFFFFF) -> Cursor:
        """All rows are known, no expunge is pending: what SELECT says."""

    def detach(self) -> None:
        """The session does not look any more; safe to call twice."""

    def advance(self, may_expunge: bool) -> tuple[list[int], Uids, bool, Uids, Uids]:
        """From now on the client knows everything (but, without `may_expunge`, no expunge): sequence numbers that are
        expunged, the highest first; their UIDs, ascending; whether messages came, so that EXISTS is due; UIDs of those whose
        flags changed; and of those whose flags are as expected, while their modseq was not told."""

    def pending(self) -> Uids:
        """UIDs of messages whose flags changed since the client was told."""

    def expect(self, uids: Uids, change: Callable[[int, tuple[str, ...]], tuple[int, tuple[str, ...]]]) -> None:
        """The client changes these flags itself and knows what comes of it (`change`: bits and keywords to those after it),
        unless somebody else changed them meanwhile: then it will be told."""

    def tell(self, uids: Uids) -> None:
        """The client was just told flags and modseq of these messages, as they are in the rows now."""

    def forget_expected(self, uids: Iterable[int]) -> None:
        """What was expected of these did not happen."""

    # Numbers and UIDs; only of messages the client knows

    def number_of(self, uid: int) -> int:
        """Sequence number, 0 for a message the client does not know."""

    def uid_at(self, number: int) -> int:
        """UID, 0 without such a message."""

    def largest_uid(self) -> int:
        """What "*" stands for among UIDs; 0 in an empty mailbox."""

    def number_list(self, uids: Uids) -> list[int]:
        """Sequence numbers of those of `uids` that the client knows, ascending."""

    def select_uids(self, ranges: list[tuple[int, int]]) -> Uids:
        """The messages with UIDs in the ranges, expunged ones that the client does not know to be it included."""

    def select_numbers(self, ranges: list[tuple[int, int]]) -> Uids:
        """The UIDs of the sequence numbers in the ranges."""

    def email_ids(self, uids: Uids, start: int, stop: int) -> list[bytes]:
        """The ids of the emails of `uids[start:stop]`; zeros for a message that is not there.

        Raises:
            IndexError
        """

    def mask(self) -> Mask:
        """The rows the client knows, expunged ones that it does not know to be it included."""

    def mask_numbers(self, ranges: list[tuple[int, int]]) -> Mask: ...
    def mask_recent(self) -> Mask: ...
    def numbers(self, mask: Mask) -> list[int]:
        """Sequence numbers of the rows in `mask` that the client knows.

        Raises:
            ValueError: the rows are not those of the mask any more.
        """

    def first_unseen(self) -> int:
        """The sequence number of the first message without \\Seen, 0 without one."""

    def recent_count(self) -> int: ...
