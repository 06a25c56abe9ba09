"""One mail over one connection, and what the replies mean for each recipient.

RFC 5321 §3.3, §4.2.1, §4.5.3.1.10 and §4.5.4; RFC 2920 (pipelining), RFC 3030 (BDAT), RFC 3461 §5.2 (DSN parameters, and
`relayed` where the next server knows none), RFC 6152 and 6531 (what must not go to a server that cannot take it),
RFC 8689 (REQUIRETLS).

Hot path: with PIPELINING, MAIL, all RCPT and DATA are one write and their replies usually one read; the body with its dot is
the second write and its reply the second read. When another mail waits, its MAIL, RCPT and DATA follow the dot in the same
write (RFC 2920 §3.1), so that each mail of a row is one write and one read. With CHUNKING a small message is that anyway.

What a failure means depends on its moment. Before the end of the message: the mail is untouched, and a connection that
had been idle is replaced silently. After the final dot and before its reply: nobody knows (RFC 1047), the mail is tried
again, and the log says that it may arrive twice. A mail that was begun behind another one, and whose MAIL was not answered,
was not attempted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Final, Protocol

from rusmes.delivery.downgrade import NotConvertible, SevenBit
from rusmes.delivery.feedback import Words
from rusmes.delivery.replies import SITE_CLASSES, classify, is_about_the_mail, is_session_limit
from rusmes.delivery.session import COMMAND_SECONDS, DATA_SECONDS, FINAL_SECONDS, Gone, Session
from rusmes.log import get_logger
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.ids import id_text
from rusmes.model.mail import NOTIFY_SUCCESS, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Attempt, Report
from rusmes.smtp.exchange import BodyEncoder, LineTooLong, Reply, harmless, mail_command, rcpt_command

SMALL_BYTES: Final = 256 * 1024
"""Up to this size a message in memory is sent as one piece."""
RELEASE_SECONDS: Final = 1.0
"""How long a mail waits that was begun behind another one; then somebody else delivers it."""
BEGUN_SECONDS: Final = 10.0
"""For the reply to MAIL of a mail that was begun, once the message before is answered: a server that forgets what it received
with that message never answers."""
ASIDE_SECONDS: Final = 30.0
"""After which a delivery that waits for the server's last word has no place at the site any more (L6s)."""

_NO_WORDS: Final = Words("")
_log = get_logger("delivery")


class Way(Protocol):
    """What a transaction may set in motion besides itself while it runs."""

    @property
    def has_next(self) -> bool:
        """Whether the next mail has been begun on this session."""

    def begin_next(self) -> None:
        """The end of a message is being written: the next mail may be begun in the same piece."""

    def release_next(self) -> None:
        """The server takes its time: somebody else may deliver what was begun here."""

    def step_aside(self) -> None:
        """The server takes very long: others may have our place (L6s)."""

    def went_well(self) -> None:
        """The server took up a mail that was begun."""


ReturnPath = Callable[[Queued, Recipient], Address | None]
"""The return path of a mail to one recipient."""


