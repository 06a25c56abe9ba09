"""Messages and keys of SCRAM (RFC 5802 §5 and §7, RFC 7677), shared by both sides."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

from rusmes.sasl.questions import MalformedResponse

MAX_ITERATIONS: Final = 1_000_000
"""What a client accepts from a server: about a second of PBKDF2. Without a bound a server could keep a client busy for ever."""

MIN_ITERATIONS: Final = 4096
"""RFC 7677 §4: the least a client should accept."""


def attributes(message: str) -> list[tuple[str, str]]:
    """The attributes of a message in their order. Raises MalformedResponse."""
    pairs = []
    for part in message.split(","):
        if len(part) < 2 or part[1] != "=" or not part[0].isascii() or not part[0].isalpha():
            raise MalformedResponse("malformed SCRAM message", "an attribute is a letter, '=' and a value")
        pairs.append((part[0], part[2:]))
    return pairs


def decode_text(data: bytes) -> str:
    """The UTF-8 text of a message. Raises MalformedResponse."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MalformedResponse("malformed SCRAM message", "not UTF-8") from None
    if "\0" in text:
        raise MalformedResponse("malformed SCRAM message", "NUL")
    return text


def decode_base64(text: str) -> bytes:
    """Raises MalformedResponse."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedResponse("malformed SCRAM message", "not base64") from None


def encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def escape_name(name: str) -> str:
    """RFC 5802 §5.1: "," and "=" in a saslname."""
    return name.replace("=", "=3D").replace(",", "=2C")


def unescape_name(text: str) -> str:
    """Raises MalformedResponse: "=" is followed by neither 2C nor 3D."""
    head, *rest = text.split("=")
    for part in rest:
        if not part.startswith(("2C", "3D")):
            raise MalformedResponse("malformed SCRAM message", "a name has '=' without 2C or 3D")
        head += ("," if part.startswith("2C") else "=") + part[2:]
    return head


def is_printable(text: str) -> bool:
    """RFC 5802 §7 `printable`: what nonces are made of."""
    return bool(text) and all("!" <= c <= "~" and c != "," for c in text)


def salted_password(prepared: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", prepared.encode(), salt, iterations)


def client_key(salted: bytes) -> bytes:
    return hmac.digest(salted, b"Client Key", "sha256")


def server_key(salted: bytes) -> bytes:
    return hmac.digest(salted, b"Server Key", "sha256")


def stored_key(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def signature(key: bytes, auth_message: str) -> bytes:
    return hmac.digest(key, auth_message.encode(), "sha256")


def exclusive_or(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
