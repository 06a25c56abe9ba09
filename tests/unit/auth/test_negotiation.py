"""A whole exchange in base64, as SMTP, POP3 and IMAP run it."""

from __future__ import annotations

import asyncio
import base64
import datetime
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ObjectIdentifier

from rusmes.auth.api import Attempt, Denied, ScramCredentials
from rusmes.auth.negotiation import MAX_RESPONSE_OCTETS, certificate_addresses, negotiate, offered
from rusmes.auth.passwords import Hasher
from rusmes.model.identity import Identity
from rusmes.sasl import Cancelled, MalformedResponse
from rusmes.sasl.client import ClientMechanism, LoginClient, PlainClient, ScramClient

ATTEMPT = Attempt("192.0.2.1", "pop3")


class Authenticator:
    """One account, user and pencil; remembers the mechanisms it was asked with."""

    def __init__(self, mechanisms: str = "PLAIN LOGIN SCRAM-SHA-256 EXTERNAL OAUTHBEARER XOAUTH2") -> None:
        self.mechanisms = frozenset(mechanisms.split())
        self.asked: list[str] = []
        self.keys = Hasher(time_cost=1, memory_kib=8, scram_iterations=4096).scram_keys("pencil")
        self.locked = False

    def _answer(self, good: bool, attempt: Attempt) -> Identity | Denied:
        self.asked.append(attempt.mechanism)
        return Identity("user@example.com") if good else Denied()

    async def login(self, username: str, password: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        return self._answer((username, password, authorize_as) == ("user", "pencil", ""), attempt)

    async def scram_credentials(self, username: str, attempt: Attempt) -> ScramCredentials | Denied:
        return Denied(locked_seconds=5.0) if self.locked else self.keys

    async def scram_finished(
        self, username: str, success: bool, attempt: Attempt, *, authorize_as: str = ""
    ) -> Identity | Denied:
        return self._answer(success and username == "user", attempt)

    async def login_certified(self, username: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        return self._answer(username == "user@example.com", attempt)

    async def login_token(self, username: str, token: str, attempt: Attempt) -> Identity | Denied:
        return self._answer(token == "good", attempt)

    def is_blocked(self, client_address: str) -> float:
        return 0.0


class Tls:
    def __init__(self, certificate: bytes | None = None, **bindings: bytes) -> None:
        self.peer_certificate = certificate
        self._bindings = {name.replace("_", "-"): data for name, data in bindings.items()}

    def channel_binding(self, kind: str) -> bytes:
        return self._bindings.get(kind, b"")


def run(
    mechanism: str,
    initial: bytes | None,
    answer: Callable[[bytes], bytes],
    *,
    who: Authenticator | None = None,
    **options: object,
) -> Identity | Denied:
    async def ask(challenge: bytes) -> bytes:
        return answer(challenge)

    return asyncio.run(negotiate(mechanism, initial, ask, who or Authenticator(), ATTEMPT, **options))  # type: ignore[arg-type]


def wire(client: ClientMechanism, *, initial: bool, who: Authenticator | None = None, **options: object) -> Identity | Denied:
    first = client.initial() if initial else None
    return run(
        client.name,
        base64.b64encode(first) if first is not None else None,
        lambda challenge: base64.b64encode(client.respond(base64.b64decode(challenge, validate=True))),
        who=who,
        **options,
    )


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("make", [PlainClient, LoginClient, ScramClient])
def test_mechanisms_against_our_own_clients(make: Callable[[str, str], ClientMechanism], initial: bool) -> None:
    who = Authenticator()
    good = make("user", "pencil")
    assert isinstance(wire(good, initial=initial, who=who), Identity)
    good.finished()
    assert isinstance(wire(make("user", "pen"), initial=initial, who=who), Denied)
    assert isinstance(wire(make("other", "pencil"), initial=initial, who=who), Denied)
    assert who.asked == [good.name] * 3


def test_scram_plus_over_tls() -> None:
    tls = Tls(tls_exporter=b"exported")
    client = ScramClient("user", "pencil", binding_type="tls-exporter", binding_data=b"exported")
    assert isinstance(wire(client, initial=True, tls=tls), Identity)
    other = ScramClient("user", "pencil", binding_type="tls-exporter", binding_data=b"other")
    assert isinstance(wire(other, initial=True, tls=tls), Denied)


def test_a_struck_out_plus_is_noticed() -> None:
    tls = Tls(tls_exporter=b"exported")
    with pytest.raises(MalformedResponse):
        wire(ScramClient("user", "pencil", could_bind=True), initial=True, tls=tls)
    assert isinstance(
        wire(ScramClient("user", "pencil", could_bind=True), initial=True, tls=tls, offered=["SCRAM-SHA-256"]), Identity
    )


def test_login_with_the_name_as_initial_response() -> None:
    asked: list[bytes] = []

    def answer(challenge: bytes) -> bytes:
        asked.append(base64.b64decode(challenge))
        return base64.b64encode(b"pencil")

    assert isinstance(run("login", base64.b64encode(b"user"), answer), Identity)
    assert asked == [b"Password:"]


def test_an_equals_sign_is_an_empty_initial_response() -> None:
    with pytest.raises(MalformedResponse):
        run("PLAIN", b"=", lambda _: b"")


@pytest.mark.parametrize("line", [b"!!!", b"YQ", b"YQ==\r", "ä".encode(), b"A" * (MAX_RESPONSE_OCTETS + 4)])
def test_malformed_responses(line: bytes) -> None:
    who = Authenticator()
    with pytest.raises(MalformedResponse):
        run("PLAIN", line, lambda _: b"", who=who)
    with pytest.raises(MalformedResponse):
        run("PLAIN", None, lambda _: line, who=who)
    assert who.asked == []


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
def test_a_star_cancels(mechanism: str) -> None:
    with pytest.raises(Cancelled):
        run(mechanism, None, lambda _: b"*")


def test_unknown_mechanisms() -> None:
    with pytest.raises(MalformedResponse):
        run("CRAM-MD5", None, lambda _: b"")


def test_a_locked_address_learns_nothing_of_scram() -> None:
    who = Authenticator()
    who.locked = True
    result = wire(ScramClient("user", "pencil"), initial=True, who=who)
    assert result == Denied(locked_seconds=5.0)


def test_a_bad_token_is_explained_before_it_is_refused() -> None:
    challenges: list[bytes] = []

    def answer(challenge: bytes) -> bytes:
        challenges.append(base64.b64decode(challenge))
        return base64.b64encode(b"\x01")

    message = base64.b64encode(b"n,,\x01auth=Bearer bad\x01\x01")
    assert isinstance(run("OAUTHBEARER", message, answer), Denied)
    assert challenges[0].startswith(b'{"status":"invalid_token"')
    assert isinstance(run("XOAUTH2", base64.b64encode(b"user=u\x01auth=Bearer good\x01\x01"), answer), Identity)


def certificate(*names: x509.GeneralName) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    subject = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    from cryptography.hazmat.primitives.serialization import Encoding

    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_external_by_certificate() -> None:
    mail = certificate(x509.DNSName("example.com"), x509.RFC822Name("user@example.com"))
    assert isinstance(run("EXTERNAL", b"=", lambda _: b"", tls=Tls(mail)), Identity)
    assert isinstance(run("EXTERNAL", b"=", lambda _: b"", tls=Tls(certificate())), Denied)
    assert isinstance(run("EXTERNAL", b"=", lambda _: b"", tls=Tls()), Denied)


def test_addresses_of_certificates() -> None:
    text = "jürgen@example.com".encode()
    other = x509.OtherName(ObjectIdentifier("1.3.6.1.5.5.7.8.9"), b"\x0c" + bytes([len(text)]) + text)
    assert certificate_addresses(certificate(other, x509.RFC822Name("a@b.example"))) == ("a@b.example", "jürgen@example.com")
    assert certificate_addresses(b"junk") == ()


def test_only_what_can_work_is_offered() -> None:
    who = Authenticator()
    assert offered(who, None, plaintext_allowed=False) == ()
    assert offered(who, None, plaintext_allowed=True) == ("SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN")
    assert "SCRAM-SHA-256-PLUS" not in offered(who, Tls(tls_server_end_point=b"x"), plaintext_allowed=False)
    full = offered(who, Tls(certificate(x509.RFC822Name("a@b.example")), tls_exporter=b"x"), plaintext_allowed=False)
    assert full[:3] == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "EXTERNAL")
    assert offered(who, Tls(), plaintext_allowed=False, allowed=("PLAIN", "EXTERNAL")) == ("PLAIN",)
    assert offered(Authenticator("PLAIN LOGIN"), Tls(tls_exporter=b"x"), plaintext_allowed=False) == ("PLAIN", "LOGIN")
