"""From items to accepted mail: envelopes, idempotency, and one answer for each."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import structs

from rusmes._core import headers
from rusmes.auth.api import Directory
from rusmes.clock import Clock
from rusmes.config import names
from rusmes.config.schema import Config
from rusmes.errors import AuthUnavailable, RusmesError, StoreFull
from rusmes.injection.composition import Invalid, addresses_in, compose
from rusmes.injection.request import Item, Refused, Request, Result, Target
from rusmes.model.address import Address
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS, Mail, Origin, Recipient
from rusmes.model.plan import Refusal
from rusmes.queue.api import CAMPAIGN, TENANT, Intake
from rusmes.smtp.received import received_line
from rusmes.storage.api import Ledger

TABLE: Final = "idempotency"
KEY_SECONDS: Final = 86400.0
AT_ONCE: Final = 64
"""Messages that are under way together; they share commits."""
KEPT_BYTES: Final = 32 << 20
"""Of messages that were composed and wait for their turn, over all requests: what is above is composed again in its turn."""
COMPOSED_AGAIN_AT_ONCE: Final = 2

_NOTIFY: Final = {"NEVER": NOTIFY_NEVER, "SUCCESS": NOTIFY_SUCCESS, "FAILURE": NOTIFY_FAILURE, "DELAY": NOTIFY_DELAY}
_UNKNOWN: Final = Refusal(550, "5.1.1", "no such user here")
_NO_DIRECTORY: Final = Refusal(451, "4.3.0", "the accounts cannot be asked now")


class _Draft:
    """A message that was composed, so that it is known to be one."""

    __slots__ = ("data", "recipients", "target")

    def __init__(self, target: Target | None, recipients: list[Recipient]) -> None:
        self.target = target
        self.recipients = recipients
        self.data = b""
        """b"" = there was no room for it."""


class Injector:
    """Takes requests; everything it accepts is as durable as what SMTP accepts when `inject` returns."""

    def __init__(
        self,
        config: Config,
        intake: Intake,
        directory: Directory,
        ledger: Ledger,
        clock: Clock,
        ids: IdSource,
        *,
        helo: str = "http",
        protocol: str = "HTTP",
    ) -> None:
        """`helo` and `protocol` say in Received how the mail came."""
        self._helo = helo
        self._protocol = protocol
        self._intake = intake
        self._directory = directory
        self._ledger = ledger
        self._clock = clock
        self._ids = ids
        self._running: dict[bytes, asyncio.Future[Result]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._again = asyncio.Semaphore(COMPOSED_AGAIN_AT_ONCE)
        self._kept_bytes = 0
        self.apply(config)

    def apply(self, config: Config) -> None:
        self._hostname = config.hostname
        self._max_bytes = int(config.smtp.max_message_size)
        self._refuses_unknown = config.security.check_recipient_exists and config.security.reject_unknown_recipients

    async def inject(self, request: Request, client: str) -> list[Result]:
        """A result for each item, in their order."""
        results = await asyncio.gather(*(self._once(item, client) for item in request.messages))
        if any(item.key for item in request.messages):
            # The answer must not be forgotten once it was given.
            await self._ledger.flush()
        return results

    async def _once(self, item: Item, client: str) -> Result:
        """An item with a key is carried out once; of several at the same time one is, and the others get its answer."""
        if not item.key:
            return await self._carry_out(item, client)
        key = hashlib.sha256(f"{item.tenant}\0{item.key}".encode()).digest()
        before = self._ledger.get(TABLE, key)
        if before is not None:
            return structs.replace(msgspec.json.decode(before, type=Result), duplicate=True)
        running = self._running.get(key)
        if running is not None:
            return structs.replace(await asyncio.shield(running), duplicate=True)
        future = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            result = await self._carry_out(item, client)
        except BaseException as error:
            future.set_exception(error if isinstance(error, Exception) else RusmesError("the request was given up"))
            future.exception()  # nobody else may have asked
            raise
        else:
            future.set_result(result)
            if result.ids:
                self._ledger.put(TABLE, key, msgspec.json.encode(result), expires=self._clock.now() + KEY_SECONDS)
            return result
        finally:
            del self._running[key]

    async def _carry_out(self, item: Item, client: str) -> Result:
        drafts: list[_Draft] = []
        try:
            for key, name in (("tenant", item.tenant), ("campaign", item.campaign)):
                if not name.isprintable():
                    raise Invalid(f"{key} holds a character that cannot be printed")
            targets = [Target(one) if isinstance(one, str) else one for one in item.recipients]
            recipients = [_recipient(target) for target in targets]
            drafts = _drafts(item, targets, recipients)
            for draft in drafts:
                data = await self._compose(item, draft.target)
                if self._kept_bytes + len(data) <= KEPT_BYTES:
                    self._kept_bytes += len(data)
                    draft.data = data
            outcomes = await asyncio.gather(*(self._accept(item, draft, client) for draft in drafts))
        except Invalid as error:
            return Result("invalid", error=str(error))
        finally:
            for draft in drafts:
                self._forget(draft)
        ids = tuple(id for outcome in outcomes for id in outcome[0])
        refused = tuple(one for outcome in outcomes for one in outcome[1])
        status = "accepted" if not refused else "partly" if len(refused) < len(recipients) else "refused"
        return Result(status, ids, refused, retry=bool(refused) and all(one.code < 500 for one in refused))

    def _forget(self, draft: _Draft) -> None:
        self._kept_bytes -= len(draft.data)
        draft.data = b""

    async def _compose(self, item: Item, target: Target | None) -> bytes:
        """The message of an item for all, or for one of its recipients. In a thread: a thousand of them take a second."""
        data = await asyncio.to_thread(compose, item, target, hostname=self._hostname, now=self._clock.now())
        if len(data) > self._max_bytes:
            raise Invalid(f"the message has {len(data)} bytes, {self._max_bytes} may be")
        return data

    async def _accept(self, item: Item, draft: _Draft, client: str) -> tuple[list[str], list[Refused]]:
        recipients = draft.recipients
        async with self._slots if draft.data else self._again:
            try:
                known, refused = await self._known(recipients)
                if not known:
                    return [], refused
                data = draft.data or await self._compose(item, draft.target)
                busy = self._intake.admit(len(data))
                if busy is not None:
                    return [], refused + _refuse(known, busy)
                outcome = await self._intake.accept(self._mail(item, data, known, client))
            except Invalid as error:
                return [], _refuse(recipients, Refusal(550, "5.6.0", str(error)))
            except StoreFull:
                return [], _refuse(recipients, Refusal(452, "4.3.1", "no space left"))
            except RusmesError:
                return [], _refuse(recipients, Refusal(451, "4.3.0", "the message could not be stored"))
            finally:
                self._forget(draft)
        return list(outcome.queue_ids), refused + [
            Refused(str(recipient.address), refusal.code, refusal.status, refusal.text)
            for recipient, refusal in zip(known, outcome.refusals, strict=True)
            if refusal is not None
        ]

    async def _known(self, recipients: list[Recipient]) -> tuple[list[Recipient], list[Refused]]:
        """Recipients with their accounts, and those that do not exist here, as at RCPT."""
        known: list[Recipient] = []
        refused: list[Refused] = []
        for recipient in recipients:
            address = recipient.address
            if not self._directory.is_local_domain(address.domain):
                known.append(recipient)
                continue
            try:
                account = self._directory.account_of(address)
                if not isinstance(account, str):
                    account = await account
            except AuthUnavailable:
                refused += _refuse([recipient], _NO_DIRECTORY)
                continue
            if account or self._directory.expand(address) is not None or not self._refuses_unknown:
                known.append(structs.replace(recipient, account=account) if account else recipient)
            else:
                refused += _refuse([recipient], _UNKNOWN)
        return known, refused

    def _mail(self, item: Item, data: bytes, recipients: list[Recipient], client: str) -> Mail:
        id, now = self._ids.next_id(), self._clock.now()
        origin = Origin(
            client_address=client, helo=self._helo, protocol=self._protocol, listener="submission", trusted=True
        )
        sender = _sender(item, data)
        is_ascii = data.isascii()
        mail = Mail(
            id,
            sender,
            recipients,
            None,  # type: ignore[arg-type]
            origin,
            created=now,
            body_type="7BIT" if is_ascii else "8BITMIME",
            smtputf8=not _is_plain(sender, recipients, data),
            envid=item.envid,
            ret=item.ret,
        )
        for name, value in ((TENANT, item.tenant), (CAMPAIGN, item.campaign)):
            if value:
                mail.attributes[name] = value
        writer = self._intake.writer()
        try:
            for_whom = recipients[0].address if len(recipients) == 1 else None
            writer.write(received_line(origin, self._hostname, id_text(id), now, recipient=for_whom))
            writer.write(data)
            mail.content = writer.finish()
        except BaseException:
            writer.abort()
            raise
        return mail


def _drafts(item: Item, targets: list[Target], recipients: list[Recipient]) -> list[_Draft]:
    """Who gets which message: one for all, or one for each recipient where they differ."""
    differ = any(target.substitutions for target in targets) or (
        item.message is not None and not item.message.to and len(targets) > 1
    )
    if not differ:
        return [_Draft(targets[0] if len(targets) == 1 else None, recipients)]
    return [_Draft(target, [recipient]) for target, recipient in zip(targets, recipients, strict=True)]


def _refuse(recipients: Iterable[Recipient], refusal: Refusal) -> list[Refused]:
    return [Refused(str(one.address), refusal.code, refusal.status, refusal.text) for one in recipients]


def _recipient(target: Target) -> Recipient:
    notify = 0
    for word in target.notify:
        if word.upper() not in _NOTIFY:
            raise Invalid(f"notify is NEVER, or any of SUCCESS, FAILURE, DELAY; not {word!r}")
        notify |= _NOTIFY[word.upper()]
    if notify & NOTIFY_NEVER and notify != NOTIFY_NEVER:
        raise Invalid("NEVER stands alone (RFC 3461 section 4.1)")
    return Recipient(_address(target.address), "", notify)


def _address(text: str) -> Address:
    try:
        return names.address(text)
    except ValueError as error:
        raise Invalid(str(error)) from None


def _sender(item: Item, data: bytes) -> Address | None:
    """The envelope's sender: as it is given, else the first address of From. Raises Invalid."""
    if item.sender == "<>":
        return None
    if item.sender:
        return _address(item.sender)
    value = headers.find_value(data, b"from") or b""
    found = addresses_in(value.decode("utf-8", "replace"))
    if not found:
        raise Invalid("the From field has no address; give `sender`")
    return _address(found[0].addr_spec)


def _is_plain(sender: Address | None, recipients: list[Recipient], data: bytes) -> bool:
    """Whether the mail needs no SMTPUTF8 (RFC 6531): addresses and header are ASCII."""
    addresses = [recipient.address for recipient in recipients] + ([sender] if sender is not None else [])
    end = data.find(b"\r\n\r\n")
    return all(address.local.isascii() for address in addresses) and data[: end if end >= 0 else len(data)].isascii()
