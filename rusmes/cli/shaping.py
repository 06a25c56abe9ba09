"""`rusmes shaping`: why mail to a domain goes as it goes, and what rules have set.

It reads the configuration, asks the name servers, and looks into the ledger, beside a running server or without one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.cli.context import Context, JsonGroup, OperatorError, pass_context
from rusmes.cli.stores import ledger_of
from rusmes.clock import SystemClock
from rusmes.config import names
from rusmes.config.units import duration_text
from rusmes.delivery.egress.exits import Exits
from rusmes.delivery.explain import Explanation, explain
from rusmes.delivery.shaping.overrides import TABLE, Override, Overrides
from rusmes.dns import Resolver
from rusmes.errors import NotFound
from rusmes.model.plan import Refusal
from rusmes.queue.suspensions import Suspensions

DURATIONS = ("connect_timeout", "idle_timeout")


@click.group(cls=JsonGroup)
def shaping() -> None:
    """How gently servers are treated, and by whom mail leaves."""


@shaping.command("explain")
@click.argument("domain")
@click.option("--source", default="", metavar="NAME", help="As mail that leaves by this egress source.")
@click.option("--tenant", default="", metavar="NAME", help="As mail of this tenant.")
@pass_context
def explain_domain(context: Context, domain: str, source: str, tenant: str) -> None:
    """Where mail to DOMAIN goes, which values hold there, and which file, rule and line gives each of them."""
    config = context.config
    try:
        domain = names.domain_name(domain.rpartition("@")[2])
    except ValueError as error:
        raise OperatorError(str(error), "write a domain: example.org") from None
    known = [one.name for one in config.egress.source]
    if source and source not in known:
        raise OperatorError(f'there is no [[egress.source]] "{source}"', f"known: {', '.join(known)}" if known else "")
    clock = SystemClock()
    text = Path(config.path).read_text(encoding="utf-8-sig").replace("\r\n", "\n") if config.path else ""
    with ledger_of(config, read_only=True) as ledger:
        suspensions = Suspensions(ledger, clock) if ledger is not None else None
        found = context.run(
            explain(
                config,
                domain,
                resolver=Resolver(clock, config.delivery.resolver),
                clock=clock,
                ledger=ledger,
                suspender=suspensions,
                tenant=tenant,
                source=source,
                text=text,
            )
        )
    if isinstance(found, Refusal):
        raise OperatorError(f"{domain}: {found.code} {found.status} {found.text}")
    context.output.show(msgspec.to_builtins(found), lambda: _print(context, found))


def _print(context: Context, found: Explanation) -> None:
    output = context.output
    output.facts(
        [
            ("Destination", found.destination),
            ("Site", found.site),
            ("Provider", found.provider or "not known"),
            ("Hosts", " > ".join(", ".join(group) for group in found.hosts)),
            ("Pool", found.pool or "none"),
        ]
    )
    if found.suspended:
        output.say(f"Suspended: {found.suspended}", "bold red")
    output.say("")
    rows = [
        (one.key, _shown(one.key, one.value), one.by, f"{one.file}:{one.line}" if one.line else one.file)
        for one in found.values
    ]
    output.table(("value", "is", "by", "written in"), rows, empty="")
    if found.sources:
        output.say("")
        output.table(
            ("source", "addresses", "EHLO", "proxy", "#today", "#limit", "suspended"),
            [
                (
                    one.name, ", ".join(one.addresses), one.ehlo, one.proxy, one.used if one.limit else "", one.limit or "",
                    one.suspended,
                )
                for one in found.sources
            ],
            empty="",
        )  # fmt: skip
    if found.rules:
        output.say("")
        _table(context, list(found.rules))


def _shown(key: str, value: Any) -> str:
    if value in (0, "", ()) and key not in DURATIONS:
        return "no limit" if "_per_" in key else "-"
    if key in DURATIONS:
        return duration_text(float(value))
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


@shaping.command("sources")
@pass_context
def sources(context: Context) -> None:
    """The egress sources: their pools, and how far each has come with its warm-up today."""
    clock = SystemClock()
    config = context.config
    with ledger_of(config, read_only=True) as ledger:
        suspensions = Suspensions(ledger, clock) if ledger is not None else None
        overrides = Overrides(ledger, clock)
        exits = Exits(config, clock, SharedCounters(1, 1024), Metrics(), overrides, ledger, suspensions)
        data = [_source_document(exits, keys.name, suspensions) for keys in config.egress.source]

    def for_people() -> None:
        context.output.table(
            ("source", "addresses", "EHLO", "proxy", "pools", "#day", "today", "suspended"),
            [
                (
                    one["name"], ", ".join(one["addresses"]), one["ehlo"], one["proxy"], ", ".join(one["pools"]),
                    f"{one['day']} of {one['days']}" if one["day"] else "",
                    ", ".join(f"{name} {row['sent']}/{row['limit']}" for name, row in one["today"].items()),
                    one["suspended"],
                )
                for one in data
            ],
            empty="There is no [[egress.source]]: mail leaves as the system chooses.",
        )  # fmt: skip

    context.output.show({"sources": data}, for_people)


def _source_document(exits: Exits, name: str, suspensions: Suspensions | None) -> dict[str, Any]:
    source = exits.source(name)
    assert source is not None
    found = suspensions.until(source=name) if suspensions is not None else None
    day = exits.warmups.day(source)
    days = source.warmup.days if source.warmup is not None else 0
    is_warming = 0 <= day < days
    sent = exits.warmups.today(source) if is_warming else {}
    return {
        "name": name,
        "addresses": [address for address in (source.ipv4, source.ipv6) if address],
        "ehlo": source.ehlo,
        "proxy": f"{source.way.kind}://{source.way.host}:{source.way.port}" if source.way.host else "",
        "pools": exits.pools_of(source),
        "day": day + 1 if is_warming else 0,
        "days": days,
        "today": {
            provider: {"sent": count, "limit": exits.warmups.limit(source, provider, is_trial=True)}
            for provider, count in sorted(sent.items())
        },
        "suspended": found[1] if found is not None else "",
    }


@shaping.command("active")
@pass_context
def active(context: Context) -> None:
    """What rules have set, and for how long; what they have suspended is in `rusmes queue suspensions` too."""
    with ledger_of(context.config, read_only=True) as ledger:
        found = Overrides(ledger, SystemClock()).list() if ledger is not None else []
    context.output.show({"rules": [msgspec.to_builtins(one) for one in found]}, lambda: _table(context, found))


def _table(context: Context, found: list[Override]) -> None:
    now = time.time()
    context.output.table(
        ("rule", "for", "name", "source", "does", "ends in", "after the reply"),
        [
            (
                one.rule,
                one.scope,
                one.name,
                one.source,
                "suspended" if one.suspended else ", ".join(f"{key} = {value}" for key, value in one.values.items()),
                duration_text(max(one.until - now, 1.0)),
                one.reply,
            )
            for one in found
        ],
        empty="No rule is in force.",
    )


@shaping.command("forget")
@click.argument("name")
@pass_context
def forget(context: Context, name: str) -> None:
    """End at once what rules have set for the site or provider NAME."""
    with ledger_of(context.config) as ledger:
        assert ledger is not None
        found = [one for one in Overrides(ledger, SystemClock()).list() if one.name == name]
        for one in found:
            ledger.delete(TABLE, one.key)
    if not found:
        raise NotFound(f"no rule is in force for {name}", "`rusmes shaping active` shows them")
    context.output.done(f"{len(found)} rules have no effect on {name} any more.", name=name, forgotten=len(found))
