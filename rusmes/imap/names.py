"""Names of mailboxes on the wire, and the patterns of LIST (RFC 9051 §5.1, RFC 3501 §5.1.3, RFC 9051 §6.3.9).

Inside, a name is Unicode with "/" between levels. Outside it is UTF-8 once the client enabled IMAP4rev2 or UTF8=ACCEPT, and
modified UTF-7 before. Names that a client could not see again as it wrote them (modified UTF-7 that is not canonical) are
refused, as RFC 3501 §5.1.3 forbids them.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import Final

from rusmes.errors import PeerError
from rusmes.imap.limits import NAME_OCTETS

INBOX: Final = "INBOX"


class BadName(PeerError):
    """What a client sent cannot be the name of a mailbox: NO [CANNOT]."""


# Modified UTF-7


def encode_utf7(name: str) -> bytes:
    """RFC 3501 §5.1.3. Raises UnicodeEncodeError for a lone surrogate."""
    if name.isascii() and name.isprintable():
        return name.replace("&", "&-").encode("ascii")
    out: list[bytes] = []
    start = 0
    size = len(name)
    while start < size:
        end = start
        if " " <= name[start] <= "~":
            while end < size and " " <= name[end] <= "~":
                end += 1
            out.append(name[start:end].replace("&", "&-").encode("ascii"))
        else:
            while end < size and not " " <= name[end] <= "~":
                end += 1
            shifted = binascii.b2a_base64(name[start:end].encode("utf-16-be"), newline=False)
            out.append(b"&" + shifted.rstrip(b"=").replace(b"/", b",") + b"-")
        start = end
    return b"".join(out)


def decode_utf7(raw: bytes) -> str:
    """The name that `encode_utf7` makes this of.

    Raises:
        BadName: there is none.
    """
    if b"&" not in raw:
        if not raw.isascii():
            raise BadName("octets above 127 in a name that is not UTF-8")
        name = raw.decode("ascii")
        if not name.isprintable():
            raise BadName("control characters in a mailbox name")
        return name
    head, *shifts = raw.split(b"&")
    try:
        out = [head.decode("ascii")]
        for shift in shifts:
            coded, dash, plain = shift.partition(b"-")
            if not dash:
                raise BadName("not modified UTF-7")
            if coded:
                base64 = coded.replace(b",", b"/")
                out.append(binascii.a2b_base64(base64 + b"=" * (-len(base64) % 4)).decode("utf-16-be"))
            else:
                out.append("&")
            out.append(plain.decode("ascii"))
        name = "".join(out)
        # One name has one spelling: no shift that is not needed, no bits behind the last character.
        if encode_utf7(name) == raw:
            return name
    except (binascii.Error, UnicodeError):
        pass
    raise BadName("not modified UTF-7")


def encode_name(name: str, *, is_utf8: bool) -> bytes:
    """As the client sees it; `is_utf8`: it enabled IMAP4rev2 or UTF8=ACCEPT."""
    return name.encode() if is_utf8 else encode_utf7(name)


def decode_name(raw: bytes, *, is_utf8: bool) -> str:
    """The name a client means, INBOX in capitals. It may be empty, and need not be one the store allows.

    Raises:
        BadName
    """
    if len(raw) > NAME_OCTETS:
        raise BadName("mailbox name too long")
    if is_utf8:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise BadName("mailbox name is not UTF-8") from None
    else:
        name = decode_utf7(raw)
    # RFC 9051 §5.1: no control characters.
    if not name.isprintable() and any(c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029" for c in name):
        raise BadName("control characters in a mailbox name")
    return fold_inbox(name)


def fold_inbox(name: str) -> str:
    """INBOX is the same in every case (RFC 9051 §5.1), as the first level too."""
    if name[:5].upper() == INBOX and (len(name) == 5 or name[5] == "/"):
        return INBOX + name[5:]
    return name


# Patterns

_WILDCARDS: Final = re.compile("[*%]{2,}")


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a name matches: "*" stands for anything, "%" for anything without "/" (RFC 9051 §6.3.9).

    Linear in the length of the name whatever the pattern is.
    """
    pattern = _WILDCARDS.sub(lambda run: "*" if "*" in run[0] else "%", pattern)
    if pattern == "*":
        return lambda name: True
    if pattern == "":
        return lambda name: name == ""
    automaton = _Automaton(pattern)
    stem = pattern[:-1]
    if "*" in stem or "%" in stem:
        return automaton.matches
    if pattern[-1] == "*":
        return lambda name: name.startswith(stem) or (name[:5] == INBOX and automaton.matches(name))
    if pattern[-1] == "%":
        size = len(stem)
        return lambda name: (
            (name.startswith(stem) and "/" not in name[size:]) or (name[:5] == INBOX and automaton.matches(name))
        )
    exact = fold_inbox(pattern)
    return lambda name: name == exact


class _Automaton:
    """All places in the pattern at which a match may be, as the bits of one number.

    Bit n: the first n octets of the pattern are matched. A wildcard keeps its bit while it takes characters, and hands it on
    at once because it may take none.
    """

    __slots__ = ("_end", "_exact", "_folded", "_levels", "_stars")

    def __init__(self, pattern: str) -> None:
        self._end = 1 << len(pattern)
        self._stars = 0
        """Places before a "*"."""
        self._levels = 0
        """Places before a wildcard."""
        self._exact: dict[str, int] = {}
        self._folded: dict[str, int] = {}
        for place, c in enumerate(pattern):
            if c in "*%":
                self._levels |= 1 << place
                if c == "*":
                    self._stars |= 1 << place
            else:
                self._exact[c] = self._exact.get(c, 0) | 1 << place
                self._folded[c.upper()] = self._folded.get(c.upper(), 0) | 1 << place

    def matches(self, name: str) -> bool:
        places = self._spread(1)
        is_inbox = name[:5] == INBOX and (len(name) == 5 or name[5] == "/")
        for index, c in enumerate(name):
            letters = self._folded if is_inbox and index < 5 else self._exact
            staying = places & (self._stars if c == "/" else self._levels)
            places = self._spread(((places & letters.get(c, 0)) << 1) | staying)
            if not places:
                return False
        return bool(places & self._end)

    def _spread(self, places: int) -> int:
        """With the places behind wildcards that take nothing; no two of them stand together."""
        return places | ((places & self._levels) << 1)
