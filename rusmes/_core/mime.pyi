"""What delivery reads of a header block: fields and identifiers. `rusmes.mime` has the grammar; this is the
part of it that every message meets, without regular expressions."""

def parse_and_pick(block: bytes, names: frozenset[bytes]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields, and the lines of the named ones as they were received, with CRLF at the end of each. A name is in lower
    case, a value has its folds and outer blanks as they are (RFC 5322 §2.2 and §4.5: blanks may stand before the colon).
    Lines that are no field are stepped over."""

def identifiers(value: bytes) -> list[bytes]:
    """What stands between "<" and ">" (RFC 5322 §3.6.4), without blanks; 1 to 998 octets each."""

def content_fields(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first of each field whose name begins with "content-"."""

def envelope_values(fields: list[tuple[bytes, bytes]]) -> list[bytes | None]:
    """Date, Subject, From, Sender, Reply-To, To, Cc, Bcc, In-Reply-To and Message-ID. The first of a repeated text field
    counts; repeated address fields are joined with commas."""
