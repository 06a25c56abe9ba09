"""The framer: commands with their literals out of a stream, whatever the client sends and however it is cut."""

from __future__ import annotations

import time

import pytest

from rusmes._core import framer as core
from rusmes._core.framer import Framer
from rusmes._core.imap import GrammarError, Lexer, LiteralReached
from rusmes._core.lines import EndlessLine, LineTooLong
from tests.splits import assert_split_invariant

TEXT_LIMIT = 64
DISCARD_LIMIT = 200


class Sink:
    """A writer that keeps what it gets; `full` octets are too many for it."""

    def __init__(self, full: int = 1000) -> None:
        self.data = b""
        self.full = full
        self.state = "open"

    def write(self, data: bytes) -> None:
        if len(self.data) + len(data) > self.full:
            self.state = "aborted"
            raise OSError("full")
        self.data += data

    def finish(self) -> tuple[str, bytes]:
        self.state = "finished"
        return "stored", self.data

    def abort(self) -> None:
        self.state = "aborted"


def framed(pieces: list[bytes], answer: str = "accept", full: int = 1000) -> list[object]:
    """All events; literals are accepted, refused, or go to a sink."""
    framer = Framer(text_limit=TEXT_LIMIT, discard_limit=DISCARD_LIMIT)
    seen: list[object] = []
    for piece in pieces:
        framer.feed(piece)
        try:
            while (event := framer.next()) != core.NEED_DATA:
                if event == core.OFFER:
                    seen.append(("offer", framer.text, framer.literal_size, framer.is_synchronising, framer.is_binary))
                    if answer == "refuse":
                        framer.refuse()
                    else:
                        framer.accept(Sink(full) if answer == "sink" else None)
                elif event == core.COMMAND:
                    seen.append(("command", framer.text, framer.literals))
                else:
                    seen.append(("refused", framer.text, framer.reason))
        except EndlessLine:
            seen.append("endless")
            return seen
    return seen


def whole(data: bytes, answer: str = "accept", full: int = 1000) -> list[object]:
    return assert_split_invariant(lambda pieces: framed(pieces, answer, full), data, everywhere=len(data) < 600)


def test_lines_end_with_crlf_or_lf() -> None:
    assert whole(b"a NOOP\r\nb NOOP\n\r\n\nc\r\r\n") == [
        ("command", b"a NOOP", None),
        ("command", b"b NOOP", None),
        ("command", b"", None),
        ("command", b"", None),
        ("command", b"c\r", None),
    ]


@pytest.mark.rfc("9051", "4.3")
def test_literals_are_cut_out() -> None:
    assert whole(b"a LOGIN {3}\r\nfoo {4+}\r\n\r\n {\r\nb NOOP\r\n") == [
        ("offer", b"a LOGIN \0", 3, True, False),
        ("offer", b"a LOGIN \0 \0", 4, False, False),
        ("command", b"a LOGIN \0 \0", [b"foo", b"\r\n {"]),
        ("command", b"b NOOP", None),
    ]


def test_a_literal_may_be_empty_and_at_the_end() -> None:
    assert whole(b"a X {0}\r\n\r\nb X {0+}\n\nc X ({00+}\r\n)\r\n") == [
        ("offer", b"a X \0", 0, True, False),
        ("command", b"a X \0", [b""]),
        ("offer", b"b X \0", 0, False, False),
        ("command", b"b X \0", [b""]),
        ("offer", b"c X (\0", 0, False, False),
        ("command", b"c X (\0)", [b""]),
    ]


@pytest.mark.rfc("3516", "4.4")
def test_a_literal8_keeps_its_tilde_and_its_nul() -> None:
    assert whole(b"a X ~{3+}\r\n\0\r\n y\r\n") == [
        ("offer", b"a X ~\0", 3, False, True),
        ("command", b"a X ~\0 y", [b"\0\r\n"]),
    ]


@pytest.mark.parametrize(
    "line", [b"{3", b"{3} ", b"{-1}", b"{3++}", b"{+}", b"{}", b"3}", b"x}", b"{3}}", b"{ 3}", b"}", b"{3 }"]
)
def test_what_is_no_literal(line: bytes) -> None:
    assert whole(b"a X " + line + b"\r\nb\r\n") == [("command", b"a X " + line, None), ("command", b"b", None)]


def test_a_size_over_63_bits_is_the_largest_there_is() -> None:
    assert whole(b"a {99999999999999999999}\r\n")[:1] == [("offer", b"a \0", 2**63 - 1, True, False)]
    assert framed([b"a {99999999999999999999+}\r\n"], "refuse")[-1] == "endless"


