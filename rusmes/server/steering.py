"""The queue operations of one worker: what the supervisor asks of it over their channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from rusmes.errors import NotAllowed
from rusmes.model.ids import parse_id
from rusmes.queue.api import FOREVER, QueueFilter, QueueOrder, QueueResult, campaign_of, tenant_of
from rusmes.queue.document import entry_document, suspension_document
from rusmes.queue.summary import Row, Summary
from rusmes.server.build import House
from rusmes.server.channel import Handler
from rusmes.storage.api import QueueEntry

MAX_SUMMARY_ROWS: Final = 50_000


class Steering:
    """Handlers for `server.channel`, over all queues of a worker."""

    def __init__(self, house: Callable[[], House]) -> None:
        self._house = house

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "queue.list": self._list,
            "queue.show": self._show,
            "queue.summary": self._summary,
            "queue.order": self._order,
            "queue.suspend": self._suspend,
            "queue.resume": self._resume,
            "queue.suspensions": self._suspensions,
            "queue.look": self._look,
            "queue.audit": self._audit,
            "queue.deed": self._deed,
        }

    # Looking

    async def _list(self, which: dict[str, Any], limit: int, after: str) -> list[dict[str, Any]]:
        asked = _filter(which)
        found: list[QueueEntry] = []
        for engine in self._house().engines:
            found += await engine.control.list(asked, limit=limit, after=after)
        found.sort(key=lambda entry: entry.item.id)
        return [entry_document(entry) for entry in (found[:limit] if limit else found)]

    async def _show(self, id: str) -> dict[str, Any] | None:
        """The entry with all that is known of it; None: it is not here."""
        house = self._house()
        for engine in house.engines:
            entry = await engine.store.get(parse_id(id))
            if entry is None:
                continue
            document = entry_document(entry)
            places = await engine.control.places(entry)
            for recipient, state, (site, source) in zip(document["recipients"], entry.states, places, strict=True):
                recipient["site"], recipient["source"] = site, source
                is_relayed = entry.item.action == "relay"
                recipient["tls"] = house.deliverer.tls_of(entry.item, state.recipient) if is_relayed else ""
                recipient["egress"] = house.deliverer.egress_obstacle(entry.item, state.recipient) if is_relayed else ""
                stopped = house.suspensions.until(
                    site=site,
                    domain=state.recipient.address.domain,
                    tenant=tenant_of(entry.item),
                    campaign=campaign_of(entry.item),
                    source=source,
                )
                if stopped is not None:
                    recipient["suspended"] = {"until": 0.0 if stopped[0] == FOREVER else stopped[0], "reason": stopped[1]}
            document["under_way"] = engine.runner.is_active(entry.item.id)
            document["header"] = entry.item.rendering.header_block().decode("utf-8", "replace")
            return document
        return None

    async def _summary(self, which: dict[str, Any], by: str) -> list[Any]:
        asked = _filter(which)
        whole: Summary | None = None
        for engine in self._house().engines:
            part = await engine.control.summarize(asked, by)
            if whole is None:
                whole = part
            else:
                whole.add_rows(part.rows.values(), part.total)
        assert whole is not None
        rows: list[Row] = [whole.total, *whole.top(MAX_SUMMARY_ROWS)]
        return [msgspec.to_builtins(row) | {"oldest": row.oldest if row.recipients else None} for row in rows]

    # Steering

    async def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        asked = msgspec.convert(order, QueueOrder)
        whole = QueueResult()
        for engine in self._house().engines:
            part = await engine.control.carry_out(asked)
            whole.entries += part.entries
            whole.recipients += part.recipients
            whole.size_bytes += part.size_bytes
            whole.later += part.later
            whole.notices += part.notices
            whole.sample += part.sample[: max(0, asked.sample - len(whole.sample))]
        return {
            "count": whole.entries,
            "recipients": whole.recipients,
            "size_bytes": whole.size_bytes,
            "later": whole.later,
            "notices": whole.notices,
            "sample": [entry_document(entry) for entry in whole.sample],
        }

    async def _suspend(self, scope: str, subject: str, until: float, reason: str, by: str) -> None:
        house = self._house()
        house.suspensions.suspend(scope, subject, until or FOREVER, reason, by=by)
        await house.suspensions.flush()
        house.events.changed("suspended", scope=scope, name=subject, until=until, reason=reason, by=by)

    async def _resume(self, scope: str, subject: str, by: str) -> bool:
        house = self._house()
        was_suspended = house.suspensions.resume(scope, subject)
        await house.suspensions.flush()
        if was_suspended:
            house.events.changed("resumed", scope=scope, name=subject, by=by)
        return was_suspended

    async def _suspensions(self) -> list[dict[str, Any]]:
        return [suspension_document(one) for one in self._house().suspensions.list()]

    async def _look(self) -> None:
        """Somebody has changed what is suspended."""
        self._house().suspensions.look()

    async def _audit(self, limit: int) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(deed) for deed in self._house().audit.last(limit)]

    async def _deed(self, operation: str, by: str, what: dict[str, Any], entries: int, recipients: int) -> None:
        house = self._house()
        house.audit.add(operation, by, what, entries=entries, recipients=recipients)
        await house.ledger.flush()


def _filter(which: dict[str, Any]) -> QueueFilter:
    """Raises NotAllowed."""
    try:
        return msgspec.convert(which, QueueFilter)
    except msgspec.MsgspecError as error:
        raise NotAllowed("the filter cannot be understood", str(error)) from None
