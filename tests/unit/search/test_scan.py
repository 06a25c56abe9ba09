"""Searches of whole mailboxes, beside an oracle that reads every message."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from rusmes._core.cursor import Cursor
from rusmes._core.view import MailboxRows, Uids
from rusmes.clock import FakeClock
from rusmes.model import query as q
from rusmes.model.ids import IdSource, id_text
from rusmes.model.plan import Append
from rusmes.search import plan, slices
from rusmes.search.api import Scope, TooComplex
from rusmes.search.scan import ScanSearcher
from rusmes.storage.api import FlagChange
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.memory import MemoryMailStore
from tests import random_mime
from tests.contract.mails import ALICE, append_of
from tests.oracles import search as oracle

NOW = 1_790_000_000.0
FLAGS = ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "Work", "$Junk")
INLINE = 2048


def store_of(kind: str, directory: Path) -> Any:
    clock = FakeClock()
    if kind == "memory":
        return MemoryMailStore(inline_limit=INLINE, clock=clock)
    return LmdbMailStore(str(directory), inline_limit=INLINE, map_size=1 << 28, clock=clock, ids=IdSource())


@pytest.fixture(params=["memory", "lmdb"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Any], Awaitable[None]]], None]:
    def play(scenario: Callable[[Any], Awaitable[None]]) -> None:
        async def whole() -> None:
            store = store_of(request.param, tmp_path)
            await store.open()
            try:
                await scenario(store)
            finally:
                await store.close()

        asyncio.run(whole())

    return play


async def filled(store: Any, messages: list[Append]) -> tuple[MailboxRows, Any]:
    await store.append(messages)
    account = await store.account(ALICE)
    mailbox = await store.mailbox(account.id, "INBOX")
    return await loaded(store, mailbox), mailbox


async def loaded(store: Any, mailbox: Any) -> MailboxRows:
    rows = MailboxRows(mailbox.id, account_id=mailbox.account_id)
    await store.load_messages(mailbox.id, rows)
    return rows


def random_append(store: Any, rnd: random.Random) -> Append:
    data = random_mime.part(rnd)
    if rnd.random() < 0.5:
        zone = rnd.choice((b"+0000", b"-0800"))
        data = b"Date: %d Mar 2026 %02d:00:00 %b\r\n" % (rnd.randrange(1, 6), rnd.randrange(24), zone) + data
    if rnd.random() < 0.2:
        data += b"\r\n" + b"filler " * 400  # in a file
    if rnd.random() < 0.1:
        data = b"References: " + b"<a@b> " * 8000 + b"\r\n" + data  # more than is cached
    prefix = random_mime.fields(rnd) if rnd.random() < 0.3 else b""
    flags = tuple(rnd.sample(FLAGS, rnd.randrange(4)))
    received = NOW - rnd.randrange(4 * 86400)
    return append_of(store.blobs, data, prefix=prefix, flags=flags, received=received)


async def known_of(store: Any, mailbox: Any) -> list[oracle.Known]:
    found = []
    for number, message in enumerate(await store.messages(mailbox.id), 1):
        opened = await store.open_message(mailbox.id, message.uid)
        [saved] = store.saved_dates(mailbox.id, [message.uid])
        found.append(oracle.Known(number, message, opened.email, opened.rendering.content.read(), saved))
    return found


def random_set(rnd: random.Random) -> q.SequenceSet:
    if rnd.random() < 0.15:
        return q.SequenceSet(saved=True)
    return q.SequenceSet(tuple((rnd.randrange(40), rnd.randrange(40)) for _ in range(rnd.randrange(1, 3))))


def random_key(rnd: random.Random, known: list[oracle.Known]) -> q.Query:
    one = rnd.choice(known)
    word = rnd.choice(random_mime.WORDS).swapcase()
    day = date.fromtimestamp(NOW).toordinal() + rnd.randrange(-5, 2)
    return rnd.choice(
        (
            q.Everything(),
            q.Numbers(random_set(rnd)),
            q.Uids(random_set(rnd)),
            q.HasFlag(rnd.choice((*FLAGS, "$never"))),
            q.HasFlag(rnd.choice(FLAGS).upper()),
            q.HeaderContains(rnd.choice(("subject", "From", "X-Thing", "To", "List-Id")), rnd.choice((word, ""))),
            q.HeaderContains("SUBJECT", word),
            q.TextContains(word),
            q.BodyContains(word),
            q.BodyContains(rnd.choice(("", "filler"))),
            q.SizeAbove(one.message.size),
            q.SizeBelow(one.message.size),
            q.DateIs("internal", rnd.choice(("before", "on", "since")), day),
            q.DateIs("saved", rnd.choice(("before", "on", "since")), date(2026, 11, 24).toordinal()),
            q.DateIs("sent", rnd.choice(("before", "on", "since")), date(2026, 3, rnd.randrange(1, 7)).toordinal()),
            q.YoungerThan(int(NOW - one.message.internal_date)),
            q.OlderThan(int(NOW - one.message.internal_date)),
            q.ModifiedSince(one.message.modseq),
            q.EmailIdIs(rnd.choice((id_text(one.message.email_id), "nobody"))),
            q.ThreadIdIs(rnd.choice((id_text(one.email.thread_id), id_text(bytes(16))))),
            q.SaveDateSupported(),
        )
    )


def random_query(rnd: random.Random, known: list[oracle.Known], depth: int = 0) -> q.Query:
    kind = rnd.random()
    if depth > 3 or kind < 0.4:
        return random_key(rnd, known)
    if kind < 0.55:
        return q.Not(random_query(rnd, known, depth + 1))
    if kind < 0.6:
        return q.Fuzzy(random_query(rnd, known, depth + 1))
    parts = tuple(random_query(rnd, known, depth + 1) for _ in range(rnd.randrange(1, 4)))
    return q.And(parts) if kind < 0.8 else q.Or(parts)


def scope_of(rows: MailboxRows, cursor: Cursor, saved: list[int]) -> Scope:
    return Scope(
        rows, cursor.mask(), cursor.largest_uid(), cursor.exists, cursor.mask_numbers, cursor.mask_recent, saved
    )  # fmt: skip


def test_random_queries_find_what_the_oracle_finds(play: Callable[..., None]) -> None:
    async def scenario(store: Any) -> None:
        rnd = random.Random(10)
        _, mailbox = await filled(store, [random_append(store, rnd) for _ in range(30)])
        uids = tuple(rnd.sample(range(1, 31), 8))
        await store.change_flags(mailbox.id, FlagChange(uids, "add", ("\\Flagged",)))
        await store.expunge(mailbox.id, [3, 17, 30])
        known = await known_of(store, mailbox)
        rows = await loaded(store, mailbox)
        searcher = ScanSearcher(store, clock=FakeClock(NOW))
        cursor = Cursor(rows)
        hits = 0
        for _ in range(400):
            query = random_query(rnd, known)
            saved = rnd.sample([one.message.uid for one in known], 4)
            found = await searcher.search(scope_of(rows, cursor, saved), query)
            expected = oracle.found(oracle.Mailbox(known, saved, NOW), query)
            assert found.list() == expected, query
            hits += 0 < len(expected) < len(known)
        assert hits > 100  # the test tells something
        cursor.detach()

    play(scenario)


def test_only_what_is_known_is_found_and_what_is_gone_is_not(play: Callable[..., None]) -> None:
    async def scenario(store: Any) -> None:
        rows, _ = await filled(store, [append_of(store.blobs) for _ in range(4)])
        searcher = ScanSearcher(store)
        cursor = Cursor(rows)
        rows.add(9, 100, bytes(16), 0.0, 1, 0)  # came after the client was told
        rows.expunge(2, 101)  # and this it does not know
        for query in (q.Everything(), q.Not(q.BodyContains("nowhere")), q.TextContains("hello")):
            assert (await searcher.search(scope_of(rows, cursor, []), query)).list() == [1, 3, 4]
        assert (await searcher.search(Scope(rows), q.Everything())).list() == [1, 3, 4, 9]
        assert (await searcher.search(Scope(rows), q.Numbers(q.SequenceSet(((1, 9),))))).list() == []
        assert (await searcher.search(Scope(rows), q.HasFlag("\\Recent"))).list() == []
        cursor.detach()

    play(scenario)


class Counting:
    """A store that says which emails it was asked for."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.looks: list[tuple[str, int]] = []

    def scan_emails(self, account_id: int, ids: Any, reader: Any, *, first: int = 0) -> None:
        self.looks.append((type(reader).__name__, len(ids)))
        self._store.scan_emails(account_id, ids, reader, first=first)

    def saved_dates(self, mailbox_id: int, uids: Any) -> Any:
        self.looks.append(("saved", len(uids)))
        return self._store.saved_dates(mailbox_id, uids)