def test_a_refused_literal_never_becomes_a_command() -> None:
    data = b"a X {20+}\r\nb LOGOUT\r\nc LOGOUT\r\n y {10+}\r\nd LOGOUT\r\n z\r\ne NOOP\r\n"
    assert whole(data, "refuse") == [
        ("offer", b"a X \0", 20, False, False),
        ("refused", b"a X \0 y  z", core.BY_CALLER),
        ("command", b"e NOOP", None),
    ]


def test_a_refused_synchronising_literal_ends_its_command() -> None:
    assert whole(b"a X {20}\r\nb NOOP\r\n", "refuse") == [("offer", b"a X \0", 20, True, False), ("command", b"b NOOP", None)]
    # Announced in what follows a literal that was refused: the client waits, and gets the reply instead.
    assert whole(b"a X {2+}\r\nxx {20}\r\nb NOOP\r\n", "refuse") == [
        ("offer", b"a X \0", 2, False, False),
        ("refused", b"a X \0 ", core.BY_CALLER),
        ("command", b"b NOOP", None),
    ]


def test_a_command_over_the_limit_is_read_to_its_end() -> None:
    long = b"a " + b"x" * (TEXT_LIMIT - 2)
    assert whole(long[:-1] + b"\r\nb\r\n") == [("command", long[:-1], None), ("command", b"b", None)]
    assert whole(long + b"yy\r\nb\r\n") == [("refused", long, core.TOO_LONG), ("command", b"b", None)]


@pytest.mark.parametrize("size", [TEXT_LIMIT - n for n in range(8)] + [TEXT_LIMIT + 1, TEXT_LIMIT + 40])
def test_the_literal_of_a_command_over_the_limit_is_no_command(size: int) -> None:
    """Wherever the limit cuts the announcement."""
    seen = whole(b"a" * size + b"{10+}\r\nb LOGOUT\r\n\r\nc\r\n")
    assert ("command", b"b LOGOUT", None) not in seen
    assert seen[-1] == ("command", b"c", None)
    assert seen[-2][0] in ("refused", "command", "offer")  # type: ignore[index]


def test_commands_add_up_over_their_literals() -> None:
    line = b"x" * 25
    seen = whole(b"a" + line + b"{1+}\r\n." + line + b"{1+}\r\n." + line + b"\r\nb\r\n")
    assert [event[0] for event in seen] == ["offer", "offer", "refused", "command"]  # type: ignore[index]


def test_nul_in_a_line_refuses_the_command() -> None:
    assert whole(b"a \0\r\nb X\0 {3+}\r\nc\r\n\r\nd {3}\r\n") == [
        ("refused", b"a \0", core.HAS_NUL),
        ("refused", b"b X\0 ", core.HAS_NUL),
        ("offer", b"d \0", 3, True, False),
    ]
    # What a client writes does not look like a literal.
    assert whole(b"a X {1+}\r\n.\0\r\n")[-1] == ("refused", b"a X \0\0", core.HAS_NUL)


def test_what_is_dropped_has_a_limit() -> None:
    assert framed([b"x" * (TEXT_LIMIT + DISCARD_LIMIT), b"\n"])[-1] != "endless"
    assert whole(b"x" * (TEXT_LIMIT + DISCARD_LIMIT + 1))[-1] == "endless"
    assert whole(b"a {200+}\r\n" + b"x" * 200 + b"\r\n", "refuse")[-1] == ("refused", b"a \0", core.BY_CALLER)
    assert whole(b"a {201+}\r\n", "refuse")[-1] == "endless"


def test_a_sink_gets_the_octets_as_they_come() -> None:
    assert whole(b"a {300}\r\n" + b"xyz" * 100 + b" {2+}\r\nhi\r\nb\r\n", "sink") == [
        ("offer", b"a \0", 300, True, False),
        ("offer", b"a \0 \0", 2, False, False),
        ("command", b"a \0 \0", [("stored", b"xyz" * 100), ("stored", b"hi")]),
        ("command", b"b", None),
    ]


def test_a_sink_that_fails_keeps_the_dialogue_in_step() -> None:
    assert whole(b"a {20+}\r\nb LOGOUT\r\nc LOGOUT\r\n y\r\nd\r\n", "sink", full=5) == [
        ("offer", b"a \0", 20, False, False),
        ("refused", b"a \0 y", core.SINK_FAILED),
        ("command", b"d", None),
    ]


