"""Many sessions on two mailboxes, of all workers, that append, mark, copy, move, expunge and idle; workers are killed.

Each client keeps what it was told, as a real one does: a list of UIDs by sequence number, and flags. The promises:
1. What a client was told is what is there: after a last NOOP all clients hold the same, and FETCH says the same.
2. A UID is never given twice, and one that was expunged never comes back.
3. What was acknowledged stays: every APPENDUID and COPYUID that nobody expunged is there at the end, kills or not.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.running import PASSWORD, RunningServer

pytestmark = pytest.mark.slow

ALICE = "alice@example.com"
MAILBOXES = ("INBOX", "Other")
SESSIONS = 16
SECONDS = 12.0
FLAGS = ("\\Seen", "\\Flagged", "\\Answered", "one", "two")


class Ledger:
    """What was acknowledged to anybody."""

    def __init__(self) -> None:
        self.made: dict[str, set[int]] = {name: set() for name in MAILBOXES}
        self.gone: dict[str, set[int]] = {name: set() for name in MAILBOXES}
        """Expunged, or perhaps: the connection broke before the answer."""
        self.operations = 0

    def make(self, mailbox: str, uids: list[int]) -> None:
        for uid in uids:
            assert uid not in self.made[mailbox], f"UID {uid} of {mailbox} was given twice"
            self.made[mailbox].add(uid)


def numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition(":")
        found.extend(range(int(low), int(high or low) + 1))
    return found


class Lost(Exception):
    """The worker died."""


class Client:
    """One session, and what it was told."""

    def __init__(self, number: int, server: RunningServer, ledger: Ledger) -> None:
        self.name = f"client {number}"
        self.server = server
        self.ledger = ledger
        self.dice = random.Random(number)
        self.mailbox = MAILBOXES[number % 2]
        self.uids: list[int] = []
        """By sequence number; 0 = one whose UID is not known yet."""
        self.flags: dict[int, frozenset[str]] = {}
        self.ever: set[int] = set()
        """Seen as expunged in this session."""
        self.tag = 0
        self.writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        end = time.monotonic() + 30
        while True:
            try:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.server.imap)
                greeting = await self.reader.readline()
                if greeting.startswith(b"* OK"):
                    self.uids, self.flags, self.ever = [], {}, set()
                    await self.command(f'LOGIN {ALICE} "{PASSWORD}"')
                    await self.command(f"SELECT {self.mailbox}")
                    await self.learn()
                    return
            except (OSError, Lost):
                pass
            assert time.monotonic() < end, "nobody answers"
            await asyncio.sleep(0.1)

    # What is said

    async def line(self) -> str:
        try:
            async with asyncio.timeout(60):
                data = await self.reader.readline()
        except OSError:
            raise Lost from None
        if not data.endswith(b"\n") or data.startswith(b"* BYE"):
            raise Lost
        return data.decode().rstrip("\r\n")

    async def command(self, text: str, literal: bytes = b"") -> str:
        """The tagged reply without its tag; everything before is heard."""
        assert self.writer is not None
        self.tag += 1
        tag = f"t{self.tag}"
        data = f"{tag} {text}".encode()
        self.writer.write(data + (b" {%d+}\r\n" % len(literal) + literal if literal else b"") + b"\r\n")
        while True:
            line = await self.line()
            if line.startswith(f"{tag} "):
                return line.removeprefix(f"{tag} ")
            self.hear(line)

    def hear(self, line: str) -> None:
        if found := re.fullmatch(r"\* (\d+) EXISTS", line):
            count = int(found[1])
            assert count >= len(self.uids), f"{self.name}: EXISTS {count} after {len(self.uids)} without EXPUNGE"
            self.uids.extend([0] * (count - len(self.uids)))
        elif found := re.fullmatch(r"\* (\d+) EXPUNGE", line):
            number = int(found[1])
            assert 1 <= number <= len(self.uids), f"{self.name}: EXPUNGE {number} of {len(self.uids)}"
            uid = self.uids.pop(number - 1)
            if uid:
                self.ever.add(uid)
                self.flags.pop(uid, None)
                self.ledger.gone[self.mailbox].add(uid)
        elif found := re.fullmatch(r"\* (\d+) FETCH \((.*)\)", line):
            self.hear_fetch(int(found[1]), found[2])
        elif found := re.fullmatch(r"\* OK \[COPYUID \d+ [\d:,]+ ([\d:,]+)\].*", line):
            self.ledger.make(self.other, numbers(found[1]))

    def hear_fetch(self, number: int, items: str) -> None:
        assert 1 <= number <= len(self.uids), f"{self.name}: FETCH {number} of {len(self.uids)}"
        if found := re.search(r"UID (\d+)", items):
            uid = int(found[1])
            known = self.uids[number - 1]
            assert known in (0, uid), f"{self.name}: {number} was UID {known} and is {uid}"
            assert uid not in self.ever, f"{self.name}: UID {uid} comes back"
            self.uids[number - 1] = uid
        if (found := re.search(r"FLAGS \((.*?)\)", items)) and self.uids[number - 1]:
            self.flags[self.uids[number - 1]] = frozenset(found[1].split()) - {"\\Recent"}

    async def learn(self) -> None:
        """The UIDs of what is new."""
        for _ in range(100):
            if 0 not in self.uids:
                assert self.uids == sorted(set(self.uids)), f"{self.name}: UIDs do not ascend: {self.uids}"
                return
            await self.command(f"FETCH {self.uids.index(0) + 1}:* (UID FLAGS)")
        raise AssertionError("there is always something new")

    @property
    def other(self) -> str:
        return MAILBOXES[self.mailbox == MAILBOXES[0]]

    # What is done

    async def step(self) -> None:
        dice = self.dice
        action = dice.choices(
            ("append", "store", "uid store", "copy", "move", "expunge", "fetch", "noop", "idle"), (6, 5, 3, 2, 2, 2, 3, 2, 2)
        )[0]
        count = len(self.uids)
        if action == "append" or not count:
            text = f"Subject: {self.name} {self.tag}\r\n\r\n{'x' * dice.randint(0, 2000)}\r\n".encode()
            answer = await self.command(f"APPEND {self.mailbox} ({dice.choice(FLAGS)})", text)
            found = re.match(r"OK \[APPENDUID \d+ ([\d:,]+)\]", answer)
            assert found, answer
            self.ledger.make(self.mailbox, numbers(found[1]))
        elif action == "store":
            flag = dice.choice((*FLAGS, "\\Deleted"))
            low = dice.randint(1, count)
            await self.good(f"STORE {low}:{min(count, low + 3)} {dice.choice('+-')}FLAGS ({flag})")
        elif action == "uid store":
            await self.good(f"UID STORE {dice.choice(self.uids)} {dice.choice('+-')}FLAGS ({dice.choice(FLAGS)})")
        elif action in {"copy", "move"}:
            await self.copy(action, dice.choice(self.uids))
        elif action == "expunge":
            doubtful = set(self.uids)  # should the worker die before it tells
            try:
                await self.good("EXPUNGE")
            except Lost:
                self.ledger.gone[self.mailbox] |= doubtful
                raise
        elif action == "fetch":
            await self.good(f"FETCH {dice.randint(1, count)} (UID FLAGS RFC822.SIZE)")
        elif action == "noop":
            await self.good("NOOP")
        else:
            await self.idle()
        await self.learn()

    async def copy(self, action: str, uid: int) -> None:
        try:
            answer = await self.command(f"UID {action.upper()} {uid} {self.other}")
        except Lost:
            if action == "move":
                self.ledger.gone[self.mailbox].add(uid)
            raise
        assert answer.startswith(("OK", "NO")), answer
        if found := re.match(r"OK \[COPYUID \d+ [\d:,]+ ([\d:,]+)\]", answer):
            self.ledger.make(self.other, numbers(found[1]))

    async def good(self, text: str) -> None:
        answer = await self.command(text)
        assert answer.startswith("OK") or "EXPUNGEISSUED" in answer, f"{self.name}: {text}: {answer}"

    async def idle(self) -> None:
        assert self.writer is not None
        self.tag += 1
        self.writer.write(f"t{self.tag} IDLE\r\n".encode())
        while not (line := await self.line()).startswith("+"):
            self.hear(line)
        end = time.monotonic() + self.dice.random() / 4
        while (left := end - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    data = await self.reader.readuntil(b"\r\n")
            except TimeoutError:
                break
            except (OSError, asyncio.IncompleteReadError):
                raise Lost from None
            if data.startswith(b"* BYE"):
                raise Lost
            self.hear(data.decode().rstrip("\r\n"))
        self.writer.write(b"DONE\r\n")
        while not (line := await self.line()).startswith(f"t{self.tag} "):
            self.hear(line)

    async def live(self, until: float) -> None:
        await self.connect()
        while time.monotonic() < until:
            try:
                await self.step()
                self.ledger.operations += 1
            except Lost:
                self.disconnect()
                await self.connect()

    def disconnect(self) -> None:
        if self.writer is not None:
            self.writer.close()

    async def settle(self) -> tuple[list[int], dict[int, frozenset[str]]]:
        """What it was told, when everything was told; FETCH must say the same."""
        try:
            await self.command("NOOP")
            await self.learn()
        except Lost:
            self.disconnect()
            await self.connect()
        told = (list(self.uids), dict(self.flags))
        self.flags = {}
        await self.command("FETCH 1:* (UID FLAGS)") if self.uids else None
        assert (self.uids, self.flags) == told, f"{self.name} was told {told}, and there is {(self.uids, self.flags)}"
        return told


@pytest.mark.parametrize("kills", [0, 3])
def test_every_client_sees_the_same(tmp_path: Path, kills: int) -> None:
    server = RunningServer(tmp_path, workers=2, sections={"imap": "commands_per_minute = 0"})
    server.add_user()

    async def kill(until: float) -> None:
        for _ in range(kills):
            await asyncio.sleep(SECONDS / (kills + 1))
            if time.monotonic() < until:
                os.kill(random.Random(0).choice(server.worker_pids()), signal.SIGKILL)

    async def deliver(until: float) -> int:
        """Mail comes all the while, by SMTP."""
        sent = 0
        while time.monotonic() < until:
            try:
                await asyncio.to_thread(server.send)
                sent += 1
            except OSError:
                pass  # the worker died; the message may have arrived or not
            await asyncio.sleep(0.2)
        return sent

    async def scenario() -> None:
        ledger = Ledger()
        first = Client(0, server, ledger)
        await first.connect()
        await first.command("CREATE Other")
        first.disconnect()
        clients = [Client(number, server, ledger) for number in range(SESSIONS)]
        until = time.monotonic() + SECONDS
        *_, sent, _ = await asyncio.gather(*(client.live(until) for client in clients), deliver(until), kill(until))
        for mailbox in MAILBOXES:
            views = [await client.settle() for client in clients if client.mailbox == mailbox]
            assert all(view == views[0] for view in views), f"clients of {mailbox} do not see the same"
            there = set(views[0][0])
            missing = ledger.made[mailbox] - ledger.gone[mailbox] - there
            assert not missing, f"acknowledged in {mailbox}, expunged by nobody, and not there: {sorted(missing)}"
            undead = (ledger.gone[mailbox] & there) if not kills else set()
            assert not undead, f"expunged in {mailbox} and there: {sorted(undead)}"
        assert ledger.operations > 100
        assert sent
        for client in clients:
            client.disconnect()

    with server:
        asyncio.run(scenario())
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        report = server.rusmes("store", "verify")
        assert "damage" not in report.lower() or "no damage" in report.lower(), report
        assert not server.events("a command failed"), server.events("a command failed")[:3]
