"""Connections: greeting, deadlines, TLS, compression, the order of calls.

One command at a time: what a client pipelines waits its turn, so nothing is ambiguous (RFC 9051 §5.5). A turn is: the handler,
which writes its untagged responses; the news of the selected mailbox, without EXPUNGE where sequence numbers are in use
(§7.5.1); the tagged reply. What is written leaves when the next input is waited for, or when it grows over 64 KiB.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from rusmes import metrics as m
from rusmes._core.lines import EndlessLine
from rusmes.auth.api import AccountAdmin, Attempt, Authenticator, Denied
from rusmes.auth.negotiation import negotiate, offered
from rusmes.clock import Clock
from rusmes.errors import NotFound, RusmesError, StoreError
from rusmes.imap import command as c
from rusmes.imap import response
from rusmes.imap.capabilities import switched_off
from rusmes.imap.commands import HANDLERS, append
from rusmes.imap.commands.context import Bad, Context, No, Ok, Outcome, Resources, Selected, Silent, outcome_of
from rusmes.imap.commands.notify import end as end_notify
from rusmes.imap.commands.session import capability_list
from rusmes.imap.hub import Hub
from rusmes.imap.session import NEED_DATA, Continuation, LiteralOffer, Refusal, Session, SinkFailure
from rusmes.log import SessionLog, get_logger
from rusmes.metrics import Metrics
from rusmes.model.identity import Identity
from rusmes.net.addresses import Networks
from rusmes.net.connection import Connection, ConnectionLost, DeadlineExceeded, Draining, Nudged, PipelinedPlaintext
from rusmes.storage.api import MailStore

if TYPE_CHECKING:
    from rusmes._core.counters import SharedCounters
    from rusmes.config.schema import Config

FLUSH_OCTETS: Final = 64 * 1024
"""Responses are collected up to this size; then the client must read."""

INFLATE_OCTETS: Final = 64 * 1024
"""Made of compressed input at a time, whatever it would grow to."""

TURN_SECONDS: Final = 0.005
"""A session works this long on what is there already, then others have theirs: 58 KB can inflate to five million NOOPs."""

DEFLATE_WINDOW_BITS: Final = -13
DEFLATE_MEMORY_LEVEL: Final = 5
"""48 KB for a compressor instead of zlib's 268 (4 * 2^13 + 2^(5+9)); raw deflate (RFC 4978 §3)."""

_REFUSALS: Final = {
    "blocked": b"* BYE not welcome\r\n",
    "per_ip": b"* BYE [UNAVAILABLE] too many connections from your address\r\n",
    "rate": b"* BYE [UNAVAILABLE] too many failures from your address, try again later\r\n",
    "draining": b"* BYE [UNAVAILABLE] shutting down\r\n",
}
_OVERLOADED: Final = b"* BYE [UNAVAILABLE] too busy, try again later\r\n"

_COUNTERS: Final[dict[Any, m.Counter]] = {
    kind: m.IMAP_COMMANDS[name]
    for kind, name in {
        c.Capability: "CAPABILITY", c.Noop: "NOOP", c.Logout: "LOGOUT", c.Id: "ID", c.StartTls: "STARTTLS",
        c.Authenticate: "AUTHENTICATE", c.Login: "LOGIN", c.Enable: "ENABLE", c.Namespace: "NAMESPACE",
        c.Compress: "COMPRESS", c.Unauthenticate: "UNAUTHENTICATE", c.Select: "SELECT", c.Create: "CREATE",
        c.Delete: "DELETE", c.Rename: "RENAME", c.Subscribe: "SUBSCRIBE", c.List: "LIST", c.Status: "STATUS",
        c.Append: "APPEND", c.Replace: "REPLACE", c.Idle: "IDLE", c.Notify: "NOTIFY", c.GetQuota: "QUOTA",
        c.GetQuotaRoot: "QUOTA", c.SetQuota: "QUOTA", c.GetAcl: "ACL", c.SetAcl: "ACL", c.DeleteAcl: "ACL",
        c.ListRights: "ACL", c.MyRights: "ACL", c.GetMetadata: "METADATA", c.SetMetadata: "METADATA", c.Check: "CHECK",
        c.Close: "CLOSE", c.Expunge: "EXPUNGE", c.Fetch: "FETCH", c.Store: "STORE", c.Copy: "COPY", c.Search: "SEARCH",
        c.Sort: "SORT", c.Thread: "THREAD", c.CancelUpdate: "SEARCH",
    }.items()
}  # fmt: skip

