"""APPEND, with several messages (RFC 3502) and CATENATE (RFC 4469), and REPLACE (RFC 8508).

Whether there is any point in a message is decided when its literal is announced, before the client sends it: the mailbox, the
right to insert, the flags, the size, the quota, the space. What is then sent streams into the store's writer; a message of
50 MB never is in memory. One command is one transaction (RFC 3502 §6.3.11: all or none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rusmes import metrics as m
from rusmes.errors import NotAllowed, NotFound, OverQuota, RusmesError, StoreFull
from rusmes.imap.command import Append, AppendMessage, Command, Literal, Replace, UrlPart
from rusmes.imap.commands.context import Context, Handler, No, NotPermitted, Ok, Outcome, Refused, outcome_of
from rusmes.imap.commands.messagelimit import refuse_more
from rusmes.imap.commands.rights import Located, locate
from rusmes.imap.commands.urls import fetch_url
from rusmes.imap.hub import UNKNOWN
from rusmes.imap.response import number_set, untagged_ok
from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.mail import Recipient
from rusmes.model.mailbox import Appended
from rusmes.model.plan import Append as StoreAppend
from rusmes.storage.api import ContentWriter
from rusmes.storage.flags import split_flags

if TYPE_CHECKING:
    from rusmes.imap.session import LiteralOffer

_SEEN_RIGHT: Final = {"\\Seen": "s", "\\Deleted": "t"}


# Before the literal


async def answer_offer(context: Context, offer: LiteralOffer) -> None:
    """Take or refuse a literal that is announced; the session then says what is sent for it."""
    try:
        await _admit(context, offer)
        writer = context.store.blobs.writer()
    except RusmesError as error:
        refusal = outcome_of(error)
        assert isinstance(refusal, No)
        context.session.refuse_literal(refusal.text, refusal.code)
        return
    context.session.accept_literal(LiteralSink(writer, is_binary=offer.is_binary))
    if offer.is_synchronising:
        context.output.write(b"+ go ahead\r\n")


async def _admit(context: Context, offer: LiteralOffer) -> None:
    """The session has looked at the limit of its size. Raises RusmesError: why it is not to come."""
    target = await _target(context, offer.mailbox)
    split_flags(allowed_flags(offer.flags, target.rights))
    if not await context.store.room_for(target.owner, offer.size + offer.size_before):
        raise OverQuota("the quota does not allow it")
    if not context.store.blobs.check_space(offer.size):
        raise StoreFull("no space is left")


async def _target(context: Context, name: str) -> Located:
    number = context.store.commit_number()
    asked = (number, context.account_id, name)
    if context.target[:3] == asked and number != UNKNOWN:  # nothing at all has changed since the literal was offered
        known: Located = context.target[3]
        return known
    try:
        target = await locate(context, name)
    except NotFound:
        # RFC 9051 §6.3.12: the client may create it and try again.
        raise Refused("there is no such mailbox", b"TRYCREATE") from None
    if "i" not in target.rights:
        raise NotPermitted("you may not insert here")
    context.target = (*asked, target)
    return target


class LiteralSink:
    """A store's writer that takes no NUL in a literal that is not binary (RFC 9051 §4.3, RFC 3516 §4.4), and ends its lines.

    A message has CRLF (RFC 5322 §2.1); with LF alone it would be all header. Programs that append files do that; Dovecot puts
    a CR before such an LF as well, Cyrus refuses the message.
    """

    __slots__ = ("_has_cr", "_is_binary", "_writer")

    def __init__(self, writer: ContentWriter, *, is_binary: bool) -> None:
        self._writer = writer
        self._is_binary = is_binary
        self._has_cr = True
        """The CR of an LF that comes next was there; at the beginning, it may end another part of CATENATE."""

    def write(self, data: bytes) -> None:
        """Raises Refused, StoreFull, StoreError; the writer is aborted then."""
        if not self._is_binary:
            if 0 in data:
                self._writer.abort()
                raise Refused("a message with NUL must come as a literal8", b"CANNOT")
            if data.count(b"\n") != data.count(b"\r\n"):
                data = self._with_line_ends(data)
            self._has_cr = data.endswith(b"\r")
        self._writer.write(data)

    def _with_line_ends(self, data: bytes) -> bytes:
        first = 1 if self._has_cr and data.startswith(b"\n") else 0
        return data[:first] + data[first:].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    def finish(self) -> Content:
        return self._writer.finish()

    def abort(self) -> None:
        self._writer.abort()


# After it


async def append(context: Context, command: Append) -> Outcome:
    try:
        refuse_more(context, len(command.messages))
        target = await _target(context, command.mailbox)
        appended = await _store(context, target, command.messages)
    finally:
        discard(context, _contents(command.messages))
    return Ok("stored", _append_uid(appended))


async def replace(context: Context, command: Replace) -> Outcome:
    """RFC 8508 §3: one message goes and another comes, in one transaction."""
    here = context.here
    try:
        context.require("te")
        uid = command.message if command.is_uid else here.view.uid_of(command.message)
        if command.message == 0:
            uid = here.view.largest_uid()
        if not uid or not here.view.has(uid):
            return No("there is no such message", b"NONEXISTENT")
        target = await _target(context, command.mailbox)
        try:
            appended = await _store(context, target, (command.replacement,), expunge=(here.mailbox_id, uid))
        except NotFound:
            return No("the message was expunged", b"EXPUNGEISSUED")
    finally:
        discard(context, _contents((command.replacement,)))
    # §3.3: APPENDUID comes in an untagged OK, before EXPUNGE.
    context.output.write(untagged_ok("replaced", _append_uid(appended)))
    return Ok("replaced")


async def _store(
    context: Context, target: Located, messages: Sequence[AppendMessage], *, expunge: tuple[int, int] | None = None
) -> list[Appended]:
    """Raises OverQuota, NotFound, StoreError, Refused."""
    made: list[Content] = []
    try:
        appends = []
        for message in messages:
            content = await _content(context, message, made)
            if not content.size:
                raise Refused("a message has at least one octet", b"CANNOT")  # RFC 3502 §6.3.11
            appends.append(
                StoreAppend(
                    Recipient(Address("", ""), target.owner),
                    target.owner,
                    Rendering(content),
                    mailbox=target.mailbox.name,
                    flags=allowed_flags(message.flags, target.rights),
                    # 0 would be "now"; a message of 1970 is one of its first millisecond.
                    received=0.0 if message.internal_date is None else message.internal_date or 0.001,
                )
            )
        results = await context.store.append(appends, all_or_none=True, expunge=expunge)
    finally:
        for content in made:
            context.store.blobs.discard(content)
    appended = [result for result in results if isinstance(result, Appended)]
    context.metrics.inc(m.IMAP_APPENDED, len(appended))
    return appended


def allowed_flags(flags: Sequence[str], rights: str) -> tuple[str, ...]:
    """RFC 4314 §4: flags that the user may not set are left out, without a failure."""
    return tuple(flag for flag in flags if flag != "\\Recent" and _SEEN_RIGHT.get(flag, "w") in rights)


async def _content(context: Context, message: AppendMessage, made: list[Content]) -> Content:
    """The bytes of a message; what had to be made for it is added to `made`."""
    if not message.is_catenate:
        (part,) = message.parts
        return _one(context, part, made)
    limit = context.resources.config.imap.append_limit
    writer = context.store.blobs.writer()
    try:
        for part in message.parts:
            if isinstance(part, UrlPart):
                async for chunk in fetch_url(context, part.url):
                    writer.write(chunk)
                    if writer.size > limit:
                        raise Refused(f"a message may have {limit} octets", b"TOOBIG")
            else:
                for chunk in (part,) if isinstance(part, bytes) else part.chunks():
                    writer.write(chunk)
            if writer.size > limit:
                raise Refused(f"a message may have {limit} octets", b"TOOBIG")
    except BaseException:
        writer.abort()
        raise
    content = writer.finish()
    made.append(content)
    return content


def _one(context: Context, part: Literal | UrlPart, made: list[Content]) -> Content:
    if isinstance(part, Content):
        return part
    if isinstance(part, UrlPart):
        raise NotAllowed("a URL stands in CATENATE only")
    writer = context.store.blobs.writer()
    writer.write(part)
    content = writer.finish()
    made.append(content)
    return content


def discard(context: Context, contents: Sequence[Content]) -> None:
    """Forget the literals that no committed message refers to."""
    for content in contents:
        context.store.blobs.discard(content)


def _contents(messages: Sequence[AppendMessage]) -> list[Content]:
    return [part for message in messages for part in message.parts if isinstance(part, Content)]


def _append_uid(appended: Sequence[Appended]) -> bytes:
    """RFC 4315 §3, RFC 3502 §4."""
    return b"APPENDUID %d %b" % (appended[0].uid_validity, number_set([one.uid for one in appended]))


HANDLERS: Final[Mapping[type[Command], Handler]] = {Append: append, Replace: replace}
