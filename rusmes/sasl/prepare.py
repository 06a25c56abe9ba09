"""SASLprep (RFC 4013): one form for the many ways to type the same name or password.

The profile is defined over Unicode 3.2, whose tables the standard library keeps (`stringprep`). Both what is stored and what is
typed are prepared as a query (RFC 3454 §7: unassigned code points allowed), so a password with newer
characters, an emoji say, works as long as client and server treat it alike.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable
from typing import Final

_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (  # RFC 4013 §2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepare_password(text: str) -> str:
    """The prepared form of a name or password.

    Raises:
        ValueError: the text holds a prohibited character or breaks the rules for right-to-left text. The message
            names the rule, never the text.
    """
    if text.isascii():
        if any(c < " " or c == "\x7f" for c in text):
            raise ValueError("control characters are not allowed (RFC 4013 §2.3)")
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else "" if stringprep.in_table_b1(c) else c for c in text
    )  # RFC 4013 §2.1
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)  # RFC 4013 §2.2
    for char in normal:
        if any(prohibited(char) for prohibited in _PROHIBITED):
            raise ValueError("prohibited characters (RFC 4013 §2.3)")
    _check_bidirectional(normal)
    return normal


def _check_bidirectional(text: str) -> None:
    """RFC 3454 §6."""
    if not any(stringprep.in_table_d1(c) for c in text):
        return
    if any(stringprep.in_table_d2(c) for c in text):
        raise ValueError("left-to-right characters within right-to-left text (RFC 3454 §6)")
    if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
        raise ValueError("right-to-left text must begin and end with right-to-left characters (RFC 3454 §6)")
