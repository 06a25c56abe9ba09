"""The base subject of a message: its subject without "Re:", "[list]" and "(fwd)" (RFC 5256 §2.1, §5)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from rusmes._core.textpipe import decode_header

# Steps 3 to 5 walk over leading blobs again and again; a longer subject is nothing that anybody reads, and is cut.
MAX_CHARACTERS: Final = 1000

_BLANKS: Final = re.compile(r"[ \t\r\n]+")
_BLOB: Final = r"\[[^\[\]]*\] *"
# subj-leader without its WSP, which is taken off before.
_LEADER: Final = re.compile(rf"(?:{_BLOB})*(?:re|fwd?) *(?:{_BLOB})?:", re.IGNORECASE)
_LEADING_BLOB: Final = re.compile(_BLOB)
_FORWARD_HEADER: Final = "[fwd:"
_TRAILER: Final = "(fwd)"


class BaseSubject(NamedTuple):
    text: str
    is_reply: bool
    """A reply or forward: "Re:", "(fwd)" or "[fwd: ...]" was taken off (RFC 5256 §3, REFERENCES)."""


def base_subject(value: bytes) -> BaseSubject:
    """Of the value of a Subject field."""
    return _cached(value) if len(value) <= 200 else _base(value)


@lru_cache(maxsize=4096)
def _cached(value: bytes) -> BaseSubject:
    """The same subjects come again and again, and are looked at by every sort."""
    return _base(value)


def _base(value: bytes) -> BaseSubject:
    text = _BLANKS.sub(" ", decode_header(value[: 8 * MAX_CHARACTERS]))[:MAX_CHARACTERS]  # step 1
    is_reply = False
    while True:
        text = text.strip(" ")
        while text.lower().endswith(_TRAILER):  # step 2
            text = text[: -len(_TRAILER)].rstrip(" ")
            is_reply = True
        text, was_reply = _without_leaders(text)
        is_reply |= was_reply
        if not (text.lower().startswith(_FORWARD_HEADER) and text.endswith("]")):
            return BaseSubject(text, is_reply)  # step 7
        text = text[len(_FORWARD_HEADER) : -1]  # step 6
        is_reply = True


def _without_leaders(text: str) -> tuple[str, bool]:
    """Steps 3 to 5."""
    is_reply = False
    while True:
        text = text.lstrip(" ")
        leader = _LEADER.match(text)
        if leader is not None:
            text = text[leader.end() :]
            is_reply = True
            continue
        blob = _LEADING_BLOB.match(text)
        if blob is None or blob.end() == len(text):  # a blob is the subject when nothing else is
            return text, is_reply
        text = text[blob.end() :]
