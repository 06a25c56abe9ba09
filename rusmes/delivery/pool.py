"""Connections to other servers: how many, which one next, and which servers are not worth a try now.

A connection belongs to a *lane*: a site and the source that it is reached by, under one TLS policy. An idle one waits for more
mail of its lane for `idle_timeout`. The places of a site, and of all sites together, are counted in the table that all workers
share, so the limits are exact; without that table (one process, tests) the pool counts alone. Each worker has a share of a
site's places that is safe. A worker that finds no place says so in the table; one that has more than its share then gives up a
place after some messages, and any that is idle at once.

How many places a site has at the moment, and whether it is tried at all, is what it has taught us (`feedback`). Connections
that have no greeting yet hold at most a part of all places: half of them to sites of which nothing is known, one each, and an
eighth to sites that did not answer last time. So servers that swallow connections leave room for those that work.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from itertools import count
from random import getrandbits
from typing import Final

from msgspec import Struct

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.delivery.egress.sources import SYSTEM, Health, Source, address_source
from rusmes.delivery.feedback import Feedback, SiteMemory, Words
from rusmes.delivery.replies import classify
from rusmes.delivery.routes import Endpoint, RoutePlan, RouteTable
from rusmes.delivery.session import BrokenTls, Gone, NoTls, Session, is_permanent, open_session
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.delivery.tlsrpt import TlsCounts
from rusmes.metrics import DELIVERY_ACTIVE, DELIVERY_CONNECTIONS, DELIVERY_TLS, Metrics
from rusmes.model.plan import Refusal
from rusmes.net.outbound import WayFailed
from rusmes.queue.api import Busy, Paced
from rusmes.smtp.exchange import harmless

DEAD_SECONDS: Final = 5.0
MAX_DEAD_SECONDS: Final = 1800.0
"""A server that cannot be reached is left alone for 5 s, then twice as long, up to half an hour; then one try decides."""
MAX_DEAD: Final = 10_000

MAX_STRIKES: Final = 3
STRIKE_SECONDS: Final = 3600.0
MAX_STRUCK: Final = 10_000
"""Servers with which a mail that was begun behind another one had to be begun again: after three times in a row none is begun
so for an hour."""

YIELD_AFTER: Final = 20
"""Messages of a connection after which it is given up when another worker waits for the site."""
YIELD_SECONDS: Final = 0.5
"""How long we then leave the place to the others; they ask every 0.25 s."""

PROBE_SECONDS: Final = 1.0
"""While one connection tries whether a site is back, the others ask again after this."""
NEW_PART: Final = 2
SUSPECT_PART: Final = 8
"""Parts of all connections that may be opening to sites that have not greeted us, or did not answer last time."""

Lane = tuple[str, str]
"""(site and source, TLS mode)."""

Opener = Callable[[Endpoint, RoutePlan, str, TlsPolicy, str, Source], Awaitable[Session]]


class _Dead(Struct):
    since: float
    until: float
    seconds: float
    reason: str


class DeadHosts:
    """Servers that could not be reached lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._dead: dict[tuple[str, int], _Dead] = {}

    def reason(self, endpoint: Endpoint) -> str:
        """Why this one should not be tried now; "" when it may. The first who asks after the time is over does the try."""
        dead = self._dead.get(endpoint.key)
        if dead is None:
            return ""
        now = self._clock.monotonic()
        if now < dead.until:
            return dead.reason
        dead.until = now + dead.seconds  # one probe; the others wait for its result
        return ""

    def failed(self, endpoint: Endpoint, reason: str, started: float) -> None:
        """A try that was `started` then has failed; of several at once only the first counts."""
        key = endpoint.key
        dead = self._dead.get(key)
        if dead is not None and dead.since > started:
            return
        seconds = min(dead.seconds * 2, MAX_DEAD_SECONDS) if dead is not None else DEAD_SECONDS
        while len(self._dead) >= MAX_DEAD:
            del self._dead[next(iter(self._dead))]
        now = self._clock.monotonic()
        self._dead[key] = _Dead(now, now + seconds, seconds, reason)

    def wait(self, endpoint: Endpoint) -> float:
        """After how many seconds it may be tried."""
        dead = self._dead.get(endpoint.key)
        return max(dead.until - self._clock.monotonic(), 0.0) if dead is not None else 0.0

    def reached(self, endpoint: Endpoint) -> None:
        if self._dead:
            self._dead.pop(endpoint.key, None)


