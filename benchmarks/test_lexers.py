"""What the SMTP wire costs: one question a function, setup outside the timed part.

Targets: a command is lexed in less than 1 us; message text is scanned at 1 GB/s or more; the commands of a small message pass
through the session in less than 4 us each. `python -m pytest benchmarks/test_lexers.py` prints the medians.
"""

from __future__ import annotations

import pytest

from rusmes._core.body import BodyScanner
from rusmes._core.headers import HeaderScanner, fields, find_value
from rusmes._core.smtp import CommandReader
from rusmes.model.mail import Origin
from rusmes.smtp import reply as r
from rusmes.smtp.address import parse_path
from rusmes.smtp.limits import Limits
from rusmes.smtp.received import received_line
from rusmes.smtp.session import Session

LINE = b"The quick brown fox jumps over the lazy dog, and the dog does not mind it.\r\n"
HEADER = b"".join(b"Header-Field-%d: the value of it, of a length often seen\r\n" % i for i in range(20)) + b"\r\n"
BATCH = 100
MEGABYTE = 1024 * 1024
EXTENSIONS = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN"})


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


@pytest.mark.parametrize(
    "line",
    [
        b"NOOP",
        b"EHLO client.example.com",
        b"MAIL FROM:<sender@example.com>",
        b"RCPT TO:<recipient@example.com>",
        b"MAIL FROM:<a@b> SIZE=1024 BODY=8BITMIME",
    ],
    ids=lambda line: line[:4].decode() + (" with parameters" if b"SIZE" in line else ""),
)
def test_lex_a_command(benchmark, report, line):
    reader = CommandReader(512, envelope_limit=4096, auth_limit=12288)
    lines = (line + b"\r\n") * BATCH

    def lex():
        reader.feed(lines)
        for _ in range(BATCH):
            reader.next_event()

    benchmark(lex)
    report(f"lex {line.decode()}", things=BATCH)


def test_lex_a_command_that_comes_alone(benchmark, report):
    reader = CommandReader(512, envelope_limit=4096, auth_limit=12288)

    def lex():
        for _ in range(BATCH):
            reader.feed(b"RCPT TO:<recipient@example.com>\r\n")
            reader.next_event()
            reader.next_event()

    benchmark(lex)
    report("feed, lex and find that more is needed", things=BATCH)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("76 columns", LINE),
        ("998 columns", b"x" * 998 + b"\r\n"),
        ("10 columns", b"x" * 10 + b"\r\n"),
        ("a dot on each line", b"." + LINE),
        ("nothing but dots", b"..\r\n"),
    ],
)
def test_scan_message_text(benchmark, report, name, line):
    piece = line * (65536 // len(line))
    pieces = [piece] * 16

    def scan():
        scanner = BodyScanner(max_bytes=1 << 30, max_header_bytes=1 << 30)
        scanner.feed(b"\r\n")
        for part in pieces:
            scanner.feed(part)

    benchmark(scan)
    report(f"DATA, {name}", octets=len(piece) * 16)


def test_scan_a_chunk(benchmark, report):
    piece = LINE * (65536 // len(LINE))

    def scan():
        scanner = BodyScanner(max_bytes=1 << 30, max_header_bytes=1 << 30)
        scanner.feed_octets(b"\r\n")
        for _ in range(16):
            scanner.feed_octets(piece)

    benchmark(scan)
    report("BDAT", octets=len(piece) * 16)


def test_scan_text_to_be_mended(benchmark, report):
    piece = LINE.replace(b"\r\n", b"\n") * (65536 // len(LINE))

    def scan():
        scanner = BodyScanner(max_bytes=1 << 30, max_header_bytes=1 << 30, normalize=True)
        scanner.feed(b"\r\n")
        for _ in range(16):
            scanner.feed(piece)

    benchmark(scan)
    report("DATA, normalize, every line mended", octets=len(piece) * 16)


def test_find_the_end_of_a_header(benchmark, report):
    benchmark(lambda: HeaderScanner().feed(HEADER))
    report(f"header of {len(HEADER)} octets", things=1)


def test_find_a_field(benchmark, report):
    benchmark(lambda: find_value(HEADER, b"header-field-19"))
    report("the last of 20 fields", things=1)


def test_list_fields(benchmark, report):
    benchmark(lambda: fields(HEADER))
    report("all of 20 fields", things=1)


def run_session(messages, size, *, pipelined):
    session = Session(Limits(), extensions=EXTENSIONS)
    session.reply(r.greeting("mx.example.com"))
    session.receive(b"EHLO client.example.com\r\n")
    session.next_event()
    session.reply(r.hello("mx.example.com"))
    session.data_to_send()
    body = HEADER[:200] + b"\r\n\r\n" + LINE * (size // len(LINE)) + b".\r\n"
    envelope = [b"MAIL FROM:<sender@example.com>\r\n", b"RCPT TO:<recipient@example.com>\r\n", b"DATA\r\n"]
    if pipelined:
        envelope = [b"".join(envelope)]
    answers = [r.R250_SENDER_OK, r.R250_RECIPIENT_OK, r.R354_GO_AHEAD]

    def run():
        for _ in range(messages):
            waiting = iter(answers)
            for piece in envelope:
                session.receive(piece)
                while session.next_event().kind:
                    session.reply(next(waiting))
                session.data_to_send()
            session.receive(body)
            session.next_event()
            session.next_event()
            session.reply(r.R250_OK)
            session.next_event()
            session.data_to_send()

    return run


@pytest.mark.parametrize("pipelined", [False, True], ids=["one by one", "pipelined"])
def test_a_message_through_the_session(benchmark, report, pipelined):
    benchmark(run_session(BATCH, 1024, pipelined=pipelined))
    report(f"a message of 1 KiB through the session, {'pipelined' if pipelined else 'command by command'}", things=BATCH)


def test_write_a_received_line(benchmark, report):
    origin = Origin(client_address="192.0.2.1", client_name="client.example.com", helo="client.example.com", protocol="ESMTP")
    benchmark(lambda: received_line(origin, "mx.example.com", "0123456789ABCDEF", 1893456000.0))
    report("Received", things=1)


def test_make_a_reply(benchmark, report):
    benchmark(lambda: r.accepted("0123456789ABCDEF"))
    report("250 with a queue id", things=1)


@pytest.mark.parametrize("path", [b'"a b"@example.com', "é@bücher.example".encode(), b"@a,@b:c@example.com"])
def test_parse_an_address_that_is_not_plain(benchmark, report, path):
    benchmark(lambda: parse_path(path, smtputf8=True))
    report(path.decode(), things=1)
