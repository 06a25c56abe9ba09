"""Finding what happened, in files that are written, complete, sealed, torn or gone."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rusmes._core.events import queue_key
from rusmes.clock import SystemClock
from rusmes.config.events import Events as Settings
from rusmes.config.units import Duration, Size
from rusmes.events import keeper, writer
from rusmes.events.history import find_history
from rusmes.events.keeper import Keeper
from rusmes.events.segments import Index, SegmentReader, segments_of
from rusmes.model.ids import id_text
from tests.unit.events.made import item, log_at, mail, recipient, report

LATER = time.time() + 100.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "WRITE_SECONDS", 0.002)


def write_some(directory: str, count: int, *, first: int = 0, name: str = "0", **settings: Any) -> list[Any]:
    log = log_at(directory, name, clock=SystemClock(), **settings)
    made = []
    for n in range(first, first + count):
        one = mail(f"<{n}@example.com>", f"user{n % 10}@example.net")
        entry = item(f"<{n}@example.com>", f"user{n % 10}@example.net")
        log.received("received", one, one.recipients, [entry])
        log.attempted(entry, report(entry.recipients[0], "delayed", code=451), "deferred", 1, time.time() + 60, time.time())
        log.attempted(entry, report(entry.recipients[0]), "delivered", 2, 0.0, time.time())
        made.append((one, entry))
        if n % 50 == 0:
            assert log.flush()
    log.stop()
    return made


def kinds(directory: str, text: str) -> list[str]:
    return [event["kind"] for event in find_history(directory, text).events]


def seal_all(directory: str, **settings: Any) -> None:
    Keeper(directory, Settings(**settings)).tend(LATER)


@pytest.mark.parametrize("state", ["written", "sealed", "uncompressed", "without keys", "torn keys"])
def test_everything_about_a_message_by_each_of_its_names(tmp_path: Path, state: str) -> None:
    directory = str(tmp_path)
    made = write_some(directory, 120, segment_size=Size("64KB"))
    segments = segments_of(directory)
    assert len(segments) > 2
    for segment in segments:
        if state == "without keys":
            os.unlink(segment.path(".keys"))
        elif state == "torn keys":
            os.truncate(segment.path(".keys"), os.path.getsize(segment.path(".keys")) // 2 + 5)
    if state != "written":
        seal_all(directory, compress=state != "uncompressed")
        assert all(segment.is_indexed for segment in segments_of(directory))
    for n in (0, 57, 119):
        one, entry = made[n]
        id = id_text(entry.id)
        for text in (f"<{n}@example.com>", f"{n}@example.com", id, id_text(one.id), id.upper()):
            assert kinds(directory, text) == ["received", "deferred", "delivered"], text
        history = find_history(directory, f"<{n}@example.com>")
        assert set(history.ids) == {id_text(one.id), id_text(entry.id)}
    assert kinds(directory, "USER3@example.net") == ["received", "deferred", "delivered"] * 12
    assert kinds(directory, "<none@example.com>") == kinds(directory, "nobody@example.net") == []
    assert kinds(directory, id_text(b"\xff" * 16)) == []


def test_an_entry_that_took_the_place_of_another_is_followed(tmp_path: Path) -> None:
    log = log_at(str(tmp_path), clock=SystemClock())
    one, held, later = mail("", "a@b.c"), item("", "a@b.c"), item("", "a@b.c")
    log.received("received", one, one.recipients, [held])
    log.changed("held", held, reason="looks odd", by="pipeline")
    log.changed("continued", held, new_ids=id_text(later.id))
    log.attempted(later, report(recipient("a@b.c")), "delivered", 1, 0.0, time.time())
    log.stop()
    for id in (one.id, held.id):
        assert kinds(str(tmp_path), id_text(id)) == ["received", "held", "continued", "delivered"]
    assert kinds(str(tmp_path), id_text(later.id)) == ["delivered"]


def test_with_too_many_events_the_newest_are_shown(tmp_path: Path) -> None:
    log = log_at(str(tmp_path), clock=SystemClock())
    entry = item("<1@x>", "a@b.c")
    for n in range(1, 51):
        log.attempted(entry, report(entry.recipients[0], "delayed"), "deferred", n, 0.0, 1000.0 + n)
    log.stop()
    history = find_history(str(tmp_path), "a@b.c", limit=20)
    assert history.is_cut
    assert [event["attempt"] for event in history.events] == list(range(31, 51))


def test_sealed_files_are_gzip_for_everybody_and_smaller(tmp_path: Path) -> None:
    write_some(str(tmp_path), 500)
    (before,) = segments_of(str(tmp_path))
    lines = Path(before.path(".jsonl")).read_bytes()
    seal_all(str(tmp_path))
    (after,) = segments_of(str(tmp_path))
    assert gzip.decompress(Path(after.path(".jsonl.gz")).read_bytes()) == lines
    assert after.disk_bytes < len(lines) / 3
    assert sorted(os.listdir(tmp_path)) == sorted(f"{after.name}{suffix}" for suffix in (".idx", ".jsonl.gz"))
    with SegmentReader(after) as reader:
        offset, read = 0, b""
        while data := reader.read(offset):
            read += data
            offset += len(data)
        assert read == lines
        index = Index(after.path(".idx"))
        assert len(index.starts) > 3
        assert index.entries == 500 * (4 + 3 + 3)
        assert index.offsets(b"\x00" * 8) == index.offsets(b"\xff" * 8) == []
        index.close()


def test_a_torn_line_is_left_out_when_it_is_sealed(tmp_path: Path) -> None:
    write_some(str(tmp_path), 10)
    (segment,) = segments_of(str(tmp_path))
    with open(segment.path(".jsonl"), "ab") as file:
        file.write(b'{"time":"2026-11-24T12:30:56.123Z","kind":"deli')
    seal_all(str(tmp_path))
    assert kinds(str(tmp_path), "9@example.com") == ["received", "deferred", "delivered"]
    with SegmentReader(segments_of(str(tmp_path))[0]) as reader:
        assert reader.read(reader.size) == b""


def test_garbage_in_a_file_hides_nothing_else(tmp_path: Path) -> None:
    write_some(str(tmp_path), 20)
    (segment,) = segments_of(str(tmp_path))
    with open(segment.path(".jsonl"), "ab") as file:
        file.write(b'\x00\x00\xff\n[1]\n{"kind":"failed","queue_id":"no id","recipient":"user1@example.net"}\n')
    assert kinds(str(tmp_path), "user1@example.net")[-1] in ("failed", "delivered")
    seal_all(str(tmp_path))
    assert len(kinds(str(tmp_path), "user1@example.net")) == 7
    write_some(str(tmp_path), 20, name="1")
    packed = segment.path(".jsonl.gz")
    data = Path(packed).read_bytes()
    Path(packed).write_bytes(data[:100] + bytes(50) + data[150:])
    assert len(kinds(str(tmp_path), "user1@example.net")) == 6  # the other writer's


def test_a_file_that_is_sealed_while_we_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, entry), *_ = write_some(str(tmp_path), 3)
    stale = segments_of(str(tmp_path))
    seal_all(str(tmp_path))
    monkeypatch.setattr("rusmes.events.history.segments_of", _first_then(stale, segments_of))
    assert kinds(str(tmp_path), id_text(entry.id)) == ["received", "deferred", "delivered"]


def _first_then(first: Any, then: Any) -> Any:
    answers = [first]
    return lambda directory: answers.pop() if answers else then(directory)


def test_files_that_are_written_are_left_alone(tmp_path: Path) -> None:
    log = log_at(str(tmp_path), clock=SystemClock())
    log.changed("held", item())
    assert log.flush()
    seal_all(str(tmp_path), max_age=Duration(1), max_size=Size(1))
    (segment,) = segments_of(str(tmp_path))
    assert segment.has_lines
    assert not segment.is_indexed
    log.stop()
    Keeper(str(tmp_path), Settings()).tend(time.time())  # just written: perhaps its writer has not locked it yet
    assert not segments_of(str(tmp_path))[0].is_indexed
    seal_all(str(tmp_path))
    assert segments_of(str(tmp_path))[0].is_indexed


@pytest.mark.parametrize("step", ["fsync", "rename", "unlink"])
def test_a_keeper_that_dies_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    made = write_some(str(tmp_path), 60)

    class Died(BaseException):
        pass

    for deaths in range(1, 9):
        calls = 0
        real = getattr(os, step)

        def dying(*arguments: Any, real: Any = real, deaths: int = deaths) -> Any:
            nonlocal calls
            calls += 1
            if calls == deaths:
                raise Died
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(keeper.os, step, dying)
            try:
                seal_all(str(tmp_path))
            except Died:
                pass
            else:
                break
        assert kinds(str(tmp_path), id_text(made[30][1].id)) == ["received", "deferred", "delivered"]
    seal_all(str(tmp_path))
    assert kinds(str(tmp_path), id_text(made[30][1].id)) == ["received", "deferred", "delivered"]
    Keeper(str(tmp_path), Settings())._sweep(time.time() + 7200)
    assert {name.partition(".0")[2] for name in os.listdir(tmp_path)} == {".idx", ".jsonl.gz"}


def test_the_oldest_are_removed_first_by_size_and_by_age(tmp_path: Path) -> None:
    write_some(str(tmp_path), 300, segment_size=Size("64KB"))
    seal_all(str(tmp_path))
    before = segments_of(str(tmp_path))
    removed: list[str] = []
    total = sum(segment.disk_bytes for segment in before)
    settings = Settings(max_size=Size(total - before[0].disk_bytes - 1))
    Keeper(str(tmp_path), settings, on_removed=lambda segment: removed.append(segment.name)).tend(time.time())
    assert removed == [segment.name for segment in before[:2]]
    assert segments_of(str(tmp_path)) == before[2:]
    os.utime(before[2].path(".jsonl.gz"), (1.0, 1.0))
    Keeper(str(tmp_path), Settings(max_age=Duration(3600))).tend(time.time())
    assert [segment.name for segment in segments_of(str(tmp_path))] == [segment.name for segment in before[3:]]
    Keeper(str(tmp_path), Settings(max_age=Duration(0), max_size=Size(0))).tend(time.time() + 1e9)
    assert len(segments_of(str(tmp_path))) == len(before) - 3


def test_an_empty_file_of_a_writer_that_died_goes(tmp_path: Path) -> None:
    Path(tmp_path / "20261124T122219123.0.jsonl").touch()
    Path(tmp_path / "20261124T122219123.0.keys").touch()
    Path(tmp_path / "notes.txt").touch()
    seal_all(str(tmp_path))
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_keys_are_found_wherever_they_are_in_an_index(tmp_path: Path) -> None:
    made = write_some(str(tmp_path), 400)
    seal_all(str(tmp_path))
    index = Index(segments_of(str(tmp_path))[0].path(".idx"))
    keys = [queue_key(entry.id) for _, entry in made]
    assert all(len(index.offsets(key)) == 3 for key in keys)
    index.close()


def test_an_index_that_is_gone_is_made_again(tmp_path: Path) -> None:
    made = write_some(str(tmp_path), 400)
    seal_all(str(tmp_path))
    (segment,) = segments_of(str(tmp_path))
    os.unlink(segment.path(".idx"))
    id = id_text(made[123][1].id)
    assert kinds(str(tmp_path), id) == []
    seal_all(str(tmp_path))
    assert kinds(str(tmp_path), id) == ["received", "deferred", "delivered"]
    assert {name.partition(".0")[2] for name in os.listdir(tmp_path)} == {".idx", ".jsonl.gz"}


def test_one_file_that_cannot_be_sealed_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_some(str(tmp_path), 10)
    made = write_some(str(tmp_path), 10, name="1")
    real = keeper.seal

    def failing(segment: Any, **options: Any) -> None:
        if segment.writer == "0":
            raise OSError("a bad sector")
        real(segment, **options)

    monkeypatch.setattr(keeper, "seal", failing)
    with pytest.raises(OSError, match="a bad sector"):
        seal_all(str(tmp_path))
    assert [segment.writer for segment in segments_of(str(tmp_path)) if segment.is_indexed] == ["1"]
    assert kinds(str(tmp_path), id_text(made[0][1].id)) == ["received", "deferred", "delivered"]
