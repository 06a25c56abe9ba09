"""STORE EXPUNGE COPY MOVE (RFC 9051 §6.4.3, §6.4.6 to §6.4.9; RFC 7162, RFC 6851, RFC 4315, RFC 4314 §4).

What happened is told by the view at the end of the command: the handlers bring the rows up to date, and say what of it the
client knows by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, TypeVar

from rusmes._core import render
from rusmes._core.encode import quoted
from rusmes._core.view import Uids
from rusmes.errors import NotFound
from rusmes.imap import response
from rusmes.imap.command import Command, Copy, Expunge, Store
from rusmes.imap.commands import fetch
from rusmes.imap.commands.context import Bad, Context, Handler, No, NotPermitted, Ok, Outcome, ReadOnly, Refused
from rusmes.imap.commands.messagelimit import newest, refuse_more, with_code
from rusmes.imap.commands.rights import Located, locate
from rusmes.imap.response import number_set
from rusmes.imap.view import NoSuchNumber
from rusmes.storage.api import FlagChange
from rusmes.storage.flags import DELETED, SEEN, SYSTEM_FLAGS, change, join_flags, split_flags

STORED_AT_ONCE: Final = 10_000
"""Messages whose flags are changed in one transaction."""
PROGRESS_SECONDS: Final = 15.0
"""How often a client hears that a long command is still carried out (RFC 9585 §4: not more than once in ten seconds or so)."""

_EXPUNGED: Final = No("some of the messages were expunged", b"EXPUNGEISSUED")

T = TypeVar("T")


async def with_progress(context: Context, command: Command, work: Awaitable[T]) -> T:
    """The result of `work`; while it takes long, the client is told that it goes on (RFC 9585)."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def tell() -> None:
        nonlocal timer
        context.output.write(response.untagged_ok("still working", b"INPROGRESS (%b NIL NIL)" % quoted(command.tag)))
        context.output.push()
        timer = loop.call_later(PROGRESS_SECONDS, tell)

    timer = loop.call_later(PROGRESS_SECONDS, tell)
    try:
        return await work
    finally:
        timer.cancel()


# STORE


async def store(context: Context, command: Store) -> Outcome:
    here, view = context.here, context.view
    if here.is_read_only:
        raise ReadOnly("the mailbox is read-only")
    if command.unchanged_since is not None:
        context.session.enable("CONDSTORE")
    try:
        uids = view.select(command.messages, is_uid=command.is_uid, saved=here.saved)
    except NoSuchNumber as error:
        return Bad(error.public)
    uids, limited = newest(context, uids)
    changes = _allowed_changes(context, command, uids)
    done: list[int] = []
    try:
        for subset, operation, flags in changes:
            _expect(context, command, subset, operation, flags)
            for start in range(0, len(subset), STORED_AT_ONCE):
                some = subset.slice(start, min(start + STORED_AT_ONCE, len(subset)))
                request = FlagChange(some, operation, flags, command.unchanged_since)
                work = context.store.change_flags(here.mailbox_id, request, rows=view.rows)
                done += await with_progress(context, command, work)
    finally:
        undone = uids.without(Uids(sorted(done))) if len(done) != len(uids) else Uids()
        view.forget_expected(undone)
    await context.refresh()
    return with_code(context, await _stored(context, command, uids, undone), limited)


def _expect(context: Context, command: Store, uids: Uids, operation: str, flags: tuple[str, ...]) -> None:
    """A client that does not want to hear of its own change is told of others' all the same."""
    if command.silent:
        bits, keywords = split_flags(flags)
        context.view.expect(uids, lambda old, words: change(operation, old, words, bits, keywords))


def _allowed_changes(context: Context, command: Store, uids: Uids) -> list[tuple[Uids, str, tuple[str, ...]]]:
    """What is to be done to which messages, as far as the user's rights go (RFC 4314 §4: "s" is for \\Seen, "t" for \\Deleted,
    "w" for all others; those without a right stay as they are).

    Raises:
        NotPermitted: no flag of them may be changed.
        NotAllowed: a flag is none.
    """
    bits, keywords = split_flags(command.flags)
    rights = context.here.rights
    if all(letter in rights for letter in "stw"):
        return [(uids, command.operation, command.flags)]
    kept_bits = (0 if "s" in rights else SEEN) | (0 if "t" in rights else DELETED)
    if "w" not in rights:
        kept_bits |= 31 & ~(SEEN | DELETED)
    allowed = tuple(name for place, name in enumerate(SYSTEM_FLAGS) if bits & ~kept_bits & 1 << place)
    words = keywords if "w" in rights else ()
    if kept_bits == 31 or (command.operation != "set" and not allowed and not words):
        raise NotPermitted("permission denied")
    if command.operation != "set":
        return [(uids, command.operation, allowed + words)]
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    rows = context.view.rows
    for uid in uids:
        if (row := rows.row_of(uid)) >= 0:
            own_words = () if "w" in rights else rows.keywords(row)
            groups.setdefault((rows.system_bits(row) & kept_bits, own_words), []).append(uid)
    return [(Uids(some), "set", allowed + words + join_flags(kept, own)) for (kept, own), some in groups.items()]


