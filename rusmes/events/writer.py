"""The event log as the engines see it: lines are made at once, in memory, and written by a thread.

On the way of a mail there is only the making of the line (1 to 2 us). The thread wakes when something was put into the empty
buffer, waits 200 ms for more, and writes all of it with one call. When the disk is slow or full the buffer fills; what
does not fit is dropped and counted, or is waited for, as [events] on_overflow says. Nothing is synced: a power loss can take
the last seconds of the log, and no mail.

The supervisor has no thread, because it forks: its few lines are written at once (`is_threaded=False`).
"""

from __future__ import annotations

import calendar
import errno
import fcntl
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from rusmes._core.events import EventBuffer, Template, find_message_id, shift_entries
from rusmes.clock import Clock
from rusmes.config.events import Events as Settings
from rusmes.errors import RusmesError
from rusmes.events.api import Fact
from rusmes.events.segments import KEYS, LINES, Segment, segments_of, stamp_of
from rusmes.log import MASK, SECRET_NAMES, get_logger
from rusmes.metrics import EVENTS, EVENTS_FAILING, EVENTS_WAITING, Metrics
from rusmes.model.content import Rendering
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import Report, campaign_of, tenant_of

WRITE_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 1.0
STOP_SECONDS: Final = 2.0
"""How long a disk that takes nothing may hold up the end of a process."""
MAX_WAIT_SECONDS: Final = 10.0
"""With on_overflow = "wait": for one event; a worker that waited for good would be taken for hung and killed."""
MAX_FLOOR_BYTES: Final = 128 << 20
FLOOR_SHARE: Final = 40
"""What the log leaves free on its disk: half of the store's reserve (`storage.space`), which outcomes of deliveries need."""
COMPLAINT_SECONDS: Final = 60.0
MODE: Final = 0o640

_ATTEMPT: Final = Template(
    ("queue_id", "q", "q"), ("session_id", "s", ""), ("message_id", "s", "m"), ("sender", "a", ""), ("recipient", "a", "r"),
    ("domain", "s", ""), ("size", "i", ""), ("created", "t", ""), ("tenant", "s", ""), ("campaign", "s", ""),
    ("envid", "s", ""), ("via", "s", ""), ("mailbox", "s", ""), ("route", "s", ""), ("attempt", "i", ""), ("site", "s", ""),
    ("host", "s", ""), ("address", "s", ""), ("port", "i", ""), ("source", "s", ""), ("source_address", "s", ""),
    ("tls", "s", ""), ("tls_policy", "s", ""), ("reused", "b", ""), ("phases", "p", ""), ("code", "i", ""),
    ("status", "s", ""), ("text", "s", ""), ("class", "s", ""), ("action", "s", ""), ("last_reply", "s", ""),
    ("next_attempt", "t", ""), ("age", "f", ""),
)  # fmt: skip
_RECEPTION: Final = Template(
    ("id", "q", "q"), ("queue_ids", "Q", "q"), ("session_id", "s", ""), ("message_id", "s", "m"), ("sender", "a", ""),
    ("recipients", "A", "r"), ("recipient_count", "i", ""), ("size", "i", ""), ("listener", "s", ""), ("protocol", "s", ""),
    ("client", "s", ""), ("client_name", "s", ""), ("helo", "s", ""), ("tls", "s", ""), ("user", "s", ""),
    ("tenant", "s", ""), ("campaign", "s", ""), ("envid", "s", ""), ("queued", "i", ""), ("stored", "i", ""),
    ("reason", "s", ""),
)  # fmt: skip
_CHANGE: Final = Template(
    ("queue_id", "q", "q"), ("session_id", "s", ""), ("message_id", "s", "m"), ("recipients", "A", "r"),
    ("recipient_count", "i", ""), ("tenant", "s", ""), ("campaign", "s", ""), ("facts", "x", ""),
)  # fmt: skip
_RESERVED: Final = frozenset({"time", "kind"} | {name for name, _, _ in _CHANGE.fields})

_log = get_logger("events")


def directory_of(settings: Settings, data_directory: str) -> str:
    """Where the files of the log are."""
    return settings.path or os.path.join(data_directory, "events")


