"""ESEARCH: one search of several mailboxes, which need not be selected (RFC 7377)."""

from __future__ import annotations

from collections.abc import Iterable

from rusmes.errors import NotFound
from rusmes.imap import response
from rusmes.imap.command import Search, SearchReturn, SearchSource
from rusmes.imap.commands import listing
from rusmes.imap.commands.context import Bad, Context, Ok, Outcome
from rusmes.imap.commands.contexts import scope_of
from rusmes.imap.commands.results import has_modseq, has_numbers, in_progress, result_items, saved_uids
from rusmes.imap.names import encode_name
from rusmes.model.mailbox import Mailbox
from rusmes.search.api import Scope


async def esearch(context: Context, command: Search) -> Outcome:
    source, results = command.source, command.results or SearchReturn(all=True)
    assert source is not None
    kinds = {kind for kind, _ in source.filters}
    if kinds & {"selected", "selected-delayed"} and context.selected is None:
        return Bad("no mailbox is selected")  # RFC 7377 §2.2
    if "selected-delayed" in kinds:
        return Bad("selected-delayed is for NOTIFY")  # §2.2
    is_selected_only = kinds == {"selected"}
    if not is_selected_only and (results.save or has_numbers(command.query)):
        # §2.1: "$" and sequence numbers are the selected mailbox's.
        return Bad("sequence numbers and SAVE are for the selected mailbox alone")
    if results.update:
        # RFC 5267 §4.3.1: a server may always refuse to.
        context.output.write(response.untagged_no("this search is not followed", b"NOUPDATE %b" % response.quoted(command.tag)))
    if is_selected_only and results.save:
        context.here.saved, saved = [], context.here.saved
    elif context.selected is not None:
        saved = context.here.saved
    else:
        saved = []
    if has_modseq(command.query):
        context.session.enable("CONDSTORE")
    for name, mailbox in await _mailboxes(context, source):
        await _search_one(context, command, results, name, mailbox, saved)
    return Ok("searched")


async def _search_one(
    context: Context, command: Search, results: SearchReturn, name: str, mailbox: Mailbox, saved: list[int]
) -> None:
    """§2.1: a mailbox without a match has no response."""
    here = context.selected
    is_selected = here is not None and here.mailbox_id == mailbox.id
    try:
        opened = await context.hub.open(mailbox)
    except NotFound:
        return  # deleted meanwhile
    try:
        rows = opened.rows
        scope = scope_of(context) if is_selected else Scope(rows, largest_uid=rows.uid_next - 1)
        scope.saved = saved
        found = await context.resources.searcher.search(scope, command.query, progress=in_progress(context, command.tag))
        uids = found.list()
        if here is not None and results.save:
            here.saved = saved_uids(uids, results)
        if uids and results != SearchReturn(save=True):
            items = result_items(results, uids, lambda some: some, rows if has_modseq(command.query) else None)
            shown = encode_name(name, is_utf8=context.session.is_utf8), mailbox.uid_validity
            context.output.write(response.esearch_line(command.tag, items, is_uid=True, mailbox=shown))
            await context.output.room()
    finally:
        context.hub.release(opened)


async def _mailboxes(context: Context, source: SearchSource) -> list[tuple[str, Mailbox]]:
    """By name, each once. What is not there, or may not be looked up or read, is passed over (RFC 7377 §2.1, §5)."""
    tree = await listing.tree(context, with_others=True, with_subscriptions=True)
    chosen: dict[str, None] = {}
    for kind, names in source.filters:
        chosen.update(dict.fromkeys(_chosen(context, tree, kind, names)))
    nodes = [tree[name] for name in tree if name in chosen]
    return [
        (node.name, node.mailbox) for node in nodes if node.mailbox is not None and {"l", "r"} <= set(node.rights)
    ]  # fmt: skip


def _chosen(context: Context, tree: dict[str, listing.Node], kind: str, names: Iterable[str]) -> Iterable[str]:
    """RFC 5465 §6, RFC 7377 §2.2."""
    match kind:
        case "selected":
            return [context.here.name]
        case "inboxes":
            return ["INBOX"]
        case "personal":
            return [name for name, node in tree.items() if node.owner == context.account]
        case "subscribed":
            return [name for name, node in tree.items() if node.is_subscribed]
        case "mailboxes":
            return names
        case "subtree":
            return [name for name in tree for top in names if name == top or name.startswith(f"{top}/")]
        case _:  # subtree-one: the mailbox and the level below it
            return [name for name in tree for top in names if name == top or name.rpartition("/")[0] == top]
