"""Reports on TLS towards other domains, for those that ask for them (RFC 8460).

Each worker counts the connections it opens, by day (UTC), recipient domain and policy, and writes its counts to the ledger each
minute. One worker, after midnight, adds up the day before, asks the DNS who wants to know (_smtp._tls.DOMAIN), and sends a
gzipped JSON document by mail or HTTPS. What cannot be sent is tried again until the next midnight.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec
from msgspec import Struct, field

from rusmes.clock import Clock
from rusmes.config import names
from rusmes.delivery.mtasts import https_client
from rusmes.delivery.routes import Endpoint, RoutePlan
from rusmes.delivery.session import BrokenTls, Gone, NoTls, Session
from rusmes.dns import DnsError, NoSuchDomain, Resolver
from rusmes.log import get_logger
from rusmes.model.address import Address
from rusmes.storage.api import Ledger

TABLE: Final = "tlsrpt"
MAX_TALLIES: Final = 20_000
"""Domains with their policies, of one worker and day."""
MAX_FAILURES: Final = 50
"""Kinds of failure of one policy; more are counted without details."""
MAX_PLACES: Final = 5
"""To which one report is sent."""
KEPT_SECONDS: Final = 2 * 86_400.0
SEND_AFTER_SECONDS: Final = 1800.0
"""After midnight: the other workers have written their counts, and clocks may differ. RFC 8460 §4.1 asks for a delay."""
AT_ONCE: Final = 10
POST_SECONDS: Final = 60.0

_KINDS: Final = (
    (re.compile(r"hostname mismatch|ip address mismatch", re.I), "certificate-host-mismatch"),
    (re.compile(r"certificate has expired", re.I), "certificate-expired"),
    (re.compile(r"certificate verify failed|self[- ]signed|unable to get", re.I), "certificate-not-trusted"),
)

_log = get_logger("delivery")


class Failure(Struct, frozen=True):
    """RFC 8460 §4.3, what failures are told apart by."""

    kind: str
    address: str = ""
    host: str = ""
    source: str = ""
    reason: str = ""


class Tally(Struct):
    """What happened under one policy of one domain on one day."""

    domain: str
    policy_type: str
    """tlsa | sts | no-policy-found."""
    policy_domain: str
    policy: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()
    good: int = 0
    bad: int = 0
    failures: dict[str, tuple[Failure, int]] = field(default_factory=dict)

    def failed(self, failure: Failure) -> None:
        self.bad += 1
        key = "\0".join((failure.kind, failure.address, failure.source))
        found = self.failures.get(key)
        if found is not None or len(self.failures) < MAX_FAILURES:
            self.failures[key] = (failure, found[1] + 1 if found is not None else 1)

    def add(self, other: Tally) -> None:
        """What another worker has counted."""
        self.good += other.good
        self.bad += other.bad
        for key, (failure, count) in other.failures.items():
            found = self.failures.get(key)
            if found is not None or len(self.failures) < MAX_FAILURES:
                self.failures[key] = (failure, count + (found[1] if found is not None else 0))


def kind_of(error: Gone) -> str:
    """The result type of a connection that failed (RFC 8460 §4.3)."""
    if isinstance(error, NoTls):
        return "starttls-not-supported"
    if isinstance(error, BrokenTls):
        return next((kind for pattern, kind in _KINDS if pattern.search(error.text)), "validation-failure")
    return "validation-failure"


class TlsCounts:
    """The counts of a worker; `name` tells workers, and their restarts, apart."""

    def __init__(self, ledger: Ledger, clock: Clock, name: str) -> None:
        self._ledger = ledger
        self._clock = clock
        self._name = name
        self._day = ""
        self._tallies: dict[bytes, Tally] = {}
        self._changed: set[bytes] = set()

    def opened(self, plan: RoutePlan, endpoint: Endpoint, mode: str, session: Session) -> None:
        """A connection that mail may use."""
        tally = self._tally(plan, endpoint, mode)
        if tally is None:
            return
        if session.connection.tls is not None:
            tally.good += 1
        else:
            tally.failed(Failure("starttls-not-supported", endpoint.address, endpoint.host, session.source_address))

    def failed(self, plan: RoutePlan, endpoint: Endpoint, mode: str, error: Gone) -> None:
        tally = self._tally(plan, endpoint, mode)
        if tally is not None:
            source = error.attempt.source_address if error.attempt is not None else ""
            tally.failed(Failure(kind_of(error), endpoint.address, endpoint.host, source, error.text[:200]))

    def not_named(self, plan: RoutePlan, reason: str) -> None:
        """No server of the domain is in its policy."""
        tally = self._tally(plan, Endpoint("", "", plan.port), "mta-sts")
        if tally is not None:
            tally.failed(Failure("validation-failure", reason=reason[:200]))

    def no_policy(self, domain: str, kind: str, reason: str) -> None:
        """A policy is published, and cannot be had."""
        self._counted(Tally(domain, "sts", domain)).failed(Failure(kind, reason=reason[:200]))

    def _tally(self, plan: RoutePlan, endpoint: Endpoint, mode: str) -> Tally | None:
        """None for a host that the operator has named: its TLS is nobody's policy."""
        if not plan.domain or mode in ("none", "verify"):
            return None
        if mode == "dane":
            lines = tuple(f"{r.usage} {r.selector} {r.matching} {r.data.hex()}" for r in endpoint.tlsa)
            return self._counted(Tally(plan.domain, "tlsa", endpoint.host, lines))
        if plan.sts is not None and plan.sts.mode != "none":
            return self._counted(Tally(plan.domain, "sts", plan.domain, tuple(plan.sts.lines), plan.sts.mx))
        return self._counted(Tally(plan.domain, "no-policy-found", plan.domain))

    def _counted(self, fresh: Tally) -> Tally:
        day = day_of(self._clock.now())
        if day != self._day:
            self.flush()
            self._day, self._tallies = day, {}
        key = "\0".join((day, fresh.domain, fresh.policy_type, fresh.policy_domain, self._name)).encode()[:400]
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= MAX_TALLIES:
                return fresh  # counted nowhere
            tally = self._tallies[key] = fresh
        self._changed.add(key)
        return tally

    def flush(self) -> None:
        """Write what has changed to the ledger."""
        expires = self._clock.now() + KEPT_SECONDS
        for key in self._changed:
            if (tally := self._tallies.get(key)) is not None:
                self._ledger.put(TABLE, key, msgspec.msgpack.encode(tally), expires=expires)
        self._changed.clear()


