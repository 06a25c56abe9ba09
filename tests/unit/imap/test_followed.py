"""Accounts that sessions follow (NOTIFY): their mailboxes are read once for all of them, then only what changes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from rusmes._core.counters import Metrics
from rusmes.errors import NotFound
from rusmes.imap import hub as hub_module
from rusmes.imap.hub import Hub
from rusmes.model.mailbox import Mailbox
from tests.sessions.imap.house import store_of


class Follower:
    def account_changed(self, account_id: int) -> None:
        pass


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return store_of(request.param, tmp_path / "store")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_only_what_changed_is_read_again(store: Any) -> None:
    async def scenario() -> None:
        await store.open()
        account = await store.create_account("alice@example.com", mailboxes=("Sent", "Trash"))
        hub = Hub(store, metrics=Metrics())
        hub.follow(account.id, Follower())
        first = await hub.mailboxes(account.id)
        assert sorted(mailbox.name for mailbox in first.values()) == ["INBOX", "Sent", "Trash"]
        assert (await hub.mailboxes(account.id)).items() == first.items()

        async def all_again(account_id: int) -> list[Mailbox]:
            raise AssertionError("all mailboxes are read again")

        store.mailboxes = all_again
        made = await store.create_mailbox(account.id, "Made")
        await store.rename_mailbox(account.id, "Trash", "Bin")
        await store.delete_mailbox(account.id, "Sent")
        second = await hub.mailboxes(account.id)
        assert sorted(mailbox.name for mailbox in second.values()) == ["Bin", "INBOX", "Made"]
        assert second[made.id].name == "Made"
        same = [id for id in first if second.get(id) is first[id]]
        assert [first[id].name for id in same] == ["INBOX"]
        hub.changed(account.id)
        await hub.stop()
        await store.close()

    run(scenario())


def test_what_was_touched_is_known(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await store.open()
        account = await store.create_account("alice@example.com", mailboxes=("Sent", "Trash"))
        other = await store.create_account("bob@example.com")
        hub = Hub(store, metrics=Metrics())
        hub.follow(account.id, Follower())
        by_name = {mailbox.name: id for id, mailbox in (await hub.mailboxes(account.id)).items()}
        began, touched = hub.touched(account.id, 0)
        assert sorted(touched) == sorted(by_name.values())
        assert hub.touched(account.id, began) == (began, [])
        await store.set_metadata(by_name["Sent"], account.id, {"/private/comment": b"x"})
        await store.set_metadata(by_name["Sent"], other.id, {"/private/comment": b"somebody else's"})
        await hub.mailboxes(account.id)
        later, touched = hub.touched(account.id, began)
        assert (later, touched) == (began + 1, [by_name["Sent"]])
        await store.set_metadata(by_name["Trash"], 0, {"/shared/comment": b"x"})
        await hub.mailboxes(account.id)
        assert hub.touched(account.id, later) == (later + 1, [by_name["Trash"]])
        # When the log does not reach back any mailbox may have changed.
        monkeypatch.setattr("rusmes.imap.hub.CHANGES_AT_ONCE", 1)
        await store.set_metadata(by_name["Trash"], 0, {"/shared/comment": b"y"})
        await hub.mailboxes(account.id)
        assert len(hub.touched(account.id, later + 1)[1]) == 3
        await hub.stop()
        await store.close()

    run(scenario())


def test_annotations_of_the_server_are_news_for_all_who_follow(store: Any) -> None:
    async def scenario() -> None:
        await store.open()
        told: list[int] = []
        hub = Hub(store, metrics=Metrics())
        accounts = [await store.create_account(f"{name}@example.com") for name in ("alice", "bob")]

        class Told(Follower):
            def account_changed(self, account_id: int) -> None:
                told.append(account_id)

        for account in accounts:
            hub.follow(account.id, Told())
        await store.set_metadata(0, accounts[0].id, {"/private/comment": b"x"})
        while len(told) < 1:
            await asyncio.sleep(0.001)
        assert told == [accounts[0].id]
        await store.set_metadata(0, 0, {"/shared/comment": b"x"})
        while len(told) < 3:
            await asyncio.sleep(0.001)
        assert set(told[1:]) == {account.id for account in accounts}
        await hub.stop()
        await store.close()

    run(scenario())


def test_subscriptions_are_those_of_now(store: Any) -> None:
    async def scenario() -> None:
        await store.open()
        account = await store.create_account("alice@example.com", mailboxes=("Sent",))
        hub = Hub(store, metrics=Metrics())
        hub.follow(account.id, Follower())
        assert await hub.subscriptions(account.id) == {"INBOX", "Sent"}
        await store.subscribe(account.id, "Sent", False)
        await store.subscribe(account.id, "Not there", True)
        assert await hub.subscriptions(account.id) == {"INBOX", "Not there"}
        await hub.stop()
        await store.close()

    run(scenario())


def test_an_account_that_is_deleted_is_not_found(store: Any) -> None:
    async def scenario() -> None:
        await store.open()
        account = await store.create_account("alice@example.com", mailboxes=())
        hub = Hub(store, metrics=Metrics())
        await hub.mailboxes(account.id)
        await store.delete_account("alice@example.com")
        with pytest.raises(NotFound):
            await hub.mailboxes(account.id)
        await hub.stop()
        await store.close()

    run(scenario())


def test_other_workers_hear_of_an_account_at_once_and_then_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "COALESCE_SECONDS", 0.02)

    async def scenario() -> None:
        told: list[int] = []
        hub = Hub(store_of("memory", Path()), metrics=Metrics(), tell_others=told.append)
        for _ in range(5):
            hub.changed_here(1, 1)
        hub.changed_here(2, 1)
        assert told == [1, 2]
        async with asyncio.timeout(10):
            while told != [1, 2, 1]:  # what changed meanwhile is told when the time is over
                await asyncio.sleep(0.005)
            while told != [1, 2, 1, 1]:
                hub.changed_here(1, 2)
                await asyncio.sleep(0.005)
        hub.changed_here(3, 1)
        hub.changed_here(3, 1)
        await hub.stop()  # what is owed is not lost
        assert told[-2:] == [3, 3]

    run(scenario())
