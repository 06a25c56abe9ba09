"""Injection into a real intake and queue, in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from rusmes.injection.injector import Injector
from rusmes.injection.request import Request, Result, read_request
from rusmes.model.plan import Refusal
from rusmes.queue.api import CAMPAIGN, TENANT
from rusmes.storage.ledger import MemoryLedger
from tests.sinks.engine import config_for, running
from tests.sinks.smtp_sink import Sink

RAW = "From: News <news@example.com>\nSubject: hi\n\nhello\n"


def request(*items: dict[str, Any]) -> Request:
    return read_request({"messages": [{"raw": RAW, "recipients": ["u@example.org"], **item} for item in items]})


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        async with Sink() as sink, running(config_for(sink.port, **options)) as engine:
            injector = Injector(
                engine.config, engine.intake, engine.directory, MemoryLedger(clock=engine.clock), engine.clock, engine.ids
            )
            await test(injector, engine, sink)

    asyncio.run(main())


def test_each_item_has_its_result_and_arrives() -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        recipients = [
            {"address": "a@example.org", "substitutions": {"n": "A"}},
            {"address": "b@example.org", "substitutions": {"n": "B"}},
        ]
        structured = {"from": "news@example.com", "subject": "for {{n}}", "text": "x"}
        results = await injector.inject(
            request(
                {"tenant": "acme", "campaign": "may"},
                {"raw": "", "message": structured, "recipients": recipients},
                {"raw": "nothing"},
            ),
            "192.0.2.9",
        )
        assert [result.status for result in results] == ["accepted", "accepted", "invalid"]
        assert [len(result.ids) for result in results] == [1, 2, 0]
        messages = await sink.wait_for(3)
        by_recipient = {message.rcpts[0]: message for message in messages}
        assert b"Subject: for A\r\n" in by_recipient["<a@example.org>"].data
        assert b"Subject: for B\r\n" in by_recipient["<b@example.org>"].data
        assert b"To: a@example.org\r\n" in by_recipient["<a@example.org>"].data
        raw = by_recipient["<u@example.org>"]
        assert raw.mail.startswith("<news@example.com>")
        assert b"with HTTP id" in raw.data.partition(b"\r\n\r\n")[0]

    run(test)


def test_tenant_and_campaign_go_with_the_mail() -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        seen = []
        accept = engine.intake.accept

        async def watched(mail: Any) -> Any:
            seen.append(dict(mail.attributes))
            return await accept(mail)

        injector._intake = _Watched(engine.intake, watched)  # type: ignore[assignment]
        await injector.inject(request({"tenant": "acme", "campaign": "may"}), "192.0.2.9")
        assert seen == [{TENANT: "acme", CAMPAIGN: "may"}]

    run(test)


class _Watched:
    def __init__(self, intake: Any, accept: Any) -> None:
        self._intake = intake
        self.accept = accept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._intake, name)


def test_a_key_makes_an_item_happen_once() -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        first, twin = await asyncio.gather(
            injector.inject(request({"key": "order 7"}), "a"), injector.inject(request({"key": "order 7"}), "a")
        )
        (again,) = await injector.inject(request({"key": "order 7", "raw": "nothing any more"}), "a")
        (other,) = await injector.inject(request({"key": "order 7", "tenant": "else"}), "a")
        assert first[0].ids == twin[0].ids == again.ids != other.ids
        assert [first[0].duplicate, twin[0].duplicate, again.duplicate, other.duplicate] == [False, True, True, False]
        assert len(await sink.wait_for(2)) == 2

    run(test)


def test_what_was_refused_may_be_tried_again_with_its_key() -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        real = engine.intake
        injector._intake = _Busy(real)  # type: ignore[assignment]
        (busy,) = await injector.inject(request({"key": "k"}), "a")
        assert (busy.status, busy.retry, busy.refused[0].code) == ("refused", True, 421)
        injector._intake = real
        (result,) = await injector.inject(request({"key": "k"}), "a")
        assert (result.status, result.duplicate) == ("accepted", False)

    run(test)


class _Busy(_Watched):
    def __init__(self, intake: Any) -> None:
        super().__init__(intake, intake.accept)

    def admit(self, size: int = 0) -> Refusal:
        return Refusal(421, "4.3.2", "busy")


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({"recipients": ["nobody"]}, "is not an address"),
        ({"sender": "nobody"}, "is not an address"),
        ({"recipients": [{"address": "u@example.org", "notify": ["MAYBE"]}]}, "notify"),
        ({"recipients": [{"address": "u@example.org", "notify": ["NEVER", "DELAY"]}]}, "stands alone"),
    ],
)
def test_what_can_never_be_accepted(item: dict[str, Any], error: str) -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        (result,) = await injector.inject(request(item), "a")
        assert result.status in ("invalid", "refused")
        assert error in (result.error or result.refused[0].text)
        assert not result.retry
        assert not result.ids

    run(test)


def test_a_message_that_is_too_large_is_refused() -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        injector._max_bytes = 50
        (result,) = await injector.inject(request({}), "a")
        assert (result.status, "50 may be" in result.error) == ("invalid", True)

    run(test)


def test_unknown_local_recipients_are_refused_and_the_others_accepted() -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        (account,) = list(engine.directory.accounts)[:1]
        domain = account.rpartition("@")[2]
        (result,) = await injector.inject(request({"recipients": [account, f"nobody@{domain}", "u@example.org"]}), "a")
        assert result.status == "partly"
        assert [(one.address, one.status) for one in result.refused] == [(f"nobody@{domain}", "5.1.1")]
        await sink.wait_for(1)
        assert len(await engine.inbox(account)) == 1

    run(test)


def test_results_survive_the_ledger() -> None:
    result = Result("partly", ("id",), (), retry=True)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


def test_what_waits_for_its_turn_takes_a_bounded_part_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusmes.injection.injector.KEPT_BYTES", 2_000_000)

    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        most = 0
        compose = injector._compose

        async def watched(item: Any, target: Any) -> bytes:
            nonlocal most
            data = await compose(item, target)
            most = max(most, injector._kept_bytes)
            return data

        monkeypatch.setattr(injector, "_compose", watched)
        targets = [{"address": f"u{i}@example.org", "substitutions": {"a": "x" * 1000}} for i in range(8)]
        item = {"raw": RAW.replace("hello", "{{a}}\n" * 400), "recipients": targets}
        broken = [*targets, {"address": "last@example.org", "substitutions": {"b": 1}}]
        good, bad = await injector.inject(request(item, {**item, "recipients": broken}), "192.0.2.9")
        assert (good.status, len(good.ids), bad.status, injector._kept_bytes) == ("accepted", 8, "invalid", 0)
        assert 0 < most <= 2_000_000
        messages = await sink.wait_for(8)
        assert {message.rcpts[0] for message in messages} == {f"<u{i}@example.org>" for i in range(8)}

    run(test)


def test_a_tenant_is_a_name_that_can_be_printed() -> None:
    async def test(injector: Injector, engine: Any, sink: Sink) -> None:
        results = await injector.inject(request({"tenant": "a\x1b[31m"}, {"campaign": "b\n"}), "192.0.2.9")
        assert [(result.status, "printed" in result.error) for result in results] == [("invalid", True)] * 2

    run(test)
