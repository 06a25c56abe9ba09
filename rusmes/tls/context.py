"""Contexts for listeners and clients, and the self-signed pair of a fresh installation."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import ssl
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rusmes.errors import ConfigError
from rusmes.tls.resumption import ResumingContext

SELF_SIGNED_DAYS: Final = 3650
BACKDATED_DAYS: Final = 1
"""For clients whose clock is late."""
CERTIFICATE_NAME: Final = "tls-cert.pem"
KEY_NAME: Final = "tls-key.pem"

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

CIPHERS_1_2: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:!aNULL:!eNULL:!MD5:!3DES:!SHA1"
"""Mail servers of others may be old, so ECDHE with AES-CBC and SHA-256 stays; TLS 1.3 suites are always on."""


class TlsSettings(Protocol):
    """What a context is made from: the [tls] section with the protocol's overrides already applied."""

    @property
    def cert_path(self) -> str: ...

    @property
    def key_path(self) -> str: ...

    @property
    def min_version(self) -> str: ...

    @property
    def client_auth(self) -> str: ...

    @property
    def client_ca_path(self) -> str: ...


class ServerContext(ssl.SSLContext):
    """A listener's context; `end_point` is the channel binding tls-server-end-point of its certificate (RFC 5929 §4)."""

    end_point: bytes = b""
    expires: datetime.datetime


def server_context(settings: TlsSettings, directory: str) -> ServerContext:
    """The context of a listener. Without `cert_path`, the self-signed pair in `directory` is used, and made if it is not there.

    Raises:
        ConfigError: a file cannot be read, or does not fit.
    """
    certificate, key = settings.cert_path, settings.key_path
    if not certificate:
        certificate, key = self_signed_paths(directory)
        if not os.path.exists(certificate):
            raise ConfigError("no certificate", key="tls.cert_path", hint=f"the self-signed pair is expected in {directory}")
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[settings.min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS_1_2)
    try:
        context.load_cert_chain(certificate, key or None)
        context.end_point, context.expires = _read_certificate(certificate)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the certificate {certificate} cannot be used: {error}", key="tls.cert_path") from None
    if settings.client_auth != "disabled":
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_auth == "required" else ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(settings.client_ca_path)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{settings.client_ca_path!r} cannot be used: {error}", key="tls.client_ca_path") from None
    return context


def client_context(*, verify: bool, min_version: str = "1.2") -> ResumingContext:
    """The context towards other servers: `verify` demands a trusted certificate with the right name, else any will do."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)  # which demands both
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = VERSIONS[min_version]
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def self_signed_paths(directory: str) -> tuple[str, str]:
    """Where the self-signed pair of a data directory lies: certificate, key."""
    return os.path.join(directory, CERTIFICATE_NAME), os.path.join(directory, KEY_NAME)


def ensure_self_signed(hostname: str, directory: str) -> bool:
    """Make the self-signed pair unless it is there; whether it was made."""
    certificate, key = map(Path, self_signed_paths(directory))
    if certificate.exists() and key.exists():
        return False
    make_self_signed(hostname, certificate, key)
    return True


def make_self_signed(hostname: str, certificate_path: Path, key_path: Path) -> None:
    """Write a key (readable by its owner only) and a certificate for `hostname` that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64] or "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(hostname or "localhost")]
    if hostname == "localhost":
        names += [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.IPAddress(ipaddress.ip_address("::1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=BACKDATED_DAYS))
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_private(key_path, pem_key)
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)


def _read_certificate(path: str) -> tuple[bytes, datetime.datetime]:
    """RFC 5929 §4.1: the hash of the certificate's signature, MD5 and SHA-1 replaced by SHA-256; when it ends."""
    certificate = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
    algorithm = certificate.signature_hash_algorithm
    name = algorithm.name if algorithm is not None and algorithm.name not in {"md5", "sha1"} else "sha256"
    binding = hashlib.new(name, certificate.public_bytes(serialization.Encoding.DER)).digest()
    return binding, certificate.not_valid_after_utc
