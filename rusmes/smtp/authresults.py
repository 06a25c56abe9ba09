"""Authentication-Results that claim to be ours but came from outside (RFC 8601 §5).

Readers trust such a field by its authserv-id, so one that a stranger wrote under our name must not survive. Only those are
taken out; what other services say about the mail stays, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from rusmes._core.headers import find_values, offsets

FIELD_NAME: Final = "authentication-results"
_NAME: Final = FIELD_NAME.encode()


def foreign_results(header_block: bytes, own_names: Collection[str]) -> list[bytes] | None:
    """None when no Authentication-Results field names one of `own_names` (lower case); else all fields that do not."""
    values = find_values(header_block, _NAME)
    if not values or not any(service_of(value) in own_names for value in values):
        return None
    kept = []
    for start, colon, end in offsets(header_block):
        if header_block[start:colon].strip().lower() == _NAME and service_of(header_block[colon + 1 : end]) not in own_names:
            kept.append(header_block[start:end])
    return kept


def service_of(value: bytes) -> str:
    """The authserv-id of a field's value, in lower case, without comments and quotes (RFC 8601 §2.2)."""
    text = _without_comments(value.replace(b"\r\n", b"").decode("utf-8", "replace")).strip()
    if text.startswith('"'):
        end = text.find('"', 1)
        while end > 0 and text[end - 1] == "\\":
            end = text.find('"', end + 1)
        text = re.sub(r"\\(.)", r"\1", text[1 : end if end > 0 else None])
    else:
        text = re.split(r"[\s;/]", text, maxsplit=1)[0]
    return text.strip().rstrip(".").lower()


def _without_comments(text: str) -> str:
    """The text up to the first ";" with its comments (RFC 5322 §3.2.2) taken out; one that never ends runs to the end."""
    out: list[str] = []
    depth, quoted, at = 0, False, 0
    while at < len(text):
        char = text[at]
        if char == "\\" and (depth or quoted):
            if not depth:
                out.append(text[at : at + 2])
            at += 2
            continue
        if quoted or char == '"':
            quoted = (char != '"') if quoted else not depth
        elif char == "(":
            depth += 1
        elif char == ")" and depth:
            depth -= 1
            at += 1
            out.append(" ")
            continue
        elif char == ";" and not depth:
            break
        if not depth:
            out.append(char)
        at += 1
    return "".join(out)
