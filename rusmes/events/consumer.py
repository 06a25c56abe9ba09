"""Who takes events from the log, as `shipping` sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rusmes.events.tail import Line


class NotTaken(Exception):
    """The consumer did not take a batch. `retry_after` is what it asked for, seconds; 0 = nothing."""

    def __init__(self, reason: str, retry_after: float = 0.0, *, is_too_large: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
        self.is_too_large = is_too_large


class Consumer(Protocol):
    """Who takes events."""

    @property
    def kind(self) -> str:
        """webhook | file: the label of the metrics."""

    async def take(self, lines: Sequence[Line]) -> None:
        """Raises NotTaken: none of them counts as taken, though some may have arrived."""

    async def close(self) -> None: ...
