"""Threads after RFC 5256, beside an oracle."""

from __future__ import annotations

import random
import time
from array import array
from itertools import islice
from typing import Any

import pytest

from rusmes.imap.commands.results import thread_pieces
from rusmes.search.api import Threads
from rusmes.search.threads import Threadable, by_references, by_subject
from tests.oracles import threads as oracle


def message(uid: int, id: str = "", references: str = "", subject: str = "", *, sent: float = 0.0) -> Threadable:
    """`references` are names with blanks between; a subject that begins with "re " is a reply."""
    is_reply = subject.startswith("re ")
    base = subject.removeprefix("re ")
    return Threadable(
        uid, sent or float(uid), base.encode(), is_reply, id.encode(), [name.encode() for name in references.split()]
    )


def shape(threads: Threads) -> list[Any]:
    """(uid, answers) pairs"""
    pairs = iter(zip(threads.uids, threads.counts, strict=True))

    def answers(count: int) -> list[Any]:
        return [(uid, answers(more)) for uid, more in islice(pairs, count)]

    found = []
    for uid, count in pairs:
        found.append((uid, answers(count)))
    return found


def written(threads: Threads) -> str:
    return b"".join(thread_pieces(threads, lambda uid: uid)).decode()


@pytest.mark.rfc("5256", "3")
@pytest.mark.parametrize(
    ("messages", "threads"),
    [
        ([message(1, "a"), message(2, "b", "a"), message(3, "c", "a b")], "(1 2 3)"),
        ([message(1, "a"), message(2, "b", "a"), message(3, "c", "a")], "(1 (2)(3))"),
        ([message(1, "b", "a"), message(2, "c", "a")], "((1)(2))"),  # the parent is not there
        ([message(1, "b", "a")], "(1)"),
        ([message(1, "c", "a b"), message(2, "d", "a b")], "((1)(2))"),  # two missing levels
        ([message(1, "a", "b"), message(2, "b", "a")], "(2 1)"),  # a loop
        ([message(1, "a", "a")], "(1)"),
        ([message(1, "a"), message(2, "a", "")], "(1)(2)"),  # the same id twice
        ([message(1, "", "a"), message(2, "a")], "(2 1)"),
        ([message(1, "a", sent=5.0), message(2, "b", sent=1.0)], "(2)(1)"),
        ([message(1, "c", "b"), message(2, "b", "a"), message(3, "a")], "(3 2 1)"),  # children first
        ([message(1, "a"), message(2, "c", "b"), message(3, "b", "a")], "(1 3 2)"),
        # A reference list that was cut is put right by the message itself.
        ([message(1, "x", "a c"), message(2, "c", "a b"), message(3, "b", "a"), message(4, "a")], "(4 3 2 1)"),
        # Subjects
        ([message(1, "a", "", "s"), message(2, "b", "", "re s")], "(1 2)"),
        ([message(1, "a", "", "re s"), message(2, "b", "", "s")], "(2 1)"),
        ([message(1, "a", "", "s"), message(2, "b", "", "s")], "((1)(2))"),
        ([message(1, "a", "", "re s"), message(2, "b", "", "re s")], "((1)(2))"),
        ([message(1, "a", "", ""), message(2, "b", "", "")], "(1)(2)"),
        ([message(1, "a", "x", "s"), message(2, "b", "x", "s"), message(3, "c", "", "s")], "((1)(2)(3))"),
        (
            [message(1, "a", "x", "s"), message(2, "b", "x", "s"), message(3, "c", "y", "s"), message(4, "d", "y", "s")],
            "((1)(2)(3)(4))",
        ),
        ([], ""),
    ],
)
def test_references(messages: list[Threadable], threads: str) -> None:
    assert written(by_references(messages)) == threads


@pytest.mark.rfc("5256", "3")
@pytest.mark.parametrize(
    ("messages", "threads"),
    [
        (
            [message(1, subject="a"), message(2, subject="b"), message(3, subject="re a"), message(4, subject="a")],
            "(1 (3)(4))(2)",
        ),
        ([message(1, subject="a", sent=9.0), message(2, subject="b"), message(3, subject="a", sent=1.0)], "(3 1)(2)"),
        ([message(1, subject="a", sent=2.0), message(2, subject="b", sent=2.0)], "(1)(2)"),
        ([], ""),
    ],
)
def test_ordered_subject(messages: list[Threadable], threads: str) -> None:
    assert written(by_subject(messages)) == threads


@pytest.mark.rfc("5256", "4")
def test_the_example_of_the_response() -> None:
    uids, counts = [2, 3, 6, 4, 23, 44, 7, 96], [0, 1, 2, 1, 0, 1, 1, 0]
    assert written(Threads(array("I", uids), array("I", counts))) == "(2)(3 6 (4 23)(44 7 96))"
    assert written(Threads(array("I", [0, 3, 5]), array("I", [2, 0, 0]))) == "((3)(5))"
    assert written(Threads(array("I"), array("I"))) == ""


def random_messages(rnd: random.Random) -> list[Threadable]:
    names = [f"n{i}" for i in range(rnd.choice((2, 4, 8, 20)))]
    found = []
    for uid in range(1, rnd.randrange(1, 25)):
        references = [rnd.choice(names) for _ in range(rnd.choice((0, 0, 1, 1, 2, 3, 5)))]
        subject = rnd.choice(("", "re s", "s", "t", "re t", "u", "v", "w"))
        id = rnd.choice(("", *names, *names))
        found.append(message(uid, id, " ".join(references), subject, sent=float(rnd.randrange(1, 8))))
    return found


def test_random_mailboxes_are_threaded_like_the_oracle() -> None:
    rnd = random.Random(7)
    for _ in range(3000):
        messages = random_messages(rnd)
        assert shape(by_references(messages)) == oracle.by_references(messages), messages
        assert shape(by_subject(messages)) == oracle.by_subject(messages), messages


def test_every_message_is_in_one_thread_once() -> None:
    rnd = random.Random(8)
    for _ in range(1000):
        messages = random_messages(rnd)
        for threads in (by_references(messages), by_subject(messages)):
            assert sorted(uid for uid in threads.uids if uid) == [message.uid for message in messages]


@pytest.mark.parametrize("kind", ["chain", "backwards", "star", "strangers", "subjects", "references"])
def test_large_and_deep_threads(kind: str) -> None:
    count = 5000
    if kind == "chain":
        messages = [message(n, f"i{n}", f"i{n - 1}" if n > 1 else "") for n in range(1, count)]
    elif kind == "backwards":
        messages = [message(n, f"i{n}", f"i{n + 1}", sent=float(count - n)) for n in range(1, count)]
    elif kind == "star":
        messages = [message(1, "i1"), *(message(n, f"i{n}", "i1") for n in range(2, count))]
    elif kind == "strangers":
        messages = [message(n, f"i{n}", "nobody") for n in range(1, count)]
    elif kind == "subjects":
        messages = [message(n, f"i{n}", "", "same") for n in range(1, count)]
    else:
        names = " ".join(f"i{n}" for n in range(300))
        messages = [message(n, f"m{n}", names) for n in range(1, 1000)]
    begin = time.process_time()
    text = written(by_references(messages))
    assert time.process_time() - begin < 3.0
    assert text.count("(") == text.count(")") > 0
