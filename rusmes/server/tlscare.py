"""What a worker does now and then about TLS towards other servers: its counts are written down, and one worker keeps the
policies of other domains fresh (RFC 8461) and sends the reports of the day before (RFC 8460)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from rusmes.delivery.tlsrpt import TlsReporter, https_post
from rusmes.errors import RusmesError
from rusmes.log import get_logger
from rusmes.model.address import Address
from rusmes.model.mail import Mail, Origin, Recipient
from rusmes.smtp.received import date

if TYPE_CHECKING:
    from rusmes.server.build import House

FLUSH_SECONDS: Final = 60.0
CARE_SECONDS: Final = 600.0

_log = get_logger("delivery")


class TlsCare:
    """Of one worker; the first one cares for all."""

    def __init__(self, house: House, *, is_first: bool) -> None:
        self._house = house
        self._is_first = is_first

    async def run(self) -> None:
        next_care = 0.0
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            now = self._house.clock.monotonic()
            try:
                self.flush()
                if self._is_first and now >= next_care:
                    next_care = now + CARE_SECONDS
                    await self.care()
            except RusmesError as error:
                _log.warn("TLS policies and reports have to wait", reason=str(error))
            except Exception:
                _log.exception("TLS policies and reports have to wait")

    def flush(self) -> None:
        """Write this worker's counts down."""
        counts = self._house.deliverer.counts
        if counts is not None:
            counts.flush()

    async def care(self) -> None:
        """Fetch policies that are due, and send reports that are."""
        house = self._house
        if house.deliverer.sts is not None:
            await house.deliverer.sts.refresh()
        sender = house.config.delivery.tls_report_from
        if sender:
            local, _, domain = sender.rpartition("@")
            post = https_post(house.resolver, private_hosts=house.config.delivery.private_hosts)
            address = Address(local, domain)
            reporter = TlsReporter(house.ledger, house.resolver, house.clock, address, self.submit, post, date)
            await reporter.send()

    async def submit(self, sender: Address, to: Address, content: bytes) -> None:
        """Put a message of ours into the queue, through the pipeline. Raises StoreError."""
        house = self._house
        writer = house.intake.writer()
        writer.write(content)
        origin = Origin(helo=house.config.hostname, trusted=True)
        mail = Mail(house.ids.next_id(), sender, [Recipient(to)], writer.finish(), origin, created=house.clock.now())
        await house.intake.accept(mail)
