"""Signatures of others: the examples of the RFCs, and what is not to be believed."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from rusmes._core.dkim import field_names, select_fields
from rusmes.dkim.keys import SigningKey, new_key, public_record
from rusmes.dkim.signature import FieldChoice, Form, body_hashes, signed_data, unsigned_field, with_signature
from rusmes.dkim.tags import Malformed, parse_tags
from rusmes.dkim.verification import Verdict, hash_bodies, read_signature, signatures_of, verify

NOW = 1_528_700_000.0

# RFC 6376 appendix A.2; the body with one space after "game." (erratum 3192).
RFC6376 = """\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
        4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
        KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
        4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
""".replace("\n", "\r\n").encode()
RFC6376_RECORD = (
    b"v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5"
    b"ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)

# RFC 8463 appendix A.3
RFC8463 = """\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
""".replace("\n", "\r\n").encode()
RFC8463_RECORDS = {
    "brisbane._domainkey.football.example.com": b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "test._domainkey.football.example.com": (
        b"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Q"
        b"vx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
    ),
}
ED25519_SEED = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")


def check(message: bytes, records: dict[str, bytes] | bytes | None, now: float = NOW) -> list[Verdict]:
    head, _, body = message.partition(b"\r\n\r\n")
    header = head + b"\r\n\r\n"
    found = signatures_of(header)
    hashes = hash_bodies([body], {one.body_key for one in found.signatures})
    verdicts = []
    for one in found.signatures:
        record = records.get(one.record_name) if isinstance(records, dict) else records
        answer = None if records is None else [record] if record is not None else []
        verdicts.append(verify(one, answer, header, hashes[one.body_key], now=now))
    return [*found.malformed, *verdicts]


@pytest.mark.rfc("6376", "A.2")
def test_the_example_of_rfc6376() -> None:
    (verdict,) = check(RFC6376, RFC6376_RECORD)
    assert verdict == Verdict("pass", "", "example.com", "brisbane", "rsa-sha256")


@pytest.mark.rfc("8463", "A.3")
def test_the_examples_of_rfc8463() -> None:
    assert [verdict.result for verdict in check(RFC8463, RFC8463_RECORDS)] == ["pass", "pass"]


@pytest.mark.rfc("8463", "A.2")
def test_the_key_of_rfc8463_makes_its_record_and_signature() -> None:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(ED25519_SEED)
    assert public_record(private).encode() == RFC8463_RECORDS["brisbane._domainkey.football.example.com"]
    head = RFC8463.partition(b"\r\n\r\n")[0] + b"\r\n"
    signature = signatures_of(head).signatures[0]
    fields = select_fields(head, signature.names, relaxed=True)
    start = signature.field.index(b" b=") + 3
    data = signed_data(fields, signature.field[:start] + b"\r\n", relaxed=True)
    assert SigningKey("football.example.com", "brisbane", private).sign(data) == signature.value


KEY = SigningKey("example.com", "s1", new_key("ed25519"))
HEADER = b"From: a@example.com\r\nTo: b@example.org\r\nSubject: x\r\n\r\n"
BODY = b"Hello\r\n"


def signed(header: bytes = HEADER, body: bytes = BODY, *, form: str = "relaxed/relaxed", tags: bytes = b"") -> bytes:
    choice = FieldChoice().of(field_names(header))
    one = Form.of(form)
    digest = body_hashes([body], [one.body_relaxed])[one.body_relaxed]
    field = unsigned_field(KEY, one, digest, choice, now=NOW - 10, expire_seconds=1000)
    if tags:
        field = field.replace(b"v=1;", b"v=1; " + tags)
    fields = select_fields(header, choice.names, relaxed=one.header_relaxed)
    return with_signature(field, KEY.sign(signed_data(fields, field, relaxed=one.header_relaxed))) + header + body


@pytest.mark.parametrize("form", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
def test_what_is_made_is_verified(form: str) -> None:
    (verdict,) = check(signed(form=form), KEY.record.encode())
    assert verdict.is_pass


@pytest.mark.parametrize(
    ("change", "result", "reason"),
    [
        ((b"Hello", b"Hallo"), "fail", "body"),
        ((b"Subject: x", b"Subject: y"), "fail", "match"),
        ((b"From: a@", b"From: m@evil.example\r\nFrom: a@"), "fail", "match"),  # oversigned
        ((b"To: b@", b"Cc: c@example.org\r\nTo: b@"), "fail", "match"),
        ((b"To: b@", b"X-Trace: 1\r\nTo: b@"), "pass", ""),
        ((b"s=s1", b"s=s2"), "fail", "match"),
        ((b"a=ed25519-sha256", b"a=rsa-sha256"), "permerror", "another algorithm"),
        ((b"a=ed25519-sha256", b"a=rsa-sha1"), "permerror", "algorithm"),
        ((b"v=1;", b"v=2;"), "permerror", "version"),
        ((b"v=1;", b""), "permerror", "version"),
        ((b"v=1;", b"v=1; v=1;"), "permerror", "twice"),
        ((b"v=1;", b"v=1; i=a@example.net;"), "permerror", "identity"),
        ((b"v=1;", b"v=1; q=finger;"), "permerror", "DNS"),
        ((b"v=1;", b"v=1; l=x;"), "permerror", "number"),
        ((b"v=1;", b"v=1; l=999;"), "permerror", "more than there is"),
        ((b"c=relaxed/relaxed", b"c=lax"), "permerror", "canonical"),
        ((b"h=from:from", b"h=to"), "permerror", "From is not signed"),
        ((b"d=example.com", b"d="), "permerror", "name"),
        ((b"d=example.com", b"d=exa mple..com"), "permerror", "name"),
        ((b"bh=", b"bh=!"), "permerror", "base64"),
    ],
)  # fmt: skip
def test_what_was_changed_on_the_way(change: tuple[bytes, bytes], result: str, reason: str) -> None:
    message = signed()
    assert change[0] in message
    (verdict,) = check(message.replace(*change, 1), KEY.record.encode())
    assert (verdict.result, reason in verdict.reason) == (result, True), verdict


@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        (None, "temperror", "now"),
        ({}, "permerror", "no key"),
        (b"v=DKIM1; k=ed25519; p=", "permerror", "revoked"),
        (b"v=DKIM2; p=AAAA", "permerror", "no DKIM key"),
        (b"v=DKIM1; k=ed25519", "permerror", "no key"),
        (b"v=DKIM1; k=ed25519; p=AAAA", "permerror", "none"),
        (b"v=DKIM1; k=dsa; p=AAAA", "permerror", "kind"),
        (b"p=AAAA; v=DKIM1", "permerror", "no DKIM key"),
        (KEY.record.encode() + b"; s=tlsrpt", "permerror", "not for mail"),
        (KEY.record.encode() + b"; h=sha1", "permerror", "algorithm"),
        (KEY.record.encode() + b"; h=sha1:sha256; s=email; t=s; n=a note", "pass", ""),
        (KEY.record.encode() + b"; t=y:s", "neutral", "testing"),
    ],
)
def test_records(record: bytes | None, result: str, reason: str) -> None:
    (verdict,) = check(signed(), record)
    assert (verdict.result, reason in verdict.reason) == (result, True), verdict


@pytest.mark.rfc("8301", "3.2")
def test_keys_of_less_than_1024_bits_are_not_taken() -> None:
    from cryptography.hazmat.primitives import serialization

    record = RFC6376_RECORD.replace(b"v=DKIM1;", b"v=DKIM1; k=rsa;")
    assert check(RFC6376, record)[0].is_pass
    der = base64.b64decode(  # 512 bits
        "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALRiMLAHudeSA/x3hB2f+2NRkJLA8oMdxI0Mkk0Y5xJ9MOYVdcSJDNmWY9zZ7ZlFhRjjG+hWQJzqL8tE"
        "2dRIzk0CAwEAAQ=="
    )
    assert serialization.load_der_public_key(der) is not None
    (verdict,) = check(RFC6376, b"v=DKIM1; p=" + base64.b64encode(der))
    assert (verdict.result, verdict.reason) == ("permerror", "the RSA key has 512 bits")


def test_time() -> None:
    record = KEY.record.encode()
    assert check(signed(), record, NOW + 5000)[0].reason == "the signature has expired"
    assert check(signed(), record, NOW - 5000)[0].reason == "the signature is of the future"


@pytest.mark.rfc("6376", "8.2")
def test_a_length_that_leaves_something_out_never_passes() -> None:
    whole = signed(tags=b"l=7;")
    assert check(whole, KEY.record.encode())[0].is_pass
    (verdict,) = check(whole + b"BUY NOW\r\n", KEY.record.encode())
    assert verdict.result == "policy"


def test_a_strict_key_is_not_for_subdomains() -> None:
    message = signed(tags=b"i=@sub.example.com;")
    assert check(message, KEY.record.encode())[0].is_pass
    assert check(message, KEY.record.encode() + b"; t=s")[0].result == "permerror"


def test_signatures_are_counted() -> None:
    message = b"DKIM-Signature: v=1; a=none\r\n" * 50 + signed()
    assert len(check(message, KEY.record.encode())) == 10
    many = signed().replace(b"h=from", b"h=from" + b":x" * 600)
    assert check(many, KEY.record.encode())[0].reason == "too many fields are signed"


def test_tag_lists() -> None:
    assert parse_tags(b" v = 1 ;\r\n\ta=b=c ; d = ; ") == {"v": "1", "a": "b=c", "d": ""}
    for bad in (b"v", b"v=1; =2", b"1v=1", b"a b=c", b"v=1;; a=2"):
        with pytest.raises(Malformed):
            parse_tags(bad)


@pytest.mark.rfc("8616", "4")
def test_internationalized_domains() -> None:
    field = b"DKIM-Signature: v=1; a=ed25519-sha256; d=B\xc3\xbccher.example; s=s\xc3\xa4; h=from; bh=AAAA; b=AAAA\r\n"
    assert read_signature(field).record_name == "xn--s-0fa._domainkey.xn--bcher-kva.example"
