"""Questions to the domain name system, with a bounded cache.

What it is: MX, A, AAAA, TXT and PTR look-ups over dnspython's asyncio resolver, and the difference between "there is none" and
"nobody knows now", on which the fate of a mail depends. What it is not: policy; what an answer means is decided elsewhere.

RFC 1035, RFC 2308 (negative answers are cached), RFC 5321 §5.1 (MX), RFC 7505 (null MX), RFC 6698 (TLSA), RFC 6840 §5.7 (AD).

An answer is *secure* when the name server says that DNSSEC vouches for it, and is one whose word counts: on this machine, or in
`trusted` networks. What others say of DNSSEC is not believed: anybody on the way could say it (RFC 7672 §2.1.1).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import dns.reversename
from msgspec import Struct

from rusmes.clock import Clock
from rusmes.config.names import name_server
from rusmes.config.units import Network
from rusmes.errors import ConfigError, RusmesError
from rusmes.metrics import DNS_LOOKUPS, Metrics

MIN_TTL_SECONDS: Final = 30.0
"""However short a record's own time is: a TTL of 0 must not make every mail a question (N4)."""
MAX_TTL_SECONDS: Final = 86_400.0
NEGATIVE_TTL_SECONDS: Final = 300.0
"""At most, for "there is none" (RFC 2308 §5 allows hours); a new domain should not wait for long."""
FAILURE_TTL_SECONDS: Final = 30.0
"""A server that does not answer is not asked again at once (RFC 2308 §7)."""
MAX_CACHED: Final = 20_000
"""Answers. About 1 KiB each."""
LOOKUP_SECONDS: Final = 20.0
"""For one question with all its retries."""
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
"""Whose word about DNSSEC counts by default."""
MAX_RECORDS: Final = 100
"""Of one answer; more is not mail but an attack (N1)."""


class DnsError(RusmesError):
    """A question without an answer."""


class NoSuchDomain(DnsError):
    """The name does not exist (NXDOMAIN)."""


class DnsUnavailable(DnsError):
    """Nobody can say now: SERVFAIL, a time-out, a broken answer. Later may help."""


class MxRecord(Struct, frozen=True, gc=False, array_like=True):
    """`host` is lower case without the final dot; "" is the null MX (RFC 7505)."""

    preference: int
    host: str


class TlsaRecord(Struct, frozen=True, gc=False, array_like=True):
    """RFC 6698 §2.1."""

    usage: int
    selector: int
    matching: int
    data: bytes


class Records(Struct, frozen=True):
    """One answer: its texts, in the order of the server, and how long it may be kept."""

    texts: tuple[Any, ...]
    ttl: float
    secure: bool = False


Ask = Callable[[str, str], Awaitable[Records]]
"""Asks (name, record type) without a cache. Raises NoSuchDomain, DnsUnavailable; no record of the type is an empty answer."""


class _Cached(Struct, gc=False):
    expires: float
    records: tuple[Any, ...]
    error: DnsError | None
    secure: bool = False


