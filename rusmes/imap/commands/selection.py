"""SELECT EXAMINE CLOSE UNSELECT CHECK (RFC 9051 §6.3.2, §6.3.3, §6.4.1, §6.4.2; RFC 3501 §6.4.1; RFC 3691)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from rusmes.imap.command import Check, Close, Command, Fetch, FetchItem, QResync, Select
from rusmes.imap.commands.context import Context, Handler, NotPermitted, Ok, Outcome, Selected
from rusmes.imap.commands.rights import locate
from rusmes.imap.names import encode_name
from rusmes.imap.response import flags_line, list_line, permanent_flags, recent, untagged_ok
from rusmes.imap.view import View
from rusmes.model.mailbox import Mailbox
from rusmes.model.query import STAR, SequenceSet

CHANGING_RIGHTS: Final = "swtei"
"""A user with none of them may only read (RFC 4314 §5.2)."""


NEVER_RECENT: Final = 0xFFFFFFFF

DELETED: Final = 8
"""The bit of \\Deleted, by its place in `storage.flags.SYSTEM_FLAGS`."""


async def select(context: Context, command: Select) -> Outcome:
    conversation, session, output = context.conversation, context.session, context.output
    was_selected = context.selected is not None
    conversation.deselect()  # §6.3.2: also when this SELECT fails
    if was_selected:
        # RFC 9051 §7.1, RFC 7162 §3.2.11: what comes from here on is about the new mailbox.
        session.unselected()
        output.write(untagged_ok("the mailbox before this one is closed", b"CLOSED"))
    target = await locate(context, command.mailbox)
    if "r" not in target.rights:
        raise NotPermitted("you may not read this mailbox")
    if command.condstore or command.qresync is not None:
        session.enable("CONDSTORE")  # RFC 7162 §3.1.8
    rows = await context.hub.open(target.mailbox)
    try:
        is_read_only = command.examine or not any(letter in target.rights for letter in CHANGING_RIGHTS)
        recent_from = await _recent_from(context, rows.mailbox, is_read_only)
        view = View(rows.rows, session, recent_from=recent_from)
    except BaseException:
        context.hub.release(rows)
        raise
    mailbox = rows.mailbox
    selected = Selected(mailbox, command.mailbox, rows, view, is_read_only=is_read_only, rights=target.rights)
    selected.takes_recent = not is_read_only and not session.is_rev2
    conversation.select(selected)
    session.selected(is_read_only=is_read_only)
    _describe(context, selected, command.mailbox)
    if command.qresync is not None:
        await _resynchronise(context, command.qresync)
    if is_read_only:
        return Ok("here it is, to read", b"READ-ONLY")
    return Ok("here it is", b"READ-WRITE")


async def _recent_from(context: Context, mailbox: Mailbox, is_read_only: bool) -> int:
    """The first UID that is \\Recent for this session: rev1 only (RFC 3501 §2.3.2); RFC 9051 has no such flag.

    What comes while several sessions look is recent for all of them: which one heard first cannot be told (ibid.).
    """
    if context.session.is_rev2:
        return NEVER_RECENT
    if not mailbox.recent:
        return mailbox.uid_next
    if is_read_only:  # it is not taken from the next one
        return mailbox.uid_next - mailbox.recent
    return await context.store.claim_recent(mailbox.id)


def _describe(context: Context, selected: Selected, name: str) -> None:
    """§6.3.2: what must be said of a mailbox that is selected."""
    session, view, mailbox = context.session, selected.view, selected.mailbox
    told = _FACTS % (
        _flag_lines(selected.rows.rows.keyword_names, selected.is_read_only),
        view.exists,
        mailbox.uid_validity,
        mailbox.uid_next,
        mailbox.highest_modseq,
    )
    if mailbox.object_id:
        told += untagged_ok("its id", b"MAILBOXID (%b)" % mailbox.object_id.encode())  # RFC 8474 §4.2
    if session.is_rev2:
        told += list_line(encode_name(name, is_utf8=session.is_utf8))
    else:
        told += recent(view.recent_count())
        if not session.is_uid_only and (first := view.first_unseen()):  # RFC 9586 §3.2: no sequence numbers
            told += untagged_ok("first unseen", b"UNSEEN %d" % first)
    context.output.write(told)


# One format instead of five lines: a third of the time of a SELECT. RFC 7162 §3.1.2.1 has HIGHESTMODSEQ.
_FACTS: Final = (
    b"%b* %d EXISTS\r\n* OK [UIDVALIDITY %d] these UIDs hold\r\n* OK [UIDNEXT %d] the next UID\r\n"
    b"* OK [HIGHESTMODSEQ %d] the highest\r\n"
)


@lru_cache(256)
def _flag_lines(keywords: tuple[str, ...], is_read_only: bool) -> bytes:
    return flags_line(keywords) + permanent_flags(keywords, is_read_only=is_read_only)


async def _resynchronise(context: Context, known: QResync) -> None:
    """RFC 7162 §3.2.5: what UID FETCH (CHANGEDSINCE n VANISHED) would say of the UIDs the client knows."""
    if known.uid_validity != context.here.mailbox.uid_validity:
        return  # it will see that it knows nothing
    uids = known.known_uids or SequenceSet(((1, STAR),))
    items = (FetchItem("UID"), FetchItem("FLAGS"))
    await context.conversation.carry_out(Fetch(b"*", uids, items, is_uid=True, changed_since=known.modseq, vanished=True))


async def close(context: Context, command: Close) -> Outcome:
    """CLOSE removes what is marked, and says nothing of it; UNSELECT (RFC 3691) does not."""
    selected = context.here
    try:
        if command.expunge and not selected.is_read_only and "e" in selected.rights:
            await context.refresh()
            if uids := selected.rows.rows.mask_flags(DELETED, DELETED).uids().list():
                await context.store.expunge(selected.mailbox_id, uids, only_deleted=True)
    finally:
        context.conversation.deselect()
        context.session.unselected()
    return Ok("closed")


async def check(context: Context, command: Check) -> Outcome:
    """RFC 3501 §6.4.1; everything is on the disk already."""
    return Ok("checked")


HANDLERS: Final[Mapping[type[Command], Handler]] = {Select: select, Close: close, Check: check}
