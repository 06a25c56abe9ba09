"""What is said of memory: by a machine, and by cgroups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from rusmes.server.memory import Memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable:    400 kB\n")
    return tmp_path


def share(machine: Path) -> float:
    return Memory(machine / "proc", machine / "sys").share()


def write(path: Path, files: dict[str, str]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)


def test_a_machine_without_limits(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/user.slice\n")
    assert share(machine) == pytest.approx(0.6)


def test_cgroup_v2_has_the_tightest_limit_above(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/a/b\n")
    stat = "anon 1\nactive_file 100\ninactive_file 200\n"
    write(machine / "sys/a/b", {"memory.max": "max\n", "memory.current": "900", "memory.stat": stat})
    write(machine / "sys/a", {"memory.max": "1000\n", "memory.current": "1000", "memory.stat": stat})
    assert share(machine) == pytest.approx(0.7), "the page cache can be taken back"


def test_cgroup_v1(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("5:cpu:/x\n4:memory:/x\n")
    files = {"memory.limit_in_bytes": "1000\n", "memory.usage_in_bytes": "950\n", "memory.stat": "inactive_file 0\n"}
    write(machine / "sys/memory/x", files)
    assert share(machine) == pytest.approx(0.95)
    (machine / "sys/memory/x/memory.limit_in_bytes").write_text(str(1 << 63))
    assert share(machine) == pytest.approx(0.6)


@pytest.mark.parametrize("text", ["", "nonsense", "MemTotal: 0 kB\nMemAvailable: 0 kB\n"])
def test_where_nobody_tells_there_is_no_load(machine: Path, text: str) -> None:
    (machine / "proc/meminfo").write_text(text)
    assert share(machine) == 0.0


def test_this_machine_says_something() -> None:
    assert 0.0 < Memory().share() < 1.0
