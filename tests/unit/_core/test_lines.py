import pytest

from rusmes._core.lines import EndlessLine, LineBuffer, LineTooLong
from tests.splits import assert_split_invariant


def read(pieces, *, limit=10, discard_limit=40):
    """What a loop that takes lines as they come sees."""
    buffer = LineBuffer(limit, discard_limit=discard_limit)
    seen = []
    for piece in pieces:
        buffer.feed(piece)
        while True:
            try:
                line = buffer.take_line()
            except LineTooLong:
                seen.append("too long")
                continue
            except EndlessLine:
                return [*seen, "endless"]
            if line is None:
                break
            seen.append((line, buffer.bare_lf))
    return seen


def test_lines_come_without_their_ends():
    assert read([b"one\r\ntwo\nthree"]) == [(b"one", False), (b"two", True)]


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", []),
        (b"\r\n", [(b"", False)]),
        (b"\n\r\n", [(b"", True), (b"", False)]),
        (b"a\rb\r\r\n", [(b"a\rb\r", False)]),
        (b"12345678\r\n", [(b"12345678", False)]),
        (b"123456789\r\nnext\r\n", ["too long", (b"next", False)]),
        (b"123456789\n123\n", [(b"123456789", True), (b"123", True)]),
        (b"1234567890\n123\n", ["too long", (b"123", True)]),
        (b"x" * 39 + b"\r\nok\r\n", ["too long", (b"ok", False)]),
        (b"x" * 40 + b"\r\nok\r\n", ["endless"]),
        (b"x" * 41, ["endless"]),
        (b"x" * 40, []),
    ],
)
def test_cutting_changes_nothing(data, seen):
    assert assert_split_invariant(read, data, everywhere=True) == seen


def test_the_rest_of_a_long_line_is_never_a_line():
    buffer = LineBuffer(10)
    buffer.feed(b"MAIL FROM:<" + b"a" * 50)
    assert buffer.take_line() is None
    buffer.feed(b"QUIT\r")
    assert buffer.take_line() is None
    buffer.feed(b"\nNOOP\r\n")
    with pytest.raises(LineTooLong):
        buffer.take_line()
    assert buffer.take_line() == b"NOOP"


def test_memory_is_bounded_while_a_line_has_no_end():
    buffer = LineBuffer(512)
    piece = b"x" * 4096
    for _ in range(16):
        buffer.feed(piece)
        assert buffer.take_line() is None
        assert len(buffer) == 0
    buffer.feed(piece)
    with pytest.raises(EndlessLine):
        buffer.take_line()


def test_take_rest_gives_what_was_not_consumed():
    buffer = LineBuffer(100)
    buffer.feed(b"STLS\r\nRSET\r\n")
    assert buffer.take_line() == b"STLS"
    assert buffer.waiting == 6
    assert buffer.take_rest() == b"RSET\r\n"
    assert buffer.waiting == 0
    assert buffer.take_rest() == b""


def test_the_limit_may_change_between_lines():
    buffer = LineBuffer(6)
    buffer.feed(b"abcdefg\r\nabcdefg\r\n")
    with pytest.raises(LineTooLong):
        buffer.take_line()
    buffer.limit = 9
    assert buffer.take_line() == b"abcdefg"


def test_a_limit_counts_the_line_end():
    with pytest.raises(ValueError, match="CRLF"):
        LineBuffer(1)
