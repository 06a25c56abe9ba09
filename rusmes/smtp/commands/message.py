"""DATA and BDAT: a body goes to the intake's writer as it arrives, and the mail to the pipeline at its end.

RFC 5321 §4.1.1.4, §4.4 (Received), §6.3 (loops); RFC 3030 (BDAT); RFC 2033 §4.2 (a reply for each recipient of LMTP);
RFC 6409 §8 (what a submission server adds); RFC 8601 §5 (results that claim to be ours).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rusmes._core.headers import find_value
from rusmes.errors import StoreError, StoreFull
from rusmes.metrics import (
    MESSAGE_SECONDS,
    SMTP_MESSAGE_BYTES,
    SMTP_MESSAGES,
    SMTP_MESSAGES_RECEIVED,
    SMTP_MESSAGES_REJECTED,
)
from rusmes.model.mail import Mail
from rusmes.smtp import authresults
from rusmes.smtp.commands.envelope import TRANSACTION_TOO_LONG, is_rate_exceeded
from rusmes.smtp.policy import MAX_RECEIVED_FIELDS, MIN_BYTES_PER_SECOND
from rusmes.smtp.received import date, received_head, received_tail
from rusmes.smtp.reply import (
    R354_GO_AHEAD,
    R450_RATE_LIMITED,
    R451_STORE_FAILED,
    R452_STORE_FULL,
    R554_ROUTING_LOOP,
    Reply,
    accepted,
    refused,
)
from rusmes.smtp.session import refusal_of_body

if TYPE_CHECKING:
    from rusmes.model.content import Content
    from rusmes.queue.api import Outcome
    from rusmes.smtp.commands.conversation import Conversation, Transaction
    from rusmes.smtp.session import BodyEnd, Command


def data(conversation: Conversation, command: Command) -> Reply:
    """Ask for the body, or refuse it."""
    return begin_body(conversation) or R354_GO_AHEAD


def bdat(conversation: Conversation, command: Command) -> None:
    """Take the first chunk of a message; the reply comes at the chunk's end, so a refusal waits until then."""
    transaction = conversation.transaction
    assert transaction is not None
    if transaction.refusal is not None:
        return
    if transaction.writer is None:
        transaction.refusal = begin_body(conversation)
    elif _seconds_over(conversation, transaction) > transaction.writer.size / MIN_BYTES_PER_SECOND:
        transaction.refusal = TRANSACTION_TOO_LONG  # chunks of one byte, one every minute
    if transaction.refusal is not None:
        conversation.session.discard_body()


def _seconds_over(conversation: Conversation, transaction: Transaction) -> float:
    """How much longer than its time the transaction is open; negative while it has some left."""
    return conversation.ports.clock.monotonic() - transaction.started - conversation.policy.transaction_timeout


def begin_body(conversation: Conversation) -> Reply | None:
    """Open the writer and put the Received line on top; or a refusal."""
    transaction = conversation.transaction
    assert transaction is not None
    if _seconds_over(conversation, transaction) > 0:
        return TRANSACTION_TOO_LONG
    if conversation.policy.counts_messages and is_rate_exceeded(conversation, take=True):
        return R450_RATE_LIMITED
    transaction.writer = conversation.ports.intake.writer()
    return _write(conversation, transaction, _received(conversation, transaction))


def take_chunk(conversation: Conversation, chunk: bytes) -> None:
    """Bytes of the body. When they cannot be kept, the rest is swallowed and the refusal given at its end."""
    transaction = conversation.transaction
    assert transaction is not None
    if transaction.writer is None:
        return
    transaction.refusal = _write(conversation, transaction, chunk)
    if transaction.refusal is not None:
        conversation.session.discard_body()


def _write(conversation: Conversation, transaction: Transaction, chunk: bytes) -> Reply | None:
    assert transaction.writer is not None
    try:
        transaction.writer.write(chunk)
    except StoreError as error:
        transaction.abandon()
        conversation.log.error("body cannot be stored", queue_id=transaction.queue_id, error=str(error))
        return _store_refusal(error)
    return None


