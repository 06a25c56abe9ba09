"""The administration API and the pages of metrics and health, served by the supervisor.

On the control socket (who may open it may do everything):

    GET  /status                                         what `rusmes status --json` prints
    POST /reload                                         {"applied": [...], "restart": [...]}
    ...  /queue/...                                      see `http.queue`
    POST /store/verify                                   {"findings": [...]}
    POST /logs/reopen                                    {}

On the metrics address: the metrics, /health, /ready, /live for everybody; and the above with `Authorization: Bearer <token>`
when [admin] token_file gives one. A refusal is a 4xx or 5xx with {"error": "...", "problems": [...]}.

RFC 6750 §2.1 and §3 (bearer tokens).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from rusmes.errors import ConfigError, NotAllowed, NotFound, RusmesError
from rusmes.http.answers import document, refusal
from rusmes.http.health import Health
from rusmes.http.metrics import Exporter
from rusmes.log import get_logger

MAX_BODY_BYTES: Final = 1 << 20
WRONG_TOKEN_SECONDS: Final = 0.5
"""Before the answer to a wrong token, so that guessing takes its time."""

_log = get_logger("admin")
_NO_LOG: Final = logging.Logger("aiohttp.server")
"""What strangers send that is no HTTP would be a traceback on stderr each; failures of our own are logged below."""
_NO_LOG.addHandler(logging.NullHandler())
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Operator(Protocol):
    """What can be asked of the server; the supervisor is one."""

    async def status(self) -> dict[str, Any]: ...

    async def reload(self) -> dict[str, Any]:
        """Raises ConfigError: with every problem; nothing has changed."""

    async def store_verify(self) -> list[dict[str, Any]]: ...

    async def reopen_logs(self) -> None: ...

    def health(self, page: str) -> Health:
        """`page` is health, ready or live."""


class Pages(Protocol):
    """Requests about one part of the server; each has a module of its own."""

    def add_to(self, app: web.Application) -> None: ...


class AdminApi:
    """Both servers: `serve_control` and `serve_metrics`."""

    def __init__(
        self, operator: Operator, exporter: Exporter, *, metrics_path: str, token: str, pages: Sequence[Pages] = ()
    ) -> None:
        self._operator = operator
        self._exporter = exporter
        self._metrics_path = metrics_path
        self._token = token
        self._pages = pages
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
        runner = web.AppRunner(app, access_log=None, logger=_NO_LOG, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        self._runners.append(runner)

    def _add_operations(self, app: web.Application) -> None:
        app.router.add_get("/status", self._status)
        app.router.add_post("/reload", self._reload)
        app.router.add_post("/store/verify", self._store_verify)
        app.router.add_post("/logs/reopen", self._reopen_logs)
        for pages in self._pages:
            pages.add_to(app)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may do what on the metrics address."""
        if request.path == self._metrics_path or request.path in ("/health", "/ready", "/live"):
            return await handler(request)
        if not self._token:
            return refusal(403, "the administration API is only on the control socket; [admin] token_file opens it here")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            return refusal(401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})
        if not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token.encode()):
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            _log.warn("wrong administration token", client=request.remote)
            return refusal(403, "the token is wrong", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return await handler(request)

    # Pages

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        text, content_type = self._exporter.render(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    def _page(self, page: str) -> Handler:
        async def show(_request: web.Request) -> web.StreamResponse:
            answer = self._operator.health(page)
            return document(answer.document, answer.status)

        return show

    # Operations

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return document(await self._operator.status())

    async def _reload(self, _request: web.Request) -> web.StreamResponse:
        return document(await self._operator.reload())

    async def _store_verify(self, _request: web.Request) -> web.StreamResponse:
        return document({"findings": await self._operator.store_verify()})

    async def _reopen_logs(self, _request: web.Request) -> web.StreamResponse:
        await self._operator.reopen_logs()
        return document({})


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure is a document."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return refusal(error.status, error.text or error.reason)
    except ConfigError as error:
        problems = [str(problem) for problem in getattr(error, "problems", ())] or [str(error)]
        return refusal(400, "the configuration is wrong", problems)
    except NotFound as error:
        return refusal(404, str(error))
    except NotAllowed as error:
        return refusal(400, str(error))
    except RusmesError as error:
        return refusal(503, str(error))
    except Exception as error:
        if isinstance(error, ConnectionError) and request.transport is None:
            raise  # the client is gone: nobody reads an answer
        _log.exception("an administration request failed", path=request.path)
        return refusal(500, f"internal error: {type(error).__name__}")
