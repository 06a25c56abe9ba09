"""The default backend: accounts in a TOML file, users.toml (`users_toml` knows how it is written).

Writers of any process take turns by a lock file. Readers notice a new file by its inode and times and read it again in a
thread; a file that became bad leaves the accounts as they were, and is reported.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from rusmes.auth.api import ScramCredentials
from rusmes.auth.names import parse_address
from rusmes.auth.passwords import Hasher, HashingPool, format_scram, parse_scram
from rusmes.auth.users_toml import Snapshot, User, exclusive, read, stamp_of, write
from rusmes.errors import AlreadyExists, AuthUnavailable, ConfigError, NotFound, RusmesError
from rusmes.model.identity import Identity

if TYPE_CHECKING:
    from rusmes.config.schema import Config

LONG_READING_SECONDS: Final = 0.05
"""About 2,000 accounts. The parser holds the interpreter's lock meanwhile."""

REST_FACTOR: Final = 10.0
"""After a long reading the next one waits this many times as long, so that an import of accounts, one change after the other,
costs the workers a tenth of their time at most. 10,000 accounts: 0.26 s, so changes are seen within 2.6 s."""

RECIPIENT_SECONDS: Final = 0.5
"""How long an account that was there may be taken for there when mail comes for it; a `stat` for each RCPT costs 5 us.
Logins, and names that are not known, look at the file always."""


