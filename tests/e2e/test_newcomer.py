"""The two commands of the README, and the wheel, from a clean clone: what somebody meets who has never seen the project.

Slow: it makes a virtual environment and compiles. The commands that `make run` prints are run as they are printed.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parts import require
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with nothing in it but what is committed."""
    for program in ("git", "make", "gcc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")
    target = tmp_path_factory.mktemp("newcomer") / "rusmes"
    subprocess.run(
        ["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(target)], check=True, capture_output=True, timeout=120
    )
    return target


def environment(**more: str) -> dict[str, str]:
    """A newcomer's environment: nothing of this test run's."""
    ours = {"VIRTUAL_ENV", "PYTHONPATH", "CI", "MAKEFLAGS", "MAKELEVEL", "PYTEST_CURRENT_TEST"}
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("RUSMES_")}
    kept["PATH"] = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if str(ROOT) not in part)
    return kept | {"PYTHON": getattr(sys, "_base_executable", sys.executable)} | more


@contextmanager
def make_run(clone: Path, ports: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`make run` until the server is ready; what it printed. Ends as Ctrl-C ends it."""
    output = clone.parent / "output"
    with output.open("w") as file:
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=environment(**ports), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_until_ready(process, ports["RUSMES_METRICS_BIND_ADDRESS"], output)
        yield process, output.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def _wait_until_ready(process: subprocess.Popen[str], address: str, output: Path) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        assert process.poll() is None, output.read_text()
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise AssertionError(f"not ready\n{output.read_text()}")


def printed(output: str, after: str) -> str:
    """The command on the line after a sentence."""
    match = re.search(rf"{re.escape(after)}\n\s+(.+)\n", output)
    assert match is not None, output
    return match[1]


def test_make_run_then_the_printed_commands(clone: Path) -> None:
    require("curl")
    smtp, submission, submissions, pop3, pop3s, metrics = map(str, free_ports(6))
    ports = {
        "RUSMES_SMTP_PORT": smtp,
        "RUSMES_SUBMISSION_PORT": submission,
        "RUSMES_SUBMISSION_TLS_PORT": submissions,
        "RUSMES_POP3_PORT": pop3,
        "RUSMES_POP3_TLS_PORT": pop3s,
        "RUSMES_METRICS_BIND_ADDRESS": f"127.0.0.1:{metrics}",
    }
    with make_run(clone, ports) as (_, output):
        for port in (smtp, submission, submissions, pop3, pop3s, metrics):
            assert f"127.0.0.1:{port}" in output
        subprocess.run(printed(output, "send a message:"), shell=True, cwd=clone, check=True, capture_output=True, timeout=60)
        read = printed(output, "and read it:")
        message = subprocess.run(read, shell=True, cwd=clone, check=True, capture_output=True, text=True, timeout=60).stdout
        assert "Subject: hello" in message
        assert "It works." in message
        operate = re.search(r"Operate it with: (.+)", output)
        assert operate is not None
        status = subprocess.run(
            operate[1], shell=True, cwd=clone, env=environment(**ports), check=True, capture_output=True, text=True, timeout=60
        )
        assert f"127.0.0.1:{smtp}" in status.stdout
    with make_run(clone, ports) as (_, again):
        assert printed(again, "and read it:") == read
        assert "Made a server" not in again
        message = subprocess.run(read, shell=True, cwd=clone, check=True, capture_output=True, text=True, timeout=60).stdout
        assert "It works." in message
    tracked = subprocess.run(["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True).stdout
    assert tracked == ""


def test_make_wheel_gives_a_manylinux_wheel_that_runs(clone: Path) -> None:
    done = subprocess.run(
        ["make", "wheel"], cwd=clone, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (clone / "wheelhouse").glob("*.whl")
    assert re.search(r"-manylinux\w*_\d+_\d+_(x86_64|aarch64)", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(name.startswith("rusmes/_core/smtp.") and name.endswith(".so") for name in names)
    assert "rusmes/_core/smtp.pyi" in names
    assert "rusmes/py.typed" in names
    assert not any(name.startswith("tests/") for name in names)
    venv = clone.parent / "wheel-venv"
    subprocess.run([environment()["PYTHON"], "-m", "venv", str(venv)], check=True, capture_output=True, timeout=120)
    subprocess.run(
        [str(venv / "bin" / "pip"), "install", "-q", str(wheel)],
        check=True,
        capture_output=True,
        env=environment(),
        timeout=600,
    )
    for program in ("rusmes", "rusmes-server"):
        version = subprocess.run(
            [str(venv / "bin" / program), "--version"], cwd="/", check=True, capture_output=True, text=True, timeout=60
        )
        assert "0." in version.stdout
    (clone.parent / "lone.toml").write_text('domain = "example.com"\n[storage]\npath = "data"\n')
    checked = subprocess.run(
        [str(venv / "bin" / "rusmes"), "check-config", str(clone.parent / "lone.toml"), "--json"],
        cwd="/", capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr


def test_what_a_machine_lacks_is_said(tmp_path: Path) -> None:
    """Without a compiler in PATH: the package to install, and status 1."""
    (tmp_path / "python3").symlink_to(getattr(sys, "_base_executable", sys.executable))
    done = subprocess.run(
        [str(tmp_path / "python3"), str(ROOT / ".ci" / "preflight")],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "missing: a C compiler" in done.stderr
    assert "apt-get install" in done.stderr
    assert "gcc" in done.stderr
