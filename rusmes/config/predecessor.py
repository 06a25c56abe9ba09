"""Keys of RusMES 0.1 (Rust): those with the same meaning under another name are taken over, the rest say what replaces them.

Keys that kept name and meaning need nothing here. `docs/migration.md` is checked against these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from rusmes.config.problems import Collector, KeyPath, dotted


def _seconds(value: Any) -> Any:
    return f"{value}s" if isinstance(value, int) and not isinstance(value, bool) else value


def _same(value: Any) -> Any:
    return value


RENAMED: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "smtp.outbound.idle_timeout_secs": ("delivery.idle_timeout", _seconds),
    "smtp.outbound.per_remote_cap": ("delivery.connections_per_site", _same),
    "smtp.outbound.global_cap": ("delivery.max_connections", _same),
    "pop3.timeout_seconds": ("pop3.timeout", _seconds),
    "tls.default.cert_path": ("tls.cert_path", _same),
    "tls.default.key_path": ("tls.key_path", _same),
    "tls.default.client_auth": ("tls.client_auth", _same),
    "tls.default.client_ca_path": ("tls.client_ca_path", _same),
    "performance.worker_threads": ("server.workers", _same),
}
"""Old key: the new one, and how its value reads there."""

REPLACED: Final[dict[str, str]] = {
    "smtp.allow_relay": "who may relay is [security] relay_networks, and whoever logs in on [submission]",
    "pop3.enable_stls": "STLS is always offered; remove the key",
    "jmap.push": "JMAP push has no settings here; remove the table",
    "auth.hash_algorithm": "new passwords are always hashed with argon2id; remove the key",
    "queue.initial_delay": "[queue] retry_schedule lists every wait",
    "queue.max_delay": "the last wait of [queue] retry_schedule repeats",
    "queue.backoff_multiplier": "[queue] retry_schedule lists every wait",
    "queue.max_attempts": "[queue] max_age ends the attempts",
    "queue.worker_threads": "every worker delivers its own queue; [server] workers sets their number",
    "queue.batch_size": "outcomes are committed in batches by themselves; remove the key",
    "performance.imap_pool_size": "there are no pools of sessions; remove the key",
    "performance.smtp_pool_size": "there are no pools of sessions; remove the key",
    "performance.read_buffer_kb": "buffers need no setting; remove the key",
    "performance.write_buffer_kb": "buffers need no setting; remove the key",
    "performance": "[server] workers is what remains of it",
    "metrics.basic_auth": "bind [metrics] to a private address; the administration API beside it has [admin] token_file",
    "tracing.protocol": "the endpoint's URL says it; remove the key",
    "storage.endpoints": "the amaters backend does not exist here; use lmdb",
    "storage.replication_factor": "the amaters backend does not exist here; use lmdb",
    "storage.filesystem": "write backend and path directly into [storage]",
    "storage.postgres": "write backend and connection_string directly into [storage]",
    "auth.file": "write backend and path directly into [auth]",
    "processors.thread_pool_size": "the pipeline needs no threads; remove the key",
    "smtp.outbound": "[delivery] holds what concerns other servers",
    "tls.default": "write its keys directly into [tls]",
    "acme": "certificates are not fetched by this version; point [tls] cert_path and key_path at those of your ACME client",
}
"""Old key: what to do instead. An index of an array does not count."""

REPLACED_VARIABLES: Final[dict[str, str]] = {
    f"RUSMES_{key.replace('.', '_').upper()}": text for key, text in REPLACED.items() if key.startswith(("queue.", "tracing."))
}


def translate(raw: dict[str, Any], problems: Collector) -> dict[KeyPath, KeyPath]:
    """Move old keys to their new places, report those that are gone; where each moved value came from, by new path."""
    moved: dict[KeyPath, KeyPath] = {}
    for old, (new, read) in RENAMED.items():
        old_path, new_path = tuple(old.split(".")), tuple(new.split("."))
        table = _table(raw, old_path[:-1])
        if table is None or old_path[-1] not in table:
            continue
        value = table.pop(old_path[-1])
        target = _table(raw, new_path[:-1], create=True)
        if target is None:
            continue
        if new_path[-1] in target:
            problems.add(old_path, f"is the old name of {new}, which is set as well", "keep the new one")
            continue
        target[new_path[-1]] = read(value)
        moved[new_path] = old_path
        problems.warnings.append(f"{old} is now called {new}")
    for path in list(_old_keys(raw, ())):
        key = ".".join(part for part in path if isinstance(part, str))
        table = _container(raw, path)
        value = table.pop(str(path[-1]))
        if value != {}:  # a table whose keys were all taken over may stay
            problems.add(path, f"{dotted(path).rpartition('.')[2]} is no longer a setting", REPLACED[key])
    return moved


def _table(raw: dict[str, Any], path: KeyPath, *, create: bool = False) -> dict[str, Any] | None:
    table: Any = raw
    for part in path:
        table = table.setdefault(part, {}) if create and isinstance(table, dict) else table.get(part)
        if not isinstance(table, dict):
            return None
    return table if isinstance(table, dict) else None


def _container(raw: Any, path: KeyPath) -> dict[str, Any]:
    for part in path[:-1]:
        raw = raw[part]
    assert isinstance(raw, dict)
    return raw


def _old_keys(raw: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Key paths in REPLACED, innermost first, so that a table goes after what it holds."""
    if len(path) > 3:
        return
    for part, value in list(raw.items()) if isinstance(raw, dict) else list(enumerate(raw)):
        here = (*path, part)
        if isinstance(value, (dict, list)):
            yield from _old_keys(value, here)
        if ".".join(name for name in here if isinstance(name, str)) in REPLACED and isinstance(part, str):
            yield here
