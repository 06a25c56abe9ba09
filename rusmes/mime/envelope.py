"""ENVELOPE (RFC 9051 §7.5.2)."""

from __future__ import annotations

from rusmes._core import mime
from rusmes.mime.addresses import render_addresses


def render_envelope(fields: list[tuple[bytes, bytes]]) -> bytes:
    """The ten fields in parentheses. The first of a repeated text field counts; repeated address fields are joined."""
    return mime.render_envelope(fields, render_addresses)
