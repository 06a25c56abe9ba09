"""Return paths that say whose mail came back (VERP), and that nobody else can make.

A return path is `<name>+<tag>-<local>=<domain>@<our domain>`; the tag is base32 of two bytes with the day, three that stand for
the tenant, and five of an HMAC over all of it. Where that is longer than a local part may be (RFC 5321 §4.5.3.1.1: 64 octets),
or the recipient is not ASCII, it is `<name>+<tag>-@<our domain>`: the report itself has to name the recipient then. Everything
is written in lower case, and read in any, because servers change it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from msgspec import Struct

from rusmes.model.address import Address

MAX_LOCAL: Final = 64
DAY_SECONDS: Final = 86400.0
DAYS: Final = 65536
TENANT_BYTES: Final = 3
MAC_BYTES: Final = 5
TAG_CHARS: Final = 16
"""Of 10 bytes in base32: no padding."""
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/?^_`{|}~.=")


class ReturnPath(Struct, frozen=True):
    """What a genuine return path says. `recipient` is None when it had no room for it."""

    recipient: Address | None
    tenant: bytes
    """`tenant_key` of whom the mail was sent for."""
    age_days: int


def tenant_key(tenant: str) -> bytes:
    """What stands for a tenant in a return path."""
    return hashlib.sha256(tenant.encode()).digest()[:TENANT_BYTES] if tenant else bytes(TENANT_BYTES)


class ReturnPaths:
    """Makes and reads the return paths of one address; `max_age_days` after its day one is not genuine any more."""

    def __init__(self, address: Address, secret: bytes, *, max_age_days: int = 30) -> None:
        self._name = address.local.lower()
        self._domain = address.domain
        self._secret = secret
        self._max_age_days = max_age_days

    def is_ours(self, address: Address) -> bool:
        """Whether an address has the form of a return path, genuine or not."""
        return address.domain == self._domain and address.local.lower().startswith(self._name + "+")

    def make(self, recipient: Address, now: float, tenant: str = "") -> Address:
        """Where reports about mail to `recipient` shall go."""
        local = recipient.local.lower()
        encoded = f"{local}={recipient.domain}"
        is_plain = local.isascii() and set(local) <= _PLAIN and not recipient.domain.startswith("[")
        if not is_plain or len(self._name) + 2 + TAG_CHARS + len(encoded) > MAX_LOCAL:
            encoded = ""
        stamp = (int(now / DAY_SECONDS) % DAYS).to_bytes(2, "big") + tenant_key(tenant)
        return Address(f"{self._name}+{self._tag(stamp, encoded)}-{encoded}", self._domain)

    def read(self, address: Address, now: float) -> ReturnPath | None:
        """None: not one of ours, forged, or too old."""
        if not self.is_ours(address):
            return None
        tag, dash, encoded = address.local.lower()[len(self._name) + 1 :].partition("-")
        if not dash or len(tag) != TAG_CHARS or not tag.isascii():
            return None
        try:
            stamp = base64.b32decode(tag.upper())[: 2 + TENANT_BYTES]
        except binascii.Error:
            return None
        if not hmac.compare_digest(tag, self._tag(stamp, encoded)):
            return None
        age = (int(now / DAY_SECONDS) - int.from_bytes(stamp[:2], "big")) % DAYS
        if age > self._max_age_days:
            return None
        local, _, domain = encoded.rpartition("=")
        return ReturnPath(Address(local, domain) if encoded else None, stamp[2:], age)

    def _tag(self, stamp: bytes, encoded: str) -> str:
        mac = hmac.digest(self._secret, b"verp\0" + stamp + f"{self._name}@{self._domain}\0{encoded}".encode(), "sha256")
        return base64.b32encode(stamp + mac[:MAC_BYTES]).decode().lower()
