"""Dates on the wire: INTERNALDATE and those of SEARCH (RFC 9051 §9: date-time, date)."""

from __future__ import annotations

import time
from datetime import date, datetime, timedelta, timezone
from typing import Final

from rusmes._core.imap import GrammarError

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NUMBER_OF_MONTH: Final = {name.lower(): number for number, name in enumerate(MONTHS, 1)}


def parse_date_time(raw: bytes) -> float:
    """Seconds since the epoch of what is between the quotes: "dd-Mon-yyyy hh:mm:ss +zzzz", a space for a leading zero.

    Raises:
        GrammarError
    """
    try:
        text = raw.decode("ascii")
        if len(text) != 26 or (text[2], text[6], text[11], text[14], text[17], text[20]) != ("-", "-", " ", ":", ":", " "):
            raise ValueError
        day = text[:2] if text[0] != " " else text[1]
        digits = (day, text[7:11], text[12:14], text[15:17], text[18:20], text[22:24], text[24:26])
        if not all(part.isdigit() for part in digits) or text[21] not in "+-":
            raise ValueError
        zone = timedelta(hours=int(text[22:24]), minutes=int(text[24:26]))
        # A leap second is the second before it: the epoch's count has none.
        moment = datetime(
            int(text[7:11]),
            _NUMBER_OF_MONTH[text[3:6].lower()],
            int(day),
            int(text[12:14]),
            int(text[15:17]),
            min(int(text[18:20]), 59) if text[18:20] == "60" else int(text[18:20]),
            tzinfo=timezone(zone if text[21] == "+" else -zone),
        )
        return moment.timestamp()
    except (ValueError, KeyError, UnicodeDecodeError, OverflowError):
        raise GrammarError("not a date with time and zone") from None


def format_date_time(seconds: float) -> bytes:
    """The date-time with its quotes, in UTC (RFC 9051 §9). Years outside of 1 to 9999 are the nearest that can be written."""
    year, month, day, hour, minute, second, *_ = time.gmtime(min(max(seconds, -62135596800), 253402300799))
    return b'"%2d-%s-%04d %02d:%02d:%02d +0000"' % (day, MONTHS[month - 1].encode(), year, hour, minute, second)


def parse_day(raw: bytes) -> int:
    """The ordinal (`date.toordinal`) of d-Mon-yyyy, without its quotes.

    Raises:
        GrammarError
    """
    try:
        day, month, year = raw.decode("ascii").split("-")
        if not (day.isdigit() and len(day) <= 2 and year.isdigit() and len(year) == 4):
            raise ValueError
        return date(int(year), _NUMBER_OF_MONTH[month.lower()], int(day)).toordinal()
    except (ValueError, KeyError, UnicodeDecodeError):
        raise GrammarError("not a date") from None
