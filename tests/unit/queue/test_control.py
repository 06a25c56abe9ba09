"""What operators do to the queue, of a running worker and of a stopped one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rusmes.errors import NotAllowed, NotFound, StoreError
from rusmes.events.api import NullEvents
from rusmes.model.ids import id_text
from rusmes.model.plan import Refusal
from rusmes.queue.api import Busy, QueueFilter, QueueOrder, QueueResult, SiteLimits
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


def test_bounced_mail_returns_to_its_sender() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await two_deferred(b)
        done = await order(control, "bounce", QueueFilter(domain="x.org"), reason="no more of this\x1b", by="root")
        assert (done.entries, done.recipients, done.notices) == (1, 1, 1)
        await b.settle()
        assert statuses(b) == {"a@x.org": "failed", "b@y.org": "deferred"}
        (entry,) = b.entries
        assert entry.states[0].last_reply == "returned by the operator: no more of this"
        assert (await order(control, "bounce", ALL)).notices == 1
        await b.settle()
        assert not b.entries
        first, second = [notice.decode() for notice in await b.engine.inbox("alice@example.com")]
        assert "Status: 5.7.1" in first
        assert "returned by the operator: no more of this" in first
        assert "b@y.org" not in first
        assert "Final-Recipient: rfc822; b@y.org" in second

    run(test)


def test_expired_mail_says_so_with_the_last_reply() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await two_deferred(b)
        assert await do(control, "expire", ALL) == 1
        await b.settle()
        assert not b.entries
        text = (await b.engine.inbox("alice@example.com"))[0].decode()
        assert "Status: 4.4.7" in text
        assert "451 4.3.0 later" in text

    run(test)


@pytest.mark.parametrize("operation", ["bounce", "expire"])
def test_a_stopped_server_writes_no_notices(operation: str) -> None:
    async def main() -> None:
        async with bench() as b:
            await deferred(b, 1)
        control = StoreControl(b.store, b.clock)
        with pytest.raises(NotAllowed, match="stopped"):
            await do(control, operation, ALL)
        assert await do(control, operation, ALL, dry_run=True) == 1
        assert len(b.entries) == 1

    asyncio.run(main())


def test_when_a_notice_cannot_be_written_everything_stays() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 2)
        report = b.runner._notices.report
        b.runner._notices.report = lambda *_, **__: (_ for _ in ()).throw(StoreError("full"))  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await do(control, "bounce", ALL)
        b.runner._notices.report = report  # type: ignore[method-assign]
        assert [state.status for entry in b.entries for state in entry.states] == ["deferred"] * 2
        await b.advance(3600)
        assert len(b.deliveries.sent) == 2
        assert not b.entries

    run(test)


def test_mail_goes_another_way() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await two_deferred(b)
        done = await order(control, "reroute", QueueFilter(domain="x.org"), route="mx.other.example:2525")
        assert (done.entries, done.recipients) == (1, 1)
        moved = next(entry for entry in b.entries if entry.item.route)
        assert (moved.item.route, [str(r.address) for r in moved.item.recipients]) == ("mx.other.example:2525", ["a@x.org"])
        await b.settle()
        assert [names for _, names in b.deliveries.sent] == [("a",)]
        (entry,) = b.entries
        assert [state.status for state in entry.states] == ["failed", "deferred"]
        assert await do(control, "reroute", ALL, route="mx.other.example:2525") == 1
        (entry,) = b.entries
        assert entry.item.route == "mx.other.example:2525"
        assert await do(control, "reroute", ALL, route="mx.other.example:2525") == 0
        await b.settle()
        assert [names for _, names in b.deliveries.sent] == [("a",), ("b",)]
        assert not b.entries
        assert not b.store.blobs.references
        assert b.runner.size == 0

    run(test)


def test_a_way_that_is_none_is_refused() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 1)
        b.deliveries.targets["example.invalid"] = Refusal(451, "4.3.5", "there is no route 'nowhere' in the configuration")
        for dry_run in (False, True):
            with pytest.raises(NotAllowed, match="no route"):
                await do(control, "reroute", ALL, route="nowhere", dry_run=dry_run)
        assert await do(control, "reroute", ALL, route="") == 0

    run(test)


@pytest.mark.parametrize("operation", ["retry", "hold", "delete", "bounce", "expire", "reroute"])
def test_a_dry_run_does_nothing(operation: str) -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 5)
        before = b.entries
        done = await order(control, operation, QueueFilter(recipient="r[0-3]@*"), dry_run=True, sample=2, route="x.example:25")
        assert (done.entries, done.recipients, len(done.sample), done.later) == (4, 4, 2, 0)
        await b.settle()
        assert [(e.item.route, e.states) for e in b.entries] == [(e.item.route, e.states) for e in before]
        assert b.deliveries.sent == []

    run(test)


def test_there_is_no_such_operation() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        with pytest.raises(NotAllowed, match="no operation"):
            await do(control, "explode", ALL)
        with pytest.raises(NotAllowed, match="too many"):
            await do(control, "hold", QueueFilter(ids=("0" * 26,) * 10_001))
        with pytest.raises(NotAllowed, match="no queue id"):
            await control.list(QueueFilter(ids=("xyz",)))

    run(test)


def test_what_waits_for_its_turn_is_taken_away_at_once() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        b.deliveries.gate = asyncio.Event()
        for i in range(6):
            await b.engine.send(f"r{i}@x.org")
        for _ in range(20):
            await asyncio.sleep(0)
        assert b.deliveries.under_way == 3
        done = await order(control, "hold", QueueFilter(recipient="r[1-4]@*"))
        assert (done.entries, done.later) == (4, 2)
        held = [entry for entry in b.entries if entry.states[0].status == "held"]
        assert len(held) == 2, "although their site is busy for ever"
        assert await do(control, "release", QueueFilter(recipient="r[34]@*")) == 2
        b.deliveries.gate.set()
        await b.settle()
        sent = sorted(name for _, names in b.deliveries.sent for name in names)
        assert sent == ["r0", "r1", "r2", "r3", "r4", "r5"], "each once"
        assert not b.entries
        assert b.runner.size == 0

    run(test)


def test_recipients_that_wait_are_taken_from_an_entry_that_is_being_delivered() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        b.deliveries.gate = asyncio.Event()
        b.deliveries.limits = SiteLimits(connections=1, initial_connections=0)
        await b.engine.send("first@x.org")
        await b.engine.send("a@x.org", "b@y.org")
        for _ in range(20):
            await asyncio.sleep(0)
        assert b.deliveries.under_way == 2  # first, and b
        done = await order(control, "delete", QueueFilter(recipient="a@*"))
        assert (done.entries, done.later) == (1, 1)
        b.deliveries.gate.set()
        await b.settle()
        assert sorted(name for _, names in b.deliveries.sent for name in names) == ["b", "first"]
        assert not b.entries
        assert b.runner.size == 0

    run(test)


def test_what_is_done_later_is_done_only_to_what_still_waits() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        b.deliveries.gate = asyncio.Event()
        b.deliveries.by_recipient = {"late": delayed}
        await b.engine.send("ok@x.org")
        await b.engine.send("late@y.org", sender="sam@z.org")
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await order(control, "bounce", ALL)).later == 2
        assert (await order(control, "hold", ALL)).later == 2
        b.deliveries.gate.set()
        await b.settle()
        assert not b.entries
        assert [names for _, names in b.deliveries.sent if names not in (("ok",), ("late",))] == [("sam",)]
        assert b.runner.size == 0

    run(test)


def test_two_operations_at_once_do_not_meet() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 30)
        await asyncio.gather(*(do(control, operation, ALL) for operation in ("hold", "release", "hold", "retry", "release")))
        await b.settle()
        assert not b.entries
        assert len(b.deliveries.sent) == 30
        assert b.runner.size == 0

    run(test)


def test_mail_that_arrives_meanwhile_is_held_or_sent_never_both() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        async def send(number: int) -> None:
            await b.engine.send(f"r{number}@x.org")

        await asyncio.gather(*(send(n) for n in range(40)), *(do(control, "hold", ALL) for _ in range(20)))
        await b.settle()
        held = {str(state.recipient.address) for entry in b.entries for state in entry.states}
        sent = {f"{name}@x.org" for _, names in b.deliveries.sent for name in names}
        assert len(held) + len(sent) == 40
        assert not held & sent

    run(test)


def test_a_page_follows_the_other() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 7)
        seen, after = [], ""
        while page := await control.list(ALL, limit=3, after=after):
            seen += [entry.item.id for entry in page]
            after = id_text(page[-1].item.id)
        assert seen == [entry.item.id for entry in b.entries]

    run(test)


def test_events_tell_what_was_done_and_by_whom() -> None:
    async def test(b: Bench, _: StoreControl) -> None:
        told: list[tuple[str, bytes, int, str]] = []

        class Told(NullEvents):
            def changed(self, kind: str, item: Any = None, recipients: Any = (), **facts: Any) -> None:
                told.append((kind, item.id, len(recipients), facts["by"]))

        await two_deferred(b)
        control = StoreControl(b.store, b.clock, b.runner, events=Told())
        (entry,) = b.entries
        for operation, which in [("hold", ALL), ("release", ALL), ("delete", QueueFilter(domain="x.org"))]:
            await do(control, operation, which, by="root")
        id = entry.item.id
        assert told == [("held", id, 0, "root"), ("released", id, 0, "root"), ("deleted", id, 1, "root")]

    run(test)



def test_a_retry_has_a_site_tried_that_is_left_alone() -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        tried: list[str] = []
        down = [True]
        b.deliveries.not_before = lambda _key: Busy(3600.0, "down") if down[0] else None  # type: ignore[method-assign]

        def try_now(key: str) -> None:
            tried.append(key)
            down[0] = False

        b.deliveries.try_now = try_now  # type: ignore[method-assign]
        await b.engine.send("a@x.org")
        await b.settle()
        assert not b.deliveries.sent
        assert await do(control, "retry", QueueFilter(domain="y.org")) == 0
        await b.settle()
        assert not tried
        assert await do(control, "retry", ALL) == 1
        await b.settle()
        assert tried == ["x.org"]
        assert [names for _, names in b.deliveries.sent] == [("a",)]
        assert not b.entries

    run(test)


@pytest.mark.parametrize("operation", ["bounce", "expire"])
def test_the_notices_of_an_operation_are_not_what_it_is_about(operation: str) -> None:
    async def test(b: Bench, control: StoreControl) -> None:
        await deferred(b, 250)  # more than a transaction of notices
        b.deliveries.answer = delayed
        done = await order(control, operation, ALL)
        assert (done.entries, done.notices) == (250, 250)
        await b.settle()
        assert sorted(str(entry.item.recipients[0].address) for entry in b.entries) == sorted(f"s{i}@y.org" for i in range(250))
        assert all(entry.item.sender is None for entry in b.entries)

    run(test)
