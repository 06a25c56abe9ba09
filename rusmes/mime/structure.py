"""MIME parts and BODYSTRUCTURE (RFC 2045, RFC 2046, RFC 9051 §7.5.2).

`body_structure` is what delivery asks for. Messages in memory are walked in C (`_core.structure`), in a tenth of the time; what
is in a file is walked here, by the same rules, which the walk in C is tested against.

The rules for broken mail, in the order in which they are applied:
1. A multipart without a usable boundary, or whose boundary never occurs, holds one empty text part (RFC 9051 has no
   multipart without parts).
2. A part ends at its parent's next boundary, with or without its own closing one.
3. What is nested deeper than MAX_DEPTH, or comes after MAX_PARTS, is one leaf of the type it says it has.
4. An unreadable Content-Type is text/plain (RFC 2045 §5.2), in a digest message/rfc822 (RFC 2046 §5.1.5).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Protocol

from msgspec import Struct, field

from rusmes._core import structure as walk
from rusmes._core.mime import content_fields
from rusmes.mime.envelope import render_envelope
from rusmes.mime.fields import MAX_HEADER_BYTES, parse_fields, unfold
from rusmes.mime.quoting import field_text, nstring

# Real mail nests five deep and has some hundred parts (Dovecot stops at 100 and 10,000).
MAX_DEPTH: Final = 32
MAX_PARTS: Final = 2000
_COUNT_BYTES: Final = 128 * 1024


class Buffer(Protocol):
    """What a body is read from: bytes, or a file that can be searched like them."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...


class Part(Struct):
    """One part. Offsets are into the buffer; the header of the outermost part may lie elsewhere (`header_start` -1)."""

    kind: bytes
    subtype: bytes
    parameters: tuple[tuple[bytes, bytes], ...]
    fields: list[tuple[bytes, bytes]]
    header_start: int
    body_start: int
    end: int
    children: list[Part] = field(default_factory=list)

    def is_type(self, kind: bytes, subtype: bytes = b"") -> bool:
        return self.kind.lower() == kind and (not subtype or self.subtype.lower() == subtype)


_TYPE: Final = re.compile(rb"\s*([!#-'*+\-.0-9A-Z^-~]+)\s*/\s*([!#-'*+\-.0-9A-Z^-~]+)\s*", re.I)
_PARAMETER: Final = re.compile(rb"""[;\s]*([^\s;="]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^;\s]*))[^;]*""", re.S)
_ESCAPED: Final = re.compile(rb"\\(.)", re.S)
_DEFAULT_TYPE: Final[tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]] = (
    b"text", b"plain", ((b"charset", b"us-ascii"),),
)  # fmt: skip
_DIGEST_TYPE: Final[tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]] = (b"message", b"rfc822", ())
_MAX_PARAMETERS: Final = 50
_MAX_VALUE_BYTES: Final = 16 * 1024
_CACHED_VALUE_BYTES: Final = 200
# RFC 2046 §5.1.1 allows 70 characters; some programs write more.
_MAX_BOUNDARY_BYTES: Final = 200


def parse_parameters(value: bytes) -> list[tuple[bytes, bytes]]:
    """The "; name=value" pairs (RFC 2045 §5.1), values unquoted; RFC 2231 pieces are not joined."""
    if b"=" not in value:
        return []
    found = []
    for match in _PARAMETER.finditer(unfold(value[:_MAX_VALUE_BYTES])):
        name, quoted, token = match.groups()
        found.append((name, _ESCAPED.sub(rb"\1", quoted) if quoted is not None else token))
        if len(found) == _MAX_PARAMETERS:
            break
    return found


def body_structure(block: bytes, buffer: Buffer, start: int, end: int) -> bytes:
    """BODYSTRUCTURE of a message with this header block and the body `buffer[start:end]`.

    Raises:
        OSError: the buffer is a file that cannot be read.
    """
    if isinstance(buffer, bytes):
        return walk.render_structure(block, buffer, start, end, _content_type, _disposition, _language, _envelope_of)
    return render_structure(parse_structure(parse_fields(block), buffer, start, end), buffer)


