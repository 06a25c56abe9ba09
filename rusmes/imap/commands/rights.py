"""Who may do what with a mailbox: the lists of rights (RFC 4314), and the way from a name to a mailbox.

An account's own mailboxes have the names it gave them. Those of others, as far as their lists name the account or "anyone",
are "Other Users/<account>/<mailbox>" (RFC 2342), with "=2F" for a "/" in the account's name. The owner of a mailbox has every
right, whatever its list says. What a user may not look up does not exist for him (RFC 4314 §6).

Rights are independent of each other. The old ones "c" and "d" stand for "kx" and "te" when they are given, and are told when
one of theirs is there (RFC 4314 §2.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from rusmes.errors import NotFound
from rusmes.imap.command import Command, DeleteAcl, GetAcl, ListRights, MyRights, SetAcl
from rusmes.imap.commands.context import ALL_RIGHTS, Bad, Context, Handler, No, NotPermitted, Ok, Outcome
from rusmes.imap.names import encode_name
from rusmes.imap.response import astring
from rusmes.model.mailbox import Mailbox

OTHER_USERS: Final = "Other Users"
"""The level above the mailboxes of others; no mailbox of one's own may have this name."""
ANYONE: Final = "anyone"

_ESCAPE: Final = re.compile("=..")
_OLD_RIGHTS: Final = {"c": "kx", "d": "te"}


class Located(Struct, frozen=True):
    """A mailbox by the name the client gives it. `rights` are the user's (RFC 4314)."""

    mailbox: Mailbox
    owner: str
    """The account it belongs to."""
    rights: str
    is_own: bool = True


_HIDDEN: Final = str.maketrans({char: f"={ord(char):02X}" for char in "/%*="})
_SHOWN: Final = {hidden: chr(char) for char, hidden in _HIDDEN.items()}
"""An account's name is one level of a name, without the separator and what LIST takes for wildcards."""


def others_name(owner: str, mailbox: str) -> str:
    """What everybody but the owner calls a mailbox."""
    return f"{OTHER_USERS}/{owner.translate(_HIDDEN)}/{mailbox}"


def name_of(context: Context, owner: str, mailbox: str) -> str:
    """What the user calls a mailbox."""
    return mailbox if owner == context.account else others_name(owner, mailbox)


def is_others(name: str) -> bool:
    return name == OTHER_USERS or name.startswith(f"{OTHER_USERS}/")


def split_others(name: str) -> tuple[str, str]:
    """Owner and mailbox of a name below "Other Users"; either may be "", the owner when no account's name is written so."""
    level, _, mailbox = name[len(OTHER_USERS) + 1 :].partition("/")
    owner = _ESCAPE.sub(lambda found: _SHOWN.get(found[0], found[0]), level)
    return (owner if owner.translate(_HIDDEN) == level else ""), mailbox


def rights_of(acl: Mapping[str, str], account: str) -> str:
    """What a list gives to an account that is not the owner (RFC 4314 §2: negative rights are taken from all others)."""
    given = set(acl.get(account, "")) | set(acl.get(ANYONE, ""))
    taken = set(acl.get(f"-{account}", "")) | set(acl.get(f"-{ANYONE}", ""))
    return ordered(given - taken)


def ordered(rights: set[str]) -> str:
    return "".join(letter for letter in ALL_RIGHTS if letter in rights)


def shown(rights: str) -> bytes:
    """As clients are told, with the old ones."""
    old = [letter for letter, new in _OLD_RIGHTS.items() if set(new) & set(rights)]
    return (rights + "".join(old)).encode()


def wire_name(context: Context, name: str) -> bytes:
    return astring(encode_name(name, is_utf8=context.session.is_utf8), utf8=True)


# From names to mailboxes


async def locate(context: Context, name: str) -> Located:
    """The mailbox the client calls so.

    Raises:
        NotFound: there is none, or it is another's and the user may not look it up.
        NotAllowed: no mailbox can have this name.
        StoreError
    """
    store = context.store
    if not is_others(name):
        mailbox = await store.mailbox(context.account_id, name)
        if mailbox is None:
            raise NotFound("there is no such mailbox")
        return Located(mailbox, context.account, ALL_RIGHTS)
    owner, rest = split_others(name)
    account = await store.account(owner) if owner and rest and owner != context.account else None
    mailbox = await store.mailbox(account.id, rest) if account is not None else None
    rights = rights_of(await store.acl(mailbox.id), context.account) if mailbox is not None else ""
    if mailbox is None or "l" not in rights:
        raise NotFound("there is no such mailbox")
    return Located(mailbox, owner, rights, is_own=False)


