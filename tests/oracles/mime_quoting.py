"""What `_core.quoting` does, in Python: slow and plain."""

from __future__ import annotations

import re


def nstring(value: bytes | None) -> bytes:
    if value is None:
        return b"NIL"
    if len(value) <= 1000 and value.isascii() and not re.search(rb"[\0\r\n]", value):
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    value = value.replace(b"\0", b"")
    return b"{%d}\r\n%b" % (len(value), value)


def unfold(value: bytes) -> bytes:
    return re.sub(rb"\r*\n", b"", value).replace(b"\0", b"").strip(b" \t\r")
