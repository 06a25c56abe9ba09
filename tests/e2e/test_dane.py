"""TLS towards servers whose certificates are named in the DNS (RFC 7672; T14, N5, N6)."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from rusmes.clock import SystemClock
from rusmes.delivery import dane
from rusmes.delivery.remote import RemoteDeliverer
from rusmes.dns import Resolver, TlsaRecord
from rusmes.metrics import Metrics
from rusmes.queue.api import Report
from tests.e2e.test_delivery_rules import item
from tests.e2e.test_relay import mx_config
from tests.sinks.engine import HOSTNAME
from tests.sinks.name_server import NameServer
from tests.sinks.smtp_sink import Sink

HOST = "mx.x.org"


class Authority:
    """A root, and a server certificate that it signed, served as a chain."""

    def __init__(self, directory: Path, host: str = HOST) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root")])

        def builder(name: x509.Name, public: Any) -> x509.CertificateBuilder:
            made = x509.CertificateBuilder().issuer_name(root_name).subject_name(name).public_key(public)
            made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(1))
            made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root_key.public_key()), False)
            return made.not_valid_after(now + datetime.timedelta(30))

        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        root = builder(root_name, self.root_key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
        root = root.add_extension(usage, True)
        root = root.add_extension(x509.SubjectKeyIdentifier.from_public_key(self.root_key.public_key()), False)
        self.root = root.sign(self.root_key, hashes.SHA256())
        leaf = builder(x509.Name([]), key.public_key()).add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), True)
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False)
        self.leaf = leaf.sign(self.root_key, hashes.SHA256())
        pem = self.leaf.public_bytes(Encoding.PEM) + self.root.public_bytes(Encoding.PEM)
        pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = directory / "chain.pem"
        path.write_bytes(pem)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(path)

    @property
    def chain(self) -> list[bytes]:
        return [self.leaf.public_bytes(Encoding.DER), self.root.public_bytes(Encoding.DER)]

    def record(self, usage: int, selector: int, matching: int, *, of: x509.Certificate | None = None) -> TlsaRecord:
        certificate = of or (self.leaf if usage == 3 else self.root)
        data = certificate.public_bytes(Encoding.DER)
        if selector == 1:
            data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = {0: lambda d: d, 1: lambda d: hashlib.sha256(d).digest(), 2: lambda d: hashlib.sha512(d).digest()}[matching]
        return TlsaRecord(usage, selector, matching, digest(data))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("dane"))


def text(record: TlsaRecord) -> str:
    return f"{record.usage} {record.selector} {record.matching} {record.data.hex()}"


def send(
    sink: Sink, records: Sequence[TlsaRecord] | str, *, insecure: Sequence[tuple[str, str]] = (), **mail: Any
) -> Report:
    async def main() -> Report:
        async with NameServer() as names, sink:
            names.insecure = set(insecure)
            names.records = {
                ("x.org.", "MX"): [f"10 {HOST}."],
                (f"{HOST}.", "A"): ["127.0.0.1"],
                (f"_{sink.port}._tcp.{HOST}.", "TLSA"): records if isinstance(records, str) else [text(r) for r in records],
            }
            if any(kind == "TLSA" for _, kind in insecure):
                names.insecure.add((f"_{sink.port}._tcp.{HOST}.", "TLSA"))
            clock = SystemClock()
            config = mx_config(sink.port, names, tls="dane")
            out = RemoteDeliverer(config, Resolver(clock, [names.address]), Metrics(), clock, None, HOSTNAME)
            queued = item("a@x.org", **mail)
            (report,) = await out.deliver(queued, queued.recipients, "mx:x.org")
            await out.stop()
            return report

    return asyncio.run(main())


@pytest.mark.rfc("7672", "3.1")
@pytest.mark.parametrize("record", [(3, 1, 1), (3, 0, 2), (3, 1, 0), (2, 0, 1), (2, 1, 1)])
def test_the_named_certificate_is_taken(authority: Authority, record: tuple[int, int, int]) -> None:
    sink = Sink(tls=authority.context)
    assert send(sink, [authority.record(*record)]).action == "delivered"
    assert sink.messages[0].tls


def test_another_certificate_is_not(authority: Authority, tmp_path: Path) -> None:
    sink = Sink(tls=authority.context)
    other = Authority(tmp_path)
    report = send(sink, [other.record(3, 1, 1), other.record(2, 0, 1)])
    assert (report.action, report.status) == ("delayed", "4.7.5")
    assert not sink.messages


def test_a_trust_anchor_vouches_for_its_name_only(authority: Authority, tmp_path: Path) -> None:
    assert dane.matches([authority.record(2, 0, 1)], authority.chain, HOST)
    assert not dane.matches([authority.record(2, 0, 1)], authority.chain, "mx.other.org")
    other = Authority(tmp_path)
    assert not dane.matches([other.record(2, 0, 1)], [authority.chain[0], other.chain[1]], HOST)


def test_t14_stripped_starttls_delays(authority: Authority) -> None:
    sink = Sink()
    report = send(sink, [authority.record(3, 1, 1)])
    assert (report.action, report.status) == ("delayed", "4.7.10")
    assert not sink.messages


@pytest.mark.rfc("8689", "4.2.2")
@pytest.mark.parametrize("said", [b"TLS-Required: No", b"tls-required:\tno ", b"TLS-Required: Yes", b"X: TLS-Required: No"])
@pytest.mark.parametrize("how", ["other certificate", "no starttls"])
def test_a_mail_may_say_that_tls_is_not_required(authority: Authority, tmp_path: Path, how: str, said: bytes) -> None:
    """It is taken over a connection that nobody vouches for, or over one in the clear; REQUIRETLS is stronger (§4.1)."""
    sink = Sink(tls=authority.context if how == "other certificate" else None)
    data = b"Subject: x\r\n" + said + b"\r\n" + b"\r\nTLS-Required: No\r\n"
    records = [Authority(tmp_path).record(3, 1, 1)]
    wants_it = said.lower().startswith(b"tls") and b"Yes" not in said
    assert send(sink, records, data=data).action == ("delivered" if wants_it else "delayed")
    assert len(sink.messages) == wants_it
    assert send(sink, records, data=data, requiretls=True).action in ("delayed", "failed")


def test_broken_tls_never_falls_back_under_dane(authority: Authority) -> None:
    sink = Sink(tls=authority.context)
    sink.garbage_handshake = True
    assert send(sink, [authority.record(3, 1, 1)]).action == "delayed"
    assert len(sink.peers) == 1


@pytest.mark.parametrize("what", [("x.org.", "MX"), (f"{HOST}.", "A"), ("any", "TLSA")])
def test_records_that_dnssec_does_not_vouch_for_mean_nothing(tmp_path: Path, what: tuple[str, str]) -> None:
    sink = Sink()
    insecure = [what, (f"{HOST}.", "AAAA")] if what[1] == "A" else [what]
    assert send(sink, [Authority(tmp_path).record(3, 1, 1)], insecure=insecure).action == "delivered"


def test_n5_no_answer_about_tlsa_delays(authority: Authority) -> None:
    sink = Sink(tls=authority.context)
    report = send(sink, "SERVFAIL")
    assert (report.action, report.status) == ("delayed", "4.4.3")
    assert not sink.peers


def test_n6_unusable_records_demand_encryption_alone(authority: Authority) -> None:
    unusable = [TlsaRecord(1, 1, 1, b"x" * 32), TlsaRecord(3, 1, 9, b"x" * 32)]
    assert not any(map(dane.is_usable, [*unusable, TlsaRecord(3, 1, 1, b"short")]))
    sink = Sink(tls=authority.context)
    assert send(sink, unusable).action == "delivered"
    assert sink.messages[0].tls
    assert send(Sink(), unusable).action == "delayed"


def test_without_records_tls_is_opportunistic() -> None:
    assert send(Sink(), []).action == "delivered"


@pytest.mark.rfc("7672", "2.1.1")
@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)])
def test_what_a_stranger_says_of_dnssec_is_not_believed(trusted: tuple[str, ...]) -> None:
    networks = [ipaddress.ip_network(text) for text in trusted]

    async def main() -> None:
        async with NameServer() as names:
            names.insecure = set()
            names.records = {("x.org.", "MX"): [f"10 {HOST}."], (f"_25._tcp.{HOST}.", "TLSA"): ["3 1 1 " + "00" * 32]}
            believed = Resolver(SystemClock(), [names.address])  # on this machine
            assert await believed.is_secure("x.org", "MX")
            assert await believed.tlsa(HOST, 25)
            other = Resolver(SystemClock(), [names.address], trusted=networks)
            assert await other.mx("x.org")
            assert not await other.is_secure("x.org", "MX")
            assert await other.tlsa(HOST, 25) == []
            other.apply([names.address], [ipaddress.ip_network("127.0.0.1/32")])
            assert await other.is_secure("x.org", "MX")

    asyncio.run(main())
