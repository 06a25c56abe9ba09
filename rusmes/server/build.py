"""What a worker is made of: the one place where every room is given what it needs.

A `House` is built after the fork, in one worker, and owns everything in it: stores, engines, services, listeners. What has to
exist before the fork (sockets, shared memory, certificates) comes in a `Ground`. A new protocol is a line in `SERVICES`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from rusmes import metrics as m
from rusmes._core.counters import Metrics, SharedCounters
from rusmes.auth.authenticator import FullAuthenticator
from rusmes.auth.directory import DomainDirectory
from rusmes.auth.file import FileBackend
from rusmes.clock import Clock, SystemClock
from rusmes.config.schema import Config
from rusmes.delivery.dsn import DsnWriter
from rusmes.delivery.remote import RemoteDeliverer
from rusmes.dns import Resolver
from rusmes.errors import ConfigError
from rusmes.events.api import Events, NullEvents
from rusmes.events.writer import EventLog, directory_of
from rusmes.imap.hub import Hub
from rusmes.imap.server import ImapService
from rusmes.injection.injector import Injector
from rusmes.log import LogSink, get_logger
from rusmes.mailet.api import Toolbox
from rusmes.mailet.notary import Notary
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry
from rusmes.model.ids import IdSource
from rusmes.net.listener import HANDSHAKES_AT_ONCE, Gate, Listener, Service
from rusmes.net.notices import RESYNC, Notices, Pair
from rusmes.pop3.server import Pop3Service
from rusmes.queue.admission import SAMPLE_SECONDS
from rusmes.queue.audit import AuditTrail
from rusmes.queue.control import StoreControl
from rusmes.queue.intake import QueueIntake
from rusmes.queue.runner import Runner
from rusmes.queue.suspensions import Suspensions
from rusmes.returns.feed import SuppressionFeed
from rusmes.returns.kit import ReturnKit
from rusmes.search.scan import ScanSearcher
from rusmes.server.maildrop import Maildrop
from rusmes.server.memory import Memory
from rusmes.server.provision import Provision
from rusmes.server.sockets import Binding
from rusmes.server.tlscare import TlsCare
from rusmes.smtp.server import SmtpService
from rusmes.storage.ledger import LmdbLedger
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from rusmes.storage.lmdb.residency import MappedPages
from rusmes.storage.memory import KEY_RETENTION_SECONDS
from rusmes.tls.context import ServerContext, server_context

REAP_MARGIN_SECONDS: Final = 60.0
"""A connection may be silent for the longest deadline of its protocol and this; then its deadline does not work."""

ACCOUNT_CHANGED: Final = "account"
"""The topic of notices about a commit that changed an account: 8 bytes, its id."""

_log = get_logger("server")


class Ground(Struct):
    """What exists before the workers do."""

    config: Config
    metrics: Metrics
    limits: SharedCounters
    sink: LogSink
    bindings: list[Binding]
    notices: list[Pair]
    contexts: dict[str, ServerContext]
    """TLS contexts by protocol; made by whoever may read the keys."""


class Engine:
    """One queue with everything that works on it: its store, its pipeline, the notices it writes, its runner."""

    def __init__(self, house: House, slot: int) -> None:
        config, storage = house.config, house.config.storage
        self.slot = slot
        self.store = LmdbQueueStore(
            storage.path,
            slot,
            inline_limit=storage.inline_limit,
            map_size=storage.map_size,
            clock=house.clock,
            metrics=house.metrics,
            ids=house.ids,
        )
        self.dsn = DsnWriter(
            config, self.store.blobs.writer, house.clock, house.ids, config.hostname, house.metrics, limits=house.limits
        )
        self._house = house
        self.pipeline = self.build_pipeline(config, house.returns)
        self.runner = Runner(
            self.store,
            house.mail_store,
            self.pipeline,
            house.deliverer,
            self.dsn,
            house.clock,
            house.ids,
            house.metrics,
            config,
            events=house.feed,
            suspender=house.suspensions,
        )
        self.control = StoreControl(
            self.store, house.clock, self.runner, deliverer=house.deliverer, events=house.events, ids=house.ids
        )

    def build_pipeline(self, config: Config, returns: ReturnKit) -> Pipeline:
        """Raises ConfigError."""
        house = self._house
        toolbox = toolbox_of(config, house.directory, self.dsn, house.clock, house.ids, house.metrics)
        toolbox.returns = returns.addresses
        toolbox.classifier = returns.classifier
        toolbox.suppressions = returns.suppressions
        toolbox.record = house.events.changed
        toolbox.notary = house.notary
        toolbox.find_txt = house.resolver.txt
        toolbox.inc = house.metrics.inc
        pipeline = Pipeline.build(
            config.processors,
            toolbox,
            Registry.load(),
            metrics=house.metrics,
            default_timeout=float(config.queue.session_budget),
        )
        m.name_events(pipeline.events)
        return pipeline

    def apply(self, config: Config, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.dsn.apply(config)
        self.runner.apply(config, pipeline)

    async def open(self) -> None:
        await self.store.open()
        self.runner.start()

    async def close(self, grace_seconds: float) -> None:
        await self.control.close()
        await self.runner.stop(grace_seconds)
        await self.store.close()


class House:
    """Everything of one worker."""

    def __init__(self, ground: Ground, slot: int, adopted: Sequence[int] = ()) -> None:
        """Put it together; nothing is opened yet. Raises ConfigError."""
        config = ground.config
        self.config = config
        self.slot = slot
        self.metrics = ground.metrics
        self.limits = ground.limits
        self.sink = ground.sink
        self.contexts = dict(ground.contexts)
        self.clock: Clock = SystemClock()
        self.ids = IdSource()
        self.notices = Notices(ground.notices, slot)
        storage = config.storage
        self.event_log: EventLog | None = None
        if config.events.enabled:
            directory = directory_of(config.events, storage.path)
            self.event_log = EventLog(config.events, directory, str(slot), clock=self.clock, metrics=self.metrics)
        self.events: Events = self.event_log or NullEvents()
        self.mail_store = LmdbMailStore(
            storage.path,
            inline_limit=storage.inline_limit,
            map_size=storage.map_size,
            clock=self.clock,
            metrics=self.metrics,
            ids=self.ids,
            key_retention=_key_retention(config),
        )
        self.ledger = LmdbLedger(storage.path, clock=self.clock)
        self.suspensions = Suspensions(self.ledger, self.clock)
        self.audit = AuditTrail(self.ledger, self.clock, self.ids)
        self.hub = Hub(self.mail_store, metrics=self.metrics, tell_others=self._tell_of_account)
        self.notices.subscribe(ACCOUNT_CHANGED, self.hub.changed_elsewhere)
        self.notices.subscribe(RESYNC, self.hub.all_changed)
        self.searcher = ScanSearcher(self.mail_store, clock=self.clock)
        self.mapped_pages = MappedPages(storage.path)
        self.accounts = FileBackend.of(config, on_problem=_accounts_problem)
        self.provision = Provision(self.accounts, self.mail_store, config.domains.create_mailboxes)
        self.returns = ReturnKit.of(config, self.ledger, self.clock)
        self.directory = DomainDirectory(config, self.accounts, self.returns.addresses)
        self.feed = SuppressionFeed(self.events, self.returns.suppressions, self.returns.classifier, self.metrics)
        self.authenticator = FullAuthenticator(self.accounts, self.limits, self.clock, self.metrics, config)
        self.notary = Notary(config)
        self.resolver = Resolver(
            self.clock, config.delivery.resolver, metrics=self.metrics, trusted=config.delivery.trusted_resolvers
        )
        self.deliverer = RemoteDeliverer(
            config,
            self.resolver,
            self.metrics,
            self.clock,
            self.limits,
            config.hostname,
            return_path=lambda item, recipient: self.returns.return_path(item, recipient),
            ledger=self.ledger,
            suspender=self.suspensions,
        )
        self._tell_of_shaping(config)
        self.engine = Engine(self, slot)
        self.adopted = [Engine(self, other) for other in adopted]
        self.intake = QueueIntake(
            self.engine.pipeline,
            self.mail_store,
            self.engine.store,
            self.engine.runner,
            self.engine.dsn,
            self.directory,
            self.clock,
            self.ids,
            self.metrics,
            config,
            events=self.feed,
            memory=Memory().share,
        )
        self.intake.admission.listeners.append(self._stress)
        self.injector = Injector(config, self.intake, self.directory, self.ledger, self.clock, self.ids)
        self.local_injector = Injector(
            config, self.intake, self.directory, self.ledger, self.clock, self.ids, helo="localhost", protocol="local"
        )
        self.maildrop = Maildrop(config, self.local_injector, self.intake, self.engine.dsn, self.clock, self.ids)
        self.gate = Gate(
            config,
            self.limits,
            self.metrics,
            is_banned=self.authenticator.is_blocked,
            turns_away=self.intake.admission.turns_away,
        )
        self.intake.admission.sessions = self.gate.mail_sessions
        self.tls_care = TlsCare(self, is_first=slot == 0)
        self.handshakes = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
        self._bindings = ground.bindings
        self.listeners = [self._listener(binding) for binding in ground.bindings]

    def _tell_of_shaping(self, config: Config) -> None:
        if self.slot == 0:
            for problem in config.shaping_problems:
                _log.error("an entry of a shaping file is skipped", problem=problem)

    def _tell_of_account(self, account_id: int) -> None:
        self.notices.post(ACCOUNT_CHANGED, account_id.to_bytes(8, "big"))

    @property
    def engines(self) -> list[Engine]:
        return [self.engine, *self.adopted]

    def _listener(self, binding: Binding) -> Listener:
        protocol = binding.protocol

        def context() -> ssl.SSLContext:
            return self.contexts[protocol]

        service = SERVICES[protocol](self, binding, context)
        return Listener(
            service,
            [binding.of_slot(self.slot)],
            self.gate,
            sink=self.sink,
            metrics=self.metrics,
            session_id=self.next_session_id,
            tls=context if binding.implicit_tls else None,
            handshakes=self.handshakes,
            reap_after=longest_silence(self.config, protocol) + REAP_MARGIN_SECONDS,
        )

    def next_session_id(self) -> str:
        """A UUID that sorts by time (RFC 9562 §5.7)."""
        text = self.ids.next_id().hex()
        variant = "89ab"[int(text[16], 16) & 3]
        return f"{text[:8]}-{text[8:12]}-7{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"

    # Life

    async def open(self) -> None:
        """Open the stores, begin the work, accept. Raises StoreError, OSError."""
        await self.mail_store.open()
        self.ledger.open()
        self.deliverer.start()
        if self.event_log is not None:
            self.event_log.start()
        self.notices.start()
        self.hub.start()
        for engine in self.engines:
            await engine.open()
        for listener in self.listeners:
            await listener.start()

    async def cover(self, slot: int) -> None:
        """Accept for another slot, whose worker is down."""
        for listener, binding in zip(self.listeners, self._bindings, strict=True):
            if len(binding.sockets) > 1:
                await listener.cover(binding.of_slot(slot))

    def uncover(self, slot: int) -> None:
        for listener, binding in zip(self.listeners, self._bindings, strict=True):
            if len(binding.sockets) > 1:
                listener.uncover(binding.of_slot(slot))

    def _stress(self, is_on: bool) -> None:
        for listener in self.listeners:
            if isinstance(listener.service, SmtpService):
                listener.service.stress(is_on)

    async def watch_load(self) -> None:
        """Look at the load again and again, for ever."""
        time, admission = asyncio.get_running_loop().time, self.intake.admission
        while True:
            due = time() + SAMPLE_SECONDS
            await asyncio.sleep(SAMPLE_SECONDS)
            admission.sample(time() - due)

    def _close_sockets(self) -> None:
        for binding in self._bindings:
            for sock in binding.sockets:
                sock.close()

    async def drain(self, seconds: float) -> int:
        """Accept no more and let sessions end; how many had to be cut."""
        self.gate.draining = True
        for listener in self.listeners:
            listener.drain()
        self._close_sockets()
        return sum(await asyncio.gather(*(listener.wait_closed(seconds) for listener in self.listeners)))

    async def close(self, grace_seconds: float) -> None:
        """Stop delivering, commit what is known, close the stores."""
        for engine in self.engines:
            await engine.close(grace_seconds)
        await self.deliverer.stop()
        if self.event_log is not None:
            await asyncio.to_thread(self.event_log.stop)
        await self.hub.stop()
        self.notary.close()
        self.searcher.close()
        await self.mail_store.close()
        self.ledger.close()
        self.notices.stop()
        self.accounts.close()

    async def release_adopted(self) -> list[int]:
        """Let go of adopted queues that are empty; their slots."""
        empty = [engine for engine in self.adopted if engine.runner.recovered and not engine.runner.size]
        for engine in empty:
            self.adopted.remove(engine)
            await engine.close(1.0)
        return [engine.slot for engine in empty]

    def measure(self) -> None:
        """Every second: bring the gauges of the stores up to date, so that they are true without traffic too."""
        self.mail_store.measure()
        self.engine.store.measure()
        self.mapped_pages.look()
        self.deliverer.steering.exits.measure()

    # Reload

    async def apply(self, config: Config) -> None:
        """Take over a configuration that was checked; sessions that are open keep what they have.

        Raises:
            ConfigError: it does not work here after all; nothing has changed.
        """
        contexts = contexts_of(config, [listener.service.protocol for listener in self.listeners])
        returns = ReturnKit.of(config, self.ledger, self.clock)
        trial = DomainDirectory(config, self.accounts, returns.addresses)
        signing = self.notary.settings
        self.notary.apply(config)
        try:
            pipelines = [engine.build_pipeline(config, returns) for engine in self.engines]
        except ConfigError:
            self.notary.settings = signing
            raise
        del trial
        self.config = config
        self.contexts.update(contexts)
        self.sink.set_levels(config.logging.level, config.logging.levels)
        self.mail_store.retain_keys(_key_retention(config))
        self.provision.mailboxes = config.domains.create_mailboxes
        self.returns = returns
        self.feed.apply(returns.suppressions, returns.classifier)
        self.directory.apply(config, returns.addresses)
        if self.event_log is not None:
            self.event_log.apply(config.events)
        self.authenticator.apply(config)
        self.resolver.apply(config.delivery.resolver, config.delivery.trusted_resolvers)
        self.deliverer.apply(config)
        self._tell_of_shaping(config)
        for engine, pipeline in zip(self.engines, pipelines, strict=True):
            engine.apply(config, pipeline)
        self.intake.apply(config, self.engine.pipeline)
        self.injector.apply(config)
        self.local_injector.apply(config)
        self.maildrop.apply(config)
        self.gate.apply(config)
        for listener in self.listeners:
            listener.service.apply(config)
            listener.reap_after = longest_silence(config, listener.service.protocol) + REAP_MARGIN_SECONDS


def toolbox_of(
    config: Config, directory: DomainDirectory, notices: Any, clock: Clock, ids: IdSource, metrics: Metrics
) -> Toolbox:
    """What mailets and matchers of a configuration may use."""
    return Toolbox(
        directory=directory,
        clock=clock,
        notices=notices,
        new_id=ids.next_id,
        hostname=config.hostname,
        postmaster=config.postmaster_address,
        relay_networks=config.security.relay_networks,
        count=lambda event: metrics.inc(m.MAILET_EVENTS[event]),
        recipient_delimiter=config.domains.recipient_delimiter,
        max_age_seconds=float(config.queue.max_age),
        keep_reports=config.returns.keep_reports,
    )


def contexts_of(config: Config, protocols: Sequence[str]) -> dict[str, ServerContext]:
    """The TLS contexts of these protocols; those with the same settings share one, and its session tickets.

    Raises:
        ConfigError
    """
    made: dict[Any, ServerContext] = {}
    contexts = {}
    for protocol in protocols:
        settings = config.tls.for_protocol(protocol)
        if settings not in made:
            made[settings] = server_context(settings, config.storage.path)
        contexts[protocol] = made[settings]
    return contexts


def longest_silence(config: Config, protocol: str) -> float:
    """The longest time in which a connection of a protocol may rightly move no byte, seconds."""
    if protocol in ("smtp", "submission", "lmtp"):
        smtp = config.smtp
        waits = [smtp.command_timeout, smtp.data_timeout, config.queue.session_budget]
    elif protocol == "pop3":
        waits = [config.pop3.timeout]
    else:
        waits = [config.imap.idle_timeout]
    return float(max(*waits, config.connection_limits.idle_timeout))


def _key_retention(config: Config) -> float:
    """How long a delivery that happened must be known, seconds: longer than its mail can wait."""
    return max(KEY_RETENTION_SECONDS, 2 * config.queue.max_age)


def _accounts_problem(problem: str) -> None:
    _log.error("the file of accounts cannot be used", problem=problem)


# Services

Context = Callable[[], ssl.SSLContext]


def _smtp(listener: Any) -> Callable[[House, Binding, Context], Service]:
    def make(house: House, binding: Binding, context: Context) -> Service:
        return SmtpService(
            house.config,
            listener=listener,
            intake=house.intake,
            directory=house.directory,
            authenticator=house.authenticator,
            tls=context,
            limits=house.limits,
            metrics=house.metrics,
            clock=house.clock,
            ids=house.ids,
            implicit_tls=binding.implicit_tls,
        )

    return make


def _pop3(house: House, binding: Binding, context: Context) -> Service:
    return Pop3Service(
        house.config,
        store=house.mail_store,
        authenticator=house.authenticator,
        tls=context,
        limits=house.limits,
        metrics=house.metrics,
        clock=house.clock,
        implicit_tls=binding.implicit_tls,
    )


def _imap(house: House, binding: Binding, context: Context) -> Service:
    return ImapService(
        house.config,
        store=house.mail_store,
        hub=house.hub,
        authenticator=house.authenticator,
        tls=context,
        limits=house.limits,
        metrics=house.metrics,
        clock=house.clock,
        searcher=house.searcher,
        accounts=house.accounts,
        implicit_tls=binding.implicit_tls,
    )


SERVICES: Final[Mapping[str, Callable[[House, Binding, Context], Service]]] = {
    "smtp": _smtp("mx"),
    "submission": _smtp("submission"),
    "lmtp": _smtp("lmtp"),
    "imap": _imap,
    "pop3": _pop3,
}


def is_served(protocol: str) -> bool:
    """Whether this version speaks a protocol of the configuration."""
    return protocol in SERVICES
