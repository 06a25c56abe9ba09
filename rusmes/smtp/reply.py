"""Replies: a code, an enhanced status code, lines of text, and the bytes they are on the wire.

RFC 5321 §4.2 (form and codes), RFC 2034 and 3463 (enhanced status codes), RFC 5248 (their registry). A reply is a value; the
ones that are sent all day are encoded once, at import. Nothing with CR, LF or NUL in it becomes a reply: text that came
from elsewhere goes through `quoted` first.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Final

from rusmes._core.smtp import printable
from rusmes.model.plan import Refusal

LINE_BYTES: Final = 512
"""A reply line with its CRLF; RFC 5321 §4.5.3.1.5. Longer text is continued on a further line."""

QUOTED_CHARACTERS: Final = 200
"""How much of a peer's text we repeat."""

_UNSAFE = re.compile(r"[\r\n\0]")
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


class Reply:
    """One reply. `status` is "" where none belongs (greeting, EHLO, 334, 354). `wire` is its bytes.

    Raises:
        ValueError: the code or status is none, their classes differ, or a line holds CR, LF or NUL.
    """

    __slots__ = ("code", "lines", "status", "wire")

    def __init__(self, code: int, status: str, *lines: str) -> None:
        self.code = code
        self.status = status
        self.lines = lines or ("",)
        self.wire = _encode(code, status, self.lines)

    @property
    def is_positive(self) -> bool:
        return self.code < 400

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.status!r}, {', '.join(map(repr, self.lines))})"


def _encode(code: int, status: str, lines: Iterable[str]) -> bytes:
    if not 200 <= code <= 599:
        raise ValueError(f"{code} is no reply code")
    if status and (not _STATUS.fullmatch(status) or status[0] != str(code)[0]):
        raise ValueError(f"{status!r} is no status for {code}")
    lead = f"{status} " if status else ""
    room = LINE_BYTES - len("250-") - len(lead) - len("\r\n")
    texts: list[str] = []
    for line in lines:
        if _UNSAFE.search(line):
            raise ValueError(f"a reply line with CR, LF or NUL: {line!r}")
        # RFC 6531 §3.7.4 allows UTF-8 only to clients that asked for it; ASCII is right for everyone.
        text = line.encode("ascii", "backslashreplace").decode()
        texts += [text[i : i + room] for i in range(0, len(text), room)] or [""]
    last = len(texts) - 1
    return "".join(f"{code}{' ' if i == last else '-'}{lead}{text}\r\n" for i, text in enumerate(texts)).encode()


def quoted(text: bytes | str, limit: int = QUOTED_CHARACTERS) -> str:
    """Somebody else's text, fit for a reply or a header: printable ASCII, at most `limit` characters."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    shown = printable(data[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


# Made on the spot


def greeting(hostname: str, *, lmtp: bool = False) -> Reply:
    """220: the first thing we say (RFC 5321 §4.2, §4.3.1). No software name or version."""
    return Reply(220, "", f"{hostname} {'LMTP' if lmtp else 'ESMTP'} RusMES")


def hello(hostname: str, keywords: Iterable[str] = (), *, client: str = "") -> Reply:
    """250 to HELO, EHLO and LHLO: our name, then a line for each extension (RFC 5321 §4.1.1.1)."""
    return Reply(250, "", f"{hostname} greets {quoted(client, 64)}" if client else hostname, *keywords)


def challenge(data: bytes) -> Reply:
    """334: the server's part of an AUTH exchange, not yet in base64 (RFC 4954 §4)."""
    encoded = b64encode(data).decode()
    reply = Reply(334, "")
    reply.lines = (encoded,)
    # A challenge is one line however long it is.
    reply.wire = f"334 {encoded}\r\n".encode()
    return reply


def accepted(queue_id: str) -> Reply:
    """250 to the end of a message: it is ours now, and durable."""
    # Once a message: the checks of Reply() cost 2.7 us, and an identifier of ours needs none.
    reply = Reply.__new__(Reply)
    reply.code = 250
    reply.status = "2.0.0"
    reply.lines = (f"OK queued as {queue_id}",)
    reply.wire = f"250 2.0.0 OK queued as {queue_id}\r\n".encode("ascii")
    return reply


def refused(refusal: Refusal) -> Reply:
    """The reply that a refusal of the pipeline or the store stands for."""
    return Reply(refusal.code, refusal.status, *(quoted(line, 1000) for line in refusal.text.splitlines() or ("refused",)))


def too_large(limit: int) -> Reply:
    """552 to a SIZE over the limit (RFC 1870 §6.1)."""
    return Reply(552, "5.3.4", f"Message is larger than {limit} octets")


# 2xx, 3xx

R220_READY_FOR_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS")
R221_BYE: Final = Reply(221, "2.0.0", "Bye")
R235_AUTHENTICATED: Final = Reply(235, "2.7.0", "Authentication succeeded")
R250_OK: Final = Reply(250, "2.0.0", "OK")
R250_SENDER_OK: Final = Reply(250, "2.1.0", "Sender OK")
R250_RECIPIENT_OK: Final = Reply(250, "2.1.5", "Recipient OK")
R250_CHUNK_OK: Final = Reply(250, "2.0.0", "Chunk OK")
R252_CANNOT_VERIFY: Final = Reply(252, "2.5.1", "Send some mail, I will do my best")  # RFC 5321 §3.5.3
R354_GO_AHEAD: Final = Reply(354, "", "End data with <CR><LF>.<CR><LF>")

# 4xx

