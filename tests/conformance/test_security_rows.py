"""Every row of the list of attacks that concerns the server, by its ID."""

from __future__ import annotations

import pytest

from tests.conformance.rows import ROWS, smuggling  # noqa: F401  (registers its rows)
from tests.sessions.harness import run


@pytest.mark.parametrize("row", sorted(ROWS))
def test_row(row: str) -> None:
    run(ROWS[row](row))
