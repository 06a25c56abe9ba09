"""Dates of Date fields as people write them."""

from __future__ import annotations

import random
import time
from datetime import UTC, date, datetime

import pytest

from rusmes.search.sentdate import parse_sent_date


def utc(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type]


@pytest.mark.rfc("5322", "3.3")
@pytest.mark.parametrize(
    ("value", "day", "seconds"),
    [
        ("Tue, 24 Nov 2026 05:06:07 +0000", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        (" 31 Dec 2000 16:01:33 -0800\r", (2000, 12, 31), utc(2001, 1, 1, 0, 1, 33)),  # RFC 5256 §2.2
        ("24 Nov 2026 05:06 +0130", (2026, 11, 24), utc(2026, 11, 24, 3, 36)),
        ("tue,24 NOV 2026 23:59:60 EST", (2026, 11, 24), utc(2026, 11, 25, 5, 0)),
        ("24 Nov 96 05:06:07 GMT", (1996, 11, 24), utc(1996, 11, 24, 5, 6, 7)),
        ("24 Nov 26 05:06:07 Z", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        ("24 Nov 103 05:06:07 Z", (2003, 11, 24), utc(2003, 11, 24, 5, 6, 7)),
        ("Tue (day), 24 (x) Nov 2026 05:06:07 (y) +0000 (UTC)", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        ("24 November 2026", (2026, 11, 24), utc(2026, 11, 24)),
        ("24-Nov-2026 05:06:07", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        ("Tue, 24 Nov 2026\r\n 05:06:07\r\n +0000", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        ("24 Nov 2026 25:06:07 +0000", (2026, 11, 24), utc(2026, 11, 24)),  # no such time
        ("24 Nov 2026 05:06:07 +00990", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        ("24 Nov 2026 05:06:07 +0099", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        ("24 Nov 2026 05:06:07 XYZ", (2026, 11, 24), utc(2026, 11, 24, 5, 6, 7)),
        ("29 Feb 2024 00:00:00 -1200", (2024, 2, 29), utc(2024, 2, 29, 12)),
    ],
)
def test_dates(value: str, day: tuple[int, int, int], seconds: int) -> None:
    found = parse_sent_date(value.encode())
    assert found is not None
    assert (date.fromordinal(found.day), found.seconds) == (date(*day), seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "31 Feb 2026",
        "29 Feb 2023 00:00",
        "24 Foo 2026",
        "0 Nov 2026",
        "24 Nov",
        "Nov 24 2026",
        "24 Nov 20260",
        "24 Nov 0000",
        "x" * 500,
    ],
)
def test_what_is_no_date(value: str) -> None:
    assert parse_sent_date(value.encode()) is None


def test_no_value_takes_long() -> None:
    begin = time.process_time()
    for value in (b"a" * 199, b"1 " * 99, b"(" * 199, b"24 Nov 2026 " + b" " * 180, b"mon" * 60 + b", 24"):
        parse_sent_date(value)
    assert time.process_time() - begin < 0.1


def test_the_common_form_is_read_as_the_rare_ones_are() -> None:
    rnd = random.Random(11)
    for _ in range(5000):
        words = ["Tue,", str(rnd.randrange(33)), rnd.choice(("Nov", "feb", "Foo")), rnd.choice(("2026", "2023", "99", "20261"))]
        words += [
            rnd.choice(("05:06:07", "25:00:00", "5:06:07", "05:06", "0a:06:07", "23:59:60")),
            rnd.choice(("+0130", "GMT", "-08", "+0099")),
        ]
        value = " ".join(words).encode()
        assert parse_sent_date(value) == parse_sent_date(value.replace(b"Tue,", b"")), value
