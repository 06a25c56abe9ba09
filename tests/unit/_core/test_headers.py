import pytest

from rusmes._core.headers import HeaderScanner, fields, find_value, find_values, offsets, without
from tests.splits import assert_split_invariant

BLOCK = (
    b"Received: from a\r\n\tby b;\r\n  Tue, 1 Jan 2030 00:00:00 +0000\r\n"
    b"RECEIVED: second\r\n"
    b"Subject:  folded \r\n value\t \r\n"
    b"no field\r\n"
    b" its continuation\r\n"
    b"X-Empty:\r\n"
    b"Old : style\r\n"
    b"From: a@b\r\n"
    b"\r\n"
    b"Received: not in the header\r\n"
)


def scan(pieces):
    scanner = HeaderScanner()
    consumed = sum(scanner.feed(piece) for piece in pieces)
    return consumed, scanner.size, scanner.ended, scanner.received_count, scanner.mbox_from


def test_the_scanner_finds_the_end_and_counts_trace_fields():
    size = BLOCK.index(b"\r\n\r\n") + 4
    assert scan([BLOCK]) == (size, size, True, 2, False)


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (b"", (0, 0, False, 0, False)),
        (b"\r\n", (2, 2, True, 0, False)),
        (b"\r\nReceived: x\r\n", (2, 2, True, 0, False)),
        (b"A: b\r\n", (6, 6, False, 0, False)),
        (b"Received: x", (11, 11, False, 0, False)),
        (b"received:\r\nreceive:\r\nReceivedX: y\r\n\r\nx", (37, 37, True, 1, False)),
        (b"From me Tue\r\nA: b\r\n\r\n", (21, 21, True, 0, True)),
        (b">From me Tue\r\n\r\n", (16, 16, True, 0, True)),
        (b"From: me\r\nFrom x y\r\n\r\n", (22, 22, True, 0, False)),
        (b"A: b\n\nc\r\n\r\n", (11, 11, True, 0, False)),
        (b"A: b\r\n\r\r\n\r\n", (11, 11, True, 0, False)),
        (BLOCK, (BLOCK.index(b"\r\n\r\n") + 4,) * 2 + (True, 2, False)),
    ],
)
def test_cutting_changes_nothing(data, facts):
    assert assert_split_invariant(scan, data, everywhere=True) == facts


def test_fields_are_unfolded_and_junk_is_passed_over():
    assert fields(BLOCK) == [
        (b"Received", b"from a\tby b;  Tue, 1 Jan 2030 00:00:00 +0000"),
        (b"RECEIVED", b"second"),
        (b"Subject", b"folded  value"),
        (b"X-Empty", b""),
        (b"Old", b"style"),
        (b"From", b"a@b"),
    ]


def test_offsets_cut_the_block_into_fields():
    found = [BLOCK[start:end] for start, _, end in offsets(BLOCK)]
    assert found[0] == BLOCK[: BLOCK.index(b"RECEIVED")]
    assert [BLOCK[start:colon] for start, colon, _ in offsets(BLOCK)] == [
        b"Received", b"RECEIVED", b"Subject", b"X-Empty", b"Old ", b"From",
    ]  # fmt: skip


def test_names_are_found_without_case():
    assert find_value(BLOCK, b"subject") == b"folded  value"
    assert find_values(BLOCK, b"received") == [b"from a\tby b;  Tue, 1 Jan 2030 00:00:00 +0000", b"second"]
    assert find_value(BLOCK, b"old") == b"style"
    assert find_value(BLOCK, b"x-empty") == b""
    assert find_value(BLOCK, b"no") is None
    assert find_value(BLOCK, b"") is None
    assert find_values(b"", b"x") == []
    assert find_value(b"\r\nSubject: in the body\r\n", b"subject") is None


def test_removing_leaves_everything_else_byte_for_byte():
    assert without(BLOCK, {b"received", b"x-empty"}) == (
        b"Subject:  folded \r\n value\t \r\n"
        b"no field\r\n"
        b" its continuation\r\n"
        b"Old : style\r\n"
        b"From: a@b\r\n"
        b"\r\n"
        b"Received: not in the header\r\n"
    )
    assert without(BLOCK, frozenset()) is BLOCK
    assert without(BLOCK, {b"old"}).count(b"style") == 0


def test_a_block_without_an_empty_line_ends_at_its_end():
    assert fields(b"A: b\r\nC: d") == [(b"A", b"b"), (b"C", b"d")]
    assert without(b"A: b\r\nC: d", {b"c"}) == b"A: b\r\n"


def test_p22_many_tiny_lines_and_one_huge_name_take_linear_time():
    block = b"a:\r\n" * 50_000 + b"n" * 100_000 + b": v\r\n\r\n"
    assert len(fields(block)) == 50_001
    assert find_value(block, b"n" * 100_000) == b"v"
    assert scan([block])[0] == len(block)
