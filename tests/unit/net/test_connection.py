"""What a Connection promises, seen from the other end of the socket."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys

import pytest

from rusmes.net import connection as net
from rusmes.net.connection import (
    INBOX_BYTES,
    WRITE_HIGH_BYTES,
    Connection,
    ConnectionLost,
    DeadlineExceeded,
    Draining,
    PipelinedPlaintext,
    SendTimeout,
    TlsFailed,
)
from tests.unit.net.peers import Run, connected


def test_receives_what_arrives_and_b_empty_at_the_end(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            assert connection.peer_address == "127.0.0.1"
            assert connection.peer_port == peer.sock.getsockname()[1]
            await peer.send(b"EHLO x\r\n")
            assert await connection.receive() == b"EHLO x\r\n"
            peer.close()
            assert await connection.receive() == b""
            assert await connection.receive() == b""
            assert connection.bytes_in == 8

    run(body)


def test_unread_bytes_come_first(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            await peer.send(b"two")
            assert await connection.receive() == b"two"
            connection.unread(b"two")
            connection.unread(b"one")
            assert connection.has_input
            assert await connection.receive() == b"onetwo"

    run(body)


def test_everything_written_leaves_in_one_call_at_the_next_receive(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            calls: list[bytes] = []

            class Spy:
                def __init__(self, transport: object) -> None:
                    self.transport = transport

                def write(self, data: bytes) -> None:
                    calls.append(data)
                    self.transport.write(data)

                def __getattr__(self, name: str) -> object:
                    return getattr(self.transport, name)

            connection._transport = Spy(connection._transport)
            for reply in (b"250 a\r\n", b"250 b\r\n", b"354 c\r\n"):
                connection.write(reply)
            await asyncio.sleep(0.01)
            assert calls == []
            task = asyncio.ensure_future(connection.receive())
            assert await peer.read_exactly(21) == b"250 a\r\n250 b\r\n354 c\r\n"
            assert len(calls) == 1
            await peer.send(b"x")
            assert await task == b"x"

    run(body)


def test_feed_answers_until_it_is_told_to_stop(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            seen: list[bytes] = []

            def take(data: bytes) -> bytes | None:
                seen.append(data)
                return None if data == b"stop" else b"re:" + data

            connection.write(b"hello ")
            await peer.send(b"one")
            await asyncio.sleep(0.01)
            feeding = asyncio.ensure_future(connection.feed(take))
            assert await peer.read_exactly(12) == b"hello re:one"
            await peer.send(b"two")
            assert await peer.read_exactly(6) == b"re:two"
            assert not feeding.done()
            await peer.send(b"stop")
            await feeding
            await peer.send(b"three")
            assert await connection.receive() == b"three"
            assert seen == [b"one", b"two", b"stop"]
            assert connection.bytes_out == 18

    run(body)


def test_feed_hands_over_the_end_of_input_and_what_take_raises(run: Run) -> None:
    def take(data: bytes) -> bytes | None:
        if not data or data == b"bad":
            raise LookupError(data)
        return b""

    async def body() -> None:
        async with connected() as (connection, peer):
            for last in (b"bad", b""):
                feeding = asyncio.ensure_future(connection.feed(take))
                await peer.send(b"good")
                await asyncio.sleep(0.01)
                if last:
                    await peer.send(last)
                else:
                    peer.close()
                with pytest.raises(LookupError) as raised:
                    await feeding
                assert raised.value.args == (last,)

    run(body)


def test_input_behind_what_stopped_feed_is_for_the_next_receive(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, _):
            feeding = asyncio.ensure_future(connection.feed(lambda data: None))
            await asyncio.sleep(0)
            connection.data_received(b"stop")
            connection.data_received(b"more")  # libuv reads on before the loop runs anything else
            await feeding
            assert await connection.receive() == b"more"

    run(body)


class Holding:
    """A `take` that waits for something else than input after each "hold"."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.seen: list[bytes] = []

    def __call__(self, data: bytes) -> bytes | None:
        self.seen.append(data)
        if data == b"hold":
            self.connection.hold()
            return b"wait "
        return b"re:" + data if data and data != b"stop" else None


