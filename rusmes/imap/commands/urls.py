"""The URLs of CATENATE (RFC 4469 §3, RFC 5092 §7): parts of messages that are here already.

"/Archive;UIDVALIDITY=385759045/;UID=20/;SECTION=1.2"      a mailbox of this server
"/;UID=20/;PARTIAL=0.1024" or ";UID=20"                    the selected mailbox
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from rusmes._core.encode import quoted
from rusmes._core.imap import GrammarError, Lexer
from rusmes.errors import NotAllowed, NotFound
from rusmes.imap.command import Section
from rusmes.imap.commands.context import Context, Refused
from rusmes.imap.commands.rights import mailbox as find_mailbox
from rusmes.imap.grammar_messages import fetch_attribute
from rusmes.imap.names import BadName, decode_name
from rusmes.imap.sections import OpenedMessage, Span

_MAX_UID: Final = 0xFFFFFFFF


class MessageUrl(Struct, frozen=True):
    """`mailbox` "" is the selected one; `uid_validity` 0 was not given."""

    mailbox: str
    uid_validity: int
    uid: int
    section: Section
    partial: tuple[int, int] | None = None


def parse_url(url: bytes) -> MessageUrl | None:
    """None for what is no URL of a message here."""
    if b":" in url.split(b"/", 1)[0] or url.startswith(b"//"):
        return None  # of a server: whether it is this one cannot be told
    path, *parameters = url.removeprefix(b"/").split(b";")
    found: dict[bytes, bytes] = {}
    for parameter in parameters:
        name, equals, value = parameter.rstrip(b"/").partition(b"=")
        name = name.upper()
        if not equals or name in found or name not in (b"UIDVALIDITY", b"UID", b"SECTION", b"PARTIAL"):
            return None
        found[name] = value
    try:
        mailbox = decode_name(unquote_to_bytes(path.rstrip(b"/")), is_utf8=True)  # RFC 5092 §3: UTF-8, percent-encoded
        uid = _number(found[b"UID"])
        uid_validity = _number(found[b"UIDVALIDITY"]) if b"UIDVALIDITY" in found else 0
        section = _section(unquote_to_bytes(found.get(b"SECTION", b"")))
        partial = _partial(found[b"PARTIAL"]) if b"PARTIAL" in found else None
    except (BadName, GrammarError, KeyError, ValueError):
        return None
    return MessageUrl(mailbox, uid_validity, uid, section, partial)


def _number(text: bytes) -> int:
    number = int(text) if text.isdigit() else 0
    if not 0 < number <= _MAX_UID:
        raise ValueError(text)
    return number


def _section(text: bytes) -> Section:
    item = fetch_attribute(Lexer(b"BODY[%b]" % text))
    if item.section is None or item.partial is not None:
        raise ValueError(text)
    return item.section


def _partial(text: bytes) -> tuple[int, int]:
    first, dot, count = text.partition(b".")
    if not first.isdigit() or (dot and not count.isdigit()):
        raise ValueError(text)
    return int(first), int(count) if dot else 1 << 62


async def fetch_url(context: Context, url: bytes) -> AsyncIterator[bytes]:
    """The octets a URL stands for.

    Raises:
        Refused: BADURL; there is no such thing, or the user may not read it.
        StoreError
    """
    opened, span = await _open(context, url)
    try:
        for chunk in opened.chunks(span):
            yield chunk
    except OSError:
        raise _bad(url, "cannot be read") from None
    finally:
        opened.close()


async def _open(context: Context, url: bytes) -> tuple[OpenedMessage, Span]:
    parsed = parse_url(url)
    if parsed is None:
        raise _bad(url, "no URL of a message here")
    if parsed.mailbox:
        try:
            target = await find_mailbox(context, parsed.mailbox, need="r")
        except (NotFound, NotAllowed):
            raise _bad(url, "no such mailbox") from None
        mailbox_id, uid_validity = target.mailbox.id, target.mailbox.uid_validity
    elif context.selected is not None:
        mailbox_id, uid_validity = context.selected.mailbox_id, context.selected.mailbox.uid_validity
    else:
        raise _bad(url, "no mailbox is selected")
    if parsed.uid_validity not in (0, uid_validity):
        raise _bad(url, "the mailbox has another UIDVALIDITY")
    opened: OpenedMessage | None = None
    try:
        opened = OpenedMessage((await context.store.open_message(mailbox_id, parsed.uid)).rendering)
        span = opened.span(parsed.section)
    except (NotFound, OSError):
        span = None
    if opened is None or span is None:
        if opened is not None:
            opened.close()
        raise _bad(url, "no such message or part")
    return opened, span.cut(parsed.partial)


def _bad(url: bytes, reason: str) -> Refused:
    shown = b"".join(bytes([octet]) if 32 <= octet < 127 else b"?" for octet in url)
    return Refused(reason, b"BADURL %b" % quoted(shown))  # RFC 4469 §4.3: the URL goes in the code
