"""Mail to other servers: over which connection it goes, and in which order.

A worker of a site delivers one mail after the other. While the end of one is being written, the next one is begun behind it on
the same connection (`Way`), and is this worker's next delivery. Until its MAIL is answered it is untouched: when the connection
breaks, or the server takes its time with the message before, it is delivered another way, and no attempt is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.delivery.pool import Lane, NoEndpoint, Pool
from rusmes.delivery.routes import RoutePlan, RouteTable
from rusmes.delivery.session import Gone, NoTls, Refused, Session, is_permanent
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.delivery.transaction import Transaction, refused
from rusmes.dns import Resolver
from rusmes.metrics import DELIVERY_CONNECTIONS, DELIVERY_SECONDS, Metrics
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Busy, Report, SiteWorker, Target
from rusmes.smtp.exchange import harmless

QUICK_SECONDS: Final = 0.5
"""Behind a message of a server that took no longer for the last one the next mail is begun."""


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
    ) -> None:
        self._resolver = resolver
        self._metrics = metrics
        self._clock = clock
        self._hostname = hostname
        self._config = config
        self._limits = limits or SharedCounters(1, 1024)
        self._routes = self._route_table()
        self._pool = Pool(
            self._routes,
            tls or TlsPolicy(clock),
            clock,
            hostname,
            max_connections=config.delivery.max_connections,
            metrics=metrics,
            limits=self._limits,
        )

    def apply(self, config: Config) -> None:
        """A reload: new routes and limits from now on; open connections serve on."""
        self._config = config
        self._routes = self._route_table()
        self._pool.routes = self._routes
        self._pool.max_connections = config.delivery.max_connections

    def _route_table(self) -> RouteTable:
        workers = max(1, self._limits.columns - 1)  # the supervisor has a column too
        return RouteTable(self._config, self._resolver, self._clock, self._hostname, workers=workers)

    async def stop(self) -> None:
        """Close the idle connections."""
        await self._pool.stop()

    def destination(self, item: Queued, recipient: Recipient) -> str:
        return self._routes.destination(item, recipient)

    def known_target(self, destination: str) -> Target | None:
        plan = self._routes.known_plan(destination)
        return plan.target if plan is not None else None

    async def find_target(self, destination: str) -> Target | Refusal:
        found = await self._routes.find_plan(destination)
        return found.target if isinstance(found, RoutePlan) else found

    async def deliver(
        self, item: Queued, recipients: Sequence[Recipient], destination: str, worker: SiteWorker | None = None
    ) -> Sequence[Report]:
        started = self._clock.monotonic()
        begun = self._take_begun(item, worker) if worker is not None and worker.begun is not None else None
        if begun is not None:
            plan, lane, transaction = begun.plan, begun.lane, begun.transaction
        else:
            known = self._routes.known_plan(destination) or await self._routes.find_plan(destination)
            if isinstance(known, Refusal):
                return [refused(recipient, known) for recipient in recipients]
            plan = known
            if plan.limits.messages_per_second:
                self._pace(plan)
            lane = _lane(item, plan)
            transaction = Transaction(item, recipients, self._config.delivery.long_lines)
        while True:
            session = begun.session if begun is not None else self._pool.take_idle(lane)
            is_fresh = session is None
            if session is None:
                try:
                    session = await self._pool.open(lane, plan)
                except NoEndpoint as error:
                    return [refused(recipient, error.refusal) for recipient in recipients]
                except Gone as error:
                    if isinstance(error, NoTls) and _demands_tls(item):
                        refusal = Refusal(550, "5.7.30", error.text)  # RFC 8689 §4.2.1: no server of the site can
                        return [refused(recipient, refusal) for recipient in recipients]
                    return [_unreachable(recipient, error) for recipient in recipients]
            way = Way(self, self._pool, session, lane, plan, worker)
            try:
                reports = await self._run(transaction, way)
            except Gone as error:
                if begun is not None and not transaction.is_settled:
                    self._pool.strike(session)
                begun = None
                if not is_fresh and not transaction.is_settled:
                    continue  # the server closed it while it was idle, or after the mail before
                reports = transaction.interrupted(error, session.name)
            seconds = self._clock.monotonic() - started
            session.is_quick = seconds < QUICK_SECONDS
            self._metrics.observe(DELIVERY_SECONDS, seconds)
            return reports

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
        if plan is not None and not plan.limits.messages_per_second and _lane(following.item, plan) == way.lane:
            transaction = Transaction(following.item, following.recipients, self._config.delivery.long_lines)
            with contextlib.suppress(ValueError):  # an address that is none: its own turn will tell
                if transaction.begin(way.session):
                    self._metrics.inc(DELIVERY_CONNECTIONS["reused"])
                    return BegunMail(self._pool, way.session, way.lane, plan, transaction)
        worker.return_following()
        return None

    def _pace(self, plan: RoutePlan) -> None:
        """One message more for the site, over all workers, or Busy."""
        rate = plan.limits.messages_per_second
        window = max(1.0, 1.0 / rate)
        most = max(1, int(rate * window))
        if not self._limits.take_rate(b"out-rate:" + plan.site.encode(), most, window, self._clock.monotonic()):
            raise Busy(max(0.05, min(1.0 / rate, window)))

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
    return plan.site, "verify" if item.requiretls and _demands_tls(item) and plan.tls != "dane" else plan.tls


class BegunMail:
    """Implements `queue.api.Begun`: a mail whose MAIL, RCPT and DATA followed the message of another one."""

    __slots__ = ("_pool", "lane", "plan", "session", "transaction")

    def __init__(self, pool: Pool, session: Session, lane: Lane, plan: RoutePlan, transaction: Transaction) -> None:
        self._pool = pool
        self.session = session
        self.lane = lane
        self.plan = plan
        self.transaction = transaction

    def abandon(self) -> None:
        # After DATA there is no way back but this: without its final dot the server has no message (RFC 5321 §4.1.1.4).
        self._pool.drop(self.lane, self.session)


class Way:
    """Implements `transaction.Way` for one session and the worker that uses it."""

    __slots__ = ("_deliverer", "_pool", "_worker", "lane", "plan", "session")

    def __init__(
        self, deliverer: RemoteDeliverer, pool: Pool, session: Session, lane: Lane, plan: RoutePlan, worker: SiteWorker | None
    ) -> None:
        self._deliverer = deliverer
        self._pool = pool
        self._worker = worker
        self.session = session
        self.lane = lane
        self.plan = plan

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
        if self._worker is not None:
            self._worker.begun = None

    def release_next(self) -> None:
        if self._worker is not None and self._worker.begun is not None:
            self.session.is_spoiled = True
            self._worker.return_following()

    def step_aside(self) -> None:
        if self._worker is not None and self._pool.set_aside(self.lane, self.session, self.plan):
            self._worker.step_aside()


def _unreachable(recipient: Recipient, error: Gone) -> Report:
    if isinstance(error, Refused):
        action = "failed" if is_permanent(error) else "delayed"
        return Report(recipient, action, error.reply.code if error.reply else 0, error.status, harmless(error.text))
    return Report(recipient, "delayed", 0, "4.4.1", harmless(error.text))
