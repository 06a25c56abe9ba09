"""What must hold between keys, and names brought into their one form (A-labels, lower case).

Each check reports to the collector and goes on, so that one run shows all of it. Nothing here opens a socket or
changes anything; files are only looked for.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec.structs import replace

from rusmes.config import names
from rusmes.config.events import check_events
from rusmes.config.problems import Collector, KeyPath, dotted, nearest
from rusmes.config.returns import check_returns
from rusmes.config.schema import (
    PROTOCOLS,
    Config,
    Delivery,
    Domains,
    Processor,
    Relay,
    Route,
    Tls,
    default_processors,
)
from rusmes.config.shaping import check_egress, check_shaping
from rusmes.config.signing import check_dkim
from rusmes.config.units import Duration, Network, Networks, Targets

NOT_IN_THIS_VERSION: Final[dict[tuple[str, str], dict[Any, str]]] = {
    ("storage", "backend"): {"filesystem": 'use "lmdb"', "postgres": 'use "lmdb"'},
    ("auth", "backend"): {
        "ldap": 'use "file"',
        "sql": 'use "file"',
        "oauth2": 'use "file"',
        "pam": 'use "file"',
    },
    ("tracing", "enabled"): {True: "set it to false"},
}
"""Values of the contract that this version has no engine for: an error instead of a setting without effect."""

NOT_LISTENING: Final = ("managesieve", "jmap")
"""Sections of the contract that this version opens no port for; a port in the file is a warning."""

NEVER_ZERO: Final = (
    "smtp.max_message_size",
    "smtp.max_header_size",
    "smtp.command_timeout",
    "smtp.data_timeout",
    "smtp.transaction_timeout",
    "smtp.rate_limit.window_duration",
    "pop3.timeout",
    "imap.idle_timeout",
    "imap.append_limit",
    "connection_limits.idle_timeout",
    "delivery.connect_timeout",
    "queue.session_budget",
    "queue.max_age",
    "queue.max_commit_latency",
)
"""Durations and sizes of which 0 would refuse or cut everybody; it is not "no limit"."""

COMPONENTS: Final = (
    *PROTOCOLS,
    "admin",
    "audit",
    "auth",
    "channel",
    "delivery",
    "events",
    "returns",
    "listener",
    "maildrop",
    "mailet",
    "notices",
    "queue",
    "server",
    "storage",
    "supervisor",
    "worker",
)
"""What [logging.levels] can name: the `logger` of a log line."""

MECHANISMS: Final = (
    "PLAIN", "LOGIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2", "EXTERNAL",
)  # fmt: skip
SOCKET_PATH_OCTETS: Final = 107  # sun_path of sockaddr_un, without its NUL (unix(7))
_ADMIN_PATHS: Final = ("/status/", "/reload/", "/queue/", "/store/", "/logs/", "/events/", "/top/")
_URL_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_WILDCARDS: Final = ("0.0.0.0", "::")


def check(config: Config, raw: dict[str, Any], problems: Collector) -> Config:
    """Run every check; the configuration with its names in their one form. `raw` says what the file really sets."""
    _check_engines(config, raw, problems)
    _check_networks(config, problems)
    _check_listeners(config, raw, problems)
    _check_tls(config, problems)
    _check_logging(config, problems)
    _check_queue(config, problems)
    check_events(config.events, problems)
    check_returns(config.returns, problems)
    _check_limits(config, problems)
    _check_login(("relay",), config.relay, problems)
    config = replace(
        config,
        delivery=check_shaping(
            _check_delivery(config.delivery, problems), config.egress, config.shaping, config.shaping_problems, problems
        ),
        egress=check_egress(config.egress, problems),
        dkim=check_dkim(config.dkim, problems),
        processors=_check_processors(config.processors, problems),
    )
    if config.shaping_problems:
        problems.warnings.extend(config.shaping_problems)
    if "domain" not in raw:
        problems.warnings.append('domain is not set: this server keeps mail for "localhost" only')
    return _normal_names(config, problems)


def _each(problems: Collector, path: KeyPath, check_one: Callable[[str], Any], text: str) -> Any:
    """The checked form of one text, or the text itself after a problem."""
    try:
        return check_one(text)
    except ValueError as error:
        problems.add(path, str(error))
        return text


# Names


def _normal_names(config: Config, problems: Collector) -> Config:
    domain = _each(problems, ("domain",), names.domain_name, config.domain)
    hostname = _each(problems, ("hostname",), names.domain_name, config.hostname) if config.hostname else ""
    postmaster = str(_each(problems, ("postmaster",), names.address, config.postmaster)) if config.postmaster else ""
    domains = _normal_domains(config.domains, problems)
    if not problems.has_problem_at("domains") and not problems.has_problem_at("domain"):
        _check_local(config.domains, domains, domains.local_domains or (domain,), problems)
    return replace(config, domain=domain, hostname=hostname, postmaster=postmaster, domains=domains)


def _normal_domains(domains: Domains, problems: Collector) -> Domains:
    local = tuple(
        _each(problems, ("domains", "local_domains", index), names.domain_name, name)
        for index, name in enumerate(domains.local_domains)
    )
    aliases: dict[str, Targets] = {}
    for source, targets in domains.aliases.items():
        path: KeyPath = ("domains", "aliases", source)
        name = _each(problems, path, alias_source, source)
        if name in aliases:
            problems.add(path, f"{name} has two aliases", "write all targets in one list")
        is_domain = source.startswith("@")
        aliases[name] = Targets(_each(problems, path, domain_target if is_domain else _address_text, t) for t in targets)
        if is_domain and len(targets) > 1:
            problems.add(path, "a whole domain maps to one domain", "list the addresses one by one")
    catch_all = {
        _each(problems, ("domains", "catch_all", name), names.domain_name, name): _each(
            problems, ("domains", "catch_all", name), _address_text, target
        )
        for name, target in domains.catch_all.items()
    }
    if not set(domains.recipient_delimiter).isdisjoint('@." '):
        problems.add(
            ("domains", "recipient_delimiter"), f'"{domains.recipient_delimiter}" cannot separate', 'the usual one is "+"'
        )
    for index, mailbox in enumerate(domains.create_mailboxes):
        if not mailbox.strip("/") or mailbox.upper() == "INBOX":
            problems.add(("domains", "create_mailboxes", index), f'"{mailbox}" is no mailbox to create')
    return replace(domains, local_domains=local, aliases=aliases, catch_all=catch_all)


def _check_local(written: Domains, domains: Domains, local: tuple[str, ...], problems: Collector) -> None:
    """Aliases and catch-alls belong to domains whose mail comes here; chains of domain aliases end at one.

    `written` has the keys as the operator wrote them, so that the problem's line is found.
    """
    renamed = {source[1:]: targets[0][1:] for source, targets in domains.aliases.items() if source.startswith("@")}
    ours = (*local, *renamed)
    for text in written.aliases:
        path, source = ("domains", "aliases", text), alias_source(text)
        domain = source.rpartition("@")[2]
        if source.startswith("@"):
            seen = set()
            while domain in renamed and domain not in seen:
                seen.add(domain)
                domain = renamed[domain]
            if domain in seen:
                problems.add(path, "domain aliases lead in a circle")
                return
        if domain not in ours:
            problems.add(path, f"{domain} is not a local domain", nearest(domain, ours))
    for text in written.catch_all:
        domain = names.domain_name(text)
        if domain not in ours:
            problems.add(("domains", "catch_all", text), f"{domain} is not a local domain", nearest(domain, ours))


def alias_source(text: str) -> str:
    """What an alias may stand for: a folded address, or "@domain".

    Raises:
        ValueError: it is neither.
    """
    return f"@{names.domain_name(text[1:])}" if text.startswith("@") else names.address(text).folded


def domain_target(text: str) -> str:
    """Where "@domain" may lead: "@other".

    Raises:
        ValueError: it is something else.
    """
    if not text.startswith("@"):
        raise ValueError(f'"{text}" is not a target for a whole domain: write "@other.example"')
    return f"@{names.domain_name(text[1:])}"


def _address_text(text: str) -> str:
    return str(names.address(text))


# What this version can do


def _check_engines(config: Config, raw: dict[str, Any], problems: Collector) -> None:
    for (section, key), values in NOT_IN_THIS_VERSION.items():
        value = getattr(getattr(config, section), key)
        if value in values and not problems.has_problem_at(section, key):
            shown = str(value).lower() if isinstance(value, bool) else f'"{value}"'
            problems.add((section, key), f"{shown} is not part of this version", values[value])
    if config.storage.connection_string and config.storage.backend != "postgres":
        problems.warnings.append("storage.connection_string is for the postgres backend only")
    for section in NOT_LISTENING:
        table = raw.get(section)
        ports = [key for key in ("port", "tls_port") if isinstance(table, dict) and table.get(key, 0)]
        if ports:
            problems.warnings.append(f"[{section}] is not part of this version: nothing listens on its port")
    for index, name in enumerate(config.submission.mechanisms):
        if name not in MECHANISMS:
            path = ("submission", "mechanisms", index)
            problems.add(path, f'"{name}" is not a SASL mechanism of this server', nearest(name.upper(), MECHANISMS))


# Networks and ports


def _is_the_world(network: Network) -> bool:
    """Whether a network is so wide that it means "everybody": wider than any allocation a single operator holds."""
    if network.is_private or network.is_link_local or network.is_loopback:
        return network.prefixlen == 0
    return network.prefixlen < (8 if network.version == 4 else 16)


def _check_networks(config: Config, problems: Collector) -> None:
    closed: tuple[tuple[tuple[str, str], Networks, str, str], ...] = (
        (
            ("security", "relay_networks"),
            config.security.relay_networks,
            "makes this server an open relay",
            "list the networks of your own clients; users log in on [submission] instead",
        ),
        (
            ("auth", "plaintext_networks"),
            config.auth.plaintext_networks,
            "lets everybody send passwords in the clear",
            "list the networks you trust; everybody else uses TLS",
        ),
        (
            ("server", "proxy_networks"),
            config.server.proxy_networks,
            "lets everybody claim any client address",
            "list the addresses of your proxies",
        ),
    )
    for path, networks, consequence, hint in closed:
        for index, network in enumerate(networks):
            if _is_the_world(network):
                problems.add((*path, index), f"{network} {consequence}", hint)


def _listeners(config: Config) -> Iterator[tuple[KeyPath, str, int]]:
    for section in PROTOCOLS:
        if section in NOT_LISTENING:
            continue
        table = getattr(config, section)
        for key in ("port", "tls_port"):
            port = getattr(table, key, 0)
            if port:
                yield (section, key), table.host, port


def _check_listeners(config: Config, raw: dict[str, Any], problems: Collector) -> None:
    for section in PROTOCOLS:
        _each(problems, (section, "host"), names.listen_host, getattr(config, section).host)
    taken: list[tuple[KeyPath, str, int]] = []
    everywhere = list(_listeners(config))
    if config.metrics.enabled:
        parts = _each(problems, ("metrics", "bind_address"), names.host_and_port, config.metrics.bind_address)
        if isinstance(parts, tuple) and parts[1]:
            everywhere.append((("metrics", "bind_address"), *parts))
    for path, host, port in everywhere:
        for other, other_host, other_port in taken:
            if port == other_port and (host == other_host or host in _WILDCARDS or other_host in _WILDCARDS):
                first = ".".join(str(part) for part in other)
                problems.add(path, f"port {port} is already taken by {first}", "give each its own port; 0 is off")
                break
        taken.append((path, host, port))
    if len(os.fsencode(config.lmtp.path)) > SOCKET_PATH_OCTETS:
        problems.add(("lmtp", "path"), f"is longer than {SOCKET_PATH_OCTETS} bytes, the limit of Unix sockets")
    if not config.metrics.path.startswith("/"):
        problems.add(("metrics", "path"), f'"{config.metrics.path}" does not start with "/"')
    elif config.metrics.path in ("/health", "/ready", "/live"):
        problems.add(
            ("metrics", "path"), f'"{config.metrics.path}" is the path of a health check', 'the usual one is "/metrics"'
        )
    elif f"{config.metrics.path}/".startswith(_ADMIN_PATHS):
        problems.add(
            ("metrics", "path"), f'"{config.metrics.path}" belongs to the administration API', 'the usual one is "/metrics"'
        )
    elif not _URL_PATH.fullmatch(config.metrics.path):
        problems.add(("metrics", "path"), f'"{config.metrics.path}" is no plain path', 'the usual one is "/metrics"')
    if config.admin.token_file:
        _check_file(("admin", "token_file"), config.admin.token_file, problems)


def _check_tls(config: Config, problems: Collector) -> None:
    tables: list[tuple[KeyPath, Tls]] = [(("tls",), config.tls)]
    tables += [(("tls", p), config.tls.for_protocol(p)) for p in PROTOCOLS if getattr(config.tls, p) is not None]
    for path, tls in tables:
        if bool(tls.cert_path) != bool(tls.key_path):
            given, missing = ("cert_path", "key_path") if tls.cert_path else ("key_path", "cert_path")
            problems.add(
                (*path, given), f"is set, and {missing} is not", "a certificate needs its key; with neither, a pair is made"
            )
        for key in ("cert_path", "key_path", "client_ca_path"):
            if getattr(tls, key):
                _check_file((*path, key), getattr(tls, key), problems)
        if tls.client_auth != "disabled" and not tls.client_ca_path:
            problems.add((*path, "client_auth"), "client certificates need client_ca_path")


def _check_file(path: KeyPath, name: str, problems: Collector) -> None:
    """A file that is there but may not be read is no problem here: whoever needs its content says so."""
    try:
        os.stat(name)
    except PermissionError:
        return
    except (OSError, ValueError):
        problems.add(path, f"{name} does not exist")


# The rest


def _check_logging(config: Config, problems: Collector) -> None:
    if config.logging.output == "file" and not config.logging.file.path:
        problems.add(
            ("logging", "output"), 'is "file", and [logging] file has no path', 'file = { path = "/var/log/rusmes.log" }'
        )
    for name in config.logging.levels:
        if name not in COMPONENTS:
            hint = nearest(name, COMPONENTS)
            problems.warnings.append(
                f"logging.levels.{name}: no component of this server has that name" + (f" ({hint})" if hint else "")
            )


def _check_queue(config: Config, problems: Collector) -> None:
    queue = config.queue
    for index, wait in enumerate(queue.retry_schedule):
        if wait <= 0:
            problems.add(("queue", "retry_schedule", index), "a wait of 0 retries without end", 'the usual start is "5m"')
    if queue.delay_warning >= queue.max_age > 0:
        problems.warnings.append("queue.delay_warning is not before queue.max_age: no delay notice will be sent")


def _check_limits(config: Config, problems: Collector) -> None:
    for dotted_key in NEVER_ZERO:
        path = tuple(dotted_key.split("."))
        value: Any = config
        for part in path:
            value = getattr(value, part)
        if value <= 0 and not problems.has_problem_at(*path):
            problems.add(path, f"must be {'longer' if isinstance(value, Duration) else 'larger'} than 0")


def _check_login(path: KeyPath, place: Relay | Route, problems: Collector) -> None:
    """A user name and a password belong together, and to a host."""
    if place.username and not place.password and not problems.has_problem_at(*path):
        problems.add((*path, "username"), "has no password", 'password_file = "/path" keeps it out of this file')
    if place.host and place.password and not place.username:
        problems.warnings.append(f"{dotted(path)}.password is never used: there is no username")
    if place.username and not place.host:
        problems.warnings.append(f"{dotted(path)}.username is never used: there is no host")


def _check_delivery(delivery: Delivery, problems: Collector) -> Delivery:
    for index, text in enumerate(delivery.source_addresses):
        _each(problems, ("delivery", "source_addresses", index), names.ip_address, text)
    for index, text in enumerate(delivery.resolver):
        _each(problems, ("delivery", "resolver", index), names.name_server, text)
    if delivery.tls_report_from:
        _each(problems, ("delivery", "tls_report_from"), names.address, delivery.tls_report_from)
    _check_trust(delivery, problems)
    seen: set[str] = set()
    for index, route in enumerate(delivery.route):
        _check_login(("delivery", "route", index), route, problems)
        if route.name in seen or not route.name:
            problems.add(("delivery", "route", index, "name"), f'the name "{route.name}" is empty or taken')
        seen.add(route.name)
        _each(problems, ("delivery", "route", index, "host"), names.listen_host, route.host)
    return replace(
        delivery,
        route=tuple(
            replace(route, domains=_patterns(("delivery", "route", index, "domains"), route.domains, problems))
            for index, route in enumerate(delivery.route)
        ),
    )


def _check_trust(delivery: Delivery, problems: Collector) -> None:
    """DANE needs a name server whose word about DNSSEC counts."""
    wanted = delivery.tls == "dane" or any(site.tls == "dane" for site in delivery.site)
    if not wanted or not delivery.resolver or problems.has_problem_at("delivery"):
        return
    places = [ipaddress.ip_address(names.name_server(text)[0]) for text in delivery.resolver]
    if not any(place in network for place in places for network in delivery.trusted_resolvers):
        problems.warnings.append("delivery.tls is dane, and no name server of delivery.resolver is in trusted_resolvers")


def _patterns(path: KeyPath, patterns: tuple[str, ...], problems: Collector) -> tuple[str, ...]:
    return tuple(_each(problems, (*path, index), names.pattern, text) for index, text in enumerate(patterns))


def _check_processors(processors: tuple[Processor, ...], problems: Collector) -> tuple[Processor, ...]:
    states = [processor.state for processor in processors]
    if "error" not in states:
        processors = (*processors, *(one for one in default_processors() if one.state == "error"))
        problems.warnings.append('no processor has the state "error": what fails is held for the operator')
    if "root" not in states and not problems.has_problem_at("processors"):
        problems.add(("processors",), 'no processor has the state "root", where every mail starts', nearest("root", states))
    known = {processor.state for processor in processors}
    for index, processor in enumerate(processors):
        here: KeyPath = ("processors", index)
        for key, values in (("name", [p.name for p in processors]), ("state", [p.state for p in processors])):
            value = getattr(processor, key)
            if not value or value in values[:index]:
                problems.add((*here, key), f'"{value}" is taken by another processor' if value else "is empty")
        if problems.has_problem_at(*here, "mailets"):
            continue  # a step that could not be read is missing from the tuple, so the others have moved
        for number, step in enumerate(processor.mailets):
            for key, words in (("on_match_exception", ("nomatch", "matchall")), ("on_mailet_exception", ("ignore",))):
                value = getattr(step, key)
                if value not in words and value not in known:
                    path = (*here, "mailets", number, key)
                    problems.add(
                        path, f'"{value}" is neither a state nor {" or ".join(words)}', nearest(value, {*known, *words})
                    )
    return processors
