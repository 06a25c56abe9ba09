"""Message text: one message or none, never two (S1 to S18 at the lexer)."""

import pytest

from rusmes._core.body import BARE_CR, BARE_LF, HEADER_TOO_LARGE, MBOX_FROM, NUL, TOO_LARGE, BodyScanner
from tests.oracles import smtp_text
from tests.splits import assert_split_invariant, cut

HEAD = b"Subject: x\r\n\r\nbody"
SECOND = b"\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nhello\r\n.\r\n"
REST = b"QUIT\r\n"

CR_OR_LF = BARE_CR | BARE_LF
# ID -> (what stands between two messages, faults in "reject")
SEQUENCES = {
    "S1": (b"\n.\n", BARE_LF),
    "S2": (b"\n.\r\n", BARE_LF),
    "S3": (b"\r\n.\n", BARE_LF),
    "S4": (b"\r.\r", BARE_CR),
    "S5": (b"\r.\n", CR_OR_LF),
    "S6": (b"\r.\r\n", BARE_CR),
    "S7": (b"\n.\r", CR_OR_LF),
    "S8": (b"\r\n.\r", BARE_CR),
    "S9": (b"\r\r\n.\r\r\n", BARE_CR),
    "S10": (b"\r\n.\r\r\n", BARE_CR),
    "S11a": (b"\r\n\0.\r\n", NUL),
    "S11b": (b"\r\n.\0\r\n", NUL),
    "S11c": (b"\r\n.\0text\r\n", NUL),
    "S12": (b"\r\n..\r\n", 0),
    "S13": (b"\r\n.x\r\n", 0),
}


def read(pieces, *, stop=True, **options):
    """Everything one can see of a message: the octets used, its text, the facts."""
    scanner = BodyScanner(**{"max_bytes": 1 << 30, "max_header_bytes": 1 << 20, **options})
    used = 0
    chunks = []
    for piece in pieces:
        if scanner.ended:
            break
        step, text = scanner.feed(piece)
        used += step
        chunks.append(text)
        if not scanner.ended:
            assert step == len(piece)
    text = b"".join(chunks) if not scanner.faults else b""
    return (
        used, scanner.ended, text, scanner.faults, scanner.repaired, scanner.size, scanner.header.size,
        scanner.header.received_count, scanner.eight_bit,
    )  # fmt: skip


def as_the_oracle_says(wire, normalize):
    text = smtp_text.read_data(wire, normalize=normalize)
    return (
        text.used, True, b"" if text.faults else text.content, text.faults, text.repaired, len(text.content), text.header_bytes,
        text.received_count, text.eight_bit,
    )  # fmt: skip


@pytest.mark.parametrize("identifier", SEQUENCES)
def test_reject_finds_one_end_and_names_the_fault(identifier):
    sequence, faults = SEQUENCES[identifier]
    wire = HEAD + sequence + SECOND
    facts = assert_split_invariant(read, wire, everywhere=True, trailing=REST)
    assert facts[:2] == (len(wire), True)
    assert facts[3] == faults
    assert facts == as_the_oracle_says(wire, normalize=False)


@pytest.mark.parametrize("identifier", SEQUENCES)
def test_normalize_finds_one_end_and_mends_line_ends(identifier):
    sequence, faults = SEQUENCES[identifier]
    wire = HEAD + sequence + SECOND
    facts = assert_split_invariant(lambda pieces: read(pieces, normalize=True), wire, everywhere=True, trailing=REST)
    assert facts[:2] == (len(wire), True)
    assert facts[3] == faults & NUL
    assert facts[4] == faults & CR_OR_LF
    assert facts == as_the_oracle_says(wire, normalize=True)
    if not faults & NUL:
        text = facts[2]
        assert b"MAIL FROM:<evil" in text
        assert text.replace(b"\r\n", b"").count(b"\n") == text.replace(b"\r\n", b"").count(b"\r") == 0


@pytest.mark.parametrize(
    ("sequence", "text"),
    [
        (b"\n.\n", b"\r\n.\r\n"),
        (b"\n.\r\n", b"\r\n.\r\n"),
        (b"\r\n.\n", b"\r\n.\r\n"),
        (b"\r.\r", b" . "),
        (b"\r\r\n", b" \r\n"),
        (b"\r\n..\n", b"\r\n.\r\n"),
        (b"\n..\n", b"\r\n..\r\n"),
    ],
)
def test_what_normalize_makes_of_a_sequence(sequence, text):
    assert read([b"a" + sequence + b"b\r\n.\r\n"], normalize=True)[2] == b"a" + text + b"b\r\n"


def test_s12_s13_dots_are_unstuffed():
    assert read([b"..\r\n.x\r\n...\r\na.\r\n.\r\n"])[2] == b".\r\nx\r\n..\r\na.\r\n"


def test_s15_a_dot_and_a_bare_newline_are_no_first_line():
    used, ended, _, faults, *_ = read([b".\nMAIL FROM:<a@b>\r\n"])
    assert (used, ended, faults) == (19, False, BARE_LF)