def _store_refusal(error: Exception) -> Reply:
    return R452_STORE_FULL if isinstance(error, StoreFull) else R451_STORE_FAILED


def _received(conversation: Conversation, transaction: Transaction) -> bytes:
    recipients = transaction.recipients
    origin = conversation.origin
    if transaction.parameters.smtputf8:
        head = received_head(origin, conversation.policy.hostname, conversation.protocol_name(utf8=True))
    else:
        head = conversation.received_head
    # "for" only when there is one: RFC 5321 §7.2 warns of showing recipients to each other.
    recipient = recipients[0].address if len(recipients) == 1 else None
    return received_tail(head, transaction.queue_id, conversation.ports.clock.now(), tls=origin.tls, recipient=recipient)


def end_of_body(
    conversation: Conversation, event: BodyEnd, answer: Callable[[Outcome | Exception], None] | None = None
) -> list[Reply] | Awaitable[list[Reply]] | None:
    """What to answer to the end of DATA or of a BDAT chunk: a reply, or one for each recipient; to be awaited for a message.

    None: `answer` will be called with what `settle` makes replies of.
    """
    transaction = conversation.transaction
    assert transaction is not None
    conversation.junk = 0
    refusal = transaction.refusal
    if event.faults:
        refusal = refusal_of_body(event.faults)
    elif refusal is None and event.received_count > MAX_RECEIVED_FIELDS:
        refusal = R554_ROUTING_LOOP
    if refusal is not None:
        return _refused(conversation, transaction, refusal)
    if not event.last:
        return [Reply(250, "2.0.0", f"{event.size} octets received")]
    return _hand_over(conversation, transaction, event.eight_bit, answer)


def _refused(conversation: Conversation, transaction: Transaction, refusal: Reply) -> list[Reply]:
    """A mail that the intake has not seen, or could not keep; so its line is written here."""
    conversation.log.info(
        "message refused",
        id=transaction.queue_id,
        sender="" if transaction.sender is None else str(transaction.sender),
        recipients=len(transaction.recipients),
        reply=f"{refusal.code} {refusal.status} {refusal.lines[0]}",
    )
    return _end_refused(conversation, refusal)


def _end_refused(conversation: Conversation, refusal: Reply) -> list[Reply]:
    metrics = conversation.ports.metrics
    metrics.inc(SMTP_MESSAGES["rejected" if refusal.code >= 500 else "deferred"])
    if refusal.code >= 500:
        metrics.inc(SMTP_MESSAGES_REJECTED)
    due = conversation.session.replies_due
    conversation.end_transaction()
    return [refusal] * due


def _hand_over(
    conversation: Conversation, transaction: Transaction, eight_bit: bool, answer: Callable[[Outcome | Exception], None] | None
) -> list[Reply] | Awaitable[list[Reply]] | None:
    """Give the mail to the intake; its bytes are durable when that has an outcome, and only then is it acknowledged."""
    ports, writer = conversation.ports, transaction.writer
    assert writer is not None
    transaction.writer = None  # a cancelled session must not pull a file from under a commit
    try:
        content = writer.finish()
    except StoreError as error:
        conversation.log.error("body cannot be stored", queue_id=transaction.queue_id, error=str(error))
        return _refused(conversation, transaction, _store_refusal(error))
    mail = _mail(conversation, transaction, content)
    if eight_bit and mail.body_type == "7BIT":
        mail.body_type = "8BITMIME"  # what it is, not what it was said to be: the next server must be able to take it
    _mend_header(conversation, transaction, mail)
    transaction.size = content.size
    transaction.handed_over = ports.clock.monotonic()
    if answer is None:
        return _wait(conversation, ports.intake.accept(mail))
    try:
        waiting = ports.intake.hand_over(mail, answer)
    except Exception as error:
        return settle(conversation, error)
    return None if waiting is None else _wait(conversation, waiting)


async def _wait(conversation: Conversation, waiting: Awaitable[Outcome]) -> list[Reply]:
    try:
        outcome = await waiting
    except Exception as error:
        return settle(conversation, error)
    return settle(conversation, outcome)


