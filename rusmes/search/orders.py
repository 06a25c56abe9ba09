"""Orders of whole mailboxes, and threads, that were asked for before: clients ask again with every look at a mailbox.

What messages are sorted by never changes, and UIDs are never given twice; so an order stays right, but for messages that came
and went. Four octets a message; what was not asked for longest goes first.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from rusmes.search.api import Threads

MAX_MESSAGES: Final = 1_000_000
"""In all orders and threads together: 4 to 12 MB."""

Criteria = tuple[tuple[str, bool], ...]


class Order(Struct):
    uids: array[int]
    largest_uid: int
    """Newer ones are not in it."""

    def __len__(self) -> int:
        return len(self.uids)


class KnownThreads(Struct):
    """The answer for exactly these messages."""

    uids: bytes
    threads: Threads

    def __len__(self) -> int:
        return 3 * len(self.threads.uids)


Key = tuple[int, object]
"""A mailbox's id, and what was asked."""


class Orders:
    """All that is kept."""

    def __init__(self, max_messages: int = MAX_MESSAGES) -> None:
        self._kept: OrderedDict[Key, Order | KnownThreads] = OrderedDict()
        self._max = max_messages
        self.messages = 0

    def order(self, mailbox_id: int, criteria: Criteria) -> Order | None:
        found = self._find((mailbox_id, criteria))
        return found if isinstance(found, Order) else None

    def threads(self, mailbox_id: int, algorithm: str, uids: bytes) -> Threads | None:
        found = self._find((mailbox_id, algorithm))
        return found.threads if isinstance(found, KnownThreads) and found.uids == uids else None

    def _find(self, key: Key) -> Order | KnownThreads | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep_order(self, mailbox_id: int, criteria: Criteria, order: Order) -> None:
        self._keep((mailbox_id, criteria), order)

    def keep_threads(self, mailbox_id: int, algorithm: str, uids: bytes, threads: Threads) -> None:
        self._keep((mailbox_id, algorithm), KnownThreads(uids, threads))

    def _keep(self, key: Key, found: Order | KnownThreads) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self.messages -= len(old)
        if len(found) > self._max:
            return
        self._kept[key] = found
        self.messages += len(found)
        while self.messages > self._max:
            _, oldest = self._kept.popitem(last=False)
            self.messages -= len(oldest)


def packed(uids: Sequence[int]) -> bytes:
    return array("I", uids).tobytes()
