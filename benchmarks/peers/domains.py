"""A name server for `outbound`: domain number N of d0.test, d1.test ... has one MX host, at an address of 127/8 of its own.

python -m benchmarks.peers.domains PORT
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys

FIRST = int(ipaddress.IPv4Address("127.1.0.0"))
_NAME = re.compile(r"(mx\.)?d(\d+)\.test")


def address_of(number: int) -> str:
    """Where the mail of a domain goes."""
    return str(ipaddress.IPv4Address(FIRST + number))


def answer(query: bytes) -> bytes:
    """RFC 1035: MX and A; everything else has no data."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
        at += 1 + query[at]
    question = query[12 : at + 5]
    kind = struct.unpack_from("!H", query, at + 1)[0]
    match = _NAME.fullmatch(".".join(labels))
    records = b""
    if match and kind == 15 and not match[1]:
        records = b"\xc0\x0c" + struct.pack("!HHIHH", 15, 1, 3600, 7, 10) + b"\x02mx\xc0\x0c"
    elif match and kind == 1 and match[1]:
        records = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 3600, 4) + socket.inet_aton(address_of(int(match[2])))
    flags = 0x8580 if match else 0x8583
    return query[:2] + struct.pack("!HHHHH", flags, 1, 1 if records else 0, 0, 0) + question + records


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", int(sys.argv[1])))
        while True:
            query, client = sock.recvfrom(4096)
            sock.sendto(answer(query), client)


if __name__ == "__main__":
    main()
