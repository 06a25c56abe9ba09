"""Rows of a mailbox and what cursors know of them."""

from __future__ import annotations

import random

import pytest

from rusmes._core import render
from rusmes._core.cursor import Cursor
from rusmes._core.view import MailboxRows, Mask, Uids


def made(uids, **facts):
    rows = MailboxRows(7, **facts)
    for uid in uids:
        rows.add(uid, uid, uid.to_bytes(16, "big"), 1000.0 + uid, uid * 10, uid % 2, ("odd", "$Work") if uid % 2 else ())
    rows.modseq = max(uids, default=0)
    return rows


def test_a_message_is_kept_as_it_was_added():
    rows = MailboxRows(7, account_id=3, uid_validity=9)
    rows.add(5, 11, b"i" * 16, 1_700_000_000.7, 4711, 9, ("$Forwarded", "work"))
    assert (rows.mailbox_id, rows.account_id, rows.uid_validity, rows.uid_next) == (7, 3, 9, 6)
    row = rows.row_of(5)
    assert (rows.uid(row), rows.modseq_of(row), rows.email_id(row)) == (5, 11, b"i" * 16)
    assert (rows.internal_date(row), rows.message_size(row), rows.system_bits(row)) == (1_700_000_000, 4711, 9)
    assert rows.keywords(row) == ("$Forwarded", "work")
    assert rows.keyword_names == ("$Forwarded", "work")
    assert rows.row_of(4) == rows.row_of(6) == -1


def test_dates_and_sizes_that_fit_no_column():
    rows = MailboxRows()
    rows.add(1, 1, b"i" * 16, -86400.5, 10, 0)
    rows.add(2, 2, b"i" * 16, 5e9, 10, 0)
    rows.add(3, 3, b"i" * 16, 5.0, 1 << 33, 0)
    rows.add(4, 4, b"i" * 16, 5.0, 10, 0)
    assert [rows.internal_date(row) for row in range(3)] == [-86401, 5_000_000_000, 5]
    assert rows.message_size(2) == 1 << 33
    assert rows.mask_dates(before=0).row_list() == [0]
    assert rows.mask_dates(since=4e9).row_list() == [1]
    assert rows.mask_sizes(above=1 << 32).row_list() == [2]
    assert rows.mask_sizes(below=11).row_list() == [0, 1, 3]
    assert rows.total_size() == (1 << 33) + 30
    rows.expunge(3, 9)
    assert rows.total_size() == 30


def test_a_message_costs_less_than_forty_octets():
    rows = MailboxRows()
    rows.reserve(10_000)
    for uid in range(1, 10_001):
        rows.add(uid, uid, b"i" * 16, 1.0, 1, 0)
    assert rows.nbytes < 40 * 10_000
    for uid in range(10_001, 20_001):
        rows.add(uid, uid, b"i" * 16, 1.0, 1, 0)
    assert rows.nbytes < 42 * 20_000  # grown, not reserved


def test_uids_ascend():
    rows = made([5, 9])
    with pytest.raises(ValueError, match="UID 7 comes after 9"):
        rows.add(7, 20, b"i" * 16, 1.0, 1, 0)
    with pytest.raises(ValueError, match="no UID"):
        MailboxRows().add(0, 1, b"i" * 16, 1.0, 1, 0)
    rows.add(9, 20, b"i" * 16, 1.0, 1, 4)
    assert rows.exists == 2
    assert rows.system_bits(1) == 4


def test_an_older_change_that_comes_later_alters_nothing():
    rows = made([1])
    assert rows.update(1, 10, 4, ("new",))
    assert not rows.update(1, 9, 0)
    assert not rows.update(1, 10, 0)
    assert not rows.update(2, 11, 0)
    assert (rows.system_bits(0), rows.keywords(0), rows.modseq_of(0)) == (4, ("new",), 10)


