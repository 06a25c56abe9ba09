"""Dialogues from banner to close."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from tests.sessions.harness import run
from tests.sessions.transcript import play, read_script

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_transcript(script: Path, loop_factory: object) -> None:
    run(play(script), loop_factory=loop_factory)


def test_failures_point_at_the_script(tmp_path: Path) -> None:
    for wrong in ("S: 250 hello", "X: mails 1"):
        script = tmp_path / "wrong.txt"
        script.write_text(f"# nothing\nS: 220 *\n\n{wrong}\nC: QUIT\n" if wrong[0] == "X" else f"# nothing\n\n\n{wrong}\n")
        with pytest.raises(AssertionError, match=rf"wrong\.txt:4: {wrong[:2]}"):
            run(play(script))
    (tmp_path / "wrong.txt").write_text("S: 220 *\nserver: hello\n")
    with pytest.raises(AssertionError, match="no line of a transcript"):
        read_script(tmp_path / "wrong.txt")
