"""The text that a program gives to sendmail, made into a message: line ends, missing fields, recipients of the header."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import policy
from email.errors import MessageError
from email.parser import BytesHeaderParser
from email.utils import formataddr, formatdate, getaddresses, make_msgid
from typing import BinaryIO, Final

from rusmes._core import headers
from rusmes.cli.sysexits import EX_DATAERR, Exit

RECIPIENT_FIELDS: Final = ("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc")

_LINE_END: Final = re.compile(rb"\r\n|\n")


def read_message(stream: BinaryIO, *, ends_at_dot: bool, max_bytes: int) -> bytes:
    """With CRLF at every line end. A line with a single dot ends it, unless told otherwise. Raises Exit."""
    data = bytearray()
    for line in _lines(stream):
        if ends_at_dot and line in (b".\n", b".\r\n", b"."):
            break
        data += line
        if len(data) > max_bytes:
            raise Exit(EX_DATAERR, f"the message is larger than {max_bytes} bytes")
    text = _LINE_END.sub(b"\r\n", bytes(data))
    if b"\0" in text:
        raise Exit(EX_DATAERR, "the message has a NUL octet")
    return text if not text or text.endswith(b"\r\n") else text + b"\r\n"


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(1 << 16):
        yield line


def with_header(message: bytes, sender: str, full_name: str, hostname: str, now: float) -> bytes:
    """The message with the fields that none is without; text that begins with no field is a body. Raises Exit."""
    if message.startswith(b"From "):
        message = message[message.find(b"\r\n") + 2 :]  # of a mbox file
    block, body = _split(message)
    present = {name.lower() for name, _ in headers.fields(block)} if block else set()
    added = b""
    if b"from" not in present:
        given = formataddr((full_name, sender or f"MAILER-DAEMON@{hostname}"))
        added += f"From: {given}\r\n".encode()
    if b"date" not in present:
        added += f"Date: {formatdate(now, localtime=True)}\r\n".encode()
    if b"message-id" not in present:
        added += f"Message-ID: {make_msgid(domain=hostname)}\r\n".encode()
    return block + added + b"\r\n" + body


def _split(message: bytes) -> tuple[bytes, bytes]:
    """The header lines and the body."""
    if message.startswith(b"\r\n"):
        return b"", message[2:]
    end = message.find(b"\r\n\r\n")
    block = message if end < 0 else message[: end + 2]
    good = _length_of_header(block)
    if good == len(block):
        return block, b"" if end < 0 else message[end + 4 :]
    return block[:good], message[good:]


_FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")


def _length_of_header(block: bytes) -> int:
    """Up to the first line that belongs to no field: what begins there is the body, as sendmails have always seen it."""
    at = 0
    while (match := _FIELD.match(block, at)) is not None:
        at = match.end()
    return at


def recipients_in(message: bytes) -> list[str]:
    """The addresses of its recipient fields; those of Resent- fields when there are any (RFC 5322 §3.6.6). Raises Exit."""
    block, _ = _split(message)
    try:
        header = BytesHeaderParser(policy=policy.compat32).parsebytes(block)
        is_resent = any(header.get(name) is not None for name in RECIPIENT_FIELDS if name.startswith("resent-"))
        wanted = [name for name in RECIPIENT_FIELDS if name.startswith("resent-") == is_resent]
        values = [str(value) for name in wanted for value in header.get_all(name, [])]
    except (MessageError, ValueError) as error:
        raise Exit(EX_DATAERR, f"the header cannot be read: {error}") from None
    found = [address for _, address in getaddresses(values) if address]
    if any(value.strip() for value in values) and not found:
        raise Exit(EX_DATAERR, "no address can be found in To, Cc and Bcc")
    return found


def without_hidden(message: bytes) -> bytes:
    """Without Bcc, which nobody is to see."""
    block, body = _split(message)
    return headers.without(block, {b"bcc", b"resent-bcc"}) + b"\r\n" + body if block else message
