"""What the engines tell the event log.

A call is cheap (a microsecond or two), never waits for a disk by default, and never raises: delivery does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import Report

RECEPTIONS: Final = ("received", "refused", "dropped")
"""One for each mail at the end of its reception: what was accepted, refused in the session, or ended on purpose."""
ATTEMPTS: Final = ("delivered", "deferred", "failed", "expired")
"""One for each recipient of each attempt."""
CHANGES: Final = (
    "held", "released", "retried", "deleted", "bounced", "rerouted", "suspended", "resumed", "suppressed", "reported",
    "complained", "continued",
)  # fmt: skip
"""What an operator or a rule did, to recipients of an entry or (suspended, resumed) to a part of the queue. bounced: a failure
notice was made for the sender. suppressed, reported (a notice that came in) and complained (a feedback report) are about an
address. continued: an entry went on in the pipeline, and new entries took its place."""
KINDS: Final = RECEPTIONS + ATTEMPTS + CHANGES

Fact = str | int | float | bool


class Events(Protocol):
    """Where events go."""

    def received(
        self,
        kind: str,
        mail: Mail,
        recipients: Sequence[Recipient],
        rows: Sequence[Queued],
        reason: str = "",
        stored: int = 0,
    ) -> None:
        """A mail's reception has ended. `recipients` are those of its envelope, `rows` what is in the queue for it, `stored`
        how many mailboxes had it put into them at once."""

    def attempted(
        self, item: Queued, report: Report, status: str, attempts: int, due: float, now: float
    ) -> None:
        """One recipient was attempted: `status` is one of ATTEMPTS, `attempts` counts this one; `due` 0: none follows."""

    def changed(self, kind: str, item: Queued | None = None, recipients: Sequence[Recipient] = (), **facts: Fact) -> None:
        """One of CHANGES.

        `item` is the entry it happened to, and `recipients` those of its recipients it happened to (() = all). Names of
        facts that mean the same everywhere: reason, by (who did it), until (seconds since the epoch), route, host, scope and
        name (of what is suspended: "site", "domain", "tenant", "campaign", "source"), count.
        """


class NullEvents:
    """Hears nothing."""

    def received(
        self,
        kind: str,
        mail: Mail,
        recipients: Sequence[Recipient],
        rows: Sequence[Queued],
        reason: str = "",
        stored: int = 0,
    ) -> None:
        return

    def attempted(
        self, item: Queued, report: Report, status: str, attempts: int, due: float, now: float
    ) -> None:
        return

    def changed(self, kind: str, item: Queued | None = None, recipients: Sequence[Recipient] = (), **facts: Fact) -> None:
        return
