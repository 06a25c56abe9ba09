"""What happens and what happened, in the administration API.

    GET  /top?limit=20&site=NAME&site=NAME   how the queues do now: counters since the start, the sites with the most mail (or
                                             those that are named), attempts a second by domain, tenant and source over the
                                             last seconds; the first question begins the counting
    POST /events/why   {"text": "", "limit": 1000}   {"events": [...], "ids": [...], "is_cut": false}
                                             text is a Message-ID, a queue id or a recipient's address
    GET  /events/consumers                   {"consumers": [...]}: how far webhooks and files are
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from rusmes.http.answers import body_of, document

MAX_ROWS: Final = 10_000
MAX_EVENTS: Final = 100_000


class EventOperator(Protocol):
    """What can be asked; the supervisor asks the workers and the courier."""

    async def top(self, limit: int, sites: Sequence[str]) -> dict[str, Any]: ...

    async def history(self, text: str, limit: int) -> dict[str, Any]: ...

    async def consumers(self) -> list[dict[str, Any]]: ...


class HistoryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    limit: int = 1000


class EventPages:
    """Its requests, for `http.admin`."""

    def __init__(self, operator: EventOperator) -> None:
        self._operator = operator

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/top", self._top)
        app.router.add_post("/events/why", self._why)
        app.router.add_get("/events/consumers", self._consumers)

    async def _top(self, request: web.Request) -> web.StreamResponse:
        text = request.query.get("limit", "20")
        if not (text.isascii() and text.isdecimal()) or not 0 < int(text[:9]) <= MAX_ROWS:
            raise web.HTTPBadRequest(text=f"limit is not between 1 and {MAX_ROWS}")
        return document(await self._operator.top(int(text), request.query.getall("site", [])))

    async def _why(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, HistoryRequest)
        if not asked.text or not 0 < asked.limit <= MAX_EVENTS:
            raise web.HTTPBadRequest(text=f"text is empty, or limit is not between 1 and {MAX_EVENTS}")
        return document(await self._operator.history(asked.text, asked.limit))

    async def _consumers(self, _request: web.Request) -> web.StreamResponse:
        return document({"consumers": await self._operator.consumers()})
