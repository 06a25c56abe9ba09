"""CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE STATUS NAMESPACE (RFC 9051 §6.3.4 to §6.3.11). LIST is in `listing.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from rusmes.errors import NotAllowed, NotFound
from rusmes.imap.command import Command, Create, Delete, Namespace, Rename, Status, Subscribe
from rusmes.imap.commands import rights
from rusmes.imap.commands.context import ALL_RIGHTS, Context, Handler, No, NotPermitted, Ok, Outcome
from rusmes.imap.commands.rights import OTHER_USERS, Located, is_others, split_others
from rusmes.imap.commands.specialuse import checked_uses
from rusmes.imap.names import encode_name
from rusmes.imap.response import list_line, quoted, status_line
from rusmes.model.mailbox import Mailbox
from rusmes.storage.names import normal_name, parents


class Place(Located, frozen=True):
    """Where a mailbox is to be: `mailbox` is the nearest one above it, `name` its name in the account."""

    name: str = ""
    account_id: int = 0


async def _place(context: Context, name: str) -> Place:
    """Where a new mailbox of this name would be, with the user's rights on what is above it.

    Raises:
        NotPermitted: the user may look up nothing above it, or nothing is there.
        NotAllowed: no mailbox can have this name.
    """
    if name == OTHER_USERS:
        raise NotAllowed("this is where mailboxes of others are")
    if not is_others(name):
        return Place(_NOBODYS, context.account, ALL_RIGHTS, True, normal_name(name), context.account_id)
    owner, rest = split_others(name)
    own_name = normal_name(rest)
    for level in reversed(parents(own_name)):
        try:
            above = await rights.locate(context, rights.others_name(owner, level))
        except NotFound:
            continue
        return Place(above.mailbox, owner, above.rights, False, own_name, above.mailbox.account_id)
    raise NotPermitted("you may make no mailbox here")


_NOBODYS: Final = Mailbox(0, 0, "", 0, 0, 0, 0, 0, 0, 0, 0)
"""Above the mailboxes of one's own."""


def _told_name(context: Context, asked: str, name: str) -> bytes:
    """RFC 9051 §6.3.9.7: a client of rev2 is told under which name a mailbox is known that it called otherwise."""
    if not context.session.is_rev2 or asked == name:
        return b""
    old = quoted(encode_name(asked, is_utf8=True), utf8=True)
    return list_line(encode_name(name, is_utf8=True), extended=b'"OLDNAME" (%b)' % old)


async def create(context: Context, command: Create) -> Outcome:
    """RFC 9051 §6.3.4: with all that is missing above it; RFC 6154 §3 for its use, RFC 8474 §4.1 for its id."""
    place = await _place(context, command.mailbox)
    if "k" not in place.rights:
        raise NotPermitted("you may make no mailbox here")
    special_use = ""
    if command.special_uses:
        if not place.is_own:
            raise NotPermitted("special uses are the owner's")
        special_use = await checked_uses(context, command.special_uses)
    made = await context.store.create_mailbox(place.account_id, place.name, special_use=special_use)
    name = rights.name_of(context, place.owner, made.name)
    context.output.write(_told_name(context, command.mailbox, name))
    return Ok("made", b"MAILBOXID (%b)" % made.object_id.encode())


async def delete(context: Context, command: Delete) -> Outcome:
    """RFC 9051 §6.3.5: what is below it stays. A subscription stays too."""
    try:
        located = await rights.mailbox(context, command.mailbox, need="x")
    except NotFound:
        if not is_others(command.mailbox) and await _has_children(context, command.mailbox):
            return No("it is no mailbox itself, and there are some below it", b"HASCHILDREN")  # RFC 5530 §3
        raise
    selected = context.selected
    if selected is not None and selected.mailbox_id == located.mailbox.id:
        context.conversation.deselect()
        context.session.unselected()
    await context.store.delete_mailbox(located.mailbox.account_id, located.mailbox.name)
    return Ok("deleted")


async def _has_children(context: Context, name: str) -> bool:
    mailboxes = await context.store.mailboxes(context.account_id)
    return any(mailbox.name.startswith(f"{name}/") for mailbox in mailboxes)


