"""The mechanisms of a server: `step(response)` with decoded bytes, answered by a question to the driver.

Rules for every mechanism:
1. `client_first` says whether the client speaks first; then `step(None)` asks for its message with an empty challenge.
2. A message is at most what the driver lets through; text is UTF-8, without NUL but where the mechanism puts it.
3. After the last question `step` is not called again.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Callable, Collection
from typing import Final, Protocol

from rusmes.sasl import scram
from rusmes.sasl.prepare import prepare_password
from rusmes.sasl.questions import (
    Challenge,
    CheckName,
    CheckPassword,
    CheckToken,
    MalformedResponse,
    NeedKeys,
    Proved,
    Question,
)

ChannelBinding = Callable[[str], bytes]
"""The data of a channel binding type on this TLS connection, b"" when there is none (RFC 5929, RFC 9266)."""

CHANNEL_BINDINGS: Final = ("tls-exporter", "tls-server-end-point", "tls-unique")
"""The types we know. `tls-unique` is undefined for TLS 1.3 (RFC 9266 §3); the connection then has no data for it."""

PREFERENCE: Final = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "EXTERNAL", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN")
"""The order in which mechanisms are offered: strongest first, for clients that take the first they know."""


class Keys(Protocol):
    """What SCRAM needs of an account (`auth.api.ScramCredentials`)."""

    @property
    def salt(self) -> bytes: ...
    @property
    def iterations(self) -> int: ...
    @property
    def stored_key(self) -> bytes: ...
    @property
    def server_key(self) -> bytes: ...


class ServerMechanism(Protocol):
    name: str
    client_first: bool

    def step(self, response: bytes | None) -> Question:
        """The next question. Raises MalformedResponse."""


class Plain:
    """RFC 4616: [authzid] NUL authcid NUL passwd."""

    name = "PLAIN"
    client_first = True

    def step(self, response: bytes | None) -> Question:
        if response is None:
            return Challenge(b"")
        parts = response.split(b"\0")
        if len(parts) != 3 or not parts[1] or not parts[2]:
            raise MalformedResponse("malformed PLAIN message", "expected authzid NUL authcid NUL password")
        authorize_as, username, password = (_text(part) for part in parts)
        return CheckPassword(_name(username), password, _name(authorize_as) if authorize_as else "")


class Login:
    """draft-murchison-sasl-login-00: two questions in English. An initial response is the user name."""

    name = "LOGIN"
    client_first = False

    def __init__(self) -> None:
        self._username: str | None = None

    def step(self, response: bytes | None) -> Question:
        if response is None:
            return Challenge(b"Username:")
        if self._username is None:
            self._username = _name(_text(response))
            return Challenge(b"Password:")
        if not response:
            raise MalformedResponse("malformed LOGIN message", "the password is empty")
        return CheckPassword(self._username, _text(response))


class External:
    """RFC 4422 appendix A: the client certificate's address says who it is; the message is whom to act for.

    `names` are the addresses of the verified certificate. With several, the message chooses.
    """

    name = "EXTERNAL"
    client_first = True

    def __init__(self, names: Collection[str]) -> None:
        self._names = tuple(names)

    def step(self, response: bytes | None) -> Question:
        if response is None:
            return Challenge(b"")
        authorize_as = _name(_text(response)) if response else ""
        folded = authorize_as.lower()
        own = next((name for name in self._names if name.lower() == folded), "")
        if own:
            return CheckName(own)
        return CheckName(self._names[0] if self._names else "", authorize_as)


class OAuthBearer:
    """RFC 7628 §3.1: a GS2 header, then key=value pairs between ^A."""

    name = "OAUTHBEARER"
    client_first = True
    _denial = b'{"status":"invalid_token","schemes":"bearer"}'

    def step(self, response: bytes | None) -> Question:
        if response is None:
            return Challenge(b"")
        header, separator, rest = _text(response).partition("\x01")
        parts = header.split(",")
        if not separator or len(parts) != 3 or parts[0] not in ("n", "y") or parts[2]:
            raise MalformedResponse("malformed OAUTHBEARER message", "the GS2 header is wrong")
        authzid = parts[1]
        if authzid and not authzid.startswith("a="):
            raise MalformedResponse("malformed OAUTHBEARER message", "the GS2 header is wrong")
        username = _name(scram.unescape_name(authzid[2:])) if authzid else ""
        return CheckToken(username, _bearer(rest), self._denial)


class XOAuth2:
    """Google's: user= and auth=Bearer, between ^A."""

    name = "XOAUTH2"
    client_first = True
    _denial = b'{"status":"401","schemes":"bearer"}'

    def step(self, response: bytes | None) -> Question:
        if response is None:
            return Challenge(b"")
        first, separator, rest = _text(response).partition("\x01")
        if not separator or not first.startswith("user=") or not first[5:]:
            raise MalformedResponse("malformed XOAUTH2 message", "expected user=")
        return CheckToken(_name(first[5:]), _bearer(rest), self._denial)


