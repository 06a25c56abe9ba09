"""What rules have set for a time: values towards a site, and sources that a site does not want.

The records are in the ledger, so they hold in all workers and over a restart. They are read again when the ledger has changed,
at most once a second; `version` grows when something is different, so plans that were made before are made anew.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct

from rusmes.clock import Clock
from rusmes.log import get_logger
from rusmes.storage.api import Ledger

TABLE: Final = "shaping"
LOOK_SECONDS: Final = 1.0

_log = get_logger("delivery")


class Override(Struct, frozen=True):
    """One record. `scope`: site | provider | source-site. Times are seconds since the epoch."""

    scope: str
    name: str
    """Of the site or provider."""
    source: str
    """For source-site, else ""."""
    until: float
    since: float
    rule: str
    """Which rule has set it."""
    where: str
    """Where the rule is written."""
    reply: str
    """What the server said."""
    values: dict[str, Any] = {}
    """What holds; with `suspended`, nothing."""
    suspended: bool = False
    """The source sends nothing to the site."""

    @property
    def key(self) -> bytes:
        rule = blake2b(self.rule.encode(), digest_size=8).hexdigest()
        return f"{self.scope}\0{self.name}\0{self.source}\0{rule}".encode()


_decoder: Final = msgspec.msgpack.Decoder(Override)
_encoder: Final = msgspec.msgpack.Encoder()


class Overrides:
    """All records that are in force."""

    def __init__(self, ledger: Ledger | None, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._generation = -1
        self._next_look = 0.0
        self._rows: dict[bytes, bytes] = {}
        self._known: dict[bytes, Override] = {}
        self._next_end = float("inf")
        self.version = 0

    def look(self) -> int:
        """Take notice of changes, if it is time; the version."""
        if self._clock.monotonic() >= self._next_look:
            self._look()
        return self.version

    def _look(self) -> None:
        self._next_look = self._clock.monotonic() + LOOK_SECONDS
        if self._ledger is None:
            self._forget_ended()
            return
        generation = self._ledger.generation
        if generation == self._generation and self._clock.now() < self._next_end:
            return
        self._generation = generation
        rows = dict(self._ledger.items(TABLE))
        if rows != self._rows:
            self._rows = rows
            self._known = {}
            for key, row in rows.items():
                try:
                    self._known[key] = _decoder.decode(row)
                except msgspec.DecodeError as error:
                    _log.error("a record of a shaping rule cannot be read", problem=str(error))
            self._changed()
        self._forget_ended()

    def _forget_ended(self) -> None:
        now = self._clock.now()
        if now >= self._next_end:
            self._known = {key: one for key, one in self._known.items() if one.until > now}
            self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._next_end = min((one.until for one in self._known.values()), default=float("inf"))

    def put(self, one: Override) -> None:
        """In force from now on, in the other workers within a second or two."""
        row = _encoder.encode(one)
        self._known[one.key] = one
        self._rows[one.key] = row
        if self._ledger is not None:
            self._ledger.put(TABLE, one.key, row, expires=one.until)
            self._generation = self._ledger.generation
        self._changed()

    def values_for(self, site: str, provider: str, source: str) -> list[Override]:
        """What holds towards a site by a source, the oldest first."""
        if not self._known:
            return []
        now = self._clock.now()
        found = [
            one
            for one in self._known.values()
            if one.until > now
            and not one.suspended
            and one.name == (provider if one.scope == "provider" else site)
            and (one.scope != "source-site" or one.source == source)
        ]
        return sorted(found, key=lambda one: one.since)

    def suspension(self, site: str, source: str) -> Override | None:
        """Why a source sends nothing to a site now."""
        now = self._clock.now()
        return next(
            (
                one
                for one in self._known.values()
                if one.suspended and one.until > now and one.source == source and one.name == site
            ),
            None,
        ) if self._known else None

    def list(self) -> list[Override]:
        """Everything in force."""
        self.look()
        now = self._clock.now()
        found = [one for one in self._known.values() if one.until > now]
        return sorted(found, key=lambda one: (one.scope, one.name, one.since))
