"""What sessions log in with: throttling, constant time, and a short memory of passwords that were right.

The memory holds no password: its key is an HMAC of account and password under a key that lives and dies with the process, so a
core dump of one process is no help against another's. It is void as soon as the backend's accounts changed.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from rusmes.auth.api import Attempt, Backend, Denied, ScramCredentials
from rusmes.auth.names import canonical_account
from rusmes.auth.passwords import MAX_PASSWORD_OCTETS, decoy_scram
from rusmes.auth.throttle import Limits, Throttle
from rusmes.clock import Clock
from rusmes.errors import AuthUnavailable
from rusmes.log import get_logger
from rusmes.metrics import AUTH_ATTEMPTS, AUTH_CACHE, AUTH_MECHANISMS, AUTH_SECONDS, Metrics
from rusmes.model.identity import Identity

if TYPE_CHECKING:
    from rusmes.config.schema import Config

CACHE_ENTRIES: Final = 10_000
"""Verified passwords remembered, about 300 bytes each; the oldest goes first."""

TURN_SECONDS: Final = 0.02
PATIENCE_SECONDS: Final = 10.0
"""How often, and for how long, a login looks for its turn when ten passwords of its address are being checked."""

_LOCKED: Final = "too many failed logins, try again later"


_log: Final = get_logger("auth")


def _log_block(client_address: str, account: str) -> None:
    _log.warning("too many failed logins: blocked", client=client_address, account=account)


class CredentialCache:
    """Identities by keyed hash of (account, password), each for `ttl` seconds and one generation of the backend."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self._key = secrets.token_bytes(32)
        self._entries: dict[bytes, tuple[float, Identity]] = {}
        self._generation = -1

    def get(self, account: str, password: str, generation: int, now: float) -> Identity | None:
        """`now` is monotonic."""
        if generation != self._generation:
            self._entries.clear()
            self._generation = generation
        if not self.ttl:
            return None
        entry = self._entries.get(self._digest(account, password))
        return entry[1] if entry is not None and entry[0] > now else None

    def put(self, account: str, password: str, identity: Identity, generation: int, now: float) -> None:
        if not self.ttl or generation != self._generation:
            return
        if len(self._entries) >= CACHE_ENTRIES:
            self._entries = {key: entry for key, entry in self._entries.items() if entry[0] > now}
            while len(self._entries) >= CACHE_ENTRIES:
                del self._entries[next(iter(self._entries))]
        self._entries[self._digest(account, password)] = (now + self.ttl, identity)

    def _digest(self, account: str, password: str) -> bytes:
        name = account.encode("utf-8", "surrogatepass")
        text = len(name).to_bytes(4, "big") + name + password.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")


