"""Transfer encodings undone: the same result however the input is cut, and something of every input."""

from __future__ import annotations

import base64
import binascii

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.mime.transfer import UnknownEncoding, decoded, decoder


def undone(data: bytes, encoding: bytes, sizes: list[int] | None = None) -> bytes:
    if sizes is None:
        return b"".join(decoded([data], encoding))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return b"".join(decoded([*pieces, data[at:]], encoding))


@given(st.binary(max_size=300))
def test_base64_comes_back(data):
    assert undone(base64.encodebytes(data).replace(b"\n", b"\r\n"), b"BASE64") == data


@given(st.binary(max_size=300))
def test_quoted_printable_comes_back(data):
    text = binascii.b2a_qp(data, quotetabs=True, istext=False)  # as text, mixed line ends would all become the first one's
    assert undone(text, b" quoted-printable ") == data


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [b"QUJD", b"=", b"==", b"=4", b"1", b"=41", b" ", b"\t", b"\r", b"\n", b"\r\n", b"=\r\n", b"\xff", b"a"]
        )
    ),
    st.lists(st.integers(0, 5)),
    st.sampled_from([b"base64", b"quoted-printable"]),
)
def test_where_the_input_is_cut_means_nothing(parts, sizes, encoding):
    text = b"".join(parts)
    assert undone(text, encoding, sizes) == undone(text, encoding)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"QUJDR", b"ABC"),  # six bits are no octet
        (b"QUJDRA", b"ABCD"),  # padding is missing
        (b"QUJDRA==QUJD", b"ABCD"),  # something behind the end
        (b"QU*J\r\n  D", b"ABC"),
        (b"====", b""),
    ],
)
def test_broken_base64(text, data):
    assert undone(text, b"base64") == data


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"a=3Db", b"a=b"),
        (b"soft =\r\nbreak", b"soft break"),
        (b"blanks  \t\r\nnext", b"blanks\r\nnext"),
        (b"=zz stays", b"=zz stays"),
    ],
)
def test_quoted_printable(text, data):
    assert undone(text, b"quoted-printable") == data


def test_a_line_without_an_end_does_not_stay_in_memory():
    undo = decoder(b"quoted-printable")
    size = 0
    for _ in range(100):
        size += len(undo.feed(b"x=41" * 5000))
    assert size >= 100 * 5000 * 2 - 70_000
    assert size + len(undo.finish()) == 100 * 5000 * 2


@pytest.mark.parametrize("encoding", [b"", b"7BIT", b"8bit", b"binary"])
def test_nothing_to_undo(encoding):
    assert decoder(encoding) is None
    assert undone(b"a=41", encoding) == b"a=41"


def test_an_unknown_encoding():
    with pytest.raises(UnknownEncoding):
        decoder(b"x-uuencode")
