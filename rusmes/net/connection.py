"""One peer: the only code that touches asyncio transports; long, because none of its promises can be kept without the others.

A `Connection` turns callbacks of the event loop into a coroutine's straight line, with these promises:

1. The only flush is when more input is needed: `write` collects, `receive` hands everything to the transport in one call, so
   a batch of replies is one system call and one TLS record. Answers of `feed` may wait for those of others (`outbox`).
2. The next read waits until the peer has read what we wrote, for at most `send_timeout`; so a peer that never reads costs at
   most `WRITE_HIGH_BYTES` plus what its own commands asked for.
3. The inbox is bounded: above `INBOX_BYTES` the socket is not read any more.
4. One timer, armed again only when it fires too early; setting a deadline is an assignment.
5. STARTTLS in the order of RFC 3207 §4: refuse pipelined bytes, stop reading, write the last plaintext, upgrade.
6. Closing is bounded.

Idle, it holds a few hundred bytes: no StreamReader, no buffer, and a future only while it waits.
"""

from __future__ import annotations

import _ssl
import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from rusmes.errors import RusmesError
from rusmes.net.outbox import Outbox
from rusmes.tls.exporter import exported_binding

INBOX_BYTES: Final = 256 * 1024
"""Bytes that may wait unread before the socket is paused. asyncio's StreamReader: 128 KiB."""

WRITE_HIGH_BYTES: Final = 64 * 1024
WRITE_LOW_BYTES: Final = 16 * 1024
"""Always set: uvloop's default low mark for TCP is 16 bytes, so it would resume only when everything has gone."""

SEND_TIMEOUT_SECONDS: Final = 300.0
"""How long a peer may refuse to read replies. Postfix smtpd_timeout: 300 s."""

HANDSHAKE_TIMEOUT_SECONDS: Final = 30.0
SHUTDOWN_TIMEOUT_SECONDS: Final = 5.0
"""How long a TLS peer may take to answer close_notify. asyncio: 30 s."""

CLOSE_TIMEOUT_SECONDS: Final = 5.0
LINGER_SECONDS: Final = 1.0
"""How long input is still read and thrown away after our last word, so that a reset does not destroy it on its way."""


class ConnectionLost(RusmesError):
    """The connection is gone. `public` says how."""


class SendTimeout(ConnectionLost):
    """The peer did not read what we wrote in time; the connection was cut."""


class TlsFailed(ConnectionLost):
    """The TLS handshake failed; the connection was cut."""


class DeadlineExceeded(RusmesError):
    """The deadline passed. The connection still works, so the peer can be told."""


class Draining(RusmesError):
    """The server is stopping, and the session may end here. The connection still works."""


class Nudged(RusmesError):
    """`nudge` was called: there is something to say to the peer. The connection still works."""


class PipelinedPlaintext(RusmesError):
    """Bytes followed the command that starts TLS; they must not be taken for encrypted ones (RFC 3207 §4)."""


