"""The reading of header blocks in C against the regular expressions that say the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core import mime

FIELD = re.compile(rb"^(([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*))", re.M)
IDENTIFIER = re.compile(rb"<([^<>\r\n]{1,998})>")
NAMES = frozenset((b"to", b"subject"))
BLOCKS = st.lists(
    st.sampled_from([b"To", b"SUBJECT", b"x", b":", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b"\xe9", b"From ", b"a <b@c>"]),
    max_size=30,
).map(b"".join)


@given(BLOCKS)
def test_fields(block: bytes) -> None:
    found = FIELD.findall(block)
    picked = [raw.rstrip(b"\r") for raw, name, _ in found if name.lower() in NAMES]
    expected = [(name.lower(), value) for _, name, value in found]
    assert mime.parse_fields(block) == expected
    named = [field for field in expected if field[0] in NAMES]
    assert mime.pick_fields(block, mime.FieldNames(NAMES)) == (named, b"\r\n".join([*picked, b""]))


@given(st.lists(st.sampled_from([b"<", b">", b"a", b"b@c", b" ", b"\t", b"\v", b"\r", b"\n", b"x" * 500]), max_size=20))
def test_identifiers(pieces: list[bytes]) -> None:
    value = b"".join(pieces)
    assert mime.identifiers(value) == [b"".join(match.split()) for match in IDENTIFIER.findall(value)]


TEXTS = (b"date", b"subject", b"in-reply-to", b"message-id")
PLACES = (b"date", b"subject", b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"in-reply-to", b"message-id")


@given(st.lists(st.tuples(st.sampled_from([*PLACES, b"tt", b"received", b"content-type"]), st.binary(max_size=3)), max_size=20))
def test_envelope_values(fields: list[tuple[bytes, bytes]]) -> None:
    expected = []
    for place in PLACES:
        values = [value for name, value in fields if name == place]
        expected.append((values[0] if place in TEXTS else b",".join(values)) if values else None)
    assert mime.envelope_values(fields) == expected


@pytest.mark.parametrize("name", [b"", b"Subject", b"x" * 64])
def test_names_that_are_none(name: bytes) -> None:
    with pytest.raises(ValueError, match="lower case"):
        mime.FieldNames([name])


@given(st.lists(st.tuples(st.sampled_from([b"message-id", b"in-reply-to", b"references", b"to"]), st.sampled_from(
    [b"<a@x>", b"<b@x> <a@x>", b"none", b"<c@x>\r\n <d@x>", b"<e@x><f@x>"])), max_size=6), st.integers(0, 8))  # fmt: skip
def test_message_ids(fields: list[tuple[bytes, bytes]], most: int) -> None:
    found = {name: [mime.identifiers(value) for key, value in fields if key == name] for name, _ in fields}
    own = [ids[0] for ids in found.get(b"message-id", []) if ids]
    parents = [id for ids in found.get(b"in-reply-to", []) for id in ids]
    references = [id for ids in found.get(b"references", []) for id in ids]
    assert mime.message_ids(fields, most) == tuple(dict.fromkeys(own + parents + references[::-1]))[:most]


def test_content_fields() -> None:
    fields = [(b"content-type", b"a"), (b"content-type", b"b"), (b"content", b"c"), (b"content-id", b"d"), (b"x-content", b"")]
    assert mime.content_fields(fields) == {b"content-type": b"a", b"content-id": b"d"}
