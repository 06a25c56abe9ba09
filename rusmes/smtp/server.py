"""One coroutine for each client: bytes to the session, events to the commands, replies back.

The only flush is when more input is needed, so a batch of pipelined commands is answered in one system call. What needs no
waiting (MAIL, RCPT and DATA, mostly) is answered in the event loop's callback, before the coroutine is woken. What is decided
here is about time and order (deadlines, TLS, draining, how many errors are enough); what a command means is in
`rusmes.smtp.commands`, what bytes mean in `rusmes.smtp.session`.

RFC 5321 §4.5.3.2 (timeouts), §3.8 (421); RFC 3207 (STARTTLS); RFC 2920 (PIPELINING).
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from rusmes._core.counters import Metrics, SharedCounters
from rusmes._core.smtp import Signal
from rusmes.auth.api import Authenticator, Directory
from rusmes.clock import Clock
from rusmes.config.schema import Config
from rusmes.log import SessionLog
from rusmes.metrics import (
    SMTP_COMMANDS,
    SMTP_CONNECTIONS,
    SMTP_ERRORS,
    SMTP_REPLIES,
    SMTP_SESSION_SECONDS,
    TLS_FAILURES,
    TLS_HANDSHAKE_SECONDS,
    TLS_SESSIONS,
)
from rusmes.model.ids import IdSource
from rusmes.net.connection import Connection, ConnectionLost, DeadlineExceeded, Draining, TlsFailed
from rusmes.queue.api import Intake
from rusmes.smtp.commands import COMMANDS, ENDS_GROUP, HOT, JUNK, message
from rusmes.smtp.commands.conversation import Conversation, Ports
from rusmes.smtp.commands.greeting import banner
from rusmes.smtp.commands.login import BrokenExchange
from rusmes.smtp.policy import (
    GRACE_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_JUNK_COMMANDS,
    MIN_BYTES_PER_SECOND,
    Listener,
    Policy,
)
from rusmes.smtp.reply import (
    R220_READY_FOR_TLS,
    R421_INTERNAL,
    R421_OVERLOADED,
    R421_SHUTTING_DOWN,
    R421_TIMEOUT,
    R421_TOO_MANY_CONNECTIONS,
    R421_TOO_MANY_ERRORS,
    R454_TLS_UNAVAILABLE,
    R502_NOT_IMPLEMENTED,
    R503_IN_TRANSACTION,
    R554_EARLY_DATA,
    Reply,
    challenge,
    refused,
)
from rusmes.smtp.session import BODY_CHUNK, COMMAND, NEED_DATA, BodyEnd, Command, Line, Malformed, Session

MAX_UNSENT_REPLIES: Final = 256
"""Replies kept back for one write; 256 are about 8 KiB. More would let a client that never reads fill our memory."""

TOO_SLOW: Final = Reply(421, "4.4.2", "Message comes too slowly, closing connection")
TOO_MUCH_JUNK: Final = Reply(421, "4.7.0", "Too many commands without mail, closing connection")
LOCKED_OUT: Final = Reply(421, "4.7.0", "Too many failed logins from your network, try again later")
BLOCKED: Final = Reply(554, "5.7.1", "Access denied")

_REFUSALS: Final = {
    "blocked": BLOCKED,
    "per_ip": R421_TOO_MANY_CONNECTIONS,
    "per_protocol": R421_TOO_MANY_CONNECTIONS,
    "rate": R421_TOO_MANY_CONNECTIONS,
    "draining": R421_SHUTTING_DOWN,
}
_COMMANDS: Final = dict(SMTP_COMMANDS)
_CLASSES: Final = tuple(SMTP_REPLIES.get(f"{digit}xx", 0) for digit in range(6))


Rest = Command | BodyEnd | Malformed | Signal | Awaitable[Reply] | None
"""What is left when everything that needs no waiting is done: see `_Dialogue._take_turns`."""


class SmtpService:
    """MX, submission or LMTP: what a listener runs for each connection.

    `apply` takes over a new configuration; sessions that are open follow at their next transaction.

    Args:
        tls: the current context, None where TLS cannot be offered.
        implicit_tls: the listener makes the handshake before it hands a connection over (RFC 8314 §3.3).
        sleep: waits that slow a client down; tests hand over their own.
    """

    def __init__(
        self,
        config: Config,
        *,
        listener: Listener,
        intake: Intake,
        directory: Directory,
        authenticator: Authenticator,
        tls: Callable[[], ssl.SSLContext | None],
        limits: SharedCounters,
        metrics: Metrics,
        clock: Clock,
        ids: IdSource,
        implicit_tls: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.protocol = "smtp" if listener == "mx" else listener
        self.listener: Listener = listener
        self.implicit_tls = implicit_tls
        self.tls = tls
        policy = self._make_policy(config)
        self.ports = Ports(intake, directory, authenticator, limits, metrics, clock, ids, sleep, policy)

    def apply(self, config: Config) -> None:
        """Take over a new configuration."""
        self.ports.policy = self._make_policy(config)

    def _make_policy(self, config: Config) -> Policy:
        hostname = config.hostname or socket.getfqdn()
        return Policy(config, self.listener, hostname=hostname, implicit_tls=self.implicit_tls)

    def refusal(self, reason: str) -> bytes:
        """What a client hears that is not served at all; `reason` is a label of CONNECTIONS_REFUSED."""
        return b"" if self.implicit_tls else _REFUSALS.get(reason, R421_OVERLOADED).wire

    def handle(self, connection: Connection, log: SessionLog) -> Coroutine[Any, Any, None]:
        """Serve one client to its end."""
        return _Dialogue(self, connection, log).run()


class _Ended(Exception):
    """The connection ends here; the text says why, and what there was to say has been said."""


class _Dialogue:
    """One connection's loop and its clocks."""

    __slots__ = (
        "_body_seconds",
        "_connection",
        "_conversation",
        "_in_body",
        "_last_reply",
        "_line_begun",
        "_log",
        "_metrics",
        "_rest",
        "_service",
        "_session",
        "_unsent",
        "_verbose",
        "_waiting_since",
    )

    def __init__(self, service: SmtpService, connection: Connection, log: SessionLog) -> None:
        policy = service.ports.policy
        self._service = service
        self._connection = connection
        self._log = log
        self._metrics = service.ports.metrics
        self._session = Session(policy.limits, protocol=policy.protocol, tls=connection.tls is not None)
        self._conversation = Conversation(
            service.ports,
            self._session,
            log,
            connection.peer_address,
            connection.peer_port,
            lambda: connection.draining,
            self._ask,
        )
        self._in_body = False
        self._body_seconds = 0.0
        self._waiting_since = 0.0
        self._rest: Rest = None
        self._line_begun = False
        self._unsent = 0
        self._last_reply = R421_INTERNAL
        self._verbose = log.enabled("debug")

    async def run(self) -> None:
        clock = self._service.ports.clock
        started = clock.monotonic()
        self._metrics.inc(SMTP_CONNECTIONS)
        reason = ""
        try:
            await self._serve()
            last = self._last_reply
            reason = "quit" if last.code == 221 else f"{last.code} {last.lines[-1]}"
        except _Ended as end:
            reason = str(end)
        except DeadlineExceeded:
            reason = "timeout"
            self._answer(TOO_SLOW if self._in_body else R421_TIMEOUT)
        except Draining:
            reason = "server is shutting down"
            self._answer(R421_SHUTTING_DOWN)
        except TlsFailed as error:
            self._metrics.inc(TLS_FAILURES[self._service.protocol])
            reason = f"TLS handshake failed: {error.detail}"
        except ConnectionLost as error:
            reason = str(error)
        except Exception:
            reason = "internal error"
            if not self._session.closed:
                self._answer(R421_INTERNAL)
            raise
        finally:
            if self._in_body:
                reason += ", in the middle of a message"
            self._conversation.end_transaction()
            self._connection.write(self._session.data_to_send())
            seconds = clock.monotonic() - started
            self._metrics.observe(SMTP_SESSION_SECONDS, seconds)
            self._log.info(
                "connection closed",
                reason=reason,
                helo=self._session.helo,
                tls=self._conversation.tls,
                messages=self._conversation.messages,
                bytes_in=self._connection.bytes_in,
                bytes_out=self._connection.bytes_out,
                seconds=round(seconds, 3),
            )
            await self._connection.close()

    # The loop

    async def _serve(self) -> None:
        """From the banner to the end. What needs no waiting is done in `_take_turns`; here is the rest."""
        session = self._session
        await self._greet()
        rest = self._take_turns()
        while not session.closed:
            if rest is NEED_DATA:
                self._expect_input()
                self._connection.write(self._replies())
                await self._connection.feed(self._take_input)
                rest = self._rest
                continue
            if isinstance(rest, Command):
                await self._command(rest)
            elif isinstance(rest, BodyEnd):
                await self._end_of_body(rest)
            elif isinstance(rest, Malformed):
                self._line_begun = False
                self._malformed(rest)
            elif rest is not None and not isinstance(rest, Signal):
                self._answer_command(await rest)
            if self._unsent >= MAX_UNSENT_REPLIES:
                self._connection.write(self._replies())
                await self._connection.flush()
            rest = self._take_turns()

    def _take_turns(self) -> Rest:
        """Everything that needs no waiting; then NEED_DATA, or what has to be waited for.

        That is an event, the reply to a command that was taken already, or None: replies have to be sent before more are made.
        """
        next_event, inc, conversation = self._session.next_event, self._metrics.inc, self._conversation
        while self._unsent < MAX_UNSENT_REPLIES:
            event: Any = next_event()
            kind = event.kind
            if kind == COMMAND:
                verb: str = event.verb
                handler = HOT.get(verb)
                if handler is None or self._verbose or (verb == "DATA" and self._connection.has_input):
                    return event  # type: ignore[no-any-return]
                inc(_COMMANDS[verb])
                self._line_begun = False
                reply = handler(conversation, event)
                if type(reply) is not Reply:
                    return reply  # type: ignore[return-value]
                if reply.code < 400:
                    if reply.code == 354:
                        self._begin_body()
                    self._answer(reply)
                else:
                    self._answer_command(reply)
            elif kind == BODY_CHUNK:
                message.take_chunk(conversation, event.data)
            else:
                return event  # type: ignore[no-any-return]
        return None

    def _take_input(self, data: bytes) -> bytes | None:
        """What to send in answer to input; None when that takes longer, and is left in `_rest`."""
        if not data:
            raise _Ended("connection closed by client")
        if self._in_body:
            self._pay(len(data))
        self._session.receive(data)
        rest = self._rest = self._take_turns()
        if rest is NEED_DATA:
            self._expect_input()
            return self._replies()
        return None

    async def _command(self, command: Command) -> None:
        """A command that not every message has."""
        verb = command.verb
        self._metrics.inc(_COMMANDS[verb])
        if self._verbose:
            self._log.debug("command", verb=verb, argument="" if verb == "AUTH" else command.text)
        self._line_begun = False
        if not await self._may_go_on(verb):
            return
        reply = COMMANDS[verb](self._conversation, command)
        if reply is not None and type(reply) is not Reply:
            reply = await reply  # type: ignore[misc]
        if reply is None or reply.code == 354:
            self._begin_body()
        if reply is not None:
            self._answer_command(reply)

    async def _may_go_on(self, verb: str) -> bool:
        """What the order of things says about a command, before anybody looks at what it wants."""
        conversation = self._conversation
        if verb in ENDS_GROUP and self._connection.has_input:
            self._metrics.inc(SMTP_ERRORS)
            self._answer(R554_EARLY_DATA)
            raise _Ended("input before our reply")
        if verb == "STARTTLS":
            await self._start_tls()
            return False
        if verb in JUNK:
            conversation.junk += 1
            if conversation.junk > MAX_JUNK_COMMANDS:
                self._answer(TOO_MUCH_JUNK)
                return False
        return True

    def _answer_command(self, reply: Reply) -> None:
        """Answer, and count: a refusal for good is an error, one for now brings no mail forward either."""
        conversation = self._conversation
        code = reply.code
        if code >= 500:
            conversation.errors += 1
            self._metrics.inc(SMTP_ERRORS)
            if conversation.errors > conversation.policy.max_errors:
                reply = R421_TOO_MANY_ERRORS
        elif code >= 400 and code != 421:
            conversation.junk += 1
            if conversation.junk > MAX_JUNK_COMMANDS:
                reply = TOO_MUCH_JUNK
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        self._metrics.inc(_CLASSES[reply.code // 100])
        self._unsent += 1
        self._last_reply = reply
        if self._verbose:
            self._log.debug("reply", code=reply.code, status=reply.status, text="" if reply.code == 334 else reply.lines[-1])
        self._session.reply(reply)

    def _malformed(self, event: Malformed) -> None:
        self._log.info("malformed input", reason=event.reason, verb=event.verb, errors=self._conversation.errors + 1)
        if event.fatal:
            self._metrics.inc(SMTP_ERRORS)
            self._answer(event.reply)
        else:
            self._answer_command(event.reply)

    def _replies(self) -> bytes:
        """What was answered and is not on its way yet."""
        self._unsent = 0
        data: bytes = self._session.data_to_send()
        return data

    # Input and its deadlines
    #
    # A command line has its time as a whole, counted from when we began to wait for it: a byte now and then does not prolong
    # it. A body has a budget: it begins with the grace, and every 500 bytes buy a second, up to `data_timeout`.

    def _expect_input(self) -> None:
        connection, conversation = self._connection, self._conversation
        if self._in_body:
            self._waiting_since = self._service.ports.clock.monotonic()
            connection.set_deadline(self._body_seconds)
        elif not self._line_begun:
            self._line_begun = True
            policy = conversation.policy
            connection.set_deadline(policy.idle_timeout if conversation.identity is None else policy.command_timeout)
        connection.interruptible = conversation.transaction is None

    def _pay(self, size: int) -> None:
        """So many bytes of a body have come."""
        left = self._body_seconds - (self._service.ports.clock.monotonic() - self._waiting_since) + size / MIN_BYTES_PER_SECOND
        most = self._conversation.policy.data_timeout
        self._body_seconds = left if left < most else most

    async def _ask(self, text: bytes) -> bytes:
        """One round of an AUTH exchange.

        Raises:
            BrokenExchange: the line was malformed.
        """
        self._answer(challenge(base64.b64decode(text)))
        self._line_begun = False
        while True:
            event = self._session.next_event()
            if event is NEED_DATA:
                self._connection.write(self._replies())
                self._expect_input()
                data = await self._connection.receive(interruptible=self._connection.interruptible)
                if not data:
                    raise _Ended("connection closed by client")
                self._session.receive(data)
            elif isinstance(event, Line):
                self._line_begun = False
                answer: bytes = event.data
                return answer
            elif isinstance(event, Malformed):
                raise BrokenExchange(event.reply)
            else:
                raise _Ended("closed")

    # Bodies

    def _begin_body(self) -> None:
        self._in_body = True
        self._body_seconds = min(GRACE_SECONDS, self._conversation.policy.data_timeout)

    async def _end_of_body(self, event: BodyEnd) -> None:
        self._in_body = False
        self._line_begun = False
        self._conversation.junk = 0
        replies = await message.end_of_body(self._conversation, event)
        if replies[0].code >= 500:
            self._conversation.errors += 1
            self._metrics.inc(SMTP_ERRORS)
        for reply in replies:
            self._answer(reply)

    # The beginning, and TLS

    async def _greet(self) -> None:
        """The banner, or the reason why there is none."""
        connection, conversation = self._connection, self._conversation
        if connection.tls is not None:
            self._encrypted()
        conversation.starttls_works = conversation.policy.offers_starttls and self._service.tls() is not None
        ports = self._service.ports
        busy = ports.intake.admit()
        if connection.draining:
            self._answer(R421_SHUTTING_DOWN)
        elif conversation.policy.mechanisms and ports.authenticator.is_blocked(conversation.client_address) > 0:
            self._log.warn("connection refused", reason="too many failed logins")
            self._answer(LOCKED_OUT)
        elif busy is not None and busy.code == 421:
            self._log.warn("connection refused", reason=busy.text)
            self._answer(refused(busy))
        elif not await self._talks_first():
            self._answer(banner(conversation))

    async def _talks_first(self) -> bool:
        """Whether a stranger says something before the banner of the MX, as programs do that do not listen to replies.

        What it said is in the session then, which takes it for an early talker.
        """
        connection, conversation = self._connection, self._conversation
        if conversation.policy.listener != "mx" or conversation.trust.relay:
            return False
        if not connection.has_input:
            if not conversation.policy.greet_delay:
                return False
            connection.set_deadline(conversation.policy.greet_delay)
        try:
            data = await connection.receive()
        except DeadlineExceeded:
            return False
        if not data:
            raise _Ended("connection closed by client")
        self._session.receive(data)
        return True

    async def _start_tls(self) -> None:
        """RFC 3207. The session has refused whatever came in the same read, `_command` what came since."""
        context, clock = self._service.tls(), self._service.ports.clock
        if self._conversation.transaction is not None:
            self._answer_command(R503_IN_TRANSACTION)
        elif not self._conversation.policy.offers_starttls:
            self._answer_command(R502_NOT_IMPLEMENTED)
        elif context is None:
            self._answer(R454_TLS_UNAVAILABLE)
        else:
            self._answer(R220_READY_FOR_TLS)
            began = clock.monotonic()
            await self._connection.start_tls(context, self._session.data_to_send(), timeout=HANDSHAKE_SECONDS)
            self._metrics.observe(TLS_HANDSHAKE_SECONDS, clock.monotonic() - began)
            self._metrics.inc(TLS_SESSIONS["starttls"])
            self._unsent = 0
            self._session.tls_started()
            self._conversation.forget_client()
            self._encrypted()

    def _encrypted(self) -> None:
        conversation = self._conversation
        conversation.encryption = self._connection.tls
        conversation.tls = str(self._connection.tls)
        conversation.starttls_works = False
        conversation.forget_origin()
