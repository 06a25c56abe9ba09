"""What a domain publishes about TLS to its servers over HTTPS: MTA-STS (RFC 8461).

A TXT record at _mta-sts.DOMAIN says that there is a policy, and by its id when it is another one; the policy is fetched from
https://mta-sts.DOMAIN/.well-known/mta-sts.txt, whose certificate must be good. A policy that is known holds for its max_age,
whatever the DNS says meanwhile (§3.1), so it is kept in the ledger, which all workers share and a restart keeps.

Nobody waits for a slow policy host (N7): where a policy is known it is used while DNS and host are asked for a new one, and the
first mail to a domain waits a few seconds; then it goes without, until the policy is there. A host that failed is not asked
again for five minutes. At most 64 KiB are read, in at most a minute, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from rusmes.clock import Clock
from rusmes.dns import DnsError, NoSuchDomain, Resolver
from rusmes.errors import PeerError
from rusmes.log import get_logger
from rusmes.storage.api import Ledger

P = TypeVar("P", "StsPolicy", "StsPolicy | None")

TABLE: Final = "mta-sts"
MAX_POLICY_BYTES: Final = 64 * 1024
"""RFC 8461 §3.3 allows a limit; this is its example."""
FETCH_SECONDS: Final = 60.0
"""RFC 8461 §3.3: a minute is its example."""
FIRST_WAIT_SECONDS: Final = 5.0
"""How long the first mail to a domain waits for its policy."""
MAX_WAITING: Final = 16
"""Domains that are waited for at once. Look-ups of destinations have 64 places: slow policy hosts must not fill them."""
RETRY_SECONDS: Final = 300.0
"""RFC 8461 §3.3: a host that failed is left alone so long, at least."""
REFRESH_SECONDS: Final = 86_400.0
"""A policy in use is fetched again each day (§3.3, §10.2), even when its id is the same, so that it never ends by age."""
MAX_AGE_SECONDS: Final = 31_557_600
"""RFC 8461 §3.2: a year."""
MIN_KEPT_SECONDS: Final = 60.0
MAX_FETCHES: Final = 20
"""At once."""
MAX_REMEMBERED: Final = 20_000
"""Domains whose answer, policy or none, is in memory."""
LOOK_SECONDS: Final = 60.0
"""How long an answer of ours is used before DNS and ledger are asked again."""

_RECORD_ID: Final = re.compile(rb"v=STSv1[ \t]*;(?:[^;]*;)*?[ \t]*id[ \t]*=[ \t]*([A-Za-z0-9]{1,32})[ \t]*(?:;|$)")

_log = get_logger("delivery")


class BadPolicy(PeerError):
    """What is published is no policy, or cannot be had; `kind` is the result type of RFC 8460 §4.3."""

    def __init__(self, reason: str, kind: str = "sts-policy-invalid") -> None:
        super().__init__(reason)
        self.kind = kind


class StsPolicy(Struct, frozen=True):
    """A policy, as it is kept."""

    id: str
    mode: str
    """enforce | testing | none."""
    mx: tuple[str, ...]
    max_age: float
    fetched: float = 0.0
    """Seconds since the epoch."""
    used: float = 0.0
    """About when mail last asked for it."""
    domain: str = ""

    @property
    def expires(self) -> float:
        return self.fetched + max(self.max_age, MIN_KEPT_SECONDS)

    def allows(self, host: str) -> bool:
        """RFC 8461 §4.1: a name, or "*." and the rest of one, of which the asterisk stands for one label."""
        host = host.lower().rstrip(".")
        for pattern in self.mx:
            if pattern == host:
                return True
            if pattern.startswith("*.") and host.partition(".")[2] == pattern[2:] and host.partition(".")[0]:
                return True
        return False

    @property
    def lines(self) -> list[str]:
        """As it was published, for reports (RFC 8460 §4.4)."""
        return ["version: STSv1", f"mode: {self.mode}", *(f"mx: {one}" for one in self.mx), f"max_age: {int(self.max_age)}"]


def read_record(records: Sequence[bytes]) -> str:
    """The id of the policy, "" when the domain has none (RFC 8461 §3.1: also when there are several records)."""
    ours = [record for record in records if record.startswith(b"v=STSv1")]
    match = _RECORD_ID.match(ours[0]) if len(ours) == 1 else None
    return match[1].decode() if match is not None else ""


def read_policy(text: bytes, id: str, domain: str, now: float) -> StsPolicy:
    """A policy file (RFC 8461 §3.2). Of a key that is there twice the first counts; unknown ones mean nothing.

    Raises:
        BadPolicy
    """
    values: dict[str, str] = {}
    mx: list[str] = []
    try:
        lines = text.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise BadPolicy("the policy is no text") from None
    for line in lines:
        if not line.strip():
            continue
        key, colon, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if not colon or not key:
            raise BadPolicy(f"{line[:40]!r} is no line of a policy")
        if key == "mx":
            mx.append(value.lower().rstrip("."))
        else:
            values.setdefault(key, value)
    mode, age = values.get("mode", ""), values.get("max_age", "")
    if values.get("version") != "STSv1":
        raise BadPolicy("the version is not STSv1")
    if mode not in ("enforce", "testing", "none"):
        raise BadPolicy(f"the mode {mode[:20]!r} is none")
    if not (age.isascii() and age.isdigit() and len(age) <= 10):
        raise BadPolicy("max_age is no number")
    if mode != "none" and not mx:
        raise BadPolicy("the policy names no servers")
    if any(not re.fullmatch(r"(?:\*\.)?[a-z0-9_.-]{1,253}", one) for one in mx) or len(mx) > 1000:
        raise BadPolicy("a name of a server is none")
    return StsPolicy(id, mode, tuple(mx), float(min(int(age), MAX_AGE_SECONDS)), now, now, domain)


Fetch = Callable[[str], Awaitable[bytes]]
"""The policy file of a domain. Raises BadPolicy."""
Failed = Callable[[str, str, str], None]
"""Told of a policy that could not be had: (domain, result type, reason)."""


class StsPolicies:
    """The policies of other domains. `ledger` None keeps them in memory alone."""

    def __init__(
        self, resolver: Resolver, clock: Clock, ledger: Ledger | None, fetch: Fetch, failed: Failed | None = None
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._ledger = ledger
        self._fetch = fetch
        self._failed = failed
        self._known: dict[str, tuple[float, StsPolicy | None]] = {}
        """What we answered, until when (monotonic) it is used without asking."""
        self._kept: dict[str, StsPolicy] = {}
        """Without a ledger."""
        self._asking: dict[str, asyncio.Task[StsPolicy | None]] = {}
        self._waiting = 0
        self._fetching: dict[str, asyncio.Task[StsPolicy | None]] = {}
        self._failures: dict[str, float] = {}
        """When (monotonic) a policy host may be asked again."""
        self._slots = asyncio.Semaphore(MAX_FETCHES)

    async def policy(self, domain: str) -> StsPolicy | None:
        """What holds for mail to a domain now; None: nothing is published, or nothing is known yet."""
        known = self._known.get(domain)
        if known is not None and known[0] > self._clock.monotonic():
            return known[1]
        kept = self._load(domain)
        asking = self._asking.get(domain)
        if asking is None:
            asking = self._asking[domain] = asyncio.get_running_loop().create_task(self._find(domain, kept))
            asking.add_done_callback(lambda _: self._asking.pop(domain, None))
        if kept is not None:
            return self._remember(domain, kept)
        if self._waiting >= MAX_WAITING:
            return None
        self._waiting += 1
        try:
            done, _ = await asyncio.wait([asking], timeout=FIRST_WAIT_SECONDS)
        finally:
            self._waiting -= 1
        return asking.result() if done else None

    async def _find(self, domain: str, kept: StsPolicy | None) -> StsPolicy | None:
        """Ask the DNS, and fetch what is new or old."""
        try:
            id = read_record(await self._resolver.txt(f"_mta-sts.{domain}"))
        except NoSuchDomain:
            id = ""
        except DnsError:
            return self._remember(domain, kept)
        now = self._clock.now()
        if kept is not None and kept.expires > now:
            if now - kept.used > REFRESH_SECONDS / 2:
                kept = self._remember(domain, self._store(msgspec.structs.replace(kept, used=now)))
            is_new = id != "" and (id != kept.id or now - kept.fetched > REFRESH_SECONDS)
            fetching = self._begin(domain, id) if is_new else None
            return (await fetching if fetching is not None else None) or kept
        fetching = self._begin(domain, id) if id else None
        return self._remember(domain, await fetching if fetching is not None else None)

    def _remember(self, domain: str, policy: P) -> P:
        """Our answer for some time."""
        self._known.pop(domain, None)
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[domain] = (self._clock.monotonic() + LOOK_SECONDS, policy)
        return policy

    def _begin(self, domain: str, id: str) -> asyncio.Task[StsPolicy | None] | None:
        """Fetch a policy, once at a time; None while its host is left alone."""
        task = self._fetching.get(domain)
        if task is None:
            if self._failures.get(domain, 0.0) > self._clock.monotonic():
                return None
            task = self._fetching[domain] = asyncio.get_running_loop().create_task(self._renew(domain, id))
            task.add_done_callback(lambda _: self._fetching.pop(domain, None))
        return task

    async def _renew(self, domain: str, id: str) -> StsPolicy | None:
        try:
            async with self._slots, asyncio.timeout(FETCH_SECONDS):
                policy = read_policy(await self._fetch(domain), id, domain, self._clock.now())
        except (BadPolicy, TimeoutError) as error:
            kind = error.kind if isinstance(error, BadPolicy) else "sts-policy-fetch-error"
            reason = error.public if isinstance(error, BadPolicy) else f"no policy within {FETCH_SECONDS:g} s"
            _log.warn("policy of a domain cannot be used", domain=domain, kind=kind, reason=reason)
            while len(self._failures) >= MAX_REMEMBERED:
                del self._failures[next(iter(self._failures))]
            self._failures[domain] = self._clock.monotonic() + RETRY_SECONDS
            if self._failed is not None:
                self._failed(domain, kind, reason)
            return None
        self._failures.pop(domain, None)
        return self._remember(domain, self._store(policy))

    async def refresh(self) -> int:
        """Fetch what is in use and due again; how many were begun. For one worker, now and then."""
        begun, now = 0, self._clock.now()
        for policy in self._all():
            unused = now - policy.used > 30 * REFRESH_SECONDS
            if unused or now - policy.fetched < min(REFRESH_SECONDS, policy.max_age / 2):
                continue
            with contextlib.suppress(DnsError):
                id = read_record(await self._resolver.txt(f"_mta-sts.{policy.domain}"))
                if id and self._begin(policy.domain, id) is not None:
                    begun += 1
            while len(self._fetching) >= MAX_FETCHES:
                await asyncio.wait(self._fetching.values(), return_when=asyncio.FIRST_COMPLETED)
        return begun

    async def stop(self) -> None:
        tasks = [*self._asking.values(), *self._fetching.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What is kept

    def _load(self, domain: str) -> StsPolicy | None:
        if self._ledger is None:
            policy = self._kept.get(domain)
        else:
            row = self._ledger.get(TABLE, domain.encode())
            try:
                policy = msgspec.msgpack.decode(row, type=StsPolicy) if row is not None else None
            except msgspec.DecodeError:
                policy = None
        return policy if policy is not None and policy.expires > self._clock.now() else None

    def _store(self, policy: StsPolicy) -> StsPolicy:
        if self._ledger is None:
            self._kept[policy.domain] = policy
        else:
            self._ledger.put(TABLE, policy.domain.encode(), msgspec.msgpack.encode(policy), expires=policy.expires)
        return policy

    def _all(self) -> list[StsPolicy]:
        if self._ledger is None:
            return list(self._kept.values())
        rows = [row for _, row in self._ledger.items(TABLE)]
        return [msgspec.msgpack.decode(row, type=StsPolicy) for row in rows]


class HttpsFetch:
    """The network: one GET, over verified TLS to a public address."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        private_hosts: bool = False,
        context: ssl.SSLContext | None = None,
        port: int = 443,
    ) -> None:
        self._resolver = resolver
        self._private_hosts = private_hosts
        self._context = context
        self._port = port

    async def __call__(self, domain: str) -> bytes:
        """Raises BadPolicy."""
        host = f"mta-sts.{domain}"
        place = host if self._port == 443 else f"{host}:{self._port}"
        try:
            async with (
                https_client(self._resolver, private_hosts=self._private_hosts, context=self._context) as client,
                client.get(f"https://{place}/.well-known/mta-sts.txt", allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise BadPolicy(f"the policy host answers {response.status}", "sts-policy-fetch-error")
                if response.content_type != "text/plain":  # RFC 8461 §3.2
                    raise BadPolicy(f"the policy is {response.content_type[:40]!r}")
                text = b""
                while len(text) <= MAX_POLICY_BYTES:
                    piece = await response.content.read(MAX_POLICY_BYTES + 1 - len(text))
                    if not piece:
                        return text
                    text += piece
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise BadPolicy(f"the policy host's certificate: {error}"[:300], "sts-webpki-invalid") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise BadPolicy(f"the policy host: {reason}"[:300], "sts-policy-fetch-error") from None
        raise BadPolicy(f"the policy is larger than {MAX_POLICY_BYTES >> 10} KiB")


def https_client(
    resolver: Resolver, *, private_hosts: bool = False, context: ssl.SSLContext | None = None
) -> aiohttp.ClientSession:
    """A client for one request to a host that a stranger has named: our resolver, no cookies, no proxy, no private address."""
    connector = aiohttp.TCPConnector(
        resolver=_Names(resolver, private_hosts), ssl=context or ssl.create_default_context(), force_close=True, limit=1
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "RusMES"},
        auto_decompress=False,
    )


class _Names(AbstractResolver):
    """Names for aiohttp from the resolver that mail uses."""

    def __init__(self, resolver: Resolver, private_hosts: bool) -> None:
        self._resolver = resolver
        self._private_hosts = private_hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            addresses = await self._resolver.addresses(host)
        except DnsError as error:
            raise OSError(0, f"{host}: {error.public}") from None
        found: list[Any] = [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
            if self._private_hosts or ipaddress.ip_address(address).is_global
        ]
        if not found:
            raise OSError(0, f"{host} has no public address")
        return found

    async def close(self) -> None: ...
