"""Damaged files: what rotted is found and named, the rest is read, and the process lives."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rusmes._core.batch import Batch
from rusmes._core.blocks import block_key
from rusmes._core.rows import MessageRow
from rusmes._core.view import MailboxRows
from rusmes.errors import StoreCorrupt, StoreError
from rusmes.model.mailbox import Appended
from rusmes.storage.api import Finding, FlagChange
from rusmes.storage.lmdb import layout
from rusmes.storage.lmdb.edits import Edit, Snapshot, read_account, read_email, read_mailbox, read_name_counts
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.lmdb.messages import add_message
from rusmes.storage.lmdb.queue_store import LmdbQueueStore
from tests.contract.mails import ALICE, BOB, INLINE_LIMIT, append_of, large_message, message, queued_of

MailAt = Callable[..., LmdbMailStore]
QueueAt = Callable[..., LmdbQueueStore]
MAP_BYTES = 1 << 28


async def filled(store: LmdbMailStore) -> list[Appended]:
    await store.open()
    mails = [message("one", body=b"unmistakable body\r\n"), message("two", message_id="two@x"), large_message()]
    results = await store.append([append_of(store.blobs, data, key=b"%d" % n) for n, data in enumerate(mails)])
    results += await store.append([append_of(store.blobs, mails[1], account=BOB, mailbox="Lists/work")])
    return [result for result in results if isinstance(result, Appended)]


def flip(path: Path, needle: bytes, offset: int = 0) -> None:
    """Turn one bit of every place where `needle` stands."""
    data = bytearray(path.read_bytes())
    at = data.find(needle)
    assert at >= 0
    while at >= 0:
        data[at + offset] ^= 4
        at = data.find(needle, at + len(needle))
    path.write_bytes(data)


async def test_a_flipped_bit_in_a_body_is_found(mail_at: MailAt, tmp_path: Path) -> None:
    made = await filled(store := mail_at())
    await store.close()
    flip(tmp_path / "mail.mdb", b"unmistakable body", 3)
    await (store := mail_at()).open()
    blob = (await store.open_message(made[0].mailbox_id, 1)).email.blob_id
    assert [(found.place, found.reason) for found in store.verify()] == [
        (f"blobs {blob.hex()}", "size or checksum of the body")
    ]
    with pytest.raises(StoreCorrupt, match=blob.hex()):
        (await store.open_message(made[0].mailbox_id, 1)).rendering.content.read()
    with pytest.raises(StoreCorrupt):
        await store.renderings(made[0].mailbox_id, [1])
    assert (await store.open_message(made[1].mailbox_id, 2)).rendering.content.read() == message("two", message_id="two@x")


async def test_a_flipped_bit_in_a_row_is_found(mail_at: MailAt, tmp_path: Path) -> None:
    made = await filled(store := mail_at())
    await store.close()
    flip(tmp_path / "mail.mdb", b'"one"', 1)  # the envelope
    await (store := mail_at()).open()
    assert any(found.place.startswith("emails ") and "checksum" in found.reason for found in store.verify())
    with pytest.raises(StoreCorrupt):
        await store.open_message(made[0].mailbox_id, 1)
    assert len(await store.messages(made[0].mailbox_id)) == 3
    await store.append([append_of(store.blobs)])


async def test_wrong_counts_are_found(mail_at: MailAt) -> None:
    made = await filled(store := mail_at())
    account_id, mailbox_id = made[0].account_id, made[0].mailbox_id
    key = layout.names_key(account_id)

    def miscount(batch: Batch) -> None:
        box = read_mailbox(batch, mailbox_id)
        box.unseen += 1
        batch.put(layout.MAILBOXES, layout.number_key(mailbox_id), box.pack())
        batch.put(layout.META, key, layout.NameCounts(7, 1).pack(key))

    await store._committer.submit(miscount)
    by_place = {found.place: found.reason for found in store.verify()}
    box = await store.mailbox_by_id(mailbox_id)
    assert box is not None
    told = f"3 messages of {box.size} bytes, {{}} unseen, 3 recent, 0 deleted of 0 bytes"
    assert by_place == {
        f"accounts {ALICE}": "has 1 mailboxes and 1 subscriptions, not 7 and 1",
        f"mailboxes {mailbox_id}": f"holds {told.format(3)}, not {told.format(4)}",
    }


async def test_an_account_from_before_there_were_counts_is_counted(mail_at: MailAt) -> None:
    await filled(store := mail_at())
    account = await store.account(ALICE)
    assert account is not None
    key = layout.names_key(account.id)
    await store._committer.submit(lambda batch: batch.delete(layout.META, key))
    assert not list(store.verify())
    await store.subscribe(account.id, "elsewhere", True)
    await store.create_mailbox(account.id, "a/b")
    with store._environment.reading() as txn:
        counts = read_name_counts(Snapshot(store._environment, txn), account.id)
    assert counts == layout.NameCounts(3, 4)
    assert not list(store.verify())


async def test_a_body_in_a_file_is_checked_too(mail_at: MailAt, tmp_path: Path) -> None:
    await filled(store := mail_at())
    [(_, path)] = store.blobs.files()
    whole = Path(path).read_bytes()
    for broken, reason in ((whole[:-1], "size"), (whole[:-1] + b"!", "checksum"), (None, "No such file")):
        if broken is None:
            os.unlink(path)
        else:
            Path(path).write_bytes(broken)
        [finding] = store.verify()
        assert reason in finding.reason


@pytest.mark.parametrize("keep", [0, 100, 4096, 9000, 20_000, -4096, -1])
async def test_a_file_that_was_cut_is_refused_or_said(mail_at: MailAt, tmp_path: Path, keep: int) -> None:
    await filled(store := mail_at())
    await store.close()
    path = tmp_path / "mail.mdb"
    os.truncate(path, keep if keep >= 0 else path.stat().st_size + keep)
    outcome = await _in_a_child(_verify_at, tmp_path)
    assert outcome in ("refused", "found"), outcome


def _verify_at(path: Path) -> str:
    async def check() -> str:
        for read_only in (True, False):
            store = LmdbMailStore(str(path), inline_limit=INLINE_LIMIT, map_size=MAP_BYTES, read_only=read_only)
            try:
                await store.open()
            except StoreError:
                return "refused"
            findings = list(store.verify())
            if findings:
                return "found"
            try:
                for account in await store.accounts():
                    for mailbox in await store.mailboxes(account.id):
                        for found in await store.messages(mailbox.id):
                            (await store.open_message(mailbox.id, found.uid)).rendering.content.read()
                if read_only and [account.name for account in await store.accounts()] != [ALICE, BOB]:
                    return "lost"
            finally:
                await store.close()
        return "good"

    return asyncio.run(check())


async def _in_a_child(function: Callable[[Path], str], path: Path) -> str:
    """A process of its own, because a bad page may kill it; that is the outcome then."""
    script = f"""
