"""How much of the memory there may be is in use: of the cgroup if it has a limit, else of the machine.

What can be taken back does not count: the page cache, in which the databases lie, is given up by the kernel when it must.
cgroup v2 (memory.max, memory.current, memory.stat) and v1 (memory.limit_in_bytes, ...), proc(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
PROC: Final = Path("/proc")
_NO_LIMIT: Final = 1 << 60


class Memory:
    """The files are found once; a look costs about 50 us."""

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._meminfo = proc / "meminfo"
        self._groups = [group for group in _groups(proc, cgroups) if group.limit() < _NO_LIMIT]

    def share(self) -> float:
        """0 to 1; 0 where nobody tells."""
        try:
            shares = [group.used() / group.limit() for group in self._groups]
        except (OSError, ValueError, ZeroDivisionError):
            shares = []
        return max([*shares, self._of_machine()])

    def _of_machine(self) -> float:
        try:
            lines = self._meminfo.read_text().splitlines()
            fields = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.strip()}
            return 1.0 - fields["MemAvailable"] / fields["MemTotal"]
        except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError):
            return 0.0


class _Group:
    """The files of one cgroup."""

    def __init__(self, limit: Path, current: Path, stat: Path) -> None:
        self._limit = limit
        self._current = current
        self._stat = stat

    def limit(self) -> int:
        try:
            text = self._limit.read_text().strip()
            return _NO_LIMIT if text == "max" else int(text)
        except (OSError, ValueError):
            return _NO_LIMIT

    def used(self) -> int:
        """Raises OSError, ValueError."""
        cache = 0
        for line in self._stat.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("active_file", "inactive_file"):
                cache += int(value)
        return max(0, int(self._current.read_text()) - cache)


def _groups(proc: Path, cgroups: Path) -> Iterator[_Group]:
    """The process's own group and those above it, each of which may have a limit."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        is_v1 = "memory" in controllers.split(",")
        if controllers and not is_v1:
            continue
        root = cgroups / "memory" if is_v1 else cgroups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if is_v1 else ("memory.max", "memory.current")
        directory = root / path.lstrip("/")
        while True:
            if (directory / names[0]).exists():
                yield _Group(directory / names[0], directory / names[1], directory / "memory.stat")
            if directory == root or root not in directory.parents:
                break
            directory = directory.parent
