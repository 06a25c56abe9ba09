"""The table by name and age."""

from __future__ import annotations

import pytest

from rusmes.errors import NotAllowed
from rusmes.queue import summary as module
from rusmes.queue.summary import KEYS, OTHERS, Summary
from tests.unit.queue.test_selection import NOW, entry, state


def test_recipients_stand_in_the_column_of_their_age() -> None:
    summary = Summary("domain", NOW)
    for age in (0, 299, 300, 601, 1_000_000):
        summary.add(entry(state("a@x.org"), created=NOW - age), [0])
    (row,) = summary.top()
    assert row.counts == [2, 1, 1, 0, 0, 0, 0, 0, 0, 1]
    assert (row.recipients, row.entries, row.oldest) == (5, 5, NOW - 1_000_000)


def test_an_entry_counts_once_for_each_of_its_names() -> None:
    summary = Summary("domain", NOW)
    one = entry(state("a@x.org"), state("b@x.org"), state("c@y.org"))
    summary.add(one, [0, 1, 2])
    size = one.item.rendering.size
    assert [(row.name, row.recipients, row.entries, row.size_bytes) for row in summary.top()] == [
        ("x.org", 2, 1, size), ("y.org", 1, 1, size),
    ]  # fmt: skip
    assert (summary.total.recipients, summary.total.entries, summary.total.size_bytes) == (3, 1, size)


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ("domain", "x.org"), ("tenant", "Acme"), ("campaign", "spring"), ("sender", "example.com"), ("status", "deferred"),
        ("account", "alice@example.com"), ("client", "192.0.2.7"), ("reply", "451 4.7.1 too many of your mails today,"),
    ],
)  # fmt: skip
def test_names(by: str, name: str) -> None:
    summary = Summary(by, NOW)
    summary.add(entry(state("a@x.org", reply="451 4.7.1 too many of your mails today, id 8127")), [0])
    assert [row.name for row in summary.top()] == [name]
    assert by in KEYS


def test_names_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 2)
    summary = Summary("domain", NOW)
    for name in "abcda":
        summary.add(entry(state(f"x@{name}.org")), [0])
    assert {row.name: row.recipients for row in summary.top()} == {"a.org": 2, "b.org": 1, OTHERS: 2}
    assert summary.total.recipients == 5


def test_parts_are_joined_and_cut() -> None:
    whole = Summary.of_rows("domain")
    for names in ("ab", "bc"):
        part = Summary("domain", NOW)
        for name in names:
            part.add(entry(state(f"x@{name}.org")), [0])
        whole.add_rows(part.rows.values(), part.total)
    document = whole.document(limit=2)
    assert [(row["name"], row["recipients"]) for row in document["rows"]] == [("b.org", 2), ("a.org", 1)]
    assert (document["more"], document["total"]["recipients"], document["ages"][0]) == (1, 4, 5)
    assert Summary.of_rows("domain").document()["total"]["oldest"] == 0.0


def test_what_is_no_property_is_refused() -> None:
    with pytest.raises(NotAllowed, match="by domain"):
        Summary("color", NOW)
