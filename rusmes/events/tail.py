"""Reading on in the event log: what a consumer has not seen yet, from all writers, and how far it is.

A position says for each writer the file (by its stamp) and the offset in its lines; files of that writer with an earlier stamp
are done. So it stays true when a file is sealed, and when files are removed that nobody waited for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from rusmes.events.segments import READ_BYTES, Segment, SegmentReader, decoded, lines_in, segments_of

_KIND_AT: Final = len('{"time":"2026-11-24T12:30:56.123Z","kind":"')

Position = dict[str, tuple[str, int]]


class Line(Struct, frozen=True, gc=False):
    """One event, and the position of its writer after it."""

    data: bytes
    writer: str
    stamp: str
    end: int


class Batch(Struct):
    """What comes next. `position` is after all that was looked at, the lines that nobody asked for included."""

    lines: list[Line]
    position: Position

    def position_after(self, count: int) -> Position:
        """The position once the first lines are taken; only what was asked for is certain to be passed."""
        if count >= len(self.lines):
            return self.position
        position = dict(self.start)
        for line in self.lines[:count]:
            position[line.writer] = (line.stamp, line.end)
        return position

    start: Position = msgspec.field(default_factory=dict)


def kind_of(line: bytes) -> str:
    end = line.find(b'"', _KIND_AT)
    if line[_KIND_AT - 8 : _KIND_AT] == b'"kind":"' and end > 0:
        return line[_KIND_AT:end].decode("ascii", "replace")
    event = decoded(line)
    return str(event["kind"]) if event is not None else ""


class Tail:
    """The way of one consumer through the log. `position` is where it is."""

    def __init__(self, directory: str, position: Position, kinds: Iterable[str] = ()) -> None:
        self._directory = directory
        self._kinds = frozenset(kinds)
        self.position = position
        self._readers: dict[str, SegmentReader] = {}
        self._segments: list[Segment] = []

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def next_batch(self, limit: int) -> Batch:
        """At most so many lines; the position does not move until `commit`. Raises OSError."""
        self._segments = segments_of(self._directory)
        lines: list[Line] = []
        position = dict(self.position)
        by_writer: dict[str, list[Segment]] = {}
        for segment in self._segments:
            by_writer.setdefault(segment.writer, []).append(segment)
        for writer, segments in by_writer.items():
            stamp, offset = position.get(writer, ("", 0))
            for number, segment in enumerate(segments):
                if segment.stamp < stamp:
                    continue
                offset = offset if segment.stamp == stamp else 0
                offset, is_end = self._read(segment, offset, lines, limit)
                position[writer] = (segment.stamp, offset)
                if len(lines) >= limit or not is_end or number + 1 == len(segments):
                    break
            if len(lines) >= limit:
                break
        return Batch(lines, position, dict(self.position))

    def _read(self, segment: Segment, offset: int, lines: list[Line], limit: int) -> tuple[int, bool]:
        """Collect lines of one file; the offset after them, and whether the file had no more."""
        reader = self._reader(segment)
        if reader is None:
            return offset, True
        while len(lines) < limit:
            try:
                data = reader.read(offset, min(READ_BYTES, 1024 * (limit - len(lines)) + 4096))
            except ValueError:
                return offset, True  # damaged: its rest cannot be read by anybody
            if not data:
                return offset, True
            for line in lines_in(data):
                offset += len(line) + 1
                if (not self._kinds or kind_of(line) in self._kinds) and decoded(line) is not None:
                    lines.append(Line(line, segment.writer, segment.stamp, offset))
                    if len(lines) >= limit:
                        return offset, False
        return offset, False

    def _reader(self, segment: Segment) -> SegmentReader | None:
        reader = self._readers.get(segment.writer)
        if reader is not None and reader.segment.stamp == segment.stamp:
            return reader  # opened before it was sealed or removed: it can be read to its end
        if reader is not None:
            reader.close()
            del self._readers[segment.writer]
        try:
            reader = self._readers[segment.writer] = SegmentReader(segment)
        except (FileNotFoundError, ValueError):
            return None
        return reader

    def commit(self, position: Position) -> None:
        self.position = position

    def behind(self) -> int:
        """Octets of lines after the position."""
        total = 0
        for segment in segments_of(self._directory):
            stamp, offset = self.position.get(segment.writer, ("", 0))
            if segment.stamp < stamp:
                continue
            try:
                with SegmentReader(segment) as reader:
                    total += max(reader.size - (offset if segment.stamp == stamp else 0), 0)
            except (OSError, ValueError):
                pass
        return total

    def has_passed(self, segment: Segment) -> bool:
        """Whether the consumer needs a file no more."""
        stamp, offset = self.position.get(segment.writer, ("", 0))
        if segment.stamp != stamp:
            return segment.stamp < stamp
        try:
            with SegmentReader(segment) as reader:
                return reader.read(offset) == b""
        except (OSError, ValueError):
            return True


def end_of(directory: str) -> Position:
    """After everything that is there now."""
    position: Position = {}
    for segment in segments_of(directory):
        try:
            with SegmentReader(segment) as reader:
                position[segment.writer] = (segment.stamp, reader.size)
        except (OSError, ValueError):
            pass
    return position


def load_position(path: str) -> Position | None:
    """None: there is none yet, or a power loss has left nothing of it."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Position)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def save_position(path: str, position: Mapping[str, tuple[str, int]]) -> None:
    """Raises OSError."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.write(descriptor, msgspec.json.encode(position))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