def settle(conversation: Conversation, outcome: Outcome | Exception) -> list[Reply]:
    """The replies to a message that the intake has an outcome for, or could not take. The transaction is over."""
    transaction, ports = conversation.transaction, conversation.ports
    assert transaction is not None
    if isinstance(outcome, Exception):
        if not isinstance(outcome, StoreError):
            error = f"{type(outcome).__name__}: {outcome}"
            conversation.log.error("intake failed", queue_id=transaction.queue_id, error=error)
        return _refused(conversation, transaction, _store_refusal(outcome))
    ports.metrics.observe(MESSAGE_SECONDS, ports.clock.monotonic() - transaction.handed_over)
    if None in outcome.refusals:
        conversation.transaction = None
        return _accepted(conversation, transaction, outcome)
    return _all_refused(conversation, transaction, outcome)


def _mail(conversation: Conversation, transaction: Transaction, content: Content) -> Mail:
    parameters = transaction.parameters
    origin = conversation.origin
    if parameters.smtputf8:
        origin = replace(origin, protocol=conversation.protocol_name(utf8=True))
    return Mail(
        transaction.id,
        transaction.sender,
        transaction.recipients,
        content,
        origin,
        created=conversation.ports.clock.now(),
        body_type=parameters.body,
        smtputf8=parameters.smtputf8,
        requiretls=parameters.requiretls,
        ret=parameters.ret,
        envid=parameters.envid,
    )


def _mend_header(conversation: Conversation, transaction: Transaction, mail: Mail) -> None:
    """What the header must not say (results under our name), and what a user's agent left out."""
    policy = conversation.policy
    if policy.listener == "lmtp":
        return  # the MTA in front of us is one of ours
    header = mail.content.header_block()
    kept = authresults.foreign_results(header, policy.own_names)
    if kept is not None:
        mail.removed = mail.removed | {authresults.FIELD_NAME}
        mail.prepended = [*mail.prepended, *kept]
        conversation.log.warn("forged Authentication-Results removed", id=transaction.queue_id)
    if policy.listener == "submission":
        # RFC 6409 §8.2, §8.3
        if find_value(header, b"date") is None:
            mail.prepended.insert(0, f"Date: {date(mail.created)}\r\n".encode())
        if find_value(header, b"message-id") is None:
            mail.prepended.insert(0, f"Message-ID: <{transaction.queue_id}@{policy.hostname}>\r\n".encode())


def _accepted(conversation: Conversation, transaction: Transaction, outcome: Outcome) -> list[Reply]:
    """At least one recipient's mail is durable."""
    metrics = conversation.ports.metrics
    metrics.inc(SMTP_MESSAGES["accepted"])
    metrics.inc(SMTP_MESSAGES_RECEIVED)
    metrics.observe(SMTP_MESSAGE_BYTES, transaction.size)
    conversation.messages += 1
    conversation.errors = 0
    if conversation.is_trusted:
        conversation.unknown_recipients = 0
    done = accepted(transaction.queue_id)
    if conversation.policy.protocol != "lmtp":
        return [done]
    return _in_order(transaction, [done if refusal is None else refused(refusal) for refusal in outcome.refusals])


def _in_order(transaction: Transaction, replies: list[Reply]) -> list[Reply]:
    """A reply for each RCPT of LMTP, from one for each recipient."""
    return [replies[place] for place in transaction.order]


def _all_refused(conversation: Conversation, transaction: Transaction, outcome: Outcome) -> list[Reply]:
    """The pipeline refused every recipient. One that may succeed later decides for SMTP's single reply."""
    refusals = [refusal for refusal in outcome.refusals if refusal is not None]
    temporary = [refusal for refusal in refusals if not refusal.is_permanent]
    deciding = refused((temporary or refusals)[0])
    replies = _end_refused(conversation, deciding)
    if conversation.policy.protocol != "lmtp":
        return replies
    return _in_order(transaction, [refused(refusal) for refusal in refusals])
