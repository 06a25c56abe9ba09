"""POP3's command lines and dot-stuffing, written with regular expressions; slow, and short enough to be believed."""

from __future__ import annotations

import re

NUMBERED = {"RETR": 1, "DELE": 1, "TOP": 2}
OPTIONAL = {"LIST", "UIDL"}
BARE = {"CAPA", "STLS", "STAT", "RSET", "NOOP", "QUIT", "UTF8"}
TEXT = {"USER": True, "PASS": True, "APOP": True, "AUTH": False, "LANG": False}
"""Whether an argument is a must."""

LARGEST = 2**31 - 1


def parse(line: bytes) -> tuple[str, bool, int, int, bytes]:
    """(verb or "", well formed, number, lines, argument); of a malformed line only the verb and that counts."""
    verb_bytes, space, rest = line.partition(b" ")
    verb = verb_bytes.decode("latin-1").upper() if verb_bytes.isascii() else ""
    if verb not in {*NUMBERED, *OPTIONAL, *BARE, *TEXT}:
        return "", False, -1, -1, b""
    if re.search(rb"[\x00-\x1f\x7f]", line):
        return verb, False, -1, -1, b""
    if verb in TEXT:
        return verb, (bool(space) and bool(rest)) or not TEXT[verb], -1, -1, rest
    pattern = rb" *"
    if verb in NUMBERED:
        pattern = rb" +(\d+)" * NUMBERED[verb] + rb" *"
    elif verb in OPTIONAL:
        pattern = rb"(?: +(\d+))? *"
    found = re.fullmatch(pattern, space + rest)
    if found is None:
        return verb, False, -1, -1, b""
    numbers = [min(int(text), LARGEST) for text in found.groups() if text is not None]
    numbers += [-1] * (2 - len(numbers))
    return verb, True, numbers[0], numbers[1], b""


def stuffed(message: bytes) -> bytes:
    """A message as the rows of a multi-line reply, with its end."""
    rows = re.sub(rb"(?<![^\n])\.", b"..", message)
    return rows + (b".\r\n" if not message or message.endswith(b"\r\n") else b"\r\n.\r\n")


def top(message: bytes, lines: int) -> bytes:
    """The header with its empty line, and so many lines of the body."""
    rows = re.findall(rb"[^\n]*\n|[^\n]+", message)
    end = next((n + 1 for n, row in enumerate(rows) if re.fullmatch(rb"\r*\n", row)), len(rows))
    return b"".join(rows[: end + lines])
