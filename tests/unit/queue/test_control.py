"""What operators do to the queue, of a running worker and of a stopped one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rusmes.errors import NotFound
from rusmes.model.ids import id_text
from rusmes.queue.api import QueueFilter, QueueOrder, QueueResult
from rusmes.queue.control import StoreControl
from rusmes.queue.selection import Selection
from tests.unit.queue.scripted import Bench, bench, delayed, delivered

ALL = QueueFilter()


async def order(control: StoreControl, operation: str, which: QueueFilter, **more: Any) -> QueueResult:
    return await control.carry_out(QueueOrder(operation, which, **more))


async def do(control: StoreControl, operation: str, which: QueueFilter, **more: Any) -> int:
    return (await order(control, operation, which, **more)).entries


def run(test: Callable[[Bench, StoreControl], Awaitable[None]]) -> None:
    async def main() -> None:
        async with bench() as made:
            control = StoreControl(made.store, made.clock, made.runner, deliverer=made.deliveries, ids=made.engine.ids)
            await test(made, control)
            await control.close()

    asyncio.run(main())


async def deferred(b: Bench, count: int = 1) -> None:
    b.deliveries.answer = delayed
    for i in range(count):
        await b.engine.send(f"r{i}@x.org", sender=f"s{i}@y.org")
    await b.settle()
    b.deliveries.sent.clear()
    b.deliveries.answer = delivered


def test_list_and_filters() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 5)
        entries = await control.list(ALL)
        assert len(entries) == 5
        assert len(await control.list(ALL, limit=2)) == 2
        id = entries[3].item.id
        assert [e.item.id for e in await control.list(QueueFilter(ids=(id_text(id),)))] == [id]
        assert (await control.show(id)).item.id == id
        with pytest.raises(NotFound):
            await control.show(b"\0" * 16)
        for which, count in [
            (QueueFilter(sender="S1@*"), 1), (QueueFilter(recipient="r[12]@x.org"), 2), (QueueFilter(domain="*.org"), 5),
            (QueueFilter(domain="y.org"), 0), (QueueFilter(status="deferred"), 5), (QueueFilter(status="held"), 0),
            (QueueFilter(older_than_seconds=60), 0), (QueueFilter(account="me"), 0), (QueueFilter(sender="<>"), 0),
        ]:  # fmt: skip
            assert len(await control.list(which)) == count, which
        b.clock.advance(61)
        assert len(await control.list(QueueFilter(older_than_seconds=60))) == 5

    run(test)


def test_retry_makes_due_now() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 3)
        assert await do(control, "retry", QueueFilter(recipient="r1@*")) == 1
        await b.settle()
        assert [names for _, names in b.deliveries.sent] == [("r1",)]
        assert len(b.entries) == 2
        assert await do(control, "retry", ALL) == 2
        await b.settle()
        assert not b.entries

    run(test)


def test_hold_and_release() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 2)
        assert await do(control, "hold", QueueFilter(recipient="r0@*")) == 1
        assert len(await control.list(QueueFilter(status="held"))) == 1
        await b.advance(3600)
        assert [names for _, names in b.deliveries.sent] == [("r1",)]
        assert await do(control, "retry", ALL) == 0
        assert await do(control, "release", ALL) == 1
        await b.settle()
        assert not b.entries

    run(test)


def test_delete_makes_no_notice() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 3)
        assert await do(control, "delete", QueueFilter(sender="s0@*")) == 1
        assert await do(control, "delete", ALL) == 2
        await b.advance(7 * 86400)
        assert not b.entries
        assert b.deliveries.sent == []
        assert b.runner.size == 0

    run(test)


async def two_deferred(b: Bench) -> None:
    b.deliveries.answer = delayed
    await b.engine.send("a@x.org", "b@y.org", sender="alice@example.com")
    await b.settle()
    b.deliveries.sent.clear()
    b.deliveries.answer = delivered


def statuses(b: Bench) -> dict[str, str]:
    return {str(state.recipient.address): state.status for entry in b.entries for state in entry.states}


def test_a_recipient_that_is_deleted_takes_no_other_with_it() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await two_deferred(b)
        assert await do(control, "delete", QueueFilter(domain="x.org")) == 1
        assert statuses(b) == {"a@x.org": "failed", "b@y.org": "deferred"}
        await b.advance(12 * 60)
        assert [names for _, names in b.deliveries.sent] == [("b",)]
        assert not b.entries
        assert not await b.engine.inbox("alice@example.com")

    run(test)


def test_a_filter_of_recipients_holds_releases_and_retries_these_alone() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await two_deferred(b)
        assert await do(control, "hold", QueueFilter(recipient="a@*")) == 1
        assert statuses(b) == {"a@x.org": "held", "b@y.org": "deferred"}
        assert await do(control, "retry", QueueFilter(recipient="b@*")) == 1
        await b.settle()
        assert [names for _, names in b.deliveries.sent] == [("b",)]
        assert await do(control, "release", QueueFilter(recipient="b@*")) == 0
        assert await do(control, "release", QueueFilter(recipient="a@*")) == 1
        await b.settle()
        assert not b.entries

    run(test)


@pytest.mark.parametrize("operation", ["hold", "delete"])
def test_entries_under_way_end_first(operation: str) -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        b.deliveries.gate = asyncio.Event()
        for i in range(6):
            await b.engine.send(f"r{i}@x.org", sender=None)
        for _ in range(20):
            await asyncio.sleep(0)
        assert b.deliveries.under_way == 3
        assert await do(control, operation, ALL) == 6
        b.deliveries.gate.set()
        await b.settle()
        assert len(b.deliveries.sent) == 3
        if operation == "hold":
            assert len(b.entries) == 3
            assert all(state.status == "held" for entry in b.entries for state in entry.states)
            assert await do(control, "release", ALL) == 3
            await b.settle()
            assert len(b.deliveries.sent) == 6
        assert not b.entries
        assert b.runner.size == 0

    run(test)


def test_an_attempt_that_fails_under_a_hold_is_held() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        b.deliveries.gate = asyncio.Event()
        b.deliveries.answer = delayed
        await b.engine.send("r@x.org")
        for _ in range(20):
            await asyncio.sleep(0)
        await do(control, "hold", ALL)
        b.deliveries.gate.set()
        await b.settle()
        (entry,) = b.entries
        assert entry.states[0].status == "held"
        assert entry.states[0].attempts == 1

    run(test)


def test_offline() -> None:
    async def main() -> None:
        async with bench() as b:
            await deferred(b, 3)
            store, clock = b.store, b.clock
        control = StoreControl(store, clock)
        assert await do(control, "hold", QueueFilter(recipient="r0@*")) == 1
        assert await do(control, "delete", QueueFilter(recipient="r1@*")) == 1
        assert await do(control, "retry", ALL) == 1
        async with bench(store=store, clock=clock) as again:
            await again.settle()
            assert [names for _, names in again.deliveries.sent] == [("r2",)]
            assert len(again.entries) == 1
        assert await do(control, "release", ALL) == 1
        async with bench(store=store, clock=clock) as again:
            await again.settle()
            assert not again.entries

    asyncio.run(main())


def test_a_held_entry_is_released_to_what_it_waited_for() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        from rusmes.model.content import Rendering
        from rusmes.model.plan import Queued

        rows = []
        for state, mailbox, recipient in (("", "", "r@x.org"), ("", "INBOX", "alice@example.com"), ("root", "", "q@x.org")):
            mail = b.engine.mail(recipient)
            rows.append(Queued(
                mail.id, "hold", mail.sender, tuple(mail.recipients), Rendering(mail.content), mail.origin, mail.created,
                mailbox=mailbox, state=state, reason="test",
            ))  # fmt: skip
        await b.store.put(rows)
        b.runner.kick(rows)
        await b.settle()
        assert len(await control.list(QueueFilter(status="held"))) == 3
        assert await do(control, "release", ALL) == 3
        await b.settle()
        assert not b.entries
        assert sorted(names for _, names in b.deliveries.sent) == [("q",), ("r",)]
        assert len(await b.engine.inbox("alice@example.com")) == 1

    run(test)


def test_filter_needs_one_recipient_that_matches_all() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        b.deliveries.by_recipient = {"bob": delayed}
        await b.engine.send("bob@x.org", "carol@y.org", sender=None)
        await b.settle()
        (entry,) = b.entries
        assert Selection(QueueFilter(recipient="bob@*", domain="x.org"), 0).meant(entry) == [0]
        assert not Selection(QueueFilter(recipient="bob@*", domain="y.org"), 0).meant(entry)
        assert not Selection(QueueFilter(recipient="carol@*"), 0).meant(entry)  # delivered already

    run(test)
