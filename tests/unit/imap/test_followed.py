"""Accounts that sessions follow (NOTIFY): their mailboxes are read once for all of them, then only what changes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from rusmes._core.counters import Metrics
from rusmes.errors import NotFound
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