async def mailbox(context: Context, name: str, *, need: str = "") -> Located:
    """`locate`, and all of these rights.

    Raises:
        NotPermitted: one is missing.
        NotFound, NotAllowed, StoreError
    """
    located = await locate(context, name)
    require(located, need)
    return located


def require(located: Located, need: str) -> None:
    """Raises NotPermitted."""
    missing = [letter for letter in need if letter not in located.rights]
    if missing:
        raise NotPermitted("permission denied", f"right {''.join(missing)!r} is missing")


# Commands


async def get_acl(context: Context, command: GetAcl) -> Outcome:
    """RFC 4314 §3.3; the owner is told with the list."""
    located = await mailbox(context, command.mailbox, need="a")
    rows = {located.owner: ALL_RIGHTS, **await context.store.acl(located.mailbox.id)}
    pairs = [astring(identifier.encode(), utf8=True) + b" " + shown(rights) for identifier, rights in rows.items()]
    context.output.write(b"* ACL %b %b\r\n" % (wire_name(context, command.mailbox), b" ".join(pairs)))
    return Ok("these may use it")


async def set_acl(context: Context, command: SetAcl) -> Outcome:
    """RFC 4314 §3.1."""
    given = set("".join(_OLD_RIGHTS.get(letter, letter) for letter in command.rights))
    if given - set(ALL_RIGHTS):
        return Bad("unknown right")  # §3.1: an unrecognized right is BAD
    located = await mailbox(context, command.mailbox, need="a")
    identifier = await _identifier(context, command.identifier)
    if identifier is None:
        return No("there is no such user", b"CANNOT")
    if identifier.removeprefix("-") == located.owner:
        return No("the owner has all rights", b"CANNOT")
    known = set((await context.store.acl(located.mailbox.id)).get(identifier, ""))
    new = known | given if command.operation == "add" else known - given if command.operation == "remove" else given
    await context.store.set_rights(located.mailbox.id, identifier, ordered(new))
    return Ok("rights are set")


async def delete_acl(context: Context, command: DeleteAcl) -> Outcome:
    """RFC 4314 §3.2; also for who is no user any more."""
    located = await mailbox(context, command.mailbox, need="a")
    identifier = command.identifier.decode(errors="replace")
    acl = await context.store.acl(located.mailbox.id)
    for candidate in (identifier, identifier.lower()):
        if candidate in acl:
            await context.store.set_rights(located.mailbox.id, candidate, "")
            break
    return Ok("rights are removed")


async def _identifier(context: Context, raw: bytes) -> str | None:
    """An account, or "anyone", with or without "-" before it; None when there is no such account."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    minus = "-" if text.startswith("-") else ""
    name = text.removeprefix("-")
    if name.lower() == ANYONE:
        return minus + ANYONE
    for candidate in dict.fromkeys((name, name.lower())):
        if candidate and await context.store.account(candidate) is not None:
            return minus + candidate
    return None


async def list_rights(context: Context, command: ListRights) -> Outcome:
    """RFC 4314 §3.4, §3.7: what is always there, and what can be given one by one."""
    located = await mailbox(context, command.mailbox, need="a")
    identifier = command.identifier.decode(errors="replace")
    is_owner = identifier.lower() == located.owner
    choices = b" ".join([shown(ALL_RIGHTS)] if is_owner else [b'""', *(bytes((letter,)) for letter in shown(ALL_RIGHTS))])
    name = wire_name(context, command.mailbox)
    context.output.write(b"* LISTRIGHTS %b %b %b\r\n" % (name, astring(identifier.encode(), utf8=True), choices))
    return Ok("these can be given")


async def my_rights(context: Context, command: MyRights) -> Outcome:
    """RFC 4314 §3.5; §4: any right will do."""
    located = await locate(context, command.mailbox)
    context.output.write(my_rights_line(context, command.mailbox, located.rights))
    return Ok("these you have")


def my_rights_line(context: Context, name: str, rights: str) -> bytes:
    """§3.8"""
    return b"* MYRIGHTS %b %b\r\n" % (wire_name(context, name), shown(rights))


HANDLERS: Final[Mapping[type[Command], Handler]] = {
    GetAcl: get_acl,
    SetAcl: set_acl,
    DeleteAcl: delete_acl,
    ListRights: list_rights,
    MyRights: my_rights,
}
