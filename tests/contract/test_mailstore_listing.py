"""What IMAP's sessions ask: rows of a whole mailbox, what changed since, facts and bodies of emails."""

from __future__ import annotations

import pytest

from rusmes._core.cursor import Cursor
from rusmes._core.view import MailboxRows
from rusmes.clock import FakeClock
from rusmes.errors import NotFound
from rusmes.model.mailbox import Appended
from rusmes.storage.api import FlagChange, MailStore
from tests.contract.mails import ALICE, BOB, append_of, large_message, message
from tests.contract.test_mailstore_messages import box, fill


class Roster:
    """A mailbox as a session holds it; `gone` are the tombstones."""

    def __init__(self) -> None:
        self.array = MailboxRows(1)
        self.cursor = Cursor(self.array)

    @property
    def rows(self) -> dict[int, tuple[int, bytes, float, int, int, tuple[str, ...]]]:
        array = self.array
        return {
            array.uid(row): (
                array.modseq_of(row), array.email_id(row), array.internal_date(row), array.message_size(row),
                array.system_bits(row), array.keywords(row),
            )
            for row in range(array.size) if not array.is_expunged(row)
        }  # fmt: skip

    @property
    def gone(self) -> list[int]:
        return [self.array.uid(row) for row in range(self.array.size) if self.array.is_expunged(row)]


async def load(store: MailStore, mailbox_id: int, **more: int) -> Roster:
    roster = Roster()
    await store.load_messages(mailbox_id, roster.array, **more)
    return roster


async def test_a_mailbox_is_loaded_in_one_look(store: MailStore) -> None:
    made = await fill(store, 5, flags=("\\Seen", "$Work"))
    inbox = await box(store)
    await store.expunge(inbox.id, [2])
    roster = Roster()
    mailbox = await store.load_messages(inbox.id, roster.array)
    assert mailbox == await box(store)
    assert list(roster.rows) == [1, 3, 4, 5]
    listed = {found.uid: found for found in await store.messages(inbox.id)}
    for uid, (modseq, email_id, date, size, bits, keywords) in roster.rows.items():
        found = listed[uid]
        assert (modseq, email_id, date, size) == (found.modseq, found.email_id, found.internal_date, found.size)
        assert (bits, keywords) == (1, ("$Work",))
    assert list((await load(store, inbox.id, first_uid=4)).rows) == [4, 5]
    assert list((await load(store, inbox.id, first_uid=6)).rows) == []
    assert list((await load(store, inbox.id, first_uid=1 << 32)).rows) == []
    with pytest.raises(NotFound):
        await load(store, made[0].mailbox_id + 99)


async def test_a_refresh_brings_what_came_changed_and_went(store: MailStore) -> None:
    await fill(store, 6)
    inbox = await box(store)
    roster = await load(store, inbox.id)
    before = (await box(store)).highest_modseq
    await store.change_flags(inbox.id, FlagChange((2, 3), "add", ("\\Seen", "a")))
    await store.change_flags(inbox.id, FlagChange((3,), "set", ("b",)))
    await store.expunge(inbox.id, [3, 5])
    await fill(store, 3)
    await store.expunge(inbox.id, [8])
    await store.change_flags(inbox.id, FlagChange((9,), "add", ("\\Flagged",)))
    mailbox = await store.refresh_messages(inbox.id, roster.array, before)
    assert mailbox == await box(store)
    assert mailbox is not None
    assert roster.rows == (await load(store, inbox.id)).rows
    assert list(roster.rows) == [1, 2, 4, 6, 7, 9]
    assert roster.gone == [3, 5]
    again = await store.refresh_messages(inbox.id, roster.array, mailbox.highest_modseq)
    assert again == mailbox


@pytest.mark.parametrize("lacks", ["nothing", "a message", "an expunge", "flags"])
async def test_rows_go_along_with_a_change_of_flags_when_they_lack_nothing_else(store: MailStore, lacks: str) -> None:
    await fill(store, 100, flags=("\\Seen", "$Work"))
    inbox = await box(store)
    roster = await load(store, inbox.id)
    before = (await box(store)).highest_modseq
    roster.array.modseq = before
    if lacks == "a message":
        await fill(store, 1)
    elif lacks == "an expunge":
        await store.expunge(inbox.id, [50])
    elif lacks == "flags":
        await store.change_flags(inbox.id, FlagChange((7,), "add", ("\\Answered", "more")))
    requests = (
        FlagChange(tuple(range(1, 101)), "add", ("\\Flagged",)),
        FlagChange((3, 4, 90), "remove", ("\\Seen",)),
        FlagChange((3,), "add", ("\\Flagged",)),  # changes nothing
        FlagChange((5,), "add", ("word",)),
        FlagChange((6, 7), "set", ("\\Deleted",)),
        FlagChange((8,), "remove", ("\\Seen", "\\Flagged")),
    )
    cursor = Cursor(roster.array)
    changed: set[int] = set()
    for request in requests:
        await store.change_flags(inbox.id, request, rows=roster.array)
        await store.refresh_messages(inbox.id, roster.array, roster.array.modseq)
        roster.array.modseq = (await box(store)).highest_modseq
        changed |= set(cursor.pending().list())
        cursor.advance(True)
        assert roster.rows == (await load(store, inbox.id)).rows
    assert changed >= set(range(1, 101)) - ({50} if lacks == "an expunge" else set())


