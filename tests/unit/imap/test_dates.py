"""Dates on the wire."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes._core.imap import GrammarError
from rusmes.imap.dates import format_date_time, parse_date_time, parse_day


@pytest.mark.rfc("9051", "9")
def test_date_times() -> None:
    moment = datetime(2024, 2, 29, 23, 59, 58, tzinfo=UTC).timestamp()
    for text in (b"29-Feb-2024 23:59:58 +0000", b"01-mar-2024 01:59:58 +0200", b" 1-MAR-2024 01:29:58 +0130",
                 b"29-Feb-2024 15:59:58 -0800"):  # fmt: skip
        assert parse_date_time(text) == moment
    assert parse_date_time(b"31-Dec-2016 23:59:60 +0000") == parse_date_time(b"31-Dec-2016 23:59:59 +0000")
    assert format_date_time(moment) == b'"29-Feb-2024 23:59:58 +0000"'
    assert format_date_time(0) == b'" 1-Jan-1970 00:00:00 +0000"'
    assert format_date_time(1e20) == b'"31-Dec-9999 23:59:59 +0000"'
    assert format_date_time(-1e20) == b'" 1-Jan-0001 00:00:00 +0000"'


@given(st.integers(-62135596800, 253402300799))
@settings(deadline=None)
def test_date_times_go_both_ways(seconds: int) -> None:
    assert parse_date_time(format_date_time(seconds)[1:-1]) == seconds


@pytest.mark.parametrize(
    "text",
    [
        b"", b"29-Feb-2023 23:59:58 +0000", b"1-Feb-2024 23:59:58 +0000", b"01-Foo-2024 23:59:58 +0000",
        b"01-Feb-2024 24:00:00 +0000", b"01-Feb-2024 23:59:58", b"01-Feb-2024 23:59:58 0000", b"01-Feb-2024 23:59:58 +9900",
        b"01-Feb-2024T23:59:58 +0000", b"00-Feb-2024 23:59:58 +0000", b"01-Feb-0000 23:59:58 +0000",
        b"01-Feb-2024 23:59:61 +0000", b"\xb2\xb2-Feb-2024 23:59:58 +0000", b"01-Feb-2024 23:59:58 +0000 ",
        b"01-Feb-2024 2 :59:58 +0000", b"+1-Feb-2024 23:59:58 +0000", b"01-Feb-2024 23:59:58 +2400",
    ],
)  # fmt: skip
def test_what_is_no_date_time(text: bytes) -> None:
    with pytest.raises(GrammarError):
        parse_date_time(text)


def test_days() -> None:
    for text in (b"1-Feb-2024", b"01-FEB-2024"):
        assert parse_day(text) == date(2024, 2, 1).toordinal()
    for text in (b"", b"32-Jan-2024", b"1-Feb-24", b"001-Feb-2024", b"1-2-2024", b"1-Feb-2024 ", b"-1-Feb-2024", b"0-Feb-2024",
                 b"1-Feb-0000", b"\xff"):  # fmt: skip
        with pytest.raises(GrammarError):
            parse_day(text)
