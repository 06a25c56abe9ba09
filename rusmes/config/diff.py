"""What differs between two configurations, and whether a reload is enough for it.

A reload applies everything but what is bound, opened or forked at the start: addresses and ports, processes, the
store, where the log goes. The list below is of what needs a restart, so that a new key reloads unless somebody says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from rusmes.config.schema import NOT_KEYS, PROTOCOLS, Config
from rusmes.config.units import Duration, Secret, Size, duration_text, size_text

NEEDS_RESTART: Final = (
    "hostname",
    "runtime_dir",
    "run_as_user",
    "run_as_group",
    "chroot",
    "server.workers",
    "dkim.threads",
    "events.enabled",
    "events.path",
    "events.buffer",
    "lmtp.path",
    "storage",
    "auth.backend",
    "auth.path",
    "auth.argon2_memory",
    "auth.argon2_passes",
    "auth.argon2_lanes",
    "auth.scram_iterations",
    "logging.format",
    "logging.output",
    "logging.file",
    "metrics",
    "admin",
    "tracing",
    *(f"{section}.{key}" for section in PROTOCOLS for key in ("host", "port", "tls_port")),
)
"""Dotted keys, and tables with all that is in them."""


class Change(Struct, frozen=True):
    """One key that differs; secrets show as ***."""

    key: str
    old: str
    new: str
    needs_restart: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


class Changes(Struct, frozen=True):
    """The difference between two configurations."""

    applied: tuple[Change, ...]
    """What a reload puts into effect."""
    restart: tuple[Change, ...]
    """What stays as it was until the server is restarted."""


def compare(old: Config, new: Config) -> Changes:
    """Every key that differs, by whether a reload is enough."""
    changes = list(_differences(old, new, ""))
    return Changes(
        applied=tuple(change for change in changes if not change.needs_restart),
        restart=tuple(change for change in changes if change.needs_restart),
    )


def _differences(old: Struct, new: Struct, prefix: str) -> Iterator[Change]:
    for name in old.__struct_fields__:
        if not prefix and name in NOT_KEYS:
            continue
        key = f"{prefix}{name}"
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, Struct) and isinstance(after, Struct):
            yield from _differences(before, after, f"{key}.")
        else:
            yield Change(key, _shown(before), _shown(after), _needs_restart(key))


def _needs_restart(key: str) -> bool:
    return any(key == entry or key.startswith(f"{entry}.") for entry in NEEDS_RESTART)


def _shown(value: Any) -> str:
    """A value for the log. Tables and lists of tables may hold secrets and are long: only that they changed is said."""
    if isinstance(value, Secret):
        return "***" if value else '""'
    if isinstance(value, Duration):
        return duration_text(value)
    if isinstance(value, Size):
        return size_text(value)
    if isinstance(value, Struct):
        return "a table"
    if isinstance(value, dict):
        return f"{len(value)} entries"
    if isinstance(value, tuple):
        return f"{len(value)} entries" if any(isinstance(item, Struct) for item in value) else f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