def test_questions():
    rows = made(range(1, 11))
    assert rows.count() == 10
    assert rows.count(which=1, want=0) == 5
    assert rows.mask_flags(1, 1).uids().list() == [1, 3, 5, 7, 9]
    assert rows.mask_keyword("$WORK").count() == 5
    assert rows.mask_keyword("$wor").count() == 0
    assert rows.mask_sizes(above=30, below=60).uids().list() == [4, 5]
    assert rows.mask_sizes(above=0).count() == 10
    assert rows.mask_sizes(below=0).count() == 0
    assert rows.mask_dates(since=1003, before=1005).uids().list() == [3, 4]
    assert rows.mask_dates(since=1003.5, before=1004.5).uids().list() == [4]
    assert rows.mask_modseq(9).uids().list() == [9, 10]
    assert rows.mask_uids([(2, 3), (9, 4294967295)]).uids().list() == [2, 3, 9, 10]
    assert rows.mask_email((4).to_bytes(16, "big")).row_list() == [3]
    assert (rows.mask_flags(1, 1) & rows.mask_sizes(above=50)).uids().list() == [7, 9]
    assert (~rows.mask_flags(1, 1) | rows.mask_rows([0])).uids().list() == [1, 2, 4, 6, 8, 10]
    assert not Mask(rows)
    assert Mask(rows, 1).count() == 10
    with pytest.raises(ValueError, match="different rows"):
        Mask(rows) & Mask(made([1]))


def test_uids_hold_numbers_packed():
    uids = Uids([3, 5, 8])
    assert len(uids) == 3
    assert uids[-1] == 8
    assert 5 in uids
    assert 6 not in uids
    assert list(uids) == uids.list() == [3, 5, 8]
    assert uids.list(1, 2) == [5]
    assert uids.slice(1, 3).list() == [5, 8]
    with pytest.raises(IndexError):
        uids.slice(2, 4)
    with pytest.raises(IndexError):
        uids[3]


def test_an_expunge_counts_until_the_client_was_told():
    rows = made([1, 2, 3, 4])
    one, other = Cursor(rows), Cursor(rows)
    rows.expunge(2, 10)
    assert one.advance(False)[0] == []
    assert (one.exists, one.number_of(3), one.uid_at(2), one.uid_at(5)) == (4, 3, 2, 0)
    numbers, uids, added, changed, _ = one.advance(True)
    assert (numbers, uids.list(), added, changed.list()) == ([2], [2], False, [])
    assert (one.exists, one.number_of(2), one.number_of(3), one.uid_at(2), one.uid_at(3)) == (3, 0, 2, 3, 4)
    assert (other.exists, other.number_of(3)) == (4, 3)
    assert rows.size == 4
    assert other.advance(True)[0] == [2]
    assert rows.size == 3


def test_numbers_of_expunges_are_told_from_the_highest():
    rows = made(range(1, 11))
    cursor = Cursor(rows)
    for uid in (9, 2, 5):
        rows.expunge(uid, 20 + uid)
    numbers, uids, _, _, _ = cursor.advance(True)
    assert numbers == [9, 5, 2]
    assert uids.list() == [2, 5, 9]


def test_a_message_that_comes_and_goes_unseen():
    rows = made([1])
    one, other = Cursor(rows), Cursor(rows)
    rows.add(2, 5, b"i" * 16, 1.0, 1, 0)
    rows.expunge(2, 6)
    rows.add(3, 7, b"i" * 16, 1.0, 1, 0)
    assert one.advance(True)[:3:2] == ([], True)
    assert (one.exists, one.uid_at(2)) == (2, 3)
    # Without leave to expunge it is there until there is.
    assert other.advance(False)[2]
    assert (other.exists, other.uid_at(2), other.uid_at(3)) == (3, 2, 3)
    numbers, _, added, *_ = other.advance(True)
    assert (numbers, added) == ([2], False)


@pytest.mark.parametrize("count", [3, 700])
def test_changed_flags_are_told_once(count):
    rows = made(range(1, 1001))
    cursor = Cursor(rows)
    for uid in range(1, count + 1):
        rows.update(uid, 2000 + uid, 4)
    rows.update(1, 3000, 5)
    rows.modseq = 3000
    assert cursor.has_news
    assert cursor.advance(False)[3].list() == list(range(1, count + 1))
    assert not cursor.has_news
    assert cursor.advance(False)[3].list() == []


def test_what_a_client_did_itself_is_not_told():
    rows = made([1, 2, 3, 4])
    cursor = Cursor(rows)
    rows.update(4, 9, 16)  # somebody else's, not told yet
    cursor.expect(Uids([1, 2, 3, 4]), lambda bits, keywords: (bits | 4, (*keywords, "k")))
    for uid in (1, 2, 4):
        rows.update(uid, 10, 4 | (1 if uid == 1 else 16 if uid == 4 else 0), ("odd", "$Work", "k") if uid == 1 else ("k",))
    rows.update(3, 11, 8)  # not what was expected
    _, _, _, changed, expected = cursor.advance(False)
    assert changed.list() == [3, 4]
    assert expected.list() == [1, 2]
    rows.update(1, 12, 0)
    assert cursor.advance(False)[3].list() == [1]


