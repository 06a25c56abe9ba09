"""PROXY v1 and v2: every split gives the same header, and nothing else escapes than MalformedProxy."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.net.proxyproto import V1_MAX_BYTES, V2_MAX_BYTES, V2_SIGNATURE, MalformedProxy, ProxyHeader, parse_header


def version_2(command: int = 1, family: int = 0x11, body: bytes = b"", length: int | None = None) -> bytes:
    return V2_SIGNATURE + bytes([0x20 | command, family]) + (len(body) if length is None else length).to_bytes(2, "big") + body


V4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("198.51.100.1") + (40000).to_bytes(2, "big") + (25).to_bytes(2, "big")
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + (40000).to_bytes(2, "big") + (25).to_bytes(2, "big")
)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:203.0.113.7") * 2 + b"\x00\x01\x00\x02"

GOOD = [
    (b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n", ("203.0.113.7", 40000, "198.51.100.1", 25)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 25\r\n", ("2001:db8::7", 40000, "2001:db8::1", 25)),
    (b"PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 1 25\r\n", ("203.0.113.7", 1, "2001:db8::1", 25)),
    (b"PROXY UNKNOWN\r\n", ("", 0, "", 0)),
    (b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", ("", 0, "", 0)),
    (version_2(body=V4), ("203.0.113.7", 40000, "198.51.100.1", 25)),
    (version_2(body=V4 + b"\x03\x00\x04abcd"), ("203.0.113.7", 40000, "198.51.100.1", 25)),
    (version_2(family=0x21, body=V6), ("2001:db8::7", 40000, "2001:db8::1", 25)),
    (version_2(family=0x21, body=MAPPED), ("203.0.113.7", 1, "203.0.113.7", 2)),
    (version_2(command=0, family=0), ("", 0, "", 0)),
    (version_2(command=0, body=V4), ("", 0, "", 0)),
    (version_2(family=0x31, body=b"\0" * 216), ("", 0, "", 0)),
]


@pytest.mark.parametrize(("header", "fields"), GOOD)
def test_whole_byte_by_byte_and_with_what_follows(header: bytes, fields: tuple[str, int, str, int]) -> None:
    expected = ProxyHeader(len(header), *fields)
    for end in range(1, len(header)):
        assert parse_header(header[:end]) is None
    assert parse_header(header) == expected
    assert parse_header(header + b"EHLO x\r\n") == expected
    assert parse_header(header + header) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO x\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 40000\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25 26\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.1 40000 25\r\n",
        b"PROXY TCP6 203.0.113.7 198.51.100.1 40000 25\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 40000 25\r\n",
        b"PROXY TCP4 203.0.113.7  198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 203.0.113.07 198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 65536 25\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 -1 25\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 0025 25\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 1 25\n",
        b"PROXY UDP4 203.0.113.7 198.51.100.1 1 25\r\n",
        b"PROXY \xff\xfe\r\n",
        b"PROXY TCP4 " + b"1" * V1_MAX_BYTES,
        b"proxy TCP4 203.0.113.7 198.51.100.1 1 25\r\n",
        version_2(command=2, body=V4),
        version_2(family=0x41, body=V4),
        version_2(body=V4[:-1]),
        version_2(family=0x21, body=V4),
        version_2(length=V2_MAX_BYTES),
        V2_SIGNATURE + b"\x11\x11\x00\x0c" + V4,
    ],
)
def test_what_is_no_header_is_refused_as_soon_as_it_is_known(data: bytes) -> None:
    with pytest.raises(MalformedProxy):
        parse_header(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2_SIGNATURE, V2_SIGNATURE + b"\x21\x11\x00"]))
def test_any_bytes(data: bytes, start: bytes) -> None:
    data = start + data
    with contextlib.suppress(MalformedProxy):
        header = parse_header(data)
        if header is not None:
            assert 0 < header.length <= len(data)
            assert parse_header(data[: header.length]) == header
        else:
            assert len(data) < V2_MAX_BYTES
