"""What an attempt does to the recipients of an entry: their rows, the log, the counters, and what their sender should hear."""

from __future__ import annotations

from collections.abc import Sequence

from rusmes.events.api import Events, NullEvents
from rusmes.log import get_logger, log_message
from rusmes.metrics import DELIVERIES, DELIVERY_AGE_SECONDS, QUEUE_RETRIES, Metrics
from rusmes.model.ids import id_text
from rusmes.model.plan import Queued
from rusmes.queue.api import Report
from rusmes.queue.entry import DELAY_NOTICED, Job
from rusmes.queue.schedule import Schedule
from rusmes.queue.tally import Tally
from rusmes.storage.api import RecipientState

_log = get_logger("queue")


class Attempts:
    """Judges reports by the schedule; changes the states it is given and nothing else."""

    def __init__(self, schedule: Schedule, metrics: Metrics, events: Events | None = None) -> None:
        self.schedule = schedule
        self._metrics = metrics
        self._events = events or NullEvents()
        self.tally = Tally()

    def record_delivered(self, job: Job, item: Queued, reports: Sequence[Report], now: float) -> None:
        """An event for each recipient; all of them are delivered."""
        states = job.active.states
        for index, report in zip(job.indexes, reports, strict=True):
            self._events.attempted(item, report, "delivered", states[index].attempts + 1 if states else 1, 0.0, now)
            if self.tally.is_on:
                self.tally.count(item, report, "delivered", now)

    def count_delivered(self, item: Queued, reports: Sequence[Report], count: int, now: float) -> None:
        first = reports[0]
        if first.action not in ("delivered", "relayed"):
            first = next(report for report in reports if report.action in ("delivered", "relayed"))
        age = now - item.created
        self._metrics.inc(DELIVERIES["delivered"], count)
        self._metrics.observe(DELIVERY_AGE_SECONDS, max(age, 0.0))
        fields = {
            "queue_id": id_text(item.id),
            "action": item.action,
            "recipients": count,
            "recipient": str(first.recipient.address),
            "host": first.host,
            "reply": first.reply,
            "age": round(age, 3),
        }
        if first.attempt is not None and first.attempt.tls_policy:
            fields["tls"] = first.attempt.tls_policy
        log_message("queue", "delivered", fields)

    def record_continued(self, item: Queued, rows: Sequence[Queued]) -> None:
        """An entry went on in the pipeline; `rows` took its place."""
        self._events.changed("continued", item, queued=len(rows), new_ids=" ".join(id_text(row.id) for row in rows))
        self.record_held(rows)

    def record_held(self, rows: Sequence[Queued]) -> None:
        """Events of those of new entries that the pipeline holds."""
        for row in rows:
            if row.action == "hold":
                self._events.changed("held", row, reason=row.reason, by="pipeline")

    def record_notice(self, item: Queued, reports: Sequence[Report], rows: Sequence[Queued]) -> None:
        """A notice about these reports was made, and `rows` carry it."""
        if reports and reports[0].action == "failed":
            recipients = [report.recipient for report in reports]
            self._events.changed("bounced", item, recipients, notice=" ".join(id_text(row.id) for row in rows))

    def new_states(
        self, job: Job, item: Queued, reports: Sequence[Report], now: float
    ) -> tuple[dict[int, RecipientState], list[tuple[list[Report], float]]]:
        """The recipients' rows after an attempt, and what senders should hear."""
        active, schedule = job.active, self.schedule
        changed: dict[int, RecipientState] = {}
        failed: list[Report] = []
        delayed: list[Report] = []
        good: list[Report] = []
        due = 0.0
        for index, report in zip(job.indexes, reports, strict=True):
            state = changed[index] = active.state(index, item.recipients)
            state.attempts += 1
            state.last_attempt = now
            state.last_reply = report.reply[:1000]
            state.last_host = report.host
            if state.attempts > 1:
                self._metrics.inc(QUEUE_RETRIES)
            if report.action in ("delivered", "relayed"):
                state.status = "delivered"
                good.append(report)
            elif report.action == "failed":
                state.status = "failed"
                failed.append(report)
            elif schedule.is_expired(item.created, now):
                state.status = "expired"
                failed.append(_expired(report))
            else:
                # One time for all of them, so that they meet in one transaction again.
                due = due or schedule.next_due(state.attempts, now)
                state.due = due
                state.status = "deferred"
                self._metrics.inc(DELIVERIES["deferred"])
                is_noticed = state.delay_noticed or DELAY_NOTICED in item.attributes
                if not is_noticed and schedule.wants_warning(item.created, now):
                    state.delay_noticed = True
                    delayed.append(report)
            if report.action not in ("delivered", "relayed"):
                self._log_failure(item, report, state)
            next_due = state.due if state.status == "deferred" else 0.0
            self._events.attempted(item, report, state.status, state.attempts, next_due, now)
            if self.tally.is_on:
                self.tally.count(item, report, state.status, now)
        notices = [(failed, 0.0), (delayed, schedule.expires_at(item.created))]
        notices += [([report for report in good if report.action == action], 0.0) for action in ("delivered", "relayed")]
        if item.action == "relay":
            # A server that took the NOTIFY parameter tells the sender itself (RFC 3461 §5.2.2).
            notices[2] = ([], 0.0)
        return changed, [notice for notice in notices if notice[0]]

    def waiting_states(self, job: Job, item: Queued) -> tuple[dict[int, RecipientState], list[Report]]:
        """The rows of recipients that wait to go on in the pipeline once their sender was warned, and what he should hear."""
        changed = {index: job.active.state(index, item.recipients) for index in job.indexes}
        for state in changed.values():
            state.delay_noticed = True
        text = "the message waits to be let through by this server"
        return changed, [Report(item.recipients[index], "delayed", 0, "4.0.0", text) for index in changed]

    def _log_failure(self, item: Queued, report: Report, state: RecipientState) -> None:
        if state.status != "deferred":
            self._metrics.inc(DELIVERIES[state.status])
        log = _log.info if state.status == "deferred" else _log.warn
        log(
            state.status,
            queue_id=id_text(item.id),
            recipient=str(report.recipient.address),
            sender=str(item.sender or ""),
            host=report.host,
            reply=report.reply,
            tls=report.attempt.tls_policy if report.attempt is not None else "",
            attempts=state.attempts,
            next_attempt=round(state.due - state.last_attempt) if state.status == "deferred" else 0,
        )

    def revive(self, changed: dict[int, RecipientState], now: float) -> None:
        """Their end cannot be told now: they are tried once more."""
        due = self.schedule.next_due(1, now)
        for state in changed.values():
            if state.status in ("failed", "expired"):
                state.status = "deferred"
                state.due = due
            state.delay_noticed = False


def _expired(report: Report) -> Report:
    """RFC 3463 X.4.7: delivery time expired."""
    answer = f"{report.host} said: " if report.host and report.code else ""
    return Report(
        report.recipient,
        "failed",
        0,
        "4.4.7",
        f"not delivered in time; at last: {answer}{report.reply}"[:1000] if report.text else "not delivered in time",
        report.host,
        report.reply if report.code else "",
    )
