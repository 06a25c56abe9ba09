"""Mailets that change who gets a mail: aliases, postmaster, forwards, copies."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from rusmes.config import names
from rusmes.errors import ConfigError
from rusmes.mailet.api import CONTINUE, Decision, Reject, Split, Submit, Toolbox
from rusmes.mailet.matchers.envelope import NoParameters
from rusmes.mailet.parameters import Addresses
from rusmes.mailet.resume import SENT_BY
from rusmes.model.address import Address
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS, Mail, Recipient
from rusmes.model.plan import Refusal

MAX_EXPANDED: Final = 10_000
"""Addresses that one alias may lead to."""

LOOP: Final = Refusal(554, "5.4.6", "the alias leads back to itself")
TOO_DEEP: Final = Refusal(554, "5.4.6", "aliases are nested too deep")
TOO_MANY: Final = Refusal(554, "5.3.4", "the alias has too many recipients")
UNKNOWN: Final = Refusal(550, "5.1.1", "no such user here")


class Refused(Exception):
    """A recipient that leads nowhere."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class Expansion:
    """Follows aliases to their ends: accounts here, and addresses elsewhere."""

    def __init__(self, toolbox: Toolbox, limit: int) -> None:
        self._directory = toolbox.directory
        self._limit = limit

    def is_settled(self, recipient: Recipient) -> bool:
        """Whether nothing is to be done: an account is known, or the address is elsewhere and no alias."""
        address = recipient.address
        if recipient.account:
            return True
        return not self._is_here(address) and self._directory.expand(address) is None

    async def ends(self, address: Address) -> list[tuple[Address, str]]:
        """Where an address leads: (address, account), the account "" for an address elsewhere or one that is unknown.

        Raises:
            Refused: only back to itself, too deep, or to too many.
            AuthUnavailable
        """
        found: dict[str, tuple[Address, str]] = {}
        await self._follow(address, 0, set(), found)
        if not found:
            raise Refused(LOOP)
        return list(found.values())

    async def _follow(self, address: Address, depth: int, seen: set[str], found: dict[str, tuple[Address, str]]) -> None:
        """Each alias is followed once: one that leads back to itself, or is reached by two ways, adds nothing."""
        if address.folded in seen:
            return
        seen.add(address.folded)
        if len(seen) > MAX_EXPANDED:
            raise Refused(TOO_MANY)
        if self._is_here(address):
            account = self._directory.account_of(address)
            if not isinstance(account, str):
                account = await account
            if account:
                found[address.folded] = (address, account)
                return
        targets = self._directory.expand(address)
        if targets is None:
            found[address.folded] = (address, "")
            return
        if depth >= self._limit:
            raise Refused(TOO_DEEP)
        for target in targets:
            if target.folded == address.folded:
                # "alice" = ["alice", "archive"]: the account behind the alias.
                found[target.folded] = (target, await self._directory.account_named(target))
            else:
                await self._follow(target, depth + 1, seen, found)

    def is_local(self, address: Address) -> bool:
        return self._is_here(address)

    def _is_here(self, address: Address) -> bool:
        # RFC 5321 §4.5.1: "postmaster" without a domain.
        return not address.domain or self._directory.is_local_domain(address.domain)


def heirs(recipient: Recipient, ends: Sequence[tuple[Address, str]]) -> list[Recipient]:
    """The recipients that an alias's recipient becomes, with its notice wishes (RFC 3461 §5.2.7).

    One heir keeps all of them. Of several, none can report success for the whole: NOTIFY loses SUCCESS, and the sender is told
    that the address was expanded. ORCPT stays, or names the address that was asked for (§5.2.1 allows to add that one).
    """
    notify = recipient.notify
    if len(ends) > 1 and notify & NOTIFY_SUCCESS:
        notify = notify & ~NOTIFY_SUCCESS or NOTIFY_NEVER
    address = recipient.address
    kind = "rfc822" if address.local.isascii() else "utf-8"
    orcpt = recipient.orcpt or f"{kind};{address}"
    via = recipient.standing_for
    return [Recipient(end, account, notify, orcpt, True, via) for end, account in ends]


