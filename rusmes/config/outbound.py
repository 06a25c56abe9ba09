"""Keys about mail to other servers: [delivery] and [egress] with all below them, by the rules of `schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from rusmes.config.units import Duration, Networks, Secret, parse_network

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(ge=0)]


def _loopback() -> Networks:
    return Networks(parse_network(text) for text in ("127.0.0.0/8", "::1/128"))


class Values(Struct, frozen=True, kw_only=True):
    """What can be different towards some servers; a key that is not there is taken from the layer below."""

    connections_per_site: Positive | None = None
    connections_per_provider: Positive | None = None
    """Towards all sites of a provider together, over all workers."""
    messages_per_connection: Positive | None = None
    messages_per_second: Rate | None = None
    messages_per_minute: Rate | None = None
    messages_per_hour: Rate | None = None
    messages_per_day: Rate | None = None
    connections_per_second: Rate | None = None
    initial_connections: Count | None = None
    recipients_per_transaction: Positive | None = None
    connect_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    source_addresses: tuple[str, ...] | None = None
    pool: str | None = None
    """The [[egress.pool]] or [[egress.source]] that mail leaves by."""
    tls: Literal["none", "opportunistic", "verify", "dane"] | None = None
    ipv6: bool | None = None


class Provider(Values, frozen=True, kw_only=True):
    """[[delivery.provider]]: somebody who runs the mail of many domains. Entries of one name add to each other."""

    name: str
    mx: tuple[str, ...] = ()
    """Patterns of MX hosts: a domain is the provider's when one of its best MX hosts matches. "*.x" matches at any depth."""
    domains: tuple[str, ...] = ()
    """Patterns of destination domains that are the provider's, whatever their MX."""
    sources: tuple[str, ...] = ()
    """Only for mail that leaves by these egress sources."""


class Site(Values, frozen=True, kw_only=True):
    """[[delivery.site]]: what is different towards some servers or domains; one of the first four keys is needed."""

    match: tuple[str, ...] = ()
    """Patterns of MX hosts or destination domains: "*.example.net", "example.org"."""
    mx: tuple[str, ...] = ()
    """Patterns of MX hosts alone."""
    domains: tuple[str, ...] = ()
    """Patterns of destination domains alone."""
    provider: str = ""
    """All sites of this provider; with the keys above, those of them that match."""
    sources: tuple[str, ...] = ()
    """Only for mail that leaves by these egress sources."""


class Rule(Struct, frozen=True, kw_only=True):
    """[[delivery.rule]]: what a server says makes us send less, or nothing, for a time."""

    name: str = ""
    """In the log; "" = where it is written."""
    reply: str
    """A regular expression, found anywhere in "code status text", upper and lower case alike."""
    provider: str = ""
    """Only what servers of this provider say."""
    mx: tuple[str, ...] = ()
    """Only what these MX hosts say (patterns)."""
    domains: tuple[str, ...] = ()
    """Only what is said about these destination domains (patterns)."""
    after: Positive = 1
    """So many replies, over all workers ..."""
    within: Duration = Duration("10m")
    """... in this time."""
    action: Literal["suspend", "set"] = "suspend"
    """suspend = send nothing, set = other values."""
    scope: Literal["site", "provider", "domain", "tenant", "campaign", "source", "source-site"] = "site"
    """For whom; source-site = mail from the source it left by to the site. `set` knows site, provider and source-site."""
    set: Values = field(default_factory=Values)
    """The values of `action = "set"`."""
    duration: Duration = Duration("1h")
    """For how long."""


class Shaped(Struct, frozen=True):
    """An entry of a shaping file, and where it is written. `line` 0: not known."""

    entry: Provider | Site | Rule
    file: str
    line: int = 0


class Route(Struct, frozen=True, kw_only=True):
    """[[delivery.route]]: a named smart host, for RemoteDelivery's `route` and for the domains it lists."""

    name: str
    """What RemoteDelivery's parameter `route` says."""
    host: str
    """Name or address of the smart host."""
    port: Port = 587
    """465 means implicit TLS."""
    domains: tuple[str, ...] = ()
    """Destination domains (patterns) that always go this way."""
    use_tls: bool = True
    """Verified TLS; false = opportunistic."""
    username: str = ""
    """"" = no login."""
    password: Secret = Secret("")
    """Sent over TLS only."""