def test_the_cheapest_question_comes_first_and_what_it_settles_is_not_read(play: Callable[..., None]) -> None:
    async def scenario(store: Any) -> None:
        appends = [append_of(store.blobs, flags=("\\Seen",) if n < 5 else ()) for n in range(8)]
        rows, _ = await filled(store, appends)
        counting = Counting(store)
        searcher = ScanSearcher(counting)  # type: ignore[arg-type]
        body, subject, seen = q.BodyContains("text"), q.HeaderContains("subject", "hello"), q.HasFlag("\\Seen")

        async def looks(query: q.Query) -> list[tuple[str, int]]:
            counting.looks.clear()
            await searcher.search(Scope(rows), query)
            return list(counting.looks)

        assert await looks(seen) == []
        assert await looks(q.And((body, q.Not(seen)))) == [("TextScan", 3)]
        assert await looks(q.Or((body, seen))) == [("TextScan", 3)]
        assert await looks(q.And((body, subject))) == [("TextScan", 8), ("TextScan", 8)]
        assert await looks(q.And((body, q.Not(subject)))) == [("TextScan", 8)]
        assert await looks(q.Or((body, q.And((subject, seen))))) == [("TextScan", 8), ("TextScan", 3)]
        assert await looks(q.And((body, q.BodyContains("x"), q.TextContains("y")))) == [("TextScan", 8)]  # one look for all
        saved = q.DateIs("saved", "since", 1)
        sent = q.DateIs("sent", "since", 1)
        assert [name for name, _ in await looks(q.And((body, sent, saved)))] == ["saved", "FieldReader"]  # nobody has a Date

    play(scenario)


