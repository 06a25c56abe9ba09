"""Senders of forwarded mail under our own domain (SRS), so that SPF allows us and notices find their way back.

The scheme of Meng Wong and Shevek (2004), as libsrs2 and postsrsd read it: `SRS0=hash=day=domain=local@ours`; an address that
has been rewritten by another forwarder becomes `SRS1=hash=forwarder==rest@ours`, which leads straight back to the first one.
The hash is an HMAC; the day counts modulo 1024. Both are compared without case, because servers change it.
"""

from __future__ import annotations

import base64
import hmac
from typing import Final

from rusmes.model.address import Address

HASH_CHARS: Final = 6
"""Of the base64 of an HMAC-SHA1; readers of other kinds take any length from 4. 6 of them, without case, are about 31 bits."""
DAY_SECONDS: Final = 86400.0
DAYS: Final = 1024
MAX_LOCAL: Final = 64
_DIGITS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


class Rewriter:
    """Rewrites senders to `domain` and back; an address older than `max_age_days` leads nowhere any more."""

    def __init__(self, domain: str, secrets: tuple[bytes, ...], *, max_age_days: int = 21) -> None:
        """The first of `secrets` makes addresses, all of them read. Raises ValueError: there is none."""
        if not secrets or not all(secrets):
            raise ValueError("a secret is needed")
        self._domain = domain
        self._secrets = secrets
        self._max_age_days = max_age_days

    def is_ours(self, address: Address) -> bool:
        """Whether an address has the form of one we make, genuine or not."""
        return address.domain == self._domain and address.local[:5].upper() in ("SRS0=", "SRS1=")

    def forward(self, sender: Address, now: float) -> Address:
        """The sender under which mail of `sender` is forwarded.

        Raises:
            ValueError: it would be longer than a local part may be (RFC 5321 §4.5.3.1.1).
        """
        local = sender.local
        kind = local[:5].upper()
        if kind in ("SRS0=", "SRS0+", "SRS0-"):
            rest = f"{sender.domain}={local[4:]}"
            made = f"SRS1={self._hash(self._secrets[0], rest)}={rest}"
        elif kind in ("SRS1=", "SRS1+", "SRS1-") and "=" in local[5:]:
            rest = local[5:].partition("=")[2]  # whoever made it is left out: its mail leads past it anyway
            made = f"SRS1={self._hash(self._secrets[0], rest)}={rest}"
        else:
            day = int(now / DAY_SECONDS) % DAYS
            rest = f"{_DIGITS[day >> 5]}{_DIGITS[day & 31]}={sender.domain}={local}"
            made = f"SRS0={self._hash(self._secrets[0], rest)}={rest}"
        if len(made.encode()) > MAX_LOCAL:
            raise ValueError("the rewritten sender is too long")
        return Address(made, self._domain)

    def reverse(self, address: Address, now: float) -> Address | None:
        """Where mail to a rewritten sender goes; None: forged, too old, or not ours."""
        if not self.is_ours(address):
            return None
        local = address.local
        given, separator, rest = local[5:].partition("=")
        if not separator or not any(_same(given, self._hash(secret, rest)) for secret in self._secrets):
            return None
        if local[3] == "0":
            day, _, origin = rest.partition("=")
            domain, separator, user = origin.partition("=")
            if not separator or not user or not domain or not self._is_current(day, now):
                return None
            return Address(user, domain.lower())
        domain, separator, user = rest.partition("=")
        if not separator or not user or not domain:
            return None
        return Address(f"SRS0{user}", domain.lower())

    def _is_current(self, day: str, now: float) -> bool:
        try:
            high, low = (_DIGITS.index(char) for char in day.upper())
        except ValueError:
            return False
        return (int(now / DAY_SECONDS) - (high << 5 | low)) % DAYS <= self._max_age_days

    @staticmethod
    def _hash(secret: bytes, rest: str) -> str:
        digest = hmac.digest(secret, rest.lower().encode(), "sha1")
        return base64.b64encode(digest).decode()[:HASH_CHARS].replace("/", "_").replace("+", "-")


def _same(given: str, expected: str) -> bool:
    return len(given) == len(expected) and hmac.compare_digest(given.lower().encode(), expected.lower().encode())
