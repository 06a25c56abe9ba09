"""Binding: every socket of the configuration, before privileges are dropped and workers exist.

A TCP port has one socket for each worker slot (SO_REUSEPORT), so the kernel spreads connections; the supervisor keeps them
all, and a worker that is restarted finds its socket with the connections that waited meanwhile. A unix socket is one for all.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct

from rusmes.config.schema import Config
from rusmes.errors import RusmesError
from rusmes.net.listener import BACKLOG

UNIX_MODE: Final = 0o660
CONTROL_MODE: Final = 0o600


class CannotBind(RusmesError):
    """A listener's address is taken or not ours. `public` names it."""


class Binding(Struct):
    """One listener: which protocol, how, and where. `sockets` has one for each slot, or one for all."""

    protocol: str
    implicit_tls: bool
    address: str
    sockets: list[socket.socket]

    def of_slot(self, slot: int) -> socket.socket:
        return self.sockets[slot if len(self.sockets) > 1 else 0]


def wanted(config: Config) -> Iterator[tuple[str, bool, str, int]]:
    """Every listener of the configuration that is on: protocol, implicit TLS, host (or path), port (0 = a path)."""
    for protocol in ("smtp", "submission", "imap", "pop3", "jmap"):
        section = getattr(config, protocol)
        if section.port:
            yield protocol, False, section.host, section.port
        if section.tls_port:
            yield protocol, True, section.host, section.tls_port
    if config.lmtp.path:
        yield "lmtp", False, config.lmtp.path, 0
    if config.lmtp.port:
        yield "lmtp", False, config.lmtp.host, config.lmtp.port
    if config.managesieve.port:
        yield "managesieve", False, config.managesieve.host, config.managesieve.port


def bind_all(config: Config, slots: int, is_served: Callable[[str], bool]) -> list[Binding]:
    """Bind every listener of a protocol that is served.

    Raises:
        CannotBind: everything that was bound is closed again.
    """
    bindings: list[Binding] = []
    try:
        for protocol, implicit_tls, host, port in wanted(config):
            if is_served(protocol):
                sockets = bind_tcp(host, port, slots, f"{protocol} on") if port else [bind_unix(host, UNIX_MODE)]
                where = f"{_bracketed(host)}:{port}" if port else host
                bindings.append(Binding(protocol, implicit_tls, where, sockets))
    except BaseException:
        for binding in bindings:
            for sock in binding.sockets:
                sock.close()
        raise
    return bindings


def bind_tcp(host: str, port: int, count: int = 1, what: str = "") -> list[socket.socket]:
    """`count` listening sockets on the same address.

    Raises:
        CannotBind
    """
    where = f"{what} {_bracketed(host)}:{port}".strip()
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotBind(f"cannot listen for {where}", f"no such address: {error}") from None
    family, _, _, _, address = found[0]
    sockets: list[socket.socket] = []
    try:
        # With SO_REUSEPORT alone, a second server of the same user would share our port without a word.
        _open(family, address, share=False).close()
        sockets.extend(_open(family, address, share=count > 1) for _ in range(count))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise CannotBind(f"cannot listen for {where}", error.strerror or str(error)) from None
    return sockets


def _open(family: int, address: tuple[object, ...], *, share: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" means every address, IPv4 too.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_unix(path: str, mode: int) -> socket.socket:
    """A listening unix socket; one that nobody answers on any more is replaced.

    Raises:
        CannotBind: somebody answers there, or the place cannot be written.
    """
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
        raise CannotBind(f"cannot listen on {path}", "somebody answers there")
    except FileNotFoundError:
        pass
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise CannotBind(f"cannot listen on {path}", error.strerror or str(error)) from None
    finally:
        os.umask(before)
    return sock


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
