"""A mail on its way through the pipeline."""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

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


class Mail(Struct, eq=False):
    """An envelope, the content it carries, and what the pipeline has done to both so far.

    A split copies the small things and shares the content. `prepended` are whole header lines (with CRLF) put on top, newest
    first; `removed` are lower-case names of header fields taken out; `per_recipient` are lines that only one recipient
    sees. `attributes` are typed and survive a restart.
    """

    id: bytes
    sender: Address | None
    """None is the null reverse-path."""
    recipients: list[Recipient]
    content: Content
    origin: Origin
    created: float
    """Seconds since the epoch."""
    body_type: str = "7BIT"
    """7BIT | 8BITMIME | BINARYMIME."""
    smtputf8: bool = False
    requiretls: bool = False
    ret: str = ""
    """FULL | HDRS | ""."""
    envid: str = ""
    state: str = "root"
    """The processor that handles the mail next."""
    step: int = 0
    """Where in that processor to go on."""
    hops: int = 0
    """Processor changes so far."""
    attributes: dict[str, Value] = field(default_factory=dict)
    prepended: list[bytes] = field(default_factory=list)
    removed: frozenset[str] = frozenset()
    per_recipient: dict[Address, tuple[bytes, ...]] = field(default_factory=dict)
    error: str = ""
    """Why the mail is in the `error` processor."""