def _envelope_of(block: bytes) -> bytes:
    return render_envelope(parse_fields(block))


def parse_structure(fields: list[tuple[bytes, bytes]], buffer: Buffer, start: int, end: int) -> Part:
    """The parts of a message with these header fields and the body `buffer[start:end]`."""
    return _Walk(buffer).part(fields, -1, start, end, 0, digest=False)


Parameters = tuple[tuple[bytes, bytes], ...]


@lru_cache(maxsize=1024)
def _known_type(value: bytes) -> tuple[bytes, bytes, Parameters] | None:
    """Programs write a handful of Content-Types again and again; those with a boundary are short-lived guests here."""
    return _content_type(value)


def _content_type(value: bytes) -> tuple[bytes, bytes, Parameters] | None:
    match = _TYPE.match(value)
    if match is None:
        return None
    return match[1], match[2], tuple(parse_parameters(value[match.end() :]))


class _Walk:
    __slots__ = ("buffer", "count")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.count = 0

    def part(
        self, fields: list[tuple[bytes, bytes]], header_start: int, start: int, end: int, depth: int, *, digest: bool
    ) -> Part:
        self.count += 1
        kind, subtype, parameters = _DIGEST_TYPE if digest else _DEFAULT_TYPE
        for name, value in fields:
            if name == b"content-type":
                found = _known_type(value) if len(value) <= _CACHED_VALUE_BYTES else _content_type(value)
                kind, subtype, parameters = found or (kind, subtype, parameters)
                break
        part = Part(kind, subtype, parameters, fields, header_start, start, end)
        if depth < MAX_DEPTH and self.count < MAX_PARTS:
            if part.is_type(b"multipart"):
                self._split(part, depth)
            elif part.is_type(b"message", b"rfc822") or part.is_type(b"message", b"global"):
                part.children.append(self._whole(start, end, depth + 1, digest=False))
        return part

    def _whole(self, start: int, end: int, depth: int, *, digest: bool) -> Part:
        """A part or message that begins with its header."""
        header_end = self._header_end(start, end)
        block = self.buffer[start : min(header_end, start + MAX_HEADER_BYTES)]
        return self.part(parse_fields(block), start, header_end, end, depth, digest=digest)

    def _header_end(self, start: int, end: int) -> int:
        """Behind the first empty line; LF alone ends a line too."""
        head = self.buffer[start : min(start + 2, end)]
        if head[:1] == b"\n":
            return start + 1
        if head == b"\r\n":
            return start + 2
        found = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := self.buffer.find(mark, start, end)) >= 0]
        return min(found, default=end)

    def _split(self, part: Part, depth: int) -> None:
        boundary = next((value for name, value in part.parameters if name.lower() == b"boundary"), b"").rstrip()
        if not boundary or len(boundary) > _MAX_BOUNDARY_BYTES:
            return
        digest = part.is_type(b"multipart", b"digest")
        begin = -1
        at, closed = part.body_start, False
        while not closed and self.count < MAX_PARTS:
            line, after, closed = self._next_boundary(b"--" + boundary, at, part.end)
            if begin >= 0:
                stop = max(begin, self._before_line(line, begin)) if line < part.end else part.end
                part.children.append(self._whole(begin, stop, depth + 1, digest=digest))
            if line >= part.end:
                return
            begin = at = after

    def _next_boundary(self, delimiter: bytes, start: int, end: int) -> tuple[int, int, bool]:
        """Where the next boundary line begins and ends, and whether it is the closing one; (end, end, False) without one."""
        at = start
        while (at := self.buffer.find(delimiter, at, end)) >= 0:
            tail = at + len(delimiter)
            if at == start or self.buffer[at - 1 : at] == b"\n":
                line_end = self.buffer.find(b"\n", tail, end)
                after = line_end + 1 if line_end >= 0 else end
                rest = self.buffer[tail : min(after, tail + 80)].rstrip()
                if rest in (b"", b"--"):
                    return at, after, rest == b"--"
            at = tail
        return end, end, False

    def _before_line(self, line: int, begin: int) -> int:
        """The line end before a boundary belongs to the boundary (RFC 2046 §5.1.1)."""
        if self.buffer[max(begin, line - 2) : line] == b"\r\n":
            return line - 2
        return line - 1 if line > begin else line


