"""Names of mailboxes: which are possible, and which have a special use (RFC 9051 §5.1, RFC 6154)."""

from __future__ import annotations

import unicodedata
from typing import Final

from rusmes.errors import NotAllowed

INBOX: Final = "INBOX"
# An LMDB key holds 511 bytes, 8 of them the account.
MAX_NAME_BYTES: Final = 480
MAX_LEVELS: Final = 32
MAX_ACCOUNT_NAME_BYTES: Final = 500
# Of one account. Clients list all of them at each start; Gmail allows 10,000 labels.
MAX_MAILBOXES: Final = 10_000
MAX_SUBSCRIPTIONS: Final = 20_000
# In the list of rights of one mailbox.
MAX_IDENTIFIERS: Final = 500
MAX_IDENTIFIER_BYTES: Final = 490

SPECIAL_USE_BY_NAME: Final = {
    "Drafts": "\\Drafts",
    "Sent": "\\Sent",
    "Trash": "\\Trash",
    "Junk": "\\Junk",
    "Archive": "\\Archive",
}


def normal_name(name: str) -> str:
    """The one spelling of a mailbox name: NFC, and INBOX in capitals (RFC 9051 §5.1).

    Raises:
        NotAllowed: the name is empty, too long or too deep, or has empty levels or control characters.
    """
    if name == INBOX:
        return name
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    first, slash, rest = name.partition("/")
    if first.upper() == INBOX:
        name = INBOX + slash + rest
    levels = name.split("/")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise NotAllowed("not a mailbox name", "it has a lone surrogate") from None
    if size > MAX_NAME_BYTES:
        raise NotAllowed("mailbox name too long", f"{size} bytes, at most {MAX_NAME_BYTES}")
    if "" in levels or len(levels) > MAX_LEVELS:
        raise NotAllowed("not a mailbox name", f"{name!r} has an empty level or more than {MAX_LEVELS}")
    # RFC 9051 §5.1: control characters and U+2028, U+2029 are not part of names.
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        raise NotAllowed("not a mailbox name", f"{name!r} has control characters")
    return name


def check_account_name(name: str) -> None:
    """Raises NotAllowed for a name that is empty, too long for a key, or has control characters."""
    if 0 < len(name) <= MAX_ACCOUNT_NAME_BYTES and name.isascii() and name.isprintable():
        return
    size = len(name.encode(errors="replace"))
    if not 0 < size <= MAX_ACCOUNT_NAME_BYTES or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise NotAllowed("not an account name", f"{name[:80]!r}, {size} bytes")


def check_identifier(identifier: str) -> None:
    """Raises NotAllowed for what cannot be in a list of rights: an account's name, or "anyone", "-" before it or not."""
    try:
        size = len(identifier.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_IDENTIFIER_BYTES or any(unicodedata.category(c) in ("Cc", "Cs") for c in identifier):
        raise NotAllowed("not an identifier", repr(identifier[:80]))


def parents(name: str) -> list[str]:
    """The superior names, from the top: "a/b/c" has "a" and "a/b"."""
    levels = name.split("/")
    return ["/".join(levels[:n]) for n in range(1, len(levels))]


def is_below(name: str, parent: str) -> bool:
    return name.startswith(parent + "/")