import sys
from pathlib import Path
from tests.unit.storage.test_damage import {function.__name__} as function
print(function(Path(sys.argv[1])))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return output.decode().strip() if process.returncode == 0 else f"died {process.returncode}: {errors.decode()[-500:]}"


def _verify_flips(path: Path) -> str:
    """Many flips in one process; each is undone before the next."""
    file = path / "mail.mdb"
    whole = file.read_bytes()
    written = [at for at, byte in enumerate(whole) if byte]
    dice = random.Random(7)
    outcomes = []
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[dice.choice(written)] ^= 1 << dice.randrange(8)
        file.write_bytes(damaged)
        outcomes.append(_verify_at(path))
    return " ".join(sorted(set(outcomes))) + (" many" if len(outcomes) - outcomes.count("good") > 12 else " few")


async def test_random_flips_never_kill_and_never_hide_a_loss(mail_at: MailAt, tmp_path: Path) -> None:
    """A flip is found, or refused at once, or it hit a place where nothing stands: then everything is read back."""
    await filled(store := mail_at())
    await store.append([append_of(store.blobs, message(body=os.urandom(1500), message_id=f"{n}@x")) for n in range(100)])
    await store.close()
    assert set((await _in_a_child(_verify_flips, tmp_path)).split()) <= {"found", "good", "refused", "many"}


