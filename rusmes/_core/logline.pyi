"""What every log line has: the time, and mostly short printable ASCII texts and numbers under constant names."""

def timestamp() -> bytes:
    """Now, in UTC: 2026-11-24T05:43:38.123Z."""

def flat_json(fields: dict[str, object]) -> bytes | None:
    """The fields without the opening brace, with the closing one and a line end; None when they need more care.

    They do when they are none or many (1000 octets), and when a name or value is something else than printable ASCII without
    quote and backslash, an integer of 64 bits, or a finite float. Names of secrets are not looked at.
    """

def whole_line(middle: bytes, fields: dict[str, object]) -> bytes | None:
    """A line: an object with the time now, what `middle` says after it, and the fields; None as of `flat_json`.

    `middle` begins with the quote that ends the time, and ends with a value.
    """
