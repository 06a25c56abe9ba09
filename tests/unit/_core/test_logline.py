"""Fields of log lines: what C renders is what the encoder of JSON renders, and it leaves alone what needs care."""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core.logline import flat_json, timestamp, whole_line

VALUES = st.one_of(st.text(max_size=30), st.integers(-(1 << 70), 1 << 70), st.floats(), st.booleans(), st.none())


@given(st.dictionaries(st.text(max_size=12), VALUES, max_size=8))
def test_it_is_json_or_nothing(fields: dict[str, Any]) -> None:
    line = flat_json(fields)
    if line is not None:
        assert line.endswith(b"}\n")
        assert json.loads(b"{" + line) == fields
        assert line.isascii()
        assert line[:-1].decode().isprintable()


def test_a_timestamp_is_now_to_the_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    text = timestamp().decode()
    assert len(text) == 24
    moment = datetime.datetime.fromisoformat(text)
    assert before <= round(moment.timestamp() * 1000) <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("number", [0, 9, 10, -1, -10, 255, (1 << 63) - 1, -(1 << 63)])
def test_integers(number: int) -> None:
    assert flat_json({"n": number}) == b'"n":%d}\n' % number


@pytest.mark.parametrize("number", [0.0, 0.135, -2.5, 1e-05, 1.7976931348623157e308, 3.0, 0.1 + 0.2])
def test_floats(number: float) -> None:
    assert flat_json({"n": number}) == f'"n":{number!r}}}\n'.encode()


def test_an_ordinary_line() -> None:
    fields = {"client": "192.0.2.1", "size": 1024, "seconds": -3, "sender": "", "largest": (1 << 63) - 1}
    assert flat_json(fields) == b'"client":"192.0.2.1","size":1024,"seconds":-3,"sender":"","largest":9223372036854775807}\n'


NAN = float("nan")


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "\x7f", "é", "a\x00", NAN, -1 / 1e-320, True, None, 1 << 63, b"x"])
def test_what_needs_care_is_left_alone(value: Any) -> None:
    assert flat_json({"a": "fine", "b": value}) is None
    if isinstance(value, str):
        assert flat_json({value: 1}) is None


@pytest.mark.parametrize("size", range(960, 1010))
def test_long_lines_are_left_alone(size: int) -> None:
    line = flat_json({"a": "x" * size, "b": 12})
    assert line is None or (len(line) <= 1002 and json.loads(b"{" + line) == {"a": "x" * size, "b": 12})
    assert (line is None) == (size > 964)


def test_no_fields_are_no_line() -> None:
    assert flat_json({}) is None

@given(st.dictionaries(st.text(max_size=12), VALUES, max_size=8))
def test_a_whole_line(fields: dict[str, Any]) -> None:
    line = whole_line(b'","level":"info"', fields)
    rest = flat_json(fields)
    if line is None:
        assert fields
        assert rest is None
    else:
        assert line[:14] == b'{"timestamp":"'
        assert abs(datetime.datetime.fromisoformat(line[14:38].decode()).timestamp() - time.time()) < 60
        assert line[38:] == b'","level":"info"' + (b"," + rest if rest is not None else b"}\n")
