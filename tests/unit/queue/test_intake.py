"""Acceptance: admission, one transaction, answers in the envelope's order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rusmes.errors import StoreError, StoreFull
from rusmes.model.mail import NOTIFY_SUCCESS, Recipient
from rusmes.model.plan import Refusal
from rusmes.queue.admission import Commits
from rusmes.queue.intake import NO_SPACE, NOT_WRITABLE, OVERLOADED, ROOM_SECONDS
from tests.sinks.engine import address
from tests.unit.queue.scripted import Bench, bench

ALICE, BOB = "alice@example.com", "bob@example.com"


def run(test: Callable[[Bench], Awaitable[None]], *, waiting_alone: bool = False, **parts: Any) -> None:
    """With a task that waits for the intake, and with one that the intake tells."""

    async def main(hands_over: bool) -> None:
        async with bench(**parts) as made:
            made.engine.hands_over = hands_over
            await test(made)

    asyncio.run(main(False))
    if not waiting_alone:
        asyncio.run(main(True))


def spy(b: Bench) -> list[str]:
    """The transactions that are made, in order."""
    calls: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        async def called(*args: Any, **more: Any) -> Any:
            calls.append(name)
            return await original(*args, **more)

        setattr(owner, name, called)

    watch(b.engine.mail_store, "append")
    watch(b.engine.queue_store, "put")
    return calls


async def quota(b: Bench, account: str, messages: int) -> None:
    await b.engine.mail_store.create_account(account, quota_messages=messages)


def test_local_mail_is_one_append() -> None:
    async def test(b: Bench) -> None:
        calls = spy(b)
        outcome = await b.engine.send(ALICE, BOB)
        assert outcome.refusals == [None, None]
        assert len(outcome.queue_ids) == 1
        assert calls == ["append"]
        assert len(await b.engine.inbox(ALICE)) == len(await b.engine.inbox(BOB)) == 1

    run(test)


def test_mixed_mail_is_one_put() -> None:
    async def test(b: Bench) -> None:
        calls = spy(b)
        b.deliveries.gate = asyncio.Event()
        outcome = await b.engine.send(ALICE, "c@x.org")
        assert calls[0] == "put"
        assert len(outcome.queue_ids) == 2
        await b.settle()
        assert calls == ["put", "append"]
        assert len(await b.engine.inbox(ALICE)) == 1

    run(test)


def test_success_notice_makes_local_mail_go_through_the_queue() -> None:
    async def test(b: Bench) -> None:
        calls = spy(b)
        await b.engine.send(Recipient(address(BOB), account=BOB, notify=NOTIFY_SUCCESS), sender=ALICE)
        assert calls[0] == "put"
        await b.settle()
        assert b"Action: delivered" in (await b.engine.inbox(ALICE))[0]

    run(test)


def test_refusals_come_in_the_envelopes_order() -> None:
    async def test(b: Bench) -> None:
        outcome = await b.engine.send("c@x.org", ALICE, "d@y.org", trusted=False, listener="lmtp")
        assert [r.code if r else None for r in outcome.refusals] == [550, None, 550]
        assert not b.entries
        assert len(await b.engine.inbox(ALICE)) == 1

    run(test)


def test_strangers_hear_of_the_recipient_that_one_reply_hid() -> None:
    async def test(b: Bench) -> None:
        b.engine.directory.aliases = {"loop@example.com": [address("loop@example.com")]}
        outcome = await b.engine.send("bob@example.com", "loop@example.com", sender="alice@example.com", trusted=False)
        await b.settle()
        assert None in outcome.refusals
        (notice,) = await b.engine.inbox("alice@example.com")
        assert b"Final-Recipient: rfc822; loop@example.com" in notice

    run(test)


def test_refused_by_all_stores_nothing() -> None:
    async def test(b: Bench) -> None:
        calls = spy(b)
        outcome = await b.engine.send("c@x.org", trusted=False)
        assert [r.code if r else None for r in outcome.refusals] == [550]
        assert outcome.queue_ids == []
        assert calls == []
        assert not b.entries

    run(test)


def test_quota_refuses_each_recipient_over_lmtp() -> None:
    async def test(b: Bench) -> None:
        await quota(b, BOB, 1)
        await b.engine.send(BOB)
        outcome = await b.engine.send(ALICE, BOB, listener="lmtp")
        assert outcome.refusals[0] is None
        assert outcome.refusals[1] is not None
        assert (outcome.refusals[1].code, outcome.refusals[1].status) == (552, "5.2.2")
        assert not b.entries

    run(test)


def test_quota_of_some_recipients_is_a_notice_over_smtp() -> None:
    async def test(b: Bench) -> None:
        await quota(b, BOB, 1)
        await b.engine.send(BOB)
        b.engine.directory.accounts.add("carol@example.com")
        calls = spy(b)
        outcome = await b.engine.send(ALICE, BOB, sender="carol@example.com", trusted=False)
        assert outcome.refusals[0] is None
        assert calls[:2] == ["append", "put"]
        await b.settle()
        (notice,) = await b.engine.inbox("carol@example.com")
        assert b"bob@example.com" in notice
        assert b"Status: 5.2.2" in notice

    run(test)


def test_quota_of_all_recipients_refuses_in_the_session() -> None:
    async def test(b: Bench) -> None:
        await quota(b, BOB, 1)
        await b.engine.send(BOB)
        outcome = await b.engine.send(BOB)
        assert [r.status if r else None for r in outcome.refusals] == ["5.2.2"]
        assert outcome.queue_ids == []

    run(test)


def test_quota_behind_an_alias_is_the_aliases_refusal() -> None:
    async def test(b: Bench) -> None:
        await quota(b, BOB, 1)
        await b.engine.send(BOB)
        b.engine.directory.aliases["sales@example.com"] = [address(BOB)]
        b.engine.directory.aliases["team@example.com"] = [address(ALICE), address(BOB)]
        outcome = await b.engine.send("sales@example.com", listener="lmtp")
        assert [r.status if r else None for r in outcome.refusals] == ["5.2.2"]
        b.engine.directory.accounts.add("carol@example.com")
        outcome = await b.engine.send("team@example.com", listener="lmtp", sender="carol@example.com")
        assert outcome.refusals == [None]
        await b.settle()
        assert len(await b.engine.inbox("carol@example.com")) == 1

    run(test)


@pytest.mark.parametrize("error", [StoreError("no", "test"), StoreFull("no space", "test")])
@pytest.mark.parametrize("recipient", [ALICE, "c@x.org"])
def test_a_failing_store_is_told_and_nothing_is_started(error: StoreError, recipient: str) -> None:
    async def test(b: Bench) -> None:
        async def fail(*args: Any) -> Any:
            raise error

        b.engine.mail_store.append = fail  # type: ignore[method-assign]
        b.engine.queue_store.put = fail  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            await b.engine.send(recipient)
        await b.settle()
        assert b.deliveries.sent == []
        assert b.runner.size == 0

    run(test)


def test_a_session_that_goes_away_during_the_commit_loses_no_mail() -> None:
    async def test(b: Bench) -> None:
        original = b.engine.queue_store.put
        gate = asyncio.Event()

        async def put(items: Any) -> None:
            await asyncio.shield(asyncio.ensure_future(late(items)))

        async def late(items: Any) -> None:
            await gate.wait()
            await original(items)

        b.engine.queue_store.put = put  # type: ignore[method-assign]
        task = asyncio.ensure_future(b.engine.send("c@x.org"))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await b.settle()
        assert len(b.entries) == 1
        await b.advance(60)
        assert len(b.deliveries.sent) == 1
        assert not b.entries

    run(test, waiting_alone=True)


def test_admission_space_and_writability() -> None:
    async def test(b: Bench) -> None:
        intake = b.engine.intake
        assert intake.admit(1000) is None
        b.engine.queue_store.blobs.is_full = True
        assert intake.admit(1000) == NO_SPACE
        b.engine.queue_store.blobs.is_full = False
        b.engine.queue_store.writable = False
        assert intake.admit() is None  # one a second may try
        assert intake.admit() == NOT_WRITABLE
        b.clock.advance(1.1)
        assert intake.admit() is None
        assert intake.admit() == NOT_WRITABLE
        b.engine.queue_store.writable = True
        assert intake.admit() is None

    run(test)


def test_overload_by_waiting_commits_has_hysteresis() -> None:
    overload = Commits(10, 5.0)
    for _ in range(10):
        overload.begin()
    assert not overload.is_on
    overload.begin()
    assert overload.is_on
    for _ in range(5):
        overload.end(0.1)
        assert overload.is_on
    overload.end(0.1)
    assert overload.waiting == 5
    assert not overload.is_on


def test_overload_by_latency_has_hysteresis_and_ends() -> None:
    overload = Commits(1000, 5.0)
    for _ in range(100):
        overload.begin()
    overload.end(6.0)
    assert overload.is_on
    seen = []
    for _ in range(50):
        overload.end(0.01)
        seen.append(overload.is_on)
    assert seen[0]
    assert not seen[-1]
    overload.begin()
    overload.end(7.0)
    while overload.waiting:
        overload.end(7.0)
    assert not overload.is_on  # nobody waits: the next one shows how it is


def test_overload_refuses_before_any_work() -> None:
    async def test(b: Bench) -> None:
        b.engine.intake._commits.is_on = True
        assert b.engine.intake.admit() == OVERLOADED
        assert OVERLOADED.code == 421

    run(test)


async def has_room(intake: Any, account: str, size: int) -> bool:
    answer = intake.room_for(account, size)
    return answer if isinstance(answer, bool) else await answer


def test_room_for_asks_the_store() -> None:
    async def test(b: Bench) -> None:
        await b.engine.mail_store.create_account(BOB, quota_bytes=100)
        assert await has_room(b.engine.intake, BOB, 50)
        assert not await has_room(b.engine.intake, BOB, 500)
        assert await has_room(b.engine.intake, "nobody@example.com", 500)

    run(test)


def test_room_is_remembered_for_a_moment() -> None:
    async def test(b: Bench) -> None:
        intake = b.engine.intake
        await b.engine.mail_store.create_account(BOB, quota_bytes=100)
        assert await has_room(intake, BOB, 50)
        await b.engine.mail_store.set_quota(BOB, quota_bytes=20, quota_messages=0)
        assert await has_room(intake, BOB, 50)
        assert not await has_room(intake, BOB, 51)
        await b.advance(ROOM_SECONDS)
        assert not await has_room(intake, BOB, 50)
        await b.engine.mail_store.set_quota(BOB, quota_bytes=100, quota_messages=0)
        assert await has_room(intake, BOB, 50)

    run(test)


def test_dropped_mail_is_a_success_that_stores_nothing() -> None:
    async def test(b: Bench) -> None:
        class Dropping:
            def start(self, mail: Any, *, deadline: float | None = None) -> Any:
                from rusmes.model.plan import Plan

                return Plan(dropped=[(recipient, "unwanted") for recipient in mail.recipients])

        b.engine.intake.apply(b.engine.config, Dropping())
        outcome = await b.engine.send(ALICE)
        assert outcome.refusals == [None]
        assert outcome.queue_ids == []

    run(test)


def test_refusal_values() -> None:
    assert isinstance(NO_SPACE, Refusal)
    assert [r.code for r in (NO_SPACE, NOT_WRITABLE, OVERLOADED)] == [452, 451, 421]
