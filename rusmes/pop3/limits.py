"""The numbers of a POP3 session. What [pop3] sets is there; the rest is fixed here."""

from __future__ import annotations

from typing import Final

COMMAND_LINE_OCTETS: Final = 255
"""With CRLF (RFC 2449 §4)."""

SASL_LINE_OCTETS: Final = 12290
"""A client's response with CRLF (RFC 4954 §4: 12288 octets of base64)."""

DISCARD_OCTETS: Final = 16384
"""Of a line that is too long; then the connection is closed."""

ERRORS_BEFORE_LOGIN: Final = 5
ERRORS_AFTER_LOGIN: Final = 20
"""Commands that make no sense, before the connection is closed. Postfix smtpd_hard_error_limit: 20."""

FAILED_LOGINS: Final = 3
"""In one session, then it is closed."""

READ_AHEAD_MESSAGES: Final = 16
READ_AHEAD_OCTETS: Final = 64 * 1024
"""The next messages of a client that reads them in order are prepared while it digests this one, up to these bounds."""

WHOLE_MESSAGE_OCTETS: Final = 128 * 1024
"""A larger message is sent in pieces, whether or not the store has it in memory."""

FLUSH_OCTETS: Final = 64 * 1024
"""Replies to pipelined commands are collected up to this size; then the client must read."""

LISTING_ROWS: Final = 2000
"""Rows of LIST and UIDL made at a time, about 50 KB."""
