"""What servers say, and what we do about it for a time.

Only refusals of other servers come here, never a word of our own: what a rule does can therefore not trigger a rule. A rule
counts over all workers in the shared table; what it does is in the ledger (`overrides`, and the suspensions of the queue).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config.replypattern import MAX_TEXT, compile_reply_pattern
from rusmes.config.schema import Config, Rule, Values
from rusmes.config.shaping import VALUE_NAMES
from rusmes.delivery.shaping.layers import matches
from rusmes.delivery.shaping.overrides import Override, Overrides
from rusmes.errors import RusmesError
from rusmes.log import get_logger
from rusmes.metrics import SHAPING_ACTIONS, Metrics
from rusmes.model.plan import Queued
from rusmes.queue.api import Report, Suspender, campaign_of, tenant_of

NO_LIMIT: Final = 1 << 30
"""Of what is only counted."""
FRESH: Final = 0.9
"""What still has this part of its duration before it is not renewed by the replies of transactions that were under way."""

_log = get_logger("delivery")


class Place(Struct, frozen=True):
    """Who said something, and about mail from where."""

    site: str
    provider: str
    hosts: tuple[str, ...]
    source: str = ""


class _Compiled(Struct, frozen=True):
    rule: Rule
    pattern: re.Pattern[str]
    name: str
    where: str


class Rules:
    """All rules of a configuration, in their order."""

    def __init__(self, config: Config) -> None:
        inline = [(rule, f"{config.path or 'rusmes.toml'}: delivery.rule[{i}]") for i, rule in enumerate(config.delivery.rule)]
        listed = [(one.entry, f"{one.file}:{one.line}") for one in config.shaping if isinstance(one.entry, Rule)] + inline
        self._rules = [
            _Compiled(rule, compile_reply_pattern(rule.reply), rule.name or where, where) for rule, where in listed
        ]

    def __len__(self) -> int:
        return len(self._rules)

    def meaning(self, text: str, place: Place, domain: str) -> list[_Compiled]:
        """The rules that a reply triggers."""
        text = text[:MAX_TEXT]
        return [one for one in self._rules if _is_for(one.rule, place, domain) and one.pattern.search(text) is not None]


def values_of(values: Values) -> dict[str, Any]:
    """What is set, in types that a record can hold."""
    found = {key: getattr(values, key) for key in VALUE_NAMES}
    return {key: float(value) if isinstance(value, float) else value for key, value in found.items() if value is not None}


def _is_for(rule: Rule, place: Place, domain: str) -> bool:
    if rule.provider and rule.provider != place.provider:
        return False
    if rule.mx and not any(matches(pattern, host) for pattern in rule.mx for host in place.hosts):
        return False
    return not rule.domains or any(matches(pattern, domain) for pattern in rule.domains)


class Automation:
    """Listens to refusals, counts them, and does what the rules say."""

    def __init__(
        self,
        config: Config,
        overrides: Overrides,
        clock: Clock,
        limits: SharedCounters,
        metrics: Metrics,
        suspender: Suspender | None = None,
    ) -> None:
        self._overrides = overrides
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._suspender = suspender
        self._rules = Rules(config)

    def apply(self, config: Config) -> None:
        self._rules = Rules(config)

    def heard(self, item: Queued, reports: Sequence[Report], place: Place) -> None:
        """What a server said about a mail. Called for every transaction that was not accepted as a whole."""
        if not len(self._rules):
            return
        said: set[tuple[str, str]] = set()
        for report in reports:
            # Code 0 is ours. What is said of several recipients of a domain at once is said once.
            if report.code < 400:
                continue
            domain = report.recipient.address.domain
            text = report.reply
            if (text, domain) in said:
                continue
            said.add((text, domain))
            for one in self._rules.meaning(text, place, domain):
                self._count(one, item, text, place, domain)

    def _count(self, one: _Compiled, item: Queued, text: str, place: Place, domain: str) -> None:
        rule = one.rule
        scope, name = _subject(rule.scope, item, place, domain)
        if not name:
            return
        if rule.after > 1:
            key = f"rule:{one.name}\0{scope}\0{name}\0{place.source if scope == 'source-site' else ''}".encode()
            now = self._clock.monotonic()
            self._limits.take_rate(key, NO_LIMIT, rule.within, now)
            if self._limits.peek_rate(key, rule.within, now) < rule.after:
                return
            self._limits.clear(key)
        self._act(one, scope, name, text, place)

    def _act(self, one: _Compiled, scope: str, name: str, text: str, place: Place) -> None:
        rule, now = one.rule, self._clock.now()
        until = now + rule.duration
        fresh = now + FRESH * rule.duration
        if rule.action == "suspend" and scope != "source-site":
            if self._suspender is None or self._is_suspended(scope, name, fresh):
                return
            try:
                self._suspender.suspend(scope, name, until, f"{one.name}: {text}", by=f"rule {one.name}")
            except RusmesError as error:
                _log.error("a shaping rule could not suspend", rule=one.name, scope=scope, name=name, problem=str(error))
                return
        else:
            values = values_of(rule.set)
            source = place.source if scope == "source-site" else ""
            override = Override(
                scope, name, source, until, now, one.name, one.where, text, values, rule.action == "suspend"
            )
            if any(known.key == override.key and known.until > fresh for known in self._overrides.list()):
                return
            self._overrides.put(override)
        self._metrics.inc(SHAPING_ACTIONS[rule.action])
        _log.warn(
            "a shaping rule acts",
            rule=one.name,
            action=rule.action,
            scope=scope,
            name=name,
            source=place.source,
            seconds=float(rule.duration),
            reply=text,
        )

    def _is_suspended(self, scope: str, name: str, until: float) -> bool:
        assert self._suspender is not None
        tenant, _, campaign = name.partition("/") if scope == "campaign" else ("", "", "")
        asked = {"tenant": tenant, "campaign": campaign} if scope == "campaign" else {scope: name}
        known = self._suspender.until(**asked)
        return known is not None and known[0] > until


def _subject(scope: str, item: Queued, place: Place, domain: str) -> tuple[str, str]:
    """For whom a rule acts; "" = there is nobody of that kind. Without named sources the site does without us altogether."""
    if scope == "source-site":
        return ("source-site" if place.source else "site"), place.site
    if scope == "campaign":
        campaign = campaign_of(item)
        return scope, f"{tenant_of(item)}/{campaign}" if campaign else ""
    names = {"site": place.site, "provider": place.provider, "domain": domain, "source": place.source}
    return scope, tenant_of(item) if scope == "tenant" else names[scope]
