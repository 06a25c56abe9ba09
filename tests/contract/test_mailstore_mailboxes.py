"""Accounts and mailboxes: names, special uses, renaming, numbers that never come back."""

from __future__ import annotations

import pytest

from rusmes.errors import AlreadyExists, NotAllowed, NotFound
from rusmes.model.mailbox import Mailbox
from rusmes.storage.api import MailStore
from tests.contract.mails import ALICE, BOB, append_of, message


async def box(store: MailStore, account_id: int, name: str) -> Mailbox:
    found = await store.mailbox(account_id, name)
    assert found is not None
    return found


async def test_an_account_is_made_with_its_mailboxes(store: MailStore) -> None:
    account = await store.create_account(ALICE, mailboxes=("Drafts", "Sent", "Work/Mine"), quota_bytes=5, quota_messages=6)
    assert (account.name, account.quota_bytes, account.quota_messages, account.used_messages) == (ALICE, 5, 6, 0)
    uses = {mailbox.name: mailbox.special_use for mailbox in await store.mailboxes(account.id)}
    assert uses == {"Drafts": "\\Drafts", "INBOX": "", "Sent": "\\Sent", "Work": "", "Work/Mine": ""}
    assert (await box(store, account.id, "Sent")).subscribed
    with pytest.raises(AlreadyExists):
        await store.create_account(ALICE)
    await store.create_account(BOB)
    assert [found.name for found in await store.accounts()] == [ALICE, BOB]
    assert await store.account("nobody@example.com") is None


async def test_inbox_has_one_spelling_and_names_are_composed(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    assert (await box(store, account.id, "iNbOx")).name == "INBOX"
    with pytest.raises(AlreadyExists):
        await store.create_mailbox(account.id, "inbox")
    made = await store.create_mailbox(account.id, "Bücher")
    assert made.name == "Bücher"
    assert (await box(store, account.id, "Bücher")).id == made.id
    assert await store.mailbox(account.id, "bücher") is None


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a//b", "a\nb", "a\x00", "a\u2028b", "x" * 481, "a/" * 40 + "a", "\udc80"]
)
async def test_impossible_names_are_refused(store: MailStore, name: str) -> None:
    account = await store.create_account(ALICE)
    with pytest.raises(NotAllowed):
        await store.create_mailbox(account.id, name)


