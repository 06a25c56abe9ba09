"""Address lists: RFC 5322 §3.4, its obsolete forms, and what people really write."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes._core.mime import plain_addresses
from rusmes.mime.addresses import MAX_ADDRESSES, ParsedAddress, _rendered, parse_addresses, render_addresses

END = (None, None, None, None)

CASES: list[tuple[bytes, list[tuple[bytes | None, bytes | None, bytes | None, bytes | None]]]] = [
    (b"", []),
    (b"  \t", []),
    (b"user@example.com", [(None, None, b"user", b"example.com")]),
    (b"<user@example.com>", [(None, None, b"user", b"example.com")]),
    (b"Jane Doe <jane@example.com>", [(b"Jane Doe", None, b"jane", b"example.com")]),
    (b'"Doe, Jane" <jane@example.com>', [(b"Doe, Jane", None, b"jane", b"example.com")]),
    (b'"a \\"q\\" \\\\ b" <j@x.y>', [(b'a "q" \\ b', None, b"j", b"x.y")]),
    (b"j@x.y (Jane (the) Doe)", [(b"Jane (the) Doe", None, b"j", b"x.y")]),
    (b"Jane (comment) Doe <j@x.y>", [(b"Jane Doe", None, b"j", b"x.y")]),
    (b"a@b.c, d@e.f,, g@h.i,", [(None, None, b"a", b"b.c"), (None, None, b"d", b"e.f"), (None, None, b"g", b"h.i")]),
    (b"a@b.c; d@e.f", [(None, None, b"a", b"b.c"), (None, None, b"d", b"e.f")]),
    (b"undisclosed-recipients:;", [(None, None, b"undisclosed-recipients", None), END]),
    (b"Team: a@b.c, X <d@e.f>;, g@h.i", [
        (None, None, b"Team", None), (None, None, b"a", b"b.c"), (b"X", None, b"d", b"e.f"), END, (None, None, b"g", b"h.i"),
    ]),
    (b"Open: a@b.c", [(None, None, b"Open", None), (None, None, b"a", b"b.c"), END]),
    (b"<@hop.one,@hop.two:user@x.y>", [(None, b"@hop.one,@hop.two", b"user", b"x.y")]),
    (b'"quoted local"@x.y', [(None, None, b"quoted local", b"x.y")]),
    (b"user@[192.0.2.1]", [(None, None, b"user", b"[192.0.2.1]")]),
    (b"pete . silly @ example . com", [(None, None, b"pete . silly", b"example . com")]),
    (b"root", [(None, None, b"root", b"")]),
    (b"Root <root>", [(b"Root", None, b"root", b"")]),
    (b"<>", []),
    (b"Nobody <>", [(b"Nobody", None, b"", b"")]),
    (b"=?utf-8?Q?J=C3=B6rg?= <j@x.y>", [(b"=?utf-8?Q?J=C3=B6rg?=", None, b"j", b"x.y")]),
    ("Jörg <jörg@bücher.example>".encode(), [("Jörg".encode(), None, "jörg".encode(), "bücher.example".encode())]),
    (b"a@b@c.d", [(None, None, b"a@b", b"c.d")]),
    (b'"unclosed <j@x.y>', [(None, None, b"unclosed <j@x.y>", b"")]),
    (b"unclosed (comment j@x.y", [(b"comment j@x.y", None, b"unclosed", b"")]),
    (b"Jane\r\n\tDoe\r\n <j@x.y>", [(b"Jane\tDoe", None, b"j", b"x.y")]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), CASES, ids=[repr(value)[:40] for value, _ in CASES])
def test_lists(value: bytes, expected: list[tuple[bytes | None, ...]]) -> None:
    assert parse_addresses(value) == [ParsedAddress(*parts) for parts in expected]


@pytest.mark.rfc("9051", "7.5.2")
def test_a_rendered_list() -> None:
    assert render_addresses(b"") == b"NIL"
    assert render_addresses(b'"D\\"J" <j@x.y>, a@b.c') == b'(("D\\"J" NIL "j" "x.y")(NIL NIL "a" "b.c"))'
    assert render_addresses(b"g: a@b.c;") == b'((NIL NIL "g" NIL)(NIL NIL "a" "b.c")(NIL NIL NIL NIL))'
    assert render_addresses("ö@x.y".encode()) == b'((NIL NIL {2}\r\n\xc3\xb6 "x.y"))'


@pytest.mark.parametrize(
    "value",
    [b"(" * 100_000, b"(a" * 50_000, b"<" * 100_000, b'"' * 100_001, b"a " * 100_000, b"@" * 100_000, b"a:" * 50_000,
     b"[" * 100_000, b"\\" * 100_000, b"a@b.c," * 40_000, b" " * 200_000, b"x" * 250_000],
    ids=lambda value: repr(value[:4]),
)  # fmt: skip
def test_nothing_takes_more_than_linear_time(value: bytes) -> None:
    started = time.process_time()
    assert len(parse_addresses(value)) <= MAX_ADDRESSES + 1
    assert time.process_time() - started < 1.5


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text('a@.<>(),:;"\\[] \r\n', max_size=60).map(str.encode))
def test_everything_parses_and_renders_to_balanced_lists(value: bytes) -> None:
    rendered = render_addresses(value)
    assert rendered == b"NIL" or (rendered.startswith(b"((") and rendered.endswith(b"))"))
    groups = 0
    for name, _, mailbox, host in parse_addresses(value):
        if host is None:
            assert name is None
            groups += 1 if mailbox is not None else -1
            assert groups in (0, 1)
    assert groups == 0


PIECES = [
    b"a", b"b.c", b"@", b"x@y.z", b"<", b">", b"<x@y.z>", b",", b", ", b" ", b"  ", b"\t", b"\r\n ", b"\r", b'"', b'"A B"',
    b'"Doe, J"', b"\\", b"(", b")", b":", b";", b"[", b"]", b"\xc3\xb6", b"\0", b"\x0b", b"\x7f", b"\x01", b"Jane Doe",
    b'" q "', b'""', b"=?utf-8?q?x?=",
]  # fmt: skip
ADDRESSES = [
    b"x@y.z", b"<x@y.z>", b"Jane Doe <x@y.z>", b'"A, B" <x@y.z>', b'" q " <x@y.z>', b'"" <x@y.z>', b'"A"<x@y>', b"J  D <x@y>",
    b"J\tD<x@y>",
]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
def test_what_c_renders_is_what_the_scanner_finds(value: bytes) -> None:
    plain = plain_addresses(value)
    assert plain is None or plain == _rendered(value)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([b", ", b",", b" ,\r\n\t", b";", b",,"])), max_size=5))
def test_plain_lists_are_rendered_in_c(items: list[tuple[bytes, bytes]]) -> None:
    value = b" " + b"".join(address + separator for address, separator in items) + b"last@y.z\r"
    plain = plain_addresses(value)
    assert plain is None or plain == _rendered(value)
    odd = {b"J  D <x@y>", b"J\tD<x@y>", b";", b",,"}
    assert (plain is None) is any(part in odd for item in items for part in item)


def test_a_list_without_end_is_cut() -> None:
    for count in (1000, MAX_ADDRESSES + 10):
        value = b"a@b.c, " * (count - 1) + b"a@b.c"
        assert render_addresses(value) == _rendered(value)
        assert render_addresses(value).count(b"(NIL") == min(count, MAX_ADDRESSES)
