"""What is computed of a message once, at delivery, and kept with the email: ENVELOPE, BODYSTRUCTURE, header cache, ids.

A body over the inline limit is read in windows: 50 MB never occupy 50 MB.
"""

from __future__ import annotations

import contextlib
from typing import Final

from msgspec import Struct

from rusmes.errors import StoreError
from rusmes.mime.envelope import render_envelope
from rusmes.mime.fields import CACHED_NAMES, MAX_HEADER_BYTES, FieldNames, pick_fields
from rusmes.mime.identifiers import message_ids
from rusmes.mime.structure import Buffer, body_structure
from rusmes.mime.window import FileWindow
from rusmes.model.content import Rendering

CACHED_FIELDS: Final = FieldNames(CACHED_NAMES)
# Larger than this, the cache is left empty, and who asks reads the message.
MAX_CACHED_BYTES: Final = 32 * 1024


class Description(Struct, frozen=True, gc=False):
    envelope: bytes
    body_structure: bytes
    headers: bytes
    message_ids: tuple[bytes, ...]


def describe(rendering: Rendering) -> Description:
    """Raises StoreError when the content's file cannot be read."""
    try:
        return _describe(rendering)
    except OSError as error:
        raise StoreError("storage failure", f"reading {rendering.content.path}: {error}") from None


def _describe(rendering: Rendering) -> Description:
    content = rendering.content
    data = content.data
    if data is not None:
        return _describe_in(data, rendering)
    with contextlib.closing(FileWindow(content.path)) as file:
        return _describe_in(file, rendering)


def _describe_in(buffer: Buffer, rendering: Rendering) -> Description:
    content, skip = rendering.content, rendering.skip
    block = rendering.prefix + buffer[skip : min(content.header_bytes, skip + MAX_HEADER_BYTES)]
    fields, headers = pick_fields(block, CACHED_FIELDS)
    return Description(
        render_envelope(fields),
        body_structure(block, buffer, max(content.header_bytes, skip), content.size),
        headers if len(headers) <= MAX_CACHED_BYTES else b"",
        message_ids(fields),
    )
