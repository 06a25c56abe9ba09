"""Keys of a fresh installation: for DKIM signatures (RFC 6376, RFC 8463)."""

from __future__ import annotations

import base64
import datetime
import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from msgspec import Struct

RSA_BITS: Final = 2048  # RFC 8301 §3.2: verifiers must take 1024 to 4096; 2048 fits every DNS answer


class DkimKey(Struct, frozen=True):
    """A signing key on the disk and what DNS must say about it."""

    selector: str
    path: str
    record: str
    """The TXT record's text at <selector>._domainkey.<domain>."""


def make_dkim_keys(directory: str, domain: str, *, today: datetime.date | None = None) -> list[DkimKey]:
    """An RSA and an Ed25519 key in `directory`, readable by their owner only; a key that is there already is kept."""
    month = f"{today or datetime.date.today():%Y%m}"
    os.makedirs(directory, mode=0o700, exist_ok=True)
    keys = []
    for suffix in ("rsa", "ed25519"):
        found = sorted(Path(directory).glob(f"{domain}.*{suffix}.pem"))
        path = found[-1] if found else Path(directory) / f"{domain}.{month}{suffix}.pem"
        if not found:
            _write_key(path, suffix)
        selector = path.name.removeprefix(f"{domain}.").removesuffix(".pem")
        keys.append(DkimKey(selector, str(path), _record(path)))
    return keys


def _write_key(path: Path, kind: str) -> None:
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    if kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(pem)


def _record(path: Path) -> str:
    """RFC 6376 §3.6.1; RFC 8463 §4: for Ed25519 the bare 32 bytes."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    public = key.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        data, kind = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw), "ed25519"
    else:
        data = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        kind = "rsa"
    return f"v=DKIM1; k={kind}; p={base64.b64encode(data).decode()}"
