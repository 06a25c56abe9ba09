"""What a session is told of its mailbox, as it goes over the wire."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace

import pytest

from rusmes._core.view import MailboxRows, Uids
from rusmes.imap.view import TOLD_AT_ONCE, NoSuchNumber, View
from rusmes.model.query import STAR, SequenceSet


def made(count):
    rows = MailboxRows(1)
    for uid in range(1, count + 1):
        rows.add(uid * 10, uid, b"i" * 16, 1.0, 1, 0)
    rows.modseq = count
    return rows


def opened(rows, *enabled, **options):
    return View(rows, SimpleNamespace(enabled=set(enabled)), **options)


def test_nothing_new_is_nothing_to_say():
    view = opened(made(3))
    assert view.sync(True) == b""
    assert not view.has_news


def test_new_messages_expunges_and_flags():
    rows = made(4)
    view = opened(rows, recent_from=50)
    rows.add(50, 7, b"i" * 16, 1.0, 1, 0)
    rows.expunge(10, 8)
    rows.expunge(30, 8)
    rows.update(40, 9, 1, ("$Work",))
    assert view.sync(False) == (
        b"* 5 EXISTS\r\n* 1 RECENT\r\n"
        b"* FLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft $Work)\r\n"
        b"* 4 FETCH (UID 40 FLAGS (\\Seen $Work))\r\n"
    )
    assert view.sync(False) == b""
    assert view.sync(True) == b"* 3 EXPUNGE\r\n* 1 EXPUNGE\r\n"
    rows.update(50, 10, 4)
    assert view.sync(True) == b"* 3 FETCH (UID 50 FLAGS (\\Flagged \\Recent))\r\n"


def test_extensions_change_what_is_said():
    rows = made(4)
    view = opened(rows, "IMAP4REV2", "CONDSTORE", "QRESYNC")
    bare = opened(rows, "UIDONLY")
    rows.expunge(20, 9)
    rows.update(40, 10, 4)
    rows.add(50, 11, b"i" * 16, 1.0, 1, 0)
    assert view.sync(True) == b"* VANISHED 20\r\n* 4 EXISTS\r\n* 3 FETCH (UID 40 FLAGS (\\Flagged) MODSEQ (10))\r\n"
    assert bare.sync(True) == (
        b"* VANISHED 20\r\n* 4 EXISTS\r\n* 0 RECENT\r\n* 40 UIDFETCH (FLAGS (\\Flagged))\r\n"
    )


def test_a_silent_change_is_not_echoed_but_its_modseq_is_told():
    rows = made(2)
    view, other = opened(rows), opened(rows, "CONDSTORE")
    for each in (view, other):
        each.expect(Uids([10, 20]), lambda bits, keywords: (bits | 1, keywords))
    rows.update(10, 9, 1)
    rows.update(20, 10, 3)  # somebody else answered it meanwhile
    assert view.sync(False) == b"* 2 FETCH (UID 20 FLAGS (\\Seen \\Answered))\r\n"
    assert other.sync(False) == (
        b"* 2 FETCH (UID 20 FLAGS (\\Seen \\Answered) MODSEQ (10))\r\n* 1 FETCH (UID 10 MODSEQ (9))\r\n"
    )


def test_a_flood_of_changes_is_told_in_pieces():
    count = TOLD_AT_ONCE + 5
    rows = made(count)
    view = opened(rows)
    for uid in range(1, count + 1):
        rows.update(uid * 10, count + uid, 1)
    assert view.sync(True).count(b"FETCH") == TOLD_AT_ONCE
    assert view.is_unfinished
    rows.expunge(10 * count, 2 * count + 1)
    assert view.sync(True).count(b"FETCH") == 4  # nothing is said of one that went
    assert not view.is_unfinished


@pytest.mark.parametrize(
    ("ranges", "is_uid", "expected"),
    [
        (((1, 2),), False, [10, 20]),
        (((STAR, STAR),), False, [40]),
        (((3, STAR),), False, [30, 40]),
        (((4, 2), (1, 1)), False, [10, 20, 30, 40]),
        (((15, 35),), True, [20, 30]),
        (((99, STAR),), True, [40]),
        (((5, 5),), True, []),
    ],
)
def test_sets(ranges, is_uid, expected):
    assert opened(made(4)).select(SequenceSet(ranges), is_uid=is_uid).list() == expected


def test_numbers_that_are_not_there():
    view = opened(made(4))
    for ranges in (((5, 5),), ((1, 5),), ((9, STAR),)):
        with pytest.raises(NoSuchNumber):
            view.select(SequenceSet(ranges), is_uid=False)
    empty = opened(made(0))
    with pytest.raises(NoSuchNumber):
        empty.select(SequenceSet(((1, STAR),)), is_uid=False)
    assert empty.select(SequenceSet(((1, STAR),)), is_uid=True).list() == []


def test_the_saved_result_without_what_went():
    rows = made(4)
    view = opened(rows)
    rows.expunge(20, 9)
    view.sync(True)
    assert view.select(SequenceSet(saved=True), is_uid=False, saved=[20, 40]).list() == [40]
    assert view.select(SequenceSet(saved=True), is_uid=False).list() == []


class Client:
    """Believes what the wire says and nothing else."""

    def __init__(self, rows, *enabled):
        self.rows = rows
        self.view = opened(rows, *enabled)
        self.messages = [[rows.uid(row), flags(rows, row)] for row in rows.mask_live().row_list()]

    def sync(self, may_expunge):
        while True:
            for line in self.view.sync(may_expunge).decode().splitlines():
                self.hear(line)
            if not self.view.is_unfinished:
                return

    def hear(self, line):
        if line.startswith("* FLAGS") or line.endswith(" RECENT"):
            return
        if match := re.fullmatch(r"\* VANISHED ([\d:,]+)", line):
            gone = set()
            for part in match[1].split(","):
                low, _, high = part.partition(":")
                gone |= set(range(int(low), int(high or low) + 1))
            assert gone <= {uid for uid, _ in self.messages}
            self.messages = [message for message in self.messages if message[0] not in gone]
        elif match := re.fullmatch(r"\* (\d+) EXPUNGE", line):
            del self.messages[int(match[1]) - 1]
        elif match := re.fullmatch(r"\* (\d+) EXISTS", line):
            assert int(match[1]) >= len(self.messages)
            for number in range(len(self.messages) + 1, int(match[1]) + 1):  # what a client would FETCH now
                uid = self.view.uid_of(number)
                row = self.rows.row_of(uid)
                self.messages.append([uid, flags(self.rows, row) if row >= 0 else None])
        elif match := re.fullmatch(r"\* (\d+) FETCH \(UID (\d+)(?: FLAGS \(([^)]*)\))?(?: MODSEQ \(\d+\))?\)", line):
            message = self.messages[int(match[1]) - 1]
            assert message[0] == int(match[2])
            if match[3] is not None:
                message[1] = frozenset(match[3].split())
        else:
            pytest.fail(line)

    def store(self, uid, bit, modseq):
        """STORE .SILENT: the client knows what it did."""
        if (number := self.view.number_of(uid)) == 0 or self.rows.row_of(uid) < 0:
            return
        row = self.rows.row_of(uid)
        self.view.expect(Uids([uid]), lambda bits, keywords: (bits | bit, keywords))
        self.messages[number - 1][1] = (self.messages[number - 1][1] or frozenset()) | names(bit)
        self.rows.update(uid, modseq, self.rows.system_bits(row) | bit, self.rows.keywords(row))


def names(bits):
    words = ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft")
    return frozenset(word for place, word in enumerate(words) if bits >> place & 1)


def flags(rows, row):
    return names(rows.system_bits(row)) | frozenset(rows.keywords(row))


@pytest.mark.parametrize("seed", range(10))
def test_clients_of_one_mailbox_converge(seed):
    chance = random.Random(seed)
    rows = made(chance.choice([0, 5, 300]))
    clients = [Client(rows), Client(rows, "CONDSTORE"), Client(rows, "QRESYNC", "CONDSTORE"), Client(rows, "IMAP4REV2")]
    modseq = 1000
    for _ in range(600):
        modseq += 1
        live = rows.mask_live().uids().list()
        what = chance.random()
        client = chance.choice(clients)
        if what < 0.25:
            rows.add(rows.uid_next + chance.randrange(3), modseq, b"i" * 16, 1.0, 1, chance.randrange(32))
        elif what < 0.4 and live:
            rows.expunge(chance.choice(live), modseq)
        elif what < 0.55 and live:
            rows.update(chance.choice(live), modseq, chance.randrange(32), chance.choice([(), ("a",), ("a", "b")]))
        elif what < 0.65 and live:
            client.store(chance.choice(live), 1 << chance.randrange(5), modseq)
        else:
            client.sync(chance.random() < 0.5)
        rows.modseq = modseq
        known = [uid for uid, _ in client.messages]
        assert client.view.exists == len(known)
        if known:
            number = chance.randrange(len(known))
            assert client.view.uid_of(number + 1) == known[number]
            assert client.view.select(SequenceSet(((number + 1, STAR),)), is_uid=False).list() == known[number:]
    for client in clients:
        client.sync(True)
        assert client.messages == [[rows.uid(row), flags(rows, row)] for row in rows.mask_live().row_list()]