class FileBackend:
    """Implements `auth.api.Backend` and `auth.api.AccountAdmin` over one file.

    The constructor reads the file; a missing one is an empty list of accounts.

    Raises:
        ConfigError: the file is bad; path, line, reason.
    """

    mechanisms = frozenset({"PLAIN", "LOGIN", "SCRAM-SHA-256", "EXTERNAL"})

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        hasher: Hasher | None = None,
        pool: HashingPool | None = None,
        on_problem: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self._hasher = hasher or Hasher()
        self._pool = pool or HashingPool()
        # One thread: readings and changes of the file take turns, and do not wait behind hashing.
        self._files = ThreadPoolExecutor(1, thread_name_prefix="users-file")
        self._on_problem = on_problem or (lambda reason: None)
        self._bad_stamp: tuple[int, ...] | None = None
        self._upgrading: set[str] = set()
        self._not_before = 0.0
        """Monotonic time of the next reading, after one that took long."""
        self._looked = 0.0
        """Monotonic time of the last `stat`."""
        self._snapshot = read(self.path, 1)

    @classmethod
    def of(cls, config: Config, *, on_problem: Callable[[str], None] | None = None) -> FileBackend:
        """The backend a configuration describes. Raises ConfigError."""
        if config.auth.argon2_memory < 8192 * config.auth.argon2_lanes:
            raise ConfigError("argon2id needs at least 8KB a lane (RFC 9106 §3.1)", key="auth.argon2_memory", path=config.path)
        hasher = Hasher(
            time_cost=config.auth.argon2_passes,
            memory_kib=config.auth.argon2_memory // 1024,
            parallelism=config.auth.argon2_lanes,
            scram_iterations=config.auth.scram_iterations,
        )
        return cls(os.path.join(config.storage.path, config.auth.path), hasher=hasher, on_problem=on_problem)

    # Backend

    @property
    def decoy_secret(self) -> bytes:
        return self._snapshot.decoy_secret

    @property
    def scram_iterations(self) -> int:
        return self._hasher.scram_iterations

    async def generation(self) -> int:
        return (await self._current()).number

    async def verify(self, name: str, password: str) -> Identity | None:
        user = (await self._current()).by_address.get(name)
        phc = user.password if user is not None else ""
        matches = await self._pool.run(lambda: self._hasher.verify(password, phc))
        if user is None or not matches or user.disabled:
            return None
        if self._hasher.is_outdated(phc) or not user.scram:
            await self._upgrade(user, password)
        return user.identity()

    async def scram(self, name: str) -> ScramCredentials | None:
        user = (await self._current()).by_address.get(name)
        return parse_scram(user.scram) if user is not None and user.scram and not user.disabled else None

    async def find(self, name: str) -> Identity | None:
        user = (await self._current()).by_address.get(name)
        return user.identity() if user is not None and not user.disabled else None

    def deliverable(self, name: str) -> str | Awaitable[str]:
        user = self._snapshot.by_address.get(name)
        if user is None or time.monotonic() - self._looked > RECIPIENT_SECONDS:
            return self._deliverable_now(name)
        return user.address

    async def _deliverable_now(self, name: str) -> str:
        user = (await self._current()).by_address.get(name)
        return user.address if user is not None else ""

    def known(self, name: str) -> bool:
        return name in self._snapshot.by_address

    async def verify_token(self, name: str, token: str) -> Identity | None:
        return None

    # AccountAdmin

    async def add(self, account: str, password: str, *, quota_bytes: int = 0, quota_messages: int = 0) -> None:
        address = _account_name(account)
        phc, scram = await self._secrets_of(password)
        _check_quota(quota_bytes, quota_messages)
        user = User(address=address, password=phc, scram=scram, quota_bytes=quota_bytes, quota_messages=quota_messages)

        def change(users: dict[str, User]) -> None:
            if any(address in (other.address, *other.addresses) for other in users.values()):
                raise AlreadyExists(f"{address} exists already")
            users[address] = user

        await self._change(change)

    async def delete(self, account: str) -> None:
        """Raises NotFound."""
        address = _account_name(account)

        def change(users: dict[str, User]) -> None:
            _existing(users, address)
            del users[address]

        await self._change(change)

    async def set_password(self, account: str, password: str) -> None:
        """The SCRAM keys change in the same write. Raises NotFound."""
        phc, scram = await self._secrets_of(password)
        await self._replace(account, password=phc, scram=scram)

    async def set_quota(self, account: str, *, quota_bytes: int, quota_messages: int) -> None:
        """Raises NotFound."""
        _check_quota(quota_bytes, quota_messages)
        await self._replace(account, quota_bytes=quota_bytes, quota_messages=quota_messages)

    async def set_disabled(self, account: str, disabled: bool) -> None:
        """Forbid or allow logins. Raises NotFound."""
        await self._replace(account, disabled=disabled)

    async def set_admin(self, account: str, admin: bool) -> None:
        """Raises NotFound."""
        await self._replace(account, admin=admin)

    async def set_addresses(self, account: str, addresses: list[str]) -> None:
        """Replace the further addresses of an account.

        Raises:
            NotFound: the account.
            AlreadyExists: an address belongs to another account.
        """
        names = tuple(dict.fromkeys(_account_name(address) for address in addresses))
        own = _account_name(account)

        def change(users: dict[str, User]) -> None:
            user = _existing(users, own)
            for other in users.values():
                for name in names:
                    if other is not user and name in (other.address, *other.addresses):
                        raise AlreadyExists(f"{name} belongs to {other.address}")
            users[own] = msgspec.structs.replace(user, addresses=tuple(name for name in names if name != own))

        await self._change(change)

    async def list(self) -> list[Identity]:
        return [user.identity() for user in (await self._current()).users.values()]

    async def disabled(self) -> frozenset[str]:
        """The accounts that cannot log in."""
        return frozenset(user.address for user in (await self._current()).users.values() if user.disabled)

    def close(self) -> None:
        self._pool.close()
        self._files.shutdown(wait=True)

    # Inside

    async def _current(self) -> Snapshot:
        """The accounts as the file has them now; one `stat` when nothing changed."""
        try:
            self._looked = time.monotonic()
            stamp = stamp_of(self.path)
        except OSError as error:
            raise AuthUnavailable("authentication is not available", f"{self.path}: {error.strerror}") from None
        if stamp not in (self._snapshot.stamp, self._bad_stamp) and time.monotonic() >= self._not_before:
            await asyncio.get_running_loop().run_in_executor(self._files, self._reread)
        return self._snapshot

    def _reread(self) -> None:
        stamp = self._snapshot.stamp
        begin = time.monotonic()
        try:
            stamp = stamp_of(self.path)
            if stamp not in (self._snapshot.stamp, self._bad_stamp):
                self._snapshot = read(self.path, self._snapshot.number + 1)
                self._bad_stamp = None
        except (ConfigError, OSError) as error:
            self._bad_stamp = stamp
            self._on_problem(f"the accounts stay as they were: {error}")
        end = time.monotonic()
        if end - begin > LONG_READING_SECONDS:
            self._not_before = end + REST_FACTOR * (end - begin)

    async def _secrets_of(self, password: str) -> tuple[str, str]:
        return await self._pool.run(lambda: (self._hasher.hash(password), format_scram(self._hasher.scram_keys(password))))

    async def _upgrade(self, user: User, password: str) -> None:
        """Hash again with today's parameters; the login does not depend on it."""
        if user.address in self._upgrading:
            return
        self._upgrading.add(user.address)
        try:
            phc, scram = await self._secrets_of(password)

            def change(users: dict[str, User]) -> None:
                # A password that was changed meanwhile stays.
                if (current := users.get(user.address)) is not None and current.password == user.password:
                    users[user.address] = msgspec.structs.replace(current, password=phc, scram=scram)

            await self._change(change)
        except RusmesError as error:
            # Not tried again by this process: what failed once (no right to write) fails at each login.
            self._on_problem(f"the hash of {user.address} could not be renewed: {error}")
        else:
            self._upgrading.discard(user.address)

    async def _replace(self, account: str, **values: Any) -> None:
        address = _account_name(account)

        def change(users: dict[str, User]) -> None:
            users[address] = msgspec.structs.replace(_existing(users, address), **values)

        await self._change(change)

    async def _change(self, change: Callable[[dict[str, User]], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._files, self._change_now, change)

    def _change_now(self, change: Callable[[dict[str, User]], None]) -> None:
        try:
            with exclusive(self.path):
                # A file that is bad now is not overwritten: the operator's edit is worth more than the change.
                latest = read(self.path, self._snapshot.number + 1)
                users = dict(latest.users)
                change(users)
                write(self.path, users, latest.decoy_secret)
                self._snapshot = Snapshot(users, latest.decoy_secret, stamp_of(self.path), self._snapshot.number + 1)
                self._bad_stamp = None
        except OSError as error:
            raise AuthUnavailable("the accounts cannot be changed now", f"{self.path}: {error.strerror or error}") from None


def _existing(users: dict[str, User], address: str) -> User:
    if address not in users:
        raise NotFound(f"there is no account {address}")
    return users[address]


def _account_name(text: str) -> str:
    address = parse_address(text)
    if address is None:
        raise RusmesError(f"{text!r} is not an address (user@example.com)")
    return address.folded


def _check_quota(quota_bytes: int, quota_messages: int) -> None:
    if not (0 <= quota_bytes < 1 << 62 and 0 <= quota_messages < 1 << 62):
        raise RusmesError("a quota is a number from 0 (none) up")
