"""The control socket of a running server: HTTP with JSON over a Unix socket, `control.sock` in runtime_dir.

    GET  /status                                         -> what `rusmes status --json` prints
    POST /reload                                         -> {"applied": [...], "restart": [...]}
    POST /queue/...                                      -> see `rusmes.http.queue`
    POST /logs/reopen                                    -> {}

A refusal is a 4xx or 5xx with {"error": "...", "problems": ["...", ...]}.
"""

from __future__ import annotations

import http.client
import socket
from typing import Any, Final

import msgspec

from rusmes.errors import RusmesError

TIMEOUT_SECONDS: Final = 30.0


class ServerFailed(RusmesError):
    """The running server could not do it; `public` is its reason."""


class ServerRefused(RusmesError):
    """The running server says that what was asked is wrong."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ControlSocket:
    """Calls to the server that listens on one path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def is_answered(self) -> bool:
        """Whether a server listens there now.

        Raises:
            ServerFailed: somebody does, and this user may not talk to it.
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(TIMEOUT_SECONDS)
                probe.connect(self.path)
        except PermissionError:
            raise ServerFailed(f"no permission to use {self.path}", "run this as the server's user, or as root") from None
        except OSError:
            return False
        return True

    def get(self, path: str) -> Any:
        return self._call("GET", path, None, TIMEOUT_SECONDS)

    def post(self, path: str, body: Any = None, *, timeout: float = TIMEOUT_SECONDS) -> Any:
        return self._call("POST", path, body, timeout)

    def _call(self, method: str, path: str, body: Any, timeout: float) -> Any:
        connection = _UnixConnection(self.path, timeout)
        payload = msgspec.json.encode({} if body is None else body) if method == "POST" else None
        try:
            connection.request(method, path, payload, {"Content-Type": "application/json", "Connection": "close"})
            response = connection.getresponse()
            data = response.read()
        except TimeoutError:
            raise ServerFailed(f"the server did not answer within {timeout:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailed(f"the server does not answer on {self.path}: {error}") from None
        finally:
            connection.close()
        return _decoded(response.status, data)


def _decoded(status: int, data: bytes) -> Any:
    try:
        document = msgspec.json.decode(data) if data else {}
    except msgspec.DecodeError:
        raise ServerFailed(f"the server answered {status} with something that is no JSON") from None
    if status < 300:
        return document
    facts = document if isinstance(document, dict) else {}
    problems = facts.get("problems") or []
    reason = "\n".join(str(problem) for problem in problems) or str(facts.get("error") or f"the server answered {status}")
    raise ServerRefused(reason) if status < 500 else ServerFailed(reason)
