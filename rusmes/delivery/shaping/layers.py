"""Which value holds towards a site, and who said so.

From the bottom to the top, and a higher layer replaces single keys:

1. [delivery];
2. entries about the provider;
3. entries about the site: its MX hosts, or all sites of a provider;
4. entries about the destination's domain;
5. the same three again, those that are for the source alone that mail leaves by.

Within a layer the order is: bundled file, the operator's files, rusmes.toml; in each as written. What a rule has set for a time
comes after all of it, and only makes narrower.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from rusmes.config.schema import Config, Provider, Rule, Shaped, Site
from rusmes.config.shaping import VALUE_NAMES

LIMITS: Final = (
    "connections_per_site",
    "messages_per_second",
    "messages_per_minute",
    "messages_per_hour",
    "messages_per_day",
    "connections_per_second",
    "initial_connections",
)
"""Values that count something: domains that have some of their own are a site of their own."""

_TIMES: Final = ("_second", "_minute", "_hour", "_day")
RATES: Final = frozenset(name for name in VALUE_NAMES if name.endswith(_TIMES))
_ZERO_IS_NONE: Final = RATES | {"connections_per_provider", "initial_connections"}
"""Values of which 0 means "no limit"."""

_PROVIDER, _SITE, _DOMAIN = 0, 1, 2


class Origin(Struct, frozen=True):
    """Where a value is written: "[delivery]", a file and its line, or a rule that has set it."""

    file: str = ""
    line: int = 0
    what: str = ""
    """"provider google", "site *.example.net", "rule ..."."""
    key: tuple[str | int, ...] = ()
    """Of rusmes.toml, whose lines are not known here."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.what} ({place})" if self.what and place else self.what or place


class Setting(Struct, frozen=True):
    value: Any
    origin: Origin


class Shape(Struct, frozen=True):
    """What holds towards one destination by one source."""

    settings: dict[str, Setting]
    provider: str = ""
    own_limits: bool = False
    """An entry about the domain says how much: the domain is counted alone."""

    def __getitem__(self, key: str) -> Any:
        return self.settings[key].value


class _Entry(Struct, frozen=True):
    layer: int
    provider: str
    hosts: tuple[str, ...]
    """Patterns; of an entry about domains: those of hosts that it is not about."""
    domains: tuple[str, ...]
    sources: tuple[str, ...]
    values: tuple[tuple[str, Any], ...]
    origin: Origin


