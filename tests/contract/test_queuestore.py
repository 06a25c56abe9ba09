"""The queue of a worker: entries, outcomes, bodies."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import structs

from rusmes.errors import AlreadyExists, NotFound
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.mail import Origin, Recipient
from rusmes.storage.api import QueueChange, QueueStore, RecipientState
from tests.contract.mails import content_of, large_message, message, queued_of


async def test_what_is_put_comes_back_field_by_field(queue: QueueStore) -> None:
    recipients = (
        Recipient(Address("Ünï", "example.net"), "u@example.net", 6, "rfc822;x@y", True),
        Recipient(Address("b c", "[192.0.2.1]")),
    )
    item = queued_of(
        queue.blobs,
        7,
        action="resume",
        recipients=2,
        route="smarthost",
        mailbox="Junk",
        state="root",
        step=3,
        due=1.5,
        reason="why",
        attributes={"s": "x", "i": 1, "f": 1.5, "b": True, "bytes": b"\x00\xff", "list": ("a", "b")},
        body_type="8BITMIME",
        smtputf8=True,
        requiretls=True,
        ret="HDRS",
        envid="e",
        origin=Origin("192.0.2.1", 25, "client", "helo", "ESMTPSA", "mx", "TLSv1.3", "a@b", "id", True),
    )
    item.recipients = recipients
    item.rendering = Rendering(item.rendering.content, b"X: y\r\n", 5)
    await queue.put([item])
    entry = await queue.get(item.id)
    assert entry is not None
    for name in item.__struct_fields__:
        if name != "rendering":
            assert getattr(entry.item, name) == getattr(item, name), name
    assert b"".join(entry.item.rendering.chunks()) == b"X: y\r\n" + message()[5:]
    assert entry.states == [RecipientState(recipient, "queued", due=1.5) for recipient in recipients]


async def test_the_null_sender_and_a_held_entry(queue: QueueStore) -> None:
    await queue.put([queued_of(queue.blobs, 1, sender=None, action="hold")])
    entry = await queue.get((1).to_bytes(16, "big"))
    assert entry is not None
    assert entry.item.sender is None
    assert entry.states[0].status == "held"
    await queue.change([QueueChange(entry.item.id, {}, replace_action="relay")])
    entry = await queue.get(entry.item.id)
    assert entry is not None
    assert (entry.item.action, entry.states[0].status) == ("relay", "held")


async def test_outcomes_are_kept_by_recipient(queue: QueueStore) -> None:
    item = queued_of(queue.blobs, 1, recipients=300)
    await queue.put([item])
    deferred = RecipientState(item.recipients[7], "deferred", 2, 99.25, "450 4.2.0 later é", 12.5, "mx.example.net", True)
    done = RecipientState(item.recipients[299], "delivered", 1)
    await queue.change([QueueChange(item.id, {7: deferred, 299: done})])
    entry = await queue.get(item.id)
    assert entry is not None
    assert (entry.states[7], entry.states[299], entry.states[0].status) == (deferred, done, "queued")
    again = RecipientState(item.recipients[7], "failed", 3, 0.0, "550 5.1.1 no", 13.5, "", True)
    await queue.change([QueueChange(item.id, {7: again})])
    entry = await queue.get(item.id)
    assert entry is not None
    assert entry.states[7] == again


async def test_entries_stream_in_the_order_of_ids(queue: QueueStore) -> None:
    for id in (5, 3, 900, 1):
        await queue.put([queued_of(queue.blobs, id)])
    await queue.put([queued_of(queue.blobs, id) for id in range(1000, 1450)])
    ids = [int.from_bytes(entry.item.id, "big") for entry in queue.entries()]
    assert ids == [1, 3, 5, 900, *range(1000, 1450)]


async def test_removal_gives_the_body_back(queue: QueueStore) -> None:
    content = content_of(queue.blobs, large_message())
    items = [queued_of(queue.blobs, id) for id in (1, 2)]
    for item in items:
        item.rendering = Rendering(content)
    await queue.put(items)
    state = RecipientState(items[0].recipients[0], "deferred", 1)
    await queue.change([QueueChange(items[0].id, {0: state})])
    await queue.change([QueueChange(items[0].id, {}, remove=True)])
    assert await queue.get(items[0].id) is None
    entry = await queue.get(items[1].id)
    assert entry is not None
    assert entry.item.rendering.content.read() == large_message()
    await queue.change([QueueChange(items[1].id, {0: state}, remove=True)])
    assert list(queue.entries()) == []


async def test_a_removal_without_a_look_gives_back_one_reference(queue: QueueStore) -> None:
    content = content_of(queue.blobs, message())
    items = [queued_of(queue.blobs, id) for id in (1, 2, 3, 4)]
    for item in items[:3]:
        item.rendering = Rendering(content)
    await queue.put(items[:1])
    changes = [QueueChange(item.id, {}, remove=True, content_id=item.rendering.content.id) for item in items]
    # A second reference in the batch that removes the first one.
    await asyncio.gather(queue.put(items[1:2]), queue.change(changes[:1]), queue.put(items[2:]))
    assert [int.from_bytes(entry.item.id, "big") for entry in queue.entries()] == [2, 3, 4]
    await queue.change([changes[1], changes[3]])
    (entry,) = queue.entries()
    assert entry.item.rendering.content.read() == message()
    await queue.change([changes[2]])
    assert list(queue.entries()) == []
    assert list(queue.verify()) == []


async def test_outcomes_and_what_they_cause_are_one_transaction(queue: QueueStore) -> None:
    await queue.put([queued_of(queue.blobs, 1)])
    notice = queued_of(queue.blobs, 2, sender=None)
    await queue.change([QueueChange((1).to_bytes(16, "big"), {}, remove=True)], [notice])
    assert [entry.item.id for entry in queue.entries()] == [notice.id]


async def test_nothing_happens_when_a_part_is_wrong(queue: QueueStore) -> None:
    await queue.put([queued_of(queue.blobs, 1), queued_of(queue.blobs, 2)])
    one, missing = (1).to_bytes(16, "big"), (9).to_bytes(16, "big")
    with pytest.raises(NotFound):
        await queue.change([QueueChange(one, {}, remove=True), QueueChange(missing, {}, remove=True)])
    with pytest.raises(NotFound):
        await queue.change([QueueChange(one, {1: RecipientState(Recipient(Address("a", "b")))})])
    with pytest.raises(AlreadyExists):
        await queue.change([QueueChange(one, {}, remove=True)], [queued_of(queue.blobs, 2)])
    with pytest.raises(AlreadyExists):
        await queue.put([queued_of(queue.blobs, 3), queued_of(queue.blobs, 2)])
    with pytest.raises(AlreadyExists):
        await queue.put([queued_of(queue.blobs, 4), queued_of(queue.blobs, 4)])
    assert [int.from_bytes(entry.item.id, "big") for entry in queue.entries()] == [1, 2]
    assert await queue.get(missing) is None


async def test_an_entry_removed_twice_in_one_call_is_gone(queue: QueueStore) -> None:
    await queue.put([queued_of(queue.blobs, 1)])
    change = QueueChange((1).to_bytes(16, "big"), {}, remove=True)
    await queue.change([change, change])
    assert list(queue.entries()) == []


async def test_a_put_that_is_told(queue: QueueStore) -> None:
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[None]] = [loop.create_future() for _ in range(3)]
    for answer in answers[:2]:
        assert queue.begin_put([queued_of(queue.blobs, 1)], answer)
    assert not answers[0].done()
    await answers[0]
    with pytest.raises(AlreadyExists):
        await answers[1]
    # What is in a file may be more than a matter of a commit.
    large = queued_of(queue.blobs, 2)
    large.rendering = Rendering(content_of(queue.blobs, large_message()))
    await (answers[2] if queue.begin_put([large], answers[2]) else queue.put([large]))
    entry = await queue.get(large.id)
    assert entry is not None
    assert entry.item.rendering.content.read() == large_message()


async def test_a_way_is_changed_and_a_known_entry_without_a_look(queue: QueueStore) -> None:
    item = queued_of(queue.blobs, 1, recipients=2, route="old")
    await queue.put([item])
    held = RecipientState(item.recipients[1], "held", 3, 1.5)
    await queue.change([QueueChange(item.id, {1: held}, is_known=True)])
    for change, route in [
        (QueueChange(item.id, {}), "old"), (QueueChange(item.id, {}, route="new"), "new"),
        (QueueChange(item.id, {}, route="", is_known=True), ""), (QueueChange(item.id, {}, replace_action="hold"), ""),
    ]:  # fmt: skip
        await queue.change([change])
        entry = await queue.get(item.id)
        assert entry is not None
        assert (entry.item.route, entry.states[1]) == (route, held)
    await queue.change([QueueChange(item.id, {}, remove=True, is_known=True)])
    assert await queue.get(item.id) is None
    assert list(queue.verify()) == []


async def test_one_body_in_several_entries(queue: QueueStore) -> None:
    """As when some recipients go another way: the new entry comes with the change of the old one."""
    item = queued_of(queue.blobs, 1, recipients=2)
    await queue.put([item])
    stored = await queue.get(item.id)
    assert stored is not None
    moved = structs.replace(stored.item, id=(2).to_bytes(16, "big"), recipients=stored.item.recipients[:1], route="other")
    await queue.change([QueueChange(item.id, {0: RecipientState(item.recipients[0], "failed")})], [moved])
    await queue.change([QueueChange(item.id, {}, remove=True)])
    entry = await queue.get(moved.id)
    assert entry is not None
    assert b"".join(entry.item.rendering.chunks()) == message()
    assert list(queue.verify()) == []


async def test_pages(queue: QueueStore) -> None:
    await queue.put([queued_of(queue.blobs, number) for number in range(1, 8)])
    seen, after = [], b""
    while page := queue.page(after, 3):
        assert len(page) <= 3
        seen += [int.from_bytes(entry.item.id, "big") for entry in page]
        after = page[-1].item.id
    assert seen == list(range(1, 8))
    assert queue.page((7).to_bytes(16, "big"), 3) == []
