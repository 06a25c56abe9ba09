"""Mail to other servers: over which connection it goes, and in which order.

A worker of a site delivers one mail after the other. While the end of one is being written, the next one is begun behind it on
the same connection (`Way`), and is this worker's next delivery. Until its MAIL is answered it is untouched: when the connection
breaks, or the server takes its time with the message before, it is delivered another way, and no attempt is counted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from random import getrandbits
from typing import Final

from msgspec import Struct, structs

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.delivery.feedback import Feedback, SiteMemory
from rusmes.delivery.mtasts import HttpsFetch, StsPolicies
from rusmes.delivery.pool import Lane, NoEndpoint, Pool, Slowed, words_of
from rusmes.delivery.replies import classify
from rusmes.delivery.routes import PUBLISHED, RoutePlan, RouteTable
from rusmes.delivery.session import Gone, NoTls, Refused, Session, is_permanent
from rusmes.delivery.steering import Leave, Steering
from rusmes.delivery.tlspolicy import CAUSES, TlsPolicy, mode_of
from rusmes.delivery.tlsrpt import TlsCounts
from rusmes.delivery.transaction import ReturnPath, Transaction, refused
from rusmes.dns import Resolver
from rusmes.metrics import DELIVERY_CONNECTIONS, DELIVERY_REFUSALS, DELIVERY_SECONDS, Metrics
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.net.outbound import WayFailed
from rusmes.queue.api import VERP, Attempt, Busy, Paced, Report, SiteWorker, Suspender, Target
from rusmes.smtp.exchange import harmless
from rusmes.storage.api import Ledger

QUICK_SECONDS: Final = 0.5
"""Behind a message of a server that took no longer for the last one the next mail is begun."""
SPARED_SECONDS: Final = 1.0
"""At least so long nothing more goes to a site that has hung up on a mail without a word about it."""


class RemoteDeliverer:
    """Implements `queue.api.Deliverer`."""

    def __init__(
        self,
        config: Config,
        resolver: Resolver,
        metrics: Metrics,
        clock: Clock,
        limits: SharedCounters | None,
        hostname: str,
        *,
        tls: TlsPolicy | None = None,
        return_path: ReturnPath | None = None,
        ledger: Ledger | None = None,
        suspender: Suspender | None = None,
    ) -> None:
        self._resolver = resolver
        self._return_path = return_path
        self._metrics = metrics
        self._clock = clock
        self._hostname = hostname
        self._config = config
        self._limits = limits or SharedCounters(1, 1024)
        self._ledger = ledger
        self.sts = self._policies(None) if config.delivery.mta_sts else None
        self.steering = Steering(config, clock, self._limits, metrics, ledger, suspender)
        self._routes = self._route_table()
        self.feedback = Feedback(clock, self._limits, metrics, ledger)
        self._pool = Pool(
            self._routes,
            tls or TlsPolicy(clock),
            clock,
            hostname,
            max_connections=config.delivery.max_connections,
            metrics=metrics,
            limits=self._limits,
            feedback=self.feedback,
            source=self.steering.exits.source,
            health=self.steering.exits.health,
        )
        self._count_tls()

    def apply(self, config: Config) -> None:
        """A reload: new routes and limits from now on; open connections serve on."""
        self._config = config
        self.sts = self._policies(self.sts) if config.delivery.mta_sts else None
        self.steering.apply(config)
        self._routes = self._route_table()
        self._pool.routes = self._routes
        self._pool.max_connections = config.delivery.max_connections
        self._count_tls()

    def _route_table(self) -> RouteTable:
        workers = max(1, self._limits.columns - 1)  # the supervisor has a column too
        return RouteTable(
            self._config,
            self._resolver,
            self._clock,
            self._hostname,
            workers=workers,
            overrides=self.steering.overrides,
            sts=self.sts,
        )

    @property
    def counts(self) -> TlsCounts | None:
        """How TLS to others goes, for reports; None when there are none."""
        return self._pool.counts

    def _count_tls(self) -> None:
        if not self._config.delivery.tls_report_from or self._ledger is None:
            self._pool.counts = None
        elif self._pool.counts is None:
            self._pool.counts = TlsCounts(self._ledger, self._clock, f"{os.getpid()}.{getrandbits(32):x}")

    def _no_policy(self, domain: str, kind: str, reason: str) -> None:
        if self._pool.counts is not None:
            self._pool.counts.no_policy(domain, kind, reason)

    def _policies(self, before: StsPolicies | None) -> StsPolicies:
        if before is not None:
            return before
        fetch = HttpsFetch(self._resolver, private_hosts=self._config.delivery.private_hosts)
        return StsPolicies(self._resolver, self._clock, self._ledger, fetch, self._no_policy)

    def start(self) -> None:
        """Remember what sites had taught us before the restart; the ledger is open."""
        self.feedback.restore()

    async def stop(self) -> None:
        """Close the idle connections, and write down what sites have taught us."""
        await self._pool.stop()
        if self.counts is not None:
            self.counts.flush()
        if self.sts is not None:
            await self.sts.stop()
        self.feedback.save()
        self.steering.close()

    def destination(self, item: Queued, recipient: Recipient) -> str:
        place = self._routes.destination(item, recipient)
        return self.steering.destination(item, place, self._routes)

    def egress_obstacle(self, item: Queued, recipient: Recipient) -> str:
        """Why a mail can leave by no egress source now, for the operator; "" = it can."""
        plan = self._routes.known_plan(self.destination(item, recipient))
        return self.steering.why_not(item, plan) if plan is not None else ""

    def tls_of(self, item: Queued, recipient: Recipient) -> str:
        """What decides about TLS for a recipient now, for the operator; "" when its servers are not known."""
        plan = self._routes.known_plan(self.destination(item, recipient))
        if plan is None:
            return ""
        mode = _lane(item, plan)[1]
        policy = CAUSES.get(mode, mode)
        return f"{policy}, REQUIRETLS" if _demands_tls(item) else policy

    def known_target(self, destination: str) -> Target | None:
        plan = self._routes.known_plan(destination)
        return plan.target if plan is not None else None

    async def find_target(self, destination: str) -> Target | Refusal:
        found = await self._routes.find_plan(destination)
        return found.target if isinstance(found, RoutePlan) else found

    def not_before(self, key: str) -> Busy | None:
        return self.feedback.not_before(key)

    def try_now(self, key: str) -> None:
        self.feedback.forget_trouble(key)

    async def deliver(
        self, item: Queued, recipients: Sequence[Recipient], destination: str, worker: SiteWorker | None = None
    ) -> Sequence[Report]:
        begun = self._take_begun(item, worker) if worker is not None and worker.begun is not None else None
        while True:
            leave: Leave | None = None
            reports: Sequence[Report] = ()
            try:
                if begun is not None:
                    leave, course, transaction = begun.leave, begun.course, begun.transaction
                else:
                    plan = self._routes.known_plan(destination) or await self._routes.find_plan(destination)
                    if isinstance(plan, Refusal):
                        return _refused(plan, recipients, destination)
                    if plan.source or self.steering.exits.is_used:
                        left = await self.steering.leave(item, len(recipients), destination, plan, self._routes)
                        if isinstance(left, Refusal):
                            return _refused(left, recipients, plan.site)
                        plan, leave = left
                    course = self._course(item, plan)
                    self._ask(course.memory)
                    transaction = self._transaction(item, recipients)
                reports = await self._carry(transaction, recipients, course, begun, worker)
                return reports
            except WayFailed as error:
                # Its source is left alone now: the mail leaves by another one, as long as there is one.
                if leave is None and not self._pool.has_working_address(course.plan):
                    refusal = Refusal(451, "4.3.5", f"no source address works: {error.reason}")
                    return _refused(refusal, recipients, course.plan.site)
                begun = None
            finally:
                self.steering.settle(leave, reports)

    def _course(self, item: Queued, plan: RoutePlan) -> Course:
        lane = _lane(item, plan)
        return Course(plan, lane, self.feedback.site(lane[0], plan.limits))

    async def _carry(
        self,
        transaction: Transaction,
        recipients: Sequence[Recipient],
        course: Course,
        begun: BegunMail | None,
        worker: SiteWorker | None,
    ) -> Sequence[Report]:
        """Raises Busy, WayFailed."""
        started = self._clock.monotonic()
        item = transaction.item
        memory = course.memory
        while True:
            session = begun.session if begun is not None else self._pool.take_idle(course.lane)
            is_fresh = session is None
            if session is None:
                opened = await self._open(item, recipients, course)
                if not isinstance(opened, Session):
                    return opened
                session = opened
            way = Way(self, self._pool, session, course, worker)
            try:
                reports = await self._run(transaction, way)
            except Gone as error:
                if begun is not None and not transaction.is_settled:
                    self._pool.strike(session)
                begun = None
                if not is_fresh and not transaction.is_settled:
                    continue  # the server closed it while it was idle, or after the mail before
                reports = transaction.interrupted(error, session)
            seconds = self._clock.monotonic() - started
            session.is_quick = seconds < QUICK_SECONDS
            self._metrics.observe(DELIVERY_SECONDS, seconds)
            if len(reports) > 1 or reports[0].action not in ("delivered", "relayed"):
                self.steering.heard(item, reports, course.plan)
            if transaction.site_class:
                self._heed(memory, transaction, reports, started)
            else:
                self.feedback.accepted(memory)
            if len(reports) > 1 or reports[0].action not in ("delivered", "relayed"):
                self._count_refusals(reports)
            return reports

    def _ask(self, memory: SiteMemory) -> None:
        """Whether the site may have one more message now. Raises Busy."""
        if not memory.is_open and (busy := self.feedback.objection(memory)) is not None:
            raise busy
        if memory.message_rates and (wait := self.feedback.take(memory.message_rates)):
            raise Paced(wait)

    async def _open(self, item: Queued, recipients: Sequence[Recipient], course: Course) -> Session | Sequence[Report]:
        """A new session, or why there is none. Raises Busy, WayFailed."""
        plan = course.plan
        try:
            return await self._pool.open(course.lane, plan)
        except (Busy, WayFailed) as error:
            self.feedback.give_back(course.memory.message_rates)
            if isinstance(error, Slowed):
                self.steering.heard(item, [Report(recipients[0], "delayed", error.code, error.status, error.reason)], plan)
            raise
        except NoEndpoint as error:
            return _refused(error.refusal, recipients, plan.site, plan.source)
        except Gone as error:
            reply_class = _class_of(error)
            self._metrics.inc(DELIVERY_REFUSALS[reply_class])
            attempt = structs.replace(error.attempt or Attempt(), site=plan.site, source=plan.source, reply_class=reply_class)
            if isinstance(error, NoTls) and _demands_tls(item):
                refusal = Refusal(550, "5.7.30", error.text)  # RFC 8689 §4.2.1: no server of the site can
                return [refused(recipient, refusal, attempt=attempt) for recipient in recipients]
            reports = [_unreachable(recipient, error, attempt) for recipient in recipients]
            if reports[0].code:
                self.steering.heard(item, reports, plan)
            return reports

    def _heed(self, memory: SiteMemory, transaction: Transaction, reports: Sequence[Report], started: float) -> None:
        """What a reply means for the site. Raises Busy where nothing was said of the mail: it keeps its place."""
        words, wait = transaction.site_words, 0.0
        if transaction.site_class == "rate" or (transaction.site_class == "reputation" and words.code < 500):
            wait = self.feedback.slow_down(memory, started, words)
        else:
            self.feedback.failed(memory, started, words)
        if transaction.is_spared:
            self._count_refusals(reports[:1])
            busy = self.feedback.objection(memory)
            wait = max(wait, busy.retry_after if busy is not None else 0.0, SPARED_SECONDS)
            raise Busy(wait, words.text, code=words.code, status=words.status, host=words.host, reports=reports)

    def _count_refusals(self, reports: Sequence[Report]) -> None:
        for report in reports:
            if report.attempt is not None and report.action not in ("delivered", "relayed"):
                self._metrics.inc(DELIVERY_REFUSALS[report.attempt.reply_class or "unknown"])

    def _transaction(self, item: Queued, recipients: Sequence[Recipient]) -> Transaction:
        has_own_path = bool(item.attributes) and VERP in item.attributes
        return Transaction(
            item, recipients, self._config.delivery.long_lines, self._return_path if has_own_path else None
        )

    def _take_begun(self, item: Queued, worker: SiteWorker) -> BegunMail | None:
        """What was sent of this mail already; what was sent of another one is given up."""
        begun, worker.begun = worker.begun, None
        assert isinstance(begun, BegunMail)
        if begun.transaction.item.id == item.id:
            return begun
        begun.abandon()
        return None

    def begin_next(self, way: Way, worker: SiteWorker) -> BegunMail | None:
        """Write MAIL, RCPT and DATA of the worker's next mail, when it may go the same way."""
        if not self._pool.may_begin_another(way.lane, way.session, way.plan):
            return None
        following = worker.following()
        if following is None:
            return None
        plan = self._routes.known_plan(following.destination)
        if plan is not None and _lane(following.item, plan) == way.lane:
            leave = self.steering.leave_too(following.item, len(following.recipients), plan) if plan.source else None
            if leave is not None or not plan.source:
                transaction = self._transaction(following.item, following.recipients)
                with contextlib.suppress(ValueError):  # an address that is none: its own turn will tell
                    if transaction.begin(way.session):
                        self._metrics.inc(DELIVERY_CONNECTIONS["reused"])
                        course = structs.replace(way.course, plan=plan)
                        return BegunMail(self, way.session, course, transaction, leave)
                self.steering.settle(leave, ())
        worker.return_following()
        return None

    def abandon(self, begun: BegunMail) -> None:
        """What was begun is given up, and the connection with it."""
        self.steering.settle(begun.leave, ())
        self._pool.drop(begun.course.lane, begun.session)

    async def _run(self, transaction: Transaction, way: Way) -> Sequence[Report]:
        """Raises Gone, with the session dropped."""
        session, lane = way.session, way.lane
        try:
            reports = await transaction.run(session, way)
        except BaseException:
            way.forget_next()
            self._pool.drop(lane, session)
            raise
        if way.has_next:
            return reports
        if session.is_spoiled:
            self._pool.drop(lane, session)
        elif transaction.out_of_step:
            self._pool.close(lane, session)
        else:
            self._pool.give_back(lane, session, way.plan)
        return reports


