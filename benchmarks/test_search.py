"""SEARCH, SORT and THREAD: what a mailbox of 10,000 messages of 3.6 KB costs, and what a megabyte of text does.

Targets: a text in the bodies of all in 50 ms, the bytes from LMDB included (Dovecot: 500 ms); a text in a field in half of
Dovecot's time. `.venv/bin/python -m pytest --benchmark benchmarks/test_search.py`
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rusmes._core.casemap import Pattern, fold_octets
from rusmes._core.textpipe import decode_header
from rusmes._core.textscan import BODY, TextScan
from rusmes._core.view import MailboxRows, Uids
from rusmes.model import query as q
from rusmes.search.api import Scope
from rusmes.search.scan import ScanSearcher
from rusmes.search.sentdate import parse_sent_date
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from tests.contract.mails import ALICE, append_of

MESSAGES = 10_000
TEXT = (
    "please find attached the report for the meeting of last week and let me know whether the budget of the project can be "
    "kept as it was planned regards schedule tomorrow answer question invoice delivery number customer office contract review"
)
WORDS = TEXT.split(" ")
HEADER = (
    "Return-Path: <person{0}@example.org>\r\nReceived: from client.example.org (client.example.org [192.0.2.1])\r\n"
    "\tby mx.example.com with ESMTPS id 01abc{1}\r\n\tfor <bob@example.com>; Tue, 24 Nov 2026 05:00:00 +0000\r\n"
    "From: Person {0} <person{0}@example.org>\r\nTo: Bob <bob@example.com>\r\nSubject: Re: about case {2}\r\n"
    "Date: Tue, 24 Nov 2026 05:{3:02}:00 +0000\r\nMessage-ID: <{1}@example.org>\r\nIn-Reply-To: <{4}@example.org>\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {5}\r\n\r\n"
)


def message(number: int, rnd: random.Random) -> bytes:
    """Most are plain; a tenth is base64, a tenth has letters with accents."""
    kind = number % 10
    text = " ".join(rnd.choices(WORDS, k=480))
    lines = "\r\n".join(text[at : at + 72] for at in range(0, len(text), 72)) + "\r\n"
    if number % 100 == 7:
        lines += "a zebra crossing\r\n"
    encoding = "base64" if kind == 0 else "8bit" if kind == 1 else "7bit"
    head = HEADER.format(number % 50, number, number % 997, number % 60, number // 10 * 10, encoding)
    body = lines.replace("report", "caf\u00e9").encode() if kind == 1 else lines.encode()
    return head.encode() + (base64.encodebytes(body).replace(b"\n", b"\r\n") if kind == 0 else body)


Ask = Callable[[Callable[[ScanSearcher, Scope], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Runs a question against a store that is there for all of them."""
    directory: Path = tmp_path_factory.mktemp("search")
    loop = uvloop.new_event_loop()
    store = LmdbMailStore(str(directory))
    rnd = random.Random(1)

    async def fill() -> Scope:
        await store.open()
        for start in range(0, MESSAGES, 500):
            await store.append([append_of(store.blobs, message(n, rnd)) for n in range(start, start + 500)])
        account = await store.account(ALICE)
        assert account is not None
        mailbox = await store.mailbox(account.id, "INBOX")
        assert mailbox is not None
        rows = MailboxRows(mailbox.id, account_id=account.id)
        await store.load_messages(mailbox.id, rows)
        return Scope(rows, largest_uid=MESSAGES)

    scope = loop.run_until_complete(fill())
    searcher = ScanSearcher(store)
    yield lambda question: loop.run_until_complete(question(searcher, scope))
    searcher.close()
    loop.run_until_complete(store.close())
    loop.close()


