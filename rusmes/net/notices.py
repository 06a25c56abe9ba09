"""Datagrams between workers: "this mailbox changed", "the queue of that site moved".

A notice only wakes somebody who then looks at the store, so it carries a name and no state, and equal notices are one.
The sockets are unnamed datagram pairs, made before the workers are forked; the supervisor keeps both ends, so a worker
that is restarted hears again. Each worker writes into the pairs of the others and reads its own.

When a reader is slow, notices wait in a set at the sender and go out later; when even that grows over `MAX_WAITING`, it is
replaced by one notice "look at everything" (topic RESYNC).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rusmes.log import get_logger

RESYNC: Final = "resync"
MAX_WAITING: Final = 10_000
RETRY_SECONDS: Final = 0.01
"""Linux lets about ten datagrams wait on a unix socket (net.unix.max_dgram_qlen), so notices are joined in one."""
MAX_DATAGRAM_BYTES: Final = 32 * 1024
MAX_NOTICE_BYTES: Final = 1000

Listener = Callable[[bytes], None]
Pair = tuple[socket.socket, socket.socket]

_log = get_logger("notices")


def make_pairs(count: int) -> list[Pair]:
    """For each slot: where it reads, where the others write. Call before forking."""
    pairs = []
    for _ in range(count):
        reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (reading, writing):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        pairs.append((reading, writing))
    return pairs


class Notices:
    """A worker's end. `post` tells the others; what was posted here is not heard here."""

    def __init__(self, pairs: Sequence[Pair], slot: int) -> None:
        self._reading = pairs[slot][0]
        self._writing = [pair[1] for number, pair in enumerate(pairs) if number != slot]
        self._waiting: list[dict[bytes, None]] = [{} for _ in self._writing]
        self._listeners: dict[str, list[Listener]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False

    def start(self) -> None:
        """Listen, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reading.fileno(), self._read)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._reading.fileno())
            self._loop = None

    def subscribe(self, topic: str, listener: Listener) -> None:
        """Call `listener(payload)` for each notice of a topic; after a loss, RESYNC is the topic and the payload is empty."""
        self._listeners.setdefault(topic, []).append(listener)

    def post(self, topic: str, payload: bytes = b"") -> None:
        """Tell the other workers; soon, and perhaps once for several equal ones."""
        if not self._writing or self._loop is None:
            return
        notice = topic.encode() + b"\x1f" + payload
        if len(notice) > MAX_NOTICE_BYTES:
            raise ValueError(f"a notice is small, not {len(notice)} bytes")
        for waiting in self._waiting:
            if len(waiting) >= MAX_WAITING:
                waiting.clear()
                waiting[RESYNC.encode() + b"\x1f"] = None
            waiting[notice] = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        if self._loop is None:
            return
        again = False
        for writing, waiting in zip(self._writing, self._waiting, strict=True):
            while waiting:
                batch = _take_batch(waiting)
                try:
                    writing.send(b"".join(len(notice).to_bytes(2, "big") + notice for notice in batch))
                except OSError:  # its buffer is full; what waits is small, and equal notices are one
                    for notice in batch:
                        waiting[notice] = None
                    again = True
                    break
        if again:
            self._scheduled = True
            self._loop.call_later(RETRY_SECONDS, self._send)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):  # then others get their turn
                for notice in _split(self._reading.recv(MAX_DATAGRAM_BYTES * 2)):
                    topic, _, payload = notice.partition(b"\x1f")
                    for listener in self._listeners.get(topic.decode(errors="replace"), ()):
                        try:
                            listener(payload)
                        except Exception:
                            _log.exception("a listener for notices failed", topic=topic)


def _split(datagram: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(datagram):
        end = at + 2 + int.from_bytes(datagram[at : at + 2], "big")
        yield datagram[at + 2 : end]
        at = end


def _take_batch(waiting: dict[bytes, None]) -> list[bytes]:
    batch: list[bytes] = []
    size = 0
    for notice in waiting:
        size += len(notice) + 2
        if batch and size > MAX_DATAGRAM_BYTES:
            break
        batch.append(notice)
    for notice in batch:
        del waiting[notice]
    return batch
