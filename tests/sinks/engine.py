"""A queue engine without listeners: stores in memory, the default pipeline, a real deliverer; for tests of the way out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import structs

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import Clock, SystemClock
from rusmes.config.schema import Config, Delivery, Queue, Route
from rusmes.config.units import Duration
from rusmes.delivery.dsn import DsnWriter
from rusmes.delivery.remote import RemoteDeliverer
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.dns import Resolver
from rusmes.mailet.api import Toolbox
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail, Origin, Recipient
from rusmes.queue.api import Outcome
from rusmes.queue.intake import QueueIntake
from rusmes.queue.runner import Runner
from rusmes.storage.memory import MemoryMailStore
from rusmes.storage.memory_queue import MemoryQueueStore
from tests.fakes import FakeDirectory

HOSTNAME = "relay.example.com"


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def route_to(port: int, *, domains: Sequence[str] = ("*",), **more: Any) -> Route:
    return Route(name="sink", host="127.0.0.1", port=port, domains=tuple(domains), use_tls=False, **more)


def config_for(
    port: int = 0, *, queue: dict[str, Any] | None = None, route: dict[str, Any] | None = None, **delivery: Any
) -> Config:
    """A configuration that sends everything that is not local to a port of this machine."""
    times = {"retry_schedule": (Duration("100ms"),), "delay_warning": Duration(0), **(queue or {})}
    routes = (route_to(port, **(route or {})),) if port else ()
    return Config(domain="example.com", hostname=HOSTNAME, queue=Queue(**times), delivery=Delivery(route=routes, **delivery))


class Engine:
    """Everything from `accept` to the next server."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        resolver: Resolver | None = None,
        tls: TlsPolicy | None = None,
        queue_store: MemoryQueueStore | None = None,
        deliverer: Any = None,
        limits: SharedCounters | None = None,
        notary: Any = None,
        suspender: Any = None,
    ) -> None:
        self.config = config
        self.hands_over = False
        """Whether `send` uses `hand_over`, as a session does, or `accept`."""
        self.clock = clock or SystemClock()
        self.ids = IdSource()
        self.metrics = Metrics()
        self.queue_store = queue_store or MemoryQueueStore(inline_limit=65536, ids=self.ids)
        self.mail_store = MemoryMailStore(inline_limit=65536, clock=self.clock, metrics=self.metrics, ids=self.ids)
        self.directory = FakeDirectory()
        self.notices = DsnWriter(config, self.queue_store.blobs.writer, self.clock, self.ids, HOSTNAME, self.metrics)
        self.events: list[str] = []
        toolbox = Toolbox(
            directory=self.directory,
            clock=self.clock,
            notices=self.notices,
            new_id=self.ids.next_id,
            hostname=HOSTNAME,
            postmaster=config.postmaster_address,
            relay_networks=config.security.relay_networks,
            count=self.events.append,
            notary=notary,
        )
        self.pipeline = Pipeline.build(config.processors, toolbox, Registry.load(), metrics=self.metrics)
        resolver = resolver or Resolver(self.clock, ["127.0.0.1:9"])
        self.deliverer = deliverer or RemoteDeliverer(config, resolver, self.metrics, self.clock, limits, HOSTNAME, tls=tls)
        self.runner = Runner(
            self.queue_store, self.mail_store, self.pipeline, self.deliverer, self.notices, self.clock, self.ids,
            self.metrics, config, suspender=suspender,
        )  # fmt: skip
        self.intake = QueueIntake(
            self.pipeline, self.mail_store, self.queue_store, self.runner, self.notices, self.directory, self.clock,
            self.ids, self.metrics, config,
        )  # fmt: skip

    def content(self, data: bytes) -> Content:
        writer = self.intake.writer()
        writer.write(data)
        return writer.finish()

    def mail(
        self,
        *recipients: str | Recipient,
        sender: str | None = "sam@elsewhere.org",
        data: bytes = b"Subject: test\r\n\r\nHello\r\n",
        trusted: bool = True,
        listener: str = "mx",
        **more: Any,
    ) -> Mail:
        made = [r if isinstance(r, Recipient) else Recipient(address(r)) for r in recipients]
        made = [
            structs.replace(r, account=r.address.folded) if r.address.folded in self.directory.accounts else r for r in made
        ]
        origin = Origin(client_address="127.0.0.1", helo="client.example", protocol="ESMTP", listener=listener, trusted=trusted)
        return Mail(
            self.ids.next_id(),
            None if sender is None else address(sender),
            made,
            self.content(data),
            origin,
            created=self.clock.now(),
            **more,
        )

    async def send(self, *recipients: str | Recipient, **more: Any) -> Outcome:
        mail = self.mail(*recipients, **more)
        if not self.hands_over:
            return await self.intake.accept(mail)
        told: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def answer(outcome: Outcome | Exception) -> None:
            if told.cancelled():
                return
            if isinstance(outcome, Exception):
                told.set_exception(outcome)
            else:
                told.set_result(outcome)

        return await (self.intake.hand_over(mail, answer) or told)

    async def inbox(self, account: str, mailbox: str = "INBOX") -> list[bytes]:
        """The messages of a mailbox."""
        found = await self.mail_store.account(account)
        if found is None:
            return []
        box = await self.mail_store.mailbox(found.id, mailbox)
        if box is None:
            return []
        messages = await self.mail_store.messages(box.id)
        opened = [await self.mail_store.open_message(box.id, message.uid) for message in messages]
        return [b"".join(message.rendering.chunks()) for message in opened]


@contextlib.asynccontextmanager
async def running(config: Config, **parts: Any) -> AsyncIterator[Engine]:
    engine = Engine(config, **parts)
    engine.runner.start()
    try:
        yield engine
    finally:
        await engine.runner.stop(1.0)
        if isinstance(engine.deliverer, RemoteDeliverer):
            await engine.deliverer.stop()
