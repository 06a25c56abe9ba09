"""The administration API and the pages of metrics and health, served by the supervisor.

On the control socket (who may open it may do everything):

    GET  /status                                         what `rusmes status --json` prints
    POST /reload                                         {"applied": [...], "restart": [...]}
    POST /queue/list     {"filter": {...}, "limit": 100} {"entries": [...]}
    POST /queue/retry    {"filter": {...}}               {"count": 3}; the same: hold, release, delete
    POST /store/verify                                   {"findings": [...]}
    POST /logs/reopen                                    {}

On the metrics address: the metrics, /health, /ready, /live for everybody; and the above with `Authorization: Bearer <token>`
when [admin] token_file gives one. A refusal is a 4xx or 5xx with {"error": "...", "problems": [...]}.

RFC 6750 §2.1 and §3 (bearer tokens).
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from rusmes.errors import ConfigError, NotFound, RusmesError
from rusmes.http.health import Health
from rusmes.http.metrics import Exporter
from rusmes.log import get_logger

MAX_BODY_BYTES: Final = 1 << 20
WRONG_TOKEN_SECONDS: Final = 0.5
"""Before the answer to a wrong token, so that guessing takes its time."""

QUEUE_CHANGES: Final = ("retry", "hold", "release", "delete")

_log = get_logger("admin")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Operator(Protocol):
    """What can be asked of the server; the supervisor is one."""

    async def status(self) -> dict[str, Any]: ...

    async def reload(self) -> dict[str, Any]:
        """Raises ConfigError: with every problem; nothing has changed."""

    async def queue_list(self, which: dict[str, Any], limit: int) -> list[dict[str, Any]]: ...

    async def queue_change(self, operation: str, which: dict[str, Any]) -> int: ...

    async def store_verify(self) -> list[dict[str, Any]]: ...

    async def reopen_logs(self) -> None: ...

    def health(self, page: str) -> Health:
        """`page` is health, ready or live."""


class QueueRequest(msgspec.Struct, frozen=True):
    """The body of /queue/*."""

    filter: dict[str, Any] = msgspec.field(default_factory=dict)
    limit: int = 0


class AdminApi:
    """Both servers: `serve_control` and `serve_metrics`."""

    def __init__(self, operator: Operator, exporter: Exporter, *, metrics_path: str, token: str) -> None:
        self._operator = operator
        self._exporter = exporter
        self._metrics_path = metrics_path
        self._token = token
        self._runners: list[web.AppRunner] = []

    async def serve_control(self, sock: socket.socket) -> None:
        """The control socket, already bound."""
        app = self._application([])
        self._add_operations(app)
        await self._serve(app, sock)

    async def serve_metrics(self, sock: socket.socket) -> None:
        """The metrics address, already bound."""
        app = self._application([self._guard])
        app.router.add_get(self._metrics_path, self._metrics)
        for page in ("health", "ready", "live"):
            app.router.add_get(f"/{page}", self._page(page))
        self._add_operations(app)
        await self._serve(app, sock)

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def _application(self, middlewares: list[Any]) -> web.Application:
        return web.Application(middlewares=[*middlewares, _answer_errors], client_max_size=MAX_BODY_BYTES)

    async def _serve(self, app: web.Application, sock: socket.socket) -> None:
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        self._runners.append(runner)

    def _add_operations(self, app: web.Application) -> None:
        app.router.add_get("/status", self._status)
        app.router.add_post("/reload", self._reload)
        app.router.add_post("/queue/list", self._queue_list)
        app.router.add_post("/queue/{operation}", self._queue_change)
        app.router.add_post("/store/verify", self._store_verify)
        app.router.add_post("/logs/reopen", self._reopen_logs)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may do what on the metrics address."""
        if request.path == self._metrics_path or request.path in ("/health", "/ready", "/live"):
            return await handler(request)
        if not self._token:
            return _refusal(403, "the administration API is only on the control socket; [admin] token_file opens it here")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            return _refusal(401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})
        if not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token.encode()):
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            _log.warn("wrong administration token", client=request.remote)
            return _refusal(403, "the token is wrong", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return await handler(request)

    # Pages

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        text, content_type = self._exporter.render(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    def _page(self, page: str) -> Handler:
        async def show(_request: web.Request) -> web.StreamResponse:
            answer = self._operator.health(page)
            return _json(answer.document, answer.status)

        return show

    # Operations

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return _json(await self._operator.status())

    async def _reload(self, _request: web.Request) -> web.StreamResponse:
        return _json(await self._operator.reload())

    async def _queue_list(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request)
        return _json({"entries": await self._operator.queue_list(asked.filter, asked.limit)})

    async def _queue_change(self, request: web.Request) -> web.StreamResponse:
        operation = request.match_info["operation"]
        if operation not in QUEUE_CHANGES:
            raise web.HTTPNotFound
        asked = await _body(request)
        return _json({"count": await self._operator.queue_change(operation, asked.filter)})

    async def _store_verify(self, _request: web.Request) -> web.StreamResponse:
        return _json({"findings": await self._operator.store_verify()})

    async def _reopen_logs(self, _request: web.Request) -> web.StreamResponse:
        await self._operator.reopen_logs()
        return _json({})


async def _body(request: web.Request) -> QueueRequest:
    data = await request.read()
    try:
        return msgspec.json.decode(data or b"{}", type=QueueRequest)
    except msgspec.MsgspecError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure is a document."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refusal(error.status, error.text or error.reason)
    except ConfigError as error:
        problems = [str(problem) for problem in getattr(error, "problems", ())] or [str(error)]
        return _refusal(400, "the configuration is wrong", problems)
    except NotFound as error:
        return _refusal(404, str(error))
    except RusmesError as error:
        return _refusal(503, str(error))
    except Exception as error:
        _log.exception("an administration request failed", path=request.path)
        return _refusal(500, f"internal error: {type(error).__name__}")


def _refusal(status: int, error: str, problems: list[str] | None = None, headers: dict[str, str] | None = None) -> web.Response:
    response = _json({"error": error, "problems": problems or []}, status)
    response.headers.update(headers or {})
    return response


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
