"""The client's half of SMTP as bytes: replies in, commands and bodies out; no sockets.

RFC 5321 §4.2 (replies), §4.1.1 (commands), §4.5.2 (dots), §2.3.8 and §4.5.3.1.6 (lines); RFC 1870 SIZE, RFC 2920 PIPELINING,
RFC 3030 CHUNKING, RFC 3461 DSN, RFC 6152 8BITMIME, RFC 6531 SMTPUTF8, RFC 6533 ORCPT, RFC 8689 REQUIRETLS, RFC 9422 LIMITS.

A peer's text is data from a stranger: it is bounded before it is kept, and its control characters never get further than here.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from rusmes._core.wire import LONG, UNCLEAN, examine, plain_parts, simple_reply
from rusmes.errors import PeerError
from rusmes.model.address import Address
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS, Recipient

MAX_REPLY_LINE_BYTES: Final = 4096
"""RFC 5321 §4.5.3.1.5 says 512; servers send more."""
MAX_REPLY_BYTES: Final = 64 * 1024
"""Of all lines of one reply. An EHLO reply has about 500."""
MAX_TEXT: Final = 1000
"""Characters of a reply that are kept for the row, the log and the notice."""
MAX_LINE_BYTES: Final = 998
"""Without CRLF (RFC 5321 §4.5.3.1.6)."""

_STATUS = re.compile(rb"([245]\.\d{1,3}\.\d{1,3})(?: +|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class MalformedReply(PeerError):
    """The server does not speak SMTP, or speaks without end, or out of turn. The connection is of no use any more."""


class Reply(Struct, frozen=True, gc=False):
    """A server's reply; `lines` are its raw lines without code and separator."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def parts(self) -> tuple[str, str]:
        """The enhanced status code (RFC 2034), "" when there is none or its class is not the reply's; and the text without
        it: one line, harmless, at most 1000 characters."""
        lines = self.lines
        plain = plain_parts(self.code, lines[0]) if len(lines) == 1 else None
        if plain is not None:
            return plain
        match = _STATUS.match(lines[-1])
        if match is None or lines[-1][0] - 48 != self.code // 100:
            return "", harmless(b" ".join(lines).decode("utf-8", "replace"))
        if len(lines) == 1:
            return match[1].decode(), harmless(lines[0][match.end() :].decode("utf-8", "replace"))
        status = match[1]
        kept = [line[len(status) :].lstrip() if line.startswith(status) else line for line in lines]
        return status.decode(), harmless(b" ".join(kept).decode("utf-8", "replace"))

    @property
    def status(self) -> str:
        return self.parts[0]

    @property
    def text(self) -> str:
        return self.parts[1]

    def __str__(self) -> str:
        return f"{self.code} {harmless(b' '.join(self.lines).decode('utf-8', 'replace'))}"