async def damage(store: LmdbMailStore, change: Callable[[Batch], None]) -> list[Finding]:
    await store._committer.submit(change)
    return list(store.verify())


def mailbox_row(batch: Batch, mailbox_id: int) -> layout.MailboxRecord:
    key = layout.number_key(mailbox_id)
    row = batch.get(layout.MAILBOXES, key)
    assert row is not None
    return layout.MailboxRecord.unpack(key, row)


async def test_wrong_counts_and_references_are_found(mail_at: MailAt) -> None:
    """Rows whose checksums fit, but which do not fit each other."""
    store = mail_at()
    made = await filled(store)
    assert list(store.verify()) == []
    email = (await store.open_message(made[0].mailbox_id, 1)).email
    account_key = layout.number_key(made[0].account_id)

    def count(batch: Batch) -> None:
        record = mailbox_row(batch, made[0].mailbox_id)
        record.unseen += 1
        batch.put(layout.MAILBOXES, layout.number_key(record.id), record.pack())

    [finding] = await damage(store, count)
    assert finding.place == f"mailboxes {made[0].mailbox_id}"

    def reference(batch: Batch) -> None:
        batch.put(layout.BLOB_REFS, email.blob_id, layout.pack_count(email.blob_id, 2))

    assert f"blobs {email.blob_id.hex()}" in [found.place for found in await damage(store, reference)]

    def lose_message(batch: Batch) -> None:
        batch.delete(layout.MESSAGES, block_key(made[0].mailbox_id, 1))

    assert any("missing or another email's" in found.reason for found in await damage(store, lose_message))

    def lose_email(batch: Batch) -> None:
        batch.delete(layout.EMAILS, email.id)

    reasons = [found.reason for found in await damage(store, lose_email)]
    assert any(reason.startswith("uses ") for reason in reasons)
    assert any(reason.startswith("0 references") for reason in reasons)

    def lose_thread(batch: Batch) -> None:
        key = account_key + email.id + email.id
        batch.put(layout.THREADS, key, layout.seal(key, b""))

    reasons = [found.reason for found in await damage(store, lose_thread)]
    assert any("its email is missing" in reason for reason in reasons)

    def lose_name(batch: Batch) -> None:
        batch.delete(layout.ACCOUNT_NAMES, BOB.encode())
        batch.delete(layout.META, layout.LAST_KEY)

    reasons = [found.reason for found in await damage(store, lose_name)]
    assert any("its name does not lead to it" in reason for reason in reasons)
    assert any("would be given again" in reason for reason in reasons)


async def test_rights_and_annotations_that_dangle_are_found(mail_at: MailAt) -> None:
    store = mail_at()
    [first, *_] = await filled(store)
    await store.set_rights(first.mailbox_id, BOB, "lr")
    await store.set_rights(first.mailbox_id, "anyone", "l")
    await store.set_metadata(first.mailbox_id, first.account_id, {"/private/comment": b"x"})
    assert list(store.verify()) == []

    def lose(batch: Batch) -> None:
        batch.delete(layout.SHARES, layout.share_key("anyone", first.mailbox_id))
        batch.delete(layout.ACL, layout.acl_key(first.mailbox_id, BOB))
        for key in (layout.metadata_key(99, 0, "/shared/x"), layout.metadata_key(0, 99, "/private/x")):
            batch.put(layout.METADATA, key, layout.seal(key, b""))
        key = layout.acl_key(99, "x")
        batch.put(layout.ACL, key, layout.seal(key, b"l"))

    reasons = {found.place.split()[0]: [] for found in await damage(store, lose)}  # type: ignore[var-annotated]
    for found in store.verify():
        reasons[found.place.split()[0]].append(found.reason)
    assert {table: sorted(found) for table, found in reasons.items()} == {
        "acl": ["it cannot be found by its identifier", "its mailbox is missing"],
        "shares": ["the mailbox does not know of it"],
        "metadata": ["its account is missing", "its mailbox is missing"],
    }