def test_long_searches_are_done_in_slices_and_tell_how_far_they_are(play: Callable[..., None]) -> None:
    async def scenario(store: Any) -> None:
        rows, _ = await filled(store, [append_of(store.blobs) for _ in range(2 * slices.SLICE_EMAILS + 10)])
        told: list[tuple[int, int]] = []
        turns = 0

        async def progress(done: int, total: int) -> None:
            told.append((done, total))

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        found = await ScanSearcher(store).search(Scope(rows), q.BodyContains("text"), progress=progress)
        task.cancel()
        total = 2 * slices.SLICE_EMAILS + 10
        assert len(found) == total
        assert told == [(slices.SLICE_EMAILS, total), (2 * slices.SLICE_EMAILS, total), (total, total)]
        assert turns >= 2

    play(scenario)


def test_large_messages_and_slow_stores_are_searched_aside(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: Any) -> None:
        large = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 30_000 + b"needle\r\n"
        rows, _ = await filled(store, [append_of(store.blobs), append_of(store.blobs, large), append_of(store.blobs)])
        searcher = ScanSearcher(store)
        assert (await searcher.search(Scope(rows), q.BodyContains("needle"))).list() == [2]
        assert searcher.slices.has_gone_aside
        searcher.close()
        searcher.close()
        monkeypatch.setattr(slices, "MAJOR_FAULTS", -1)
        monkeypatch.setattr(slices, "SLICE_EMAILS", 1)
        searcher = ScanSearcher(store)
        assert (await searcher.search(Scope(rows), q.HeaderContains("subject", "x"))).list() == [2]
        assert searcher.slices.has_gone_aside
        searcher.close()

    play(scenario)