def test_the_failure_of_a_sink_is_kept() -> None:
    class Broken(Sink):
        def finish(self) -> tuple[str, bytes]:
            raise OSError("no")

    for sink in (Sink(full=1), Broken()):
        framer = Framer(text_limit=TEXT_LIMIT, discard_limit=DISCARD_LIMIT)
        framer.feed(b"a {2+}\r\nhi\r\n")
        assert framer.next() == core.OFFER
        framer.accept(sink)
        assert framer.next() == core.REFUSED
        assert framer.reason == core.SINK_FAILED
        assert isinstance(framer.failure, OSError)


def test_what_is_abandoned_is_aborted() -> None:
    framer = Framer(text_limit=TEXT_LIMIT, discard_limit=DISCARD_LIMIT)
    framer.feed(b"a {2+}\r\nhi {5+}\r\nhal")
    assert framer.next() == core.OFFER
    framer.accept(Sink())
    assert framer.next() == core.OFFER
    sink = Sink()
    framer.accept(sink)
    assert framer.next() == core.NEED_DATA
    assert sink.data == b"hal"
    assert framer.abandon() == [("stored", b"hi")]
    assert sink.state == "aborted"
    framer.feed(b"b\r\n")
    assert framer.next() == core.COMMAND
    assert framer.abandon() == []


def test_nothing_of_a_command_is_held_while_nothing_comes() -> None:
    framer = Framer(text_limit=TEXT_LIMIT, discard_limit=DISCARD_LIMIT)
    framer.feed(b"a X {3+}\r\nabc\r\n")
    assert framer.next() == core.OFFER
    framer.accept()
    assert framer.next() == core.COMMAND
    assert framer.literals == [b"abc"]
    assert framer.next() == core.NEED_DATA
    assert (framer.text, framer.literals) == (None, None)


def test_an_offer_wants_an_answer() -> None:
    framer = Framer(text_limit=TEXT_LIMIT, discard_limit=DISCARD_LIMIT)
    for call in (framer.accept, framer.refuse):
        with pytest.raises(RuntimeError):
            call()
    framer.feed(b"a {2}\r\n")
    assert framer.next() == core.OFFER
    with pytest.raises(RuntimeError):
        framer.next()
    with pytest.raises(RuntimeError):
        framer.take_line(10)


def test_lines_that_are_no_commands() -> None:
    def lines(pieces: list[bytes]) -> list[object]:
        framer = Framer(text_limit=4, discard_limit=20)
        seen: list[object] = []
        for piece in pieces:
            framer.feed(piece)
            while True:
                try:
                    line = framer.take_line(8)
                except LineTooLong:
                    line = b"long"
                except EndlessLine:
                    return [*seen, "endless"]
                if line is None:
                    break
                seen.append(line)
        return seen

    data = b"DONE\r\n{3+}\nx\0\r\n1234567\r\n12345678\r\n" + b"x" * 18 + b"\r\n\r\n" + b"x" * 29
    expected = [b"DONE", b"{3+}", b"x\0", b"1234567", b"long", b"long", b"", "endless"]
    assert assert_split_invariant(lines, data, everywhere=True) == expected


def test_the_rest_can_be_taken() -> None:
    framer = Framer(text_limit=TEXT_LIMIT, discard_limit=DISCARD_LIMIT)
    framer.feed(b"a NOOP\r\nb NO")
    assert framer.next() == core.COMMAND
    assert framer.waiting == 4
    assert framer.next() == core.NEED_DATA
    assert framer.waiting == 4
    framer.feed(b"OP\r\nc")
    assert framer.take_rest() == b"b NOOP\r\nc"
    assert framer.waiting == 0
    framer.feed(b"d\r\n")
    assert framer.next() == core.COMMAND
    assert framer.text == b"d"


# The lexer


def test_quoted_strings() -> None:
    assert Lexer(b'"a\\"b\\\\c "').string() == b'a"b\\c '
    assert Lexer(b'""').string() == b""
    assert Lexer('"é€😀"'.encode(), is_utf8=True).string() == "é€😀".encode()
    for bad in (b'"', b'"a', b'"\\a"', b'"a\\"', b'"\r"', "é".encode(), b'"\xe9"', b'"\xc3\xa9"'):
        with pytest.raises(GrammarError):
            Lexer(bad).string()
    for bad in (b'"\xe9"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xff"'):
        with pytest.raises(GrammarError):
            Lexer(bad, is_utf8=True).string()


