"""The small shared records: LMDB's beside the reference in memory."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import lmdb
import pytest

from rusmes.clock import FakeClock
from rusmes.errors import StoreError, StoreFull
from rusmes.storage import ledger as module
from rusmes.storage.ledger import LmdbLedger, MemoryLedger


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(params=["lmdb", "memory"])
def ledger(request, clock, tmp_path):
    if request.param == "memory":
        yield MemoryLedger(clock=clock)
        return
    with LmdbLedger(str(tmp_path), clock=clock) as opened:
        yield opened


@pytest.mark.parametrize("flushed", [False, True])
def test_put_get_delete(ledger, flushed):
    async def run():
        ledger.put("colour", b"sky", b"blue")
        ledger.put("colour", b"snow", b"white")
        ledger.put("colours", b"sky", b"other table")
        if flushed:
            await ledger.flush()
        assert ledger.get("colour", b"sky") == b"blue"
        assert ledger.get("colour", b"grass") is None
        assert list(ledger.items("colour")) == [(b"sky", b"blue"), (b"snow", b"white")]
        assert list(ledger.items("colour", b"sn")) == [(b"snow", b"white")]
        ledger.put("colour", b"sky", b"grey")
        ledger.delete("colour", b"snow")
        assert list(ledger.items("colour")) == [(b"sky", b"grey")]
        await ledger.flush()
        assert list(ledger.items("colour")) == [(b"sky", b"grey")]
        assert ledger.get("colour", b"snow") is None

    asyncio.run(run())


def test_expired_records_read_as_absent(ledger, clock):
    ledger.put("policy", b"a", b"1", expires=clock.now() + 10)
    asyncio.run(ledger.flush())
    ledger.put("policy", b"b", b"2", expires=clock.now() + 20)
    clock.advance(15)
    assert ledger.get("policy", b"a") is None
    assert list(ledger.items("policy")) == [(b"b", b"2")]
    clock.advance(15)
    assert ledger.get("policy", b"b") is None
    assert not list(ledger.items("policy"))


def test_generation_grows_with_each_change(ledger):
    seen = [ledger.generation]
    ledger.put("t", b"k", b"v")
    seen.append(ledger.generation)
    ledger.delete("t", b"k")
    seen.append(ledger.generation)
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(("table", "key"), [("", b"k"), ("a\0b", b"k"), ("t", b"k" * 510)])
def test_bad_names_and_long_keys_are_refused(ledger, table, key):
    with pytest.raises(ValueError, match=r"a key of|no name"):
        ledger.put(table, key, b"v")


def test_the_longest_key(ledger):
    key = b"k" * (module.MAX_KEY_BYTES - 2)
    ledger.put("t", key, b"v")
    asyncio.run(ledger.flush())
    assert list(ledger.items("t")) == [(key, b"v")]


def test_another_opening_sees_what_was_committed(tmp_path, clock):
    with LmdbLedger(str(tmp_path), clock=clock) as writer:
        before = writer.generation
        writer.put("t", b"k", b"v")
    with LmdbLedger(str(tmp_path), clock=clock, read_only=True) as reader:
        assert reader.get("t", b"k") == b"v"
        assert reader.generation > before
        with pytest.raises(StoreError):
            reader.put("t", b"k", b"w")


def test_reading_where_nothing_was_ever_put(tmp_path):
    with LmdbLedger(str(tmp_path), read_only=True) as reader:
        assert reader.get("t", b"k") is None
        assert not list(reader.items("t"))
    assert not list(tmp_path.iterdir())


def test_what_is_put_becomes_durable_without_a_flush(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(module, "DELAY_SECONDS", 0.01)
    committed = threading.Event()

    class Watched(LmdbLedger):
        def _commit(self):
            had = bool(self._writing)
            error = super()._commit()
            if had:
                committed.set()
            return error

    with Watched(str(tmp_path), clock=clock) as writer:
        writer.put("t", b"k", b"v")
        assert committed.wait(30)
        assert not writer._waiting


def test_a_commit_that_fails_loses_nothing(tmp_path, clock):
    with LmdbLedger(str(tmp_path), clock=clock) as ledger:
        real, broken = ledger._env, True

        class Failing:
            def begin(self, write=False):
                if write and broken:
                    raise lmdb.DiskError("no space")
                return real.begin(write=write)

            def __getattr__(self, name):
                return getattr(real, name)

        ledger._env = Failing()
        ledger.put("t", b"k", b"old")
        with pytest.raises(StoreFull):
            asyncio.run(ledger.flush())
        assert ledger.get("t", b"k") == b"old"
        ledger.put("t", b"k", b"new")
        broken = False
        asyncio.run(ledger.flush())
        assert ledger.get("t", b"k") == b"new"


def test_expired_records_are_swept_in_pieces(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(module, "SWEEP_BATCH", 3)
    with LmdbLedger(str(tmp_path), clock=clock) as ledger:
        for number in range(10):
            ledger.put("t", b"%d" % number, b"v", expires=clock.now() + (5 if number % 2 else 500))
        asyncio.run(ledger.flush())
        clock.advance(10)
        ledger._sweep()
        with ledger._env.begin() as transaction:
            assert [name[2:] for name, _ in transaction.cursor()] == [b"0", b"2", b"4", b"6", b"8"]


def test_a_killed_process_leaves_what_it_flushed(tmp_path):
    program = textwrap.dedent("""
        import asyncio, sys, time
        from rusmes.storage.ledger import LmdbLedger
        ledger = LmdbLedger(sys.argv[1])
        ledger.open()
        for number in range(1000):
            ledger.put("t", b"%04d" % number, b"v")
            if number % 100 == 99:
                asyncio.run(ledger.flush())
                print(number, flush=True)
        time.sleep(60)
    """)
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    flushed = 0
    while flushed < 499:
        flushed = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with LmdbLedger(str(tmp_path)) as ledger:
        assert len(list(ledger.items("t"))) >= 500
        ledger.put("t", b"after", b"v")
        asyncio.run(ledger.flush())
        assert ledger.get("t", b"after") == b"v"
