"""What reaches the files, and what happens when it cannot."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from rusmes import metrics as m
from rusmes._core.counters import Metrics
from rusmes.clock import FakeClock
from rusmes.config.units import Duration, Size
from rusmes.errors import NotFound
from rusmes.events import writer
from rusmes.events.segments import SegmentReader, decoded, lines_in, segments_of
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import id_text
from rusmes.queue.api import Report
from tests.unit.events.made import item, log_at, mail, recipient, report


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "WRITE_SECONDS", 0.005)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.005)


def events_in(directory: str) -> list[dict[str, Any]]:
    found = []
    for segment in segments_of(directory):
        with SegmentReader(segment) as reader:
            offset = 0
            while data := reader.read(offset):
                found += [event for line in lines_in(data) if (event := decoded(line)) is not None]
                offset += len(data)
    return found


def test_a_reception_and_an_attempt_with_all_that_is_known(tmp_path: Path) -> None:
    log = log_at(str(tmp_path / "events"))
    one, entry = mail("<1@example.com>", "bob@example.net", "carol@example.net"), item("<1@example.com>")
    log.received("received", one, one.recipients, [entry])
    log.attempted(entry, report(entry.recipients[0]), "delivered", 3, 0.0, 1_700_000_000.5)
    log.stop()
    received, delivered = events_in(str(tmp_path / "events"))
    assert received == {
        "time": "2023-11-14T22:13:20.000Z", "kind": "received", "id": id_text(one.id), "queue_ids": [id_text(entry.id)],
        "session_id": "0192aaaa-1234-7abc-9def-001122334455", "message_id": "<1@example.com>", "sender": "alice@example.com",
        "recipients": ["bob@example.net", "carol@example.net"], "recipient_count": 2, "size": 47, "listener": "submission",
        "protocol": "ESMTPSA", "client": "192.0.2.7", "client_name": "client.example", "helo": "client.example",
        "tls": "TLSv1.3", "user": "alice@example.com", "tenant": "shop", "campaign": "spring", "queued": 1,
    }  # fmt: skip
    assert delivered == {
        "time": "2023-11-14T22:13:20.500Z", "kind": "delivered", "queue_id": id_text(entry.id),
        "session_id": "0192aaaa-1234-7abc-9def-001122334455", "message_id": "<1@example.com>", "sender": "alice@example.com",
        "recipient": "bob@example.net", "domain": "example.net", "size": 47, "created": "1970-01-01T00:00:01.000Z",
        "tenant": "shop", "campaign": "spring", "via": "relay", "attempt": 3, "site": "mx.example.net",
        "host": "mx1.example.net", "address": "198.51.100.4", "port": 25, "source": "pool-a", "source_address": "192.0.2.1",
        "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384", "tls_policy": "opportunistic",
        "phases": {"dns": 0.001, "connect": 0.02, "reply": 0.3}, "code": 250, "status": "2.0.0", "text": "queued",
        "class": "accepted", "action": "delivered", "age": 1699999999.5,
    }  # fmt: skip


def test_changes_hold_no_secret_and_no_second_line(tmp_path: Path) -> None:
    log = log_at(str(tmp_path))
    entry = item("<2@example.com>", "a@b.c", "d@e.f")
    log.changed("held", entry, entry.recipients[1:], reason="why\r\nnot\x9b", by="operator", password="hunter2", time="x")
    log.changed("suspended", scope="site", name="mx", until=5.0)
    log.stop()
    held, suspended = events_in(str(tmp_path))
    assert held["recipients"] == ["d@e.f"]
    assert held["reason"] == "why\r\nnot\ufffd"
    assert (held["password"], held["time_"], held["kind"]) == ("***", "x", "held")
    assert (suspended["scope"], suspended["name"], suspended["until"]) == ("site", "mx", 5.0)


def test_only_the_kinds_that_are_asked_for(tmp_path: Path) -> None:
    log = log_at(str(tmp_path), kinds=("failed",))
    entry = item()
    for status in ("delivered", "failed", "deferred"):
        log.attempted(entry, report(entry.recipients[0]), status, 1, 0.0, 1.0)
    log.stop()
    assert [event["kind"] for event in events_in(str(tmp_path))] == ["failed"]


def test_a_new_file_by_size_and_by_age_and_never_an_old_name(tmp_path: Path) -> None:
    clock = FakeClock()
    log = log_at(str(tmp_path), clock=clock, segment_size=Size("64KB"), segment_age=Duration(0.05))
    entry = item("<" + "x" * 900 + "@y>")
    for _ in range(3):
        for _ in range(70):
            log.attempted(entry, report(entry.recipients[0]), "delivered", 1, 0.0, 1.0)
        assert log.flush()
        clock.jump_wall_clock(-3600)
    time.sleep(0.06)
    log.attempted(entry, report(entry.recipients[0]), "failed", 1, 0.0, 1.0)
    log.stop()
    names = [segment.name for segment in segments_of(str(tmp_path))]
    assert len(names) >= 3
    assert [event["kind"] for event in events_in(str(tmp_path))] == ["delivered"] * 210 + ["failed"]


def full_disk(*_: object) -> int:
    raise OSError(errno.ENOSPC, "no space")


def test_a_full_disk_costs_nobody_time_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    monkeypatch.setattr(writer.SegmentWriter, "write", full_disk)
    log = log_at(str(tmp_path), metrics=metrics, buffer=Size("64KB"))
    entry = item()
    started = time.perf_counter()
    for _ in range(2000):
        log.attempted(entry, report(entry.recipients[0]), "delivered", 1, 0.0, 1.0)
    assert time.perf_counter() - started < 1.0
    dropped = metrics.count(m.EVENTS["dropped"])
    assert 0 < dropped < 2000
    until = time.monotonic() + 5
    while not metrics.level(m.EVENTS_FAILING, 0) and time.monotonic() < until:
        time.sleep(0.001)
    assert metrics.level(m.EVENTS_FAILING, 0) == 1
    monkeypatch.undo()
    assert log.flush()
    log.stop()
    assert metrics.level(m.EVENTS_FAILING, 0) == 0
    assert len(events_in(str(tmp_path))) == 2000 - dropped == metrics.count(m.EVENTS["written"])


def test_whoever_asked_to_wait_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    write = writer.SegmentWriter.write

    def slow(self: writer.SegmentWriter, lines: memoryview) -> int:
        time.sleep(0.002)
        return write(self, lines[:20_000])

    monkeypatch.setattr(writer.SegmentWriter, "write", slow)
    log = log_at(str(tmp_path), metrics=metrics, buffer=Size("64KB"), on_overflow="wait")
    entry = item()
    for _ in range(1000):
        log.attempted(entry, report(entry.recipients[0]), "delivered", 1, 0.0, 1.0)
    log.stop()
    assert metrics.count(m.EVENTS["dropped"]) == 0
    assert len(events_in(str(tmp_path))) == 1000


def test_a_write_that_breaks_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = writer.SegmentWriter.write, 0

    def breaking(self: writer.SegmentWriter, lines: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            full_disk()
        return write(self, lines[:37])

    monkeypatch.setattr(writer.SegmentWriter, "write", breaking)
    log = log_at(str(tmp_path))
    entry = item()
    for n in range(30):
        log.attempted(entry, report(entry.recipients[0]), "delivered", n + 1, 0.0, 1.0)
    assert log.flush()
    log.stop()
    assert [event["attempt"] for event in events_in(str(tmp_path))] == list(range(1, 31))


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()

    class Facts:
        f_frsize, f_blocks, f_bavail = 4096, 1_000_000, 10

    monkeypatch.setattr(os, "statvfs", lambda _path: Facts)
    monkeypatch.setattr(writer, "STOP_SECONDS", 0.05)
    log = log_at(str(tmp_path), metrics=metrics)
    log.changed("held", item())
    log.stop()
    assert events_in(str(tmp_path)) == []
    assert metrics.count(m.EVENTS["dropped"]) == 1


def test_what_no_contract_allows_is_lost_alone(tmp_path: Path) -> None:
    metrics = Metrics()
    log = log_at(str(tmp_path), metrics=metrics)
    entry = item()
    entry.id = b"short"
    log.attempted(entry, report(recipient("a@b.c")), "delivered", 1, 0.0, 1.0)
    log.attempted(item(), Report(recipient("a@b.c"), "failed", 0, "5.1.2", "no such domain"), "failed", 1, 0.0, 1.0)
    log.stop()
    (event,) = events_in(str(tmp_path))
    assert (event["kind"], event["text"], event.get("host")) == ("failed", "no such domain", None)
    assert metrics.count(m.EVENTS["dropped"]) == 1


class Gone(Content):
    """A content that was removed from the store."""

    @property
    def data(self) -> bytes | None:  # type: ignore[override]
        raise NotFound("the body is gone")

    @data.setter
    def data(self, _value: bytes | None) -> None:
        return


def test_an_entry_whose_content_is_gone_is_told_of_by_its_id(tmp_path: Path) -> None:
    log = log_at(str(tmp_path))
    entry = item()
    entry.rendering = Rendering(Gone(b"x" * 16, 100, 50))
    log.changed("deleted", entry, by="root")
    log.stop()
    (event,) = events_in(str(tmp_path))
    assert (event["queue_id"], event["kind"], event.get("message_id")) == (id_text(entry.id), "deleted", None)


def test_the_message_id_is_that_of_the_header_as_it_goes_out(tmp_path: Path) -> None:
    log = log_at(str(tmp_path))
    entry = item("<old@x>")
    content = entry.rendering.content
    for rendering in (
        Rendering(content, b"Received: x\r\n"),
        Rendering(content, b"Message-ID: <new@x>\r\n"),
        Rendering(content, b"Subject: rewritten\r\n\r\n", content.header_bytes),
    ):
        one = structs.replace(entry, rendering=rendering)
        log.attempted(one, report(entry.recipients[0]), "delivered", 1, 0.0, 1.0)
    large = tmp_path / "blob"
    large.write_bytes(b"A: b\r\nMessage-ID: <large@x>\r\n\r\n" + bytes(100_000))
    stored = Content(b"y" * 16, 100_000, 34, path=str(large))
    log.attempted(structs.replace(entry, rendering=Rendering(stored)), report(entry.recipients[0]), "failed", 1, 0.0, 1.0)
    log.stop()
    os.unlink(large)
    assert [event.get("message_id") for event in events_in(str(tmp_path))] == ["<old@x>", "<new@x>", None, "<large@x>"]


def test_without_a_thread_it_is_there_at_once(tmp_path: Path) -> None:
    log = writer.EventLog(
        writer.Settings(), str(tmp_path), "control", clock=FakeClock(), metrics=Metrics(), is_threaded=False
    )
    log.changed("resumed", scope="domain", name="example.org")
    assert [event["name"] for event in events_in(str(tmp_path))] == ["example.org"]
    log.stop()


KILLED = """
import sys, time
from tests.unit.events.made import *
log = log_at(sys.argv[1])
entry = item()
n = 0
while True:
    n += 1
    log.attempted(entry, report(entry.recipients[0]), "delivered", n, 0.0, 1.0)
    if n == 30000:
        print("going", flush=True)
    if n % 500 == 0:
        time.sleep(0.001)
"""


def test_kill_9_leaves_whole_lines_in_their_order(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    attempts = [event["attempt"] for event in events_in(str(tmp_path))]
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) > 1000
    (segment,) = segments_of(str(tmp_path))
    with open(segment.path(".jsonl"), "ab") as file:  # what a kernel that died would leave
        file.write(json.dumps({"kind": "delivered"}).encode()[:9])
    assert len(events_in(str(tmp_path))) == len(attempts)
