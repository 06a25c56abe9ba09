"""A connection through a SOCKS5 proxy, from our first byte to its last: RFC 1928 (CONNECT), RFC 1929 (user name and password).

The proxy is given addresses, never names: which address is right is our business. What comes after `ask` is the other server's.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import Final

VERSION: Final = 5
NO_LOGIN, PASSWORD, NOTHING_WILL_DO = 0, 2, 255  # §3

_REPLIES: Final = {  # §6: what the other server did, and what the proxy will not do
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
_OF_THE_PROXY: Final = frozenset({2, 7})
_ERRNO: Final = {3: errno.ENETUNREACH, 4: errno.EHOSTUNREACH, 5: errno.ECONNREFUSED, 6: errno.ETIMEDOUT}


class ProxyFailed(Exception):
    """The proxy does not do its work; the text says what is wrong with it."""


async def introduce(sock: socket.socket, username: str = "", password: str = "") -> None:
    """Agree with the proxy behind a connected socket on a method, and log in.

    Raises:
        ProxyFailed: it refused us, or is none.
    """
    loop = asyncio.get_running_loop()
    methods = bytes((NO_LOGIN, PASSWORD)) if username else bytes((NO_LOGIN,))
    try:
        await loop.sock_sendall(sock, bytes((VERSION, len(methods))) + methods)
        version, method = await _read(sock, 2)
        if version != VERSION:
            raise ProxyFailed("the proxy does not speak SOCKS5")
        if method == PASSWORD and username:
            await _log_in(sock, username.encode(), password.encode())
        elif method == NOTHING_WILL_DO:
            raise ProxyFailed("the proxy takes no login of ours" if username else "the proxy wants a login")
        elif method != NO_LOGIN:
            raise ProxyFailed(f"the proxy chose the method {method}, which was not offered")
    except (OSError, EOFError) as error:
        raise _closed(error) from None


async def ask(sock: socket.socket, host: str, port: int) -> str:
    """Have it connect to an address; the address that it uses itself, "" if it does not say.

    Raises:
        ProxyFailed: it will not, or does not speak SOCKS5.
        OSError: it could not reach the other server.
    """
    address = ipaddress.ip_address(host)
    kind = 1 if address.version == 4 else 4
    request = bytes((VERSION, 1, 0, kind)) + address.packed + port.to_bytes(2, "big")
    try:
        await asyncio.get_running_loop().sock_sendall(sock, request)
        version, reply, _, kind = await _read(sock, 4)
        if version != VERSION:
            raise ProxyFailed("the proxy does not speak SOCKS5")
        if not reply:
            return await _bound_address(sock, kind)
    except (OSError, EOFError) as error:
        raise _closed(error) from None
    reason = _REPLIES.get(reply, f"reply {reply}")
    if reply in _OF_THE_PROXY:
        raise ProxyFailed(f"the proxy refused: {reason}")
    raise OSError(_ERRNO.get(reply, errno.EHOSTUNREACH), f"by the proxy: {reason}")


def _closed(error: Exception) -> ProxyFailed:
    return ProxyFailed(f"the proxy closed the connection ({error or type(error).__name__})")


async def _log_in(sock: socket.socket, username: bytes, password: bytes) -> None:
    """RFC 1929 §2."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, bytes((1, len(username))) + username + bytes((len(password),)) + password)
    _, status = await _read(sock, 2)
    if status:
        raise ProxyFailed("the proxy refused the login")


async def _bound_address(sock: socket.socket, kind: int) -> str:
    """BND.ADDR and BND.PORT (RFC 1928 §6)."""
    if kind == 3:
        (length,) = await _read(sock, 1)
        await _read(sock, length + 2)
        return ""
    if kind not in (1, 4):
        raise ProxyFailed("the proxy does not speak SOCKS5")
    raw = await _read(sock, 4 if kind == 1 else 16)
    await _read(sock, 2)
    address = ipaddress.ip_address(raw)
    return "" if address.is_unspecified else str(address)


async def _read(sock: socket.socket, count: int) -> bytes:
    """Exactly so many bytes: what follows is not ours."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            raise EOFError("in the middle of its answer" if data else "without an answer")
        data += piece
    return data
