"""Content-Transfer-Encodings undone, piece by piece (RFC 2045 §6).

What breaks the rules is stepped over, and the result does not depend on how the input was cut: base64 ends at its first "=",
characters outside of its alphabet mean nothing (§6.8); in quoted-printable blanks at the end of a line are not data, and a
"=" that begins no code stays (§6.7).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

_IDENTITY: Final = frozenset((b"", b"7bit", b"8bit", b"binary"))
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64: Final = bytes(sorted(set(range(256)) - set(_ALPHABET + b"=")))
_MAX_LINE_BYTES: Final = 64 * 1024
"""A line of quoted-printable that is longer is decoded before its end is there."""


class UnknownEncoding(ValueError):
    """Nobody can undo it (RFC 3516 §4.3: UNKNOWN-CTE)."""


class Decoder(Protocol):
    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class _Base64:
    def __init__(self) -> None:
        self._rest = b""
        self._is_ended = False

    def feed(self, data: bytes) -> bytes:
        if self._is_ended:
            return b""
        text = self._rest + data.translate(None, _NOT_BASE64)
        end = text.find(b"=")
        if end >= 0:
            self._is_ended = True
            self._rest = text[:end]
            return self._last()
        whole = len(text) & ~3
        self._rest = text[whole:]
        return binascii.a2b_base64(text[:whole])

    def _last(self) -> bytes:
        text, self._rest = self._rest, b""
        over = len(text) & 3
        if over == 1:  # six bits are no octet
            text, over = text[:-1], 0
        return binascii.a2b_base64(text + b"=" * (-over & 3))

    def finish(self) -> bytes:
        return b"" if self._is_ended else self._last()


class _QuotedPrintable:
    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        text = self._rest + data
        end = text.rfind(b"\n") + 1
        if not end and len(text) > _MAX_LINE_BYTES:
            # Blanks at the cut may turn out to end the line, and "=4" to be half a code.
            end = len(text.rstrip(b" \t\r"))
            cut = text.rfind(b"=", max(end - 2, 0), end)
            end = cut if cut >= 0 else end
            if not end:
                end = len(text) - 3  # nothing but blanks, more than any line may have
            self._rest = text[end:]
            return binascii.a2b_qp(text[:end])
        self._rest = text[end:]
        return _decoded_lines(text[:end])

    def finish(self) -> bytes:
        text, self._rest = self._rest, b""
        return _decoded_lines(text)


def _decoded_lines(text: bytes) -> bytes:
    if b" \r" in text or b"\t\r" in text or b" \n" in text or b"\t\n" in text:
        text = b"\n".join(
            [line[:-1].rstrip(b" \t") + b"\r" if line.endswith(b"\r") else line.rstrip(b" \t") for line in text.split(b"\n")]
        )
    return binascii.a2b_qp(text)


def decoder(encoding: bytes) -> Decoder | None:
    """What undoes an encoding; None when there is nothing to undo.

    Raises:
        UnknownEncoding
    """
    name = encoding.strip().lower()
    if name in _IDENTITY:
        return None
    if name == b"base64":
        return _Base64()
    if name == b"quoted-printable":
        return _QuotedPrintable()
    raise UnknownEncoding(f"{encoding!r} is no known encoding")


def decoded(chunks: Iterable[bytes], encoding: bytes) -> Iterator[bytes]:
    """The data of an encoded body. Raises UnknownEncoding."""
    undo = decoder(encoding)
    if undo is None:
        yield from chunks
        return
    for chunk in chunks:
        if data := undo.feed(chunk):
            yield data
    if data := undo.finish():
        yield data
