"""The event loops that tests run on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop


def run_on_uvloop(main: Coroutine[Any, Any, Any], *, debug: bool | None = None) -> Any:
    """What stands in for `asyncio.run`: `uvloop.run` cannot, because from Python 3.12 on it calls `asyncio.run` itself."""
    with asyncio.Runner(debug=debug, loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