class Resolver:
    """Asks each question once at a time, and remembers the answer.

    `name_servers` are addresses, with a port where it is not 53 ("127.0.0.1:5353", "[::1]:5353"); none = those of the
    machine. `ask` replaces the network in tests.
    """

    def __init__(
        self,
        clock: Clock,
        name_servers: Sequence[str] = (),
        *,
        metrics: Metrics | None = None,
        ask: Ask | None = None,
        trusted: Sequence[Network] = LOOPBACK,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._ask = ask or DnspythonAsk(name_servers, trusted)
        self._cache: dict[tuple[str, str], _Cached] = {}
        self._asking: dict[tuple[str, str], asyncio.Future[_Cached]] = {}

    def apply(self, name_servers: Sequence[str], trusted: Sequence[Network] = LOOPBACK) -> None:
        """A reload: ask these from now on, and forget what others said. Raises ConfigError."""
        ask = self._ask
        if not isinstance(ask, DnspythonAsk) or (ask.name_servers, ask.trusted) != (tuple(name_servers), tuple(trusted)):
            self._ask = DnspythonAsk(name_servers, trusted)
            self._cache.clear()

    async def mx(self, domain: str) -> list[MxRecord]:
        """The mail exchangers by preference, at most 100; [] = none is published.

        Raises:
            NoSuchDomain, DnsUnavailable
        """
        return sorted(await self._lookup(domain, "MX"), key=lambda record: record.preference)

    async def addresses(self, host: str, *, ipv6: bool = True) -> list[str]:
        """The addresses of a host, IPv6 first, at most 100 of each family; [] = it has none.

        Raises:
            NoSuchDomain: there is no such host.
            DnsUnavailable: nothing is known; with one family known the other's failure does not count.
        """
        if not ipv6:
            return list(await self._lookup(host, "A"))
        answers = await asyncio.gather(self._lookup(host, "AAAA"), self._lookup(host, "A"), return_exceptions=True)
        found = [text for answer in answers if not isinstance(answer, BaseException) for text in answer]
        for answer in reversed(answers):
            if isinstance(answer, BaseException) and not (found and isinstance(answer, DnsError)):
                raise answer
        return found

    async def txt(self, name: str) -> list[bytes]:
        """Raises NoSuchDomain, DnsUnavailable."""
        return list(await self._lookup(name, "TXT"))

    async def tlsa(self, host: str, port: int) -> list[TlsaRecord]:
        """The TLSA records of a TCP service that DNSSEC vouches for; [] = there are none, or they are not secure.

        Raises:
            DnsUnavailable: nothing is known (N5: also when DNSSEC finds the answer forged); TLS must not be left out.
        """
        try:
            cached = await self._answer(f"_{port}._tcp.{host}", "TLSA")
        except NoSuchDomain:
            return []
        return list(cached.records) if cached.secure else []

    async def is_secure(self, name: str, kind: str) -> bool:
        """Whether DNSSEC vouches for an answer; one that does not come is not secure."""
        try:
            return (await self._answer(name, kind)).secure
        except DnsError:
            return False

    async def host_names(self, address: str) -> list[str]:
        """The names of an address (PTR), not verified.

        Raises:
            NoSuchDomain, DnsUnavailable
        """
        return list(await self._lookup(dns.reversename.from_address(address).to_text(omit_final_dot=True), "PTR"))

    async def verified_name(self, address: str) -> str:
        """The name of an address that leads back to it, "" when there is none or it cannot be found now."""
        try:
            for name in (await self.host_names(address))[:5]:
                if is_host_name(name) and _same_address(address, await self.addresses(name, ipv6=":" in address)):
                    return name
        except DnsError:
            pass
        return ""

    def forget(self) -> None:
        """Empty the cache."""
        self._cache.clear()

    async def _lookup(self, name: str, kind: str) -> tuple[Any, ...]:
        return (await self._answer(name, kind)).records

    async def _answer(self, name: str, kind: str) -> _Cached:
        key = (name.lower().rstrip("."), kind)
        cached = self._cache.get(key)
        if cached is not None and cached.expires > self._clock.monotonic():
            self._count("hit")
        else:
            # A task of its own: whoever gave up waiting must not cancel the question of the others.
            asking = self._asking.get(key)
            if asking is None:
                asking = self._asking[key] = asyncio.ensure_future(self._fetch(key))
            cached = await asyncio.shield(asking)
        if cached.error is not None:
            raise type(cached.error)(cached.error.public, cached.error.detail)
        return cached

    async def _fetch(self, key: tuple[str, str]) -> _Cached:
        try:
            try:
                records = await self._ask(*key)
                ttl = min(max(records.ttl, MIN_TTL_SECONDS), MAX_TTL_SECONDS if records.texts else NEGATIVE_TTL_SECONDS)
                cached = _Cached(self._clock.monotonic() + ttl, records.texts[:MAX_RECORDS], None, records.secure)
                self._count("found" if records.texts else "missing")
            except NoSuchDomain as error:
                cached = _Cached(self._clock.monotonic() + NEGATIVE_TTL_SECONDS, (), error)
                self._count("missing")
            except Exception as error:
                if not isinstance(error, DnsUnavailable):
                    error = DnsUnavailable("the answer cannot be read", repr(error))
                cached = _Cached(self._clock.monotonic() + FAILURE_TTL_SECONDS, (), error)
                self._count("failed")
        finally:
            self._asking.pop(key, None)
        self._cache.pop(key, None)
        while len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[key] = cached
        return cached

    def _count(self, result: str) -> None:
        if self._metrics is not None:
            self._metrics.inc(DNS_LOOKUPS[result])


class DnspythonAsk:
    """The network: dnspython's asyncio resolver (UDP, then TCP; CNAMEs are followed, loops end as DnsUnavailable)."""

    def __init__(self, name_servers: Sequence[str] = (), trusted: Sequence[Network] = LOOPBACK) -> None:
        self.name_servers = tuple(name_servers)
        self.trusted = tuple(trusted)
        self._places = [_name_server(text) for text in name_servers]
        self._resolver: dns.asyncresolver.Resolver | None = None

    def _open(self) -> dns.asyncresolver.Resolver:
        if self._resolver is None:
            try:
                resolver = dns.asyncresolver.Resolver(configure=not self._places)
            except dns.resolver.NoResolverConfiguration as error:
                raise DnsUnavailable("no name server is configured", str(error)) from None
            if self._places:
                resolver.nameservers = [dns.nameserver.Do53Nameserver(*place) for place in self._places]
            resolver.cache = None
            resolver.lifetime = LOOKUP_SECONDS
            resolver.set_flags(dns.flags.RD | dns.flags.AD)  # RFC 6840 §5.7: AD in a question asks for AD in the answer
            self._resolver = resolver
        return self._resolver

    async def __call__(self, name: str, kind: str) -> Records:
        try:
            answer = await self._open().resolve(name + ".", kind, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            raise NoSuchDomain("no such domain", str(error)) from None
        except (dns.exception.DNSException, OSError, ValueError) as error:
            # A name that is no name (a label of 64 octets) does not exist either.
            if isinstance(error, (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.exception.SyntaxError)):
                raise NoSuchDomain("not a domain name", str(error)) from None
            raise DnsUnavailable("the name servers do not answer", str(error) or type(error).__name__) from None
        secure = bool(answer.response.flags & dns.flags.AD) and self._is_trusted(answer.nameserver)
        if answer.rrset is None:
            return Records((), NEGATIVE_TTL_SECONDS, secure)
        texts = [text for text in map(_text_of, answer.rrset) if text is not None]
        return Records(tuple(texts), float(answer.rrset.ttl), secure)


    def _is_trusted(self, server: str | None) -> bool:
        """Whether we believe what a name server says of DNSSEC."""
        try:
            address = ipaddress.ip_address((server or "").partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self.trusted)


def _text_of(record: Any) -> Any:
    kind = record.rdtype
    if kind == dns.rdatatype.MX:
        return MxRecord(record.preference, _host(record.exchange))
    if kind == dns.rdatatype.PTR:
        return _host(record.target)
    if kind == dns.rdatatype.TXT:
        return b"".join(record.strings)
    if kind == dns.rdatatype.TLSA:
        return TlsaRecord(record.usage, record.selector, record.mtype, record.cert)
    if kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        return str(record.address)
    return None


def _host(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def _name_server(text: str) -> tuple[str, int]:
    """Raises ConfigError."""
    try:
        return name_server(text)
    except ValueError as error:
        raise ConfigError(str(error), key="delivery.resolver") from None


def is_host_name(text: str) -> bool:
    """Whether a name has only letters, digits, hyphens, underscores and dots: safe in a header and in a log (N8)."""
    return bool(text) and len(text) <= 255 and text.isascii() and all(c.isalnum() or c in "-_." for c in text)


def _same_address(address: str, candidates: Sequence[str]) -> bool:
    wanted = ipaddress.ip_address(address.partition("%")[0])
    return any(ipaddress.ip_address(candidate) == wanted for candidate in candidates)
