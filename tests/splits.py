"""Every parser gives the same facts however its input arrives: whole, octet by octet, cut anywhere, with more behind it.

    facts = assert_split_invariant(run, data)

`run` takes the pieces in order, feeds them to a fresh parser and returns everything one can observe (without where the cuts
were: join chunks of a body before returning them).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import TypeVar

Facts = TypeVar("Facts")

RANDOM_WAYS = 6


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces that end at these offsets."""
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def ways(data: bytes, *, seed: int = 0, everywhere: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """Ways to cut the data, each with a name. `everywhere`: also in two at each single offset."""
    yield "whole", [data]
    yield "octet by octet", [data[i : i + 1] for i in range(len(data))]
    if everywhere:
        for place in range(1, len(data)):
            yield f"in two at {place}", cut(data, [place])
    dice = random.Random(seed)
    for _ in range(RANDOM_WAYS if len(data) > 2 else 0):
        places = sorted(dice.sample(range(1, len(data)), dice.randint(1, min(len(data) - 1, 8))))
        yield f"at {places}", cut(data, places)


def assert_split_invariant(
    run: Callable[[list[bytes]], Facts],
    data: bytes,
    *,
    seed: int = 0,
    everywhere: bool = False,
    trailing: bytes = b"",
    run_with_trailing: Callable[[list[bytes]], Facts] | None = None,
) -> Facts:
    """Run it in many ways and compare; the facts of the whole are returned.

    With `trailing`, `run_with_trailing` (default: `run`) gets the data with these octets behind it and must find the same:
    nothing after the end of an input may change what was read before.
    """
    expected = run([data])
    for name, pieces in ways(data, seed=seed, everywhere=everywhere):
        found = run(pieces)
        assert found == expected, f"cut {name}: {found!r} is not {expected!r}"
    if trailing:
        rerun = run_with_trailing or run
        for name, pieces in ways(data + trailing, seed=seed):
            found = rerun(pieces)
            assert found == expected, f"with trailing {trailing!r}, cut {name}: {found!r} is not {expected!r}"
    return expected