def test_rows_may_move_while_a_search_waits(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: Any) -> None:
        monkeypatch.setattr(slices, "SLICE_EMAILS", 1)
        rows, _ = await filled(store, [append_of(store.blobs) for _ in range(6)])
        task = asyncio.create_task(ScanSearcher(store).search(Scope(rows), q.BodyContains("text")))
        await asyncio.sleep(0)
        for uid in (1, 2, 3):
            rows.expunge(uid, 50)
        assert set((await task).list()) >= {4, 5, 6}
        sorter = asyncio.create_task(ScanSearcher(store).sort(Scope(rows), Uids((2, 4, 5, 6)), (("SUBJECT", False),)))
        assert await sorter == [4, 5, 6]
        threads = await ScanSearcher(store).thread(Scope(rows), Uids((2, 4)), "REFERENCES")
        assert list(threads.uids) == [4]

    play(scenario)


def test_sorting_and_threading_read_what_is_not_cached(play: Callable[..., None]) -> None:
    async def scenario(store: Any) -> None:
        long = b"<a@b> " * 8000

        def message(number: int, subject: bytes) -> bytes:
            fields = b"Message-ID: <%d@x>\r\nSubject: %b\r\nReferences: %b<%d@x>\r\n" % (number, subject, long, number - 1)
            return fields + b"\r\nx\r\n"

        appends = [append_of(store.blobs, message(number, subject)) for number, subject in ((1, b"c"), (2, b"b"), (3, b"a"))]
        rows, _ = await filled(store, appends)
        searcher, uids = ScanSearcher(store), Uids((1, 2, 3))
        assert await searcher.sort(Scope(rows), uids, [("SUBJECT", False)]) == [3, 2, 1]
        assert await searcher.sort(Scope(rows), uids, [("SIZE", True), ("SUBJECT", False)]) == [3, 2, 1]
        threads = await searcher.thread(Scope(rows), uids, "REFERENCES")
        assert list(zip(threads.uids, threads.counts, strict=True)) == [(1, 1), (2, 1), (3, 0)]
        with pytest.raises(ValueError, match="RELEVANCY"):
            await searcher.sort(Scope(rows), uids, [("RELEVANCY", False)])
        assert await searcher.sort(Scope(rows), Uids(), [("SUBJECT", False)]) == []
        assert not (await searcher.thread(Scope(rows), Uids(), "ORDEREDSUBJECT")).uids

    play(scenario)


@pytest.mark.parametrize(
    "query",
    [
        q.And(tuple(q.HasFlag("\\Seen") for _ in range(plan.MAX_NODES))),
        q.And(tuple(q.BodyContains(f"x{n}") for n in range(65))),
        q.TextContains("x" * (plan.MAX_TEXT_BYTES + 1)),
        q.Or(
            (
                q.HeaderContains("subject", "é" * (plan.MAX_TEXT_BYTES // 4)),
                q.BodyContains("é" * (plan.MAX_TEXT_BYTES // 4 + 1)),
            )
        ),
    ],
    ids=["keys", "texts", "long", "long together"],
)
def test_a_query_that_asks_too_much_is_refused_before_anything_is_read(query: q.Query) -> None:
    with pytest.raises(TooComplex):
        asyncio.run(ScanSearcher(None).search(Scope(MailboxRows(1)), query))  # type: ignore[arg-type]


def test_a_query_that_is_too_deep_is_refused() -> None:
    query: q.Query = q.Everything()
    for _ in range(plan.MAX_DEPTH + 1):
        query = q.Not(query)
    with pytest.raises(TooComplex):
        asyncio.run(ScanSearcher(None).search(Scope(MailboxRows(1)), query))  # type: ignore[arg-type]


def test_the_same_text_twice_counts_once() -> None:
    query = q.Or(tuple(q.BodyContains("x") for _ in range(200)))
    assert not len(asyncio.run(ScanSearcher(None).search(Scope(MailboxRows(1)), query)))  # type: ignore[arg-type]
