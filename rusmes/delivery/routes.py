"""Where a destination leads: a named route, the smart host, or the mail exchangers of the domain.

RFC 5321 §5.1 (MX, and how a server must not send mail to itself), RFC 7505 (null MX), RFC 2821 §3.6.
"""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final
from zlib import crc32

from msgspec import Struct

from rusmes.clock import Clock
from rusmes.config.schema import Config, Site
from rusmes.dns import DnsUnavailable, MxRecord, NoSuchDomain, Resolver, TlsaRecord
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import SiteLimits, Target

MAX_HOSTS: Final = 5
"""Mail exchangers of one domain that are tried (N1). Postfix smtp_mx_session_limit counts sessions: 2."""
MAX_ADDRESSES: Final = 10
"""Of one host (N1)."""
MAX_PLANS: Final = 20_000
"""Destinations remembered; about 500 bytes each."""
MX_SECONDS: Final = 60.0
"""How long the plan of a domain is used before the resolver (with its own cache) is asked again."""


class Login(Struct, frozen=True):
    """The account at a smart host."""

    username: str
    password: str


class RoutePlan(Struct, frozen=True):
    """How to reach one destination. `hosts` are groups of equal preference, best first."""

    site: str
    hosts: tuple[tuple[str, ...], ...]
    port: int
    tls: str
    """none | opportunistic | verify | dane."""
    implicit_tls: bool
    limits: SiteLimits
    messages_per_connection: int
    connect_timeout: float
    idle_timeout: float
    source_addresses: tuple[str, ...]
    ipv6: bool
    is_static: bool
    """An operator named the host: any address is allowed, and an unknown name is a temporary error."""
    expires: float
    login: Login | None = None
    secure_hosts: bool = False
    """DNSSEC vouches for the names of the hosts, or an operator does."""

    @property
    def target(self) -> Target:
        return Target(self.site, self.limits, self.expires)


class Endpoint(Struct, frozen=True, gc=False):
    """One address of one host."""

    host: str
    address: str
    port: int
    tlsa: tuple[TlsaRecord, ...] = ()
    """Under the policy "dane": what the certificate must match; TLS is required when there is any."""

    def __str__(self) -> str:
        return f"{self.host}[{self.address}]:{self.port}" if self.host != self.address else f"[{self.address}]:{self.port}"


