"""Who wants to know of changes: listeners of this process, called after the commit."""

from __future__ import annotations

from collections.abc import Iterable

from rusmes.storage.api import ChangeListener


class ChangeNotices:
    """Keeps the listeners of one store. A listener must not raise and must not block: it runs on the loop's thread."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: list[ChangeListener] = []

    def add(self, listener: ChangeListener) -> None:
        self._listeners.append(listener)

    def tell(self, changes: Iterable[tuple[int, int]]) -> None:
        """Report (account id, modseq) pairs."""
        if not self._listeners:
            return
        for account_id, modseq in changes:
            for listener in self._listeners:
                listener(account_id, modseq)
