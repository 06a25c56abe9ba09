"""MESSAGELIMIT (RFC 9738): how many messages one command works on, when the operator wants a limit.

FETCH, STORE, SEARCH, MOVE and UID EXPUNGE work on the newest ones and say down to which UID; COPY, SORT, THREAD and APPEND of
more are refused (§3.1). EXPUNGE and CLOSE know no limit.
"""

from __future__ import annotations

from msgspec import structs

from rusmes._core.view import Mask, Uids
from rusmes.imap.commands.context import Context, Ok, Outcome, Refused
from rusmes.imap.response import untagged_ok
from rusmes.model import query as q
from rusmes.search.api import Scope


def limit_of(context: Context) -> int:
    """0: there is none, and MESSAGELIMIT is not listed."""
    return context.resources.config.imap.message_limit


def refuse_more(context: Context, count: int) -> None:
    """For what cannot be done in parts. Raises Refused."""
    limit = limit_of(context)
    if 0 < limit < count:
        raise Refused("too many messages for one command", b"MESSAGELIMIT %d" % limit)


def newest(context: Context, uids: Uids) -> tuple[Uids, bytes]:
    """As many of the messages as one command may work on, and the response code that says so; b"" for all of them."""
    limit = limit_of(context)
    if not 0 < limit < len(uids):
        return uids, b""
    uids = uids.slice(len(uids) - limit, len(uids))
    return uids, b"MESSAGELIMIT %d %d" % (limit, uids[0])


def with_code(context: Context, outcome: Outcome, code: bytes) -> Outcome:
    """The tagged reply with MESSAGELIMIT; one that has a code already comes behind an untagged OK."""
    if not code:
        return outcome
    if isinstance(outcome, Ok) and not outcome.code:
        return structs.replace(outcome, code=code)
    context.output.write(untagged_ok("not all of the messages", code))
    return outcome


def narrow(context: Context, scope: Scope, query: q.Query) -> bytes:
    """Search only the newest messages of those that the query's own sets name; the response code, b"" for all of them."""
    uids, code = newest(context, candidates(scope, query).uids())
    if code and scope.known is not None:
        scope.known = scope.known & scope.rows.mask_uids([(uids[0], 0xFFFFFFFF)])
    return code


def candidates(scope: Scope, query: q.Query) -> Mask:
    """The messages a search has to look at: sets of UIDs and numbers that everything found must be in are free."""
    found = scope.known if scope.known is not None else scope.rows.mask_live()
    for part in query.parts if isinstance(query, q.And) else (query,):
        if isinstance(part, q.Uids) and not part.set.saved:
            found = found & scope.rows.mask_uids(part.set.resolve(scope.largest_uid or 1))
        elif isinstance(part, q.Numbers) and not part.set.saved and scope.by_numbers is not None:
            found = found & scope.by_numbers(part.set.resolve(scope.largest_number or 1))
    return found