async def test_superior_names_are_made(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    await store.create_mailbox(account.id, "a/b/c", special_use="\\Archive")
    found = {mailbox.name: mailbox.special_use for mailbox in await store.mailboxes(account.id)}
    assert found == {"INBOX": "", "a": "", "a/b": "", "a/b/c": "\\Archive"}


async def test_a_special_use_is_given_once(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    await store.create_mailbox(account.id, "Spam", special_use="\\Junk")
    assert (await store.create_mailbox(account.id, "Junk")).special_use == ""


async def test_rename_takes_children_and_subscriptions_along(store: MailStore) -> None:
    account = await store.create_account(ALICE, mailboxes=("a/b", "ab"))
    [result] = await store.append([append_of(store.blobs, mailbox="a/b")])
    await store.subscribe(account.id, "a", False)
    before = await box(store, account.id, "a/b")
    await store.rename_mailbox(account.id, "a", "new/place")
    names = [mailbox.name for mailbox in await store.mailboxes(account.id)]
    assert names == ["INBOX", "ab", "new", "new/place", "new/place/b"]
    after = await box(store, account.id, "new/place/b")
    assert (after.id, after.uid_validity, after.uid_next, after.exists) == (before.id, before.uid_validity, 2, 1)
    assert await store.subscriptions(account.id) == ["INBOX", "ab", "new", "new/place/b"]
    assert (await store.open_message(after.id, result.uid)).message.size == len(message())  # type: ignore[union-attr]


async def test_rename_refuses_what_cannot_be(store: MailStore) -> None:
    account = await store.create_account(ALICE, mailboxes=("a", "b", "c/" + "x" * 470))
    with pytest.raises(AlreadyExists):
        await store.rename_mailbox(account.id, "a", "b")
    with pytest.raises(NotFound):
        await store.rename_mailbox(account.id, "missing", "d")
    with pytest.raises(NotAllowed):
        await store.rename_mailbox(account.id, "a", "a/inside")
    with pytest.raises(NotAllowed):
        await store.rename_mailbox(account.id, "c", "a-name-that-is-too-long")
    assert len(await store.mailboxes(account.id)) == 5


async def test_renaming_inbox_moves_its_messages_only(store: MailStore) -> None:
    account = await store.create_account(ALICE, mailboxes=("INBOX/below",))
    await store.append([append_of(store.blobs, message(str(n))) for n in range(3)])
    inbox = await box(store, account.id, "INBOX")
    await store.rename_mailbox(account.id, "INBOX", "Old")
    assert [mailbox.name for mailbox in await store.mailboxes(account.id)] == ["INBOX", "INBOX/below", "Old"]
    empty, old = await box(store, account.id, "INBOX"), await box(store, account.id, "Old")
    assert (empty.id, empty.exists, empty.uid_next, empty.uid_validity) == (inbox.id, 0, 4, inbox.uid_validity)
    assert (old.exists, old.uid_next) == (3, 4)
    [result] = await store.append([append_of(store.blobs)])
    assert result.uid == 4  # type: ignore[union-attr]


async def test_deleting_leaves_children_and_the_subscription(store: MailStore) -> None:
    account = await store.create_account(ALICE, mailboxes=("a/b",))
    await store.append([append_of(store.blobs, mailbox="a"), append_of(store.blobs, mailbox="a/b")])
    await store.delete_mailbox(account.id, "a")
    assert [mailbox.name for mailbox in await store.mailboxes(account.id)] == ["INBOX", "a/b"]
    assert "a" in await store.subscriptions(account.id)
    left = await store.account(ALICE)
    assert left is not None
    assert left.used_messages == 1
    with pytest.raises(NotAllowed):
        await store.delete_mailbox(account.id, "inbox")
    with pytest.raises(NotFound):
        await store.delete_mailbox(account.id, "a")


async def test_uid_validity_never_comes_back(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    seen = {(await store.create_mailbox(account.id, "a")).uid_validity}
    for round in range(3):
        await store.delete_mailbox(account.id, "a")
        made = (await store.create_mailbox(account.id, "b" if round == 1 else "a")).uid_validity
        assert made > max(seen)
        seen.add(made)
        if round == 1:
            await store.rename_mailbox(account.id, "b", "a")
    await store.delete_account(ALICE)
    account = await store.create_account(ALICE)
    assert min(mailbox.uid_validity for mailbox in await store.mailboxes(account.id)) > max(seen)


async def test_a_deleted_account_is_gone_and_its_number_too(store: MailStore) -> None:
    old = await store.create_account(ALICE, mailboxes=("a",))
    await store.append([append_of(store.blobs, message(message_id="x@y")) for _ in range(3)])
    await store.append([append_of(store.blobs, account=BOB)])
    await store.delete_account(ALICE)
    assert await store.account(ALICE) is None
    with pytest.raises(NotFound):
        await store.mailboxes(old.id)
    with pytest.raises(NotFound):
        await store.delete_account(ALICE)
    new = await store.create_account(ALICE)
    assert new.id != old.id
    assert new.used_messages == 0
    [result] = await store.append([append_of(store.blobs, message(message_id="x@y"))])
    email = (await store.open_message(result.mailbox_id, result.uid)).email  # type: ignore[union-attr]
    assert email.thread_id == email.id


async def test_subscriptions_do_not_need_a_mailbox(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    await store.subscribe(account.id, "not/there", True)
    assert await store.subscriptions(account.id) == ["INBOX", "not/there"]
    await store.subscribe(account.id, "INBOX", False)
    assert not (await box(store, account.id, "INBOX")).subscribed
    await store.subscribe(account.id, "not/there", False)
    assert await store.subscriptions(account.id) == []


async def test_what_does_not_exist_is_not_found(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    inbox = await box(store, account.id, "INBOX")
    assert await store.mailbox(account.id, "x") is None
    with pytest.raises(NotFound):
        await store.mailbox(99, "INBOX")
    with pytest.raises(NotFound):
        await store.create_mailbox(99, "a")
    with pytest.raises(NotFound):
        await store.set_quota("x@y", quota_bytes=1, quota_messages=1)
    with pytest.raises(NotFound):
        await store.messages(99)
    with pytest.raises(NotFound):
        await store.open_message(inbox.id, 1)
    with pytest.raises(NotFound):
        await store.copy(inbox.id, [1], 99)
    with pytest.raises(NotFound):
        await store.changes(99, 0)
