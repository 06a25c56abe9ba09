"""The DNS records a mail domain wants, as lines of a zone file."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from rusmes.cli.keys import DkimKey

TXT_OCTETS: Final = 255  # RFC 1035 §3.3: one character-string
_PROBES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


class Record(Struct, frozen=True):
    """One record; `comment` says what it is for."""

    name: str
    type: str
    value: str
    comment: str

    def line(self) -> str:
        value = _strings(self.value) if self.type == "TXT" else self.value
        return f"{self.name}. {self.type} {value}"


def records_for(
    domain: str,
    hostname: str,
    postmaster: str,
    keys: Sequence[DkimKey],
    *,
    addresses: Sequence[str] = (),
    ports: Iterable[tuple[str, int]] = (),
) -> list[Record]:
    """What to publish. `ports` are (SRV service name, port) of the services users connect to."""
    records = [
        Record(
            hostname,
            "AAAA" if ":" in address else "A",
            address,
            "where this machine is; its reverse record must lead back to the name",
        )
        for address in addresses
    ]
    if not addresses:
        records.append(
            Record(hostname, "A", "<the public address of this machine>", "its reverse record must lead back to the name")
        )
    records += [
        Record(domain, "MX", f"10 {hostname}.", "where mail for the domain goes"),
        Record(domain, "TXT", "v=spf1 mx -all", "SPF: who may send for the domain (RFC 7208)"),
        Record(hostname, "TXT", "v=spf1 a -all", "SPF of the host name, for notices without a sender"),
    ]
    records += [
        Record(f"{key.selector}._domainkey.{domain}", "TXT", key.record, "DKIM: the signing key's public half (RFC 6376)")
        for key in keys
    ]
    records += [
        Record(f"_dmarc.{domain}", "TXT", f"v=DMARC1; p=quarantine; rua=mailto:{postmaster}", "DMARC (RFC 7489)"),
        Record(f"_smtp._tls.{domain}", "TXT", f"v=TLSRPTv1; rua=mailto:{postmaster}", "reports on TLS failures (RFC 8460)"),
        Record(
            f"_mta-sts.{domain}",
            "TXT",
            "v=STSv1; id=1",
            "MTA-STS (RFC 8461): only once the policy below is served and the certificate is a public one",
        ),
    ]
    records += [
        Record(
            f"_{service}._tcp.{domain}",
            "SRV",
            f"0 1 {port} {hostname}.",
            "lets mail programs find the port (RFC 6186, RFC 8314)",
        )
        for service, port in ports
        if port
    ]
    return records


def mta_sts_policy(hostname: str) -> str:
    """What https://mta-sts.<domain>/.well-known/mta-sts.txt must say (RFC 8461 §3.2)."""
    return f"version: STSv1\nmode: testing\nmx: {hostname}\nmax_age: 604800\n"


def public_addresses() -> list[str]:
    """The addresses this machine sends from, as far as they are public. Asks the routing table; sends nothing."""
    found = []
    for family, probe in _PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as unconnected:
                unconnected.connect((probe, 9))
                address = unconnected.getsockname()[0]
        except OSError:
            continue
        if ipaddress.ip_address(address).is_global:
            found.append(address)
    return found


def _strings(text: str) -> str:
    """A TXT value in pieces of at most 255 octets, each in quotes."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return " ".join(f'"{quoted[start : start + TXT_OCTETS]}"' for start in range(0, len(quoted), TXT_OCTETS))
