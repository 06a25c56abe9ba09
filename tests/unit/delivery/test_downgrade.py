"""Messages in 7 bits: what a reader finds in them is what was in them, and what must not be changed is refused."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.delivery.downgrade import NotConvertible, SevenBit
from rusmes.mime.structure import MAX_PARTS
from rusmes.model.content import Content, Rendering

ID = bytes(16)


def rendering_of(message: bytes, *, prefix: bytes = b"") -> Rendering:
    end = message.find(b"\r\n\r\n")
    header_bytes = end + 4 if end >= 0 else len(message)
    return Rendering(Content(ID, len(message), header_bytes, data=message), prefix)


def converted(message: bytes) -> bytes:
    out = SevenBit(rendering_of(message)).read()
    assert out.isascii()
    return out


def text(message: str) -> bytes:
    return message.replace("\n", "\r\n").encode()


def parts(message: bytes) -> list[tuple[str, Any, bytes]]:
    """Type, file name and content of each leaf, by a parser that is not ours."""
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    leaves = [part for part in parsed.walk() if not part.is_multipart()]
    return [(part.get_content_type(), part.get_filename(), part.get_payload(decode=True)) for part in leaves]


MIXED = text("""From: a@example.org
Subject: Grüße
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b
Content-Transfer-Encoding: 8bit
X-Plain:  kept

Für Programme, die kein MIME kennen
--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Größe = 3\x20
.
From here = on
--b
Content-Type: text/plain

only = ASCII\x20
--b
Content-Type: application/octet-stream; name="ä.bin"
Content-Transfer-Encoding: 8bit
Content-Disposition: attachment; filename="ä.bin"

äöü
ß
--b
Content-Type: message/rfc822
Content-Transfer-Encoding: 8bit

Subject: inner ä
Content-Transfer-Encoding: 8bit
Content-Type: text/html; charset=utf-8

<p>ü</p>
--b--
Schluß
""")  # fmt: skip


@pytest.mark.rfc("6152", "3")
@pytest.mark.rfc("2045", "6.7")
@pytest.mark.rfc("2045", "6.8")
def test_p15_each_part_has_its_own_encoding() -> None:
    out = converted(MIXED)
    assert parts(out) == parts(MIXED)
    assert [line for line in out.split(b"\r\n") if b"ransfer" in line] == [
        b"Content-Transfer-Encoding: 7bit",
        b"Content-Transfer-Encoding: quoted-printable",
        b"Content-Transfer-Encoding: base64",
        b"Content-Transfer-Encoding: 7bit",
        b"Content-Transfer-Encoding: quoted-printable",
    ]
    assert b"\r\nX-Plain:  kept\r\n" in out
    assert b"--b\r\nContent-Type: text/plain\r\n\r\nonly = ASCII \r\n--b\r\n" in out
    assert all(len(line) <= 78 for line in out.split(b"\r\n"))
    assert str(email.message_from_bytes(out, policy=email.policy.default)["Subject"]) == "Grüße"
    assert b"F?" in out.split(b"--b")[0]  # the preamble


def test_ascii_messages_stay_as_they_are() -> None:
    message = b"Subject: x\r\nContent-Transfer-Encoding: 8bit\r\n\r\nbody = \r\n"
    assert converted(message) == message
    assert converted(b"Subject: x\r\n") == b"Subject: x\r\n"


@pytest.mark.rfc("1428", "3")
@pytest.mark.parametrize("head", [b"Subject: x\r\n", b"Subject: x\r\nContent-Type: text/plain; charset=latin1\r\n"])
def test_what_is_no_mime_becomes_it(head: bytes) -> None:
    out = converted(head + b"\r\ncaf\xe9\r\n")
    kind = b"" if b"Content" in head else b"Content-Type: text/plain; charset=unknown-8bit\r\n"
    field = b"Content-Transfer-Encoding: quoted-printable\r\n"
    assert out == b"MIME-Version: 1.0\r\n" + kind + head + field + b"\r\ncaf=E9\r\n"


def test_a_prefix_of_the_rendering_is_part_of_the_header() -> None:
    content = rendering_of(text("Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain\n\nä\n"), prefix=b"Received: us\r\n")
    out = SevenBit(content).read()
    assert out == text(
        "Received: us\nSubject: x\nMIME-Version: 1.0\nContent-Type: text/plain\n"
        "Content-Transfer-Encoding: quoted-printable\n\n=C3=A4\n"
    )


def test_a_header_alone_can_be_the_reason() -> None:
    assert converted(text("Subject: ä\n\nplain\n")) == text("Subject: =?utf-8?B?w6Q=?=\n\nplain\n")
    assert converted(text("Subject: x\nX: ä")) == text("Subject: x\nX: =?utf-8?B?w6Q=?=\n")


def test_a_large_message_is_read_from_its_file(tmp_path: Path) -> None:
    line = "Zeile mit Größe, und am Ende ein Leerzeichen \n"
    message = text(f"Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n--b\n\n{line * 20_000}"
                   f"--b\nContent-Type: image/x\n\n{'äx' * 100_000}\n--b--\n")  # fmt: skip
    path = tmp_path / "message"
    path.write_bytes(message)
    content = Content(ID, len(message), message.find(b"\r\n\r\n") + 4, path=str(path))
    convert = SevenBit(Rendering(content))
    out = b"".join(convert.chunks())
    assert out.isascii()
    assert parts(out) == parts(message)
    assert b"".join(convert.chunks()) == out
    assert out == converted(message)
    assert max(map(len, convert.chunks())) < 400_000


SIGNED = """MIME-Version: 1.0
Content-Type: multipart/signed; boundary=s; protocol="application/pgp-signature"