class Pool:
    """Opens, lends, keeps and closes sessions."""

    def __init__(
        self,
        routes: RouteTable,
        tls: TlsPolicy,
        clock: Clock,
        hostname: str,
        *,
        max_connections: int,
        metrics: Metrics | None = None,
        limits: SharedCounters | None = None,
        feedback: Feedback | None = None,
        opener: Opener = open_session,
        source: Callable[[str], Source | None] | None = None,
        health: Health | None = None,
    ) -> None:
        self.routes = routes
        self.max_connections = max_connections
        self._tls = tls
        self._clock = clock
        self._hostname = hostname
        self._metrics = metrics or Metrics()
        self._limits = limits or SharedCounters(1, 1024)
        self.feedback = feedback or Feedback(clock, self._limits, self._metrics)
        self.counts: TlsCounts | None = None
        """Who counts how TLS goes, for reports."""
        self._opener = opener
        self._source_named = source or _no_source
        self._health = health or Health(clock, self._limits, self._metrics)
        self._idle: dict[Lane, deque[Session]] = {}
        self._idle_timeouts: dict[Lane, float] = {}
        self._in_use: dict[tuple[str, int], int] = {}
        """Sessions by server, idle ones included: a server with one is not dead when another cannot be opened."""
        self._opening: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._places: defaultdict[str, int] = defaultdict(int)
        """Our places of each site."""
        self._dead = DeadHosts(clock)
        self._strikes: dict[tuple[str, int], tuple[int, float]] = {}
        """How often, and until when it counts."""
        self._sweep: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._turn = count()
        self._name = float(getrandbits(52) + 1)
        self._yielded: dict[str, float] = {}
        """Sites that we left to other workers, until when."""

    def take_idle(self, lane: Lane) -> Session | None:
        """The session that was used last (the others may time out)."""
        idle = self._idle.get(lane)
        while idle:
            session = idle.pop()
            if session.connection.is_lost or session.connection.has_input:
                self.drop(lane, session)  # it said goodbye, or something we did not ask for
                continue
            self._metrics.inc(DELIVERY_CONNECTIONS["reused"])
            return session
        return None

    async def open(self, lane: Lane, plan: RoutePlan) -> Session:
        """A new session with the best server of the plan that can be reached.

        Raises:
            Busy: the site, or all of them together, have as many connections as they may; or it is left alone for now.
            Gone, Refused: no server of the site takes us now.
            NoEndpoint: the site has no server.
        """
        memory = self.feedback.site(lane[0], plan.limits)
        if self._yielded and self._places.get(lane[0], 0) >= self.feedback.share(memory):
            if self._yielded.get(lane[0], 0.0) > self._clock.monotonic():
                raise Busy(YIELD_SECONDS)
            self._yielded.pop(lane[0], None)
        while not memory.is_proven and memory.first is not None:
            await asyncio.shield(memory.first)  # one connection finds out whether it is worth others
        opening, held = self._take_places(memory, lane[0])
        memory.opening += 1
        if opening:
            memory.first = asyncio.get_running_loop().create_future()
        try:
            session = await self._open(plan, lane, memory)
            self.feedback.greeted(memory)
        except BaseException:
            self._leave(lane[0], held)
            raise
        finally:
            memory.opening -= 1
            if opening:
                self._limits.release(opening)
                first, memory.first = memory.first, None
                if first is not None:
                    first.set_result(None)
        session.held = held
        self._metrics.inc(DELIVERY_CONNECTIONS["opened"])
        self._metrics.add(DELIVERY_ACTIVE, 1)
        return session

    def _take_places(self, memory: SiteMemory, site: str) -> tuple[bytes, tuple[bytes, ...]]:
        """A place for a new connection under every limit: the name of the one it has while it opens, and those it shares.

        Raises:
            Busy, Gone
        """
        room = self.feedback.may_open(memory)
        limits = self._limits
        if not limits.acquire(b"out", self.max_connections):
            if not self._close_an_idle():
                raise Busy
            if not limits.acquire(b"out", self.max_connections):
                raise Busy
        taken = [b"out"]
        try:
            opening = b"" if memory.is_proven else b"out-suspect" if memory.down is not None else b"out-new"
            if opening:
                part = SUSPECT_PART if memory.down is not None else NEW_PART
                self._take_place(taken, opening, max(self.max_connections // part, 1))
            if not limits.acquire(memory.place_key, room):
                if memory.down is not None:
                    raise Busy(PROBE_SECONDS, memory.down.words.text)
                now = self._clock.monotonic()
                limits.set_value(b"out-wanted:" + site.encode(), self._name, now + 2 * YIELD_SECONDS, now)
                raise Busy
            taken.append(memory.place_key)
            held = []
            for shared in memory.limits.shared if memory.limits is not None else ():
                if shared.connections:
                    self._take_shared(taken, b"out-shared:" + shared.key.encode(), shared.connections)
                    held.append(taken[-1])
            wait = self.feedback.take(memory.start_rates) if memory.start_rates else 0.0
            if wait:
                raise Paced(wait)
        except Busy:
            for key in taken:
                limits.release(key)
            raise
        self._places[site] += 1
        return opening, tuple(held)

    def _take_place(self, taken: list[bytes], key: bytes, most: int) -> None:
        """Raises Busy."""
        if not self._limits.acquire(key, most):
            raise Busy
        taken.append(key)

    def _take_shared(self, taken: list[bytes], key: bytes, most: int) -> None:
        """A place that other sites may have; of a connection that waits for mail it is ours. Raises Busy."""
        if not self._limits.acquire(key, most):
            if not self._close_an_idle(key):
                raise Busy
            self._take_place(taken, key, most)
        else:
            taken.append(key)

    async def _open(self, plan: RoutePlan, lane: Lane, memory: SiteMemory) -> Session:
        loop = asyncio.get_running_loop()
        began, asked = self._clock.monotonic(), loop.time()
        endpoints = await self.routes.endpoints(plan)
        if isinstance(endpoints, Refusal):
            if self.counts is not None and endpoints.status == "4.7.5":
                self.counts.not_named(plan, endpoints.text)
            raise NoEndpoint(endpoints)
        endpoints = self._within_reach(endpoints, plan)
        dns_seconds = loop.time() - asked
        mode = lane[1]
        failure: Gone | None = None
        tried = False
        for endpoint in endpoints:
            key = endpoint.key
            if not self._in_use.get(key) and (reason := self._dead.reason(endpoint)):
                if failure is None or isinstance(failure, NoTls):
                    failure = Gone(reason)
                continue
            tried = True
            started = self._clock.monotonic()
            self._opening[key] += 1
            try:
                session = await self._try(endpoint, plan, mode)
            except Gone as error:
                self._metrics.inc(DELIVERY_CONNECTIONS["failed"])
                if mode != plan.tls and isinstance(error, NoTls | BrokenTls):
                    # REQUIRETLS asks for more than the site does: no reason to leave the server alone with other mail.
                    failure = failure or error
                    continue
                if self._in_use.get(key):
                    if error.phase in ("", "connect", "greeting"):
                        self.feedback.crowded(memory)
                    raise Busy from None  # it works, but has enough of us
                if self._opening[key] > 1:
                    raise Busy from None  # those who still try will tell
                self._dead.failed(endpoint, error.text, started)
                if failure is None or is_permanent(failure) or isinstance(failure, NoTls):
                    failure = error  # "for ever" counts only when every server says so (RFC 7504 §4)
                continue
            finally:
                self._opening[key] -= 1
                if not self._opening[key]:
                    del self._opening[key]
            self._dead.reached(endpoint)
            self._in_use[key] = self._in_use.get(key, 0) + 1
            session.site, session.source = plan.site, plan.source
            session.phases = (("dns", dns_seconds), *session.phases)
            return session
        assert failure is not None
        if not tried:
            # Other sites have found its servers dead: nothing was tried, and it is no news.
            raise Busy(min(self._dead.wait(endpoint) for endpoint in endpoints) or PROBE_SECONDS, failure.text, status="4.4.1")
        if mode == plan.tls or not isinstance(failure, NoTls | BrokenTls):
            self._site_failed(memory, failure, began)
        raise failure

    def _site_failed(self, memory: SiteMemory, failure: Gone, began: float) -> None:
        """No server of the site took us. Raises Busy where the reason is that we were too fast: then nothing was attempted."""
        words = words_of(failure)
        if words.code and classify(words.code, words.status, words.text, failure.phase or "greeting") == "rate":
            seconds = self.feedback.slow_down(memory, began, words)
            raise Slowed(seconds, words.text, code=words.code, status=words.status, host=words.host) from None
        self.feedback.unreachable(memory, began, words, failure if is_permanent(failure) else None)

    def _within_reach(self, endpoints: list[Endpoint], plan: RoutePlan) -> list[Endpoint]:
        """Those that the plan's source can go to. Raises NoEndpoint."""
        source = self._source_named(plan.source) if plan.source else None
        if source is None:
            return endpoints
        found = [endpoint for endpoint in endpoints if source.reaches(endpoint.address)]
        if not found:
            family = "IPv4" if source.ipv6 else "IPv6"
            raise NoEndpoint(Refusal(451, "4.4.4", f"the site has {family} addresses only, and source {source.name} none"))
        return found

    async def _try(self, endpoint: Endpoint, plan: RoutePlan, mode: str, *, is_counted: bool = True) -> Session:
        source = self._source(endpoint, plan)
        actual = self._tls.mode_for(endpoint, mode)
        counts = self.counts if is_counted else None
        try:
            session = await self._from(source, endpoint, plan, mode)
        except Gone as error:
            if isinstance(error, BrokenTls):
                self._metrics.inc(DELIVERY_TLS["failed"])
                if self._tls.forget_session(endpoint, actual):
                    return await self._try(endpoint, plan, mode)  # a session was offered, which it may not have liked
            if counts is not None and error.phase == "tls":
                counts.failed(plan, endpoint, actual, error)
            if actual == "mta-sts testing" and isinstance(error, BrokenTls | NoTls):
                # RFC 8461 §5: the mail is delivered all the same.
                return await self._try(endpoint, plan, "opportunistic", is_counted=False)
            if not isinstance(error, BrokenTls) or actual != "opportunistic" or plan.implicit_tls:
                raise
            # T13: once more in the clear, and remembered.
            self._tls.remember_failure(endpoint)
            counts = None  # it was counted
            session = await self._from(source, endpoint, plan, mode)
        if counts is not None:
            counts.opened(plan, endpoint, actual, session)
        secured = session.connection.tls is not None
        self._metrics.inc(DELIVERY_TLS["verified" if session.is_secure else "unverified" if secured else "none"])
        return session

    async def _from(self, source: Source, endpoint: Endpoint, plan: RoutePlan, mode: str) -> Session:
        """Raises WayFailed: the source does not work; it is left alone for some time."""
        started = self._clock.monotonic()
        try:
            session = await self._opener(endpoint, plan, mode, self._tls, source.ehlo or self._hostname, source)
        except WayFailed as error:
            self._health.failed(source, error.kind, error.reason, started)
            raise
        if source is not SYSTEM:
            self._health.works(source)
        return session

    def has_working_address(self, plan: RoutePlan) -> bool:
        """Whether one of the addresses that a plan without a named source leaves by may work."""
        return any(not self._health.down_for(address_source(address)) for address in plan.source_addresses)

    def _source(self, endpoint: Endpoint, plan: RoutePlan) -> Source:
        if plan.source:
            return self._source_named(plan.source) or SYSTEM
        family = ":" in endpoint.address
        sources = [address_source(source) for source in plan.source_addresses if (":" in source) == family]
        if not sources:
            return SYSTEM
        working = [source for source in sources if not self._health.down_for(source)] or sources
        return working[next(self._turn) % len(working)]

    def _is_used_up(self, session: Session, plan: RoutePlan) -> bool:
        most = plan.messages_per_connection
        if session.offered.max_messages:
            most = min(most, session.offered.max_messages)
        return session.sent >= most or session.connection.is_lost or session.is_aside or plan.idle_timeout <= 0

    def _must_yield(self, lane: Lane, session: Session, plan: RoutePlan) -> bool:
        """Whether the place is borrowed, and another worker waits for it."""
        if session.sent % YIELD_AFTER:
            return False
        if self._places[lane[0]] <= self.feedback.share(self.feedback.site(lane[0], plan.limits)):
            return False
        return self._is_wanted(lane[0], self._clock.monotonic())

    def may_begin_another(self, lane: Lane, session: Session, plan: RoutePlan) -> bool:
        """Whether the next mail may be begun behind the one that is being sent (RFC 2920 §3.1)."""
        if not session.is_quick:
            return False
        memory = self.feedback.site(lane[0], plan.limits)
        if memory.message_rates or not memory.is_open:
            return False
        if self._strikes and self._struck(session)[0] >= MAX_STRIKES:
            return False
        return not self._is_used_up(session, plan) and not self._must_yield(lane, session, plan)

    def _struck(self, session: Session) -> tuple[int, float]:
        strikes = self._strikes.get(session.endpoint.key, (0, 0.0))
        return strikes if strikes[1] > self._clock.monotonic() else (0, 0.0)

    def strike(self, session: Session) -> None:
        """A mail that was begun on this session behind another one had to be begun again."""
        strikes = self._struck(session)[0] + 1
        key = session.endpoint.key
        self._strikes.pop(key, None)
        while len(self._strikes) >= MAX_STRUCK:
            del self._strikes[next(iter(self._strikes))]
        self._strikes[key] = (strikes, self._clock.monotonic() + STRIKE_SECONDS)

    def forgive(self, session: Session) -> None:
        """It went well this time."""
        if self._strikes and self._struck(session)[0] < MAX_STRIKES:
            self._strikes.pop(session.endpoint.key, None)

    def give_back(self, lane: Lane, session: Session, plan: RoutePlan) -> None:
        """The transaction is over and the connection is in step; keep it unless it has served enough mail."""
        if self._is_used_up(session, plan):
            self.close(lane, session)
            return
        if self._must_yield(lane, session, plan):
            self._yielded[lane[0]] = self._clock.monotonic() + YIELD_SECONDS
            self.close(lane, session)
            return
        session.idle_since = self._clock.monotonic()
        self._idle.setdefault(lane, deque()).append(session)
        self._idle_timeouts[lane] = plan.idle_timeout
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(min(plan.idle_timeout, YIELD_SECONDS), self._sweep_idle)

    def _is_wanted(self, site: str, now: float) -> bool:
        """Whether another worker waits for a place of the site."""
        return self._limits.value(b"out-wanted:" + site.encode(), now) not in (0.0, self._name)

    def close(self, lane: Lane, session: Session) -> None:
        """QUIT in the background; the place is free at once."""
        self._forget(lane, session)
        task = asyncio.ensure_future(session.quit())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def drop(self, lane: Lane, session: Session) -> None:
        """The connection is of no use any more."""
        self._forget(lane, session)
        session.connection.abort()

    def _forget(self, lane: Lane, session: Session) -> None:
        key = session.endpoint.key
        left = self._in_use.get(key, 0) - 1
        if left > 0:
            self._in_use[key] = left
        else:
            self._in_use.pop(key, None)
        if session.is_aside:
            self._limits.release(b"out-aside:" + lane[0].encode())
            for name in (b"out", *session.held):
                self._limits.release(name)
        else:
            self._leave(lane[0], session.held)
        self._metrics.add(DELIVERY_ACTIVE, -1)

    def set_aside(self, lane: Lane, session: Session, plan: RoutePlan) -> bool:
        """L6s: the session does nothing but wait for the server's last word about a message, and its place at the site is for
        others from now on. As many may be aside as the site may have connections; False: there are that many."""
        site = lane[0].encode()
        if session.is_aside or not self._limits.acquire(b"out-aside:" + site, plan.limits.connections):
            return False
        session.is_aside = True
        self._give_up_place(lane[0])
        return True

    def _leave(self, site: str, held: tuple[bytes, ...]) -> None:
        """Give back a place."""
        self._give_up_place(site)
        for name in (b"out", *held):
            self._limits.release(name)

    def _give_up_place(self, site: str) -> None:
        self._places[site] -= 1
        if not self._places[site]:
            del self._places[site]
        self._limits.release(b"out:" + site.encode())

    def _close_an_idle(self, holding: bytes = b"") -> bool:
        """Give up the connection that has waited longest at some site, or one that holds a place of that name."""
        for lane, idle in self._idle.items():
            for session in idle:
                if not holding or holding in session.held:
                    idle.remove(session)
                    self.close(lane, session)
                    return True
        return False

    def _sweep_idle(self) -> None:
        self._sweep = None
        now = self._clock.monotonic()
        wait = 0.0
        for lane in list(self._idle):
            idle = self._idle[lane]
            timeout = self._idle_timeouts[lane]
            if idle and self._is_wanted(lane[0], now):
                timeout = 0.0
            while idle and (now - idle[0].idle_since >= timeout - 0.01 or idle[0].connection.is_lost):
                session = idle.popleft()
                self.close(lane, session)
            if idle:
                left = min(timeout - (now - idle[0].idle_since), YIELD_SECONDS)
                wait = min(wait, left) if wait else left
            else:
                del self._idle[lane]
                del self._idle_timeouts[lane]
        if wait:
            self._sweep = asyncio.get_running_loop().call_later(max(wait, 0.01), self._sweep_idle)

    async def stop(self) -> None:
        """Close what is idle, and wait until QUITs are said."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for lane, idle in self._idle.items():
            while idle:
                self.close(lane, idle.popleft())
        self._idle.clear()
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)


def words_of(error: Gone) -> Words:
    """What a connection that could not be opened or that broke has told."""
    reply, attempt = error.reply, error.attempt
    status, text = reply.parts if reply is not None else ("", harmless(error.text))
    host = f"{attempt.host}[{attempt.address}]" if attempt is not None else ""
    return Words(text, reply.code if reply is not None else 0, status or ("" if reply is not None else "4.4.1"), host)


class Slowed(Busy):
    """A server has just said that we are too fast, before it heard of any mail."""


def _no_source(_name: str) -> Source | None:
    return None


class NoEndpoint(Exception):
    """The site has no server that may be tried."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal
