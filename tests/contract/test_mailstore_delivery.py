"""Appending, opening, quotas, idempotency."""

from __future__ import annotations

import asyncio

from rusmes.clock import FakeClock
from rusmes.model.content import Rendering
from rusmes.model.mailbox import Appended
from rusmes.model.plan import Append, Refusal
from rusmes.storage.api import FlagChange, MailStore
from rusmes.storage.memory import KEY_RETENTION_SECONDS
from tests.contract.mails import ALICE, BOB, append_of, content_of, large_message, message


async def appended(store: MailStore, *appends: Append) -> list[Appended]:
    results = await store.append(appends)
    assert all(isinstance(result, Appended) for result in results), results
    return results  # type: ignore[return-value]


async def read(store: MailStore, result: Appended) -> bytes:
    opened = await store.open_message(result.mailbox_id, result.uid)
    return b"".join(opened.rendering.chunks())


async def test_an_append_makes_account_and_mailbox_and_can_be_read(store: MailStore) -> None:
    [result] = await appended(store, append_of(store.blobs, message("one"), prefix=b"X: y\r\n", mailbox="Lists/work"))
    account = await store.account(ALICE)
    assert account is not None
    assert (account.used_messages, account.used_bytes) == (1, len(message("one")) + 6)
    assert [box.name for box in await store.mailboxes(account.id)] == ["INBOX", "Lists", "Lists/work"]
    mailbox = await store.mailbox(account.id, "Lists/work")
    assert mailbox is not None
    assert (mailbox.id, mailbox.uid_validity) == (result.mailbox_id, result.uid_validity)
    assert (mailbox.exists, mailbox.unseen, mailbox.recent, mailbox.uid_next, mailbox.size) == (1, 1, 1, 2, account.used_bytes)
    assert await read(store, result) == b"X: y\r\n" + message("one")
    opened = await store.open_message(result.mailbox_id, result.uid)
    assert opened.email.id == opened.message.email_id == result.email_id
    assert opened.email.memberships == ((result.mailbox_id, result.uid),)
    assert b'"one"' in opened.email.envelope
    assert b"Subject: one\r\n" in opened.email.headers
    assert opened.email.body_structure.startswith(b'("text" "plain"')


async def test_one_content_for_many_recipients_is_one_blob(store: MailStore) -> None:
    content = content_of(store.blobs, message())
    plan = [
        append_of(store.blobs, account=account, mailbox=mailbox)
        for account, mailbox in ((ALICE, "INBOX"), (BOB, "INBOX"), (BOB, "Copy"))
    ]
    for item in plan:
        item.rendering = Rendering(content, f"Delivered-To: {item.account}\r\n".encode())
    results = await appended(store, *plan)
    emails = [(await store.open_message(result.mailbox_id, result.uid)).email for result in results]
    assert {email.blob_id for email in emails} == {content.id}
    for item, result in zip(plan, results, strict=True):
        assert await read(store, result) == item.rendering.prefix + message()
    for result in results:
        await store.expunge(result.mailbox_id, [result.uid])


async def test_a_replaced_header_is_kept_as_prefix_and_skip(store: MailStore) -> None:
    content = content_of(store.blobs, message("old", body=b"the body\r\n"))
    item = append_of(store.blobs)
    item.rendering = Rendering(content, b"Subject: new\r\n\r\n", content.header_bytes)
    [result] = await appended(store, item)
    assert await read(store, result) == b"Subject: new\r\n\r\nthe body\r\n"
    email = (await store.open_message(result.mailbox_id, result.uid)).email
    assert b'"new"' in email.envelope
    assert b"old" not in email.envelope + email.headers


async def test_a_large_body_is_read_back_in_pieces(store: MailStore) -> None:
    data = large_message()
    [result] = await appended(store, append_of(store.blobs, data))
    opened = await store.open_message(result.mailbox_id, result.uid)
    assert b"".join(opened.rendering.chunks()) == data
    assert opened.email.size == opened.message.size == len(data)
    assert b" %d 1 NIL" % (len(data) - data.index(b"\r\n\r\n") - 4) in opened.email.body_structure


async def test_a_key_delivers_once(store: MailStore, clock: FakeClock) -> None:
    [first] = await appended(store, append_of(store.blobs, key=b"queue id, recipient"))
    [again] = await appended(store, append_of(store.blobs, key=b"queue id, recipient"))
    [other] = await appended(store, append_of(store.blobs, key=b"queue id, other recipient"))
    assert not first.duplicate
    assert again.duplicate
    assert (again.uid, again.email_id, again.modseq) == (first.uid, first.email_id, first.modseq)
    assert other.uid == first.uid + 1
    clock.advance(KEY_RETENTION_SECONDS - 1)
    assert (await appended(store, append_of(store.blobs, key=b"queue id, recipient")))[0].duplicate
    clock.advance(2)
    assert not (await appended(store, append_of(store.blobs, key=b"queue id, recipient")))[0].duplicate


