import pytest

from rusmes._core.smtp import (
    BODY_CHUNK,
    BODY_END,
    COMMAND,
    FAULT,
    LINE,
    NEED_DATA,
    VERBS,
    CommandReader,
    decode_xtext,
    encode_xtext,
    is_dot_string,
    printable,
)
from tests.splits import assert_split_invariant


def reader(**options):
    return CommandReader(512, **{"envelope_limit": 4096, "auth_limit": 12288, "discard_limit": 65536, **options})


def one(line, **options):
    """The only event that a line makes."""
    lexer = reader(**options)
    lexer.feed(line)
    event = lexer.next_event()
    assert lexer.waiting == 0
    assert lexer.next_event() is NEED_DATA
    return event


def facts_of(event):
    if event.kind == FAULT:
        return ("fault", event.reason, event.verb)
    if event.kind == COMMAND:
        return (
            "command",
            event.verb,
            event.argument,
            event.local,
            event.domain,
            event.path,
            event.pairs,
            event.size,
            event.last,
        )
    if event.kind == LINE:
        return ("line", event.data)
    return (
        "end",
        event.faults,
        event.repaired,
        event.size,
        event.header_bytes,
        event.received_count,
        event.last,
        event.eight_bit,
    )


def drive(pieces, **options):
    """A server that takes everything: 354 to each DATA, a line after each AUTH, chunks as they are announced."""
    lexer = reader(**options)
    seen = []
    text = b""
    for piece in pieces:
        lexer.feed(piece)
        while (event := lexer.next_event()) is not NEED_DATA:
            if event.kind == BODY_CHUNK:
                text += event.data
                continue
            seen.append(facts_of(event))
            if event.kind == BODY_END:
                seen.append(("text", text if not event.faults else b""))
                text = b""
            if event.kind == FAULT and event.reason in {"tls", "line-endless", "body-endless", "chunk-size", "bare-newline"}:
                return seen
            if event.kind == COMMAND and event.verb == "DATA":
                lexer.expect_data(1000, 500, False)
            elif event.kind == COMMAND and event.verb == "AUTH":
                lexer.expect_line()
            elif event.kind == COMMAND and event.verb == "BDAT":
                lexer.expect_chunk(event.size, event.last, 1000, 500, False, False)
    return seen


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in {"MAIL", "RCPT", "BDAT", "AUTH"}])
@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
def test_verbs_have_no_case(verb, change):
    event = one(f"{change(verb)}  some argument \r\n".encode())
    assert (event.kind, event.verb, event.bit) == (COMMAND, verb, 1 << VERBS.index(verb))
    assert (event.argument, event.text) == (b"some argument", "some argument")
    assert one(f"{change(verb)}\r\n".encode()).argument == b""


@pytest.mark.parametrize(
    "line",
    [
        b"EHL",
        b"EHLOO x",
        b"XEHLO",
        b"MAI",
        b"MAILX FROM:<a@b>",
        b"STARTTL",
        b"STARTTLSS",
        b"\xc5HLO",
        b"DA\0A",
        b"1234",
        b" EHLO x",
        b"-",
    ],
)
def test_what_is_no_verb(line):
    event = one(line + b"\r\n")
    assert (event.kind, event.reason) == (FAULT, "unknown")


@pytest.mark.parametrize("line", [b"", b" ", b"    "])
def test_an_empty_line(line):
    assert one(line + b"\r\n").reason == "empty"


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1", b"POST /x HTTP/1.0", b"CONNECT a:25 HTTP/1.1", b"PRI * HTTP/2.0", b"put x", b"HEAD /"]
)
def test_p4_http(line):
    assert one(line + b"\r\n").reason == "http"


def test_a_tls_record_is_known_by_its_first_octet():
    lexer = reader()
    lexer.feed(b"\x16")
    assert lexer.next_event().reason == "tls"


