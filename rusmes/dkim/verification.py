"""Checking signatures (RFC 6376 §6), and the message signatures of ARC, which differ in a few tags (RFC 8617 §4.1.2).

Nothing here waits: `signatures_of` says which there are and which DNS records they need, `verify` what comes of them. Results
are the words of RFC 8601 §2.7.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from rusmes._core.dkim import BodyCanonicalizer, select_fields
from rusmes._core.headers import offsets
from rusmes.dkim.keys import ED25519, RSA, Revoked, read_record, record_name
from rusmes.dkim.signature import Form, signed_data
from rusmes.dkim.tags import Malformed, number, octets, parse_tags, without_blanks

MAX_SIGNATURES: Final = 10
"""Of one message that are checked; the rest is not looked at. opendkim has no limit, Gmail about this one."""
MAX_NAMES: Final = 500
"""In h=."""
CLOCK_SKEW_SECONDS: Final = 300.0


class Signature(Struct, frozen=True):
    """A signature as it was found. `field` is the whole header field."""

    field: bytes
    domain: str
    selector: str
    algorithm: str
    form: Form
    names: tuple[bytes, ...]
    body_hash: bytes
    value: bytes
    identity: str = ""
    length: int | None = None
    timestamp: int | None = None
    expires: int | None = None
    instance: int = 0
    """Of ARC."""

    @property
    def record_name(self) -> str:
        return record_name(self.selector, self.domain)

    @property
    def body_key(self) -> tuple[bool, int | None]:
        """Signatures with the same need the same hash of the body."""
        return self.form.body_relaxed, self.length


class Verdict(Struct, frozen=True):
    """`result` is pass | fail | policy | neutral | temperror | permerror."""

    result: str
    reason: str = ""
    domain: str = ""
    selector: str = ""
    algorithm: str = ""

    @property
    def is_pass(self) -> bool:
        return self.result == "pass"


def read_signature(field: bytes, *, arc: bool = False) -> Signature:
    """A DKIM-Signature field, or with `arc` an ARC-Message-Signature.

    Raises:
        Malformed
    """
    tags = parse_tags(field.partition(b":")[2])
    if not arc and tags.get("v") != "1":
        raise Malformed("the version is not 1")
    algorithm = without_blanks(tags.get("a", ""))
    if algorithm not in (RSA, ED25519):
        raise Malformed(f"the algorithm {algorithm[:20]!r} is not taken")  # RFC 8301 §3.1: no SHA-1
    domain = name_of(tags, "d")
    names = tuple(name.encode() for name in without_blanks(tags.get("h", "")).lower().split(":"))
    if len(names) > MAX_NAMES:
        raise Malformed("too many fields are signed")
    if b"from" not in names and not arc:
        raise Malformed("From is not signed")  # RFC 6376 §5.4
    if arc and b"arc-seal" in names:
        raise Malformed("a seal is signed")  # RFC 8617 §4.1.2
    # The tests of ARC's authors take a message signature without c= as relaxed.
    form = form_of(tags, "relaxed/relaxed" if arc else "simple/simple")
    identity = "" if arc else without_blanks(tags.get("i", ""))
    if identity:
        host = identity.rpartition("@")[2].lower().rstrip(".")
        if host != domain and not host.endswith("." + domain):
            raise Malformed("the identity is not in the domain")
    if "q" in tags and "dns/txt" not in without_blanks(tags["q"]).split(":"):
        raise Malformed("the key is not in the DNS")
    return Signature(
        field, domain, name_of(tags, "s"), algorithm, form, names, octets(tags, "bh"), octets(tags, "b"), identity,
        number(tags, "l"), number(tags, "t"), number(tags, "x"), instance_of(tags) if arc else 0,
    )  # fmt: skip


def name_of(tags: dict[str, str], tag: str) -> str:
    """A domain name or selector; U-labels are made A-labels (RFC 8616 §4). Raises Malformed."""
    text = without_blanks(tags.get(tag, "")).lower().rstrip(".")
    if not text.isascii():
        try:
            text = text.encode("idna").decode()
        except UnicodeError:
            text = ""
    labels = text.split(".")
    if len(text) > 253 or not all(0 < len(label) < 64 and all(c.isalnum() or c in "-_" for c in label) for label in labels):
        raise Malformed(f"the tag {tag} is no name")
    return text


def form_of(tags: dict[str, str], default: str) -> Form:
    """Raises Malformed."""
    text = without_blanks(tags.get("c", default))
    if any(part not in ("simple", "relaxed") for part in text.split("/")) or text.count("/") > 1:
        raise Malformed(f"the canonical form {text[:20]!r} is not known")
    return Form.of(text)


def instance_of(tags: dict[str, str]) -> int:
    """RFC 8617 §4.2.1: 1 to 50. Raises Malformed."""
    instance = number(tags, "i")
    if instance is None or not 1 <= instance <= 50:
        raise Malformed("the instance is none")
    return instance


class Found(Struct, frozen=True):
    """The signatures of a header; those that are none are verdicts already."""

    signatures: tuple[Signature, ...]
    malformed: tuple[Verdict, ...]


def signatures_of(header: bytes) -> Found:
    """The first MAX_SIGNATURES DKIM-Signature fields."""
    good: list[Signature] = []
    bad: list[Verdict] = []
    for start, colon, end in offsets(header):
        if header[start:colon].strip().lower() != b"dkim-signature":
            continue
        if len(good) + len(bad) == MAX_SIGNATURES:
            break
        try:
            good.append(read_signature(header[start:end]))
        except Malformed as error:
            bad.append(Verdict("permerror", error.public))
    return Found(tuple(good), tuple(bad))


class _Limited:
    """Hashes the first `length` octets."""

    def __init__(self, length: int | None) -> None:
        self._digest = hashlib.sha256()
        self._left = length
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        if self._left is None:
            self._digest.update(data)
        elif self._left > 0:
            self._digest.update(data[: self._left])
            self._left = max(0, self._left - len(data))

    def digest(self) -> bytes:
        return self._digest.digest()


class BodyHash(Struct, frozen=True):
    """`size` is that of the whole canonical body, octets."""

    digest: bytes
    size: int


def hash_bodies(chunks: Iterable[bytes], keys: Iterable[tuple[bool, int | None]]) -> dict[tuple[bool, int | None], BodyHash]:
    """The hashes that signatures need (`Signature.body_key`), in one pass."""
    sinks = {key: _Limited(key[1]) for key in keys}
    canonical = [BodyCanonicalizer(sink.update, relaxed=key[0]) for key, sink in sinks.items()]
    for chunk in chunks:
        for one in canonical:
            one.feed(chunk)
    for one in canonical:
        one.finish()
    return {key: BodyHash(sink.digest(), sink.size) for key, sink in sinks.items()}


def without_value(field: bytes) -> bytes:
    """The field with an empty b= (RFC 6376 §3.7); what is around it stays as it is."""
    name, colon, value = field.partition(b":")
    parts = value.split(b";")
    for index, part in enumerate(parts):
        tag, equals, text = part.partition(b"=")
        if equals and tag.strip(b" \t\r\n") == b"b":
            # Of the last tag, the line end of the field is no part.
            end = b"\r\n" if index == len(parts) - 1 and text.endswith(b"\r\n") else b""
            parts[index] = tag + equals + end
            break
    return name + colon + b";".join(parts)


def verify(signature: Signature, records: Sequence[bytes] | None, header: bytes, body: BodyHash, *, now: float) -> Verdict:
    """What comes of a signature. `records` are the TXT records at its `record_name`; None: nobody can say now."""
    result, reason = _verify(signature, records, header, body, now)
    return Verdict(result, reason, signature.domain, signature.selector, signature.algorithm)


def _verify(
    signature: Signature, records: Sequence[bytes] | None, header: bytes, body: BodyHash, now: float
) -> tuple[str, str]:
    if signature.expires is not None and signature.expires + CLOCK_SKEW_SECONDS < now:
        return "fail", "the signature has expired"
    if signature.timestamp is not None and signature.timestamp > now + CLOCK_SKEW_SECONDS:
        return "fail", "the signature is of the future"
    if signature.length is not None and signature.length > body.size:
        return "permerror", "l= is more than there is"
    if signature.body_hash != body.digest:
        return "fail", "the body has changed"
    fields = select_fields(header, signature.names, relaxed=signature.form.header_relaxed)
    field = without_value(signature.field)
    data = signed_data(fields, field, relaxed=signature.form.header_relaxed)
    result = check_value(signature.algorithm, signature.value, records, data, signature.identity, signature.domain)
    if result[0] == "pass" and signature.length is not None and signature.length < body.size:
        return "policy", "l= leaves out a part of the body"  # RFC 6376 §8.2: anybody can have added it
    return result


def check_value(
    algorithm: str, value: bytes, records: Sequence[bytes] | None, data: bytes, identity: str = "", domain: str = ""
) -> tuple[str, str]:
    """Whether the owner of a key signed `data`."""
    if records is None:
        return "temperror", "the key cannot be looked up now"
    if not records:
        return "permerror", "there is no key"
    reason = "the signature does not match"
    result = "fail"
    for record in records[:5]:
        try:
            key = read_record(record)
        except Revoked as error:
            return "permerror", error.public
        except Malformed as error:
            result, reason = "permerror", error.public
            continue
        if key.is_rsa != (algorithm == RSA) or (key.hashes is not None and "sha256" not in key.hashes):
            result, reason = "permerror", "the key is for another algorithm"
            continue
        if key.is_strict and identity and identity.rpartition("@")[2].lower() != domain:
            result, reason = "permerror", "the key is not for subdomains"
            continue
        if key.is_signature(value, data):
            return ("neutral", "the domain is testing") if key.is_testing else ("pass", "")
        result, reason = "fail", "the signature does not match"
    return result, reason
