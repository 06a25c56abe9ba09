"""Connections: greeting, deadlines, TLS, the order of calls, and the way out of messages.

Order of events at the end of a session: the maildrop is given back first, then the connection closes; a client that saw our
QUIT reply can log in again at once.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rusmes._core import pop3 as core
from rusmes._core.lines import EndlessLine, LineTooLong
from rusmes._core.pop3 import VERBS, Command, DotStuffer, message_reply
from rusmes.auth.api import Attempt, Authenticator
from rusmes.auth.negotiation import negotiate, offered
from rusmes.clock import Clock
from rusmes.errors import AuthUnavailable, NotFound, StoreError
from rusmes.log import SessionLog
from rusmes.metrics import (
    POP3_COMMANDS,
    POP3_CONNECTIONS,
    POP3_ERRORS,
    POP3_MESSAGES,
    TLS_HANDSHAKE_SECONDS,
    TLS_SESSIONS,
    Metrics,
)
from rusmes.model.content import Rendering
from rusmes.model.identity import Identity
from rusmes.net.addresses import Networks
from rusmes.net.connection import Connection, ConnectionLost, DeadlineExceeded, Draining, PipelinedPlaintext
from rusmes.pop3 import reply
from rusmes.pop3.commands import GONE, NEEDS_TLS, NOT_NOW, UNREADABLE, Commands, Limits
from rusmes.pop3.limits import FLUSH_OCTETS, READ_AHEAD_MESSAGES, READ_AHEAD_OCTETS, WHOLE_MESSAGE_OCTETS
from rusmes.pop3.reply import Answer, Body, Goodbye, Listing, Reply, StartTls
from rusmes.pop3.session import NEED_DATA, NeedData, Session, State
from rusmes.pop3.surrogate import surrogate
from rusmes.sasl import Cancelled, MalformedResponse
from rusmes.storage.api import MailStore

if TYPE_CHECKING:
    from rusmes.config.schema import Config

_COMMAND_COUNTERS: Final = tuple(POP3_COMMANDS[name] for name in VERBS)
_BLOCKED: Final = Reply(False, "too many failed logins, try again later", "SYS/TEMP")
_TOO_MANY_ERRORS: Final = Reply(False, "too many errors")
_OVERLOADED: Final = reply.line(Reply(False, "too busy, try again later", "SYS/TEMP"))
_REFUSALS: Final = {
    "blocked": reply.line(Reply(False, "not welcome", "SYS/PERM")),
    "per_ip": reply.line(Reply(False, "too many connections from your address", "SYS/TEMP")),
    "rate": reply.line(Reply(False, "too many failures from your address, try again later", "SYS/TEMP")),
    "draining": reply.line(Reply(False, "shutting down", "SYS/TEMP")),
}


class Pop3Service:
    """POP3 on one listener; `net.listener` calls `handle` for each connection, after the handshake with `implicit_tls`."""

    protocol = "pop3"

    def __init__(
        self,
        config: Config,
        *,
        store: MailStore,
        authenticator: Authenticator,
        tls: Callable[[], ssl.SSLContext | None],
        limits: Limits,
        metrics: Metrics,
        clock: Clock,
        implicit_tls: bool = False,
    ) -> None:
        self.store = store
        self.authenticator = authenticator
        self.tls = tls
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self.implicit_tls = implicit_tls
        self.apply(config)

    def apply(self, config: Config) -> None:
        """Take over a new configuration; sessions that are open keep what they have."""
        self.timeout = config.pop3.timeout
        self.login_timeout = min(config.pop3.timeout, config.connection_limits.idle_timeout)
        self.plaintext_networks = Networks(config.auth.plaintext_networks)
        self.greeting = reply.line(Reply(True, f"{config.hostname or config.domain} POP3 ready"))

    def refusal(self, reason: str) -> bytes:
        """What a connection gets that is closed before any work; nothing where TLS would have to come first."""
        return b"" if self.implicit_tls else _REFUSALS.get(reason, _OVERLOADED)

    async def handle(self, connection: Connection, log: SessionLog) -> None:
        """Serve one connection to its end.

        Raises:
            ConnectionLost: its caller logs it.
        """
        self.metrics.inc(POP3_CONNECTIONS)
        conversation = Conversation(self, connection, log)
        try:
            await conversation.run()
        except DeadlineExceeded:
            # RFC 1939 §3: close without a word, and without UPDATE.
            log.info("timeout", state=conversation.session.state.value)
        except Draining:
            log.debug("closed by shutdown")
        finally:
            conversation.commands.release()
            conversation.log_end()
            await connection.close()

    def is_plaintext_allowed(self, address: str) -> bool:
        """Whether the peer may log in without TLS."""
        return not address or address in self.plaintext_networks  # "" is a Unix socket


class Conversation:
    """One connection with its session."""

    __slots__ = (
        "_connection", "_event", "_in_order", "_is_ended", "_log", "_previous", "_ready", "_retrieved", "_service",
        "_unflushed", "_verbose", "attempt", "commands", "session",
    )  # fmt: skip

    def __init__(self, service: Pop3Service, connection: Connection, log: SessionLog) -> None:
        self._service = service
        self._connection = connection
        self._log = log
        self._unflushed = 0
        self._retrieved = 0
        self._previous = 0
        """The message retrieved last."""
        self._in_order = False
        """It was the one after the one before."""
        self._event: Command | Reply | NeedData = NEED_DATA
        """What `_take_retrieval` met and could not answer."""
        self._is_ended = False
        self._verbose = log.enabled("debug")
        self._ready: dict[int, bytes] = {}
        """Replies to RETR made ahead."""
        self.attempt = Attempt(connection.peer_address, "pop3", log.session_id)
        self.session = Session()
        self.commands = Commands(
            self.session,
            store=service.store,
            authenticator=service.authenticator,
            limits=service.limits,
            metrics=service.metrics,
            attempt=self.attempt,
            on_login=self._logged_in,
        )

    async def run(self) -> None:
        connection, service = self._connection, self._service
        connection.set_deadline(service.login_timeout)
        if service.authenticator.is_blocked(connection.peer_address):
            self._write(reply.line(_BLOCKED))
            self._log.info("refused: too many failed logins")
            return
        self._look_at_tls()
        self._write(service.greeting)
        session = self.session
        while True:
            try:
                event = self._event if self._event is not NEED_DATA else session.next_event()
                self._event = NEED_DATA
            except EndlessLine:
                self._write(reply.line(_TOO_MANY_ERRORS))
                return
            if event is NEED_DATA:
                if self._in_order:
                    await self._read_ahead()
                    if self._ready and not session.has_input:
                        if not await self._serve_ready():
                            return
                        continue
                data = await connection.receive(interruptible=True)
                self._unflushed = 0
                if not data:
                    return
                session.receive(data)
            elif isinstance(event, Command):
                if not await self._obey(event):
                    return
            else:
                service.metrics.inc(_COMMAND_COUNTERS[0])
                if not self._refuse(event):
                    return

    async def _obey(self, command: Command) -> bool:
        """Run a command and answer; False ends the session."""
        service = self._service
        service.metrics.inc(_COMMAND_COUNTERS[command.verb])
        if self._verbose:
            self._note(command)
        if command.verb == core.RETR and (ready := self._ready_reply(command.number) or await self._made_ready(command.number)):
            self._write(ready)
            self._message_sent(command.number)
            more = True
        else:
            answer = await self._auth(command) if command.verb == core.AUTH else await self.commands.run(command)
            more = await self._answer(answer, command)
        if self._unflushed >= FLUSH_OCTETS:
            await self._connection.flush()
            self._unflushed = 0
        # The autologout timer starts again with each command (RFC 1939 §3); before login there is one time for all.
        if more and self.session.state is State.TRANSACTION:
            self._connection.set_deadline(service.timeout)
        return more

    def _note(self, command: Command) -> None:
        """A line of the log for a command; an argument only where it can hold no secret."""
        fields: dict[str, object] = {"number": command.number} if command.number >= 0 else {}
        if command.verb == core.USER:
            fields["argument"] = command.argument
        self._log.debug("command", verb=VERBS[command.verb], **fields)

    async def _answer(self, answer: Answer, command: Command) -> bool:
        if self._verbose and isinstance(answer, Reply | Goodbye):
            said = answer if isinstance(answer, Reply) else answer.reply
            self._log.debug("reply", ok=said.ok, text=said.text)
        if isinstance(answer, Body):
            await self._send_message(answer, command)
        elif isinstance(answer, Reply):
            if not answer.ok:
                self._service.metrics.inc(POP3_ERRORS)
            self._write(reply.line(answer))
        elif isinstance(answer, Listing):
            self._write(reply.line(Reply(True, answer.text)))
            for rows in answer.rows:
                await self._stream(rows)
            self._write(reply.END)
        elif isinstance(answer, StartTls):
            return await self._start_tls(answer)
        else:
            if not answer.reply.ok:
                self._service.metrics.inc(POP3_ERRORS)
            # The maildrop is free before the client can know that it is.
            self.commands.release()
            self._write(reply.line(answer.reply))
            return False
        return True

    def _refuse(self, refusal: Reply) -> bool:
        self._service.metrics.inc(POP3_ERRORS)
        self._write(reply.line(refusal))
        if not self.session.count_error():
            return True
        self._write(reply.line(_TOO_MANY_ERRORS))
        self._log.info("too many errors")
        return False

    def _write(self, data: bytes) -> None:
        self._unflushed += len(data)
        self._connection.write(data)

    async def _stream(self, data: bytes) -> None:
        """Write a piece of something large; the next one is made when the client has read most of those before."""
        self._write(data)
        if self._unflushed >= FLUSH_OCTETS:
            await self._connection.flush()
            self._unflushed = 0

    # Messages

    async def _send_message(self, body: Body, command: Command) -> None:
        rendering = body.rendering
        is_small = rendering.size <= WHOLE_MESSAGE_OCTETS
        if body.lines < 0 and is_small and (data := rendering.content.data) is not None:
            self._write(self._small_message(rendering, data))
            self._message_sent(command.number)
            return
        stuffer = DotStuffer(body.lines)
        try:
            if not self.session.utf8:
                rendering = surrogate(rendering)
            chunks = rendering.chunks()
            # Nothing is promised before the first piece is there: the message may have been removed meanwhile.
            chunk = next(chunks, b"")
            head = b"top of message follows"
            if body.lines < 0:
                head = b"%d octets" % (rendering.size if _is_ended(rendering) else rendering.size + 2)
        except (OSError, NotFound, StoreError) as error:
            is_gone = isinstance(error, (FileNotFoundError, NotFound))
            await self._answer(GONE if is_gone else UNREADABLE, command)
            return
        self._write(b"+OK %b\r\n" % head)
        try:
            while chunk and not stuffer.is_done:
                await self._stream(stuffer.feed(chunk))
                chunk = next(chunks, b"")
        except (OSError, StoreError) as error:
            # Half a message must not look whole: the client sees a broken connection, and keeps what it had.
            self._log.error("a message cannot be read to its end", number=command.number, reason=str(error))
            self._connection.abort()
            raise ConnectionLost("message unreadable") from None
        self._write(stuffer.finish())
        if body.lines < 0:
            self._message_sent(command.number)

    def _small_message(self, rendering: Rendering, data: bytes) -> bytes:
        """The whole reply to RETR. `data` is the content's, asked for once: a store may fetch it each time."""
        if not self.session.utf8:
            rendering = surrogate(rendering, data)
        ended = data[-2:] == b"\r\n" if len(data) - rendering.skip >= 2 else _is_ended(rendering)
        size = rendering.size if ended else rendering.size + 2
        return message_reply(b"+OK %d octets\r\n" % size, rendering.prefix, data, rendering.skip)

    def _message_sent(self, number: int) -> None:
        self._service.metrics.inc(POP3_MESSAGES["retrieved"])
        self._retrieved += 1
        self._in_order = number == self._previous + 1
        self._previous = number

    def _ready_reply(self, number: int) -> bytes:
        """The reply to RETR that was made ahead, b"" when there is none or the message is marked as deleted."""
        ready = self._ready.pop(number, b"")
        maildrop = self.session.maildrop
        return ready if ready and maildrop is not None and maildrop.has(number) else b""

    async def _made_ready(self, number: int) -> bytes:
        """The reply to RETR for a client that goes through its messages in order: this one and the next ones are fetched in one
        look at the store (8 us a message instead of 14; LMDB, 3 KB). b"" when it does not, or where `commands` knows better."""
        self._ready.clear()
        if not self._in_order or number != self._previous + 1:
            return b""
        await self._make_ready(number)
        return self._ready_reply(number)

    async def _make_ready(self, number: int) -> None:
        maildrop = self.session.maildrop
        assert maildrop is not None
        numbers = maildrop.following(number, READ_AHEAD_MESSAGES, READ_AHEAD_OCTETS)
        if not numbers:
            return
        uids = [maildrop.uid(number) for number in numbers]
        try:
            renderings = await self._service.store.renderings(maildrop.mailbox_id, uids)
            for number, rendering in zip(numbers, renderings, strict=False):
                if (data := rendering.content.data) is not None:
                    self._ready[number] = self._small_message(rendering, data)
        except (NotFound, StoreError):
            return  # asked for again when the client wants it, and answered then

    async def _read_ahead(self) -> None:
        """Use the time in which a client that waits for each message digests this one."""
        number = self._previous + 1
        if number in self._ready or self._connection.has_input:
            return
        await self._connection.flush()
        self._unflushed = 0
        self._ready.clear()
        await self._make_ready(number)

    async def _serve_ready(self) -> bool:
        """Wait for the next command with the replies that are ready at hand; False ends the session."""
        self._connection.interruptible = True
        self._unflushed = 0
        try:
            await self._connection.feed(self._take_retrieval)
        except EndlessLine:
            self._write(reply.line(_TOO_MANY_ERRORS))
            return False
        return not self._is_ended

    def _take_retrieval(self, data: bytes) -> bytes | None:
        """Answer the RETR that was expected, in the event loop's callback: no task is woken (18 us of CPU instead of 21 for a
        client that waits for each message). Everything else goes back to `run`."""
        if not data:
            self._is_ended = True
            return None
        session, service = self.session, self._service
        session.receive(data)
        event = session.next_event()
        if not isinstance(event, Command) or event.verb != core.RETR or not (ready := self._ready_reply(event.number)):
            self._event = event
            return b"" if event is NEED_DATA else None
        service.metrics.inc(_COMMAND_COUNTERS[core.RETR])
        if self._verbose:
            self._note(event)
        self._message_sent(event.number)
        self._connection.set_deadline(service.timeout)
        if self._ready and not session.has_input:
            return ready
        self._write(ready)  # the next ones are fetched in `run`, while the client reads this one
        return None

    # Login and TLS

    async def _auth(self, command: Command) -> Answer:
        """RFC 5034 §4: AUTH [mechanism [initial-response]]."""
        if not command.argument:
            return self.commands.mechanism_list()
        if not self.commands.may_log_in:
            return NEEDS_TLS
        mechanism, _, initial = command.argument.partition(b" ")
        name = mechanism.decode("ascii", "replace").upper()
        if name not in self.commands.mechanisms:
            return Reply(False, "this mechanism is not offered")
        try:
            result = await negotiate(
                name,
                initial or None,
                self._ask,
                self._service.authenticator,
                self.attempt,
                tls=self._connection.tls,
                offered=self.commands.mechanisms,
            )
        except Cancelled:
            return Reply(False, "cancelled")
        except (MalformedResponse, LineTooLong) as error:
            return self._count_error(Reply(False, error.public))
        except EndlessLine:
            return Goodbye(_TOO_MANY_ERRORS)
        except AuthUnavailable:
            return NOT_NOW
        return await self.commands.authenticated(result)

    def _count_error(self, refusal: Reply) -> Answer:
        return Goodbye(refusal) if self.session.count_error() else refusal

    async def _ask(self, challenge: bytes) -> bytes:
        self._write(reply.continuation(challenge))
        while (response := self.session.next_response()) is None:
            data = await self._connection.receive()
            self._unflushed = 0
            if not data:
                raise ConnectionLost("closed during authentication")
            self.session.receive(data)
        return response

    async def _start_tls(self, answer: StartTls) -> bool:
        """RFC 2595 §4. Bytes after the command are an injection into the encrypted session to come, and end this one."""
        context = self._service.tls()
        if context is None:
            self._write(reply.line(Reply(False, "TLS is not available now", "SYS/TEMP")))
            return True
        try:
            if self.session.has_input:
                raise PipelinedPlaintext("plaintext after STLS")
            began = self._service.clock.monotonic()
            await self._connection.start_tls(context, reply.line(answer.reply))
        except PipelinedPlaintext:
            self._service.metrics.inc(POP3_ERRORS)
            self._write(reply.line(Reply(False, "nothing may follow STLS before TLS is on")))
            self._log.warn("plaintext after STLS")
            return False
        self._service.metrics.inc(TLS_SESSIONS["starttls"])
        self._service.metrics.observe(TLS_HANDSHAKE_SECONDS, self._service.clock.monotonic() - began)
        self.session.tls_started()
        self._look_at_tls()
        self._log.debug("tls", tls=str(self._connection.tls))
        return True

    def _look_at_tls(self) -> None:
        """What may be offered now."""
        service, connection, commands = self._service, self._connection, self.commands
        plaintext_allowed = service.is_plaintext_allowed(connection.peer_address)
        commands.may_log_in = connection.tls is not None or plaintext_allowed
        commands.mechanisms = offered(service.authenticator, connection.tls, plaintext_allowed=plaintext_allowed)
        commands.may_start_tls = connection.tls is None and service.tls() is not None

    def _logged_in(self, identity: Identity) -> None:
        self._log.user = identity.account
        maildrop = self.session.maildrop
        self._log.info("login", messages=maildrop.count if maildrop is not None else 0, tls=str(self._connection.tls or ""))

    def log_end(self) -> None:
        """The session's last line, when somebody had logged in."""
        session = self.session
        if session.maildrop is not None:
            self._log.info(
                "logout",
                retrieved=self._retrieved,
                removed=self.commands.removed,
                bytes_in=self._connection.bytes_in,
                bytes_out=self._connection.bytes_out,
            )
        elif session.failed_logins:
            self._log.info("no login", failed=session.failed_logins)


def _is_ended(rendering: Rendering) -> bool:
    """Whether the message ends in the line end that RETR needs (an empty one does)."""
    content = rendering.content
    if content.size - rendering.skip < 2:
        end = rendering.prefix + content.read()[rendering.skip :]
    elif (data := content.data) is not None:
        end = data
    else:
        with open(content.path, "rb") as file:
            file.seek(content.size - 2)
            end = file.read(2)
    return not end or end.endswith(b"\r\n")
