"""A message in 7 bits, for a server without 8BITMIME (RFC 6152 §3: convert it, or send it back).

Only what is not ASCII is touched: a text part becomes quoted-printable, any other part base64, a header field what
`mime.asciiheader` makes of it. The parts above such a one say 7bit then. Everything else stays byte for byte. A message that is
no MIME becomes one, of a charset that nobody knows (RFC 1428 §3).

What must not be changed, or has no other form, is refused:
1. parts inside multipart/signed (RFC 1847 §2.1);
2. internationalized headers (message/global), local parts of addresses, identifiers: see `mime.asciiheader`;
3. parts of `message` types other than rfc822, which allow no encoding (RFC 2045 §6.4), and multiparts that have no parts;
4. what claims to be encoded already, or has an encoding that nobody knows.

A signature over the content (DKIM) does not survive this. Postfix and Sendmail convert all the same, Exim sends the octets as
they are; who signs mail for such servers has to convert it before (RFC 6376 §5.3). To a verifier a signature that fails is
none (RFC 6376 §6.1), so converting is never worse for the sender than sending it back.

A message in a file is never in memory: what is found out first is where its parts are, and the rest is done as it is sent.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Final

from rusmes.mime.asciiheader import NotAscii, ascii_block
from rusmes.mime.fields import parse_fields, unfold
from rusmes.mime.structure import MAX_PARTS, Buffer, Part, parse_structure
from rusmes.mime.window import FileWindow
from rusmes.model.content import CHUNK_BYTES, Rendering

PLAIN_ENCODINGS: Final = (b"", b"7bit", b"8bit", b"binary")
BASE64_OCTETS: Final = 57
"""What one line of base64 holds (RFC 2045 §6.8)."""

_ENCODING_FIELD: Final = re.compile(rb"^content-transfer-encoding[ \t]*:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*", re.I | re.M)
_QUESTION_MARKS: Final = bytes(range(128)) + b"?" * 128

Piece = bytes | tuple[int, int, bytes]
"""Octets, or a range of the message with its encoding (b"" for none)."""


class NotConvertible(Exception):
    """The message has no form in 7 bits; why is the argument."""


class SevenBit:
    """One message in 7 bits. `chunks` may be called more than once.

    Raises:
        NotConvertible
        OSError: the message is in a file that cannot be read.
    """

    def __init__(self, rendering: Rendering) -> None:
        self._path = rendering.content.path
        self._data = b"" if self._path else rendering.content.read()
        self._pieces: list[Piece] = []
        self._whole: bytes | None = None
        content = rendering.content
        window = FileWindow(self._path) if self._path else None
        try:
            planner = _Planner(window or self._data, self._pieces)
            planner.message(rendering.header_block(), content.header_bytes, content.size)
        finally:
            if window is not None:
                window.close()

    def chunks(self) -> Iterator[bytes]:
        """Raises OSError."""
        window = FileWindow(self._path) if self._path else None
        buffer: Buffer = window or self._data
        try:
            for piece in self._pieces:
                if isinstance(piece, bytes):
                    yield piece
                    continue
                start, end, encoding = piece
                raw = (buffer[at : min(at + CHUNK_BYTES, end)] for at in range(start, end, CHUNK_BYTES))
                yield from _ENCODERS[encoding](raw)
        finally:
            if window is not None:
                window.close()

    def read(self) -> bytes:
        """All of it, of a small message; kept."""
        if self._whole is None:
            self._whole = b"".join(self.chunks())
        return self._whole


class _Planner:
    """Walks over the parts and says what becomes of each range."""

    def __init__(self, buffer: Buffer, pieces: list[Piece]) -> None:
        self._buffer = buffer
        self._pieces = pieces

    def message(self, block: bytes, start: int, end: int) -> None:
        part = parse_structure(parse_fields(block), self._buffer, start, end)
        if _count(part) >= MAX_PARTS:
            raise NotConvertible("it has too many parts")
        self._entity(part, block, is_message=True, is_signed=False)

    def _is_ascii(self, start: int, end: int) -> bool:
        return all(self._buffer[at : min(at + CHUNK_BYTES, end)].isascii() for at in range(start, end, CHUNK_BYTES))

    def _keep(self, start: int, end: int, encoding: bytes = b"") -> None:
        if start < end:
            self._pieces.append((start, end, encoding))

    def _entity(self, part: Part, block: bytes, *, is_message: bool, is_signed: bool) -> None:
        """A message (`is_message`) or a part, with its header."""
        if self._is_ascii(part.body_start, part.end):
            self._pieces.append(self._header(block, is_signed))
            self._keep(part.body_start, part.end)
            return
        if is_signed:
            raise NotConvertible("it is signed")
        encoding = _encoding_of(part)
        if encoding not in PLAIN_ENCODINGS:
            raise NotConvertible(f"a part that is said to be in {encoding.decode('ascii', 'replace')[:20]} is not")
        block = self._header(block, is_signed)
        if part.children:
            self._pieces.append(_with_encoding(block, b"7bit") if encoding else block)
            self._composite(part)
        elif part.is_type(b"multipart") or part.is_type(b"message"):
            raise NotConvertible(f"a part of type {part.kind.decode('ascii', 'replace').lower()} cannot be encoded")
        else:
            encoding = b"quoted-printable" if part.is_type(b"text") else b"base64"
            block = _with_encoding(block, encoding)
            self._pieces.append(_as_mime(block, part) if is_message else block)
            self._keep(part.body_start, part.end, encoding)
            if encoding == b"base64" and is_message:
                self._pieces.append(b"\r\n")

    def _composite(self, part: Part) -> None:
        is_signed = part.is_type(b"multipart", b"signed")
        is_message = part.is_type(b"message")
        if part.is_type(b"message", b"global"):
            raise NotConvertible("it contains internationalized mail")
        at = part.body_start
        for child in part.children:
            self._between(at, child.header_start)
            block = self._buffer[child.header_start : child.body_start]
            self._entity(child, block, is_message=is_message, is_signed=is_signed)
            at = child.end
        self._between(at, part.end)

    def _between(self, start: int, end: int) -> None:
        """Boundaries, and what stands before the first and behind the last one, which nobody reads (RFC 2046 §5.1.1)."""
        if self._is_ascii(start, end):
            self._keep(start, end)
        else:
            self._pieces.append(self._buffer[start:end].translate(_QUESTION_MARKS))

    def _header(self, block: bytes, is_signed: bool) -> bytes:
        if block.isascii():
            return block
        if is_signed:
            raise NotConvertible("it is signed")
        try:
            return ascii_block(block, for_reader=False)
        except NotAscii as error:
            raise NotConvertible(f"the field {str(error)[:40]!r} cannot be written in ASCII") from None


def _count(part: Part) -> int:
    return 1 + sum(map(_count, part.children))


def _encoding_of(part: Part) -> bytes:
    for name, value in part.fields:
        if name == b"content-transfer-encoding":
            return unfold(value).partition(b"(")[0].strip().lower()
    return b""


def _with_encoding(block: bytes, encoding: bytes) -> bytes:
    """The header with this encoding and no other."""
    field = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    block = _ENCODING_FIELD.sub(b"", block)
    if block in (b"\r\n", b"\n"):
        return field + block
    for end in (b"\r\n\r\n", b"\n\n"):
        if block.endswith(end):
            keep = len(end) // 2
            return block[:-keep] + field + block[-keep:]
    # A header without an empty line has no body either, or one that no line separates from it.
    return (block if not block or block.endswith(b"\n") else block + b"\r\n") + field


def _as_mime(block: bytes, part: Part) -> bytes:
    """RFC 2045 §4, §5.2: without these nobody looks at the encoding."""
    names = {name for name, _ in part.fields}
    fields = b""
    if b"mime-version" not in names:
        fields = b"MIME-Version: 1.0\r\n"
    if b"content-type" not in names:
        fields += b"Content-Type: text/plain; charset=unknown-8bit\r\n"
    return fields + block


def _as_it_is(raw: Iterator[bytes]) -> Iterator[bytes]:
    return raw


def quoted_printable(raw: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 2045 §6.7. Line ends stay where they are; a CR or LF alone is data."""
    rest = b""
    for chunk in raw:
        *lines, rest = (rest + chunk).split(b"\r\n")
        if lines:
            yield b"".join([_quoted(line) + b"\r\n" for line in lines])
        if len(rest) >= CHUNK_BYTES:  # a line without end goes out in pieces; a CR may be half of its end
            keep = rest[-1:] if rest.endswith(b"\r") else b""
            yield _quoted(rest.removesuffix(keep)) + b"=\r\n"
            rest = keep
    if rest:
        yield _quoted(rest)


def _quoted(line: bytes) -> bytes:
    """`b2a_qp` breaks long lines with LF alone; every other one is encoded here."""
    return binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n")


def base64(raw: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 2045 §6.8; the last line has no end, which belongs to the boundary behind it."""
    rest, is_first = b"", True
    for chunk in raw:
        rest += chunk
        whole = len(rest) // BASE64_OCTETS * BASE64_OCTETS
        if whole:
            yield (b"" if is_first else b"\r\n") + _lines(rest[:whole])
            rest, is_first = rest[whole:], False
    if rest:
        yield (b"" if is_first else b"\r\n") + binascii.b2a_base64(rest, newline=False)


def _lines(data: bytes) -> bytes:
    return b"\r\n".join(
        [binascii.b2a_base64(data[at : at + BASE64_OCTETS], newline=False) for at in range(0, len(data), BASE64_OCTETS)]
    )


_ENCODERS: Final = {b"": _as_it_is, b"quoted-printable": quoted_printable, b"base64": base64}
