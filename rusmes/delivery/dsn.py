"""Notices to senders: failed, delayed, delivered, relayed, expanded.

RFC 3461 (who wants which), RFC 3464 (the machine's part), RFC 6522 (multipart/report), RFC 6533 (internationalized notices),
RFC 3834 §5 (Auto-Submitted), RFC 5321 §6.1 (null sender; no notice about a notice).

Everything a notice quotes came from strangers: the envelope, the replies, the header. Values are put on one line, without
control characters, and folded; only the returned header or message is quoted as it is, inside its own part.
"""

from __future__ import annotations

from binascii import b2a_qp
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Final

from msgspec import Struct

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.log import get_logger
from rusmes.metrics import BOUNCES, DELAY_NOTICES, Metrics
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS, Mail, Origin, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Report
from rusmes.smtp.exchange import harmless, utf8_xtext
from rusmes.storage.api import ContentWriter

MAX_HEADER_BYTES: Final = 64 * 1024
"""Of the returned header."""
MAX_LISTED: Final = 1000
"""Recipients in one notice; the transaction that failed had no more (RFC 5321 §4.5.3.1.8 asks for 100)."""
HOUR_SECONDS: Final = 3600.0
FOLD_AT: Final = 76
MAX_WORD: Final = 900
"""A longer word is cut: no line of a notice is above 998 octets."""

_log = get_logger("delivery")

_WANTED: Final = {
    "failed": NOTIFY_FAILURE,
    "delayed": NOTIFY_DELAY,
    "delivered": NOTIFY_SUCCESS,
    "relayed": NOTIFY_SUCCESS,
    "expanded": NOTIFY_SUCCESS,
}
_SUBJECTS: Final = {
    "failed": "Your message could not be delivered",
    "delayed": "Your message is delayed",
    "delivered": "Your message was delivered",
    "relayed": "Your message was passed on",
    "expanded": "Your message was passed on",
}
_EXPLANATIONS: Final = {
    "failed": "Your message could not be delivered to the recipients below. It will not be tried again.",
    "delayed": "Your message could not be delivered yet to the recipients below. You need not send it again: it is being tried"
    " until {until}.",
    "delivered": "Your message was delivered to the mailboxes of the recipients below.",
    "relayed": "Your message was passed on for the recipients below, to a server that does not report when it is delivered.",
    "expanded": "Your message was delivered to the addresses below. Each stands for several recipients, who get it too.",
}
_STATUSES: Final = {"failed": "5.0.0", "delayed": "4.0.0", "delivered": "2.0.0", "relayed": "2.0.0", "expanded": "2.0.0"}


class Original(Struct):
    """What a notice says about the mail it is about."""

    id: bytes
    sender: Address | None
    rendering: Rendering
    origin: Origin
    created: float
    body_type: str
    smtputf8: bool
    ret: str
    envid: str
    requiretls: bool

    @classmethod
    def of(cls, mail: Queued | Mail) -> Original:
        prepended = b"".join(mail.prepended) if isinstance(mail, Mail) else b""
        rendering = Rendering(mail.content, prepended) if isinstance(mail, Mail) else mail.rendering
        return cls(
            mail.id, mail.sender, rendering, mail.origin, mail.created, mail.body_type, mail.smtputf8,
            "HDRS" if mail.requiretls else mail.ret,  # RFC 8689 §5: never the content
            mail.envid, mail.requiretls,
        )  # fmt: skip


