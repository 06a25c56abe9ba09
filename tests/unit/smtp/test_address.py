import pytest

from rusmes.model.address import Address
from rusmes.smtp.address import AddressError, parse_address, parse_domain, parse_path


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("user@example.com", "user", "example.com"),
        ("User+Tag@EXAMPLE.Com", "User+Tag", "example.com"),
        ("user@localhost", "user", "localhost"),
        ("user@example.com.", "user", "example.com"),
        ("user@a_b.example", "user", "a_b.example"),
        ("u@xn--bcher-kva.example", "u", "xn--bcher-kva.example"),
        ("u@XN--BCHER-KVA.example", "u", "xn--bcher-kva.example"),
        ("u@bücher.example", "u", "xn--bcher-kva.example"),
        ("u@BÜCHER.example", "u", "xn--bcher-kva.example"),
        ("u@bu\u0308cher.example", "u", "xn--bcher-kva.example"),
        ("用户@例子.广告", "用户", "xn--fsqu00a.xn--4rr70v"),
        ("é.ü@b", "é.ü", "b"),
        ('"a b"@c', "a b", "c"),
        ('"a@b"@c', "a@b", "c"),
        ('"a\\"b\\\\c"@d', 'a"b\\c', "d"),
        ('"user"@c', "user", "c"),
        ('"..a>"@c', "..a>", "c"),
        ("user%foreign@local", "user%foreign", "local"),
        ("foreign!user@local", "foreign!user", "local"),
        ("u@[192.0.2.1]", "u", "[192.0.2.1]"),
        ("u@[IPv6:2001:DB8:0:0::1]", "u", "[IPv6:2001:db8::1]"),
        ("u@[ipv6:::1]", "u", "[IPv6:::1]"),
        ("x" * 64 + "@" + "d" * 63 + ".e", "x" * 64, "d" * 63 + ".e"),
        ("u@" + "d." * 126 + "d", "u", "d." * 126 + "d"),
    ],
)
def test_r8_one_canonical_form(text, local, domain):
    assert parse_address(text) == Address(local, domain)
    assert parse_path(text.encode(), smtputf8=True) == Address(local, domain)
    # What we write is read back as the same (but for the look of a U-label).
    assert parse_address(str(Address(local, domain))) == Address(local, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user",
        "user@",
        "@local",
        "@",
        "@@",
        "a@b@c",
        ".a@b",
        "a.@b",
        "a..b@c",
        "a b@c",
        " a@b",
        "a@b ",
        "<a@b>",
        "a@b>",
        "a,b@c",
        "a:b@c",
        "a@b,c",
        "a@b c",
        "a@-b",
        "a@b-",
        "a@b..c",
        "a@.b",
        "a@b..",
        "a@b.-c",
        "a@b!c",
        "a@",
        '"a@b',
        '"a"b@c',
        '""@b',
        'a"b"@c',
        '"a"',
        '"a\\',
        "a@127.0.0.1",
        "a@1",
        "a@[1.2.3]",
        "a@[1.2.3.4",
        "a@[1.2.3.256]",
        "a@[01.2.3.4]",
        "a@[]",
        "a@[IPv6:]",
        "a@[IPv6:1.2.3.4]",
        "a@[IPv6:fe80::1%eth0]",
        "a@[x-tag:foo]",
        "a@[1.2.3.4]x",
        "a@[::1]",
        "x" * 65 + "@b",
        "é" * 33 + "@b",
        "a@" + "d" * 64,
        "a@" + "d." * 127 + "d",
    ],
)
def test_r5_r7_p29_what_is_no_address(text):
    with pytest.raises(AddressError) as refused:
        parse_address(text)
    assert (refused.value.code, refused.value.status[:3]) == (501, "5.1")
    if text:
        with pytest.raises(AddressError):
            parse_path(text.encode(), smtputf8=True)


@pytest.mark.parametrize("position", ["a{}b@c", "{}@c", '"a{}b"@c', "a@b{}c", "a@{}", "a@[1.2.3.4{}]", "@x{}y:a@b"])
@pytest.mark.parametrize("octet", ["\r", "\n", "\0", "\t", "\r\n", "\x1b", "\x7f", "\x0b"])
def test_p27_control_characters(position, octet):
    text = position.format(octet)
    with pytest.raises(AddressError) as refused:
        parse_path(text.encode(), smtputf8=True)
    assert refused.value.code == 501
    with pytest.raises(AddressError):
        parse_address(text)


