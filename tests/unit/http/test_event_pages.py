"""/top and /events of the administration API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from rusmes.http.events import EventPages


class Asked:
    def __init__(self) -> None:
        self.questions: list[Any] = []

    async def top(self, limit: int, sites: Sequence[str]) -> dict[str, Any]:
        self.questions.append((limit, list(sites)))
        return {"sites": []}

    async def history(self, text: str, limit: int) -> dict[str, Any]:
        self.questions.append((text, limit))
        return {"events": []}

    async def consumers(self) -> list[dict[str, Any]]:
        return [{"name": "hook"}]


async def ask(method: str, path: str, **more: Any) -> tuple[int, Any, list[Any]]:
    asked, app = Asked(), web.Application()
    EventPages(asked).add_to(app)
    async with TestClient(TestServer(app)) as client:
        answer = await client.request(method, path, **more)
        return answer.status, await answer.json() if answer.status == 200 else None, asked.questions


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "question"),
    [
        ("GET", "/top", None, 200, (20, [])),
        ("GET", "/top?limit=3&site=a&site=b%7Cc", None, 200, (3, ["a", "b|c"])),
        ("GET", "/top?limit=0", None, 400, None),
        ("GET", "/top?limit=x", None, 400, None),
        ("GET", "/top?limit=99999999999999999999", None, 400, None),
        ("POST", "/events/why", {"text": "<1@x>"}, 200, ("<1@x>", 1000)),
        ("POST", "/events/why", {"text": "<1@x>", "limit": 5}, 200, ("<1@x>", 5)),
        ("POST", "/events/why", {"text": ""}, 400, None),
        ("POST", "/events/why", {"text": "a", "limit": 0}, 400, None),
        ("POST", "/events/why", {"txt": "a"}, 400, None),
    ],
)
def test_what_is_asked_and_what_is_refused(method: str, path: str, body: Any, status: int, question: Any) -> None:
    answered, _, questions = asyncio.run(ask(method, path, json=body))
    assert answered == status
    assert questions == ([question] if question else [])


def test_consumers() -> None:
    assert asyncio.run(ask("GET", "/events/consumers"))[1] == {"consumers": [{"name": "hook"}]}