def _demands_tls(item: Queued) -> bool:
    """RFC 8689 §5: a notice (null sender) does without."""
    return item.requiretls and item.sender is not None


def _lane(item: Queued, plan: RoutePlan) -> Lane:
    if item.requiretls:
        return plan.key, "verify" if _demands_tls(item) and plan.tls not in ("dane", "mta-sts") else plan.tls
    return plan.key, plan.tls if plan.tls not in PUBLISHED else mode_of(item.rendering, plan.tls)


class Course(Struct, frozen=True, gc=False):
    """By which plan and lane a mail goes, and what is known of the site."""

    plan: RoutePlan
    lane: Lane
    memory: SiteMemory


class BegunMail:
    """Implements `queue.api.Begun`: a mail whose MAIL, RCPT and DATA followed the message of another one."""

    __slots__ = ("_deliverer", "course", "leave", "session", "transaction")

    def __init__(
        self, deliverer: RemoteDeliverer, session: Session, course: Course, transaction: Transaction, leave: Leave | None
    ) -> None:
        self._deliverer = deliverer
        self.session = session
        self.course = course
        self.transaction = transaction
        self.leave = leave

    def abandon(self) -> None:
        # After DATA there is no way back but this: without its final dot the server has no message (RFC 5321 §4.1.1.4).
        self._deliverer.abandon(self)


