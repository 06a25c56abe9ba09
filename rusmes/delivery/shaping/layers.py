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

from collections.abc import Iterable, Iterator, Sequence
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
    but_hosts: tuple[str, ...]
    """Patterns of hosts that an entry about domains is not about."""
    sources: tuple[str, ...]
    values: tuple[tuple[str, Any], ...]
    origin: Origin


class Patterns:
    """Patterns of names, each with a number; found without looking at those that do not match."""

    def __init__(self) -> None:
        self._exact: dict[str, list[tuple[str, int]]] = {}
        self._below: dict[str, list[tuple[str, int]]] = {}
        self._any: list[tuple[str, int]] = []

    def add(self, pattern: str, number: int) -> None:
        """"*", "*.example.net" (every name below, at any depth) or "example.net"."""
        pattern = pattern.lower()
        if pattern == "*":
            self._any.append((pattern, number))
        elif pattern.startswith("*."):
            self._below.setdefault(pattern[2:], []).append((pattern, number))
        else:
            self._exact.setdefault(pattern, []).append((pattern, number))

    def find(self, name: str) -> Iterator[tuple[str, int]]:
        """The patterns that mean a name, with their numbers; the longer the earlier."""
        yield from self._exact.get(name, ())
        at = name.find(".")
        while self._below and at >= 0:
            yield from self._below.get(name[at + 1 :], ())
            at = name.find(".", at + 1)
        yield from self._any


class Layers:
    """All entries of a configuration, in their order."""

    def __init__(self, config: Config) -> None:
        entries: tuple[Provider | Site, ...] = (*config.delivery.provider, *config.delivery.site)
        inline = [Shaped(entry, config.path or "rusmes.toml") for entry in entries]
        keys = [("delivery", "provider", index) for index in range(len(config.delivery.provider))]
        keys += [("delivery", "site", index) for index in range(len(config.delivery.site))]
        listed: list[tuple[Shaped, tuple[str | int, ...]]] = [(one, ()) for one in config.shaping]
        listed += list(zip(inline, keys, strict=True))
        self._provider_hosts = Patterns()
        self._provider_domains = Patterns()
        self._entries: list[_Entry] = []
        self._by_host = Patterns()
        self._by_domain = Patterns()
        self._by_provider: dict[str, list[int]] = {}
        """Entries about all sites of a provider."""
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
            number = self._keep(_Entry(_PROVIDER, entry.name, (), entry.sources, values, origin))
            self._by_provider.setdefault(entry.name, []).append(number)
            for patterns, index in ((entry.mx, self._provider_hosts), (entry.domains, self._provider_domains)):
                for pattern in patterns:
                    index.add(pattern, number)
            return
        hosts = (*entry.match, *entry.mx)
        if hosts or not entry.domains:
            number = self._keep(_Entry(_SITE, entry.provider, (), entry.sources, values, origin))
            for pattern in hosts:
                self._by_host.add(pattern, number)
            if not hosts:
                self._by_provider.setdefault(entry.provider, []).append(number)
        # What an entry says of the hosts it says of the domain too, and then it is no entry about the domain.
        for domains, but_hosts in ((entry.match, hosts), (entry.domains, ())):
            if domains:
                number = self._keep(
                    _Entry(_DOMAIN, entry.provider, tuple(map(str.lower, but_hosts)), entry.sources, values, origin)
                )
                for pattern in domains:
                    self._by_domain.add(pattern, number)

    def _keep(self, entry: _Entry) -> int:
        self._entries.append(entry)
        return len(self._entries) - 1

    def provider_of(self, hosts: Iterable[str], domain: str) -> str:
        """Who runs the mail of a destination; `hosts` are its best MX hosts. The longest pattern decides."""
        found = list(self._provider_domains.find(domain)) if domain else []
        found = found or [one for host in hosts for one in self._provider_hosts.find(host)]
        return self._entries[max(found, key=lambda one: len(one[0]))[1]].provider if found else ""

    def shape(self, hosts: Sequence[str], best: Iterable[str], domain: str, source: str = "") -> Shape:
        """What holds towards a destination. `best` are its hosts that are tried first; `domain` "" = a static route."""
        settings = dict(self._defaults)
        provider = self.provider_of(best, domain)
        numbers = set(self._by_provider.get(provider, ())) if provider else set()
        numbers.update(number for host in hosts for _, number in self._by_host.find(host))
        if domain:
            numbers.update(number for _, number in self._by_domain.find(domain))
        own_limits = False
        meant = [(self._entries[number], number) for number in numbers if self._means(number, provider, hosts, source)]
        for one, _ in sorted(meant, key=lambda one: (bool(one[0].sources), one[0].layer, one[1])):
            for name, value in one.values:
                settings[name] = Setting(value, one.origin)
                own_limits = own_limits or (one.layer == _DOMAIN and name in LIMITS)
        return Shape(settings, provider, own_limits)

    def _means(self, number: int, provider: str, hosts: Sequence[str], source: str) -> bool:
        """Whether an entry whose patterns match is meant in all else."""
        entry = self._entries[number]
        if (entry.provider and entry.provider != provider) or (entry.sources and source not in entry.sources):
            return False
        return not any(matches(pattern, host) for pattern in entry.but_hosts for host in hosts)


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


def matches(pattern: str, name: str) -> bool:
    """Whether "*", "*.example.net" (at any depth) or "example.net" means a name."""
    if pattern.startswith("*"):
        return len(pattern) == 1 or name.endswith(pattern[1:])
    return name == pattern
