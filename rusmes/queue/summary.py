"""The queue in a table, as Postfix's qshape shows it: names down, ages across, recipients in the cells.

It is added up while the queue is read, so its memory depends on the number of names only, and that has a limit: what is
beyond it is counted together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct, field

from rusmes.errors import NotAllowed
from rusmes.model.plan import Queued
from rusmes.queue.api import campaign_of, tenant_of
from rusmes.queue.selection import Places
from rusmes.storage.api import QueueEntry, RecipientState

AGES_MINUTES: Final = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""Ends of the columns but the last; each twice the one before it (qshape -b 10 -t 5)."""
MAX_NAMES: Final = 50_000
"""300 bytes each."""
MAX_NAME_CHARS: Final = 200
OTHERS: Final = "(others)"
_AGES_SECONDS: Final = tuple(minutes * 60 for minutes in AGES_MINUTES)


class Row(Struct, eq=False):
    """One name. `counts` are recipients by age."""

    name: str
    counts: list[int] = field(default_factory=lambda: [0] * (len(AGES_MINUTES) + 1))
    recipients: int = 0
    entries: int = 0
    size_bytes: int = 0
    """Of the entries; one that has recipients under several names counts for each."""
    oldest: float = float("inf")
    """When it was accepted, seconds since the epoch."""

    def add(self, other: Row) -> None:
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.recipients += other.recipients
        self.entries += other.entries
        self.size_bytes += other.size_bytes
        self.oldest = min(self.oldest, other.oldest)


NameOf = Callable[[Queued, RecipientState], str]


class Summary:
    """Collects rows. `by` is one of `KEYS`."""

    def __init__(self, by: str, now: float, places: Places | None = None) -> None:
        """Raises NotAllowed."""
        if by not in KEYS:
            raise NotAllowed(f'there is no summary by "{by}"', f"by {', '.join(KEYS)}")
        self.by = by
        self.needs_places = by in ("site", "source")
        self._name_of = KEYS[by]
        self._places = places
        self._now = now
        self.rows: dict[str, Row] = {}
        self.total = Row("TOTAL")

    def add(self, entry: QueueEntry, indexes: Sequence[int]) -> None:
        """Count these recipients of an entry."""
        item = entry.item
        column = bisect_right(_AGES_SECONDS, self._now - item.created)
        seen: dict[str, Row] = {}
        for index in indexes:
            row = self._row(self._name(item, entry.states[index]))
            row.counts[column] += 1
            row.recipients += 1
            seen[row.name] = row
        self.total.counts[column] += len(indexes)
        self.total.recipients += len(indexes)
        for row in (*seen.values(), self.total):
            row.entries += 1
            row.size_bytes += item.rendering.size
            row.oldest = min(row.oldest, item.created)

    def _name(self, item: Queued, state: RecipientState) -> str:
        if not self.needs_places:
            return self._name_of(item, state)
        assert self._places is not None
        site, source = self._places.of(item, state) or ("", "")
        # What takes no mail, or is no matter of other servers, has no site; the domain says more than nothing.
        return source if self.by == "source" else site or state.recipient.address.domain

    @classmethod
    def of_rows(cls, by: str) -> Summary:
        """One that only joins others. Raises NotAllowed."""
        return cls(by, 0.0)

    def _row(self, name: str) -> Row:
        name = name[:MAX_NAME_CHARS]
        row = self.rows.get(name)
        if row is None:
            if len(self.rows) >= MAX_NAMES:
                name = OTHERS
                if name in self.rows:
                    return self.rows[name]
            row = self.rows[name] = Row(name)
        return row

    def add_rows(self, rows: Iterable[Row], total: Row) -> None:
        """Join the summary of another queue."""
        for row in rows:
            self._row(row.name).add(row)
        self.total.add(total)

    def top(self, limit: int = 0) -> list[Row]:
        """The rows with most recipients first; at most `limit` (0 = all)."""
        rows = sorted(self.rows.values(), key=lambda row: (-row.recipients, row.name))
        return rows[:limit] if limit else rows

    def document(self, limit: int = 0) -> dict[str, Any]:
        """For programs: `ages` are the ends of the columns in minutes."""
        rows = self.top(limit)
        return {
            "by": self.by,
            "ages": AGES_MINUTES,
            "rows": [_row_document(row) for row in rows],
            "total": _row_document(self.total),
            "more": len(self.rows) - len(rows),
        }


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "recipients": row.recipients,
        "entries": row.entries,
        "size_bytes": row.size_bytes,
        "oldest": row.oldest if row.recipients else 0.0,
        "counts": row.counts,
    }


def _status(item: Queued, state: RecipientState) -> str:
    return "held" if item.action == "hold" else state.status


def _sender_domain(item: Queued, _state: RecipientState) -> str:
    return item.sender.domain if item.sender is not None else "<>"


def _reply(item: Queued, state: RecipientState) -> str:
    """Replies differ in ids and addresses towards their ends; what is to be known is at their beginning."""
    return " ".join((state.last_reply or item.reason).split()[:8])


KEYS: Final[dict[str, NameOf]] = {
    "domain": lambda _item, state: state.recipient.address.domain,
    "site": lambda _item, _state: "",
    "source": lambda _item, _state: "",
    "tenant": lambda item, _state: tenant_of(item),
    "campaign": lambda item, _state: campaign_of(item),
    "sender": _sender_domain,
    "account": lambda item, _state: item.origin.account,
    "client": lambda item, _state: item.origin.client_address,
    "status": _status,
    "reply": _reply,
}
