"""The pipeline: processors built from the configuration, run over one mail, giving its plan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Final

from rusmes._core.mailet import Journey, Step, fork
from rusmes.config import schema
from rusmes.mailet.api import CONTINUE, Decision, Toolbox
from rusmes.mailet.assembly import Assembly
from rusmes.mailet.registry import Registry
from rusmes.mailet.resume import RESUME, unpack
from rusmes.mailet.settlement import Settlement, StepTimeout, merged
from rusmes.mailet.survey import survey
from rusmes.metrics import MAIL_OUTCOMES, MAIL_PROCESSED, PIPELINE_SECONDS, Metrics
from rusmes.model.mail import Mail
from rusmes.model.plan import Plan

DEFAULT_TIMEOUT: Final = 30.0
"""[queue] session_budget's default."""


class Pipeline:
    """Immutable once built; a reload builds another one. Implements `mailet.api.PipelineRunner`."""

    __slots__ = ("_chains", "_metrics", "_toolbox", "events", "warnings")

    def __init__(self, chains: dict[str, list[Step]], toolbox: Toolbox, warnings: list[str], metrics: Metrics | None) -> None:
        self._chains = chains
        self._toolbox = toolbox
        self._metrics = metrics
        self.warnings = warnings
        """What `check-config` should tell: processors nobody enters, paths that end undecided, possible cycles."""
        self.events = tuple(
            dict.fromkeys(step.mailet.event for steps in chains.values() for step in steps if hasattr(step.mailet, "event"))
        )
        """Labels that the Metrics mailets count under."""

    @classmethod
    def build(
        cls,
        processors: Sequence[schema.Processor],
        toolbox: Toolbox,
        registry: Registry,
        *,
        metrics: Metrics | None = None,
        default_timeout: float = DEFAULT_TIMEOUT,
        rewrite: bool | None = None,
    ) -> Pipeline:
        """Build every matcher and mailet; touches nothing outside.

        Args:
            default_timeout: seconds for an asynchronous mailet whose step names none.
            rewrite: whether `root` begins with an implicit RecipientRewrite; None: when no processor names that mailet.

        Raises:
            ConfigError: a name, parameter or state is wrong; it names processor, step and parameter, with the nearest name.
        """
        assembly = Assembly(toolbox, registry, default_timeout=default_timeout, metrics=metrics)
        chains = assembly.chains(processors, rewrite=rewrite)
        return cls(chains, toolbox, survey(chains), metrics)

    @property
    def states(self) -> tuple[str, ...]:
        return tuple(self._chains)

    def steps(self, state: str) -> tuple[Step, ...]:
        """The steps of a processor, for listings and tests."""
        return tuple(self._chains[state])

    async def run(self, mail: Mail, *, deadline: float | None = None) -> Plan:
        """Decide about a mail, from (`mail.state`, `mail.step`) on; see `PipelineRunner.run`.

        Raises:
            StoreError: a notice could not be written; nothing was decided.
        """
        plan = self.start(mail, deadline=deadline)
        return plan if isinstance(plan, Plan) else await plan

    def start(self, mail: Mail, *, deadline: float | None = None) -> Plan | Awaitable[Plan]:
        """Like `run`; the plan at once when no mailet has to be waited for. Most pipelines wait for nobody."""
        started = time.perf_counter()
        in_session = deadline is not None
        settlement = Settlement(self._toolbox, self._chains, in_session, len(mail.recipients), self._metrics)
        left = 0.0 if deadline is None else deadline - self._toolbox.clock.monotonic()
        journey = Journey(self._chains, settlement, CONTINUE, Decision, in_session, left)
        if mail.attributes and RESUME in mail.attributes:
            unpack(mail, self._chains)
        if len(mail.recipients) > 1:
            mail.recipients = merged(mail.recipients)
        waiting = _advance(journey, settlement, mail)
        if waiting is not None:
            return self._go_on(journey, settlement, waiting, deadline, started)
        return self._concluded(settlement.plan, started)

    async def _go_on(
        self, journey: Journey, settlement: Settlement, waiting: Awaitable[Decision], deadline: float | None, started: float
    ) -> Plan:
        while True:
            await self._wait(journey, waiting, deadline)
            next_one = journey.advance()
            if next_one is None:
                next_one = _advance(journey, settlement, settlement.next_mail())
            if next_one is None:
                return self._concluded(settlement.plan, started)
            waiting = next_one

    def _concluded(self, plan: Plan, started: float) -> Plan:
        if self._metrics is not None:
            self._count(self._metrics, plan, time.perf_counter() - started)
        return plan

    async def _wait(self, journey: Journey, waiting: Awaitable[Decision], deadline: float | None) -> None:
        """Wait for a mailet as long as its step and the session allow; in time or not, the journey then goes on."""
        step: Step = journey.step  # type: ignore[assignment]
        mail: Mail = journey.mail
        # A coroutine has not begun yet: this is the mail as it was, should the mailet be cancelled half way.
        before = fork(mail, list(mail.recipients))
        clock = self._toolbox.clock
        limit = step.timeout or None
        cut_short = False
        if deadline is not None:
            left = max(0.0, deadline - clock.monotonic())
            if limit is None or left < limit:
                limit, cut_short = left, True
        started = time.perf_counter()
        try:
            async with asyncio.timeout(limit) as timer:
                decision = await waiting
        except Exception as error:
            seconds = time.perf_counter() - started
            if not (isinstance(error, TimeoutError) and timer.expired()):
                journey.fail(error, mail, seconds)
            elif cut_short:
                journey.interrupt(before)
            else:
                journey.fail(StepTimeout(f"no decision within {step.timeout:g} s"), before, seconds)
        else:
            journey.resume(decision, time.perf_counter() - started)

    def _count(self, metrics: Metrics, plan: Plan, seconds: float) -> None:
        metrics.inc(MAIL_PROCESSED)
        metrics.observe(PIPELINE_SECONDS, seconds)
        if plan.appends:
            metrics.inc(MAIL_OUTCOMES["local"], len(plan.appends))
        for queued in plan.queued:
            outcome = _OUTCOMES.get(queued.action, "deferred" if queued.due else "resumed")
            metrics.inc(MAIL_OUTCOMES[outcome], len(queued.recipients))
        if plan.refused:
            metrics.inc(MAIL_OUTCOMES["rejected"], len(plan.refused))
        for _, reason in plan.dropped:
            metrics.inc(MAIL_OUTCOMES["bounced" if reason.startswith("bounced: ") else "dropped"])


def _advance(journey: Journey, settlement: Settlement, mail: Mail | None) -> Awaitable[Decision] | None:
    """Run a mail, and those made on the way, until a mailet has to be waited for; None at the end."""
    while mail is not None:
        if mail.recipients:
            journey.enter(mail)
        waiting = journey.advance()
        if waiting is not None:
            return waiting
        mail = settlement.next_mail()
    return None


_OUTCOMES: Final = {"relay": "relay", "hold": "held", "local": "local"}
