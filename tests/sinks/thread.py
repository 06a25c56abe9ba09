"""A sink with a loop of its own in a thread, for tests that have none."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from tests.sinks.smtp_sink import Message, Sink


class SinkThread:
    """`with SinkThread() as sink`: its `port`, and what it has got."""

    def __init__(self, **options: Any) -> None:
        self.sink = Sink(**options)
        self.port = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    @property
    def messages(self) -> list[Message]:
        return list(self.sink.messages)

    @property
    def count(self) -> int:
        return len(self.sink.messages)

    async def _serve(self) -> None:
        async with self.sink:
            self.port = self.sink.port
            while not self._stop.is_set():
                await asyncio.sleep(0.02)

    def __enter__(self) -> SinkThread:
        self._thread.start()
        while not self.port:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