def test_what_a_client_was_told_is_not_told_again():
    rows = made([1, 2])
    cursor = Cursor(rows)
    rows.update(1, 9, 16)
    rows.update(2, 9, 16)
    cursor.tell(Uids([1, 2]))
    rows.update(2, 10, 0)
    assert cursor.pending().list() == [1, 2]
    _, _, _, changed, expected = cursor.advance(False)
    assert changed.list() == [2]
    assert not len(expected)
    rows.update(1, 11, 4)
    cursor.expect(Uids([2]), lambda bits, keywords: (1, ()))
    cursor.forget_expected([2])
    rows.update(2, 11, 1)
    assert cursor.advance(False)[3].list() == [1, 2]


def test_selection():
    rows = made(range(10, 20))
    cursor = Cursor(rows)
    assert cursor.select_numbers([(2, 4)]).list() == [11, 12, 13]
    assert cursor.select_numbers([(9, 99)]).list() == [18, 19]
    assert cursor.select_numbers([(20, 99)]).list() == []
    rows.expunge(11, 50)
    assert cursor.select_numbers([(1, 2), (4, 4)]).list() == [10, 11, 13]
    assert cursor.select_uids([(1, 12)]).list() == [10, 11, 12]
    cursor.advance(True)
    assert cursor.select_numbers([(1, 2), (4, 4)]).list() == [10, 12, 14]
    assert cursor.select_uids([(1, 12)]).list() == [10, 12]
    rows.add(20, 51, b"i" * 16, 1.0, 1, 0)
    assert cursor.select_uids([(19, 30)]).list() == [19]  # not known yet
    assert cursor.largest_uid() == 19
    assert cursor.number_list(Uids([10, 11, 19, 20])) == [1, 9]
    assert cursor.first_unseen() == 1


def test_recent():
    rows = made([1, 2, 3])
    cursor = Cursor(rows, recent_from=3)
    assert cursor.recent_count() == 1
    rows.add(4, 5, b"i" * 16, 1.0, 1, 0)
    assert cursor.recent_count() == 1
    cursor.advance(True)
    assert cursor.recent_count() == 2
    assert cursor.mask_recent().row_list() == [2, 3]
    rows.expunge(3, 6)
    cursor.advance(True)
    assert cursor.recent_count() == 1


def test_becoming_what_was_loaded_anew():
    rows = made([1, 2, 3, 5])
    cursor = Cursor(rows)
    fresh = made([1, 3, 5, 8])
    fresh.update(3, 77, 16, ("z",))
    fresh.modseq = 80
    rows.become(fresh, 80)
    numbers, _, added, changed, _ = cursor.advance(True)
    assert (numbers, added, changed.list()) == ([2], True, [3])
    assert [rows.uid(row) for row in range(rows.size)] == [1, 3, 5, 8]
    assert rows.keywords(1) == ("z",)
    assert (rows.modseq, rows.uid_next) == (80, 9)


def test_more_keyword_sets_than_there_are_numbers():
    rows = MailboxRows()
    rows.add(1, 1, b"i" * 16, 1.0, 1, 0)
    rows.add(2, 1, b"i" * 16, 1.0, 1, 0)
    for number in range(70_000):  # most of them are nobody's after the next
        rows.update(1, number + 2, 0, (f"k{number}",))
    assert rows.keywords(0) == ("k69999",)
    rows.reserve(70_002)
    for number in range(70_000):
        rows.add(number + 3, 1, b"i" * 16, 1.0, 1, 0, (f"w{number}",))
    assert rows.keywords(70_001) == ("w69999",)
    assert rows.mask_keyword("W69999").row_list() == [70_001]
    assert rows.mask_keyword("w1").row_list() == [3]