--s
Content-Type: text/plain

{}
--s
Content-Type: application/pgp-signature

{}
--s--
"""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (SIGNED.format("ä", "x"), "signed"),
        (SIGNED.format("x", "ä"), "signed"),
        (SIGNED.replace("text/plain", "text/plain; name=ä").format("x", "y"), "signed"),
        ("From: ä@x.org\n\nx\n", "'from'"),
        ("Message-ID: <ä@x>\n\nx\n", "'message-id'"),
        ("Content-Type: multipart/mixed\n\nä\n", "multipart"),
        ("Content-Type: message/delivery-status\n\nä\n", "message"),
        ("Content-Type: message/global\n\nSubject: ä\n\nx\n", "internationalized"),
        ("Content-Transfer-Encoding: base64\n\nä\n", "base64"),
        ("Content-Transfer-Encoding: x-uuencode\n\nä\n", "x-uuencode"),
        ("Content-Type: multipart/mixed; boundary=b\n\n" + "--b\n\nä\n" * (MAX_PARTS + 5), "too many"),
    ],
)
def test_what_must_not_be_changed_is_refused(message: str, reason: str) -> None:
    with pytest.raises(NotConvertible, match=reason):
        converted(text(message))


def test_a_signed_part_that_is_ascii_stays_byte_for_byte_beside_others() -> None:
    inner = SIGNED.replace("MIME-Version: 1.0\n", "").format("x = y ", "z")
    message = text(f"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n{inner}--b\n\nä\n--b--\n")
    out = converted(message)
    assert text(inner) in out
    assert parts(out) == parts(message)


WORDS = [b"a", b"=", b" ", b"\t", b".", b"\xe4", b"\xc3\xa4", b"From ", b"x" * 80, b"\r\n", b"\r", b"\n", b"\0"]
LINES = st.lists(st.sampled_from(WORDS))


@settings(max_examples=200)
@given(body=LINES, kind=st.sampled_from([b"text/plain", b"application/x", b"text/html; charset=utf-8"]))
def test_what_was_sent_is_what_is_read(body: list[bytes], kind: bytes) -> None:
    data = b"".join(body)
    message = b"MIME-Version: 1.0\r\nContent-Type: " + kind + b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + data
    out = converted(message)
    coded = out.partition(b"\r\n\r\n")[2]
    if data.isascii():
        assert out == message
        return
    assert all(len(line) <= 76 for line in coded.split(b"\r\n"))
    [(_, _, read)] = parts(out)
    # A parser of text sees a CR or LF alone that was encoded as what it is.
    assert read == data
