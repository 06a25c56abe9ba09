"""What a server says, and how it looks on the wire (RFC 1939 §3, RFC 2449 §8).

Text and codes come from this project, but parts of them can come from a peer or a store: CR, LF and NUL are refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from rusmes.model.content import Rendering


class Reply(Struct, frozen=True, gc=False):
    """One line. `code` is an extended response code without its brackets (RFC 2449 §8, RFC 3206)."""

    ok: bool
    text: str
    code: str = ""


class Listing(Struct, frozen=True):
    """A line, then rows; they come in pieces, each of whole rows that begin with no dot."""

    text: str
    rows: Iterable[bytes]


class Body(Struct, frozen=True):
    """A message; with `lines` >= 0 its header and so many lines."""

    rendering: Rendering
    lines: int = -1


class Goodbye(Struct, frozen=True, gc=False):
    """The last line; then the connection is closed."""

    reply: Reply


class StartTls(Struct, frozen=True, gc=False):
    """The last line in the clear; then TLS begins."""

    reply: Reply


Answer = Reply | Listing | Body | Goodbye | StartTls

END = b".\r\n"


def line(reply: Reply) -> bytes:
    """The reply as a line."""
    status = "+OK" if reply.ok else "-ERR"
    code = f" [{reply.code}]" if reply.code else ""
    return _checked(f"{status}{code} {reply.text}" if reply.text else f"{status}{code}") + b"\r\n"


def rows(items: Sequence[str]) -> bytes:
    """Rows of a listing made of words, such as CAPA's; a dot in front is stuffed."""
    return b"".join((b"." if item.startswith(".") else b"") + _checked(item) + b"\r\n" for item in items)


def continuation(challenge: bytes) -> bytes:
    """A SASL challenge, already in base64 (RFC 5034 §4)."""
    return b"+ " + challenge + b"\r\n"


def _checked(text: str) -> bytes:
    data = text.encode()
    if b"\r" in data or b"\n" in data or b"\0" in data:
        raise ValueError("a line of a reply holds CR, LF or NUL")
    return data
