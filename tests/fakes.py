"""Ports in memory, for tests of sessions: an intake that keeps what it accepted, a directory, an authenticator.

They follow the contracts (`queue.api`, `auth.api`) closely enough that a session cannot tell them from the
real ones, and they fail on command: set `error`, `admission`, `refusals` or `full_accounts`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence

from rusmes.auth.api import Attempt, Denied, ScramCredentials
from rusmes.errors import StoreFull
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.identity import Identity
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import Mail
from rusmes.model.plan import Refusal
from rusmes.queue.api import Outcome


class MemoryWriter:
    """A ContentWriter that keeps the bytes; `capacity` makes it full at that size."""

    def __init__(self, intake: FakeIntake) -> None:
        self.size = 0
        self.aborted = False
        self._intake = intake
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self._intake.capacity and self.size > self._intake.capacity:
            self.abort()
            raise StoreFull("no space left", "fake")
        if self._intake.write_error is not None:
            self.abort()
            raise self._intake.write_error
        self._parts.append(bytes(data))
        self._intake.largest_write = max(self._intake.largest_write, len(data))

    def finish(self) -> Content:
        data = b"".join(self._parts)
        empty = data.find(b"\r\n\r\n")
        self._intake.open_writers.discard(self)
        return Content(self._intake.ids.next_id(), len(data), len(data) if empty < 0 else empty + 4, data=data)

    def abort(self) -> None:
        self.aborted = True
        self._parts.clear()
        self._intake.open_writers.discard(self)


class FakeIntake:
    """Accepts into `mails`. `refuse` maps a folded address to the refusal the pipeline would give it."""

    def __init__(self) -> None:
        self.ids = IdSource()
        self.mails: list[Mail] = []
        self.open_writers: set[MemoryWriter] = set()
        self.largest_write = 0
        self.capacity = 0
        self.write_error: Exception | None = None
        self.error: Exception | None = None
        self.admission: Refusal | None = None
        self.refuse: dict[str, Refusal] = {}
        self.full_accounts: set[str] = set()
        self.delay_seconds = 0.0
        self.asked: list[tuple[str, int]] = []
        self.answers_later = True
        """Whether `hand_over` calls back, as the real intake does with nearly every mail."""
        self._task: asyncio.Future[None] | None = None

    def admit(self, size: int = 0) -> Refusal | None:
        return self.admission

    async def room_for(self, account: str, size: int) -> bool:
        self.asked.append((account, size))
        return account not in self.full_accounts

    def writer(self) -> MemoryWriter:
        writer = MemoryWriter(self)
        self.open_writers.add(writer)
        return writer

    def hand_over(self, mail: Mail, answer: Callable[[Outcome | Exception], None]) -> Awaitable[Outcome] | None:
        if not self.answers_later:
            return self.accept(mail)

        async def later() -> None:
            try:
                answer(await self.accept(mail))
            except Exception as error:
                answer(error)

        self._task = asyncio.ensure_future(later())
        return None

    async def accept(self, mail: Mail) -> Outcome:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if self.error is not None:
            raise self.error
        refusals = [self.refuse.get(recipient.address.folded) for recipient in mail.recipients]
        if not all(refusals):
            self.mails.append(mail)
        return Outcome(refusals=refusals, queue_ids=[id_text(mail.id)])

    @property
    def bodies(self) -> list[bytes]:
        """What was accepted, without the Received line a server puts on top."""
        return [without_received(mail.content.read()) for mail in self.mails]


def without_received(data: bytes) -> bytes:
    """`data` after its first header field, which must be Received."""
    assert data.startswith(b"Received:"), data[:80]
    end = data.index(b"\r\n") + 2
    while data[end : end + 1] in (b" ", b"\t"):
        end = data.index(b"\r\n", end) + 2
    return data[end:]


class FakeDirectory:
    """Accounts by folded address, aliases, catch-alls (domain to folded account)."""

    def __init__(
        self,
        domains: Sequence[str] = ("example.com",),
        accounts: Sequence[str] = ("alice@example.com", "bob@example.com", "postmaster@example.com"),
        aliases: dict[str, list[Address]] | None = None,
    ) -> None:
        self.domains = set(domains)
        self.accounts = set(accounts)
        self.aliases = dict(aliases or {})
        self.error: Exception | None = None
        self.lookups = 0

    def is_local_domain(self, domain: str) -> bool:
        return domain in self.domains

    async def account_named(self, address: Address) -> str:
        return await self.account_of(address)

    async def account_of(self, address: Address) -> str:
        self.lookups += 1
        if self.error is not None:
            raise self.error
        local, domain = address.local.lower(), address.domain
        if not domain and local == "postmaster":
            domain = min(self.domains)
        for candidate in (local, local.partition("+")[0]):
            if f"{candidate}@{domain}" in self.accounts:
                return f"{candidate}@{domain}"
        return ""

    def expand(self, address: Address) -> Sequence[Address] | None:
        return self.aliases.get(address.folded)

    async def identity(self, account: str) -> Identity | None:
        return Identity(account, frozenset({account})) if account in self.accounts else None


class FakeAuthenticator:
    """Passwords in the clear; SCRAM with few rounds; `blocked` addresses; `attempts` keeps what was tried, never a password."""

    ITERATIONS = 4096
    mechanisms = frozenset({"PLAIN", "LOGIN", "SCRAM-SHA-256", "EXTERNAL"})

    def __init__(self, passwords: dict[str, str] | None = None) -> None:
        two = {"alice@example.com": "s3cret-alice", "bob@example.com": "s3cret-bob"}
        self.passwords = two if passwords is None else passwords
        self.identities: dict[str, Identity] = {}
        self.blocked: dict[str, float] = {}
        self.attempts: list[tuple[str, bool, str]] = []
        self.error: Exception | None = None
        self.locked_seconds = 0.0

    async def login(self, username: str, password: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        if self.error is not None:
            raise self.error
        account = username.lower()
        success = self.passwords.get(account) == password and authorize_as in ("", username)
        return self._outcome(account, success, attempt)

    async def scram_credentials(self, username: str, attempt: Attempt) -> ScramCredentials | Denied:
        if self.error is not None:
            raise self.error
        password = self.passwords.get(username.lower(), "no such account, but a password all the same")
        salt = hashlib.sha256(username.lower().encode()).digest()[:16]
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, self.ITERATIONS)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        return ScramCredentials("SCRAM-SHA-256", salt, self.ITERATIONS, hashlib.sha256(client_key).digest(), server_key)

    async def scram_finished(
        self, username: str, success: bool, attempt: Attempt, *, authorize_as: str = ""
    ) -> Identity | Denied:
        account = username.lower()
        return self._outcome(account, success and account in self.passwords and authorize_as in ("", username), attempt)

    async def login_certified(self, username: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        account = username.lower()
        return self._outcome(account, account in self.passwords and authorize_as in ("", username), attempt)

    async def login_token(self, username: str, token: str, attempt: Attempt) -> Identity | Denied:
        return self._outcome(username.lower(), False, attempt)

    def is_blocked(self, client_address: str) -> float:
        return self.blocked.get(client_address, 0.0)

    def _outcome(self, account: str, success: bool, attempt: Attempt) -> Identity | Denied:
        self.attempts.append((account, success, attempt.client_address))
        if not success:
            return Denied(reason="wrong password", locked_seconds=self.locked_seconds)
        return self.identities.get(account) or Identity(account, frozenset({account}))


class Lines:
    """A log sink that keeps lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    def matching(self, found: Callable[[str], bool]) -> list[str]:
        return [line for line in self.lines if found(line)]
