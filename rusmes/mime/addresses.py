"""Address lists of header fields (RFC 5322 §3.4 with the obsolete syntax of §4.4), tolerant of everything else.

A list is scanned once, token by token. A comma ends an address, a colon makes what stands before it a group's name,
"<" opens the address proper. Whatever is none of it is taken as part of a name, so that nothing of a broken list is lost.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from rusmes._core.mime import plain_addresses
from rusmes.mime.fields import unfold
from rusmes.mime.quoting import nstring

# More addresses than this in one field are cut: an ENVELOPE is held in memory and sent to clients that list a mailbox.
MAX_ADDRESSES: Final = 2000
# Comments nest; deeper ones are taken as closed.
MAX_COMMENT_DEPTH: Final = 20


class ParsedAddress(NamedTuple):
    """`name` None and `host` None marks the start (`mailbox` is the group's name) or the end (all None) of a group."""

    name: bytes | None
    route: bytes | None
    mailbox: bytes | None
    host: bytes | None


_TOKEN: Final = re.compile(
    rb"""(?P<blank>[ \t\r\n]+)
    |(?P<quoted>"(?:[^"\\]|\\.)*(?:"|\Z))
    |(?P<literal>\[[^\[\]]*\]?)
    |(?P<special>[<>@,:;(])
    |(?P<atom>[^ \t\r\n"\[<>@,:;(]+)""",
    re.X | re.S,
)
_ESCAPED: Final = re.compile(rb"\\(.)", re.S)
_COMMENT_PIECE: Final = re.compile(rb"[^()\\]+|\\.|[()]|\\\Z", re.S)
# The two forms nearly every address has, for texts without quotes, comments and groups.
_SIMPLE: Final = re.compile(rb'(?:([^"(),:;<>@\\\[\]]*)<)?([^\s"(),:;<>@\\\[\]]+)@([^\s"(),:;<>@\\\[\]]+)(>?)')
_SIMPLE_BYTES: Final = 512


def parse_addresses(value: bytes) -> list[ParsedAddress]:
    """The addresses of a field's value; groups are framed by markers (RFC 9051 §7.5.2)."""
    value = unfold(value)
    if len(value) <= _SIMPLE_BYTES:
        match = _SIMPLE.fullmatch(value)
        if match is not None and (match[1] is None) is (match[4] == b""):
            return [ParsedAddress((match[1] or b"").strip() or None, None, match[2], match[3])]
    return _Scanner(value).scan()


@lru_cache(maxsize=4096)
def _rendered_cached(value: bytes) -> bytes:
    return _rendered(value)


def render_addresses(value: bytes) -> bytes:
    """The parenthesized list of an ENVELOPE, or NIL. What is not plain is remembered when it is short: the same people write
    again and again."""
    plain = plain_addresses(value)
    if plain is not None:
        return plain
    return _rendered_cached(value) if len(value) <= 256 else _rendered(value)


def _rendered(value: bytes) -> bytes:
    addresses = parse_addresses(value)
    if not addresses:
        return b"NIL"
    return b"(" + b"".join(b"(%b %b %b %b)" % tuple(nstring(part) for part in address) for address in addresses) + b")"


class _Scanner:
    """One pass over a list. `words` are those of the name so far, `inner` those between "<" and ">"."""

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.addresses: list[ParsedAddress] = []
        self.in_group = False
        self._reset()

    def _reset(self) -> None:
        self.words: list[bytes] = []
        self.inner: list[bytes] | None = None
        self.is_closed = False
        self.comment = b""
        self.glue = b""

    def scan(self) -> list[ParsedAddress]:
        at, end = 0, len(self.value)
        while at < end and len(self.addresses) < MAX_ADDRESSES:
            match = _TOKEN.match(self.value, at)
            if match is None:  # no token begins here: cannot happen, but a parser of junk must always go on
                at += 1
                continue
            at = match.end()
            kind, text = match.lastgroup, match.group()
            if kind == "special":
                at = self._special(text, at)
            elif kind == "blank":
                self.glue = b" "
            else:
                self._word(_ESCAPED.sub(rb"\1", text[1:].removesuffix(b'"')) if kind == "quoted" else text)
        self._finish()
        if self.in_group:
            self._end_group()
        return self.addresses

    def _word(self, text: bytes) -> None:
        target = self.words if self.inner is None or self.is_closed else self.inner
        # Inside an address blanks between its parts mean nothing (obs-local-part, obs-domain).
        target.append((self.glue if target is self.words and target else b"") + text)
        self.glue = b""

    def _special(self, text: bytes, at: int) -> int:
        if text == b"(":
            return self._take_comment(at)
        if text == b",":
            if self.inner is not None and not self.is_closed and self.inner[:1] == [b"@"]:
                self.inner.append(b",")  # a comma inside an obsolete route
            else:
                self._finish()
        elif text == b"<":
            if self.inner is None:
                self.inner = []
        elif text == b">":
            self.is_closed = self.inner is not None
        elif text == b":" and self.inner is None and not self.in_group and b"@" not in self.words:
            self.addresses.append(ParsedAddress(None, None, b"".join(self.words).strip() or b"", None))
            self.in_group = True
            self._reset()
        elif text == b";" and self.in_group and (self.inner is None or self.is_closed):
            self._finish()
            self._end_group()
        elif text == b";":
            self._finish()  # Outlook separates addresses by semicolons
        else:  # "@", and a colon inside an address
            self.glue = b""
            self._word(text)
        return at

    def _take_comment(self, at: int) -> int:
        depth, pieces = 1, []
        while depth:
            match = _COMMENT_PIECE.match(self.value, at)
            if match is None:
                break
            at = match.end()
            piece = match.group()
            if piece == b"(":
                depth = min(depth + 1, MAX_COMMENT_DEPTH)
            elif piece == b")":
                depth -= 1
            if depth:
                pieces.append(piece[1:] if piece[:1] == b"\\" else piece)
        self.comment = self.comment or b"".join(pieces)
        self.glue = b" "
        return at

    def _finish(self) -> None:
        """What was collected is an address, if it is anything."""
        words, inner = self.words, self.inner
        if inner is not None:
            name = b"".join(words).strip() or self.comment or None
            route, mailbox, host = _split(inner)
            if name is not None or mailbox or host:
                self.addresses.append(ParsedAddress(name, route, mailbox, host))
        elif words:
            route, mailbox, host = _split([word.strip(b" ") if word.strip(b" ") == b"@" else word for word in words])
            self.addresses.append(ParsedAddress(self.comment or None, route, mailbox.strip(), host.strip()))
        self._reset()

    def _end_group(self) -> None:
        self.addresses.append(ParsedAddress(None, None, None, None))
        self.in_group = False


def _split(parts: list[bytes]) -> tuple[bytes | None, bytes, bytes]:
    """Route, local part and domain. A missing domain is "" and not None, which would mark a group."""
    route = None
    if parts[:1] == [b"@"] and b":" in parts:  # RFC 5322 §4.4 obs-route
        colon = parts.index(b":")
        route = b"".join(parts[:colon])
        parts = parts[colon + 1 :]
    if b"@" not in parts:
        return route, b"".join(parts), b""
    at = len(parts) - 1 - parts[::-1].index(b"@")
    return route, b"".join(parts[:at]), b"".join(parts[at + 1 :])
