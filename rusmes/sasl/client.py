"""The mechanisms of a client, for logins on other servers: PLAIN, LOGIN, SCRAM-SHA-256(-PLUS).

    mechanism = choose(offered, username, password, tls=True, binding=...)
    AUTH mechanism.name [mechanism.initial()]      then, for each challenge: mechanism.respond(challenge)
    on success: mechanism.finished()                raises if the server did not prove itself

Messages are decoded bytes; base64 and lines are the protocol's.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Iterable
from typing import Protocol

from rusmes.sasl import scram
from rusmes.sasl.prepare import prepare_password
from rusmes.sasl.questions import MalformedResponse, SaslError
from rusmes.sasl.server import CHANNEL_BINDINGS, ChannelBinding


class ClientMechanism(Protocol):
    name: str

    def initial(self) -> bytes | None:
        """The initial response, None when the server speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a challenge. Raises SaslError: cancel with "*"."""

    def finished(self) -> None:
        """The server said that we are in. Raises SaslError when it did not prove that it knows the keys."""


class PlainClient:
    """RFC 4616."""

    name = "PLAIN"

    def __init__(self, username: str, password: str) -> None:
        self._message = b"\0" + username.encode() + b"\0" + password.encode()

    def initial(self) -> bytes | None:
        return self._message

    def respond(self, challenge: bytes) -> bytes:
        if challenge:
            raise SaslError("unexpected challenge", "PLAIN has one message")
        return self._message

    def finished(self) -> None:
        return


class LoginClient:
    """draft-murchison-sasl-login-00; servers differ in what they ask, so only the order counts."""

    name = "LOGIN"

    def __init__(self, username: str, password: str) -> None:
        self._answers = [password.encode(), username.encode()]

    def initial(self) -> bytes | None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise SaslError("unexpected challenge", "LOGIN has two messages")
        return self._answers.pop()

    def finished(self) -> None:
        return


class ScramClient:
    """RFC 5802, RFC 7677. With `binding` of a type, it is the -PLUS variant.

    `could_bind` says that we know channel bindings and this server did not offer -PLUS (the "y" flag of RFC 5802 §6).
    """

    def __init__(
        self,
        username: str,
        password: str,
        *,
        binding_type: str = "",
        binding_data: bytes = b"",
        could_bind: bool = False,
        nonce: str = "",
    ) -> None:
        self.name = "SCRAM-SHA-256-PLUS" if binding_type else "SCRAM-SHA-256"
        self._password = _prepared(password)
        flag = f"p={binding_type}" if binding_type else "y" if could_bind else "n"
        self._gs2_header = f"{flag},,"
        self._binding_data = binding_data
        self._nonce = nonce or base64.b64encode(os.urandom(18)).decode()
        self._first_bare = f"n={scram.escape_name(_prepared(username))},r={self._nonce}"
        self._expected: bytes | None = None
        self._server_proved = False

    def initial(self) -> bytes | None:
        return (self._gs2_header + self._first_bare).encode()

    def respond(self, challenge: bytes) -> bytes:
        if not challenge and self._expected is None:
            return (self._gs2_header + self._first_bare).encode()
        text = scram.decode_text(challenge)
        if self._expected is None:
            return self._final(text)
        if self._server_proved:
            raise SaslError("unexpected challenge", "SCRAM is over")
        pairs = scram.attributes(text)
        if pairs[0][0] != "v" or not hmac.compare_digest(scram.decode_base64(pairs[0][1]), self._expected):
            raise SaslError("the server did not prove that it knows the password's keys", text[:100])
        self._server_proved = True
        return b""

    def finished(self) -> None:
        if not self._server_proved:
            raise SaslError("the server did not prove that it knows the password's keys", "success without a signature")

    def _final(self, server_first: str) -> bytes:
        pairs = scram.attributes(server_first)
        if [key for key, _ in pairs[:3]] != ["r", "s", "i"] or not pairs[2][1].isdecimal():
            raise MalformedResponse("malformed SCRAM message", "expected r=, s= and i=")
        nonce, salt, iterations = pairs[0][1], scram.decode_base64(pairs[1][1]), int(pairs[2][1][:12])
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or not scram.is_printable(nonce):
            raise SaslError("the server's nonce does not continue ours", "a replay")
        if not scram.MIN_ITERATIONS <= iterations <= scram.MAX_ITERATIONS:
            raise SaslError("the server's iteration count is out of bounds", str(iterations))
        salted = scram.salted_password(self._password, salt, iterations)
        key = scram.client_key(salted)
        binding = scram.encode_base64(self._gs2_header.encode() + self._binding_data)
        without_proof = f"c={binding},r={nonce}"
        auth_message = f"{self._first_bare},{server_first},{without_proof}"
        proof = scram.exclusive_or(key, scram.signature(scram.stored_key(key), auth_message))
        self._expected = scram.signature(scram.server_key(salted), auth_message)
        return f"{without_proof},p={scram.encode_base64(proof)}".encode()


def choose(
    offered: Iterable[str],
    username: str,
    password: str,
    *,
    encrypted: bool,
    binding: ChannelBinding | None = None,
) -> ClientMechanism | None:
    """The strongest mechanism that both sides know; None when there is none.

    Without encryption only SCRAM is used: the others would show the password to everybody on the way.
    """
    names = {name.upper() for name in offered}
    kinds = [(kind, binding(kind)) for kind in CHANNEL_BINDINGS] if binding is not None else []
    usable = [(kind, data) for kind, data in kinds if data]
    if "SCRAM-SHA-256-PLUS" in names and usable:
        return ScramClient(username, password, binding_type=usable[0][0], binding_data=usable[0][1])
    if "SCRAM-SHA-256" in names:
        could_bind = bool(usable) and "SCRAM-SHA-256-PLUS" not in names
        return ScramClient(username, password, could_bind=could_bind)
    if encrypted and "PLAIN" in names:
        return PlainClient(username, password)
    if encrypted and "LOGIN" in names:
        return LoginClient(username, password)
    return None


def _prepared(text: str) -> str:
    try:
        return prepare_password(text)
    except ValueError as error:
        raise SaslError("the name or password cannot be used with SCRAM", str(error)) from None
