"""Every transcript, in three ways: with the store in memory, on LMDB, and with what the client says cut at random places."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.sessions.imap.house import run, store_of
from tests.sessions.imap.transcript import play

SCRIPTS = sorted(Path(__file__).parent.glob("scripts/*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("way", ["memory", "lmdb", "cut"])
def test_transcript(way: str, path: Path, tmp_path: Path) -> None:
    store = store_of("lmdb", tmp_path) if way == "lmdb" else store_of("memory")
    run(play(path, store=store, dice=random.Random(path.stem) if way == "cut" else None))