QUERIES = {
    "unseen": (q.Not(q.HasFlag("\\Seen")), MESSAGES),
    "subject": (q.HeaderContains("subject", "case 500"), 10),
    "from, to or cc": (q.Or(tuple(q.HeaderContains(name, "nobody") for name in ("from", "to", "cc"))), 0),
    "sent on": (q.DateIs("sent", "on", 739_944), MESSAGES),
    "a field that is not cached": (q.HeaderContains("received", "01abc77 "), 0),
    "body": (q.BodyContains("zebra crossing"), 100),
    "body, nowhere": (q.BodyContains("xylophone"), 0),
    "body, another script": (q.BodyContains("\u0437\u0435\u0431\u0440\u0430"), 0),
    "body, often nearly": (q.BodyContains("the the the"), None),
    "text": (q.TextContains("zebra crossing"), 100),
    "text of unseen from one": (q.And((q.TextContains("zebra"), q.HeaderContains("from", "person 7 "))), 100),
    "three texts": (q.Or(tuple(q.BodyContains(word) for word in ("zebra", "xylophone", "\u00e9clair"))), 100),
}


@pytest.mark.parametrize("name", QUERIES)
def test_search(benchmark: Any, ask: Ask, name: str) -> None:
    query, count = QUERIES[name]
    found = benchmark(lambda: ask(lambda searcher, scope: searcher.search(scope, query)))
    assert count is None or len(found) == count


@pytest.mark.parametrize("key", ["ARRIVAL", "DATE", "SUBJECT", "FROM", "DISPLAYFROM"])
def test_sort_for_the_first_time(benchmark: Any, ask: Ask, key: str) -> None:
    uids = Uids(range(1, MESSAGES + 1))

    def question(searcher: ScanSearcher, scope: Scope) -> Coroutine[Any, Any, list[int]]:
        return ScanSearcher(searcher._store).sort(scope, uids, [(key, True)])

    assert len(benchmark(lambda: ask(question))) == MESSAGES


def test_sort_again(benchmark: Any, ask: Ask) -> None:
    uids = Uids(range(1, MESSAGES + 1))
    benchmark(lambda: ask(lambda searcher, scope: searcher.sort(scope, uids, [("SUBJECT", True)])))


@pytest.mark.parametrize("algorithm", ["ORDEREDSUBJECT", "REFERENCES"])
def test_thread_for_the_first_time(benchmark: Any, ask: Ask, algorithm: str) -> None:
    uids = Uids(range(1, MESSAGES + 1))

    async def question(searcher: ScanSearcher, scope: Scope) -> None:
        fresh = ScanSearcher(searcher._store)
        await fresh.thread(scope, uids, algorithm)
        fresh.close()

    benchmark(lambda: ask(question))


def test_thread_again(benchmark: Any, ask: Ask) -> None:
    uids = Uids(range(1, MESSAGES + 1))
    benchmark(lambda: ask(lambda searcher, scope: searcher.thread(scope, uids, "REFERENCES")))


MEGABYTE = ("\r\n".join(" ".join(random.Random(2).choices(WORDS, k=12)) for _ in range(14_000))[: 1 << 20]).encode()


def test_find_in_a_megabyte(benchmark: Any) -> None:
    pattern = Pattern("zebra crossing")
    assert benchmark(pattern.find_in_ascii, MEGABYTE) == -1


def test_fold_a_megabyte_of_ascii(benchmark: Any) -> None:
    benchmark(fold_octets, MEGABYTE)


def test_fold_a_megabyte_of_cyrillic(benchmark: Any) -> None:
    benchmark(fold_octets, ("\u0437\u0435\u0431\u0440\u0430 " * 100_000).encode()[: 1 << 20])


def test_search_a_megabyte_of_base64(benchmark: Any) -> None:
    message = b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(MEGABYTE)
    scan = TextScan(1, [(BODY, b"", "zebra crossing")], frozenset())
    benchmark(scan.take_message, 0, bytes(16), b"", b"", message, 0, 37)


def test_decode_an_encoded_subject(benchmark: Any) -> None:
    benchmark(decode_header, b"=?utf-8?B?w4ljbGFpcg==?= =?iso-8859-1?Q?caf=E9_noir?=")


def test_parse_a_sent_date(benchmark: Any) -> None:
    benchmark(parse_sent_date, b" Tue, 24 Nov 2026 05:06:07 +0000\r")
