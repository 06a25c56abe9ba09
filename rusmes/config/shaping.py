"""[[delivery.provider]], [[delivery.site]], [[delivery.rule]] and [egress]: their checks, and the files that hold more of them.

In `rusmes.toml` a mistake is an error like any other. In a shaping file it costs that entry alone: the file may come from
elsewhere, and must not stop mail. What was skipped is in `Config.shaping_problems`, with its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import tomli
from msgspec import Struct
from msgspec.structs import replace

from rusmes.config import names
from rusmes.config.convert import convert_table
from rusmes.config.outbound import Delivery, Egress, EgressPool, Provider, Rule, Shaped, Site, Source, Values
from rusmes.config.positions import key_lines, line_of
from rusmes.config.problems import Collector, KeyPath, dotted, nearest
from rusmes.config.replypattern import compile_reply_pattern
from rusmes.config.units import Duration

if TYPE_CHECKING:
    from rusmes.config.schema import Config

BUNDLED: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "delivery", "shaping", "providers.toml")
MAX_FILE_BYTES: Final = 4 << 20
UNUSABLE: Final = ": cannot be used: "
KINDS: Final[dict[str, type[Struct]]] = {"provider": Provider, "site": Site, "rule": Rule}
SET_SCOPES: Final = ("site", "provider", "source-site")
"""For whom `action = "set"` can hold."""
_HEADER: Final = re.compile(r"^[ \t]*\[\[[ \t]*(\w+)[ \t]*\]\]", re.MULTILINE)
VALUE_NAMES: Final = Values.__struct_fields__

T = TypeVar("T", bound=Struct)


# Checks


def check_provider(path: KeyPath, provider: Provider, problems: Collector) -> Provider:
    if not provider.name:
        problems.add((*path, "name"), "is empty")
    return _with_patterns(path, _checked_values(path, provider, problems), ("mx", "domains"), problems)


def check_site(path: KeyPath, site: Site, problems: Collector) -> Site:
    if not (site.match or site.mx or site.domains or site.provider):
        problems.add(path, '"match" is missing', 'or "mx", "domains" or "provider"')
    return _with_patterns(path, _checked_values(path, site, problems), ("match", "mx", "domains"), problems)


def check_rule(path: KeyPath, rule: Rule, problems: Collector) -> Rule:
    try:
        compile_reply_pattern(rule.reply)
    except ValueError as error:
        problems.add((*path, "reply"), str(error))
    given = [key for key in VALUE_NAMES if getattr(rule.set, key) is not None]
    if rule.action == "set":
        if not given:
            problems.add(path, 'action = "set" sets nothing', "set = { connections_per_site = 1 }")
        if rule.scope not in SET_SCOPES:
            problems.add((*path, "scope"), f'values are set for {", ".join(SET_SCOPES)}, not for a {rule.scope}')
    elif given:
        problems.add((*path, "set"), 'is for action = "set"')
    if rule.scope == "provider" and (rule.action == "suspend" or not rule.provider):
        problems.add((*path, "scope"), 'a provider is for action = "set", and has to be named', 'provider = "..."')
    for key in ("duration", "within"):
        if getattr(rule, key) <= 0:
            problems.add((*path, key), "must be longer than 0")
    _checked_values((*path, "set"), rule.set, problems)
    return _with_patterns(path, rule, ("mx", "domains"), problems)


_CHECKS: Final[dict[str, Callable[[KeyPath, Any, Collector], Any]]] = {
    "provider": check_provider,
    "site": check_site,
    "rule": check_rule,
}


def _checked_values(path: KeyPath, values: T, problems: Collector) -> T:
    for index, text in enumerate(getattr(values, "source_addresses", None) or ()):
        _each(problems, (*path, "source_addresses", index), names.ip_address, text)
    timeout = getattr(values, "connect_timeout", None)
    if isinstance(timeout, Duration) and timeout <= 0:
        problems.add((*path, "connect_timeout"), "must be longer than 0")
    return values


def _with_patterns(path: KeyPath, entry: T, keys: Iterable[str], problems: Collector) -> T:
    checked = {}
    for key in keys:
        form = names.pattern if key == "domains" else names.host_pattern
        checked[key] = tuple(_each(problems, (*path, key, i), form, text) for i, text in enumerate(getattr(entry, key)))
    return replace(entry, **checked)


def _each(problems: Collector, path: KeyPath, check_one: Callable[[str], Any], text: str) -> Any:
    try:
        return check_one(text)
    except ValueError as error:
        problems.add(path, str(error))
        return text


def check_shaping(
    delivery: Delivery, egress: Egress, shaped: Iterable[Shaped], skipped: Sequence[str], problems: Collector
) -> Delivery:
    """The entries of rusmes.toml itself, and the names that they use of each other. A provider that may be in what was skipped
    of a shaping file is no error: its entry means nobody until that is right."""
    delivery = replace(
        delivery,
        provider=tuple(check_provider(("delivery", "provider", i), one, problems) for i, one in enumerate(delivery.provider)),
        site=tuple(check_site(("delivery", "site", i), one, problems) for i, one in enumerate(delivery.site)),
        rule=tuple(check_rule(("delivery", "rule", i), one, problems) for i, one in enumerate(delivery.rule)),
    )
    providers = {one.name for one in delivery.provider}
    providers |= {one.entry.name for one in shaped if isinstance(one.entry, Provider)}
    for kind in ("provider", "site", "rule"):
        for index, entry in enumerate(getattr(delivery, kind)):
            path: KeyPath = ("delivery", kind, index)
            for key, reason in unknown_names(entry, providers, egress):
                if key == "provider" and skipped:
                    problems.warnings.append(f"{dotted((*path, key))}: {reason}")
                else:
                    problems.add((*path, key), reason)
    return delivery


def unknown_names(entry: Provider | Site | Rule, providers: set[str], egress: Egress) -> list[tuple[str, str]]:
    """(key, reason) for each name in an entry that nothing has."""
    found = []
    if not isinstance(entry, Provider) and entry.provider and entry.provider not in providers:
        found.append(("provider", f'there is no provider "{entry.provider}"'))
    sources = {source.name for source in egress.source}
    if not isinstance(entry, Rule):
        found += [("sources", f'there is no [[egress.source]] "{name}"') for name in entry.sources if name not in sources]
    pool = entry.set.pool if isinstance(entry, Rule) else entry.pool
    if pool and pool not in sources | {one.name for one in egress.pool}:
        found.append(("pool", f'there is no [[egress.pool]] or [[egress.source]] "{pool}"'))
    return found


# Egress


def check_egress(egress: Egress, problems: Collector) -> Egress:
    """Sources and pools, and the names that they use of each other."""
    sources: set[str] = set()
    for index, source in enumerate(egress.source):
        path: KeyPath = ("egress", "source", index)
        if not source.name or source.name in sources or not source.name.isprintable():
            problems.add((*path, "name"), f'the name "{source.name}" is empty or taken')
        sources.add(source.name)
        _check_source(path, source, problems)
    known = set(sources)
    for index, pool in enumerate(egress.pool):
        path = ("egress", "pool", index)
        if not pool.name or pool.name in known:
            problems.add((*path, "name"), f'the name "{pool.name}" is empty or taken')
        known.add(pool.name)
        if not pool.sources:
            problems.add(path, "has no sources")
        for name in pool.sources:
            if name not in sources:
                problems.add((*path, "sources"), f'there is no [[egress.source]] "{name}"', nearest(name, sources))
    name = egress.default_pool
    if name and name not in known:
        problems.add(("egress", "default_pool"), f'there is no pool "{name}"', nearest(name, known))
    for tenant, name in egress.tenant_pools.items():
        if name not in known:
            problems.add(("egress", "tenant_pools", tenant), f'there is no pool "{name}"', nearest(name, known))
    return replace(
        egress,
        pool=tuple(replace(pool, sources=pool_weights(pool)) for pool in egress.pool),
        source=tuple(
            replace(one, ehlo=_each(problems, ("egress", "source", i, "ehlo"), names.ehlo_name, one.ehlo) if one.ehlo else "")
            for i, one in enumerate(egress.source)
        ),
    )


def pool_weights(pool: EgressPool) -> dict[str, int]:
    """The sources of a pool with their weights, in the order they are written in."""
    return dict(pool.sources) if isinstance(pool.sources, dict) else dict.fromkeys(pool.sources, 1)


def _check_source(path: KeyPath, source: Source, problems: Collector) -> None:
    families = []
    for index, text in enumerate(source.addresses):
        address = _each(problems, (*path, "addresses", index), names.ip_address, text)
        family = 6 if ":" in str(address) else 4
        if family in families:
            problems.add((*path, "addresses", index), f"is a second IPv{family} address", "give it a source of its own")
        families.append(family)
    if source.proxy:
        parts = _each(problems, (*path, "proxy"), names.proxy, source.proxy)
        if isinstance(parts, tuple) and parts[0] == "haproxy" and not source.addresses:
            problems.add((*path, "proxy"), "is told the source's addresses, and there are none", 'addresses = ["192.0.2.1"]')
        if isinstance(parts, tuple) and parts[0] == "haproxy" and source.proxy_username:
            problems.add((*path, "proxy_username"), "is for socks5")
    elif source.proxy_username:
        problems.add((*path, "proxy_username"), "is never used: there is no proxy")
    if source.proxy_username and not 0 < len(source.proxy_password.encode()) < 256:
        problems.add((*path, "proxy_password"), "has not 1 to 255 octets")  # RFC 1929 §2
    if len(source.proxy_username.encode()) > 255:
        problems.add((*path, "proxy_username"), "is longer than 255 octets")
    if source.warmup is not None and source.warmup.since:
        _each(problems, (*path, "warmup", "since"), names.date, source.warmup.since)


# Files


def load_shaping(delivery: Delivery, egress: Egress) -> tuple[tuple[Shaped, ...], tuple[str, ...]]:
    """The entries of the bundled file and of the operator's, in their order, and what was skipped of them."""
    entries: list[Shaped] = []
    problems: list[str] = []
    if delivery.bundled_shaping:
        bundled = _bundled()
        entries += bundled[0]
        problems += bundled[1]
    for path in delivery.shaping_files:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MB")
            found, wrong = parse_shaping(data.decode("utf-8-sig"), path)
        except (OSError, ValueError) as error:  # UnicodeDecodeError is one
            reason = error.strerror if isinstance(error, OSError) else error
            problems.append(f"{path}{UNUSABLE}{reason}")
            continue
        entries += found
        problems += wrong
    kept: list[Shaped] = []
    providers = {one.name for one in (*(shaped.entry for shaped in entries), *delivery.provider) if isinstance(one, Provider)}
    for one in entries:
        unknown = unknown_names(one.entry, providers, egress)
        if unknown:
            problems += [f"{one.file}:{one.line}: {key}: {reason} (the entry is skipped)" for key, reason in unknown]
        else:
            kept.append(one)
    return tuple(kept), tuple(problems)


