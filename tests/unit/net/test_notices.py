"""Notices reach every other worker, once for many equal ones, and a slow reader costs no memory."""

from __future__ import annotations

import asyncio

import pytest

from rusmes.net import notices as module
from rusmes.net.notices import RESYNC, Notices, make_pairs
from tests.unit.net.peers import Run


def close(pairs: list[module.Pair]) -> None:
    for pair in pairs:
        for end in pair:
            end.close()


def test_the_others_hear_and_the_sender_does_not(run: Run) -> None:
    async def body() -> None:
        pairs = make_pairs(3)
        workers = [Notices(pairs, slot) for slot in range(3)]
        heard: list[tuple[int, bytes]] = []
        for slot, worker in enumerate(workers):
            worker.start()
            worker.subscribe("mailbox", lambda payload, slot=slot: heard.append((slot, payload)))
        workers[1].post("mailbox", b"\x00\x1e\x1f binary")
        workers[1].post("unheard", b"x")
        workers[1].post("mailbox", b"\x00\x1e\x1f binary")
        await asyncio.sleep(0.02)
        assert sorted(heard) == [(0, b"\x00\x1e\x1f binary"), (2, b"\x00\x1e\x1f binary")]
        for worker in workers:
            worker.stop()
        close(pairs)

    run(body)


def test_a_slow_reader_gets_everything_later(run: Run) -> None:
    async def body() -> None:
        pairs = make_pairs(2)
        sender, reader = Notices(pairs, 0), Notices(pairs, 1)
        sender.start()
        for number in range(5000):
            sender.post("n", b"%d" % number)
            if number % 100 == 0:
                await asyncio.sleep(0)
        heard: set[bytes] = set()
        reader.subscribe("n", heard.add)
        reader.start()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if len(heard) == 5000:
                break
        assert len(heard) == 5000
        sender.stop()
        reader.stop()
        close(pairs)

    run(body)


def test_a_reader_that_is_gone_costs_a_bounded_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 100)

    async def body() -> None:
        pairs = make_pairs(2)
        sender = Notices(pairs, 0)
        sender.start()
        for number in range(200_000):
            sender.post("n", b"%d" % number + b"x" * 500)
            if number % 50 == 0:
                await asyncio.sleep(0)
            if number > 20_000 and len(sender._waiting[0]) > 50:
                break
        assert len(sender._waiting[0]) <= 101
        reader = Notices(pairs, 1)
        resynced: list[bytes] = []
        reader.subscribe(RESYNC, resynced.append)
        reader.start()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if resynced:
                break
        assert resynced
        sender.stop()
        reader.stop()
        close(pairs)

    run(body)


def test_a_failing_listener_does_not_stop_the_others(run: Run) -> None:
    async def body() -> None:
        pairs = make_pairs(2)
        sender, reader = Notices(pairs, 0), Notices(pairs, 1)
        heard: list[bytes] = []

        def fail(_payload: bytes) -> None:
            raise ValueError("x")

        reader.subscribe("n", fail)
        reader.subscribe("n", heard.append)
        sender.start()
        reader.start()
        sender.post("n", b"1")
        await asyncio.sleep(0.02)
        assert heard == [b"1"]
        with pytest.raises(ValueError, match="small"):
            sender.post("n", b"x" * 2000)
        sender.stop()
        reader.stop()
        close(pairs)

    run(body)
