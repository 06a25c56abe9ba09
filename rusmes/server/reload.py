"""A changed configuration: which parts of it take effect without a restart."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from rusmes.config.diff import Changes, compare
from rusmes.config.schema import Config


def changes_of(old: Config, new: Config) -> Changes:
    """What differs between two files, the machine's own additions aside."""
    return compare(old, new)


def with_old_values(new: Config, old: Config, keys: Iterable[str]) -> Config:
    """`new`, but for these dotted keys, which stay as they are in `old`."""
    for key in keys:
        new = _with(new, old, key.split("."))
    return new


def _with(new: Any, old: Any, path: list[str]) -> Any:
    name = path[0]
    value = getattr(old, name) if len(path) == 1 else _with(getattr(new, name), getattr(old, name), path[1:])
    return replace(new, **{name: value})


def packed(config: Config) -> str:
    """A configuration as text, for the channel between our own processes (secrets included)."""
    return base64.b64encode(pickle.dumps(config)).decode()


def unpacked(text: str) -> Config:
    """The configuration that `packed` made; only ever from the supervisor's end of a socket pair."""
    config = pickle.loads(base64.b64decode(text))
    assert isinstance(config, Config)
    return config
