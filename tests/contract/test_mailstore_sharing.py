"""Rights of others, annotations, special uses, appends that are all or none, and how far the change log reaches back."""

from __future__ import annotations

import pytest

from rusmes.clock import FakeClock
from rusmes.errors import LimitReached, NotAllowed, NotFound, OverQuota
from rusmes.model.mailbox import Appended
from rusmes.storage import names
from rusmes.storage.api import FlagChange, MailStore
from tests.contract.mails import ALICE, BOB, append_of, message
from tests.contract.test_mailstore_messages import box, fill, uids


async def test_rights_are_listed_changed_and_removed(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    inbox = await box(store)
    await store.set_rights(inbox.id, BOB, "lr")
    await store.set_rights(inbox.id, "anyone", "l")
    await store.set_rights(inbox.id, f"-{BOB}", "w")
    assert await store.acl(inbox.id) == {f"-{BOB}": "w", "anyone": "l", BOB: "lr"}
    assert list(await store.acl(inbox.id)) == [f"-{BOB}", "anyone", BOB]
    await store.set_rights(inbox.id, BOB, "lrs")
    await store.set_rights(inbox.id, "anyone", "")
    await store.set_rights(inbox.id, "nobody@example.com", "")
    assert await store.acl(inbox.id) == {f"-{BOB}": "w", BOB: "lrs"}
    changes = await store.changes(account.id, account.modseq)
    assert changes is not None
    assert {(change.kind, change.action) for change in changes} == {("mailbox", "updated")}
    assert len(changes) == 5
    for identifier in ("", "a\nb", "x" * 491):
        with pytest.raises(NotAllowed):
            await store.set_rights(inbox.id, identifier, "lr")
    with pytest.raises(NotFound):
        await store.acl(99)
    with pytest.raises(NotFound):
        await store.set_rights(99, BOB, "lr")


async def test_shared_mailboxes_are_found_by_identifier(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    for name in ("b", "a"):
        await store.create_mailbox(account.id, name)
    a, b, inbox = await box(store, "a"), await box(store, "b"), await box(store)
    await store.set_rights(b.id, BOB, "lr")
    await store.set_rights(a.id, "anyone", "l")
    await store.set_rights(a.id, BOB, "lr")
    await store.set_rights(inbox.id, f"{BOB}x", "lr")
    found = await store.shared_mailboxes([BOB, "anyone"])
    assert [(mailbox.name, rights) for mailbox, rights in found] == [("a", {"anyone": "l", BOB: "lr"}), ("b", {BOB: "lr"})]
    assert found[0][0] == await box(store, "a")
    await store.rename_mailbox(account.id, "b", "c")
    assert [mailbox.name for mailbox, _ in await store.shared_mailboxes([BOB])] == ["a", "c"]
    await store.delete_mailbox(account.id, "c")
    assert [mailbox.name for mailbox, _ in await store.shared_mailboxes([BOB])] == ["a"]
    await store.delete_account(ALICE)
    assert await store.shared_mailboxes([BOB, "anyone"]) == []


async def test_new_mailboxes_inherit_rights(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    await store.create_mailbox(account.id, "a")
    await store.set_rights((await box(store, "a")).id, BOB, "lrk")
    await store.create_mailbox(account.id, "a/b/c")
    assert await store.acl((await box(store, "a/b")).id) == {BOB: "lrk"}
    assert await store.acl((await box(store, "a/b/c")).id) == {BOB: "lrk"}
    await store.create_mailbox(account.id, "d")
    assert await store.acl((await box(store, "d")).id) == {}


async def test_an_account_that_is_made_again_has_no_old_rights_and_annotations(store: MailStore) -> None:
    await store.create_account(ALICE)
    bob = await store.create_account(BOB)
    inbox = await box(store)
    await store.set_rights(inbox.id, BOB, "lr")
    await store.set_rights(inbox.id, f"-{BOB}", "w")
    await store.set_metadata(inbox.id, bob.id, {"/private/comment": b"x"})
    await store.set_metadata(0, bob.id, {"/private/comment": b"x"})
    await store.delete_account(BOB)
    assert await store.acl(inbox.id) == {}
    assert await store.metadata(inbox.id, bob.id) == {}
    assert await store.metadata(0, bob.id) == {}


async def test_annotations(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    inbox = await box(store)
    await store.set_metadata(inbox.id, account.id, {"/private/comment": b"mine", "/private/a": b""})
    await store.set_metadata(inbox.id, 0, {"/shared/comment": b"\0\r\nall"})
    await store.set_metadata(0, 0, {"/shared/admin": b"mailto:x"})
    assert await store.metadata(inbox.id, account.id) == {"/private/a": b"", "/private/comment": b"mine"}
    assert await store.metadata(inbox.id, 0) == {"/shared/comment": b"\0\r\nall"}
    assert await store.metadata(0, 0) == {"/shared/admin": b"mailto:x"}
    assert await store.metadata(0, account.id) == {}
    await store.set_metadata(inbox.id, account.id, {"/private/a": None, "/private/none": None})
    assert await store.metadata(inbox.id, account.id) == {"/private/comment": b"mine"}
    with pytest.raises(NotFound):
        await store.metadata(99, 0)
    with pytest.raises(NotFound):
        await store.set_metadata(99, 0, {"/shared/a": b"x"})
    await store.create_mailbox(account.id, "b")
    b = await box(store, "b")
    await store.set_metadata(b.id, 0, {"/shared/comment": b"x"})
    await store.delete_mailbox(account.id, "b")
    with pytest.raises(NotFound):
        await store.metadata(b.id, 0)


async def test_annotations_are_counted(store: MailStore) -> None:
    await store.create_account(ALICE)
    inbox = await box(store)
    await store.set_metadata(inbox.id, 0, {"/shared/a": b"1", "/shared/b": b"2"}, max_entries=2)
    with pytest.raises(LimitReached):
        await store.set_metadata(inbox.id, 0, {"/shared/c": b"3"}, max_entries=2)
    await store.set_metadata(inbox.id, 0, {"/shared/c": b"3", "/shared/a": None, "/shared/b": b"4"}, max_entries=2)
    assert await store.metadata(inbox.id, 0) == {"/shared/b": b"4", "/shared/c": b"3"}
    await store.set_metadata(inbox.id, 0, {"/shared/b": None}, max_entries=1)


async def test_a_special_use_can_be_given_later(store: MailStore) -> None:
    account = await store.create_account(ALICE, mailboxes=["x"])
    mailbox = await box(store, "x")
    await store.set_special_use(mailbox.id, "\\Archive \\Important")
    assert (await box(store, "x")).special_use == "\\Archive \\Important"
    changes = await store.changes(account.id, account.modseq)
    assert changes
    await store.set_special_use(mailbox.id, "\\Archive \\Important")
    assert await store.changes(account.id, account.modseq) == changes


async def test_limits_of_mailboxes_and_subscriptions(store: MailStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from rusmes.storage import memory
    from rusmes.storage.lmdb import mailboxes

    for module in (memory, mailboxes):
        monkeypatch.setattr(module, "MAX_MAILBOXES", 4)
        monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS", 5)
    account = await store.create_account(ALICE)
    await store.create_mailbox(account.id, "a/b")
    with pytest.raises(LimitReached):
        await store.create_mailbox(account.id, "c/d")
    await store.create_mailbox(account.id, "c")
    with pytest.raises(LimitReached):
        await store.create_mailbox(account.id, "d")
    await store.subscribe(account.id, "other", True)
    with pytest.raises(LimitReached):
        await store.subscribe(account.id, "more", True)
    await store.subscribe(account.id, "other", True)
    await store.subscribe(account.id, "other", False)
    assert names.MAX_MAILBOXES >= 1000
    # Whatever becomes of a name counts: the fixture's `verify` counts all of them again.
    await store.delete_mailbox(account.id, "a/b")
    await store.create_mailbox(account.id, "e")
    with pytest.raises(LimitReached):
        await store.create_mailbox(account.id, "f")
    await store.subscribe(account.id, "c", False)
    await store.rename_mailbox(account.id, "a", "g")
    await store.delete_mailbox(account.id, "c")
    await store.rename_mailbox(account.id, "INBOX", "old")
    with pytest.raises(LimitReached):
        await store.rename_mailbox(account.id, "g", "h/i")
    await store.delete_account(ALICE)


async def test_limit_of_identifiers(store: MailStore) -> None:
    await store.create_account(ALICE)
    inbox = await box(store)
    for n in range(names.MAX_IDENTIFIERS):
        await store.set_rights(inbox.id, f"u{n}", "l")
    with pytest.raises(LimitReached):
        await store.set_rights(inbox.id, "one-more", "l")
    await store.set_rights(inbox.id, "u0", "lr")


async def test_an_append_of_all_or_none(store: MailStore) -> None:
    await fill(store, 1)
    inbox = await box(store)
    await store.set_quota(ALICE, quota_bytes=0, quota_messages=2)
    two = [append_of(store.blobs), append_of(store.blobs)]
    with pytest.raises(OverQuota):
        await store.append(two, all_or_none=True)
    with pytest.raises(NotAllowed):
        await store.append([append_of(store.blobs), append_of(store.blobs, flags=("\\Bogus",))], all_or_none=True)
    assert await box(store) == inbox
    [made] = await store.append([append_of(store.blobs)], all_or_none=True)
    assert isinstance(made, Appended)


async def test_a_message_is_replaced_in_one_step(store: MailStore) -> None:
    await fill(store, 2)
    inbox = await box(store)
    await store.set_quota(ALICE, quota_bytes=0, quota_messages=2)
    [made] = await store.append([append_of(store.blobs, message("new"))], all_or_none=True, expunge=(inbox.id, 1))
    assert isinstance(made, Appended)
    assert await uids(store, inbox.id) == [2, 3]
    with pytest.raises(NotFound):
        await store.append([append_of(store.blobs)], all_or_none=True, expunge=(inbox.id, 1))
    with pytest.raises(OverQuota):
        await store.append([append_of(store.blobs), append_of(store.blobs)], all_or_none=True, expunge=(inbox.id, 2))
    assert await uids(store, inbox.id) == [2, 3]


async def test_the_change_log_does_not_reach_back_for_ever(store: MailStore, clock: FakeClock) -> None:
    await fill(store, 2)
    inbox = await box(store)
    await store.expunge(inbox.id, [1])
    old = (await box(store)).highest_modseq
    clock.advance(20 * 86400)
    await fill(store, 1)
    await store.change_flags(inbox.id, FlagChange((2,), "add", ("\\Seen",)))
    new = (await box(store)).highest_modseq
    clock.advance(11 * 86400)
    await fill(store, 1)
    await store.expunge(inbox.id, [2])
    assert await store.expunged_since(inbox.id, old - 1) is None
    assert await store.changes(inbox.account_id, 0) is None
    assert await store.expunged_since(inbox.id, old) == [2]
    assert await store.expunged_since(inbox.id, new) == [2]
    changes = await store.changes(inbox.account_id, old)
    assert changes is not None
    assert changes[0].modseq == old + 1
    clock.advance(365 * 86400)
    await fill(store, 1)
    await fill(store, 1)
    assert await store.changes(inbox.account_id, new) is None
    current = await box(store)
    assert await store.changes(inbox.account_id, current.highest_modseq) == []
    assert await uids(store, inbox.id) == [3, 4, 5, 6]
