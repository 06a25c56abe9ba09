"""Who we are: users, groups, the root directory, descriptors."""

from __future__ import annotations

import codecs
import contextlib
import grp
import importlib
import os
import pkgutil
import pwd
import ssl
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from rusmes.config.schema import Config
from rusmes.errors import ConfigError

CHROOT_FILES: Final = tuple(
    f"/etc/{name}" for name in ("resolv.conf", "hosts", "host.conf", "nsswitch.conf", "services", "localtime")
)
"""What the C library and the resolver read later; copied at every start, as Postfix does."""


LAZY_CODECS: Final = ("idna", "punycode", "utf-8", "ascii", "latin-1", "unicode_escape", "utf-7", "utf-16")
LAZY_PACKAGES: Final = ("lmdb", "dns", "argon2", "asyncio", "concurrent.futures", "email", "uvloop", "rusmes")
"""Packages of which some module is imported only when it is needed."""
NEVER_IMPORTED: Final = ("__main__", ".cffi", ".tool")
"""Ends of names of modules that are programs; importing lmdb.cffi calls a compiler."""


class Person(Struct, frozen=True):
    """A user and group to become."""

    uid: int
    gid: int
    name: str


def wanted_person(config: Config) -> Person | None:
    """Whom `run_as_user` and `run_as_group` mean; None = stay who we are.

    Raises:
        ConfigError: no such user or group, or we are not root and somebody else is wanted.
    """
    if not config.run_as_user:
        if config.run_as_group:
            raise ConfigError("needs run_as_user", key="run_as_group")
        return None
    try:
        user = pwd.getpwnam(config.run_as_user)
    except KeyError:
        raise ConfigError(f"there is no user {config.run_as_user}", key="run_as_user", hint="create it first") from None
    gid = user.pw_gid
    if config.run_as_group:
        try:
            gid = grp.getgrnam(config.run_as_group).gr_gid
        except KeyError:
            raise ConfigError(f"there is no group {config.run_as_group}", key="run_as_group") from None
    if os.geteuid() != 0:
        if os.geteuid() == user.pw_uid:
            return None
        raise ConfigError("only root can become another user", key="run_as_user", hint="start as root, or remove run_as_user")
    return Person(user.pw_uid, gid, config.run_as_user)


def give(person: Person | None, *paths: str) -> None:
    """Make what exists of these paths the person's own."""
    if person is None:
        return
    for path in paths:
        if os.path.lexists(path):
            os.chown(path, person.uid, person.gid, follow_symlinks=False)


def give_tree(person: Person | None, path: str) -> None:
    """A directory that root filled (by the CLI, or before run_as_user was set) becomes the person's, when its owner is root."""
    if person is None:
        return
    for directory, _, names in os.walk(path):
        for place in (directory, *(os.path.join(directory, name) for name in names)):
            if os.lstat(place).st_uid == 0:
                os.chown(place, person.uid, person.gid, follow_symlinks=False)


def become(person: Person | None) -> None:
    """Drop root for good: groups first, then the group, then the user; and check that there is no way back."""
    if person is None:
        return
    os.setgroups([])
    os.setgid(person.gid)
    os.setuid(person.uid)
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise RuntimeError("root could not be given up")


def check_chroot(config: Config) -> None:
    """Raises ConfigError: what is needed later lies outside the data directory."""
    if not config.chroot:
        return
    if os.geteuid() != 0:
        raise ConfigError("only root can change the root directory", key="chroot")
    root = os.path.realpath(config.storage.path)
    needed = {"runtime_dir": config.runtime_dir, "lmtp.path": config.lmtp.path, "logging.file.path": config.logging.file.path}
    needed |= {"events.path": config.events.path} | {f"events.file.{one.name}.path": one.path for one in config.events.file}
    needed |= {f"dkim.key[{index}].path": one.path for index, one in enumerate(config.dkim.key)}
    needed["dkim.directory"] = os.path.join(config.storage.path, config.dkim.directory)
    for key, path in needed.items():
        if path and os.path.commonpath([root, os.path.realpath(path)]) != root:
            hint = "move it inside, or chroot = false"
            raise ConfigError(f"lies outside of {root}, the new root directory", key=key, hint=hint)


def change_root(config: Config) -> Config:
    """Make the data directory the root directory; the configuration as it reads from inside.

    What others import lazily is imported before, since the files are out of reach afterwards.
    """
    if not config.chroot:
        return config
    root = os.path.realpath(config.storage.path)
    for source in CHROOT_FILES:
        if os.path.isfile(source):
            _write_into(root, source, Path(source).read_bytes())
    paths = ssl.get_default_verify_paths()
    _write_into(root, os.environ.get(paths.openssl_cafile_env) or paths.openssl_cafile, authorities())
    for name in LAZY_CODECS:
        codecs.lookup(name)
    for name in LAZY_PACKAGES:
        _import_all(name)
    os.chroot(root)
    os.chdir("/")

    def moved(path: str) -> str:
        return "/" + os.path.relpath(path, root) if path and os.path.commonpath([root, path]) == root else path

    return replace(
        config,
        runtime_dir=moved(config.runtime_dir),
        storage=replace(config.storage, path="/"),
        lmtp=replace(config.lmtp, path=moved(config.lmtp.path)),
        logging=replace(config.logging, file=replace(config.logging.file, path=moved(config.logging.file.path))),
        events=replace(
            config.events,
            path=moved(config.events.path),
            file=tuple(replace(one, path=moved(one.path)) for one in config.events.file),
        ),
        dkim=replace(
            config.dkim,
            directory=moved(os.path.join(root, config.dkim.directory)),
            key=tuple(replace(one, path=moved(one.path)) for one in config.dkim.key),
        ),
    )


def _import_all(name: str) -> None:
    """Import a package with all its modules, but for those that need what is not installed, and programs."""
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}.", onerror=lambda _name: None):
        if not module.name.endswith(NEVER_IMPORTED):
            with contextlib.suppress(Exception):
                importlib.import_module(module.name)


def authorities() -> bytes:
    """The certificates of the CAs this machine trusts, in one PEM: deliveries with verified TLS read them later."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile).read_bytes()
    if not paths.capath:
        return b""
    bundle = Path(paths.capath) / "ca-certificates.crt"
    files = [bundle] if bundle.is_file() else [file for file in sorted(Path(paths.capath).iterdir()) if file.is_file()]
    return b"".join(dict.fromkeys(file.read_bytes() for file in files))


def _write_into(root: str, path: str, data: bytes) -> None:
    """Put a file where it is found from inside, readable for the user the server becomes, whatever the umask is."""
    target = os.path.join(root, path.lstrip("/"))
    directory = root
    for part in os.path.relpath(os.path.dirname(target), root).split("/"):
        directory = os.path.join(directory, part)
        if not os.path.isdir(directory):
            os.mkdir(directory)
            os.chmod(directory, 0o755)
    Path(target).write_bytes(data)
    os.chmod(target, 0o644)
