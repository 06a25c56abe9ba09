"""What the pipeline costs for one message, with the Plan and the step histograms, without the store.

`make bench` runs it; targets: ten built-in steps < 5 us, the default pipeline for one local recipient < 6 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rusmes.clock import SystemClock
from rusmes.config import schema
from rusmes.mailet.api import Toolbox
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry
from rusmes.metrics import Metrics
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail, Origin, Recipient

HEADER = (
    b"Received: by mx.here.org; now\r\n" * 4 + b"From: a@elsewhere.org\r\nTo: b@here.org\r\nSubject: x\r\n" + b"X: y\r\n" * 10
)
BODY = HEADER + b"\r\n" + b"x" * 1024
TEN = (
    ("RelayLimit", "Reject", {}),
    ("SizeGreaterThan=50MB", "Reject", {}),
    ("SenderIsNull", "Null", {}),
    ("SMTPAuthSuccessful", "SetAttribute", {"name": "authenticated"}),
    ("HasMailAttribute=trap", "Null", {}),
    ("TooManyRecipients=100", "Reject", {}),
    ("SenderDomainIs=spam.org", "Reject", {}),
    ("All", "SetAttribute", {"name": "seen", "value": 1}),
    ("RecipientDomainIs=old.org", "Null", {}),
    ("RecipientIsLocal", "LocalDelivery", {}),
)


class Here:
    def is_local_domain(self, domain: str) -> bool:
        return domain == "here.org"

    async def account_of(self, address: Address) -> str:
        return ""

    async def account_named(self, address: Address) -> str:
        return ""

    def expand(self, address: Address) -> Sequence[Address] | None:
        return None

    async def identity(self, account: str) -> None:
        return None


class Silent:
    def failure(self, *_: Any) -> None:
        return None

    def expanded(self, *_: Any) -> None:
        return None


def build(processors: Sequence[schema.Processor], **options: Any) -> Pipeline:
    toolbox = Toolbox(
        directory=Here(), clock=SystemClock(), notices=Silent(), new_id=IdSource().next_id, hostname="mx.here.org",
        postmaster="postmaster@here.org", relay_networks=(), count=lambda event: None,
    )  # fmt: skip
    return Pipeline.build(processors, toolbox, Registry(), metrics=Metrics(), **options)


def mail(*recipients: Recipient, trusted: bool = False) -> Mail:
    content = Content(b"i" * 16, len(BODY), len(HEADER) + 2, data=BODY)
    origin = Origin(client_address="192.0.2.1", listener="mx", trusted=trusted)
    return Mail(b"m" * 16, Address("sam", "elsewhere.org"), list(recipients), content, origin, created=1.7e9)


LOCAL = Recipient(Address("alice", "here.org"), "alice@here.org")
REMOTE = Recipient(Address("x", "far.org"))


MAILS = 100
"""Mails in one round: the figures are microseconds for 100 messages."""


def measure(benchmark: Any, pipeline: Pipeline, make: Any, check: Any) -> None:
    """Awaits one run after the other; nothing in these pipelines waits, so no event loop is measured."""
    deadline = SystemClock.monotonic() + 3600

    async def run_all(mails: list[Mail]) -> Any:
        for one in mails:
            plan = await pipeline.run(one, deadline=deadline)
        return plan

    def drive(mails: list[Mail]) -> Any:
        try:
            run_all(mails).send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("a mailet waited")

    check(drive([make()]))
    benchmark.pedantic(drive, setup=lambda: (([make() for _ in range(MAILS)],), {}), rounds=300, warmup_rounds=20)
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["us_per_message"] = round(benchmark.stats.stats.median * 1e6 / MAILS, 2)


@pytest.mark.benchmark(group="pipeline")
def test_default_pipeline_local(benchmark: Any) -> None:
    measure(benchmark, build(schema.default_processors()), lambda: mail(LOCAL), lambda plan: plan.appends[0])


@pytest.mark.benchmark(group="pipeline")
def test_default_pipeline_relay(benchmark: Any) -> None:
    pipeline = build(schema.default_processors())
    measure(benchmark, pipeline, lambda: mail(REMOTE, trusted=True), lambda plan: plan.queued[0])


@pytest.mark.benchmark(group="pipeline")
def test_default_pipeline_split(benchmark: Any) -> None:
    pipeline = build(schema.default_processors())
    measure(benchmark, pipeline, lambda: mail(LOCAL, REMOTE, trusted=True), lambda plan: (plan.appends[0], plan.queued[0]))


@pytest.mark.benchmark(group="pipeline")
def test_ten_steps(benchmark: Any) -> None:
    steps = tuple(schema.Step(matcher=matcher, mailet=mailet, params=params) for matcher, mailet, params in TEN)
    root = schema.Processor(name="root", state="root", mailets=steps)
    measure(benchmark, build([root], rewrite=False), lambda: mail(LOCAL), lambda plan: plan.appends[0])
