"""Who may connect, and what becomes of a connection: over real sockets, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from rusmes import metrics as m
from rusmes._core.counters import Metrics, SharedCounters
from rusmes.config.load import parse_config
from rusmes.config.schema import Config
from rusmes.log import LogSink, SessionLog
from rusmes.net import connection as connection_module
from rusmes.net import listener as module
from rusmes.net.connection import Connection, Draining
from rusmes.net.listener import Gate, Listener
from tests.unit.net.peers import Run
from tests.unit.net.test_proxyproto import V4, version_2


class Echo:
    """Greets, then echoes; "boom" is a defect."""

    def __init__(self, protocol: str = "smtp") -> None:
        self.protocol = protocol
        self.seen: list[tuple[str, int]] = []

    def refusal(self, reason: str) -> bytes:
        return f"421 4.3.2 {reason}\r\n".encode()

    async def handle(self, connection: Connection, log: SessionLog) -> None:
        self.seen.append((connection.peer_address, connection.peer_port))
        connection.write(b"220 hello\r\n")
        try:
            while data := await connection.receive(interruptible=True):
                if data == b"boom":
                    raise ValueError("defect")
                connection.write(data)
        except Draining:
            connection.write(b"421 draining\r\n")

    def apply(self, config: Config) -> None: ...


class House:
    def __init__(self, service: Echo, listener: Listener, gate: Gate, limits: SharedCounters, metrics: Metrics) -> None:
        self.service, self.listener, self.gate, self.limits, self.metrics = service, listener, gate, limits, metrics
        self.lines: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.address: tuple[str, int] = listener.sockets[0].getsockname()

    async def connect(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, local_addr=(source, 0))

    async def greeting(self, source: str = "127.0.0.1", first: bytes = b"") -> bytes:
        reader, writer = await self.connect(source)
        self.writers.append(writer)
        if first:
            writer.write(first)
        try:
            return await reader.readline()
        except ConnectionError:
            return b"reset"


@asynccontextmanager
async def open_house(
    change: Callable[[Config], Config] = lambda config: config,
    *,
    tls: Callable[[], ssl.SSLContext] | None = None,
    banned: Callable[[str], float] = lambda address: 0.0,
    overloaded: Callable[[], bool] = lambda: False,
    reap_after: float = 3600.0,
    limits: SharedCounters | None = None,
) -> AsyncIterator[House]:
    config = change(parse_config("", environ={}))
    limits = limits or SharedCounters(1, 1024)
    metrics = Metrics()
    gate = Gate(config, limits, metrics, is_banned=banned, turns_away=lambda protocol, address: overloaded())
    service = Echo()
    sock = socket.create_server(("127.0.0.1", 0))
    lines: list[bytes] = []
    listener = Listener(
        service, [sock], gate, sink=LogSink(lines.append, level="debug"), metrics=metrics,
        session_id=lambda: "s", tls=tls, handshakes=asyncio.Semaphore(4), reap_after=reap_after,
    )
    await listener.start()
    house = House(service, listener, gate, limits, metrics)
    house.lines = lines
    try:
        yield house
    finally:
        listener.drain()
        await listener.wait_closed(2.0)
        listener.close_sockets()
        for writer in house.writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)
        assert limits.count(b"total") == 0, "every place is given back"
        assert metrics.level(m.ACTIVE_CONNECTIONS["smtp"], 0) == 0


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end, be it a reset."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1000):
            data += piece
    return data


def per_address(count: int) -> Callable[[Config], Config]:
    return lambda config: replace(
        config, smtp=replace(config.smtp, rate_limit=replace(config.smtp.rate_limit, max_connections_per_ip=count))
    )


def proxied(config: Config) -> Config:
    return replace(config, server=replace(config.server, proxy_networks=(ipaddress.ip_network("127.0.0.0/8"),)))


def test_a_session_is_served_counted_and_given_back(run: Run) -> None:
    async def body() -> None:
        async with open_house() as house:
            reader, writer = await house.connect()
            assert await reader.readline() == b"220 hello\r\n"
            writer.write(b"ping\r\n")
            assert await reader.readline() == b"ping\r\n"
            assert house.metrics.level(m.ACTIVE_CONNECTIONS["smtp"], 0) == 1
            writer.close()
            await asyncio.sleep(0.02)
            assert house.limits.used() == 0
            assert house.metrics.count(m.CONNECTIONS["smtp"]) == 1
            assert house.metrics.count(m.BYTES_IN["smtp"]) == 6
            assert house.metrics.count(m.BYTES_OUT["smtp"]) == 17

    run(body)


def test_the_limit_of_an_address_is_refused_cheaply_and_others_are_served(run: Run) -> None:
    async def body() -> None:
        async with open_house(per_address(2)) as house:
            assert await house.greeting() == b"220 hello\r\n"
            assert await house.greeting() == b"220 hello\r\n"
            assert await house.greeting() == b"421 4.3.2 per_protocol\r\n"
            assert await house.greeting("127.0.0.2") == b"220 hello\r\n"
            assert house.metrics.count(m.CONNECTIONS_REFUSED["per_protocol"]) == 1
            house.writers[0].close()
            await asyncio.sleep(0.02)
            assert await house.greeting() == b"220 hello\r\n"

    run(body)


def test_limits_of_all_protocols_and_of_everybody(run: Run) -> None:
    def change(config: Config) -> Config:
        limits = replace(config.connection_limits, max_connections_per_ip=2, max_total_connections=3)
        return replace(config, connection_limits=limits)

    async def body() -> None:
        async with open_house(change) as house:
            assert [await house.greeting() for _ in range(3)][2] == b"421 4.3.2 per_ip\r\n"
            assert await house.greeting("127.0.0.2") == b"220 hello\r\n"
            assert await house.greeting("127.0.0.3") == b"421 4.3.2 total\r\n"

    run(body)


def test_blocked_and_banned_addresses(run: Run) -> None:
    def change(config: Config) -> Config:
        return replace(config, security=replace(config.security, blocked_ips=(ipaddress.ip_network("127.0.0.8/29"),)))

    async def body() -> None:
        async with open_house(change, banned=lambda address: 60.0 if address == "127.0.0.3" else 0.0) as house:
            assert await house.greeting("127.0.0.9") == b"421 4.3.2 blocked\r\n"
            assert await house.greeting("127.0.0.3") == b"421 4.3.2 rate\r\n"
            assert await house.greeting() == b"220 hello\r\n"
            house.gate.apply(parse_config("", environ={}))
            assert await house.greeting("127.0.0.9") == b"220 hello\r\n"

    run(body)


def test_o2_an_overloaded_server_refuses_new_clients_before_any_work(run: Run) -> None:
    overloaded = False

    async def body() -> None:
        nonlocal overloaded
        async with open_house(overloaded=lambda: overloaded) as house:
            reader, writer = await house.connect()
            assert await reader.readline() == b"220 hello\r\n"
            overloaded = True
            assert await house.greeting() == b"421 4.3.2 overload\r\n"
            assert house.metrics.count(m.CONNECTIONS_REFUSED["overload"]) == 1
            writer.write(b"ping\r\n")
            assert await reader.readline() == b"ping\r\n", "who is in is served"
            house.service.protocol = "pop3"
            assert await house.greeting() == b"220 hello\r\n"
            house.service.protocol = "smtp"
            overloaded = False
            assert await house.greeting() == b"220 hello\r\n"
            writer.close()

    run(body)


def test_places_are_counted_over_workers(run: Run) -> None:
    """A second worker's connections are in the same table."""
    limits = SharedCounters(2, 1024)
    limits.use_column(1)
    for _ in range(49):
        limits.acquire(b"smtp\0" + bytes([127, 0, 0, 1]), 0)
    limits.use_column(0)

    async def body() -> None:
        async with open_house(limits=limits) as house:
            assert await house.greeting() == b"220 hello\r\n"
            assert await house.greeting() == b"421 4.3.2 per_protocol\r\n"
            assert limits.reset_worker(1) == 49
            assert await house.greeting() == b"220 hello\r\n"

    run(body)