async def test_a_refresh_sees_moves_and_other_mailboxes_do_not_disturb(store: MailStore) -> None:
    [first, *_] = await fill(store, 3)
    await store.create_mailbox(first.account_id, "b")
    target = await box(store, "b")
    await fill(store, 2, mailbox="b")
    here, there = await load(store, first.mailbox_id), await load(store, target.id)
    since = [(await box(store)).highest_modseq, (await box(store, "b")).highest_modseq]
    await store.move(first.mailbox_id, [1, 3], target.id)
    await store.move(target.id, [1], target.id)
    await store.refresh_messages(first.mailbox_id, here.array, since[0])
    await store.refresh_messages(target.id, there.array, since[1])
    assert here.rows == (await load(store, first.mailbox_id)).rows
    assert there.rows == (await load(store, target.id)).rows
    assert (here.gone, there.gone) == ([1, 3], [1])


async def test_a_refresh_of_a_mailbox_that_is_gone(store: MailStore) -> None:
    [made] = await fill(store, 1, mailbox="b")
    roster = await load(store, made.mailbox_id)
    await store.delete_mailbox(made.account_id, "b")
    with pytest.raises(NotFound):
        await store.refresh_messages(made.mailbox_id, roster.array, made.modseq)


async def test_a_modseq_that_was_never_given_tells_nothing(store: MailStore) -> None:
    [made] = await fill(store, 1)
    assert await store.changes(made.account_id, made.modseq + 5) is None
    assert await store.expunged_since(made.mailbox_id, made.modseq + 5) is None


async def test_what_was_expunged_since(store: MailStore) -> None:
    await fill(store, 5)
    inbox = await box(store)
    before = inbox.highest_modseq
    await store.expunge(inbox.id, [4])
    middle = (await box(store)).highest_modseq
    await store.expunge(inbox.id, [1, 2])
    assert await store.expunged_since(inbox.id, before) == [1, 2, 4]
    assert await store.expunged_since(inbox.id, middle) == [1, 2]
    assert await store.expunged_since(inbox.id, (await box(store)).highest_modseq) == []


async def test_facts_of_emails(store: MailStore) -> None:
    made = await fill(store, 2)
    [other] = await fill(store, 1, account=BOB)
    ids = [made[1].email_id, bytes(16), other.email_id, made[0].email_id]
    found = store.email_facts(made[0].account_id, ids)
    emails = await store.emails(made[0].account_id, ids)
    assert [facts is None for facts in found] == [False, True, True, False]
    for facts, email in zip(found, emails, strict=True):
        if facts is None or email is None:
            assert facts is email is None
            continue
        names = ("blob_id", "thread_id", "size", "skip", "prefix", "envelope", "body_structure", "headers", "received")
        assert all(getattr(facts, name) == getattr(email, name) for name in names)


async def test_bodies_of_emails(store: MailStore) -> None:
    mails = [message(str(n)) for n in range(3)]
    appends = [append_of(store.blobs, data) for data in mails]
    appends.append(append_of(store.blobs, large_message(), prefix=b"X-Top: 1\r\n"))
    made = [result for result in await store.append(appends) if isinstance(result, Appended)]
    ids = [result.email_id for result in made]

    def read(limit_bytes: int = 0) -> list[bytes | None]:
        found = store.email_bodies(made[0].account_id, [ids[0], bytes(16), *ids[1:]], limit_bytes=limit_bytes)
        return [b"".join(body.chunks()) if body is not None else None for body in found]

    assert read() == [mails[0], None, mails[1], mails[2], b"X-Top: 1\r\n" + large_message()]
    assert read(1) == [mails[0], None]
    assert read(2 * len(mails[0])) == [mails[0], None, mails[1]]


async def test_a_message_is_saved_when_it_comes_into_the_mailbox(store: MailStore, clock: FakeClock) -> None:
    start = clock.now()
    [made] = await fill(store, 1, received=1000.0)
    clock.advance(60)
    await store.create_mailbox(made.account_id, "b")
    target = await box(store, "b")
    await store.copy(made.mailbox_id, [1], target.id)
    clock.advance(60)
    await store.move(made.mailbox_id, [1], target.id)
    clock.advance(60)
    await store.change_flags(target.id, FlagChange((1, 2), "add", ("\\Seen",)))
    assert store.saved_dates(target.id, [2, 1, 9]) == [start + 120, start + 60, None]
    assert [(found.internal_date, found.saved) for found in await store.messages(target.id)] == [
        (1000.0, start + 60), (1000.0, start + 120),
    ]  # fmt: skip


async def test_ids_lead_to_accounts_and_mailboxes(store: MailStore) -> None:
    [made] = await fill(store, 1)
    assert await store.account_by_id(made.account_id) == await store.account(ALICE)
    assert await store.account_by_id(99) is None
    assert await store.mailbox_by_id(made.mailbox_id) == await box(store)
    assert await store.mailbox_by_id(99) is None