async def test_keys_are_remembered_for_longer_when_mail_waits_for_longer(store: MailStore, clock: FakeClock) -> None:
    store.retain_keys(3 * KEY_RETENTION_SECONDS)  # type: ignore[attr-defined]
    store.retain_keys(KEY_RETENTION_SECONDS)  # type: ignore[attr-defined]
    await appended(store, append_of(store.blobs, key=b"k"))
    clock.advance(3 * KEY_RETENTION_SECONDS - 1)
    assert (await appended(store, append_of(store.blobs, key=b"k")))[0].duplicate
    clock.advance(2)
    assert not (await appended(store, append_of(store.blobs, key=b"k")))[0].duplicate


async def test_a_key_survives_a_clock_that_goes_back(store: MailStore, clock: FakeClock) -> None:
    await appended(store, append_of(store.blobs, key=b"k"))
    clock.jump_wall_clock(-86400)
    assert (await appended(store, append_of(store.blobs, key=b"k")))[0].duplicate


async def test_keys_of_any_length_and_twice_in_one_call(store: MailStore) -> None:
    long = b"k" * 2000
    first, second = await appended(store, append_of(store.blobs, key=long), append_of(store.blobs, key=long))
    assert (first.duplicate, second.duplicate) == (False, True)
    assert not (await appended(store, append_of(store.blobs, key=long + b"k")))[0].duplicate


async def test_quotas_are_exact(store: MailStore) -> None:
    size = len(message())
    await store.create_account(ALICE, quota_bytes=2 * size, quota_messages=10)
    await appended(store, append_of(store.blobs))
    assert await store.room_for(ALICE, size)
    assert not await store.room_for(ALICE, size + 1)
    results = await store.append([append_of(store.blobs), append_of(store.blobs), append_of(store.blobs, account=BOB)])
    assert [isinstance(result, Appended) for result in results] == [True, False, True]
    assert results[1] == Refusal(552, "5.2.2", "mailbox full")
    account = await store.set_quota(ALICE, quota_bytes=0, quota_messages=3)
    assert (account.used_bytes, account.used_messages) == (2 * size, 2)
    assert [isinstance(r, Appended) for r in await store.append([append_of(store.blobs) for _ in range(2)])] == [True, False]
    inbox = await store.mailbox(account.id, "INBOX")
    assert inbox is not None
    await store.expunge(inbox.id, [1])
    assert await store.room_for(ALICE, size)
    assert await store.room_for("nobody@example.com", 1 << 60)


async def test_an_impossible_mailbox_or_flag_refuses_only_its_own_append(store: MailStore) -> None:
    results = await store.append(
        [append_of(store.blobs, mailbox="a//b"), append_of(store.blobs), append_of(store.blobs, flags=("not an atom",))]
    )
    assert [getattr(result, "status", "") for result in results] == ["5.6.0", "", "5.6.0"]


async def test_flags_and_date_of_an_append(store: MailStore, clock: FakeClock) -> None:
    first, second = await appended(
        store,
        append_of(store.blobs, flags=("\\seen", "$Forwarded", "\\Recent", "$forwarded"), received=1_600_000_000.5),
        append_of(store.blobs),
    )
    message = (await store.open_message(first.mailbox_id, first.uid)).message
    assert message.flags == ("\\Seen", "$Forwarded")
    assert (message.internal_date, message.recent) == (1_600_000_000.5, True)
    assert (await store.open_message(second.mailbox_id, second.uid)).message.internal_date == clock.now()
    email = (await store.open_message(first.mailbox_id, first.uid)).email
    assert email.keywords == ("$seen", "$forwarded")


async def test_waiting_appends_share_commits_and_get_different_uids(store: MailStore) -> None:
    results = await asyncio.gather(*(store.append([append_of(store.blobs)]) for _ in range(60)))
    made = [result[0] for result in results]
    assert sorted(result.uid for result in made) == list(range(1, 61))  # type: ignore[union-attr]
    assert len({result.modseq for result in made}) == 60  # type: ignore[union-attr]


async def test_listeners_hear_of_commits(store: MailStore) -> None:
    heard: list[tuple[int, int]] = []
    store.on_change(lambda account_id, modseq: heard.append((account_id, modseq)))
    [result] = await appended(store, append_of(store.blobs))
    assert (result.account_id, result.modseq) in heard
    heard.clear()
    await store.change_flags(result.mailbox_id, FlagChange((1,), "add", ("\\Seen",)))
    assert heard == [(result.account_id, result.modseq + 1)]
    heard.clear()
    await store.change_flags(result.mailbox_id, FlagChange((1,), "add", ("\\Seen",)))
    assert heard == []


async def test_an_append_that_is_told(store: MailStore) -> None:
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[list[Appended | Refusal]]] = [loop.create_future() for _ in range(3)]
    await store.create_account(BOB, quota_messages=1)
    assert store.begin_append([append_of(store.blobs), append_of(store.blobs, account=BOB)], answers[0])
    assert store.begin_append([append_of(store.blobs, account=BOB)], answers[1])
    assert not answers[0].done()
    [first, second] = await answers[0]
    assert isinstance(first, Appended)
    assert await read(store, first) == message()
    assert isinstance(second, Appended)
    [refused] = await answers[1]
    assert isinstance(refused, Refusal)
    # What is in a file may be more than a matter of a commit.
    large = append_of(store.blobs, large_message())
    [stored] = await answers[2] if store.begin_append([large], answers[2]) else await store.append([large])
    assert isinstance(stored, Appended)
    assert await read(store, stored) == large_message()