def count_lines(buffer: Buffer, start: int, end: int) -> int:
    if isinstance(buffer, bytes):
        return walk.count_lines(buffer, start, end)
    return sum(buffer[at : min(at + _COUNT_BYTES, end)].count(b"\n") for at in range(start, end, _COUNT_BYTES))


_EMPTY_PART: Final = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'


def render_structure(part: Part, buffer: Buffer) -> bytes:
    """BODYSTRUCTURE, with the extension data."""
    first = content_fields(part.fields)
    extension = b"NIL NIL NIL"
    if not first.keys().isdisjoint(_EXTENSION_FIELDS):
        extension = b" ".join(
            (
                _disposition(first.get(b"content-disposition")),
                _language(first.get(b"content-language")),
                _text(first.get(b"content-location")),
            )
        )
    if part.is_type(b"multipart"):
        children = b"".join(render_structure(child, buffer) for child in part.children) or _EMPTY_PART
        return b"(%b %b %b %b)" % (children, nstring(part.subtype), _parameters(part.parameters), extension)
    encoding = unfold(first[b"content-transfer-encoding"]) if b"content-transfer-encoding" in first else b""
    leaf = b"%b %b %b %b %b %b %d" % (
        nstring(part.kind),
        nstring(part.subtype),
        _parameters(part.parameters),
        _text(first.get(b"content-id")),
        _text(first.get(b"content-description")),
        nstring(encoding or b"7bit"),
        part.end - part.body_start,
    )
    if part.children:  # message/rfc822
        child = part.children[0]
        leaf += b" %b %b %d" % (
            render_envelope(child.fields), render_structure(child, buffer), count_lines(buffer, part.body_start, part.end)
        )  # fmt: skip
    elif part.is_type(b"text"):
        leaf += b" %d" % count_lines(buffer, part.body_start, part.end)
    return b"(%b %b %b)" % (leaf, _text(first.get(b"content-md5")), extension)


def _text(value: bytes | None) -> bytes:
    return field_text(value[:_MAX_VALUE_BYTES]) if value is not None else b"NIL"


_EXTENSION_FIELDS: Final = (b"content-disposition", b"content-language", b"content-location")


@lru_cache(maxsize=1024)
def _parameters(parameters: tuple[tuple[bytes, bytes], ...]) -> bytes:
    if not parameters:
        return b"NIL"
    return b"(" + b" ".join([nstring(name) + b" " + nstring(value) for name, value in parameters]) + b")"


def _disposition(value: bytes | None) -> bytes:
    """RFC 2183 §2."""
    if value is None:
        return b"NIL"
    kind, _, rest = unfold(value[:_MAX_VALUE_BYTES]).partition(b";")
    return b"(%b %b)" % (nstring(kind.strip()), _parameters(tuple(parse_parameters(rest))))


def _language(value: bytes | None) -> bytes:
    """RFC 3282 §2: one tag is a string, several are a list."""
    tags = [tag.strip() for tag in unfold(value[:_MAX_VALUE_BYTES]).split(b",")] if value is not None else []
    tags = [tag for tag in tags if tag]
    if len(tags) < 2:
        return nstring(tags[0]) if tags else b"NIL"
    return b"(" + b" ".join(nstring(tag) for tag in tags) + b")"
