"""Signatures, seals, key records and policies of strangers: whatever they are, there is a verdict and no exception.

The invariant of mutated messages: a change of what is signed never leaves a signature good.
"""

from __future__ import annotations

import base64
import random

from hypothesis import given
from hypothesis import strategies as st

from rusmes._core.dkim import field_names, select_fields
from rusmes.delivery.mtasts import BadPolicy, read_policy, read_record
from rusmes.delivery.tlsrpt import read_rua
from rusmes.dkim.arc import read_chain, seal
from rusmes.dkim.keys import SigningKey, new_key
from rusmes.dkim.keys import read_record as read_key
from rusmes.dkim.signature import FieldChoice, Form, body_hashes, signed_data, unsigned_field, with_signature
from rusmes.dkim.tags import Malformed
from rusmes.dkim.verification import hash_bodies, signatures_of, verify

KEY = SigningKey("example.com", "s", new_key("ed25519"))
NOW = 1_700_000_000.0
HEADER = b"From: a@example.com\r\nTo: b@example.org\r\nSubject: one\r\n\ttwo\r\nDate: today\r\n\r\n"
BODY = b"line one\r\n\tline  two\r\n\r\n"
RECORDS = [KEY.record.encode()]
RESULTS = {"pass", "fail", "policy", "neutral", "temperror", "permerror"}


def signed() -> bytes:
    choice, form = FieldChoice().of(field_names(HEADER)), Form()
    field = unsigned_field(KEY, form, body_hashes([BODY], [True])[True], choice, now=NOW)
    fields = select_fields(HEADER, choice.names, relaxed=True)
    return with_signature(field, KEY.sign(signed_data(fields, field, relaxed=True))) + HEADER + BODY


def sealed(message: bytes, count: int) -> bytes:
    for _ in range(count):
        header, body = parts(message)
        chain = read_chain(header)
        digest = body_hashes([body], [True])[True]
        status = "pass" if chain.sets else "none"
        results = "mx.example.com; arc=pass"
        message = seal(KEY, chain, status, results, header, digest, FieldChoice(), KEY.sign, now=NOW) + message
    return message


def parts(message: bytes) -> tuple[bytes, bytes]:
    end = message.find(b"\r\n\r\n")
    return (message[: end + 4], message[end + 4 :]) if end >= 0 else (message, b"")


def verdicts(message: bytes) -> list[str]:
    header, body = parts(message)
    found = signatures_of(header)
    bodies = hash_bodies([body], {one.body_key for one in found.signatures})
    results = [verify(one, RECORDS, header, bodies[one.body_key], now=NOW).result for one in found.signatures]
    return [*results, *(verdict.result for verdict in found.malformed)]


def chain_status(message: bytes) -> str:
    header, body = parts(message)
    chain = read_chain(header)
    hashed = hash_bodies([body], [chain.body_key])[chain.body_key] if chain.sets else None
    records = dict.fromkeys(chain.record_names, RECORDS)
    return chain.verify(records, header, hashed, now=NOW)[0]


def mutated(message: bytes, chance: random.Random) -> bytes:
    data = bytearray(message)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            del data[place : place + chance.randint(1, 40)]
        elif kind == 2:
            data[place:place] = chance.choice([b";", b"=", b"\r\n", b"\r\n ", b":", b" ", b"\0", b"ARC-Seal: i=1;", b"b=AA"])
        else:
            other = chance.randrange(len(data))
            data[place:place] = data[other : other + chance.randint(1, 60)]
        if not data:
            data += b"x"
    return bytes(data)


def test_mutated_messages() -> None:
    chance = random.Random(11)
    message = sealed(signed(), 2)
    assert verdicts(message) == ["pass"]
    assert chain_status(message) == "pass"
    for _ in range(1000):
        broken = mutated(message, chance)
        assert set(verdicts(broken)) <= RESULTS
        assert chain_status(broken) in {"none", "pass", "fail", "temperror"}


def test_a_change_of_what_is_signed_is_seen() -> None:
    """Every octet of From, Subject and body that means something to the relaxed form."""
    message = sealed(signed(), 1)
    start = message.index(b"From: a@")
    for place in range(start, len(message)):
        octet = message[place : place + 1]
        if octet in b" \t\r\n:" or message[place - 1 : place] == b"\n":
            continue
        changed = message[:place] + (b"Z" if octet != b"Z" else b"Y") + message[place + 1 :]
        if message[place:].startswith((b"rom", b"o:", b"ubject", b"ate:")):
            continue  # names of fields: another field is signed then
        assert verdicts(changed) != ["pass"], message[place - 5 : place + 5]
        assert chain_status(changed) == "fail", message[place - 5 : place + 5]


PIECES = st.sampled_from(
    [
        "v=1", "v=DKIM1", "a=rsa-sha256", "a=ed25519-sha256", "d=x.org", "s=s", "bh=AAAA", "b=AAAA", "h=from", "h=from:to",
        "c=simple", "l=0", "l=99", "t=1", "x=1", "i=1", "i=@x.org", "i=50", "i=51", "cv=none", "cv=pass", "cv=fail",
        "q=dns/txt", "p=", "p=AAAA", "k=rsa", "k=ed25519", "", "=", "x", "\r\n ", "é=1", "d=é.org", "s=.", "h=", "a=", "n=\0",
    ]
)  # fmt: skip
LISTS = st.lists(PIECES, max_size=12).map("; ".join).map(str.encode)


@given(st.lists(st.tuples(st.sampled_from([b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature",
                                           b"ARC-Authentication-Results"]), LISTS), max_size=6))  # fmt: skip
def test_fields_of_pieces(fields: list[tuple[bytes, bytes]]) -> None:
    message = b"".join(name + b": " + value + b"\r\n" for name, value in fields) + HEADER + BODY
    assert "pass" not in verdicts(message)
    assert chain_status(message) in {"none", "fail", "temperror"}


@given(st.one_of(LISTS, st.binary(max_size=80), st.binary(max_size=60).map(lambda b: b"v=DKIM1; p=" + base64.b64encode(b))))
def test_records(record: bytes) -> None:
    try:
        read_key(record)
    except Malformed:
        pass
    read_record([record])
    read_rua([record])


@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(
    ["version: STSv1", "mode: enforce", "mode: none", "mx: a.org", "mx: *.b.org", "mx: *", "max_age: 1", "max_age: x", ":", "x"]
), max_size=8).map("\n".join).map(str.encode)))  # fmt: skip
def test_policies(text: bytes) -> None:
    try:
        policy = read_policy(text, "1", "x.org", 0.0)
    except BadPolicy:
        return
    assert policy.mode in ("enforce", "testing", "none")
    policy.allows("a.org")


