"""FETCH, STORE, COPY, MOVE and EXPUNGE against a real service: large bodies, rights, and many sessions on one mailbox."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import re
from pathlib import Path

import pytest

from rusmes.imap.commands import messages
from tests.sessions.imap.house import ImapClient, ImapHouse, run, store_of

ALICE, BOB = "alice@example.com", "bob@example.com"


def large(tmp_path: Path) -> tuple[ImapHouse, bytes, bytes]:
    data = random.Random(1).randbytes(600_000)
    text = base64.encodebytes(data).replace(b"\n", b"\r\n")
    message = b"Subject: large\r\nContent-Transfer-Encoding: base64\r\nContent-Type: image/png\r\n\r\n" + text
    return ImapHouse(store=store_of("lmdb", tmp_path)), message, data


async def fetched(client: ImapClient, item: str, number: int = 1) -> bytes:
    """The literal of the only item of a FETCH."""
    client.writer.write(b"x FETCH %d (%b)\r\n" % (number, item.encode()))
    line = await client.raw_line()
    found = re.match(rb"\* \d+ FETCH \(\S+ ~?\{(\d+)\}\r\n", line)
    assert found, line[:100]
    literal = line[found.end() : found.end() + int(found[1])]
    assert line[found.end() + int(found[1]) :] == b")\r\n"
    assert (await client.raw_line()).startswith(b"x OK")
    return literal


def test_large_items_are_whole(tmp_path):
    house, message, data = large(tmp_path)

    async def scenario():
        async with house:
            await house.deliver("alice", message)
            client = await house.login()
            await client.ok("SELECT INBOX")
            body = message.partition(b"\r\n\r\n")[2]
            assert await fetched(client, "BODY.PEEK[]") == message
            assert await fetched(client, "BODY.PEEK[TEXT]") == body
            assert await fetched(client, "BODY.PEEK[1]<700000.400000>") == body[700_000:1_100_000]
            assert await fetched(client, "BINARY.PEEK[1]") == data
            assert await fetched(client, "BINARY.PEEK[1]<300000.299999>") == data[300_000:599_999]
            assert await client.ok("FETCH 1 (UID BINARY.SIZE[1] RFC822.SIZE)") == [
                f"* 1 FETCH (UID 1 RFC822.SIZE {len(message)} BINARY.SIZE[1] 600000)"
            ]
            lines = await client.ok("FETCH 1 (BODY.PEEK[HEADER.FIELDS (SUBJECT)] BODY.PEEK[]<0.3> UID)")
            assert lines == [
                "* 1 FETCH (UID 1 BODY[HEADER.FIELDS (SUBJECT)] {18}\r\nSubject: large\r\n\r\n BODY[]<0> {3}\r\nSub)"
            ]

    run(scenario())


def test_a_file_that_ends_too_early_breaks_the_connection(tmp_path):
    house, message, _ = large(tmp_path)

    async def scenario():
        async with house:
            await house.deliver("alice", message)
            client = await house.login()
            await client.ok("SELECT INBOX")
            [file] = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == len(message)]
            os.truncate(file, 300_000)
            client.writer.write(b"x FETCH 1 BODY.PEEK[]\r\n")
            received = b""
            with contextlib.suppress(ConnectionError):
                while chunk := await client.reader.read(65536):
                    received += chunk
            assert b"x OK" not in received
            assert any("cannot be read to its end" in line for line in house.lines)

    run(scenario())


def test_flags_without_the_right_to_them_stay(tmp_path):
    async def scenario():
        async with ImapHouse() as house:
            for name in (ALICE, BOB):
                await house.store.create_account(name)
            await house.deliver("alice", b"Subject: 1\r\n\r\n", flags=["\\Flagged", "kept"])
            account = await house.store.account(ALICE)
            mailbox = await house.store.mailbox(account.id, "INBOX")
            await house.store.set_rights(mailbox.id, BOB, "lrs")
            client = await house.login("bob")
            name = f'"Other Users/{ALICE}/INBOX"'
            await client.ok(f"SELECT {name}")
            assert (await client.ok("STORE 1 FLAGS (\\Seen \\Deleted mine)"))[-1].startswith(
                "* 1 FETCH (UID 1 FLAGS (\\Seen \\Flagged kept"
            )
            assert (await client.ok("STORE 1 FLAGS ()"))[-1].startswith("* 1 FETCH (UID 1 FLAGS (\\Flagged kept")
            for refused in ("STORE 1 +FLAGS (\\Deleted)", "STORE 1 -FLAGS (kept)", "EXPUNGE", "MOVE 1 INBOX"):
                assert (await client.command(refused))[-1].startswith("NO [NOPERM]"), refused
            assert (await client.command("COPY 1 INBOX"))[-1].startswith("OK [COPYUID")
            await house.store.set_rights(mailbox.id, BOB, "lrwt")
            await client.ok(f"SELECT {name}")
            assert (await client.ok("FETCH 1 BODY[]"))[-1].startswith("* 1 FETCH (BODY[] ")  # no right to mark it
            await client.ok("STORE 1 FLAGS.SILENT (\\Seen \\Deleted mine)")
            [line] = await client.ok("FETCH 1 FLAGS")
            assert "\\Deleted mine" in line
            assert "\\Seen" not in line

    run(scenario())


def test_sets_the_server_remembers():
    async def scenario():
        async with ImapHouse() as house:
            await house.store.create_account(ALICE, mailboxes=("Archive",))
            await house.deliver("alice", *[b"Subject: %d\r\n\r\n" % number for number in range(6)])
            client = await house.login()
            await client.ok("SELECT INBOX")
            await client.ok("UID SEARCH RETURN (SAVE) UID 2:4")
            assert await client.ok("FETCH $ UID") == ["* 2 FETCH (UID 2)", "* 3 FETCH (UID 3)", "* 4 FETCH (UID 4)"]
            await client.ok("STORE $ +FLAGS.SILENT (\\Deleted)")
            await client.ok("UID EXPUNGE 3")
            assert await client.ok("UID FETCH $ UID") == ["* 2 FETCH (UID 2)", "* 3 FETCH (UID 4)"]
            assert (await client.command("COPY $ Archive"))[-1].startswith("OK [COPYUID")
            assert await client.ok("UID EXPUNGE $") == ["* 3 EXPUNGE", "* 2 EXPUNGE"]

    run(scenario())


class Believer:
    """A client that knows its mailbox only from what it is told."""

    def __init__(self, client: ImapClient, chance: random.Random) -> None:
        self.client = client
        self.chance = chance
        self.messages: list[list] = []

    async def begin(self, *, qresync: bool) -> None:
        if qresync:
            await self.client.ok("ENABLE QRESYNC")
        await self.say("SELECT INBOX")
        await self.learn()

    async def learn(self) -> None:
        """Ask for what EXISTS told of."""
        while any(message[0] == 0 for message in self.messages):
            first = next(number for number, message in enumerate(self.messages, 1) if message[0] == 0)
            await self.say(f"FETCH {first}:* (UID FLAGS)")

    async def say(self, text: str) -> str:
        [*lines, last] = await self.client.command(text)
        for line in lines:
            self.hear(line)
        return last

    def hear(self, line: str) -> None:
        if match := re.fullmatch(r"\* (\d+) EXISTS", line):
            assert int(match[1]) >= len(self.messages), line
            self.messages += [[0, None] for _ in range(int(match[1]) - len(self.messages))]
        elif match := re.fullmatch(r"\* (\d+) EXPUNGE", line):
            del self.messages[int(match[1]) - 1]
        elif match := re.fullmatch(r"\* VANISHED (\S+)", line):
            gone = set()
            for part in match[1].split(","):
                low, _, high = part.partition(":")
                gone |= set(range(int(low), int(high or low) + 1))
            self.messages = [message for message in self.messages if message[0] not in gone]
        elif match := re.fullmatch(r"\* (\d+) FETCH \((.*)\)", line, re.DOTALL):
            message = self.messages[int(match[1]) - 1]
            uid = re.search(r"UID (\d+)", match[2])
            assert uid is None or message[0] in (0, int(uid[1])), f"{line}: this number is of {message}"
            message[0] = int(uid[1]) if uid is not None else message[0]
            if flags := re.search(r"FLAGS \(([^)]*)\)", match[2]):
                message[1] = frozenset(flags[1].split()) - {"\\Recent"}

    async def act(self) -> None:
        chance = self.chance
        known = [message[0] for message in self.messages if message[0]]
        number = chance.randint(1, len(self.messages)) if self.messages else 0
        what = chance.random()
        if what < 0.2 or not known:
            await self.say("APPEND INBOX {16+}\r\nSubject: new\r\n\r\n")
        elif what < 0.45:
            flags = chance.choice(["\\Seen", "\\Flagged", "work", "\\Seen play"])
            operation = chance.choice(["+FLAGS", "-FLAGS", "FLAGS"])
            await self.say(f"STORE {number} {operation} ({flags})")
        elif what < 0.6:
            uid = chance.choice(known)
            at = next(message for message in self.messages if message[0] == uid)
            if at[1] is not None:
                at[1] = at[1] | {"\\Answered"}
            await self.say(f"UID STORE {uid} +FLAGS.SILENT (\\Answered)")
        elif what < 0.75:
            await self.say(f"UID STORE {chance.choice(known)} +FLAGS (\\Deleted)")
            await self.say(chance.choice(["EXPUNGE", "NOOP", f"UID EXPUNGE {chance.choice(known)}"]))
        elif what < 0.85:
            await self.say(f"FETCH {number} (UID FLAGS BODY{chance.choice(['', '.PEEK'])}[])")
        elif what < 0.92:
            await self.say(f"{chance.choice(['COPY', 'MOVE'])} {number} {chance.choice(['INBOX', 'Trash'])}")
        else:
            await self.say("NOOP")
        await self.learn()


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
@pytest.mark.parametrize("seed", range(3))
def test_sessions_on_one_mailbox_converge(kind, seed, tmp_path):
    """No number ever stands for another message than the client was told, and in the end all know the same."""

    async def scenario():
        async with ImapHouse(store=store_of(kind, tmp_path)) as house:
            await house.store.create_account(ALICE, mailboxes=("Trash",))
            await house.deliver("alice", *[b"Subject: %d\r\n\r\n" % number for number in range(10)])
            clients = [Believer(await house.login(), random.Random(seed * 10 + number)) for number in range(5)]
            for number, client in enumerate(clients):
                await client.begin(qresync=number % 2 == 1)

            async def live(client: Believer) -> None:
                for _ in range(60):
                    await client.act()

            await asyncio.gather(*map(live, clients))
            for client in clients:
                await client.say("NOOP")
                await client.learn()
            account = await house.store.account(ALICE)
            mailbox = await house.store.mailbox(account.id, "INBOX")
            truth = [[message.uid, frozenset(message.flags)] for message in await house.store.messages(mailbox.id)]
            for client in clients:
                assert client.messages == truth

    run(scenario())


def test_a_long_command_says_that_it_goes_on(monkeypatch):
    """RFC 9585 §4."""
    monkeypatch.setattr(messages, "PROGRESS_SECONDS", 0.02)

    async def scenario():
        async with ImapHouse() as house:
            await house.store.create_account(ALICE, mailboxes=("Archive",))
            await house.deliver("alice", b"Subject: 1\r\n\r\n")
            client = await house.login()
            await client.ok("SELECT INBOX")
            copy, may_go_on = house.store.copy, asyncio.Event()

            async def slow_copy(*arguments, **options):
                await may_go_on.wait()
                return await copy(*arguments, **options)

            house.store.copy = slow_copy
            client.writer.write(b"slow COPY 1 Archive\r\n")
            assert await client.line() == '* OK [INPROGRESS ("slow" NIL NIL)] still working'
            may_go_on.set()
            [*progress, last] = await client.answer("slow")
            assert all("INPROGRESS" in line for line in progress)
            assert last.startswith("OK [COPYUID")

    run(scenario())
