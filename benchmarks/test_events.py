"""What the event log costs: the way of a mail for an event, the courier for packing it, and an operator for finding it.

Budget: 2 to 3 us of the worker's CPU for an event, and 100 ms for the whole history of a message among a million events
(EVENTS_COUNT: how many; each takes about 700 octets of disk until it is sealed). `python -m pytest benchmarks/test_events.py
-s` prints a line for each question.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec import structs

from rusmes.clock import SystemClock
from rusmes.config.events import Events as Settings
from rusmes.events.history import find_history
from rusmes.events.keeper import Keeper
from rusmes.events.segments import segments_of
from rusmes.events.tail import Tail
from rusmes.model.ids import id_text
from rusmes.model.plan import Queued
from tests.unit.events.made import HOW, item, log_at, mail, report

EVENTS = int(os.environ.get("EVENTS_COUNT", "1000000"))
ROUNDS = 5


def say(text: str) -> None:
    sys.stderr.write(f"\n  {text}")


def test_an_event_on_the_way_of_a_mail(tmp_path: Path) -> None:
    """CPU of the thread that delivers, and of the whole process, for a reception and an attempt."""
    count = 5000
    log = log_at(str(tmp_path), clock=SystemClock())
    entries = [item(f"<{n}@mail.example.com>", f"user{n}@example.net") for n in range(count)]
    mails = [mail(f"<{n}@mail.example.com>", f"user{n}@example.net") for n in range(count)]
    reports = [report(entry.recipients[0], attempt=structs.replace(HOW, port=25 + n)) for n, entry in enumerate(entries)]
    on_the_way: dict[str, list[float]] = {"reception": [], "attempt": []}
    total = []
    for _ in range(ROUNDS):
        assert log.flush()
        all_begun = time.process_time()
        begun = time.thread_time()
        for one, entry in zip(mails, entries, strict=True):
            log.received("received", one, one.recipients, (entry,))
        on_the_way["reception"].append((time.thread_time() - begun) / count)
        begun = time.thread_time()
        for entry, one_report in zip(entries, reports, strict=True):
            log.attempted(entry, one_report, "delivered", 1, 0.0, 1_795_523_456.5)
        on_the_way["attempt"].append((time.thread_time() - begun) / count)
        time.sleep(0.5)
        total.append((time.process_time() - all_begun) / count / 2)
    log.stop()
    medians = {name: statistics.median(times) * 1e6 for name, times in on_the_way.items()}
    whole = statistics.median(total) * 1e6
    say(f"reception {medians['reception']:.2f} us, attempt {medians['attempt']:.2f} us; with writing {whole:.2f} us each")
    assert max(medians.values()) < 20


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[tuple[Queued, int]]]:
    """A log with EVENTS events, sealed, and one in a thousand of the entries in it."""
    directory = str(tmp_path_factory.mktemp("events"))
    log = log_at(directory, clock=SystemClock())
    keeper = Keeper(directory, Settings(max_size=0, max_age=0))  # type: ignore[arg-type]
    kept: list[tuple[Queued, int]] = []
    made, packed = 0, 0.0
    started = time.perf_counter()
    while made < EVENTS:
        for _ in range(2000):
            number = made // 3
            name = f"<{number}@mail.example.com>"
            entry = item(name, f"user{number % 100_000}@domain{number % 997}.example")
            one = mail(name, f"user{number % 100_000}@domain{number % 997}.example")
            log.received("received", one, one.recipients, (entry,))
            later = report(entry.recipients[0], "delayed", code=451, text=f"later {number}")
            log.attempted(entry, later, "deferred", 1, 9e8, 8e8)
            log.attempted(entry, report(entry.recipients[0], text=f"queued as {number:x}"), "delivered", 2, 0.0, 8e8 + number)
            if number % 1000 == 0:
                kept.append((entry, number))
            made += 3
        assert log.flush(60)
        if made // 300_000 != (made - 6000) // 300_000:
            begun = time.process_time()
            keeper.tend(time.time() + 100)
            packed += time.process_time() - begun
    log.stop()
    begun = time.process_time()
    keeper.tend(time.time() + 100)
    packed += time.process_time() - begun
    disk = sum(segment.disk_bytes for segment in segments_of(directory))
    say(
        f"{made} events made in {time.perf_counter() - started:.0f} s; sealing {packed / made * 1e6:.1f} us and "
        f"{disk / made:.0f} octets of disk an event, {len(segments_of(directory))} files"
    )
    return directory, kept


@pytest.mark.timeout(600)
def test_the_history_of_a_message(million: tuple[str, list[tuple[Queued, int]]]) -> None:
    """By queue id, Message-ID and recipient, among all of them."""
    directory, kept = million
    for name in ("queue id", "Message-ID", "recipient"):
        times = []
        for entry, number in kept[:: max(len(kept) // 50, 1)]:
            text = {
                "queue id": id_text(entry.id),
                "Message-ID": f"<{number}@mail.example.com>",
                "recipient": str(entry.recipients[0].address),
            }[name]
            begun = time.perf_counter()
            found = find_history(directory, text)
            times.append(time.perf_counter() - begun)
            assert len(found.events) >= 3
        say(f"by {name}: median {statistics.median(times) * 1000:.1f} ms, worst {max(times) * 1000:.1f} ms")
        assert statistics.median(times) < 0.1


@pytest.mark.timeout(600)
def test_the_command(million: tuple[str, list[tuple[Queued, int]]], tmp_path: Path) -> None:
    """`rusmes why` as a whole, with the start of the interpreter."""
    directory, kept = million
    config = tmp_path / "rusmes.toml"
    config.write_text(f'domain = "example.com"\n[storage]\npath = "{tmp_path}/data"\n[events]\npath = "{directory}"\n')
    times = []
    for entry, _ in kept[:ROUNDS]:
        begun = time.perf_counter()
        argv = [sys.executable, "-m", "rusmes.cli.entry", "-c", str(config), "--json", "why", id_text(entry.id)]
        done = subprocess.run(argv, capture_output=True, check=False)
        times.append(time.perf_counter() - begun)
        assert b'"delivered"' in done.stdout, done.stderr
    say(f"the command: {statistics.median(times) * 1000:.0f} ms")


@pytest.mark.timeout(600)
def test_reading_on(million: tuple[str, list[tuple[Queued, int]]]) -> None:
    """What a consumer costs the courier before anything is sent."""
    directory, _ = million
    tail, count = Tail(directory, {}), 0
    begun = time.process_time()
    while count < 100_000:
        batch = tail.next_batch(500)
        if not batch.lines:
            break
        tail.commit(batch.position)
        count += len(batch.lines)
    spent = time.process_time() - begun
    tail.close()
    say(f"read on: {spent / count * 1e6:.1f} us an event, {count / spent:.0f} a second")
