"""The contract of authentication: who may log in, and which addresses are deliverable here."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from msgspec import Struct

from rusmes.model.address import Address
from rusmes.model.identity import Identity


class ScramCredentials(Struct, frozen=True):
    """RFC 5802 §3: what a server keeps instead of the password."""

    mechanism: str
    """SCRAM-SHA-256."""
    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


class Attempt(Struct, frozen=True):
    """Where a login comes from, for throttling and the log."""

    client_address: str
    protocol: str
    session_id: str = ""
    mechanism: str = "USER"
    """The SASL mechanism; USER is what a protocol has beside SASL (POP3 USER and PASS, IMAP LOGIN)."""


class Denied(Struct, frozen=True):
    """A refused login. `public` never says whether the account exists. `locked_seconds` > 0: too many failures."""

    public: str = "authentication failed"
    reason: str = ""
    locked_seconds: float = 0.0


class Backend(Protocol):
    """Where accounts are kept. An engine implements it; `FullAuthenticator` and `DomainDirectory` are its only users.

    1. Names given are canonical: folded addresses (`auth.names`). An account answers to its primary and its extra addresses.
    2. `verify` takes the same time whether or not the account exists, and does not block the event loop.
    3. Every method raises AuthUnavailable when the backend cannot answer now; that is never counted as a failure.
    """

    @property
    def mechanisms(self) -> frozenset[str]:
        """SASL mechanisms the backend can serve: PLAIN and LOGIN (it can check a password), SCRAM-SHA-256 (it keeps
        keys), OAUTHBEARER and XOAUTH2 (it can check a token), EXTERNAL (it can name an account without a password)."""

    @property
    def decoy_secret(self) -> bytes:
        """Makes the SCRAM salt of an unknown account look the same every time, in every process."""

    @property
    def scram_iterations(self) -> int:
        """What the SCRAM credentials of an unknown account claim; the number most accounts have."""

    async def generation(self) -> int:
        """A number that changes when any account may have changed; cached credentials of another generation are void."""

    async def verify(self, name: str, password: str) -> Identity | None:
        """The account, None when the password is wrong, the account unknown or disabled."""

    async def scram(self, name: str) -> ScramCredentials | None:
        """SCRAM keys; None when the account is unknown or disabled, or has none."""

    async def find(self, name: str) -> Identity | None:
        """The account with this primary or extra address, unless it is disabled for login."""

    def deliverable(self, name: str) -> str | Awaitable[str]:
        """The canonical account that mail for this address belongs to, "" for none; a disabled account still gets mail.

        An awaitable when it is not known at once.
        """

    def known(self, name: str) -> bool:
        """Whether the address is an account's, answered from memory; False when only a query could tell."""

    async def verify_token(self, name: str, token: str) -> Identity | None:
        """The account a bearer token stands for (RFC 7628). `name` may be "": then the token alone says who it is."""


class Authenticator(Protocol):
    """What sessions log in with; throttling, constant time and the credential cache are inside."""

    @property
    def mechanisms(self) -> frozenset[str]:
        """What the backend can serve; `auth.negotiation.offered` takes what the session's state allows of it."""

    async def login(self, username: str, password: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        """Check a password.

        Raises:
            AuthUnavailable: the backend cannot answer; not counted as a failure.
        """

    async def scram_credentials(self, username: str, attempt: Attempt) -> ScramCredentials | Denied:
        """What SCRAM needs; for an unknown account, credentials that never match but look the same every time."""

    async def scram_finished(
        self, username: str, success: bool, attempt: Attempt, *, authorize_as: str = ""
    ) -> Identity | Denied:
        """The end of a SCRAM exchange: counts it, and gives the identity after a success."""

    async def login_certified(self, username: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        """The identity of a name that a verified client certificate proved (SASL EXTERNAL, RFC 4422 appendix A)."""

    async def login_token(self, username: str, token: str, attempt: Attempt) -> Identity | Denied:
        """Check a bearer token (OAUTHBEARER, RFC 7628)."""

    def is_blocked(self, client_address: str) -> float:
        """Seconds for which this address is refused at connect; 0 = welcome."""


class Directory(Protocol):
    """Which addresses are local. Synchronous questions are answered from memory."""

    def is_local_domain(self, domain: str) -> bool: ...

    def account_of(self, address: Address) -> str | Awaitable[str]:
        """The canonical account this address delivers to, "" when there is none; an awaitable when it is not known at once.

        Knows sub-addressing, folding, catch-all and postmaster; an alias gives "" (see `expand`).

        Raises:
            AuthUnavailable
        """

    async def account_named(self, address: Address) -> str:
        """As `account_of`, but aliases do not hide accounts: for a target of an alias that names itself
        ("alice" = ["alice", "archive"]).

        Raises:
            AuthUnavailable
        """

    def expand(self, address: Address) -> Sequence[Address] | None:
        """One level of alias expansion, None when the address is no alias. Catch-all to a remote address is one too;
        so ask `account_of` first where the backend cannot answer from memory."""

    async def identity(self, account: str) -> Identity | None: ...


class AccountAdmin(Protocol):
    """What the CLI and the administration API change. A backend that only reads raises RusmesError with the way out."""

    async def add(self, account: str, password: str, *, quota_bytes: int = 0, quota_messages: int = 0) -> None:
        """Raises AlreadyExists."""

    async def delete(self, account: str) -> None: ...

    async def set_password(self, account: str, password: str) -> None: ...

    async def set_quota(self, account: str, *, quota_bytes: int, quota_messages: int) -> None: ...

    async def list(self) -> list[Identity]: ...
