"""Mailboxes of the envelope (RFC 5321 §4.1.2, RFC 6531 §3.3)."""

from __future__ import annotations

from msgspec import Struct

from rusmes._core.smtp import is_dot_string


class Address(Struct, frozen=True, gc=False, array_like=True):
    """A local part and a domain.

    `local` is unquoted, as the user wrote it (case kept). `domain` is lower-case A-labels, or an address literal with its
    brackets ("[192.0.2.1]", "[IPv6:2001:db8::1]"), or "" for the bare "postmaster" of RFC 5321 §4.5.1.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{quote_local(self.local)}@{self.domain}" if self.domain else self.local

    @property
    def folded(self) -> str:
        """The form under which local accounts and suppression lists are looked up: local part in lower case."""
        return f"{self.local.lower()}@{self.domain}"


_ATEXT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~."


def quote_local(local: str) -> str:
    """The local part as it is written on the wire: a dot-string where possible, else quoted (RFC 5321 §4.1.2)."""
    if is_dot_string(local):
        return local
    plain = local and local[0] != "." and local[-1] != "." and ".." not in local
    if plain and all(c in _ATEXT or c >= "\x80" for c in local):
        return local
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
