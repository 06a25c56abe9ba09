"""MAIL and RCPT: who may send what to whom.

RFC 5321 §3.3, §3.6.2 (relaying), §4.1.1.2, §4.1.1.3; RFC 1870 §6 (SIZE); RFC 3461 §4 (DSN); RFC 6409 §4.3, §6.1 (submission);
RFC 8689 §4 (REQUIRETLS); RFC 9422 §4 (LIMITS).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from rusmes.errors import AuthUnavailable
from rusmes.metrics import SMTP_RECIPIENTS
from rusmes.model.address import Address
from rusmes.model.mail import Recipient
from rusmes.model.plan import Refusal
from rusmes.smtp.commands.conversation import Transaction
from rusmes.smtp.policy import MAX_UNKNOWN_RECIPIENTS, SLOW_UNKNOWN_RECIPIENTS, UNKNOWN_RECIPIENT_DELAY_SECONDS
from rusmes.smtp.reply import (
    R250_RECIPIENT_OK,
    R250_SENDER_OK,
    R421_SHUTTING_DOWN,
    R421_TOO_MANY_MESSAGES,
    R450_RATE_LIMITED,
    R452_TOO_MANY_RECIPIENTS,
    R503_NESTED_MAIL,
    R530_AUTH_REQUIRED,
    R530_TLS_REQUIRED,
    R550_UNKNOWN_USER,
    Reply,
    refused,
    too_large,
)

if TYPE_CHECKING:
    from rusmes.model.identity import Identity
    from rusmes.smtp.commands.conversation import Conversation
    from rusmes.smtp.session import Command

_ACCEPTED: Final = SMTP_RECIPIENTS["accepted"]
SENDER_NOT_OWN: Final = Reply(553, "5.7.1", "Sender address does not belong to the authenticated user")
RELAY_DENIED: Final = Reply(554, "5.7.1", "Relay access denied")
MAILBOX_FULL: Final = Reply(452, "4.2.2", "Mailbox is full")
DIRECTORY_DOWN: Final = Reply(451, "4.3.0", "Recipient cannot be looked up now, try again later")
HARVESTING: Final = Reply(421, "4.7.0", "Too many unknown recipients, closing connection")
TRANSACTION_TOO_LONG: Final = Reply(421, "4.4.2", "Transaction takes too long, closing connection")


def mail(conversation: Conversation, command: Command) -> Reply:
    """Open a transaction, under the configuration as it is now."""
    policy = conversation.ports.policy
    if policy is not conversation.policy:
        conversation.take_policy(policy)
    refusal = _may_send(conversation)
    if refusal is not None:
        return refusal
    parameters = command.parameters
    if parameters.size > policy.max_message_bytes:
        return too_large(policy.max_message_bytes)  # RFC 1870 §6.1
    identity = conversation.identity
    if identity is not None and not may_use_sender(identity, command.address, policy.sender_check, policy.recipient_delimiter):
        conversation.log.warn("sender refused", sender=str(command.address), reason="not an address of the user")
        return SENDER_NOT_OWN
    if policy.counts_messages and is_rate_exceeded(conversation, take=False):
        return R450_RATE_LIMITED
    ports = conversation.ports
    busy = ports.intake.admit(max(parameters.size, 0))
    if busy is not None:
        # On a connection that is open already this is a matter of one transaction: RFC 5321 §4.2.2 wants 452, not 421.
        return refused(Refusal(452, busy.status, busy.text) if busy.code == 421 else busy)
    conversation.transaction = Transaction(ports.ids.next_id(), command.address, parameters, ports.clock.monotonic())
    return R250_SENDER_OK


def _may_send(conversation: Conversation) -> Reply | None:
    """Whether this client may open a transaction now."""
    policy = conversation.policy
    if conversation.transaction is not None:
        return R503_NESTED_MAIL
    if conversation.is_draining():
        return R421_SHUTTING_DOWN
    if policy.require_login and conversation.identity is None:
        # RFC 3207 §4, RFC 4954 §6
        return R530_TLS_REQUIRED if policy.needs_tls(conversation.trust, tls=bool(conversation.tls)) else R530_AUTH_REQUIRED
    limit = policy.max_messages_per_connection
    return R421_TOO_MANY_MESSAGES if limit and conversation.messages >= limit else None


def may_use_sender(identity: Identity, sender: Address | None, check: str, delimiter: str) -> bool:
    """Whether an account may send as `sender` (RFC 6409 §6.1). The null path is for notices of the user's own agent (§4.3)."""
    if sender is None or check == "any":
        return True
    own = {identity.account, *identity.addresses}
    if check == "own-domain":
        return sender.domain in {address.rpartition("@")[2] for address in own}
    folded = sender.folded
    if folded in own:
        return True
    local, _, domain = folded.rpartition("@")
    detail = local.find(delimiter, 1) if delimiter else -1
    return detail > 0 and f"{local[:detail]}@{domain}" in own


