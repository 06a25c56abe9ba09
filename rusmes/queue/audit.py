"""What operators did to the queue: who, what, to what, how much. Kept in the ledger for a season, so that it survives restarts
and log rotation, and is written by the command line on a stopped server too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from rusmes.clock import Clock
from rusmes.log import get_logger
from rusmes.model.ids import IdSource
from rusmes.queue.api import QueueFilter, QueueOrder, QueueResult
from rusmes.storage.api import Ledger

TABLE: Final = "audit"
KEPT_SECONDS: Final = 90 * 86400.0
MAX_TEXT_CHARS: Final = 500
MAX_IDS_SHOWN: Final = 20

_log = get_logger("audit")


class Deed(Struct, frozen=True):
    """One operation that was carried out. `what` are its details: the filter, a reason, a route, a name and a time."""

    time: float
    by: str
    operation: str
    what: dict[str, Any]
    entries: int = 0
    recipients: int = 0


_decoder: Final = msgspec.json.Decoder(Deed)


class AuditTrail:
    """Appends and reads deeds."""

    def __init__(self, ledger: Ledger, clock: Clock, ids: IdSource | None = None) -> None:
        self._ledger = ledger
        self._clock = clock
        self._ids = ids or IdSource()

    def add(self, operation: str, by: str, what: dict[str, Any], *, entries: int = 0, recipients: int = 0) -> None:
        """Into the ledger and the log."""
        now = self._clock.now()
        deed = Deed(now, by[:MAX_TEXT_CHARS], operation, what, entries, recipients)
        # The id is for the order and for being unique; its time is the machine's.
        self._ledger.put(TABLE, self._ids.next_id(), msgspec.json.encode(deed), expires=now + KEPT_SECONDS)
        text = msgspec.json.encode(what).decode()
        _log.info("queue operation", operation=operation, by=by, what=text, entries=entries, recipients=recipients)

    def last(self, limit: int = 0) -> Sequence[Deed]:
        """The latest deeds, newest first; at most `limit` (0 = all)."""
        rows = [value for _, value in self._ledger.items(TABLE)]
        deeds = []
        for value in reversed(rows[-limit:] if limit else rows):
            try:
                deeds.append(_decoder.decode(value))
            except msgspec.MsgspecError as error:
                _log.error("a record of the audit trail cannot be read", error=str(error))
        return deeds


def what_of(order: QueueOrder) -> dict[str, Any]:
    """An order's details as they are kept."""
    what: dict[str, Any] = {"filter": filter_document(order.which)}
    if order.reason:
        what["reason"] = order.reason[:MAX_TEXT_CHARS]
    if order.operation == "reroute":
        what["route"] = order.route[:MAX_TEXT_CHARS]
    return what


def filter_document(which: QueueFilter) -> dict[str, Any]:
    """What is set in a filter; of many ids, how many."""
    default = QueueFilter()
    found = {name: value for name, value in structs.asdict(which).items() if value != getattr(default, name)}
    if len(which.ids) > MAX_IDS_SHOWN:
        found["ids"] = [*which.ids[:MAX_IDS_SHOWN], f"... {len(which.ids)} in all"]
    return found


def audit_order(trail: AuditTrail, order: QueueOrder, result: QueueResult) -> None:
    """Keep what an order did; a dry run did nothing."""
    if not order.dry_run:
        trail.add(order.operation, order.by, what_of(order), entries=result.entries, recipients=result.recipients)
