"""Telling an `Answer`, for stores whose coroutines never wait long."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from rusmes.storage.api import Answer

T = TypeVar("T")


class Telling:
    """Coroutines under way whose results others are told."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, T], answer: Answer[T]) -> None:
        task = answer.get_loop().create_task(self._tell(work, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, work: Coroutine[Any, Any, T], answer: Answer[T]) -> None:
        try:
            result = await work
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(result)
