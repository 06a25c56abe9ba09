"""What local programs leave for the server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rusmes.errors import NotAllowed, StoreFull
from rusmes.storage.maildrop import (
    STALE_SECONDS,
    Drop,
    DropRecipient,
    path_of,
    read_drop,
    read_envelope,
    remove_drop,
    waiting_drops,
    write_drop,
)

DROP = Drop("a@x.org", (DropRecipient("b@y.org", ("FAILURE",)), DropRecipient("ü@z.org")), 1000, 1.5, "HDRS", "id7")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = str(tmp_path)
    first = write_drop(directory, DROP, [b"Subject: x\r\n", b"\r\nhello\n"])
    second = write_drop(directory, DROP, [])
    assert waiting_drops(directory) == sorted([first, second])
    assert len(waiting_drops(directory, limit=1)) == 1
    assert read_drop(directory, first) == (DROP, b"Subject: x\r\n\r\nhello\n")
    assert read_envelope(directory, first) == (DROP, 20)
    assert os.stat(path_of(directory, first)).st_mode & 0o777 == 0o600
    remove_drop(directory, first)
    remove_drop(directory, first)
    assert waiting_drops(directory) == [second]
    with pytest.raises(FileNotFoundError):
        read_drop(directory, first)


def test_too_large_a_message_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="too large"):
        write_drop(str(tmp_path), DROP, [b"x" * 60, b"x" * 60], max_bytes=100)
    assert os.listdir(tmp_path) == []
    id = write_drop(str(tmp_path), DROP, [b"x" * 100], max_bytes=100)
    with pytest.raises(NotAllowed, match="larger"):
        read_drop(str(tmp_path), id, max_bytes=99)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreFull):
        write_drop(str(tmp_path), DROP, [b"x"])
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    directory = str(tmp_path)
    id = write_drop(directory, DROP, [b"x"])
    other = tmp_path / "secret"
    other.write_bytes(b"secret")
    names = [f"{letter}" + id[1:-1] + "0" for letter in "1234"]
    os.symlink(other, path_of(directory, names[0]))
    os.link(path_of(directory, id), path_of(directory, names[1]))
    os.mkfifo(path_of(directory, names[2]))
    Path(path_of(directory, names[3])).write_bytes(b"no json\nx")
    for name in [*names, id]:
        with pytest.raises(NotAllowed):
            read_drop(directory, name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_files_of_others_are_refused_and_roots_become_the_owners(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    id = write_drop(str(tmp_path), DROP, [b"x"])
    assert os.stat(path_of(str(tmp_path), id)).st_uid == 65534
    os.chown(path_of(str(tmp_path), id), 1234, 1234)
    with pytest.raises(NotAllowed, match="another user"):
        read_drop(str(tmp_path), id)


def test_old_temporary_files_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".tmp-old", tmp_path / ".tmp-new"
    for path in (old, new, tmp_path / "other"):
        path.touch()
    os.utime(old, (0, new.stat().st_mtime - STALE_SECONDS - 1))
    assert waiting_drops(str(tmp_path)) == []
    assert sorted(os.listdir(tmp_path)) == [".tmp-new", "other"]