def test_a_defect_in_a_session_ends_only_that_session(run: Run) -> None:
    async def body() -> None:
        async with open_house() as house:
            reader, writer = await house.connect()
            await reader.readline()
            writer.write(b"boom")
            assert await reader.read() == b""
            assert await house.greeting() == b"220 hello\r\n"
            assert any(json.loads(line)["event"] == "session failed" for line in house.lines)
            writer.close()

    run(body)


def test_drain_asks_sessions_to_end_and_accepts_no_more(run: Run) -> None:
    async def body() -> None:
        async with open_house() as house:
            reader, writer = await house.connect()
            await reader.readline()
            house.listener.drain()
            assert await reader.read() == b"421 draining\r\n"
            assert await house.listener.wait_closed(1.0) == 0
            with pytest.raises(ConnectionRefusedError):
                await house.connect()
            writer.close()

    run(body)


def test_sessions_that_do_not_end_are_cut(run: Run) -> None:
    async def body() -> None:
        async with open_house() as house:
            reader, writer = await house.connect()
            await reader.readline()
            assert await house.listener.wait_closed(0.05) == 1
            assert house.listener.connections == 0
            assert await rest(reader) == b""
            writer.close()

    run(body)


def test_the_reaper_cuts_connections_that_move_nothing(run: Run) -> None:
    async def body() -> None:
        async with open_house(reap_after=100.0) as house:
            reader, idle = await house.connect()
            other, busy = await house.connect()
            await reader.readline()
            await other.readline()
            assert house.listener.reap(1000.0) == 0
            busy.write(b"ping\r\n")
            await other.readline()
            assert house.listener.reap(1060.0) == 0
            assert house.listener.reap(1100.0) == 1
            assert await rest(reader) == b""
            busy.write(b"ping\r\n")
            assert await other.readline() == b"ping\r\n"
            assert house.metrics.count(m.CONNECTIONS_REAPED) == 1
            idle.close()
            busy.close()

    run(body)


