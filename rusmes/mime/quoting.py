"""Strings as IMAP sends them (RFC 9051 §4.3)."""

from __future__ import annotations

from rusmes._core.quoting import MAX_QUOTED_BYTES, field_text, nstring

__all__ = ["MAX_QUOTED_BYTES", "field_text", "nstring"]
