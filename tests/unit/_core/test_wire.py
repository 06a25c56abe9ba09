"""The scan of a body before it goes out, against the same question asked slowly."""

from __future__ import annotations

import random

import pytest

from rusmes._core.wire import DOTS, LONG, UNCLEAN, examine


def slowly(data: bytes) -> int:
    if not data.endswith(b"\r\n") or data.replace(b"\r\n", b"").count(b"\r") + data.replace(b"\r\n", b"").count(b"\n"):
        return UNCLEAN
    lines = data.split(b"\r\n")[:-1]
    return (DOTS if any(line.startswith(b".") for line in lines) else 0) | (LONG if max(map(len, lines)) > 998 else 0)


@pytest.mark.parametrize(
    ("data", "flags"),
    [
        (b"", UNCLEAN), (b"\n", UNCLEAN), (b"\r\n", 0), (b"a", UNCLEAN), (b"a\r\n", 0), (b"a\n\r\n", UNCLEAN),
        (b".\r\n", DOTS), (b"a\r\n.\r\n", DOTS), (b"a.\r\n", 0), (b"a\rb\r\n", UNCLEAN), (b"a\r\r\n", UNCLEAN),
        (b"x" * 998 + b"\r\n", 0), (b"x" * 999 + b"\r\n", LONG), (b"." * 999 + b"\r\n", LONG | DOTS), (b"\0\xff\r\n", 0),
    ],
)  # fmt: skip
def test_flags(data: bytes, flags: int) -> None:
    assert examine(data) == flags


def test_random_bodies() -> None:
    chance = random.Random(5)
    words = [b"\r\n", b"\r\n", b"a", b".", b"x" * 500, b"\r", b"\n"]
    for _ in range(3000):
        data = b"".join(chance.choice(words[: chance.randint(4, 7)]) for _ in range(9))
        got, want = examine(data), slowly(data)
        assert got == want or (got & want & UNCLEAN), data


def test_only_bytes() -> None:
    with pytest.raises(TypeError):
        examine("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        examine(None)  # type: ignore[arg-type]
