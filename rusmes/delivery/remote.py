"""Mail to other servers: one transaction, and what its replies mean for each recipient.

RFC 5321 §3.3, §4.2.1, §4.5.3.1.10 and §4.5.4; RFC 2920 (pipelining), RFC 3030 (BDAT), RFC 3461 §5.2 (DSN parameters, and
`relayed` where the next server knows none), RFC 6152 and 6531 (what must not go to a server that cannot take it),
RFC 8689 (REQUIRETLS).

Hot path: with PIPELINING, MAIL, all RCPT and DATA are one write and their replies usually one read; the body with its dot is
the second write and its reply the second read. With CHUNKING a small message is one write and one read.

What a failure means depends on its moment. Before the end of the message: the mail is untouched, and a connection that
had been idle is replaced silently. After the final dot and before its reply: nobody knows (RFC 1047), the mail is tried
again, and the log says that it may arrive twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rusmes._core.counters import SharedCounters
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.delivery.pool import Lane, NoEndpoint, Pool
from rusmes.delivery.routes import RoutePlan, RouteTable
from rusmes.delivery.session import COMMAND_SECONDS, DATA_SECONDS, FINAL_SECONDS, Gone, NoTls, Refused, Session, is_permanent
from rusmes.delivery.tlspolicy import TlsPolicy
from rusmes.dns import Resolver
from rusmes.log import get_logger
from rusmes.metrics import DELIVERY_SECONDS, Metrics
from rusmes.model.content import Rendering
from rusmes.model.ids import id_text
from rusmes.model.mail import NOTIFY_SUCCESS, Recipient
from rusmes.model.plan import Queued, Refusal
from rusmes.queue.api import Busy, Report, Target
from rusmes.smtp.exchange import BodyEncoder, LineTooLong, Reply, harmless, mail_command, rcpt_command

SMALL_BYTES: Final = 256 * 1024
"""Up to this size a message in memory is sent as one piece."""

_log = get_logger("delivery")


class RemoteDeliverer:
    """Implements `queue.api.Deliverer`."""

    def __init__(
        self,
        config: Config,
        resolver: Resolver,
        metrics: Metrics,
        clock: Clock,
        limits: SharedCounters | None,
        hostname: str,
        *,
        tls: TlsPolicy | None = None,
    ) -> None:
        self._resolver = resolver
        self._metrics = metrics
        self._clock = clock
        self._hostname = hostname
        self._config = config
        self._limits = limits or SharedCounters(1, 1024)
        self._routes = self._route_table()
        self._pool = Pool(
            self._routes,
            tls or TlsPolicy(clock),
            clock,
            hostname,
            max_connections=config.delivery.max_connections,
            metrics=metrics,
            limits=self._limits,
        )

    def apply(self, config: Config) -> None:
        """A reload: new routes and limits from now on; open connections serve on."""
        self._config = config
        self._routes = self._route_table()
        self._pool.routes = self._routes
        self._pool.max_connections = config.delivery.max_connections

    def _route_table(self) -> RouteTable:
        workers = max(1, self._limits.columns - 1)  # the supervisor has a column too
        return RouteTable(self._config, self._resolver, self._clock, self._hostname, workers=workers)

    async def stop(self) -> None:
        """Close the idle connections."""
        await self._pool.stop()

    def destination(self, item: Queued, recipient: Recipient) -> str:
        return self._routes.destination(item, recipient)

    def known_target(self, destination: str) -> Target | None:
        plan = self._routes.known_plan(destination)
        return plan.target if plan is not None else None

    async def find_target(self, destination: str) -> Target | Refusal:
        found = await self._routes.find_plan(destination)
        return found.target if isinstance(found, RoutePlan) else found

    async def deliver(self, item: Queued, recipients: Sequence[Recipient], destination: str) -> Sequence[Report]:
        started = self._clock.monotonic()
        plan = self._routes.known_plan(destination)
        if plan is None:
            found = await self._routes.find_plan(destination)
            if isinstance(found, Refusal):
                return [_refused(recipient, found) for recipient in recipients]
            plan = found
        if plan.limits.messages_per_second:
            self._pace(plan)
        demands_tls = item.requiretls and item.sender is not None
        mode = "verify" if demands_tls and plan.tls != "dane" else plan.tls
        lane = (plan.site, mode)
        transaction = Transaction(item, recipients, self._config.delivery.long_lines)
        while True:
            session = self._pool.take_idle(lane)
            is_fresh = session is None
            if session is None:
                try:
                    session = await self._pool.open(lane, plan)
                except NoEndpoint as error:
                    return [_refused(recipient, error.refusal) for recipient in recipients]
                except Gone as error:
                    if demands_tls and isinstance(error, NoTls):
                        refusal = Refusal(550, "5.7.30", error.text)  # RFC 8689 §4.2.1: no server of the site can
                        return [_refused(recipient, refusal) for recipient in recipients]
                    return [_unreachable(recipient, error) for recipient in recipients]
            try:
                reports = await self._run(transaction, session, lane, plan)
            except Gone as error:
                if not is_fresh and not transaction.is_settled:
                    continue  # the server closed it while it was idle
                reports = transaction.interrupted(error, session.name)
            self._metrics.observe(DELIVERY_SECONDS, self._clock.monotonic() - started)
            return reports

    def _pace(self, plan: RoutePlan) -> None:
        """One message more for the site, over all workers, or Busy."""
        rate = plan.limits.messages_per_second
        window = max(1.0, 1.0 / rate)
        most = max(1, int(rate * window))
        if not self._limits.take_rate(b"out-rate:" + plan.site.encode(), most, window, self._clock.monotonic()):
            raise Busy(max(0.05, min(1.0 / rate, window)))

    async def _run(self, transaction: Transaction, session: Session, lane: Lane, plan: RoutePlan) -> Sequence[Report]:
        """Raises Gone, with the session dropped."""
        try:
            reports = await transaction.run(session)
            in_step = not transaction.out_of_step
        except BaseException:
            self._pool.drop(lane, session)
            raise
        if in_step:
            self._pool.give_back(lane, session, plan)
        else:
            self._pool.close(lane, session)
        return reports


class Transaction:
    """One mail to recipients of one site, over one session (or a second one, when the first was stale).

    `is_settled`: the server has answered MAIL, so a broken connection is news. `may_have_arrived`: all of the message is
    sent, and no reply is there. `out_of_step`: the connection must not be used again.
    """

    __slots__ = ("_item", "_long_lines", "_recipients", "_reports", "is_settled", "may_have_arrived", "out_of_step")

    def __init__(self, item: Queued, recipients: Sequence[Recipient], long_lines: str) -> None:
        self._item = item
        self._recipients = recipients
        self._long_lines = long_lines
        self._reports: list[Report | None] = [None] * len(recipients)
        self.is_settled = False
        self.may_have_arrived = False
        self.out_of_step = False

    async def run(self, session: Session) -> list[Report]:
        """All recipients, in as many transactions as the server wants.

        Raises:
            Gone: some recipients have no report yet; `interrupted` makes them.
        """
        body = BodyNeeds(self._item, self._long_lines)
        if objection := body.objection(session):
            return self._all(objection, "")
        most = session.offered.max_recipients or len(self._recipients)
        waiting = [index for index, report in enumerate(self._reports) if report is None]
        while waiting:
            postponed = await self._transaction(session, body, waiting[:most])
            waiting = waiting[most:] if not postponed else [*postponed, *waiting[most:]]
            if self.out_of_step:
                raise Gone("the server did not take RSET")
        return [report for report in self._reports if report is not None]

    def interrupted(self, error: Gone, host: str) -> list[Report]:
        """The connection broke: who has no report yet is tried again."""
        reply = error.reply
        code, (status, text) = (reply.code, reply.parts) if reply is not None else (0, ("", harmless(error.text)))
        if reply is not None and reply.code >= 500:
            action, status = "failed", status or "5.0.0"
        else:
            action, status = "delayed", status or "4.4.2"
        if self.may_have_arrived:
            text = f"{text} (after the message, which may have arrived)"
            _log.warn("delivery of unknown outcome", queue_id=id_text(self._item.id), host=host, reason=text)
        for index, recipient in enumerate(self._recipients):
            if self._reports[index] is None:
                self._reports[index] = Report(recipient, action, code, status, text, host)
        return [report for report in self._reports if report is not None]

    def _all(self, refusal: Refusal, host: str) -> list[Report]:
        return [report or _refused(self._recipients[index], refusal, host) for index, report in enumerate(self._reports)]

    async def _transaction(self, session: Session, body: BodyNeeds, indexes: list[int]) -> list[int]:
        """One MAIL with its RCPTs and the message; the indexes that the server wants in a transaction of their own."""
        offered = session.offered
        item = self._item
        session.sent += 1
        mail = mail_command(
            item.sender,
            offered,
            size=item.rendering.size,
            body=body.parameter(session),
            smtputf8=body.is_utf8,
            requiretls=item.requiretls and offered.requiretls,
            ret=item.ret,
            envid=item.envid,
        )
        commands = [mail]
        commands += [rcpt_command(self._recipients[i], offered, smtputf8=body.is_utf8) for i in indexes]
        by_chunks = offered.chunking and offered.pipelining
        whole = body.whole(by_chunks) if by_chunks or body.is_small else None
        if not offered.pipelining:
            return await self._step_by_step(session, body, commands, indexes)
        if by_chunks and whole is not None:
            commands.append(b"BDAT %d LAST\r\n" % len(whole))
            session.send(b"".join(commands), len(commands))
            session.connection.write(whole)
        else:
            if not by_chunks:
                commands.append(b"DATA\r\n")
            session.send(b"".join(commands), len(commands))
        mail_reply = await self._reply(session, COMMAND_SECONDS)
        self.is_settled = True
        replies = [await self._reply(session, COMMAND_SECONDS) for _ in indexes]
        accepted, postponed = self._judge(session, mail_reply, replies, indexes)
        final = None
        if by_chunks and whole is not None:
            self.may_have_arrived = bool(accepted)
            final = await self._reply(session, FINAL_SECONDS)
        elif by_chunks:
            if accepted:
                final = await self._send_chunks(session, body)
        else:
            final = await self._reply(session, DATA_SECONDS)
            if final.code == 354:
                # RFC 2920 §3.1: a server that waits for a message without recipients gets an empty one.
                final = await (self._send_data(session, body, whole) if accepted else session.command(b".\r\n", FINAL_SECONDS))
        await self._conclude(session, final, accepted)
        return postponed

    async def _step_by_step(
        self, session: Session, body: BodyNeeds, commands: list[bytes], indexes: list[int]
    ) -> list[int]:
        """For a server without PIPELINING."""
        mail_reply = await self._command(session, commands[0])
        self.is_settled = True
        if mail_reply.code // 100 != 2:
            self._judge(session, mail_reply, [], indexes)
            await self._reset(session)
            return []
        replies = [await self._command(session, command) for command in commands[1:]]
        accepted, postponed = self._judge(session, mail_reply, replies, indexes)
        final = None
        if accepted and session.offered.chunking and body.is_binary:
            final = await self._send_chunks(session, body)
        elif accepted:
            final = await self._command(session, b"DATA\r\n", DATA_SECONDS)
            if final.code == 354:
                final = await self._send_data(session, body, body.whole(False))
        await self._conclude(session, final, accepted)
        return postponed

    async def _reply(self, session: Session, seconds: float) -> Reply:
        """The next reply; 421 is the end of the session, whatever it answers (RFC 5321 §3.8)."""
        reply = await session.reply(seconds)
        if reply.code == 421:
            self.may_have_arrived = False
            raise Gone(str(reply), reply)
        return reply

    async def _command(self, session: Session, line: bytes, seconds: float = COMMAND_SECONDS) -> Reply:
        session.send(line)
        return await self._reply(session, seconds)

    async def _content(self, session: Session, data: bytes) -> Reply:
        """The last piece of a message, and what the server says of all of it."""
        session.send(b"")
        session.connection.write(data)
        return await self._reply(session, FINAL_SECONDS)

    async def _reset(self, session: Session) -> None:
        self.out_of_step = (await self._command(session, b"RSET\r\n")).code // 100 != 2

    async def _send_data(self, session: Session, body: BodyNeeds, whole: bytes | None) -> Reply:
        if whole is not None:
            self.may_have_arrived = True
            return await self._content(session, whole)
        encoder = BodyEncoder(long_lines=self._long_lines)
        for chunk in body.rendering.chunks():
            session.connection.write(encoder.chunk(chunk))
            await session.flush()
        self.may_have_arrived = True
        return await self._content(session, encoder.finish())

    async def _send_chunks(self, session: Session, body: BodyNeeds) -> Reply:
        """BDAT piece by piece, each with its reply before the next: a refusal ends it early."""
        encoder = BodyEncoder(dots=False, long_lines=self._long_lines)
        for chunk in body.rendering.chunks():
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
        session.send(b"BDAT %d LAST\r\n" % len(rest))
        session.connection.write(rest)
        return await self._reply(session, FINAL_SECONDS)

    def _judge(
        self, session: Session, mail: Reply, replies: Sequence[Reply], indexes: list[int]
    ) -> tuple[list[int], list[int]]:
        """The recipients that the server accepts, and those it wants later in a transaction of their own."""
        if mail.code // 100 != 2:
            for index in indexes:
                self._reports[index] = _replied(self._recipients[index], mail, session)
            return [], []
        accepted, postponed = [], []
        for index, reply in zip(indexes, replies, strict=True):
            if reply.code // 100 == 2:
                accepted.append(index)
            elif accepted and (reply.code == 452 or (reply.code == 552 and reply.status in ("", "5.5.3"))):
                postponed.append(index)  # RFC 5321 §4.5.3.1.10: too many recipients, and 552 means 452
            else:
                self._reports[index] = _replied(self._recipients[index], reply, session)
        return accepted, postponed

    async def _conclude(self, session: Session, reply: Reply | None, indexes: list[int]) -> None:
        """The last word about those that were accepted; None: nobody was, and no message was sent."""
        self.may_have_arrived = False
        if reply is None or reply.code // 100 != 2 or not indexes:
            if reply is not None:
                for index in indexes:
                    self._reports[index] = _replied(self._recipients[index], reply, session)
            await self._reset(session)  # what is left of the transaction must not meet the next one
            return
        (status, text), code, host = reply.parts, reply.code, session.name
        for index in indexes:
            recipient = self._recipients[index]
            relayed = recipient.notify & NOTIFY_SUCCESS and not session.offered.dsn
            self._reports[index] = Report(recipient, "relayed" if relayed else "delivered", code, status, text, host)


class BodyNeeds:
    """What a mail asks of the server, found out once."""

    __slots__ = ("_has_8bit", "_item", "_long_lines", "_too_long", "_whole", "is_binary", "is_small", "is_utf8", "rendering")

    def __init__(self, item: Queued, long_lines: str) -> None:
        self._item = item
        self._long_lines = long_lines
        self.rendering: Rendering = item.rendering
        self.is_binary = item.body_type == "BINARYMIME"
        self.is_small = not item.rendering.content.path and item.rendering.size <= SMALL_BYTES
        self._whole: bytes | None = None
        self._too_long: bool | None = None
        self._has_8bit: bool | None = None
        self.is_utf8 = item.smtputf8 and self._needs_utf8()

    def whole(self, by_chunks: bool) -> bytes | None:
        """The encoded message, when it is small."""
        if not self.is_small:
            return None
        data = self._data()
        if self.is_binary:
            return data
        return BodyEncoder(dots=not by_chunks, long_lines=self._long_lines).whole(data)

    def _data(self) -> bytes:
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
        """Why this server cannot have this mail."""
        offered = session.offered
        item = self._item
        if self.is_utf8 and not offered.smtputf8:
            # P25, RFC 6531 §3.2
            return Refusal(553, "5.6.7", f"{session.name} does not take internationalized mail (SMTPUTF8)")
        if self.is_binary and not (offered.binarymime and offered.chunking):
            return Refusal(554, "5.6.3", f"{session.name} does not take binary content (BINARYMIME)")
        if not self.is_binary and not offered.eightbit and self.has_8bit:
            # P15: conversion would break signatures and change bytes that are not ours.
            return Refusal(554, "5.6.3", f"{session.name} does not take 8-bit content (8BITMIME)")
        # RFC 8689 §5: a notice (null sender) is not lost for want of it.
        if item.requiretls and item.sender is not None and not (session.is_secure and offered.requiretls):
            return Refusal(550, "5.7.30", f"{session.name} does not support REQUIRETLS")  # RFC 8689 §4.2.1
        if offered.size and item.rendering.size > offered.size:
            return Refusal(552, "5.3.4", f"{session.name} takes at most {offered.size} bytes")  # RFC 1870 §6.3
        if self._long_lines == "fail" and not self.is_binary and self._has_long_lines():
            return Refusal(554, "5.6.0", "a line of the message is longer than 998 octets")
        return None

    def _has_long_lines(self) -> bool:
        if self._too_long is None:
            encoder = BodyEncoder(long_lines="fail")
            try:
                for chunk in [self._data()] if self.is_small else self.rendering.chunks():
                    encoder.chunk(chunk)
                self._too_long = False
            except LineTooLong:
                self._too_long = True
        return self._too_long


def _replied(recipient: Recipient, reply: Reply, session: Session) -> Report:
    """A refusal by the server. What is neither 4xx nor 5xx where it should be (RFC 5321 §4.2.1) counts as 4xx."""
    action = "failed" if reply.code >= 500 else "delayed"
    status, text = reply.parts
    return Report(recipient, action, reply.code, status or ("5.0.0" if action == "failed" else "4.0.0"), text, session.name)


def _refused(recipient: Recipient, refusal: Refusal, host: str = "") -> Report:
    action = "failed" if refusal.is_permanent else "delayed"
    return Report(recipient, action, 0, refusal.status, harmless(refusal.text), host)


def _unreachable(recipient: Recipient, error: Gone) -> Report:
    if isinstance(error, Refused):
        action = "failed" if is_permanent(error) else "delayed"
        return Report(recipient, action, error.reply.code if error.reply else 0, error.status, harmless(error.text))
    return Report(recipient, "delayed", 0, "4.4.1", harmless(error.text))