_USES_NUMBERS: Final = frozenset({c.Fetch, c.Store, c.Search, c.Sort, c.Thread})
"""No EXPUNGE while these are answered, unless they are of UIDs (RFC 9051 §7.5.1, RFC 5256 §3)."""

_ANSWERED_BY_NEWS: Final = frozenset({c.Notify, c.Store, c.Expunge, c.Replace})
"""What they do is told as news is, also where NOTIFY leaves it out (RFC 5465 §3.1, §5); and so it is with MOVE."""

_component: Final = get_logger("imap")


class ImapService:
    """IMAP on one listener; `net.listener` calls `handle` for each connection, after the handshake with `implicit_tls`."""

    protocol = "imap"

    def __init__(
        self,
        config: Config,
        *,
        store: MailStore,
        hub: Hub,
        authenticator: Authenticator,
        tls: Callable[[], ssl.SSLContext | None],
        limits: SharedCounters,
        metrics: Metrics,
        clock: Clock,
        searcher: Any = None,
        accounts: AccountAdmin | None = None,
        implicit_tls: bool = False,
    ) -> None:
        self.store = store
        self.hub = hub
        self.authenticator = authenticator
        self.tls = tls
        self.limits = limits
        self.metrics = metrics
        self.clock = clock
        self.searcher = searcher
        self.accounts = accounts
        self.implicit_tls = implicit_tls
        self.apply(config)

    def apply(self, config: Config) -> None:
        """Take over a new configuration; sessions that are open keep what they have."""
        self.idle_timeout = config.imap.idle_timeout
        self.idle_keepalive = config.imap.idle_keepalive
        self.commands_per_second = config.imap.commands_per_minute / 60
        self.command_burst = config.imap.commands_per_minute
        self.login_timeout = min(config.imap.idle_timeout, config.connection_limits.idle_timeout)
        self.plaintext_networks = Networks(config.auth.plaintext_networks)
        self.hostname = (config.hostname or config.domain).encode()
        self.resources = Resources(
            store=self.store,
            hub=self.hub,
            authenticator=self.authenticator,
            limits=self.limits,
            metrics=self.metrics,
            clock=self.clock,
            config=config,
            searcher=self.searcher,
            accounts=self.accounts,
        )

    def refusal(self, reason: str) -> bytes:
        """What a connection gets that is closed before any work; nothing where TLS would have to come first."""
        return b"" if self.implicit_tls else _REFUSALS.get(reason, _OVERLOADED)

    async def handle(self, connection: Connection, log: SessionLog) -> None:
        """Serve one connection to its end.

        Raises:
            ConnectionLost: its caller logs it.
        """
        self.metrics.inc(m.IMAP_CONNECTIONS)
        conversation = Conversation(self, connection, log)
        try:
            await conversation.run()
        except DeadlineExceeded:
            # RFC 9051 §5.4, §7.1.5
            conversation.write(b"* BYE logged out for inactivity\r\n")
            log.info("timeout", state=conversation.session.state.value)
        except EndlessLine:
            conversation.write(b"* BYE that is too long\r\n")
            log.info("too many errors")
        except Draining:
            conversation.write(b"* BYE %b\r\n" % (conversation.last_words or b"[UNAVAILABLE] the server is shutting down"))
            log.debug("closed by shutdown")
        finally:
            conversation.end()
            conversation.output.settle()
            await connection.close()

    def is_plaintext_allowed(self, address: str) -> bool:
        """Whether the peer may log in without TLS."""
        return not address or address in self.plaintext_networks  # "" is a Unix socket


