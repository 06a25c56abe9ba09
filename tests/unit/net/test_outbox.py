"""Answers that wait for the end of the loop's turn: none is lost, late or out of order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from rusmes.net.connection import WRITE_HIGH_BYTES, Connection
from rusmes.net.outbox import CROWD, PROBE, Outbox
from tests.unit.net.peers import Peer, Run, connected


class Client:
    """Of an outbox: keeps what it is to send."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send_answer(self, answer: bytes) -> None:
        self.sent.append(answer)


def crowded() -> Outbox:
    """As after a turn with many answers."""
    outbox = Outbox(asyncio.get_running_loop())
    outbox._is_crowded = True
    return outbox


def test_a_lone_answer_does_not_wait_but_for_the_probe(run: Run) -> None:
    async def body() -> None:
        outbox, client = Outbox(asyncio.get_running_loop()), Client()
        waited = 0
        for number in range(3 * PROBE):
            outbox.add(client, b"%d" % number)
            waited += len(client.sent) == number
            await asyncio.sleep(0)
            assert len(client.sent) == number + 1
        assert waited == 2  # after PROBE and after 2 * PROBE + 1

    run(body)


def test_answers_of_a_crowd_wait_for_the_end_of_the_turn(run: Run) -> None:
    async def body() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        clients = [Client() for _ in range(CROWD)]
        for _ in range(2 * PROBE):
            for client in clients:
                outbox.add(client, b"x")
            await asyncio.sleep(0)
        for client in clients:
            client.sent.clear()
            outbox.add(client, b"1")
            outbox.add(client, b"2")
        assert not any(client.sent for client in clients)
        await asyncio.sleep(0)
        assert all(client.sent == [b"1", b"2"] for client in clients)
        # With fewer it ends again.
        outbox.add(clients[0], b"3")
        await asyncio.sleep(0)
        outbox.add(clients[0], b"4")
        assert clients[0].sent == [b"1", b"2", b"3", b"4"]

    run(body)


async def feeding(stack: AsyncExitStack, outbox: Outbox) -> tuple[Connection, Peer, asyncio.Task[None]]:
    """A connection that answers each input by itself."""
    connection, peer = await stack.enter_async_context(connected(outbox=outbox))
    task = asyncio.ensure_future(connection.feed(lambda data: None if data == b"stop" else b"re:" + data))
    await asyncio.sleep(0)
    return connection, peer, task


def test_what_is_written_besides_comes_after_the_answer(run: Run) -> None:
    async def body() -> None:
        async with AsyncExitStack() as stack:
            connection, peer, task = await feeding(stack, crowded())
            connection.data_received(b"one")
            connection.write(b" push")
            connection.push()
            connection.data_received(b"stop")
            await task
            connection.write(b" end")
            await connection.flush()
            assert await peer.read_exactly(15) == b"re:one push end"
            assert connection.bytes_out == 15

    run(body)


def test_closing_sends_the_answer_and_aborting_does_not_mind_it(run: Run) -> None:
    async def body() -> None:
        async with AsyncExitStack() as stack:
            outbox = crowded()
            connection, peer, task = await feeding(stack, outbox)
            other, _, other_task = await feeding(stack, outbox)
            other.data_received(b"two")
            connection.data_received(b"one")
            other.abort()
            connection.data_received(b"stop")
            closing = asyncio.ensure_future(connection.close())
            assert await peer.read_exactly(6) == b"re:one"
            assert await peer.read() == b""
            await closing
            await task
            await asyncio.wait([other_task])
            assert other_task.exception() is not None

    run(body)


def test_a_peer_that_does_not_read_is_waited_for(run: Run) -> None:
    async def body() -> None:
        async with AsyncExitStack() as stack:
            outbox = crowded()
            connection, peer = await stack.enter_async_context(connected(outbox=outbox))
            large = bytes(64 * WRITE_HIGH_BYTES)
            seen: list[bytes] = []

            def take(data: bytes) -> bytes | None:
                seen.append(data)
                return None if data == b"stop" else large

            task = asyncio.ensure_future(connection.feed(take))
            await peer.send(b"one")
            while not connection.is_clogged:
                await asyncio.sleep(0.001)
            await peer.send(b"stop")
            await asyncio.sleep(0.02)
            assert seen == [b"one"]
            assert await peer.read_exactly(len(large)) == large
            await task
            assert seen == [b"one", b"stop"]

    run(body)
