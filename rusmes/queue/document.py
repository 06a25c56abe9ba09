"""A queue entry as it is shown: by `rusmes queue`, the control socket and the administration API."""

from __future__ import annotations

from typing import Any

from rusmes.model.ids import id_text
from rusmes.storage.api import QueueEntry


def entry_document(entry: QueueEntry) -> dict[str, Any]:
    """An entry for programs: times are seconds since the epoch."""
    item = entry.item
    return {
        "id": id_text(item.id),
        "action": item.action,
        "sender": "<>" if item.sender is None else str(item.sender),
        "account": item.origin.account,
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