@pytest.mark.parametrize(
    ("method", "good", "bad"),
    [
        ("number", [0, 2**32 - 1], [2**32, 2**64, 10**30]),
        ("nz_number", [1, 2**32 - 1], [0, 2**32, 10**30]),
        ("number64", [0, 2**63 - 1], [2**63, 2**64, 10**30]),
        ("nz_number64", [1, 2**63 - 1], [0, 2**63, 10**30]),
    ],
)
def test_numbers_have_their_bits(method: str, good: list[int], bad: list[int]) -> None:
    for number in good:
        assert getattr(Lexer(b"%d" % number), method)() == number
        assert getattr(Lexer(b"000%d" % number), method)() == number
    for text in [b"%d" % number for number in bad] + [b"", b"-1", b"x", b" 1"]:
        with pytest.raises(GrammarError):
            getattr(Lexer(text), method)()


def test_sequence_sets() -> None:
    assert Lexer(b"1,3:5,*:2,*").sequence_set(10) == ((1, 1), (3, 5), (0, 2), (0, 0))
    assert Lexer(b"$").sequence_set(10) is None
    for bad in (b"", b"0", b"1,", b",1", b"1:", b":1", b"1:0", b"4294967296", b"x", b"1,$"):
        with pytest.raises(GrammarError):
            Lexer(bad).sequence_set(10)
    assert len(Lexer(b",".join([b"1:2"] * 10)).sequence_set(10) or ()) == 10
    with pytest.raises(GrammarError):
        Lexer(b",".join([b"1:2"] * 11)).sequence_set(10)


def test_nil_is_a_word_of_its_own() -> None:
    assert Lexer(b"nil").nstring() is None
    assert Lexer(b"NIL)").nstring() is None
    assert Lexer(b'"NIL"').nstring() == b"NIL"
    with pytest.raises(GrammarError):
        Lexer(b"NILS").nstring()


def test_literals_in_strings_have_no_nul() -> None:
    assert Lexer(b"\0", [b"\xff\r\n"]).astring() == b"\xff\r\n"
    with pytest.raises(GrammarError):
        Lexer(b"\0", [b"a\0"]).astring()
    with pytest.raises(GrammarError):
        Lexer(b"~\0", [b"a"]).string()
    with pytest.raises(LiteralReached):
        Lexer(b"\0").astring()
    with pytest.raises(GrammarError):
        Lexer(b"\0", [object()]).astring()


def test_flags_are_spelled_as_in_the_rfc() -> None:
    assert Lexer(b"(\\SEEN \\answered $Junk \\Custom)").flag_list() == ("\\Seen", "\\Answered", "$Junk", "\\Custom")
    assert Lexer(b"()").flag_list() == ()
    for bad in (b"(\\)", b"(a  b)", b"(a", b"(\\*)", b"( a)", b"(a )", b'("a")'):
        with pytest.raises(GrammarError):
            Lexer(bad).flag_list()


def test_classes_of_octets() -> None:
    """Against the RFC's words, octet by octet (RFC 9051 §9)."""
    for octet in range(256):
        text = bytes([octet])
        is_atom = 32 < octet < 127 and text not in b'(){%*"\\]'
        for method, good in (
            ("atom", is_atom),
            ("astring", is_atom or text == b"]"),
            ("tag", (is_atom or text == b"]") and text != b"+"),
            ("list_mailbox", is_atom or text in (b"%", b"*", b"]")),
        ):
            lexer = Lexer(text)
            if good:
                assert getattr(lexer, method)() in (text, text.decode())
            else:
                with pytest.raises((GrammarError, LiteralReached)):
                    getattr(lexer, method)()


def test_literals_of_no_octets_after_a_refusal_are_cheap_and_end() -> None:
    """Each costs the client six octets: 0.4 s when the text was copied for each of them, 5 ms since."""
    framer = Framer(text_limit=256 * 1024, discard_limit=1_000_000)
    framer.feed(b"a X " + b"b" * 200_000 + b"{9+}\r\n")
    assert framer.next() == core.OFFER
    framer.refuse()
    framer.feed(b"123456789" + b"{0+}\r\n" * 50_000 + b" c\r\nd NOOP\r\n")
    began = time.process_time()
    assert framer.next() == core.REFUSED
    assert time.process_time() - began < 0.2
    assert framer.next() == core.COMMAND
    assert framer.text == b"d NOOP"
    framer.feed(b"a X {9+}\r\n")
    assert framer.next() == core.OFFER
    framer.refuse()
    framer.feed(b"123456789" + b"x{0+}\r\n" * 500_000)
    with pytest.raises(EndlessLine):
        framer.next()
