"""The queue in the administration API.

A filter is a document of the fields of `queue.api.QueueFilter`; what is set must match, a field that does not exist is refused:

    ids sender account tenant campaign client message_id header older_than_seconds younger_than_seconds larger_than_bytes
    smaller_than_bytes                                                                       of the entry
    recipient domain status site source attempts_at_least attempts_at_most reply             of one of its recipients

    POST /queue/list         {"filter": {}, "limit": 100, "after": ""}     {"entries": [...], "next": "", "not_reached": []}
                             "next" is the "after" of the next page, "" at the end. With "stream": true the answer is a line of
                             JSON for each entry (application/x-ndjson), to the end, and never in memory as a whole.
    GET  /queue/entries/ID                                                 the entry, its sites, what stops it, its header
    POST /queue/summary      {"filter": {}, "by": "domain", "limit": 50}
                             {"ages": [...], "rows": [...], "total": {...}, "more": 0, "not_reached": []}
                             by domain site source tenant campaign sender account client status reply
    POST /queue/OPERATION    {"filter": {}, "all": false, "dry_run": false, "reason": "", "route": "", "sample": 0}
                             {"count": 3, "recipients": 4, "size_bytes": 9000, "later": 0, "notices": 0, "sample": [...], ...}
                             OPERATION is retry hold release delete bounce expire reroute. An empty filter needs "all": true.
                             "later": of the count, those being delivered now; it is done when that has ended.
    GET  /queue/suspensions                                                {"suspensions": [{"scope": ..., "until": 0, ...}]}
    POST /queue/suspend      {"scope": "domain", "name": "example.org", "for_seconds": 3600, "reason": ""}
                             or "until", seconds since the epoch; neither: until it is resumed. scope is everything (name ""),
                             domain, site, tenant, campaign or source.
    POST /queue/resume       {"scope": "domain", "name": "example.org"}    {"was_suspended": true}
    GET  /queue/audit?limit=100                                            {"deeds": [...]}, newest first

"not_reached" are workers that are down: their part of the queue is neither seen nor changed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from rusmes.errors import NotAllowed
from rusmes.http.answers import body_of, document, number_in, who_asks
from rusmes.model.ids import parse_id
from rusmes.queue.api import QueueFilter, QueueOrder

OPERATIONS: Final = ("retry", "hold", "release", "delete", "bounce", "expire", "reroute")
MAX_PAGE: Final = 10_000
"""Entries of one answer that is not streamed, 1 KiB each or so."""
MAX_SAMPLE: Final = 1000
MAX_ROWS: Final = 50_000
MAX_DEEDS: Final = 100_000
STREAM_BYTES: Final = 64 * 1024


class QueueOperator(Protocol):
    """What can be asked of the queues; the supervisor asks the workers. NotAllowed, NotFound and failures are raised."""

    async def entries(self, which: dict[str, Any], limit: int, after: str) -> dict[str, Any]: ...

    def stream(self, which: dict[str, Any], after: str) -> AsyncIterator[dict[str, Any]]: ...

    async def show(self, id: str) -> dict[str, Any]: ...

    async def summary(self, which: dict[str, Any], by: str, limit: int) -> dict[str, Any]: ...

    async def change(self, order: QueueOrder) -> dict[str, Any]: ...

    async def suspend(self, scope: str, name: str, until: float, reason: str, by: str) -> None:
        """`until` 0: until it is resumed."""

    async def resume(self, scope: str, name: str, by: str) -> bool: ...

    async def suspensions(self) -> list[dict[str, Any]]: ...

    async def audit(self, limit: int) -> list[dict[str, Any]]: ...


class ListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    filter: QueueFilter = QueueFilter()
    limit: int = 100
    after: str = ""
    stream: bool = False


class SummaryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    filter: QueueFilter = QueueFilter()
    by: str = "domain"
    limit: int = 50


class ChangeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    filter: QueueFilter = QueueFilter()
    all: bool = False
    dry_run: bool = False
    reason: str = ""
    route: str = ""
    sample: int = 0


class SuspendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scope: str
    name: str = ""
    until: float = 0.0
    for_seconds: float = 0.0
    reason: str = ""


class ResumeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scope: str
    name: str = ""


class QueuePages:
    """Its requests, for `http.admin`."""

    def __init__(self, operator: QueueOperator) -> None:
        self._operator = operator

    def add_to(self, app: web.Application) -> None:
        router = app.router
        router.add_post("/queue/list", self._list)
        router.add_get("/queue/entries/{id}", self._show)
        router.add_post("/queue/summary", self._summary)
        router.add_get("/queue/suspensions", self._suspensions)
        router.add_post("/queue/suspend", self._suspend)
        router.add_post("/queue/resume", self._resume)
        router.add_get("/queue/audit", self._audit)
        for operation in OPERATIONS:
            router.add_post(f"/queue/{operation}", self._change)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, ListRequest)
        which = msgspec.to_builtins(asked.filter)
        if asked.stream:
            return await self._stream(request, which, asked.after)
        limit = _within(asked.limit, MAX_PAGE, "limit") or MAX_PAGE
        return document(await self._operator.entries(which, limit, asked.after))

    async def _stream(self, request: web.Request, which: dict[str, Any], after: str) -> web.StreamResponse:
        entries = self._operator.stream(which, after)
        # What is wrong with the question is found before the first line, and then still is an ordinary refusal.
        first = await anext(entries, None)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        if first is not None:
            lines = bytearray(msgspec.json.encode(first) + b"\n")
            async for entry in entries:
                lines += msgspec.json.encode(entry) + b"\n"
                if len(lines) >= STREAM_BYTES:
                    await response.write(bytes(lines))
                    lines.clear()
            await response.write(bytes(lines))
        await response.write_eof()
        return response

    async def _show(self, request: web.Request) -> web.StreamResponse:
        id = request.match_info["id"]
        try:
            parse_id(id)
        except ValueError as error:
            raise NotAllowed(f"{id!r} is no queue id", str(error)) from None
        return document(await self._operator.show(id))

    async def _summary(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, SummaryRequest)
        limit = _within(asked.limit, MAX_ROWS, "limit")
        return document(await self._operator.summary(msgspec.to_builtins(asked.filter), asked.by, limit))

    async def _change(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, ChangeRequest)
        operation = request.path.rpartition("/")[2]
        if asked.filter == QueueFilter() and not asked.all:
            raise web.HTTPBadRequest(text='an empty filter means every entry: say so with "all": true')
        order = QueueOrder(
            operation,
            asked.filter,
            asked.reason,
            asked.route,
            who_asks(request),
            asked.dry_run,
            _within(asked.sample, MAX_SAMPLE, "sample"),
        )
        return document(await self._operator.change(order))

    async def _suspend(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, SuspendRequest)
        if asked.until < 0 or asked.for_seconds < 0 or (asked.until and asked.for_seconds):
            raise web.HTTPBadRequest(text="one of until and for_seconds, and not below 0")
        until = time.time() + asked.for_seconds if asked.for_seconds else asked.until
        await self._operator.suspend(asked.scope, asked.name, until, asked.reason, who_asks(request))
        return document({"until": until})

    async def _resume(self, request: web.Request) -> web.StreamResponse:
        asked = await body_of(request, ResumeRequest)
        return document({"was_suspended": await self._operator.resume(asked.scope, asked.name, who_asks(request))})

    async def _suspensions(self, _request: web.Request) -> web.StreamResponse:
        return document({"suspensions": await self._operator.suspensions()})

    async def _audit(self, request: web.Request) -> web.StreamResponse:
        limit = number_in(request, "limit", 100, MAX_DEEDS)
        return document({"deeds": await self._operator.audit(limit)})


def _within(number: int, most: int, name: str) -> int:
    """Raises HTTPBadRequest."""
    if not 0 <= number <= most:
        raise web.HTTPBadRequest(text=f"{name} is a number from 0 to {most}")
    return number