@pytest.mark.parametrize(
    ("path", "local", "domain"),
    [
        (b"a@b", "a", "b"),
        (b"User.Name+tag@Mail.EXAMPLE.com", "User.Name+tag", "mail.example.com"),
        (b"!#$%&'*+-/=?^_`{|}~@a_b.c-d.e", "!#$%&'*+-/=?^_`{|}~", "a_b.c-d.e"),
        (b"x" * 64 + b"@" + b"d" * 63 + b".e", "x" * 64, "d" * 63 + ".e"),
        (b"a@1.2.c3", "a", "1.2.c3"),
    ],
)
def test_plain_addresses_take_the_fast_path(path, local, domain):
    event = one(b"MAIL FROM:<" + path + b">\r\n")
    assert (event.local, event.domain, event.path, event.pairs) == (local, domain, None, None)
    event = one(b"rcpt to: <" + path + b"> \r\n")
    assert (event.local, event.domain, event.path, event.pairs) == (local, domain, None, None)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"a",
        b"@b",
        b"a@",
        b"a@b@c",
        b".a@b",
        b"a.@b",
        b"a..b@c",
        b'"a b"@c',
        b'"a>b"@c',
        b"a@[1.2.3.4]",
        b"@x:a@b",
        b"a@-b",
        b"a@b-",
        b"a@b..c",
        b"a@.b",
        b"a@b.",
        b"a@1.2.3.4",
        b"a@b-.c",
        b"a@b.-c",
        b"\xc3\xa9@b",
        b"a@\xc3\xa9",
        b"a b@c",
        b"x" * 65 + b"@b",
        b"a@" + b"d" * 64,
        b"a@" + b"d." * 126 + b"dd",
    ],
)
def test_everything_else_is_left_to_the_grammar(path):
    event = one(b"MAIL FROM:<" + path + b">\r\n")
    assert (event.local, event.domain, event.path) == (None, None, path)


@pytest.mark.parametrize(
    ("rest", "pairs"),
    [
        (b" SIZE=100", [("SIZE", b"100")]),
        (b"  size=1   BODY=8bitmime ", [("SIZE", b"1"), ("BODY", b"8bitmime")]),
        (b" SMTPUTF8", [("SMTPUTF8", None)]),
        (b" AUTH=<>", [("AUTH", b"<>")]),
        (b" X-Y2=a=b+\xc3\xa9", [("X-Y2", b"a=b+\xc3\xa9")]),
        (b" ", None),
    ],
)
def test_parameters_are_split(rest, pairs):
    assert one(b"MAIL FROM:<a@b>" + rest + b"\r\n").pairs == pairs


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"MAIL", "syntax"),
        (b"MAIL FROM", "syntax"),
        (b"MAIL TO:<a@b>", "syntax"),
        (b"MAIL FROM <a@b>", "syntax"),
        (b"RCPT FROM:<a@b>", "syntax"),
        (b"RCPT TO", "syntax"),
        (b"MAIL FROM:", "brackets"),
        (b"MAIL FROM:a@b", "brackets"),
        (b"MAIL FROM:<a@b", "brackets"),
        (b'MAIL FROM:<"a@b>', "brackets"),
        (b'MAIL FROM:<"a\\">@b', "brackets"),
        (b"MAIL FROM:<a@b>SIZE=1", "parameters"),
        (b"MAIL FROM:<a@b> =1", "parameters"),
        (b"MAIL FROM:<a@b> SIZE=", "parameters"),
        (b"MAIL FROM:<a@b> -X=1", "parameters"),
        (b"MAIL FROM:<a@b> A_B=1", "parameters"),
        (b"MAIL FROM:<a@b> \xc3\xa9=1", "parameters"),
        (b"RCPT TO:<a@b>,<c@d>", "parameters"),
        (b"MAIL FROM:<a\0@b>", "control"),
        (b"MAIL FROM:<a\t@b>", "control"),
        (b"MAIL FROM:<a\r@b>", "control"),
        (b"MAIL FROM:<a@b>\tSIZE=1", "control"),
        (b"RCPT TO:<a@b\x7f>", "control"),
        (b"EHLO a\0b", "control"),
        (b"NOOP \x1b[2J", "control"),
        (b"BDAT", "chunk-size"),
        (b"BDAT x", "chunk-size"),
        (b"BDAT -1", "chunk-size"),
        (b"BDAT +1", "chunk-size"),
        (b"BDAT 1x", "chunk-size"),
        (b"BDAT 1 LASST", "chunk-size"),
        (b"BDAT 1 LAST x", "chunk-size"),
        (b"BDAT 1  ", ""),
        (b"BDAT 18446744073709551615", "chunk-size"),
        (b"BDAT 9223372036854775808 LAST", "chunk-size"),
        (b"BDAT 99999999999999999999999999", "chunk-size"),
    ],
)
def test_lines_that_make_no_sense(line, reason):
    event = one(line + b"\r\n")
    if reason:
        assert (event.kind, event.reason, event.verb) == (FAULT, reason, line[:4].decode())
    else:
        assert event.kind == COMMAND


