"""SORT (RFC 5256 §3) and its keys; SORT=DISPLAY (RFC 5957)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from rusmes._core.casemap import fold
from rusmes._core.textpipe import decode_header
from rusmes.mime.addresses import parse_addresses
from rusmes.search.sentdate import parse_sent_date
from rusmes.search.subject import base_subject

FIELDS: Final = (b"date", b"subject", b"from", b"to", b"cc")
"""What keys are made of, in the order of `Sortable.values`."""
_CACHED_BYTES: Final = 200


class Sortable(Struct, gc=False):
    """A message to be sorted; `values` are those of FIELDS as they were received."""

    arrival: int
    size: int
    values: Sequence[bytes | None]


Key = Callable[[Sortable], int | bytes]


def columns(messages: Sequence[Sortable], criteria: Sequence[tuple[str, bool]]) -> list[list[int | bytes]]:
    """What each message is sorted by, a list for each criterion.

    Raises:
        KeyError: an unknown key.
    """
    keys = [_KEYS[key] for key, _ in criteria]
    return [[key(message) for message in messages] for key in keys]


def sorted_places(found: Sequence[list[int | bytes]], criteria: Sequence[tuple[str, bool]]) -> list[int]:
    """The places of `columns` in the order of (key, whether reversed). Mailbox order decides between equals, and is not
    reversed (RFC 5256 §3, REVERSE)."""
    places = list(range(len(found[0]))) if found else []
    for column, (_, is_reversed) in reversed(list(zip(found, criteria, strict=True))):
        places.sort(key=column.__getitem__, reverse=is_reversed)
    return places


def sent_seconds(message: Sortable) -> int:
    """RFC 5256 §2.2: without a Date that can be read it is the internal date."""
    value = message.values[0]
    date = parse_sent_date(value) if value is not None else None
    return date.seconds if date is not None else message.arrival


def folded_subject(value: bytes | None) -> bytes:
    return fold(base_subject(value).text) if value is not None else b""


def _by_mailbox(place: int) -> Key:
    return lambda message: _mailbox(message.values[place])


def _by_display(place: int) -> Key:
    return lambda message: _display(message.values[place])


def _mailbox(value: bytes | None) -> bytes:
    if not value:
        return b""
    return _mailbox_cached(value) if len(value) <= _CACHED_BYTES else _mailbox_of(value)


def _mailbox_of(value: bytes) -> bytes:
    """The addr-mailbox of the first address; of a group it is the group's name."""
    addresses = parse_addresses(value[:_LONG])
    return fold(decode_header(addresses[0].mailbox or b"")) if addresses else b""


def _display(value: bytes | None) -> bytes:
    if not value:
        return b""
    return _display_cached(value) if len(value) <= _CACHED_BYTES else _display_of(value)


def _display_of(value: bytes) -> bytes:
    """RFC 5957 §3: the display name of the first address, the name of a group, else mailbox@host."""
    addresses = parse_addresses(value[:_LONG])
    if not addresses:
        return b""
    first = addresses[0]
    name = decode_header(first.name) if first.name else ""
    if name:
        return fold(name)
    mailbox = decode_header(first.mailbox or b"")
    return fold(f"{mailbox}@{decode_header(first.host)}" if first.host else mailbox)


# Of a field with thousands of addresses the first one is wanted.
_LONG: Final = 4096
_mailbox_cached: Final = lru_cache(maxsize=4096)(_mailbox_of)
_display_cached: Final = lru_cache(maxsize=4096)(_display_of)

_KEYS: Final[dict[str, Key]] = {
    "ARRIVAL": lambda message: message.arrival,
    "SIZE": lambda message: message.size,
    "DATE": sent_seconds,
    "SUBJECT": lambda message: folded_subject(message.values[1]),
    "FROM": _by_mailbox(2),
    "TO": _by_mailbox(3),
    "CC": _by_mailbox(4),
    "DISPLAYFROM": _by_display(2),
    "DISPLAYTO": _by_display(3),
}
KEYS: Final = frozenset(_KEYS)
