"""Client addresses: under which key they are counted, and whether a set of networks holds them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = b"\x00" * 10 + b"\xff\xff"


def packed(address: str) -> bytes:
    """4 or 16 bytes; an IPv4 address inside an IPv6 one is 4. b"" when the text is no address."""
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        raw = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return b""
    return raw[12:] if raw.startswith(_MAPPED) else raw


def client_key(address: str) -> bytes:
    """The unit in which clients are counted: an IPv4 address, or the /64 of an IPv6 one (a customer has at least that)."""
    raw = packed(address)
    return raw if len(raw) <= 4 else raw[:8]


def plain_text(address: str) -> str:
    """An address as it is shown and compared: without a zone, and IPv4 as IPv4."""
    if ":" not in address:
        return address
    raw = packed(address)
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw) if raw else address


class Networks:
    """A set of networks. A look-up costs one dictionary access for each prefix length in use, whatever their number."""

    __slots__ = ("_by_length",)

    def __init__(self, networks: Iterable[Network]) -> None:
        by_length: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            size = network.max_prefixlen
            if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
                mapped = network.network_address.ipv4_mapped
                if mapped is not None:
                    network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
                    size = 32
            shift = size - network.prefixlen
            by_length.setdefault((size, shift), set()).add(int(network.network_address) >> shift)
        self._by_length = [(size, shift, frozenset(starts)) for (size, shift), starts in sorted(by_length.items())]

    def __contains__(self, address: str) -> bool:
        if not self._by_length:
            return False
        raw = packed(address)
        number, bits = int.from_bytes(raw, "big"), len(raw) * 8
        return any(size == bits and number >> shift in starts for size, shift, starts in self._by_length)

    def __bool__(self) -> bool:
        return bool(self._by_length)
