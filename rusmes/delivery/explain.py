"""Why mail to a domain is treated as it is: each value with where it is written, and what is in force against it now."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import Clock
from rusmes.config.positions import key_lines
from rusmes.config.schema import Config
from rusmes.delivery.egress.exits import Exits
from rusmes.delivery.egress.sources import Source
from rusmes.delivery.routes import PUBLISHED, VIA, RoutePlan, RouteTable
from rusmes.delivery.shaping.layers import Layers, Origin, Setting, narrowed
from rusmes.delivery.shaping.overrides import Override, Overrides
from rusmes.dns import Resolver
from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.mail import Origin as MailOrigin
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import TENANT, Suspender
from rusmes.storage.api import Ledger


class ValueOf(Struct, frozen=True):
    """`by`: "provider google"; `file` and `line`: where it says so."""

    key: str
    value: Any
    by: str
    file: str
    line: int


class SourceOf(Struct, frozen=True):
    """A source by which mail may leave. `limit` and `used` are of today's warm-up towards the provider; 0 = no plan."""

    name: str
    addresses: tuple[str, ...]
    ehlo: str
    proxy: str
    limit: int
    used: int
    suspended: str


class Explanation(Struct, frozen=True):
    """`hosts` are groups of equal preference, best first; `suspended` says why nothing is sent at all."""

    domain: str
    destination: str
    site: str
    provider: str
    hosts: tuple[tuple[str, ...], ...]
    pool: str
    source: str
    sources: tuple[SourceOf, ...]
    values: tuple[ValueOf, ...]
    rules: tuple[Override, ...]
    """What rules have set, and is in force."""
    suspended: str


async def explain(
    config: Config,
    domain: str,
    *,
    resolver: Resolver,
    clock: Clock,
    ledger: Ledger | None = None,
    suspender: Suspender | None = None,
    tenant: str = "",
    source: str = "",
    text: str = "",
) -> Explanation | Refusal:
    """How mail to `domain` would be sent now; a refusal says why it cannot be. `text` is that of rusmes.toml, for its lines."""
    overrides = Overrides(ledger, clock)
    overrides.look()
    routes = RouteTable(config, resolver, clock, config.hostname or "localhost", overrides=overrides)
    exits = Exits(config, clock, SharedCounters(1, 1024), Metrics(), overrides, ledger, suspender)
    recipient = Recipient(Address("postmaster", domain))
    nothing = Rendering(Content(b"", 0, 0, data=b""))
    attributes: Any = {TENANT: tenant} if tenant else {}
    item = Queued(b"", "relay", None, (recipient,), nothing, MailOrigin(), clock.now(), attributes=attributes)
    place = routes.destination(item, recipient)
    destination = f"{place}{VIA}{source}" if source else place
    plan = await routes.find_plan(destination)
    if isinstance(plan, Refusal):
        return plan
    pool = exits.pool(tenant, plan.pool)
    is_by_mx = place.startswith("mx:")
    known = (exits.source(source),) if source else tuple(pool.sources) if pool is not None else ()
    found = suspender.until(site=plan.site, domain=domain, tenant=tenant) if suspender is not None else None
    active = [one for one in overrides.list() if one.name == (plan.provider if one.scope == "provider" else plan.site)]
    return Explanation(
        domain=domain,
        destination=place,
        site=plan.site,
        provider=plan.provider,
        hosts=plan.hosts,
        pool=pool.name if pool is not None else "",
        source=source,
        sources=tuple(_source_of(one, plan, exits, overrides, suspender) for one in known if one is not None),
        values=_values_of(config, plan, domain if is_by_mx else "", source, overrides, text),
        rules=tuple(active),
        suspended=found[1] if found is not None else "",
    )


def _source_of(
    source: Source, plan: RoutePlan, exits: Exits, overrides: Overrides, suspender: Suspender | None
) -> SourceOf:
    found = suspender.until(source=source.name) if suspender is not None else None
    stopped = overrides.suspension(plan.site, source.name)
    has_plan = source.warmup is not None
    way = source.way
    return SourceOf(
        name=source.name,
        addresses=tuple(address for address in (source.ipv4, source.ipv6) if address),
        ehlo=source.ehlo,
        proxy=f"{way.kind}://{way.host}:{way.port}" if way.host else "",
        limit=exits.warmups.limit(source, plan.provider, is_trial=True) if has_plan else 0,
        used=exits.warmups.used(source, plan.provider) if has_plan else 0,
        suspended=found[1] if found is not None else stopped.reply if stopped is not None else "",
    )


def _values_of(
    config: Config, plan: RoutePlan, domain: str, source: str, overrides: Overrides, text: str
) -> tuple[ValueOf, ...]:
    hosts = [host for group in plan.hosts for host in group]
    shape = Layers(config).shape(hosts, plan.hosts[0], domain, source)
    for one in overrides.values_for(plan.site, plan.provider, source):
        shape = narrowed(shape, one.values.items(), Origin(one.where.rpartition(":")[0], _line(one.where), f"rule {one.rule}"))
    lines = key_lines(text) if text else {}

    def told(key: str, setting: Setting) -> ValueOf:
        origin, value = setting.origin, setting.value
        value = float(value) if isinstance(value, float) else value
        line = origin.line
        if origin.key and lines:
            line = lines.get((*origin.key, key), 0) or lines.get(origin.key, 0)
        elif line and not origin.what.startswith("rule "):
            line = _line_in_file(origin.file, line, key)
        if key == "tls" and plan.tls != setting.value:
            published = plan.tls in PUBLISHED and setting.value in ("opportunistic", "dane")
            return ValueOf(key, plan.tls, "what the domain publishes" if published else "the route", "", 0)
        if not line and origin.what in ("[delivery]", "[egress]"):
            return ValueOf(key, value, "default", "", 0)
        return ValueOf(key, value, origin.what, origin.file, line)

    return tuple(told(key, setting) for key, setting in shape.settings.items())


def _line_in_file(path: str, start: int, key: str) -> int:
    """The line of a key in the entry that begins at `start`, or that line."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()[start:]
    except (OSError, ValueError):
        return start
    for number, line in enumerate(lines, start + 1):
        if line.lstrip().startswith("["):
            break
        if line.partition("=")[0].strip() == key:
            return number
    return start


def _line(where: str) -> int:
    line = where.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0
