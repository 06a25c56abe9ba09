"""What IMAP's input costs: one question a function, setup outside the timed part.

Target: the lexer takes a UID FETCH command apart in less than 1 us. `python -m pytest benchmarks/test_imap_wire.py` prints the
medians.
"""

from __future__ import annotations

import pytest

from rusmes._core import framer as core
from rusmes._core.framer import Framer
from rusmes._core.imap import Lexer
from rusmes.imap import command as c
from rusmes.imap.grammar import parse
from rusmes.imap.names import matcher
from rusmes.imap.session import NEED_DATA, Session

BATCH = 100
MEGABYTE = 1024 * 1024
FETCH = b"a123 UID FETCH 1:500 (FLAGS UID RFC822.SIZE)"


@pytest.fixture
def report(benchmark, capsys):
    """Print what one of the things in a batch took, or how fast octets went."""

    def say(name, *, things=0, octets=0):
        if benchmark.stats is None:  # --benchmark-disable: one pass without timing
            return
        median = benchmark.stats.stats.median
        figure = f"{median / things * 1e6:.3f} us each" if things else f"{octets / median / 1e9:.2f} GB/s"
        with capsys.disabled():
            print(f"\n{name}: {figure}")

    return say


def test_lex_a_uid_fetch(benchmark, report):
    """Tag, two words, the set, and each word of the list."""

    def lex():
        for _ in range(BATCH):
            lexer = Lexer(FETCH)
            lexer.tag()
            lexer.space()
            lexer.word()
            lexer.space()
            lexer.word()
            lexer.space()
            lexer.sequence_set(1000)
            lexer.space()
            lexer.take(40)
            while True:
                lexer.attribute()
                if lexer.skip(41):
                    break
                lexer.space()
            lexer.end()
        return lexer.at

    assert benchmark(lex) == len(FETCH)
    report("lex UID FETCH", things=BATCH)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("NOOP", b"a1 NOOP"),
        ("UID FETCH", FETCH),
        ("STORE", b"a STORE 1:5 +FLAGS.SILENT (\\Seen \\Deleted)"),
        ("SEARCH", b'a UID SEARCH UNSEEN SINCE 1-Feb-2024 NOT DELETED FROM "bob"'),
        ("LIST", b'a LIST "" "*" RETURN (SPECIAL-USE STATUS (MESSAGES UNSEEN))'),
        ("SELECT", b"a SELECT INBOX (CONDSTORE)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parse_a_command(benchmark, report, name, line):
    def read():
        for _ in range(BATCH):
            command = parse(line)
        return command

    assert isinstance(benchmark(read), c.Command)
    report(f"parse {name}", things=BATCH)


def test_a_command_through_the_session(benchmark, report):
    session = Session()
    session.logged_in()
    session.selected()
    lines = (FETCH + b"\r\n") * BATCH

    def converse():
        session.receive(lines)
        count = 0
        while session.next_event() is not NEED_DATA:
            count += 1
        return count

    assert benchmark(converse) == BATCH
    report("UID FETCH through the session", things=BATCH)


def test_a_large_set(benchmark, report):
    text = b",".join(b"%d" % (2 * n + 1) for n in range(30_000))

    def lex():
        return len(Lexer(text).sequence_set(32 * 1024))

    assert benchmark(lex) == 30_000
    report("a set of 30,000", things=30_000)


def test_a_message_streams(benchmark, report):
    class Sink:
        size = 0

        def write(self, data):
            self.size += len(data)

        def finish(self):
            return self.size

        def abort(self): ...

    chunk = b"x" * (64 * 1024)

    def stream():
        framer = Framer(text_limit=8192, discard_limit=8192)
        framer.feed(b"a APPEND x {%d+}\r\n" % MEGABYTE)
        assert framer.next() == core.OFFER
        framer.accept(Sink())
        for _ in range(MEGABYTE // len(chunk)):
            framer.feed(chunk)
            framer.next()
        framer.feed(b"\r\n")
        assert framer.next() == core.COMMAND
        return framer.literals[0]

    assert benchmark(stream) == MEGABYTE
    report("a literal into its sink", octets=MEGABYTE)


@pytest.mark.parametrize("pattern", ["%", "Archive/*", "*e/2*4%"])
def test_match_names(benchmark, report, pattern):
    names = [f"Archive/20{n:02}/{m:02}" for n in range(50) for m in range(20)]

    def match():
        matches = matcher(pattern)
        return sum(matches(name) for name in names)

    benchmark(match)
    report(f"{pattern} over names", things=len(names))
