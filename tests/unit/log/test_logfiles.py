"""Rotation: nothing is lost or mixed while several processes append and one rotates."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from rusmes import logfiles
from rusmes.log import DescriptorWriter, LogSink, SessionLog
from rusmes.logfiles import LogFile, compress_file


def test_a_full_file_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "log"), max_size=100, max_backups=2, compress=False)
    for number in range(4):
        file(b"%d" % number + b"x" * 100 + b"\n")
        assert file.rotate_when_full()
        assert not file.rotate_when_full()
    file(b"now\n")
    assert (tmp_path / "log").read_bytes() == b"now\n"
    assert (tmp_path / "log.1").read_bytes().startswith(b"3x")
    assert (tmp_path / "log.2").read_bytes().startswith(b"2x")
    assert not (tmp_path / "log.3").exists()
    file.close()


def test_without_backups_the_file_begins_anew(tmp_path: Path) -> None:
    file = LogFile(str(tmp_path / "log"), max_size=1, max_backups=0)
    file(b"old\n")
    assert file.rotate_when_full()
    file(b"new\n")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("log", b"new\n")]
    file.close()


def test_rotated_files_are_compressed_when_nobody_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(str(tmp_path / "log"), max_size=1, max_backups=3)
    file(b"line\n" * 1000)
    file.rotate_when_full()
    assert file.compressible() == []
    monkeypatch.setattr(logfiles, "COMPRESS_AFTER_SECONDS", -1.0)
    assert file.compressible() == [str(tmp_path / "log.1")]
    compress_file(str(tmp_path / "log.1"))
    assert gzip.decompress((tmp_path / "log.1.gz").read_bytes()) == b"line\n" * 1000
    assert not (tmp_path / "log.1").exists()
    file(b"second\n")
    file.rotate_when_full()
    assert (tmp_path / "log.2.gz").exists()
    assert (tmp_path / "log.1").read_bytes() == b"second\n"
    file.close()


def test_a_process_notices_that_the_name_means_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "REOPEN_SECONDS", 0.0)
    file = LogFile(str(tmp_path / "log"))
    file(b"one\n")
    os.rename(tmp_path / "log", tmp_path / "elsewhere")
    file(b"two\n")
    os.unlink(tmp_path / "log")
    file(b"three\n")
    assert (tmp_path / "log").read_bytes() == b"three\n"
    assert (tmp_path / "elsewhere").read_bytes() == b"one\n"
    file.close()


def test_no_line_is_lost_or_mixed_between_processes(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    lines, writers = 1000, 3
    rotating = LogFile(path, max_size=20_000, max_backups=100, compress=False)
    children = []
    for writer in range(writers):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                logfiles.REOPEN_SECONDS = 0.0
                sink = LogSink(LogFile(path), buffer_bytes=4000)
                log = SessionLog(f"s{writer}", "192.0.2.1", "smtp", sink=sink)
                for number in range(lines):
                    log.info("line", number=number)
                    if number % 50 == 0:
                        time.sleep(0.005)  # so that files come and go while the writers are at it
                sink.flush()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for child in children:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            rotating.rotate_when_full()
            time.sleep(0.001)
    written = b"".join(place.read_bytes() for place in tmp_path.iterdir()).splitlines()
    assert len(written) == lines * writers
    assert all(line.startswith(b'{"timestamp"') and line.endswith(b"}") for line in written)
    assert len(list(tmp_path.iterdir())) > 3
    rotating.close()


def test_a_pipe_gets_whole_lines_in_atomic_pieces() -> None:
    reading, writing = os.pipe()
    DescriptorWriter(writing)(b"".join(b"%04d" % n + b"x" * 95 + b"\n" for n in range(200)))
    os.close(writing)
    pieces = b""
    while piece := os.read(reading, 65536):
        pieces += piece
    os.close(reading)
    assert len(pieces) == 200 * 100
    assert pieces.startswith(b"0000x")


def test_a_reader_that_does_not_read_costs_lines_and_not_the_server() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    sink = LogSink(DescriptorWriter(writing))
    log = SessionLog("s", "192.0.2.1", "smtp", sink=sink)
    while not sink.dropped:
        log.info("x" * 900)
    assert sink.dropped == 1
    os.close(reading)
    log.info("nobody")
    assert sink.dropped == 2
    os.close(writing)
