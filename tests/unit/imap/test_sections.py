"""Sections agree with BODYSTRUCTURE about what parts there are and how large they are, in every message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusmes.imap.command import FetchItem, Section
from rusmes.imap.fetch import Streamed, body_item, cached_fields, plan
from rusmes.imap.preview import MAX_CHARACTERS, preview_of
from rusmes.imap.sections import OpenedMessage, Span, item_name
from rusmes.mime.fields import CACHED_NAMES, FieldNames, pick_fields
from rusmes.model.content import Content, Rendering
from rusmes.storage.description import describe


def content(message: bytes, path: Path | None = None) -> Content:
    at = message.find(b"\r\n\r\n")
    header = len(message) if at < 0 else at + 4
    if message.startswith(b"\r\n"):
        header = 2
    if path is None:
        return Content(b"i" * 16, len(message), header, data=message)
    path.write_bytes(message)
    return Content(b"i" * 16, len(message), header, path=str(path))


def opened(message: bytes, prefix: bytes = b"", skip: int = 0) -> OpenedMessage:
    return OpenedMessage(Rendering(content(message), prefix, skip))


def read(message: OpenedMessage, path: tuple[int, ...] = (), text: str = "") -> bytes | None:
    span = message.span(Section(path, text))
    return message.read(span) if span is not None else None


TOKEN = re.compile(rb'\(|\)|"(?:[^"\\]|\\.)*"|\{(\d+)\}\r\n|[^\s()"{]+')


def parsed(structure: bytes) -> list:
    """A BODYSTRUCTURE as nested lists of bytes; the oracle's own reader."""
    stack: list[list] = [[]]
    at = 0
    while at < len(structure):
        if structure[at : at + 1] == b" ":
            at += 1
            continue
        match = TOKEN.match(structure, at)
        assert match, structure[at : at + 40]
        at = match.end()
        token = match.group()
        if token == b"(":
            stack.append([])
        elif token == b")":
            done = stack.pop()
            stack[-1].append(done)
        elif match[1]:
            stack[-1].append(structure[at : at + int(match[1])])
            at += int(match[1])
        else:
            stack[-1].append(token.strip(b'"'))
    assert len(stack) == 1
    [tree] = stack[0]
    return tree


def leaves(tree: list, path: tuple[int, ...], *, is_message: bool):
    """(path, octets, tree) of every part that is no multipart, and (path, None, tree) of those that are."""
    if isinstance(tree[0], list):
        if not is_message:  # that of a message has no number of its own
            yield path, None, tree
        for number, child in enumerate([child for child in tree if isinstance(child, list)], 1):
            if not isinstance(child[0], list | bytes) or (len(child) < 7 and not isinstance(child[0], list)):
                continue  # parameters and their like
            yield from leaves(child, (*path, number), is_message=False)
        return
    own = (*path, 1) if is_message else path
    yield own, int(tree[6]), tree
    if tree[0].lower() == b"message" and len(tree) > 9 and isinstance(tree[7], list):
        yield from leaves(tree[8], own, is_message=True)