class Output:
    """The way to the client, compressed from `compress` on."""

    __slots__ = ("_connection", "_deflate", "_is_unsettled", "_time", "_turn_ends", "_unflushed")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._deflate: Any = None
        self._is_unsettled = False
        """The compressor keeps bytes back."""
        self._unflushed = 0
        self._time = asyncio.get_running_loop().time
        self._turn_ends = 0.0

    def write(self, data: bytes) -> None:
        self._unflushed += len(data)
        if self._deflate is not None:
            self._is_unsettled = True
            data = self._deflate.compress(data)
        self._connection.write(data)

    def settle(self) -> None:
        """What was written can leave: nothing more comes before the client speaks."""
        self._unflushed = 0
        if self._is_unsettled:
            self._is_unsettled = False
            self._connection.write(self._deflate.flush(zlib.Z_SYNC_FLUSH))

    async def room(self) -> None:
        """Wait until the client has read most of what was written, and let others have their turn when ours was long.

        Raises:
            SendTimeout, ConnectionLost: nobody would read what more is done.
        """
        if self._unflushed >= FLUSH_OCTETS:
            await self.flush()
        if self._time() >= self._turn_ends:
            await asyncio.sleep(0)
            await self.flush()
            self.begin_turn()

    def begin_turn(self) -> None:
        """From now on `room` lets others go on after `TURN_SECONDS`."""
        self._turn_ends = self._time() + TURN_SECONDS

    def push(self) -> None:
        self.settle()
        self._connection.push()

    async def flush(self) -> None:
        self.settle()
        await self._connection.flush()

    def end_compression(self) -> None:
        self._connection.write(self._deflate.flush(zlib.Z_FINISH))
        self._deflate = None
        self._is_unsettled = False

    def compress(self) -> None:
        self._deflate = zlib.compressobj(wbits=DEFLATE_WINDOW_BITS, memLevel=DEFLATE_MEMORY_LEVEL)


