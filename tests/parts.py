"""The programs of others that tests talk to: found where they are, or fetched on Debian.

`python -m tests.parts` fetches what is missing and says loudly what it could not get; `make test` calls it first. A test
asks with `require("swaks")`: without the program it is skipped, which is a failure under CI=true.

Nothing is started and nothing is removed: as root, packages are installed with services held back (policy-rc.d) and with
--no-remove, so a machine that has another mail server keeps it. Otherwise packages are downloaded and unpacked below the
virtual environment, without installing anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNPACKED = ROOT / ".venv" / "parts"
PROGRAMS = {
    "smtp-source": "postfix",
    "smtp-sink": "postfix",
    "swaks": "swaks",
    "curl": "curl",
    "strace": "strace",
    "openssl": "openssl",
    "mbsync": "isync",
    "offlineimap": "offlineimap3",
    "mutt": "mutt",
    "tmux": "tmux",
}
"""Program and the Debian package it comes from."""
PLACES = ("/usr/sbin", "/usr/local/sbin", "/sbin")
"""Where programs are that an ordinary user's PATH does not list."""
POLICY = Path("/usr/sbin/policy-rc.d")
NEVER_START = "#!/bin/sh\nexit 101\n"
PRESEED = "postfix postfix/main_mailer_type select No configuration\n"


def find(program: str) -> str | None:
    """The path of a program, None when it is nowhere."""
    unpacked = UNPACKED / "bin" / program
    if unpacked.exists():
        return str(unpacked)
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(PLACES))


def require(program: str) -> str:
    """The path of a program; without it the test that asks is skipped."""
    path = find(program)
    if path is None:
        pytest.skip(f"{program} is missing: `python -m tests.parts` fetches it, or install the package {PROGRAMS[program]}")
    return path


def missing() -> list[str]:
    return [program for program in PROGRAMS if find(program) is None]


def main() -> int:
    """Fetch what is missing; 1 when something still is."""
    if not missing():
        return 0
    if shutil.which("apt-get") is None:
        _complain("there is no apt-get")
        return 1
    packages = sorted({PROGRAMS[program] for program in missing()})
    print(f"fetching {', '.join(packages)} for the tests ...", flush=True)
    if os.geteuid() == 0:
        _install(packages)
    for package in sorted({PROGRAMS[program] for program in missing()}):
        _unpack(package)
    if missing():
        _complain("apt-get could not get them")
        return 1
    return 0


def _complain(reason: str) -> None:
    names = ", ".join(f"{program} (package {PROGRAMS[program]})" for program in missing())
    bar = "!" * 72
    print(f"{bar}\nMISSING: {names}\n{reason}; the tests that need them are SKIPPED\n{bar}", file=sys.stderr, flush=True)


def _run(*command: str, **more: str) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, input=more.get("input"), cwd=more.get("cwd"), text=True, capture_output=True, check=False
    )
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()[-500:]}", file=sys.stderr)
    return done.returncode == 0


def _install(packages: list[str]) -> None:
    with _services_held_back():
        if "postfix" in packages and shutil.which("debconf-set-selections"):
            _run("debconf-set-selections", input=PRESEED)
        if not _run("apt-get", "install", "-y", "--no-install-recommends", "--no-remove", *packages):
            _run("apt-get", "update")
            _run("apt-get", "install", "-y", "--no-install-recommends", "--no-remove", *packages)
    if "postfix" in packages and Path("/run/systemd/system").exists():
        _run("systemctl", "disable", "postfix")


@contextmanager
def _services_held_back() -> Iterator[None]:
    """invoke-rc.d asks this file whether a service may be started (Debian policy 9.3.3.1)."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(NEVER_START)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _unpack(package: str) -> None:
    """Unpack one package and make its programs callable, if the libraries they need are there."""
    target = UNPACKED / package
    target.mkdir(parents=True, exist_ok=True)
    if not _run("apt-get", "download", package, cwd=str(target)):
        return
    for archive in target.glob("*.deb"):
        _run("dpkg-deb", "-x", str(archive), str(target))
        archive.unlink()
    libraries = os.pathsep.join(sorted({str(path.parent) for path in target.rglob("*.so*")}))
    (UNPACKED / "bin").mkdir(exist_ok=True)
    for program in [name for name, of in PROGRAMS.items() if of == package]:
        real = next((path for path in target.rglob(program) if os.access(path, os.X_OK) and path.is_file()), None)
        if real is not None and _libraries_are_there(real, libraries):
            wrapper = UNPACKED / "bin" / program
            wrapper.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{real}" "$@"\n')
            wrapper.chmod(0o755)


def _libraries_are_there(program: Path, libraries: str) -> bool:
    done = subprocess.run(
        ["ldd", str(program)], env={**os.environ, "LD_LIBRARY_PATH": libraries}, text=True, capture_output=True, check=False
    )
    return "not found" not in done.stdout


if __name__ == "__main__":
    sys.exit(main())
