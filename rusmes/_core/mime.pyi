"""What delivery reads of a header block: fields and identifiers. `rusmes.mime` has the grammar; this is the
part of it that every message meets, without regular expressions."""

from collections.abc import Callable, Iterable
from typing import final

@final
class FieldNames:
    """Names of header fields, to be looked for in many headers.

    Raises:
        ValueError: a name is not in lower case, empty, or longer than 63 octets.
    """

    def __init__(self, names: Iterable[bytes]) -> None: ...

def parse_fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields in order. A name is in lower case, a value has its folds and outer blanks as they are (RFC 5322 §2.2 and
    §4.5: blanks may stand before the colon). Lines that are no field are stepped over."""

def pick_fields(block: bytes, names: FieldNames) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The named fields, as of `parse_fields`, and their lines as they were received, with CRLF at the end of each."""

def identifiers(value: bytes) -> list[bytes]:
    """What stands between "<" and ">" (RFC 5322 §3.6.4), without blanks; 1 to 998 octets each."""

def content_fields(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first of each field whose name begins with "content-"."""

def envelope_values(fields: list[tuple[bytes, bytes]]) -> list[bytes | None]:
    """Date, Subject, From, Sender, Reply-To, To, Cc, Bcc, In-Reply-To and Message-ID. The first of a repeated text field
    counts; repeated address fields are joined with commas."""

def render_envelope(fields: list[tuple[bytes, bytes]], render_addresses: Callable[[bytes], bytes]) -> bytes:
    """ENVELOPE (RFC 9051 §7.5.2) of the fields; `render_addresses` makes the list of an address field, or NIL."""

def plain_addresses(value: bytes) -> bytes | None:
    """An address list as it stands in an ENVELOPE, if it is one as most programs write: addresses with words, a quoted string
    without escapes, or nothing before their angle brackets, and commas. None for every other."""

def message_ids(fields: list[tuple[bytes, bytes]], most: int) -> tuple[bytes, ...]:
    """Those of Message-ID (the first), In-Reply-To and References (the youngest first), once each, not more than `most`."""