class Client:
    """Applies what it is told and nothing else."""

    def __init__(self, rows):
        self.rows = rows
        self.cursor = Cursor(rows)
        self.messages = [(rows.uid(row), self.flags(row)) for row in range(rows.size) if not rows.is_expunged(row)]

    def flags(self, row):
        return self.rows.system_bits(row), self.rows.keywords(row)

    def sync(self, may_expunge):
        numbers, uids, added, changed, _ = self.cursor.advance(may_expunge)
        assert not numbers or may_expunge
        gone = [self.messages.pop(number - 1)[0] for number in numbers]
        assert sorted(gone) == uids.list()
        assert added == (self.cursor.exists != len(self.messages))
        for number in range(len(self.messages) + 1, self.cursor.exists + 1):
            uid = self.cursor.uid_at(number)
            row = self.rows.row_of(uid)
            self.messages.append((uid, self.flags(row) if row >= 0 else None))
        for uid in changed:
            number = self.cursor.number_of(uid)
            assert self.messages[number - 1][0] == uid
            self.messages[number - 1] = uid, self.flags(self.rows.row_of(uid))

    def check(self):
        cursor = self.cursor
        known = [uid for uid, _ in self.messages]
        assert cursor.exists == len(known)
        assert [cursor.uid_at(number) for number in range(1, len(known) + 1)] == known
        assert [cursor.number_of(uid) for uid in known] == list(range(1, len(known) + 1))
        assert cursor.select_numbers([(1, 1 << 32)]).list() == known
        assert cursor.mask().uids().list() == known
        assert cursor.numbers(cursor.mask()) == list(range(1, len(known) + 1))
        assert cursor.number_list(Uids(known)) == list(range(1, len(known) + 1))


@pytest.mark.parametrize("seed", range(12))
def test_clients_converge(seed):
    """Whatever happens in whatever order, a client that only applies what it is told knows the right UID of every number
    at all times, and everything in the end."""
    chance = random.Random(seed)
    rows = made(range(1, chance.choice([1, 20, 400])))
    clients = [Client(rows) for _ in range(4)]
    modseq = 1000
    for _ in range(400):
        modseq += 1
        live = rows.mask_live().uids().list()
        what = chance.random()
        if what < 0.25:
            rows.add(rows.uid_next, modseq, b"i" * 16, 1.0, 1, chance.randrange(32))
        elif what < 0.45 and live:
            for uid in chance.sample(live, min(len(live), chance.choice([1, 1, 5]))):
                rows.expunge(uid, modseq)
        elif what < 0.7 and live:
            rows.update(chance.choice(live), modseq, chance.randrange(32), chance.choice([(), ("a",), ("a", "b")]))
        elif what < 0.72:
            clients[-1].cursor.detach()
            clients[-1] = Client(rows)
        else:
            client = chance.choice(clients)
            client.sync(chance.random() < 0.5)
            client.check()
        rows.modseq = modseq
    for client in clients:
        client.check()
        client.sync(True)
        client.check()
        assert client.messages == [(rows.uid(row), client.flags(row)) for row in rows.mask_live().row_list()]
    assert rows.dead * 256 < rows.size or rows.dead == 0


@pytest.mark.parametrize("seed", range(5))
def test_numbers_of_messages_in_any_order(seed):
    """With expunges that the client knows of, with some it does not, and with messages that are news."""
    rnd = random.Random(seed)
    rows = MailboxRows(1)
    uids = sorted(rnd.sample(range(1, 400), 200)) if seed else list(range(1, 201))
    for uid in uids:
        rows.add(uid, 1, bytes(16), 0.0, 1, 0)
    cursor, other = Cursor(rows), Cursor(rows)
    for told in (True, False):
        for uid in rnd.sample(uids, 10 if seed else 0):
            rows.expunge(uid, 2)
        if told:
            cursor.advance(True)
    rows.add(500, 3, bytes(16), 0.0, 1, 0)
    asked = [*uids, 500, 501]
    rnd.shuffle(asked)
    numbers = cursor.numbers_of(Uids(asked))
    assert numbers.list() == [number for uid in asked if (number := cursor.number_of(uid))]
    assert len(numbers) == cursor.exists
    assert render.numbers(numbers, 0, len(numbers)).decode() == "".join(f" {number}" for number in numbers)
    assert render.numbers(numbers, 3, 5).decode() == f" {numbers[3]} {numbers[4]}"
    with pytest.raises(IndexError):
        render.numbers(numbers, 0, len(numbers) + 1)
    other.detach()


@pytest.mark.parametrize("uids", [(), (5,), (1, 2, 3), (2, 7, 9, 10, 40)])
def test_some_uids_in_a_given_order(uids):
    order = [40, 3, 10, 1, 2, 5, 9, 8, 7, 4294967295]
    assert Uids(uids).ordered(order) == [uid for uid in order if uid in uids]
    assert [uid in Uids(uids) for uid in order] == [uid in uids for uid in order]
    assert Uids(uids).without(Uids((2, 5, 6, 10))).list() == [uid for uid in uids if uid not in (2, 5, 6, 10)]
