"""Reports about mail that this server sent: delivery status notifications and complaints.

RFC 3464 (DSN), RFC 3462 and 6522 (multipart/report), RFC 6533 (internationalized DSN), RFC 5965 (ARF), and two forms from
before them that are still sent: qmail's QSBMF and Exim's X-Failed-Recipients. Everything in a report is a stranger's word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import MessageError
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from typing import Final

from msgspec import Struct

MAX_BYTES: Final = 512 * 1024
"""Of a report; what is behind is not read. A report begins with what counts."""
MAX_RECIPIENTS: Final = 1000
MAX_DEPTH: Final = 10
MAX_TEXT: Final = 1000

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_STATUS: Final = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")
_CODE: Final = re.compile(r"(?:^|\D)([45]\d\d)(?=[\s\-]|$)")
_ADDRESS: Final = re.compile(r"<([^<>\s]{1,256}@[^<>\s]{1,256})>")
_QSBMF: Final = "Hi. This is the"
"""RFC 3464's elder: https://cr.yp.to/proto/qsbmf.txt."""


class ReportedRecipient(Struct, frozen=True):
    """One recipient of a DSN. `action` is failed | delayed | delivered | relayed | expanded (RFC 3464 §2.3.3)."""

    address: str
    """Final-Recipient."""
    original: str = ""
    """Original-Recipient: what we called it in ORCPT."""
    action: str = "failed"
    status: str = ""
    code: int = 0
    text: str = ""
    """Diagnostic-Code, or what a person was to read; one line of at most 1000 characters."""
    host: str = ""
    """Remote-MTA."""


class Returned(Struct, frozen=True):
    """What a report says of the message it is about."""

    message_id: str = ""
    """With its angle brackets."""
    sender: str = ""
    """Return-Path."""
    to: tuple[str, ...] = ()
    subject: str = ""
    fields: dict[str, str] = {}
    """The other fields of its header by their lower-case names, the first of each."""


class DeliveryReport(Struct, frozen=True):
    """A DSN: what another server says became of our mail."""

    recipients: tuple[ReportedRecipient, ...]
    envelope_id: str = ""
    """ENVID as we gave it (RFC 3461)."""
    reporting_host: str = ""
    returned: Returned = Returned()


class Complaint(Struct, frozen=True):
    """An abuse report: what a user of another server says of our mail. Every field but the type may be redacted."""

    feedback_type: str
    """abuse | fraud | virus | not-spam | opt-out | other."""
    recipients: tuple[str, ...] = ()
    """Original-Rcpt-To, else whom the returned message was to."""
    sender: str = ""
    source_ip: str = ""
    user_agent: str = ""
    reported_domain: str = ""
    returned: Returned = Returned()


def read_report(message: bytes) -> DeliveryReport | Complaint | None:
    """What a message reports; None when it is no report (a person's answer, an automatic reply)."""
    try:
        root = BytesParser(policy=compat32).parsebytes(message[:MAX_BYTES])
        return _read(root)
    except (MessageError, RecursionError, LookupError, ValueError):
        return None


def _read(root: Message) -> DeliveryReport | Complaint | None:
    parts = list(_parts(root))
    returned = _returned(parts)
    for part in parts:
        kind = part.get_content_type()
        if kind in ("message/delivery-status", "message/global-delivery-status"):
            found = _delivery_report(part, returned)
            if found is not None:
                return found
        elif kind == "message/feedback-report":
            return _complaint(part, returned)
    return _exim(root, parts, returned) or _qsbmf(parts)


def _parts(part: Message, depth: int = 0) -> Iterator[Message]:
    """All parts but those of returned messages."""
    yield part
    if depth >= MAX_DEPTH or not part.is_multipart() or part.get_content_maintype() == "message":
        return
    payload = part.get_payload()
    if isinstance(payload, list):
        for child in payload:
            if isinstance(child, Message):
                yield from _parts(child, depth + 1)


def line(text: object, most: int = MAX_TEXT) -> str:
    """One line without control characters."""
    return _CONTROLS.sub(" ", str(text)).strip()[:most]


def _field(part: Message, name: str, most: int = MAX_TEXT) -> str:
    return line(part.get(name) or "", most)


def _typed(value: str) -> str:
    """ "rfc822; user@example.com" without its type, xtext of RFC 3461 §4 left as it is."""
    kind, semicolon, rest = value.partition(";")
    return (rest if semicolon else kind).strip().strip("<>")


def _blocks(part: Message) -> list[Message]:
    """The groups of fields of a message/delivery-status body: the parser makes a Message of each."""
    payload = part.get_payload()
    if isinstance(payload, list) and part.get_content_type() != "message/global-delivery-status":
        return [block for block in payload if isinstance(block, Message)]
    # The parser takes message/global-delivery-status for one message; bodies with a transfer encoding come as they are.
    inner = payload[0] if isinstance(payload, list) and payload else None
    raw = inner.as_bytes() if isinstance(inner, Message) else part.get_payload(decode=True)
    if not isinstance(raw, bytes):
        return []
    groups = re.split(rb"\r?\n[ \t]*\r?\n", raw.strip(b"\r\n"))
    return [BytesParser(policy=compat32).parsebytes(group + b"\n\n") for group in groups[: MAX_RECIPIENTS + 1]]


