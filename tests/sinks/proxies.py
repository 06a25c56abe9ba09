"""Proxies for tests: a SOCKS5 server (RFC 1928, RFC 1929), and one that is told by a PROXY v2 header where to connect.

    async with SocksProxy(users={"u": "p"}) as proxy:
        ...
        assert proxy.asked == [("127.0.0.1", 2525)]

Both connect from `source`, so the other server sees by which of them mail came. What they shall do wrong is set before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress

from rusmes.net.proxyproto import parse_header


class _Proxy:
    def __init__(self, *, source: str = "", host: str = "127.0.0.1") -> None:
        self.source = source
        self.host = host
        self.port = 0
        self.asked: list[tuple[str, int]] = []
        self.is_mute = False
        """Take connections and say nothing."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> _Proxy:
        self._server = await asyncio.start_server(self._run, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self.is_mute:
                await asyncio.sleep(3600)
            await self._serve(reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _open(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.asked.append((host, port))
        return await asyncio.open_connection(host, port, local_addr=(self.source, 0) if self.source else None)

    @staticmethod
    async def _join(
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter], there: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> None:
        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
                writer.write_eof()

        try:
            await asyncio.gather(pump(here[0], there[1]), pump(there[0], here[1]))
        finally:
            there[1].close()


class SocksProxy(_Proxy):
    def __init__(self, *, users: dict[str, str] | None = None, source: str = "", host: str = "127.0.0.1") -> None:
        super().__init__(source=source, host=host)
        self.users = users
        self.reply = 0
        """Answer CONNECT with this instead of connecting."""
        self.garbage = b""
        """Say this instead of the first answer."""
        self.logins: list[tuple[str, str]] = []

    async def __aenter__(self) -> SocksProxy:
        await super().__aenter__()
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if self.garbage:
            writer.write(self.garbage)
            return
        method = 2 if self.users is not None else 0
        writer.write(bytes((5, method if method in methods else 255)))
        if method not in methods:
            return
        if self.users is not None and not await self._log_in(reader, writer):
            return
        _, _, _, kind = await reader.readexactly(4)
        host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        port = int.from_bytes(await reader.readexactly(2), "big")
        if self.reply:
            self.asked.append((host, port))
            writer.write(bytes((5, self.reply, 0, 1)) + bytes(6))
            return
        try:
            there = await self._open(host, port)
        except OSError:
            writer.write(bytes((5, 5, 0, 1)) + bytes(6))
            return
        bound = there[1].get_extra_info("sockname")
        packed = ipaddress.ip_address(bound[0]).packed
        writer.write(bytes((5, 0, 0, 1 if len(packed) == 4 else 4)) + packed + bound[1].to_bytes(2, "big"))
        await self._join((reader, writer), there)

    async def _log_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, length = await reader.readexactly(2)
        name = (await reader.readexactly(length)).decode()
        password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        self.logins.append((name, password))
        assert self.users is not None
        known = self.users.get(name) == password
        writer.write(bytes((1, 0 if known else 1)))
        return known


class HeaderProxy(_Proxy):
    """Like HAProxy with `source ... usesrc` and `set-dst`: connects from and to where the header says."""

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        super().__init__(host=host)
        self.sources: list[str] = []

    async def __aenter__(self) -> HeaderProxy:
        await super().__aenter__()
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(28)
        header = parse_header(data)
        assert header is not None
        self.sources.append(header.source)
        self.source = header.source
        await self._join((reader, writer), await self._open(header.destination, header.destination_port))
