"""Accounts in a TOML file, users.toml: the default backend, and the only place that writes it.

The file is replaced as a whole: written beside, synced, renamed, the folder synced; mode 0600, owner kept. Writers of any
process take turns by a lock file. Readers notice a new file by its inode and times and read it again in a thread; a file
that became bad leaves the accounts as they were, and is reported.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import tomli
from msgspec import Struct

from rusmes.auth.api import ScramCredentials
from rusmes.auth.names import parse_address
from rusmes.auth.passwords import Hasher, HashingPool, format_scram, is_argon2id, parse_scram
from rusmes.errors import AlreadyExists, AuthUnavailable, ConfigError, NotFound, RusmesError
from rusmes.model.identity import Identity

if TYPE_CHECKING:
    from rusmes.config.schema import Config

_HEADER: Final = """\
# Accounts of RusMES. Changed by `rusmes user`, which keeps entries but not comments; edits by hand are noticed at once.
"""


class User(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of the file; its attributes are the file's keys."""

    address: str
    password: str = ""
    """PHC string of argon2id; "" = nobody can log in with a password."""
    scram: str = ""
    """RFC 5803."""
    name: str = ""
    addresses: tuple[str, ...] = ()
    """Further addresses the account receives for and may send as."""
    quota_bytes: int = 0
    quota_messages: int = 0
    disabled: bool = False
    """No login; mail is still received."""
    admin: bool = False
    disabled_capabilities: tuple[str, ...] = ()

    def identity(self) -> Identity:
        return Identity(
            account=self.address,
            addresses=frozenset((self.address, *self.addresses)),
            display_name=self.name,
            quota_bytes=self.quota_bytes,
            quota_messages=self.quota_messages,
            disabled_capabilities=frozenset(self.disabled_capabilities),
            admin=self.admin,
        )


class _File(Struct, forbid_unknown_fields=True):
    decoy_secret: str = ""
    user: list[User] = []


class _Snapshot:
    """The file as it was when it had `stamp`; replaced as a whole, never changed."""

    __slots__ = ("by_address", "decoy_secret", "number", "stamp", "users")

    def __init__(self, users: dict[str, User], decoy_secret: bytes, stamp: tuple[int, ...], number: int) -> None:
        self.users = users
        self.by_address = {address: user for user in users.values() for address in (user.address, *user.addresses)}
        self.decoy_secret = decoy_secret
        self.stamp = stamp
        self.number = number


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
        self._snapshot = _read(self.path, 1)

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

    async def deliverable(self, name: str) -> str:
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

    async def _current(self) -> _Snapshot:
        """The accounts as the file has them now; one `stat` when nothing changed."""
        try:
            stamp = _stamp(self.path)
        except OSError as error:
            raise AuthUnavailable("authentication is not available", f"{self.path}: {error.strerror}") from None
        if stamp not in (self._snapshot.stamp, self._bad_stamp):
            await asyncio.get_running_loop().run_in_executor(self._files, self._reread)
        return self._snapshot

    def _reread(self) -> None:
        stamp = self._snapshot.stamp
        try:
            stamp = _stamp(self.path)
            if stamp not in (self._snapshot.stamp, self._bad_stamp):
                self._snapshot = _read(self.path, self._snapshot.number + 1)
                self._bad_stamp = None
        except (ConfigError, OSError) as error:
            self._bad_stamp = stamp
            self._on_problem(f"the accounts stay as they were: {error}")

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
            self._on_problem(f"the hash of {user.address} could not be renewed: {error}")
        finally:
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
            with _exclusive(self.path):
                # A file that is bad now is not overwritten: the operator's edit is worth more than the change.
                latest = _read(self.path, self._snapshot.number + 1)
                users = dict(latest.users)
                change(users)
                _write(self.path, users, latest.decoy_secret)
                self._snapshot = _Snapshot(users, latest.decoy_secret, _stamp(self.path), self._snapshot.number + 1)
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


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells one file from another; () when there is none."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return ()
    return (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)


