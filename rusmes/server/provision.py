"""What the mail store has to know of the accounts: mailboxes and quotas, also when the file of accounts was edited by hand.

`rusmes user` tells both; this looks at the file once a second, in one worker, and does in the store what is missing there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

from rusmes.errors import AlreadyExists, AuthUnavailable, NotFound, StoreError
from rusmes.log import get_logger
from rusmes.model.identity import Identity
from rusmes.model.mailbox import Account

LOOK_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 30.0
"""After the store could not do it."""
AT_ONCE: Final = 100
"""Accounts looked at in one turn of the loop."""

_log = get_logger("server")


class Accounts(Protocol):
    """What is needed of `auth.file.FileBackend`."""

    async def generation(self) -> int: ...
    async def list(self) -> list[Identity]: ...
    def known(self, name: str) -> bool: ...


class Store(Protocol):
    """What is needed of `storage.api.MailStore`."""

    async def account(self, name: str) -> Account | None: ...
    async def create_account(
        self, name: str, *, mailboxes: Sequence[str] = (), quota_bytes: int = 0, quota_messages: int = 0
    ) -> Account: ...
    async def set_quota(self, name: str, *, quota_bytes: int, quota_messages: int) -> Account: ...


class Provision:
    """Brings the store after the file; `look` once in a while."""

    def __init__(self, accounts: Accounts, store: Store, mailboxes: Sequence[str]) -> None:
        self.mailboxes = mailboxes
        """[domains] create_mailboxes, for accounts that are new."""
        self._accounts = accounts
        self._store = store
        self._generation = -1
        self._done: dict[str, tuple[int, int]] = {}
        self._not_before = 0.0

    async def look(self) -> None:
        """Do what is missing. Raises nothing: what fails is logged and tried again later."""
        if time.monotonic() < self._not_before:
            return
        try:
            generation = await self._accounts.generation()
            if generation != self._generation:
                await self._settle(await self._accounts.list())
                self._generation = generation
        except (AuthUnavailable, StoreError) as error:
            _log.warn("accounts are not settled", reason=str(error), again_seconds=RETRY_SECONDS)
            self._not_before = time.monotonic() + RETRY_SECONDS

    async def _settle(self, identities: Sequence[Identity]) -> None:
        wanted = {identity.account: (identity.quota_bytes, identity.quota_messages) for identity in identities}
        self._done = {name: quota for name, quota in self._done.items() if name in wanted}
        for number, (name, quota) in enumerate(wanted.items()):
            if self._done.get(name) != quota:
                await self._settle_one(name, *quota)
                self._done[name] = quota
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _settle_one(self, name: str, quota_bytes: int, quota_messages: int) -> None:
        account = await self._store.account(name)
        try:
            if account is None:
                if self._accounts.known(name):  # it may have been deleted since the list was read
                    await self._store.create_account(
                        name, mailboxes=self.mailboxes, quota_bytes=quota_bytes, quota_messages=quota_messages
                    )
            elif (account.quota_bytes, account.quota_messages) != (quota_bytes, quota_messages):
                await self._store.set_quota(name, quota_bytes=quota_bytes, quota_messages=quota_messages)
                _log.info("quota changed", account=name, quota_bytes=quota_bytes, quota_messages=quota_messages)
        except AlreadyExists:
            # Its first mail, or `rusmes user add`, was faster: then without our quota.
            await self._store.set_quota(name, quota_bytes=quota_bytes, quota_messages=quota_messages)
        except NotFound:
            pass  # deleted meanwhile
