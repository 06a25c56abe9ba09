"""The server takes in what is in the maildrop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Storage
from rusmes.injection.request import Refused, Request, Result
from rusmes.model.content import Content
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Refusal
from rusmes.server.maildrop import RETRY_SECONDS, Maildrop
from rusmes.storage.maildrop import Drop, DropRecipient, path_of, waiting_drops, write_drop


class Injected:
    def __init__(self) -> None:
        self.answers: list[Result | Exception] = []
        self.items: list[Any] = []

    async def inject(self, request: Request, client: str) -> list[Result]:
        self.items += request.messages
        answer = self.answers.pop(0) if self.answers else Result("accepted", ("id",))
        if isinstance(answer, Exception):
            raise answer
        return [answer]


class Taken:
    """An intake and a writer of notices that write down what they get."""

    def __init__(self) -> None:
        self.accepted: list[Mail] = []
        self.told: list[tuple[str, str]] = []

    def writer(self) -> Any:
        return self

    def write(self, _data: bytes) -> None: ...

    def finish(self) -> Content:
        return Content(b"", 0, 0, data=b"")

    def abort(self) -> None: ...

    def failure(self, mail: Mail, recipients: Sequence[Recipient], refusal: Refusal) -> Mail:
        self.told += [(str(recipient.address), refusal.text) for recipient in recipients]
        return mail

    async def accept(self, mail: Mail) -> None:
        self.accepted.append(mail)


DROP = Drop("a@x.org", (DropRecipient("b@y.org", ("NEVER",)), DropRecipient("c@y.org")), 0, 1.0, "FULL", "env")


def run(tmp_path: Path, body: Callable[[Maildrop, Injected, Taken, FakeClock], Awaitable[None]]) -> None:
    async def main() -> None:
        injected, taken, clock = Injected(), Taken(), FakeClock()
        config = Config(domain="example.com", storage=Storage(path=str(tmp_path)))
        maildrop = Maildrop(config, injected, taken, taken, clock, IdSource())  # type: ignore[arg-type]
        os.mkdir(maildrop.directory)
        await body(maildrop, injected, taken, clock)

    asyncio.run(main())


def test_messages_are_accepted_once(tmp_path: Path) -> None:
    async def body(maildrop: Maildrop, injected: Injected, taken: Taken, clock: FakeClock) -> None:
        ids = [write_drop(maildrop.directory, DROP, [b"Subject: x\r\n\r\n"]) for _ in range(25)]
        assert await maildrop.look() == 25
        assert await maildrop.look() == 0
        item = injected.items[0]
        assert sorted(one.key for one in injected.items) == sorted(f"maildrop {id}" for id in ids)
        assert (item.sender, item.raw_base64, item.envid, item.ret) == ("a@x.org", b"Subject: x\r\n\r\n", "env", "FULL")
        assert [(target.address, target.notify) for target in item.recipients] == [("b@y.org", ("NEVER",)), ("c@y.org", ())]
        assert not taken.told

    run(tmp_path, body)


def test_what_cannot_be_accepted_now_stays(tmp_path: Path) -> None:
    async def body(maildrop: Maildrop, injected: Injected, taken: Taken, clock: FakeClock) -> None:
        write_drop(maildrop.directory, DROP, [b"x"])
        later = Result("refused", refused=(Refused("b@y.org", 452, "4.3.1", "no space"),), retry=True)
        injected.answers = [later, OSError("broken"), Result("accepted")]
        assert await maildrop.look() == 0
        assert await maildrop.look() == 0
        assert len(injected.items) == 1, "it is left alone for a while"
        for taken_in in (0, 1):
            clock.advance(RETRY_SECONDS)
            assert await maildrop.look() == taken_in
        assert not taken.told
        assert waiting_drops(maildrop.directory) == []

    run(tmp_path, body)


def test_what_never_can_be_returns_to_its_sender(tmp_path: Path) -> None:
    async def body(maildrop: Maildrop, injected: Injected, taken: Taken, clock: FakeClock) -> None:
        for answer, told in [
            (Result("invalid", error="no header"), [("b@y.org", "no header"), ("c@y.org", "no header")]),
            (Result("refused", refused=(Refused("c@y.org", 550, "5.1.1", "who?"),)), [("c@y.org", "who?")]),
            (Result("partly", ("id",), (Refused("c@y.org", 550, "5.1.1", "who?"),)), [("c@y.org", "who?")]),
            (Result("refused", refused=(Refused("c@y.org", 550, "5.1.1", "who?"),), duplicate=True), []),
        ]:
            taken.told.clear()
            write_drop(maildrop.directory, DROP, [b"x"])
            injected.answers = [answer]
            assert await maildrop.look() == 1
            assert taken.told == told
        assert all(str(mail.sender) == "a@x.org" for mail in taken.accepted)
        assert os.listdir(maildrop.directory) == []

    run(tmp_path, body)


def test_what_has_nobody_to_tell_is_put_aside(tmp_path: Path) -> None:
    async def body(maildrop: Maildrop, injected: Injected, taken: Taken, clock: FakeClock) -> None:
        id = write_drop(maildrop.directory, structs.replace(DROP, sender="<>"), [b"x"])
        injected.answers = [Result("invalid", error="no header")]
        assert await maildrop.look() == 1
        assert os.listdir(maildrop.directory) == [f"{id}.mail.bad"]
        other = write_drop(maildrop.directory, DROP, [b"x"])
        Path(path_of(maildrop.directory, other)).write_bytes(b"garbage")
        assert await maildrop.look() == 1
        assert waiting_drops(maildrop.directory) == []
        assert len(os.listdir(maildrop.directory)) == 2

    run(tmp_path, body)


def test_a_message_that_is_too_large_is_put_aside(tmp_path: Path) -> None:
    async def body(maildrop: Maildrop, injected: Injected, taken: Taken, clock: FakeClock) -> None:
        maildrop._max_bytes = 10
        write_drop(maildrop.directory, DROP, [b"x" * 11])
        assert await maildrop.look() == 1
        assert injected.items == []

    run(tmp_path, body)
