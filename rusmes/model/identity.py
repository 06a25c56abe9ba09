"""Who is logged in, and what they may do."""

from __future__ import annotations

from msgspec import Struct


class Identity(Struct, frozen=True):
    """An authenticated account.

    `account` is its canonical name: the folded address of its primary mailbox. `addresses` are all folded addresses it may
    send as. `disabled_capabilities` are protocol capabilities switched off for this account.
    """

    account: str
    addresses: frozenset[str] = frozenset()
    display_name: str = ""
    quota_bytes: int = 0
    """0 = no limit."""
    quota_messages: int = 0
    """0 = no limit."""
    disabled_capabilities: frozenset[str] = frozenset()
    admin: bool = False
