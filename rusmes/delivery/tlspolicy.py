"""TLS towards other servers: which context, and who is known to offer what it cannot do (T13).

RFC 3207 (STARTTLS), RFC 7435 (opportunistic security), RFC 8689 (REQUIRETLS needs a verified peer; "TLS-Required: No" asks to
leave aside what the recipient's domain publishes).
"""

from __future__ import annotations

import re
import ssl
from functools import partial
from typing import Final

from rusmes.clock import Clock
from rusmes.delivery.routes import PUBLISHED, Endpoint
from rusmes.model.content import Rendering
from rusmes.net.connection import TlsInfo
from rusmes.tls.context import client_context
from rusmes.tls.resumption import ResumingContext

CLEAR_SECONDS: Final = 3600.0
"""How long a server whose handshake failed is spoken to in the clear, under the opportunistic policy only."""
MAX_REMEMBERED: Final = 10_000

CAUSES: Final = {"mta-sts": "mta-sts enforce"}
"""How a mode is called in logs, where it has another name there."""

_TLS_OPTIONAL: Final = re.compile(rb"^TLS-Required[ \t]*:(?:\r?\n)?[ \t]*No[ \t]*\r?$", re.I | re.M)


def mode_of(rendering: Rendering, mode: str) -> str:
    """The mode in which a mail without REQUIRETLS goes to a site of this mode.

    RFC 8689 §3, §4.2.2, §8.4: to a mail that says "TLS-Required: No" what the recipient's domain publishes is no reason to
    fail. What the operator demands of a route is: that is no policy of the recipient. TLSA records that cannot be looked up
    hold it up all the same, because hosts are found before mails are looked at.
    """
    if mode in PUBLISHED and _TLS_OPTIONAL.search(rendering.header_block()):
        return "opportunistic"
    return mode


class TlsPolicy:
    """The contexts, made when first needed, and the memory of broken servers."""

    def __init__(self, clock: Clock, *, verified: ssl.SSLContext | None = None) -> None:
        self._clock = clock
        self._verified = verified
        """Given by tests: a context that trusts their authority."""
        self._unverified: ssl.SSLContext | None = None
        self._dane: ssl.SSLContext | None = None
        self._clear_until: dict[tuple[str, int], float] = {}

    def context(self, mode: str) -> ssl.SSLContext:
        """For "opportunistic" any certificate will do: without a trusted statement of the right name, none proves anything
        (RFC 7435); for "dane" the TLSA records say which (`dane`); else an authority does."""
        if mode == "dane":
            if self._dane is None:
                self._dane = client_context(verify=False)
            return self._dane
        if mode == "opportunistic":
            if self._unverified is None:
                self._unverified = client_context(verify=False)
            return self._unverified
        if self._verified is None:
            self._verified = client_context(verify=True)
        return self._verified

    @staticmethod
    def mode_for(endpoint: Endpoint, mode: str) -> str:
        """What holds for one host. RFC 8461 §2: TLSA records come before MTA-STS; RFC 7672 §2.2: a host without secure ones is
        spoken to as the rest says."""
        if mode in PUBLISHED and endpoint.tlsa:
            return "dane"
        return "opportunistic" if mode == "dane" else mode

    def remember_session(self, endpoint: Endpoint, mode: str, tls: TlsInfo) -> None:
        """Offer this session to the server next time. With DANE never: a resumed session shows no certificate to compare."""
        context = self.context(mode) if mode not in ("dane", "none") else None
        if isinstance(context, ResumingContext):
            tls.keep_session(partial(context.remember, endpoint.host))

    def forget_session(self, endpoint: Endpoint, mode: str) -> bool:
        """A handshake failed; whether a session had been offered in it, which may be why."""
        context = self.context(mode) if mode not in ("dane", "none") else None
        return isinstance(context, ResumingContext) and context.forget(endpoint.host)

    def speaks_clear(self, endpoint: Endpoint) -> bool:
        """Whether TLS failed with this server lately."""
        until = self._clear_until.get((endpoint.address, endpoint.port))
        return until is not None and until > self._clock.monotonic()

    def remember_failure(self, endpoint: Endpoint) -> None:
        while len(self._clear_until) >= MAX_REMEMBERED:
            del self._clear_until[next(iter(self._clear_until))]
        self._clear_until[endpoint.address, endpoint.port] = self._clock.monotonic() + CLEAR_SECONDS
