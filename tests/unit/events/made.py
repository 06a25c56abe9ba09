"""Mails, entries and reports for tests of the event log."""

from __future__ import annotations

from typing import Any

from rusmes._core.counters import Metrics
from rusmes.clock import FakeClock
from rusmes.config.events import Events as Settings
from rusmes.events.writer import EventLog
from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail, Origin, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import Attempt, Report

IDS = IdSource()
ORIGIN = Origin(
    client_address="192.0.2.7", client_name="client.example", helo="client.example", protocol="ESMTPSA", listener="submission",
    tls="TLSv1.3", account="alice@example.com", session_id="0192aaaa-1234-7abc-9def-001122334455",
)  # fmt: skip
HOW = Attempt(
    site="mx.example.net", host="mx1.example.net", address="198.51.100.4", port=25, source="pool-a", source_address="192.0.2.1",
    tls="TLSv1.3 TLS_AES_256_GCM_SHA384", tls_policy="opportunistic",
    phases=(("dns", 0.001), ("connect", 0.02), ("reply", 0.3)), reply_class="accepted",
)  # fmt: skip
SENDER = Address("alice", "example.com")


def content(message_id: str = "<1@example.com>") -> Content:
    data = f"From: a\r\nMessage-ID: {message_id}\r\n\r\nhello\r\n".encode()
    return Content(IDS.next_id(), len(data), data.index(b"\r\n\r\n") + 4, data=data)


def recipient(text: str) -> Recipient:
    local, _, domain = text.rpartition("@")
    return Recipient(Address(local, domain))


def mail(message_id: str = "<1@example.com>", *to: str, **more: Any) -> Mail:
    names = to or ("bob@example.net",)
    return Mail(IDS.next_id(), SENDER, [recipient(one) for one in names], content(message_id), ORIGIN, created=1.0, **more)


def item(message_id: str = "<1@example.com>", *to: str, **more: Any) -> Queued:
    recipients = tuple(recipient(one) for one in to or ("bob@example.net",))
    values = {"created": 1.0, "attributes": {"rusmes.tenant": "shop", "rusmes.campaign": "spring"}, **more}
    return Queued(IDS.next_id(), "relay", SENDER, recipients, Rendering(content(message_id)), ORIGIN, **values)


def report(to: Recipient, action: str = "delivered", **more: Any) -> Report:
    facts = {"code": 250, "status": "2.0.0", "text": "queued", "host": "mx1.example.net", "attempt": HOW, **more}
    return Report(to, action, **facts)


def log_at(
    directory: str, writer: str = "0", *, metrics: Metrics | None = None, clock: Any = None, **settings: Any
) -> EventLog:
    log = EventLog(Settings(**settings), directory, writer, clock=clock or FakeClock(), metrics=metrics or Metrics())
    log.start()
    return log
