"""The PROXY protocol, versions 1 and 2: who the client behind a load balancer is, said before its first byte.

Pure: bytes in, a header or "more, please" out. Only peers inside [server] proxy_networks are asked; from anybody else the same
bytes are just a command nobody knows. Whether a connection without one is refused says [server] proxy_protocol.

Specification: HAProxy, doc/proxy-protocol.txt (2020-03-05).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from msgspec import Struct

from rusmes.errors import PeerError

V1_MAX_BYTES: Final = 107
"""§2.1: the longest line, with its CRLF."""

V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEADER_BYTES: Final = 16
V2_MAX_BYTES: Final = 4096
"""Addresses take at most 216; the rest is TLVs. The field could say 65,535; nobody sends that."""

_V1_START: Final = b"PROXY "
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")


class MalformedProxy(PeerError):
    """The peer should speak the PROXY protocol and does not."""


class ProxyHeader(Struct, frozen=True):
    """`length` bytes of input were the header. Without a source (LOCAL, UNKNOWN, unix) the peer speaks for itself."""

    length: int
    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0


def parse_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`; None = more bytes are needed.

    Raises:
        MalformedProxy: it cannot become a header.
    """
    if data.startswith(V2_SIGNATURE[: len(data)]):
        return _version_2(data) if len(data) >= V2_HEADER_BYTES else None
    if data.startswith(_V1_START[: len(data)]):
        return _version_1(data)
    raise MalformedProxy("PROXY header expected", f"input begins with {data[:16]!r}")


def _version_1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, V1_MAX_BYTES)
    if end < 0:
        if len(data) >= V1_MAX_BYTES or b"\n" in data:
            raise MalformedProxy("PROXY header expected", "no CRLF within 107 bytes")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise MalformedProxy("PROXY header expected", "version 1 is ASCII") from None
    if words[1:2] == ["UNKNOWN"]:
        return ProxyHeader(end + 2)  # §2.1: the rest of the line is ignored
    version = {"TCP4": 4, "TCP6": 6}.get(words[1])
    if version is None or len(words) != 6:
        raise MalformedProxy("PROXY header expected", f"version 1 with {data[:end]!r}")
    source, destination = (_address(text, version) for text in words[2:4])
    source_port, destination_port = map(_port, words[4:6])
    return ProxyHeader(end + 2, source, source_port, destination, destination_port)


def _version_2(data: bytes) -> ProxyHeader | None:
    version_command, family = data[12], data[13]
    length = V2_HEADER_BYTES + int.from_bytes(data[14:16], "big")
    if version_command >> 4 != 2 or version_command & 15 > 1:
        raise MalformedProxy("PROXY header expected", f"version and command 0x{version_command:02x}")
    if length > V2_MAX_BYTES:
        raise MalformedProxy("PROXY header expected", f"{length} bytes")
    if len(data) < length:
        return None
    body = data[V2_HEADER_BYTES:length]
    if version_command & 15 == 0:
        return ProxyHeader(length)  # LOCAL: the load balancer itself
    size = {0x11: 4, 0x21: 16}.get(family)
    if size is None:
        if family in (0x00, 0x12, 0x22, 0x31, 0x32):
            return ProxyHeader(length)  # §2.2: UNSPEC, datagrams, unix sockets: no address that helps
        raise MalformedProxy("PROXY header expected", f"family 0x{family:02x}")
    if len(body) < 2 * size + 4:
        raise MalformedProxy("PROXY header expected", "the addresses are cut off")
    return ProxyHeader(
        length,
        _plain(ipaddress.ip_address(body[:size])),
        int.from_bytes(body[2 * size : 2 * size + 2], "big"),
        _plain(ipaddress.ip_address(body[size : 2 * size])),
        int.from_bytes(body[2 * size + 2 : 2 * size + 4], "big"),
    )


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in text:
        raise MalformedProxy("PROXY header expected", f"no IPv{version} address: {text!r}")
    return _plain(address)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IPv4 address inside an IPv6 one is the IPv4 address, or it would not meet its own limits."""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise MalformedProxy("PROXY header expected", f"no port: {text!r}")
    return int(text)


def header_v2(source: str, source_port: int, destination: str, destination_port: int) -> bytes:
    """What is said to a proxy: for whom, and to where (version 2, PROXY, TCP). Both addresses are of one family.

    Raises:
        ValueError: they are not, or one is no address.
    """
    ends = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if ends[0].version != ends[1].version:
        raise ValueError(f"{source} and {destination} are of different families")
    body = ends[0].packed + ends[1].packed + source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    family = 0x11 if ends[0].version == 4 else 0x21
    return V2_SIGNATURE + bytes((0x21, family)) + len(body).to_bytes(2, "big") + body
