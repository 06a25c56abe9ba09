"""Accepting: who may connect, and the task that serves a connection.

In this order, so that a refusal costs a few microseconds and no TLS: is the address blocked, does it fit the limits (of the
address, of the protocol, of all), has the process descriptors left. Then the PROXY header where one is expected, implicit
TLS, and the service's coroutine. The limits are shared by all workers (`SharedCounters`), and exact.

TCP ports accept by themselves, a bounded number in a turn of the loop. The loop's own server accepts until nobody waits: in a
flood that never comes, and nothing else has a turn. It also reads from an accepted socket before any task of ours runs, and
what it has read cannot be given to TLS.

When descriptors run out all the same, nothing spins on a socket that stays readable: the port stops accepting for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from rusmes import metrics as m
from rusmes._core.counters import Metrics, SharedCounters
from rusmes.log import LogSink, SessionLog, get_logger
from rusmes.net.addresses import Networks, client_key, plain_text
from rusmes.net.connection import Connection, ConnectionLost, TlsFailed, adopt
from rusmes.net.outbox import Outbox
from rusmes.net.proxyproto import V2_MAX_BYTES, V2_SIGNATURE, MalformedProxy, ProxyHeader, parse_header

if TYPE_CHECKING:
    from rusmes.config.schema import Config

BACKLOG: Final = 4096
"""Connections the kernel may hold for us; it cuts this to net.core.somaxconn (4096)."""

DESCRIPTOR_RESERVE: Final = 128
"""Descriptors kept for the store, deliveries and the log when connections have taken all others."""

HANDSHAKES_AT_ONCE: Final = 64
"""Per worker. A handshake costs about 1 ms of CPU (RSA-2048 more), so this many are done within 0.1 s."""

HEADER_WAIT_SECONDS: Final = 1.0
"""How long a trusted peer may be silent before it counts as one that has no PROXY header to send (XCLIENT needs none)."""

HEADER_SECONDS: Final = 5.0
"""From its first byte to its last. Postfix smtpd_upstream_proxy_timeout: 5 s."""

ACCEPTS_AT_ONCE: Final = 64
"""Connections taken in one turn of the loop, so that those who are served get their turn."""

ACCEPT_PAUSE_SECONDS: Final = 0.5
"""After accept failed for want of descriptors or memory. asyncio: 1 s."""

REFUSALS_LOGGED_PER_SECOND: Final = 5

MAIL_PROTOCOLS: Final = frozenset({"smtp", "submission", "lmtp"})
"""Turned away for load; who only reads mail is served."""

_log = get_logger("listener")


class Service(Protocol):
    """A protocol, as a listener sees it."""

    @property
    def protocol(self) -> str:
        """smtp | submission | lmtp | imap | pop3 | managesieve | jmap: the name in logs, metrics and [tls.<name>]."""

    def refusal(self, reason: str) -> bytes:
        """What is sent to a client that is not served: blocked, per_ip, per_protocol, total, descriptors, draining."""

    async def handle(self, connection: Connection, log: SessionLog) -> None:
        """Serve one connection to its end. May raise ConnectionLost; whatever else it raises is logged as a defect."""

    def apply(self, config: Config) -> None:
        """Take over a new configuration, for sessions that begin from now on."""


class Gate:
    """Who may connect; one for all listeners of a worker.

    Raises nothing: `enter` answers with a reason, "" is welcome. Every "" is matched by one `leave`.
    """

    def __init__(
        self,
        config: Config,
        limits: SharedCounters,
        metrics: Metrics,
        *,
        is_banned: Callable[[str], float],
        turns_away: Callable[[str, str], bool] = lambda protocol, address: False,
    ) -> None:
        self._limits = limits
        self._turns_away = turns_away
        self._metrics = metrics
        self._is_banned = is_banned
        self._descriptors = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTOR_RESERVE)
        self._active: dict[str, int] = {}
        self.here = 0
        """Connections of this worker."""
        self.draining = False
        self.apply(config)

    def apply(self, config: Config) -> None:
        self._blocked = Networks(config.security.blocked_ips)
        self.proxies = Networks(config.server.proxy_networks if config.server.proxy_protocol != "off" else ())
        self.needs_header = config.server.proxy_protocol == "required"
        self._total = config.connection_limits.max_total_connections
        self._per_address = config.connection_limits.max_connections_per_ip
        self._per_address_of = {"smtp": config.smtp.rate_limit.max_connections_per_ip}

    def enter(self, protocol: str, address: str) -> str:
        reason = self._enter(protocol, address)
        if reason:
            self._metrics.inc(m.CONNECTIONS_REFUSED[reason])
        else:
            self.here += 1
            self._metrics.inc(m.CONNECTIONS[protocol])
            self._metrics.set(m.ACTIVE_CONNECTIONS[protocol], self._count(protocol, 1))
        return reason

    def _enter(self, protocol: str, address: str) -> str:
        if self.draining:
            return "draining"
        if address in self._blocked:
            return "blocked"
        if address and self._is_banned(address) > 0:
            return "rate"
        if protocol in MAIL_PROTOCOLS and self._turns_away(protocol, address):
            return "overload"
        if self.here >= self._descriptors:
            return "descriptors"
        limits = self._limits
        if not limits.acquire(b"total", self._total):
            return "total"
        client = client_key(address)
        if client:
            if not limits.acquire(b"client\0" + client, self._per_address):
                limits.release(b"total")
                return "per_ip"
            if not limits.acquire(protocol.encode() + b"\0" + client, self._per_address_of.get(protocol, 0)):
                limits.release(b"total")
                limits.release(b"client\0" + client)
                return "per_protocol"
        return ""

    def leave(self, protocol: str, address: str) -> None:
        self.here -= 1
        limits = self._limits
        limits.release(b"total")
        client = client_key(address)
        if client:
            limits.release(b"client\0" + client)
            limits.release(protocol.encode() + b"\0" + client)
        self._metrics.set(m.ACTIVE_CONNECTIONS[protocol], self._count(protocol, -1))

    def mail_sessions(self) -> int:
        """Connections here that may bring mail."""
        return sum(self._active.get(protocol, 0) for protocol in MAIL_PROTOCOLS)

    def _count(self, protocol: str, change: int) -> int:
        self._active[protocol] = count = self._active.get(protocol, 0) + change
        return count


class Listener:
    """Accepts on sockets that somebody else bound, and serves each connection by one task.

    `tls` gives the context for implicit TLS, or None for a plaintext port; it is asked for each connection, so a
    reload takes effect. `session_id` makes a UUID. `reap_after` is how long a connection may move no byte at all.
    """

    def __init__(
        self,
        service: Service,
        sockets: Sequence[socket.socket],
        gate: Gate,
        *,
        sink: LogSink,
        metrics: Metrics,
        session_id: Callable[[], str],
        tls: Callable[[], ssl.SSLContext] | None = None,
        handshakes: asyncio.Semaphore | None = None,
        reap_after: float = 3600.0,
    ) -> None:
        self.service = service
        self.sockets = list(sockets)
        self.reap_after = reap_after
        self._gate = gate
        self._sink = sink
        self._metrics = metrics
        self._session_id = session_id
        self._tls = tls
        self._handshakes = handshakes
        self._outbox: Outbox | None = None
        self._servers: dict[socket.socket, asyncio.Server] = {}
        self._accepting: list[socket.socket] = []
        self._tasks: dict[asyncio.Task[None], Connection | None] = {}
        self._seen: dict[Connection, tuple[int, float]] = {}
        self._refusals_left = REFUSALS_LOGGED_PER_SECOND
        self._refusals_silent = 0

    async def start(self) -> None:
        """Accept from now on."""
        for sock in self.sockets:
            await self._listen(sock)

    async def _listen(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._outbox = self._outbox or Outbox(loop)
        if sock.family == socket.AF_UNIX:
            # Its path belongs to the supervisor and to the other workers too, so it stays when we stop.
            self._servers[sock] = await loop.create_unix_server(
                lambda: Connection(self._made, loop=loop, handshakes=self._handshakes, outbox=self._outbox),
                sock=sock.dup(),
                backlog=BACKLOG,
            )
            return
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._accepting.append(sock)
        loop.add_reader(sock.fileno(), self._accept, sock)

    def _stop(self, sock: socket.socket) -> None:
        server = self._servers.pop(sock, None)
        if server is not None:
            server.close()
        if sock in self._accepting:
            self._accepting.remove(sock)
            asyncio.get_running_loop().remove_reader(sock.fileno())

    async def cover(self, sock: socket.socket) -> None:
        """Accept on the socket of a worker that is down, too."""
        if sock not in self.sockets:
            self.sockets.append(sock)
            await self._listen(sock)

    def uncover(self, sock: socket.socket) -> None:
        """Leave a covered socket to its worker."""
        if sock in self.sockets:
            self._stop(sock)
            self.sockets.remove(sock)

    def stop_accepting(self) -> None:
        for sock in self.sockets:
            self._stop(sock)

    def close_sockets(self) -> None:
        """Let go of the sockets; what waits in them goes to another worker or is refused."""
        for sock in self.sockets:
            sock.close()

    def drain(self) -> None:
        """Accept no more, and ask every session to end at its next good moment."""
        self.stop_accepting()
        self.close_sockets()
        for connection in self._connections():
            connection.drain()

    def _connections(self) -> list[Connection]:
        return [connection for connection in self._tasks.values() if connection is not None]

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def wait_closed(self, seconds: float) -> int:
        """Wait for the sessions to end; then cut those that are left, and say how many there were."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)
        left = len(self._tasks)
        for task, connection in list(self._tasks.items()):
            if connection is None:
                task.cancel()
            else:
                connection.abort()
        if self._tasks:
            _, stubborn = await asyncio.wait(list(self._tasks), timeout=1.0)
            for task in stubborn:
                task.cancel()
            if stubborn:
                await asyncio.wait(stubborn, timeout=1.0)
        return left

    def reap(self, now: float) -> int:
        """Cut connections that moved no byte for `reap_after`; call it at an interval.

        Sessions have deadlines of their own. This is for the defect that lets one live without.
        """
        seen: dict[Connection, tuple[int, float]] = {}
        reaped = 0
        for connection in self._connections():
            moved = connection.bytes_in + connection.bytes_out
            before = self._seen.get(connection)
            since = before[1] if before is not None and before[0] == moved else now
            if now - since >= self.reap_after:
                reaped += 1
                connection.abort()
                _log.warn("reaped a connection", client=connection.peer_address, protocol=self.service.protocol)
            else:
                seen[connection] = (moved, since)
        self._seen = seen
        self._refusals_left = REFUSALS_LOGGED_PER_SECOND
        if reaped:
            self._metrics.inc(m.CONNECTIONS_REAPED, reaped)
        return reaped

    def allow_refusal_logs(self) -> None:
        """Once a second: refusals may be logged again, and those that were not are summed up."""
        self._refusals_left = REFUSALS_LOGGED_PER_SECOND
        if self._refusals_silent:
            _log.info("more connections refused", protocol=self.service.protocol, count=self._refusals_silent)
            self._refusals_silent = 0

    # One connection

    def _made(self, connection: Connection) -> None:
        """From the loop's server: a connection over a Unix socket."""
        address = connection.peer_address
        if ":" in address:
            connection.peer_address = address = plain_text(address)
        reason = self._gate.enter(self.service.protocol, address)
        if reason:
            connection.refuse(self.service.refusal(reason))
            self._log_refusal(address, reason)
        else:
            self._spawn(self._serve(connection), connection)

    def _accept(self, listening: socket.socket) -> None:
        """From a listening socket of our own."""
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("cannot accept", protocol=self.service.protocol, reason=str(error))
                loop.remove_reader(listening.fileno())
                loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_again, listening)
                return
            sock.setblocking(False)
            address = plain_text(peer[0])
            if self._gate.proxies and address in self._gate.proxies:
                self._spawn(self._behind_proxy(sock, address))
            elif self._enter(sock, address):
                self._spawn(self._adopt(sock, address))

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._accepting:
            asyncio.get_running_loop().add_reader(listening.fileno(), self._accept, listening)

    def _spawn(self, work: Coroutine[Any, Any, None], connection: Connection | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = connection
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection's task failed", error=repr(error))

    def _enter(self, sock: socket.socket, address: str) -> bool:
        reason = self._gate.enter(self.service.protocol, address)
        if reason:
            self._log_refusal(address, reason)
            with contextlib.suppress(OSError):
                # A client of implicit TLS could not read it (T15: the first byte follows the handshake).
                if self._tls is None:
                    sock.send(self.service.refusal(reason), socket.MSG_DONTWAIT)
            sock.close()
        return not reason

    def _log_refusal(self, address: str, reason: str) -> None:
        if self._refusals_left > 0:
            self._refusals_left -= 1
            _log.info("connection refused", client=address, protocol=self.service.protocol, reason=reason)
        else:
            self._refusals_silent += 1

    async def _behind_proxy(self, sock: socket.socket, address: str) -> None:
        try:
            header = await read_proxy_header(sock, is_required=self._gate.needs_header)
        except (MalformedProxy, OSError) as error:  # TimeoutError is an OSError
            self._metrics.inc(m.CONNECTIONS_REFUSED["proxy"])
            self._log_refusal(address, f"PROXY: {error}")
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        client = header.source if header is not None and header.source else address
        if self._enter(sock, client):
            await self._adopt(sock, client, header, late_header=header is None)

    async def _adopt(
        self, sock: socket.socket, address: str, header: ProxyHeader | None = None, *, late_header: bool = False
    ) -> None:
        """Make a connection of an accepted socket that has entered, with TLS where it is implicit, and serve it."""
        protocol = self.service.protocol
        try:
            context = self._tls() if self._tls is not None else None
            begin = time.monotonic()
            connection = await adopt(sock, context, handshakes=self._handshakes, outbox=self._outbox)
        except TlsFailed as error:
            self._gate.leave(protocol, address)
            self._metrics.inc(m.TLS_FAILURES[protocol])
            _log.info("TLS handshake failed", client=address, protocol=protocol, reason=error.detail)
            return
        except BaseException as error:
            self._gate.leave(protocol, address)
            sock.close()
            if not isinstance(error, OSError):
                raise
            return
        if context is not None:
            self._metrics.inc(m.TLS_SESSIONS["implicit"])
            self._metrics.observe(m.TLS_HANDSHAKE_SECONDS, time.monotonic() - begin)
        connection.peer_address = address
        if header is not None and header.source:
            connection.peer_port = header.source_port
            connection.local_address, connection.local_port = header.destination, header.destination_port
        if late_header:
            connection.cut_when_first(b"PROXY ", V2_SIGNATURE[:8])
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = connection
        await self._serve(connection)

    async def _serve(self, connection: Connection) -> None:
        protocol, address = self.service.protocol, connection.peer_address
        log = SessionLog(self._session_id(), address, protocol, sink=self._sink)
        if self._gate.draining:
            connection.drain()
        try:
            await self.service.handle(connection, log)
        except TlsFailed as error:
            self._metrics.inc(m.TLS_FAILURES[protocol])
            log.info("TLS handshake failed", reason=error.detail)
        except ConnectionLost as error:
            log.debug("connection lost", reason=str(error))
        except Exception as error:
            log.error("session failed", error=repr(error))
            _log.exception("session failed", session_id=log.session_id)
        finally:
            try:
                await connection.close()
            finally:
                # Counted until the socket is gone.
                connection.abort()
                self._gate.leave(protocol, address)
                self._metrics.inc(m.BYTES_IN[protocol], connection.bytes_in)
                self._metrics.inc(m.BYTES_OUT[protocol], connection.bytes_out)


async def read_proxy_header(sock: socket.socket, *, is_required: bool = False) -> ProxyHeader | None:
    """Take the PROXY header off a socket that nobody reads meanwhile, and not a byte more; None when there is none.

    Looked at with MSG_PEEK, since what follows may be a ClientHello, which has to stay in the socket. A receiver that guesses
    whether there is a header trusts whoever has the address (§2): so nobody does with `is_required`, and else only for peers
    that might claim any address anyway (XCLIENT).

    Raises:
        MalformedProxy: a header begins and does not end as one, or there is none and it is required.
        TimeoutError: it takes longer than `HEADER_SECONDS`.
        OSError: the connection is gone.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time()
    pause = 0.001
    while True:
        try:
            data = sock.recv(V2_MAX_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            if is_required:
                if loop.time() - begin > HEADER_SECONDS:
                    raise TimeoutError("no PROXY header came") from None
            elif loop.time() - begin > HEADER_WAIT_SECONDS:
                return None
        else:
            if not data:
                raise ConnectionResetError("the connection is gone")
            if not is_required and not data.startswith((b"PROXY "[: len(data)], V2_SIGNATURE[: len(data)])):
                return None  # it talks, and not of proxies
            header = parse_header(data)
            if header is not None:
                sock.recv(header.length)
                return header
            if loop.time() - begin > HEADER_SECONDS:
                raise TimeoutError("the PROXY header has no end")
        # Not add_reader: a socket with half a header is readable all the time. A header comes with the first packet.
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)


def raise_descriptor_limit() -> int:
    """Use as many descriptors as the system allows; the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
