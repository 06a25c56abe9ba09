"""One connection to another server, from the greeting to QUIT.

RFC 5321 §4.5.3.2 (time-outs), §3.1 and RFC 7504 (servers that take no mail), RFC 3207 §4 (STARTTLS and what must be
forgotten after it), RFC 4954 (AUTH).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
from typing import Final

from rusmes.delivery import dane
from rusmes.delivery.egress.sources import SYSTEM, Source
from rusmes.delivery.routes import Endpoint, Login, RoutePlan
from rusmes.delivery.tlspolicy import CAUSES, TlsPolicy
from rusmes.errors import RusmesError
from rusmes.log import get_logger
from rusmes.net.connection import Connection, DeadlineExceeded, PipelinedPlaintext, TlsFailed
from rusmes.net.outbound import connect_by
from rusmes.queue.api import Attempt
from rusmes.sasl.client import ClientMechanism, choose
from rusmes.sasl.questions import SaslError
from rusmes.smtp.exchange import (
    Extensions,
    MalformedReply,
    Reply,
    ReplyReader,
    ehlo_command,
    harmless,
    helo_command,
    read_extensions,
)

# RFC 5321 §4.5.3.2. Each is for the whole reply, not for its next byte (L5s).
GREETING_SECONDS: Final = 300.0
COMMAND_SECONDS: Final = 300.0
DATA_SECONDS: Final = 120.0
BLOCK_SECONDS: Final = 180.0
FINAL_SECONDS: Final = 600.0
STARTTLS_SECONDS: Final = 120.0
HANDSHAKE_SECONDS: Final = 60.0
QUIT_SECONDS: Final = 2.0
"""For the reply to QUIT, which changes nothing any more."""

_log = get_logger("delivery")


class Gone(Exception):
    """The connection is of no use any more; `text` says why, `reply` is the server's last word if it said one. One that could
    not be opened says in which `phase` (`replies.PHASES`), and what is known of the attempt."""

    def __init__(self, text: str, reply: Reply | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.reply = reply
        self.phase = ""
        self.attempt: Attempt | None = None


class Refused(Gone):
    """The server, or our policy, does not let us begin. `status` is an enhanced code of class 4, or 5 when it is for ever."""

    def __init__(self, text: str, status: str, reply: Reply | None = None) -> None:
        super().__init__(text, reply)
        self.status = status


def is_permanent(error: Gone) -> bool:
    return isinstance(error, Refused) and error.status.startswith("5")


class NoTls(Refused):
    """The server works, but not with the TLS that is demanded; mail that does not demand it may still go there."""


class BrokenTls(Gone):
    """TLS was offered and failed; under the opportunistic policy the next connection does without."""


class Session:
    """A greeted connection. `offered` is what EHLO told; `sent` counts transactions; `is_secure` = TLS with a verified peer.

    `is_quick`: it answered the last message at once. `is_spoiled`: something was begun on it that nobody will end, so it must
    be cut. `is_aside`: its place at the site was given to others (`Pool.set_aside`). `phases` are those of its opening.
    """

    __slots__ = (
        "_at",
        "_is_traced",
        "_reader",
        "connection",
        "endpoint",
        "held",
        "idle_since",
        "is_aside",
        "is_quick",
        "is_secure",
        "is_spoiled",
        "name",
        "offered",
        "phases",
        "sent",
        "site",
        "source",
        "source_address",
        "tls",
        "tls_policy",
    )

    def __init__(self, connection: Connection, endpoint: Endpoint) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self.offered = Extensions()
        self.sent = 0
        self.is_secure = False
        self.is_quick = False
        self.is_spoiled = False
        self.is_aside = False
        self.idle_since = 0.0
        self.name = f"{endpoint.host}[{endpoint.address}]" if endpoint.host != endpoint.address else f"[{endpoint.address}]"
        self.held: tuple[bytes, ...] = ()
        """Places under limits that it shares with other sites."""
        self.site = ""
        self.source = ""
        self.source_address = ""
        self.tls = ""
        self.tls_policy = ""
        self.phases: tuple[tuple[str, float], ...] = ()
        self._at = 0.0
        self._reader = ReplyReader()
        self._is_traced = _log.enabled("trace")

    # What is told of it

    def passed(self, phase: str) -> None:
        """A part of its opening is over."""
        now = asyncio.get_running_loop().time()
        self.phases = (*self.phases, (phase, now - self._at))
        self._at = now

    def attempt(self, reply_class: str, phases: tuple[tuple[str, float], ...], *, is_first: bool) -> Attempt:
        """The facts of a transaction on it; one that is the first tells of the opening too."""
        endpoint = self.endpoint
        return Attempt(
            self.site,
            endpoint.host,
            endpoint.address,
            endpoint.port,
            self.source,
            self.source_address,
            self.tls,
            self.tls_policy,
            not is_first,
            self.phases + phases if is_first else phases,
            reply_class,
        )

    # Replies

    def send(self, data: bytes, replies: int = 1) -> None:
        """Write commands that will be answered by `replies` replies; they go out with the next `reply`.

        Content goes to `connection.write`, since `trace` shows what is given here; b"" announces the reply to it.

        Raises:
            Gone: a reply is there already (SO10).
        """
        try:
            self._reader.expect(replies)
        except MalformedReply as error:
            raise Gone(f"{error.public}: {error.detail}") from None
        if self._is_traced and data:
            for line in data.removesuffix(b"\r\n").split(b"\r\n"):
                self._trace("sent", line.decode("utf-8", "backslashreplace"))
        if data:
            self.connection.write(data)

    def _trace(self, event: str, line: str) -> None:
        """One line of the dialogue; contents of messages and logins do not come here."""
        _log.trace(event, host=self.name, local_port=self.connection.local_port, line=line)

    def _received(self, reply: Reply) -> Reply:
        if self._is_traced:
            self._trace("received", str(reply))
        return reply

    def ready_reply(self) -> Reply | None:
        """The next reply when it is here already: of those that come together all but the first.

        Raises:
            Gone: what is here is none.
        """
        try:
            reply = self._reader.next_reply()
        except MalformedReply as error:
            raise Gone(f"{error.public}: {error.detail}" if error.detail else error.public) from None
        return reply if reply is None or not self._is_traced else self._received(reply)

    async def reply(self, seconds: float) -> Reply:
        """The next reply, within `seconds` in total.

        Raises:
            Gone: no reply came, or none that is one.
        """
        reply = await self.reply_within(seconds)
        if reply is None:
            raise Gone(f"no reply within {seconds:g} s")
        return reply

    async def reply_within(self, seconds: float) -> Reply | None:
        """The next reply; None when it has not come by then, and may yet.

        Raises:
            Gone: there will be none.
        """
        reader = self._reader
        try:
            reply = reader.next_reply()
            if reply is not None:
                return self._received(reply)
            self.connection.set_deadline(seconds)
            while True:
                data = await self.connection.receive()
                if not data:
                    raise Gone("the server closed the connection")
                reader.feed(data)
                reply = reader.next_reply()
                if reply is not None:
                    return self._received(reply)
        except DeadlineExceeded:
            return None
        except MalformedReply as error:
            raise Gone(f"{error.public}: {error.detail}" if error.detail else error.public) from None
        except RusmesError as error:
            raise Gone(f"connection lost: {harmless(error.public)}") from None

    async def command(self, line: bytes, seconds: float = COMMAND_SECONDS) -> Reply:
        """Raises Gone."""
        self.send(line)
        return await self.reply(seconds)

    async def flush(self) -> None:
        """Wait until the server has read most of what was written; Gone when it does not (L4s)."""
        try:
            await self.connection.flush()
        except RusmesError as error:
            # It may have said why before it closed (552 in the middle of a message that is too large).
            last = await self._last_word()
            raise Gone(f"connection lost: {harmless(error.public)}", last) from None

    async def _last_word(self) -> Reply | None:
        with contextlib.suppress(RusmesError):
            if self.connection.has_input:
                self._reader.feed(await self.connection.receive())
            return self._reader.next_reply()
        return None

    async def quit(self) -> None:
        """Part in peace; never raises for what the peer does."""
        with contextlib.suppress(Gone, RusmesError):
            if not self.connection.is_lost and self._reader.is_clean:
                await self.command(b"QUIT\r\n", QUIT_SECONDS)
        await self.connection.close()

    # The beginning

    async def greet(self, hostname: str) -> None:
        """The greeting and EHLO.

        Raises:
            Gone, Refused
        """
        reply = await self.reply(GREETING_SECONDS)
        if reply.code != 220:
            # RFC 7504 §3: 521 says that there is no mail service at all; any other refusal may be for this moment.
            raise Refused(f"refused at connect: {reply}", "5.3.2" if reply.code == 521 else "4.3.2", reply)
        await self.hello(hostname)

    async def hello(self, hostname: str) -> None:
        """EHLO, or HELO where the server does not know it (RFC 5321 §3.2).

        Raises:
            Gone, Refused
        """
        reply = await self.command(ehlo_command(hostname))
        if reply.code == 250:
            self.offered = read_extensions(reply)
            return
        if 500 <= reply.code < 600:
            reply = await self.command(helo_command(hostname))
            if reply.code == 250:
                self.offered = Extensions()
                return
        raise Refused(f"refused our name: {reply}", "4.3.2", reply)

    async def secure(self, tls: TlsPolicy, mode: str, hostname: str) -> None:
        """STARTTLS as `mode` (opportunistic | verify | dane | mta-sts | mta-sts testing) demands, and a new EHLO.

        Raises:
            BrokenTls: the server cannot do what it offers; the connection is gone.
            Refused: TLS is demanded and not to be had.
            Gone
        """
        is_strict = mode != "opportunistic"
        if not self.offered.starttls:
            if is_strict:
                raise NoTls(f"TLS is required ({CAUSES.get(mode, mode)}), and the server does not offer it", "4.7.10")
            return
        reply = await self.command(b"STARTTLS\r\n", STARTTLS_SECONDS)
        if reply.code != 220:
            if is_strict:
                why = CAUSES.get(mode, mode)
                raise NoTls(f"TLS is required ({why}), and the server refused it: {reply}", "4.7.10", reply)
            return
        if not self._reader.is_clean:
            raise BrokenTls("the server sent plaintext after its go-ahead for TLS")  # SO9
        await self.handshake(tls, mode)
        self._reader = ReplyReader()
        self._reader.expected = 0
        # RFC 3207 §4.2: what was told in the clear is forgotten.
        await self.hello(hostname)

    async def handshake(self, tls: TlsPolicy, mode: str) -> None:
        """Raises BrokenTls, Refused, Gone."""
        context = tls.context(mode)
        try:
            await self.connection.start_tls(
                context, server_side=False, server_hostname=self.endpoint.host, timeout=HANDSHAKE_SECONDS
            )
        except (TlsFailed, PipelinedPlaintext) as error:
            why = "" if mode == "opportunistic" else f" ({CAUSES.get(mode, mode)})"
            raise BrokenTls(f"TLS failed{why}: {harmless(error.detail or error.public)}") from None
        except RusmesError as error:
            raise Gone(f"connection lost: {harmless(error.public)}") from None
        self.is_secure = mode != "opportunistic"
        if mode == "dane":
            verdict = dane.verdict(self.endpoint.tlsa, self.connection.tls, self.endpoint.host)
            if verdict == "mismatch":
                raise Refused("the certificate does not match the TLSA records", "4.7.5")
            self.is_secure = verdict == "match"

    async def login(self, account: Login) -> None:
        """AUTH (RFC 4954) with the strongest mechanism that both know; the password is never sent in the clear.

        Raises:
            Refused, Gone
        """
        tls = self.connection.tls
        mechanism = choose(
            self.offered.auth,
            account.username,
            account.password,
            encrypted=tls is not None,
            binding=tls.channel_binding if tls is not None else None,
        )
        if mechanism is None:
            raise Refused("the server offers no login that does not show the password", "4.7.4")
        is_traced, self._is_traced = self._is_traced, False
        try:
            if is_traced:
                self._trace("sent", f"AUTH {mechanism.name} ***")
            reply = await self._authenticate(mechanism)
            if is_traced:
                self._trace("received", str(reply))
            if reply.code != 235:
                raise Refused(f"login refused: {reply}", "4.7.8", reply)
            mechanism.finished()
        except SaslError as error:
            raise Refused(f"login failed: {error.public}", "4.7.8") from None
        finally:
            self._is_traced = is_traced

    async def _authenticate(self, mechanism: ClientMechanism) -> Reply:
        initial = mechanism.initial()
        line = f"AUTH {mechanism.name}".encode()
        if initial is not None:
            line += b" " + (base64.b64encode(initial) or b"=")
        reply = await self.command(line + b"\r\n")
        while reply.code == 334:
            try:
                answer = base64.b64encode(mechanism.respond(base64.b64decode(reply.lines[-1], validate=True)))
            except (SaslError, binascii.Error):
                return await self.command(b"*\r\n")
            reply = await self.command(answer + b"\r\n")
        return reply


async def open_session(
    endpoint: Endpoint, plan: RoutePlan, mode: str, tls: TlsPolicy, hostname: str, source: Source = SYSTEM
) -> Session:
    """Connect by a source, greet, secure and log in.

    Raises:
        Gone, Refused, BrokenTls: nothing of the connection is left.
        WayFailed: the source does not work.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    own_address = source.address_for(endpoint.address)
    try:
        connection, seen = await connect_by(
            source.way,
            endpoint.address,
            endpoint.port,
            timeout=plan.connect_timeout,
            source=own_address,
            send_timeout=BLOCK_SECONDS,
        )
    except TimeoutError:
        gone = Gone(f"connect to {endpoint}: no answer within {plan.connect_timeout:g} s")
        raise _not_opened(gone, endpoint, own_address, (("connect", loop.time() - started),)) from None
    except OSError as error:
        gone = Gone(f"connect to {endpoint}: {os.strerror(error.errno) if error.errno else error}")
        raise _not_opened(gone, endpoint, own_address, (("connect", loop.time() - started),)) from None
    session = Session(connection, endpoint)
    session._at = started
    session.passed("connect")
    session.source_address = seen
    mode = tls.mode_for(endpoint, mode)
    session.tls_policy = CAUSES.get(mode, mode)
    phase = "connect"
    try:
        if plan.implicit_tls:
            phase = "tls"
            await session.handshake(tls, mode)
            session.passed(phase)
        phase = "greeting"
        await session.greet(hostname)
        session.passed(phase)
        if not plan.implicit_tls and mode == "opportunistic" and tls.speaks_clear(endpoint):
            session.tls_policy = "opportunistic: its TLS failed lately"
        elif not plan.implicit_tls and mode != "none":
            phase = "tls"
            await session.secure(tls, mode, hostname)
            session.passed(phase)
        if connection.tls is not None:
            session.tls = f"{connection.tls.version} {connection.tls.cipher}"
            tls.remember_session(endpoint, mode, connection.tls)
        if plan.login is not None:
            phase = "login"
            await session.login(plan.login)
    except BaseException as error:
        connection.abort()
        if isinstance(error, Gone):
            error.text = f"{session.name}: {error.text}"
            error.phase = phase
            session.passed(phase)
            error.attempt = session.attempt("", (), is_first=True)
        raise
    return session


def _not_opened(gone: Gone, endpoint: Endpoint, source: str, phases: tuple[tuple[str, float], ...]) -> Gone:
    gone.phase = "connect"
    gone.attempt = Attempt("", endpoint.host, endpoint.address, endpoint.port, "", source, phases=phases)
    return gone
