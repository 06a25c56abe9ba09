"""Lines of keys, checked against a text in which every value says its own line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli
from hypothesis import given
from hypothesis import strategies as st

from rusmes.config.positions import key_lines, line_of

ROOT = Path(__file__).parents[3]

TEXT = '''# comment = 1
a = 2
"quoted key" = 3 # x = 9
dotted.key."with.dot" = 4
text = """
not = a key
[neither]
\\""" still
"""
literal = \'\'\'
x = "\'\'\'\'
after = 12
[table]
b = [14, 14,
  15,
  # comment
  { c = 17, d = { e = 17 } },
]
[ table . "sub" ]
date = 1979-05-27 07:32:00 # 20
[[list]]
n = 22
[[list]]
n = 24
[list.inner]
m = 26
[[list.more]]
k = { x = [28,
 29] }
"uni\\u0063ode" = 30
'''


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def test_every_number_stands_on_its_line() -> None:
    lines = key_lines(TEXT)
    found = 0
    for path, value in leaves(tomli.loads(TEXT)):
        assert path in lines, path
        if isinstance(value, int):
            assert lines[path] == value, path
            found += 1
    assert found == 15
    assert lines["table", "sub", "date"] == 20
    assert lines["list", 1, "inner"] == 25


def test_a_key_that_is_not_there_gets_its_table() -> None:
    lines = key_lines(TEXT)
    assert line_of(("table", "b", 3, "missing"), lines) == 17
    assert line_of(("nowhere",), lines) == 0


def test_every_key_of_the_shipped_file_has_a_line() -> None:
    text = (ROOT / "rusmes.toml").read_text()
    lines = key_lines(text)
    for path, _ in leaves(tomli.loads(text)):
        assert path in lines, path
        assert not isinstance(path[-1], str) or path[-1] in text.splitlines()[lines[path] - 1]


def test_a_value_that_is_none_ends_the_scan() -> None:
    assert key_lines("a = [}\nb = 1") == {("a",): 1, ("a", 0): 1}


@given(st.text(alphabet="[]{}\"'=.,#\\\n ab1", max_size=60))
def test_no_text_makes_it_fail(text: str) -> None:
    lines = key_lines(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
