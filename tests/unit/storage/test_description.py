"""What is kept of a message, from memory and from a file."""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.errors import StoreError
from rusmes.model.content import Content, Rendering
from rusmes.storage.description import MAX_CACHED_BYTES, describe
from rusmes.storage.spool import SpoolWriter

MAIL = (
    b"Received: by x\r\nFrom: a@x.y\r\nSubject: s\r\n folded\r\nMessage-ID: <m@x>\r\nList-Id: <l.x>\r\nX-Other: 1\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b--\r\n"
)


def contents(directory: Path, data: bytes) -> list[Content]:
    made = []
    for limit in (len(data), 10):
        writer = SpoolWriter(os.urandom(16), str(directory), limit)
        writer.write(data)
        made.append(writer.finish())
    assert made[0].data is not None
    assert made[1].data is None
    return made


def test_memory_and_file_give_the_same(tmp_path: Path) -> None:
    one, other = (describe(Rendering(content, b"Delivered-To: z\r\n")) for content in contents(tmp_path, MAIL))
    assert one == other
    assert one.headers == (
        b"From: a@x.y\r\nSubject: s\r\n folded\r\nMessage-ID: <m@x>\r\nList-Id: <l.x>\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n"
    )
    assert one.message_ids == (b"m@x",)
    assert one.body_structure.startswith(b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 3 0')


def test_a_replaced_header_is_the_one_that_counts(tmp_path: Path) -> None:
    for content in contents(tmp_path, MAIL):
        found = describe(Rendering(content, b"Subject: new\r\nContent-Type: text/html\r\n\r\n", content.header_bytes))
        assert b'"new"' in found.envelope
        assert found.message_ids == ()
        assert found.body_structure.startswith(b'("text" "html" NIL NIL NIL "7bit" %d ' % (content.size - content.header_bytes))


def test_a_mail_without_a_body_and_without_anything(tmp_path: Path) -> None:
    for content in contents(tmp_path, b"Subject: only a header, and no empty line\r\n"):
        assert b'"7bit" 0 0' in describe(Rendering(content)).body_structure
    empty = Content(bytes(16), 0, 0, data=b"")
    assert b'"7bit" 0 0' in describe(Rendering(empty)).body_structure


def test_a_huge_header_is_not_cached_and_not_read_whole(tmp_path: Path) -> None:
    data = b"Subject: s\r\nTo: " + b"someone@example.com,\r\n " * 40_000 + b"\r\n\r\nbody\r\n"
    for content in contents(tmp_path, data):
        found = describe(Rendering(content))
        assert found.headers == b""
        assert len(found.envelope) < 100 * 2100
    cached = describe(Rendering(contents(tmp_path, b"Subject: " + b"x" * 1000 + b"\r\n\r\n")[0])).headers
    assert 1000 < len(cached) <= MAX_CACHED_BYTES


def test_a_file_that_is_gone_is_a_store_error(tmp_path: Path) -> None:
    content = contents(tmp_path, MAIL)[1]
    os.unlink(content.path)
    with pytest.raises(StoreError):
        describe(Rendering(content))


@settings(deadline=None)
@given(
    data=st.lists(st.sampled_from([b"--b", b"\r\n", b"\n", b"x" * 40, b"--", b"b"]), max_size=60).map(b"".join),
    window=st.integers(4, 50),
)
def test_windows_change_nothing(data: bytes, window: int) -> None:
    """However small the window, a file gives what memory gives."""
    mail = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n" + data
    with tempfile.TemporaryDirectory() as directory:
        one, other = contents(Path(directory), mail)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rusmes.mime.window.WINDOW_BYTES", window)
            assert describe(Rendering(other)) == describe(Rendering(one))


def test_fifty_megabytes_are_described_in_little_memory(tmp_path: Path) -> None:
    writer = SpoolWriter(os.urandom(16), str(tmp_path), 10)
    writer.write(MAIL[: -len(b"--b--\r\n")])
    for _ in range(800):
        writer.write(b"y" * 65534 + b"\r\n")
    writer.write(b"--b--\r\n")
    content = writer.finish()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert b'"html" NIL NIL NIL "7bit" %d 800' % (3 + 800 * 65536) in describe(Rendering(content)).body_structure
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096
