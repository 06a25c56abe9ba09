"""Loopback ports for servers under test."""

from __future__ import annotations

import contextlib
import socket
import time


def free_ports(count: int) -> list[int]:
    """Ports nothing listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def wait_for_port(port: int, seconds: float = 30) -> None:
    """Raises TimeoutError when nothing listens in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")
