"""From an item to the bytes of a message: placeholders, MIME by the standard library, and the fields no message is without."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from email.errors import MessageError
from email.headerregistry import Address as HeaderAddress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import make_msgid
from typing import Any, Final

from rusmes._core import headers
from rusmes.errors import RusmesError
from rusmes.injection.request import Item, Structured, Target, Values
from rusmes.smtp.received import date

_PLACEHOLDER: Final = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]{0,63})\s*\}\}")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_FIELD_NAME: Final = re.compile(r"[!-9;-~]{1,76}")
MAX_TEXT_CHARACTERS: Final = 20_000_000
"""After placeholders were filled in."""
OURS: Final = frozenset(
    {
        "from",
        "to",
        "cc",
        "bcc",
        "reply-to",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "received",
        "return-path",
        "sender",
    }
    | {"content-type", "content-transfer-encoding", "content-disposition", "content-id"}
) - {"sender", "message-id", "date"}
"""Fields that `headers` may not give: they have keys of their own, or are made here."""


class Invalid(RusmesError):
    """The item describes no message; it can never be accepted."""


def compose(item: Item, target: Target | None, *, hostname: str, now: float) -> bytes:
    """The message of an item; `target` is the recipient that has it alone.

    Raises:
        Invalid
    """
    if item.message is not None and (item.raw or item.raw_base64):
        raise Invalid("give one of message, raw and raw_base64")
    values = {**item.substitutions, **(target.substitutions if target is not None else {})}
    try:
        parts = item.message
        data = _structured(parts, target, values) if parts is not None else _raw(item, values)
    except (ValueError, MessageError, UnicodeError, LookupError) as error:
        raise Invalid(f"no message can be made of it: {error}") from None
    return _complete(data, hostname, now)


def fill(text: str, values: Mapping[str, str | int | float | bool], *, is_html: bool = False, is_line: bool = False) -> str:
    """The text with its {{placeholders}} replaced; in HTML the values are escaped, in a field they are one line.

    Raises:
        Invalid: one of them has no value, or the text becomes too long.
    """
    if "{{" not in text:
        return text
    missing: list[str] = []

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            missing.append(name)
            return ""
        value = values[name]
        plain = ("true" if value else "false") if isinstance(value, bool) else str(value)
        if is_line:
            plain = " ".join(plain.splitlines())
        return html.escape(plain) if is_html else plain

    filled = _PLACEHOLDER.sub(value_of, text)
    if missing:
        raise Invalid(f"there is no value for {{{{{missing[0]}}}}}")
    if len(filled) > MAX_TEXT_CHARACTERS:
        raise Invalid("the text is too long with its placeholders filled in")
    return filled


def _structured(parts: Structured, target: Target | None, values: Values) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = _addresses((fill(parts.from_, values, is_line=True),), "from")
    to = tuple(fill(text, values, is_line=True) for text in parts.to)
    if to:
        message["To"] = _addresses(to, "to")
    elif target is not None:
        message["To"] = HeaderAddress(_one_line(target.name), addr_spec=target.address)
    for name, texts in (("Cc", parts.cc), ("Reply-To", parts.reply_to)):
        if texts:
            message[name] = _addresses(tuple(fill(text, values, is_line=True) for text in texts), name.lower())
    message["Subject"] = _one_line(fill(parts.subject, values, is_line=True))
    for name, text in parts.headers.items():
        if not _FIELD_NAME.fullmatch(name) or name.lower() in OURS:
            raise Invalid(f"headers cannot give {name!r}")
        message[name] = _one_line(fill(text, values, is_line=True))
    _set_body(message, parts, values)
    return message.as_bytes()


def _set_body(message: EmailMessage, parts: Structured, values: Values) -> None:
    text, markup = fill(parts.text, values), fill(parts.html, values, is_html=True)
    if text or not markup:
        message.set_content(text)
        if markup:
            message.add_alternative(markup, subtype="html")
    else:
        message.set_content(markup, subtype="html")
    inline = [one for one in parts.attachments if one.cid]
    if inline and not markup:
        raise Invalid("an attachment with a cid needs html")
    body = message
    if text and markup:
        payload = message.get_payload()
        assert isinstance(payload, list)
        last = payload[-1]
        assert isinstance(last, EmailMessage)
        body = last
    for one in inline:
        kind, subtype = _type(one.content_type)
        body.add_related(one.data, kind, subtype, cid=f"<{_one_line(one.cid)}>", filename=_one_line(one.filename) or None)
    for one in parts.attachments:
        if not one.cid:
            kind, subtype = _type(one.content_type)
            message.add_attachment(one.data, kind, subtype, filename=_one_line(one.filename) or None)


def _type(text: str) -> tuple[str, str]:
    kind, slash, subtype = text.partition("/")
    if not slash or not re.fullmatch(r"[A-Za-z0-9!#$&^_.+-]{1,60}", kind) or not re.fullmatch(r"[\w!#$&^.+-]{1,120}", subtype):
        raise Invalid(f"{text!r} is no content type")
    if kind.lower() in ("message", "multipart"):
        raise Invalid(f"an attachment of the type {text!r} cannot be made; send the message raw")
    return kind, subtype


def addresses_in(text: str) -> list[HeaderAddress]:
    """The addresses of a list as a header has it, as far as they are some; [] when it is none."""
    field: Any = SMTP.header_factory("To", text)
    found = list(field.addresses)
    return found if found and all(one.domain for one in found) else []


def _addresses(texts: tuple[str, ...], key: str) -> list[HeaderAddress]:
    found = [one for text in texts for one in addresses_in(_one_line(text))]
    if len(found) < len(texts):
        raise Invalid(f"{key}: {', '.join(texts)!r} is no list of addresses")
    return found


def _one_line(text: str) -> str:
    if any(char < " " and char != "\t" for char in text) or "\x7f" in text:
        raise Invalid("a field holds a control character or more than one line")
    return text


def _raw(item: Item, values: Values) -> bytes:
    if bool(item.raw) == bool(item.raw_base64):
        raise Invalid("give one of message, raw and raw_base64")
    if item.raw:
        return fill(item.raw, values).encode("utf-8")
    return fill(item.raw_base64.decode("utf-8"), values).encode() if values else item.raw_base64


def _complete(data: bytes, hostname: str, now: float) -> bytes:
    """With CRLF, without Bcc, and with the fields that RFC 5322 §3.6 asks for (RFC 6409 §8)."""
    if b"\0" in data:
        raise Invalid("the message has a NUL octet")
    data = _LINE_END.sub(b"\r\n", data)
    if not data.endswith(b"\r\n"):
        data += b"\r\n"
    end = 0 if data.startswith(b"\r\n") else data.find(b"\r\n\r\n") + 2
    if end < 2:
        raise Invalid("the message has no From field" if not end else "the message has no empty line behind its header")
    block = data[:end]
    names = [name.lower() for name, _ in headers.fields(block)]
    if names.count(b"from") != 1:
        raise Invalid("the message has no From field" if b"from" not in names else "the message has several From fields")
    if b"bcc" in names:
        block = headers.without(block, {b"bcc"})
    if b"date" not in names:
        block += f"Date: {date(now)}\r\n".encode()
    if b"message-id" not in names:
        block += f"Message-ID: {make_msgid(domain=hostname)}\r\n".encode()
    return block + data[end:]
