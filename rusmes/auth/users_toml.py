"""The file users.toml: its entries, how it is read (with the place of every error) and replaced (whole, and synced)."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import tomli
from msgspec import Struct

from rusmes.auth.names import parse_address
from rusmes.auth.passwords import is_argon2id, parse_scram
from rusmes.errors import ConfigError
from rusmes.model.identity import Identity

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


class Snapshot:
    """The file as it was when it had `stamp`; replaced as a whole, never changed."""

    __slots__ = ("by_address", "decoy_secret", "number", "stamp", "users")

    def __init__(self, users: dict[str, User], decoy_secret: bytes, stamp: tuple[int, ...], number: int) -> None:
        self.users = users
        self.by_address = {address: user for user in users.values() for address in (user.address, *user.addresses)}
        self.decoy_secret = decoy_secret
        self.stamp = stamp
        self.number = number


def stamp_of(path: Path) -> tuple[int, ...]:
    """What tells one file from another; () when there is none."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return ()
    return (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)


def read(path: Path, number: int) -> Snapshot:
    """Raises ConfigError, with the line where there is one."""
    stamp = stamp_of(path)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return Snapshot({}, secrets.token_bytes(32), (), number)
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
    return Snapshot(users, _decoy_secret(decoded, path), stamp, number)


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
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `<path>.lock`; other processes wait. The lock goes when the process does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # often the data directory, before its first start
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


def write(path: Path, users: dict[str, User], decoy_secret: bytes) -> None:
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
