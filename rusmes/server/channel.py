"""How supervisor and worker talk: JSON lines over a socket pair, calls and answers in both directions.

    {"id": 7, "call": "queue.list", "arguments": {...}}     a call; without an id nobody waits for an answer
    {"id": 7, "result": ...}                                 its answer
    {"id": 7, "error": ["NotFound", "public", "detail"]}     or what was raised
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from rusmes import errors
from rusmes.errors import RusmesError
from rusmes.log import get_logger

MAX_LINE_BYTES: Final = 256 << 20
"""A listing of a long queue is the largest; it crosses a socket pair of our own."""

Handler = Callable[..., Awaitable[Any]]
_log = get_logger("channel")


class ChannelClosed(RusmesError):
    """The other process is gone."""


class Channel:
    """One end. `handlers` are coroutines by name; what they raise of RusmesError is raised at the caller."""

    def __init__(self, sock: socket.socket, handlers: Mapping[str, Handler], on_closed: Callable[[], None]) -> None:
        self._socket = sock
        self._handlers = handlers
        self._on_closed = on_closed
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=MAX_LINE_BYTES)
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    async def call(self, name: str, **arguments: Any) -> Any:
        """Ask the other side.

        Raises:
            ChannelClosed: it went away.
            RusmesError: what its handler raised.
        """
        self._next_id += 1
        id = self._next_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[id] = future
        try:
            self._send({"id": id, "call": name, "arguments": arguments})
            return await future
        finally:
            self._waiting.pop(id, None)

    def tell(self, name: str, **arguments: Any) -> None:
        """Say something that has no answer; into the void when the other side is gone."""
        with contextlib.suppress(ChannelClosed):
            self._send({"call": name, "arguments": arguments})

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is None or self._writer.is_closing():
            raise ChannelClosed("the other process is gone")
        self._writer.write(msgspec.json.encode(message) + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = msgspec.json.decode(line)
                if "call" in message:
                    task = asyncio.get_running_loop().create_task(self._handle(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                else:
                    self._answered(message)
        except OSError:
            pass
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ChannelClosed("the other process is gone"))
            if self._writer is not None:
                self._writer.close()
            self._on_closed()

    def _answered(self, message: dict[str, Any]) -> None:
        future = self._waiting.get(message["id"])
        if future is None or future.done():
            return
        if "error" in message:
            name, public, detail = message["error"]
            kind = getattr(errors, name, RusmesError)
            if not (isinstance(kind, type) and issubclass(kind, RusmesError)) or kind is errors.ConfigError:
                kind = RusmesError
            future.set_exception(kind(public, detail))
        else:
            future.set_result(message.get("result"))

    async def _handle(self, message: dict[str, Any]) -> None:
        name, id = message["call"], message.get("id")
        answer: dict[str, Any]
        try:
            answer = {"id": id, "result": await self._handlers[name](**message["arguments"])}
        except RusmesError as error:
            public, detail = (*map(str, error.args), "", "")[:2]
            answer = {"id": id, "error": [type(error).__name__, public, detail]}
        except Exception as error:
            _log.exception("a call failed", call=name)
            answer = {"id": id, "error": ["RusmesError", f"{name} failed: {error!r}", ""]}
        if id is not None:
            with contextlib.suppress(ChannelClosed):
                self._send(answer)

    async def close(self) -> None:
        """Close, and wait for what is being handled no longer."""
        for task in self._tasks:
            task.cancel()
        if self._writer is not None:
            self._writer.close()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=1.0)