def with_kept_files(new: Config, old: Config) -> Config:
    """A configuration that was read anew, with what was read before of files that cannot be used now: their limits must not be
    gone because somebody is in the middle of writing them."""
    lost = {path for path in new.delivery.shaping_files if any(p.startswith(f"{path}{UNUSABLE}") for p in new.shaping_problems)}
    kept = [one for one in old.shaping if one.file in lost]
    if not kept:
        return new
    order = {path: place for place, path in enumerate((BUNDLED, *new.delivery.shaping_files))}
    entries = sorted((*new.shaping, *kept), key=lambda one: order.get(one.file, -1))  # stable: as written in each file
    return replace(new, shaping=tuple(entries))


@cache
def _bundled() -> tuple[tuple[Shaped, ...], tuple[str, ...]]:
    try:
        with open(BUNDLED, encoding="utf-8") as file:
            entries, problems = parse_shaping(file.read(), BUNDLED)
    except (OSError, ValueError) as error:
        return (), (f"{BUNDLED}: cannot be used: {error}",)
    return tuple(entries), tuple(problems)


def _header_lines(text: str) -> dict[KeyPath, int]:
    """The line of each [[header]]; what `positions` finds, for a file that is right and read at every start."""
    lines: dict[KeyPath, int] = {}
    counts: dict[str, int] = {}
    line, at = 1, 0
    for match in _HEADER.finditer(text):
        line += text.count("\n", at, match.start(1))
        at = match.start(1)
        index = counts[match[1]] = counts.get(match[1], -1) + 1
        lines[match[1], index] = line
    return lines