@pytest.mark.parametrize(
    "octets",
    [
        b"\xc3",
        b"\xff",
        b"\x80",
        b"\xc0\xaf",
        b"\xc1\xa9",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xc0\x80",
    ],
)
@pytest.mark.parametrize("position", [b"a%sb@c.d", b"a@b%s.c", b'"a%s"@b'])
def test_p26_octets_that_are_no_utf8(octets, position):
    with pytest.raises(AddressError, match="UTF-8") as refused:
        parse_path(position % octets, smtputf8=True)
    assert refused.value.code == 501


@pytest.mark.parametrize(
    "character",
    [
        "\u0080",
        "\u0085",
        "\u009f",
        "\u2028",
        "\u2029",
        "\u00a0",
        "\u3000",
        "\u2003",
        "\u202e",
        "\u2066",
        "\u200f",
        "\u061c",
        "\uff20",
        "\uff0e",
        "\u3002",
        "\uff61",
        "\u2024",
        "\ufe52",
        "\ufe6b",
        "\ue000",
        "\ud800",
        "\ufdd0",
        "\U0010ffff",
    ],
)
@pytest.mark.parametrize("position", ["a{}b@c.d", '"a{}b"@c.d', "a@b{}c.d", "a@b.c{}", "a{}b"])
def test_p26_characters_that_hide_or_pretend(character, position):
    text = position.format(character)
    with pytest.raises(AddressError) as refused:
        parse_address(text)
    assert refused.value.code in (501, 553)
    if character != "\ud800":
        with pytest.raises(AddressError):
            parse_path(text.encode(), smtputf8=True)


@pytest.mark.parametrize(
    "domain",
    [
        "ｅxample.com",
        "exam\u00adple.com",
        "Ⅷ.com",
        "a\u200bb.com",
        "☃.com",
        "ﬁ.com",
        "①.com",
        "xn--.é",
        "é-.com",
        "-é.com",
        "ab--é.com",
        "é" * 60,
    ],
)
def test_p26_no_text_becomes_another_domain(domain):
    with pytest.raises(AddressError):
        parse_address(f"a@{domain}")


@pytest.mark.parametrize("path", ["é@b".encode(), "a@é".encode(), b"a\xff@b", '"é"@b'.encode(), "@é:a@b".encode()])
def test_p24_octets_above_127_need_smtputf8(path):
    with pytest.raises(AddressError) as refused:
        parse_path(path, smtputf8=False)
    assert (refused.value.code, refused.value.status) == (553, "5.6.7")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (b"@a,@b:c@d", Address("c", "d")),
        (b"@local:user@foreign", Address("user", "foreign")),
        (b"@[192.0.2.1],@x.y:u@Z", Address("u", "z")),
        (b'@a:"b c"@d', Address("b c", "d")),
        (b"@a:postmaster", Address("postmaster", "")),
    ],
)
def test_p28_a_source_route_is_ignored(path, address):
    assert parse_path(path, smtputf8=False) == address


@pytest.mark.parametrize(
    "path", [b"@a", b"@a:", b"@:a@b", b"@a,b:c@d", b"@a,:c@d", b"@a b:c@d", b"@a;c@d", b"@a,@b", b"@a:@b:c@d"]
)
def test_p28_a_route_has_a_grammar(path):
    with pytest.raises(AddressError):
        parse_path(path, smtputf8=False)


def test_the_null_path_and_postmaster():
    assert parse_path(b"", smtputf8=False) is None
    assert parse_path(b"PostMaster", smtputf8=False) == Address("PostMaster", "")
    with pytest.raises(AddressError):
        parse_address("postmaster")


@pytest.mark.parametrize(
    ("text", "domain"),
    [("Example.COM.", "example.com"), ("bücher.example", "xn--bcher-kva.example"), ("[192.0.2.1]", "[192.0.2.1]")],
)
def test_domains(text, domain):
    assert parse_domain(text) == domain


@pytest.mark.parametrize("text", ["", ".", "a b", "a\n", "a@b", "1.2.3.4", "[x]", "-a", "a..b", "\uff0e"])
def test_what_is_no_domain(text):
    with pytest.raises(AddressError):
        parse_domain(text)


def test_an_address_error_is_a_value_error():
    assert issubclass(AddressError, ValueError)


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000 + "@b", "a." * 500_000 + "@b", '"' + "\\" * 1_000_000, "a@" + "b." * 500_000, "@a," * 300_000]
)
def test_huge_texts_are_refused_in_linear_time(text):
    with pytest.raises(AddressError):
        parse_address(text)
    with pytest.raises(AddressError):
        parse_path(text.encode(), smtputf8=True)
