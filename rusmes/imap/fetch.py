"""What a FETCH asks for, sorted by where the answers come from; and the items that are cut out of a message.

Four sources, the cheap ones first: the columns of the mailbox; the stored forms of the email (ENVELOPE, BODYSTRUCTURE, cached
header fields); the email's body. A client that lists a mailbox never makes anybody read bodies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from msgspec import Struct

from rusmes._core import render
from rusmes._core.encode import literal8, string
from rusmes._core.headers import only
from rusmes.imap.command import FetchItem, Section
from rusmes.imap.preview import preview_of
from rusmes.imap.sections import OpenedMessage, Span, field_names, item_name
from rusmes.mime.fields import CACHED_NAMES
from rusmes.mime.transfer import UnknownEncoding, decoded, decoder

SMALL_OCTETS: Final = 256 * 1024
"""What is larger is sent in pieces."""

_FROM_COLUMNS: Final = {
    "UID": render.UID,
    "FLAGS": render.FLAGS,
    "INTERNALDATE": render.INTERNALDATE,
    "RFC822.SIZE": render.SIZE,
    "MODSEQ": render.MODSEQ,
    "EMAILID": render.EMAILID,
    "THREADID": render.THREADID,
    "ENVELOPE": render.ENVELOPE,
    "BODYSTRUCTURE": render.BODYSTRUCTURE,
    "BODY": render.BODY,
}
_OLD_SECTIONS: Final = {
    "RFC822": Section(),
    "RFC822.HEADER": Section(text="HEADER"),
    "RFC822.TEXT": Section(text="TEXT"),
}
"""RFC 3501 §6.4.5: other names for BODY[], BODY.PEEK[HEADER] and BODY[TEXT]."""
_LEAVES_SEEN_ALONE: Final = frozenset({"PREVIEW", "RFC822.HEADER", "BINARY.SIZE"})


class Plan(Struct, frozen=True):
    """`items` are those of `_core.render`; `cached` are header fields that the store has at hand, as a rule."""

    items: int
    cached: tuple[FetchItem, ...]
    body: tuple[FetchItem, ...]
    saved_date: bool
    sets_seen: bool
    picks: tuple[render.HeaderPick, ...] = ()
    """`cached`, when all of it can be made without Python."""
    whole: bytes = b""
    """What comes before the literal when the whole message is the only thing that needs the body."""

    @property
    def is_columns_only(self) -> bool:
        return not (self.cached or self.body or self.saved_date)


@lru_cache(256)
def plan(wanted: tuple[FetchItem, ...]) -> Plan:
    items = 0
    cached: list[FetchItem] = []
    body: list[FetchItem] = []
    saved_date = sets_seen = False
    for item in dict.fromkeys(wanted):
        if item.name in _FROM_COLUMNS:
            items |= _FROM_COLUMNS[item.name]
        elif item.name == "SAVEDATE":
            saved_date = True
        else:
            (cached if _is_cached(item) else body).append(item)
            sets_seen = sets_seen or not (item.peek or item.name in _LEAVES_SEEN_ALONE)
    picks: tuple[render.HeaderPick, ...] = ()
    if all(item.partial is None for item in cached):
        picks = tuple(render.HeaderPick(_heading(item), _names(item)) for item in cached)
    whole = _heading(body[0]) if _is_whole(body) else b""
    return Plan(items, tuple(cached), tuple(body), saved_date, sets_seen, picks, whole)


def _names(item: FetchItem) -> frozenset[bytes]:
    assert item.section is not None
    return field_names(item.section)


def _is_whole(body: list[FetchItem]) -> bool:
    if len(body) != 1:
        return False
    item = body[0]
    return item.partial is None and (item.name == "RFC822" or (item.name == "BODY[]" and item.section == Section()))


def _is_cached(item: FetchItem) -> bool:
    section = item.section
    return (
        section is not None
        and section.text == "HEADER.FIELDS"
        and not section.path
        and item.name == "BODY[]"
        and field_names(section) <= CACHED_NAMES
    )


@lru_cache(256)
def _heading(item: FetchItem) -> bytes:
    """The item's name and the blank behind it."""
    return item_name(item) + b" "


