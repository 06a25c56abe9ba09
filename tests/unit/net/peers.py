"""A connection over loopback and the plain socket at its other end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rusmes.net.connection import Connection
from rusmes.net.outbox import Outbox

Run = Callable[[Callable[[], Awaitable[None]]], None]


class Peer:
    """The other end, a plain socket driven by the loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def read(self, size: int = 65536) -> bytes:
        return await self.loop.sock_recv(self.sock, size)

    async def read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self.read(size - len(data))
            if not piece:
                break
            data += piece
        return data

    def close(self) -> None:
        self.sock.close()


@asynccontextmanager
async def connected(
    *, send_timeout: float = 5.0, outbox: Outbox | None = None
) -> AsyncIterator[tuple[Connection, Peer]]:
    """A Connection and its peer over loopback TCP."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Connection] = loop.create_future()
    server = await loop.create_server(
        lambda: Connection(made.set_result, loop=loop, send_timeout=send_timeout, outbox=outbox), "127.0.0.1", 0
    )
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    connection = await made
    peer = Peer(sock)
    try:
        yield connection, peer
    finally:
        connection.abort()
        peer.close()
        server.close()
        await asyncio.sleep(0)
        await server.wait_closed()
