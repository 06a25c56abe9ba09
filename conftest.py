"""Options of this project's test run: `pytest --benchmark` runs `benchmarks/`; skips are failures under CI=true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run benchmarks/ instead of tests/")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--benchmark") and config.args_source != pytest.Config.ArgsSource.ARGS:
        config.args[:] = [str(ROOT / "benchmarks")]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A part that is missing on a developer's machine is a skip; in CI it is a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped under CI=true: {report.longrepr}"