async def _stored(context: Context, command: Store, uids: Uids, undone: Uids) -> Outcome:
    view = context.view
    failed = Uids([uid for uid in undone if view.rows.row_of(uid) >= 0])
    # RFC 7162 §3.1.3: what they are now, so that the client can decide
    _say_flags(context, failed)
    if not command.silent:
        # It is told of all that are so now, changed or not; of those that are news, at the end of the command.
        _say_flags(context, uids.without(undone).without(view.cursor.pending()))
    if len(failed):
        numbers = failed if command.is_uid else view.cursor.number_list(failed)
        return Ok("those that were modified are left alone", b"MODIFIED %b" % number_set(numbers))
    if len(undone) and not command.is_uid:
        return _EXPUNGED  # RFC 2180 §4.2.1
    return Ok("stored")


def _say_flags(context: Context, uids: Uids) -> None:
    if len(uids):
        view = context.view
        context.output.write(render.fetch_responses(view.cursor, uids, 0, len(uids), view.flag_items())[0])
        view.tell(uids)


# EXPUNGE


async def expunge(context: Context, command: Expunge) -> Outcome:
    """EXPUNGE, and UID EXPUNGE (RFC 4315 §2.1)."""
    context.require("e")
    here, rows = context.here, context.view.rows
    await context.refresh()
    marked = rows.mask_live() & rows.mask_flags(DELETED, DELETED)
    if command.uids is not None:
        marked = marked & rows.mask_uids(
            [(uid, uid) for uid in here.saved] if command.uids.saved else command.uids.resolve(context.view.largest_uid() or 1)
        )
    uids, limited = marked.uids(), b""
    if command.uids is not None:
        uids, limited = newest(context, uids)
    if len(uids):
        await with_progress(context, command, context.store.expunge(here.mailbox_id, uids.list(), only_deleted=True))
        await context.refresh()
    return with_code(context, Ok("expunged", _highest(context)), limited)


def _highest(context: Context) -> bytes:
    """RFC 7162 §3.2.7, §3.2.9: what the client has seen by then."""
    if "QRESYNC" not in context.session.enabled:
        return b""
    return b"HIGHESTMODSEQ %d" % context.here.rows.mailbox.highest_modseq


# COPY and MOVE


async def copy(context: Context, command: Copy) -> Outcome:
    here, view = context.here, context.view
    if command.move:
        context.require("te")
    try:
        uids = view.select(command.messages, is_uid=command.is_uid, saved=here.saved)
    except NoSuchNumber as error:
        return Bad(error.public)
    target = await _target(context, command.mailbox)
    limited = b""
    if command.move:
        uids, limited = newest(context, uids)
    else:
        refuse_more(context, len(uids))
    await context.refresh()
    there = [uid for uid in uids if view.rows.row_of(uid) >= 0]
    if len(there) != len(uids) and not command.is_uid:
        return _EXPUNGED  # RFC 9051 §6.4.7: all or none
    if not there:
        return Ok("nothing to do")
    keep = "".join(letter for letter in "stw" if letter in target.rights)
    work = context.store.move if command.move else context.store.copy
    pairs = await with_progress(context, command, work(here.mailbox_id, there, target.mailbox.id, keep=keep))
    code = _copy_uid(target, pairs)
    if not command.move:
        return Ok("copied", code)
    if code:
        # RFC 6851 §4.3: before the EXPUNGEs.
        context.output.write(response.untagged_ok("moved", code))
    await context.refresh()
    return with_code(context, Ok("moved", _highest(context)), limited)


async def _target(context: Context, name: str) -> Located:
    try:
        target = await locate(context, name)
    except NotFound:
        raise Refused("there is no such mailbox", b"TRYCREATE") from None  # RFC 9051 §6.4.7
    if "i" not in target.rights:
        raise NotPermitted("you may not insert there")
    return target


def _copy_uid(target: Located, pairs: Sequence[tuple[int, int]]) -> bytes:
    """RFC 4315 §3. Who may not read the target learns no UIDs of it."""
    if not pairs or "r" not in target.rights:
        return b""
    sources, copies = number_set([pair[0] for pair in pairs]), number_set([pair[1] for pair in pairs])
    return b"COPYUID %d %b %b" % (target.mailbox.uid_validity, sources, copies)


HANDLERS: Final[Mapping[type[Command], Handler]] = {**fetch.HANDLERS, Store: store, Expunge: expunge, Copy: copy}
