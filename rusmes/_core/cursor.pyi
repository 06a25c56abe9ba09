"""What one session knows of the columns of its mailbox (`view.MailboxRows`): sequence numbers, and what is news."""

from collections.abc import Callable, Iterable
from typing import final

from rusmes._core.view import MailboxRows, Mask, Uids, Watcher

@final
class Cursor(Watcher):
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

    def advance(self, may_expunge: bool, with_flags: bool = True) -> tuple[list[int], Uids, bool, Uids, Uids]:
        """From now on the client knows everything (but, without `may_expunge`, no expunge, and without `with_flags`, no
        changes of flags: those of now are told one day, if the message is there still): sequence numbers that are
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

    def expect_nothing(self) -> None:
        """Forget what `expect` and `tell` said: what came of it is in the rows, and was no news. `advance` does it too."""

    # Numbers and UIDs; only of messages the client knows

    def number_of(self, uid: int) -> int:
        """Sequence number, 0 for a message the client does not know."""

    def uid_at(self, number: int) -> int:
        """UID, 0 without such a message."""

    def largest_uid(self) -> int:
        """What "*" stands for among UIDs; 0 in an empty mailbox."""

    def numbers_of(self, uids: Uids) -> Uids:
        """Sequence numbers of those of `uids` that the client knows, in their order."""

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
