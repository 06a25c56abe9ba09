"""LIST in all its forms, and LSUB (RFC 9051 §6.3.9; RFC 3501 §6.3.8, §6.3.9; RFC 5258, 5819, 6154, 8440, 9590).

What a user sees is a tree: his own mailboxes, those of others that he may look up, and the levels above them that are no
mailboxes (\\NonExistent). LIST walks over it; status, rights and annotations come behind the line of their mailbox.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from msgspec import Struct

from rusmes.imap.command import Command, List
from rusmes.imap.commands import rights
from rusmes.imap.commands.context import ALL_RIGHTS, Context, Handler, No, Ok, Outcome, in_turns
from rusmes.imap.commands.mailboxes import begin_status, status_items
from rusmes.imap.commands.metadata import chosen, entries_of, metadata_line
from rusmes.imap.commands.rights import ANYONE, OTHER_USERS, Located, is_others
from rusmes.imap.names import encode_name, matcher
from rusmes.imap.response import list_line, status_line
from rusmes.model.mailbox import Mailbox
from rusmes.storage.names import parents

MAX_PATTERNS: Final = 100
MATCHED_AT_ONCE: Final = 50
"""Names, with all patterns: 0.3 us for each character and each pattern of several wildcards."""


class Node(Struct):
    """One name of the tree. Without a mailbox it is only a level, or was subscribed and is gone."""

    name: str
    mailbox: Mailbox | None = None
    owner: str = ""
    rights: str = ""
    has_children: bool = False
    is_subscribed: bool = False

    @property
    def uses(self) -> list[str]:
        """Special uses; those of others are not ours."""
        return self.mailbox.special_use.split() if self.mailbox is not None and self.rights == ALL_RIGHTS else []


async def tree(context: Context, *, with_others: bool, with_subscriptions: bool) -> dict[str, Node]:
    """By name, in the order of names, INBOX first. Made in turns; what the store reads at once is of one moment."""
    store = context.store
    found: dict[str, Node] = {}
    async for mailbox in in_turns(context, await store.mailboxes(context.account_id)):
        found[mailbox.name] = Node(mailbox.name, mailbox, context.account, ALL_RIGHTS, is_subscribed=mailbox.subscribed)
    if with_others:
        for node in await _others(context):
            found[node.name] = node
    existing = list(found)
    if with_subscriptions:
        async for name in in_turns(context, await store.subscriptions(context.account_id)):
            found.setdefault(name, Node(name)).is_subscribed = True
    async for name in in_turns(context, existing):
        for above in parents(name):
            found.setdefault(above, Node(above)).has_children = True
    ordered = {}
    async for name in in_turns(context, _in_order(found)):
        ordered[name] = found[name]
    return ordered


def _in_order(names: Collection[str]) -> list[str]:
    """INBOX first. Most names come in order, so this is quick (10,000 names 1 ms)."""
    ordered = sorted(names)
    if "INBOX" in names:
        ordered.remove("INBOX")
        ordered.insert(0, "INBOX")
    return ordered


async def _others(context: Context) -> list[Node]:
    """Mailboxes of others that the user may look up."""
    identifiers = (context.account, ANYONE)
    names: dict[int, str] = {}
    nodes = []
    for mailbox, acl in await context.store.shared_mailboxes(identifiers):
        if mailbox.account_id == context.account_id:
            continue
        granted = rights.rights_of(acl, context.account)
        if "l" not in granted:
            continue
        if mailbox.account_id not in names:
            account = await context.store.account_by_id(mailbox.account_id)
            names[mailbox.account_id] = account.name if account is not None else ""
        owner = names[mailbox.account_id]
        if owner:
            nodes.append(Node(rights.name_of(context, owner, mailbox.name), mailbox, owner, granted))
    return nodes


# What is told


class _Chosen(Struct):
    node: Node
    childinfo: tuple[str, ...] = ()
    """What is met by names below it (RFC 9051 §6.3.9.6)."""


def _select(command: List, nodes: Mapping[str, Node], matches: Callable[[str], bool]) -> Iterator[_Chosen]:
    """The names that match a pattern and what else the client selects by."""
    criteria: dict[str, Callable[[Node], bool]] = {}
    if command.select_subscribed:
        criteria["SUBSCRIBED"] = lambda node: node.is_subscribed
    if command.select_special_use:
        criteria["SPECIAL-USE"] = lambda node: bool(node.uses)
    if not criteria:
        # A subscription to what is not there is no reason to list it.
        yield from (_Chosen(node) for node in nodes.values() if (node.mailbox or node.has_children) and matches(node.name))
        return
    names = {node.name for node in nodes.values() if all(meets(node) for meets in criteria.values())}
    if not command.recursive_match:
        yield from (_Chosen(node) for node in nodes.values() if node.name in names and matches(node.name))
        return
    # RFC 5258 §3.5: what does not meet them itself is told for the sake of names below it that are not told themselves; what
    # does is told of all below it.
    hidden = {above for name in names if not matches(name) for above in parents(name)}
    superior = {above for name in names for above in parents(name)}
    for name in _in_order(names | hidden):
        if matches(name):
            yield _Chosen(nodes.get(name) or Node(name), tuple(criteria) if name in superior else ())


def _attributes(command: List, node: Node) -> list[bytes]:
    """RFC 9051 §7.3.1"""
    found = []
    if node.mailbox is None:
        # \\NonExistent says \\Noselect too, but who does not know the first knows the second.
        found += [b"\\NonExistent", b"\\Noselect"]
    if command.return_children or not command.is_extended:
        found.append(b"\\HasChildren" if node.has_children else b"\\HasNoChildren")
    if node.is_subscribed and (command.return_subscribed or command.select_subscribed):
        found.append(b"\\Subscribed")
    # RFC 6154 §2: without being asked, too, so that clients that know no extension find the drafts.
    if command.return_special_use or command.select_special_use or not command.is_extended:
        found += [use.encode() for use in node.uses]
    return found


async def list_(context: Context, command: List) -> Outcome:
    if command.is_lsub:
        return await _lsub(context, command)
    if command.patterns == ("",) and not command.is_extended:
        # RFC 9051 §6.3.9: the separator, and the root of the reference.
        root = f"{OTHER_USERS}/" if is_others(command.reference) else ""
        context.output.write(list_line(encode_name(root, is_utf8=True), [b"\\Noselect"]))
        return Ok("this is the separator")
    patterns = [command.reference + pattern for pattern in command.patterns]
    if len(patterns) > MAX_PATTERNS:
        return No("too many patterns", b"LIMIT")
    begin_status(context, command.return_status)
    is_asked = command.select_subscribed or command.return_subscribed
    nodes = await tree(context, with_others=any(map(_reaches_others, patterns)), with_subscriptions=is_asked)
    for found in _select(command, nodes, await _matches(context, patterns, nodes)):
        await _tell(context, command, found)
    return Ok("these are they")


async def _matches(context: Context, patterns: list[str], names: Collection[str]) -> Callable[[str], bool]:
    """Whether a name matches one of the patterns; of all that are there it is found out first, in turns."""
    matchers = [matcher(pattern) for pattern in patterns]

    def matches(name: str) -> bool:
        return any(matched(name) for matched in matchers)

    if len(names) <= MATCHED_AT_ONCE:
        return matches
    known = {}
    for number, name in enumerate(names, 1):
        known[name] = matches(name)
        if not number % MATCHED_AT_ONCE:
            await context.output.room()
    return lambda name: known[name] if name in known else matches(name)


def _reaches_others(pattern: str) -> bool:
    """Whether a pattern may match below, or at, "Other Users"."""
    stem = pattern.partition("*")[0].partition("%")[0]
    return stem.startswith(OTHER_USERS) or OTHER_USERS.startswith(stem)


async def _tell(context: Context, command: List, found: _Chosen) -> None:
    node, output = found.node, context.output
    is_utf8 = context.session.is_utf8
    extended = b""
    if found.childinfo:
        extended = b'"CHILDINFO" (%b)' % b" ".join(b'"%b"' % word.encode() for word in found.childinfo)
    output.write(list_line(encode_name(node.name, is_utf8=is_utf8), _attributes(command, node), extended=extended))
    if node.mailbox is not None:
        if command.return_my_rights:  # RFC 8440 §3
            output.write(rights.my_rights_line(context, node.name, node.rights))
        if command.return_status and "r" in node.rights:  # RFC 5819 §2
            items = status_items(context, node.mailbox, command.return_status)
            output.write(status_line(encode_name(node.name, is_utf8=is_utf8), items))
        if command.return_metadata:
            await _tell_metadata(context, command, node, node.mailbox)
    await output.room()


async def _tell_metadata(context: Context, command: List, node: Node, mailbox: Mailbox) -> None:
    """RFC 9590 §3: annotations that are there, as GETMETADATA would tell them."""
    located = Located(mailbox, node.owner, node.rights, is_own=node.owner == context.account)
    if not set(node.rights) & set("rswip"):  # RFC 5464 §3.3
        return
    known = await entries_of(context, located)
    depth, max_size = command.return_metadata_depth, command.return_metadata_max_size
    values, _ = chosen(known, command.return_metadata, depth, max_size)
    if values:
        context.output.write(metadata_line(context, node.name, values))


async def _lsub(context: Context, command: List) -> Outcome:
    """RFC 3501 §6.3.9: what is subscribed, whether it is there or not; with "%" also levels above it, as \\Noselect."""
    subscribed = await context.store.subscriptions(context.account_id)
    names = dict.fromkeys(subscribed, True)
    async for name in in_turns(context, subscribed):
        for above in parents(name):
            names.setdefault(above, False)
    pattern = command.reference + command.patterns[0]
    matches = await _matches(context, [pattern], names)
    hides = pattern.endswith("%")
    for name in _in_order(names):
        if matches(name) and (names[name] or hides):
            attributes = [] if names[name] else [b"\\Noselect"]
            line = list_line(encode_name(name, is_utf8=context.session.is_utf8), attributes, verb=b"LSUB")
            context.output.write(line)
            await context.output.room()
    return Ok("these are subscribed")


HANDLERS: Final[Mapping[type[Command], Handler]] = {List: list_}
