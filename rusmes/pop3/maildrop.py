"""The snapshot of an INBOX that one session sees (RFC 1939 §4)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

from rusmes.model.mailbox import Message
from rusmes.pop3.limits import LISTING_ROWS


class Maildrop:
    """Messages by number, from 1. Twelve octets a message; nothing is read of them until it is asked for.

    A unique id is UIDVALIDITY and UID: it never changes and is never used again (RFC 1939 §7, RFC 9051 §2.3.1.1).
    """

    __slots__ = ("_sizes", "_total", "_uids", "deleted", "mailbox_id", "uid_validity")

    def __init__(self, mailbox_id: int, uid_validity: int, messages: Sequence[Message]) -> None:
        self.mailbox_id = mailbox_id
        self.uid_validity = uid_validity
        self._uids = array("I", [message.uid for message in messages])
        self._sizes = array("Q", [message.size for message in messages])
        self._total = sum(self._sizes)
        self.deleted: set[int] = set()
        """Numbers marked by DELE."""

    @property
    def count(self) -> int:
        """Messages not marked as deleted."""
        return len(self._uids) - len(self.deleted)

    @property
    def octets(self) -> int:
        return self._total - sum(self._sizes[number - 1] for number in self.deleted)

    def has(self, number: int) -> bool:
        return 0 < number <= len(self._uids) and number not in self.deleted

    def uid(self, number: int) -> int:
        return self._uids[number - 1]

    def size(self, number: int) -> int:
        return self._sizes[number - 1]

    def unique_id(self, number: int) -> str:
        return f"{self.uid_validity:08x}{self._uids[number - 1]:08x}"

    def following(self, number: int, count: int, octets: int) -> list[int]:
        """The numbers from `number` on that are there, at most so many with at most so many octets together."""
        numbers = []
        for candidate in range(number, min(number + count, len(self._uids) + 1)):
            octets -= self._sizes[candidate - 1]
            if octets < 0:
                break
            if candidate not in self.deleted:
                numbers.append(candidate)
        return numbers

    def deleted_uids(self) -> list[int]:
        return sorted(self._uids[number - 1] for number in self.deleted)

    def sizes(self) -> Iterator[bytes]:
        """The rows of LIST, some thousand at a time."""
        return self._rows(lambda number: f"{number} {self._sizes[number - 1]}\r\n")

    def unique_ids(self) -> Iterator[bytes]:
        """The rows of UIDL."""
        prefix = f"{self.uid_validity:08x}"
        return self._rows(lambda number: f"{number} {prefix}{self._uids[number - 1]:08x}\r\n")

    def _rows(self, row: Callable[[int], str]) -> Iterator[bytes]:
        last = len(self._uids)
        for first in range(1, last + 1, LISTING_ROWS):
            numbers = range(first, min(first + LISTING_ROWS, last + 1))
            yield "".join(row(number) for number in numbers if number not in self.deleted).encode()