class SegmentWriter:
    """One file that is being written, locked as long as it is."""

    def __init__(self, directory: str, writer: str, now: float) -> None:
        """Raises OSError."""
        os.makedirs(directory, 0o750, exist_ok=True)
        last = max((one.stamp for one in segments_of(directory) if one.writer == writer), default="")
        stamp = stamp_of(now)
        while stamp <= last:  # the clock was set back
            now = max(now + 0.001, _moment_of(last) + 0.001)
            stamp = stamp_of(now)
        self.segment = Segment(stamp, writer, directory)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._lines = os.open(self.segment.path(LINES), flags, MODE)
        try:
            fcntl.flock(self._lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._keys = os.open(self.segment.path(KEYS), flags, MODE)
        except BaseException:
            os.close(self._lines)
            raise
        self.size = 0
        self.begun = time.monotonic()

    def write(self, lines: memoryview) -> int:
        """Write some of the lines; how many octets were. Raises OSError."""
        written = os.write(self._lines, lines)
        self.size += written
        return written

    def index(self, entries: bytes) -> None:
        """Entries of lines that are written. One that is missing is found by reading. Raises OSError."""
        if entries:
            os.write(self._keys, entries)

    def close(self) -> None:
        os.close(self._keys)
        os.close(self._lines)


def _moment_of(stamp: str) -> float:
    return calendar.timegm(time.strptime(stamp[:15], "%Y%m%dT%H%M%S")) + int(stamp[15:]) / 1000


class EventLog:
    """Implements `events.api.Events`. `start` in the process that writes; `stop` writes what is left."""

    def __init__(
        self,
        settings: Settings,
        directory: str,
        writer: str,
        *,
        clock: Clock,
        metrics: Metrics,
        is_threaded: bool = True,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._writer = writer
        self._clock = clock
        self._metrics = metrics
        self._buffer = EventBuffer(int(settings.buffer))
        self._half = self._buffer.capacity // 2
        self._kinds = frozenset(settings.kinds)
        self._is_threaded = is_threaded
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._is_awake = False
        self._is_stopping = False
        self._file: SegmentWriter | None = None
        self._rest = memoryview(b"")
        """Taken from the buffer and not written yet."""
        self._rest_entries = b""
        self._rest_count = 0
        self._next_look = 0.0
        self._next_complaint = 0.0
        self._complaint = ""
        self._dropped = 0
        self._item: Queued | None = None
        self._item_facts: tuple[Any, ...] = ()

    # Life

    def start(self) -> None:
        if self._is_threaded and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="events", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Write what is left, for at most STOP_SECONDS."""
        self._is_stopping = True
        if self._thread is not None:
            self._hurry.set()
            self._wake.set()
            self._thread.join(STOP_SECONDS + 1.0)
            self._thread = None
        else:
            self._write_all()
        if self._file is not None:
            self._file.close()
            self._file = None

    def apply(self, settings: Settings) -> None:
        """A reload; the buffer stays as large as it is."""
        self._settings = settings
        self._kinds = frozenset(settings.kinds)

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until what was said so far is in the file; whether it is. For tests and for who is about to read."""
        until = time.monotonic() + timeout_seconds
        while self._buffer.pending or self._rest:
            if time.monotonic() > until:
                return False
            self._hurry.set()
            self._wake.set()
            time.sleep(0.002)
        return True

    # What there is to say

    def received(
        self,
        kind: str,
        mail: Mail,
        recipients: Sequence[Recipient],
        rows: Sequence[Queued],
        reason: str = "",
        stored: int = 0,
    ) -> None:
        try:
            origin = mail.origin
            first = rows[0] if rows else None
            values = (
                mail.id,
                tuple([row.id for row in rows]),
                origin.session_id,
                _message_id(first.rendering) if first is not None else _header_id(mail),
                mail.sender,
                recipients,
                len(recipients),
                mail.content.size,
                origin.listener,
                origin.protocol,
                origin.client_address,
                origin.client_name,
                origin.helo,
                origin.tls,
                origin.account,
                tenant_of(first) if first is not None else origin.account,
                campaign_of(first) if first is not None else "",
                mail.envid,
                len(rows),
                stored,
                reason,
            )
            self._add(kind, self._clock.now(), _RECEPTION, values)
        except Exception:
            self._failed()

    def attempted(
        self, item: Queued, report: Report, status: str, attempts: int, due: float, now: float
    ) -> None:
        try:
            facts = self._item_facts if item is self._item else self._facts_of(item)
            id, session_id, message_id, size, tenant, campaign = facts
            recipient = report.recipient
            how = report.attempt
            address = recipient.address
            self._add(
                status,
                now,
                _ATTEMPT,
                (
                    id, session_id, message_id, item.sender, address, address.domain, size, item.created, tenant, campaign,
                    item.envid, item.action, item.mailbox, item.route, attempts,
                    *(
                        (
                            how.site, how.host or report.host, how.address, how.port, how.source, how.source_address, how.tls,
                            how.tls_policy, how.is_reused, how.phases,
                        )
                        if how is not None
                        else ("", report.host, "", 0, "", "", "", "", False, ())
                    ),
                    report.code, report.status, report.text, how.reply_class if how is not None else "", report.action,
                    report.last_reply, due, now - item.created,
                ),
            )  # fmt: skip
        except Exception:
            self._failed()

    def changed(self, kind: str, item: Queued | None = None, recipients: Sequence[Recipient] = (), **facts: Fact) -> None:
        try:
            more = _facts(facts)
            if item is None:
                values: tuple[Any, ...] = (b"", "", "", recipients, len(recipients), "", "", more)
            else:
                id, session_id, message_id, _, tenant, campaign = self._facts_of(item)
                chosen = recipients or item.recipients
                values = (id, session_id, message_id, chosen, len(chosen), tenant, campaign, more)
            self._add(kind, self._clock.now(), _CHANGE, values)
        except Exception:
            self._failed()

    def _facts_of(self, item: Queued) -> tuple[Any, ...]:
        """What all recipients of an entry share; kept for the next one."""
        self._item_facts = (
            item.id,
            item.origin.session_id,
            _message_id(item.rendering),
            item.size or item.rendering.size,
            tenant_of(item),
            campaign_of(item),
        )
        self._item = item
        return self._item_facts

    def _add(self, kind: str, now: float, template: Template, values: tuple[Any, ...]) -> None:
        if self._kinds and kind not in self._kinds:
            return
        if not self._buffer.add(kind.encode(), now, template, values) and not self._overflow(kind, now, template, values):
            return
        if not self._is_awake:
            self._is_awake = True
            if self._is_threaded:
                self._wake.set()
            else:
                self._write_all()
        elif self._buffer.pending > self._half and not self._hurry.is_set():
            self._hurry.set()

    def _overflow(self, kind: str, now: float, template: Template, values: tuple[Any, ...]) -> bool:
        """The buffer is full; whether the event is in it after all."""
        if self._settings.on_overflow == "wait" and self._thread is not None:
            until = time.monotonic() + MAX_WAIT_SECONDS
            while time.monotonic() < until and self._thread.is_alive():
                self._hurry.set()
                time.sleep(0.005)
                if self._buffer.add(kind.encode(), now, template, values):
                    return True
        self._drop()
        return False

    def _failed(self) -> None:
        """A defect of ours, or a value that no contract allows: the event is lost, and mail goes on."""
        self._drop()
        _log.exception("an event cannot be written")

    def _drop(self) -> None:
        self._dropped += 1
        self._metrics.inc(EVENTS["dropped"])
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_SECONDS
            _log.error("events are dropped", dropped=self._dropped, waiting_bytes=self._buffer.pending)

    # The thread

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if not self._is_stopping:
                self._hurry.wait(WRITE_SECONDS)
                self._hurry.clear()
            self._write_all()
            if self._is_stopping and not self._buffer.pending:
                return

    def _write_all(self) -> None:
        """Write what waits; with a disk that takes nothing, try again each second."""
        until = time.monotonic() + STOP_SECONDS
        while True:
            # In this order: who adds an event after the second line wakes us again, who does before is served now.
            self._wake.clear()
            self._is_awake = False
            if not self._rest and not self._rest_count:
                lines, self._rest_entries, self._rest_count = self._buffer.take()
                self._rest = memoryview(lines)
                if not lines and self._buffer.pending:
                    time.sleep(0.0005)  # a line is being made
                    continue
            try:
                self._write_rest()
            except OSError as error:
                self._complain(error)
                if not self._is_threaded or (self._is_stopping and time.monotonic() > until):
                    self._is_awake = not self._is_stopping
                    self._give_up()
                    return
                time.sleep(RETRY_SECONDS if not self._is_stopping else 0.1)
                continue
            if self._complaint:
                self._complaint = ""
                self._metrics.set(EVENTS_FAILING, 0.0)
                _log.info("the event log is written again")
            self._metrics.set(EVENTS_WAITING, self._buffer.pending)
            if not self._is_stopping or not self._buffer.pending:
                return

    def _give_up(self) -> None:
        """Nothing is tried again by us: what could not be written is lost."""
        lost = self._rest_count
        self._rest, self._rest_entries, self._rest_count = memoryview(b""), b"", 0
        self._is_awake = False
        if lost:
            self._dropped += lost
            self._metrics.inc(EVENTS["dropped"], lost)

    def _write_rest(self) -> None:
        """Raises OSError; what is written is not written again."""
        if not self._rest_count:
            return
        self._check_space()
        file = self._file
        if file is None or (self._rest_entries and self._is_full(file)):
            if file is not None:
                self._file = None
                file.close()
            file = self._file = SegmentWriter(self._directory, self._writer, self._clock.now())
        if self._rest_entries:
            # Not before the first octet: which file the lines go to is certain only now.
            self._rest_entries, entries = b"", self._rest_entries
            self._pending_entries = shift_entries(entries, file.size) if file.size else entries
        while self._rest:
            self._rest = self._rest[file.write(self._rest) :]
        count, self._rest_count = self._rest_count, 0
        self._metrics.inc(EVENTS["written"], count)
        file.index(self._pending_entries)
        self._pending_entries = b""

    _pending_entries = b""

    def _is_full(self, file: SegmentWriter) -> bool:
        settings = self._settings
        return file.size > 0 and (
            file.size + len(self._rest) > settings.segment_size
            or time.monotonic() - file.begun > settings.segment_age
        )

    def _check_space(self) -> None:
        """Raises OSError: the disk is nearly full."""
        now = time.monotonic()
        if now < self._next_look:
            return
        try:
            facts = os.statvfs(self._directory)
        except FileNotFoundError:
            return
        if facts.f_bavail * facts.f_frsize < min(MAX_FLOOR_BYTES, facts.f_blocks * facts.f_frsize // FLOOR_SHARE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._directory)
        self._next_look = now + RETRY_SECONDS

    def _complain(self, error: OSError) -> None:
        self._metrics.set(EVENTS_FAILING, 1.0)
        self._metrics.set(EVENTS_WAITING, self._buffer.pending + len(self._rest))
        if self._complaint != str(error):
            self._complaint = str(error)
            _log.error("the event log cannot be written", reason=self._complaint, directory=self._directory)


def _message_id(rendering: Rendering) -> str:
    prefix = rendering.prefix
    found = find_message_id(prefix) if prefix else ""
    if found:
        return found
    content = rendering.content
    if rendering.skip >= content.header_bytes:
        return ""  # a header block that was rewritten is all in the prefix
    try:
        data = content.data  # of a stored content: read now
        return find_message_id(data if data is not None else content.header_block(), rendering.skip)
    except (OSError, RusmesError):
        return ""  # it was deleted meanwhile; the entry's id leads to the rest


def _header_id(mail: Mail) -> str:
    for line in mail.prepended:
        if found := find_message_id(line):
            return found
    return _message_id(Rendering(mail.content))


def _facts(facts: Mapping[str, Fact]) -> bytes:
    """As fields of a JSON object; without secrets, in one line whatever the values are."""
    if not facts:
        return b""
    clean = {
        f"{name}_" if name in _RESERVED else name:
            MASK if name in SECRET_NAMES else _plain(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if value != ""
    }  # fmt: skip
    return msgspec.json.encode(clean)[1:-1]


def _plain(text: str) -> str:
    """JSON escapes what is below 32; the other control characters and line separators are replaced here."""
    text = text[:1000]
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join("\ufffd" if "\x7f" <= char <= "\x9f" or char in "\u2028\u2029" or "\ud800" <= char <= "\udfff" else char
                   for char in text)  # fmt: skip
