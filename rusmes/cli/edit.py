"""Changes to the configuration file that keep its comments, order and layout.

A change is made on the parsed text, the result is checked as a whole, and only then takes the file's place: written
beside, synced, renamed. Owner and mode stay.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from rusmes.config.load import parse_config
from rusmes.config.schema import Config
from rusmes.errors import ConfigError


def edit_config(path: str, change: Callable[[tomlkit.TOMLDocument], None]) -> Config:
    """Apply a change to the file; the configuration as it is then. Two commands take turns.

    Raises:
        ConfigError: the file cannot be edited, or the result would not be valid; it is as it was.
        Whatever `change` raises.
    """
    real = os.path.realpath(path)
    with _alone(real):
        with open(real, encoding="utf-8", newline="") as file:
            text = file.read()
        try:
            document = tomlkit.parse(text)
        except TOMLKitError as error:
            hint = "tables in braces that span lines cannot be edited by this command; edit the file by hand"
            raise ConfigError(f"cannot be edited: {error}", path=path, hint=hint) from None
        change(document)
        changed = tomlkit.dumps(document)
        config = parse_config(changed, environ=os.environ, path=path)
        if changed != text:
            _replace(real, changed)
    return config


def section(document: tomlkit.TOMLDocument, name: str) -> Any:
    """A top-level table, made at the end of the file when it is missing."""
    if name not in document:
        document.append(name, tomlkit.table())
    found = document[name]
    return found


def inner_table(table: Any, name: str) -> Any:
    """A table inside a table, made when it is missing."""
    if name not in table:
        table[name] = tomlkit.table()
    return table[name]


@contextmanager
def _alone(path: str) -> Iterator[None]:
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _replace(path: str, text: str) -> None:
    before = os.stat(path)
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".rusmes-")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            if os.geteuid() == 0:
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
