"""The only entrance for mail: decide, commit, answer.

The pipeline decides first; then the plan is made durable in one transaction, and only then the answer exists. A plan of appends
alone goes to the mail store; any other goes to this worker's queue whole, its appends as `local` rows that the runner carries
out at once. Whoever cannot be told in the session (SMTP has one reply for all recipients) is told by a notice.

New transactions are admitted while there is space, the stores take writes, and load allows it (`admission`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from rusmes.auth.api import Directory
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.errors import StoreError
from rusmes.events.api import Events, NullEvents
from rusmes.log import get_logger, log_message
from rusmes.mailet.api import PipelineRunner
from rusmes.metrics import Metrics
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import NOTIFY_SUCCESS, Mail, Recipient
from rusmes.model.mailbox import Appended
from rusmes.model.plan import Append, Plan, Queued, Refusal
from rusmes.net.addresses import Networks
from rusmes.queue.admission import Admission, Commits
from rusmes.queue.api import NoticeWriter, Outcome, Report
from rusmes.queue.entry import rows_of
from rusmes.queue.runner import Runner
from rusmes.storage.api import ContentWriter, MailStore, QueueStore

NO_SPACE: Final = Refusal(452, "4.3.1", "insufficient storage, try again later")
NOT_WRITABLE: Final = Refusal(451, "4.3.0", "storage failure, try again later")
OVERLOADED: Final = Refusal(421, "4.3.2", "too much mail at once, try again later")

_RECEPTIONS: Final = {"message accepted": "received", "message refused": "refused", "message dropped": "dropped"}

PROBE_SECONDS: Final = 1.0
"""A store that failed takes one transaction a second, until one of them succeeds."""

ROOM_SECONDS: Final = 0.5
MAX_ROOMS: Final = 10_000
"""Accounts that had room within the last half second are not asked again: a look into the store costs 8 us for each RCPT. The
check that counts is the append's."""

_log = get_logger("queue")


