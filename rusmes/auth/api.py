"""The contract of authentication: who may log in, and which addresses are deliverable here."""

from __future__ import annotations

from collections.abc import Sequence
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


class Denied(Struct, frozen=True):
    """A refused login. `public` never says whether the account exists. `locked_seconds` > 0: too many failures."""

    public: str = "authentication failed"
    reason: str = ""
    locked_seconds: float = 0.0


class Authenticator(Protocol):
    """What sessions log in with; throttling, constant time and the credential cache are inside."""

    async def login(self, username: str, password: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        """Check a password.

        Raises:
            AuthUnavailable: the backend cannot answer; not counted as a failure.
        """

    async def scram_credentials(self, username: str, attempt: Attempt) -> ScramCredentials | Denied:
        """What SCRAM needs; for an unknown account, credentials that never match but look the same every time."""

    async def scram_finished(self, username: str, success: bool, attempt: Attempt) -> Identity | Denied:
        """The end of a SCRAM exchange: counts it, and gives the identity after a success."""

    def is_blocked(self, client_address: str) -> float:
        """Seconds for which this address is refused at connect; 0 = welcome."""


class Directory(Protocol):
    """Which addresses are local. Synchronous questions are answered from memory."""

    def is_local_domain(self, domain: str) -> bool: ...

    async def account_of(self, address: Address) -> str:
        """The canonical account this address delivers to, "" when there is none.

        Knows sub-addressing, folding, catch-all and postmaster; an alias gives "" (see `expand`).

        Raises:
            AuthUnavailable
        """

    def expand(self, address: Address) -> Sequence[Address] | None:
        """One level of alias expansion, None when the address is no alias. Catch-all to a remote address is one too."""

    async def identity(self, account: str) -> Identity | None: ...


class AccountAdmin(Protocol):
    """What the CLI and the administration API change; backends that are read-only raise NotImplementedError's cousin
    `RusmesError` with the way out in its text."""

    async def add(self, account: str, password: str, *, quota_bytes: int = 0, quota_messages: int = 0) -> None:
        """Raises AlreadyExists."""

    async def delete(self, account: str) -> None: ...

    async def set_password(self, account: str, password: str) -> None: ...

    async def set_quota(self, account: str, *, quota_bytes: int, quota_messages: int) -> None: ...

    async def list(self) -> list[Identity]: ...