def harmless(text: str, limit: int = MAX_TEXT) -> str:
    """The text on one line, without control characters, and not longer than `limit`."""
    text = text[: limit + 1]
    if not text.isprintable():
        text = _CONTROL.sub(" ", text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class ReplyReader:
    """Cuts what a server sends into replies.

    `expected` is how many it owes us; one that comes uncalled-for is an attack or a bug (a reply must never be matched to
    a later command).
    """

    __slots__ = ("_buffer", "_lines", "_size", "_start", "expected")

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0
        """What is in front of it has been read."""
        self._lines: list[bytes] = []
        self._size = 0
        self.expected = 1  # the greeting

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left over: no part of a reply, no reply that we did not ask for."""
        return self._start == len(self._buffer) and not self._lines

    def expect(self, count: int = 1) -> None:
        """Commands are about to be sent.

        Raises:
            MalformedReply: the server has answered already.
        """
        if not self.expected and not self.is_clean:
            raise MalformedReply("a reply came before its command", harmless(repr(self._buffer[self._start :][:200])))
        self.expected += count

    def feed(self, data: bytes) -> None:
        """Add what was received.

        Raises:
            MalformedReply: more than can be an answer.
        """
        self._buffer = data if self._start == len(self._buffer) else self._buffer[self._start :] + data
        self._start = 0
        if len(self._buffer) > MAX_REPLY_BYTES + self.expected * MAX_REPLY_LINE_BYTES:
            raise MalformedReply("the server's reply has no end", f"{len(self._buffer)} bytes")

    def next_reply(self) -> Reply | None:
        """The next complete reply; None when more bytes are needed.

        Raises:
            MalformedReply
        """
        if self._start == len(self._buffer):
            return None
        if self.expected and not self._lines:
            simple = simple_reply(self._buffer, self._start)
            if simple is not None:
                code, text, self._start = simple
                self.expected -= 1
                return Reply(code, (text,))
        self._buffer, self._start = self._buffer[self._start :], 0
        return self._next_line()

    def _next_line(self) -> Reply | None:
        """Line by line, for replies of several lines and whatever else a server says."""
        while True:
            buffer = self._buffer
            end = buffer.find(b"\n")
            if (end if end >= 0 else len(buffer)) > MAX_REPLY_LINE_BYTES:
                raise MalformedReply("a line of the reply is too long", harmless(repr(buffer[:200])))
            if end < 0:
                return None
            line = buffer[: end - 1] if buffer[end - 1 : end] == b"\r" else buffer[:end]
            self._buffer = buffer[end + 1 :]
            code = line[:3]
            if not code.isdigit() or not b"200" <= code <= b"599" or line[3:4] not in (b"", b" ", b"-"):
                raise MalformedReply("the server does not speak SMTP", harmless(repr(line[:200])))
            if line[3:4] == b"-":
                self._size += len(line)
                if self._size > MAX_REPLY_BYTES:
                    raise MalformedReply("the server's reply has no end", f"{len(self._lines)} lines")
                self._lines.append(line[4:])
                continue
            # A server may say goodbye at any time (RFC 5321 §3.8); anything else without a question is out of turn.
            if self.expected:
                self.expected -= 1
            elif code != b"421":
                raise MalformedReply("a reply came before its command", harmless(repr(line[:200])))
            if self._lines:
                lines = (*self._lines, line[4:])
                self._lines = []
                self._size = 0
                return Reply(int(code), lines)
            return Reply(int(code), (line[4:],))


class Extensions(Struct, frozen=True, gc=False):
    """What a server offers (RFC 5321 §4.1.1.1)."""

    name: str = ""
    esmtp: bool = False
    pipelining: bool = False
    size: int | None = None
    """None: no SIZE offered; 0: no limit told."""
    eightbit: bool = False
    smtputf8: bool = False
    starttls: bool = False
    chunking: bool = False
    binarymime: bool = False
    dsn: bool = False
    requiretls: bool = False
    auth: tuple[str, ...] = ()
    max_recipients: int = 0
    """LIMITS RCPTMAX; 0 = not told."""
    max_messages: int = 0
    """LIMITS MAILMAX; 0 = not told."""


def read_extensions(reply: Reply) -> Extensions:
    """The extensions of an EHLO reply; of an unreadable parameter only the keyword counts."""
    words: dict[str, list[str]] = {}
    for line in reply.lines[1:]:
        parts = line.decode("ascii", "replace").replace("AUTH=", "AUTH ", 1).split()
        if parts:
            words.setdefault(parts[0].upper(), []).extend(part.upper() for part in parts[1:])
    limits = dict(part.split("=", 1) for part in words.get("LIMITS", ()) if "=" in part)
    size = words.get("SIZE")
    first = reply.lines[0].split()
    return Extensions(
        name=harmless(first[0].decode("ascii", "replace"), 255) if first else "",
        esmtp=True,
        pipelining="PIPELINING" in words,
        size=None if size is None else _number(size[0]) if size else 0,
        eightbit="8BITMIME" in words,
        smtputf8="SMTPUTF8" in words,
        starttls="STARTTLS" in words,
        chunking="CHUNKING" in words,
        binarymime="BINARYMIME" in words,
        dsn="DSN" in words,
        requiretls="REQUIRETLS" in words,
        auth=tuple(words.get("AUTH", ())),
        max_recipients=_number(limits.get("RCPTMAX", "")),
        max_messages=_number(limits.get("MAILMAX", "")),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


# Commands


def ehlo_command(hostname: str) -> bytes:
    return _line(f"EHLO {hostname}")


def helo_command(hostname: str) -> bytes:
    return _line(f"HELO {hostname}")


def mail_command(
    sender: Address | None,
    offered: Extensions,
    *,
    size: int = 0,
    body: str = "",
    smtputf8: bool = False,
    requiretls: bool = False,
    ret: str = "",
    envid: str = "",
) -> bytes:
    """MAIL with those parameters that the server offers; `body` and `smtputf8` are what the message needs.

    Raises:
        ValueError: the address holds CR, LF or NUL.
    """
    line = f"MAIL FROM:<{sender}>" if sender is not None else "MAIL FROM:<>"
    if size and offered.size is not None:
        line += f" SIZE={size}"
    if body:
        line += f" BODY={body}"
    if smtputf8:
        line += " SMTPUTF8"
    if requiretls:
        line += " REQUIRETLS"
    if offered.dsn:
        if ret:
            line += f" RET={ret}"
        if envid:
            line += f" ENVID={xtext(envid)}"
    return _line(line)


def rcpt_command(recipient: Recipient, offered: Extensions, *, smtputf8: bool = False) -> bytes:
    """RCPT, with NOTIFY and ORCPT where the server offers DSN (RFC 3461 §5.2.1).

    Raises:
        ValueError: the address holds CR, LF or NUL.
    """
    line = f"RCPT TO:<{recipient.address}>"
    if offered.dsn:
        if recipient.notify:
            line += f" NOTIFY={notify_text(recipient.notify)}"
        if recipient.orcpt:
            kind, _, address = recipient.orcpt.partition(";")
            if kind.lower() == "utf-8":
                line += f" ORCPT={kind};{utf8_xtext(address, keep_utf8=smtputf8)}"
            elif address.isascii():
                line += f" ORCPT={kind};{xtext(address)}"
    return _line(line)


def notify_text(notify: int) -> str:
    """The value of NOTIFY (RFC 3461 §4.1)."""
    if notify & NOTIFY_NEVER:
        return "NEVER"
    names = ((NOTIFY_SUCCESS, "SUCCESS"), (NOTIFY_FAILURE, "FAILURE"), (NOTIFY_DELAY, "DELAY"))
    return ",".join(name for flag, name in names if notify & flag)


def xtext(text: str) -> str:
    """RFC 3461 §4."""
    if text.isalnum() and text.isascii():
        return text
    return "".join(
        chr(byte) if 33 <= byte <= 126 and byte not in (0x2B, 0x3D) else f"+{byte:02X}" for byte in text.encode("utf-8")
    )


def utf8_xtext(text: str, *, keep_utf8: bool = False) -> str:
    """An address of type utf-8 (RFC 6533 §3): \\x{HEX} for what may not stand as it is; in ASCII unless `keep_utf8`."""
    def stays(c: str) -> bool:
        return c not in "\\+=" if "!" <= c <= "~" else keep_utf8 and c >= "\xa0" and c.isprintable()

    return "".join(c if stays(c) else f"\\x{{{ord(c):02X}}}" for c in text)


def _line(text: str) -> bytes:
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError("CR, LF or NUL in a command")
    return text.encode("utf-8") + b"\r\n"


# Bodies

_LINE_END = re.compile(rb"\r+\n?|\n")


class LineTooLong(Exception):
    """A line is above 998 octets, and the policy is to fail."""


class BodyEncoder:
    """Makes of stored bytes what DATA (or BDAT, without `dots`) carries.

    Every line ends with CRLF and no CR or LF stands alone (RFC 5321 §2.3.8: a lone one could be read as a line end by
    the next server, and the rest of the message as commands); the last line is ended; dots are doubled (§4.5.2). A line
    longer than 998 octets is treated by `long_lines`: fold (CRLF and a space), fail or keep. Bytes that are already so
    are passed on as they are.
    """

    __slots__ = ("_carry", "_dots", "_long_lines", "_mid_line")

    def __init__(self, *, dots: bool = True, long_lines: str = "fold") -> None:
        self._dots = dots
        self._long_lines = long_lines
        self._carry = b""
        """The line that is not complete yet, with a CR at its end whose LF may be in the next chunk."""
        self._mid_line = False
        """The beginning of the current line has gone out (only of long lines that are kept)."""

    def whole(self, data: bytes) -> bytes:
        """A whole message at once, with the final dot when there are dots.

        Raises:
            LineTooLong
        """
        needs = examine(data)
        if not needs:
            return data + b".\r\n" if self._dots else data
        if needs & UNCLEAN or (needs & LONG and self._long_lines != "keep"):
            return self.chunk(data) + self.finish()
        data = self._stuffed(data)
        return data + b".\r\n" if self._dots else data

    def chunk(self, data: bytes) -> bytes:
        """The next bytes; of a line that is not complete yet up to 998 octets are kept.

        Raises:
            LineTooLong
        """
        data = self._carry + data if self._carry else data
        end = data.rfind(b"\r\n") + 2 if b"\r\n" in data else 0
        data, rest, held = data[:end], data[end:], b""
        needs = examine(data) if data else 0
        if needs & UNCLEAN or b"\r" in rest or b"\n" in rest:
            data += rest
            body = data.rstrip(b"\r")
            held = b"\r" if len(body) < len(data) else b""
            body = _LINE_END.sub(b"\r\n", body)
            end = body.rfind(b"\r\n")
            data, rest = (body[: end + 2], body[end + 2 :]) if end >= 0 else (b"", body)
            needs = examine(data) if data else 0
        if needs & LONG and self._long_lines != "keep":
            data = self._folded(data)
        if len(rest) > MAX_LINE_BYTES:
            if self._long_lines == "keep":
                data, rest = data + rest, b""
            else:
                head, _, rest = self._folded(rest).rpartition(b"\r\n")
                data += head + b"\r\n"
        self._carry = rest + held
        return self._stuffed(data)

    def finish(self) -> bytes:
        """What is left, the end of the last line, and the final dot when there are dots."""
        end = b""
        if self._carry or self._mid_line:
            end = self._stuffed(self._carry.rstrip(b"\r")) + b"\r\n"
        self._carry = b""
        self._mid_line = False
        return end + b".\r\n" if self._dots else end

    def _stuffed(self, data: bytes) -> bytes:
        if not data:
            return data
        at_line_start = not self._mid_line
        self._mid_line = data[-2:] != b"\r\n"
        if not self._dots:
            return data
        if b"\r\n." in data:
            data = data.replace(b"\r\n.", b"\r\n..")
        return b"." + data if at_line_start and data[:1] == b"." else data

    def _folded(self, data: bytes) -> bytes:
        if self._long_lines == "fail":
            raise LineTooLong
        return b"\r\n".join(self._fold_line(line) if len(line) > MAX_LINE_BYTES else line for line in data.split(b"\r\n"))

    @staticmethod
    def _fold_line(line: bytes) -> bytes:
        """The line in pieces of at most 998 octets, joined by CRLF and a space; no UTF-8 sequence is torn."""
        pieces = []
        start, room = 0, MAX_LINE_BYTES
        while len(line) - start > room:
            cut = start + room
            while cut > start + room - 4 and line[cut] & 0xC0 == 0x80:
                cut -= 1
            pieces.append(line[start:cut])
            start, room = cut, MAX_LINE_BYTES - 1
        pieces.append(line[start:])
        return b"\r\n ".join(pieces)
