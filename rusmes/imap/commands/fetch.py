"""FETCH (RFC 9051 §6.4.5) with CHANGEDSINCE and VANISHED (RFC 7162), BINARY (RFC 3516), PREVIEW (RFC 8970), PARTIAL (RFC 9394).

A FETCH of a whole mailbox is made in pieces of some hundred kilobytes, each when the client has read those before. Messages are
held by UID between pieces; one that another session expunges meanwhile keeps its number, and is left out when its answer is not
in the mailbox's columns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from rusmes._core import render
from rusmes._core.rows import EmailFacts
from rusmes._core.view import Uids
from rusmes.errors import NotFound, StoreError
from rusmes.imap import response
from rusmes.imap.command import Command, Fetch
from rusmes.imap.commands.context import Bad, Context, Handler, No, Ok, Outcome
from rusmes.imap.commands.messagelimit import newest, with_code
from rusmes.imap.fetch import Plan, Streamed, UnknownEncoding, body_item, cached_fields, plan
from rusmes.imap.sections import OpenedMessage
from rusmes.imap.view import NoSuchNumber
from rusmes.model.content import Rendering
from rusmes.model.query import SequenceSet
from rusmes.net.connection import ConnectionLost
from rusmes.storage.api import FlagChange

COLUMNS_AT_ONCE: Final = 2000
"""Messages of which only the columns are sent: some 50 octets each."""
FACTS_AT_ONCE: Final = 200
"""Messages with ENVELOPE and its like: 500 to 1,000 octets each."""
BODIES_AT_ONCE: Final = 200
PARSED_AT_ONCE: Final = 50
"""Messages whose parts are looked for, 20 to 100 us each."""
BODY_OCTETS: Final = 256 * 1024
"""Of messages that are read together."""
STREAMED_OCTETS: Final = 1024 * 1024
"""Decoded before others have their turn."""
_SEEN: Final = 1

Pieces = bytes | tuple[bytes, ...]
"""Items of a response, in one piece or in several that follow each other."""


async def fetch(context: Context, command: Fetch) -> Outcome:
    here, view, session = context.here, context.view, context.session
    wanted = plan(command.items)
    if wanted.items & render.MODSEQ or command.changed_since is not None:
        session.enable("CONDSTORE")  # RFC 7162 §3.1
    try:
        uids = view.select(command.messages, is_uid=command.is_uid, saved=here.saved)
    except NoSuchNumber as error:
        return Bad(error.public)
    if command.changed_since is not None:
        if command.vanished:
            context.output.write(await _vanished(context, command.messages, command.changed_since))
        # What changed is few, as a rule; what is asked for is everything.
        changed = (view.mask() & view.rows.mask_modseq(command.changed_since + 1)).uids()
        uids = Uids(uid for uid in changed if uid in uids)
    if command.partial is not None:
        uids = _part_of(uids, command.partial)
    # What another command needs of us (SELECT with QRESYNC, NOTIFY) is not a command of the client's.
    uids, limited = newest(context, uids) if command.tag != b"*" else (uids, b"")
    items = wanted.items
    if command.is_uid and not session.is_uid_only:
        items |= render.UID
    if command.changed_since is not None:
        items |= render.MODSEQ  # RFC 7162 §3.1.4.1
    if session.is_uid_only:
        items |= render.UIDFETCH  # RFC 9586 §3.3: the UID is its number
    return with_code(context, await _Answer(context, wanted, items, uids).send(), limited)


def _part_of(uids: Uids, partial: tuple[int, int]) -> Uids:
    """RFC 9394 §3.2: the first ones from 1 up, the last ones from -1 down."""
    low, high = sorted((abs(partial[0]), abs(partial[1])))
    count = len(uids)
    if partial[0] < 0:
        low, high = count + 1 - high, count + 1 - low
    start, stop = max(low - 1, 0), min(high, count)
    return uids.slice(start, stop) if start < stop else Uids()


async def _vanished(context: Context, messages: SequenceSet, since: int) -> bytes:
    """VANISHED (EARLIER) for the UIDs of the set that went after `since` (RFC 7162 §3.2.6)."""
    here, view = context.here, context.view
    # "*" is the largest UID there was, for what is asked for is not there any more.
    last = max(view.rows.uid_next - 1, 1)
    asked = [(uid, uid) for uid in here.saved] if messages.saved else messages.resolve(last)
    gone = await context.store.expunged_since(here.mailbox_id, since)
    if gone is None:
        # The change log does not reach back: §3.2.6 allows every UID of the set that is not there.
        missing = list(_missing(view.mask().uids(), asked, view.rows.uid_next - 1))
        if not missing:
            return b""
        text = b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in missing)
        return b"* VANISHED (EARLIER) %b\r\n" % text
    known = view.mask().uids()
    told: list[int] = []
    at = 0
    for uid in sorted(gone):
        while at < len(asked) and asked[at][1] < uid:
            at += 1
        # What this client counts yet it will be told of as usual.
        if at < len(asked) and asked[at][0] <= uid and uid not in known:
            told.append(uid)
    return response.vanished(told, earlier=True) if told else b""


def _missing(there: Uids, asked: list[tuple[int, int]], last: int) -> Iterator[tuple[int, int]]:
    """The parts of the ranges in which no UID of `there` lies."""
    present = there.list()
    at = 0
    for low, high in asked:
        high = min(high, last)
        while at < len(present) and present[at] < low:
            at += 1
        while low <= high:
            if at < len(present) and present[at] <= high:
                if low < present[at]:
                    yield low, present[at] - 1
                low = present[at] + 1
                at += 1
            else:
                yield low, high
                low = high + 1


class _Answer:
    """The responses to one FETCH."""

    def __init__(self, context: Context, wanted: Plan, items: int, uids: Uids) -> None:
        self.context = context
        self.wanted = wanted
        self.items = items
        self.uids = uids
        self.missing = 0
        """Messages that somebody expunged meanwhile."""
        self.unknown_encoding = False
        here = context.here
        self.sets_seen = wanted.sets_seen and not here.is_read_only and "s" in here.rights
        self.utf8 = context.session.is_utf8

    async def send(self) -> Outcome:
        wanted = self.wanted
        if wanted.body or self.sets_seen:
            await self._send_bodies()
        elif wanted.is_columns_only and not self.items & render.FACTS:
            await self._send_columns()
        else:
            await self._send_facts()
        if self.unknown_encoding:
            return No("a part has an encoding that nobody knows", b"UNKNOWN-CTE")  # RFC 3516 §4.3
        if self.missing:
            return No("some of the messages were expunged", b"EXPUNGEISSUED")  # RFC 2180 §4.1.2, RFC 5530 §3
        return Ok("fetched")

    async def _room(self, is_last: bool) -> None:
        """Wait for the client, and let others have their turn."""
        if not is_last:
            await self.context.output.room()
            await asyncio.sleep(0)

    async def _send_columns(self) -> None:
        context, uids = self.context, self.uids
        for start in range(0, len(uids), COLUMNS_AT_ONCE):
            stop = min(start + COLUMNS_AT_ONCE, len(uids))
            data, missing = render.fetch_responses(context.view.cursor, uids, start, stop, self.items)
            context.output.write(data)
            self.missing += missing
            await self._room(stop == len(uids))

    async def _send_facts(self) -> None:
        context, uids, wanted = self.context, self.uids, self.wanted
        needs_facts = bool(self.items & render.FACTS or wanted.cached)
        for start in range(0, len(uids), FACTS_AT_ONCE):
            stop = min(start + FACTS_AT_ONCE, len(uids))
            facts = self._facts(start, stop) if needs_facts else None
            picks = wanted.picks if facts is not None and wanted.picks and render.have_headers(facts) else ()
            more = None
            if wanted.saved_date or (wanted.cached and not picks):
                more = self._more(start, stop, None if picks else facts)
            data, missing = render.fetch_responses(context.view.cursor, uids, start, stop, self.items, facts, more, picks)
            context.output.write(data)
            self.missing += missing
            await self._room(stop == len(uids))

    def _facts(self, start: int, stop: int) -> list[EmailFacts | None]:
        context = self.context
        ids = context.view.cursor.email_ids(self.uids, start, stop)
        return context.store.email_facts(context.here.account_id, ids)

    def _more(self, start: int, stop: int, facts: list[EmailFacts | None] | None) -> list[bytes | None]:
        """What goes behind the items of the columns and the stored forms, for messages whose bodies nobody has to read."""
        wanted = self.wanted
        saved = self._saved_dates(start, stop) if wanted.saved_date else None
        found: list[bytes | None] = []
        for at in range(stop - start):
            parts = [saved[at]] if saved is not None else []
            if facts is not None and wanted.cached:
                fact = facts[at]
                if fact is None:
                    found.append(None)
                    continue
                # Without cached fields it is a header with too many, or one with none of them.
                headers = fact.headers or self._whole_header(start + at)
                if headers is None:
                    found.append(None)
                    continue
                parts += [cached_fields(headers, item) for item in wanted.cached]
            found.append(b" ".join(parts))
        return found

    def _saved_dates(self, start: int, stop: int) -> list[bytes]:
        """RFC 8514 §4.3."""
        dates = self.context.store.saved_dates(self.context.here.mailbox_id, self.uids.list(start, stop))
        return [b"SAVEDATE " + (b"NIL" if date is None else render.internal_date(int(date // 1))) for date in dates]

    def _whole_header(self, at: int) -> bytes | None:
        bodies = self._bodies(at, at + 1)
        if bodies[0] is None:
            return None
        try:
            return bodies[0].header_block()
        except OSError:
            return None

    def _bodies(self, start: int, stop: int) -> list[Rendering | None]:
        context = self.context
        ids = context.view.cursor.email_ids(self.uids, start, stop)
        try:
            return context.store.email_bodies(context.here.account_id, ids, limit_bytes=BODY_OCTETS)
        except NotFound:
            return [None]  # expunged between two looks

    # Bodies

    async def _send_bodies(self) -> None:
        context, uids = self.context, self.uids
        start = 0
        at_once = BODIES_AT_ONCE if self.wanted.whole else max(1, 4 * PARSED_AT_ONCE // max(4, len(self.wanted.body)))
        while start < len(uids):
            bodies = self._bodies(start, min(start + at_once, len(uids)))
            stop = start + len(bodies)
            items = self.items
            if self.sets_seen and await self._set_seen(start, stop):
                items |= context.view.flag_items() & ~render.UID
            await self._send_batch(start, bodies, items)
            if self.sets_seen and items & render.FLAGS:
                context.view.tell(uids.slice(start, stop))
            start = stop
            await self._room(start == len(uids))

    async def _send_batch(self, start: int, bodies: list[Rendering | None], items: int) -> None:
        wanted, stop = self.wanted, start + len(bodies)
        facts = self._facts(start, stop) if items & render.FACTS or wanted.cached else None
        cheap = self._more(start, stop, facts) if wanted.cached or wanted.saved_date else None
        begin = 0
        more: list[Pieces | None] = []
        for at, rendering in enumerate(bodies):
            made = self._made(rendering, cheap[at] if cheap is not None else b"")
            if not isinstance(made, _Large):
                more.append(made)
                continue
            # What is before a large one leaves first.
            with made:
                self._write(start + begin, items, facts[begin:at] if facts is not None else None, more)
                await self._stream(start + at, items, facts[at : at + 1] if facts is not None else None, made)
            begin, more = at + 1, []
        self._write(start + begin, items, facts[begin:] if facts is not None else None, more)

    def _write(self, start: int, items: int, facts: list[EmailFacts | None] | None, more: list[Pieces | None]) -> None:
        cursor = self.context.view.cursor
        data, missing = render.fetch_responses(cursor, self.uids, start, start + len(more), items, facts, more)
        self.context.output.write(data)
        self.missing += missing

    async def _set_seen(self, start: int, stop: int) -> bool:
        """Mark those that are not (RFC 9051 §6.4.5); whether there were any."""
        context, rows = self.context, self.context.view.rows
        unseen = [
            uid for uid in self.uids.list(start, stop) if (row := rows.row_of(uid)) >= 0 and not rows.system_bits(row) & _SEEN
        ]
        if not unseen:
            return False
        await context.store.change_flags(context.here.mailbox_id, FlagChange(tuple(unseen), "add", ("\\Seen",)))
        await context.refresh()
        return True

    def _made(self, rendering: Rendering | None, cheap: bytes | None) -> Pieces | _Large | None:
        """What follows the other items of one message; None: it is not there any more."""
        wanted = self.wanted
        if rendering is None or cheap is None:
            return None
        if wanted.whole and not cheap and (data := rendering.content.data) is not None and 0 not in data:
            if rendering.skip:
                data = data[rendering.skip :]
            return b"%b{%d}\r\n" % (wanted.whole, len(rendering.prefix) + len(data)), rendering.prefix, data
        message = None
        try:
            message = OpenedMessage(rendering)
            parts: list[bytes | Streamed] = [cheap] if cheap else []
            for item in wanted.body:
                try:
                    parts.append(body_item(message, item, utf8=self.utf8))
                except UnknownEncoding:
                    self.unknown_encoding = True
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError("storage failure", f"reading {rendering.content.path}: {error}") from None
        large = _Large(message, parts)
        if large.is_needed:
            return large
        message.close()
        return b" ".join([part for part in parts if isinstance(part, bytes)])

    async def _stream(self, at: int, items: int, facts: list[EmailFacts | None] | None, large: _Large) -> None:
        """One response whose literals do not fit into memory."""
        output = self.context.output
        head, missing = render.fetch_responses(self.context.view.cursor, self.uids, at, at + 1, items, facts, [b"."])
        self.missing += missing
        if missing:
            return
        output.write(head[:-4])  # without the stop that stands for them, ")" and CRLF
        try:
            for number, part in enumerate(large.parts):
                if number:
                    output.write(b" ")
                if isinstance(part, bytes):
                    output.write(part)
                else:
                    await self._stream_item(part)
        except OSError as error:
            # Half a literal must not look whole: the client sees a broken connection, and keeps what it had.
            self.context.log.error("a message cannot be read to its end", uid=self.uids[at], reason=str(error))
            self.context.conversation.abort()
            raise ConnectionLost("message unreadable") from None
        output.write(b")\r\n")
        await output.room()

    async def _stream_item(self, item: Streamed) -> None:
        output = self.context.output
        if not item.encoding:
            output.write(item.heading)
            for piece in item.pieces():
                output.write(piece.replace(b"\0", b"\x80") if not item.is_binary else piece)
                await output.room()
            return
        # How much it is when it is decoded is known when it was.
        size = 0
        async for piece in _in_turns(item.pieces()):
            size += len(piece)
        if item.heading.startswith(b"BINARY.SIZE"):
            output.write(item.heading + b"%d" % size)
            return
        first, count = item.partial if item.partial is not None else (0, size)
        first = min(first, size)
        left = min(count, size - first)
        output.write(b"%b~{%d}\r\n" % (item.heading, left))
        async for piece in _in_turns(item.pieces()):
            if first >= len(piece):
                first -= len(piece)
                continue
            piece = piece[first : first + left]
            first = 0
            left -= len(piece)
            output.write(piece)
            await output.room()
            if not left:
                return


class _Large:
    """The items of a message of which one does not fit into memory; closes the message."""

    __slots__ = ("_message", "parts")

    def __init__(self, message: OpenedMessage, parts: list[bytes | Streamed]) -> None:
        self._message = message
        self.parts = parts

    @property
    def is_needed(self) -> bool:
        """Something has to be streamed, or all of them together are a lot."""
        return any(isinstance(part, Streamed) for part in self.parts)

    def __enter__(self) -> _Large:
        return self

    def __exit__(self, *_: object) -> None:
        self._message.close()


async def _in_turns(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, with turns for others: decoding 50 MB takes a third of a second."""
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        if done >= STREAMED_OCTETS:
            done = 0
            await asyncio.sleep(0)


HANDLERS: Final[Mapping[type[Command], Handler]] = {Fetch: fetch}