class DsnWriter:
    """Implements `mailet.api.Notices` and `queue.api.NoticeWriter`. `writer` opens a content in the queue's store."""

    def __init__(
        self,
        config: Config,
        writer: Callable[[], ContentWriter],
        clock: Clock,
        ids: IdSource,
        hostname: str,
        metrics: Metrics | None = None,
        *,
        limits: SharedCounters | None = None,
    ) -> None:
        self._config = config
        self._limits = limits or SharedCounters(1, 1024)
        self._writer = writer
        self._clock = clock
        self._ids = ids
        self._hostname = hostname
        self._metrics = metrics

    def apply(self, config: Config) -> None:
        self._config = config

    def failure(self, mail: Mail, recipients: Sequence[Recipient], refusal: Refusal) -> Mail | None:
        """A failure the pipeline decided on; raises StoreError when it cannot be written."""
        reports = [Report(r, "failed", refusal.code, refusal.status, refusal.text) for r in recipients]
        return self._write(Original.of(mail), [report for report in reports if _is_wanted(report)], 0.0)

    def expanded(self, mail: Mail, recipients: Sequence[Recipient]) -> Mail | None:
        """Aliases for several recipients (RFC 3461 §5.2.7); raises StoreError when it cannot be written."""
        reports = [Report(r, "expanded", 0, "2.1.5", "the address stands for several recipients") for r in recipients]
        return self._write(Original.of(mail), [report for report in reports if _is_wanted(report)], 0.0)

    def report(self, item: Queued, reports: Sequence[Report], *, will_retry_until: float = 0.0) -> Mail | None:
        """Raises StoreError when it cannot be written."""
        wanted = [report for report in reports if _is_wanted(report)]
        if not wanted or item.sender is None:
            return None
        if not self._may_tell(item.origin):
            # B9: whoever is in MAIL FROM of a stranger's message has probably not sent it. What this server itself could not
            # take after its 250 is told all the same: nobody else knows of it. That it lets mail wait is no such thing.
            is_ours = item.action != "relay" and not (item.action == "resume" and wanted[0].action == "delayed")
            local = [report for report in wanted if is_ours or (item.action == "relay" and report.recipient.account)]
            if len(local) < len(wanted):
                _log.info("notice not sent", queue_id=id_text(item.id), reason="the client was not trusted",
                          sender=str(item.sender), recipients=len(wanted) - len(local))  # fmt: skip
            wanted = local
        return self._write(Original.of(item), wanted, will_retry_until)

    def _may_tell(self, origin: Origin) -> bool:
        return self._config.queue.backscatter or origin.trusted or bool(origin.account) or origin.listener != "mx"

    def _may_have_another(self, domain: str) -> bool:
        """B10: a domain whose name somebody forges, or whose own machine sends without end, is not flooded by us."""
        most = self._config.queue.notices_per_hour
        key = b"notices:" + domain.lower().encode()
        return not most or self._limits.take_rate(key, most, HOUR_SECONDS, self._clock.monotonic())

    def _write(self, original: Original, reports: Sequence[Report], until: float) -> Mail | None:
        if original.sender is None or not reports:
            return None  # B6, B7: RFC 5321 §6.1
        sender = original.sender
        if not self._may_have_another(sender.domain):
            _log.warn("notice not sent", queue_id=id_text(original.id), reason="too many for the sender's domain",
                      sender=str(sender), recipients=len(reports))  # fmt: skip
            return None
        is_utf8 = original.smtputf8 and not (str(sender).isascii() and all(str(r.recipient.address).isascii() for r in reports))
        notice = Notice(original, reports[:MAX_LISTED], is_utf8=is_utf8, hostname=self._hostname, until=until)
        now = self._clock.now()
        id = self._ids.next_id()
        data = notice.render(id_text(id), now, self._config.postmaster_address, self._config.queue.notice_content_limit)
        writer = self._writer()
        writer.write(data)
        if self._metrics is not None and reports[0].action in ("failed", "delayed"):
            self._metrics.inc(BOUNCES if reports[0].action == "failed" else DELAY_NOTICES)
        return Mail(
            id,
            None,
            [Recipient(sender)],
            writer.finish(),
            Origin(helo=self._hostname, trusted=True),
            created=now,
            body_type="7BIT" if data.isascii() else "8BITMIME",
            smtputf8=is_utf8,
            requiretls=original.requiretls,
        )


def _is_wanted(report: Report) -> bool:
    """RFC 3461 §4.1 and §5.2. Without NOTIFY: failures, and delays at our discretion, which is yes."""
    notify = report.recipient.notify
    if notify & NOTIFY_NEVER:
        return False
    return bool((notify or NOTIFY_FAILURE | NOTIFY_DELAY) & _WANTED[report.action])


