"""Flags, expunging, copying, moving, threads and the change log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest

from rusmes.errors import NotAllowed, NotFound, OverQuota
from rusmes.model.mailbox import Appended, Mailbox
from rusmes.storage.api import FlagChange, MailStore
from tests.contract.mails import ALICE, BOB, append_of, message


async def fill(store: MailStore, count: int, **more: object) -> list[Appended]:
    results = await store.append([append_of(store.blobs, message(str(n)), **more) for n in range(count)])
    return [result for result in results if isinstance(result, Appended)]


async def box(store: MailStore, name: str = "INBOX") -> Mailbox:
    account = await store.account(ALICE)
    assert account is not None
    found = await store.mailbox(account.id, name)
    assert found is not None
    return found


async def uids(store: MailStore, mailbox_id: int) -> list[int]:
    return [message.uid for message in await store.messages(mailbox_id)]


async def test_ranges_of_messages(store: MailStore) -> None:
    await fill(store, 5)
    inbox = await box(store)
    assert await uids(store, inbox.id) == [1, 2, 3, 4, 5]
    assert [found.uid for found in await store.messages(inbox.id, first_uid=2, last_uid=4)] == [2, 3, 4]
    assert [found.uid for found in await store.messages(inbox.id, first_uid=4)] == [4, 5]
    assert await store.messages(inbox.id, first_uid=6) == []
    assert await store.messages(inbox.id, first_uid=4, last_uid=2) == []


async def test_flags_are_set_added_and_removed(store: MailStore) -> None:
    await fill(store, 3)
    inbox = await box(store)
    changed = await store.change_flags(inbox.id, FlagChange((1, 3, 99), "add", ("\\Seen", "Work")))
    assert changed == [1, 3]
    flags = {found.uid: found.flags for found in await store.messages(inbox.id)}
    assert flags == {1: ("\\Seen", "Work"), 2: (), 3: ("\\Seen", "Work")}
    await store.change_flags(inbox.id, FlagChange((1,), "add", ("WORK", "\\Deleted")))
    await store.change_flags(inbox.id, FlagChange((3,), "remove", ("work", "\\Draft")))
    await store.change_flags(inbox.id, FlagChange((2,), "set", ("\\Flagged",)))
    found = {found.uid: found.flags for found in await store.messages(inbox.id)}
    assert found == {1: ("\\Seen", "\\Deleted", "Work"), 2: ("\\Flagged",), 3: ("\\Seen",)}
    inbox = await box(store)
    assert (inbox.unseen, inbox.deleted) == (1, 1)
    with pytest.raises(NotAllowed):
        await store.change_flags(inbox.id, FlagChange((1,), "add", ("\\Unknown",)))
    with pytest.raises(NotAllowed):
        await store.change_flags(inbox.id, FlagChange((1,), "add", tuple(f"k{n}" for n in range(101))))


async def test_unchanged_since_refuses_what_changed(store: MailStore) -> None:
    await fill(store, 2)
    inbox = await box(store)
    assert await store.change_flags(inbox.id, FlagChange((1,), "add", ("\\Seen",))) == [1]
    first = (await store.messages(inbox.id))[0]
    changed = await store.change_flags(inbox.id, FlagChange((1, 2), "add", ("\\Flagged",), unchanged_since=first.modseq - 1))
    assert changed == [2]
    assert [found.modseq for found in await store.messages(inbox.id)] == [first.modseq, first.modseq + 1]
    assert (await box(store)).highest_modseq == first.modseq + 1


async def test_a_change_that_changes_nothing_has_no_modseq(store: MailStore) -> None:
    await fill(store, 1)
    inbox = await box(store)
    assert await store.change_flags(inbox.id, FlagChange((1,), "remove", ("\\Seen",))) == [1]
    [found] = await store.messages(inbox.id)
    assert found.modseq == inbox.highest_modseq == (await box(store)).highest_modseq


async def test_recent_belongs_to_the_first_who_asks(store: MailStore) -> None:
    await fill(store, 2)
    inbox = await box(store)
    assert inbox.recent == 2
    assert await store.claim_recent(inbox.id) == 1
    assert await store.claim_recent(inbox.id) == 3
    await fill(store, 1)
    assert [found.recent for found in await store.messages(inbox.id)] == [False, False, True]
    assert (await box(store)).recent == 1


async def test_expunge_never_frees_a_uid(store: MailStore) -> None:
    await fill(store, 4)
    inbox = await box(store)
    await store.change_flags(inbox.id, FlagChange((2, 4), "add", ("\\Deleted",)))
    assert await store.expunge(inbox.id, [1, 2, 4], only_deleted=True) == [2, 4]
    assert await store.expunge(inbox.id, [3, 77]) == [3]
    assert await store.expunge(inbox.id, [3]) == []
    inbox = await box(store)
    assert (inbox.exists, inbox.unseen, inbox.deleted, inbox.recent, inbox.uid_next) == (1, 1, 0, 1, 5)
    [result] = await fill(store, 1)
    assert result.uid == 5


async def test_a_copy_is_another_email_of_the_same_blob_and_thread(store: MailStore) -> None:
    [made] = await fill(store, 1, flags=("\\Seen", "K"))
    await store.create_mailbox(made.account_id, "b")
    target = await box(store, "b")
    assert await store.copy(made.mailbox_id, [1, 9], target.id) == [(1, 1)]
    original = (await store.open_message(made.mailbox_id, 1)).email
    copy = await store.open_message(target.id, 1)
    assert copy.email.id != original.id
    assert (copy.email.blob_id, copy.email.thread_id) == (original.blob_id, original.thread_id)
    assert copy.message.flags == ("\\Seen", "K")
    assert copy.message.recent
    await store.change_flags(target.id, FlagChange((1,), "set", ()))
    assert (await store.open_message(made.mailbox_id, 1)).message.flags == ("\\Seen", "K")
    await store.expunge(made.mailbox_id, [1])
    assert b"".join((await store.open_message(target.id, 1)).rendering.chunks()) == message("0")
    assert await store.copy(made.mailbox_id, [1], target.id) == []


async def test_renderings_stop_at_the_limit_and_at_gaps(store: MailStore) -> None:
    made = await fill(store, 5)
    mailbox_id = made[0].mailbox_id
    size = len(message("0"))
    await store.expunge(mailbox_id, [4])

    async def bodies(uids: Sequence[int], limit_bytes: int = 0) -> list[bytes]:
        return [b"".join(item.chunks()) for item in await store.renderings(mailbox_id, uids, limit_bytes=limit_bytes)]

    assert await bodies([1, 2, 3, 4, 5]) == [message("0"), message("1"), message("2")]
    assert await bodies([5, 1]) == [message("4"), message("0")]
    assert await bodies([1, 2, 3], 2 * size) == [message("0"), message("1")]
    assert await bodies([1, 2, 3], 1) == [message("0")]
    assert await bodies([]) == []
    for uids_ in ([4], [9], [0]):
        with pytest.raises(NotFound):
            await store.renderings(mailbox_id, uids_)


async def test_copies_count_for_the_quota(store: MailStore) -> None:
    made = await fill(store, 2)
    await store.set_quota(ALICE, quota_bytes=0, quota_messages=3)
    with pytest.raises(OverQuota):
        await store.copy(made[0].mailbox_id, [1, 2], made[0].mailbox_id)
    assert await store.copy(made[0].mailbox_id, [2], made[0].mailbox_id) == [(2, 3)]


async def test_a_move_keeps_the_email(store: MailStore) -> None:
    made = await fill(store, 3)
    await store.create_mailbox(made[0].account_id, "b")
    target = await box(store, "b")
    assert await store.move(made[0].mailbox_id, [3, 1], target.id) == [(1, 1), (3, 2)]
    moved = await store.open_message(target.id, 2)
    assert moved.email.id == made[2].email_id
    assert moved.email.memberships == ((target.id, 2),)
    assert await uids(store, made[0].mailbox_id) == [2]
    assert await store.move(made[0].mailbox_id, [2], made[0].mailbox_id) == [(2, 4)]
    assert await uids(store, made[0].mailbox_id) == [4]


@pytest.mark.parametrize("name", ["copy", "move"])
async def test_another_accounts_mailbox_may_be_the_target(store: MailStore, name: str) -> None:
    [first] = await store.append([append_of(store.blobs, message(message_id="a"), account=BOB)])
    assert isinstance(first, Appended)
    answer = message("answer", message_id="b", references="a")
    results = await store.append([append_of(store.blobs, answer, flags=("\\Seen", "\\Deleted", "k"), received=1000.0)])
    [made] = [result for result in results if isinstance(result, Appended)]
    assert await getattr(store, name)(made.mailbox_id, [1, 5], first.mailbox_id, keep="s") == [(1, 2)]
    found = await store.open_message(first.mailbox_id, 2)
    assert (found.message.flags, found.message.internal_date) == (("\\Seen",), 1000.0)
    assert b"".join(found.rendering.chunks()) == answer
    assert found.email.id != made.email_id
    assert found.email.thread_id == (await store.open_message(first.mailbox_id, 1)).email.thread_id
    bob = await store.account(BOB)
    alice = await store.account(ALICE)
    assert bob is not None
    assert alice is not None
    assert (bob.used_messages, alice.used_messages) == (2, 1 if name == "copy" else 0)
    assert await uids(store, made.mailbox_id) == ([1] if name == "copy" else [])
    await store.set_quota(BOB, quota_bytes=0, quota_messages=2)
    if name == "copy":
        with pytest.raises(OverQuota):
            await store.copy(made.mailbox_id, [1], first.mailbox_id)


async def test_renderings_stop_at_a_limit_and_at_a_gap(store: MailStore) -> None:
    mails = [message(str(n), body=b"x" * 500) for n in range(4)]
    await store.append([append_of(store.blobs, data) for data in mails])
    inbox = await box(store)
    await store.expunge(inbox.id, [3])
    size = len(mails[0])

    async def read(uids: list[int], limit: int = 0) -> list[bytes]:
        found = await store.renderings(inbox.id, uids, limit_bytes=limit)
        return [b"".join(rendering.chunks()) for rendering in found]

    assert await read([1, 2, 4]) == [mails[0], mails[1], mails[3]]
    assert await read([1, 2, 3, 4]) == mails[:2]
    assert await read([1, 2, 4], 2 * size) == mails[:2]
    assert await read([1, 2, 4], 2 * size - 1) == mails[:1]
    assert await read([1, 2], 1) == mails[:1]
    with pytest.raises(NotFound):
        await read([3, 4])


async def threads(store: MailStore, *mails: tuple[str, str]) -> list[bytes]:
    found = []
    for id, references in mails:
        [made] = await store.append([append_of(store.blobs, message(message_id=id, references=references))])
        assert isinstance(made, Appended)
        found.append((await store.open_message(made.mailbox_id, made.uid)).email.thread_id)
    return found


async def test_answers_join_the_thread_in_any_order(store: MailStore) -> None:
    found = await threads(store, ("a", ""), ("c", "a b"), ("b", "a"), ("other", ""), ("", "c"), ("", ""))
    assert found[0] == found[1] == found[2] == found[4]
    assert len(set(found)) == 3
    account = await store.account(ALICE)
    assert account is not None
    members = await store.thread(account.id, found[0])
    assert [email.thread_id for email in await store.emails(account.id, members) if email] == [found[0]] * 4
    assert await store.thread(account.id, bytes(16)) == []
    assert await store.emails(account.id, [bytes(16)]) == [None]


async def test_a_thread_ends_with_its_last_email(store: MailStore) -> None:
    [thread, same] = await threads(store, ("a", ""), ("b", "a"))
    assert thread == same
    inbox = await box(store)
    await store.expunge(inbox.id, [1])
    [third] = await threads(store, ("c", "a"))
    assert third == thread
    await store.expunge(inbox.id, [3, 2])
    account = await store.account(ALICE)
    assert account is not None
    assert await store.thread(account.id, thread) == []
    for new in await threads(store, ("d", "a"), ("e", "b"), ("f", "c")):
        assert new != thread


async def test_the_change_log_tells_what_happened(store: MailStore) -> None:
    account = await store.create_account(ALICE)
    [made] = await fill(store, 1)
    await store.change_flags(made.mailbox_id, FlagChange((1,), "add", ("\\Seen",)))
    await store.create_mailbox(account.id, "b")
    target = await box(store, "b")
    await store.move(made.mailbox_id, [1], target.id)
    await store.expunge(target.id, [1])
    log = defaultdict(set)
    for change in await store.changes(account.id, 0) or ():
        log[change.modseq].add((change.kind, change.action))
    expected = [
        {("mailbox", "created")},
        {("email", "created"), ("thread", "created"), ("message", "created"), ("mailbox", "updated")},
        {("email", "updated"), ("message", "updated"), ("mailbox", "updated")},
        {("mailbox", "created")},
        {("message", "destroyed"), ("message", "created"), ("email", "updated"), ("mailbox", "updated")},
        {("message", "destroyed"), ("email", "destroyed"), ("thread", "destroyed"), ("mailbox", "updated")},
    ]
    assert [log[modseq] for modseq in sorted(log)] == expected
    current = await store.account(ALICE)
    assert current is not None
    assert (min(log), max(log)) == (1, current.modseq)


async def test_the_change_log_tells_of_many_flags(store: MailStore) -> None:
    """Both of messages and of emails, as long as they are there; what went since has a later line."""
    made = await fill(store, 100)
    inbox, account_id = made[0].mailbox_id, made[0].account_id
    await store.change_flags(inbox, FlagChange(tuple(range(1, 101)), "add", ("\\Seen",)))
    emails = {item.email_id for item in made}
    messages = {inbox.to_bytes(8, "big") + item.uid.to_bytes(4, "big") for item in made}
    since = made[-1].modseq
    log = await store.changes(account_id, since)
    assert log is not None
    assert {(change.modseq, change.action) for change in log} == {(since + 1, "updated")}
    for kind, ids in (("message", messages), ("email", emails)):
        assert sorted(change.id for change in log if change.kind == kind) == sorted(ids)
    await store.expunge(inbox, [50])
    log = await store.changes(account_id, since)
    assert log is not None
    last = {change.id: change.action for change in log if change.kind == "email"}
    assert last == {id: "destroyed" if id == made[49].email_id else "updated" for id in emails}
    assert {change.id for change in log if change.kind == "message"} == messages


async def test_a_limited_log_never_cuts_a_modseq(store: MailStore) -> None:
    await fill(store, 3)
    account = await store.account(ALICE)
    assert account is not None
    everything = await store.changes(account.id, 0)
    since, collected = 0, []
    while page := await store.changes(account.id, since, limit=2):
        collected += page
        since = page[-1].modseq
    assert collected == everything
    assert await store.changes(account.id, account.modseq) == []