class Way:
    """Implements `transaction.Way` for one session and the worker that uses it."""

    __slots__ = ("_deliverer", "_pool", "_worker", "course", "lane", "plan", "session")

    def __init__(
        self, deliverer: RemoteDeliverer, pool: Pool, session: Session, course: Course, worker: SiteWorker | None
    ) -> None:
        self._deliverer = deliverer
        self._pool = pool
        self._worker = worker
        self.session = session
        self.course = course
        self.lane = course.lane
        self.plan = course.plan

    @property
    def has_next(self) -> bool:
        return self._worker is not None and self._worker.begun is not None

    def went_well(self) -> None:
        self._pool.forgive(self.session)

    def begin_next(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.begun = self._deliverer.begin_next(self, worker)

    def forget_next(self) -> None:
        """The session is lost, and the next mail untouched: it will be begun anew."""
        if self._worker is not None and self._worker.begun is not None:
            begun, self._worker.begun = self._worker.begun, None
            assert isinstance(begun, BegunMail)
            self._deliverer.steering.settle(begun.leave, ())

    def release_next(self) -> None:
        worker = self._worker
        if worker is not None and worker.begun is not None:
            self.session.is_spoiled = True
            assert isinstance(worker.begun, BegunMail)
            self._deliverer.steering.settle(worker.begun.leave, ())
            worker.return_following()

    def step_aside(self) -> None:
        if self._worker is not None and self._pool.set_aside(self.lane, self.session, self.plan):
            self._worker.step_aside()


def _refused(refusal: Refusal, recipients: Sequence[Recipient], site: str, source: str = "") -> list[Report]:
    """Nobody was asked: the name service, or we ourselves, say no."""
    attempt = Attempt(site, source=source, reply_class=classify(0, refusal.status, refusal.text, "dns"))
    return [refused(recipient, refusal, attempt=attempt) for recipient in recipients]


def _class_of(error: Gone) -> str:
    words = words_of(error)
    return classify(words.code, words.status, words.text, error.phase or "connect")


def _unreachable(recipient: Recipient, error: Gone, attempt: Attempt) -> Report:
    text = harmless(error.text)
    if isinstance(error, Refused):
        action = "failed" if is_permanent(error) else "delayed"
        return Report(recipient, action, error.reply.code if error.reply else 0, error.status, text, attempt=attempt)
    return Report(recipient, "delayed", 0, "4.4.1", text, attempt=attempt)
