"""A SASL exchange from the name of a mechanism to an identity, over any protocol (RFC 4422 §3).

The protocol gives `ask`, which sends one challenge in its own framing ("334 ", "+ ") and returns the client's line without its
line end. Base64, "*", the limits and the order of messages are here.

    names = offered(authenticator, connection.tls, plaintext_allowed=..., allowed=config.submission.mechanisms)
    result = await negotiate("PLAIN", b"AGFsaWNlAHNlY3JldA==", ask, authenticator, attempt, tls=connection.tls, offered=names)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import msgspec
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from rusmes.auth.api import Attempt, Authenticator, Denied
from rusmes.model.identity import Identity
from rusmes.sasl.questions import (
    Cancelled,
    Challenge,
    CheckName,
    CheckPassword,
    CheckToken,
    MalformedResponse,
    NeedKeys,
    Proved,
    Question,
)
from rusmes.sasl.server import (
    PREFERENCE,
    ChannelBinding,
    External,
    Login,
    OAuthBearer,
    Plain,
    ScramSha256,
    ServerMechanism,
    XOAuth2,
)

MAX_RESPONSE_OCTETS: Final = 12288
"""Of one base64 line (RFC 4954 §4: "12288 octets is considered to be sufficient")."""

Ask = Callable[[bytes], Awaitable[bytes]]
"""Sends a challenge (base64) and returns the client's line without CRLF. Its own failures (time-out, line too long, connection
lost) pass through `negotiate`."""

_SMTP_UTF8_MAILBOX: Final = ObjectIdentifier("1.3.6.1.5.5.7.8.9")  # RFC 8398


class Encryption(Protocol):
    """What is needed of `net.connection.TlsInfo`."""

    @property
    def peer_certificate(self) -> bytes | None: ...

    def channel_binding(self, kind: str) -> bytes: ...


def offered(
    authenticator: Authenticator,
    tls: Encryption | None,
    *,
    plaintext_allowed: bool,
    allowed: Collection[str] = PREFERENCE,
) -> tuple[str, ...]:
    """The mechanisms that can succeed on this connection, strongest first; none where a password would be sent in the clear.

    Args:
        plaintext_allowed: the client is inside [auth] plaintext_networks.
    """
    if tls is None and not plaintext_allowed:
        return ()
    able = set(authenticator.mechanisms)
    if "SCRAM-SHA-256" in able and tls is not None and can_bind(tls.channel_binding):
        able.add("SCRAM-SHA-256-PLUS")
    if tls is None or not certificate_addresses(tls.peer_certificate):
        able.discard("EXTERNAL")
    return tuple(name for name in PREFERENCE if name in able and name in allowed)


def can_bind(binding: ChannelBinding) -> bool:
    """Whether -PLUS is worth offering: clients use the default type of their TLS version (RFC 9266 §3: tls-exporter from
    1.3 on, before it tls-unique), and do not fall back when a server offers -PLUS without it."""
    return bool(binding("tls-exporter") or binding("tls-unique"))


async def negotiate(
    mechanism: str,
    initial: bytes | None,
    ask: Ask,
    authenticator: Authenticator,
    attempt: Attempt,
    *,
    channel_binding: ChannelBinding | None = None,
    tls: Encryption | None = None,
    offered: Collection[str] | None = None,
) -> Identity | Denied:
    """Run an exchange.

    Args:
        mechanism: as the client named it; the caller has checked that it is offered.
        initial: the initial response as it was on the wire (base64, b"=" for an empty one), None without one.
        channel_binding: only where there is no `tls`.
        offered: what the client was offered, for SCRAM's downgrade check; None = whatever `tls` makes possible.

    Raises:
        MalformedResponse: base64, size or message is wrong, or the mechanism is unknown; no failure was counted.
        Cancelled: the client sent "*".
        AuthUnavailable: the backend cannot answer now.
    """
    name = mechanism.upper()
    attempt = msgspec.structs.replace(attempt, mechanism=name)
    binding = tls.channel_binding if tls is not None else channel_binding
    plus_offered = "SCRAM-SHA-256-PLUS" in offered if offered is not None else binding is not None and can_bind(binding)
    machine = _mechanism(name, binding, plus_offered, tls)
    question = machine.step(None) if initial is None or not machine.client_first else Challenge(b"")
    if initial is not None:  # instead of an answer to the first challenge; LOGIN's is the user name
        question = machine.step(b"" if initial == b"=" else decode_response(initial))
    while True:
        if isinstance(question, Challenge):
            question = machine.step(await _asked(ask, question.data))
        elif isinstance(question, NeedKeys):
            keys = await authenticator.scram_credentials(question.username, attempt)
            if isinstance(keys, Denied):
                return keys
            assert isinstance(machine, ScramSha256)
            question = machine.keys(keys)
        else:
            return await _decide(question, ask, authenticator, attempt)


async def _decide(question: Question, ask: Ask, authenticator: Authenticator, attempt: Attempt) -> Identity | Denied:
    match question:
        case CheckPassword(username, password, authorize_as):
            return await authenticator.login(username, password, attempt, authorize_as=authorize_as)
        case Proved(username, success, authorize_as):
            return await authenticator.scram_finished(username, success, attempt, authorize_as=authorize_as)
        case CheckName(username, authorize_as):
            return await authenticator.login_certified(username, attempt, authorize_as=authorize_as)
        case CheckToken(username, token, on_denial):
            result = await authenticator.login_token(username, token, attempt)
            if isinstance(result, Denied) and not result.locked_seconds:
                await _asked(ask, on_denial)  # RFC 7628 §3.2.3: the client answers ^A or nothing
            return result
    raise AssertionError(question)


async def _asked(ask: Ask, challenge: bytes) -> bytes:
    line = await ask(base64.b64encode(challenge))
    if line == b"*":
        raise Cancelled("authentication cancelled")
    return decode_response(line)


def decode_response(line: bytes) -> bytes:
    """The bytes of a base64 line. Raises MalformedResponse."""
    if len(line) > MAX_RESPONSE_OCTETS:
        raise MalformedResponse("authentication response too long", f"{len(line)} octets")
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedResponse("malformed base64") from None


def certificate_addresses(certificate: bytes | None) -> tuple[str, ...]:
    """The mail addresses of a DER certificate: subjectAltName rfc822Name and SmtpUTF8Mailbox (RFC 8398)."""
    if certificate is None:
        return ()
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ()
    addresses = list(names.get_values_for_type(x509.RFC822Name))
    for other in names.get_values_for_type(x509.OtherName):
        # UTF8String (tag 12) with a short length; addresses are at most 320 octets, so long ones have two length octets.
        value = other.value
        if other.type_id == _SMTP_UTF8_MAILBOX and value[:1] == b"\x0c":
            skip = 2 if value[1] < 128 else 2 + (value[1] & 127)
            addresses.append(value[skip:].decode("utf-8", "replace"))
    return tuple(address for address in addresses if "@" in address)


def _mechanism(name: str, binding: ChannelBinding | None, plus_offered: bool, tls: Encryption | None) -> ServerMechanism:
    match name:
        case "PLAIN":
            return Plain()
        case "LOGIN":
            return Login()
        case "SCRAM-SHA-256":
            return ScramSha256(binding=binding, plus_offered=plus_offered)
        case "SCRAM-SHA-256-PLUS":
            return ScramSha256(plus=True, binding=binding)
        case "EXTERNAL":
            return External(certificate_addresses(tls.peer_certificate if tls is not None else None))
        case "OAUTHBEARER":
            return OAuthBearer()
        case "XOAUTH2":
            return XOAuth2()
    raise MalformedResponse("unknown authentication mechanism")
