"""A pipeline without anything around it: a directory in memory, notices that remember, and short ways to write both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from rusmes.clock import FakeClock
from rusmes.config import schema
from rusmes.errors import AuthUnavailable
from rusmes.mailet.api import Toolbox
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry
from rusmes.metrics import Metrics
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.identity import Identity
from rusmes.model.mail import NOTIFY_NEVER, NOTIFY_SUCCESS, Mail, Origin, Recipient
from rusmes.model.plan import Plan, Refusal

BODY = b"Received: by mx.here; now\r\nFrom: a@elsewhere.org\r\nSubject: one\r\n two\r\nX-Spam: yes\r\n\r\nhello\r\n"


def address(text: str) -> Address:
    return Address(*text.rsplit("@", 1)) if "@" in text else Address(text, "")


class MemoryDirectory:
    """alice, bob and carol live in here.org; aliases and domains as a test wants them."""

    def __init__(self) -> None:
        self.domains = {"here.org"}
        self.accounts = {"alice@here.org", "bob@here.org", "carol@here.org"}
        self.aliases: dict[str, list[str]] = {}
        self.unavailable = False
        self.questions = 0

    def is_local_domain(self, domain: str) -> bool:
        return domain in self.domains

    async def account_of(self, asked: Address) -> str:
        return "" if asked.folded in self.aliases else await self.account_named(asked)

    async def account_named(self, asked: Address) -> str:
        self.questions += 1
        await asyncio.sleep(0)
        if self.unavailable:
            raise AuthUnavailable("directory down")
        folded = f"{asked.local.partition('+')[0].lower()}@{asked.domain}"
        return folded if folded in self.accounts else ""

    def expand(self, asked: Address) -> Sequence[Address] | None:
        targets = self.aliases.get(asked.folded)
        return None if targets is None else [address(target) for target in targets]

    async def identity(self, account: str) -> Identity | None:
        return None


class Notices:
    """Failure notices as small mails from nobody."""

    def __init__(self, new_id: Callable[[], bytes], clock: FakeClock) -> None:
        self._new_id = new_id
        self._clock = clock
        self.written: list[tuple[Mail, list[Recipient], Refusal]] = []

    def failure(self, mail: Mail, recipients: Sequence[Recipient], refusal: Refusal) -> Mail | None:
        wanting = [recipient for recipient in recipients if recipient.notify != NOTIFY_NEVER]
        if mail.sender is None or not wanting:
            return None
        self.written.append((mail, wanting, refusal))
        body = b"Auto-Submitted: auto-replied\r\nSubject: failure\r\n\r\n"
        content = Content(self._new_id(), len(body), len(body), data=body)
        account = mail.sender.folded if mail.sender.domain == "here.org" else ""
        return Mail(self._new_id(), None, [Recipient(mail.sender, account)], content, Origin(), created=self._clock.now())

    def expanded(self, mail: Mail, recipients: Sequence[Recipient]) -> Mail | None:
        wanting = [recipient for recipient in recipients if recipient.notify & NOTIFY_SUCCESS]
        return self.failure(mail, wanting, Refusal(250, "2.1.5", "expanded")) if wanting else None


class Kit:
    """Everything a pipeline test needs."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.directory = MemoryDirectory()
        self.metrics = Metrics()
        self.events: list[str] = []
        self._last_id = 0
        self.notices = Notices(self.new_id, self.clock)
        self.toolbox = Toolbox(
            directory=self.directory,
            clock=self.clock,
            notices=self.notices,
            new_id=self.new_id,
            hostname="mx.here.org",
            postmaster="alice@here.org",
            relay_networks=(),
            count=self.events.append,
        )
        self.matchers: dict[str, Any] = {}
        self.mailets: dict[str, Any] = {}

    def new_id(self) -> bytes:
        self._last_id += 1
        return self._last_id.to_bytes(16, "big")

    def build(self, processors: Mapping[str, Sequence[Any]] | Sequence[Any] | None = None, **options: Any) -> Pipeline:
        """Processors by state; a list alone is `root`. A step is a dict, or (matcher, mailet[, params])."""
        if processors is None:
            given = schema.default_processors()
        else:
            table = processors if isinstance(processors, Mapping) else {"root": processors}
            named = options.pop("matchers", {})
            given = tuple(
                schema.Processor(name=state, state=state, mailets=tuple(map(step, steps)), matchers=named)
                for state, steps in table.items()
            )
        return Pipeline.build(given, self.toolbox, Registry(self.matchers, self.mailets), metrics=self.metrics, **options)

    def mail(
        self,
        *recipients: str | Recipient,
        sender: str | None = "sam@elsewhere.org",
        body: bytes = BODY,
        trusted: bool = False,
        account: str = "",
        client: str = "192.0.2.1",
        **more: Any,
    ) -> Mail:
        end = body.find(b"\r\n\r\n")
        content = Content(self.new_id(), len(body), len(body) if end < 0 else end + 4, data=body)
        return Mail(
            self.new_id(),
            None if sender is None else address(sender),
            [self.recipient(r) if isinstance(r, str) else r for r in recipients or ("alice@here.org",)],
            content,
            Origin(client_address=client, trusted=trusted, account=account, listener="mx"),
            created=self.clock.now(),
            **more,
        )

    def recipient(self, text: str, **more: Any) -> Recipient:
        known = text.lower() in self.directory.accounts and text.lower() not in self.directory.aliases
        return Recipient(address(text), text.lower() if known else "", **more)

    def run(
        self,
        pipeline: Pipeline | Sequence[Any] | Mapping[str, Any] | None,
        mail: Mail,
        *,
        accepted: bool = False,
        budget: float = 30.0,
    ) -> Plan:
        """In a session, unless `accepted`."""
        built = pipeline if isinstance(pipeline, Pipeline) else self.build(pipeline)
        deadline = None if accepted else self.clock.monotonic() + budget
        return asyncio.run(built.run(mail, deadline=deadline))

    def again(self, plan: Plan, index: int = 0) -> Mail:
        """The mail that a runner makes of a row, after a restart."""
        row = plan.queued[index]
        mail = Mail(
            row.id,
            row.sender,
            list(row.recipients),
            row.rendering.content,
            row.origin,
            created=row.created,
            state=row.state,
            step=row.step,
            ret=row.ret,
            envid=row.envid,
        )
        mail.attributes = dict(row.attributes)
        return mail


def step(given: Any) -> schema.Step:
    if isinstance(given, dict):
        return schema.Step(**given)
    matcher, mailet, *params = given
    return schema.Step(matcher=matcher, mailet=mailet, params=params[0] if params else {})


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def fresh_kit() -> type[Kit]:
    """For tests that need many, one for each example."""
    return Kit
