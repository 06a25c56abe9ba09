"""TLS sessions towards servers, so that the next connection to one needs no full handshake (RFC 8446 §2.2, RFC 5077).

asyncio and uvloop take no session; but both make their SSL object by the context's `wrap_bio`, and there it is given. A
server's tickets come after its handshake, so a session is remembered when the server has answered something.
"""

from __future__ import annotations

import ssl
import time
from typing import Any, Final

MAX_SESSIONS: Final = 2000
"""Of one context; some 5 KiB each."""
SESSION_SECONDS: Final = 3600.0
"""A session is offered so long. What was verified at its handshake is not verified again, so not for ever."""


class ResumingContext(ssl.SSLContext):
    """A client context that offers the last session of a server name. With verification, a session comes from a handshake
    under the same name and the same context, which was verified."""

    _sessions: dict[str, tuple[float, ssl.SSLSession]]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if session is None and isinstance(server_hostname, str):
            session = self._session(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _session(self, host: str) -> ssl.SSLSession | None:
        found = self.sessions.get(host)
        if found is None:
            return None
        if found[0] < time.monotonic():
            del self.sessions[host]
            return None
        return found[1]

    @property
    def sessions(self) -> dict[str, tuple[float, ssl.SSLSession]]:
        """By server name: until when it is offered, and the session."""
        try:
            return self._sessions
        except AttributeError:
            self._sessions = {}
            return self._sessions

    def remember(self, host: str, ssl_object: Any) -> None:
        """Keep the session of a connection that has been read from."""
        session = ssl_object.session
        if session is None or not session.has_ticket:
            return
        sessions = self.sessions
        sessions.pop(host, None)
        while len(sessions) >= MAX_SESSIONS:
            del sessions[next(iter(sessions))]
        lifetime = min(float(session.ticket_lifetime_hint or SESSION_SECONDS), SESSION_SECONDS)
        sessions[host] = (time.monotonic() + lifetime, session)

    def forget(self, host: str) -> bool:
        """Offer no session to a server any more; whether one was kept."""
        return self.sessions.pop(host, None) is not None
