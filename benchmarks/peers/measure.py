"""Rounds, CPU of process trees, medians."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Sample:
    """One run: messages a second, CPU seconds of the server for 1,000 messages, and what else was measured."""

    rate: float
    cpu_per_1000: float
    more: dict[str, float] = field(default_factory=dict)


def process_tree(root: int) -> list[int]:
    """`root` and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    tree, todo = [], [root]
    while todo:
        pid = todo.pop()
        tree.append(pid)
        todo += children.get(pid, [])
    return tree


def cpu_seconds(roots: Sequence[int]) -> float:
    """CPU used so far by the trees, children that ended and were waited for included."""
    ticks = 0
    for root in roots:
        for pid in process_tree(root):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS_PER_SECOND


def resident_bytes(root: int) -> int:
    """Proportional set size of the tree."""
    total = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def program(name: str) -> str:
    """The path of a compiled program of this directory: smtpload, smtpflood, smtpsink.

    Raises:
        CalledProcessError: there is no working C compiler.
    """
    source = Path(__file__).with_name(f"{name}.c")
    binary = Path(tempfile.gettempdir()) / f"rusmes-{name}-{os.getuid()}-{int(source.stat().st_mtime)}"
    if not binary.exists():
        subprocess.run(["cc", "-O2", "-o", str(binary), str(source)], check=True)
    return str(binary)


def run_load(argv: Sequence[str], seconds: float = 180) -> dict[str, float]:
    """Run a generator; its JSON line, when it prints one.

    Raises:
        RuntimeError: the generator failed or the peer refused mail.
    """
    done = subprocess.run(list(argv), capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {(done.stderr or done.stdout)[-400:]}")
    result: dict[str, float] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return result


def compare(title: str, runs: dict[str, Callable[[], Sample]], rounds: int, base: str) -> dict[str, Sample]:
    """Run all in turn, `rounds` times after one warm-up; print medians and ratios to `base`; the medians."""
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            sample = run()
            if number:
                samples[name].append(sample)
            time.sleep(0.2)
    medians = {name: _median(taken) for name, taken in samples.items()}
    reference = medians[base]
    for name, taken in samples.items():
        middle = medians[name]
        rates = sorted(s.rate for s in taken)
        line = (
            f"{title:34} {name:18} {middle.rate:9.0f}/s ({rates[0]:.0f}-{rates[-1]:.0f}) {middle.rate / reference.rate:6.2f} x"
            f"   CPU {middle.cpu_per_1000:7.3f} s/1000"
        )
        if reference.cpu_per_1000 and middle.cpu_per_1000:
            line += f" = 1/{reference.cpu_per_1000 / middle.cpu_per_1000:.1f}"
        print(line + "".join(f"  {key} {value:.2f}" for key, value in middle.more.items()), flush=True)
    return medians


def _median(samples: list[Sample]) -> Sample:
    return Sample(
        statistics.median(s.rate for s in samples),
        statistics.median(s.cpu_per_1000 for s in samples),
        {key: statistics.median(s.more[key] for s in samples) for key in samples[0].more},
    )


def environment() -> str:
    """Where the figures come from: commit, kernel, CPU, versions of the peers."""
    commands = (["git", "rev-parse", "--short", "HEAD"], ["uname", "-srm"], ["postconf", "-h", "mail_version"])
    parts = [sys.version.split()[0], f"{os.cpu_count()} cores"]
    for command in commands:
        with contextlib.suppress(OSError):
            parts.append(subprocess.run(command, capture_output=True, text=True).stdout.strip())
    return ", ".join(parts)
