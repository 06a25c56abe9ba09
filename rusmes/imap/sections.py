"""What BODY[section] and BINARY[section] stand for (RFC 9051 §6.4.5.1, RFC 3516).

Parts are those of `mime.structure`, the same that BODYSTRUCTURE was made of, so the two agree about every broken message.
How a path is read:
1. A message (the outermost one, or the one inside of a message/rfc822 part) that is no multipart has one part, 1: its body.
2. A multipart's parts are numbered from 1. A multipart without parts has one that is empty, as in BODYSTRUCTURE.
3. Below a message/rfc822 part the numbers are those of the message in it.
4. HEADER and TEXT are of messages, MIME is of parts. What is not there is NIL.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from msgspec import Struct

from rusmes._core.encode import astring
from rusmes._core.headers import only, without
from rusmes.imap.command import FetchItem, Section
from rusmes.mime.fields import MAX_HEADER_BYTES, parse_fields
from rusmes.mime.structure import Buffer, Part, parse_structure
from rusmes.mime.window import FileWindow
from rusmes.model.content import CHUNK_BYTES, Rendering

WHOLE: Final = Section()


class Span(Struct, frozen=True, gc=False):
    """Octets of a message: `prefix`, then a range of the stored body."""

    prefix: bytes
    start: int = 0
    end: int = 0

    @property
    def size(self) -> int:
        return len(self.prefix) + self.end - self.start

    def cut(self, partial: tuple[int, int] | None) -> Span:
        """§6.4.5.1 <first.count>: from an offset, at most so many octets; beyond the end there is nothing."""
        if partial is None:
            return self
        first, count = partial
        head = len(self.prefix)
        start = min(self.start + max(first - head, 0), self.end)
        prefix = self.prefix[first : first + count]
        return Span(prefix, start, min(start + count - len(prefix), self.end))


NOTHING: Final = Span(b"")


class OpenedMessage:
    """A message that sections are cut out of. `close` it; methods raise OSError when its file cannot be read."""

    __slots__ = ("_buffer", "_file", "_header", "_root", "rendering")

    def __init__(self, rendering: Rendering) -> None:
        """Raises OSError."""
        self.rendering = rendering
        self._file: FileWindow | None = None
        self._header: bytes | None = None
        self._root: Part | None = None
        data = rendering.content.data
        self._buffer: Buffer
        if data is not None:
            self._buffer = data
        else:
            self._file = self._buffer = FileWindow(rendering.content.path)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def header(self) -> bytes:
        """With the empty line."""
        if self._header is None:
            rendering = self.rendering
            self._header = rendering.prefix + self._buffer[rendering.skip : rendering.content.header_bytes]
        return self._header

    @property
    def _body_start(self) -> int:
        return max(self.rendering.content.header_bytes, self.rendering.skip)

    @property
    def root(self) -> Part:
        if self._root is None:
            fields = parse_fields(self.header[:MAX_HEADER_BYTES])
            self._root = parse_structure(fields, self._buffer, self._body_start, self.rendering.content.size)
        return self._root

    def span(self, section: Section) -> Span | None:
        """What a section stands for; None: the message has no such part."""
        if not section.path:
            return self._of_message(section)
        found = self.part(section.path)
        if found is None:
            return None
        part, is_empty = found
        if is_empty:
            return NOTHING if section.text in ("", "MIME") else None
        if section.text == "":
            return Span(b"", part.body_start, part.end)
        if section.text == "MIME":
            return Span(self._header_of(part))
        if not part.children or part.is_type(b"multipart"):
            return None
        message = part.children[0]
        if section.text == "TEXT":
            return Span(b"", message.body_start, message.end)
        return Span(_picked(self._header_of(message), section))

    def _of_message(self, section: Section) -> Span | None:
        rendering = self.rendering
        if section.text == "":
            return Span(rendering.prefix, min(rendering.skip, rendering.content.size), rendering.content.size)
        if section.text == "TEXT":
            return Span(b"", self._body_start, rendering.content.size)
        return Span(_picked(self.header, section)) if section.text != "MIME" else None

    def _header_of(self, part: Part) -> bytes:
        return self.header if part.header_start < 0 else self._buffer[part.header_start : part.body_start]

    def part(self, path: tuple[int, ...]) -> tuple[Part, bool] | None:
        """The part at a path, and whether it is one that only BODYSTRUCTURE has (rule 2). None: there is none."""
        part, is_message = self.root, True
        for place, number in enumerate(path):
            if not is_message and part.children and not part.is_type(b"multipart"):
                part, is_message = part.children[0], True
            if part.is_type(b"multipart"):
                if number > len(part.children):
                    is_stand_in = number == 1 and place == len(path) - 1
                    return (part, True) if is_stand_in else None
                part = part.children[number - 1]
            elif not is_message or number != 1:
                return None
            is_message = False
        return part, False

    def encoding(self, part: Part) -> bytes:
        """Its Content-Transfer-Encoding; parts that hold others are not encoded (RFC 2045 §6.4)."""
        if part.children or part.is_type(b"multipart"):
            return b""
        return next((value for name, value in part.fields if name == b"content-transfer-encoding"), b"").strip()

    def read(self, span: Span) -> bytes:
        """The octets of a span that is small. Raises OSError."""
        return span.prefix + self._piece(span.start, span.end) if span.end > span.start else span.prefix

    def chunks(self, span: Span) -> Iterator[bytes]:
        """The octets of a span, at most 64 KiB at once; as many as it says. Raises OSError."""
        if span.prefix:
            yield span.prefix
        for start in range(span.start, span.end, CHUNK_BYTES):
            yield self._piece(start, min(start + CHUNK_BYTES, span.end))

    def _piece(self, start: int, end: int) -> bytes:
        data = self._buffer[start:end]
        if len(data) != end - start:
            raise OSError(errno.EIO, "the file is shorter than the message", self.rendering.content.path)
        return data


def _picked(block: bytes, section: Section) -> bytes:
    if section.text == "HEADER":
        return block
    names = field_names(section)
    if section.text == "HEADER.FIELDS":
        # The empty line belongs to every header that is fetched.
        return only(block, names) + b"\r\n"
    return without(block, names)


@lru_cache(512)
def field_names(section: Section) -> frozenset[bytes]:
    """In lower case."""
    return frozenset(name.lower() for name in section.fields)


@lru_cache(512)
def item_name(item: FetchItem) -> bytes:
    """As it is repeated in the response (RFC 9051 §7.5.2): the origin octet of a partial, not its length."""
    if item.section is None:
        return item.name.encode()
    section = item.section
    inside = ".".join([*map(str, section.path), *([section.text] if section.text else [])]).encode()
    if section.fields:
        inside += b" (%b)" % b" ".join(map(astring, section.fields))
    origin = b"<%d>" % item.partial[0] if item.partial is not None else b""
    return b"%b[%b]%b" % (item.name.removesuffix("[]").encode(), inside, origin)
