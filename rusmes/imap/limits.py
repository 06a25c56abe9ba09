"""The numbers of an IMAP session's input; before login they are lower (docs/design.md, promise 5)."""

from __future__ import annotations

from typing import Final

COMMAND_OCTETS_BEFORE_LOGIN: Final = 8192
"""Of a command without its literals. RFC 7162 §4 asks clients to stay below 8192, servers to accept as much."""

COMMAND_OCTETS: Final = 256 * 1024
"""The same after login: sets of UIDs of large mailboxes are long. Dovecot imap_max_line_length: 64 KiB."""

LITERAL_OCTETS_BEFORE_LOGIN: Final = 4096
"""Of the literals of one command together. RFC 7888 §5: LITERAL- allows as much to come unasked."""

LITERAL_OCTETS: Final = 256 * 1024
"""Of the literals of one command that are kept in memory: names, passwords, search texts, values of METADATA."""

LITERALS_BEFORE_LOGIN: Final = 16
LITERALS: Final = 256
"""Of one command, messages of MULTIAPPEND included."""

APPEND_OCTETS: Final = 32 * 1024
"""Of an APPEND without its literals: each of its literals makes the text before it to be read again."""

MESSAGE_OCTETS: Final = 50 * 1024 * 1024
"""Of a message, where nothing else is configured ([smtp] max_message_size)."""

DISCARD_OCTETS_BEFORE_LOGIN: Final = 64 * 1024
DISCARD_OCTETS: Final = 128 * 1024 * 1024
"""Of a refused command with what comes unasked; then the connection is closed. A client that appends without waiting
(LITERAL+) a message over the limit deserves the reply that says so, up to here."""

LINE_OCTETS: Final = 12290
"""Of a client's answer to a SASL challenge, with CRLF (RFC 4954 §4: 12288 octets of base64), and of what ends IDLE."""

ERRORS_BEFORE_LOGIN: Final = 5
ERRORS_AFTER_LOGIN: Final = 20
"""Commands that are not grammar, before the connection is closed. Dovecot: 3 before login, 20 after."""

FAILED_LOGINS: Final = 3
"""In one session, then it is closed."""

NESTING: Final = 20
"""Parentheses within parentheses, OR and NOT in a search. Dovecot: 20 lists."""

SEARCH_KEYS: Final = 1000
"""In one search. Long lists of UIDs are one key."""

SET_RANGES: Final = 32 * 1024
"""In one sequence set."""

LIST_ITEMS: Final = 1000
"""Items in one list: of FETCH attributes, header names, flags, mailboxes, entries."""

NAME_OCTETS: Final = 1000
"""Of a mailbox name as it is sent. The store allows 480 octets of UTF-8, which modified UTF-7 makes longer."""

ID_FIELDS: Final = 30
ID_FIELD_OCTETS: Final = 30
ID_VALUE_OCTETS: Final = 1024
"""RFC 2971 §3.3; what is more is cut off."""
