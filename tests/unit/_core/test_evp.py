"""Signatures by libcrypto directly are those of `cryptography`."""

from __future__ import annotations

import threading

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from rusmes._core import evp
from rusmes.dkim import keys, native
from rusmes.dkim.keys import SigningKey, new_key, read_record, sign_all

RSA_KEY = SigningKey("a.org", "r", new_key("rsa", bits=1024))
ED25519_KEY = SigningKey("a.org", "e", new_key("ed25519"))

pytestmark = pytest.mark.skipif(not native.find(), reason="this Python does not show its libcrypto")


def test_the_same_signatures() -> None:
    """Both algorithms are deterministic."""
    jobs = [(key, b"x" * size) for size in (0, 1, 900, 100_000) for key in (RSA_KEY, ED25519_KEY)]
    made = sign_all(jobs)
    assert made == [key.sign(data) for key, data in jobs]
    for (key, data), signature in zip(jobs, made, strict=True):
        assert read_record(key.record.encode()).is_signature(signature, data)
    assert sign_all([]) == []


def test_threads_share_a_key() -> None:
    expected = RSA_KEY.sign(b"data")
    found: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(sign_all([(RSA_KEY, b"data")] * 50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[expected] * 50] * 4


def test_what_is_no_key() -> None:
    for der in (b"", b"x", b"\x30\x03\x02\x01\x00"):
        with pytest.raises(ValueError, match="no private key"):
            evp.NativeKey(der, hashes=True)
    with pytest.raises(ValueError, match="address"):
        evp.use([1, 2])
    with pytest.raises(TypeError):
        evp.sign_all([(None, b"")])  # type: ignore[list-item]


def test_a_failure_is_no_signature() -> None:
    """An Ed25519 key that is told to hash is refused by the library; `sign_all` of keys then asks the other one."""
    der = new_key("ed25519").private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert evp.sign_all([(evp.NativeKey(der, hashes=True), b"x")]) == [b""]


def test_without_libcrypto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys.native, "find", lambda: False)
    for kind, type_ in (("rsa", rsa.RSAPrivateKey), ("ed25519", ed25519.Ed25519PrivateKey)):
        private = new_key(kind, bits=1024)
        assert isinstance(private, type_)
        key = SigningKey("a.org", "s", private)
        assert sign_all([(key, b"x")]) == [key.sign(b"x")]