async def rename(context: Context, command: Rename) -> Outcome:
    """RFC 9051 §6.3.6; RFC 4314 §4: the right to delete the old one, and to create the new one."""
    located = await rights.mailbox(context, command.mailbox, need="x")
    place = await _place(context, command.new_name)
    if place.account_id != located.mailbox.account_id:
        raise NotAllowed("a mailbox stays with its owner")
    if "k" not in place.rights:
        raise NotPermitted("you may make no mailbox here")
    old = located.mailbox.name
    if not located.is_own:
        await _require_below(context, located)
    await context.store.rename_mailbox(place.account_id, old, place.name)
    name = rights.name_of(context, place.owner, place.name)
    context.output.write(_told_name(context, command.mailbox, name))
    return Ok("renamed")


async def _require_below(context: Context, located: Located) -> None:
    """Mailboxes below go along, so the right must be there for each (RFC 4314 §4).

    Raises NotPermitted.
    """
    for mailbox in await context.store.mailboxes(located.mailbox.account_id):
        if mailbox.name.startswith(f"{located.mailbox.name}/"):
            acl = await context.store.acl(mailbox.id)
            if "x" not in rights.rights_of(acl, context.account):
                raise NotPermitted("permission denied", f"right 'x' is missing on {mailbox.name}")


async def subscribe(context: Context, command: Subscribe) -> Outcome:
    """RFC 9051 §6.3.7, §6.3.8: the subscription is the user's, whoever owns the mailbox; it outlives the mailbox."""
    if command.subscribed:
        await rights.locate(context, command.mailbox)
    await context.store.subscribe(context.account_id, command.mailbox, command.subscribed)
    return Ok("subscribed" if command.subscribed else "unsubscribed")


async def status(context: Context, command: Status) -> Outcome:
    """RFC 9051 §6.3.11"""
    located = await rights.mailbox(context, command.mailbox, need="r")
    begin_status(context, command.items)
    name = encode_name(command.mailbox, is_utf8=context.session.is_utf8)
    context.output.write(status_line(name, status_items(context, located.mailbox, command.items)))
    return Ok("this is it")


def begin_status(context: Context, items: Iterable[str]) -> None:
    """RFC 7162 §3.1: who asks for HIGHESTMODSEQ wants to hear of modseqs."""
    if "HIGHESTMODSEQ" in items:
        context.session.enable("CONDSTORE")


def status_items(context: Context, mailbox: Mailbox, items: Iterable[str]) -> list[tuple[bytes, int | bytes]]:
    return [(item.encode(), _status_item(context, mailbox, item)) for item in dict.fromkeys(items)]


def _status_item(context: Context, mailbox: Mailbox, item: str) -> int | bytes:
    if item == "APPENDLIMIT":  # RFC 7889 §3
        return int(context.resources.config.imap.append_limit)
    if item == "MAILBOXID":  # RFC 8474 §4.3
        return b"(%b)" % mailbox.object_id.encode()
    value: int = getattr(mailbox, _STATUS_FIELDS[item])
    return value


_STATUS_FIELDS: Final = {
    "MESSAGES": "exists",
    "RECENT": "recent",
    "UIDNEXT": "uid_next",
    "UIDVALIDITY": "uid_validity",
    "UNSEEN": "unseen",
    "DELETED": "deleted",
    "SIZE": "size",
    "HIGHESTMODSEQ": "highest_modseq",
    "DELETED-STORAGE": "deleted_size",
}
"""DELETED-STORAGE is in octets (RFC 9208 §4.1.4)."""


async def namespace(context: Context, command: Namespace) -> Outcome:
    """RFC 9051 §6.3.10 (RFC 2342): one's own, those of other users, none that are nobody's."""
    context.output.write(b'* NAMESPACE (("" "/")) (("%b/" "/")) NIL\r\n' % OTHER_USERS.encode())
    return Ok("these are the namespaces")


HANDLERS: Final[Mapping[type[Command], Handler]] = {
    Create: create,
    Delete: delete,
    Rename: rename,
    Subscribe: subscribe,
    Status: status,
    Namespace: namespace,
}
