"""Messages of all kinds, good and broken, from a random source: what searches are tested on."""

from __future__ import annotations

import base64
import quopri
from random import Random

WORDS = (
    "alpha",
    "Beta",
    "gamma ray",
    "café",
    "ΩMEGA",
    "straße",
    "Ελλάδα",
    "日本",
    "zebra",
    "e",
    "fi",
    "ﬁnal",
    "to be",
    "=3D",
    "--x",
)
CHARSETS = (
    "utf-8",
    "UTF-8",
    "us-ascii",
    "iso-8859-1",
    "windows-1251",
    "koi8-r",
    "shift_jis",
    "iso-2022-jp",
    "utf-16",
    "x-none",
    "",
)
NAMES = (b"Subject", b"From", b"To", b"X-Thing", b"subject ", b"List-Id", b"Received")


def text(rnd: Random) -> str:
    return "".join(rnd.choice(WORDS) + rnd.choice((" ", "\r\n", " ", "", "\n")) for _ in range(rnd.randrange(8)))


def encoded_word(rnd: Random) -> bytes:
    data = text(rnd).replace("\r\n", "").replace("\n", "").encode()
    if rnd.random() < 0.2:
        data = data[: len(data) // 2]
    if rnd.random() < 0.5:
        return b"=?utf-8?b?" + base64.b64encode(data) + b"?="
    return (
        b"=?"
        + rnd.choice((b"UTF-8", b"koi8-r", b"iso-8859-1*en"))
        + b"?Q?"
        + b"".join(b"=%02X" % octet for octet in data)
        + b"?="
    )


def value(rnd: Random) -> bytes:
    pieces = [
        rnd.choice(WORDS).encode(rnd.choice(("utf-8", "utf-8", "latin-1")), "replace"),
        encoded_word(rnd),
        b"\r\n ",
        b"\n\t",
    ]
    return b" ".join(rnd.choice(pieces) for _ in range(rnd.randrange(5)))


def fields(rnd: Random) -> bytes:
    lines = [rnd.choice(NAMES) + b": " + value(rnd) + b"\r\n" for _ in range(rnd.randrange(4))]
    if rnd.random() < 0.1:
        lines.append(b"no field at all\r\n")
    return b"".join(lines)


def leaf(rnd: Random) -> bytes:
    charset = rnd.choice(CHARSETS)
    try:
        data = text(rnd).encode(charset if charset not in ("x-none", "") else "utf-8", "replace")
    except LookupError:
        data = text(rnd).encode()
    encoding = rnd.choice((b"7bit", b"8bit", b"base64", b"quoted-printable", b"x-unknown", b"Base64 "))
    if encoding.strip().lower() == b"base64" and rnd.random() < 0.9:
        data = base64.encodebytes(data).replace(b"\n", b"\r\n")
    elif encoding == b"quoted-printable" and rnd.random() < 0.9:
        data = quopri.encodestring(data)
    kind = rnd.choice(
        (b"text/plain", b"text/html", b"TEXT / Plain", b"application/pdf", b"message/delivery-status", b"nonsense")
    )
    parameter = f'; charset="{charset}"'.encode() if charset else b""
    if rnd.random() < 0.2:
        parameter = b";\r\n name=x" + parameter + rnd.choice((b"; charset=latin1", b'; x="a\\"b"', b"; ;=; a"))
    return (
        fields(rnd) + b"Content-Type: " + kind + parameter + b"\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + data
    )


def part(rnd: Random, depth: int = 0) -> bytes:
    kind = rnd.random()
    if depth > 4 or kind < 0.5:
        return leaf(rnd)
    if kind < 0.6:
        return fields(rnd) + b"Content-Type: message/rfc822\r\n\r\n" + part(rnd, depth + 1)
    boundary = rnd.choice((b"b%d" % rnd.randrange(3), b"a b", b"x", b"--"))
    subtype = rnd.choice((b"mixed", b"alternative", b"digest"))
    lines = [fields(rnd), b"Content-Type: multipart/" + subtype + b'; boundary="' + boundary + b'"\r\n\r\npreamble zebra\r\n']
    for _ in range(rnd.randrange(4)):
        child = part(rnd, depth + 1) if subtype != b"digest" or rnd.random() < 0.5 else b"\r\n" + part(rnd, depth + 1)
        lines += [b"--" + boundary + rnd.choice((b"", b" ", b"\t")) + rnd.choice((b"\r\n", b"\n")), child, b"\r\n"]
    if rnd.random() < 0.8:
        lines.append(b"--" + boundary + b"--\r\nepilogue alpha\r\n")
    return b"".join(lines)


def damaged(rnd: Random, data: bytes) -> bytes:
    """The same with some octets lost, doubled or changed."""
    for _ in range(rnd.randrange(4)):
        if not data:
            break
        at, end = sorted((rnd.randrange(len(data)), rnd.randrange(len(data))))
        data = rnd.choice(
            (
                data[:at] + data[at + 1 :],
                data[:end] + data[at:],
                data[:at] + b"\r\n" + data[at:],
                data[:end],
                data[:at] + bytes((rnd.randrange(256),)) + data[at + 1 :],
            )
        )
    return data[:20_000]
