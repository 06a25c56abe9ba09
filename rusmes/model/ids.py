"""16-byte identifiers that sort by time: 48 bits of milliseconds, 80 bits that are unique.

The text form is 26 characters of Crockford's base32 in lower case; it sorts like the bytes do.
"""

from __future__ import annotations

from typing import Final

from rusmes._core.ids import IdSource, id_text

__all__ = ["ID_BYTES", "IdSource", "id_text", "parse_id"]

ID_BYTES: Final = 16
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES: Final = {c: i for i, c in enumerate(_ALPHABET)}


def parse_id(text: str) -> bytes:
    """The identifier of a text.

    Raises:
        ValueError: the text is not 26 characters of the alphabet, or its value does not fit.
    """
    if len(text) != 26:
        raise ValueError(f"an identifier has 26 characters, not {len(text)}")
    number = 0
    for char in text.lower():
        if char not in _VALUES:
            raise ValueError(f"{char!r} does not occur in identifiers")
        number = number << 5 | _VALUES[char]
    return number.to_bytes(ID_BYTES, "big") if number < 1 << 128 else _too_large(text)


def _too_large(text: str) -> bytes:
    raise ValueError(f"{text} is larger than an identifier can be")