def test_t15_implicit_tls_says_nothing_before_the_handshake(
    run: Run, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def body() -> None:
        async with open_house(tls=lambda: server_tls) as house:
            plain = socket.create_connection(house.address)
            plain.setblocking(False)
            await asyncio.sleep(0.1)
            with pytest.raises(BlockingIOError):
                plain.recv(1)
            plain.close()
            await asyncio.sleep(0.02)
            reader, writer = await asyncio.open_connection(*house.address, ssl=client_tls, server_hostname="localhost")
            assert await reader.readline() == b"220 hello\r\n"
            assert house.metrics.count(m.TLS_SESSIONS["implicit"]) == 1
            writer.close()

    run(body)


def test_t7_garbage_instead_of_a_client_hello(run: Run, server_tls: ssl.SSLContext) -> None:
    async def body() -> None:
        async with open_house(tls=lambda: server_tls) as house:
            reader, writer = await house.connect()
            writer.write(b"EHLO x\r\nMAIL FROM:<a@b>\r\n" * 10)
            assert await rest(reader) == b""
            await asyncio.sleep(0.02)
            assert house.metrics.count(m.TLS_FAILURES["smtp"]) == 1
            assert house.service.seen == []
            writer.close()

    run(body)


def test_t8_a_handshake_that_never_ends(run: Run, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection_module.HANDSHAKE_TIMEOUT_SECONDS <= 30.0
    monkeypatch.setitem(connection_module.adopt.__kwdefaults__, "timeout", 0.1)

    async def body() -> None:
        async with open_house(tls=lambda: server_tls) as house:
            reader, writer = await house.connect()
            assert await rest(reader) == b""
            writer.close()

    run(body)


def test_l9s_handshakes_at_once_are_bounded(
    run: Run, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four peers that never finish take all places; the fifth waits for one of them and is served then."""
    monkeypatch.setitem(connection_module.adopt.__kwdefaults__, "timeout", 0.3)

    async def body() -> None:
        async with open_house(tls=lambda: server_tls) as house:
            silent = [(await house.connect())[1] for _ in range(4)]
            await asyncio.sleep(0.05)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            reader, writer = await asyncio.open_connection(*house.address, ssl=client_tls, server_hostname="localhost")
            assert await reader.readline() == b"220 hello\r\n"
            assert 0.1 < loop.time() - begin < 2.0
            for other in (*silent, writer):
                other.close()

    run(body)


@pytest.mark.parametrize(
    "header", [b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n", version_2(body=V4 + b"\x03\x00\x04abcd")]
)
def test_a_trusted_proxy_names_the_client(run: Run, header: bytes) -> None:
    async def body() -> None:
        async with open_house(proxied) as house:
            reader, writer = await house.connect()
            for end in range(len(header)):
                writer.write(header[end : end + 1])
                if end % 10 == 0:
                    await asyncio.sleep(0.001)
            writer.write(b"first\r\n")
            assert await reader.readline() == b"220 hello\r\n"
            assert await reader.readline() == b"first\r\n"
            assert house.service.seen == [("203.0.113.7", 40000)]
            assert house.limits.count(b"smtp\0" + socket.inet_aton("203.0.113.7")) == 1
            writer.close()

    run(body)


def test_limits_count_the_client_and_not_the_proxy(run: Run) -> None:
    async def body() -> None:
        async with open_house(lambda config: proxied(per_address(1)(config))) as house:
            line = "PROXY TCP4 203.0.113.{} 198.51.100.1 40000 25\r\n"
            assert await house.greeting(first=line.format(1).encode()) == b"220 hello\r\n"
            assert await house.greeting(first=line.format(2).encode()) == b"220 hello\r\n"
            assert await house.greeting(first=line.format(1).encode()) == b"421 4.3.2 per_protocol\r\n"

    run(body)


def test_a_header_in_front_of_implicit_tls(run: Run, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def body() -> None:
        async with open_house(proxied, tls=lambda: server_tls) as house:
            sock = socket.create_connection(house.address)
            sock.sendall(b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n")
            reader, writer = await asyncio.open_connection(sock=sock, ssl=client_tls, server_hostname="localhost")
            assert await reader.readline() == b"220 hello\r\n"
            assert house.service.seen == [("203.0.113.7", 40000)]
            writer.close()

    run(body)


def test_r12_a_header_of_a_stranger_is_only_input(run: Run) -> None:
    async def body() -> None:
        async with open_house() as house:
            reader, writer = await house.connect()
            writer.write(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n")
            assert await reader.readline() == b"220 hello\r\n"
            assert await reader.readline() == b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n"
            assert house.service.seen[0][1] == writer.get_extra_info("sockname")[1]
            writer.close()

    run(body)


def test_a_broken_header_of_a_proxy_is_refused(run: Run) -> None:
    async def body() -> None:
        async with open_house(proxied) as house:
            assert await house.greeting(first=b"PROXY TCP4 nonsense\r\n") in (b"", b"reset")
            assert house.service.seen == []
            assert house.metrics.count(m.CONNECTIONS_REFUSED["proxy"]) == 1

    run(body)


def test_a_trusted_peer_without_a_header_speaks_for_itself_but_not_with_a_late_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEADER_WAIT_SECONDS", 0.1)

    async def body() -> None:
        async with open_house(proxied) as house:
            reader, writer = await house.connect()
            assert await reader.readline() == b"220 hello\r\n"
            writer.write(b"XCLIENT\r\n")
            assert await reader.readline() == b"XCLIENT\r\n"
            writer.close()
            reader, writer = await house.connect()
            assert await reader.readline() == b"220 hello\r\n"
            writer.write(b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n")
            assert await rest(reader) == b""
            writer.close()
            assert await house.greeting(first=b"EHLO early\r\n") == b"220 hello\r\n"

    run(body)


def with_protocol(word: str) -> Callable[[Config], Config]:
    def changed(config: Config) -> Config:
        config = proxied(config)
        return replace(config, server=replace(config.server, proxy_protocol=word))

    return changed


def test_a_header_that_is_required_is_waited_for_and_nothing_else_will_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADER_WAIT_SECONDS", 0.0)

    async def body() -> None:
        async with open_house(with_protocol("required")) as house:
            reader, writer = await house.connect()
            await asyncio.sleep(0.1)  # longer than one that may be missing is waited for
            assert house.service.seen == []
            writer.write(b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n")
            assert await reader.readline() == b"220 hello\r\n"
            assert house.service.seen == [("203.0.113.7", 40000)]
            writer.close()
            assert await house.greeting(first=b"EHLO early\r\n") in (b"", b"reset")
            monkeypatch.setattr(module, "HEADER_SECONDS", 0.1)
            reader, writer = await house.connect()
            assert await rest(reader) == b""
            writer.close()
            assert house.metrics.count(m.CONNECTIONS_REFUSED["proxy"]) == 2
            assert len(house.service.seen) == 1

    run(body)


def test_without_the_protocol_nobody_waits_for_a_header(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADER_WAIT_SECONDS", 3600.0)

    async def body() -> None:
        async with open_house(with_protocol("off")) as house:
            reader, writer = await house.connect()
            assert await reader.readline() == b"220 hello\r\n"
            writer.write(b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 25\r\n")
            assert (await reader.readline()).startswith(b"PROXY ")
            writer.close()

    run(body)


def test_o20_no_descriptors_left_and_no_spinning() -> None:
    """In a process with few descriptors: first refusals with a text, and when even those run out, no busy loop."""
    script = textwrap.dedent(
        """
        import asyncio, os, resource, socket, time, uvloop
        from rusmes.net import listener as module
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
        module.DESCRIPTOR_RESERVE = 40
        from tests.unit.net.test_listener import open_house

        async def main():
            async with open_house() as house:
                house.gate._per_address_of = {}
                child = os.fork()
                if child == 0:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
                    made = [socket.create_connection(house.address) for _ in range(60)]
                    made[50].settimeout(3)
                    assert made[50].recv(100) == b"421 4.3.2 descriptors\\r\\n", "refused"
                    time.sleep(1.2)
                    os._exit(0)
                await asyncio.sleep(0.3)
                assert house.gate.here == 40, house.gate.here
                taken = []
                try:
                    while True:
                        taken.append(os.dup(0))
                except OSError:
                    pass
                more = []
                before = time.process_time()
                await asyncio.sleep(0.7)
                spent = time.process_time() - before
                for fd in taken:
                    os.close(fd)
                assert spent < 0.3, spent
                assert os.waitpid(child, 0)[1] == 0
            print("done")

        uvloop.run(main())
        """
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert result.stdout == "done\n", result.stderr


@pytest.mark.parametrize("is_unix", [False, True])
def test_connections_of_a_listener_share_an_outbox(run: Run, is_unix: bool, tmp_path: Path) -> None:
    """Their answers of one turn are written together."""

    async def body() -> None:
        async with open_house() as house:
            listener = house.listener
            if is_unix:
                listener.stop_accepting()
                sock = socket.socket(socket.AF_UNIX)
                sock.bind(str(tmp_path / "socket"))
                await listener.cover(sock)
            for _ in range(2):
                if is_unix:
                    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
                    house.writers.append(writer)
                    assert await reader.readline() == b"220 hello\r\n"
                else:
                    assert await house.greeting() == b"220 hello\r\n"
            outboxes = [connection._outbox for connection in listener._connections()]
            assert len(outboxes) == 2
            assert outboxes[0] is outboxes[1] is not None

    run(body)
