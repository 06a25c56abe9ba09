"""A name server that answers from a table, over UDP on a port of this machine."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """`records[name, type]` is a list of record texts ("10 mx.example."), or the name of an error ("NXDOMAIN", "SERVFAIL")."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str] | str] = {}
        self.asked: list[tuple[str, str]] = []
        self.insecure: set[tuple[str, str]] | None = None
        """None: no answer has AD, as without DNSSEC; else the answers that have it not."""
        self.address = ""
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> NameServer:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        assert self._transport is not None
        self.address = "127.0.0.1:{}".format(self._transport.get_extra_info("sockname")[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()
        await asyncio.sleep(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        if self.insecure is not None and (name, kind) not in self.insecure:
            reply.flags |= dns.flags.AD
        seen = set()
        while (cname := self.records.get((name, "CNAME"))) and kind != "CNAME" and name not in seen:
            seen.add(name)
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", *cname))
            name = cname[0]
        found = self.records.get((name, kind), [])
        if isinstance(found, str):
            reply.set_rcode(dns.rcode.from_text(found))
        elif found:
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *found))
        elif not any(known == name for known, _ in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        assert self._transport is not None
        self._transport.sendto(reply.to_wire(), address)
