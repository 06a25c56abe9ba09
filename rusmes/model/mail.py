"""A mail on its way through the pipeline."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from rusmes.model.address import Address
from rusmes.model.content import Content

# RFC 3461 §4.1; 0 means the sender gave no NOTIFY parameter, which reads as FAILURE (and DELAY at our discretion).
NOTIFY_NEVER: Final = 1
NOTIFY_SUCCESS: Final = 2
NOTIFY_FAILURE: Final = 4
NOTIFY_DELAY: Final = 8

Value = str | int | float | bool | bytes | tuple[str, ...]


class Recipient(Struct, frozen=True, gc=False):
    """One recipient of the envelope.

    `account` is the canonical name of the local account this address delivers to, "" when there is none (remote, or alias
    not yet expanded). `forwarded` says that the local configuration chose this address (alias, forward), so relaying
    to it is allowed whoever sent the mail. `orcpt` is decoded: "rfc822;user@example.com".
    """

    address: Address
    account: str = ""
    notify: int = 0
    orcpt: str = ""
    forwarded: bool = False
    via: tuple[Address, ...] = ()
    """The addresses of the envelope this recipient was made from (alias, forward); () = it is one itself."""

    @property
    def standing_for(self) -> tuple[Address, ...]:
        """The addresses of the envelope whose fate is this recipient's fate."""
        return self.via or (self.address,)


class Origin(Struct, frozen=True, gc=False):
    """What is known of the session a mail came from. Every text is already free of control characters."""

    client_address: str = ""
    client_port: int = 0
    client_name: str = ""
    """Verified host name of the client, "" when unknown."""
    helo: str = ""
    protocol: str = ""
    """The "with" of Received (RFC 3848, RFC 6531): SMTP ESMTP ESMTPS ESMTPA ESMTPSA LMTP UTF8SMTPS ..."""
    listener: str = ""
    """mx | submission | lmtp | "" (made here)."""
    tls: str = ""
    """Version and cipher, "" in the clear."""
    account: str = ""
    """The authenticated account, "" when nobody logged in."""
    session_id: str = ""
    trusted: bool = False
    """The client may relay: it is authenticated or inside [security] relay_networks."""


class Mail:
    """An envelope, the content it carries, and what the pipeline has done to both so far.

    A split copies the small things and shares the content. `prepended` are whole header lines (with CRLF) put on top, newest
    first; `removed` are lower-case names of header fields taken out; `per_recipient` are lines that only one recipient
    sees. `attributes` are typed and survive a restart.
    """

    __slots__ = (
        "attributes", "body_type", "content", "created", "envid", "error", "hops", "id", "origin", "per_recipient",
        "prepended", "recipients", "removed", "requiretls", "ret", "sender", "smtputf8", "state", "step",
    )  # fmt: skip

    def __init__(
        self,
        id: bytes,
        sender: Address | None,
        recipients: list[Recipient],
        content: Content,
        origin: Origin,
        *,
        created: float,
        body_type: str = "7BIT",
        smtputf8: bool = False,
        requiretls: bool = False,
        ret: str = "",
        envid: str = "",
        state: str = "root",
        step: int = 0,
    ) -> None:
        self.id = id
        self.sender = sender
        """None is the null reverse-path."""
        self.recipients = recipients
        self.content = content
        self.origin = origin
        self.created = created
        """Seconds since the epoch."""
        self.body_type = body_type
        """7BIT | 8BITMIME | BINARYMIME."""
        self.smtputf8 = smtputf8
        self.requiretls = requiretls
        self.ret = ret
        """FULL | HDRS | ""."""
        self.envid = envid
        self.state = state
        """The processor that handles the mail next."""
        self.step = step
        """Where in that processor to go on."""
        self.hops = 0
        """Processor changes so far."""
        self.attributes: dict[str, Value] = {}
        self.prepended: list[bytes] = []
        self.removed: frozenset[str] = frozenset()
        self.per_recipient: dict[Address, tuple[bytes, ...]] = {}
        self.error = ""
        """Why the mail is in the `error` processor."""
