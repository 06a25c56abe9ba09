"""Making signatures: which header fields, in which canonical form, and how the field is written.

RFC 6376 §3.5 (the field), §3.7 (what is signed), §5.4 (which fields), §8.15 (fields added later). A name that stands
once more in h= than there are fields of it ("oversigned") makes an added field break the signature: nobody can put a second
From on top.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from rusmes._core.dkim import BodyCanonicalizer, relaxed_field
from rusmes.dkim.keys import SigningKey

HEADERS: Final = (
    "From", "Reply-To", "Subject", "To", "Cc", "Date", "Message-ID", "Sender", "In-Reply-To", "References", "MIME-Version",
    "Content-Type", "Content-Transfer-Encoding", "Content-ID", "Content-Description", "Content-Disposition",
    "Resent-From", "Resent-To", "Resent-Cc", "Resent-Date", "Resent-Message-ID", "Resent-Sender",
    "List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "List-Post", "List-Owner",
    "List-Archive", "Feedback-ID", "Autocrypt",
)  # fmt: skip
"""RFC 6376 §5.4.1, RFC 8058 §4 (List-Unsubscribe-Post), and what mailbox providers look at. Trace fields change on the way."""
OVERSIGNED: Final = ("From", "Reply-To", "Subject", "To", "Cc")
ONCE: Final = frozenset(
    name.lower().encode()
    for name in ("Date", "Message-ID", "Sender", "In-Reply-To", "References", "MIME-Version", "Content-Type",
                 "Content-Transfer-Encoding")
)  # fmt: skip
"""What a message has once (RFC 5322 §3.6) and a later server may have to add: oversigned where it is there."""
MAX_FIELDS: Final = 200
"""Of one name; a header of 100 KB can hold thousands."""

_LINE_CHARACTERS: Final = 72
_MAX_CHOICES: Final = 2000


class Choice(Struct, frozen=True):
    """What of a header is signed: `names` in the order of h=, and h= as it is written, folded."""

    names: tuple[bytes, ...]
    text: bytes


class FieldChoice:
    """Chooses the fields of a header. Mail of one program has the same fields in the same order: choices are remembered."""

    __slots__ = ("_made", "_oversigned", "_wanted")

    def __init__(self, headers: Sequence[str] = HEADERS, oversign: Sequence[str] = OVERSIGNED) -> None:
        self._oversigned = frozenset(name.lower().encode() for name in oversign)
        names = dict.fromkeys(name.lower().encode() for name in (*headers, *oversign))
        names.setdefault(b"from")  # RFC 6376 §5.4: it must be signed
        self._wanted = tuple(names)
        self._made: dict[tuple[bytes, ...], Choice] = {}

    @property
    def wanted(self) -> tuple[bytes, ...]:
        """The fields that may be signed, in lower case."""
        return self._wanted

    def of(self, names: tuple[bytes, ...]) -> Choice:
        """The choice for a header that has fields of these (lower-case) names."""
        choice = self._made.get(names)
        if choice is None:
            chosen: list[bytes] = []
            for name in self._wanted:
                count = min(names.count(name), MAX_FIELDS)
                if name in self._oversigned or (count and name in ONCE):
                    count += 1
                chosen += [name] * count
            choice = Choice(tuple(chosen), folded_names(chosen))
            if len(self._made) >= _MAX_CHOICES:
                self._made.clear()
            self._made[names] = choice
        return choice


def folded_names(names: Sequence[bytes]) -> bytes:
    """h= as it is written."""
    lines: list[bytes] = []
    line = b""
    for name in names:
        if line and len(line) + len(name) >= _LINE_CHARACTERS:
            lines.append(line)
            line = b""
        line += b":" + name if line else name
    lines.append(line)
    return b":\r\n\t ".join(lines)


class Form(Struct, frozen=True):
    """The canonical forms of a signature (c=)."""

    header_relaxed: bool = True
    body_relaxed: bool = True

    @classmethod
    def of(cls, text: str) -> Form:
        """From "relaxed/simple"; the body's is simple when it is not given (RFC 6376 §3.5)."""
        header, _, body = text.partition("/")
        return cls(header == "relaxed", body == "relaxed")

    def __str__(self) -> str:
        return f"{'relaxed' if self.header_relaxed else 'simple'}/{'relaxed' if self.body_relaxed else 'simple'}"


def body_hashes(chunks: Iterable[bytes], forms: Iterable[bool]) -> dict[bool, bytes]:
    """SHA-256 of the body in each form (relaxed or not), in one pass."""
    made = {relaxed: hashlib.sha256() for relaxed in forms}
    canonical = [BodyCanonicalizer(digest.update, relaxed=relaxed) for relaxed, digest in made.items()]
    for chunk in chunks:
        for one in canonical:
            one.feed(chunk)
    for one in canonical:
        one.finish()
    return {relaxed: digest.digest() for relaxed, digest in made.items()}


def signed_data(fields: bytes, field: bytes, *, relaxed: bool) -> bytes:
    """What is hashed (RFC 6376 §3.7): the chosen fields, then the signature's own without its b= and without its line end."""
    return fields + (relaxed_field(field)[:-2] if relaxed else field.removesuffix(b"\r\n"))


def unsigned_field(
    key: SigningKey, form: Form, body_hash: bytes, choice: Choice, *, now: float, expire_seconds: float = 0.0
) -> bytes:
    """A DKIM-Signature that ends with "b="."""
    head = (
        f"DKIM-Signature: v=1; a={key.algorithm}; c={form}; d={key.domain};\r\n\ts={key.selector}; t={int(now)};"
        f"{f' x={int(now + expire_seconds)};' if expire_seconds else ''}\r\n\th="
    )
    return b"".join((head.encode(), choice.text, b";\r\n\tbh=", base64.b64encode(body_hash), b";\r\n\tb="))


def with_signature(field: bytes, signature: bytes) -> bytes:
    """The whole field."""
    text = base64.b64encode(signature)
    lines = [text[start : start + _LINE_CHARACTERS] for start in range(0, len(text), _LINE_CHARACTERS)]
    return field + b"\r\n\t ".join(lines) + b"\r\n"
