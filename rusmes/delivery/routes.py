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

from msgspec import Struct
from msgspec.structs import replace

from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.delivery.mtasts import StsPolicies, StsPolicy
from rusmes.delivery.shaping.layers import Layers, Origin, Shape, narrowed
from rusmes.delivery.shaping.overrides import Overrides
from rusmes.delivery.shaping.sitename import bounded, site_name
from rusmes.dns import DnsUnavailable, MxRecord, NoSuchDomain, Resolver, TlsaRecord
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import SharedLimits, SiteLimits, Target

PUBLISHED: Final = frozenset(("dane", "mta-sts", "mta-sts testing"))
"""Modes that follow what the recipient's domain publishes."""
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
    """none | opportunistic | verify | dane | mta-sts | mta-sts testing."""
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
    source: str = ""
    """Name of the egress source; "" = no named one."""
    provider: str = ""
    """Who runs the mail of the destination, as far as the shaping files know."""
    pool: str = ""
    """By which pool its mail leaves, when the tenant has none; "" = the default."""
    domain: str = ""
    """The domain it was made for; others may share the site."""
    sts: StsPolicy | None = None
    """What that domain publishes over HTTPS."""

    @property
    def key(self) -> str:
        """What connections, window and memory of the site are kept under: each source to it has its own."""
        return f"{self.site}@{self.source}" if self.source else self.site

    @property
    def target(self) -> Target:
        return Target(self.site, self.limits, self.expires, self.source)