class TlsInfo:
    """What was agreed in the handshake."""

    __slots__ = ("_end_point", "_object", "cipher", "version")

    def __init__(self, ssl_object: Any, end_point: bytes = b"") -> None:
        self._object = ssl_object
        self._end_point = end_point
        self.version: str = ssl_object.version() or ""
        """TLSv1.3"""
        cipher = ssl_object.cipher()
        self.cipher: str = cipher[0] if cipher else ""

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), verified as the context demanded; None when it sent none."""
        certificate: bytes | None = self._object.getpeercert(True)
        return certificate

    @property
    def peer_chain(self) -> list[bytes]:
        """The certificates the peer sent (DER), its own first; not verified."""
        chain = self._object._sslobj.get_unverified_chain() or ()  # public from Python 3.13 on
        return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]

    def channel_binding(self, kind: str) -> bytes:
        """The data of "tls-server-end-point" (server side; RFC 5929), "tls-unique" (up to TLS 1.2; RFC 5929) or "tls-exporter"
        (from TLS 1.3 on; RFC 9266); b"" when there is none."""
        if kind == "tls-server-end-point":
            return self._end_point
        if kind == "tls-unique" and self.version != "TLSv1.3":
            return self._object.get_channel_binding("tls-unique") or b""
        if kind == "tls-exporter" and self.version == "TLSv1.3":
            return exported_binding(self._object)
        return b""

    @property
    def is_resumed(self) -> bool:
        """Whether the handshake went on with an earlier session."""
        return bool(self._object.session_reused)

    def keep_session(self, keep: Callable[[Any], None]) -> None:
        """Show the SSL object to who keeps sessions."""
        keep(self._object)

    def __str__(self) -> str:
        return f"{self.version} {self.cipher}"


class Connection(asyncio.Protocol):
    """A peer.

    `on_made` is called with this object when the transport is there. `peer_address` is a textual IP address ("" for a unix
    socket); after a PROXY header it is the address of the real client.
    """

    __slots__ = (
        "_closed_waiter",
        "_continue",
        "_cut_when",
        "_deadline",
        "_drain_waiter",
        "_eof",
        "_expired",
        "_handshakes",
        "_held",
        "_inbox",
        "_inbox_bytes",
        "_loop",
        "_lost",
        "_lost_reason",
        "_nudged",
        "_on_made",
        "_out",
        "_out_bytes",
        "_outbox",
        "_reading_paused",
        "_send_deadline",
        "_stopped",
        "_take",
        "_timer",
        "_timer_at",
        "_transport",
        "_waiter",
        "_writing_paused",
        "bytes_in",
        "bytes_out",
        "draining",
        "interruptible",
        "local_address",
        "local_port",
        "peer_address",
        "peer_port",
        "send_timeout",
        "tls",
    )

    def __init__(
        self,
        on_made: Callable[[Connection], None] | None = None,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        send_timeout: float = SEND_TIMEOUT_SECONDS,
        handshakes: asyncio.Semaphore | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._outbox = outbox
        self._handshakes = handshakes
        self._cut_when: tuple[bytes, ...] = ()
        self._on_made = on_made
        self._transport: Any = None
        self.peer_address = ""
        self.peer_port = 0
        self.local_address = ""
        self.local_port = 0
        self.tls: TlsInfo | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.draining = False
        self.send_timeout = send_timeout
        self._inbox: bytes | list[bytes] = b""
        self._inbox_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._closed_waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bytes | None] | None = None
        self._stopped = False
        """`_take` said that it cannot go on."""
        self._held = False
        """`_take` waits for something else than input."""
        self._continue: Callable[[], bytes | None] | None = None
        """What goes on after that; for whoever waits in `feed`, when it is on its way already."""
        self.interruptible = False
        """Whether the session may end where it is."""
        self._reading_paused = False
        self._writing_paused = False
        self._eof = False
        self._lost = False
        self._lost_reason = ""
        self._nudged = False
        self._deadline = 0.0
        self._send_deadline = 0.0
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        peer = transport.get_extra_info("peername")
        if type(peer) is tuple:
            self.peer_address, self.peer_port = peer[0], peer[1]
            here = transport.get_extra_info("sockname")
            self.local_address, self.local_port = here[0], here[1]
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self.tls = TlsInfo(ssl_object, getattr(ssl_object.context, "end_point", b""))
        on_made, self._on_made = self._on_made, None
        if on_made is not None:
            on_made(self)

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self.bytes_in += size
        if self._cut_when:
            if data.startswith(self._cut_when):
                self._lost_reason = "a PROXY header that came too late"
                self.abort()
                return
            self._cut_when = ()
        inbox, waiter = self._inbox, self._waiter
        if not inbox:
            if self._take is not None and waiter is not None and not self._held and not waiter.done():
                self._answer(waiter, self._take, data)
                return
            self._inbox = data
        elif type(inbox) is list:
            inbox.append(data)
        else:
            self._inbox = [inbox, data]  # type: ignore[list-item]
        self._inbox_bytes += size
        if waiter is not None and not self._held and not waiter.done():
            waiter.set_result(None)
        # Also while a receive is about to go on: libuv reads up to 32 times before the loop runs anything else.
        if self._inbox_bytes >= INBOX_BYTES and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _answer(self, waiter: asyncio.Future[None], ask: Callable[..., bytes | None], *data: bytes) -> None:
        """Send what somebody answers at once; whoever waits in `feed` is only woken when there is more to it."""
        try:
            answer = ask(*data)
        except Exception as error:
            self._take = None
            waiter.set_exception(error)
            return
        if answer is None:
            self._take = None
            self._stopped = True
            waiter.set_result(None)
            return
        if answer and not self._lost:
            self.bytes_out += len(answer)
            if self._outbox is not None:
                self._outbox.add(self, answer)
            else:
                self._transport.write(answer)
        if self._writing_paused or (self.draining and self.interruptible):
            waiter.set_result(None)

    def send_answer(self, answer: bytes) -> None:
        """For the outbox: write what `feed` answered in this turn."""
        if self._lost or self._transport.is_closing():
            return
        self._transport.write(answer)
        if self._writing_paused:
            self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return self.tls is None  # half-closed: the peer may still wait for replies; TLS cannot do that

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if exc is not None and not self._lost_reason:
            self._lost_reason = str(exc) or type(exc).__name__
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._out.clear()
        self._wake()
        for waiter in (self._drain_waiter, self._closed_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Reading

    async def receive(self, *, interruptible: bool = False) -> bytes:
        """Write what is buffered, wait until the peer has read it, and return the next bytes; b"" at the end of input.

        Raises:
            DeadlineExceeded: the deadline of `set_deadline` passed, even when bytes are there (a slow peer sends some always).
            SendTimeout: the peer does not read.
            ConnectionLost: reset, or closed by us.
            Draining: the server stops, and `interruptible` said that now is a good moment.
            Nudged: likewise, and `nudge` was called.
        """
        self.interruptible = interruptible
        if self._out:
            self._hand_over()
        if self._writing_paused:
            await self._drained()
        while self._stopped or self._held or not self._inbox:
            if self._writing_paused and not self._lost:  # by an answer of `feed`
                await self._drained()
                continue
            if self._continue is not None:
                self._go_on(self._continue)
                continue
            if self._stopped:  # what has come meanwhile is for the next `receive`
                return b""
            if not self._held:
                if self._expired:
                    raise DeadlineExceeded("timeout", "no complete input before the deadline")
                if self._eof:
                    return b""
                if self._lost:
                    raise ConnectionLost(self._lost_reason or "connection closed")
                if self.interruptible and self.draining:
                    raise Draining("server is shutting down")
                if self.interruptible and self._nudged:
                    self._nudged = False
                    raise Nudged("nudged")
                if self._reading_paused:
                    self._resume_reading()
            waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        if self._expired:
            raise DeadlineExceeded("timeout", "no complete input before the deadline")
        inbox, self._inbox = self._inbox, b""
        self._inbox_bytes = 0
        if self._reading_paused:
            self._resume_reading()
        return b"".join(inbox) if type(inbox) is list else inbox  # type: ignore[return-value]

    async def feed(self, take: Callable[[bytes], bytes | None]) -> None:
        """Hand input to `take` until it answers None; what else it answers is sent.

        Input that comes while we wait is handed over by the event loop's callback, and no task is woken. `take` may change the
        deadline and `interruptible`, must not wait, and gets b"" at the end of input.

        Raises:
            The errors of `receive`, and those of `take`.
        """
        self._stopped = False
        self._take = take
        try:
            while True:
                data = await self.receive(interruptible=self.interruptible)
                if self._stopped:
                    return
                answer = take(data)
                if answer is None:
                    return
                self.write(answer)
        finally:
            self._take = None
            self._stopped = False
            self._held = False
            self._continue = None

    def hold(self) -> None:
        """For `take`, before it answers: until `release` no input is handed over, and `feed` notices nothing."""
        self._held = True

    def release(self, go_on: Callable[[], bytes | None]) -> None:
        """The end of `hold`: `go_on` answers as `take` does. Nothing happens when nobody waits in `feed` any more."""
        take, waiter = self._take, self._waiter
        if take is None:
            return
        if waiter is None or waiter.done():
            self._continue = go_on
            return
        self._held = False
        self._answer(waiter, go_on)
        if self._held or waiter.done():
            return
        if self._inbox or self._eof or self._lost:
            # Only a client that sends without waiting for replies has input here.
            waiter.set_result(None)

    def _go_on(self, go_on: Callable[[], bytes | None]) -> None:
        self._continue = None
        self._held = False
        answer = go_on()
        if answer is None:
            self._stopped = True
        elif answer:
            self.write(answer)
            self._hand_over()

    def acknowledge(self) -> None:
        """Let the kernel acknowledge what has arrived now, and not in 40 ms: for half a message of a peer that sends the other
        half after that (Nagle's algorithm, RFC 896 and RFC 1122 §4.2.3.2)."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._lost and hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):  # a Unix socket
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of everything that is not yet received."""
        if not data:
            return
        inbox = self._inbox
        if not inbox:
            self._inbox = data
        elif type(inbox) is list:
            inbox.insert(0, data)
        else:
            self._inbox = [data, inbox]  # type: ignore[list-item]
        self._inbox_bytes += len(data)

    @property
    def has_input(self) -> bool:
        """Whether bytes wait that `receive` would return without waiting."""
        return bool(self._inbox)

    def _resume_reading(self) -> None:
        self._reading_paused = False
        if not self._lost:
            self._transport.resume_reading()

    # Writing

    def write(self, data: bytes) -> None:
        """Buffer bytes for the next `receive` or `flush`. Whoever writes much calls `flush` in between."""
        if not data or self._lost:
            return
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= WRITE_HIGH_BYTES:
            self._hand_over()

    def push(self) -> None:
        """Hand what is buffered to the transport now: news for a peer that is waited for in `receive`."""
        if self._out:
            self._hand_over()

    @property
    def is_clogged(self) -> bool:
        """Whether more than `WRITE_HIGH_BYTES` wait for the peer to read; whoever need not write now does not."""
        return self._writing_paused

    async def flush(self) -> None:
        """Hand what is buffered to the transport, and wait while more than `WRITE_HIGH_BYTES` of it are unsent.

        Raises:
            SendTimeout, ConnectionLost
        """
        if self._out:
            self._hand_over()
        if self._writing_paused:
            await self._drained()
        if self._lost:
            raise ConnectionLost(self._lost_reason or "connection closed")

    def _hand_over(self) -> None:
        if self._outbox is not None:
            self._outbox.hurry()  # what was answered before goes first
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        if data and not self._lost:
            self.bytes_out += len(data)
            self._transport.write(data)

    async def _drained(self) -> None:
        """Wait until the transport asks for more."""
        self._send_deadline = self._loop.time() + self.send_timeout
        self._arm(self._send_deadline)
        try:
            while self._writing_paused and not self._lost:
                waiter = self._drain_waiter = self._loop.create_future()
                try:
                    await waiter
                finally:
                    self._drain_waiter = None
        finally:
            self._send_deadline = 0.0
        if self._lost and self._lost_reason == "send timeout":
            raise SendTimeout("send timeout", f"the peer read nothing for {self.send_timeout:g} s")

    # Deadlines

    def set_deadline(self, seconds: float | None) -> None:
        """From now on `receive` may take this long in total, over several calls; None = for ever."""
        self._expired = False
        if seconds is None:
            self._deadline = 0.0
            return
        self._deadline = deadline = self._loop.time() + seconds
        if self._timer is None or self._timer_at > deadline:
            self._arm(deadline)

    def _arm(self, when: float) -> None:
        if self._lost:
            return
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._timer_fired)
        self._timer_at = when

    def _timer_fired(self) -> None:
        self._timer = None
        # The loop's clock has a resolution of 1 ms, and a timer may fire that much early.
        now = self._loop.time() + 0.002
        if self._send_deadline and self._send_deadline <= now:
            self._lost_reason = "send timeout"
            self.abort()
            return
        if self._deadline and self._deadline <= now:
            self._deadline = 0.0
            self._expired = True
            self._wake()
        nearest = min(self._deadline or self._send_deadline, self._send_deadline or self._deadline)
        if nearest:
            self._arm(nearest)

    # Draining, TLS, the end

    def drain(self) -> None:
        """Tell the session that the server stops: an interruptible `receive` raises Draining, now or at its next call."""
        self.draining = True
        waiter = self._waiter
        if self.interruptible and waiter is not None and not waiter.done():
            waiter.set_result(None)

    def nudge(self) -> None:
        """Let the session say something: an interruptible `receive` without input raises Nudged, now or at its next call."""
        self._nudged = True
        waiter = self._waiter
        if self.interruptible and waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def start_tls(
        self,
        context: ssl.SSLContext,
        final_plaintext: bytes = b"",
        *,
        server_side: bool = True,
        server_hostname: str | None = None,
        timeout: float = HANDSHAKE_TIMEOUT_SECONDS,
    ) -> None:
        """Upgrade to TLS; `final_plaintext` is the last reply in the clear (RFC 3207 §4, RFC 2595 §4).

        The caller resets its session afterwards (RFC 3207 §4.2).

        Raises:
            PipelinedPlaintext: input follows already; nothing was written, the connection still works.
            TlsFailed, SendTimeout, ConnectionLost
        """
        if self._inbox:
            raise PipelinedPlaintext("input after the command that starts TLS")
        if self._lost or self._eof:
            raise ConnectionLost(self._lost_reason or "connection closed")
        # Before the reply is written: otherwise the ClientHello may arrive here as plaintext.
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        if final_plaintext:
            self._out.append(final_plaintext)
        if self._out:
            self._hand_over()
        if self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(high=0, low=0)
            self._writing_paused = self._transport.get_write_buffer_size() > 0
            await self._drained()
        if self._lost:
            raise ConnectionLost(self._lost_reason or "connection closed")
        try:
            async with self._handshakes or contextlib.nullcontext():
                transport = await self._loop.start_tls(
                    self._transport,
                    self,
                    context,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=timeout,
                    ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
                )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.abort()
            raise TlsFailed("TLS handshake failed", _reason_of(error)) from None
        except BaseException:
            self.abort()
            raise
        if transport is None:
            raise TlsFailed("TLS handshake failed", "the peer closed the connection")
        self._transport = transport
        self._reading_paused = False
        self._writing_paused = False
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        self.tls = TlsInfo(transport.get_extra_info("ssl_object"), getattr(context, "end_point", b""))

    async def close(self) -> None:
        """Send what is buffered, close, and be gone after at most `CLOSE_TIMEOUT_SECONDS`; safe to call twice."""
        if self._lost or self._transport is None:
            return
        self._deadline = 0.0
        if self._out or self._outbox is not None:
            self._hand_over()
        if (self._inbox or self._reading_paused) and not self._eof:
            await self._linger()
        if self._lost:
            return
        self._transport.close()
        if not self.tls and not self._transport.get_write_buffer_size():
            return  # nothing can be stuck: the socket is closed in the next turn of the loop
        timer = self._loop.call_later(CLOSE_TIMEOUT_SECONDS, self.abort)
        try:
            while not self._lost:
                self._closed_waiter = self._loop.create_future()
                await self._closed_waiter
        except BaseException:
            self.abort()
            raise
        finally:
            self._closed_waiter = None
            timer.cancel()

    async def _linger(self) -> None:
        """Read and forget input for a moment: closing a socket with unread input sends a reset, which overtakes our reply."""
        self._expired = False
        with contextlib.suppress(RuntimeError, NotImplementedError, OSError):
            if self.tls is None and self._transport.can_write_eof():
                self._transport.write_eof()
        self.set_deadline(LINGER_SECONDS)
        with contextlib.suppress(RusmesError):
            while await self.receive():
                pass
        self._deadline = 0.0

    # For the listener

    def cut_when_first(self, *beginnings: bytes) -> None:
        """Cut the connection if the next input begins like one of these."""
        self._cut_when = beginnings

    def refuse(self, data: bytes) -> None:
        """Write a refusal and close, without waiting for anything."""
        if not self._lost:
            if data:
                self.bytes_out += len(data)
                self._transport.write(data)
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection now."""
        if self._transport is not None and not self._lost:
            self._transport.abort()

    @property
    def is_lost(self) -> bool:
        return self._lost


async def adopt(
    sock: socket.socket,
    context: ssl.SSLContext | None,
    *,
    handshakes: asyncio.Semaphore | None = None,
    outbox: Outbox | None = None,
    timeout: float = HANDSHAKE_TIMEOUT_SECONDS,
) -> Connection:
    """A connection made of an accepted socket, after the TLS handshake when there is a context.

    Raises:
        TlsFailed, OSError: the socket is closed then.
    """
    loop = asyncio.get_running_loop()
    connection = Connection(loop=loop, handshakes=handshakes, outbox=outbox)
    if context is None:
        await loop.connect_accepted_socket(lambda: connection, sock)
        return connection
    try:
        async with handshakes or contextlib.nullcontext():
            await loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=context,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
            )
    except (OSError, ssl.SSLError, TimeoutError) as error:
        sock.close()
        raise TlsFailed("TLS handshake failed", _reason_of(error)) from None
    except BaseException:
        sock.close()
        raise
    return connection


async def connect(
    address: str,
    port: int,
    *,
    timeout: float,
    source: str = "",
    send_timeout: float = SEND_TIMEOUT_SECONDS,
) -> Connection:
    """A connection to an IP address and port, from the local address `source` ("" = the system chooses).

    Raises:
        OSError: refused, unreachable, or the source is not ours.
        TimeoutError: no answer within `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        _, connection = await loop.create_connection(
            lambda: Connection(loop=loop, send_timeout=send_timeout),
            address,
            port,
            local_addr=(source, 0) if source else None,
        )
    return connection


def _reason_of(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return f"certificate verify failed: {error.verify_message}"
    reason = getattr(error, "reason", None)
    return str(reason or error or type(error).__name__)
