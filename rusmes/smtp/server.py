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
from rusmes._core.turns import MAX_UNSENT, TurnRules, Turns
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
from rusmes.smtp.session import NEED_DATA, BodyEnd, Command, Line, Malformed, Session

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
_RULES: Final = TurnRules(
    dict(HOT),
    {verb: SMTP_COMMANDS[verb] for verb in HOT},
    tuple(SMTP_REPLIES.get(f"{digit}xx", 0) for digit in range(6)),
    Reply,
    message.take_chunk,
    message.end_of_body,
    message.settle,
    MIN_BYTES_PER_SECOND,
    GRACE_SECONDS,
)


Rest = Command | BodyEnd | Malformed | Signal | Awaitable[Reply | list[Reply]] | None
"""What is left when everything that needs no waiting is done: see `Turns.take_turns`."""


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
        self._is_stressed = False
        self._config = config
        policy = self._make_policy(config)
        self.ports = Ports(intake, directory, authenticator, limits, metrics, clock, ids, sleep, policy)

    def apply(self, config: Config) -> None:
        """Take over a new configuration."""
        self._config = config
        self.ports.policy = self._make_policy(config)

    def stress(self, is_on: bool) -> None:
        """Load is shed: shorter waits and no second error, for transactions that begin from now on."""
        if is_on != self._is_stressed:
            self._is_stressed = is_on
            self.ports.policy = self._make_policy(self._config)

    def _make_policy(self, config: Config) -> Policy:
        hostname = config.hostname or socket.getfqdn()
        return Policy(
            config, self.listener, hostname=hostname, implicit_tls=self.implicit_tls, is_stressed=self._is_stressed
        )

    def refusal(self, reason: str) -> bytes:
        """What a client hears that is not served at all; `reason` is a label of CONNECTIONS_REFUSED."""
        return b"" if self.implicit_tls else _REFUSALS.get(reason, R421_OVERLOADED).wire

    def handle(self, connection: Connection, log: SessionLog) -> Coroutine[Any, Any, None]:
        """Serve one client to its end."""
        return _Dialogue(self, connection, log).run()


class _Ended(Exception):
    """The connection ends here; the text says why, and what there was to say has been said."""


