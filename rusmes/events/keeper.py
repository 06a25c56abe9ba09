"""Keeps the directory of the event log: seals files that are complete, removes what is too old or too much.

It runs in a process of its own (`server.courier`), because packing and sorting are work that no delivery should wait for. A
file is complete when nobody holds its lock: its writer has begun another one, or has died.
"""

from __future__ import annotations

import calendar
import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Final

from rusmes._core.events import sort_entries
from rusmes.config.events import Events as Settings
from rusmes.events.segments import (
    BLOCK_BYTES,
    ENTRY_BYTES,
    INDEX,
    KEYS,
    LINES,
    READ_BYTES,
    SEALED,
    Segment,
    SegmentReader,
    decoded,
    index_header,
    segments_of,
)
from rusmes.log import get_logger

LEVEL: Final = 3
"""Of gzip: 5 to 6 us for an event; level 6 takes 2.5 times as long for files that are 10 % smaller."""
SETTLE_SECONDS: Final = 5.0
"""A file without a lock that was written to so lately may be one that its writer has not locked yet."""
LEFTOVER_SECONDS: Final = 3600.0
"""Unfinished work of a keeper that died is removed after this long."""

_log = get_logger("events")


def is_complete(segment: Segment, now: float) -> bool:
    """Whether nobody writes a file any more."""
    if abs(now - segment.changed) < SETTLE_SECONDS:
        return False
    try:
        descriptor = os.open(segment.path(LINES), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def seal(segment: Segment, *, compress: bool, pause: Callable[[], object] = lambda: None) -> None:
    """Give a complete file its sorted index, and pack it. Done again from the start when it was interrupted.

    `pause` is called now and then: who seals has other things to do, and may raise to stop.

    Raises:
        OSError
    """
    try:
        with open(segment.path(KEYS), "rb") as file:
            entries = file.read()
    except FileNotFoundError:
        entries = b""
    entries = entries[: len(entries) // ENTRY_BYTES * ENTRY_BYTES]
    packed = segment.path(SEALED) + ".part"
    with SegmentReader(segment) as reader, open(packed, "wb") as target:
        entries = _completed(entries, reader)
        blocks: list[tuple[int, int]] = []
        size = place = 0
        last = b""
        while data := reader.read(size, BLOCK_BYTES):
            blocks.append((size, place))
            size += len(data)
            last = data[data.rfind(b"\n", 0, -1) + 1 : -1]
            if compress:
                place += target.write(_gzip(data))
            pause()
        os.fchmod(target.fileno(), 0o640)
        target.flush()
        os.fsync(target.fileno())
    if compress:
        # The time of the last event, so that a look at the directory tells which files an id can be in.
        changed = os.stat(segment.path(LINES)).st_mtime
        os.utime(packed, (changed, changed))
        os.rename(packed, segment.path(SEALED))
    else:
        os.unlink(packed)
        blocks = []
    header = index_header(size, _milliseconds(last), blocks, len(entries) // ENTRY_BYTES)
    _write(segment.path(INDEX), (header, sort_entries(entries)))
    for suffix in (LINES, KEYS) if compress else (KEYS,):
        _remove(segment.path(suffix))


def restore(segment: Segment) -> None:
    """Unpack a file whose index is gone, as far as it can be. Raises OSError."""
    with open(segment.path(SEALED), "rb") as source, open(segment.path(LINES) + ".part", "wb") as target:
        os.fchmod(target.fileno(), 0o640)
        data = source.read(READ_BYTES)
        try:
            while data:
                member = zlib.decompressobj(31)
                while data and not member.eof:
                    target.write(member.decompress(data))
                    data = member.unused_data if member.eof else source.read(READ_BYTES)
                data = data or source.read(READ_BYTES)
        except zlib.error as error:
            _log.warn("a file of events is damaged", file=segment.name, reason=str(error))
    os.utime(segment.path(LINES) + ".part", (segment.changed, segment.changed))
    os.rename(segment.path(LINES) + ".part", segment.path(LINES))


def _completed(entries: bytes, reader: SegmentReader) -> bytes:
    """With the entries of lines that were written when their writer died."""
    last = int.from_bytes(entries[-4:], "big") if entries else -1
    known = set()
    for at in range(len(entries) - ENTRY_BYTES, -1, -ENTRY_BYTES):
        if int.from_bytes(entries[at + 8 : at + 12], "big") != last:
            break
        known.add(entries[at : at + 8])
    size = reader.size
    found = reader.unindexed(entries)
    more = [key + offset.to_bytes(4, "big") for key, offset in found if offset < size and (offset != last or key not in known)]
    return entries + b"".join(more)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def _milliseconds(line: bytes) -> int:
    event = decoded(line) if line else None
    try:
        text = str(event["time"]) if event else "1970-01-01T00:00:00.000Z"
        return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) * 1000 + int(text[20:23])
    except (KeyError, ValueError):
        return 0


def _write(path: str, pieces: Iterable[bytes]) -> None:
    """A file that is there whole or not at all."""
    with open(f"{path}.part", "wb") as file:
        os.fchmod(file.fileno(), 0o640)
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.part", path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Keeper:
    """One for each directory. `tend` does what there is to do."""

    def __init__(self, directory: str, settings: Settings, *, on_removed: Callable[[Segment], None] | None = None) -> None:
        self._directory = directory
        self._settings = settings
        self._on_removed = on_removed

    def tend(self, now: float, pause: Callable[[], object] = lambda: None) -> None:
        """Seal what is complete, oldest first; then remove. Raises OSError: of the first file with which it did not work, when
        all others are done."""
        failure: OSError | None = None
        for segment in segments_of(self._directory):
            try:
                self._care_for(segment, now, pause)
            except OSError as error:
                failure = failure or error
        self.retain(now)
        self._sweep(now)
        if failure is not None:
            raise failure

    def _care_for(self, segment: Segment, now: float, pause: Callable[[], object]) -> None:
        if not segment.is_indexed and is_complete(segment, now):
            if not segment.has_lines:
                restore(segment)
            if os.path.getsize(segment.path(LINES)):
                seal(segment, compress=self._settings.compress, pause=pause)
            else:
                self._discard(segment)  # its writer died before it wrote anything
        elif segment.is_indexed and (segment.has_keys or (segment.is_packed and segment.has_lines)):
            for suffix in (LINES, KEYS) if segment.is_packed else (KEYS,):  # it died between the index and this
                _remove(segment.path(suffix))

    def retain(self, now: float) -> int:
        """Remove the oldest files that are too old or too much, but never one that is being written; how many."""
        settings = self._settings
        segments = segments_of(self._directory)
        total = sum(segment.disk_bytes for segment in segments)
        removed = 0
        for segment in segments:
            is_old = settings.max_age > 0 and segment.changed < now - settings.max_age
            is_much = settings.max_size > 0 and total > settings.max_size
            if not (is_old or is_much):
                continue
            if not segment.is_indexed and not is_complete(segment, now):
                continue
            if self._on_removed is not None:
                self._on_removed(segment)
            self._discard(segment)
            total -= segment.disk_bytes
            removed += 1
        if removed:
            _log.info("old events removed", files=removed, directory=self._directory)
        return removed

    def _discard(self, segment: Segment) -> None:
        # The index first: without it, what is left counts as incomplete, and is removed the next time.
        for suffix in (INDEX, SEALED, KEYS, LINES):
            _remove(segment.path(suffix))

    def _sweep(self, now: float) -> None:
        """What a keeper left behind that was killed, and keys without lines."""
        for entry in os.scandir(self._directory):
            is_part = entry.name.endswith(".part")
            is_orphan = entry.name.endswith((KEYS, INDEX)) and not any(
                os.path.exists(os.path.splitext(entry.path)[0] + suffix) for suffix in (LINES, SEALED)
            )
            if (is_part or is_orphan) and entry.stat().st_mtime < now - LEFTOVER_SECONDS:
                _remove(entry.path)


assert READ_BYTES >= BLOCK_BYTES
