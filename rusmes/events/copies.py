"""A copy of events in a file: as they are, or as the rows of an accounting file (CSV, RFC 4180) as other relays write them."""

from __future__ import annotations

import asyncio
import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from rusmes.config.events import COLUMNS, CSV_KINDS, EventFile
from rusmes.events.consumer import NotTaken
from rusmes.events.segments import Event, decoded
from rusmes.events.tail import Line
from rusmes.logfiles import LogFile, compress_file

_TYPES: Final = {"received": "r", "delivered": "d", "deferred": "t", "failed": "b", "expired": "b"}
_ACTIONS: Final = {"deferred": "delayed", "failed": "failed", "expired": "failed"}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def _time(text: object) -> str:
    """2026-11-24 05:43:38+0000."""
    moment = str(text or "")
    return f"{moment[:10]} {moment[11:19]}+0000" if len(moment) > 19 else ""


def _reply(event: Event) -> str:
    return " ".join(str(event[key]) for key in ("code", "status", "text") if event.get(key))


def _queue(event: Event) -> str:
    return "/".join(part for part in (event.get("domain", ""), event.get("source", "")) if part)


def _host(event: Event) -> str:
    host, address = event.get("host", ""), event.get("address", "")
    return f"{host} ({address})" if host and address else host


def _text(key: str) -> Callable[[Event], str]:
    return lambda event: str(event.get(key, ""))


_VALUES: Final[Mapping[str, Callable[[Event], str]]] = {
    "type": lambda event: str(_TYPES.get(event["kind"], event["kind"])),
    "timeLogged": lambda event: _time(event.get("time")),
    "timeQueued": lambda event: _time(event.get("created") or event.get("time")),
    "orig": _text("sender"),
    "rcpt": _text("recipient"),
    "dsnAction": lambda event: str(_ACTIONS.get(event["kind"], event.get("action", ""))),
    "dsnStatus": _text("status"),
    "dsnDiag": lambda event: f"smtp;{_reply(event)}" if event.get("code") else _reply(event),
    "dsnMta": _host,
    "bounceCat": _text("class"),
    "srcType": _text("listener"),
    "srcMta": lambda event: " ".join(part for part in (event.get("client_name", ""), event.get("client", "")) if part),
    "dlvType": lambda event: "smtp" if event.get("via") == "relay" else str(event.get("via", "")),
    "dlvSourceIp": _text("source_address"),
    "dlvDestinationIp": _text("address"),
    "dlvTls": _text("tls"),
    "dlvSize": _text("size"),
    "vmta": _text("source"),
    "jobId": _text("campaign"),
    "envId": _text("envid"),
    "queue": _queue,
    "queueId": lambda event: str(event.get("queue_id") or " ".join(event.get("queue_ids", ()))),
    "messageId": _text("message_id"),
    "tenant": _text("tenant"),
    "site": _text("site"),
    "attempt": _text("attempt"),
    "user": _text("user"),
}


class FileCopies:
    """Writes one file, and rotates it."""

    kind: Final = "file"

    def __init__(self, settings: EventFile) -> None:
        self._settings = settings
        self._file: LogFile | None = None
        self._columns = settings.columns or COLUMNS[:19]
        self.kinds = settings.kinds or (CSV_KINDS if settings.format == "csv" else ())

    async def take(self, lines: Sequence[Line]) -> None:
        try:
            file = self._file = self._file or self._open()
            if file.rotate_when_full():
                self._begin(file)
            for path in file.compressible():
                await asyncio.to_thread(compress_file, path)
            if self._settings.format == "csv":
                file(self._rows(row for line in lines for row in _rows_of(line.data)))
            else:
                file(b"".join(line.data + b"\n" for line in lines))
        except OSError as error:
            raise NotTaken(f"{self._settings.path} cannot be written: {error.strerror or error}") from None

    def _open(self) -> LogFile:
        settings = self._settings
        os.makedirs(os.path.dirname(settings.path) or ".", 0o750, exist_ok=True)
        file = LogFile(
            settings.path, max_size=settings.max_size, max_backups=settings.max_backups, compress=settings.compress
        )
        self._begin(file)
        return file

    def _begin(self, file: LogFile) -> None:
        if self._settings.format == "csv" and not os.fstat(file.fileno()).st_size:
            file(_csv([self._columns]))

    def _rows(self, events: Iterator[Event]) -> bytes:
        return _csv([_harmless(_VALUES[column](event)) for column in self._columns] for event in events)

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _rows_of(line: bytes) -> Iterator[Event]:
    """An event for each recipient: accounting files have a row for each."""
    event = decoded(line)
    if event is None:
        return
    listed = event.get("recipients")
    if listed:
        yield from (event | {"recipient": address, "domain": address.rpartition("@")[2]} for address in listed)
    else:
        yield event


def _harmless(value: str) -> str:
    """What a spreadsheet would take for a formula is text: peers choose what is in it."""
    value = "".join(char if char >= " " else " " for char in value)
    return f"'{value}" if value.startswith(_FORMULA) else value


def _csv(rows: object) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode("utf-8", "replace")
