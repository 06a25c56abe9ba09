"""The canonical forms of RFC 6376 §3.4, written as its text reads: whole strings and regular expressions."""

from __future__ import annotations

import re


def simple_body(body: bytes) -> bytes:
    """§3.4.3"""
    if not body.endswith(b"\r\n"):
        body += b"\r\n"
    while body.endswith(b"\r\n\r\n"):
        body = body[:-2]
    return body


def relaxed_body(body: bytes) -> bytes:
    """§3.4.4"""
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def relaxed_header(field: bytes) -> bytes:
    """§3.4.2"""
    name, _, value = field.partition(b":")
    value = value.replace(b"\r\n", b"")
    value = re.sub(rb"[ \t]+", b" ", value).strip(b" ")
    return name.rstrip(b" \t").lower() + b":" + value + b"\r\n"


def split_fields(block: bytes) -> list[bytes]:
    """The fields of a clean header block without its empty line."""
    return re.findall(rb"[^ \t\r\n][^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", block)


def chosen(block: bytes, names: list[bytes], form: str) -> bytes:
    """§5.4.2: from the bottom up, each field once."""
    left = split_fields(block)
    out = b""
    for name in names:
        for index in range(len(left) - 1, -1, -1):
            if left[index].partition(b":")[0].rstrip(b" \t").lower() == name:
                field = left.pop(index)
                out += relaxed_header(field) if form == "relaxed" else field
                break
    return out
