"""What `_core.casemap`, `textpipe` and `textscan` do, in Python: slow and plain."""

from __future__ import annotations

import codecs
import re
import unicodedata
from functools import lru_cache

from rusmes._core.textpipe import codec_of
from rusmes.mime.fields import parse_fields
from rusmes.mime.structure import Part, parse_structure

HEADER, TEXT, BODY = 0, 1, 2


def fold(text: str) -> str:
    return "".join(_folded(character) for character in text)


def _folded(character: str) -> str:
    if 0xAC00 <= ord(character) <= 0xD7A3:
        return character
    before, now = "", character
    while before != now:
        titles = (one.title() for one in now)
        titled = "".join(title if len(title) == 1 else one for title, one in zip(titles, now, strict=True))
        before, now = now, unicodedata.normalize("NFKD", titled)
    return now


def utf8(data: bytes) -> str:
    """Octets that are no UTF-8 are ISO 8859-1."""
    text, at = "", 0
    while at < len(data):
        for size in (1, 2, 3, 4):
            try:
                text += data[at : at + size].decode()
            except UnicodeDecodeError:
                continue
            at += size
            break
        else:
            text += chr(data[at])
            at += 1
    return text


def characters(data: bytes, charset: bytes) -> str:
    codec = codec_of(charset)
    if codec in (None, "utf_8"):
        return utf8(data)
    if is_one_octet(codec):
        return "".join(_one(data[i : i + 1], codec) for i in range(len(data)))
    return data.decode(codec, "replace").encode("utf-8", "replace").decode()


def is_one_octet(codec: str) -> bool:
    return not re.match("big5|cp93|cp94|cp95|euc_|gb|hz|iso2022|johab|shift_jis|utf_", codec)


def _one(octet: bytes, codec: str) -> str:
    try:
        return codecs.decode(octet, codec)
    except UnicodeDecodeError:
        return octet.decode("latin-1")


ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64(data: bytes) -> bytes:
    out, bits, count = bytearray(), 0, 0
    for octet in data:
        if octet == ord("="):
            count = 0
        elif octet in ALPHABET:
            bits, count = bits << 6 | ALPHABET.index(octet), count + 6
            if count >= 8:
                count -= 8
                out.append(bits >> count & 255)
    return bytes(out)


def quoted_printable(data: bytes) -> bytes:
    def replaced(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return bytes((int(match[1], 16),))
        return b""

    # An escape, a soft line break, or blanks that a line ends with.
    return re.sub(rb"=([0-9A-Fa-f]{2})|=[ \t]*(?:\r?\n|\r?\Z)|(?<![ \t])[ \t]+(?=\r?\n|\r?\Z)", replaced, data)


def decoded(data: bytes, encoding: bytes, charset: bytes) -> str:
    if encoding == b"base64":
        data = base64(data)
    elif encoding == b"quoted-printable":
        data = quoted_printable(data)
    return characters(data, charset)


_WORD = re.compile(rb"=\?([!-)+->@-~]{1,40})(?:\*[!->@-~]*)?\?([bBqQ])\?([^?]*)\?=")


def _octets(word: re.Match[bytes]) -> bytes:
    if word[2] in b"bB":
        return base64(word[3])
    return re.sub(rb"=([0-9A-Fa-f]{2})", lambda escape: bytes((int(escape[1], 16),)), word[3].replace(b"_", b" "))


def words(data: bytes) -> str:
    """Unfolded header text with its encoded words decoded. Blanks between two are dropped, and a character may be cut there."""
    text, at = "", 0
    found = list(_WORD.finditer(data))
    while found:
        word = found.pop(0)
        text += utf8(data[at : word.start()])
        run, charset, at = _octets(word), word[1].lower(), word.end()
        while found and not data[at : found[0].start()].strip(b" \t"):
            word = found.pop(0)
            if word[1].lower() != charset:
                text += characters(run, charset)
                run, charset = b"", word[1].lower()
            run += _octets(word)
            at = word.end()
        text += characters(run, charset)
    return text + utf8(data[at:])


def header_text(block: bytes) -> str:
    return words(re.sub(rb"\r*\n(?=[ \t])", b"", block))


@lru_cache(maxsize=256)
def texts(prefix: bytes, body: bytes, skip: int, header_size: int) -> tuple[list[str], list[str]]:
    """Those that TEXT looks at, and those that BODY does."""
    own = body[skip:header_size]
    fields = parse_fields(prefix) + parse_fields(own)
    part = parse_structure(fields, body, max(header_size, skip), len(body))
    found: tuple[list[str], list[str]] = ([header_text(prefix), header_text(own)], [])
    _walk(part, body, found, is_message=False)
    return found


def _walk(part: Part, body: bytes, found: tuple[list[str], list[str]], *, is_message: bool) -> None:
    if part.header_start >= 0:
        text = header_text(body[part.header_start : part.body_start])
        found[0].append(text)
        if is_message:
            found[1].append(text)
    for child in part.children:
        _walk(child, body, found, is_message=not part.is_type(b"multipart"))
    if part.children or not (part.is_type(b"text") or part.is_type(b"message")):
        return
    encoding = next((value for name, value in part.fields if name == b"content-transfer-encoding"), b"").strip().lower()
    charset = next((value for name, value in part.parameters if name.lower() == b"charset"), b"").strip().lower()
    text = decoded(body[part.body_start : part.end], encoding, charset if len(charset) <= 40 else b"")
    found[0].append(text)
    found[1].append(text)


def contains(kind: int, name: bytes, text: str, prefix: bytes, body: bytes, skip: int, header_size: int) -> bool:
    if kind == HEADER:
        values = [value for block in (prefix, body[skip:header_size]) for field, value in parse_fields(block) if field == name]
        return any(fold(text) in fold(header_text(value)) for value in values)
    if not text:
        return True
    return any(_fold(text) in _fold(one) for one in texts(prefix, body, skip, header_size)[0 if kind == TEXT else 1])


_fold = lru_cache(maxsize=1024)(fold)