class FullAuthenticator:
    """Implements `auth.api.Authenticator` over any backend."""

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        clock: Clock,
        metrics: Metrics,
        config: Config,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        on_block: Callable[[str, str], None] | None = None,
    ) -> None:
        self.backend = backend
        self.throttle = Throttle(limits)
        self.mechanisms = backend.mechanisms
        self._clock = clock
        self._metrics = metrics
        self._domain = config.domain
        self._cache = CredentialCache(config.auth.cache_ttl)
        self._sleep = sleep
        self._on_block = on_block or _log_block

    def apply(self, config: Config) -> None:
        """Take over a new configuration."""
        self._domain = config.domain
        self._cache.ttl = config.auth.cache_ttl

    # Authenticator

    async def login(self, username: str, password: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        account = canonical_account(username, self._domain)
        if (denied := self._locked(account, attempt)) is not None:
            return denied
        if len(password) > MAX_PASSWORD_OCTETS:
            return await self._failed(account, attempt, "the password is too long")
        started = self._clock.monotonic()
        try:
            generation = await self.backend.generation()
            identity = self._cache.get(account, password, generation, started)
            self._metrics.inc(AUTH_CACHE["miss" if identity is None else "hit"])
            outcome = identity or await self._verified(account, password, attempt)
        except AuthUnavailable:
            self._metrics.inc(AUTH_ATTEMPTS["unavailable"])
            raise
        self._metrics.observe(AUTH_SECONDS, self._clock.monotonic() - started)
        if isinstance(outcome, Identity):
            if identity is None:
                self._cache.put(account, password, outcome, generation, self._clock.monotonic())
            return await self._authorized(outcome, authorize_as, attempt)
        denied, delay = outcome
        if delay:
            await self._sleep(delay)
        return denied

    async def _verified(self, account: str, password: str, attempt: Attempt) -> Identity | tuple[Denied, float]:
        """Ask the backend, when it is this address's turn; or the refusal, and the seconds to wait before it is said.

        A failure is counted before the next turn begins.
        """
        address = attempt.client_address
        patience = PATIENCE_SECONDS
        while not self.throttle.enter(address, self._clock.monotonic()):
            if patience <= 0:
                raise AuthUnavailable("authentication is busy", f"too many passwords from {address} are being checked")
            patience -= TURN_SECONDS
            await asyncio.sleep(TURN_SECONDS)
        try:
            if (denied := self._locked(account, attempt)) is not None:
                return denied, 0.0
            identity = await self.backend.verify(account, password)
            return identity or self._count_failure(account, attempt, "wrong password or no such account")
        finally:
            self.throttle.leave(address)

    async def scram_credentials(self, username: str, attempt: Attempt) -> ScramCredentials | Denied:
        account = canonical_account(username, self._domain)
        if (denied := self._locked(account, attempt)) is not None:
            return denied
        found = await self.backend.scram(account)
        return found or decoy_scram(self.backend.decoy_secret, account or username, self.backend.scram_iterations)

    async def scram_finished(
        self, username: str, success: bool, attempt: Attempt, *, authorize_as: str = ""
    ) -> Identity | Denied:
        account = canonical_account(username, self._domain)
        # Asked again: between the first message and this one others may have used up the account's failures.
        if (denied := self._locked(account, attempt)) is not None:
            return denied
        identity = await self.backend.find(account) if success else None
        if identity is None:
            return await self._failed(account, attempt, "wrong proof or no such account")
        return await self._authorized(identity, authorize_as, attempt)

    async def login_certified(self, username: str, attempt: Attempt, *, authorize_as: str = "") -> Identity | Denied:
        account = canonical_account(username, self._domain)
        if (denied := self._locked(account, attempt)) is not None:
            return denied
        identity = await self.backend.find(account)
        if identity is None:
            return await self._failed(account, attempt, "the certificate names no account")
        return await self._authorized(identity, authorize_as, attempt)

    async def login_token(self, username: str, token: str, attempt: Attempt) -> Identity | Denied:
        account = canonical_account(username, self._domain) if username else ""
        if (denied := self._locked(account, attempt)) is not None:
            return denied
        identity = await self.backend.verify_token(account, token)
        if identity is None:
            return await self._failed(account, attempt, "the token is not valid for this account")
        return await self._authorized(identity, "", attempt)

    def is_blocked(self, client_address: str) -> float:
        return self.throttle.address_blocked(client_address, self._clock.monotonic())

    # Inside

    def _locked(self, account: str, attempt: Attempt) -> Denied | None:
        now = self._clock.monotonic()
        if seconds := self.throttle.address_blocked(attempt.client_address, now):
            self._count("locked", attempt)
            return Denied(_LOCKED, "the address is blocked", seconds)
        if account and (seconds := self.throttle.account_blocked(account, attempt.client_address, now)):
            self._count("throttled", attempt)
            return Denied(_LOCKED, "the account is closed to unknown addresses", seconds)
        return None

    def _count(self, outcome: str, attempt: Attempt) -> None:
        self._metrics.inc(AUTH_ATTEMPTS[outcome])
        self._metrics.inc(AUTH_MECHANISMS[attempt.mechanism])

    def _count_failure(self, account: str, attempt: Attempt, reason: str) -> tuple[Denied, float]:
        """The refusal, and the seconds to wait before it is said."""
        self._count("failure", attempt)
        delay, blocked = self.throttle.failed(account, attempt.client_address, self._clock.monotonic())
        # A name that is no account's may be a password in the wrong box: it is not logged.
        known = account if account and self.backend.known(account) else ""
        _log.info(
            "login failed",
            client=attempt.client_address,
            protocol=attempt.protocol,
            session_id=attempt.session_id,
            account=known,
            mechanism=attempt.mechanism,
            reason=reason,
        )
        if blocked:
            self._on_block(attempt.client_address, known)
        return Denied(reason=reason), delay

    async def _failed(self, account: str, attempt: Attempt, reason: str) -> Denied:
        """Count first, then wait: parallel guesses all count before the first one is answered."""
        denied, delay = self._count_failure(account, attempt, reason)
        await self._sleep(delay)
        return denied

    async def _authorized(self, identity: Identity, authorize_as: str, attempt: Attempt) -> Identity | Denied:
        """RFC 4616 §2: an authorization identity other than one's own needs a right; administrators have it."""
        acting = identity
        if authorize_as:
            name = canonical_account(authorize_as, self._domain)
            if name not in identity.addresses and name != identity.account:
                other = await self.backend.find(name) if identity.admin else None
                if other is None:
                    return await self._failed(identity.account, attempt, "not authorized to act for another account")
                acting = other
        self.throttle.succeeded(identity.account, attempt.client_address, self._clock.monotonic())
        self._count("success", attempt)
        return acting
