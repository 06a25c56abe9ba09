"""Keys of [events]: the event log, and who gets copies of it. Rules as in `schema`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from rusmes.config.problems import Collector, KeyPath, nearest
from rusmes.config.units import Duration, Secret, Size

KINDS: Final = (
    "received", "refused", "dropped", "delivered", "deferred", "failed", "expired", "held", "released", "retried", "deleted",
    "bounced", "rerouted", "suspended", "resumed", "suppressed", "reported", "complained", "continued",
)  # fmt: skip
"""Those of `events.api`, which checks that they are the same."""

CSV_KINDS: Final = ("received", "delivered", "deferred", "failed", "expired")
COLUMNS: Final = (
    "type", "timeLogged", "timeQueued", "orig", "rcpt", "dsnAction", "dsnStatus", "dsnDiag", "dsnMta", "bounceCat", "srcType",
    "srcMta", "dlvType", "dlvSourceIp", "dlvDestinationIp", "dlvSize", "vmta", "jobId", "envId",
    "queue", "queueId", "messageId", "tenant", "site", "attempt", "user", "dlvTls",
)  # fmt: skip
"""Of a CSV file, named as accounting files of other relays name them; those of the first two rows are the usual ones."""

MIN_BUFFER_BYTES: Final = 64 * 1024
MAX_BUFFER_BYTES: Final = 1 << 30
MAX_SEGMENT_BYTES: Final = 2 << 30
"""Offsets in an index have 32 bits."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_URL: Final = re.compile(r"https?://[^\s/@?#]+(?:[/?][^\s#]*)?")

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]


class Webhook(Struct, frozen=True, kw_only=True):
    """[[events.webhook]]: events as JSON, by POST, again and again until the answer is a success."""

    name: str
    """Of letters, digits, "-" and "_"; its place in the event log is kept under this name."""
    url: str
    """https://..., or http:// where nobody listens on the way."""
    secret: Secret = Secret("")
    """Key of the signature (HMAC-SHA256) in X-RusMES-Signature; "" = not signed."""
    kinds: tuple[str, ...] = ()
    """Which events; [] = all."""
    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 500
    """Events of one request."""
    batch_time: Duration = Duration("1s")
    """How long an event waits for others of its batch."""
    timeout: Duration = Duration("10s")
    """For a whole request."""
    retry_wait: Duration = Duration("1s")
    """After the first failure; doubled with each, +-20 % jitter."""
    max_retry_wait: Duration = Duration("5m")
    """The longest wait between two tries."""
    begin: Literal["oldest", "now"] = "oldest"
    """Where a name that is new begins in the event log."""


class EventFile(Struct, frozen=True, kw_only=True):
    """[[events.file]]: a copy of some events, as JSON lines or CSV, that rotates like the log."""

    name: str
    """As of a webhook."""
    path: str
    """The file; relative paths start at the configuration file."""
    format: Literal["json", "csv"] = "json"
    """csv: columns as accounting files have them."""
    columns: tuple[str, ...] = ()
    """csv: columns in their order, as docs/events.md names them; [] = the usual ones."""
    kinds: tuple[str, ...] = ()
    """Which events; [] = all, csv: receptions, deliveries and what failed."""
    max_size: Size = Size("100MB")
    """Then it is rotated. 0 = never."""
    max_backups: Count = 7
    """Rotated files that are kept."""
    compress: bool = True
    """gzip rotated files."""
    begin: Literal["oldest", "now"] = "oldest"
    """As of a webhook."""


class Events(Struct, frozen=True, kw_only=True):
    """The event log: one JSON line for each reception, attempt and change; `rusmes why` reads it."""

    enabled: bool = True
    """Write it."""
    path: str = ""
    """Its directory; "" = `events` in the data directory."""
    kinds: tuple[str, ...] = ()
    """Which events are written; [] = all."""
    buffer: Size = Size("8MB")
    """What may wait in memory for a slow disk, per worker."""
    on_overflow: Literal["drop", "wait"] = "drop"
    """When the buffer is full: drop events (counted, and an error in the log), or let delivery and acceptance wait."""
    segment_size: Size = Size("64MB")
    """Then a new file is begun."""
    segment_age: Duration = Duration("6h")
    """A file is not written to for longer."""
    compress: bool = True
    """gzip files that are complete, in pieces that can be read one by one."""
    max_age: Duration = Duration("14d")
    """Older files are removed, shipped or not. 0 = none for its age."""
    max_size: Size = Size("4GB")
    """The oldest files are removed when all together have more, shipped or not. 0 = no limit."""
    webhook: tuple[Webhook, ...] = ()
    file: tuple[EventFile, ...] = ()


def check_events(events: Events, problems: Collector) -> None:
    """What must hold between the keys of [events]."""
    here: KeyPath = ("events",)
    if not MIN_BUFFER_BYTES <= events.buffer <= MAX_BUFFER_BYTES:
        problems.add((*here, "buffer"), "must be between 64KB and 1GB")
    if not MIN_BUFFER_BYTES <= events.segment_size <= MAX_SEGMENT_BYTES:
        problems.add((*here, "segment_size"), "must be between 64KB and 2GB")
    if events.segment_age <= 0:
        problems.add((*here, "segment_age"), "must be longer than 0")
    _check_kinds((*here, "kinds"), events.kinds, problems)
    names: set[str] = set()
    tables: tuple[tuple[str, tuple[Webhook | EventFile, ...]], ...] = (("webhook", events.webhook), ("file", events.file))
    for table, shippers in tables:
        for index, shipper in enumerate(shippers):
            path: KeyPath = (*here, table, index)
            if not _NAME.fullmatch(shipper.name) or shipper.name in names:
                problems.add((*path, "name"), f'"{shipper.name}" is taken, or not 1 to 40 of a-z, 0-9, "-" and "_"')
            names.add(shipper.name)
            _check_kinds((*path, "kinds"), shipper.kinds, problems)
            if isinstance(shipper, Webhook):
                if not _URL.fullmatch(shipper.url):
                    problems.add((*path, "url"), "is no http:// or https:// URL without a login in it")
                for key in ("timeout", "retry_wait", "max_retry_wait"):
                    if getattr(shipper, key) <= 0:
                        problems.add((*path, key), "must be longer than 0")
            else:
                if not shipper.path:
                    problems.add((*path, "path"), "is empty")
                for number, column in enumerate(shipper.columns):
                    if column not in COLUMNS:
                        problems.add((*path, "columns", number), f'"{column}" is no column', nearest(column, COLUMNS))
    if (events.webhook or events.file) and not events.enabled:
        problems.warnings.append("events.enabled is false: webhooks and files get no new events")


def _check_kinds(path: KeyPath, kinds: tuple[str, ...], problems: Collector) -> None:
    for index, kind in enumerate(kinds):
        if kind not in KINDS:
            problems.add((*path, index), f'"{kind}" is no kind of event', nearest(kind, KINDS))
