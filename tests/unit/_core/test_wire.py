"""The scan of a body before it goes out, against the same question asked slowly."""

from __future__ import annotations

import random
import re

import pytest

from rusmes._core.wire import DOTS, LONG, UNCLEAN, examine, plain_parts, simple_reply


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


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"250 ok\r\n", (250, b"ok", 8)), (b"250 ok\n", (250, b"ok", 7)), (b"599 \r\n", (599, b"", 6)),
        (b"354 a\rb\r\n250 x", (354, b"a\rb", 9)), (b"250 ok", None), (b"250-ok\r\n", None), (b"250\r\n  ", None),
        (b"199 no\r\n", None), (b"600 no\r\n", None), (b"2x0 no\r\n", None), (b"", None),
        (b"250 " + b"x" * 600 + b"\r\n", None), (b"250 " + b"x" * 506 + b"\r\n", (250, b"x" * 506, 512)),
    ],
)  # fmt: skip
def test_simple_replies(data: bytes, found: tuple[int, bytes, int] | None) -> None:
    assert simple_reply(data, 0) == found
    behind = simple_reply(b"220 hi\r\n" + data, 8)
    assert behind == (found and (found[0], found[1], found[2] + 8))
    assert simple_reply(data, len(data)) is None
    assert simple_reply(data, len(data) + 9) is None
    assert simple_reply(data, -1) is None


_STATUS = re.compile(rb"([245]\.\d{1,3}\.\d{1,3})(?: +|$)")


def test_parts_are_those_of_the_pattern() -> None:
    chance = random.Random(7)
    found = 0
    for _ in range(20_000):
        words = [b"2", b"3", b"4", b"5", b"2.", b"5.", b".", b"0", b"12", b" ", b"a"]
        line = b"".join(chance.choice(words) for _ in range(chance.randint(0, 8)))
        code = chance.choice([250, 354, 450, 550])
        match = _STATUS.match(line)
        wanted = None
        if match is not None and line[0] - 48 == code // 100:
            wanted = (match[1].decode(), line[match.end() :].decode())
            found += 1
        assert plain_parts(code, line) == wanted, line
    assert found > 20
    assert plain_parts(250, b"2.1.5 caf\xe9") is None
    assert plain_parts(250, b"2.1.5 a\tb") is None
    assert plain_parts(250, b"2.1.5 " + b"x" * 995) is None
