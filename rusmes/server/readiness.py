"""Telling the init system how we are: sd_notify(3), without its library."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Readiness:
    """Datagrams to $NOTIFY_SOCKET; does nothing without one. Made before privileges and root directory change."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        path = environ.get("NOTIFY_SOCKET", "")
        if path:
            with contextlib.suppress(OSError):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                sock.connect("\0" + path[1:] if path.startswith("@") else path)
                self._socket = sock
        watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 / 2 if watched else 0.0
        """How often the watchdog wants to hear of us; 0 = there is none."""

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        # Type=notify-reload wants the time, so that it can tell this reload from an older one.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=draining")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(text.encode())