class QueueIntake:
    """Implements `queue.api.Intake`."""

    def __init__(
        self,
        pipeline: PipelineRunner,
        mail_store: MailStore,
        queue_store: QueueStore,
        runner: Runner,
        notices: NoticeWriter,
        directory: Directory,
        clock: Clock,
        ids: IdSource,
        metrics: Metrics,
        config: Config,
        *,
        events: Events | None = None,
        memory: Callable[[], float] | None = None,
    ) -> None:
        self._events = events or NullEvents()
        self._pipeline = pipeline
        self._mail_store = mail_store
        self._queue_store = queue_store
        self._blobs = queue_store.blobs
        self._mail_blobs = mail_store.blobs
        self._runner = runner
        self._notices = notices
        self._directory = directory
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._budget_seconds = float(config.queue.session_budget)
        self._commits = Commits(config.queue.max_waiting_commits, config.queue.max_commit_latency)
        self.admission = Admission(
            config.overload,
            self._commits,
            clock,
            metrics,
            memory=memory or (lambda: 0.0),
            deliveries=lambda: runner.waiting_jobs,
            is_trusted=Networks(config.security.relay_networks).__contains__,
        )
        self._next_probe = 0.0
        self._rooms: dict[str, int] = {}
        """For how many bytes there was room, at least."""
        self._rooms_until = 0.0
        self._tasks: set[asyncio.Future[Outcome]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def apply(self, config: Config, pipeline: PipelineRunner | None = None) -> None:
        """A reload."""
        self._budget_seconds = float(config.queue.session_budget)
        self._commits.apply(config.queue.max_waiting_commits, config.queue.max_commit_latency)
        self.admission.apply(config.overload, Networks(config.security.relay_networks).__contains__)
        if pipeline is not None:
            self._pipeline = pipeline

    # Before the body

    def admit(self, size: int = 0) -> Refusal | None:
        if self.admission.refuses_mail:
            return OVERLOADED
        if self._queue_store.is_writable() and self._mail_store.is_writable():
            # Writable says that there is room for something; most clients do not say how much they bring.
            return None if not size or self._has_space(size) else NO_SPACE
        if not self._has_space(size):
            return NO_SPACE
        now = self._clock.monotonic()
        if now < self._next_probe:
            return NOT_WRITABLE
        self._next_probe = now + PROBE_SECONDS
        return None

    def _has_space(self, size: int) -> bool:
        return self._blobs.check_space(size) and self._mail_blobs.check_space(size)

    def room_for(self, account: str, size: int) -> bool | Awaitable[bool]:
        now = self._clock.monotonic()
        if now >= self._rooms_until or len(self._rooms) >= MAX_ROOMS:
            self._rooms.clear()
            self._rooms_until = now + ROOM_SECONDS
        elif size <= self._rooms.get(account, -1):
            return True
        return self._ask_for_room(account, size)

    async def _ask_for_room(self, account: str, size: int) -> bool:
        if not await self._mail_store.room_for(account, size):
            return False
        self._rooms[account] = size
        return True

    def writer(self) -> ContentWriter:
        return self._blobs.writer()

    # After it

    async def accept(self, mail: Mail) -> Outcome:
        envelope = list(mail.recipients)  # the pipeline may change the mail's own list
        return await self._carry_out(mail, envelope, self._decide(mail))

    def hand_over(self, mail: Mail, answer: Callable[[Outcome | Exception], None]) -> Awaitable[Outcome] | None:
        envelope = list(mail.recipients)
        plan = self._decide(mail)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if not isinstance(plan, Plan) or plan.refused:
            return self._carry_out(mail, envelope, plan)
        started = self._clock.monotonic()
        try:
            if plan.queued or _wants_success_notices(plan.appends):
                rows = rows_of(plan, mail, self._ids)
                self._runner.join()
                begun = self._queue_store.begin_put(rows, _Committing(self, mail, envelope, plan, rows, answer, started))
            else:
                committing = _Committing(self, mail, envelope, plan, None, answer, started)
                begun = bool(plan.appends) and self._mail_store.begin_append(plan.appends, committing)
        except Exception:
            self._blobs.discard(mail.content)
            raise
        if not begun:
            return self._carry_out(mail, envelope, plan)
        self._commits.begin()
        return None

    def _decide(self, mail: Mail) -> Plan | Awaitable[Plan]:
        try:
            return self._pipeline.start(mail, deadline=self._clock.monotonic() + self._budget_seconds)
        except Exception:
            self._blobs.discard(mail.content)
            raise

    async def _carry_out(self, mail: Mail, envelope: Sequence[Recipient], plan: Plan | Awaitable[Plan]) -> Outcome:
        try:
            if not isinstance(plan, Plan):
                plan = await plan
            if plan.queued or _wants_success_notices(plan.appends):
                return await self._accept_to_queue(mail, envelope, plan)
            if plan.appends:
                return await self._accept_to_mailboxes(mail, envelope, plan)
        except Exception:
            self._blobs.discard(mail.content)
            raise
        self._blobs.discard(mail.content)
        refusals = _refusals(envelope, plan.refused)
        self._tell(mail, refusals, envelope, plan, "message refused" if any(refusals) else "message dropped", ())
        return Outcome(refusals, [])

    # A commit that nobody awaits

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one that mail is handed over on; asking asyncio is a system call."""
        assert self._loop is not None
        return self._loop

    def _committed(self, commit: _Committing, results: Sequence[Appended | Refusal] | None) -> None:
        self._waited(self._clock.monotonic() - commit.started)
        mail, rows = commit.mail, commit.rows
        if rows is not None:
            self._runner.kick(rows)
            ids = [id_text(row.id) for row in rows]
        elif results and Refusal in map(type, results):
            task = asyncio.ensure_future(self._partly_stored(mail, commit.envelope, commit.plan, results))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(commit.finish)
            return
        else:
            ids = [id_text(mail.id)]
        self._tell(mail, (), commit.envelope, commit.plan, "message accepted", rows or ())
        commit.answer(Outcome([None] * len(commit.envelope), ids))

    def _not_committed(self, commit: _Committing, error: Exception) -> None:
        self._waited(self._clock.monotonic() - commit.started)
        self._blobs.discard(commit.mail.content)
        commit.answer(error)

    def _waited(self, seconds: float) -> None:
        """A commit has ended, after so long."""
        self._commits.end(seconds)
        self.admission.committed(seconds)

    # One that somebody awaits

    async def _accept_to_mailboxes(self, mail: Mail, envelope: Sequence[Recipient], plan: Plan) -> Outcome:
        """Local mail alone: one transaction in the mail store."""
        appends = plan.appends
        started = self._clock.monotonic()
        self._commits.begin()
        try:
            results = await self._mail_store.append(appends)
        finally:
            self._waited(self._clock.monotonic() - started)
        if not plan.refused and not any(type(result) is Refusal for result in results):
            self._tell(mail, (), envelope, plan, "message accepted", ())
            return Outcome([None] * len(envelope), [id_text(mail.id)])
        return await self._partly_stored(mail, envelope, plan, results)

    async def _partly_stored(
        self, mail: Mail, envelope: Sequence[Recipient], plan: Plan, results: Sequence[Appended | Refusal]
    ) -> Outcome:
        """Some recipients were refused, by the pipeline or by their quota."""
        pairs = list(zip(plan.appends, results, strict=True))
        reached = {
            address for append, result in pairs if isinstance(result, Appended) for address in append.recipient.standing_for
        }
        refused = dict(plan.refused)
        hidden: list[Report] = []
        for append, result in pairs:
            if isinstance(result, Refusal):
                named = [address for address in append.recipient.standing_for if address not in reached]
                refused |= dict.fromkeys(named, result)
                if not named:  # an alias of several accounts that others took: its reply is a success
                    hidden.append(Report(append.recipient, "failed", result.code, result.status, result.text))
        refusals = _refusals(envelope, refused)
        if all(refusals):
            self._blobs.discard(mail.content)
            self._tell(mail, refusals, envelope, plan, "message refused", ())
            return Outcome(refusals, [])
        if mail.origin.listener != "lmtp":
            hidden += _reports(envelope, refusals)
        if hidden and (rows := await self._notice_rows(mail, hidden)):
            await self._put(rows)
        self._tell(mail, refusals, envelope, plan, "message accepted", ())
        return Outcome(refusals, [id_text(mail.id)])

    async def _accept_to_queue(self, mail: Mail, envelope: Sequence[Recipient], plan: Plan) -> Outcome:
        """Everything in the queue, in one transaction."""
        rows = rows_of(plan, mail, self._ids)
        refusals = _refusals(envelope, plan.refused)
        if plan.refused and mail.origin.listener != "lmtp" and not all(refusals):
            rows = rows + await self._notice_rows(mail, _reports(envelope, refusals))
        await self._put(rows)
        self._tell(mail, refusals, envelope, plan, "message accepted", rows)
        return Outcome(refusals, [id_text(row.id) for row in rows])

    async def _put(self, rows: Sequence[Queued]) -> None:
        started = self._clock.monotonic()
        self._commits.begin()
        self._runner.join()
        try:
            await self._queue_store.put(rows)
        except asyncio.CancelledError:
            self._runner.expect(rows)  # the commit goes on without us
            raise
        finally:
            self._waited(self._clock.monotonic() - started)
        self._runner.kick(rows)

    async def _notice_rows(self, mail: Mail, reports: Sequence[Report]) -> list[Queued]:
        """The sender learns of the recipients that SMTP's one reply hides."""
        notice = self._notices.report(_as_item(mail), reports)
        if notice is None:
            return []
        plan = await self._pipeline.run(notice)
        return rows_of(plan, notice, self._ids)

    def _tell(
        self,
        mail: Mail,
        refusals: Sequence[Refusal | None],
        envelope: Sequence[Recipient],
        plan: Plan,
        event: str,
        rows: Sequence[Queued],
    ) -> None:
        """The one line of a message, and its event."""
        origin = mail.origin
        if origin.listener == "mx" and event == "message accepted":
            self.admission.brought_mail(origin.client_address)
        refused = [refusal for refusal in refusals if refusal is not None]
        fields: dict[str, str | int] = {
            "session_id": origin.session_id,
            "client": origin.client_address,
            "protocol": "smtp" if origin.listener == "mx" else origin.listener,
            "id": id_text(mail.id),
            "sender": str(mail.sender) if mail.sender is not None else "",
            "recipients": len(envelope),
            "size": mail.content.size,
            "local": len(plan.appends),
            "queued": len(plan.queued),
        }
        if origin.account:
            fields["user"] = origin.account
        if refused:
            fields["refused"] = len(refused)
            fields["reply"] = f"{refused[0].code} {refused[0].status} {refused[0].text}"
        if plan.dropped:
            fields["dropped"] = len(plan.dropped)
            fields["reason"] = plan.dropped[0][1]
        log_message("queue", event, fields)
        reason = fields.get("reply") or fields.get("reason") or ""
        # What is in the queue for mailboxes is attempted, and told of, like the rest of it.
        stored = max(len(plan.appends) - len(refused), 0) if event == "message accepted" and not rows else 0
        self._events.received(_RECEPTIONS[event], mail, envelope, rows, str(reason), stored)
        for row in rows:
            if row.action == "hold":
                self._events.changed("held", row, reason=row.reason, by="pipeline")


class _Committing:
    """A mail whose commit was begun by `hand_over`: the store's `Answer`. Nobody can cancel it."""

    __slots__ = ("_intake", "answer", "envelope", "mail", "plan", "rows", "started")

    def __init__(
        self,
        intake: QueueIntake,
        mail: Mail,
        envelope: Sequence[Recipient],
        plan: Plan,
        rows: Sequence[Queued] | None,
        answer: Callable[[Outcome | Exception], None],
        started: float,
    ) -> None:
        self._intake = intake
        self.mail = mail
        self.envelope = envelope
        self.plan = plan
        self.rows = rows
        """Those of the queue; None when the plan goes to mailboxes."""
        self.answer = answer
        self.started = started

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._intake.loop

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return False

    def set_result(self, result: Sequence[Appended | Refusal] | None) -> None:
        self._intake._committed(self, result)

    def set_exception(self, error: BaseException) -> None:
        self._intake._not_committed(self, error if isinstance(error, Exception) else StoreError("storage failure", repr(error)))

    def finish(self, task: asyncio.Future[Outcome]) -> None:
        """The task that has to be waited for after all has ended."""
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            self.answer(error if isinstance(error, Exception) else StoreError("storage failure", "cancelled"))
        else:
            self.answer(task.result())


def _wants_success_notices(appends: Sequence[Append]) -> bool:
    """A success notice is committed with the outcome it reports, so such appends go through the queue."""
    return any(append.recipient.notify & NOTIFY_SUCCESS for append in appends)


def _refusals(envelope: Sequence[Recipient], refused: dict[Address, Refusal]) -> list[Refusal | None]:
    """In the envelope's order."""
    if not refused:
        return [None] * len(envelope)
    return [refused.get(recipient.address) for recipient in envelope]


def _reports(envelope: Sequence[Recipient], refusals: Sequence[Refusal | None]) -> list[Report]:
    return [
        Report(recipient, "failed", refusal.code, refusal.status, refusal.text)
        for recipient, refusal in zip(envelope, refusals, strict=True)
        if refusal is not None
    ]


def _as_item(mail: Mail) -> Queued:
    """What a notice needs to know of a mail that is not in the queue."""
    return Queued(
        mail.id,
        "resume",
        mail.sender,
        tuple(mail.recipients),
        Rendering(mail.content, b"".join(mail.prepended)),
        mail.origin,
        mail.created,
        body_type=mail.body_type,
        smtputf8=mail.smtputf8,
        ret=mail.ret,
        envid=mail.envid,
    )