@pytest.mark.parametrize("boundary", [4096, 8192, 16384, 65536])
@pytest.mark.parametrize("shift", range(-5, 6))
def test_s16_only_the_real_end_ends_at_a_buffer_boundary(boundary, shift):
    head = b"x" * 70 + b"\r\n"
    body = (head * (boundary // len(head) + 1))[: boundary + shift - 2] + b"\r\n"
    for tail, text in ((b".\r\n", b""), (b"..\r\n.\r\n", b".\r\n"), (b".x\r\n.\r\n", b"x\r\n")):
        wire = body + tail
        expected = (len(wire), True, body + text, 0)
        if body.endswith(b"\r\r\n"):
            continue
        assert read([wire])[:4] == expected
        assert read(cut(wire, [boundary]))[:4] == expected
        assert read(cut(wire, range(boundary - 8, boundary + 4)))[:4] == expected


def test_s17_an_empty_message():
    assert assert_split_invariant(read, b".\r\n", everywhere=True, trailing=b"RSET\r\n") == (
        3, True, b"", 0, 0, 0, 0, 0, False,
    )  # fmt: skip


def test_s18_a_chunk_has_no_end_inside():
    chunk = b"Subject: x\r\n\r\na\r\n.\r\nb\r\n"
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000)
    assert scanner.feed_octets(chunk, last=True) == chunk
    assert (scanner.ended, scanner.faults, scanner.size) == (True, 0, len(chunk))
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000)
    assert scanner.feed_octets(b"a\n.\nb\r\n", last=True) == b""
    assert scanner.faults == BARE_LF
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000, normalize=True)
    assert scanner.feed_octets(b"a\n.\nb\r\n.\r\n", last=True) == b"a\r\n.\r\nb\r\n.\r\n"
    assert (scanner.faults, scanner.repaired) == (0, BARE_LF)


def test_a_line_end_may_fall_between_chunks():
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000)
    assert scanner.feed_octets(b"a\r") + scanner.feed_octets(b"\n", last=True) == b"a\r\n"
    assert scanner.faults == 0
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000)
    scanner.feed_octets(b"a\r", last=True)
    assert scanner.faults == BARE_CR
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000, normalize=True)
    assert scanner.feed_octets(b"a\r", last=True) == b"a "
    assert (scanner.faults, scanner.repaired) == (0, BARE_CR)


def test_binary_takes_octets_as_they_come():
    everything = bytes(range(256)) * 3 + b"\r"
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000, binary=True)
    assert scanner.feed_octets(everything, last=True) == everything
    assert (scanner.faults, scanner.eight_bit, scanner.size) == (0, True, len(everything))


def test_p14_too_large_is_swallowed_to_the_true_end():
    wire = b"12345678\r\n" * 3 + b".\r\n"
    facts = assert_split_invariant(lambda pieces: read(pieces, max_bytes=29), wire, everywhere=True, trailing=b"NOOP\r\n")
    assert facts[:6] == (33, True, b"", TOO_LARGE, 0, 30)
    assert read([wire], max_bytes=30)[3] == 0


def test_p19_a_header_block_has_a_limit():
    wire = b"A: b\r\n" * 10 + b"\r\n" + b"text\r\n" * 10 + b".\r\n"
    facts = assert_split_invariant(lambda pieces: read(pieces, max_header_bytes=61), wire, everywhere=True)
    assert facts[1:4] == (True, b"", HEADER_TOO_LARGE)
    assert read([wire], max_header_bytes=62)[3] == 0


@pytest.mark.parametrize("line", [b"From me@x Tue Jan 1\r\n", b">From me@x Tue Jan 1\r\n"])
def test_p23_an_mbox_line_on_top_is_a_fault(line):
    assert assert_split_invariant(read, line + b"A: b\r\n\r\n.\r\n", everywhere=True)[3] == MBOX_FROM
    assert read([b"A: b\r\n" + line + b"\r\n.\r\n"])[3] == 0


def test_no_text_is_given_out_after_a_fault():
    scanner = BodyScanner(max_bytes=1000, max_header_bytes=1000)
    assert scanner.feed(b"good\r\n") == (6, b"good\r\n")
    assert scanner.feed(b"bad\n") == (4, b"")
    assert scanner.feed(b"good\r\n") == (6, b"")
    assert scanner.feed(b".\r\nRSET") == (3, b"")
    assert (scanner.ended, scanner.faults, scanner.size) == (True, BARE_LF, 16)


def test_what_was_read_whole_is_given_out_without_a_copy():
    piece = b"x" * 70 + b"\r\n"
    scanner = BodyScanner(max_bytes=1 << 20, max_header_bytes=1 << 20)
    assert scanner.feed(piece)[1] is piece


def test_stuffed_dots_take_linear_time():
    wire = b"..\r\n" * 100_000 + b".\r\n"
    assert read([wire])[2] == b".\r\n" * 100_000
