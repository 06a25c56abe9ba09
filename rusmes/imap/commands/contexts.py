"""Searches that are followed: RETURN (UPDATE) of SEARCH and SORT (RFC 5267 §4.3).

A context remembers which messages it told of. When the client is told of changes, those messages whose modseq moved, and those
that came, are searched again; the differences are told as ADDTO and REMOVEFROM. What was expunged is told before its number
goes. Keys that change with time alone (YOUNGER, OLDER) are looked at with the next change of the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from rusmes._core.view import Uids
from rusmes.errors import RusmesError
from rusmes.imap import response
from rusmes.imap.command import Search, Sort
from rusmes.imap.commands.context import Context
from rusmes.imap.commands.results import ranges_of
from rusmes.model.query import And, Fuzzy, Not, Numbers, Or, Query, SequenceSet
from rusmes.model.query import Uids as UidKey
from rusmes.search.api import Scope

# RFC 5267 §4.3.1: at least one.
MAX_CONTEXTS: Final = 16
MAX_FOLLOWED: Final = 100_000
_MAX_UID: Final = 0xFFFFFFFF
# A sorted one is sorted again with every message that comes.
MAX_SORTED: Final = 5_000


def scope_of(context: Context) -> Scope:
    """The selected mailbox as the client knows it now."""
    view = context.view
    return Scope(
        view.rows,
        view.mask(),
        view.largest_uid(),
        view.exists,
        view.cursor.mask_numbers,
        view.cursor.mask_recent,
        context.here.saved,
    )


class Found(Struct):
    """A search that was carried out: `since` and `largest_uid` say what its rows and the client knew."""

    scope: Scope
    uids: Uids
    since: int
    largest_uid: int
    limited: bytes = b""
    """The response code of MESSAGELIMIT, when not all messages were looked at."""


def begin_updates(context: Context, command: Search | Sort, found: Found, order: Sequence[int] | None = None) -> str:
    """Follow a search from now on; the text of its OK."""
    watches = context.here.watches
    most = MAX_FOLLOWED if order is None else MAX_SORTED
    if len(watches) >= MAX_CONTEXTS or len(found.uids) > most:
        code = b"NOUPDATE %b" % response.quoted(command.tag)
        reason = "too many searches are followed" if len(watches) >= MAX_CONTEXTS else "too many messages to follow"
        context.output.write(response.untagged_no(reason, code))
        return "searched, will not notify"
    watches[command.tag] = FollowedSearch(command, found, order)
    return "searched, will notify"


class FollowedSearch:
    """One context. Implements `Watch`."""

    __slots__ = ("_criteria", "_is_uid", "_largest_uid", "_members", "_modseq", "_order", "_query", "_tag", "_version")

    def __init__(self, command: Search | Sort, found: Found, order: Sequence[int] | None) -> None:
        self._tag = command.tag
        self._is_uid = command.is_uid
        self._criteria = command.criteria if isinstance(command, Sort) else ()
        self._query = _frozen(command.query, found.scope)
        self._members = set(found.uids)
        self._order = list(order) if order is not None else None
        self._modseq = found.since
        self._largest_uid = found.largest_uid
        self._version = -1

    def before_sync(self, context: Context, may_expunge: bool) -> bytes:
        """§4.3.4: what is expunged goes while it has its number; so it waits for the command that may tell of expunges."""
        rows = context.view.rows
        if not may_expunge or not rows.dead:
            return b""
        gone = sorted(uid for uid in self._members if rows.row_of(uid) < 0)
        return self._removed(context, gone) if gone else b""

    async def after_sync(self, context: Context) -> bytes:
        rows = context.view.rows
        if rows.version == self._version:
            return b""
        self._version, since, self._modseq = rows.version, self._modseq, rows.modseq
        view, largest_uid = context.view, self._largest_uid
        self._largest_uid = max(largest_uid, view.largest_uid())
        # What came before the search, but was told only now, has an older modseq.
        news = rows.mask_modseq(since + 1) | rows.mask_uids([(largest_uid + 1, _MAX_UID)])
        news = news & view.mask() & rows.mask_live()
        if not news:
            return b""
        changed = set(news.uids())
        scope = Scope(rows, news, view.largest_uid(), recent=view.cursor.mask_recent)
        try:
            found = set(await context.resources.searcher.search(scope, self._query))
            lost = sorted((changed - found) & self._members)
            new = sorted(found - self._members)
            out = self._removed(context, lost) if lost else b""
            return out + await self._added(context, new) if new else out
        except RusmesError as error:
            context.here.watches.pop(self._tag, None)
            return response.untagged_no(error.public, b"NOUPDATE %b" % response.quoted(self._tag))

    def _removed(self, context: Context, uids: list[int]) -> bytes:
        self._members.difference_update(uids)
        if self._order is None:
            return self._line(context, b"REMOVEFROM", [(0, uids)])
        gone = set(uids)
        # From the last place up, so that no place before it moves; the others that follow one another go together.
        pairs: list[tuple[int, list[int]]] = []
        for place in range(len(self._order) - 1, -1, -1):
            if self._order[place] not in gone:
                continue
            if pairs and pairs[-1][0] == place + 2:
                pairs[-1] = (place + 1, [self._order[place], *pairs[-1][1]])
            else:
                pairs.append((place + 1, [self._order[place]]))
        self._order = [uid for uid in self._order if uid not in gone]
        return self._line(context, b"REMOVEFROM", pairs)

    async def _added(self, context: Context, uids: list[int]) -> bytes:
        self._members.update(uids)
        if self._order is None:
            return self._line(context, b"ADDTO", [(0, uids)])
        if len(self._members) > MAX_SORTED:
            context.here.watches.pop(self._tag, None)
            return response.untagged_no("too many messages to follow", b"NOUPDATE %b" % response.quoted(self._tag))
        scope = Scope(context.view.rows)
        self._order = await context.resources.searcher.sort(scope, Uids(sorted(self._members)), self._criteria)
        new = set(uids)
        pairs: list[tuple[int, list[int]]] = []
        for place, uid in enumerate(self._order, 1):
            if uid not in new:
                continue
            if pairs and pairs[-1][0] + len(pairs[-1][1]) == place:
                pairs[-1][1].append(uid)
            else:
                pairs.append((place, [uid]))
        return self._line(context, b"ADDTO", pairs)

    def _line(self, context: Context, name: bytes, pairs: Sequence[tuple[int, list[int]]]) -> bytes:
        number_of = (lambda uid: uid) if self._is_uid else context.view.number_of
        shown = []
        for place, uids in pairs:
            numbers = [number for uid in uids if (number := number_of(uid))]
            if numbers:
                shown.append(b"%d %b" % (place, response.number_set(numbers)))
        if not shown:
            return b""
        return response.esearch_line(self._tag, [(name, b"(%b)" % b" ".join(shown))], is_uid=self._is_uid)


def _frozen(query: Query, scope: Scope) -> Query:
    """§4.3: sequence numbers, and "$", are what they were when the command came."""
    if isinstance(query, And):
        return And(tuple(_frozen(part, scope) for part in query.parts))
    if isinstance(query, Or):
        return Or(tuple(_frozen(part, scope) for part in query.parts))
    if isinstance(query, Not):
        return Not(_frozen(query.part, scope))
    if isinstance(query, Fuzzy):
        return Fuzzy(_frozen(query.part, scope))
    if isinstance(query, Numbers | UidKey) and query.set.saved:
        return UidKey(SequenceSet(tuple(ranges_of(scope.saved))))
    if isinstance(query, Numbers) and scope.by_numbers is not None:
        uids = scope.by_numbers(query.set.resolve(scope.largest_number)).uids()
        return UidKey(SequenceSet(tuple(ranges_of(uids))))
    return query
