"""Signing keys, and the DNS records that tell others how to check what they sign.

RFC 6376 §3.6.1 (records), RFC 8301 §3.2 (RSA keys of 1024 bits at least, better 2048), RFC 8463 (Ed25519).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from rusmes._core.evp import NativeKey
from rusmes._core.evp import sign_all as evp_sign_all
from rusmes.dkim import native
from rusmes.dkim.tags import Malformed, octets, parse_tags, without_blanks
from rusmes.errors import RusmesError

RSA_BITS: Final = 2048
"""Of new keys. RFC 8301 §3.2: verifiers must take 1024 to 4096; the record of 2048 fits every DNS answer."""
MIN_RSA_BITS: Final = 1024
"""RFC 8301 §3.2: less is neither to be signed with nor accepted."""
MAX_RSA_BITS: Final = 8192
"""Of keys of others: checking takes longer with the square of it."""
RSA: Final = "rsa-sha256"
ED25519: Final = "ed25519-sha256"

_PADDING: Final = padding.PKCS1v15()
_HASH: Final = hashes.SHA256()

PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class KeyUnusable(RusmesError):
    """A private key that cannot sign."""


class SigningKey:
    """A private key, and who signs with it."""

    __slots__ = ("_ed25519", "_native", "_rsa", "algorithm", "bits", "domain", "selector")

    def __init__(self, domain: str, selector: str, key: PrivateKey) -> None:
        """Raises KeyUnusable: RSA with less than 1024 bits."""
        self.domain = domain
        self.selector = selector
        self._rsa = key if isinstance(key, rsa.RSAPrivateKey) else None
        self._ed25519 = key if isinstance(key, ed25519.Ed25519PrivateKey) else None
        self.bits = key.key_size if isinstance(key, rsa.RSAPrivateKey) else 256
        self.algorithm = RSA if isinstance(key, rsa.RSAPrivateKey) else ED25519
        if self._rsa is not None and self.bits < MIN_RSA_BITS:
            raise KeyUnusable(f"the RSA key has {self.bits} bits", "verifiers want 1024, better 2048 (RFC 8301)")
        self._native: NativeKey | None = None
        if native.find():
            der = key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            self._native = NativeKey(der, hashes=self._rsa is not None)

    @property
    def is_weak(self) -> bool:
        """RFC 8301 §3.2: signers should use 2048 bits at least."""
        return self._rsa is not None and self.bits < RSA_BITS

    @property
    def name(self) -> str:
        """Where the record is."""
        return record_name(self.selector, self.domain)

    @property
    def record(self) -> str:
        key = self._rsa or self._ed25519
        assert key is not None
        return public_record(key)

    def sign(self, data: bytes) -> bytes:
        """The signature of a header's canonical form. Takes long (RSA-2048: 0.27 ms) and gives the GIL away meanwhile."""
        if self._rsa is not None:
            return self._rsa.sign(data, _PADDING, _HASH)
        assert self._ed25519 is not None
        return self._ed25519.sign(sha256(data).digest())  # RFC 8463 §3: of the SHA-256 hash


def sign_all(jobs: Sequence[tuple[SigningKey, bytes]]) -> list[bytes]:
    """The signatures of several headers, for which the GIL is given away once."""
    pairs: list[tuple[NativeKey, bytes]] = []
    for key, data in jobs:
        if key._native is None:
            return [key.sign(data) for key, data in jobs]
        pairs.append((key._native, data if key._rsa is not None else sha256(data).digest()))
    made = evp_sign_all(pairs)
    return [signature or key.sign(data) for signature, (key, data) in zip(made, jobs, strict=True)]


def load_key(pem: bytes, domain: str, selector: str) -> SigningKey:
    """A key as `openssl genpkey` and `rusmes dkim` write it (PKCS #8 or PKCS #1). Checks RSA keys, which takes 10 ms and more.

    Raises:
        KeyUnusable
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise KeyUnusable("the key has a password", "take it off: openssl pkey -in KEY -out NEW") from None
    except Exception as error:  # the library raises ValueError, UnsupportedAlgorithm and its own
        raise KeyUnusable("this is no private key in PEM", str(error)) from None
    if not isinstance(key, (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        raise KeyUnusable("DKIM knows RSA and Ed25519 keys only")
    return SigningKey(domain, selector, key)


def new_key(kind: str, *, bits: int = RSA_BITS) -> PrivateKey:
    """`kind` is rsa | ed25519."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return ed25519.Ed25519PrivateKey.generate()


def pem_of(key: PrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def record_name(selector: str, domain: str) -> str:
    return f"{selector}._domainkey.{domain}"


def public_record(key: PrivateKey) -> str:
    """RFC 6376 §3.6.1; RFC 8463 §4: for Ed25519 the bare 32 bytes."""
    public = key.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        data, kind = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw), "ed25519"
    else:
        data = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        kind = "rsa"
    return f"v=DKIM1; k={kind}; p={base64.b64encode(data).decode()}"


class Revoked(Malformed):
    """The record says that the key is used no more (an empty p=)."""


class PublicKey:
    """What a record says."""

    __slots__ = ("_key", "hashes", "is_strict", "is_testing")

    def __init__(self, key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey, tags: dict[str, str]) -> None:
        self._key = key
        self.hashes = without_blanks(tags["h"]).split(":") if "h" in tags else None
        flags = without_blanks(tags.get("t", "")).split(":")
        self.is_testing = "y" in flags
        self.is_strict = "s" in flags

    @property
    def is_rsa(self) -> bool:
        return isinstance(self._key, rsa.RSAPublicKey)

    def is_signature(self, signature: bytes, data: bytes) -> bool:
        try:
            if isinstance(self._key, rsa.RSAPublicKey):
                self._key.verify(signature, data, _PADDING, _HASH)
            else:
                digest = hashes.Hash(_HASH)
                digest.update(data)
                self._key.verify(signature, digest.finalize())
        except InvalidSignature:
            return False
        return True


def read_record(record: bytes) -> PublicKey:
    """The key of a TXT record.

    Raises:
        Malformed, Revoked: it is none that a signature can be checked with.
    """
    tags = parse_tags(record)
    if tags.get("v", "DKIM1") != "DKIM1" or ("v" in tags and next(iter(tags)) != "v"):
        raise Malformed("the record is no DKIM key")
    if "p" not in tags:
        raise Malformed("the record has no key")
    if not without_blanks(tags["p"]):
        raise Revoked("the key was revoked")
    if "s" in tags and not {"*", "email"} & set(without_blanks(tags["s"]).split(":")):
        raise Malformed("the key is not for mail")
    kind, data = tags.get("k", "rsa"), octets(tags, "p")
    key: object
    try:
        if kind == "ed25519":
            key = ed25519.Ed25519PublicKey.from_public_bytes(data)
        elif kind == "rsa":
            key = serialization.load_der_public_key(data)  # RFC 6376 §3.6.1 and its erratum 3017: both forms
        else:
            raise Malformed(f"the record has a key of the kind {kind[:20]!r}")
    except Malformed:
        raise
    except Exception:  # ValueError, UnsupportedAlgorithm and what the library has besides
        raise Malformed("the record's key is none") from None
    if not isinstance(key, (rsa.RSAPublicKey, ed25519.Ed25519PublicKey)):
        raise Malformed("the record's key is none")
    if isinstance(key, rsa.RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise Malformed(f"the RSA key has {key.key_size} bits")  # RFC 8301 §3.2
    return PublicKey(key, tags)
