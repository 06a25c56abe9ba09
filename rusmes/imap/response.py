"""The wire of responses (RFC 9051 §7): tagged and untagged lines, codes, mailbox data.

Everybody who answers a client makes lines here. Codes are bytes without their brackets. Names of mailboxes come in as they go
over the wire (`names.encode`); everything else is checked: CR, LF and NUL are refused outside of literals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rusmes._core.encode import astring, atom, line_bytes, line_text, literal, literal8, nstring, number_set, quoted, string
from rusmes._core.view import Uids

__all__ = [
    "astring", "atom", "bad", "bye", "esearch_line", "exists", "expunges", "flags_line", "line_bytes", "line_text",
    "list_line", "literal", "literal8", "no", "nstring", "number_set", "ok", "preauth", "quoted", "recent", "status_line",
    "string", "untagged_bad", "untagged_no", "untagged_ok", "vanished",
]  # fmt: skip

SYSTEM_FLAGS: Final = b"\\Seen \\Answered \\Flagged \\Deleted \\Draft"


def _state(tag: bytes, word: bytes, text: str, code: bytes) -> bytes:
    shown = line_text(text) or b"."  # §9: text has at least one character
    if code:
        return b"%b %b [%b] %b\r\n" % (tag, word, line_bytes(code), shown)
    return b"%b %b %b\r\n" % (tag, word, shown)


# Status responses (§7.1)


def ok(tag: bytes, text: str, code: bytes = b"") -> bytes:
    return _state(tag, b"OK", text, code)


def no(tag: bytes, text: str, code: bytes = b"") -> bytes:
    return _state(tag, b"NO", text, code)


def bad(tag: bytes, text: str, code: bytes = b"") -> bytes:
    return _state(tag, b"BAD", text, code)


def untagged_ok(text: str, code: bytes = b"") -> bytes:
    return _state(b"*", b"OK", text, code)


def untagged_no(text: str, code: bytes = b"") -> bytes:
    return _state(b"*", b"NO", text, code)


def untagged_bad(text: str, code: bytes = b"") -> bytes:
    return _state(b"*", b"BAD", text, code)


def bye(text: str, code: bytes = b"") -> bytes:
    return _state(b"*", b"BYE", text, code)


def preauth(text: str, code: bytes = b"") -> bytes:
    return _state(b"*", b"PREAUTH", text, code)


# Mailbox data (§7.3)


def list_line(
    name: bytes,
    attributes: Sequence[bytes] = (),
    *,
    separator: bytes | None = b"/",
    verb: bytes = b"LIST",
    extended: bytes = b"",
) -> bytes:
    """`extended` is the inside of the parentheses behind the name (RFC 5258 §3), made by the encoders here."""
    shown = b"NIL" if separator is None else quoted(separator)
    more = b" (%b)" % extended if extended else b""
    return b"* %b (%b) %b %b%b\r\n" % (verb, b" ".join(map(line_bytes, attributes)), shown, astring(name, utf8=True), more)


def status_line(name: bytes, items: Iterable[tuple[bytes, int | bytes]]) -> bytes:
    pairs = b" ".join(
        b"%b %b" % (atom(key), b"%d" % value if isinstance(value, int) else line_bytes(value)) for key, value in items
    )
    return b"* STATUS %b (%b)\r\n" % (astring(name, utf8=True), pairs)


def flags_line(keywords: Iterable[str]) -> bytes:
    """§7.3.5: the flags that are in use in the mailbox."""
    return b"* FLAGS (%b)\r\n" % flag_words(keywords)


def permanent_flags(keywords: Iterable[str], *, is_read_only: bool) -> bytes:
    """§7.1: `\\*` says that the client may make keywords."""
    if is_read_only:
        return untagged_ok("no flag may be changed", b"PERMANENTFLAGS ()")
    return untagged_ok("flags that stay", b"PERMANENTFLAGS (%b \\*)" % flag_words(keywords))


def flag_words(keywords: Iterable[str]) -> bytes:
    words = [line_bytes(word.encode()) for word in keywords]
    return b" ".join([SYSTEM_FLAGS, *words])


def exists(count: int) -> bytes:
    return b"* %d EXISTS\r\n" % count


def recent(count: int) -> bytes:
    return b"* %d RECENT\r\n" % count


def expunges(numbers: Iterable[int]) -> bytes:
    """§7.5.1: each counts in what the one before left; from the highest down none moves another."""
    return b"".join([b"* %d EXPUNGE\r\n" % number for number in numbers])


def vanished(uids: Iterable[int] | Uids, *, earlier: bool = False) -> bytes:
    """RFC 7162 §3.2.10."""
    mark = b"(EARLIER) " if earlier else b""
    return b"* VANISHED %b%b\r\n" % (mark, number_set(uids))


def esearch_line(
    tag: bytes,
    items: Iterable[tuple[bytes, int | bytes]] = (),
    *,
    is_uid: bool = False,
    mailbox: tuple[bytes, int] | None = None,
) -> bytes:
    """RFC 9051 §7.3.4; with `mailbox` (name, UIDVALIDITY) as RFC 7377 §2.1 has it. No tag: an unsolicited one (RFC 5267)."""
    parts = [b"* ESEARCH"]
    correlator = [b"TAG %b" % quoted(tag)] if tag else []
    if mailbox is not None:
        correlator += [b"MAILBOX %b UIDVALIDITY %d" % (astring(mailbox[0], utf8=True), mailbox[1])]
    if correlator:
        parts.append(b"(%b)" % b" ".join(correlator))
    if is_uid:
        parts.append(b"UID")
    parts += [b"%b %b" % (name, b"%d" % value if isinstance(value, int) else line_bytes(value)) for name, value in items]
    return b" ".join(parts) + b"\r\n"
