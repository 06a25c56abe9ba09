"""Keys of SORT (RFC 5256, RFC 5957)."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from rusmes.search.sorting import KEYS, Sortable, columns, sorted_places


def sortable(**fields: str) -> Sortable:
    names = ("date", "subject", "from_", "to", "cc")
    values = [fields[name].encode() if name in fields else None for name in names]
    return Sortable(int(fields.get("arrival", "0")), int(fields.get("size", "0")), values)


def key(name: str, **fields: str) -> object:
    return columns([sortable(**fields)], [(name, False)])[0][0]


@pytest.mark.rfc("5256", "3")
@pytest.mark.parametrize(
    ("name", "fields", "value"),
    [
        ("ARRIVAL", {"arrival": "7"}, 7),
        ("SIZE", {"size": "7"}, 7),
        ("DATE", {"date": "1 Jan 1970 00:00:05 +0000"}, 5),
        ("DATE", {"date": "broken", "arrival": "9"}, 9),
        ("DATE", {"arrival": "9"}, 9),
        ("SUBJECT", {"subject": "Re: Caf\u00e9"}, "CAFE\u0301".encode()),
        ("SUBJECT", {}, b""),
        ("FROM", {"from_": "Zoe <Anna@example.org>, Bob <bob@example.org>"}, b"ANNA"),
        ("TO", {"to": "friends: bob@example.org;"}, b"FRIENDS"),
        ("CC", {"cc": ""}, b""),
        ("CC", {}, b""),
    ],
)
def test_keys(name: str, fields: dict[str, str], value: object) -> None:
    assert key(name, **fields) == value


@pytest.mark.rfc("5957", "3")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Zoe <anna@example.org>", b"ZOE"),
        ('"Doe, John" <j@example.org>', b"DOE, JOHN"),
        ("=?utf-8?q?Ren=C3=A9?= <r@example.org>", "RENE\u0301".encode()),
        ("anna@example.org", b"ANNA@EXAMPLE.ORG"),
        ("friends: bob@example.org;", b"FRIENDS"),
        ("", b""),
    ],
)
def test_display_names(value: str, shown: bytes) -> None:
    assert key("DISPLAYFROM", from_=value) == shown
    assert key("DISPLAYTO", to=value) == shown


def test_equals_stay_in_mailbox_order_whichever_way() -> None:
    messages = [sortable(size=str(size)) for size in (2, 1, 2, 1, 2)]
    for criteria, order in (
        ((("SIZE", False),), [1, 3, 0, 2, 4]),
        ((("SIZE", True),), [0, 2, 4, 1, 3]),
        ((("CC", True), ("SIZE", False)), [1, 3, 0, 2, 4]),
    ):
        assert sorted_places(columns(messages, criteria), criteria) == order
    assert sorted_places([], ()) == []


def test_random_criteria_sort_like_tuples_do() -> None:
    rnd = random.Random(9)
    for _ in range(300):
        messages = [
            sortable(size=str(rnd.randrange(3)), arrival=str(rnd.randrange(3)), from_=f"{rnd.choice('ABab')}@x.org")
            for _ in range(rnd.randrange(1, 12))
        ]
        criteria = [(name, rnd.random() < 0.5) for name in rnd.sample(("SIZE", "ARRIVAL", "FROM"), rnd.randrange(1, 4))]
        found = columns(messages, criteria)

        def is_before(a: int, b: int) -> bool:
            for column, (_, is_reversed) in zip(found, criteria, strict=True):  # noqa: B023
                if column[a] != column[b]:
                    return (column[a] < column[b]) != is_reversed  # type: ignore[operator]
            return a < b

        order = sorted_places(found, criteria)
        assert sorted(order) == list(range(len(messages)))
        assert all(is_before(a, b) for a, b in pairwise(order))


def test_there_is_a_key_for_every_word_of_the_grammar() -> None:
    assert {"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO"} == KEYS
    with pytest.raises(KeyError):
        columns([sortable()], [("RELEVANCY", False)])
