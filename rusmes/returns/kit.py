"""What a configuration makes of [returns] and [suppression], in one piece: a reload replaces all of it."""

from __future__ import annotations

from msgspec import Struct

from rusmes.bounces.addresses import ReturnAddresses, secrets_of
from rusmes.bounces.classify import Classifier
from rusmes.bounces.verp import tenant_key
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.model.address import Address
from rusmes.model.mail import Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import tenant_of
from rusmes.returns.suppression import Suppressions
from rusmes.storage.api import Ledger


class ReturnKit(Struct, frozen=True):
    addresses: ReturnAddresses
    classifier: Classifier
    suppressions: Suppressions

    @classmethod
    def of(cls, config: Config, ledger: Ledger, clock: Clock) -> ReturnKit:
        """Raises ConfigError."""
        return cls(
            ReturnAddresses(config, secrets_of(config, create=True), clock),
            Classifier.load(config.returns.rules),
            Suppressions(ledger, clock, config.suppression),
        )

    def return_path(self, item: Queued, recipient: Recipient) -> Address | None:
        """Where reports about a mail to one recipient go."""
        tenant = tenant_of(item)
        self.suppressions.remember_tenant(tenant_key(tenant), tenant)
        return self.addresses.make(recipient.address, tenant) or item.sender
