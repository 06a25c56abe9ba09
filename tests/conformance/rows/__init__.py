"""Attacks and abuses by their IDs, one function a row, each against a real server object over a real connection.

`@row("S1", ...)` registers a scenario; `tests/conformance/test_security_rows.py` runs them all and has the list of rows that
must be here. A scenario that stands for several IDs is run once for each, with its ID as the argument.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

Scenario = Callable[[str], Coroutine[Any, Any, None]]
ROWS: dict[str, Scenario] = {}


def row(*ids: str) -> Callable[[Scenario], Scenario]:
    def register(scenario: Scenario) -> Scenario:
        for id in ids:
            assert id not in ROWS, f"{id} is registered twice"
            ROWS[id] = scenario
        return scenario

    return register
