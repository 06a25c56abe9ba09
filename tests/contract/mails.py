"""Mails, contents and queue entries for the contract."""

from __future__ import annotations

from typing import Any

from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Append, Queued
from rusmes.storage.api import BlobStore

INLINE_LIMIT = 4096
"""Small, so that bodies in files are cheap to test."""
ALICE = "alice@example.com"
BOB = "bob@example.com"


class CountedIds:
    """Identifiers from a counter: two stores that do the same give the same ones."""

    def __init__(self) -> None:
        self.last = 0

    def next_id(self) -> bytes:
        self.last += 1
        return self.last.to_bytes(16, "big")


def message(subject: str = "hello", *, message_id: str = "", references: str = "", body: bytes = b"text\r\n") -> bytes:
    lines = [f"From: Sender <sender@example.org>\r\nTo: {ALICE}\r\nSubject: {subject}\r\n"]
    if message_id:
        lines.append(f"Message-ID: <{message_id}>\r\n")
    if references:
        lines.append(f"References: {' '.join(f'<{id}>' for id in references.split())}\r\n")
    return "".join(lines).encode() + b"\r\n" + body


def large_message() -> bytes:
    return message("large", body=b"0123456789abcdef" * 64 * 16 + b"\r\n")


def content_of(blobs: BlobStore, data: bytes) -> Content:
    """Written in pieces, as it arrives from a peer."""
    writer = blobs.writer()
    for start in range(0, len(data), 1000):
        writer.write(data[start : start + 1000])
    return writer.finish()


def append_of(blobs: BlobStore, data: bytes | None = None, *, account: str = ALICE, prefix: bytes = b"", **more: Any) -> Append:
    content = content_of(blobs, message() if data is None else data)
    recipient = Recipient(Address(*account.split("@")), account)
    return Append(recipient, account, Rendering(content, prefix), **more)


def queued_of(blobs: BlobStore, id: int, *, data: bytes | None = None, recipients: int = 1, **more: Any) -> Queued:
    content = content_of(blobs, message() if data is None else data)
    fields: dict[str, Any] = {
        "action": "relay",
        "sender": Address("sender", "example.org"),
        "rendering": Rendering(content),
        "origin": Origin(client_address="192.0.2.1"),
        "created": 1_700_000_000.0,
        "size": content.size,
    }
    people = tuple(Recipient(Address(f"user{n}", "example.net")) for n in range(recipients))
    return Queued(id=id.to_bytes(16, "big"), recipients=people, **{**fields, **more})
