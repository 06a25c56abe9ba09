"""Directories, the lock of the data directory, and the PID file."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from msgspec.structs import replace

from rusmes.config.schema import Config
from rusmes.errors import ConfigError, RusmesError

DEFAULT_RUNTIME_DIR: Final = Config().runtime_dir
LOCK_NAME: Final = "server.lock"
PID_NAME: Final = "rusmes.pid"
ORPHAN_SECONDS: Final = 15.0
"""How long workers may take to end after their supervisor was killed (`worker.ORPHAN_DRAIN_SECONDS` and what follows)."""
CONTROL_NAME: Final = "control.sock"


class AlreadyRunning(RusmesError):
    """Another server has the data directory or the runtime directory."""


def own_runtime_dir(config: Config) -> str:
    """Where the default runtime directory is when this user may not have /run/rusmes."""
    return os.path.join(config.storage.path, "run")


def runtime_dir_of(config: Config) -> str:
    """The runtime directory of a server that runs with this configuration, for those who look for its control socket."""
    if config.runtime_dir == DEFAULT_RUNTIME_DIR and not os.path.exists(os.path.join(config.runtime_dir, CONTROL_NAME)):
        own = own_runtime_dir(config)
        if os.path.exists(os.path.join(own, CONTROL_NAME)):
            return own
    return config.runtime_dir


def prepare_directories(config: Config) -> Config:
    """Make the data and the runtime directory; the configuration with the runtime directory that is really used.

    Raises:
        ConfigError: one of them cannot be made, or not be written.
    """
    _make(config.storage.path, "storage.path", 0o700)
    try:
        _make(config.runtime_dir, "runtime_dir", 0o755)
    except ConfigError:
        if config.runtime_dir != DEFAULT_RUNTIME_DIR:
            raise
        config = replace(config, runtime_dir=own_runtime_dir(config))
        _make(config.runtime_dir, "runtime_dir", 0o755)
    if config.events.enabled and config.events.path:
        _make(config.events.path, "events.path", 0o750)
    return config


def _make(path: str, key: str, mode: int) -> None:
    try:
        os.makedirs(path, mode, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}", key=key) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written by this user", key=key)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


class Lock:
    """An exclusive lock on a file, held until every process that inherited it has ended.

    So a supervisor that was killed leaves the lock to its workers, which use the store for as long as they live.
    """

    def __init__(self, path: str) -> None:
        """Raises AlreadyRunning."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        until = time.monotonic() + ORPHAN_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                owner = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
                if _is_alive(owner) or time.monotonic() > until:
                    os.close(self._descriptor)
                    who = f"process {owner}" if owner else "another server"
                    detail = f"it holds {path}; stop it first, or give this one its own storage.path and runtime_dir"
                    raise AlreadyRunning(f"{who} runs already", detail) from None
                time.sleep(0.02)  # workers of a supervisor that was killed; they are on their way out
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def fileno(self) -> int:
        return self._descriptor

    def remove(self) -> None:
        """Remove the file and give up the lock."""
        try:
            os.unlink(self.path)
        except OSError:
            pass
        os.close(self._descriptor)
