"""PREVIEW: the first words of a message (RFC 8970), also JMAP's `preview` (RFC 8621 §4.1.4).

Taken from the first part that is text and no attachment, text/plain before text/html; blanks joined, HTML without its marks.
An encrypted message, or one without text, has an empty one.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Final

from rusmes._core.textpipe import decode_text
from rusmes.imap.sections import OpenedMessage, Span
from rusmes.mime.structure import Part

MAX_CHARACTERS: Final = 200
"""RFC 8970 §3.1: at most 200, and it SHOULD NOT be more."""
LOOKED_AT_OCTETS: Final = 8 * 1024
"""Of the part, as it is encoded. HTML may say nothing for longer than that; its preview is then empty."""

_SILENT_ELEMENTS: Final = ("<style", "<script", "<head", "<title")


def preview_of(message: OpenedMessage) -> str:
    """Raises OSError."""
    plain = rich = None
    for part in _texts(message.root):
        if part.subtype.lower() == b"plain":
            plain = part
            break
        if rich is None and part.subtype.lower() == b"html":
            rich = part
    chosen = plain or rich
    if chosen is None:
        return ""
    data = message.read(Span(b"", chosen.body_start, min(chosen.end, chosen.body_start + LOOKED_AT_OCTETS)))
    charset = next((value for name, value in chosen.parameters if name.lower() == b"charset"), b"")
    text = decode_text(data, message.encoding(chosen), charset)
    return _shortened(_unmarked(text) if chosen is rich else text)


def _texts(part: Part) -> Iterator[Part]:
    """Parts that are shown, in order; not those of attached messages."""
    if part.is_type(b"multipart"):
        for child in part.children:
            yield from _texts(child)
    elif part.is_type(b"text") and not _is_attached(part):
        yield part


def _is_attached(part: Part) -> bool:
    value = next((value for name, value in part.fields if name == b"content-disposition"), b"")
    return value.strip().lower().startswith(b"attachment")


def _unmarked(text: str) -> str:
    """The text between the marks, in one pass."""
    lower = text.lower()
    found: list[str] = []
    at = 0
    while True:
        begin = text.find("<", at)
        if begin < 0:
            found.append(text[at:])
            break
        found.append(text[at:begin])
        if text.startswith("<!--", begin):
            end = text.find("-->", begin)
        elif (name := next((name for name in _SILENT_ELEMENTS if lower.startswith(name, begin)), "")) != "":
            end = lower.find("</" + name[1:], begin)
            end = text.find(">", end) if end >= 0 else -1
        else:
            end = text.find(">", begin)
        if end < 0:
            break
        found.append(" ")
        at = end + (3 if text.startswith("-->", end) else 1)
    return html.unescape("".join(found))


def _shortened(text: str) -> str:
    # No more words than characters are needed, however long the text is.
    short = " ".join(text.split(None, MAX_CHARACTERS)[:MAX_CHARACTERS])[:MAX_CHARACTERS]
    if not short.isprintable():
        short = " ".join("".join(char if char.isprintable() else " " for char in short).split())
    return short.rstrip()
