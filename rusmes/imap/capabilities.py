"""What the server says it can do (RFC 9051 §7.2.2), by state; a name is here only when what it stands for works.

An account's `disabled_capabilities` may name any of them ("IDLE", "imap.idle"); they are then neither listed nor, where the
session can tell, served.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from rusmes.imap import command as c

ALWAYS: Final = ("IMAP4rev2", "IMAP4rev1", "SASL-IR", "ID", "ENABLE")
"""In every state. SASL-IR is RFC 4959, ID 2971, ENABLE 5161."""

AFTER_LOGIN: Final[tuple[str, ...]] = (
    "LITERAL+",
    "UTF8=ACCEPT",
    "IDLE",
    "UNSELECT",
    "UNAUTHENTICATE",
    "MULTIAPPEND",
    "CATENATE",
    "URL-PARTIAL",
    "REPLACE",
    "NOTIFY",
    "CHILDREN",
    "NAMESPACE",
    "LIST-EXTENDED",
    "LIST-STATUS",
    "LIST-MYRIGHTS",
    "LIST-METADATA",
    "SPECIAL-USE",
    "CREATE-SPECIAL-USE",
    "STATUS=SIZE",
    "ACL",
    "RIGHTS=texk",
    "QUOTA",
    "QUOTA=RES-STORAGE",
    "QUOTA=RES-MESSAGE",
    "QUOTA=RES-MAILBOX",
    "QUOTASET",
    "METADATA",
    "UIDPLUS",
    "MOVE",
    "CONDSTORE",
    "QRESYNC",
    "BINARY",
    "PREVIEW",
    "OBJECTID",
    "SAVEDATE",
    "PARTIAL",
    "UIDONLY",
    "ESEARCH",
    "SEARCHRES",
    "WITHIN",
    "SORT",
    "SORT=DISPLAY",
    "ESORT",
    "THREAD=ORDEREDSUBJECT",
    "THREAD=REFERENCES",
    "CONTEXT=SEARCH",
    "CONTEXT=SORT",
    "MULTISEARCH",
    "I18NLEVEL=1",
    "INPROGRESS",
)
"""Listed once somebody is logged in; before, a client learns nothing it could use."""


COMMANDS: Final[dict[type[c.Command], str]] = {
    c.Append: "APPEND", c.Idle: "IDLE", c.Notify: "NOTIFY", c.Compress: "COMPRESS", c.Namespace: "NAMESPACE",
    c.Unauthenticate: "UNAUTHENTICATE", c.Replace: "REPLACE", c.Sort: "SORT", c.Thread: "THREAD", c.GetQuota: "QUOTA",
    c.GetQuotaRoot: "QUOTA", c.SetQuota: "QUOTA", c.GetAcl: "ACL", c.SetAcl: "ACL", c.DeleteAcl: "ACL", c.ListRights: "ACL",
    c.MyRights: "ACL", c.GetMetadata: "METADATA", c.SetMetadata: "METADATA", c.CancelUpdate: "CONTEXT",
}  # fmt: skip
"""Commands that are refused to an account whose capability of this name (up to a "=") is switched off."""


@lru_cache(64)
def switched_off(disabled: frozenset[str]) -> frozenset[type[c.Command]]:
    """The commands an account may not use."""
    off = {name.upper().removeprefix("IMAP.").partition("=")[0] for name in disabled}
    return frozenset(kind for kind, name in COMMANDS.items() if name in off)


@lru_cache(64)
def before_login(mechanisms: tuple[str, ...], *, may_log_in: bool, may_start_tls: bool) -> tuple[str, ...]:
    """RFC 9051 §6.2: STARTTLS while it can be said, LOGINDISABLED where a password would travel in the clear (§6.2.3)."""
    # RFC 7888 §5: 4096 octets may come unasked, which is what the session takes before login; after it, any literal.
    names = [*ALWAYS, "LITERAL-"]
    if may_start_tls:
        names.append("STARTTLS")
    names.extend(f"AUTH={name}" for name in mechanisms)
    if not may_log_in:
        names.append("LOGINDISABLED")
    return tuple(names)


@lru_cache(64)
def after_login(disabled: frozenset[str] = frozenset(), more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Everything this account may use. `more` depends on the configuration and the connection: APPENDLIMIT=, COMPRESS=."""
    off = {name.upper().removeprefix("IMAP.") for name in disabled}
    names = (*ALWAYS, *AFTER_LOGIN, *more)
    return tuple(name for name in names if name.upper() not in off and name.upper().partition("=")[0] not in off)
