"""The messages of a mailbox as packed columns, shared by all sessions of a worker, and what each session knows of them.

`MailboxRows` has a row for each message, in UID order: 39 octets. An expunged row stays as a tombstone until every `Cursor` has
told its client (its sequence numbers count it until then); then rows are compacted. So an index of a row, and a `Mask`, is good
until the next `await` only. What lives longer holds UIDs (`Uids`).

Flags are system bits (by place in `storage.flags.SYSTEM_FLAGS`) and keywords.
"""

from collections.abc import Iterable, Iterator
from typing import final

from typing_extensions import disjoint_base

@final
class Uids:
    """UIDs, packed; ascending wherever this module makes them."""

    def __new__(cls, uids: Iterable[int] = ()) -> Uids: ...
    def __len__(self) -> int: ...
    def __getitem__(self, at: int, /) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def __contains__(self, uid: int, /) -> bool:
        """Only for ascending UIDs."""

    def ordered(self, order: Iterable[int]) -> list[int]:
        """Those that are in `order`, as they stand there. Only for ascending UIDs."""

    def list(self, start: int = 0, stop: int = -1) -> list[int]: ...
    def without(self, other: Uids) -> Uids:
        """Both ascending."""

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

@disjoint_base
class Watcher:
    """For `cursor.Cursor`: until when tombstones have to stay."""

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
