"""Files of the event log after anything may have happened to them: readers tell what they can, and never fail."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from rusmes.clock import SystemClock
from rusmes.config.events import Events as Settings
from rusmes.config.units import Size
from rusmes.events import writer
from rusmes.events.history import find_history
from rusmes.events.keeper import Keeper
from rusmes.events.tail import Tail
from rusmes.model.ids import id_text
from tests.unit.events.made import item, log_at, report


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A directory with files of each state, and the ids in it."""
    directory = tmp_path_factory.mktemp("sound")
    ids = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "WRITE_SECONDS", 0.001)
        for name in ("0", "1"):
            log = log_at(str(directory), name, clock=SystemClock(), segment_size=Size("64KB"))
            for n in range(200):
                entry = item(f"<{n}@x>", f"user{n}@example.net")
                log.attempted(entry, report(entry.recipients[0]), "delivered", 1, 0.0, time.time())
                ids.append(id_text(entry.id))
                if n % 60 == 0:
                    assert log.flush()
            log.stop()
            if name == "0":
                Keeper(str(directory), Settings()).tend(time.time() + 60)
    return directory, ids


@pytest.mark.parametrize("seed", range(40))
def test_readers_survive_any_damage(sound: tuple[Path, list[str]], tmp_path: Path, seed: int) -> None:
    chooser = random.Random(seed)
    directory = tmp_path / "copy"
    shutil.copytree(sound[0], directory)
    names = sorted(os.listdir(directory))
    for name in chooser.sample(names, chooser.randint(1, 3)):
        path = directory / name
        data = bytearray(path.read_bytes())
        how = chooser.choice(("flip", "cut", "zeros", "empty", "remove", "junk"))
        if how == "flip":
            for _ in range(20):
                data[chooser.randrange(len(data))] = chooser.randrange(256)
        elif how == "cut":
            del data[chooser.randrange(len(data)) :]
        elif how == "zeros":
            start = chooser.randrange(len(data))
            data[start:] = bytes(len(data) - start)
        elif how == "empty":
            data.clear()
        elif how == "junk":
            data += chooser.randbytes(500)
        if how == "remove":
            path.unlink()
        else:
            path.write_bytes(data)
    for id in chooser.sample(sound[1], 10):
        for event in find_history(str(directory), id).events:
            assert event["queue_id"] == id
    tail, count = Tail(str(directory), {}), 0
    while (batch := tail.next_batch(50)).lines:
        count += len(batch.lines)
        for line in batch.lines:
            json.loads(line.data)
        tail.commit(batch.position)
    tail.behind()
    tail.close()
    assert count <= len(sound[1]) + 40
    keeper = Keeper(str(directory), Settings())
    for _ in range(2):
        keeper.tend(time.time() + 60)
    for id in chooser.sample(sound[1], 5):
        find_history(str(directory), id)
