"""Text of messages as characters: transfer encodings (RFC 2045 §6), charsets, encoded words of header fields (RFC 2047).

Everything is decoded somehow: what breaks the rules of its encoding is stepped over or kept as it is. An unknown charset is
UTF-8, and UTF-8 that is none is ISO 8859-1, octet by octet. Of ISO 8859-1 the wider windows-1252 is taken, of GB2312
GB18030, as everybody does.
"""

from typing_extensions import disjoint_base

from rusmes._core.casemap import Pattern

@disjoint_base
class TextPipe:
    """For other extensions: text on its way through decoding and folding, searched as it goes by."""

    def __new__(cls, patterns: list[Pattern] = []) -> TextPipe: ...

def decode_header(value: bytes) -> str:
    """The text of a header field: unfolded, encoded words decoded, without blanks around it.

    Words are decoded wherever they stand, in quoted strings too, and may hold blanks; a character may be cut between two.
    """

def decode_text(data: bytes, encoding: bytes, charset: bytes) -> str:
    """The text of a part: `encoding` is its Content-Transfer-Encoding, `charset` the parameter of its Content-Type."""

def codec_of(charset: bytes) -> str | None:
    """The name of Python's codec for a charset, or None when nothing here knows it or it is no charset (rot13)."""
