"""Trace lines: Received and Return-Path (RFC 5321 §4.4), with the "with" values of RFC 3848 and RFC 6531 §3.7.3."""

from __future__ import annotations

from functools import lru_cache
from time import gmtime
from typing import Final

from rusmes.model.address import Address
from rusmes.model.mail import Origin

HELO_CHARACTERS: Final = 255
"""How much of a client's HELO is repeated; RFC 5321 §4.5.3.1.2 gives a domain no more."""

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# What stands in a comment or a domain as it is; the rest (specials of RFC 5322 §3.2.3, blanks, control characters, what is
# not ASCII) becomes "?", so that nobody's name closes our comment, folds our line or adds a field.
_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]+*/%~!#$&'^`{|}")


def neutralised(text: str, limit: int = HELO_CHARACTERS) -> str:
    """Text of the peer's choosing, harmless in a header field: no blanks, brackets of comments, quotes or controls."""
    if len(text) > limit:
        text = text[:limit]
    if _SAFE.issuperset(text):
        return text
    return "".join(character if character in _SAFE else "?" for character in text)


@lru_cache(maxsize=4)
def _date_of_second(seconds: int) -> str:
    when = gmtime(seconds)
    return (
        f"{_DAYS[when.tm_wday]}, {when.tm_mday} {_MONTHS[when.tm_mon - 1]} {when.tm_year}"
        f" {when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02} +0000"
    )


def date(now: float) -> str:
    """The date-time of RFC 5322 §3.3 of seconds since the epoch, in UTC whatever the locale."""
    return _date_of_second(int(now))


def with_protocol(
    *, esmtp: bool, tls: bool = False, authenticated: bool = False, utf8: bool = False, lmtp: bool = False
) -> str:
    """The "with" value: SMTP, ESMTPSA, LMTPS, UTF8SMTPSA, ... (RFC 3848, RFC 6531 §4.3)."""
    if lmtp:
        name = "UTF8LMTP" if utf8 else "LMTP"
    elif utf8:
        name = "UTF8SMTP"
    elif not esmtp:
        return "SMTP"
    else:
        name = "ESMTP"
    return f"{name}{'S' if tls else ''}{'A' if authenticated else ''}"


def received_line(
    origin: Origin, hostname: str, queue_id: str, now: float, *, protocol: str = "", recipient: Address | None = None
) -> bytes:
    """The Received field of a mail that comes in now, folded, with its CRLF.

    Args:
        protocol: the "with" value; "" takes `origin.protocol`.
        recipient: named in "for"; give it only when it is the only one (RFC 5321 §7.2).
        now: seconds since the epoch.
    """
    return received_tail(received_head(origin, hostname, protocol), queue_id, now, tls=origin.tls, recipient=recipient)


def received_head(origin: Origin, hostname: str, protocol: str = "") -> str:
    """What all Received fields of a session begin with."""
    client = origin.client_address
    literal = f"[IPv6:{client}]" if ":" in client else f"[{client}]" if client else ""
    name = neutralised(origin.client_name)
    seen = f"{name} {literal}" if name and literal else name or literal or "unknown"
    return (
        f"Received: from {neutralised(origin.helo) or 'unknown'} ({seen})\r\n\tby {hostname}"
        f" with {protocol or origin.protocol or 'SMTP'} id "
    )


def received_tail(head: str, queue_id: str, now: float, *, tls: str = "", recipient: Address | None = None) -> bytes:
    """The field that begins with `head`; arguments as of `received_line`."""
    comment = f"\r\n\t({neutralised_comment(tls)})" if tls else ""
    to = f"\r\n\tfor <{recipient}>" if recipient is not None else ""
    return f"{head}{queue_id}{comment}{to};\r\n\t{date(now)}\r\n".encode()


def neutralised_comment(text: str, limit: int = HELO_CHARACTERS) -> str:
    """As `neutralised`, but words may stay apart."""
    return " ".join(neutralised(word, limit) for word in text[:limit].split())


def return_path(sender: Address | None) -> bytes:
    """The Return-Path line that final delivery puts on top (RFC 5321 §4.4)."""
    return f"Return-Path: <{sender if sender is not None else ''}>\r\n".encode()
