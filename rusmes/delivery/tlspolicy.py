"""TLS towards other servers: which context, and who is known to offer what it cannot do (T13).

RFC 3207 (STARTTLS), RFC 7435 (opportunistic security), RFC 8689 (REQUIRETLS needs a verified peer; "TLS-Required: No" asks to
leave aside what the recipient's domain publishes).
"""

from __future__ import annotations

import re
import ssl
from typing import Final

from rusmes.clock import Clock
from rusmes.delivery.routes import Endpoint
from rusmes.model.content import Rendering
from rusmes.tls.context import client_context

CLEAR_SECONDS: Final = 3600.0
"""How long a server whose handshake failed is spoken to in the clear, under the opportunistic policy only."""
MAX_REMEMBERED: Final = 10_000

_TLS_OPTIONAL: Final = re.compile(rb"^TLS-Required[ \t]*:(?:\r?\n)?[ \t]*No[ \t]*\r?$", re.I | re.M)


def mode_of(rendering: Rendering, mode: str) -> str:
    """The mode in which a mail without REQUIRETLS goes to a site of this mode.

    RFC 8689 §3, §4.2.2, §8.4: to a mail that says "TLS-Required: No" what the recipient's domain publishes is no reason to
    fail. What the operator demands of a route is: that is no policy of the recipient. TLSA records that cannot be looked up
    hold it up all the same, because hosts are found before mails are looked at.
    """
    if mode == "dane" and _TLS_OPTIONAL.search(rendering.header_block()):
        return "opportunistic"
    return mode


class TlsPolicy:
    """The contexts, made when first needed, and the memory of broken servers."""

    def __init__(self, clock: Clock, *, verified: ssl.SSLContext | None = None) -> None:
        self._clock = clock
        self._verified = verified
        """Given by tests: a context that trusts their authority."""
        self._unverified: ssl.SSLContext | None = None
        self._clear_until: dict[tuple[str, int], float] = {}

    def context(self, mode: str) -> ssl.SSLContext:
        """For "opportunistic" any certificate will do: without a trusted statement of the right name, none proves anything
        (RFC 7435); for "dane" the TLSA records say which (`dane`); for "verify" an authority does."""
        if mode in ("opportunistic", "dane"):
            if self._unverified is None:
                self._unverified = client_context(verify=False)
            return self._unverified
        if self._verified is None:
            self._verified = client_context(verify=True)
        return self._verified

    @staticmethod
    def mode_for(endpoint: Endpoint, mode: str) -> str:
        """RFC 7672 §2.2: a host without secure TLSA records is spoken to opportunistically."""
        return "opportunistic" if mode == "dane" and not endpoint.tlsa else mode

    def speaks_clear(self, endpoint: Endpoint) -> bool:
        """Whether TLS failed with this server lately."""
        until = self._clear_until.get((endpoint.address, endpoint.port))
        return until is not None and until > self._clock.monotonic()

    def remember_failure(self, endpoint: Endpoint) -> None:
        while len(self._clear_until) >= MAX_REMEMBERED:
            del self._clear_until[next(iter(self._clear_until))]
        self._clear_until[endpoint.address, endpoint.port] = self._clock.monotonic() + CLEAR_SECONDS
