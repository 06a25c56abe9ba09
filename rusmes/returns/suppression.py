"""The list of addresses to which nothing is sent any more, for everybody or for one tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from rusmes.clock import Clock
from rusmes.config.returns import Suppression as Settings
from rusmes.model.address import Address
from rusmes.storage.api import Ledger

TABLE: Final = "suppression"
TENANTS: Final = "tenant"
COMPLAINT: Final = "Complaint"
MANUAL: Final = "Manual"
MAX_ADDRESS: Final = 320
"""Octets of an address that is kept as it is; 64 + 1 + 255 is the most there can be (RFC 5321 §4.5.3.1)."""


class Suppressed(Struct, frozen=True, omit_defaults=True):
    """One address of the list."""

    address: str
    """Folded."""
    tenant: str = ""
    """"" = for everybody."""
    category: str = MANUAL
    """Of `bounces.classify`, or Complaint, or Manual."""
    reason: str = ""
    """The refusal, or what the operator said."""
    added: float = 0.0
    """Seconds since the epoch."""
    expires: float = 0.0
    """0 = never."""
    count: int = 1
    """Refusals so far; it holds from [suppression] bounces on."""


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Suppressed)


class Suppressions:
    """The list, over the ledger. `find` is asked for each remote recipient: two looks of about 2 us."""

    def __init__(self, ledger: Ledger, clock: Clock, settings: Settings) -> None:
        self._ledger = ledger
        self._clock = clock
        self.settings = settings

    @property
    def is_enabled(self) -> bool:
        return self.settings.enabled

    @property
    def drops(self) -> bool:
        return self.settings.action == "drop"

    def find(self, tenant: str, address: Address) -> str:
        """The category for which nothing is sent to an address; "" = it may be."""
        for owner in ("", tenant) if tenant else ("",):
            found = self._get(owner, address.folded)
            if found is not None and found.count >= self._needed(found):
                return found.category
        return ""

    def get(self, tenant: str, address: Address) -> Suppressed | None:
        """The entry of exactly this tenant ("" = everybody), in force or not."""
        return self._get(tenant, address.folded)

    def bounced(self, tenant: str, address: Address, category: str, reason: str) -> bool:
        """An address was refused for ever; whether it is suppressed by that."""
        before = self._get(tenant, address.folded)
        count = before.count + 1 if before is not None and before.category not in (COMPLAINT, MANUAL) else 1
        if before is not None and before.category in (COMPLAINT, MANUAL):
            return False
        entry = self._entry(tenant, address, category, reason, float(self.settings.bounce_max_age), count)
        self._put(entry)
        return count == self.settings.bounces

    def complained(self, tenant: str, address: Address, reason: str) -> None:
        """The user of an address wants no more of it."""
        self._put(self._entry(tenant, address, COMPLAINT, reason, float(self.settings.complaint_max_age)))

    def add(self, tenant: str, address: Address, reason: str, *, seconds: float = 0.0) -> Suppressed:
        """By an operator; `seconds` 0 = for ever."""
        entry = self._entry(tenant, address, MANUAL, reason, seconds)
        self._put(entry)
        return entry

    def restore(self, entry: Suppressed) -> None:
        """An entry as it was exported."""
        self._put(entry)

    def remove(self, tenant: str, address: Address) -> bool:
        """Whether it was there."""
        if self._get(tenant, address.folded) is None:
            return False
        self._ledger.delete(TABLE, _key(tenant, address.folded))
        return True

    def entries(self) -> Iterator[Suppressed]:
        for _, value in self._ledger.items(TABLE):
            yield _DECODER.decode(value)

    # Tenants

    def remember_tenant(self, key: bytes, tenant: str) -> None:
        """What `bounces.verp.tenant_key` stands for."""
        if tenant and self._ledger.get(TENANTS, key) is None:
            self._ledger.put(TENANTS, key, tenant.encode())

    def tenant_of(self, key: bytes) -> str:
        """ "" = nobody's, or unknown."""
        return (self._ledger.get(TENANTS, key) or b"").decode()

    # Inside

    def _needed(self, entry: Suppressed) -> int:
        return 1 if entry.category in (COMPLAINT, MANUAL) else self.settings.bounces

    def _get(self, tenant: str, name: str) -> Suppressed | None:
        value = self._ledger.get(TABLE, _key(tenant, name))
        return _DECODER.decode(value) if value is not None else None

    def _entry(self, tenant: str, address: Address, category: str, reason: str, seconds: float, count: int = 1) -> Suppressed:
        now = self._clock.now()
        return Suppressed(address.folded, tenant, category, reason[:200], now, now + seconds if seconds else 0.0, count)

    def _put(self, entry: Suppressed) -> None:
        self._ledger.put(TABLE, _key(entry.tenant, entry.address), _ENCODER.encode(entry), expires=entry.expires)


def _key(tenant: str, name: str) -> bytes:
    """Tenants are hashed: whatever their names, an address fits beside them."""
    encoded = name.encode()
    if len(encoded) > MAX_ADDRESS:
        encoded = b"sha256:" + hashlib.sha256(encoded).digest()
    return (hashlib.sha256(tenant.encode()).digest()[:8] if tenant else bytes(8)) + encoded
