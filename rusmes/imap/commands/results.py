"""What the answers of SEARCH, SORT and THREAD are made of: return options, the variable "$", modseqs, threads on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from rusmes._core.view import MailboxRows, Uids
from rusmes.imap import response
from rusmes.imap.command import SearchReturn
from rusmes.imap.commands.context import Context
from rusmes.model.query import And, Fuzzy, ModifiedSince, Not, Numbers, Or, Query
from rusmes.search.api import Progress, Threads

# RFC 9585 §3: a client shall not think that we are gone; no sooner than this, and no more often.
PROGRESS_SECONDS: Final = 10.0
_THREAD_PIECES: Final = 10_000


def any_key(query: Query, holds: Callable[[Query], bool]) -> bool:
    """Whether a key of the query is so."""
    stack = [query]
    while stack:
        key = stack.pop()
        if isinstance(key, And | Or):
            stack.extend(key.parts)
        elif isinstance(key, Not | Fuzzy):
            stack.append(key.part)
        elif holds(key):
            return True
    return False


def has_modseq(query: Query) -> bool:
    return any_key(query, lambda key: isinstance(key, ModifiedSince))


def has_numbers(query: Query) -> bool:
    """Sequence numbers, or "$" among them."""
    return any_key(query, lambda key: isinstance(key, Numbers))


def highest_modseq(rows: MailboxRows, uids: Iterable[int]) -> int:
    """0 for no message."""
    return max((rows.modseq_of(row) for uid in uids if (row := rows.row_of(uid)) >= 0), default=0)


def part_of(uids: Sequence[int], wanted: tuple[int, int]) -> Sequence[int]:
    """RFC 9394 §3.1: 1:100 are the first hundred, -1:-100 the last."""
    first, last = sorted(wanted)
    if first > 0:
        return uids[first - 1 : last]
    return uids[max(len(uids) + first, 0) : max(len(uids) + last + 1, 0)]


def saved_uids(uids: Sequence[int], results: SearchReturn) -> list[int]:
    """What "$" stands for after the search (RFC 9051 §6.4.4.4, RFC 9394 §3.2)."""
    if results.all or results.count or not (results.min or results.max or results.partial):
        return list(uids)
    chosen = set(part_of(uids, results.partial)) if results.partial is not None else set()
    if uids and results.min:
        chosen.add(uids[0])
    if uids and results.max:
        chosen.add(uids[-1])
    return sorted(chosen)


def result_items(
    results: SearchReturn,
    uids: Sequence[int],
    numbers: Callable[[Sequence[int]], Sequence[int]],
    rows: MailboxRows | None,
) -> list[tuple[bytes, int | bytes]]:
    """The items of an ESEARCH response. `rows` are given when the modseq is to be told."""
    items: list[tuple[bytes, int | bytes]] = []
    told: Sequence[int] = []
    if uids and results.min:
        items += [(b"MIN", number) for number in numbers(uids[:1])]
        told = uids[:1]
    if uids and results.max:
        items += [(b"MAX", number) for number in numbers(uids[-1:])]
        told = [*told, *uids[-1:]]
    if results.all and uids:
        items.append((b"ALL", response.number_set(numbers(uids))))
    if results.count:
        items.append((b"COUNT", len(uids)))
    if results.partial is not None:
        part = numbers(part_of(uids, results.partial))
        items.append((b"PARTIAL", b"(%d:%d %b)" % (*results.partial, response.number_set(part) or b"NIL")))
        told = [*told, *part_of(uids, results.partial)]
    if rows is not None and uids:
        # RFC 4731 §3.2: of MIN and MAX alone the modseq is theirs, with ALL or COUNT it is that of everything found.
        is_of_all = results.all or results.count or not told
        items.append((b"MODSEQ", highest_modseq(rows, uids if is_of_all else told)))
    return items


def thread_pieces(threads: Threads, number_of: Callable[[int], int]) -> Iterator[bytes]:
    """Threads as RFC 5256 §4 writes them, in pieces: (2)(3 6 (4 23)(44 7 96)). An only answer follows its message, several
    have parentheses."""
    out: list[str] = []
    stack: list[list[int]] = []
    """Of each message above: answers still to come, whether they have parentheses, whether it has."""
    for uid, count in zip(threads.uids, threads.counts, strict=True):
        has_parentheses = not stack or stack[-1][1]
        if has_parentheses:
            out.append("(")
        if uid:
            out.append(f"{number_of(uid)} " if count else str(number_of(uid)))
        if count:
            stack.append([count, count > 1, has_parentheses])
            continue
        if has_parentheses:
            out.append(")")
        while stack:
            stack[-1][0] -= 1
            if stack[-1][0]:
                break
            if stack.pop()[2]:
                out.append(")")
        if not stack and len(out) > _THREAD_PIECES:
            yield "".join(out).encode()
            out = []
    if out:
        yield "".join(out).encode()


def in_progress(context: Context, tag: bytes) -> Progress:
    """Tells the client of a long search how far it is (RFC 9585 §3)."""
    clock = context.clock
    told = clock.monotonic()

    async def tell(done: int, total: int) -> None:
        nonlocal told
        now = clock.monotonic()
        if now - told < PROGRESS_SECONDS or done >= total:
            return
        told = now
        code = b"INPROGRESS (%b %d %d)" % (response.quoted(tag), done, total)
        context.output.write(response.untagged_ok("still searching", code))
        await context.output.flush()

    return tell


def ranges_of(uids: Iterable[int] | Uids) -> list[tuple[int, int]]:
    """Ascending UIDs as ranges of neighbours."""
    ranges: list[tuple[int, int]] = []
    for uid in uids:
        if ranges and uid == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], uid)
        else:
            ranges.append((uid, uid))
    return ranges
