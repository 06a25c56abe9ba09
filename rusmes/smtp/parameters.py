"""ESMTP parameters of MAIL and RCPT, each with the reply its faults deserve.

RFC 5321 §4.1.1.11 (555 for what we do not know), RFC 1870 (SIZE), RFC 6152 and 3030 (BODY), RFC 6531 (SMTPUTF8), RFC 3461
and 6533 (RET, ENVID, NOTIFY, ORCPT), RFC 4954 §5 (AUTH), RFC 8689 (REQUIRETLS). A parameter is known while its extension
is offered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from rusmes._core.smtp import decode_xtext
from rusmes.model.address import Address
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS
from rusmes.smtp.address import AddressError, parse_path
from rusmes.smtp.reply import Reply, quoted

MAX_ENVID_BYTES: Final = 100
"""RFC 3461 §4.4, as encoded."""

MAX_ORCPT_BYTES: Final = 500
"""RFC 3461 §4.2, as encoded with the type."""

Pairs = Iterable[tuple[str, bytes | None]]


class MailParameters(Struct, frozen=True, gc=False):
    """What MAIL said beside the sender."""

    size: int = -1
    """Octets, -1 when not given."""
    body: str = "7BIT"
    """7BIT | 8BITMIME | BINARYMIME."""
    smtputf8: bool = False
    requiretls: bool = False
    ret: str = ""
    """FULL | HDRS | ""."""
    envid: str = ""
    """Decoded, printable ASCII."""
    auth: str | None = None
    """RFC 4954 §5: the submitter's mailbox, "" for "<>", None when not given. Only a trusted client's is worth anything."""


class RcptParameters(Struct, frozen=True, gc=False):
    """What RCPT said beside the recipient."""

    notify: int = 0
    """NOTIFY_* bits of `rusmes.model.mail`, 0 when not given."""
    orcpt: str = ""
    """Decoded: "rfc822;user@example.com"."""


NO_MAIL_PARAMETERS: Final = MailParameters()
NO_RCPT_PARAMETERS: Final = RcptParameters()


class ParameterError(Exception):
    """A parameter is unknown or wrong; `reply` says so to the peer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


def parse_mail_parameters(pairs: Pairs, extensions: frozenset[str]) -> MailParameters:
    """The parameters of MAIL, under the extensions that are offered now.

    Raises:
        ParameterError: 555 5.5.4 for one that is not known, 501 5.5.4 for a bad value or one given twice.
    """
    return MailParameters(**_parse(pairs, extensions, _MAIL))  # type: ignore[arg-type]


def parse_rcpt_parameters(pairs: Pairs, extensions: frozenset[str]) -> RcptParameters:
    """The parameters of RCPT, under the extensions that are offered now.

    Raises:
        ParameterError: 555 5.5.4 for one that is not known, 501 5.5.4 for a bad value or one given twice.
    """
    return RcptParameters(**_parse(pairs, extensions, _RCPT))  # type: ignore[arg-type]


_Parser = Callable[[bytes | None, frozenset[str]], "int | str | bool"]
_Grammar = dict[str, tuple[str, str, _Parser]]


def _parse(pairs: Pairs, extensions: frozenset[str], grammar: _Grammar) -> dict[str, int | str | bool]:
    values: dict[str, int | str | bool] = {}
    for keyword, value in pairs:
        known = grammar.get(keyword)
        if known is None or known[0] not in extensions:
            raise ParameterError(Reply(555, "5.5.4", f"Unknown parameter {quoted(keyword, 40)}"))
        _, field, parse = known
        if field in values:
            raise ParameterError(Reply(501, "5.5.4", f"Parameter {keyword} given twice"))
        try:
            values[field] = parse(value, extensions)
        except ValueError:
            raise ParameterError(Reply(501, "5.5.4", f"Bad value of {keyword}")) from None
    return values


def _size(value: bytes | None, _: frozenset[str]) -> int:
    # RFC 1870 §3: 1*20DIGIT
    if value is None or len(value) > 20 or not value.isdigit():
        raise ValueError
    return int(value)