class Delivery(Struct, frozen=True, kw_only=True):
    """Towards other servers. [[delivery.site]] overrides by MX host or domain, [[delivery.route]] names smart hosts."""

    max_connections: Positive = 1024
    """Outbound, over all workers."""
    connections_per_site: Positive = 20
    """Over all workers; a site is the set of MX hosts of a destination."""
    messages_per_connection: Positive = 100
    """Then the connection is given up."""
    messages_per_second: Rate = 0.0
    """Per site. 0 = no limit."""
    messages_per_minute: Rate = 0.0
    """Per site. 0 = no limit."""
    messages_per_hour: Rate = 0.0
    """Per site. 0 = no limit."""
    messages_per_day: Rate = 0.0
    """Per site. 0 = no limit."""
    connections_per_second: Rate = 0.0
    """New ones, per site. 0 = no limit."""
    initial_connections: Count = 5
    """With so many the feedback window of a site starts; 0 = with all of them, and there is no window."""
    connect_timeout: Duration = Duration("30s")
    """For each address."""
    idle_timeout: Duration = Duration("5s")
    """How long a connection without mail is kept."""
    source_addresses: tuple[str, ...] = ()
    """Local addresses to send from, in turn, when [egress] names none; [] = the system's choice."""
    tls: Literal["none", "opportunistic", "verify", "dane"] = "opportunistic"
    """none | opportunistic | verify | dane; opportunistic and dane follow what a domain publishes (DANE, MTA-STS)."""
    mta_sts: bool = True
    """Follow the policies that domains publish over HTTPS (RFC 8461)."""
    tls_report_from: str = ""
    """Who sends domains that ask for it a report a day on TLS towards them (RFC 8460); "" = nobody."""
    trusted_resolvers: Networks = field(default_factory=_loopback)
    """Name servers whose word about DNSSEC counts (DANE); others are asked, and not believed in that."""
    ipv6: bool = True
    """Use AAAA records."""
    port: Port = 25
    """Of the servers found by MX."""
    resolver: tuple[str, ...] = ()
    """Name servers: "192.0.2.53" or "127.0.0.1:5353"; [] = those of the machine."""
    recipients_per_transaction: Positive = 100
    """Of one mail to one site (RFC 5321 section 4.5.3.1.8)."""
    long_lines: Literal["fold", "fail", "keep"] = "fold"
    """Lines above 998 octets (RFC 5321 section 4.5.3.1.6): broken as Postfix does, or returned as Exim does, or sent."""
    private_hosts: bool = False
    """Whether an MX may point to private or loopback addresses; never to this server itself."""
    bundled_shaping: bool = True
    """Use the rules for large providers that come with RusMES."""
    shaping_files: tuple[str, ...] = ()
    """Files with [[provider]], [[site]] and [[rule]]: read after the bundled rules; an entry that is wrong is skipped."""
    provider: tuple[Provider, ...] = ()
    site: tuple[Site, ...] = ()
    rule: tuple[Rule, ...] = ()
    route: tuple[Route, ...] = ()


class WarmUp(Struct, frozen=True, kw_only=True):
    """How much a new source may send to each provider on each day (UTC); a mail counts once for each recipient."""

    start: Positive = 50
    """On the first day."""
    starts: dict[str, Positive] = field(default_factory=dict)
    """On the first day, to the providers it names."""
    growth: Annotated[float, Meta(ge=1, le=100)] = 1.5
    """Each day so many times the day before."""
    days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """Then there is no limit."""
    since: str = ""
    """The first day, "2026-11-24"; "" = the day of the source's first mail."""


class Source(Struct, frozen=True, kw_only=True):
    """[[egress.source]]: a way out."""

    name: str
    """In pools, rules, logs and metrics."""
    addresses: tuple[str, ...] = ()
    """Local addresses: an IPv4 one, an IPv6 one, or both. [] = the system's choice."""
    ehlo: str = ""
    """The name said in EHLO; "" = hostname."""
    proxy: str = ""
    """"socks5://host:port", or "haproxy://host:port" for a proxy that is told by PROXY v2 from where to where."""
    proxy_username: str = ""
    """RFC 1929; "" = no login."""
    proxy_password: Secret = Secret("")
    """Sent to the proxy in the clear, as RFC 1929 has it."""
    warmup: WarmUp | None = None


class EgressPool(Struct, frozen=True, kw_only=True):
    """[[egress.pool]]: sources that share work."""

    name: str
    """In `default_pool`, `tenant_pools` and the key `pool` of providers and sites."""
    sources: dict[str, Positive] | tuple[str, ...] = ()
    """Names, or names with weights: { ip1 = 3, ip2 = 1 }."""
    sticky: bool = False
    """A tenant's mail leaves by the same source as long as that works."""


class Egress(Struct, frozen=True, kw_only=True):
    """By which addresses mail leaves."""

    default_pool: str = ""
    """Of mail for which nothing else is said; "" = [delivery] source_addresses."""
    tenant_pools: dict[str, str] = field(default_factory=dict)
    """The pool of a tenant: "shop" = "dedicated". It wins over the key `pool` of providers and sites."""
    source: tuple[Source, ...] = ()
    pool: tuple[EgressPool, ...] = ()
