"""How much of anything a peer may send, with units and sources."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True):
    """Limits of one session. All lengths are octets and count the CRLF."""

    max_message_bytes: int = 50 * 1024 * 1024
    """RFC 1870. More is swallowed to its end and refused (552 5.3.4); twice as much ends the connection."""
    max_header_bytes: int = 100 * 1024
    """The header block. RFC 5322 knows no limit; Postfix cuts at 102,400 (header_size_limit) a field, Exim at 1 MiB."""
    command_line_bytes: int = 512
    """RFC 5321 §4.5.3.1.4."""
    envelope_line_bytes: int = 4096
    """MAIL and RCPT: 512 and what SIZE (26), BODY (17), SMTPUTF8 (10), AUTH (500), ENVID (107), ORCPT (507, more in
    utf-8-addr-xtext), NOTIFY (28) add; RFC 5321 §4.5.3.1.4 lets extensions grow the line. Postfix takes 2,048."""
    auth_line_bytes: int = 12288
    """RFC 4954 §3 (5): AUTH and the lines of its exchange."""
    discard_line_bytes: int = 64 * 1024
    """How much of a line that is too long already is read before the connection is given up."""
    bare_newline: str = "reject"
    """reject | normalize: what a bare LF or CR in message text means. In neither mode does it end anything."""
