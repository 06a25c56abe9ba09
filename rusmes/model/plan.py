"""What the pipeline decided, as data: the plan that is committed in one transaction."""

from __future__ import annotations

from msgspec import Struct, field

from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.mail import Origin, Recipient, Value


class Refusal(Struct, frozen=True, gc=False):
    """A reply that refuses: code (4xx or 5xx), enhanced status ("5.7.1") and one line of text."""

    code: int
    status: str
    text: str

    @property
    def is_permanent(self) -> bool:
        return self.code >= 500


class Append(Struct):
    """Put a message into a mailbox of an account.

    `mailbox` is a full name ("INBOX", "Archive/2026"); a missing one is created, as is a missing account. `key` makes the
    append happen once: a second append with the same key is a success that does nothing (b"" = no key).
    """

    recipient: Recipient
    account: str
    rendering: Rendering
    mailbox: str = "INBOX"
    flags: tuple[str, ...] = ()
    key: bytes = b""
    received: float = 0.0
    """Internal date, seconds since the epoch; 0 = now."""


class Queued(Struct):
    """Recipients of one mail that wait for the same next action.

    Actions: `relay` send them over `route` ("" = by MX); `local` append them to mailboxes; `resume` go on in the pipeline
    at (`state`, `step`); `hold` wait for the operator, whose release makes it `resume`. `due` is the earliest time, seconds
    since the epoch (0 = at once).
    """

    id: bytes
    action: str
    sender: Address | None
    recipients: tuple[Recipient, ...]
    rendering: Rendering
    origin: Origin
    created: float
    route: str = ""
    mailbox: str = ""
    state: str = ""
    step: int = 0
    due: float = 0.0
    reason: str = ""
    attributes: dict[str, Value] = field(default_factory=dict)
    body_type: str = "7BIT"
    smtputf8: bool = False
    requiretls: bool = False
    ret: str = ""
    envid: str = ""
    size: int = 0


class Plan(Struct):
    """Everything decided about one accepted mail, and about mails made on the way (bounces, copies)."""

    appends: list[Append] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)
    refused: dict[Address, Refusal] = field(default_factory=dict)
    """Recipients refused in the session."""
    dropped: list[tuple[Recipient, str]] = field(default_factory=list)
    """Recipients that end here on purpose, with the reason."""
