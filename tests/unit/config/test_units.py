"""Durations, sizes, networks and secrets as an operator writes them."""

from __future__ import annotations

import math

import pytest

from rusmes.config.units import Duration, Networks, Secret, Size, decode, duration_text, parse_network, size_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h", 3600), ("5d", 432000), ("1w", 604800), ("500ms", 0.5), ("1h30m", 5400), ("1.5h", 5400),
     (" 5 m ", 300), ("0", 0), ("0s", 0), (2.5, 2.5), (7, 7)],
)  # fmt: skip
def test_durations(text: str | float, seconds: float) -> None:
    assert Duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 minutes", "1h 30", "5x", "٣s", "1e9s", "99999d", "1.2.3s", math.nan, -1, math.inf]
)
def test_what_is_no_duration(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"is no duration|has no unit|is not between"):
        Duration(text)


def test_a_number_without_a_unit_gets_the_way_out() -> None:
    with pytest.raises(ValueError, match='write "5s" for seconds'):
        Duration("5")


@pytest.mark.parametrize(
    ("text", "count"),
    [("64KB", 65536), ("50MB", 50 << 20), ("1TB", 1 << 40), ("2G", 2 << 30), ("1kib", 1024), ("10 MB", 10 << 20),
     ("1.5KB", 1536), ("123", 123), ("123B", 123), (123, 123), (0, 0)],
)  # fmt: skip
def test_sizes(text: str | int, count: int) -> None:
    assert Size(text) == count


@pytest.mark.parametrize("text", ["", "KB", "-1", "1PB", "1 potato", "٣KB", "99999999TB", "1.5.5KB", -1])
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"is no size|is not between"):
        Size(text)


def test_texts_read_back() -> None:
    for seconds in (0.0, 0.25, 1.0, 59.0, 61.0, 3600.0, 5400.0, 86400.0, 90061.0):
        assert Duration(duration_text(seconds)) == seconds
    for count in (0, 1, 1023, 1024, 65536, 1 << 30, 1 << 40):
        assert Size(size_text(count)) == count
    assert size_text(1536) == "1.5KB"


def test_networks_contain_addresses() -> None:
    networks = decode(Networks, ["192.0.2.0/24", "2001:db8::/32", "::1"])
    assert networks.contains("192.0.2.7")
    assert networks.contains("::ffff:192.0.2.7")
    assert networks.contains("2001:db8::1%eth0")
    assert networks.contains("::1")
    assert not networks.contains("192.0.3.1")
    assert not networks.contains("unix")
    assert not Networks().contains("192.0.2.7")


def test_host_bits_get_the_way_out() -> None:
    with pytest.raises(ValueError, match=r'write "192\.0\.2\.0/24"'):
        parse_network("192.0.2.7/24")


@pytest.mark.parametrize(
    ("type_", "value"),
    [(Duration, True), (Duration, []), (Size, 1.5), (Size, False), (Secret, 5), (Networks, "::1"), (Networks, [1])],
)
def test_wrong_types_are_value_errors(type_: type, value: object) -> None:
    with pytest.raises(ValueError, match=r"written|is a string|networks are"):
        decode(type_, value)


def test_a_secret_does_not_show() -> None:
    assert "hunter2" not in repr(Secret("hunter2"))
    assert "hunter2" not in repr({"password": Secret("hunter2")})