def _delivery_report(part: Message, returned: Returned) -> DeliveryReport | None:
    envelope_id = reporting_host = ""
    recipients: list[ReportedRecipient] = []
    for block in _blocks(part):
        reporting_host = reporting_host or _typed(_field(block, "Reporting-MTA", 255))
        envelope_id = envelope_id or _field(block, "Original-Envelope-Id", 100)
        final = _typed(_field(block, "Final-Recipient", 512))
        original = _typed(_field(block, "Original-Recipient", 512))
        if not (final or original) or len(recipients) >= MAX_RECIPIENTS:
            continue
        text = _field(block, "Diagnostic-Code")
        text = _typed(text) if text.lower().startswith(("smtp;", "x-")) else text
        status = _STATUS.search(_field(block, "Status", 100)) or _STATUS.search(text)
        code = _CODE.search(text[:20])
        recipients.append(
            ReportedRecipient(
                final or original,
                original,
                _field(block, "Action", 20).lower() or "failed",
                status.group(1) if status else "",
                int(code.group(1)) if code else 0,
                text,
                _typed(_field(block, "Remote-MTA", 255)),
            )
        )
    if not recipients:
        return None
    return DeliveryReport(tuple(recipients), envelope_id, reporting_host, returned)


def _complaint(part: Message, returned: Returned) -> Complaint | None:
    blocks = _blocks(part)
    if not blocks:
        return None
    block = blocks[0]
    stated = tuple(line(value, 512).strip("<>") for value in block.get_all("Original-Rcpt-To", [])[:MAX_RECIPIENTS])
    return Complaint(
        _field(block, "Feedback-Type", 40).lower() or "other",
        stated or returned.to,
        _field(block, "Original-Mail-From", 512).strip("<>") or returned.sender,
        _field(block, "Source-IP", 64),
        _field(block, "User-Agent", 200),
        _field(block, "Reported-Domain", 255).lower(),
        returned,
    )


def _returned(parts: list[Message]) -> Returned:
    """The header of the message that came back, in any of the forms of RFC 6522 §3 and RFC 6533 §4."""
    for part in parts[1:]:
        kind = part.get_content_type()
        if kind in ("message/rfc822", "message/global"):
            payload = part.get_payload()
            if isinstance(payload, list) and payload and isinstance(payload[0], Message):
                return _of_header(payload[0])
        elif kind in ("text/rfc822-headers", "message/global-headers"):
            pass
        else:
            continue
        raw = part.get_payload(decode=True)
        if isinstance(raw, bytes):
            return _of_header(BytesParser(policy=compat32).parsebytes(raw, headersonly=True))
    return Returned()


def _of_header(header: Message) -> Returned:
    fields: dict[str, str] = {}
    for name, value in header.items()[:200]:
        fields.setdefault(name.lower(), line(value))
    to = tuple(dict.fromkeys(re.findall(r"[^\s<>,;:\"]{1,256}@[^\s<>,;:\"]{1,256}", fields.get("to", ""))))
    return Returned(
        fields.get("message-id", "")[:998],
        fields.get("return-path", "").strip("<>"),
        to[:MAX_RECIPIENTS],
        fields.get("subject", ""),
        fields,
    )


def _text_of(parts: list[Message]) -> str:
    for part in parts:
        if part.get_content_maintype() == "text":
            raw = part.get_payload(decode=True)
            if isinstance(raw, bytes):
                return raw.decode("utf-8", "replace")
    return ""


def _diagnosis(address: str, text: str) -> ReportedRecipient:
    status, code = _STATUS.search(text), _CODE.search(text)
    return ReportedRecipient(
        address, "", "failed", status.group(1) if status else "", int(code.group(1)) if code else 0, line(text)
    )


def _exim(root: Message, parts: list[Message], returned: Returned) -> DeliveryReport | None:
    """X-Failed-Recipients beside a text in which the reason follows each address."""
    failed = [address.strip() for address in _field(root, "X-Failed-Recipients", 10_000).split(",") if "@" in address]
    if not failed:
        return None
    text = _text_of(parts)
    recipients = []
    for address in failed[:MAX_RECIPIENTS]:
        at = text.find(address)
        said = text[at + len(address) : at + len(address) + MAX_TEXT] if at >= 0 else ""
        recipients.append(_diagnosis(address, re.split(r"\r?\n[ \t]*\r?\n", said.lstrip(), maxsplit=1)[0]))
    return DeliveryReport(tuple(recipients), "", "", returned)


def _qsbmf(parts: list[Message]) -> DeliveryReport | None:
    text = _text_of(parts)
    if not text.lstrip().startswith(_QSBMF):
        return None
    paragraphs = re.split(r"\r?\n[ \t]*\r?\n", text)
    recipients: list[ReportedRecipient] = []
    below = len(paragraphs)
    for at, paragraph in enumerate(paragraphs[1:], 1):
        if paragraph.startswith("---"):
            below = at
            break
        head = _ADDRESS.match(paragraph.strip())
        if head and len(recipients) < MAX_RECIPIENTS:
            recipients.append(_diagnosis(head.group(1), paragraph.strip()[head.end() :].lstrip(":")))
    if not recipients:
        return None
    rest = "\n\n".join(paragraphs[below + 1 :]).encode("utf-8", "surrogateescape")
    header = BytesParser(policy=compat32).parsebytes(rest.lstrip(), headersonly=True)
    return DeliveryReport(tuple(recipients), "", "", _of_header(header))
