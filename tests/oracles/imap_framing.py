"""IMAP's framing as one reads it in RFC 9051 §4.3: slow, whole, with regular expressions. What the core does is compared.

Every literal is accepted, and nothing is too much to be dropped.
"""

from __future__ import annotations

import re

ANNOUNCEMENT = re.compile(rb"~?\{(\d+)(\+?)\}\Z")


def frames(data: bytes, text_limit: int) -> list[tuple[str, bytes, list[bytes]]]:
    """What the complete commands of a stream are: ("command" | "too long" | "nul", text, literals)."""
    found: list[tuple[str, bytes, list[bytes]]] = []
    at = 0
    while True:
        kind, text, literals = "command", b"", []
        while True:
            line, newline, _ = data[at:].partition(b"\n")
            if not newline:
                return found
            at += len(line) + 1
            room = text_limit - len(text)
            fits = len(line) <= room
            if not fits and kind == "command":
                kind = "too long"
            bare = line.removesuffix(b"\r")
            if kind == "command" and b"\0" in bare:
                kind = "nul"
            announced = ANNOUNCEMENT.search(bare)
            if not fits:
                text += line[:room]
            elif announced is None:
                text += bare
            else:
                text += bare[: announced.start()] + (b"~" if announced[0].startswith(b"~") else b"")
            if announced is None:
                break
            if kind != "command":
                if not announced[2]:
                    break  # the client waits, and gets the refusal
                at += int(announced[1])
                if at > len(data):
                    return found
                continue
            if len(text) < text_limit:
                text += b"\0"
            else:
                kind = "too long"
            size = int(announced[1])
            if at + size > len(data):
                return found
            literals.append(data[at : at + size])
            at += size
        found.append((kind, text, literals))
