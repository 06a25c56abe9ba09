"""A queue entry and what is suspended, as they are shown: by `rusmes queue`, the control socket and the administration API."""

from __future__ import annotations

from typing import Any

from rusmes.model.ids import id_text
from rusmes.queue.api import FOREVER, campaign_of, tenant_of
from rusmes.queue.suspensions import Suspension
from rusmes.storage.api import QueueEntry


def entry_document(entry: QueueEntry) -> dict[str, Any]:
    """An entry for programs: times are seconds since the epoch."""
    item = entry.item
    return {
        "id": id_text(item.id),
        "action": item.action,
        "sender": "<>" if item.sender is None else str(item.sender),
        "account": item.origin.account,
        "tenant": tenant_of(item),
        "campaign": campaign_of(item),
        "client": item.origin.client_address,
        "created": item.created,
        "size_bytes": item.rendering.size,
        "route": item.route,
        "reason": item.reason,
        "state": item.state,
        "recipients": [
            {
                "address": str(state.recipient.address),
                "status": state.status,
                "attempts": state.attempts,
                "due": state.due,
                "last_attempt": state.last_attempt,
                "last_host": state.last_host,
                "last_reply": state.last_reply,
            }
            for state in entry.states
        ],
    }


def suspension_document(one: Suspension) -> dict[str, Any]:
    """A suspension for programs; `until` 0 = until it is resumed."""
    return {
        "scope": one.scope,
        "name": one.name,
        "until": 0.0 if one.until == FOREVER else one.until,
        "reason": one.reason,
        "since": one.since,
        "by": one.by,
    }
