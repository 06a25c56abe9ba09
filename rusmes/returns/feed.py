"""From refusals to the list of suppressed addresses: it listens to what the event log is told."""

from __future__ import annotations

from collections.abc import Sequence

from rusmes.bounces.classify import HARD, Classifier, is_permanent
from rusmes.events.api import Events, Fact
from rusmes.log import get_logger
from rusmes.metrics import SUPPRESSED, Metrics
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import Report, tenant_of
from rusmes.returns.suppression import Suppressions

_log = get_logger("returns")


class SuppressionFeed:
    """Implements `events.api.Events`: passes everything on, and suppresses addresses that another server refused for ever."""

    def __init__(self, events: Events, suppressions: Suppressions, classifier: Classifier, metrics: Metrics) -> None:
        self._events = events
        self._suppressions = suppressions
        self._metrics = metrics
        self._classifier = classifier

    def apply(self, suppressions: Suppressions, classifier: Classifier) -> None:
        """A reload."""
        self._suppressions = suppressions
        self._classifier = classifier

    def attempted(self, item: Queued, report: Report, status: str, attempts: int, due: float, now: float) -> None:
        self._events.attempted(item, report, status, attempts, due, now)
        # What we found out ourselves (no such domain, no connection) may be our own trouble: only a server's word counts.
        if status == "failed" and report.code and report.host and self._suppressions.is_enabled:
            self.refused(item, report)

    def refused(self, item: Queued, report: Report) -> None:
        """A server refused a recipient for ever."""
        category = self._classifier.category(report.code, report.status, report.text)
        if category not in HARD or not is_permanent(report.code, report.status):
            return
        tenant, address = tenant_of(item), report.recipient.address
        if self._suppressions.bounced(tenant, address, category, report.reply):
            self._metrics.inc(SUPPRESSED["bounce"])
            _log.info("address suppressed", address=str(address), tenant=tenant, category=category, reply=report.reply)
            self._events.changed("suppressed", item, (report.recipient,), reason=category, by="delivery")

    def changed(self, kind: str, item: Queued | None = None, recipients: Sequence[Recipient] = (), **facts: Fact) -> None:
        self._events.changed(kind, item, recipients, **facts)

    def received(
        self,
        kind: str,
        mail: Mail,
        recipients: Sequence[Recipient],
        rows: Sequence[Queued],
        reason: str = "",
        stored: int = 0,
    ) -> None:
        self._events.received(kind, mail, recipients, rows, reason, stored)