async def test_a_block_of_messages_that_rots_is_named(mail_at: MailAt) -> None:
    store = mail_at()
    [first, *_] = await filled(store)

    def rot(batch: Batch) -> None:
        key = block_key(first.mailbox_id, 1)
        row = batch.get(layout.MESSAGES, key)
        assert row is not None
        batch.put(layout.MESSAGES, key, row[:-1] + bytes((row[-1] ^ 1,)))

    findings = await damage(store, rot)
    assert f"messages {block_key(first.mailbox_id, 1).hex()}" in [found.place for found in findings]
    with pytest.raises(StoreCorrupt):
        await store.messages(first.mailbox_id)
    with pytest.raises(StoreCorrupt):
        await store.load_messages(first.mailbox_id, MailboxRows(first.mailbox_id))


async def test_an_email_in_two_mailboxes_has_the_same_flags_in_both(mail_at: MailAt) -> None:
    """What JMAP will do (RFC 8621 §4.6); `\\Deleted` stays each message's own."""
    store = mail_at()
    [first, second, *_] = await filled(store)
    target = await store.create_mailbox(first.account_id, "also")

    def share(batch: Batch) -> None:
        edit = Edit(batch, read_account(batch, first.account_id))
        mailbox, email = read_mailbox(batch, target.id), read_email(batch, first.account_id, first.email_id)
        message = MessageRow(0, first.email_id, 0.0, email.size, 0, (), batch.now)
        add_message(edit, mailbox, email, message)
        edit.put_email(first.email_id, email)
        edit.put_mailbox(mailbox)
        edit.finish()

    assert await damage(store, share) == []
    change = FlagChange((1, second.uid), "add", ("\\Seen", "\\Deleted", "k"))
    assert await store.change_flags(first.mailbox_id, change) == [1, second.uid]
    changed = [found for found in await store.messages(first.mailbox_id) if found.uid in (1, second.uid)]
    assert [found.flags for found in changed] == [("\\Seen", "\\Deleted", "k")] * 2
    [there] = await store.messages(target.id)
    assert (there.flags, there.modseq) == (("\\Seen", "k"), changed[0].modseq)
    assert list(store.verify()) == []
    found = await store.mailbox(first.account_id, "also")
    assert found is not None
    assert (found.unseen, found.deleted, found.highest_modseq) == (0, 0, there.modseq)
    await store.change_flags(target.id, FlagChange((1,), "set", ()))
    assert (await store.messages(first.mailbox_id))[0].flags == ("\\Deleted",)
    await store.expunge(first.mailbox_id, [1])
    assert list(store.verify()) == []
    body = b"".join((await store.open_message(target.id, 1)).rendering.chunks())
    assert body == message("one", body=b"unmistakable body\r\n")


async def test_a_queue_that_does_not_add_up_is_found(queue_at: QueueAt) -> None:
    queue = queue_at()
    await queue.open()
    item = queued_of(queue.blobs, 1)
    await queue.put([item])
    blob = item.rendering.content.id

    def change(batch: Batch) -> None:
        batch.delete(layout.Q_BLOBS, blob)
        key = item.id + (9).to_bytes(4, "big")
        batch.put(layout.Q_STATES, key, layout.seal(key, b"\x90"))
        batch.put(layout.Q_ENTRIES, b"x" * 16, b"not sealed")

    await queue._committer.submit(change)
    places = {found.place for found in queue.verify()}
    assert places == {f"blobs {blob.hex()}", f"states {(item.id + (9).to_bytes(4, 'big')).hex()}", f"entries {b'x'.hex() * 16}"}


async def test_old_files_nobody_refers_to_are_said(mail_at: MailAt, tmp_path: Path) -> None:
    store = mail_at()
    await store.open()
    stray = tmp_path / "blobs" / "mail" / "stray"
    stray.write_bytes(b"")
    assert list(store.verify()) == []  # it may be a mail on its way in
    os.utime(stray, (1, 1))
    assert [found.place for found in store.verify()] == [str(stray)]
