"""What FETCH and news cost: one question a function, setup outside the timed part.

Targets: 10,000 messages' flags in a millisecond, a list view of 10,000 in 6, and telling a session of one change in a mailbox
of 100,000 in less than 10 us. `python -m pytest benchmarks/test_imap_fetch.py --benchmark` prints the medians.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rusmes._core import render
from rusmes._core.cursor import Cursor
from rusmes._core.rows import EmailFacts, EmailRow
from rusmes._core.view import MailboxRows, Uids
from rusmes.imap.command import FetchItem, Section
from rusmes.imap.fetch import body_item
from rusmes.imap.preview import preview_of
from rusmes.imap.sections import OpenedMessage
from rusmes.imap.view import View
from rusmes.model.content import Content, Rendering

MESSAGES = 10_000
ID = bytes(range(16))
HEADERS = (
    b"Date: Mon, 7 Feb 1994 21:52:25 -0800\r\nFrom: Ann Person <ann@example.org>\r\nTo: bob@example.com\r\n"
    b"Subject: quarterly report\r\nMessage-ID: <1@example.org>\r\nContent-Type: multipart/alternative;\r\n boundary=b\r\n"
)
ENVELOPE = (
    b'("Mon, 7 Feb 1994 21:52:25 -0800" "quarterly report" (("Ann Person" NIL "ann" "example.org")) '
    b'(("Ann Person" NIL "ann" "example.org")) (("Ann Person" NIL "ann" "example.org")) ((NIL NIL "bob" "example.com")) '
    b'NIL NIL NIL "<1@example.org>")'
)
STRUCTURE = (
    b'(("text" "plain" ("charset" "utf-8") NIL NIL "quoted-printable" 1400 20 NIL NIL NIL NIL)'
    b'("text" "html" ("charset" "utf-8") NIL NIL "quoted-printable" 1400 20 NIL NIL NIL NIL) '
    b'"alternative" ("boundary" "b") NIL NIL NIL)'
)
BODY = b"--b\r\n\r\n" + b"Some words of a line that is as long as lines are, which is not very long.\r\n" * 18
BODY += b"--b\r\nContent-Type: text/html\r\n\r\n" + b"<p>The same in HTML, with <b>marks</b> in it.</p>\r\n" * 20 + b"--b--\r\n"
MESSAGE = HEADERS + b"\r\n" + BODY


@pytest.fixture
def report(benchmark, capsys):
    """Print what the whole took, and one of the things in it."""

    def say(name, things=1):
        if benchmark.stats is None:  # --benchmark-disable: one pass without timing
            return
        median = benchmark.stats.stats.median
        with capsys.disabled():
            print(f"\n{name}: {median * 1e3:.3f} ms, {median / things * 1e6:.3f} us each")

    return say


def mailbox(count=MESSAGES):
    rows = MailboxRows()
    rows.reserve(count)
    for uid in range(1, count + 1):
        rows.add(uid, uid, ID, 1_700_000_000.0 + uid, 3000, uid & 1, ("$Work",) if uid % 10 == 0 else ())
    rows.modseq = count
    return rows


def facts_of(count):
    row = EmailRow(1, ID, ID, 1.0, 3000, 0, False, [(1, 2)], b"", ENVELOPE, STRUCTURE, HEADERS)
    return [EmailFacts.unpack(ID, row.pack(ID)) for _ in range(count)]


def test_flags(benchmark, report):
    cursor, uids = Cursor(mailbox()), Uids(range(1, MESSAGES + 1))
    benchmark(render.fetch_responses, cursor, uids, 0, MESSAGES, render.FLAGS)
    report("FETCH 1:* (FLAGS)", MESSAGES)


def test_flags_with_tombstones_before_them(benchmark, report):
    rows = mailbox()
    cursor, uids = Cursor(rows), Uids(range(1, MESSAGES + 1))
    other = Cursor(rows)
    for uid in range(1, MESSAGES, 2):
        rows.expunge(uid, MESSAGES + uid)
    other.advance(True)
    benchmark(render.fetch_responses, cursor, uids, 0, MESSAGES, render.FLAGS)
    report("FETCH 1:* (FLAGS), half of it expunged", MESSAGES)


def test_list_view(benchmark, report):
    cursor, uids, facts = Cursor(mailbox()), Uids(range(1, MESSAGES + 1)), facts_of(MESSAGES)
    items = render.UID | render.FLAGS | render.INTERNALDATE | render.SIZE | render.ENVELOPE | render.BODYSTRUCTURE
    benchmark(render.fetch_responses, cursor, uids, 0, MESSAGES, items, facts)
    report("list view, stored forms at hand", MESSAGES)


def test_four_header_fields(benchmark, report):
    cursor, uids, facts = Cursor(mailbox()), Uids(range(1, MESSAGES + 1)), facts_of(MESSAGES)
    pick = render.HeaderPick(b"BODY[HEADER.FIELDS (FROM TO SUBJECT DATE)] ", [b"from", b"to", b"subject", b"date"])
    benchmark(render.fetch_responses, cursor, uids, 0, MESSAGES, 0, facts, None, (pick,))
    report("HEADER.FIELDS (FROM TO SUBJECT DATE)", MESSAGES)


def test_body_without_extensions(benchmark, report):
    benchmark(render.body_of, STRUCTURE)
    report("BODY of a BODYSTRUCTURE")


def test_a_part_of_a_message(benchmark, report):
    content = Content(ID, len(MESSAGE), len(HEADERS) + 2, data=MESSAGE)
    item = FetchItem("BODY[]", Section((2,)), peek=True)
    benchmark(lambda: body_item(OpenedMessage(Rendering(content)), item, utf8=False))
    report("BODY.PEEK[2]")


def test_preview(benchmark, report):
    content = Content(ID, len(MESSAGE), len(HEADERS) + 2, data=MESSAGE)
    benchmark(lambda: preview_of(OpenedMessage(Rendering(content))))
    report("PREVIEW")


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_telling_of_one_change(benchmark, report, count):
    rows = mailbox(count)
    view = View(rows, SimpleNamespace(enabled=set()))
    modseq = count

    def change():
        nonlocal modseq
        modseq += 1
        rows.update(count // 2, modseq, modseq & 31)
        rows.modseq = modseq
        assert view.sync(True)

    benchmark(change)
    report(f"one changed flag of {count}")


def test_one_expunge_of_a_hundred_thousand(benchmark, report):
    rows = mailbox(100_000)
    view = View(rows, SimpleNamespace(enabled=set()))
    uid = 0

    def expunge():
        nonlocal uid
        uid += 1
        rows.expunge(uid, 200_000 + uid)
        assert view.sync(True)

    benchmark.pedantic(expunge, rounds=2000)
    report("one expunge of 100,000")


def test_a_silent_store_of_a_thousand(benchmark, report):
    rows = mailbox()
    view = View(rows, SimpleNamespace(enabled=set()))
    uids, modseq, bit = Uids(range(1, 1001)), MESSAGES, 4

    def store():
        nonlocal modseq, bit
        modseq += 1
        bit ^= 4
        view.expect(uids, lambda bits, keywords: (bits & ~4 | bit, keywords))
        for uid in range(1, 1001):
            rows.update(uid, modseq, uid & 1 | bit, ("$Work",) if uid % 10 == 0 else ())
        assert view.sync(False) == b""

    benchmark(store)
    report("what a session does for STORE .SILENT of 1,000", 1000)
