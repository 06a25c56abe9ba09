"""The log as a file: several processes append, one rotates.

Every process opens the file in append mode and writes whole lines with one `write`, which the kernel does not mix. The
supervisor alone calls `rotate_when_full`; the others notice by the inode, at most a second later, that the name means a new
file, and open that. So an external logrotate works as well, with or without a signal. A rotated file is compressed once
nobody can hold it any more.

    rusmes.log  rusmes.log.1  rusmes.log.2.gz  ...  rusmes.log.<max_backups>.gz
"""

from __future__ import annotations

import gzip
import os
import shutil
import time
from pathlib import Path
from typing import Final

REOPEN_SECONDS: Final = 1.0
"""How long a process may go on writing to a file that was renamed."""

COMPRESS_AFTER_SECONDS: Final = 5.0
"""A process may be busy for longer than REOPEN_SECONDS, so compression waits for a few of them."""

MODE: Final = 0o640


class LogFile:
    """An appended file; callable with whole lines.

    Raises:
        OSError: the file cannot be opened (when made), or written.
    """

    def __init__(self, path: str, *, max_size: int = 0, max_backups: int = 7, compress: bool = True) -> None:
        self.path = path
        self.max_size = max_size
        self.max_backups = max_backups
        self.compress = compress
        self._descriptor = -1
        self._checked = 0.0
        self.reopen()

    def __call__(self, lines: bytes) -> None:
        now = time.monotonic()
        if now - self._checked >= REOPEN_SECONDS:
            self._checked = now
            if self._is_replaced():
                self.reopen()
        written = os.write(self._descriptor, lines)
        while written < len(lines):
            lines = lines[written:]
            written = os.write(self._descriptor, lines)

    def reopen(self) -> None:
        """Open the file that has the name now."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        self.close()
        self._descriptor = descriptor
        self._checked = time.monotonic()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        return self._descriptor

    def _is_replaced(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        here = os.fstat(self._descriptor)
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)

    def rotate_when_full(self) -> bool:
        """Rotate when the file has reached `max_size`; for one process only. Whether it did."""
        if not self.max_size or os.fstat(self._descriptor).st_size < self.max_size:
            return False
        self.rotate()
        return True

    def rotate(self) -> None:
        """Give every file the next number, drop the last, and begin a new one."""
        if self.max_backups == 0:
            os.unlink(self.path)
            self.reopen()
            return
        for suffix in ("", ".gz"):
            Path(f"{self.path}.{self.max_backups}{suffix}").unlink(missing_ok=True)
        for number in range(self.max_backups - 1, 0, -1):
            for suffix in ("", ".gz"):
                _rename(f"{self.path}.{number}{suffix}", f"{self.path}.{number + 1}{suffix}")
        _rename(self.path, f"{self.path}.1")
        self.reopen()

    def compressible(self) -> list[str]:
        """Rotated files that nobody writes any more."""
        if not self.compress:
            return []
        until = time.time() - COMPRESS_AFTER_SECONDS
        names = (f"{self.path}.{number}" for number in range(1, self.max_backups + 1))
        return [name for name in names if os.path.exists(name) and os.stat(name).st_ctime < until]


def compress_file(path: str) -> None:
    """Replace `path` by `path`.gz; takes as long as it takes, so call it where nobody waits."""
    temporary = f"{path}.gz.part"
    with (
        open(path, "rb") as source,
        open(temporary, "wb", opener=_private_opener) as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as target,
    ):
        shutil.copyfileobj(source, target, 256 * 1024)
    os.rename(temporary, f"{path}.gz")
    os.unlink(path)


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, MODE)


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        pass
