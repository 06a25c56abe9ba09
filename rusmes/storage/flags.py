"""Flags of messages: one spelling, one order, and what IMAP and JMAP call them (RFC 9051 §2.3.2, RFC 8621 §4.1.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rusmes.errors import LimitReached, NotAllowed

SYSTEM_FLAGS: Final = ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft")
SEEN: Final = 1
DELETED: Final = 8
# A message with more keywords than this is not being sorted but used as storage. Dovecot allows 50 for a mailbox.
MAX_KEYWORDS: Final = 100
MAX_KEYWORD_BYTES: Final = 128

_BITS: Final = {name.lower(): 1 << i for i, name in enumerate(SYSTEM_FLAGS)}
_ATOM_SPECIALS: Final = frozenset('(){ %*"\\]')
OPERATIONS: Final = ("set", "add", "remove")


def split_flags(flags: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    """System flags as bits (by place in SYSTEM_FLAGS) and keywords, sorted, without repetitions.

    `\\Recent` is not a flag a client may change and is left out (RFC 9051 §2.3.2).

    Raises:
        NotAllowed: an unknown system flag, or a keyword that is not an atom or too long.
        LimitReached: more keywords than a message may have.
    """
    if not flags:
        return 0, ()
    bits = 0
    words: dict[str, str] = {}
    for flag in flags:
        folded = flag.lower()
        if folded in _BITS:
            bits |= _BITS[folded]
        elif folded != "\\recent":
            words.setdefault(folded, _checked(flag))
    if len(words) > MAX_KEYWORDS:
        raise LimitReached("too many keywords", f"{len(words)} keywords on one message, at most {MAX_KEYWORDS}")
    return bits, tuple(words[folded] for folded in sorted(words))


def _checked(flag: str) -> str:
    good = flag.isascii() and flag.isprintable() and 0 < len(flag) <= MAX_KEYWORD_BYTES and not _ATOM_SPECIALS & set(flag)
    if not good:
        raise NotAllowed("not a keyword", repr(flag[:80]))
    return flag


def join_flags(bits: int, keywords: tuple[str, ...]) -> tuple[str, ...]:
    """The flags of a message: system flags, then keywords."""
    if not bits:
        return keywords
    return _SYSTEM_TUPLES[bits & 31] + keywords


_SYSTEM_TUPLES: Final = tuple(tuple(name for i, name in enumerate(SYSTEM_FLAGS) if bits >> i & 1) for bits in range(32))


def kept_flags(keep: str, bits: int, keywords: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """The flags that somebody with these rights may set (RFC 4314 §4): "s" \\Seen, "t" \\Deleted, "w" the others."""
    mask = (SEEN if "s" in keep else 0) | (DELETED if "t" in keep else 0) | (31 & ~(SEEN | DELETED) if "w" in keep else 0)
    return bits & mask, keywords if "w" in keep else ()


def change(
    operation: str, bits: int, keywords: tuple[str, ...], change_bits: int, change_keywords: tuple[str, ...]
) -> tuple[int, tuple[str, ...]]:
    """Flags after `operation` (set, add or remove). A keyword keeps the spelling it first had on the message."""
    if operation == "set":
        return change_bits, change_keywords
    if operation == "add":
        if not change_keywords:
            return bits | change_bits, keywords
        return bits | change_bits, split_flags(keywords + change_keywords)[1]
    if operation == "remove":
        gone = {word.lower() for word in change_keywords}
        return bits & ~change_bits, tuple(word for word in keywords if word.lower() not in gone)
    raise ValueError(f"operation {operation!r} is none of {OPERATIONS}")


_JMAP_NAMES: Final = ("$seen", "$answered", "$flagged", "", "$draft")


def jmap_keywords(bits: int, keywords: tuple[str, ...]) -> tuple[str, ...]:
    """The same as JMAP keywords: lower case, `\\Deleted` left out (RFC 8621 §4.1.1)."""
    system = tuple(name for i, name in enumerate(_JMAP_NAMES) if name and bits >> i & 1)
    return system + tuple(word.lower() for word in keywords)