class ScramSha256:
    """RFC 5802, RFC 7677.

    `binding` gives the data of a channel binding type, None without TLS. `plus` makes it SCRAM-SHA-256-PLUS.
    `plus_offered` says whether the client was offered that one: then its "y" (I could, but you cannot) betrays an attacker
    who struck it from our list (RFC 5802 §6).
    """

    client_first = True

    def __init__(
        self,
        *,
        plus: bool = False,
        binding: ChannelBinding | None = None,
        plus_offered: bool = False,
        nonce: str = "",
    ) -> None:
        self.name = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
        self._plus = plus
        self._binding = binding
        self._plus_offered = plus_offered
        self._own_nonce = nonce or base64.b64encode(os.urandom(18)).decode()
        self._nonce = ""
        self._gs2_header = ""
        self._bound = b""
        self._client_first_bare = ""
        self._server_first = ""
        self._authorize_as = ""
        self._username = ""
        self._keys: Keys | None = None
        self._success: bool | None = None

    def step(self, response: bytes | None) -> Question:
        if response is None:
            return Challenge(b"")
        if self._success is not None:
            # The client's empty answer to the server's signature.
            if response:
                raise MalformedResponse("malformed SCRAM message", "expected an empty response")
            return Proved(self._username, self._success, self._authorize_as)
        text = scram.decode_text(response)
        return self._final(text) if self._keys is not None else self._first(text)

    def keys(self, keys: Keys) -> Challenge:
        """Go on after NeedKeys: the server-first-message."""
        self._keys = keys
        self._server_first = f"r={self._nonce},s={scram.encode_base64(keys.salt)},i={keys.iterations}"
        return Challenge(self._server_first.encode())

    def _first(self, text: str) -> Question:
        """client-first-message: gs2-header, then n=name,r=nonce (RFC 5802 §7)."""
        parts = text.split(",", 2)
        if len(parts) != 3:
            raise MalformedResponse("malformed SCRAM message", "the GS2 header is incomplete")
        flag, authzid, bare = parts
        self._check_binding_flag(flag)
        if authzid:
            if not authzid.startswith("a=") or len(authzid) == 2:
                raise MalformedResponse("malformed SCRAM message", "the authorization identity is malformed")
            self._authorize_as = _name(scram.unescape_name(authzid[2:]))
        self._gs2_header = f"{flag},{authzid},"
        self._client_first_bare = bare
        pairs = scram.attributes(bare)
        # "m" is a mandatory extension; none is known (RFC 5802 §5.1).
        if len(pairs) < 2 or pairs[0][0] != "n" or pairs[1][0] != "r" or not scram.is_printable(pairs[1][1]):
            raise MalformedResponse("malformed SCRAM message", "expected n= and r=")
        self._username = _name(scram.unescape_name(pairs[0][1]))
        self._nonce = pairs[1][1] + self._own_nonce
        return NeedKeys(self._username)

    def _check_binding_flag(self, flag: str) -> None:
        """RFC 5802 §6."""
        kind = flag[2:] if flag.startswith("p=") else ""
        if self._plus:
            if kind not in CHANNEL_BINDINGS:
                raise MalformedResponse("unsupported channel binding type", "unsupported-channel-binding-type")
            self._bound = self._binding(kind) if self._binding is not None else b""
            if not self._bound:
                raise MalformedResponse("unsupported channel binding type", f"this connection has no {kind}")
        elif flag == "y" and self._plus_offered:
            raise MalformedResponse("channel binding was offered", "server-does-support-channel-binding: a downgrade")
        elif flag not in ("n", "y"):
            raise MalformedResponse("channel binding needs SCRAM-SHA-256-PLUS", "the GS2 flag does not fit the mechanism")

    def _final(self, text: str) -> Question:
        """client-final-message: c=binding,r=nonce[,extensions],p=proof."""
        assert self._keys is not None
        without_proof, separator, proof_text = text.rpartition(",p=")
        pairs = scram.attributes(without_proof) if separator else []
        if len(pairs) < 2 or pairs[0][0] != "c" or pairs[1][0] != "r":
            raise MalformedResponse("malformed SCRAM message", "expected c=, r= and p=")
        proof = scram.decode_base64(proof_text)
        bound = hmac.compare_digest(scram.decode_base64(pairs[0][1]), self._gs2_header.encode() + self._bound)
        same_nonce = hmac.compare_digest(pairs[1][1].encode(), self._nonce.encode())
        auth_message = f"{self._client_first_bare},{self._server_first},{without_proof}"
        expected = scram.signature(self._keys.stored_key, auth_message)
        if len(proof) != len(expected):
            raise MalformedResponse("malformed SCRAM message", "the proof has the wrong length")
        client_key = scram.exclusive_or(proof, expected)
        proved = hmac.compare_digest(scram.stored_key(client_key), self._keys.stored_key)
        if not (bound and same_nonce and proved):
            return Proved(self._username, False, self._authorize_as)
        self._success = True
        # Sent before success: the protocols here have no place for data beside their success reply (RFC 4422 §3.6).
        return Challenge(b"v=" + base64.b64encode(scram.signature(self._keys.server_key, auth_message)))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedResponse("malformed SASL message", "not UTF-8") from None


def _name(text: str) -> str:
    """The prepared form of a name (RFC 4013)."""
    try:
        name = prepare_password(text)
    except ValueError as error:
        raise MalformedResponse("malformed SASL message", f"the name: {error}") from None
    if not name:
        raise MalformedResponse("malformed SASL message", "the name is empty")
    return name


def _bearer(rest: str) -> str:
    """The token of `auth=Bearer <token>` between ^A; RFC 6750 §2.1 says what it is made of."""
    for pair in rest.split("\x01"):
        key, _, value = pair.partition("=")
        if key == "auth":
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer" and token and all("!" <= c <= "~" for c in token.strip()):
                return token.strip()
    raise MalformedResponse("malformed OAuth message", "expected auth=Bearer and a token")
