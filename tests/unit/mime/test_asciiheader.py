"""Header fields in ASCII: what others read in them, and what stays as it is."""

from __future__ import annotations

import email
import email.policy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.mime.asciiheader import INVALID_ADDRESS, NotAscii, ascii_block, encoded_words


def read(block: bytes) -> Any:
    """By a parser that is not ours."""
    assert block.isascii()
    assert all(len(line) <= 78 for line in block.splitlines()), block
    return email.message_from_bytes(block, policy=email.policy.default)


def written(text: str, *, for_reader: bool = False) -> bytes:
    return ascii_block(text.replace("\n", "\r\n").encode(), for_reader=for_reader)


def test_ascii_stays_byte_for_byte() -> None:
    block = b"Subject:  a\r\n\tb  \r\nbroken line\r\nTo : x\n\r\n"
    assert ascii_block(block, for_reader=True) is block
    assert ascii_block(block[:-2] + b"X: \xc3\xa4\r\n\r\n", for_reader=True) == block[:-2] + b"X: =?utf-8?B?w6Q=?=\r\n\r\n"


@pytest.mark.rfc("2047", "2")
@pytest.mark.rfc("2047", "5")
def test_texts_are_encoded_words() -> None:
    long = "Grüße aus Köln, und noch sehr viel mehr Text, damit es für zwei Wörter zu lang wird und auch für drei"
    assert read(written(f"Subject: Re: {long} (fwd)\n\n"))["Subject"].strip() == f"Re: {long} (fwd)"
    dense = "日本語のとても長い件名がここにあります、二つの語に分けなければなりません"
    assert read(written(f"X-Note: {dense}\n\n"))["X-Note"].strip() == dense
    # Nobody knows what it is; it is not lost.
    assert ascii_block(b"Subject: caf\xe9 x\r\n", for_reader=False) == b"Subject: =?unknown-8bit?Q?caf=E9?= x\r\n"
    # Folds inside become blanks, as a reader unfolds them.
    assert written("Subject: ä\n b\n\n") == b"Subject: =?utf-8?B?w6Q=?= b\r\n\r\n"


def test_addresses() -> None:
    message = read(written(
        'From: Jörg Müller <joerg@bücher.example>\n'
        'To: "Doe, Jäne" <jane@x.org>, "Roe, R" <r@x.org>, plain@x.org, "a b"@x.org (Kommentar ä)\n'
        "Cc: Gruppe Ä: a@b.c, ö <c@d.e>;, z@x.org\nReply-To: leer ä:;\n\n"
    ))  # fmt: skip
    assert str(message["From"]) == "Jörg Müller <joerg@xn--bcher-kva.example>"
    assert [(one.display_name, one.addr_spec) for one in message["To"].addresses] == [
        ("Doe, Jäne", "jane@x.org"), ("Roe, R", "r@x.org"), ("", "plain@x.org"), ("Kommentar ä", '"a b"@x.org'),
    ]  # fmt: skip
    assert str(message["Cc"]) == "Gruppe Ä: a@b.c, ö <c@d.e>;, z@x.org"
    assert message["Reply-To"].groups[0].display_name == "leer ä"


@pytest.mark.rfc("6858", "2.1")
def test_a_local_part_has_no_other_form() -> None:
    text = "From: Jörg <jörg@x.org>\nTo: jörg@x.org, a@x.org\n\n"
    with pytest.raises(NotAscii, match="from"):
        written(text)
    message = read(written(text, for_reader=True))
    invalid = INVALID_ADDRESS.decode()
    assert [(one.display_name, one.addr_spec) for one in message["From"].addresses] == [("Jörg", invalid)]
    assert [(one.display_name, one.addr_spec) for one in message["To"].addresses] == [
        ("jörg@x.org", invalid), ("", "a@x.org"),
    ]  # fmt: skip


@pytest.mark.rfc("2231", "3")
@pytest.mark.rfc("2231", "4")
def test_parameters() -> None:
    long = "Übersicht über alles, was es so gibt in dieser Welt, und noch \"mehr\" davon.txt"
    quoted = long.replace('"', '\\"')
    message = read(written(f'Content-Type: text/plain; charset=utf-8; name="{quoted}"\n'
                           'Content-Disposition: attachment; filename="ä b.txt"; size=3; x="a;b"\n\n'))  # fmt: skip
    assert message["Content-Type"].params == {"charset": "utf-8", "name": long}
    assert message["Content-Disposition"].params == {"filename": "ä b.txt", "size": "3", "x": "a;b"}
    for text in ('Content-Type: multipart/mixed; boundary="ä"\n', "Content-Type: téxt/plain\n", "Content-Type: a/b; ä=c\n"):
        with pytest.raises(NotAscii, match="content-type"):
            written(text)
        assert written(text, for_reader=True) == b""


@pytest.mark.rfc("6858", "2.4")
@pytest.mark.parametrize(
    "field", ["Message-ID: <ä@x>", "Received: from ä", "DKIM-Signature: d=ä", "Feld-ä: x", "kein Feld ä", "To: x@" + "ä" * 70]
)
def test_what_cannot_be_written(field: str) -> None:
    with pytest.raises(NotAscii):
        written(f"{field}\n\n")
    assert written(f"Subject: a\n{field}\nX: b\n\n", for_reader=True) == b"Subject: a\r\nX: b\r\n\r\n"


@given(st.text(min_size=1, max_size=200))
def test_no_encoded_word_is_too_long_or_torn(text: str) -> None:
    text = text.encode(errors="replace").decode()
    words = encoded_words(text.encode())
    assert all(len(word) <= 75 for word in words)
    decoded = "".join(part.decode(charset or "ascii") if isinstance(part, bytes) else part
                      for word in words for part, charset in email.header.decode_header(word.decode()))  # fmt: skip
    assert decoded == text


WORDS = (
    [b"From", b"To", b"Subject", b"Content-Type", b"X", b": ", b"\r\n", b"text/plain", b"name", b"a@b", b"\xc3\xa4"]
    + [bytes((octet,)) for octet in b':\n\r <>,;="()\\\0\xff']
)  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_every_block_is_ascii_for_a_reader(parts: list[bytes]) -> None:
    block = b"".join(parts)
    out = ascii_block(block, for_reader=True)
    assert out.isascii()
    assert ascii_block(out, for_reader=True) == out
    try:
        assert ascii_block(block, for_reader=False).isascii()
    except NotAscii:
        pass