class Streamed(Struct):
    """An item whose data does not fit into memory: what comes before it, and where it is."""

    heading: bytes
    message: OpenedMessage
    span: Span
    encoding: bytes = b""
    """Of BINARY, whose data is decoded on the way."""
    partial: tuple[int, int] | None = None
    """Of the decoded data."""
    is_binary: bool = False
    """It is a literal8, which may hold NUL."""

    def pieces(self) -> Iterator[bytes]:
        """Its octets; those of the file until decoded and cut. Raises OSError."""
        return decoded(self.message.chunks(self.span), self.encoding)


def cached_fields(headers: bytes, item: FetchItem) -> bytes:
    """BODY[HEADER.FIELDS (...)] from the fields that the store keeps of an email."""
    assert item.section is not None
    block = only(headers, field_names(item.section)) + b"\r\n"
    if item.partial is not None:
        block = block[item.partial[0] : sum(item.partial)]
    return _literal(_heading(item), block)


def body_item(message: OpenedMessage, item: FetchItem, *, utf8: bool) -> bytes | Streamed:
    """An item that needs the body, with its name.

    Raises:
        OSError: the file cannot be read.
        UnknownEncoding: BINARY of a part whose encoding nobody knows.
    """
    if item.name == "PREVIEW":
        return _heading(item) + string(preview_of(message).encode(), utf8=utf8)
    if item.name.startswith("BINARY"):
        return _binary(message, item)
    section = item.section or _OLD_SECTIONS[item.name]
    span = message.span(section)
    if span is None:
        return _heading(item) + b"NIL"
    span = span.cut(item.partial)
    if span.size > SMALL_OCTETS:
        return Streamed(b"%b{%d}\r\n" % (_heading(item), span.size), message, span)
    return _literal(_heading(item), message.read(span))


def _literal(heading: bytes, data: bytes) -> bytes:
    # RFC 9051 §4.3: no NUL in a literal. An octet takes its place, as Dovecot does it, so that the size stays right.
    if 0 in data:
        data = data.replace(b"\0", b"\x80")
    return b"%b{%d}\r\n%b" % (heading, len(data), data)


def _binary(message: OpenedMessage, item: FetchItem) -> bytes | Streamed:
    """BINARY and BINARY.SIZE (RFC 3516 §4.2, §4.3)."""
    assert item.section is not None
    span = message.span(item.section)
    if span is None:
        # RFC 9051 §9, msg-att-static: BINARY.SIZE is always a number.
        return _heading(item) + (b"0" if item.name == "BINARY.SIZE" else b"NIL")
    found = message.part(item.section.path) if item.section.path else None
    encoding = b"" if found is None or found[1] else message.encoding(found[0])
    if decoder(encoding) is None:
        encoding = b""
    if item.name == "BINARY.SIZE":
        if not encoding or span.size <= SMALL_OCTETS:
            size = span.size if not encoding else sum(map(len, decoded(message.chunks(span), encoding)))
            return b"%b%d" % (_heading(item), size)
        return Streamed(_heading(item), message, span, encoding)
    if not encoding:
        span = span.cut(item.partial)
    if span.size > SMALL_OCTETS:
        heading = _heading(item) if encoding else b"%b~{%d}\r\n" % (_heading(item), span.size)
        return Streamed(heading, message, span, encoding, item.partial if encoding else None, is_binary=True)
    data = b"".join(decoded(message.chunks(span), encoding))
    if encoding and item.partial is not None:
        data = data[item.partial[0] : sum(item.partial)]
    # RFC 3516 §4.3: a literal8 where there is NUL.
    return _heading(item) + literal8(data) if 0 in data else _literal(_heading(item), data)


__all__ = ["Plan", "Streamed", "UnknownEncoding", "body_item", "cached_fields", "plan"]
