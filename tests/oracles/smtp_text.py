"""Message text, read slowly: `_core.body` must agree with this on every input."""

from __future__ import annotations

import re
from dataclasses import dataclass

BARE_CR, BARE_LF, NUL, MBOX_FROM = 1, 2, 4, 32


@dataclass
class Text:
    """What DATA gave. `used` is None when the end was not there; then the rest is meaningless."""

    used: int | None
    content: bytes = b""
    faults: int = 0
    repaired: int = 0
    header_bytes: int = 0
    received_count: int = 0
    eight_bit: bool = False


def read_data(wire: bytes, *, normalize: bool = False) -> Text:
    """What follows the 354 reply, up to the end of the message."""
    if wire.startswith(b".\r\n"):
        return facts(b"", 3, normalize)
    end = wire.find(b"\r\n.\r\n")
    return Text(None) if end < 0 else facts(wire[: end + 2], end + 5, normalize)


def facts(raw: bytes, used: int, normalize: bool) -> Text:
    bare = (BARE_CR if re.search(rb"\r(?!\n)", raw) else 0) | (BARE_LF if re.search(rb"(?<!\r)\n", raw) else 0)
    if normalize:
        content = re.sub(rb"(\A|\r\n)\.(?!\n)", rb"\1", raw)
        content = re.sub(rb"\r\n|\n|\r", lambda match: b" " if match[0] == b"\r" else b"\r\n", content)
    else:
        content = re.sub(rb"(\A|\r\n)\.", rb"\1", raw)
    text = Text(used, content)
    text.faults = (0 if normalize else bare) | (NUL if b"\0" in raw else 0)
    text.repaired = bare if normalize else 0
    if re.match(rb">?From [^\n]*\n", content):
        text.faults |= MBOX_FROM
    empty = re.search(rb"(?:\A|\n)\r\n", content)
    text.header_bytes = empty.end() if empty else len(content)
    text.received_count = len(re.findall(rb"(?im)^received:[^\n]*\n", content[: text.header_bytes]))
    text.eight_bit = any(octet > 127 for octet in content)
    return text