class Endpoint(Struct, frozen=True, gc=False):
    """One address of one host."""

    host: str
    address: str
    port: int
    tlsa: tuple[TlsaRecord, ...] = ()
    """What the certificate must match; TLS is required when there is any."""
    source: str = ""
    """Name of the source that it is reached by."""

    @property
    def key(self) -> tuple[str, int]:
        """Under which it is remembered how it behaves: towards each source in its own way."""
        return (f"{self.address}@{self.source}" if self.source else self.address), self.port

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
        overrides: Overrides | None = None,
        is_own_address: Callable[[str], bool] | None = None,
        shuffle: Callable[[list[str]], None] = random.shuffle,
        sts: StsPolicies | None = None,
    ) -> None:
        self._sts = sts
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
        self._places: dict[str, tuple[str, str, str]] = {}
        self._layers = Layers(config)
        self._overrides = overrides or Overrides(None, clock)
        self._version = self._overrides.version

    def destination(self, item: Queued, recipient: Recipient) -> str:
        """`route:<name>` | `host:<address and port>` | `relay` | `mx:<domain>`; each may end in ` via <source>`."""
        domain = recipient.address.domain
        if item.route:
            return f"route:{item.route}" if item.route in self._named else f"host:{item.route}"
        for pattern, name in self._patterns:
            if pattern == "*" or fnmatchcase(domain, pattern):
                return f"route:{name}"
        return "relay" if self._config.relay.host else f"mx:{domain}"

    def known_plan(self, destination: str) -> RoutePlan | None:
        if self._overrides.look() != self._version:
            self._version = self._overrides.version
            self._plans.clear()
        plan = self._plans.get(destination)
        return plan if plan is not None and plan.expires > self._clock.monotonic() else None

    @property
    def names_pools(self) -> bool:
        """Whether the pool by which mail leaves can depend on who takes it."""
        return self._layers.names_pools

    def known_place(self, destination: str) -> tuple[str, str, str] | None:
        """(pool, provider, site) of a destination without source, as they were when it was last looked up."""
        return self._places.get(destination)

    async def find_plan(self, destination: str) -> RoutePlan | Refusal:
        """Look a destination up. A refusal says why its mail cannot be sent now, or ever."""
        place, source = parted(destination)
        kind, _, name = place.partition(":")
        found = await self._mx_plan(name, source) if kind == "mx" else self._static_plan(kind, name, source)
        if isinstance(found, RoutePlan):
            self._plans.pop(destination, None)
            while len(self._plans) >= MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[destination] = found
            self._places.pop(place, None)
            while len(self._places) >= MAX_PLANS:
                del self._places[next(iter(self._places))]
            self._places[place] = (found.pool, found.provider, found.site)
        return found

    async def endpoints(self, plan: RoutePlan) -> list[Endpoint] | Refusal:
        """The addresses of a plan's hosts in the order in which they are tried: by preference, shuffled among equals."""
        found: list[Endpoint] = []
        unavailable = mismatch = ""
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
                    tlsa = await self._tlsa(host, plan) if plan.tls in PUBLISHED else ()
                except DnsUnavailable as error:
                    unavailable = f"{host}: {error.public}"
                    continue
                except NoSuchDomain:
                    continue
                if plan.tls == "mta-sts" and not tlsa and plan.sts is not None and not plan.sts.allows(host):
                    mismatch = host  # RFC 8461 §4.1
                    continue
                for address in addresses[:MAX_ADDRESSES]:
                    if plan.is_static or not (reason := self._objection(address)):
                        found.append(Endpoint(host, address, plan.port, tlsa, plan.source))
                    elif reason == "own":
                        own = True
                    else:
                        forbidden = True
        if found:
            return found
        if unavailable:
            return Refusal(451, "4.4.3", f"name service: {unavailable}")
        if mismatch:
            return Refusal(451, "4.7.5", f"{mismatch} is not in the MTA-STS policy of {plan.domain}")
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

    def _static_plan(self, kind: str, name: str, source: str = "") -> RoutePlan | Refusal:
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
            source=source,
            login=login,
            secure_hosts=True,
        )

    async def _mx_plan(self, domain: str, source: str = "") -> RoutePlan | Refusal:
        if domain.startswith("["):
            address = _literal(domain)
            if not address:
                return Refusal(550, "5.1.3", f"{domain} is no address")
            return self._plan(f"[{address}]", ((address,),), self._config.delivery.port, source=source)
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
        site = site_name(names) if records else domain
        expires = self._clock.monotonic() + MX_SECONDS
        secure = await self._resolver.is_secure(domain, "MX")
        port = self._config.delivery.port
        plan = self._plan(site, hosts, port, domain=domain, source=source, expires=expires, secure_hosts=secure)
        return await self._as_published(plan)

    async def _as_published(self, plan: RoutePlan) -> RoutePlan:
        """With what the domain publishes about TLS, unless the operator wants something else. The mode is part of the lane:
        domains that share servers, but not what they publish, share no connections."""
        if plan.tls not in ("opportunistic", "dane"):
            return plan
        mode = "dane" if plan.secure_hosts else plan.tls
        policy = await self._sts.policy(plan.domain) if self._sts is not None else None
        if policy is not None and policy.mode != "none":
            mode = "mta-sts" if policy.mode == "enforce" else "mta-sts testing"
        return replace(plan, tls=mode, sts=policy)

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
        source: str,
        domain: str = "",
        tls: str | None = None,
        is_static: bool = False,
        expires: float = float("inf"),
        login: Login | None = None,
        secure_hosts: bool = False,
    ) -> RoutePlan:
        shape = self._layers.shape([host for group in hosts for host in group], hosts[0], domain, source)
        if shape.own_limits:
            site = bounded(f"{domain}/{site}")
        for one in self._overrides.values_for(site, shape.provider, source):
            shape = narrowed(shape, one.values.items(), Origin(what=f"rule {one.rule}"))
        return RoutePlan(
            site=site,
            hosts=hosts,
            port=port,
            tls=tls or shape["tls"],
            implicit_tls=is_static and port == 465,
            limits=self._limits_of(shape, source),
            messages_per_connection=shape["messages_per_connection"],
            connect_timeout=shape["connect_timeout"],
            idle_timeout=shape["idle_timeout"],
            source_addresses=shape["source_addresses"],
            ipv6=shape["ipv6"],
            is_static=is_static,
            expires=expires,
            login=login,
            secure_hosts=secure_hosts,
            source=source,
            provider=shape.provider,
            pool=shape["pool"],
            domain=domain,
        )

    def _limits_of(self, shape: Shape, source: str) -> SiteLimits:
        shared: tuple[SharedLimits, ...] = ()
        if shape.provider and shape["connections_per_provider"]:
            key = f"provider:{shape.provider}@{source}" if source else f"provider:{shape.provider}"
            shared = (SharedLimits(key, shape["connections_per_provider"]),)
        return SiteLimits(
            shape["connections_per_site"],
            shape["messages_per_second"],
            shape["recipients_per_transaction"],
            self._workers,
            shape["initial_connections"],
            shape["messages_per_minute"],
            shape["messages_per_hour"],
            shape["messages_per_day"],
            shape["connections_per_second"],
            shared,
        )


VIA: Final = " via "


def parted(destination: str) -> tuple[str, str]:
    """A destination without the source that its mail leaves by, and that source; "" = no named one."""
    place, via, source = destination.rpartition(VIA)
    return (place, source) if via else (destination, "")


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