class RouteTable:
    """The configured routes and the plans made from them. Replaced as a whole at a reload."""

    def __init__(
        self,
        config: Config,
        resolver: Resolver,
        clock: Clock,
        hostname: str,
        *,
        workers: int = 1,
        is_own_address: Callable[[str], bool] | None = None,
        shuffle: Callable[[list[str]], None] = random.shuffle,
    ) -> None:
        self._workers = workers
        self._config = config
        self._resolver = resolver
        self._clock = clock
        self._own_names = {hostname.lower(), "localhost"}
        self._is_own_address = is_own_address or OwnAddresses()
        self._shuffle = shuffle
        self._named = {route.name: route for route in config.delivery.route}
        self._patterns = [(pattern.lower(), route.name) for route in config.delivery.route for pattern in route.domains]
        self._plans: dict[str, RoutePlan] = {}

    def destination(self, item: Queued, recipient: Recipient) -> str:
        """`route:<name>` | `host:<address and port>` | `relay` | `mx:<domain>`."""
        domain = recipient.address.domain
        if item.route:
            return f"route:{item.route}" if item.route in self._named else f"host:{item.route}"
        for pattern, name in self._patterns:
            if pattern == "*" or fnmatchcase(domain, pattern):
                return f"route:{name}"
        return "relay" if self._config.relay.host else f"mx:{domain}"

    def known_plan(self, destination: str) -> RoutePlan | None:
        plan = self._plans.get(destination)
        return plan if plan is not None and plan.expires > self._clock.monotonic() else None

    async def find_plan(self, destination: str) -> RoutePlan | Refusal:
        """Look a destination up. A refusal says why its mail cannot be sent now, or ever."""
        kind, _, name = destination.partition(":")
        found = await self._mx_plan(name) if kind == "mx" else self._static_plan(kind, name)
        if isinstance(found, RoutePlan):
            self._plans.pop(destination, None)
            while len(self._plans) >= MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[destination] = found
        return found

    async def endpoints(self, plan: RoutePlan) -> list[Endpoint] | Refusal:
        """The addresses of a plan's hosts in the order in which they are tried: by preference, shuffled among equals."""
        found: list[Endpoint] = []
        unavailable = ""
        forbidden = own = False
        hosts = 0
        for group in plan.hosts:
            names = list(group)
            self._shuffle(names)
            for host in names:
                hosts += 1
                if hosts > MAX_HOSTS:
                    break
                try:
                    addresses = await self._addresses(host, plan)
                    tlsa = await self._tlsa(host, plan) if plan.tls == "dane" else ()
                except DnsUnavailable as error:
                    unavailable = f"{host}: {error.public}"
                    continue
                except NoSuchDomain:
                    continue
                for address in addresses[:MAX_ADDRESSES]:
                    if plan.is_static or not (reason := self._objection(address)):
                        found.append(Endpoint(host, address, plan.port, tlsa))
                    elif reason == "own":
                        own = True
                    else:
                        forbidden = True
        if found:
            return found
        if unavailable:
            return Refusal(451, "4.4.3", f"name service: {unavailable}")
        if own:
            return Refusal(550, "5.4.6", "the mail exchanger of the domain is this server: mail would loop")
        if forbidden:
            return Refusal(550, "5.4.4", "the mail exchanger of the domain has no public address")
        if plan.is_static:
            return Refusal(451, "4.4.4", f"the configured host {plan.hosts[0][0]} has no address")
        return Refusal(550, "5.4.4", "no mail exchanger of the domain has an address")

    async def _addresses(self, host: str, plan: RoutePlan) -> Sequence[str]:
        if _is_address(host):
            return [host]
        if plan.is_static and host == "localhost":
            return ["127.0.0.1"]
        return await self._resolver.addresses(host, ipv6=plan.ipv6)

    async def _tlsa(self, host: str, plan: RoutePlan) -> tuple[TlsaRecord, ...]:
        """RFC 7672 §2.2: only where DNSSEC vouches for the way from the domain to the address.

        Raises:
            DnsUnavailable: the host cannot be used now (N5).
        """
        if not plan.secure_hosts or _is_address(host):
            return ()
        if not (await self._resolver.is_secure(host, "A") or (plan.ipv6 and await self._resolver.is_secure(host, "AAAA"))):
            return ()
        return tuple(await self._resolver.tlsa(host, plan.port))

    def _objection(self, address: str) -> str:
        """R15: why a stranger's MX may not point there: "own", "private", or "" when it may."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        delivery = self._config.delivery
        if not delivery.private_hosts and not parsed.is_global:
            return "own" if self._is_own_address(address) else "private"
        # On another port than ours somebody else listens, on a machine with several mail servers.
        if (not delivery.private_hosts or delivery.port == self._config.smtp.port) and self._is_own_address(address):
            return "own"
        return "private" if parsed.is_unspecified or parsed.is_multicast else ""

    # Plans

    def _static_plan(self, kind: str, name: str) -> RoutePlan | Refusal:
        use_tls: bool | None
        if kind == "relay":
            relay = self._config.relay
            host, port, use_tls, login = relay.host, relay.port, relay.use_tls, _login(relay.username, relay.password)
        elif kind == "route" and name in self._named:
            route = self._named[name]
            host, port, use_tls, login = route.host, route.port, route.use_tls, _login(route.username, route.password)
        else:
            place = _host_and_port(name, self._config.delivery.port)
            if kind != "host" or place is None:
                return Refusal(451, "4.3.5", f"there is no route {name!r} in the configuration")
            (host, port), use_tls, login = place, None, None
        host = host.strip("[]").lower()
        if not host:
            return Refusal(451, "4.3.5", f"the route {name!r} has no host")
        return self._plan(
            f"{login.username}@{host}:{port}" if login is not None else f"{host}:{port}",
            ((host,),),
            port,
            tls=None if use_tls is None else "verify" if use_tls else "opportunistic",
            is_static=True,
            names=(host,),
            login=login,
            secure_hosts=True,
        )

    async def _mx_plan(self, domain: str) -> RoutePlan | Refusal:
        if domain.startswith("["):
            address = _literal(domain)
            if not address:
                return Refusal(550, "5.1.3", f"{domain} is no address")
            return self._plan(f"[{address}]", ((address,),), self._config.delivery.port, names=(address,))
        try:
            records = await self._resolver.mx(domain)
        except NoSuchDomain:
            return Refusal(550, "5.1.2", f"the domain {domain} does not exist")
        except DnsUnavailable as error:
            return Refusal(451, "4.4.3", f"name service: {domain}: {error.public}")
        if any(not record.host for record in records):
            if len(records) == 1:
                return Refusal(556, "5.1.10", f"{domain} accepts no mail (null MX)")  # RFC 7505 §4.2
            records = [record for record in records if record.host]
        hosts = self._without_us(records) if records else ((domain,),)
        if not hosts:
            return Refusal(550, "5.4.6", f"this server is the best mail exchanger of {domain}: mail would loop")
        names = tuple(name for group in hosts for name in group)
        site = ",".join(sorted(names)) if records else domain
        expires = self._clock.monotonic() + MX_SECONDS
        secure = await self._resolver.is_secure(domain, "MX")
        port = self._config.delivery.port
        return self._plan(site, hosts, port, names=(domain, *names), expires=expires, secure_hosts=secure)

    def _without_us(self, records: list[MxRecord]) -> tuple[tuple[str, ...], ...]:
        """RFC 5321 §5.1: when we are among the exchangers, only better ones may be used."""
        limit = min((record.preference for record in records if record.host in self._own_names), default=1 << 16)
        groups: dict[int, list[str]] = {}
        for record in records:
            if record.preference < limit:
                groups.setdefault(record.preference, []).append(record.host)
        kept, room = [], MAX_HOSTS
        for preference in sorted(groups):
            # Which of too many equals are taken is left to chance as well.
            group = groups[preference]
            self._shuffle(group)
            if room > 0:
                kept.append(tuple(group[:room]))
                room -= len(group)
        return tuple(kept)

    def _plan(
        self,
        site: str,
        hosts: tuple[tuple[str, ...], ...],
        port: int,
        *,
        names: tuple[str, ...],
        tls: str | None = None,
        is_static: bool = False,
        expires: float = float("inf"),
        login: Login | None = None,
        secure_hosts: bool = False,
    ) -> RoutePlan:
        delivery = self._config.delivery
        own = next((s for s in delivery.site if any(_matches(s, name) for name in names)), None)

        def pick(key: str) -> object:
            value = getattr(own, key) if own is not None else None
            return getattr(delivery, key) if value is None else value

        limits = SiteLimits(
            pick("connections_per_site"),  # type: ignore[arg-type]
            pick("messages_per_second"),  # type: ignore[arg-type]
            delivery.recipients_per_transaction,
            self._workers,
        )
        return RoutePlan(
            site=site if len(site) <= 200 else f"{site[:160]}#{crc32(site.encode()):08x}",
            hosts=hosts,
            port=port,
            tls=tls or pick("tls"),  # type: ignore[arg-type]
            implicit_tls=is_static and port == 465,
            limits=limits,
            messages_per_connection=pick("messages_per_connection"),  # type: ignore[arg-type]
            connect_timeout=pick("connect_timeout"),  # type: ignore[arg-type]
            idle_timeout=pick("idle_timeout"),  # type: ignore[arg-type]
            source_addresses=pick("source_addresses"),  # type: ignore[arg-type]
            ipv6=pick("ipv6"),  # type: ignore[arg-type]
            is_static=is_static,
            expires=expires,
            login=login,
            secure_hosts=secure_hosts,
        )


def _login(username: str, password: str) -> Login | None:
    return Login(username, password) if username else None


class OwnAddresses:
    """Whether an address belongs to this machine: the kernel lets us bind to it."""

    def __init__(self) -> None:
        # With net.ipv4.ip_nonlocal_bind everything can be bound to; then only loopback is known to be ours.
        self._anything_binds = _can_bind("192.0.2.1") or _can_bind("2001:db8::1")

    def __call__(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if parsed.is_loopback or parsed.is_unspecified:
            return True
        return not self._anything_binds and _can_bind(address)


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _matches(site: Site, name: str) -> bool:
    return any(fnmatchcase(name, pattern.lower()) for pattern in site.match)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _literal(domain: str) -> str:
    """The address of "[192.0.2.1]" or "[IPv6:2001:db8::1]" (RFC 5321 §4.1.3), "" when it is none."""
    text = domain.strip("[]")
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    return text if _is_address(text) else ""


def _host_and_port(text: str, default: int) -> tuple[str, int] | None:
    """"mx.example:2525", "[::1]:25", "192.0.2.1"; None when it is none of these."""
    host, port = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if not closed or (rest and not rest.startswith(":")):
            return None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        return None
    if ":" not in host and "." not in host and not port and host != "localhost":
        return None  # a misspelt name of a route is no host
    return host, int(port) if port else default