def _body(value: bytes | None, extensions: frozenset[str]) -> str:
    word = b"" if value is None else value.upper()
    if word in (b"7BIT", b"8BITMIME") or (word == b"BINARYMIME" and "BINARYMIME" in extensions):
        return word.decode()
    raise ValueError


def _flag(value: bytes | None, _: frozenset[str]) -> bool:
    if value is not None:
        raise ValueError
    return True


def _ret(value: bytes | None, _: frozenset[str]) -> str:
    word = b"" if value is None else value.upper()
    if word not in (b"FULL", b"HDRS"):
        raise ValueError
    return word.decode()


def _envid(value: bytes | None, _: frozenset[str]) -> str:
    if value is None or len(value) > MAX_ENVID_BYTES:
        raise ValueError
    return _printable(decode_xtext(value))


def _auth(value: bytes | None, extensions: frozenset[str]) -> str:
    if value is None:
        raise ValueError
    text = decode_xtext(value)
    if text == b"<>":
        return ""
    try:
        address = parse_path(text, smtputf8="SMTPUTF8" in extensions)
    except AddressError:
        raise ValueError from None
    if not isinstance(address, Address):
        raise ValueError
    return str(address)


_NOTIFY = {b"NEVER": NOTIFY_NEVER, b"SUCCESS": NOTIFY_SUCCESS, b"FAILURE": NOTIFY_FAILURE, b"DELAY": NOTIFY_DELAY}


def _notify(value: bytes | None, _: frozenset[str]) -> int:
    bits = 0
    for word in (value or b"").upper().split(b","):
        if word not in _NOTIFY:
            raise ValueError
        bits |= _NOTIFY[word]
    # RFC 3461 §4.1: NEVER stands alone.
    if bits & NOTIFY_NEVER and bits != NOTIFY_NEVER:
        raise ValueError
    return bits


def _orcpt(value: bytes | None, extensions: frozenset[str]) -> str:
    if value is None or len(value) > MAX_ORCPT_BYTES:
        raise ValueError
    kind, semicolon, text = value.partition(b";")
    kind = kind.lower()
    if not semicolon or not text:
        raise ValueError
    if kind == b"rfc822":
        return f"rfc822;{_printable(decode_xtext(text))}"
    if kind == b"utf-8" and "SMTPUTF8" in extensions:
        return f"utf-8;{_decode_utf8_addr(text)}"
    raise ValueError


_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")


def _decode_utf8_addr(text: bytes) -> str:
    """RFC 6533 §3: xtext whose embedded characters are \\x{HEX}, or UTF-8 itself."""
    decoded = text.decode("utf-8")  # UnicodeDecodeError is a ValueError
    if text.isascii():
        decoded = decode_xtext(text).decode("utf-8")
    decoded = _EMBEDDED.sub(lambda match: chr(int(match[1], 16)), decoded)
    if not decoded.isprintable():
        raise ValueError
    return decoded


def _printable(text: bytes) -> str:
    """RFC 3461 §4.4, §4.2: what was encoded is printable ASCII. Control characters have no way into headers and logs."""
    decoded = text.decode("ascii")
    if not decoded.isprintable():
        raise ValueError
    return decoded


_MAIL: Final[_Grammar] = {
    "SIZE": ("SIZE", "size", _size),
    "BODY": ("8BITMIME", "body", _body),
    "SMTPUTF8": ("SMTPUTF8", "smtputf8", _flag),
    "REQUIRETLS": ("REQUIRETLS", "requiretls", _flag),
    "RET": ("DSN", "ret", _ret),
    "ENVID": ("DSN", "envid", _envid),
    "AUTH": ("AUTH", "auth", _auth),
}
_RCPT: Final[_Grammar] = {
    "NOTIFY": ("DSN", "notify", _notify),
    "ORCPT": ("DSN", "orcpt", _orcpt),
}