PIECES = st.lists(
    st.sampled_from(
        [
            b"--a\r\n", b"--a--\r\n", b"--b\r\n", b"--b--\r\n", b"\r\n", b"text\r\n", b"x", b"\n",
            b"Content-Type: multipart/mixed; boundary=a\r\n", b"Content-Type: multipart/digest; boundary=b\r\n",
            b"Content-Type: message/rfc822\r\n", b"Content-Type: image/png\r\n", b"Content-Type: junk\r\n",
            b"Content-Type: multipart/mixed\r\n", b"Subject: s\r\n", b"\r\n\r\n",
        ]
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(PIECES)
def test_every_part_of_the_structure_can_be_fetched_and_has_its_size(pieces):
    message = b"".join(pieces)
    rendering = Rendering(content(message))
    tree = parsed(describe(rendering).body_structure)
    cut = OpenedMessage(rendering)
    assert read(cut) == message
    assert read(cut, (), "HEADER") + read(cut, (), "TEXT") == message
    seen = set()
    for path, octets, part in leaves(tree, (), is_message=True):
        assert path not in seen
        seen.add(path)
        body = read(cut, path)
        assert body is not None, path
        if octets is not None:
            assert len(body) == octets, path
        mime = read(cut, path, "MIME")
        assert mime is not None
        inner = read(cut, path, "HEADER")
        is_message = octets is not None and part[0].lower() == b"message" and isinstance(part[7], list)
        assert (inner is not None) == is_message
        if is_message:
            assert inner + read(cut, path, "TEXT") == body
    for path in seen:  # nothing comes behind the last part
        assert (*path[:-1], path[-1] + 1) in seen or read(cut, (*path[:-1], path[-1] + 1)) is None


@settings(max_examples=100, deadline=None)
@given(PIECES)
def test_a_message_in_a_file_is_cut_like_one_in_memory(tmp_path_factory, pieces):
    message = b"".join(pieces)
    file = tmp_path_factory.getbasetemp() / "body"
    inside, outside = opened(message), OpenedMessage(Rendering(content(message, file)))
    try:
        for path in [(), (1,), (2,), (1, 1), (2, 1), (1, 1, 1), (3,)]:
            for text in ("", "HEADER", "TEXT", "MIME"):
                assert read(inside, path, text) == read(outside, path, text)
    finally:
        outside.close()


def test_header_lines_on_top_belong_to_the_message():
    message = b"Subject: s\r\n\r\nbody"
    cut = opened(message, b"Received: here\r\n")
    assert read(cut) == b"Received: here\r\n" + message
    assert read(cut, (), "HEADER") == b"Received: here\r\nSubject: s\r\n\r\n"
    replaced = opened(message, b"Subject: other\r\n\r\n", 14)
    assert read(replaced) == b"Subject: other\r\n\r\nbody"
    assert read(replaced, (1,), "MIME") == b"Subject: other\r\n\r\n"
    assert read(replaced, (1,)) == b"body"


@pytest.mark.parametrize(
    ("partial", "expected"),
    [
        ((0, 3), b"pre"), ((2, 4), b"efix"), ((5, 4), b"xbod"), ((9, 100), b"y"), ((10, 1), b""), ((100, 5), b""),
        ((0, 100), b"prefixbody"),
    ],
)
def test_partials_count_over_all_pieces(partial, expected):
    cut = opened(b"..body", b"prefix", 2)
    span = cut.span(Section()).cut(partial)
    assert cut.read(span) == expected
    assert span.size == len(expected)
    assert b"".join(cut.chunks(span)) == expected


def test_names_of_items():
    assert item_name(FetchItem("BODY[]", Section((1, 2), "HEADER.FIELDS", (b"To", b"x y")), partial=(5, 6))) == (
        b'BODY[1.2.HEADER.FIELDS (To "x y")]<5>'
    )
    assert item_name(FetchItem("BINARY.SIZE", Section((3,)))) == b"BINARY.SIZE[3]"
    assert item_name(FetchItem("RFC822")) == b"RFC822"


def test_where_answers_come_from():
    fields = FetchItem("BODY[]", Section((), "HEADER.FIELDS", (b"To", b"SUBJECT")), peek=True)
    odd = FetchItem("BODY[]", Section((), "HEADER.FIELDS", (b"X-Odd",)), peek=True)
    assert plan((FetchItem("FLAGS"), FetchItem("UID"))).is_columns_only
    assert plan((fields, fields)).cached == (fields,)
    assert plan((fields,)).picks
    assert plan((odd,)).body == (odd,)
    assert not plan((odd, fields, FetchItem("PREVIEW"))).sets_seen
    assert plan((FetchItem("RFC822.TEXT"),)).sets_seen
    assert plan((FetchItem("RFC822"),)).whole == b"RFC822 "


def test_cached_fields_are_those_of_the_message():
    header = b"To: a\r\nSubject: one\r\n two\r\nX: y\r\nto : b\r\nDate: \0\r\n\r\n"
    names = (b"TO", b"Date", b"subject")
    cached = pick_fields(header, FieldNames(CACHED_NAMES))[1]
    item = FetchItem("BODY[]", Section((), "HEADER.FIELDS", names), peek=True)
    assert cached_fields(cached, item) == body_item(opened(header + b"body"), item, utf8=False)


def test_a_large_item_is_streamed(tmp_path):
    message = b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\r\n" + b"0123456789\r\n" * 50_000 + b"--o--\r\n"
    cut = OpenedMessage(Rendering(content(message, tmp_path / "body")))
    item = body_item(cut, FetchItem("BODY[]", Section((1,)), peek=True), utf8=False)
    assert isinstance(item, Streamed)
    assert item.heading == b"BODY[1] {599998}\r\n"
    pieces = list(item.pieces())
    assert max(map(len, pieces)) <= 64 * 1024
    assert b"".join(pieces) == (b"0123456789\r\n" * 50_000)[:-2]
    start = cut.root.children[0].body_start
    assert cut.span(Section((1,))).cut((5, 7)) == Span(b"", start + 5, start + 12)
    cut.close()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"A: b\r\n\r\n  some \t words\r\n\r\nmore\x07\r\n", "some words more"),
        (b"A: b\r\n\r\n", ""),
        (b"Content-Type: text/html\r\n\r\n<!-- no --><p class=x>a&lt;b<script>no</script>c<unended", "a<b c"),
        (b"Content-Type: text/html\r\n\r\n<style>never closed", ""),
        (b"Content-Transfer-Encoding: base64\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n5ORk\r\n", "ääd"),
        (b"Content-Type: application/pdf\r\n\r\ntext", ""),
        (
            b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nContent-Disposition: attachment\r\n\r\nno\r\n"
            b"--o\r\nContent-Type: text/html\r\n\r\n<p>rich\r\n--o\r\n\r\nplain\r\n--o--\r\n",
            "plain",
        ),
    ],
)
def test_preview(message, expected):
    assert preview_of(opened(message)) == expected


def test_a_preview_is_short():
    assert len(preview_of(opened(b"A: b\r\n\r\n" + b"word " * 1000))) <= MAX_CHARACTERS
