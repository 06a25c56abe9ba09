"""ENVELOPE (RFC 9051 §7.5.2)."""

from __future__ import annotations

from rusmes._core.mime import envelope_values
from rusmes.mime.addresses import render_addresses
from rusmes.mime.quoting import field_text


def render_envelope(fields: list[tuple[bytes, bytes]]) -> bytes:
    """The ten fields in parentheses. The first of a repeated text field counts; repeated address fields are joined."""
    date, subject, author, sender, reply_to, to, cc, bcc, in_reply_to, message_id = envelope_values(fields)
    from_ = _addresses(author)
    # RFC 9051 §7.5.2: an absent or empty Sender or Reply-To is the From.
    sent_by, reply = _addresses(sender), _addresses(reply_to)
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        field_text(date), field_text(subject), from_,
        from_ if sent_by == b"NIL" else sent_by, from_ if reply == b"NIL" else reply,
        _addresses(to), _addresses(cc), _addresses(bcc), field_text(in_reply_to), field_text(message_id),
    )  # fmt: skip


def _addresses(value: bytes | None) -> bytes:
    return render_addresses(value) if value is not None else b"NIL"
