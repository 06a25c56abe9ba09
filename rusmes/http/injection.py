"""Injection of mail in the administration API.

    POST /inject    {"messages": [ITEM, ...]}      {"results": [RESULT, ...]}, one for each item, in their order

    ITEM    {"recipients": ["u@example.org", {"address": "v@example.org", "name": "V", "substitutions": {"code": 7},
             "notify": ["FAILURE"]}],
             "sender": "news@example.com",                        the envelope's; "" = that of From, "<>" = the null sender
             "raw": "..." or "raw_base64": "..." or "message": {"from": "News <news@example.com>", "to": [], "cc": [],
                 "reply_to": [], "subject": "", "text": "", "html": "", "headers": {"List-Id": "..."},
                 "attachments": [{"data": BASE64, "filename": "", "content_type": "", "cid": ""}]},
             "substitutions": {"name": "..."},                    for {{name}}; in html they are escaped
             "key": "...", "tenant": "", "campaign": "", "envid": ""}
    RESULT  {"status": "accepted", "ids": ["..."]}                every recipient was taken; "partly": some
            {"status": "refused", "refused": [{"address": ..., "code": 550, "status": "5.1.1", "text": ...}], "retry": false}
            {"status": "invalid", "error": "..."}                 no message; the same will never be taken
            "duplicate": true                                     the key was seen within a day: this is the answer of then

The answer is 200 as soon as the request could be read; 503 with Retry-After when every item was refused for now. A message
that was accepted is durable when the answer comes. A recipient with substitutions has a message of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from rusmes.http.answers import document, refusal

MAX_REQUEST_BYTES: Final = 64 << 20
RETRY_SECONDS: Final = 10


class InjectionOperator(Protocol):
    """Who carries requests out; the supervisor asks a worker."""

    async def inject(self, request: Any, client: str) -> list[dict[str, Any]]:
        """Raises NotAllowed: it is no request; ChannelClosed: no worker serves."""


class InjectionPages:
    """Implements `http.admin.Pages`."""

    def __init__(self, operator: InjectionOperator) -> None:
        self._operator = operator

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/inject", self._inject)

    async def _inject(self, request: web.Request) -> web.StreamResponse:
        data = await _body(request)
        try:
            # A request of many megabytes must not hold up metrics and health.
            asked = await asyncio.to_thread(msgspec.json.decode, data) if len(data) > 1 << 16 else msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return refusal(400, str(error))
        results = await self._operator.inject(asked, request.remote or "")
        answer = document({"results": results})
        if results and all(result["status"] == "refused" and result.get("retry") for result in results):
            answer.set_status(503)
            answer.headers["Retry-After"] = str(RETRY_SECONDS)
        return answer


async def _body(request: web.Request) -> bytes:
    """Raises HTTPRequestEntityTooLarge."""
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > MAX_REQUEST_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_REQUEST_BYTES, len(data))
    return bytes(data)