class Notice:
    """One multipart/report."""

    def __init__(
        self, original: Original, reports: Sequence[Report], *, is_utf8: bool, hostname: str, until: float
    ) -> None:
        self._original = original
        self._reports = reports
        self._is_utf8 = is_utf8
        self._hostname = hostname
        self._until = until
        self._action = reports[0].action

    def render(self, id: str, now: float, postmaster: str, content_limit: int) -> bytes:
        original = self._original
        boundary = f"=_{id}"
        # RFC 3461 §4.3: RET concerns failures only; without it the header is enough to recognize the mail by.
        is_full = (
            self._action == "failed"
            and original.ret == "FULL"
            and original.rendering.size <= content_limit
            and original.body_type != "BINARYMIME"
        )
        returned = b"".join(original.rendering.chunks()) if is_full else self._header()
        encoding = ""
        if not is_full and not self._is_utf8 and not returned.isascii():
            # RFC 6522 §4. A notice in 8 bits is lost where the sender's server does not take them.
            returned, encoding = b2a_qp(returned), "quoted-printable"
        bits = "7bit" if returned.isascii() and not self._is_utf8 else "8bit"
        parts = [
            self._top(id, now, boundary, postmaster, bits),
            self._part(boundary, 'text/plain; charset="utf-8"' if self._is_utf8 else "text/plain; charset=us-ascii", bits),
            self._for_people(now, postmaster),
            self._part(boundary, f"message/{'global-' if self._is_utf8 else ''}delivery-status", bits),
            self._for_machines(),
            self._part(boundary, self._returned_type(is_full), encoding or bits),
            returned if returned.endswith(b"\r\n") else returned + b"\r\n",
            f"\r\n--{boundary}--\r\n".encode(),
        ]
        return b"".join(parts)

    def _returned_type(self, is_full: bool) -> str:
        if self._is_utf8:
            return "message/global" if is_full else "message/global-headers"
        return "message/rfc822" if is_full else "text/rfc822-headers"

    def _header(self) -> bytes:
        header = self._original.rendering.header_block()
        if len(header) > MAX_HEADER_BYTES:
            header = header[: header.rfind(b"\r\n", 0, MAX_HEADER_BYTES) + 2]
        return header

    @staticmethod
    def _part(boundary: str, kind: str, bits: str) -> bytes:
        return f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {bits}\r\n\r\n".encode()

    def _top(self, id: str, now: float, boundary: str, postmaster: str, bits: str) -> bytes:
        sender = self._original.sender
        lines = [
            self._field("Date", formatdate(now)),
            self._field("From", f"Mail Delivery System <{postmaster}>"),
            self._field("To", f"<{sender}>"),
            self._field("Subject", _SUBJECTS[self._action]),
            self._field("Message-ID", f"<{id}@{self._hostname}>"),
            self._field("Auto-Submitted", "auto-replied"),  # B15, RFC 3834 §5
            self._field("MIME-Version", "1.0"),
            'Content-Type: multipart/report; report-type="delivery-status";\r\n',
            f'\tboundary="{boundary}"\r\n',
            f"Content-Transfer-Encoding: {bits}\r\n",
            "\r\nThis is a MIME message.\r\n",
        ]
        return "".join(lines).encode()

    def _for_people(self, now: float, postmaster: str) -> bytes:
        until = formatdate(self._until or now)
        lines = [
            f"This is the mail server {self._hostname}.",
            "",
            *_wrapped(_EXPLANATIONS[self._action].format(until=until)),
            "",
        ]
        for report in self._reports:
            place = f"{report.host} said: " if report.host and report.code else ""
            address = self._text(str(report.recipient.address))
            lines += [*_wrapped(f"<{address}>: {self._text(place + report.reply)}", "    "), ""]
        lines += [*_wrapped(f"For help, write to {postmaster} and add this notice."), ""]
        return "\r\n".join(lines).encode()

    def _for_machines(self) -> bytes:
        """RFC 3464 §2.1: a block about the message, then one for each recipient."""
        original = self._original
        lines = [self._field("Reporting-MTA", f"dns; {self._hostname}")]
        if original.envid:
            lines.append(self._field("Original-Envelope-Id", original.envid))
        if original.origin.helo:
            lines.append(self._field("Received-From-MTA", f"dns; {original.origin.helo}"))
        lines.append(self._field("Arrival-Date", formatdate(original.created)))
        for report in self._reports:
            lines.append("\r\n")
            recipient = report.recipient
            if recipient.orcpt:
                kind, _, address = recipient.orcpt.partition(";")
                lines.append(self._field("Original-Recipient", f"{kind}; {self._address(address)}"))
            address = str(recipient.address)
            kind = "rfc822" if address.isascii() else "utf-8"
            lines.append(self._field("Final-Recipient", f"{kind}; {self._address(address)}"))
            lines.append(self._field("Action", report.action))
            lines.append(self._field("Status", report.status or _STATUSES[report.action]))
            said = report.reply if report.code else report.last_reply
            if report.host and said:
                lines.append(self._field("Remote-MTA", f"dns; {report.host.partition('[')[0] or report.host}"))
            if said:
                lines.append(self._field("Diagnostic-Code", f"smtp; {said}"))
            elif report.text and report.action in ("failed", "delayed"):
                lines.append(self._field("Diagnostic-Code", f"x-rusmes; {report.text}"))
            if report.action == "delayed" and self._until:
                lines.append(self._field("Will-Retry-Until", formatdate(self._until)))
        return "".join(lines).encode()

    def _address(self, address: str) -> str:
        """RFC 6533 §3: in an ASCII notice an internationalized address is written with \\x{HEX}."""
        return address if self._is_utf8 or address.isascii() else utf8_xtext(address)

    def _text(self, text: str) -> str:
        """One harmless line, in ASCII where the notice is."""
        text = harmless(text)
        return text if self._is_utf8 else text.encode("ascii", "replace").decode()

    def _field(self, name: str, value: str) -> str:
        return "\r\n".join(_wrapped(f"{name}: {self._text(value)}", " ")) + "\r\n"


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Lines of at most 76 characters where words allow; what follows the first is indented."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        word = word[:MAX_WORD]
        if line.strip() and len(line) + 1 + len(word) > FOLD_AT:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
