"""HELO, EHLO, LHLO and the commands that move no mail: NOOP, RSET, HELP, VRFY, QUIT, XCLIENT.

RFC 5321 §4.1.1.1 (EHLO), §3.5.3 (VRFY says 252), §4.1.4; RFC 2033 §4.1 (LHLO); RFC 9422 (LIMITS). XCLIENT as Postfix does it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from rusmes.auth.negotiation import offered
from rusmes.smtp.policy import XCLIENT_ATTRIBUTES
from rusmes.smtp.reply import (
    R221_BYE,
    R250_OK,
    R252_CANNOT_VERIFY,
    R501_ARGUMENTS,
    R503_IN_TRANSACTION,
    R550_NOT_PERMITTED,
    Reply,
    greeting,
    hello,
)

if TYPE_CHECKING:
    from rusmes.smtp.commands.conversation import Conversation
    from rusmes.smtp.policy import Policy
    from rusmes.smtp.session import Command

HELP: Final = Reply(214, "2.0.0", "Commands: EHLO HELO LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP AUTH STARTTLS")

ALWAYS: Final = ("SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME")
UNAVAILABLE: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_XTEXT_CODE: Final = re.compile(r"\+([0-9A-F]{2})")


def banner(conversation: Conversation) -> Reply:
    """RFC 5321 §3.1."""
    policy = conversation.policy
    reply = policy.greetings.get("")
    if reply is None:
        reply = policy.greetings[""] = greeting(policy.hostname, lmtp=policy.protocol == "lmtp")
    return reply


def helo(conversation: Conversation, command: Command) -> Reply:
    _greeted(conversation)
    return hello(conversation.policy.hostname)


def ehlo(conversation: Conversation, command: Command) -> Reply:
    """EHLO and LHLO: the name, and what this client can use now."""
    _greeted(conversation)
    policy, names, login = conversation.policy, conversation.session.extensions, mechanisms(conversation)
    reply = policy.greetings.get((names, login))
    if reply is None:
        # As many as there are ways to be connected; a reply of ten lines takes 10 us to make.
        reply = policy.greetings[names, login] = hello(policy.hostname, extension_lines(policy, names, login))
    return reply


def _greeted(conversation: Conversation) -> None:
    """A greeting is also a RSET (RFC 5321 §4.1.4), and makes the client's name known."""
    conversation.end_transaction()
    conversation.forget_origin()
    conversation.session.extensions = extensions(conversation)


def mechanisms(conversation: Conversation) -> tuple[str, ...]:
    """SASL mechanisms that can succeed now, strongest first; none after a login (RFC 4954 §4)."""
    policy, trust = conversation.policy, conversation.trust
    if conversation.identity is not None or not policy.mechanisms:
        return ()
    return offered(
        conversation.ports.authenticator,
        conversation.encryption,
        plaintext_allowed=trust.plaintext_login,
        allowed=policy.mechanisms,
    )


def extensions(conversation: Conversation) -> frozenset[str]:
    """The extensions that work for this client now; the session refuses the parameters and commands of all others."""
    policy, trust = conversation.policy, conversation.trust
    names = {*ALWAYS}
    if trust.dsn or policy.require_login:
        names.add("DSN")  # RFC 3461 §4: whoever is not offered it keeps the duty to report
    if conversation.tls:
        names.add("REQUIRETLS")  # RFC 8689 §2
    elif conversation.starttls_works:
        names.add("STARTTLS")
    if policy.mechanisms:
        names.add("AUTH")  # also for AUTH= of MAIL, which clients send before they may log in (RFC 4954 §5)
    if trust.xclient:
        names.add("XCLIENT")
    return frozenset(names)


def extension_lines(policy: Policy, names: frozenset[str], login: tuple[str, ...]) -> list[str]:
    limits = f"LIMITS RCPTMAX={policy.max_recipients}"
    if policy.max_messages_per_connection:
        limits += f" MAILMAX={policy.max_messages_per_connection}"
    lines = ["PIPELINING", f"SIZE {policy.max_message_bytes}", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME"]
    lines += [name for name in ("DSN", "STARTTLS", "REQUIRETLS") if name in names]
    if login:
        lines.append("AUTH " + " ".join(login))
    if "XCLIENT" in names:
        lines.append("XCLIENT " + " ".join(XCLIENT_ATTRIBUTES))
    return [*lines, limits, "ENHANCEDSTATUSCODES"]


def rset(conversation: Conversation, command: Command) -> Reply:
    conversation.end_transaction()
    return R250_OK


def noop(conversation: Conversation, command: Command) -> Reply:
    return R250_OK


def vrfy(conversation: Conversation, command: Command) -> Reply:
    return R252_CANNOT_VERIFY


def help_(conversation: Conversation, command: Command) -> Reply:
    return HELP


def quit_(conversation: Conversation, command: Command) -> Reply:
    conversation.end_transaction()
    return R221_BYE


async def xclient(conversation: Conversation, command: Command) -> Reply:
    """Take over what a trusted proxy says of its client, and begin again with a banner."""
    if not conversation.trust.xclient:
        return R550_NOT_PERMITTED
    if conversation.transaction is not None:
        return R503_IN_TRANSACTION
    attributes = read_xclient(command.text)
    if attributes is None:
        return R501_ARGUMENTS
    identity = None
    if login := attributes.get("LOGIN"):
        identity = await conversation.ports.directory.identity(login.lower())
        if identity is None:
            return R501_ARGUMENTS
    conversation.log.info("client named by proxy", **{f"xclient_{name.lower()}": text for name, text in attributes.items()})
    conversation.forget_client()
    conversation.client_address = attributes.get("ADDR") or conversation.client_address
    conversation.client_port = int(attributes.get("PORT") or 0)
    conversation.client_name = attributes.get("NAME", "")
    conversation.forwarded_helo = attributes.get("HELO", "")
    conversation.log.client_address = conversation.client_address
    conversation.trust = conversation.policy.trust_of(conversation.client_address)
    if identity is not None:
        conversation.log_in(identity)
    return banner(conversation)


def read_xclient(text: str) -> dict[str, str] | None:
    """The attributes of XCLIENT, decoded; an unavailable one is "". None when one is unknown or malformed."""
    found: dict[str, str] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        name = name.upper()
        if not equals or name not in XCLIENT_ATTRIBUTES or name in found or len(value) > 255:
            return None
        value = _XTEXT_CODE.sub(lambda code: chr(int(code[1], 16)), value)
        if not value.isprintable():
            return None
        found[name] = "" if value.upper() in UNAVAILABLE else value
    address, port = found.get("ADDR", ""), found.get("PORT", "")
    if address:
        try:
            found["ADDR"] = str(ipaddress.ip_address(address[5:] if address[:5].upper() == "IPV6:" else address))
        except ValueError:
            return None
    if port and not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        return None
    return found if found else None