class _Dialogue(Turns):
    """One connection's loop: what takes longer than a turn, and what does not happen in every message."""

    __slots__ = ("_connection", "_conversation", "_log", "_metrics", "_service", "_session", "_verbose")

    def __init__(self, service: SmtpService, connection: Connection, log: SessionLog) -> None:
        policy, ports = service.ports.policy, service.ports
        self._service = service
        self._connection = connection
        self._log = log
        self._metrics = ports.metrics
        self._session = Session(policy.limits, protocol=policy.protocol, tls=connection.tls is not None)
        self._conversation = Conversation(
            ports,
            self._session,
            log,
            connection.peer_address,
            connection.peer_port,
            lambda: connection.draining,
            self._ask,
        )
        self._verbose = log.enabled("debug")
        self.set_up(
            _RULES, self._session, self._metrics, connection, self._conversation, ports.clock.monotonic, not self._verbose
        )

    async def run(self) -> None:
        clock = self._service.ports.clock
        started = clock.monotonic()
        self._metrics.inc(SMTP_CONNECTIONS)
        reason = ""
        try:
            await self._serve()
            last = self.last_reply
            reason = "quit" if last.code == 221 else f"{last.code} {last.lines[-1]}"
        except _Ended as end:
            reason = str(end)
        except DeadlineExceeded:
            reason = "timeout"
            self.answer(TOO_SLOW if self.in_body else R421_TIMEOUT)
        except Draining:
            reason = "server is shutting down"
            self.answer(R421_SHUTTING_DOWN)
        except TlsFailed as error:
            self._metrics.inc(TLS_FAILURES[self._service.protocol])
            reason = f"TLS handshake failed: {error.detail}"
        except ConnectionLost as error:
            reason = str(error)
        except Exception:
            reason = "internal error"
            if not self._session.closed:
                self.answer(R421_INTERNAL)
            raise
        finally:
            if self.in_body:
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
        """From the banner to the end. What needs no waiting is done in `take_turns`; here is the rest."""
        session = self._session
        await self._greet()
        rest = self.take_turns()
        while not session.closed:
            if rest is NEED_DATA:
                self.expect_input()
                self._connection.write(self.replies())
                await self._connection.feed(self.take_input)
                rest = self.rest
                continue
            if isinstance(rest, Command):
                await self._command(rest)
            elif isinstance(rest, BodyEnd):
                await self._end_of_body(rest)
            elif isinstance(rest, Malformed):
                self.begin_line()
                self._malformed(rest)
            elif rest is not None and not isinstance(rest, Signal):
                answer = await rest
                if isinstance(answer, list):
                    self.answer_message(answer)
                else:
                    self.answer_command(answer)
            if self.unsent >= MAX_UNSENT:
                self._connection.write(self.replies())
                await self._connection.flush()
            rest = self.take_turns()

    async def _command(self, command: Command) -> None:
        """A command that not every message has."""
        verb = command.verb
        self._metrics.inc(SMTP_COMMANDS[verb])
        if self._verbose:
            self._log.debug("command", verb=verb, argument="" if verb == "AUTH" else command.text)
        self.begin_line()
        if not await self._may_go_on(verb):
            return
        reply = COMMANDS[verb](self._conversation, command)
        if reply is not None and type(reply) is not Reply:
            reply = await reply  # type: ignore[misc]
        if reply is None:
            self._begin_body()
        else:
            self.answer_command(reply)

    async def _may_go_on(self, verb: str) -> bool:
        """What the order of things says about a command, before anybody looks at what it wants."""
        conversation = self._conversation
        if verb in ENDS_GROUP and self._connection.has_input:
            self._metrics.inc(SMTP_ERRORS)
            self.answer(R554_EARLY_DATA)
            raise _Ended("input before our reply")
        if verb == "STARTTLS":
            await self._start_tls()
            return False
        if verb in JUNK:
            conversation.junk += 1
            if conversation.junk > MAX_JUNK_COMMANDS:
                self.answer(TOO_MUCH_JUNK)
                return False
        return True

    def answer_command(self, reply: Reply) -> None:
        """Answer, and count: a refusal for good is an error, one for now brings no mail forward either."""
        conversation = self._conversation
        code = reply.code
        if code == 354:
            self._begin_body()
        elif code >= 500:
            conversation.errors += 1
            self._metrics.inc(SMTP_ERRORS)
            if conversation.errors > conversation.policy.max_errors:
                reply = R421_TOO_MANY_ERRORS
        elif code >= 400 and code != 421:
            conversation.junk += 1
            if conversation.junk > MAX_JUNK_COMMANDS:
                reply = TOO_MUCH_JUNK
        self.answer(reply)

    def note_reply(self, reply: Reply) -> None:
        self._log.debug("reply", code=reply.code, status=reply.status, text="" if reply.code == 334 else reply.lines[-1])

    def end_of_input(self) -> None:
        raise _Ended("connection closed by client")

    def _malformed(self, event: Malformed) -> None:
        self._log.info("malformed input", reason=event.reason, verb=event.verb, errors=self._conversation.errors + 1)
        if event.fatal:
            self._metrics.inc(SMTP_ERRORS)
            self.answer(event.reply)
        else:
            self.answer_command(event.reply)

    async def _ask(self, text: bytes) -> bytes:
        """One round of an AUTH exchange.

        Raises:
            BrokenExchange: the line was malformed.
        """
        self.answer(challenge(base64.b64decode(text)))
        self.begin_line()
        while True:
            event = self._session.next_event()
            if event is NEED_DATA:
                self._connection.write(self.replies())
                self.expect_input()
                data = await self._connection.receive(interruptible=self._connection.interruptible)
                if not data:
                    self.end_of_input()
                self._session.receive(data)
            elif isinstance(event, Line):
                self.begin_line()
                answer: bytes = event.data
                return answer
            elif isinstance(event, Malformed):
                raise BrokenExchange(event.reply)
            else:
                raise _Ended("closed")

    # Bodies

    def _begin_body(self) -> None:
        self.begin_body(min(GRACE_SECONDS, self._conversation.policy.data_timeout))

    async def _end_of_body(self, event: BodyEnd) -> None:
        self.end_body()
        replies = message.end_of_body(self._conversation, event)
        if replies is not None and not isinstance(replies, list):
            replies = await replies
        self.answer_message(replies or [])

    def answer_message(self, replies: list[Reply]) -> None:
        """A reply for the message, or one for each recipient."""
        if replies[0].code >= 500:
            self._conversation.errors += 1
            self._metrics.inc(SMTP_ERRORS)
        for reply in replies:
            self.answer(reply)

    # The beginning, and TLS

    async def _greet(self) -> None:
        """The banner, or the reason why there is none."""
        connection, conversation = self._connection, self._conversation
        if connection.tls is not None:
            self._encrypted()
        # Not on a unix socket, which has no address: what it carries leaves no machine.
        has_way = conversation.policy.offers_starttls and bool(conversation.client_address)
        conversation.starttls_works = has_way and self._service.tls() is not None
        ports = self._service.ports
        busy = ports.intake.admit()
        if connection.draining:
            self.answer(R421_SHUTTING_DOWN)
        elif conversation.policy.mechanisms and ports.authenticator.is_blocked(conversation.client_address) > 0:
            self._log.warn("connection refused", reason="too many failed logins")
            self.answer(LOCKED_OUT)
        elif busy is not None and busy.code == 421:
            self._log.warn("connection refused", reason=busy.text)
            self.answer(refused(busy))
        elif not await self._talks_first():
            self.answer(banner(conversation))

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
            self.answer_command(R503_IN_TRANSACTION)
        elif not self._conversation.policy.offers_starttls or not self._conversation.client_address:
            self.answer_command(R502_NOT_IMPLEMENTED)
        elif context is None:
            self.answer(R454_TLS_UNAVAILABLE)
        else:
            self.answer(R220_READY_FOR_TLS)
            began = clock.monotonic()
            await self._connection.start_tls(context, self.replies(), timeout=HANDSHAKE_SECONDS)
            self._metrics.observe(TLS_HANDSHAKE_SECONDS, clock.monotonic() - began)
            self._metrics.inc(TLS_SESSIONS["starttls"])
            self._session.tls_started()
            self._conversation.forget_client()
            self._encrypted()

    def _encrypted(self) -> None:
        conversation = self._conversation
        conversation.encryption = self._connection.tls
        conversation.tls = str(self._connection.tls)
        conversation.starttls_works = False
        conversation.forget_origin()
