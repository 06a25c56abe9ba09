"""SEARCH with its return options, SORT and THREAD of the selected mailbox (RFC 9051 §6.4.4, RFC 5256, 4731, 5182, 5267, 9394).

The searcher works on UIDs; sequence numbers are made of them when the answer is written. What goes on behind the answer is in
`contexts.py`, several mailboxes at once in `multisearch.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rusmes._core import render
from rusmes._core.view import Uids
from rusmes.imap import response
from rusmes.imap.command import CancelUpdate, Command, Search, SearchReturn, Sort, Thread
from rusmes.imap.commands import multisearch
from rusmes.imap.commands.context import Bad, Context, Handler, No, Ok, Outcome
from rusmes.imap.commands.contexts import Found, begin_updates, scope_of
from rusmes.imap.commands.messagelimit import candidates, limit_of, narrow, refuse_more
from rusmes.imap.commands.results import (
    has_modseq,
    highest_modseq,
    in_progress,
    result_items,
    saved_uids,
    thread_pieces,
)

# Numbers in one line of an untagged SEARCH or SORT, so that a large answer leaves in pieces: 10 octets each.
NUMBERS_AT_ONCE: Final = 5000


async def search(context: Context, command: Search) -> Outcome:
    if command.source is not None:
        return await multisearch.esearch(context, command)
    results = command.results
    if is_followed(context, command):
        return Bad("the tag of a search that is followed")
    found = await _find(context, command)
    if results is None and not context.session.is_rev2:
        await _untagged(context, b"SEARCH", command, found.uids)
        return Ok("searched", found.limited)
    uids = found.uids.list()
    results = results or SearchReturn(all=True)  # RFC 9051 §6.4.4: as RETURN (ALL)
    if results.save:
        context.here.saved = saved_uids(uids, results)
    await _esearch(context, command, results, uids)
    return Ok(begin_updates(context, command, found) if results.update else "searched", found.limited)


async def sort(context: Context, command: Sort) -> Outcome:
    results = command.results
    if is_followed(context, command):
        return Bad("the tag of a search that is followed")
    if any(key == "RELEVANCY" for key, _ in command.criteria) or (results is not None and results.relevancy):
        return Bad("there is no relevancy without SEARCH=FUZZY")  # RFC 6203 §5
    found = await _find(context, command)
    order = await context.resources.searcher.sort(found.scope, found.uids, command.criteria)
    if results is None:
        await _untagged(context, b"SORT", command, Uids(order))
        return Ok("sorted")
    if results.save:
        context.here.saved = sorted(saved_uids(order, results))
    await _esearch(context, command, results, order)
    return Ok(begin_updates(context, command, found, order) if results.update else "sorted")


async def thread(context: Context, command: Thread) -> Outcome:
    found = await _find(context, command)
    threads = await context.resources.searcher.thread(found.scope, found.uids, command.algorithm)
    view = context.view
    context.output.write(b"* THREAD")
    separator = b" "
    for piece in thread_pieces(threads, _same if command.is_uid else view.number_of):
        context.output.write(separator + piece)
        separator = b""
        await context.output.room()
    context.output.write(b"\r\n")
    return Ok("threaded")


async def cancel_update(context: Context, command: CancelUpdate) -> Outcome:
    """RFC 5267 §4.3.5."""
    watches = context.here.watches
    unknown = [tag for tag in command.tags if tag not in watches]
    for tag in command.tags:
        watches.pop(tag, None)
    return No("there is no such search") if unknown else Ok("no further updates")


# What they share


def is_followed(context: Context, command: Search | Sort) -> bool:
    """RFC 5267 §4.3: the tag of a search that is followed cannot be that of another one."""
    return command.results is not None and command.results.update and command.tag in context.here.watches


async def _find(context: Context, command: Search | Sort | Thread) -> Found:
    """Search the mailbox as it is now, in the numbers that the client knows.

    Raises:
        TooComplex, NotFound, StoreError
    """
    here = context.here
    if has_modseq(command.query):
        context.session.enable("CONDSTORE")  # RFC 7162 §3.1: a MODSEQ key enables it
    await context.refresh()
    scope = scope_of(context)
    if isinstance(command, Search | Sort) and command.results is not None and command.results.save:
        here.saved = []  # RFC 9051 §6.4.4.1: after a NO the variable is empty
    since, largest_uid = scope.rows.modseq, scope.largest_uid
    limited = b""
    if isinstance(command, Search):
        limited = narrow(context, scope, command.query)
    elif limit_of(context):
        refuse_more(context, candidates(scope, command.query).count())  # RFC 9738 §3.3: not in parts
    searcher = context.resources.searcher
    uids = await searcher.search(scope, command.query, progress=in_progress(context, command.tag))
    return Found(scope, uids, since, largest_uid, limited)


def _same(uid: int) -> int:
    return uid


def _numbers(context: Context, command: Search | Sort, uids: Uids) -> Uids:
    """As the client wants them; what it does not know is left out."""
    return uids if command.is_uid else context.view.cursor.numbers_of(uids)


async def _untagged(context: Context, name: bytes, command: Search | Sort, uids: Uids) -> None:
    """RFC 3501 §7.2.5, RFC 5256 §4, with the modseq of RFC 7162 §3.1.5."""
    numbers = _numbers(context, command, uids)
    modseq = highest_modseq(context.view.rows, uids) if len(numbers) and has_modseq(command.query) else 0
    context.output.write(b"* " + name)
    for start in range(0, len(numbers), NUMBERS_AT_ONCE):
        context.output.write(render.numbers(numbers, start, min(start + NUMBERS_AT_ONCE, len(numbers))))
        await context.output.room()
    context.output.write(b" (MODSEQ %d)\r\n" % modseq if modseq else b"\r\n")


async def _esearch(context: Context, command: Search | Sort, results: SearchReturn, uids: Sequence[int]) -> None:
    """The ESEARCH response (RFC 9051 §7.3.4). RETURN (SAVE) alone has none (§6.4.4.1)."""
    if results == SearchReturn(save=True):
        return
    rows = context.view.rows if has_modseq(command.query) else None
    items = result_items(results, uids, lambda some: _numbers(context, command, Uids(some)).list(), rows)
    context.output.write(response.esearch_line(command.tag, items, is_uid=command.is_uid))
    await context.output.room()


HANDLERS: Final[Mapping[type[Command], Handler]] = {
    Search: search,
    Sort: sort,
    Thread: thread,
    CancelUpdate: cancel_update,
}
