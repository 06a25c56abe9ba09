"""What a mailbox costs that an IMAP client has open. Targets: 100,000 messages loaded in 30 ms, a flag on 1,000 durable in
10 ms."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from rusmes._core.view import MailboxRows
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.mail import Recipient
from rusmes.model.mailbox import Appended, Mailbox
from rusmes.model.plan import Append
from rusmes.storage.api import FlagChange
from rusmes.storage.commit import SWITCH_INTERVAL_SECONDS
from rusmes.storage.lmdb.mail_store import LmdbMailStore

ACCOUNT = "alice@example.com"
RECIPIENT = Recipient(Address("alice", "example.com"), ACCOUNT)
MESSAGE = (
    b"From: Alice Example <alice@example.org>\r\nTo: Bob <bob@example.com>\r\nSubject: a test\r\n"
    b"Date: Tue, 24 Nov 2026 05:00:00 +0000\r\nMessage-ID: <%d@example.org>\r\n\r\nhello\r\n"
)
LARGE = 100_000
SMALL = 10_000
ROUNDS = 7


class Box:
    """A store with one mailbox of so many messages."""

    def __init__(self, path: Path) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._interval = interval
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.run = self.runner.run
        self.store = LmdbMailStore(str(path))
        self.run(self.store.open())
        self.count = 0

    def fill(self, count: int) -> list[Appended]:
        made = []
        for start in range(0, count, 1000):
            appends = []
            for n in range(start, min(start + 1000, count)):
                writer = self.store.blobs.writer()
                writer.write(MESSAGE % (self.count + n))
                appends.append(Append(RECIPIENT, ACCOUNT, Rendering(writer.finish())))
            made += [result for result in self.run(self.store.append(appends)) if isinstance(result, Appended)]
        self.count += count
        return made

    def mailbox(self, name: str = "INBOX") -> Mailbox:
        found = self.run(self.store.mailbox(1, name))
        assert found is not None
        return found

    def close(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        sys.setswitchinterval(self._interval)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    path = tmp_path_factory.mktemp("large")
    box = Box(path)
    box.fill(LARGE)
    yield box
    box.close()
    shutil.rmtree(path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    box.fill(SMALL)
    yield box
    box.close()
    shutil.rmtree(tmp_path)


def test_load_100_000_messages(large: Box, benchmark) -> None:
    inbox = large.mailbox()

    def load() -> int:
        rows = MailboxRows(inbox.id)
        large.run(large.store.load_messages(inbox.id, rows))
        return len(rows)

    assert benchmark.pedantic(load, rounds=ROUNDS, warmup_rounds=1) == LARGE


def test_flag_on_1_000_of_100_000_messages(large: Box, benchmark) -> None:
    inbox = large.mailbox()
    operations = iter(("add", "remove") * ROUNDS)

    def change() -> int:
        request = FlagChange(tuple(range(1, 1001)), next(operations), ("\\Seen",))
        return len(large.run(large.store.change_flags(inbox.id, request)))

    assert benchmark.pedantic(change, rounds=ROUNDS, warmup_rounds=1) == 1000


def test_refresh_after_a_flag_on_1_000_messages(large: Box, benchmark) -> None:
    inbox = large.mailbox()
    rows = MailboxRows(inbox.id)
    large.run(large.store.load_messages(inbox.id, rows))
    operations = iter(("add", "remove") * ROUNDS)

    def setup() -> tuple[tuple[int], dict[str, object]]:
        since = large.mailbox().highest_modseq
        request = FlagChange(tuple(range(1, 1001)), next(operations), ("\\Flagged",))
        large.run(large.store.change_flags(inbox.id, request))
        return (since,), {}

    def refresh(since: int) -> None:
        large.run(large.store.refresh_messages(inbox.id, rows, since))

    benchmark.pedantic(refresh, setup=setup, rounds=ROUNDS)
    assert rows.updates >= 1000


def test_refresh_when_nothing_changed(large: Box, benchmark) -> None:
    inbox = large.mailbox()
    rows = MailboxRows(inbox.id)
    benchmark(lambda: large.run(large.store.refresh_messages(inbox.id, rows, inbox.highest_modseq)))


def test_facts_of_10_000_emails(small: Box, benchmark) -> None:
    inbox = small.mailbox()
    rows = MailboxRows(inbox.id)
    small.run(small.store.load_messages(inbox.id, rows))
    ids = [rows.email_id(row) for row in range(SMALL)]
    found = benchmark.pedantic(lambda: small.store.email_facts(1, ids), rounds=ROUNDS, warmup_rounds=1)
    assert None not in found


@pytest.mark.parametrize("what", ["copy", "move", "expunge"])
def test_1_000_messages_are(small: Box, benchmark, what: str) -> None:
    inbox = small.mailbox()
    target = small.run(small.store.create_mailbox(1, "target"))
    starts = iter(range(1, SMALL, 1000))

    def change() -> int:
        start = next(starts)
        uids = range(start, start + 1000)
        if what == "expunge":
            return len(small.run(small.store.expunge(inbox.id, uids)))
        return len(small.run(getattr(small.store, what)(inbox.id, uids, target.id)))

    assert benchmark.pedantic(change, rounds=ROUNDS, warmup_rounds=1) == 1000
    assert list(small.store.verify()) == []


def test_list_of_1_000_mailboxes(small: Box, benchmark) -> None:
    for n in range(1000):
        small.run(small.store.create_mailbox(1, f"box {n}"))
    assert len(benchmark(lambda: small.run(small.store.mailboxes(1)))) == 1001