R421_SHUTTING_DOWN: Final = Reply(421, "4.3.2", "Service is going down, closing connection")
R421_TIMEOUT: Final = Reply(421, "4.4.2", "Timeout, closing connection")
R421_TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors, closing connection")
R421_TOO_MANY_MESSAGES: Final = Reply(421, "4.7.0", "Too many messages in this session, closing connection")
R421_TOO_MANY_CONNECTIONS: Final = Reply(421, "4.7.0", "Too many connections from your address")
R421_OVERLOADED: Final = Reply(421, "4.3.2", "Too busy, try again later")
R421_INTERNAL: Final = Reply(421, "4.3.0", "Internal error, closing connection")
R450_RATE_LIMITED: Final = Reply(450, "4.7.1", "Too many messages from you, try again later")
R451_STORE_FAILED: Final = Reply(451, "4.3.0", "Cannot store the message now, try again later")
R452_STORE_FULL: Final = Reply(452, "4.3.1", "Not enough space, try again later")
R452_TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients")
R454_AUTH_UNAVAILABLE: Final = Reply(454, "4.7.0", "Cannot check credentials now, try again later")
R454_TLS_UNAVAILABLE: Final = Reply(454, "4.7.0", "TLS is not available now")

# 5xx: the wire

R500_LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Line too long")
R500_SYNTAX: Final = Reply(500, "5.5.2", "Syntax error")
R500_BARE_NEWLINE: Final = Reply(500, "5.5.2", "Lines end in <CR><LF>, closing connection")
R500_UNKNOWN: Final = Reply(500, "5.5.1", "Unknown command")
R501_SYNTAX: Final = Reply(501, "5.5.2", "Syntax error in arguments")
R501_ARGUMENTS: Final = Reply(501, "5.5.4", "Bad arguments")
R501_NO_ARGUMENTS: Final = Reply(501, "5.5.4", "This command takes no arguments")
R501_MAIL_SYNTAX: Final = Reply(501, "5.5.2", "Syntax: MAIL FROM:<address>")
R501_RCPT_SYNTAX: Final = Reply(501, "5.5.2", "Syntax: RCPT TO:<address>")
R501_PARAMETERS: Final = Reply(501, "5.5.4", "Syntax error in parameters")
R501_CHUNK_SIZE: Final = Reply(501, "5.5.4", "Bad chunk size, closing connection")
R501_AUTH_CANCELLED: Final = Reply(501, "5.7.0", "Authentication cancelled")
R501_AUTH_MALFORMED: Final = Reply(501, "5.5.2", "Malformed authentication data")
R501_HELLO: Final = Reply(501, "5.5.4", "A host name is needed")
R502_NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Command not implemented")
R503_BAD_SEQUENCE: Final = Reply(503, "5.5.1", "Bad sequence of commands")
R503_HELLO_FIRST: Final = Reply(503, "5.5.1", "Say hello first")
R503_NO_TRANSACTION: Final = Reply(503, "5.5.1", "MAIL first")
R503_NO_RECIPIENT: Final = Reply(503, "5.5.1", "RCPT first")
R503_IN_TRANSACTION: Final = Reply(503, "5.5.1", "Not inside a mail transaction")
R503_NESTED_MAIL: Final = Reply(503, "5.5.1", "Sender already given")
R503_CHUNKS_ONLY: Final = Reply(503, "5.5.1", "BDAT was used, only BDAT or RSET can follow")
R503_BINARY_NEEDS_BDAT: Final = Reply(503, "5.5.1", "BODY=BINARYMIME needs BDAT")  # RFC 3030 §3
R503_ALREADY_TLS: Final = Reply(503, "5.5.1", "TLS is already active")
R503_ALREADY_AUTHENTICATED: Final = Reply(503, "5.5.1", "Already authenticated")
R500_WRONG_HELLO: Final = Reply(500, "5.5.1", "LMTP says LHLO, SMTP says EHLO")  # RFC 2033 §4.1
R504_MECHANISM: Final = Reply(504, "5.5.4", "Unknown authentication mechanism")
R554_EARLY_TALKER: Final = Reply(554, "5.5.0", "You spoke before the greeting, closing connection")
R554_EARLY_DATA: Final = Reply(554, "5.5.0", "You did not wait for the reply, closing connection")  # RFC 2920 §3.1
R554_NOT_SMTP: Final = Reply(554, "5.5.1", "This is a mail server, closing connection")
R554_NO_RECIPIENTS: Final = Reply(554, "5.5.1", "No valid recipients")  # RFC 5321 §3.3

# 5xx: policy and content

R530_AUTH_REQUIRED: Final = Reply(530, "5.7.0", "Authentication required")
R530_TLS_REQUIRED: Final = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
R535_AUTH_FAILED: Final = Reply(535, "5.7.8", "Authentication failed")
R538_TLS_REQUIRED: Final = Reply(538, "5.7.11", "Encryption required for authentication")
R550_UNKNOWN_USER: Final = Reply(550, "5.1.1", "No such user here")
R550_NOT_PERMITTED: Final = Reply(550, "5.7.0", "Not permitted")
R550_BARE_NEWLINE: Final = Reply(550, "5.6.0", "Message has bare <CR> or <LF>")
R550_NUL: Final = Reply(550, "5.6.0", "Message has NUL octets")
R550_MBOX_FROM: Final = Reply(550, "5.6.0", 'Message begins with an mbox "From " line')
R550_RELAY_DENIED: Final = Reply(550, "5.7.1", "Relaying denied")
R552_TOO_LARGE: Final = Reply(552, "5.3.4", "Message is too large")
R552_HEADER_TOO_LARGE: Final = Reply(552, "5.3.4", "Message header is too large")
R554_ROUTING_LOOP: Final = Reply(554, "5.4.6", "Too many hops")
