"""The Date field (RFC 5322 §3.3, with the obsolete forms of §4.3), read as people write it."""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final, NamedTuple

# Longer ones are no dates.
_MAX_BYTES: Final = 200
_EPOCH: Final = date(1970, 1, 1).toordinal()
_MONTHS: Final = {
    name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}  # fmt: skip
_COMMENT: Final = re.compile(rb"\([^()]*\)")
_DATE: Final = re.compile(
    rb"\s*(?:[a-z]+\s*[,.]?\s*)?(\d{1,2})[\s-]+([a-z]{3})[a-z]*[\s-]+(\d{2,4})(?!\d)"
    rb"(?:[\s,]+(\d{1,2})\s*:\s*(\d{1,2})(?:\s*:\s*(\d{1,2}))?)?\s*([+-]\d{4}(?!\d)|[a-z]+)?",
    re.IGNORECASE,
)
# RFC 5322 §4.3: other names are as if the zone were not known.
_ZONES: Final = {b"est": -5, b"edt": -4, b"cst": -6, b"cdt": -5, b"mst": -7, b"mdt": -6, b"pst": -8, b"pdt": -7}


class SentDate(NamedTuple):
    day: int
    """Ordinal of the day as it is written, whatever the zone (RFC 9051 §6.4.4, SENTON)."""
    seconds: int
    """Since the epoch, in UTC (RFC 5256 §2.2)."""


def parse_sent_date(value: bytes) -> SentDate | None:
    """The date of a Date field's value; None when it has none."""
    if len(value) > _MAX_BYTES:
        return None
    words = value.split()
    if len(words) >= 6 and (plain := _plain(*words[:6])) is not None:
        return plain
    match = _DATE.match(_COMMENT.sub(b" ", value) if b"(" in value else value)
    if match is None:
        return None
    day, month, year, hour, minute, second, zone = match.groups()
    number = _MONTHS.get(month.lower())
    if number is None:
        return None
    try:
        ordinal = date(_full_year(year), number, int(day)).toordinal()
    except ValueError:
        return None
    return SentDate(ordinal, (ordinal - _EPOCH) * 86400 + _seconds(hour, minute, second) - _offset(zone))


def _plain(weekday: bytes, day: bytes, month: bytes, year: bytes, clock: bytes, zone: bytes) -> SentDate | None:
    """The form that nearly every program writes, "Tue, 24 Nov 2026 05:06:07 +0000"; None for any other."""
    if weekday[-1:] != b"," or not weekday[:-1].isalpha() or len(clock) != 8 or clock[2:6:3] != b"::":
        return None
    ordinal, offset = _ordinal(day, month, year), _plain_offset(zone)
    if ordinal is None or offset is None or not (clock[:2] + clock[3:5] + clock[6:]).isdigit():
        return None
    return SentDate(ordinal, (ordinal - _EPOCH) * 86400 + _seconds(clock[:2], clock[3:5], clock[6:]) - offset)


@lru_cache(maxsize=4096)
def _ordinal(day: bytes, month: bytes, year: bytes) -> int | None:
    number = _MONTHS.get(month.lower())
    if number is None or len(day) > 2 or len(year) != 4 or not (day + year).isdigit():
        return None
    try:
        return date(int(year), number, int(day)).toordinal()
    except ValueError:
        return None


@lru_cache(maxsize=256)
def _plain_offset(zone: bytes) -> int | None:
    return _offset(zone) if len(zone) == 5 and zone[:1] in b"+-" and zone[1:].isdigit() else None


def _full_year(year: bytes) -> int:
    """RFC 5322 §4.3: two digits from 50 on, and three, are of the last century."""
    number = int(year)
    if len(year) == 2 and number < 50:
        return number + 2000
    return number + 1900 if len(year) < 4 else number


def _seconds(hour: bytes | None, minute: bytes | None, second: bytes | None) -> int:
    """RFC 5256 §2.2: an invalid time is 00:00:00."""
    if hour is None or minute is None:
        return 0
    hours, minutes, seconds = int(hour), int(minute), int(second or 0)
    return hours * 3600 + minutes * 60 + seconds if hours < 24 and minutes < 60 and seconds <= 60 else 0


def _offset(zone: bytes | None) -> int:
    """RFC 5256 §2.2: an invalid zone is UTC."""
    if zone is None:
        return 0
    if zone[:1] in b"+-":
        hours, minutes = int(zone[1:3]), int(zone[3:])
        if minutes >= 60:
            return 0
        return (hours * 3600 + minutes * 60) * (-1 if zone[:1] == b"-" else 1)
    return _ZONES.get(zone.lower(), 0) * 3600