class Layers:
    """All entries of a configuration, in their order."""

    def __init__(self, config: Config) -> None:
        entries: tuple[Provider | Site, ...] = (*config.delivery.provider, *config.delivery.site)
        inline = [Shaped(entry, config.path or "rusmes.toml") for entry in entries]
        keys = [("delivery", "provider", index) for index in range(len(config.delivery.provider))]
        keys += [("delivery", "site", index) for index in range(len(config.delivery.site))]
        listed: list[tuple[Shaped, tuple[str | int, ...]]] = [(one, ()) for one in config.shaping]
        listed += list(zip(inline, keys, strict=True))
        self._hosts: dict[str, str] = {}
        """Provider by pattern of its hosts."""
        self._domains: dict[str, str] = {}
        self._entries: list[_Entry] = []
        for shaped, key in listed:
            if not isinstance(shaped.entry, Rule):
                self._add(shaped.entry, Origin(shaped.file, shaped.line, _title(shaped.entry), key))
        delivery = config.delivery
        self._defaults = {
            name: Setting(getattr(delivery, name, None), Origin(config.path, 0, "[delivery]", ("delivery", name)))
            for name in VALUE_NAMES
        }
        self._defaults["connections_per_provider"] = Setting(0, Origin(what="[delivery]"))
        pool = Origin(config.path, 0, "[egress]", ("egress", "default_pool"))
        self._defaults["pool"] = Setting(config.egress.default_pool, pool)
        self.names_pools = any(name == "pool" for entry in self._entries for name, _ in entry.values)
        """Whether the pool can depend on the site."""

    def _add(self, entry: Provider | Site, origin: Origin) -> None:
        values = tuple((name, value) for name in VALUE_NAMES if (value := getattr(entry, name)) is not None)
        if isinstance(entry, Provider):
            self._hosts |= dict.fromkeys(map(str.lower, entry.mx), entry.name)
            self._domains |= dict.fromkeys(map(str.lower, entry.domains), entry.name)
            self._entries.append(_Entry(_PROVIDER, entry.name, (), (), entry.sources, values, origin))
            return
        match, mx, domains = (tuple(map(str.lower, patterns)) for patterns in (entry.match, entry.mx, entry.domains))
        if match or mx or not domains:
            self._entries.append(_Entry(_SITE, entry.provider, (*match, *mx), (), entry.sources, values, origin))
        if match:
            # What it says of the hosts it says of the domain too, and then it is no entry about the domain.
            self._entries.append(_Entry(_DOMAIN, entry.provider, (*match, *mx), match, entry.sources, values, origin))
        if domains:
            self._entries.append(_Entry(_DOMAIN, entry.provider, (), domains, entry.sources, values, origin))

    def provider_of(self, hosts: Iterable[str], domain: str) -> str:
        """Who runs the mail of a destination; `hosts` are its best MX hosts. The longest pattern decides."""
        found = _longest(self._domains, domain) if domain else ""
        if found:
            return self._domains[found]
        found = max((_longest(self._hosts, host) for host in hosts), key=len, default="")
        return self._hosts[found] if found else ""

    def shape(self, hosts: Sequence[str], best: Iterable[str], domain: str, source: str = "") -> Shape:
        """What holds towards a destination. `best` are its hosts that are tried first; `domain` "" = a static route."""
        settings = dict(self._defaults)
        provider = self.provider_of(best, domain)
        own_limits = False
        meant = [one for one in self._entries if _means(one, provider, hosts, domain)]
        meant = [one for one in meant if not one.sources or source in one.sources]
        for one in sorted(meant, key=lambda one: (bool(one.sources), one.layer)):
            for name, value in one.values:
                settings[name] = Setting(value, one.origin)
                own_limits = own_limits or (one.layer == _DOMAIN and name in LIMITS)
        return Shape(settings, provider, own_limits)


def narrowed(shape: Shape, values: Iterable[tuple[str, Any]], origin: Origin) -> Shape:
    """A shape with what a rule has set; a limit is only made narrower."""
    settings = dict(shape.settings)
    for name, value in values:
        before = settings[name].value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(before, (int, float)):
            is_limited = before > 0 or name not in _ZERO_IS_NONE
            if name != "connect_timeout" and name != "idle_timeout" and is_limited and before <= value:
                continue
        settings[name] = Setting(value, origin)
    return Shape(settings, shape.provider, shape.own_limits)


def _title(entry: Provider | Site) -> str:
    if isinstance(entry, Provider):
        return f"provider {entry.name}" + (f" by {', '.join(entry.sources)}" if entry.sources else "")
    names = ", ".join((*entry.match, *entry.mx, *entry.domains)) or f"of provider {entry.provider}"
    return f"site {names}" + (f" by {', '.join(entry.sources)}" if entry.sources else "")


def _means(entry: _Entry, provider: str, hosts: Sequence[str], domain: str) -> bool:
    if entry.provider and entry.provider != provider:
        return False
    of_hosts = any(matches(pattern, host) for pattern in entry.hosts for host in hosts)
    if entry.layer == _DOMAIN:
        return bool(domain) and not of_hosts and any(matches(pattern, domain) for pattern in entry.domains)
    return of_hosts or not entry.hosts


def matches(pattern: str, name: str) -> bool:
    """Whether "*", "*.example.net" (at any depth) or "example.net" means a name."""
    if pattern.startswith("*"):
        return len(pattern) == 1 or name.endswith(pattern[1:])
    return name == pattern


def _longest(patterns: Iterable[str], name: str) -> str:
    return max((pattern for pattern in patterns if matches(pattern, name)), key=len, default="")
