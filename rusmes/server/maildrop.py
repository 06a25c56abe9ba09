"""Takes in what local programs left in the maildrop (`storage.maildrop`); one worker does it.

A message that cannot be accepted now stays where it is and is tried again. One that never can be is returned to its sender, for
nobody waits for an answer; where no sender can be told, the file is kept under another name and the log says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Final, Protocol

from rusmes.clock import Clock
from rusmes.config import names
from rusmes.config.schema import Config
from rusmes.errors import NotAllowed, RusmesError
from rusmes.injection.request import Item, Refused, Request, Result, Target
from rusmes.log import get_logger
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_NEVER, NOTIFY_SUCCESS, Mail, Origin, Recipient
from rusmes.model.plan import Refusal
from rusmes.queue.api import Intake
from rusmes.storage.maildrop import Drop, maildrop_of, path_of, read_drop, remove_drop, waiting_drops

LOOK_SECONDS: Final = 1.0
"""Looking into an empty directory takes 10 us."""
RETRY_SECONDS: Final = 30.0
"""For a message that could not be accepted now."""
AT_ONCE: Final = 10
"""Messages in memory at the same time."""
MAX_LOOK: Final = 1000
BAD_SUFFIX: Final = ".bad"

_NOTIFY: Final = {"NEVER": NOTIFY_NEVER, "SUCCESS": NOTIFY_SUCCESS, "FAILURE": NOTIFY_FAILURE, "DELAY": NOTIFY_DELAY}
_log = get_logger("maildrop")


class MailInjector(Protocol):
    """Accepts messages; `injection.injector.Injector` is one."""

    async def inject(self, request: Request, client: str) -> list[Result]: ...


class FailureWriter(Protocol):
    """Writes the notice of a failure; `delivery.dsn.DsnWriter` is one."""

    def failure(self, mail: Mail, recipients: Sequence[Recipient], refusal: Refusal) -> Mail | None: ...


class Maildrop:
    """Looks into the directory until it is cancelled."""

    def __init__(
        self,
        config: Config,
        injector: MailInjector,
        intake: Intake,
        notices: FailureWriter,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self.directory = maildrop_of(config.storage.path)
        self._injector = injector
        self._intake = intake
        self._notices = notices
        self._clock = clock
        self._ids = ids
        self._waits: dict[str, float] = {}
        """Until when a message is left alone, on the monotonic clock."""
        self.apply(config)

    def apply(self, config: Config) -> None:
        self._max_bytes = int(config.smtp.max_message_size)

    async def run(self) -> None:
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        while True:
            try:
                await self.look()
            except OSError as error:
                _log.error("the maildrop cannot be read", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> int:
        """Take in what is there; how many files are gone then. Raises OSError."""
        found = waiting_drops(self.directory)
        if not found:
            self._waits.clear()
            return 0
        now = self._clock.monotonic()
        due = [id for id in found if self._waits.get(id, 0.0) <= now][:MAX_LOOK]
        taken = 0
        for start in range(0, len(due), AT_ONCE):
            taken += sum(await asyncio.gather(*map(self._take, due[start : start + AT_ONCE])))
        self._waits = {id: until for id, until in self._waits.items() if id in found}
        return taken

    async def _take(self, id: str) -> bool:
        try:
            drop, message = read_drop(self.directory, id, max_bytes=self._max_bytes)
            result = await self._inject(id, drop, message)
            if result.status in ("accepted", "partly", "invalid") or not result.retry:
                await self._return(id, drop, message, result)
                remove_drop(self.directory, id)
                _log.info("taken from the maildrop", id=id, uid=drop.uid, status=result.status, queue_ids=list(result.ids))
                return True
            _log.warn("a message stays in the maildrop", id=id, reason=result.refused[0].text)
        except FileNotFoundError:
            return False
        except NotAllowed as error:
            self._put_aside(id, str(error))
            return True
        except (RusmesError, OSError) as error:
            _log.error("a message stays in the maildrop", id=id, reason=str(error))
        except Exception:
            _log.exception("a message stays in the maildrop", id=id)
        self._waits[id] = self._clock.monotonic() + RETRY_SECONDS
        return False

    async def _inject(self, id: str, drop: Drop, message: bytes) -> Result:
        item = Item(
            recipients=tuple(Target(one.address, notify=one.notify) for one in drop.recipients),
            sender=drop.sender,
            raw_base64=message,
            key=f"maildrop {id}",
            envid=drop.envid,
            ret="FULL" if drop.ret == "FULL" else "HDRS" if drop.ret == "HDRS" else "",
        )
        (result,) = await self._injector.inject(Request((item,)), "127.0.0.1")
        return result

    async def _return(self, id: str, drop: Drop, message: bytes, result: Result) -> None:
        """Tell the sender of recipients that were refused, or that it is no message. Raises RusmesError."""
        if result.duplicate:
            return
        refused = {one.address: one for one in result.refused}
        if result.status == "invalid":
            refused = {one.address: Refused(one.address, 550, "5.6.0", result.error) for one in drop.recipients}
        if not refused:
            return
        try:
            sender = names.address(drop.sender)
            recipients = [Recipient(names.address(one.address), "", _notify_of(one.notify)) for one in drop.recipients]
        except ValueError as error:
            raise NotAllowed("nobody can be told of a message in the maildrop", f"{error}; {result.error}") from None
        writer = self._intake.writer()
        try:
            writer.write(message)
            content = writer.finish()
        except BaseException:
            writer.abort()
            raise
        origin = Origin(client_address="127.0.0.1", protocol="local", trusted=True)
        mail = Mail(self._ids.next_id(), sender, recipients, content, origin, self._clock.now(), ret=drop.ret, envid=drop.envid)
        for recipient in recipients:
            why = refused.get(str(recipient.address))
            if why is None:
                continue
            notice = self._notices.failure(mail, [recipient], Refusal(why.code, why.status, why.text))
            if notice is not None:
                await self._intake.accept(notice)
            _log.warn("refused from the maildrop", id=id, mail=id_text(mail.id), recipient=why.address, reason=why.text)
        writer.abort()

    def _put_aside(self, id: str, reason: str) -> None:
        """It will never be accepted, and nobody can be told: kept for the operator."""
        _log.error("a message in the maildrop cannot be used", id=id, reason=reason)
        path = path_of(self.directory, id)
        try:
            os.rename(path, path + BAD_SUFFIX)
        except OSError as error:
            _log.error("it cannot be put aside", id=id, error=str(error))
            self._waits[id] = self._clock.monotonic() + RETRY_SECONDS


def _notify_of(words: Sequence[str]) -> int:
    return sum(_NOTIFY.get(word.upper(), 0) for word in set(words))
