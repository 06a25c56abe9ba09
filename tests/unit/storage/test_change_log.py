"""The change log: how it is kept short, and what is told when it does not reach back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rusmes._core.view import MailboxRows
from rusmes.model.mailbox import Appended
from rusmes.storage.lmdb import layout, mail_store
from rusmes.storage.lmdb.edits import Snapshot
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from tests.contract.mails import ALICE, BOB, append_of

MailAt = Callable[..., LmdbMailStore]


async def filled(store: LmdbMailStore, count: int, account: str = ALICE) -> list[Appended]:
    found = []
    for _ in range(count):  # one change each
        found += await store.append([append_of(store.blobs, account=account)])
    return [result for result in found if isinstance(result, Appended)]


def rows(store: LmdbMailStore) -> int:
    with store._environment.reading() as txn:
        return len(Snapshot(store._environment, txn).scan(layout.CHANGES, b""))


async def test_there_are_never_too_many_rows(mail_at: MailAt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_store, "MAX_CHANGES", 20)
    monkeypatch.setattr(mail_store, "TRIM_SECONDS", 0.0)
    monkeypatch.setattr(mail_store, "TRIMMED_AT_ONCE", 3)
    store = mail_at()
    await store.open()
    [bobs] = await filled(store, 1, BOB)
    made = await filled(store, 60)
    assert rows(store) <= 22
    assert await store.changes(made[0].account_id, made[10].modseq) is None
    # A look takes a number, and there is one for each change here.
    changes = await store.changes(made[0].account_id, made[52].modseq)
    assert changes is not None
    assert {change.modseq for change in changes} == {item.modseq for item in made[53:]}
    # Nothing happened to the other account since, although its rows are gone.
    assert await store.changes(bobs.account_id, bobs.modseq) == []
    assert await store.changes(bobs.account_id, bobs.modseq - 1) is None
    assert list(store.verify()) == []


async def test_rows_have_to_be_loaded_again_when_the_log_is_too_short(
    mail_at: MailAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_store, "TRIM_SECONDS", 0.0)
    store = mail_at(change_retention=-1.0)
    await store.open()
    made = await filled(store, 3)
    array = MailboxRows(made[0].mailbox_id)
    assert await store.refresh_messages(made[0].mailbox_id, array, 0) is None
    assert len(array) == 0


async def test_numbers_of_changes_are_not_given_twice(mail_at: MailAt) -> None:
    """An account that goes takes its rows along, but for the last one, whose number would be given again."""
    store = mail_at()
    await store.open()
    [bobs] = await filled(store, 1, BOB)
    await filled(store, 3)
    await store.delete_account(ALICE)
    await store.close()
    store = mail_at()
    await store.open()
    [again] = await filled(store, 1, BOB)
    changes = await store.changes(bobs.account_id, bobs.modseq)
    assert changes is not None
    assert {change.modseq for change in changes} == {again.modseq}
    assert list(store.verify()) == []
    await store.close()


async def test_a_restored_store_knows_that_it_knows_nothing(mail_at: MailAt) -> None:
    store = mail_at()
    await store.open()
    [made] = await filled(store, 1)
    await store.renew_uid_validity()
    assert await store.changes(made.account_id, made.modseq) is None
    assert await store.changes(made.account_id, made.modseq + 5) is None
    account = await store.account(ALICE)
    assert account is not None
    assert await store.changes(made.account_id, account.modseq) == []
    assert list(store.verify()) == []
