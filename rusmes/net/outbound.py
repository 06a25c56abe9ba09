"""Connections that leave by a way of their own: from a local address, through a SOCKS5 proxy, or a proxy that is told by the
PROXY protocol from which address to which it shall connect.

What is wrong with our end (an address that is not ours, a proxy that does not answer) is `WayFailed`, and says nothing of the
other server; everything else is as with `net.connection.connect`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any, Final

from msgspec import Struct

from rusmes.net.connection import SEND_TIMEOUT_SECONDS, Connection, connect
from rusmes.net.proxyproto import header_v2
from rusmes.net.socks import ProxyFailed, ask, introduce

_BIND_ADDRESS_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT (ip(7)): the port is chosen with the destination, so one address has 28,000 for each of them."""


class Way(Struct, frozen=True):
    """`kind`: direct | socks5 | haproxy. The rest is of the proxy."""

    kind: str = "direct"
    host: str = ""
    port: int = 0
    username: str = ""
    password: str = ""


DIRECT: Final = Way()


class WayFailed(Exception):
    """Our end does not work: `kind` is bind or proxy."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


async def connect_by(
    way: Way, address: str, port: int, *, timeout: float, source: str = "", send_timeout: float = SEND_TIMEOUT_SECONDS
) -> tuple[Connection, str]:
    """A connection to an IP address and port, and the address the other server sees as far as it is known.

    `source` is a local address to bind to; for haproxy the one that the proxy shall use.

    Raises:
        WayFailed
        OSError: refused or unreachable.
        TimeoutError: no answer within `timeout` seconds.
    """
    if way.kind == "direct" and not source:
        connection = await connect(address, port, timeout=timeout, send_timeout=send_timeout)
        return connection, connection.local_address
    loop = asyncio.get_running_loop()
    seen = source
    async with asyncio.timeout(timeout):
        if way.kind == "direct":
            sock = _bound(source, address)
            try:
                await loop.sock_connect(sock, (address, port))
            except BaseException:
                sock.close()
                raise
        else:
            sock = await _to_proxy(way, timeout / 2)
            try:
                if way.kind == "socks5":
                    seen = await _through(sock, way, address, port) or source
                else:
                    await _announce(sock, source, address, port)
            except BaseException:
                sock.close()
                raise
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop=loop, send_timeout=send_timeout), sock=sock
            )
        except BaseException:
            sock.close()
            raise
    return connection, seen


def _bound(source: str, address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if source:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        try:
            sock.bind((source, 0))
        except OSError as error:
            sock.close()
            raise WayFailed("bind", f"{source}: {_reason(error)}") from None
    return sock


async def _to_proxy(way: Way, seconds: float) -> socket.socket:
    """A connection to the proxy, that has taken our login. Raises WayFailed."""
    name = f"the proxy {way.host}:{way.port}"
    failure: OSError | None = None
    try:
        async with asyncio.timeout(seconds):
            found = await asyncio.get_running_loop().getaddrinfo(way.host, way.port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, place in found:
                try:
                    return await _met(way, socket.socket(family, kind, protocol), place)
                except OSError as error:
                    failure = error
    except TimeoutError:
        raise WayFailed("proxy", f"{name} does not answer within {seconds:g} s") from None
    except ProxyFailed as error:
        raise WayFailed("proxy", f"{name}: {error}") from None
    except OSError as error:
        failure = error
    raise WayFailed("proxy", f"{name}: {_reason(failure) if failure is not None else 'it has no address'}")


async def _met(way: Way, sock: socket.socket, place: Any) -> socket.socket:
    """Raises OSError, ProxyFailed."""
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, place)
        if way.kind == "socks5":
            await introduce(sock, way.username, way.password)
    except BaseException:
        sock.close()
        raise
    return sock


async def _through(sock: socket.socket, way: Way, address: str, port: int) -> str:
    try:
        return await ask(sock, address, port)
    except ProxyFailed as error:
        raise WayFailed("proxy", f"the proxy {way.host}:{way.port}: {error}") from None


async def _announce(sock: socket.socket, source: str, address: str, port: int) -> None:
    try:
        await asyncio.get_running_loop().sock_sendall(sock, header_v2(source, 0, address, port))
    except OSError as error:
        raise WayFailed("proxy", f"the proxy closed the connection: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
