"""AUTH: RFC 4954. The mechanisms are `rusmes.sasl`'s, the exchange `rusmes.auth.negotiation`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rusmes.auth.api import Attempt, Denied
from rusmes.auth.negotiation import negotiate
from rusmes.errors import AuthUnavailable
from rusmes.sasl import Cancelled, MalformedResponse
from rusmes.smtp.commands.greeting import mechanisms
from rusmes.smtp.policy import MAX_FAILED_LOGINS
from rusmes.smtp.reply import (
    R235_AUTHENTICATED,
    R454_AUTH_UNAVAILABLE,
    R501_AUTH_CANCELLED,
    R501_AUTH_MALFORMED,
    R502_NOT_IMPLEMENTED,
    R504_MECHANISM,
    R535_AUTH_FAILED,
    R538_TLS_REQUIRED,
    Reply,
)

if TYPE_CHECKING:
    from rusmes.smtp.commands.conversation import Conversation
    from rusmes.smtp.session import Command

LOCKED_OUT: Final = Reply(421, "4.7.0", "Too many failed logins, try again later")


class BrokenExchange(Exception):
    """The client sent no line of an exchange; `reply` tells it so."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


async def auth(conversation: Conversation, command: Command) -> Reply:
    """Run an exchange. The session has refused a second login, and one in a transaction (RFC 4954 §4)."""
    if not conversation.policy.mechanisms:
        return R502_NOT_IMPLEMENTED
    names = mechanisms(conversation)
    if not conversation.policy.may_login(conversation.trust, tls=bool(conversation.tls)):
        return R538_TLS_REQUIRED
    if command.mechanism not in names:
        return R504_MECHANISM
    attempt = Attempt(conversation.client_address, conversation.log.protocol, conversation.log.session_id)
    try:
        result = await negotiate(
            command.mechanism,
            command.initial,
            conversation.ask,
            conversation.ports.authenticator,
            attempt,
            tls=conversation.encryption,
            offered=names,
        )
    except BrokenExchange as error:
        return error.reply
    except Cancelled:
        return R501_AUTH_CANCELLED
    except MalformedResponse as error:
        conversation.log.info("malformed authentication", mechanism=command.mechanism, reason=str(error))
        return R501_AUTH_MALFORMED
    except AuthUnavailable as error:
        conversation.log.error("authentication unavailable", error=str(error))
        return R454_AUTH_UNAVAILABLE
    if isinstance(result, Denied):
        return _denied(conversation, command.mechanism, result)
    conversation.log_in(result)
    conversation.log.info("authenticated", mechanism=command.mechanism)
    return R235_AUTHENTICATED


def _denied(conversation: Conversation, mechanism: str, denied: Denied) -> Reply:
    conversation.failed_logins += 1
    conversation.log.warn(
        "authentication failed", mechanism=mechanism, reason=denied.reason, failures=conversation.failed_logins
    )
    if denied.locked_seconds > 0 or conversation.failed_logins >= MAX_FAILED_LOGINS:
        return LOCKED_OUT
    return R535_AUTH_FAILED
