"""Contexts: what they refuse, what they bind to, and the self-signed pair."""

from __future__ import annotations

import hashlib
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from rusmes.config.schema import Tls
from rusmes.errors import ConfigError
from rusmes.tls.context import client_context, ensure_self_signed, make_self_signed, self_signed_paths, server_context


@pytest.fixture
def pair(tmp_path: Path) -> Tls:
    make_self_signed("localhost", tmp_path / "cert.pem", tmp_path / "key.pem")
    return Tls(cert_path=str(tmp_path / "cert.pem"), key_path=str(tmp_path / "key.pem"))


Ends = tuple[ssl.SSLObject, ssl.SSLObject]


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost") -> Ends:
    """Both ends in memory. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = server.wrap_bio(to_server, to_client, server_side=True)
    there = client.wrap_bio(to_client, to_server, server_hostname=name)
    waiting: list[Callable[[], object]] = [there.do_handshake, here.do_handshake]
    for _ in range(10):
        for step in list(waiting):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(step)
    assert not waiting
    return here, there


def test_the_self_signed_pair_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    assert ensure_self_signed("mx.example.com", str(tmp_path))
    assert not ensure_self_signed("mx.example.com", str(tmp_path))
    certificate, key = map(Path, self_signed_paths(str(tmp_path)))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    context = server_context(Tls(), str(tmp_path))
    client = ssl.create_default_context(cafile=str(certificate))
    handshake(context, client, "mx.example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, client, "other.example.com")


def test_without_a_pair_there_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        server_context(Tls(), str(tmp_path))
    assert caught.value.key == "tls.cert_path"


@pytest.mark.rfc("5929", "4.1")
def test_the_end_point_binding_is_the_hash_of_the_certificate(pair: Tls, tmp_path: Path) -> None:
    context = server_context(pair, "")
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    assert context.end_point == hashlib.sha256(der).digest()
    assert context.expires.year > 2030


@pytest.mark.rfc("8996", "2")
def test_old_versions_are_refused(pair: Tls) -> None:
    client = client_context(verify=False)
    old = client_context(verify=False)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    here, _ = handshake(server_context(pair, ""), old)
    assert here.version() == "TLSv1.2"
    assert server_context(pair, "").minimum_version == ssl.TLSVersion.TLSv1_2
    strict = server_context(replace(pair, min_version="1.3"), "")
    with pytest.raises(ssl.SSLError):
        handshake(strict, old)
    here, _ = handshake(strict, client)
    assert here.version() == "TLSv1.3"


def test_t9_renegotiation_is_off(pair: Tls) -> None:
    assert server_context(pair, "").options & ssl.OP_NO_RENEGOTIATION


def test_t11_an_unknown_server_name_gets_the_same_certificate(pair: Tls) -> None:
    context = server_context(pair, "")
    for name in ("unknown.example.org", "x" * 63 + ".example", None):
        handshake(context, client_context(verify=False), name)


def test_client_certificates(pair: Tls, tmp_path: Path) -> None:
    make_self_signed("client", tmp_path / "client.pem", tmp_path / "client.key")
    settings = replace(pair, client_auth="required", client_ca_path=str(tmp_path / "client.pem"))
    client = client_context(verify=False)
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the client learns of the refusal only after the handshake
    with pytest.raises(ssl.SSLError):
        handshake(server_context(settings, ""), client)
    handshake(server_context(replace(settings, client_auth="optional"), ""), client)
    client.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    here, _ = handshake(server_context(settings, ""), client)
    assert here.getpeercert(True) == ssl.PEM_cert_to_DER_cert((tmp_path / "client.pem").read_text())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"cert_path": "/nonexistent"}, "tls.cert_path"),
        ({"key_path": "/nonexistent"}, "tls.cert_path"),
        ({"client_auth": "required", "client_ca_path": "/nonexistent"}, "tls.client_ca_path"),
        ({"client_auth": "required"}, "tls.client_ca_path"),
    ],
)
def test_files_that_do_not_work(pair: Tls, changes: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        server_context(replace(pair, **changes), "")
    assert caught.value.key == key


def test_a_key_of_another_certificate(pair: Tls, tmp_path: Path) -> None:
    make_self_signed("other", tmp_path / "other.pem", tmp_path / "other.key")
    with pytest.raises(ConfigError, match="cannot be used"):
        server_context(replace(pair, key_path=str(tmp_path / "other.key")), "")


def test_clients_verify_or_take_what_comes(pair: Tls) -> None:
    context = server_context(pair, "")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, client_context(verify=True))
    handshake(context, client_context(verify=False))