def day_of(now: float) -> str:
    return f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m-%d}"


# Reports


def read_rua(records: Sequence[bytes]) -> list[str]:
    """Where a domain wants its reports (RFC 8460 §3): addresses and https URLs; [] = nowhere."""
    ours = [record for record in records if re.match(rb"v=TLSRPTv1[ \t]*(;|$)", record)]
    if len(ours) != 1:
        return []
    for part in ours[0].decode("utf-8", "replace").split(";")[1:]:
        name, equals, value = part.partition("=")
        if equals and name.strip() == "rua":
            places = [place.strip() for place in value.split(",")]
            return [place for place in places if place.lower().startswith(("mailto:", "https:"))][:MAX_PLACES]
    return []


class Report(Struct, frozen=True):
    """One domain's day, ready to send."""

    domain: str
    submitter: str
    id: str
    file_name: str
    data: bytes
    """The gzipped document."""


def make_report(domain: str, day: str, tallies: Sequence[Tally], sender: Address) -> Report:
    """RFC 8460 §4.4 and §5.1."""
    start = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC)
    end = start + datetime.timedelta(days=1, seconds=-1)
    digest = hashlib.sha256(f"{sender.domain} {domain} {day}".encode()).hexdigest()[:16]
    id = f"{day}.{digest}@{sender.domain}"
    document = {
        "organization-name": sender.domain,
        "date-range": {"start-datetime": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end-datetime": f"{end:%Y-%m-%dT%H:%M:%SZ}"},
        "contact-info": str(sender),
        "report-id": id,
        "policies": [_policy(tally) for tally in tallies],
    }
    file_name = f"{sender.domain}!{domain}!{int(start.timestamp())}!{int(end.timestamp())}!{digest}.json.gz"
    return Report(domain, sender.domain, id, file_name, gzip.compress(msgspec.json.encode(document), mtime=0))


def _policy(tally: Tally) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": tally.policy_type, "policy-domain": tally.policy_domain}
    if tally.policy:
        policy["policy-string"] = list(tally.policy)
    if tally.mx:
        policy["mx-host"] = list(tally.mx)
    found: dict[str, Any] = {
        "policy": policy,
        "summary": {"total-successful-session-count": tally.good, "total-failure-session-count": tally.bad},
    }
    if tally.failures:
        found["failure-details"] = [_failure(failure, count) for failure, count in tally.failures.values()]
    return found


def _failure(failure: Failure, count: int) -> dict[str, Any]:
    details = {
        "result-type": failure.kind,
        "sending-mta-ip": failure.source,
        "receiving-mx-hostname": failure.host,
        "receiving-ip": failure.address,
        "failed-session-count": count,
        "failure-reason-code": failure.reason,
    }
    return {name: value for name, value in details.items() if value}


def report_mail(report: Report, sender: Address, to: str, date: str) -> bytes:
    """RFC 8460 §5.3. "TLS-Required: No" (RFC 8689), because the report may be about the TLS that would keep it away (§3)."""
    boundary = f"rusmes-{report.id.partition('@')[0]}"
    encoded = base64.encodebytes(report.data).decode().replace("\n", "\r\n")
    return f"""\
From: <{sender}>\r
To: <{to}>\r
Subject: Report Domain: {report.domain}\r
 Submitter: {report.submitter}\r
 Report-ID: <{report.id}>\r
Date: {date}\r
Message-ID: <{report.id}>\r
TLS-Report-Domain: {report.domain}\r
TLS-Report-Submitter: {report.submitter}\r
TLS-Required: No\r
Auto-Submitted: auto-generated\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type="tlsrpt";\r
 boundary="{boundary}"\r
\r
--{boundary}\r
Content-Type: text/plain; charset=us-ascii\r
\r
This is an aggregate TLS report from {report.submitter} about {report.domain}.\r
\r
--{boundary}\r
Content-Type: application/tlsrpt+gzip\r
Content-Transfer-Encoding: base64\r
Content-Disposition: attachment;\r
 filename="{report.file_name}"\r
\r
{encoded}\r
--{boundary}--\r
""".encode()


Submit = Callable[[Address, Address, bytes], Awaitable[None]]
"""Puts a message of ours into the queue: sender, recipient, content. Raises for what may work later."""
Post = Callable[[str, bytes], Awaitable[int]]
"""Posts a report; the status. Raises OSError, aiohttp.ClientError, TimeoutError."""


class TlsReporter:
    """Sends the reports of the days that are over; one worker has one."""

    def __init__(
        self,
        ledger: Ledger,
        resolver: Resolver,
        clock: Clock,
        sender: Address,
        submit: Submit,
        post: Post,
        date: Callable[[float], str],
    ) -> None:
        self._ledger = ledger
        self._resolver = resolver
        self._clock = clock
        self._sender = sender
        self._submit = submit
        self._post = post
        self._date = date

    async def send(self) -> int:
        """Send what is due; how many reports went out."""
        today = day_of(self._clock.now() - SEND_AFTER_SECONDS)
        days: dict[tuple[str, str], dict[tuple[str, str], Tally]] = {}
        keys: dict[tuple[str, str], list[bytes]] = {}
        for key, value in self._ledger.items(TABLE):
            day = key.partition(b"\0")[0].decode()
            if day >= today:
                break
            try:
                tally = msgspec.msgpack.decode(value, type=Tally)
            except msgspec.DecodeError:
                self._ledger.delete(TABLE, key)
                continue
            place = (day, tally.domain)
            keys.setdefault(place, []).append(key)
            policies = days.setdefault(place, {})
            known = policies.setdefault((tally.policy_type, tally.policy_domain), tally)
            if known is not tally:
                known.add(tally)
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(place: tuple[str, str]) -> bool:
            async with slots:
                result = await self._send_one(*place, list(days[place].values()))
            if result is not None:
                for key in keys[place]:
                    self._ledger.delete(TABLE, key)
            return bool(result)

        return sum(await asyncio.gather(*(one(place) for place in days)))

    async def _send_one(self, day: str, domain: str, tallies: list[Tally]) -> bool | None:
        """Whether somebody got the report; None: try again later."""
        try:
            places = read_rua(await self._resolver.txt(f"_smtp._tls.{domain}"))
        except NoSuchDomain:
            return False
        except DnsError:
            return None
        if not places:
            return False
        report = make_report(domain, day, tallies, self._sender)
        done = [await self._send_to(report, place) for place in places]
        if True in done:
            _log.info("TLS report sent", domain=domain, day=day, places=len(places))
            return True
        return None if None in done else False

    async def _send_to(self, report: Report, place: str) -> bool | None:
        """Whether it went out; None: it may go later."""
        scheme, _, rest = place.partition(":")
        try:
            if scheme.lower() == "mailto":
                to = names.address(unquote(rest.partition("?")[0]))
                content = report_mail(report, self._sender, str(to), self._date(self._clock.now()))
                await self._submit(self._sender, to, content)
                return True
            if urlsplit(place).hostname is None:
                return False
            status = await self._post(place, report.data)
            if 200 <= status < 300:
                return True
            _log.warn("TLS report refused", domain=report.domain, place=place[:200], status=status)
            return None if status >= 500 else False
        except ValueError:
            return False
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            _log.warn("TLS report cannot be sent", domain=report.domain, place=place[:200], reason=str(error)[:200])
            return None


def https_post(resolver: Resolver, *, private_hosts: bool = False, context: Any = None) -> Post:
    """RFC 8460 §5.4; the certificate need not be good there, but we want it to be."""

    async def post(url: str, data: bytes) -> int:
        headers = {"Content-Type": "application/tlsrpt+gzip"}
        async with (
            asyncio.timeout(POST_SECONDS),
            https_client(resolver, private_hosts=private_hosts, context=context) as client,
            client.post(url, data=data, headers=headers, allow_redirects=False) as response,
        ):
            return response.status

    return post