class Transaction:
    """One mail to recipients of one site, over one session (or a second one, when the first was stale or gave it up).

    `is_settled`: the server has answered MAIL, so a broken connection is news. `may_have_arrived`: all of the message is
    sent, and no reply is there. `out_of_step`: the connection must not be used again. `site_class` and `site_words`: what was
    said that is about the site rather than the mail ("" = nothing); `is_spared`: nothing else was said.
    """

    __slots__ = (
        "_begun_on",
        "_body",
        "_enveloped",
        "_is_first",
        "_phase",
        "_recipients",
        "_reports",
        "_return_path",
        "_said",
        "_sent",
        "_started",
        "is_settled",
        "item",
        "may_have_arrived",
        "out_of_step",
        "site_class",
        "site_words",
    )

    def __init__(
        self, item: Queued, recipients: Sequence[Recipient], long_lines: str, return_path: ReturnPath | None = None
    ) -> None:
        """With `return_path` each recipient has a transaction, and a return path, of its own."""
        self.item = item
        self._return_path = return_path
        self._body = BodyNeeds(item, long_lines)
        self._begun_on: Session | None = None
        self._recipients = recipients
        self._reports: list[Report | None] = [None] * len(recipients)
        self.is_settled = False
        self.may_have_arrived = False
        self.out_of_step = False
        self.site_class = ""
        self.site_words = _NO_WORDS
        self._said = False
        """Something was said of this mail."""
        self._phase = "mail"
        self._is_first = False
        self._started = self._enveloped = self._sent = 0.0

    @property
    def is_spared(self) -> bool:
        return not self._said and bool(self.site_class)

    def begin(self, session: Session) -> bool:
        """Send MAIL, RCPT and DATA behind the message of another mail; False: this one cannot go so.

        Raises:
            Gone: a reply is there already (SO10).
        """
        offered = session.offered
        count = len(self._recipients)
        if not offered.pipelining or offered.chunking or 0 < self._most(session) < count or self._body.objection(session):
            return False
        self._send_commands(session, range(count))
        self._begun_on = session
        return True

    async def run(self, session: Session, way: Way) -> list[Report]:
        """All recipients, in as many transactions as the server wants.

        Raises:
            Gone: some recipients have no report yet; `interrupted` makes them.
        """
        if self._begun_on is not session and (objection := self._body.objection(session)):
            return self._all(objection, "")
        most = self._most(session) or len(self._recipients)
        waiting = [index for index, report in enumerate(self._reports) if report is None]
        while waiting:
            rest = waiting[most:]
            postponed = await self._transaction(session, waiting[:most], way, is_last=not rest)
            waiting = [*postponed, *rest]
            if self.out_of_step:
                raise Gone("the server did not take RSET")
        return [report for report in self._reports if report is not None]

    def _most(self, session: Session) -> int:
        """Recipients of one transaction; 0 = any number."""
        return 1 if self._return_path is not None else session.offered.max_recipients

    def interrupted(self, error: Gone, session: Session) -> list[Report]:
        """The connection broke: who has no report yet is tried again."""
        reply, host = error.reply, session.name
        code, (status, text) = (reply.code, reply.parts) if reply is not None else (0, ("", harmless(error.text)))
        if reply is not None and reply.code >= 500:
            action, status = "failed", status or "5.0.0"
        else:
            action, status = "delayed", status or "4.4.2"
        reply_class = self._class_of(code, status, text, host)
        attempt = self._attempt(session, reply_class)
        if self.may_have_arrived:
            text = f"{text} (after the message, which may have arrived)"
            _log.warn("delivery of unknown outcome", queue_id=id_text(self.item.id), host=host, reason=text)
        for index, recipient in enumerate(self._recipients):
            if self._reports[index] is None:
                self._reports[index] = Report(recipient, action, code, status, text, host, attempt=attempt)
        return [report for report in self._reports if report is not None]

    def _class_of(self, code: int, status: str, text: str, host: str) -> str:
        """The class of what was said just now, and what it means for the site."""
        reply_class = classify(code, status, text, self._phase) if code else "network"
        if reply_class not in SITE_CLASSES:
            self._said = True
        elif not (code == 421 and is_session_limit(text)):
            self._said = self._said or is_about_the_mail(reply_class, code, self._phase)
            self.site_class, self.site_words = reply_class, Words(text, code, status, host)
        return reply_class

    def _attempt(self, session: Session, reply_class: str) -> Attempt:
        """The facts, up to now."""
        now = monotonic()
        started, enveloped, sent = self._started or now, self._enveloped or now, self._sent
        if not sent:
            return session.attempt(reply_class, (("envelope", enveloped - started),), is_first=self._is_first)
        phases = (("envelope", enveloped - started), ("data", sent - enveloped), ("reply", now - sent))
        return session.attempt(reply_class, phases, is_first=self._is_first)

    def _refuse(self, indexes: Sequence[int], reply: Reply, session: Session) -> None:
        """The server refuses these."""
        status, text = reply.parts
        attempt = self._attempt(session, self._class_of(reply.code, status, text, session.name))
        for index in indexes:
            self._reports[index] = replied(self._recipients[index], reply, session, attempt)

    def _all(self, refusal: Refusal, host: str) -> list[Report]:
        attempt = Attempt(reply_class=classify(0, refusal.status, refusal.text, "mail"))
        return [report or refused(self._recipients[i], refusal, host, attempt) for i, report in enumerate(self._reports)]

    def _commands(self, session: Session, indexes: Sequence[int]) -> list[bytes]:
        """MAIL and RCPTs."""
        offered, item, is_utf8 = session.offered, self.item, self._body.is_utf8
        sender = item.sender if self._return_path is None else self._return_path(item, self._recipients[indexes[0]])
        mail = mail_command(
            sender,
            offered,
            size=self._body.size,
            body=self._body.parameter(session),
            smtputf8=is_utf8,
            requiretls=item.requiretls and offered.requiretls,
            ret=item.ret,
            envid=item.envid,
        )
        return [mail, *[rcpt_command(self._recipients[i], offered, smtputf8=is_utf8) for i in indexes]]

    def _send_commands(self, session: Session, indexes: Sequence[int], last: bytes = b"DATA\r\n") -> None:
        commands = self._commands(session, indexes)
        if last:
            commands.append(last)
        session.sent += 1
        self._is_first = session.sent == 1
        session.send(b"".join(commands), len(commands))

    async def _transaction(self, session: Session, indexes: list[int], way: Way, *, is_last: bool) -> list[int]:
        """One MAIL with its RCPTs and the message; the indexes that the server wants in a transaction of their own."""
        offered, body = session.offered, self._body
        self._started, self._enveloped, self._sent, self._phase = monotonic(), 0.0, 0.0, "mail"
        if not offered.pipelining:
            session.sent += 1
            self._is_first = session.sent == 1
            return await self._step_by_step(session, self._commands(session, indexes), indexes, way)
        by_chunks = offered.chunking
        whole = body.whole(by_chunks) if by_chunks else None
        was_begun, self._begun_on = self._begun_on is session, None
        if whole is not None:
            self._send_commands(session, indexes, b"BDAT %d LAST\r\n" % len(whole))
            session.connection.write(whole)
        elif not was_begun:
            self._send_commands(session, indexes, b"" if by_chunks else b"DATA\r\n")
        mail_reply = self._ready_reply(session) if was_begun else None
        if mail_reply is None:
            mail_reply = await self._reply(session, BEGUN_SECONDS if was_begun else COMMAND_SECONDS)
        if was_begun:
            if mail_reply.code == 503:  # it has not seen that the mail before had ended
                raise Gone(f"the server answers a pipelined MAIL with {mail_reply}")
            way.went_well()
        self.is_settled = True
        self._phase = "rcpt"
        replies = [self._ready_reply(session) or await self._reply(session, COMMAND_SECONDS) for _ in indexes]
        accepted, postponed = self._judge(session, mail_reply, replies, indexes)
        final = None
        if whole is not None:
            self.may_have_arrived = bool(accepted)
            self._sent = self._enveloped
            self._phase = "message"
            final = await self._last_reply(session, way)
        elif by_chunks:
            if accepted:
                final = await self._send_chunks(session, way)
        else:
            final = self._ready_reply(session) or await self._reply(session, DATA_SECONDS)
            if final.code == 354:
                # RFC 2920 §3.1: a server that waits for a message without recipients gets an empty one.
                final = await (
                    self._send_data(session, way, may_begin_next=is_last and not postponed)
                    if accepted
                    else session.command(b".\r\n", FINAL_SECONDS)
                )
            else:
                self._check_refusal(final)
        if not self._succeed(session, final, accepted):
            await self._fail(session, final, accepted, way)
        return postponed

    async def _step_by_step(self, session: Session, commands: list[bytes], indexes: list[int], way: Way) -> list[int]:
        """For a server without PIPELINING."""
        mail_reply = await self._command(session, commands[0])
        self.is_settled = True
        self._phase = "rcpt"
        if mail_reply.code // 100 != 2:
            self._judge(session, mail_reply, [], indexes)
            await self._reset(session)
            return []
        replies = [await self._command(session, command) for command in commands[1:]]
        accepted, postponed = self._judge(session, mail_reply, replies, indexes)
        final = None
        if accepted and session.offered.chunking and self._body.is_binary:
            final = await self._send_chunks(session, way)
        elif accepted:
            final = await self._command(session, b"DATA\r\n", DATA_SECONDS)
            if final.code == 354:
                final = await self._send_data(session, way, may_begin_next=False)
            else:
                self._check_refusal(final)
        if not self._succeed(session, final, accepted):
            await self._fail(session, final, accepted, way)
        return postponed

    async def _reply(self, session: Session, seconds: float) -> Reply:
        return self._heard(await session.reply(seconds))

    def _ready_reply(self, session: Session) -> Reply | None:
        reply = session.ready_reply()
        return self._heard(reply) if reply is not None else None

    def _heard(self, reply: Reply) -> Reply:
        """421 is the end of the session, whatever it answers (RFC 5321 §3.8)."""
        if reply.code == 421:
            self.may_have_arrived = False
            raise Gone(str(reply), reply)
        return reply

    async def _command(self, session: Session, line: bytes, seconds: float = COMMAND_SECONDS) -> Reply:
        session.send(line)
        return await self._reply(session, seconds)

    def _check_refusal(self, reply: Reply) -> None:
        """DATA is answered by 354 or a refusal (RFC 5321 §4.3.2): a success would be that of another command. Raises Gone."""
        if reply.code < 400:
            raise Gone(f"the server answers DATA with {reply}")

    async def _last_reply(self, session: Session, way: Way) -> Reply:
        """What the server says of the whole message. Whoever else waits for it does not wait as long as we do."""
        reply = await session.reply_within(min(RELEASE_SECONDS, FINAL_SECONDS))
        if reply is None:
            way.release_next()
            reply = await session.reply_within(min(ASIDE_SECONDS, FINAL_SECONDS) - RELEASE_SECONDS)
        if reply is None:
            way.step_aside()
            reply = await session.reply_within(FINAL_SECONDS - ASIDE_SECONDS)
        if reply is None:
            raise Gone(f"no reply within {FINAL_SECONDS:g} s")
        return self._heard(reply)

    async def _reset(self, session: Session) -> None:
        self.out_of_step = (await self._command(session, b"RSET\r\n")).code // 100 != 2

    async def _send_data(self, session: Session, way: Way, *, may_begin_next: bool) -> Reply:
        body = self._body
        last = body.whole(False)
        if last is None:
            encoder = BodyEncoder(long_lines=body.long_lines)
            for chunk in body.chunks():
                session.connection.write(encoder.chunk(chunk))
                await session.flush()
            last = encoder.finish()
        self.may_have_arrived = True
        self._sent = monotonic()
        self._phase = "message"
        session.send(b"")
        session.connection.write(last)
        if may_begin_next:
            way.begin_next()
        return await self._last_reply(session, way)

    async def _send_chunks(self, session: Session, way: Way) -> Reply:
        """BDAT piece by piece, each with its reply before the next: a refusal ends it early."""
        body = self._body
        encoder = BodyEncoder(dots=False, long_lines=body.long_lines)
        self._phase = "message"
        for chunk in body.chunks():
            piece = chunk if body.is_binary else encoder.chunk(chunk)
            if not piece:
                continue
            session.send(b"BDAT %d\r\n" % len(piece))
            session.connection.write(piece)
            await session.flush()
            reply = await self._reply(session, FINAL_SECONDS)
            if reply.code != 250:
                return reply
        rest = b"" if body.is_binary else encoder.finish()
        self.may_have_arrived = True
        self._sent = monotonic()
        session.send(b"BDAT %d LAST\r\n" % len(rest))
        session.connection.write(rest)
        return await self._last_reply(session, way)

    def _judge(
        self, session: Session, mail: Reply, replies: Sequence[Reply], indexes: list[int]
    ) -> tuple[list[int], list[int]]:
        """The recipients that the server accepts, and those it wants later in a transaction of their own."""
        self._enveloped = monotonic()
        if mail.code // 100 != 2:
            self._phase = "mail"
            self._refuse(indexes, mail, session)
            return [], []
        accepted, postponed = [], []
        for index, reply in zip(indexes, replies, strict=True):
            if reply.code // 100 == 2:
                accepted.append(index)
            elif accepted and (reply.code == 452 or (reply.code == 552 and reply.status in ("", "5.5.3"))):
                postponed.append(index)  # RFC 5321 §4.5.3.1.10: too many recipients, and 552 means 452
            else:
                self._refuse((index,), reply, session)
        self._phase = "data"
        return accepted, postponed

    def _succeed(self, session: Session, reply: Reply | None, indexes: list[int]) -> bool:
        """The last word about those that were accepted is a good one; False: it is not, or there are none."""
        self.may_have_arrived = False
        if reply is None or reply.code // 100 != 2 or not indexes:
            return False
        self._said = True
        (status, text), code, host = reply.parts, reply.code, session.name
        attempt = self._attempt(session, "accepted")
        for index in indexes:
            recipient = self._recipients[index]
            relayed = recipient.notify & NOTIFY_SUCCESS and not session.offered.dsn
            action = "relayed" if relayed else "delivered"
            self._reports[index] = Report(recipient, action, code, status, text, host, attempt=attempt)
        return True

    async def _fail(self, session: Session, reply: Reply | None, indexes: list[int], way: Way) -> None:
        """The last word is a refusal; None: nobody was accepted, and no message was sent."""
        if reply is not None and indexes:
            self._refuse(indexes, reply, session)
        if not way.has_next and not session.is_spoiled:
            await self._reset(session)  # what is left of the transaction must not meet the next one


