"""Mailets that decide where mail goes."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from rusmes.config.units import Duration
from rusmes.errors import ConfigError
from rusmes.mailet import api
from rusmes.mailet.api import CONTINUE, Decision, Deliver, Drop, Goto, HoldMail, RelayTo, Split, Submit, Toolbox
from rusmes.mailet.mailets.returning import suppressed_parts
from rusmes.mailet.matchers.envelope import NoParameters as NoParameters
from rusmes.mailet.parameters import Words
from rusmes.mailet.rendering import checked_line
from rusmes.mailet.resume import DEFERRALS
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Refusal

STATUS: Final = r"^[245]\.\d{1,3}\.\d{1,3}$"
"""RFC 3463 §2."""


class LocalDeliveryParameters(Struct, frozen=True):
    mailbox: str = "INBOX"
    """Where to; made when it is missing."""
    flags: Words = Words()
    """Flags and keywords the message gets, such as "\\Seen"."""
    detail_to_mailbox: bool = False
    """Mail to user+detail goes to the mailbox "detail" (RFC 5233); without a detail to `mailbox`."""
    delivered_to: bool = False
    """Add a Delivered-To field with the recipient's address."""


class LocalDelivery:
    """Puts the mail into a mailbox of each recipient, with Return-Path on top. For recipients with a local account."""

    Parameters = LocalDeliveryParameters
    final = True

    def __init__(self, parameters: LocalDeliveryParameters, toolbox: Toolbox) -> None:
        self._decision = Deliver(parameters.mailbox, tuple(parameters.flags))
        self._delimiter = toolbox.recipient_delimiter if parameters.detail_to_mailbox else ""
        self._delivered_to = parameters.delivered_to

    def service(self, mail: Mail) -> Decision:
        if self._delivered_to:
            for recipient in mail.recipients:
                line = checked_line(f"Delivered-To: {recipient.address}\r\n".encode())
                mail.per_recipient[recipient.address] = (line, *mail.per_recipient.get(recipient.address, ()))
        return self._by_detail(mail) if self._delimiter else self._decision

    def _by_detail(self, mail: Mail) -> Decision:
        parts: dict[str, list[Recipient]] = {}
        for recipient in mail.recipients:
            parts.setdefault(self._mailbox_of(recipient), []).append(recipient)
        return Split(tuple((tuple(members), Deliver(name, self._decision.flags)) for name, members in parts.items()))

    def _mailbox_of(self, recipient: Recipient) -> str:
        local = recipient.address.local
        at = next((place for place, char in enumerate(local) if place and char in self._delimiter), len(local))
        detail = local[at + 1 :]
        # A detail comes from outside: no levels, no control characters, no surprise names.
        plain = 0 < len(detail) <= 64 and detail.isprintable() and not set(detail) & set('/\\%*"&~')
        return detail if plain and detail.upper() != "INBOX" else self._decision.mailbox