def _read(path: Path, number: int) -> _Snapshot:
    """Raises ConfigError, with the line where there is one."""
    stamp = _stamp(path)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return _Snapshot({}, secrets.token_bytes(32), (), number)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError("the file is not UTF-8", path=str(path), line=line) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(path)) from None
    try:
        raw = tomli.loads(text)
        decoded = msgspec.convert(raw, _File)
    except tomli.TOMLDecodeError as error:
        raise ConfigError(error.msg, path=str(path), line=error.lineno) from None
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        raise ConfigError(reason, key=place.strip(".`"), path=str(path), line=_line_of(text, place)) from None
    users: dict[str, User] = {}
    seen: dict[str, int] = {}
    for index, user in enumerate(decoded.user):
        try:
            checked = _checked(user)
            for address in (checked.address, *checked.addresses):
                if seen.setdefault(address, index) != index:
                    raise ValueError(f"{address} belongs to two accounts")
        except ValueError as error:
            raise ConfigError(str(error), path=str(path), line=_line_of(text, f"[{index}]")) from None
        users[checked.address] = checked
    return _Snapshot(users, _decoy_secret(decoded, path), stamp, number)


def _checked(user: User) -> User:
    """The entry with folded addresses. Raises ValueError."""
    names = []
    for text in (user.address, *user.addresses):
        address = parse_address(text)
        if address is None:
            raise ValueError(f"{text!r} is not an address")
        names.append(address.folded)
    if user.password and not is_argon2id(user.password):
        raise ValueError(f"the password of {names[0]} is not an argon2id hash; set one with `rusmes user passwd {names[0]}`")
    if user.scram:
        parse_scram(user.scram)
    if user.quota_bytes < 0 or user.quota_messages < 0:
        raise ValueError(f"the quota of {names[0]} is negative")
    others = tuple(dict.fromkeys(name for name in names[1:] if name != names[0]))
    return msgspec.structs.replace(user, address=names[0], addresses=others)


def _decoy_secret(decoded: _File, path: Path) -> bytes:
    """The file's own secret; without one, something that every process derives alike and that only the file's readers know."""
    try:
        secret = base64.b64decode(decoded.decoy_secret, validate=True)
    except ValueError:
        raise ConfigError("is not base64", key="decoy_secret", path=str(path)) from None
    if len(secret) >= 16:
        return secret
    return hashlib.sha256("".join(user.password + user.scram for user in decoded.user).encode()).digest()


def _line_of(text: str, place: str) -> int:
    """The line an error is on, of msgspec's "[3].address" within the list of users; 0 = unknown.

    Exact for an entry's key that stands at the start of a line, else the entry's first line.
    """
    found = re.search(r"\[(\d+)\](?:\.(\w+))?", place)
    lines = text.split("\n")
    if found is None:
        key = place.strip(".`")
        return next((n for n, line in enumerate(lines, 1) if key and line.lstrip().startswith(key)), 0)
    starts = [n for n, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*user\s*\]\]", line)]
    index = int(found[1])
    if index >= len(starts):
        return 0
    end = starts[index + 1] if index + 1 < len(starts) else len(lines) + 1
    key = found[2] or ""
    return next((n for n in range(starts[index], end) if key and lines[n - 1].lstrip().startswith(key)), starts[index])


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `<path>.lock`; other processes wait. The lock goes when the process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _keep_owner(lock, path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _keep_owner(descriptor: int, path: Path) -> None:
    """Give a file that root makes the owner of the old file, or of the folder: the workers run as that user."""
    if os.geteuid() == 0:
        try:
            facts = os.stat(path)
        except FileNotFoundError:
            facts = os.stat(path.parent)
        os.fchown(descriptor, facts.st_uid, facts.st_gid)


def _write(path: Path, users: dict[str, User], decoy_secret: bytes) -> None:
    """Replace the file so that a crash leaves the old one or the new one, whole."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            _keep_owner(file.fileno(), path)
            file.write(_render(users, decoy_secret).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _render(users: dict[str, User], decoy_secret: bytes) -> str:
    defaults = User(address="")
    parts = [_HEADER, f"decoy_secret = {_toml(base64.b64encode(decoy_secret).decode())}\n"]
    for user in users.values():
        parts.append("\n[[user]]\n")
        for name in User.__struct_fields__:
            value = getattr(user, name)
            if value != getattr(defaults, name):
                parts.append(f"{name} = {_toml(value)}\n")
    return "".join(parts)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # A JSON string is a basic string of TOML, but for DEL, which TOML wants escaped.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