class RewriteParameters(Struct, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    """Aliases of aliases that are followed."""
    unknown: Literal["reject", "pass"] = "reject"
    """What becomes of a local address that is neither account nor alias."""


class RecipientRewrite:
    """Follows [domains] aliases, catch-all addresses and sub-addressing to accounts, and to addresses elsewhere.

    An alias that leads back to itself gives its other targets; with none, the recipient is refused (5.4.6).
    """

    Parameters = RewriteParameters

    def __init__(self, parameters: RewriteParameters, toolbox: Toolbox) -> None:
        self._expansion = Expansion(toolbox, parameters.limit)
        self._notices = toolbox.notices
        self._rejects_unknown = parameters.unknown == "reject"

    def service(self, mail: Mail) -> Decision | Awaitable[Decision]:
        for recipient in mail.recipients:
            if not recipient.account and not self._expansion.is_settled(recipient):
                return self._rewrite(mail)
        return CONTINUE

    async def _rewrite(self, mail: Mail) -> Decision:
        recipients: list[Recipient] = []
        refused: dict[Refusal, list[Recipient]] = {}
        expanded: list[Recipient] = []
        for recipient in mail.recipients:
            if self._expansion.is_settled(recipient):
                recipients.append(recipient)
                continue
            try:
                ends = await self._expansion.ends(recipient.address)
            except Refused as error:
                recipients.append(recipient)
                refused.setdefault(error.refusal, []).append(recipient)
                continue
            if len(ends) == 1 and ends[0][0] == recipient.address and ends[0][1]:
                recipients.append(msgspec.structs.replace(recipient, account=ends[0][1]))
                continue
            if len(ends) > 1 and recipient.notify & NOTIFY_SUCCESS:
                expanded.append(recipient)
            for heir in heirs(recipient, ends):
                if heir.account or not self._expansion.is_local(heir.address):
                    recipients.append(heir)
                elif heir.address == recipient.address:
                    recipients.append(recipient)
                    self._unknown(recipient, refused)
                else:
                    recipients.append(heir)
                    self._unknown(heir, refused)
        notice = self._notices.expanded(mail, expanded) if expanded else None
        mail.recipients = recipients
        # A recipient that two aliases lead to may be here twice; the container merges them.
        parts = {refusal: {r.address: r for r in members} for refusal, members in refused.items()}
        decision: Decision = CONTINUE
        if parts:
            decision = Split(tuple((tuple(members.values()), Reject(refusal)) for refusal, members in parts.items()))
        return Submit((notice,), decision) if notice is not None else decision

    def _unknown(self, recipient: Recipient, refused: dict[Refusal, list[Recipient]]) -> None:
        if self._rejects_unknown:
            refused.setdefault(UNKNOWN, []).append(recipient)


class PostmasterAlias:
    """Mail to postmaster, with or without a local domain, goes to the configured postmaster (RFC 5321 §4.5.1).

    A domain with its own postmaster (account or alias) keeps it.
    """

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        try:
            self._postmaster = names.address(toolbox.postmaster)
        except ValueError as error:
            raise ConfigError(f"postmaster: {error}") from None
        self._expansion = Expansion(toolbox, 10)
        self._notices = toolbox.notices

    def service(self, mail: Mail) -> Decision | Awaitable[Decision]:
        if any(self._is_asked(recipient) for recipient in mail.recipients):
            return self._rewrite(mail)
        return CONTINUE

    async def _rewrite(self, mail: Mail) -> Decision:
        ends = await self._expansion.ends(self._postmaster)
        rewritten: list[Recipient] = []
        for recipient in mail.recipients:
            rewritten += heirs(recipient, ends) if self._is_asked(recipient) else [recipient]
        notice = self._notices.expanded(mail, [r for r in mail.recipients if self._is_asked(r)]) if len(ends) > 1 else None
        mail.recipients = rewritten
        return CONTINUE if notice is None else Submit((notice,))

    def _is_asked(self, recipient: Recipient) -> bool:
        if recipient.account or recipient.address.local.lower() != "postmaster":
            return False
        address = recipient.address
        return self._expansion.is_local(address) and address != self._postmaster


class ForwardParameters(Struct, frozen=True):
    to: Addresses
    """Who gets the mail."""
    keep: bool = False
    """The recipients of before get it too."""
    sender: str = "keep"
    """The envelope's sender afterwards: "keep", "null", "postmaster" or an address. With "keep", SPF may fail elsewhere."""


class Forward:
    """Sends the mail to other recipients, with their aliases followed. Loops end at RelayLimit.

    Who asked for a success notice hears that the address was expanded, when there are several or the envelope's sender changes.
    With a new sender, nothing else of what the old one asked for is kept.
    """

    Parameters = ForwardParameters

    def __init__(self, parameters: ForwardParameters, toolbox: Toolbox) -> None:
        self._parameters = parameters
        self._expansion = Expansion(toolbox, 10)
        self._sender = NewSender(parameters.sender, toolbox)
        self._notices = toolbox.notices

    async def service(self, mail: Mail) -> Decision:
        ends: dict[Address, str] = {}
        for target in self._parameters.to:
            ends.update(await self._expansion.ends(target))
        before, sender = mail.recipients, self._sender.of(mail)
        is_new = sender != mail.sender
        kept = before if self._parameters.keep else []
        # All of the mail's recipients share the fate of the targets, which exist once however many they were.
        first = before[0]
        via = tuple(dict.fromkeys(address for recipient in before for address in recipient.standing_for))
        notify = wishes(before)
        notice = None
        if is_new or (len(ends) > 1 and not kept):
            notice = self._notices.expanded(mail, before)
        if is_new:
            # RFC 3461 §5.2.7.3: to a new sender the wishes of the old one mean nothing.
            kept = [msgspec.structs.replace(recipient, notify=0, orcpt="") for recipient in kept]
            notify, mail.ret, mail.envid = 0, "", ""
        elif kept:
            notify = notify & ~NOTIFY_SUCCESS or (NOTIFY_NEVER if notify else 0)  # the kept ones tell of success
        targets = heirs(msgspec.structs.replace(first, notify=notify, via=via), list(ends.items()))
        mail.recipients = [*kept, *targets]
        mail.sender = sender
        return CONTINUE if notice is None else Submit((notice,))


def wishes(recipients: Sequence[Recipient]) -> int:
    """NOTIFY of what stands for several recipients: whatever one of them is to be told of."""
    each = {recipient.notify for recipient in recipients}
    if len(each) == 1:
        return recipients[0].notify
    bits = 0
    for notify in each - {NOTIFY_NEVER}:
        bits |= notify or NOTIFY_FAILURE | NOTIFY_DELAY  # what no NOTIFY means
    return bits


class NewSender:
    """The choice of an envelope sender: keep, null, postmaster, or an address."""

    def __init__(self, text: str, toolbox: Toolbox) -> None:
        self._keeps = text == "keep"
        self._address: Address | None = None
        if text not in ("keep", "null"):
            try:
                self._address = names.address(toolbox.postmaster if text == "postmaster" else text)
            except ValueError as error:
                raise ConfigError(f"sender: {error}") from None

    def of(self, mail: Mail) -> Address | None:
        # A null sender stays: the mail is a notice, and may never cause another one (RFC 5321 §4.5.5).
        return mail.sender if self._keeps or mail.sender is None else self._address


class CopyParameters(Struct, frozen=True):
    to: Addresses
    """Who gets the copy."""
    state: str = "root"
    """The processor the copy starts in."""
    sender: str = "keep"
    """The copy's envelope sender: "keep", "null", "postmaster" or an address. With "keep", nobody is told of failures."""


class Copy:
    """Adds a copy of the mail, as it is now, for other recipients (a journal); the mail goes on unchanged.

    A copy is never copied again.
    """

    Parameters = CopyParameters

    def __init__(self, parameters: CopyParameters, toolbox: Toolbox) -> None:
        self._parameters = parameters
        self._expansion = Expansion(toolbox, 10)
        self._sender = NewSender(parameters.sender, toolbox)
        self._new_id = toolbox.new_id

    def starts(self) -> tuple[str, ...]:
        return (self._parameters.state,)

    def service(self, mail: Mail) -> Decision | Awaitable[Decision]:
        if mail.attributes.get(SENT_BY) == "Copy":
            return CONTINUE
        return self._copy(mail)

    async def _copy(self, mail: Mail) -> Decision:
        ends: dict[Address, str] = {}
        for target in self._parameters.to:
            ends.update(await self._expansion.ends(target))
        notify = NOTIFY_NEVER if self._parameters.sender == "keep" else 0
        copy = Mail(
            self._new_id(),
            self._sender.of(mail),
            [Recipient(address, account, notify, "", True) for address, account in ends.items()],
            mail.content,
            mail.origin,
            created=mail.created,
            body_type=mail.body_type,
            smtputf8=mail.smtputf8,
            requiretls=mail.requiretls,
            state=self._parameters.state,
        )
        copy.attributes = {name: value for name, value in mail.attributes.items() if not name.startswith("rusmes.")}
        copy.attributes[SENT_BY] = "Copy"
        copy.prepended = list(mail.prepended)
        copy.removed = mail.removed
        return Submit((copy,))
