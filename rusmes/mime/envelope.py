"""ENVELOPE (RFC 9051 §7.5.2)."""

from __future__ import annotations

from collections.abc import Iterable

from rusmes.mime.addresses import render_addresses
from rusmes.mime.quoting import field_text

_ADDRESS_FIELDS = (b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc")
_ADDRESS_SET = frozenset(_ADDRESS_FIELDS)
_TEXT_FIELDS = frozenset((b"date", b"subject", b"in-reply-to", b"message-id"))


def render_envelope(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The ten fields in parentheses. The first of a repeated text field counts; repeated address fields are joined."""
    texts: dict[bytes, bytes] = {}
    lists: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _TEXT_FIELDS:
            texts.setdefault(name, value)
        elif name in _ADDRESS_SET:
            lists[name] = lists[name] + b"," + value if name in lists else value
    from_ = render_addresses(lists[b"from"]) if b"from" in lists else b"NIL"
    rendered = [field_text(texts.get(b"date")), field_text(texts.get(b"subject")), from_]
    for name in _ADDRESS_FIELDS[1:]:
        addresses = render_addresses(lists[name]) if name in lists else b"NIL"
        # RFC 9051 §7.5.2: an absent or empty Sender or Reply-To is the From.
        rendered.append(from_ if addresses == b"NIL" and name in (b"sender", b"reply-to") else addresses)
    rendered += (field_text(texts.get(b"in-reply-to")), field_text(texts.get(b"message-id")))
    return b"(" + b" ".join(rendered) + b")"
