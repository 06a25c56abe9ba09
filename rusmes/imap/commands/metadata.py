"""METADATA (RFC 5464): annotations of mailboxes and of the server, private to an account or shared by all who may look.

Any entry below /private and /shared may be set. "/private/specialuse" is the special use of a mailbox of one's own
(RFC 6154 §4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rusmes.imap.command import Command, GetMetadata, SetMetadata
from rusmes.imap.commands import rights
from rusmes.imap.commands.context import Bad, Context, Handler, No, NotPermitted, Ok, Outcome
from rusmes.imap.commands.rights import Located
from rusmes.imap.commands.specialuse import checked_uses
from rusmes.imap.response import astring, literal8, string

MAX_VALUE_OCTETS: Final = 64 * 1024
"""Of one annotation. Dovecot: 1 MiB; Cyrus: 64 KiB by default."""
MAX_ENTRIES: Final = 100
"""Of one mailbox, or of the server, for each account and once more for what is shared."""
MAX_NAME_OCTETS: Final = 400
"""A key of the store has 511, 16 of them the mailbox and the account."""

PRIVATE: Final = "/private/"
SHARED: Final = "/shared/"
SPECIAL_USE: Final = "/private/specialuse"


async def get_metadata(context: Context, command: GetMetadata) -> Outcome:
    """RFC 5464 §4.2"""
    if not all(_is_named_well(entry) for entry in command.entries):
        return Bad("entries are below /private and /shared")
    located = await _located(context, command.mailbox)
    known = await entries_of(context, located)
    values, longest = chosen(known, command.entries, command.depth, command.max_size)
    if values:
        context.output.write(metadata_line(context, command.mailbox, values))
    if longest:
        # §4.2.1: how large the largest one was that is not told.
        return Ok("what is short enough", b"METADATA LONGENTRIES %d" % longest)
    return Ok("these are the annotations")


async def _located(context: Context, name: str) -> Located | None:
    """None for the server. Raises NotFound, NotPermitted.

    RFC 5464 §3.3: who sees annotations may look the mailbox up, and has one of "rswip" too.
    """
    if not name:
        return None
    located = await rights.locate(context, name)
    if not set(located.rights) & set("rswip"):
        raise NotPermitted("permission denied")
    return located


async def entries_of(context: Context, located: Located | None) -> dict[str, bytes]:
    """All annotations of a mailbox that the user sees; None is the server."""
    mailbox_id = located.mailbox.id if located is not None else 0
    found = {**await context.store.metadata(mailbox_id, context.account_id), **await context.store.metadata(mailbox_id, 0)}
    if located is not None and located.is_own and located.mailbox.special_use:
        found[SPECIAL_USE] = located.mailbox.special_use.encode()
    return found


def chosen(
    known: Mapping[str, bytes], wanted: Sequence[str], depth: int, max_size: int
) -> tuple[list[tuple[str, bytes | None]], int]:
    """What was asked for, None for an entry that was named and is not there; and the size of the largest one left out."""
    values: dict[str, bytes | None] = {}
    longest = 0
    for entry in wanted:
        if entry not in known and depth == 0:
            values[entry] = None
        for name in sorted(known):
            if not _is_within(name, entry, depth):
                continue
            value = known[name]
            if 0 <= max_size < len(value):
                longest = max(longest, len(value))
            else:
                values[name] = value
    return list(values.items()), longest


def _is_within(name: str, entry: str, depth: int) -> bool:
    """RFC 5464 §4.2.2: depth 0 is the entry alone, 1 with what is directly below, -1 with everything."""
    if name == entry:
        return True
    below = name[len(entry) + 1 :] if name.startswith(f"{entry}/") else ""
    return bool(below) and (depth == -1 or (depth == 1 and "/" not in below))


def metadata_line(context: Context, mailbox: str, values: Iterable[tuple[str, bytes | None]]) -> bytes:
    """§4.4.1"""
    pairs = [astring(name.encode()) + b" " + _value(value) for name, value in values]
    name = rights.wire_name(context, mailbox) if mailbox else b'""'
    return b"* METADATA %b (%b)\r\n" % (name, b" ".join(pairs))


def _value(value: bytes | None) -> bytes:
    if value is None:
        return b"NIL"
    return literal8(value) if b"\0" in value else string(value)


async def set_metadata(context: Context, command: SetMetadata) -> Outcome:
    """RFC 5464 §4.3: all of them or none."""
    if not all(name.startswith((PRIVATE, SHARED)) for name, _ in command.entries):
        return Bad("entries are below /private and /shared")
    entries = dict(command.entries)
    for name, value in entries.items():
        if value is not None and len(value) > MAX_VALUE_OCTETS:
            return No("the value is too long", b"METADATA MAXSIZE %d" % MAX_VALUE_OCTETS)
        if len(name) > MAX_NAME_OCTETS:
            return No("the name is too long", b"LIMIT")
    located = await _located(context, command.mailbox)
    mailbox_id = located.mailbox.id if located is not None else 0
    special_use: str | None = None
    if SPECIAL_USE in entries:
        if located is None or not located.is_own:
            raise NotPermitted("the special use is the owner's")
        words = (entries.pop(SPECIAL_USE) or b"").decode("ascii", "replace").split()
        special_use = await checked_uses(context, words, besides=mailbox_id)
    shared = {name: value for name, value in entries.items() if name.startswith(SHARED)}
    private = {name: value for name, value in entries.items() if name not in shared}
    if shared:
        _require_shared(context, located)
    parts = [(account_id, part) for account_id, part in ((0, shared), (context.account_id, private)) if part]
    for account_id, part in parts:  # before anything is changed: all or none
        after = {**await context.store.metadata(mailbox_id, account_id), **part}
        if sum(value is not None for value in after.values()) > MAX_ENTRIES:
            return No("too many annotations", b"METADATA TOOMANY")
    for account_id, part in parts:
        await context.store.set_metadata(mailbox_id, account_id, part)
    if special_use is not None:
        await context.store.set_special_use(mailbox_id, special_use)
    return Ok("set")


def _require_shared(context: Context, located: Located | None) -> None:
    """What all see of the server is for administrators, and of a mailbox for who may write there."""
    if located is None and not (context.identity is not None and context.identity.admin):
        raise NotPermitted("only an administrator may set this")
    if located is not None:
        rights.require(located, "w")


def _is_named_well(entry: str) -> bool:
    """§3.2: below one of the two; the two themselves may be asked for with a depth."""
    return entry.startswith((PRIVATE, SHARED)) or entry in (PRIVATE[:-1], SHARED[:-1])


HANDLERS: Final[Mapping[type[Command], Handler]] = {GetMetadata: get_metadata, SetMetadata: set_metadata}