def test_bdat():
    event = one(b"BDAT 86\r\n")
    assert (event.size, event.last) == (86, False)
    event = one(b"bdat  00086 last \r\n")
    assert (event.size, event.last) == (86, True)
    assert one(b"BDAT 4611686018427387000\r\n").size == 4611686018427387000


def test_auth_is_split_and_never_shown():
    event = one(b"auth plain AGEAYg==\r\n")
    assert (event.mechanism, event.initial) == ("PLAIN", b"AGEAYg==")
    assert "AGEA" not in repr(event) + event.text
    assert one(b"AUTH LOGIN\r\n").initial is None
    assert one(b"AUTH X =\r\n").initial == b"="


@pytest.mark.parametrize(
    ("line", "limit"),
    [(b"NOOP ", 512), (b"EHLO ", 512), (b"MAIL FROM:", 4096), (b"rcpt to:", 4096), (b"AUTH PLAIN ", 12288), (b"", 512)],
)
def test_p1_each_command_has_its_limit(line, limit):
    fits = line + b"x" * (limit - len(line) - 2) + b"\r\n"
    assert len(fits) == limit
    assert one(fits).kind == COMMAND or one(fits).reason != "line-too-long"
    assert one(fits[:-2] + b"x\r\n").reason == "line-too-long"


@pytest.mark.parametrize("length", [513, 600, 5000, 20_000])
def test_p1_the_rest_of_a_long_line_is_no_command(length):
    wire = b"NOOP " + b"x" * length + b" RSET\r\nQUIT\r\n"
    facts = assert_split_invariant(drive, wire)
    assert [fact[1] for fact in facts] == ["line-too-long", "QUIT"]


def test_p2_a_line_without_end():
    lexer = reader()
    piece = b"x" * 8192
    for _ in range(8):
        lexer.feed(piece)
        assert lexer.next_event() is NEED_DATA
        assert lexer.waiting == 0
    lexer.feed(piece)
    assert lexer.next_event().reason == "line-endless"


def test_s19_a_bare_newline_ends_a_command_only_where_it_may():
    assert one(b"NOOP\n").reason == "bare-newline"
    assert one(b"NOOP\n", bare_newline_allowed=True).verb == "NOOP"
    assert drive([b"AUTH X\r\nabc\nNOOP\r\n"])[-1][1] == "bare-newline"


DIALOGUE = (
    b"EHLO client.example\r\nMAIL FROM:<a@b.c> SIZE=10\r\nRCPT TO:<\"x y\"@D.e>\r\nDATA\r\n"
    b"Received: x\r\nSubject: y\r\n\r\n..text\r\n.\r\n.\r\n"
    b"AUTH LOGIN\r\ndXNlcg==\r\n"
    b"BDAT 11\r\nQUIT\r\n.\r\n\r\nBDAT 0\r\nBDAT 4 LAST\r\nab\r\nrset\r\nbad\r\nQUIT\r\n"
)  # fmt: skip


