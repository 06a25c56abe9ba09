"""Lists of `name=value` with semicolons between them (RFC 6376 §3.2)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from rusmes.errors import PeerError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BLANKS = re.compile(r"[ \t\r\n]+")


class Malformed(PeerError):
    """A signature, a seal or a key record that is none."""


def parse_tags(value: bytes) -> dict[str, str]:
    """The tags of a field's value or of a DNS record.

    Raises:
        Malformed: no list, or a name that is there twice.
    """
    tags: dict[str, str] = {}
    parts = value.decode("utf-8", "replace").split(";")
    if not parts[-1].strip(" \t\r\n"):
        parts.pop()  # the last semicolon
    for part in parts:
        name, equals, text = part.partition("=")
        name = name.strip(" \t\r\n")
        if not equals or not _NAME.fullmatch(name):
            raise Malformed(f"{name[:40]!r} is no tag")
        if name in tags:
            raise Malformed(f"the tag {name} is there twice")
        tags[name] = text.strip(" \t\r\n")
    return tags


def without_blanks(text: str) -> str:
    """RFC 6376 §2.8: folding white space inside of a value means nothing."""
    return _BLANKS.sub("", text)


def octets(tags: Mapping[str, str], name: str) -> bytes:
    """The value of a base64 tag.

    Raises:
        Malformed
    """
    try:
        return base64.b64decode(without_blanks(tags[name]), validate=True)
    except KeyError:
        raise Malformed(f"the tag {name} is missing") from None
    except (binascii.Error, ValueError):
        raise Malformed(f"the tag {name} is no base64") from None


def number(tags: Mapping[str, str], name: str) -> int | None:
    """The value of a decimal tag; None when it is not there.

    Raises:
        Malformed
    """
    text = tags.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Malformed(f"the tag {name} is no number")
    return int(text)
