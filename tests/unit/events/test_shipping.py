"""Events on their way to webhooks and files: at least once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import hmac
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rusmes import metrics as m
from rusmes._core.counters import Metrics
from rusmes.clock import SystemClock
from rusmes.config.events import EventFile, Webhook
from rusmes.config.events import Events as Settings
from rusmes.config.units import Duration, Secret, Size
from rusmes.events import shipping, writer
from rusmes.events.keeper import Keeper
from rusmes.events.segments import segments_of
from rusmes.events.shipping import Shipper, shipper_of
from rusmes.events.tail import Tail, end_of, load_position, save_position
from rusmes.events.writer import EventLog
from tests.unit.events.made import item, log_at, mail, report


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "WRITE_SECONDS", 0.001)
    monkeypatch.setattr(shipping, "POLL_SECONDS", 0.005)


def write(directory: str, first: int, count: int, *, name: str = "0", log: EventLog | None = None, **settings: Any) -> None:
    own = log or log_at(directory, name, clock=SystemClock(), **settings)
    entry = item()
    for n in range(first, first + count):
        own.attempted(entry, report(entry.recipients[0]), "delivered" if n % 2 else "deferred", n, 0.0, time.time())
    assert own.flush()
    if log is None:
        own.stop()


class Hook:
    """A web server that does what it is told, and then takes events."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        """Before it takes anything: a status, seconds of silence, or "close"."""
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.taken: list[int] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(request)
        self.bodies.append(body)
        if self.answers:
            answer = self.answers.pop(0)
            if answer == "close":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            if isinstance(answer, float):
                await asyncio.sleep(answer)
            elif isinstance(answer, tuple):
                return web.Response(status=answer[0], headers=answer[1])
            else:
                return web.Response(status=answer, text="x" * 100_000)
        self.taken += [event.get("attempt", 0) for event in json.loads(body)]
        return web.Response(text="thanks")


@contextlib.asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    made = Hook()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield made
    finally:
        await runner.cleanup()


def settings_for(url: str, **more: Any) -> Webhook:
    waits = {"timeout": Duration(0.3), "retry_wait": Duration(0.005), "max_retry_wait": Duration(0.02)}
    return Webhook(**{"name": "hook", "url": url, "batch_time": Duration(0), **waits, **more})


@contextlib.asynccontextmanager
async def shipping_to(settings: Webhook | EventFile, directory: str, metrics: Metrics | None = None) -> AsyncIterator[Shipper]:
    shipper = shipper_of(settings, directory, metrics or Metrics())
    task = asyncio.create_task(shipper.run())
    try:
        yield shipper
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_batches_with_a_signature_that_holds_the_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with hook() as server:
            write(str(tmp_path), 1, 7)
            metrics = Metrics()
            async with shipping_to(settings_for(server.url, secret=Secret("key"), batch_size=3), str(tmp_path), metrics):
                await until(lambda: len(server.taken) == 7)
            assert [len(json.loads(body)) for body in server.bodies] == [3, 3, 1]
            assert server.taken == list(range(1, 8))
            for request, body in zip(server.requests, server.bodies, strict=True):
                moment, signed = request.headers["X-RusMES-Signature"].split(",")
                assert abs(int(moment.removeprefix("t=")) - time.time()) < 60
                wanted = hmac.new(b"key", moment[2:].encode() + b"." + body, hashlib.sha256).hexdigest()
                assert signed == f"v1={wanted}"
                assert request.headers["Content-Type"] == "application/json"
            assert len({request.headers["X-RusMES-Batch"] for request in server.requests}) == 3
            assert metrics.count(m.EVENTS_SHIPPED["webhook"]) == 7

    run(main)


@pytest.mark.parametrize("answer", [500, 400, 302, 429, "close", 1.0, (503, {"Retry-After": "9999999"})])
def test_what_is_not_taken_is_offered_again_with_the_same_name(tmp_path: Path, answer: Any) -> None:
    async def main() -> None:
        async with hook() as server:
            server.answers = [answer, answer]
            write(str(tmp_path), 1, 5)
            metrics = Metrics()
            async with shipping_to(settings_for(server.url), str(tmp_path), metrics) as shipper:
                await until(lambda: shipper.state.failures)
                await until(lambda: server.taken and not shipper.state.failures)
            assert server.taken == [1, 2, 3, 4, 5]
            names = {request.headers["X-RusMES-Batch"] for request in server.requests}
            assert len(names) == 1
            assert "X-RusMES-Signature" not in server.requests[0].headers
            assert metrics.count(m.EVENTS_SHIP_FAILURES["webhook"]) == 2

    run(main)


def test_what_is_too_large_is_halved(tmp_path: Path) -> None:
    async def main() -> None:
        async with hook() as server:
            server.answers = [413, 413]
            write(str(tmp_path), 1, 9)
            async with shipping_to(settings_for(server.url), str(tmp_path)):
                await until(lambda: len(server.taken) == 9)
            assert server.taken == list(range(1, 10))
            assert [len(json.loads(body)) for body in server.bodies] == [9, 5, 3, 6]

    run(main)


def test_a_consumer_that_is_down_for_long_gets_everything_later(tmp_path: Path) -> None:
    async def main() -> None:
        directory, metrics = str(tmp_path), Metrics()
        write(directory, 1, 20)
        async with hook() as server:
            url = server.url
        async with shipping_to(settings_for(url), directory, metrics) as shipper:
            await until(lambda: shipper.state.failures > 3)
            write(directory, 21, 30, name="1")
            await asyncio.to_thread(Keeper(directory, Settings()).tend, time.time() + 60)
            state = shipper.measure()
            assert state.lag_seconds > 0
            assert state.lag_bytes > 50 * 500
            assert "127.0.0.1" in state.last_failure
        async with hook() as server:
            async with shipping_to(settings_for(server.url), directory) as shipper:
                await until(lambda: len(server.taken) >= 50)
                await until(lambda: shipper.measure().lag_bytes == 0)
            assert sorted(server.taken) == list(range(1, 51))

    run(main)


def test_after_a_restart_it_goes_on_where_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        directory = str(tmp_path)
        async with hook() as server:
            settings = settings_for(server.url, batch_size=4)
            for n in range(6):
                write(directory, 10 * n, 10, name=str(n % 2), segment_size=Size("64KB"))
                if n == 3:
                    Keeper(directory, Settings()).tend(time.time() + 60)
                async with shipping_to(settings, directory) as shipper:
                    await until(lambda n=n: len(server.taken) >= 10 * (n + 1))
                    # Until it has heard that, and written down how far it is, it would send them again.
                    await until(lambda shipper=shipper: shipper.measure().lag_bytes == 0)
            assert sorted(server.taken) == list(range(60))

    run(main)


def test_a_kill_repeats_what_was_not_noted_and_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        directory = str(tmp_path)
        write(directory, 0, 10)
        async with hook() as server:
            shipper = shipper_of(settings_for(server.url, batch_size=5), directory, Metrics())
            assert await shipper._step()
            place = load_position(str(tmp_path / "hook.position"))
            assert await shipper._step()  # within a second: not noted
            assert load_position(str(tmp_path / "hook.position")) == place
            shipper.tail.close()
            await shipper._consumer.close()
            async with shipping_to(settings_for(server.url), directory):
                await until(lambda: len(server.taken) >= 15)
            assert server.taken == [*range(10), *range(5, 10)]

    run(main)


def test_only_the_kinds_it_wants_and_from_now_on(tmp_path: Path) -> None:
    async def main() -> None:
        directory = str(tmp_path)
        write(directory, 0, 10)
        async with hook() as server:
            settings = settings_for(server.url, kinds=("delivered",), begin="now")
            async with shipping_to(settings, directory):
                write(directory, 100, 10)
                await until(lambda: len(server.taken) == 5)
            assert server.taken == [101, 103, 105, 107, 109]

    run(main)


def test_a_file_being_written_is_followed_through_its_sealing_and_the_next(tmp_path: Path) -> None:
    directory = str(tmp_path)
    log = log_at(directory, clock=SystemClock(), segment_size=Size("64KB"))
    tail, seen = Tail(directory, {}), []

    def take(limit: int = 37) -> None:
        while True:
            batch = tail.next_batch(limit)
            seen.extend(json.loads(line.data).get("attempt", 0) for line in batch.lines)
            tail.commit(batch.position)
            if not batch.lines:
                return

    for n in range(8):
        write(directory, 60 * n, 60, log=log)
        if n % 3 == 0:
            take()
        if n % 2:
            Keeper(directory, Settings()).tend(time.time() + 60)
    log.stop()
    Keeper(directory, Settings()).tend(time.time() + 60)
    take()
    assert seen == list(range(480))
    assert tail.behind() == 0
    assert end_of(directory) == tail.position
    assert all(tail.has_passed(segment) for segment in segments_of(directory))
    tail.close()


def test_what_retention_took_is_not_waited_for(tmp_path: Path) -> None:
    directory = str(tmp_path)
    log = log_at(directory, clock=SystemClock(), segment_size=Size("64KB"))
    for first in range(0, 300, 60):
        write(directory, first, 60, log=log)
    log.stop()
    tail = Tail(directory, {})
    tail.commit(tail.next_batch(10).position)
    tail.close()
    assert not tail.has_passed(segments_of(directory)[0])
    Keeper(directory, Settings()).tend(time.time() + 60)
    for segment in segments_of(directory)[:2]:
        for suffix in (".jsonl.gz", ".idx"):
            os.unlink(segment.path(suffix))
    batch = tail.next_batch(1000)
    numbers = [json.loads(line.data).get("attempt", 0) for line in batch.lines]
    assert numbers == list(range(numbers[0], 300))
    assert numbers[0] > 10
    tail.close()


def test_a_position_that_a_power_loss_left_empty_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "x.position")
    assert load_position(path) is None
    save_position(path, {"0": ("20261124T122219123", 5)})
    assert load_position(path) == {"0": ("20261124T122219123", 5)}
    Path(path).write_bytes(b"")
    assert load_position(path) is None


def test_a_copy_in_json_rotates_and_packs(tmp_path: Path) -> None:
    async def main() -> None:
        write(str(tmp_path / "log"), 0, 100)
        path = tmp_path / "copies" / "events.json"
        settings = EventFile(name="copy", path=str(path), kinds=("delivered",), max_size=Size("10KB"), max_backups=2)
        async with shipping_to(settings, str(tmp_path / "log")) as shipper:
            await until(lambda: shipper.state.taken == 50)
            write(str(tmp_path / "log"), 100, 100)
            await until(lambda: shipper.state.taken == 100)
        lines = [json.loads(line) for name in (f"{path}.1", path) for line in Path(name).read_text().splitlines()]
        assert [line["attempt"] for line in lines] == list(range(1, 200, 2))

    run(main)


def test_a_copy_as_an_accounting_file(tmp_path: Path) -> None:
    async def main() -> None:
        log = log_at(str(tmp_path / "log"), clock=SystemClock())
        one, entry = mail("<1@x>", "a@b.c", "d@e.f"), item("<1@x>", "=cmd@b.c", envid="env")
        log.received("received", one, one.recipients, [entry])
        log.attempted(entry, report(entry.recipients[0], "delayed", code=451, text='said "no", twice'), "deferred", 1, 9.0, 8.0)
        log.changed("held", entry)
        log.stop()
        path = tmp_path / "acct.csv"
        async with shipping_to(EventFile(name="acct", path=str(path), format="csv"), str(tmp_path / "log")) as shipper:
            await until(lambda: shipper.state.taken == 2)
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [row["type"] for row in rows] == ["r", "r", "t"]
        assert [row["rcpt"] for row in rows] == ["a@b.c", "d@e.f", "'=cmd@b.c"]
        assert rows[2] | {"timeLogged": "1970-01-01 00:00:08+0000", "dsnDiag": 'smtp;451 2.0.0 said "no", twice'} == rows[2]
        assert rows[2] | {"dsnMta": "mx1.example.net (198.51.100.4)", "vmta": "pool-a", "jobId": "spring"} == rows[2]
        assert rows[0]["srcMta"] == "client.example 192.0.2.7"

    run(main)


def test_a_file_that_cannot_be_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shipper, "_first_wait", 0.005)

    async def main() -> None:
        write(str(tmp_path / "log"), 0, 4)
        (tmp_path / "copies").write_text("a file in the place of the directory")
        settings = EventFile(name="copy", path=str(tmp_path / "copies" / "events.json"))
        async with shipping_to(settings, str(tmp_path / "log")) as shipper:
            await until(lambda: shipper.state.failures > 1)
            (tmp_path / "copies").unlink()
            await until(lambda: shipper.state.taken == 4)

    run(main)
