"""Header edits become renderings: what was added in front of a content, and where the content begins."""

from __future__ import annotations

from typing import Final

from rusmes._core.mailet import count_in, find_fields, remove_fields, return_path
from rusmes.model.content import Content, Rendering
from rusmes.model.mail import Mail

NO_LINES: Final[tuple[bytes, ...]] = ()
_RETURN_PATH: Final = frozenset(("return-path",))


def checked_line(line: bytes) -> bytes:
    """The field as it is, when it ends in its only unfolded CRLF.

    Raises:
        ValueError: it would become more than one field, or none.
    """
    body = line[:-2]
    if line[-2:] != b"\r\n" or b"\0" in body:
        raise ValueError(f"{line[:80]!r} is no header field")
    if b"\n" in body or b"\r" in body:
        rest = body.replace(b"\r\n ", b"").replace(b"\r\n\t", b"")
        if b"\n" in rest or b"\r" in rest:
            raise ValueError(f"{line[:80]!r} is more than one header field")
    return line


def header_line(name: str, value: str) -> bytes:
    """A whole header field; it is not folded.

    Raises:
        ValueError: the name is none (RFC 5322 §3.6.8), or the value has line ends or NUL.
    """
    if not name or not all("!" <= c <= "~" and c != ":" for c in name):
        raise ValueError(f"{name!r} is no name of a header field")
    if any(c in value for c in "\r\n\0"):
        raise ValueError("a header value has no line ends")
    return f"{name}: {value}\r\n".encode()


def field_values(mail: Mail, name: str) -> list[bytes]:
    """The values of a field as the pipeline's edits leave it, newest first; per-recipient lines are not looked at."""
    key = name.lower().encode()
    values = find_fields(b"".join(mail.prepended), key) if mail.prepended else []
    if name.lower() not in mail.removed:
        content = mail.content
        if content.data is None or count_in(content, key):
            values += find_fields(content.header_block(), key)
    return values


class Renderings:
    """The renderings of one plan: the same look of the same content is the same object."""

    __slots__ = ("_last", "_made")

    def __init__(self) -> None:
        self._last: Rendering | None = None
        self._made: dict[tuple[bytes, bytes, int], Rendering] | None = None

    def as_is(self, content: Content) -> Rendering:
        """The content without edits, for a mail that goes on in the pipeline later."""
        return self._get(content, b"", 0)

    def delivered(self, mail: Mail, lines: tuple[bytes, ...] = NO_LINES) -> Rendering:
        """For a mailbox: Return-Path on top, in the place of any other (RFC 5321 §4.4)."""
        removed = mail.removed
        if count_in(mail.content, b"return-path"):
            removed = removed | _RETURN_PATH
        return self._edited(mail, return_path(mail.sender), lines, removed)

    def relayed(self, mail: Mail, lines: tuple[bytes, ...] = NO_LINES) -> Rendering:
        """For another server."""
        if not (mail.prepended or mail.removed or lines):
            return self._get(mail.content, b"", 0)
        return self._edited(mail, b"", lines, mail.removed)

    def _edited(self, mail: Mail, top: bytes, lines: tuple[bytes, ...], removed: frozenset[str]) -> Rendering:
        if not (removed or lines or mail.prepended):
            return self._get(mail.content, top, 0)
        prefix = b"".join((top, *lines, *mail.prepended))
        if removed:
            block = mail.content.header_block()
            kept = remove_fields(block, [name.encode() for name in removed])
            if kept is not block:
                return self._get(mail.content, prefix + kept, mail.content.header_bytes)
        return self._get(mail.content, prefix, 0)

    def _get(self, content: Content, prefix: bytes, skip: int) -> Rendering:
        last = self._last
        if last is None:
            # Most plans have one rendering; the table is made for the second.
            self._last = made = Rendering(content, prefix, skip)
            return made
        if self._made is None:
            self._made = {(last.content.id, last.prefix, last.skip): last}
        key = (content.id, prefix, skip)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = Rendering(content, prefix, skip)
        return found
