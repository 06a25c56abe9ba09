"""Mailets for mail that may come back, and for what does: return paths, senders of forwarded mail, reports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from rusmes.bounces.classify import HARD, Classifier, is_permanent
from rusmes.bounces.report import MAX_BYTES, Complaint, DeliveryReport, ReportedRecipient, Returned, read_report
from rusmes.config import names
from rusmes.errors import ConfigError
from rusmes.log import get_logger
from rusmes.mailet import api
from rusmes.mailet.api import CONTINUE, Decision, Drop, Split, Toolbox
from rusmes.mailet.matchers.envelope import NoParameters as NoParameters
from rusmes.metrics import SUPPRESSED
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Refusal
from rusmes.queue.api import VERP as VERP_ATTRIBUTE
from rusmes.queue.api import tenant_of

FORGED: api.Reject = api.Reject(Refusal(550, "5.1.1", "this return path is not one of ours, or too old"))
READ = Drop("a report, read")

_log = get_logger("returns")


class VERP:
    """Gives each recipient a return path of its own, made when the mail is sent, so that a report says whom it is about.

    [returns] address says where they lead. The mail stays one row of the queue with one copy of its content. Senders elsewhere
    keep their return path: reports about forwarded mail are theirs.
    """

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        if toolbox.returns is not None and toolbox.returns.address is None:
            raise ConfigError("VERP needs [returns] address")
        self._returns = toolbox.returns
        self._directory = toolbox.directory

    def service(self, mail: Mail) -> Decision:
        sender = mail.sender  # nothing comes back to the null sender (RFC 5321 §4.5.5)
        if sender is None or not self._directory.is_local_domain(sender.domain):
            return CONTINUE
        if self._returns is None or not self._returns.srs.is_ours(sender):
            mail.attributes[VERP_ATTRIBUTE] = True
        return CONTINUE


class SRS:
    """Gives forwarded mail a sender under [returns] srs_domain, which leads back to its own; SPF allows that one elsewhere.

    For mail that leaves: put it before RemoteDelivery, for recipients that an alias or a forward made (IsForwarded). Senders of
    local domains, the null sender, and those for which there is no room in 64 octets stay.
    """

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        self._returns = toolbox.returns
        self._directory = toolbox.directory

    def service(self, mail: Mail) -> Decision:
        sender = mail.sender
        if sender is not None and self._returns is not None and not self._directory.is_local_domain(sender.domain):
            mail.sender = self._returns.forward(sender)
        return CONTINUE


class BounceProcessor:
    """Reads what comes back to [returns] address: delivery reports (RFC 3464) and complaints (RFC 5965).

    `root` begins with it as soon as there is that address. A return path that is forged or too old is refused. A report is
    logged, told to the event log, and ends here (with keep_reports it goes on); addresses that are refused for ever,
    and those whose users complain, are suppressed, when the report came to a return path that VERP made or encloses one.
    Everything else (answers of people and of their programs) goes on, to the mailbox of the address.
    """

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        self._returns = toolbox.returns
        self._suppressions = toolbox.suppressions
        self._classifier = toolbox.classifier or Classifier.load()
        self._record = toolbox.record
        self._inc = toolbox.inc
        self._keeps = toolbox.keep_reports

    def service(self, mail: Mail) -> Decision | Awaitable[Decision]:
        returns = self._returns
        if returns is None:
            return CONTINUE
        for recipient in mail.recipients:
            if any(returns.is_return(address) for address in (recipient.address, *recipient.via)):
                return self._process(mail)
        return CONTINUE

    async def _process(self, mail: Mail) -> Decision:
        returns = self._returns
        assert returns is not None
        forged: list[Recipient] = []
        asked: list[tuple[Recipient, Address]] = []
        for recipient in mail.recipients:
            address = next((a for a in (recipient.address, *recipient.via) if returns.is_return(a)), None)
            if address is None:
                continue
            if returns.is_return_path(address) and returns.read(address) is None:
                forged.append(recipient)
            else:
                asked.append((recipient, address))
        report = await asyncio.to_thread(_read, mail.content) if asked else None
        for _, address in asked:
            if isinstance(report, DeliveryReport):
                self._returned(report, address)
            elif isinstance(report, Complaint):
                self._complained(report, address)
        parts: list[tuple[tuple[Recipient, ...], Decision]] = []
        if forged:
            parts.append((tuple(forged), FORGED))
        if report is not None and not self._keeps:
            parts.append((tuple(recipient for recipient, _ in asked), READ))
        return Split(tuple(parts)) if parts else CONTINUE

    def _returned(self, report: DeliveryReport, address: Address) -> None:
        recipient, tenant = self._sent_to(address, report.returned.sender)
        for one in report.recipients:
            category = self._classifier.category(one.code, one.status, one.text)
            # What VERP says is ours; what the report says is a stranger's word.
            about = recipient if recipient is not None and len(report.recipients) == 1 else None
            reply = _reply(one)
            self._tell("reported", report.returned, one.address, tenant, action=one.action, category=category, reply=reply)
            if one.action != "failed" or category not in HARD or not is_permanent(one.code, one.status):
                continue
            suppressions = self._suppressions
            if about is None or suppressions is None or not suppressions.is_enabled:
                continue
            if suppressions.bounced(tenant, about, category, reply):
                self._inc(SUPPRESSED["report"])
                self._tell("suppressed", report.returned, str(about), tenant, reason=category, by="report")

    def _complained(self, complaint: Complaint, address: Address) -> None:
        recipient, tenant = self._sent_to(address, complaint.sender)
        about = str(recipient) if recipient is not None else ", ".join(complaint.recipients[:1])
        self._tell("complained", complaint.returned, about, tenant, category=complaint.feedback_type, host=complaint.user_agent)
        if complaint.feedback_type == "not-spam" or recipient is None:
            return
        if self._suppressions is not None and self._suppressions.is_enabled:
            self._suppressions.complained(tenant, recipient, f"{complaint.feedback_type}: {complaint.user_agent}")
            self._inc(SUPPRESSED["complaint"])
            self._tell("suppressed", complaint.returned, about, tenant, reason="Complaint", by="report")

    def _sent_to(self, address: Address, sender: str) -> tuple[Address | None, str]:
        """Whom the mail was sent to, and for which tenant, by the return path the report came to, or by the one it encloses."""
        returns = self._returns
        assert returns is not None
        candidates = [address]
        with contextlib.suppress(ValueError):
            candidates.append(names.address(sender))
        for candidate in candidates:
            path = returns.read(candidate)
            if path is not None:
                tenant = self._suppressions.tenant_of(path.tenant) if self._suppressions is not None else ""
                return path.recipient, tenant
        return None, ""

    def _tell(self, kind: str, returned: Returned, address: str, tenant: str, **facts: str) -> None:
        facts = {name: value for name, value in facts.items() if value}
        _log.info(kind, address=address, tenant=tenant, message_id=returned.message_id, **facts)
        self._record(kind, address=address, tenant=tenant, message_id=returned.message_id, **facts)


def _read(content: Content) -> DeliveryReport | Complaint | None:
    data = bytearray()
    for chunk in content.chunks():
        data += chunk
        if len(data) >= MAX_BYTES:
            break
    return read_report(bytes(data))


def _reply(recipient: ReportedRecipient) -> str:
    text = recipient.text
    return text if recipient.status in text else f"{recipient.status} {text}".strip()


def suppressed_parts(mail: Mail, suppressions: api.Suppressions) -> list[tuple[tuple[Recipient, ...], Decision]]:
    """The recipients to which nothing is sent any more, with what becomes of them."""
    tenant = tenant_of(mail)
    parts: dict[str, list[Recipient]] = {}
    for recipient in mail.recipients:
        category = suppressions.find(tenant, recipient.address)
        if category:
            parts.setdefault(category, []).append(recipient)
    return [(tuple(members), _fate(category, suppressions.drops)) for category, members in parts.items()]


def _fate(category: str, drops: bool) -> Decision:
    if drops:
        return Drop(f"the recipient is suppressed: {category}")
    return api.Reject(Refusal(550, "5.7.1", f"the recipient is suppressed: {category}"))
