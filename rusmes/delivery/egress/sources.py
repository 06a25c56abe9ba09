"""A source: what it is made of, and whether it works.

A source whose own address cannot be bound, or whose proxy does not answer, is left alone for 5 seconds, then twice as long, up
to half an hour; what is known of it is shared by all workers, and the first success forgets it. What the other server does is
no fault of the source.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config import names
from rusmes.config.schema import Source as SourceKeys
from rusmes.config.schema import WarmUp
from rusmes.log import get_logger
from rusmes.metrics import EGRESS_FAILURES, Metrics
from rusmes.net.outbound import DIRECT, Way

DOWN_SECONDS: Final = 5.0
MAX_DOWN_SECONDS: Final = 1800.0
MEMORY_SECONDS: Final = 7200.0
"""How long a failure makes the next one count double."""

_log = get_logger("delivery")


class Source(Struct, frozen=True):
    """A way out. `name` "" is the system's choice, or an address of [delivery] source_addresses."""

    name: str = ""
    ipv4: str = ""
    ipv6: str = ""
    ehlo: str = ""
    """"" = the server's own name."""
    way: Way = DIRECT
    warmup: WarmUp | None = None

    @property
    def label(self) -> str:
        """In logs, and where its failures are counted."""
        return self.name or self.ipv4 or self.ipv6

    def reaches(self, address: str) -> bool:
        """Whether it can go to an address of this family: one that has addresses uses no other ones."""
        if not (self.ipv4 or self.ipv6) or self.way.kind == "socks5":
            return True
        return bool(self.ipv6 if ":" in address else self.ipv4)

    def address_for(self, address: str) -> str:
        """Its own address towards another one; "" = the system's choice."""
        return self.ipv6 if ":" in address else self.ipv4


SYSTEM: Final = Source()
"""What the kernel chooses."""


def address_source(address: str) -> Source:
    """A way out that is nothing but a local address."""
    return Source(ipv6=address) if ":" in address else Source(ipv4=address)


def source_of(keys: SourceKeys) -> Source:
    """A source as it is configured, and checked."""
    ipv4 = next((address for address in keys.addresses if ":" not in address), "")
    ipv6 = next((address for address in keys.addresses if ":" in address), "")
    way = DIRECT
    if keys.proxy:
        kind, host, port = names.proxy(keys.proxy)
        way = Way(kind, host, port, keys.proxy_username, str(keys.proxy_password))
    return Source(keys.name, ipv4, ipv6, keys.ehlo, way, keys.warmup)


class Health:
    """Which sources do not work now."""

    def __init__(self, clock: Clock, limits: SharedCounters, metrics: Metrics) -> None:
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._reasons: dict[str, str] = {}

    def down_for(self, source: Source) -> float:
        """Seconds until it may be tried again; 0.0 = now."""
        now = self._clock.monotonic()
        return max(0.0, self._limits.value(b"source-down:" + source.label.encode(), now) - now)

    def reason(self, source: Source) -> str:
        return self._reasons.get(source.label, "it does not work")

    def failed(self, source: Source, kind: str, reason: str, started: float) -> float:
        """Its address or its proxy (`kind`: bind | proxy) does not work; of tries that were under way together the first
        counts. The seconds for which it is left alone."""
        label = source.label.encode()
        now = self._clock.monotonic()
        failed_at = self._limits.value(b"source-failed-at:" + label, now)
        self._reasons[source.label] = reason
        if failed_at and started < failed_at:
            return self.down_for(source)
        before = self._limits.value(b"source-wait:" + label, now)
        seconds = min(before * 2, MAX_DOWN_SECONDS) if before else DOWN_SECONDS
        self._limits.set_value(b"source-wait:" + label, seconds, now + seconds + MEMORY_SECONDS, now)
        self._limits.set_value(b"source-failed-at:" + label, now, now + seconds + MEMORY_SECONDS, now)
        self._limits.set_value(b"source-down:" + label, now + seconds, now + seconds, now)
        self._metrics.inc(EGRESS_FAILURES[kind])
        _log.error("an egress source does not work", source=source.label, problem=reason, seconds=seconds)
        return seconds

    def works(self, source: Source) -> None:
        """A connection was made through it."""
        label = source.label.encode()
        if self._limits.value(b"source-wait:" + label, self._clock.monotonic()):
            for key in (b"source-wait:", b"source-failed-at:", b"source-down:"):
                self._limits.clear(key + label)
            self._reasons.pop(source.label, None)
            _log.info("an egress source works again", source=source.label)