def test_a_dialogue_is_the_same_however_it_is_cut():
    facts = assert_split_invariant(drive, DIALOGUE, everywhere=True)
    assert [fact[1] for fact in facts if fact[0] != "end"] == [
        "EHLO", "MAIL", "RCPT", "DATA", b"Received: x\r\nSubject: y\r\n\r\n.text\r\n", "unknown", "AUTH", b"dXNlcg==", "BDAT",
        b"QUIT\r\n.\r\n\r\n", "BDAT", b"", "BDAT", b"ab\r\n", "RSET", "unknown", "QUIT",
    ]  # fmt: skip
    assert [fact for fact in facts if fact[0] == "end"] == [
        ("end", 0, 0, 34, 27, 1, True, False),
        ("end", 0, 0, 11, 11, 0, False, False),
        ("end", 0, 0, 11, 11, 0, False, False),
        ("end", 0, 0, 15, 11, 0, True, False),
    ]


def test_an_idle_reader_holds_no_buffer():
    lexer = reader()
    lexer.feed(b"NOOP\r\n" * 3)
    for _ in range(3):
        assert lexer.next_event().verb == "NOOP"
    assert (lexer.waiting, lexer.take_rest()) == (0, b"")


def test_a_skipped_chunk_is_swallowed_exactly():
    lexer = reader()
    lexer.feed(b"BDAT 6\r\n")
    lexer.skip_chunk(lexer.next_event().size)
    lexer.feed(b"QU")
    assert lexer.next_event() is NEED_DATA
    lexer.feed(b"IT\r\nNOOP\r\n")
    assert lexer.next_event().reason == "chunk-skipped"
    assert lexer.next_event().verb == "NOOP"


def test_a_body_without_end_is_given_up():
    lexer = reader()
    lexer.expect_data(1000, 1000, False)
    swallowed = 0
    while True:
        lexer.feed(b"x" * 998 + b"\r\n")
        event = lexer.next_event()
        swallowed += 1000
        if event.kind == FAULT:
            break
        assert swallowed <= 2 * 1000 + 65536
    assert event.reason == "body-endless"
    assert lexer.waiting == 0


def test_discarded_text_still_has_its_end():
    lexer = reader()
    lexer.expect_data(1000, 1000, False)
    lexer.discard_body()
    lexer.feed(b"some text\r\n")
    assert lexer.next_event() is NEED_DATA
    lexer.feed(b".\r\nQUIT\r\n")
    end = lexer.next_event()
    assert (end.kind, end.size, end.faults) == (BODY_END, 11, 0)
    assert lexer.next_event().verb == "QUIT"


@pytest.mark.parametrize(
    ("text", "encoded"),
    [(b"", b""), (b"a@b", b"a@b"), (b"a+b=c d", b"a+2Bb+3Dc+20d"), (b"\0\xff", b"+00+FF"), (b"~!", b"~!")],
)
def test_xtext(text, encoded):
    assert encode_xtext(text) == encoded
    assert decode_xtext(encoded) == text


@pytest.mark.parametrize("text", [b"+", b"+4", b"+4g", b"+4a", b"a=b", b"a b", b"\xc3\xa9", b"a+2", b"\0"])
def test_what_is_not_xtext(text):
    with pytest.raises(ValueError, match="xtext"):
        decode_xtext(text)


def test_printable():
    assert printable(b"plain ~") == "plain ~"
    assert printable(b"a\r\nb\0\x7f\xc3") == "a??b???"
    assert printable(b"") == ""


ATEXT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~"


@pytest.mark.parametrize("code", range(256))
def test_every_character_of_a_dot_string(code):
    character = chr(code)
    assert is_dot_string(character) == (character in ATEXT)
    assert is_dot_string(f"a{character}b") == (character in ATEXT + ".")


@pytest.mark.parametrize("text", ["", ".", ".a", "a.", "a..b", "\u0430", "a b", '"a"'])
def test_what_is_no_dot_string(text):
    assert not is_dot_string(text)
