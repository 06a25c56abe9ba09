"""Postfix's `transport`, `virtual` and `aliases` maps as parts of our configuration, and what of them has no equivalent.

The files are the text from which Postfix makes its tables: transport(5), virtual(5), aliases(5), postmap(1). Nothing is
guessed: an entry is taken over as a whole, or it is in the report with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct, field

from rusmes.config import names
from rusmes.config.checks import alias_source, domain_target
from rusmes.config.schema import Config

SMTP_TRANSPORTS: Final = ("smtp", "relay", "esmtp", "")
SERVICES: Final = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465}
MAX_FILE_BYTES: Final = 64 << 20
_VIRTUAL_TARGET: Final = re.compile(r'(?:[^\s,"]|"(?:[^"\\]|\\.)*")+')
_ALIAS_TARGET: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
"""Quoted text is one piece, whatever is in it."""


class Line(Struct, frozen=True):
    """A logical line of a map, and the number of its first one."""

    number: int
    key: str
    value: str


class Remark(Struct, frozen=True):
    """What a person has to look at. `kind`: left out | changed."""

    place: str
    entry: str
    reason: str
    kind: str = "left out"


class FoundRoute(Struct):
    """A [[delivery.route]]."""

    name: str
    host: str
    port: int
    domains: list[str]


class Import(Struct):
    """What the maps become. Names of `aliases` and `catch_all` are as the configuration has them."""

    routes: list[FoundRoute] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    catch_all: dict[str, str] = field(default_factory=dict)
    local_domains: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.routes or self.aliases or self.catch_all or self.local_domains)


def lines_of(text: str, *, separator: str = "") -> Iterator[Line]:
    """The entries of a map: comments and empty lines are nothing, a line that begins with a blank goes on with the one before
    it (postmap(1)). `separator` ends the key (":" in aliases(5)); else a blank does."""
    number = 0
    parts: list[str] = []
    for at, raw in enumerate(text.splitlines(), 1):
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        if raw[0].isspace() and parts:
            parts.append(raw.strip())
            continue
        if parts:
            yield _line(number, " ".join(parts), separator)
        number, parts = at, [raw.strip()]
    if parts:
        yield _line(number, " ".join(parts), separator)


def _line(number: int, text: str, separator: str) -> Line:
    if separator:
        key, value = _alias_key(text)
        return Line(number, key, value)
    key, *rest = text.split(maxsplit=1)
    return Line(number, key, rest[0] if rest else "")


def _alias_key(text: str) -> tuple[str, str]:
    """The name of an alias may be quoted, and ends at a colon."""
    if text.startswith('"'):
        name, _, rest = text[1:].partition('"')
        return name, rest.strip().removeprefix(":").strip()
    name, _, rest = text.partition(":")
    return name.strip(), rest.strip()


class Converter:
    """Collects an `Import` for one configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._domain = config.domain
        self.result = Import()
        self._levels: dict[tuple[int, str, int], list[str]] = {}
        self._exceptions: list[tuple[str, Line]] = []

    def _leave_out(self, file: str, line: Line, reason: str) -> None:
        self._remark(file, line, reason, "left out")

    def _remark(self, file: str, line: Line, reason: str, kind: str = "changed") -> None:
        entry = f"{line.key} {line.value}".strip()
        self.result.remarks.append(Remark(f"{file}:{line.number}", entry[:200], reason, kind))

    # transport(5)

    def add_transport(self, file: str, text: str) -> None:
        for line in lines_of(text):
            pattern = self._pattern(file, line)
            if pattern is None:
                continue
            transport, colon, nexthop = line.value.partition(":")
            if not colon:
                transport, nexthop = line.value, ""
            if transport.lower() not in SMTP_TRANSPORTS:
                self._leave_out(file, line, _why_no_transport(transport.lower()))
            elif not nexthop:
                self._exceptions.append((file, line))
            else:
                self._add_nexthop(file, line, pattern, nexthop)
        self._make_routes()

    def _pattern(self, file: str, line: Line) -> str | None:
        """The destinations of a line, as a route lists them."""
        key = line.key.lower()
        if not line.value:
            self._leave_out(file, line, "the line has no value")
        elif "@" in key:
            self._leave_out(file, line, "a route is for domains, not for one address; see the mailet RemoteDelivery")
        elif key.startswith("/"):
            self._leave_out(file, line, "a regular expression")
        elif key == "*":
            return "*"
        else:
            try:
                return f"*.{names.domain_name(key[1:])}" if key.startswith(".") else names.domain_name(key)
            except ValueError as error:
                self._leave_out(file, line, str(error))
        return None

    def _add_nexthop(self, file: str, line: Line, pattern: str, nexthop: str) -> None:
        first, *others = [part for part in re.split(r"[,\s]+", nexthop) if part]
        place = _host_and_port(first)
        if place is None:
            self._leave_out(file, line, f"{first} is no host and port")
            return
        host, port, is_looked_up = place
        if others:
            self._remark(file, line, f"a route has one host: {', '.join(others)} are not used")
        if is_looked_up and not others:
            self._remark(file, line, f"Postfix sends to the MX hosts of {host}, a route to {host} itself")
        level = 0 if not pattern.startswith("*") else 1000 if pattern == "*" else 900 - pattern.count(".")
        members = self._levels.setdefault((level, host, port), [])
        if pattern not in members:
            members.append(pattern)

    def _make_routes(self) -> None:
        """Routes are asked in their order, and maps by the most specific key; so whole domains stand before patterns, long
        patterns before short ones, and what is for everything at the end."""
        taken = {route.name for route in self._config.delivery.route}
        there = {(route.host, int(route.port), pattern) for route in self._config.delivery.route for pattern in route.domains}
        for (_, host, port), patterns in sorted(self._levels.items(), key=lambda item: item[0][0]):
            new = [pattern for pattern in patterns if (host, port, pattern) not in there]
            if new:
                name = _free_name(re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-"), taken)
                self.result.routes.append(FoundRoute(name, host, port, new))
        self._levels.clear()
        patterns = [pattern for route in self.result.routes for pattern in route.domains if pattern.startswith("*")]
        for file, line in self._exceptions:
            if any(pattern == "*" or line.key.lower().endswith(pattern[1:]) for pattern in patterns):
                self._leave_out(file, line, "an exception from a pattern; a route cannot say that a domain goes by its MX")
        self._exceptions.clear()

    # virtual(5)

    def add_virtual(self, file: str, text: str) -> None:
        for line in lines_of(text):
            key = line.key.lower()
            if key.startswith("/"):
                self._leave_out(file, line, "a regular expression")
            elif not line.value:
                self._leave_out(file, line, "the line has no value")
            elif key.startswith("@"):
                self._add_whole_domain(file, line, key[1:])
            elif "@" not in key and "." in key:
                self._add_local_domain(file, line, key)
            else:
                self._add_alias(file, line, key, _VIRTUAL_TARGET.findall(line.value))

    def _add_local_domain(self, file: str, line: Line, text: str) -> None:
        try:
            domain = names.domain_name(text)
        except ValueError as error:
            self._leave_out(file, line, str(error))
            return
        if domain not in self._config.local_domains and domain not in self.result.local_domains:
            self.result.local_domains.append(domain)

    def _add_whole_domain(self, file: str, line: Line, text: str) -> None:
        targets = [part for part in re.split(r"[,\s]+", line.value) if part]
        if len(targets) != 1:
            self._leave_out(file, line, "a catch-all has one target; make an alias of several, and let it lead there")
            return
        try:
            domain = names.domain_name(text)
            if targets[0].startswith("@"):
                self._put_alias(file, line, f"@{domain}", [domain_target(targets[0])])
                return
            target = str(names.address(self._completed(targets[0])))
        except ValueError as error:
            self._leave_out(file, line, str(error))
            return
        before = self._config.domains.catch_all.get(domain) or self.result.catch_all.get(domain)
        if before is None:
            self.result.catch_all[domain] = target
        elif before != target:
            self._leave_out(file, line, f"the catch-all of {domain} is {before} already")

    # aliases(5)

    def add_aliases(self, file: str, text: str) -> None:
        for line in lines_of(text, separator=":"):
            self._add_alias(file, line, line.key.lower(), _alias_values(line.value))

    def _add_alias(self, file: str, line: Line, key: str, values: Sequence[str]) -> None:
        targets = []
        for value in filter(None, values):
            why = _why_no_target(value)
            if why:
                self._leave_out(file, Line(line.number, line.key, value), why)
                continue
            try:
                targets.append(str(names.address(self._completed(value.removeprefix("\\")))))
            except ValueError as error:
                self._leave_out(file, Line(line.number, line.key, value), str(error))
        if not targets:
            return
        try:
            self._put_alias(file, line, alias_source(self._completed(key)), targets)
        except ValueError as error:
            self._leave_out(file, line, str(error))

    def _put_alias(self, file: str, line: Line, name: str, targets: list[str]) -> None:
        before = self._config.domains.aliases.get(name) or self.result.aliases.get(name)
        unique = list(dict.fromkeys(targets))
        if before is None:
            self.result.aliases[name] = unique
        elif list(before) != unique:
            self._leave_out(file, line, f"{name} leads to {', '.join(before)} already")

    def _completed(self, text: str) -> str:
        return text if "@" in text else f"{text}@{self._domain}"


def _host_and_port(text: str) -> tuple[str, int, bool] | None:
    """A next hop: "[mx.example]", "[mx.example]:2525", "example.org", "[2001:db8::1]:25"; whether Postfix asks for its MX."""
    is_looked_up = not text.startswith("[")
    if is_looked_up:
        host, _, port = text.partition(":")
    else:
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
        host = host.removeprefix("ipv6:").removeprefix("IPv6:")
    number = SERVICES.get(port, 25 if not port else int(port) if port.isascii() and port.isdigit() else 0)
    if not 0 < number < 65536:
        return None
    try:
        return names.listen_host(host), number, is_looked_up and not _is_address(host)
    except ValueError:
        return None


def _is_address(text: str) -> bool:
    return text.replace(".", "").isdigit()


def _free_name(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    taken.add(name)
    return name


def _why_no_transport(transport: str) -> str:
    return {
        "error": "an error; the mailet Reject or Bounce refuses mail for a domain",
        "retry": "an error; the mailet Defer lets mail wait",
        "discard": "the mailet Null drops mail",
        "hold": "the mailet Hold keeps mail",
        "local": "local mail: add the domain to [domains] local_domains",
        "virtual": "local mail: add the domain to [domains] local_domains",
        "lmtp": "delivery by LMTP to another program",
    }.get(transport, f"the transport {transport} is a program or service of Postfix")


def _why_no_target(value: str) -> str:
    if value.startswith("|"):
        return "a pipe to a program"
    if value.startswith("/"):
        return "a file that mail is appended to"
    if value.lower().startswith(":include:"):
        return "a list in another file; write its members into the alias"
    return "" if not value.startswith(":") else "a directive"


def _alias_values(text: str) -> list[str]:
    """The targets of an alias: separated by commas, quoted where they hold one (aliases(5))."""
    return [_unquoted(part.strip()) for part in _ALIAS_TARGET.findall(text) if part.strip()]


def _unquoted(text: str) -> str:
    """A pipe is quoted as a whole, or behind its bar; an address keeps quotes of its local part."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text