class RemoteDeliveryParameters(Struct, frozen=True):
    route: str = ""
    """A smart host route of the configuration; "" = [relay], or by MX."""
    host: str = ""
    """Instead of a named route: a name or address."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """With `host`; 0 = [delivery] port."""


class RemoteDelivery:
    """Queues the mail for other servers.

    Recipients that are suppressed ([suppression]) are refused (550 5.7.1), or end here.
    """

    Parameters = RemoteDeliveryParameters
    final = True

    def __init__(self, parameters: RemoteDeliveryParameters, toolbox: Toolbox) -> None:
        route, host = parameters.route, parameters.host.strip("[]")
        if host and route:
            raise ConfigError("give a route or a host, not both")
        if host:
            route = f"[{host}]" if ":" in host else host
            route += f":{parameters.port}" if parameters.port else ""
        elif parameters.port:
            raise ConfigError("a port needs a host")
        self._decision = RelayTo(route)
        suppressions = toolbox.suppressions
        self._suppressions = suppressions if suppressions is not None and suppressions.is_enabled else None

    def service(self, mail: Mail) -> Decision:
        if self._suppressions is not None:
            parts = suppressed_parts(mail, self._suppressions)
            if parts:
                suppressed = {recipient for members, _ in parts for recipient in members}
                left = tuple(recipient for recipient in mail.recipients if recipient not in suppressed)
                return Split((*parts, (left, self._decision))) if left else Split(tuple(parts))
        return self._decision


class ToProcessorParameters(Struct, frozen=True):
    processor: str
    """The state of the processor that goes on."""


class ToProcessor:
    """Goes on in another processor, from its first step."""

    Parameters = ToProcessorParameters
    final = True

    def __init__(self, parameters: ToProcessorParameters, toolbox: Toolbox) -> None:
        self._decision = Goto(parameters.processor)

    def states(self) -> tuple[str, ...]:
        return (self._decision.state,)

    def service(self, mail: Mail) -> Decision:
        return self._decision


class RefusalParameters(Struct, frozen=True):
    code: Annotated[int, Meta(ge=400, le=599)] = 550
    """4xx asks the client to try again, 5xx is final."""
    status: Annotated[str, Meta(pattern=STATUS)] = "5.7.1"
    """Enhanced status (RFC 3463)."""
    text: Annotated[str, Meta(min_length=1, max_length=200)] = "message refused"
    """One line for the sender."""

    def __post_init__(self) -> None:
        if self.status[0] != str(self.code)[0]:
            raise ValueError(f"status {self.status} does not belong to code {self.code}")
        if not self.text.isprintable():
            raise ValueError("the text is one line without control characters")


class Reject:
    """Refuses the mail: in the session by the reply, afterwards by a failure notice (5xx) or a later attempt (4xx)."""

    Parameters = RefusalParameters
    final = True

    def __init__(self, parameters: RefusalParameters, toolbox: Toolbox) -> None:
        self._decision = api.Reject(Refusal(parameters.code, parameters.status, parameters.text))

    def service(self, mail: Mail) -> Decision:
        return self._decision


class NullParameters(Struct, frozen=True):
    reason: str = "discarded by the configuration"
    """For the log."""


class Null:
    """Ends the mail here, without a word to the sender."""

    Parameters = NullParameters
    final = True

    def __init__(self, parameters: NullParameters, toolbox: Toolbox) -> None:
        self._decision = Drop(parameters.reason)

    def service(self, mail: Mail) -> Decision:
        return self._decision


class BounceParameters(Struct, frozen=True):
    text: Annotated[str, Meta(min_length=1, max_length=200)] = "the message could not be delivered"
    """What the sender reads."""


class Bounce:
    """Accepts the mail and tells the sender by a failure notice; never answers the null sender.

    It is your word, so `[queue] backscatter` does not matter: strangers are told too, and whoever is in the envelope of spam
    has not sent it. Ask for RelayAllowed, or use Reject, which needs no notice in the session.
    """

    Parameters = BounceParameters
    final = True

    def __init__(self, parameters: BounceParameters, toolbox: Toolbox) -> None:
        if not parameters.text.isprintable():
            raise ConfigError("the text is one line without control characters")
        self._decision = api.Bounce(parameters.text)

    def service(self, mail: Mail) -> Decision:
        return self._decision


class DSNBounceParameters(RefusalParameters, frozen=True):
    pass_through: bool = False
    """Send the notice and go on with the next step."""


class DSNBounce:
    """As Bounce, with the code and status that the notice gives (RFC 3464), and able to go on afterwards."""

    Parameters = DSNBounceParameters

    def __init__(self, parameters: DSNBounceParameters, toolbox: Toolbox) -> None:
        self.final = not parameters.pass_through
        self._refusal = Refusal(parameters.code, parameters.status, parameters.text)
        self._notices = toolbox.notices

    def service(self, mail: Mail) -> Decision:
        refusal = self._refusal
        if self.final:
            return api.Bounce(refusal.text, refusal.status, refusal.code)
        # RFC 5321 §4.5.5: nothing answers the null reverse-path.
        notice = self._notices.failure(mail, mail.recipients, refusal) if mail.sender is not None else None
        return CONTINUE if notice is None else Submit((notice,))


class HoldParameters(Struct, frozen=True):
    reason: str = ""
    """What the operator reads; "" = the mail's error."""


class Hold:
    """Keeps the mail in the queue until an operator releases or deletes it.

    A release goes on where the failure was (after a failure), else with the step after this one, else, when this is the
    last step, from the beginning.
    """

    Parameters = HoldParameters
    final = True

    def __init__(self, parameters: HoldParameters, toolbox: Toolbox) -> None:
        self._decision = HoldMail(parameters.reason)

    def service(self, mail: Mail) -> Decision:
        return self._decision


class DeferParameters(Struct, frozen=True):
    delay: Duration
    """How long the mail waits."""
    times: Annotated[int, Meta(ge=1)] = 1
    """After so many waits it goes on with the next step."""
    reason: str = "deferred by the configuration"
    """What the operator reads."""


class Defer:
    """Lets the mail wait in the queue, then go on."""

    Parameters = DeferParameters

    def __init__(self, parameters: DeferParameters, toolbox: Toolbox) -> None:
        self._times = parameters.times
        self._decision = api.Defer(parameters.delay, parameters.reason)

    def service(self, mail: Mail) -> Decision:
        waited = mail.attributes.get(DEFERRALS, 0)
        if isinstance(waited, int) and waited >= self._times:
            del mail.attributes[DEFERRALS]
            return CONTINUE
        return self._decision
