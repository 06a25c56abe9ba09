"""Header fields written anew in US-ASCII, for those who take no others: servers without 8BITMIME and SMTPUTF8, and POP3 clients
that do not say UTF8.

Fields that are ASCII stay byte for byte. Of the others,
1. texts and names become encoded words (RFC 2047), in UTF-8 where they are that and as "unknown-8bit" where nobody knows
   (RFC 1428 §3);
2. parameters of Content-Type and Content-Disposition become those of RFC 2231;
3. domains become A-labels (RFC 5890);
4. a local part has no other form. For a reader it is replaced by an address that says so (RFC 6858 §2.1); for a server the
   field cannot be written;
5. what nobody may touch (message identifiers, traces, signatures, dates) cannot be written either; a reader does without
   (RFC 6858 §2.4).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import quote_from_bytes

import idna

from rusmes.mime.addresses import ParsedAddress, parse_addresses
from rusmes.mime.fields import unfold
from rusmes.mime.structure import parse_parameters

LINE_OCTETS: Final = 76
"""RFC 5322 §2.1.1 wants at most 78, RFC 2047 §2 76 for a line with an encoded word."""
WORD_OCTETS: Final = 75
"""Of an encoded word (RFC 2047 §2)."""
PARAMETER_OCTETS: Final = 60
"""Of one section of a parameter (RFC 2231 §3)."""

INVALID_ADDRESS: Final = b"invalid@internationalized-address.invalid"
"""RFC 6858 §2.1."""

_ADDRESS_FIELDS: Final = frozenset(
    b"from sender reply-to to cc bcc resent-from resent-sender resent-reply-to resent-to resent-cc resent-bcc return-path "
    b"disposition-notification-to return-receipt-to errors-to mail-followup-to mail-reply-to delivered-to".split()
)
_PARAMETER_FIELDS: Final = frozenset((b"content-type", b"content-disposition"))
_UNTOUCHABLE: Final = frozenset(
    b"date resent-date message-id resent-message-id in-reply-to references received authentication-results received-spf "
    b"dkim-signature arc-seal arc-message-signature arc-authentication-results mime-version content-transfer-encoding "
    b"content-id list-id list-unsubscribe list-unsubscribe-post list-post list-help list-owner list-subscribe "
    b"list-archive autocrypt".split()
)

_FIELD: Final = re.compile(rb"[^\r\n]*\r?\n(?:[ \t][^\r\n]*(?:\r?\n|\Z))*|[^\r\n]+\Z|\r", re.S)
_ATOMS: Final = re.compile(rb"[-A-Za-z0-9!#$%&'*+/=?^_`{|}~ ]+")
_KIND: Final = re.compile(rb"[-!#$%&'*+/=?^_`{|}~.A-Za-z0-9 ]*")
_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`{|}~A-Za-z0-9]+")
_NOT_IN_Q: Final = re.compile(rb"[^A-Za-z0-9!*+/-]")
"""In a phrase; RFC 2047 §5 (3) is the strictest rule."""


class NotAscii(ValueError):
    """A field cannot be written in ASCII; its name is the argument."""


def ascii_block(block: bytes, *, for_reader: bool) -> bytes:
    """A header block, with the empty line at its end if it has one, in ASCII.

    Args:
        for_reader: addresses may be replaced and fields left out; otherwise the block is sent on, and means what it meant.

    Raises:
        NotAscii: there is a field that cannot be written, and it is not for a reader.
    """
    if block.isascii():
        return block
    return b"".join(_written(field, for_reader) for field in _fields(block))


def _fields(block: bytes) -> Iterator[bytes]:
    return (match[0] for match in _FIELD.finditer(block))


def _written(field: bytes, for_reader: bool) -> bytes:
    if field.isascii():
        return field
    name, colon, value = field.partition(b":")
    kind = name.strip().lower()
    if not colon or not name.isascii() or kind in _UNTOUCHABLE:
        return _left_out(kind, for_reader)
    try:
        if kind in _ADDRESS_FIELDS:
            tokens = _address_tokens(parse_addresses(value), for_reader)
        elif kind in _PARAMETER_FIELDS:
            tokens = _parameter_tokens(unfold(value))
        else:
            tokens = _text_tokens(unfold(value).strip())
    except NotAscii:
        return _left_out(kind, for_reader)
    return _folded(name.rstrip() + b":", tokens)


def _left_out(kind: bytes, for_reader: bool) -> bytes:
    if for_reader:
        return b""
    raise NotAscii(kind.decode("ascii", "replace"))


def _folded(line: bytes, tokens: list[bytes]) -> bytes:
    """Lines of at most `LINE_OCTETS`, as far as tokens allow."""
    lines = []
    for token in tokens:
        if len(line) + 1 + len(token) > LINE_OCTETS and line.strip():
            lines.append(line)
            line = b""
        line += b" " + token
    return b"\r\n".join([*lines, line]) + b"\r\n"


# Texts


def _text_tokens(text: bytes) -> list[bytes]:
    """Words; those from the first to the last one that is not ASCII in encoded words, with the blanks between them."""
    words = text.split(b" ")
    wanted = [at for at, word in enumerate(words) if not word.isascii()]
    if not wanted:
        return words
    first, last = wanted[0], wanted[-1]
    return [*words[:first], *encoded_words(b" ".join(words[first : last + 1])), *words[last + 1 :]]


def encoded_words(text: bytes) -> list[bytes]:
    """RFC 2047, the shorter one of its two encodings. No character is torn (§5)."""
    try:
        characters = [character.encode() for character in text.decode()]
        charset = b"utf-8"
    except UnicodeDecodeError:
        characters = [text[at : at + 1] for at in range(len(text))]
        charset = b"unknown-8bit"
    frame = b"=?%b?%%b?%%b?=" % charset
    room = WORD_OCTETS - len(frame) + 3
    if len(_q(text)) <= -(-len(text) // 3) * 4:
        return [frame % (b"Q", _q(piece)) for piece in _pieces(characters, lambda character: len(_q(character)), room)]
    return [frame % (b"B", binascii.b2a_base64(piece, newline=False)) for piece in _pieces(characters, len, room // 4 * 3)]


def _pieces(characters: list[bytes], size: Callable[[bytes], int], room: int) -> Iterator[bytes]:
    """Characters together, as many as there is room for."""
    first, left = 0, room
    for at, character in enumerate(characters):
        left -= size(character)
        if left < 0 and at > first:
            yield b"".join(characters[first:at])
            first, left = at, room - size(character)
    yield b"".join(characters[first:])


def _q(data: bytes) -> bytes:
    return _NOT_IN_Q.sub(lambda found: b"=%02X" % found[0][0], data).replace(b"=20", b"_")


# Addresses


def _address_tokens(addresses: list[ParsedAddress], for_reader: bool) -> list[bytes]:
    """Each address in one or several tokens, with its comma."""
    tokens: list[bytes] = []
    has_comma = True
    for address in addresses:
        if address.host is None and address.mailbox is None:  # the end of a group
            tokens[-1] = tokens[-1].removesuffix(b",") + b";,"
            has_comma = True
            continue
        in_group = address.host is None
        found = [*_phrase(address.mailbox or b"")] if in_group else _one_address(address, for_reader)
        found[-1] += b":" if in_group else b","
        tokens += found
        has_comma = not in_group
    if tokens and has_comma:
        tokens[-1] = tokens[-1].removesuffix(b",")
    return tokens


def _one_address(address: ParsedAddress, for_reader: bool) -> list[bytes]:
    local, host = address.mailbox or b"", address.host or b""
    if not host.isascii():
        host = _a_labels(host)
    if not local.isascii():
        if not for_reader:
            raise NotAscii("address")
        return [*_phrase(address.name or local + b"@" + host), b"<" + INVALID_ADDRESS + b">"]
    if not _ATOMS.fullmatch(local.replace(b".", b"")) or b" " in local:
        local = _quoted(local)
    spec = local + b"@" + host if host else local
    return [*_phrase(address.name), b"<" + spec + b">"] if address.name else [spec]


def _a_labels(host: bytes) -> bytes:
    try:
        return idna.encode(host.decode(), uts46=True)
    except (UnicodeError, idna.IDNAError):
        raise NotAscii("domain") from None


def _phrase(name: bytes) -> list[bytes]:
    if not name.isascii():
        return encoded_words(name)
    if _ATOMS.fullmatch(name):
        return name.split()
    return [_quoted(name)]


def _quoted(text: bytes) -> bytes:
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


# Parameters


def _parameter_tokens(value: bytes) -> list[bytes]:
    """Type or disposition, then each parameter; those that are not ASCII in sections of RFC 2231."""
    kind, _, rest = value.partition(b";")
    kind = kind.strip()
    if not _KIND.fullmatch(kind):
        raise NotAscii("type")
    tokens = [kind]
    for name, text in parse_parameters(rest):
        if not name.isascii() or (name.lower() == b"boundary" and not text.isascii()):
            raise NotAscii("parameter")
        tokens[-1] += b";"
        if text.isascii():
            tokens.append(name + b"=" + (text if _TOKEN.fullmatch(text) else _quoted(text)))
        else:
            tokens += _sections(name, text)
    return tokens


def _sections(name: bytes, text: bytes) -> list[bytes]:
    try:
        text.decode()
        charset = b"utf-8"
    except UnicodeDecodeError:
        charset = b"unknown-8bit"
    coded = [quote_from_bytes(text[at : at + 1], safe="").encode() for at in range(len(text))]
    if sum(map(len, coded)) <= PARAMETER_OCTETS:
        return [name + b"*=" + charset + b"''" + b"".join(coded)]
    sections = list(_pieces(coded, len, PARAMETER_OCTETS))
    first = name + b"*0*=" + charset + b"''" + sections[0]
    more = [b"%b*%d*=%b" % (name, number, section) for number, section in enumerate(sections[1:], 1)]
    return [token + b";" for token in [first, *more[:-1]]] + more[-1:]
