"""LMDB against the specification: the same operations in any order give the same state, over restarts too."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rusmes.clock import FakeClock
from rusmes.errors import RusmesError
from rusmes.storage.api import FlagChange, QueueChange, RecipientState
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from rusmes.storage.memory import MemoryMailStore, MemoryQueueStore
from tests.contract.mails import ALICE, BOB, INLINE_LIMIT, CountedIds, append_of, large_message, message, queued_of

ACCOUNTS = st.sampled_from([ALICE, BOB])
NAMES = st.sampled_from(["INBOX", "a", "a/b", "a/b/c", "b", "inbox", "Trash", "a//x"])
UIDS = st.lists(st.integers(1, 12), max_size=6)
FLAGS = st.lists(st.sampled_from(["\\Seen", "\\Deleted", "\\Flagged", "Work", "WORK", "$Junk"]), max_size=3)
MAP_BYTES = 1 << 28


class Stores(RuleBasedStateMachine):
    """`model` is the specification, `store` is LMDB; `both` does one thing to each and compares what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.path = tempfile.mkdtemp(prefix="rusmes-stateful-")
        self.clock = FakeClock()
        self.model: Any = MemoryMailStore(clock=self.clock, ids=CountedIds(), change_retention=1e12)  # type: ignore[arg-type]
        self.ids = CountedIds()
        self.store: Any = None
        self.mailbox_ids: list[int] = [1]
        self._open()

    def _open(self) -> None:
        self.store = LmdbMailStore(
            self.path, clock=self.clock, ids=self.ids, inline_limit=INLINE_LIMIT, map_size=MAP_BYTES,  # type: ignore[arg-type]
            change_retention=1e12,
        )  # fmt: skip
        self.runner.run(self.store.open())

    def teardown(self) -> None:
        try:
            assert list(self.store.verify()) == []
            assert list(self.model.verify()) == []
            self.runner.run(self.store.close())
        finally:
            self.runner.close()
            shutil.rmtree(self.path)

    def call(self, store: Any, name: str, *arguments: Any, **keywords: Any) -> Any:
        try:
            return self.runner.run(getattr(store, name)(*arguments, **keywords))
        except RusmesError as error:
            return type(error)

    def both(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        expected = self.call(self.model, name, *arguments, **keywords)
        assert self.call(self.store, name, *arguments, **keywords) == expected
        return expected

    def account_id(self, name: str) -> int:
        account = self.call(self.model, "account", name)
        return account.id if account is not None else 77

    @initialize()
    def accounts(self) -> None:
        self.both("create_account", ALICE, mailboxes=["Trash"])

    @rule(
        account=ACCOUNTS,
        name=NAMES,
        flags=FLAGS,
        key=st.sampled_from([b"", b"k1", b"k2"]),
        kind=st.sampled_from(["small", "large", "answer", "question"]),
        count=st.integers(1, 3),
    )
    def append(self, account: str, name: str, flags: list[str], key: bytes, kind: str, count: int) -> None:
        data = {
            "small": message(),
            "large": large_message(),
            "answer": message(message_id="answer", references="question"),
            "question": message(message_id="question"),
        }[kind]
        more = {"account": account, "mailbox": name, "flags": tuple(flags), "key": key}
        expected = self.call(self.model, "append", [append_of(self.model.blobs, data, **more) for _ in range(count)])
        assert self.call(self.store, "append", [append_of(self.store.blobs, data, **more) for _ in range(count)]) == expected

    @rule(account=ACCOUNTS, name=NAMES)
    def create_mailbox(self, account: str, name: str) -> None:
        self.both("create_mailbox", self.account_id(account), name)

    @rule(account=ACCOUNTS, old=NAMES, new=NAMES)
    def rename_mailbox(self, account: str, old: str, new: str) -> None:
        self.both("rename_mailbox", self.account_id(account), old, new)

    @rule(account=ACCOUNTS, name=NAMES)
    def delete_mailbox(self, account: str, name: str) -> None:
        self.both("delete_mailbox", self.account_id(account), name)

    @rule(account=ACCOUNTS, name=NAMES, subscribed=st.booleans())
    def subscribe(self, account: str, name: str, subscribed: bool) -> None:
        self.both("subscribe", self.account_id(account), name, subscribed)

    @rule(account=ACCOUNTS, messages=st.integers(0, 6), size=st.sampled_from([0, 400]))
    def set_quota(self, account: str, messages: int, size: int) -> None:
        self.both("set_quota", account, quota_bytes=size, quota_messages=messages)

    @rule()
    def delete_account(self) -> None:
        self.both("delete_account", BOB)

    @rule(data=st.data(), uids=UIDS, flags=FLAGS, operation=st.sampled_from(["set", "add", "remove"]), limit=st.booleans())
    def change_flags(self, data: Any, uids: list[int], flags: list[str], operation: str, limit: bool) -> None:
        since = data.draw(st.integers(0, 30)) if limit else None
        self.both("change_flags", self._mailbox(data), FlagChange(tuple(uids), operation, tuple(flags), since))

    @rule(data=st.data(), uids=UIDS, only_deleted=st.booleans())
    def expunge(self, data: Any, uids: list[int], only_deleted: bool) -> None:
        self.both("expunge", self._mailbox(data), uids, only_deleted=only_deleted)

    @rule(data=st.data(), uids=UIDS, name=st.sampled_from(["copy", "move"]), keep=st.sampled_from(["stw", "s", ""]))
    def copy_or_move(self, data: Any, uids: list[int], name: str, keep: str) -> None:
        self.both(name, self._mailbox(data), uids, self._mailbox(data), keep=keep)

    @rule(data=st.data(), identifier=st.sampled_from([BOB, "anyone", f"-{BOB}"]), rights=st.sampled_from(["", "lr", "lrs"]))
    def set_rights(self, data: Any, identifier: str, rights: str) -> None:
        self.both("set_rights", self._mailbox(data), identifier, rights)

    @rule(
        data=st.data(), account=ACCOUNTS, name=st.sampled_from(["/private/comment", "/shared/x"]),
        value=st.sampled_from([None, b"", b"a\0"]), is_shared=st.booleans(), is_server=st.booleans(),
    )  # fmt: skip
    def set_metadata(
        self, data: Any, account: str, name: str, value: bytes | None, is_shared: bool, is_server: bool
    ) -> None:
        account_id = self.account_id(account)
        mailbox_id = 0 if is_server else self._mailbox(data)
        if account_id != 77:
            self.both("set_metadata", mailbox_id, 0 if is_shared else account_id, {name: value}, max_entries=1)

    @rule(data=st.data())
    def claim_recent(self, data: Any) -> None:
        self.both("claim_recent", self._mailbox(data))

    @rule(seconds=st.sampled_from([1.0, 86400.0, 5 * 86400.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.close())
        self._open()

    @rule()
    def compact(self) -> None:
        self.runner.run(self.store.compact())

    def _mailbox(self, data: Any) -> int:
        return int(data.draw(st.sampled_from(self.mailbox_ids)))

    @invariant()
    def everything_is_the_same(self) -> None:
        self.mailbox_ids = []
        for account in self.both("accounts"):
            for mailbox in self.both("mailboxes", account.id):
                self.mailbox_ids.append(mailbox.id)
                self.both("acl", mailbox.id)
                for account_id in (0, self.account_id(ALICE), self.account_id(BOB)):
                    self.both("metadata", mailbox.id, account_id)
                for found in self.both("messages", mailbox.id):
                    self._compare_message(mailbox.id, found.uid)
            self.both("subscriptions", account.id)
            logs = [self.call(store, "changes", account.id, 0) for store in (self.model, self.store)]
            assert sorted(logs[0], key=repr) == sorted(logs[1], key=repr)
        self.both("shared_mailboxes", [BOB, "anyone"])
        self.mailbox_ids = self.mailbox_ids or [1]

    def _compare_message(self, mailbox_id: int, uid: int) -> None:
        expected, found = (self.call(store, "open_message", mailbox_id, uid) for store in (self.model, self.store))
        assert (found.message, found.email) == (expected.message, expected.email)
        assert b"".join(found.rendering.chunks()) == b"".join(expected.rendering.chunks())


class Queues(RuleBasedStateMachine):
    """The queue's stores, in the same way."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.path = tempfile.mkdtemp(prefix="rusmes-stateful-")
        self.model: Any = MemoryQueueStore(ids=CountedIds())  # type: ignore[arg-type]
        self.ids = CountedIds()
        self.store: Any = None
        self._open()

    def _open(self) -> None:
        self.store = LmdbQueueStore(self.path, 0, ids=self.ids, inline_limit=INLINE_LIMIT, map_size=MAP_BYTES)  # type: ignore[arg-type]
        self.runner.run(self.store.open())

    def teardown(self) -> None:
        try:
            assert list(self.store.verify()) == []
            self.runner.run(self.store.close())
        finally:
            self.runner.close()
            shutil.rmtree(self.path)

    def both(self, name: str, *arguments: tuple[Any, ...]) -> None:
        """`arguments` are pairs: for the model, for the store."""
        results = []
        for which, store in enumerate((self.model, self.store)):
            try:
                results.append(self.runner.run(getattr(store, name)(*(pair[which] for pair in arguments))))
            except RusmesError as error:
                results.append(type(error))
        assert results[0] == results[1]

    def made(self, ids: list[int], large: bool, hold: bool) -> tuple[Any, Any]:
        data = large_message() if large else message()
        action = "hold" if hold else "relay"
        return tuple(  # type: ignore[return-value]
            [queued_of(store.blobs, id, data=data, recipients=3, action=action) for id in ids]
            for store in (self.model, self.store)
        )

    @rule(ids=st.lists(st.integers(1, 9), max_size=3), large=st.booleans(), hold=st.booleans())
    def put(self, ids: list[int], large: bool, hold: bool) -> None:
        self.both("put", self.made(ids, large, hold))

    @rule(
        changes=st.lists(
            st.tuples(
                st.integers(1, 9),
                st.dictionaries(st.integers(0, 3), st.sampled_from(["deferred", "failed", "delivered"]), max_size=3),
                st.booleans(),
                st.sampled_from(["", "hold", "relay"]),
            ),
            max_size=3,
        ),
        new=st.lists(st.integers(1, 9), max_size=2),
    )
    def change(self, changes: list[tuple[int, dict[int, str], bool, str]], new: list[int]) -> None:
        recipients = queued_of(self.model.blobs, 1, recipients=4).recipients
        made = [
            QueueChange(
                id.to_bytes(16, "big"),
                {index: RecipientState(recipients[index], status, 1, 5.0) for index, status in states.items()},
                remove,
                action,
            )
            for id, states, remove, action in changes
        ]
        self.both("change", (made, made), self.made(new, False, False))

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.close())
        self._open()

    @invariant()
    def everything_is_the_same(self) -> None:
        found, expected = list(self.store.entries()), list(self.model.entries())
        assert [(e.item.id, e.item.action, e.states) for e in found] == [(e.item.id, e.item.action, e.states) for e in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.item.rendering.content.read() == other.item.rendering.content.read()


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=phases,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", [Stores, Queues])
def test_the_store_does_what_the_specification_does(machine: type[RuleBasedStateMachine]) -> None:
    run(machine, 8, 20)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [Stores, Queues])
def test_it_does_so_for_long(machine: type[RuleBasedStateMachine]) -> None:
    run(machine, 100, 60, (Phase.generate,))
