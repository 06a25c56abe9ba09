"""What a server mechanism says to its driver, and how an exchange goes wrong.

The driver calls `step(response)` and does what the answer says:

* Challenge: send it, and call `step` with the response;
* CheckPassword, CheckName, CheckToken: ask the authenticator; that ends the exchange;
* NeedKeys: fetch the SCRAM keys of that name and call `keys(...)`, which gives the next Challenge;
* Proved: the SCRAM proof was right or wrong; tell the authenticator; that ends the exchange.

A denied CheckToken may come with a last challenge the client must answer before it is told (RFC 7628 §3.2.3).
"""

from __future__ import annotations

from msgspec import Struct

from rusmes.errors import PeerError


class SaslError(PeerError):
    """The exchange ended without a decision about the credentials."""


class MalformedResponse(SaslError):
    """The client's message is no base64, too long, or not what the mechanism asks for (SMTP 501 5.5.2)."""


class Cancelled(SaslError):
    """The client gave up with "*" (SMTP 501 5.7.0)."""


class Question(Struct, frozen=True):
    """Root of what a mechanism says."""


class Challenge(Question, frozen=True):
    data: bytes


class CheckPassword(Question, frozen=True):
    username: str
    password: str
    authorize_as: str = ""

    def __repr__(self) -> str:
        return f"CheckPassword({self.username!r}, '***')"


class CheckName(Question, frozen=True):
    """Proved by a client certificate."""

    username: str
    authorize_as: str = ""


class CheckToken(Question, frozen=True):
    username: str
    token: str
    on_denial: bytes = b""
    """The challenge that tells the client why, before the exchange fails."""

    def __repr__(self) -> str:
        return f"CheckToken({self.username!r}, '***')"


class NeedKeys(Question, frozen=True):
    username: str


class Proved(Question, frozen=True):
    username: str
    success: bool
    authorize_as: str = ""
