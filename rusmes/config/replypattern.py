"""Regular expressions on what other servers say: only those whose time is bounded whatever the server says.

`re` goes back over what it has tried, so some patterns take longer than the universe on a text made for them, and a server
we do not know writes the text. A pattern is therefore looked at before it is used: no repetition of what can match in several
ways (`(a+)+`, `(a|ab)*`), no back references, and not so many open repetitions that their product is large. What is left takes
at most some hundredths of a second on `MAX_TEXT` characters, which is all that is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

MAX_TEXT: Final = 1000
"""Characters of a reply that are looked at."""
MAX_PATTERN: Final = 500
MAX_STEPS: Final = 1_100_000
"""Ways to try, at most: those of one open repetition anywhere in the text. Of 4,400 random patterns that passed, the slowest
took 16 ms of CPU on texts made for it; with four times as many ways it was a tenth of a second."""
GROUP_COST: Final = 8
"""A repeated group goes through the whole machine of `re` each time."""

_OP: Final[Any] = re._constants  # type: ignore[attr-defined]
_parse: Final[Any] = re._parser.parse  # type: ignore[attr-defined]
_REPEATS: Final = (_OP.MAX_REPEAT, _OP.MIN_REPEAT)
_POSSESSIVE: Final = getattr(_OP, "POSSESSIVE_REPEAT", None)


def compile_reply_pattern(text: str) -> re.Pattern[str]:
    """A pattern for `search` on at most `MAX_TEXT` characters; upper and lower case are alike.

    Raises:
        ValueError: it is no pattern, or could take too long; the text says why.
    """
    if not text:
        raise ValueError("the pattern is empty")
    if len(text) > MAX_PATTERN:
        raise ValueError(f"the pattern is longer than {MAX_PATTERN} characters")
    try:
        parsed = _parse(text, re.IGNORECASE)
        places = 1 if parsed.data and parsed.data[0] == (_OP.AT, _OP.AT_BEGINNING) else MAX_TEXT
        steps = places * _ways(parsed)
        compiled = re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f'"{text}" is no regular expression: {error}') from None
    except (RecursionError, OverflowError):
        raise ValueError("the pattern is nested too deep, or repeats too often") from None
    if compiled.search("") is not None:
        raise ValueError(f'"{text}" matches every reply')
    if steps > MAX_STEPS:
        raise ValueError(f'"{text}" can take too long on a hostile reply: write bounds, such as .{{0,60}} for .*')
    return compiled


def _ways(items: Iterable[Any]) -> int:
    """In how many ways a sequence can match at one place, at most.

    Raises:
        ValueError: nobody can say.
    """
    ways = 1
    for op, argument in items:
        if op in _REPEATS or op is _POSSESSIVE:
            least, most, inner = argument
            inside = _ways(inner)
            most = min(int(most), MAX_TEXT)
            if inside > 1 and most > 1:
                raise ValueError("a repetition of what can match in several ways can take for ever")
            cost = GROUP_COST if any(what is _OP.SUBPATTERN for what, _ in inner) and most > 1 else 1
            ways *= (most - min(int(least), MAX_TEXT) + 1) * inside * cost
        elif op is _OP.BRANCH:
            ways *= sum(_ways(branch) for branch in argument[1])
        elif op is _OP.SUBPATTERN:
            ways *= _ways(argument[-1])
        elif op in (_OP.ASSERT, _OP.ASSERT_NOT):
            ways *= _ways(argument[1])
        elif op is getattr(_OP, "ATOMIC_GROUP", None):
            ways *= _ways(argument)
        elif op in (_OP.GROUPREF, _OP.GROUPREF_EXISTS):
            raise ValueError("back references can take for ever")
        if ways > MAX_STEPS:
            return ways
    return ways
