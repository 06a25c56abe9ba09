"""Files of the event log: their names, their indexes, and how a line is read from one.

Each process that writes events has a name (a worker's slot, "control", "cli") and writes one file after the other, each begun
with the time in its name; so the names of a writer's files sort by time.

    20261124T122219123.0.jsonl      lines; complete when nobody holds its lock (flock) any more
    20261124T122219123.0.keys       entries of its index, in the order of the lines; may end earlier than the lines
    20261124T122219123.0.jsonl.gz   sealed: the lines in gzip members of whole lines, about 128 KiB each
    20261124T122219123.0.idx        sealed: header, members, entries sorted by key; made last, so what has it is whole

An entry is a key of 8 octets (`_core.events.queue_key`, `text_key`) and the offset of a line, both big-endian. Offsets always
mean the lines as they were written. A line without its line end is torn, and is no line. Files are only added and removed, so
whoever reads them needs no lock, but has to look again when one has gone.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from math import isqrt
from typing import Any, Final

import msgspec
from msgspec import Struct

from rusmes._core.events import queue_key, text_key
from rusmes.model.ids import parse_id

LINES: Final = ".jsonl"
SEALED: Final = ".jsonl.gz"
KEYS: Final = ".keys"
INDEX: Final = ".idx"
ENTRY_BYTES: Final = 12
BLOCK_BYTES: Final = 128 * 1024
"""Of one member: what has to be inflated for one line, 0.5 ms."""
MAX_LINE_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 20

_NAME: Final = re.compile(r"(\d{8}T\d{9})\.([a-z0-9-]{1,32})\.(jsonl|jsonl\.gz|keys|idx)")
_MAGIC: Final = b"RMSEVX1\n"
_HEADER: Final = struct.Struct(">8sQQQQ")
_BLOCK: Final = struct.Struct(">QQ")
_decode: Final = msgspec.json.Decoder().decode

Event = dict[str, Any]


def stamp_of(moment: float) -> str:
    """The time in a file's name, milliseconds included."""
    milliseconds = int(moment * 1000)
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(milliseconds // 1000)) + f"{milliseconds % 1000:03d}"


class Segment(Struct, frozen=True, order=True):
    """One file of lines, complete or not."""

    stamp: str
    writer: str
    directory: str
    has_lines: bool = False
    is_packed: bool = False
    is_indexed: bool = False
    has_keys: bool = False
    changed: float = 0.0
    """When it was written to for the last time, seconds since the epoch."""
    disk_bytes: int = 0
    """With its index."""

    @property
    def name(self) -> str:
        return f"{self.stamp}.{self.writer}"

    def path(self, suffix: str) -> str:
        return os.path.join(self.directory, f"{self.stamp}.{self.writer}{suffix}")


def segments_of(directory: str) -> list[Segment]:
    """Every file of lines, in the order of their beginnings."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return []
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None:
            continue
        try:
            facts = entry.stat()
        except FileNotFoundError:
            continue
        one = found.setdefault((match[1], match[2]), {"disk_bytes": 0, "changed": 0.0})
        one["disk_bytes"] += facts.st_size
        if match[3] in ("jsonl", "jsonl.gz"):
            one["changed"] = max(one["changed"], facts.st_mtime)
        one[{"jsonl": "has_lines", "jsonl.gz": "is_packed", "idx": "is_indexed", "keys": "has_keys"}[match[3]]] = True
    made = []
    for (stamp, writer), facts_ in sorted(found.items()):
        if facts_.get("has_lines") or facts_.get("is_packed"):
            made.append(Segment(stamp, writer, directory, **facts_))
    return made


def keys_of(event: Event) -> Iterator[bytes]:
    """The keys under which an event is found; those `EventBuffer` gives it."""
    for id in (event.get("queue_id"), event.get("id"), *event.get("queue_ids", ())):
        if id:
            try:
                yield queue_key(parse_id(id))
            except ValueError:
                pass
    if event.get("message_id"):
        yield text_key("m", event["message_id"])
    for address in (event.get("recipient"), *event.get("recipients", ())):
        if address:
            yield text_key("r", address)


def decoded(line: bytes) -> Event | None:
    """The event of a line; None when it is none (a power loss can leave anything)."""
    try:
        event = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return event if isinstance(event, dict) and "kind" in event else None


class Index:
    """The index of a sealed file."""

    def __init__(self, path: str) -> None:
        """Raises OSError, and ValueError when the file is no index."""
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            magic, self.size, self.last_ms, blocks, self.entries = _HEADER.unpack_from(self._map)
            self._first = _HEADER.size + blocks * _BLOCK.size
            if magic != _MAGIC or len(self._map) != self._first + self.entries * ENTRY_BYTES:
                raise ValueError(f"{path} is no index of events")
            starts = list(_BLOCK.iter_unpack(self._map[_HEADER.size : self._first]))
        except struct.error:
            self.close()
            raise ValueError(f"{path} is no index of events") from None
        except BaseException:
            self.close()
            raise
        self.starts = [start for start, _ in starts]
        self.places = [place for _, place in starts]

    def offsets(self, key: bytes) -> list[int]:
        """Where lines with a key are, in their order."""
        data, first = self._map, self._first
        low, high = self._span(key)
        while low < high:
            middle = (low + high) // 2
            at = first + middle * ENTRY_BYTES
            if data[at : at + 8] < key:
                low = middle + 1
            else:
                high = middle
        found = []
        at = first + low * ENTRY_BYTES
        while data[at : at + 8] == key:
            found.append(int.from_bytes(data[at + 8 : at + 12], "big"))
            at += ENTRY_BYTES
        return found

    def _span(self, key: bytes) -> tuple[int, int]:
        """Between which entries to look. Keys are evenly spread, so it is known roughly where one is: a page or two are read,
        and not the ten or more of a search from the middle."""
        count = self.entries
        guess = int.from_bytes(key, "big") * count >> 64
        reach = 64 + 3 * isqrt(count)
        low, high = max(guess - reach, 0), min(guess + reach, count)
        if low and not self._key(low) < key:
            return 0, low
        if high < count and self._key(high) < key:
            return high, count
        return low, high

    def _key(self, number: int) -> bytes:
        at = self._first + number * ENTRY_BYTES
        return self._map[at : at + 8]

    def close(self) -> None:
        self._map.close()


def index_header(size: int, last_ms: int, blocks: list[tuple[int, int]], entries: int) -> bytes:
    """The beginning of an index. `blocks` are (offset in the lines, offset in the file) of the members."""
    head = _HEADER.pack(_MAGIC, size, last_ms, len(blocks), entries)
    return head + b"".join(_BLOCK.pack(*block) for block in blocks)


class SegmentReader:
    """Lines of one file, by offset or one after the other.

    Raises:
        FileNotFoundError: it has gone, or was sealed meanwhile.
        OSError, ValueError: it cannot be read.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._block: tuple[int, bytes] = (-1, b"")
        self._file = -1
        self.is_packed = segment.is_packed and segment.is_indexed
        self._index = Index(segment.path(INDEX)) if segment.is_indexed else None
        if self._index is None:
            self._file = os.open(segment.path(LINES), os.O_RDONLY | os.O_CLOEXEC)

    @property
    def _descriptor(self) -> int:
        """Of a sealed file, opened when a line is wanted: most look-ups find none in it."""
        if self._file < 0:
            self._file = os.open(self.segment.path(SEALED if self.is_packed else LINES), os.O_RDONLY | os.O_CLOEXEC)
        return self._file

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        if self._index is not None:
            self._index.close()

    def __enter__(self) -> SegmentReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Octets of lines, a torn one at the end included while the file is not sealed."""
        return self._index.size if self._index is not None else os.fstat(self._descriptor).st_size

    def read(self, offset: int, limit: int = READ_BYTES) -> bytes:
        """Whole lines from an offset on: about `limit` octets, at least one line; b"" = there is none (yet)."""
        if self.is_packed:
            assert self._index is not None
            if offset >= self._index.size:
                return b""
            start, data = self._member(bisect_right(self._index.starts, offset) - 1)
            return data[offset - start :]
        while True:
            data = os.pread(self._descriptor, limit, offset)
            end = data.rfind(b"\n") + 1
            if end or len(data) < limit or limit > MAX_LINE_BYTES:
                return data[:end]
            limit *= 2

    def line(self, offset: int) -> bytes:
        """The line at an offset; b"" = there is none."""
        data = self.read(offset, 4096)
        return data[: data.find(b"\n") + 1]

    def _member(self, number: int) -> tuple[int, bytes]:
        assert self._index is not None
        start = self._index.starts[number]
        if self._block[0] != start:
            places = self._index.places
            end = places[number + 1] if number + 1 < len(places) else os.fstat(self._descriptor).st_size
            packed = os.pread(self._descriptor, end - places[number], places[number])
            try:
                self._block = (start, zlib.decompress(packed, wbits=31))
            except zlib.error as error:
                raise ValueError(f"{self.segment.path(SEALED)} is damaged: {error}") from None
        return self._block

    def offsets(self, key: bytes) -> list[int]:
        """Where lines with a key are, in their order."""
        if self._index is not None:
            return self._index.offsets(key)
        try:
            with open(self.segment.path(KEYS), "rb") as file:
                entries = file.read()
        except FileNotFoundError:
            entries = b""
        found = []
        at = entries.find(key)
        while at >= 0:
            if at % ENTRY_BYTES == 0 and at + ENTRY_BYTES <= len(entries):
                found.append(int.from_bytes(entries[at + 8 : at + 12], "big"))
                at += ENTRY_BYTES
            else:
                at += 1
            at = entries.find(key, at)
        found += [offset for own_key, offset in self.unindexed(entries) if own_key == key]
        return sorted(set(found))

    def unindexed(self, entries: bytes) -> Iterator[tuple[bytes, int]]:
        """Entries of the lines from that of the last of these entries on: its other entries may be missing."""
        whole = len(entries) // ENTRY_BYTES * ENTRY_BYTES
        offset = int.from_bytes(entries[whole - 4 : whole], "big") if whole else 0
        while data := self.read(offset):
            for line in lines_in(data):
                event = decoded(line)
                if event is not None:
                    yield from ((key, offset) for key in keys_of(event))
                offset += len(line) + 1


def lines_in(data: bytes) -> list[bytes]:
    """The lines of whole lines, each without its end."""
    return data[:-1].split(b"\n") if data else []
