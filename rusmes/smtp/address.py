"""The grammar of mailboxes and paths: RFC 5321 §4.1.2 and §4.1.3, RFC 6531 §3.3, IDNA2008 (RFC 5890 to 5892).

What the wire's fast path (`_core.smtp`, plain ASCII) does not take comes here; so do configuration, command line and alias
files, through `parse_address`. Both give the same values for the same text, and every address has one canonical domain:
A-labels in lower case, no dot at the end, literals as `ipaddress` writes them. No text turns into another domain than the
one it shows: look-alikes of "@" and ".", invisible controls and characters that IDNA2008 disallows are refused, never mapped.

More lenient than RFC 5321: an underscore in a domain (host names in use contain it), one dot at its end. Stricter: an empty
quoted local part, a numeric top-level domain (RFC 3696 §2; `user@192.0.2.1` without brackets is not an address).
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from rusmes.model.address import Address

MAX_LOCAL_BYTES: Final = 64
"""RFC 5321 §4.5.3.1.1, octets of UTF-8."""

MAX_DOMAIN_BYTES: Final = 253
"""Octets of A-labels with dots. RFC 5321 §4.5.3.1.2 says 255; no longer name than 253 fits DNS (RFC 1035 §2.3.4)."""

MAX_LABEL_BYTES: Final = 63
"""RFC 1035 §2.3.4."""

_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\U0010ffff]+")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_ROUTE = re.compile(r"@([^,:@\"<>\[\]\s]+|\[[^\]\s]+\])(?:,@([^,:@\"<>\[\]\s]+|\[[^\]\s]+\]))*:")

# Bidirectional overrides and isolates, which show an address in another order than it has (Unicode TR36 §2.2.1).
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp", "Zs"})
# What IDNA2003 took for a dot (RFC 3490 §3.1), and what looks like one or like "@".
_LOOKALIKES = frozenset("\u3002\uff0e\uff61\u2024\ufe52\uff20\ufe6b")


class AddressError(ValueError):
    """A text that is no address. `code`, `status` and `public` make the reply; the status is that of a recipient."""

    def __init__(self, public: str, *, code: int = 501, status: str = "5.1.3") -> None:
        super().__init__(public)
        self.public = public
        self.code = code
        self.status = status


def parse_address(text: str) -> Address:
    """A mailbox as people write it in a file or on a command line: `user@example.com`, `"a b"@bücher.example`.

    Raises:
        AddressError: it is not one.
    """
    return _parse_mailbox(text)


def parse_domain(text: str) -> str:
    """The canonical form of a domain name or an address literal: lower-case A-labels, no dot at the end.

    Raises:
        AddressError: it is neither.
    """
    _check_characters(text)
    return _parse_literal(text) if text.startswith("[") else _parse_domain_name(text)


def parse_path(path: bytes, *, smtputf8: bool) -> Address | None:
    """What stands between the angle brackets of MAIL and RCPT; None for the null path, `Address("postmaster", "")` as such.

    Raises:
        AddressError: RFC 5321 §4.1.2 does not know it, or it has octets above 127 without SMTPUTF8 (553 5.6.7).
    """
    if not path:
        return None
    if not path.isascii() and not smtputf8:
        # RFC 6531 §3.5
        raise AddressError("Address needs SMTPUTF8", code=553, status="5.6.7")
    try:
        # Python's decoder refuses overlong forms and surrogates (RFC 3629 §3).
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        raise AddressError("Address is not UTF-8") from None
    if text[0] == "@":
        # RFC 5321 §4.1.1.3: a source route is accepted and ignored.
        _check_characters(text)
        if not (route := _ROUTE.match(text)):
            raise AddressError("Bad source route")
        text = text[route.end() :]
    if text.lower() == "postmaster":
        return Address(text, "")  # RFC 5321 §4.5.1
    return _parse_mailbox(text)


def _parse_mailbox(text: str) -> Address:
    _check_characters(text)
    if text.startswith('"'):
        local, at = _take_quoted_string(text)
    else:
        at = text.find("@")
        local = text if at < 0 else text[:at]
        for atom in local.split("."):
            if not _ATOM.fullmatch(atom):
                raise AddressError("Bad local part")
    if at < 0 or at == len(text) or text[at] != "@":
        raise AddressError("Address needs a domain" if at < 0 or at == len(text) else "Bad local part")
    if not local:
        raise AddressError("Empty local part")
    if len(local.encode()) > MAX_LOCAL_BYTES:
        raise AddressError("Local part is longer than 64 octets")
    domain = text[at + 1 :]
    return Address(local, _parse_literal(domain) if domain.startswith("[") else _parse_domain_name(domain))


def _check_characters(text: str) -> None:
    """Refuse what has no business in an address, whatever the grammar (RFC 6532 §3.1 allows any UTF-8 in atoms)."""
    if text.isascii():
        if not text.isprintable():
            raise AddressError("Control character in address")
        return
    for character in text:
        if character.isascii():
            if not character.isprintable():
                raise AddressError("Control character in address")
        elif character in _LOOKALIKES:
            raise AddressError("Look-alike character in address", code=553, status="5.1.3")
        elif character in _BIDI or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise AddressError("Character not allowed in address", code=553, status="5.1.3")


def _take_quoted_string(text: str) -> tuple[str, int]:
    """RFC 5321 §4.1.2 Quoted-string at the start of the text: what it says, and the offset after it."""
    content: list[str] = []
    i = 1
    while i < len(text):
        character = text[i]
        if character == '"':
            return "".join(content), i + 1
        if character == "\\":
            i += 1
            if i == len(text) or not text[i].isascii():
                break
            character = text[i]
        content.append(character)
        i += 1
    raise AddressError("Unterminated quoted string")


def _parse_literal(text: str) -> str:
    """RFC 5321 §4.1.3. General address literals are for standards to come; there are none."""
    inside = text[1:-1]
    if not text.endswith("]") or len(text) < 3:
        raise AddressError("Bad address literal", status="5.1.2")
    try:
        if inside[:5].lower() == "ipv6:":
            if "%" in inside:
                raise ValueError
            return f"[IPv6:{IPv6Address(inside[5:])}]"
        return f"[{IPv4Address(inside)}]"
    except ValueError:
        raise AddressError("Bad address literal", status="5.1.2") from None


def _parse_domain_name(text: str) -> str:
    """The name in lower-case A-labels. The dots are those in the text; no other character becomes one."""
    labels = text.removesuffix(".").split(".")
    domain = ".".join(label.lower() if label.isascii() else _to_a_label(label) for label in labels)
    if len(domain) > MAX_DOMAIN_BYTES:
        raise AddressError("Domain is too long", status="5.1.2")
    for label in domain.split("."):
        if len(label) > MAX_LABEL_BYTES:
            raise AddressError("Domain label is longer than 63 octets", status="5.1.2")
        if not _LABEL.fullmatch(label):
            raise AddressError("Bad domain", status="5.1.2")
    if label.isdigit():
        raise AddressError("Bad domain", status="5.1.2")
    return domain


def _to_a_label(label: str) -> str:
    # Here, because its tables take a megabyte that a server without such mail need not load.
    import idna

    # Lower case and NFC are what RFC 5895 §2 does to what a user typed; anything else that IDNA2008 does not allow is refused.
    folded = unicodedata.normalize("NFC", label.lower())
    try:
        return idna.alabel(folded).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise AddressError("Domain is no valid internationalized name", code=553, status="5.1.2") from None