def parse_shaping(text: str, path: str) -> tuple[list[Shaped], list[str]]:
    """The entries of one file that are right, and what is wrong with the others.

    Raises:
        ValueError: the text is no TOML.
    """
    text = text.replace("\r\n", "\n")
    try:
        raw = tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"is no TOML: {error}") from None
    starts = _header_lines(text)
    entries: list[Shaped] = []
    problems: list[str] = []

    def tell(at: KeyPath, key: KeyPath, reason: str, hint: str, then: str) -> None:
        place = f"{path}:{line_of(at, key_lines(text)) or 1}: {dotted(key)}: {reason}"
        problems.append(f"{place} ({hint}; {then})" if hint else f"{place} ({then})")

    for kind, tables in raw.items():
        if kind not in KINDS or not isinstance(tables, list):
            tell((kind,), (kind,), "unknown key", nearest(kind, KINDS) if kind not in KINDS else f"write [[{kind}]]", "skipped")
            continue
        for index, table in enumerate(tables):
            where: KeyPath = (kind, index)
            collector = Collector()
            entry: Any = convert_table(KINDS[kind], table, where, collector)
            if entry is not None and not collector.found:
                entry = _CHECKS[kind](where, entry, collector)
            for at, reason, hint in collector.found:
                tell(at, at, reason, hint, "the entry is skipped")
            if not collector.found:
                entries.append(Shaped(entry, path, starts.get(where, 0)))
    # Their order counts, over kinds too: it is that of the file.
    return sorted(entries, key=lambda one: one.line), problems
