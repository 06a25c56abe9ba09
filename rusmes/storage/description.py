"""What is computed of a message once, at delivery, and kept with the email: ENVELOPE, BODYSTRUCTURE, header cache, ids.

A body over the inline limit is looked at through a memory map: its pages come and go, they are not ours.
"""

from __future__ import annotations

import mmap
from typing import Final

from msgspec import Struct

from rusmes.errors import StoreError
from rusmes.mime.envelope import render_envelope
from rusmes.mime.fields import MAX_HEADER_BYTES, parse_and_pick
from rusmes.mime.identifiers import message_ids
from rusmes.mime.structure import parse_structure, render_structure
from rusmes.model.content import Content, Rendering

# What JMAP lists and IMAP's SEARCH and SORT look at (RFC 8621 §4.1.2, RFC 9051 §6.4.4, RFC 5256).
CACHED_FIELDS: Final = frozenset(
    b"date subject from sender reply-to to cc bcc message-id in-reply-to references content-type list-id list-unsubscribe "
    b"importance x-priority auto-submitted".split()
)
# Larger than this, the cache is left empty, and who asks reads the message.
MAX_CACHED_BYTES: Final = 32 * 1024


class Description(Struct, frozen=True, gc=False):
    envelope: bytes
    body_structure: bytes
    headers: bytes
    message_ids: tuple[bytes, ...]


def describe(rendering: Rendering) -> Description:
    """Raises StoreError when the content's file cannot be read."""
    content = rendering.content
    body_start = max(content.header_bytes, rendering.skip)
    with _Opened(content) as buffer:
        own = buffer[rendering.skip : min(content.header_bytes, rendering.skip + MAX_HEADER_BYTES)]
        fields, headers = parse_and_pick(rendering.prefix + own, CACHED_FIELDS)
        part = parse_structure(fields, buffer, body_start, content.size)
        body_structure = render_structure(part, buffer)
    return Description(
        render_envelope(fields), body_structure, headers if len(headers) <= MAX_CACHED_BYTES else b"", message_ids(fields)
    )


class _Opened:
    """The bytes of a content as a buffer for as long as the context lasts."""

    __slots__ = ("_content", "_map")

    def __init__(self, content: Content) -> None:
        self._content = content
        self._map: mmap.mmap | None = None

    def __enter__(self) -> bytes | mmap.mmap:
        data = self._content.data
        if data is not None:
            return data
        try:
            with open(self._content.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise StoreError("storage failure", f"reading {self._content.path}: {error}") from None
        return self._map

    def __exit__(self, *_: object) -> None:
        if self._map is not None:
            self._map.close()