class BodyNeeds:
    """What a mail asks of the server, found out once; and what is sent: the message, or its form in 7 bits for a server that
    takes no other, which `objection` decides."""

    __slots__ = (
        "_has_8bit", "_item", "_seven_bit", "_too_long", "_whole", "is_binary", "is_small", "is_utf8", "long_lines",
        "rendering",
    )  # fmt: skip

    def __init__(self, item: Queued, long_lines: str) -> None:
        self._item = item
        self.long_lines = long_lines
        self.rendering: Rendering = item.rendering
        self.is_binary = item.body_type == "BINARYMIME"
        self.is_small = not item.rendering.content.path and item.rendering.size <= SMALL_BYTES
        self._whole: bytes | None = None
        self._too_long: bool | None = None
        self._has_8bit: bool | None = None
        self._seven_bit: SevenBit | None = None
        """What is sent, when it is not the message as it is."""
        self.is_utf8 = item.smtputf8 and self._needs_utf8()

    def whole(self, by_chunks: bool) -> bytes | None:
        """The encoded message, when it is small."""
        if not self.is_small:
            return None
        data = self._data()
        if self.is_binary:
            return data
        return BodyEncoder(dots=not by_chunks, long_lines=self.long_lines).whole(data)

    def chunks(self) -> Iterator[bytes]:
        return self.rendering.chunks() if self._seven_bit is None else self._seven_bit.chunks()

    @property
    def size(self) -> int:
        """As far as it is known beforehand (RFC 1870 §3 asks for no more)."""
        return self.rendering.size if self._seven_bit is None or not self.is_small else len(self._data())

    def _data(self) -> bytes:
        if self._seven_bit is not None:
            return self._seven_bit.read()
        if self._whole is None:
            rendering = self.rendering
            data = rendering.content.data or b""
            self._whole = rendering.prefix + data[rendering.skip :] if rendering.prefix or rendering.skip else data
        return self._whole

    @property
    def has_8bit(self) -> bool:
        if self._has_8bit is None:
            if self.is_small:
                self._has_8bit = not self._data().isascii()
            else:
                self._has_8bit = any(not chunk.isascii() for chunk in self.rendering.chunks())
        return self._has_8bit

    def _needs_utf8(self) -> bool:
        """RFC 6531 §3.4: a mail that was submitted with SMTPUTF8 and is ASCII in envelope and header goes without."""
        item = self._item
        addresses = [recipient.address.local for recipient in item.recipients]
        if item.sender is not None:
            addresses.append(item.sender.local)
        return not all(map(str.isascii, addresses)) or not self.rendering.header_block().isascii()

    def parameter(self, session: Session) -> str:
        """The value of BODY."""
        if self.is_binary:
            return "BINARYMIME"
        if session.offered.eightbit:
            return "8BITMIME" if self._item.body_type == "8BITMIME" or not self.is_small or self.has_8bit else ""
        return ""

    def objection(self, session: Session) -> Refusal | None:
        """Why this server cannot have this mail. Asked before anything is sent to it."""
        offered = session.offered
        item = self._item
        self._seven_bit = None
        if self.is_utf8 and not offered.smtputf8:
            # P25, RFC 6531 §3.2
            return Refusal(553, "5.6.7", f"{session.name} does not take internationalized mail (SMTPUTF8)")
        if self.is_binary and not (offered.binarymime and offered.chunking):
            return Refusal(554, "5.6.3", f"{session.name} does not take binary content (BINARYMIME)")
        if not self.is_binary and not offered.eightbit and self.has_8bit:
            try:
                self._seven_bit = SevenBit(self.rendering)  # P15, RFC 6152 §3
            except NotConvertible as error:
                return Refusal(554, "5.6.3", f"{session.name} does not take 8-bit content (8BITMIME), and {error}")
        # RFC 8689 §5: a notice (null sender) is not lost for want of it.
        if item.requiretls and item.sender is not None and not (session.is_secure and offered.requiretls):
            return Refusal(550, "5.7.30", f"{session.name} does not support REQUIRETLS")  # RFC 8689 §4.2.1
        if offered.size and item.rendering.size > offered.size:
            return Refusal(552, "5.3.4", f"{session.name} takes at most {offered.size} bytes")  # RFC 1870 §6.3
        if self.long_lines == "fail" and not self.is_binary and self._has_long_lines():
            return Refusal(554, "5.6.0", "a line of the message is longer than 998 octets")
        return None

    def _has_long_lines(self) -> bool:
        if self._seven_bit is not None:
            return _is_too_long(self.chunks())
        if self._too_long is None:
            self._too_long = _is_too_long([self._data()] if self.is_small else self.rendering.chunks())
        return self._too_long


def _is_too_long(chunks: Iterable[bytes]) -> bool:
    encoder = BodyEncoder(long_lines="fail")
    try:
        for chunk in chunks:
            encoder.chunk(chunk)
    except LineTooLong:
        return True
    return False


def replied(recipient: Recipient, reply: Reply, session: Session, attempt: Attempt) -> Report:
    """A refusal by the server. What is neither 4xx nor 5xx where it should be (RFC 5321 §4.2.1) counts as 4xx."""
    action = "failed" if reply.code >= 500 else "delayed"
    status, text = reply.parts
    status = status or ("5.0.0" if action == "failed" else "4.0.0")
    return Report(recipient, action, reply.code, status, text, session.name, attempt=attempt)


def refused(recipient: Recipient, refusal: Refusal, host: str = "", attempt: Attempt | None = None) -> Report:
    action = "failed" if refusal.is_permanent else "delayed"
    return Report(recipient, action, 0, refusal.status, harmless(refusal.text), host, attempt=attempt)
