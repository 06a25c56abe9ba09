"""Local delivery as a job: recipients of an entry are appended to their mailboxes."""

from __future__ import annotations

from collections.abc import Sequence

from rusmes.errors import RusmesError
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Report
from rusmes.queue.entry import appends_of
from rusmes.storage.api import MailStore


async def append(store: MailStore, item: Queued, indexes: Sequence[int], recipients: Sequence[Recipient]) -> Sequence[Report]:
    """What became of each; a store that fails delays all of them."""
    try:
        results = await store.append(appends_of(item, indexes))
    except RusmesError as error:
        return [Report(recipient, "delayed", 0, "4.3.0", f"the mail store: {error.public}") for recipient in recipients]
    reports = []
    for recipient, result in zip(recipients, results, strict=True):
        if isinstance(result, Refusal):
            action = "failed" if result.is_permanent else "delayed"
            reports.append(Report(recipient, action, 0, result.status, result.text))
        else:
            reports.append(Report(recipient, "delivered", 0, "2.1.5", "delivered to the mailbox"))
    return reports