def test_a_held_feed_gets_no_input_until_its_release(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            take = Holding(connection)
            feeding = asyncio.ensure_future(connection.feed(take))
            await peer.send(b"hold")
            assert await peer.read_exactly(5) == b"wait "
            for piece, sum_of_bytes in ((b"two ", 8), (b"three", 13)):
                await peer.send(piece)
                while connection.bytes_in < sum_of_bytes:
                    await asyncio.sleep(0.001)
            assert take.seen == [b"hold"]
            connection.release(lambda: b"done ")
            assert await peer.read_exactly(17) == b"done re:two three"
            await peer.send(b"hold")
            assert await peer.read_exactly(5) == b"wait "
            connection.release(lambda: None)
            await feeding
            assert connection.bytes_out == 27

    run(body)


def test_a_held_feed_answers_a_peer_that_has_said_all(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            take = Holding(connection)
            feeding = asyncio.ensure_future(connection.feed(take))
            await peer.send(b"hold")
            assert await peer.read_exactly(5) == b"wait "
            peer.sock.shutdown(socket.SHUT_WR)
            while not connection._eof:
                await asyncio.sleep(0.001)
            assert not feeding.done()
            connection.release(lambda: b"done")
            assert await peer.read_exactly(4) == b"done"
            await feeding
            assert take.seen == [b"hold", b""]

    run(body)


def test_a_release_that_fails_or_comes_late(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):

            def fail() -> bytes:
                raise LookupError("release")

            feeding = asyncio.ensure_future(connection.feed(Holding(connection)))
            await peer.send(b"hold")
            assert await peer.read_exactly(5) == b"wait "
            connection.release(fail)
            with pytest.raises(LookupError):
                await feeding
            feeding = asyncio.ensure_future(connection.feed(Holding(connection)))
            await peer.send(b"hold")
            assert await peer.read_exactly(5) == b"wait "
            feeding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await feeding
            connection.release(fail)  # nobody is there any more
            await peer.send(b"rest")
            assert await connection.receive() == b"rest"

    run(body)


def test_a_release_while_the_peer_does_not_read(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            take = Holding(connection)
            feeding = asyncio.ensure_future(connection.feed(take))
            await peer.send(b"hold")
            assert await peer.read_exactly(5) == b"wait "
            connection.pause_writing()
            connection._wake()
            await asyncio.sleep(0)
            connection.release(lambda: b"done")
            await peer.send(b"next")
            while connection.bytes_in < 8:
                await asyncio.sleep(0.001)
            assert take.seen == [b"hold"]
            connection.resume_writing()
            assert await peer.read_exactly(11) == b"donere:next"
            feeding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await feeding

    run(body)


def test_feed_gives_no_more_input_to_whom_the_peer_does_not_listen(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            seen: list[bytes] = []

            def take(data: bytes) -> bytes | None:
                seen.append(data)
                return b"r" * (16 * 1024 * 1024) if len(seen) == 1 else None

            feeding = asyncio.ensure_future(connection.feed(take))
            await asyncio.sleep(0.01)
            await peer.send(b"first")
            await asyncio.sleep(0.02)
            await peer.send(b"second")
            await asyncio.sleep(0.05)
            assert seen == [b"first"]
            await peer.read_exactly(16 * 1024 * 1024)
            await feeding
            assert seen == [b"first", b"second"]

    run(body)


def test_feed_keeps_deadlines_and_drains_where_take_allows_it(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            def take(data: bytes) -> bytes | None:
                connection.interruptible = data == b"done"
                return b"ok"

            feeding = asyncio.ensure_future(connection.feed(take))
            await peer.send(b"begin")
            assert await peer.read_exactly(2) == b"ok"
            connection.drain()
            await asyncio.sleep(0.02)
            assert not feeding.done()
            await peer.send(b"done")
            with pytest.raises(Draining):
                await feeding
            assert await peer.read_exactly(2) == b"ok"
        async with connected() as (connection, peer):
            feeding = asyncio.ensure_future(connection.feed(lambda data: b""))
            await peer.send(b"x")
            connection.set_deadline(0.03)
            with pytest.raises(DeadlineExceeded):
                await feeding
            feeding = asyncio.ensure_future(connection.feed(lambda data: b""))
            await asyncio.sleep(0.01)
            connection.abort()
            with pytest.raises((ConnectionLost, DeadlineExceeded)):
                await feeding

    run(body)


def test_a_full_inbox_stops_reading_and_goes_on_later(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            total = 16 * 1024 * 1024
            sending = asyncio.ensure_future(peer.send(b"x" * total))
            await asyncio.sleep(0.1)
            assert connection._inbox_bytes < INBOX_BYTES + 512 * 1024
            assert not sending.done()
            received = 0
            while received < total:
                received += len(await connection.receive())
            await sending
            assert received == connection.bytes_in == total

    run(body)


def test_receive_waits_until_the_peer_reads(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            await peer.send(b"next command")
            connection.write(b"r" * (16 * 1024 * 1024))
            task = asyncio.ensure_future(connection.receive())
            await asyncio.sleep(0.05)
            assert not task.done(), "the next command may be read only after the replies are on their way"
            await peer.read_exactly(16 * 1024 * 1024)
            assert await task == b"next command"

    run(body)


def test_a_peer_that_never_reads_is_cut(run: Run) -> None:
    async def body() -> None:
        async with connected(send_timeout=0.1) as (connection, _peer):
            connection.write(b"r" * (32 * 1024 * 1024))
            with pytest.raises(SendTimeout):
                await connection.receive()
            await asyncio.sleep(0.01)
            assert connection.is_lost

    run(body)


def test_the_deadline_covers_several_reads_of_a_slow_peer(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            loop = asyncio.get_running_loop()
            connection.set_deadline(0.2)
            begin = loop.time()

            async def trickle() -> None:
                for _ in range(40):
                    await peer.send(b"x")
                    await asyncio.sleep(0.02)

            sending = asyncio.ensure_future(trickle())

            async def read_on() -> None:
                while True:
                    await connection.receive()

            with pytest.raises(DeadlineExceeded):
                await read_on()
            assert 0.15 < loop.time() - begin < 0.6
            sending.cancel()
            connection.set_deadline(None)
            connection.write(b"421 timeout\r\n")
            await connection.flush()
            assert await peer.read() == b"421 timeout\r\n"

    run(body)


def test_a_new_deadline_replaces_the_old_one(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            connection.set_deadline(0.05)
            connection.set_deadline(5.0)
            task = asyncio.ensure_future(connection.receive())
            await asyncio.sleep(0.1)
            assert not task.done()
            connection.set_deadline(0.05)
            with pytest.raises(DeadlineExceeded):
                await task
            connection.set_deadline(1.0)
            await peer.send(b"x")
            assert await connection.receive() == b"x"

    run(body)


def test_draining_interrupts_only_where_it_may(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            task = asyncio.ensure_future(connection.receive())
            await asyncio.sleep(0)
            connection.drain()
            await asyncio.sleep(0.01)
            assert not task.done()
            await peer.send(b"body")
            assert await task == b"body"
            with pytest.raises(Draining):
                await connection.receive(interruptible=True)
        async with connected() as (connection, peer):
            task = asyncio.ensure_future(connection.receive(interruptible=True))
            await asyncio.sleep(0)
            connection.drain()
            with pytest.raises(Draining):
                await task

    run(body)


def test_a_reset_is_an_error_and_not_the_end_of_input(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with pytest.raises(ConnectionLost):
                await connection.receive()
            connection.write(b"ignored")
            with pytest.raises(ConnectionLost):
                await connection.flush()
            await connection.close()

    run(body)


def test_the_last_words_survive_unread_input(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            await peer.send(b"QUIT\r\n")
            await connection.receive()
            await peer.send(b"more that nobody reads")
            await asyncio.sleep(0.02)
            connection.write(b"221 bye\r\n")
            closing = asyncio.ensure_future(connection.close())
            assert await peer.read() == b"221 bye\r\n"
            assert await peer.read() == b""
            peer.close()
            await closing

    run(body)


def test_closing_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "CLOSE_TIMEOUT_SECONDS", 0.1)

    async def body() -> None:
        async with connected() as (connection, _peer):
            connection.write(b"r" * (32 * 1024 * 1024))
            begin = asyncio.get_running_loop().time()
            await connection.close()
            assert connection.is_lost
            assert asyncio.get_running_loop().time() - begin < 1.0

    run(body)


def test_a_cancelled_receive_loses_nothing(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            task = asyncio.ensure_future(connection.receive())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await peer.send(b"still here")
            assert await connection.receive() == b"still here"

    run(body)


@pytest.mark.rfc("3207", "4")
def test_start_tls_writes_the_plaintext_first_and_then_speaks_tls(
    run: Run, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            loop = asyncio.get_running_loop()
            upgrading = asyncio.ensure_future(connection.start_tls(server_tls, b"220 ready\r\n"))
            assert await peer.read() == b"220 ready\r\n"
            reader, writer = await asyncio.open_connection(sock=peer.sock.dup(), ssl=client_tls, server_hostname="localhost")
            await upgrading
            assert connection.tls is not None
            assert connection.tls.version == "TLSv1.3"
            assert connection.tls.peer_certificate is None
            writer.write(b"EHLO again\r\n")
            assert await connection.receive() == b"EHLO again\r\n"
            connection.write(b"250 ok\r\n")
            await connection.flush()
            assert await reader.readexactly(8) == b"250 ok\r\n"
            low, high = connection._transport.get_write_buffer_limits()
            assert (low, high) == (net.WRITE_LOW_BYTES, WRITE_HIGH_BYTES)
            writer.transport.abort()
            assert loop.is_running()

    run(body)


@pytest.mark.rfc("3207", "4")
def test_start_tls_refuses_pipelined_plaintext(run: Run, server_tls: ssl.SSLContext) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            await peer.send(b"RSET\r\n")
            await asyncio.sleep(0.02)
            with pytest.raises(PipelinedPlaintext):
                await connection.start_tls(server_tls, b"220 ready\r\n")
            connection.write(b"554 5.5.0 no\r\n")
            await connection.flush()
            assert await peer.read() == b"554 5.5.0 no\r\n"

    run(body)


def test_plaintext_that_arrives_during_the_upgrade_is_never_input(run: Run, server_tls: ssl.SSLContext) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            upgrading = asyncio.ensure_future(connection.start_tls(server_tls, b"220 ready\r\n"))
            assert await peer.read() == b"220 ready\r\n"
            await peer.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n" * 20)
            with pytest.raises(TlsFailed):
                await upgrading
            assert not connection.has_input

    run(body)


def test_a_handshake_that_never_ends_is_cut(run: Run, server_tls: ssl.SSLContext) -> None:
    async def body() -> None:
        async with connected() as (connection, peer):
            upgrading = asyncio.ensure_future(connection.start_tls(server_tls, b"220\r\n", timeout=0.1))
            assert await peer.read() == b"220\r\n"
            with pytest.raises(TlsFailed):
                await upgrading
            assert await peer.read() == b""

    run(body)


def test_the_clients_side_of_start_tls(run: Run, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Connection] = loop.create_future()
        server = await loop.create_server(lambda: Connection(made.set_result), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = await net.connect("127.0.0.1", port, timeout=5.0)
        here = await made
        await asyncio.gather(
            here.start_tls(server_tls),
            client.start_tls(client_tls, server_side=False, server_hostname="localhost"),
        )
        client.write(b"EHLO\r\n")
        await client.flush()
        assert await here.receive() == b"EHLO\r\n"
        assert client.tls is not None
        assert client.tls.peer_certificate is not None
        await asyncio.gather(client.close(), here.close())
        assert client.is_lost
        assert here.is_lost
        server.close()

    run(body)


def test_an_idle_connection_is_small(run: Run) -> None:
    async def body() -> None:
        async with connected() as (connection, _peer):
            assert sys.getsizeof(connection) < 512
            assert not hasattr(connection, "__dict__")

    run(body)