def is_rate_exceeded(conversation: Conversation, *, take: bool) -> bool:
    """Whether one more message of this client or account is too many; with `take` it is counted when it is not.

    Counted at the body, so that a transaction without one costs nothing; asked at MAIL, so that nobody sends in vain.
    """
    policy, ports = conversation.policy, conversation.ports
    identity = conversation.identity
    if policy.max_account_messages and identity is not None:
        key, limit, window = b"smtp:account:" + identity.account.encode(), policy.max_account_messages, 3600.0
    elif policy.max_client_messages:
        key, limit, window = conversation.trust.rate_key, policy.max_client_messages, policy.rate_window
    else:
        return False
    now = ports.clock.monotonic()
    if take:
        return not ports.limits.take_rate(key, limit, window, now)
    return ports.limits.peek_rate(key, window, now) + 1 > limit


def rcpt(conversation: Conversation, command: Command) -> Reply | Awaitable[Reply]:
    """Add a recipient, when it is local and known, or the client may relay."""
    transaction = conversation.transaction
    assert transaction is not None  # the session lets no RCPT pass without MAIL
    policy, ports = conversation.policy, conversation.ports
    if len(transaction.order) >= policy.max_recipients:
        return R452_TOO_MANY_RECIPIENTS  # RFC 5321 §4.5.3.1.10
    if ports.clock.monotonic() - transaction.started > policy.transaction_timeout:
        return TRANSACTION_TOO_LONG
    address: Address = command.address
    place = transaction.places.get(address)
    if place is not None:
        transaction.order.append(place)  # named again: one copy, but LMTP owes a reply for each RCPT
        return R250_RECIPIENT_OK
    account = resolve(conversation, address)
    if type(account) is str:
        has_room = not account or ports.intake.room_for(account, max(transaction.parameters.size, 0))
        if has_room is True:
            return _add(conversation, transaction, account, command)
        return _find_room(conversation, transaction, account, has_room, command)
    return _find_account(conversation, transaction, account, command)


def _add(conversation: Conversation, transaction: Transaction, account: str, command: Command) -> Reply:
    parameters = command.parameters
    transaction.add(Recipient(command.address, account, parameters.notify, parameters.orcpt))
    conversation.ports.metrics.inc(_ACCEPTED)
    return R250_RECIPIENT_OK


async def _find_account(
    conversation: Conversation, transaction: Transaction, account: str | Reply | Awaitable[str | Reply], command: Command
) -> Reply:
    """A recipient that had to be asked for, or is refused."""
    address = command.address
    if not isinstance(account, str | Reply):
        try:
            account = await account
        except AuthUnavailable as error:
            conversation.log.error("recipient lookup failed", recipient=str(address), error=str(error))
            return DIRECTORY_DOWN
    if isinstance(account, Reply):
        conversation.ports.metrics.inc(SMTP_RECIPIENTS["rejected"])
        if account is R550_UNKNOWN_USER:
            return await _count_unknown(conversation, address)
        conversation.log.info("recipient refused", recipient=str(address), reply=account.code, reason=account.lines[0])
        return account
    has_room = not account or conversation.ports.intake.room_for(account, max(transaction.parameters.size, 0))
    return await _find_room(conversation, transaction, account, has_room, command)


async def _find_room(
    conversation: Conversation, transaction: Transaction, account: str, has_room: bool | Awaitable[bool], command: Command
) -> Reply:
    if not isinstance(has_room, bool):
        has_room = await has_room
    if has_room:
        return _add(conversation, transaction, account, command)
    conversation.ports.metrics.inc(SMTP_RECIPIENTS["rejected"])
    conversation.log.info("recipient refused", recipient=str(command.address), reply=452, reason=MAILBOX_FULL.lines[0])
    return MAILBOX_FULL


def resolve(conversation: Conversation, address: Address) -> str | Reply | Awaitable[str | Reply]:
    """A recipient's local account, "" for one that is accepted without, or the refusal. Awaiting raises AuthUnavailable."""
    policy, directory = conversation.policy, conversation.ports.directory
    # The bare "postmaster" is local everywhere (RFC 5321 §4.5.1).
    if address.domain and not directory.is_local_domain(address.domain):
        if conversation.is_trusted or directory.expand(address) is not None:
            return ""
        return RELAY_DENIED
    if not policy.check_recipients:
        return ""
    account = directory.account_of(address)
    if account and type(account) is str:
        return account
    return _look_up(conversation, address, account)


async def _look_up(conversation: Conversation, address: Address, account: str | Awaitable[str]) -> str | Reply:
    if not isinstance(account, str):
        account = await account
    policy, directory = conversation.policy, conversation.ports.directory
    if account or directory.expand(address) is not None or not policy.refuse_unknown:
        return account
    return R550_UNKNOWN_USER


async def _count_unknown(conversation: Conversation, address: Address) -> Reply:
    """Slow down, then end a session that guesses addresses; the reply is the same for every one of them."""
    conversation.log.info("recipient refused", recipient=str(address), reply=550, reason=R550_UNKNOWN_USER.lines[0])
    if conversation.identity is not None or conversation.policy.listener == "lmtp":
        return R550_UNKNOWN_USER
    conversation.unknown_recipients += 1
    if conversation.unknown_recipients > MAX_UNKNOWN_RECIPIENTS:
        conversation.log.warn("address harvesting", unknown_recipients=conversation.unknown_recipients)
        return HARVESTING
    if conversation.unknown_recipients > SLOW_UNKNOWN_RECIPIENTS:
        await conversation.ports.sleep(UNKNOWN_RECIPIENT_DELAY_SECONDS)
    return R550_UNKNOWN_USER
