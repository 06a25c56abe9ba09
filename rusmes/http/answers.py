"""What every operation of the administration API shares: its documents, its refusals, and who asks."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

T = TypeVar("T")
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred (unix(7)): pid, uid, gid."""


def document(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def refusal(status: int, error: str, problems: list[str] | None = None, headers: dict[str, str] | None = None) -> web.Response:
    response = document({"error": error, "problems": problems or []}, status)
    response.headers.update(headers or {})
    return response


async def body_of(request: web.Request, kind: type[T]) -> T:
    """The body of a request, which may be empty. Raises HTTPBadRequest."""
    data = await request.read()
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def number_in(request: web.Request, name: str, default: int, most: int) -> int:
    """A number of the query. Raises HTTPBadRequest."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) <= most):
        raise web.HTTPBadRequest(text=f"{name} is a number from 0 to {most}")
    return int(text)


def who_asks(request: web.Request) -> str:
    """For the audit trail: the user at the other end of the control socket, as the kernel says it, or the token's client."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return f"token from {request.remote}"
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "?"
    return f"{name} (uid {uid}, pid {pid})"
