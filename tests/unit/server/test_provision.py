"""The store has the mailboxes and quotas of the file of accounts, whoever changed it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rusmes.auth.file import FileBackend
from rusmes.auth.passwords import Hasher
from rusmes.errors import StoreError
from rusmes.model.mailbox import Account
from rusmes.server import provision as module
from rusmes.server.provision import Provision
from rusmes.storage.memory import MemoryMailStore

FILE = '[[user]]\naddress = "alice@example.com"\nquota_bytes = {}\nquota_messages = {}\n'


async def quota_of(store: MemoryMailStore, name: str = "alice@example.com") -> tuple[int, int]:
    account = await store.account(name)
    assert account is not None
    return account.quota_bytes, account.quota_messages


def test_what_is_written_by_hand_reaches_the_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = tmp_path / "users.toml"
        file.write_text(FILE.format(1000, 2))
        backend = FileBackend(file, hasher=Hasher(time_cost=1, memory_kib=8, parallelism=1, scram_iterations=4096))
        store = MemoryMailStore()
        provision = Provision(backend, store, ("Sent", "Trash"))
        await provision.look()
        account = await store.account("alice@example.com")
        assert account is not None
        assert (account.quota_bytes, account.quota_messages) == (1000, 2)
        assert {box.name for box in await store.mailboxes(account.id)} == {"INBOX", "Sent", "Trash"}
        file.write_text(FILE.format(0, 5000))
        await provision.look()
        assert await quota_of(store) == (0, 5000)
        # An account that only mail knows of is nobody's business here.
        await store.create_account("old@example.com", quota_messages=7)
        file.write_text(FILE.format(0, 6000))
        await provision.look()
        assert await quota_of(store, "old@example.com") == (0, 7)
        backend.close()

    asyncio.run(scenario())


def test_a_store_that_fails_is_tried_again(tmp_path: Path) -> None:
    class Failing(MemoryMailStore):
        fails = True

        async def account(self, name: str) -> Account | None:
            if self.fails:
                raise StoreError("the store does not answer")
            return await super().account(name)

    async def scenario() -> None:
        file = tmp_path / "users.toml"
        file.write_text(FILE.format(0, 9))
        backend = FileBackend(file, hasher=Hasher(time_cost=1, memory_kib=8, parallelism=1, scram_iterations=4096))
        store = Failing()
        provision = Provision(backend, store, ())
        await provision.look()
        store.fails = False
        await provision.look()
        assert await store.account("alice@example.com") is None, "not at once"
        provision._not_before -= module.RETRY_SECONDS
        await provision.look()
        assert await quota_of(store) == (0, 9)
        backend.close()

    asyncio.run(scenario())