class Conversation:
    """One connection with its session."""

    __slots__ = (
        "_bucket", "_bucket_at", "_connection", "_inflate", "_inflating", "_log", "_service",
        "_switched_off", "_verbose",
        "attempt", "context", "last_words", "output", "session",
    )  # fmt: skip

    def __init__(self, service: ImapService, connection: Connection, log: SessionLog) -> None:
        self._service = service
        self._connection = connection
        self._log = log
        self._verbose = log.enabled("debug")
        self._inflate: Any = None
        self._inflating = b""
        """Compressed input that is not yet looked at."""
        self._switched_off: frozenset[type[c.Command]] = frozenset()
        self.last_words = b""
        """Of a BYE that ends the session once the command is answered."""
        self._bucket = float(service.command_burst)
        self._bucket_at = service.clock.monotonic()
        self.attempt = Attempt(connection.peer_address, "imap", log.session_id)
        self.session = Session(append_limit=service.resources.config.imap.append_limit)
        self.output = Output(connection)
        self.context = Context(self.session, service.resources, self.output, log, self.attempt, self)

    async def run(self) -> None:
        connection, service, session = self._connection, self._service, self.session
        connection.set_deadline(service.login_timeout)
        if service.authenticator.is_blocked(connection.peer_address):
            self.write(b"* BYE [UNAVAILABLE] too many failed logins, try again later\r\n")
            self._log.info("refused: too many failed logins")
            return
        self._look_at_tls()
        # RFC 9051 §7.1.1: the greeting may save the client a question.
        self.write(b"* OK [CAPABILITY %b] %b IMAP ready\r\n" % (capability_list(self.context), service.hostname))
        self.output.begin_turn()
        is_partial = False
        """What came last was not a whole command."""
        while True:
            event = session.next_event()
            if event is NEED_DATA:
                if is_partial:
                    connection.acknowledge()  # an APPEND of imaplib: 46 ms without it, 3 with it
                waits = not self._inflating and not connection.has_input
                try:
                    # A command that has begun may end when the server stops: a message that is half here is not lost.
                    data = await self._receive(interruptible=not is_partial)
                except Nudged:
                    await self._tell_unasked()
                    continue
                if not data:
                    return
                session.receive(data)
                is_partial = True
                if waits:
                    self.output.begin_turn()
                else:
                    await self.output.room()
                continue
            is_partial = False
            if isinstance(event, c.Command):
                if not await self._obey(event):
                    return
            elif isinstance(event, Continuation):
                self.write(event.data)
            elif isinstance(event, LiteralOffer):
                await append.answer_offer(self.context, event)
            else:
                await self._take_turn()
                if not self._refuse(event):
                    return
                await self.output.room()

    def write(self, data: bytes) -> None:
        self.output.write(data)

    async def _receive(self, *, interruptible: bool = False) -> bytes:
        """The next input, b"" at its end; what was written leaves first."""
        self.output.settle()
        if self._inflate is None:
            return await self._connection.receive(interruptible=interruptible)
        while True:
            if not self._inflating:
                self._inflating = await self._connection.receive(interruptible=interruptible)
                if not self._inflating:
                    return b""
            try:
                data: bytes = self._inflate.decompress(self._inflating, INFLATE_OCTETS)
            except zlib.error:
                self.write(b"* BYE this is not deflated\r\n")
                return b""
            self._inflating = self._inflate.unconsumed_tail
            if data:
                return data

    # Commands

    async def _obey(self, command: c.Command) -> bool:
        """Carry out a command and answer; False ends the session."""
        service, kind = self._service, type(command)
        await self._take_turn()
        service.metrics.inc(_COUNTERS.get(kind, m.IMAP_COMMANDS["other"]))
        began = service.clock.monotonic()
        if self._verbose:
            self._log.debug("command", name=kind.__name__, tag=command.tag.decode("ascii", "replace"))
        outcome = await self._outcome(command)
        if not isinstance(outcome, Silent):
            await self._tell(command)
            self._answer(command.tag, outcome)
        if kind is not c.Idle:
            service.metrics.observe(m.IMAP_COMMAND_SECONDS, service.clock.monotonic() - began)
        if self.last_words:
            self.write(b"* BYE %b\r\n" % self.last_words)
            return False
        if self.session.is_over:
            return False
        if self.context.identity is not None:
            # Before login there is one time for all; after it each command starts the autologout timer again.
            self._connection.set_deadline(service.idle_timeout)
        await self.output.room()
        return True

    async def _outcome(self, command: c.Command) -> Outcome:
        handler = HANDLERS.get(type(command))
        if handler is None:
            return Bad("unknown command")
        if self._switched_off and type(command) in self._switched_off:
            return No("this is switched off for this account", b"CANNOT")
        try:
            return await handler(self.context, command)
        except (ConnectionLost, DeadlineExceeded, Draining, EndlessLine):
            raise
        except Exception as error:
            return self._failure(error, type(command).__name__)

    def _failure(self, error: Exception, command: str) -> Outcome:
        if isinstance(error, RusmesError):
            if isinstance(error, StoreError):
                self._log.error("the store cannot do it", command=command, reason=str(error))
            return outcome_of(error)
        self._log.error("a command failed", command=command, error=repr(error))
        _component.error("a command failed", session_id=self._log.session_id, exc_info=error)
        return No("internal error", b"SERVERBUG")

    async def carry_out(self, command: c.Command) -> None:
        """Do what another command would do, but for its tagged reply. Raises what its handler raises."""
        await HANDLERS[type(command)](self.context, command)

    async def _tell(self, command: c.Command) -> None:
        """What the selected mailbox has to say, before the tagged reply."""
        context = self.context
        if context.selected is None:
            return
        try:
            await context.refresh()
        except NotFound:
            self.last_words = b"the selected mailbox was deleted"
            return
        except StoreError as error:
            self._log.error("a mailbox cannot be looked at", reason=str(error))
            return
        may_expunge = type(command) not in _USES_NUMBERS or bool(getattr(command, "is_uid", False))
        is_answer = type(command) in _ANSWERED_BY_NEWS or bool(getattr(command, "move", False))
        await self._tell_selected(context.selected, may_expunge, is_answer=is_answer)

    async def _tell_selected(self, selected: Selected, may_expunge: bool, *, is_answer: bool = False) -> None:
        """News of the selected mailbox, whose rows are up to date; with `is_answer` also what NOTIFY left out."""
        context = self.context
        notification = context.notify
        if notification is not None and notification.selected is None and not is_answer:
            return
        watches = tuple(selected.watches.values())
        for watch in watches:
            self.write(watch.before_sync(context, may_expunge))
        if notification is None or notification.selected is None:
            self.write(context.view.sync(may_expunge))
            while context.view.is_unfinished:
                await self.output.room()
                self.write(context.view.sync(may_expunge))
        else:
            await notification.tell_selected(may_expunge, is_answer=is_answer)
        if selected.takes_recent:
            self._service.hub.claim_soon(selected.rows)
        for watch in watches:
            self.write(await watch.after_sync(context))

    def _answer(self, tag: bytes, outcome: Ok | No | Bad) -> None:
        metrics = self._service.metrics
        if isinstance(outcome, Ok):
            metrics.inc(m.IMAP_REPLIES["ok"])
            self.write(response.ok(tag, outcome.text, outcome.code))
            return
        if isinstance(outcome, No):
            metrics.inc(m.IMAP_REPLIES["no"])
            self.write(response.no(tag, outcome.text, outcome.code))
        else:
            metrics.inc(m.IMAP_REPLIES["bad"])
            self.write(response.bad(tag, outcome.text, outcome.code))
        if self._verbose:
            self._log.debug("refused", reply=outcome.text)

    def _refuse(self, refused: Refusal | SinkFailure) -> bool:
        """Answer a command that nobody carries out; False ends the session."""
        append.discard(self.context, refused.contents)
        if isinstance(refused, SinkFailure):
            outcome = self._failure(refused.error, "Append")
            assert not isinstance(outcome, Silent)
            self._answer(refused.tag, outcome)
            return True
        self.write(refused.data)
        if refused.ends:
            self._log.info("too much input")
            return False
        if not refused.is_bad:
            self._service.metrics.inc(m.IMAP_REPLIES["no"])
            return True
        self._service.metrics.inc(m.IMAP_REPLIES["bad"])
        if self._verbose:
            self._log.debug("refused", reply=refused.data.decode("utf-8", "replace").strip())
        self.count_error()
        if self.last_words:
            self.write(b"* BYE %b\r\n" % self.last_words)
        return not self.last_words

    def abort(self) -> None:
        """Cut the connection: what was begun cannot be ended."""
        self._connection.abort()

    def count_error(self) -> None:
        """Count a command that made no sense; after the last one allowed the session ends."""
        if self.session.count_error():
            self._log.info("too many errors")
            self.last_words = b"too many errors"

    async def _take_turn(self) -> None:
        """Commands that are refused count as those that are not."""
        if self._bucket < 1 or not self._service.command_burst:
            await self._slow_down()
        self._bucket -= 1

    async def _slow_down(self) -> None:
        """A token a command: `commands_per_minute` at once, then that rate."""
        service = self._service
        if not service.command_burst:
            self._bucket = 1e9
            return
        now = service.clock.monotonic()
        self._bucket = min(float(service.command_burst), self._bucket + (now - self._bucket_at) * service.commands_per_second)
        self._bucket_at = now
        if self._bucket < 1:
            await asyncio.sleep((1 - self._bucket) / service.commands_per_second)
            self._bucket = 1

    # Login and TLS

    async def negotiate(self, mechanism: str, initial: bytes | None) -> Identity | Denied:
        """Run a SASL exchange (RFC 9051 §6.2.2). Raises what `auth.negotiation.negotiate` does, LineTooLong."""
        return await negotiate(
            mechanism,
            initial,
            self._ask,
            self._service.authenticator,
            self.attempt,
            tls=self._connection.tls,
            offered=self.context.mechanisms,
        )

    async def _ask(self, challenge: bytes) -> bytes:
        self.write(b"+ %b\r\n" % challenge)
        return await self.next_line()

    async def next_line(self, *, interruptible: bool = False) -> bytes:
        """A line that is no command: the answer to a challenge, DONE. Raises LineTooLong, ConnectionLost."""
        session = self.session
        while (line := session.next_line()) is None:
            data = await self._receive(interruptible=interruptible)
            if not data:
                raise ConnectionLost("closed in the middle of a command")
            session.receive(data)
        return line

    def end_after_reply(self, text: bytes) -> None:
        """The connection ends, with BYE, once the command is answered."""
        self.last_words = text

    def logged_in(self) -> None:
        context = self.context
        assert context.identity is not None
        self._log.user = context.identity.account
        self._verbose = self._log.enabled("debug")
        self._switched_off = switched_off(context.identity.disabled_capabilities)
        self._connection.set_deadline(self._service.idle_timeout)
        self._log.info("login", tls=str(self._connection.tls or ""))

    def logged_out(self) -> None:
        """RFC 8437: the time to log in begins again."""
        self._log.user = ""
        self._switched_off = frozenset()
        self._connection.set_deadline(self._service.login_timeout)

    async def start_tls(self, tag: bytes) -> Outcome:
        """RFC 9051 §6.2.1. Bytes after the command are an injection into the encrypted session to come, and end this one."""
        service = self._service
        context = service.tls()
        if context is None:
            return No("TLS is not available now", b"UNAVAILABLE")
        try:
            if self.session.has_input:
                raise PipelinedPlaintext("plaintext after STARTTLS")
            began = service.clock.monotonic()
            await self._connection.start_tls(context, response.ok(tag, "begin TLS"))
        except PipelinedPlaintext:
            self._log.warn("plaintext after STARTTLS")
            self.end_after_reply(b"nothing may follow STARTTLS before TLS is on")
            return Bad("nothing may follow STARTTLS before TLS is on")
        service.metrics.inc(m.TLS_SESSIONS["starttls"])
        service.metrics.observe(m.TLS_HANDSHAKE_SECONDS, service.clock.monotonic() - began)
        self.session.tls_started()
        self.context.client_id = ()
        self._look_at_tls()
        self._log.debug("tls", tls=str(self._connection.tls))
        return Silent()

    def _look_at_tls(self) -> None:
        """What may be offered now."""
        service, connection, context = self._service, self._connection, self.context
        plaintext_allowed = service.is_plaintext_allowed(connection.peer_address)
        context.may_log_in = connection.tls is not None or plaintext_allowed
        context.may_start_tls = connection.tls is None and not service.implicit_tls and service.tls() is not None
        context.mechanisms = offered(service.authenticator, connection.tls, plaintext_allowed=plaintext_allowed)

    def start_compression(self, tag: bytes) -> Outcome:
        """RFC 4978 §3: the OK is the last thing that is not compressed."""
        if self.session.has_input:
            self.end_after_reply(b"nothing may follow COMPRESS before its reply")
            return Bad("nothing may follow COMPRESS before its reply")
        self.write(response.ok(tag, "deflate from here on"))
        self.output.compress()
        self._inflate = zlib.decompressobj(wbits=-15)
        self.context.is_compressed = True
        return Silent()

    def end_compression(self, tag: bytes) -> Outcome:
        """UNAUTHENTICATE (RFC 8437 §3): its reply is the last that is compressed, and it is the last command that was."""
        self.write(response.ok(tag, "logged out"))
        self.output.end_compression()
        inflate, self._inflate = self._inflate, None
        try:
            more = inflate.decompress(self._inflating, INFLATE_OCTETS)
        except zlib.error:
            more = b"?"
        self._inflating = b""
        if more or self.session.has_input:
            self.end_after_reply(b"nothing may follow UNAUTHENTICATE inside the compression that it ends")
        else:
            self.session.receive(inflate.unused_data)
        self.context.is_compressed = False
        return Silent()

    # The selected mailbox

    def select(self, selected: Selected) -> None:
        self.context.selected = selected
        if self.context.notify is not None and self.context.notify.selected is not None:
            self.begin_idling()

    def deselect(self) -> None:
        """Whatever was selected is not any more; safe without one."""
        selected, self.context.selected = self.context.selected, None
        if selected is not None:
            self._service.hub.end_idle(selected.rows, self)
            selected.view.close()
            self._service.hub.release(selected.rows)

    def begin_idling(self) -> None:
        """From now on news of the selected mailbox is told at once."""
        if self.context.selected is not None:
            self._service.hub.idle(self.context.selected.rows, self)

    def stop_idling(self) -> None:
        """IDLE has ended; NOTIFY may still want to know."""
        if self.context.selected is not None and (self.context.notify is None or self.context.notify.selected is None):
            self._service.hub.end_idle(self.context.selected.rows, self)

    async def tell_news(self) -> None:
        """What happened in the selected mailbox until now, outside of a command's end."""
        if self.context.selected is not None:
            await self.context.refresh()
            await self._tell_selected(self.context.selected, True)

    async def wait_for_done(self) -> bytes:
        """The line that ends IDLE, while news is told. Raises LineTooLong, ConnectionLost, Draining, DeadlineExceeded."""
        service, connection = self._service, self._connection
        silent = 0.0
        while True:
            pause = service.idle_timeout - silent
            if service.idle_keepalive:
                pause = min(pause, service.idle_keepalive)
            connection.set_deadline(pause)
            try:
                return await self.next_line(interruptible=True)
            except Nudged:
                await self._tell_unasked(in_idle=True)
            except DeadlineExceeded:
                silent += pause
                if silent >= service.idle_timeout:
                    raise
                self.write(b"* OK still here\r\n")  # RFC 9051 §7.1: a line like any other, for routers on the way

    async def _tell_unasked(self, *, in_idle: bool = False) -> None:
        """NOTIFY (RFC 5465): between commands, and in IDLE; there also what searches follow (RFC 5267)."""
        context = self.context
        notification = context.notify
        if context.selected is not None and (notification is None or notification.selected is not None):
            await context.refresh()
            await self._tell_selected(context.selected, notification is None or notification.may_expunge)
        if notification is None:
            return
        lines, notification.pending[:] = b"".join(notification.pending), ()
        self.write(lines)
        if notification.is_over:  # RFC 5465 §5.8: as after NOTIFY NONE
            context.notify = None
            if not in_idle:
                self.stop_idling()

    def tell_pending(self) -> None:
        """From NOTIFY: there are lines to be sent when no response is under way."""
        self._connection.nudge()

    def rows_changed(self) -> None:
        """From the hub: the rows of the selected mailbox are up to date."""
        selected = self.context.selected
        if selected is None or self._connection.is_clogged:
            return
        if self.context.notify is not None or selected.watches:
            self._connection.nudge()
            return
        if news := selected.view.sync(True):
            self._service.metrics.inc(m.IMAP_NEWS)
            if selected.takes_recent:
                self._service.hub.claim_soon(selected.rows)
            self.push(news)
            while selected.view.is_unfinished and not self._connection.is_clogged:
                self.push(selected.view.sync(True))

    def push(self, data: bytes) -> None:
        """Send while `receive` waits."""
        self.output.write(data)
        self.output.settle()
        self._connection.push()

    def mailbox_gone(self) -> None:
        """From the hub: a session that waits ends."""
        self.last_words = b"the selected mailbox was deleted"
        self._connection.drain()

    def end(self) -> None:
        """Give back what the session holds, and write its last line of the log when somebody had logged in."""
        append.discard(self.context, self.session.abandon())
        self.deselect()
        end_notify(self.context)
        connection = self._connection
        if self.context.identity is not None:
            self._log.info("logout", bytes_in=connection.bytes_in, bytes_out=connection.bytes_out)
        elif self.session.failed_logins:
            self._log.info("no login", failed=self.session.failed_logins)
