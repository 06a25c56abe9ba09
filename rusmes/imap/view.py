"""What a session's client knows of its mailbox, and what it is to be told.

Rules:
1. A sequence number stands for the same message until the client was told of an expunge; while numbers are in use, it is not
   (RFC 9051 §7.5.1).
2. What the client did itself without wanting an answer (STORE .SILENT), and what it was just told, is not told again; unless
   somebody else changed it meanwhile.
3. Commands hold UIDs across an `await`; numbers and rows are looked up when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from rusmes._core import render
from rusmes._core.cursor import Cursor
from rusmes._core.view import MailboxRows, Mask, Uids
from rusmes.errors import PeerError
from rusmes.imap import response
from rusmes.model.query import SequenceSet

if TYPE_CHECKING:
    from rusmes.imap.session import Session

TOLD_AT_ONCE: Final = 2000
"""FETCH responses in one answer of `sync`, 60 octets each; the rest comes with the next call, when these are read."""

_MAX_UID: Final = 0xFFFFFFFF


class NoSuchNumber(PeerError):
    """A sequence number larger than the mailbox (RFC 9051 §9, seq-number: a tagged BAD)."""


class View:
    """One session's view of a mailbox; opened by SELECT, closed with it."""

    __slots__ = ("_keyword_count", "_session", "_unfinished", "cursor", "rows")

    def __init__(self, rows: MailboxRows, session: Session, *, recent_from: int = _MAX_UID) -> None:
        self.rows = rows
        self.cursor = Cursor(rows, recent_from=recent_from)
        self._session = session
        self._keyword_count = len(rows.keyword_names)
        self._unfinished: list[tuple[Uids, int]] = []
        """What is left of earlier changes: UIDs and what is said of them."""

    def close(self) -> None:
        """Nothing is told any more; safe to call twice."""
        self.cursor.detach()

    # Numbers

    @property
    def exists(self) -> int:
        return self.cursor.exists

    def recent_count(self) -> int:
        return self.cursor.recent_count()

    def first_unseen(self) -> int:
        return self.cursor.first_unseen()

    def largest_uid(self) -> int:
        """0 in an empty mailbox."""
        return self.cursor.largest_uid()

    def uid_of(self, number: int) -> int:
        """0: there is no such message."""
        return self.cursor.uid_at(number)

    def number_of(self, uid: int) -> int:
        """0: the client knows no such message."""
        return self.cursor.number_of(uid)

    def has(self, uid: int) -> bool:
        return self.cursor.number_of(uid) != 0

    def select(self, messages: SequenceSet, *, is_uid: bool, saved: Sequence[int] = ()) -> Uids:
        """The UIDs of a set that the client names, ascending; among them may be some whose expunge it does not know of.

        UIDs that are not there are passed over (RFC 9051 §6.4.9).

        Raises:
            NoSuchNumber
        """
        cursor = self.cursor
        if messages.saved:  # RFC 9051 §6.4.4.1: what was expunged since is not in it any more
            return cursor.select_uids([(uid, uid) for uid in saved]) if saved else Uids()
        if is_uid:
            # §9: "*" in an empty mailbox is no UID at all; a range up to it is one of numbers that nobody has.
            return cursor.select_uids(messages.resolve(cursor.largest_uid() or _MAX_UID))
        ranges = messages.resolve(cursor.exists)
        if not ranges or ranges[-1][1] > cursor.exists:
            raise NoSuchNumber("there is no message of this number")
        return cursor.select_numbers(ranges)

    def mask(self) -> Mask:
        """The rows of the messages the client knows."""
        return self.cursor.mask()

    def numbers(self, mask: Mask) -> list[int]:
        return self.cursor.numbers(mask)

    # News

    @property
    def has_news(self) -> bool:
        return bool(self._unfinished) or self.cursor.has_news

    @property
    def is_unfinished(self) -> bool:
        """The last `sync` left something for the next one, because it was a lot."""
        return bool(self._unfinished)

    def sync(self, may_expunge: bool, *, with_flags: bool = True) -> bytes:
        """What the client has to be told, as untagged responses; b"" when there is nothing.

        Without `may_expunge` no EXPUNGE is in it; the messages keep their numbers. Without `with_flags`, changes of flags wait.
        """
        cursor = self.cursor
        if not cursor.has_news:
            cursor.expect_nothing()  # what was changed to what it was already
            return self._told() if self._unfinished else b""
        numbers, expunged, is_grown, changed, expected = cursor.advance(may_expunge, with_flags)
        out: list[bytes] = []
        if numbers:
            out.append(response.vanished(expunged) if self._says_vanished() else response.expunges(numbers))
        if is_grown:
            out.append(response.exists(cursor.exists))
            if not self._is_enabled("IMAP4REV2"):
                out.append(response.recent(cursor.recent_count()))
        if with_flags and len(self.rows.keyword_names) != self._keyword_count:
            self._keyword_count = len(self.rows.keyword_names)
            out.append(response.flags_line(self.rows.keyword_names))
        if len(changed):
            self._unfinished.append((changed, self.flag_items()))
        if len(expected) and self._is_enabled("CONDSTORE"):
            # RFC 7162 §3.1.3: the new modseq is told even when the client does not want to hear of the flags.
            self._unfinished.append((expected, self.head_items() | render.MODSEQ))
        if self._unfinished:
            out.append(self._told())
        return b"".join(out)

    def _told(self) -> bytes:
        left = TOLD_AT_ONCE
        out: list[bytes] = []
        while self._unfinished and left:
            uids, items = self._unfinished.pop(0)
            count = min(left, len(uids))
            # What was expunged since is left out of the answer.
            out.append(render.fetch_responses(self.cursor, uids, 0, count, items)[0])
            if count < len(uids):
                self._unfinished.insert(0, (uids.slice(count, len(uids)), items))
            left -= count
        return b"".join(out)

    def head_items(self) -> int:
        """How a message is named in a FETCH response of ours. RFC 9051 §7.5.2: unsolicited ones have the UID."""
        return render.UIDFETCH if self._is_enabled("UIDONLY") else render.UID

    def flag_items(self) -> int:
        """What is said of a message whose flags changed (RFC 7162 §3.2: with MODSEQ once CONDSTORE is on)."""
        return self.head_items() | render.FLAGS | (render.MODSEQ if self._is_enabled("CONDSTORE") else 0)

    def _is_enabled(self, name: str) -> bool:
        return name in self._session.enabled

    def _says_vanished(self) -> bool:
        """RFC 7162 §3.2.10; RFC 9586 §3.3: nothing with numbers after UIDONLY."""
        return self._is_enabled("QRESYNC") or self._is_enabled("UIDONLY")

    # What the client knows without being told

    def expect(self, uids: Uids, change: Callable[[int, tuple[str, ...]], tuple[int, tuple[str, ...]]]) -> None:
        self.cursor.expect(uids, change)

    def forget_expected(self, uids: Iterable[int]) -> None:
        self.cursor.forget_expected(uids)

    def tell(self, uids: Uids) -> None:
        self.cursor.tell(uids)
