"""Invariant: whatever a client says, in every state, with every extension enabled or not, each command gets exactly one tagged
reply, none of which is a defect of ours; nothing but the errors of the connection escapes; and the connection ends only
after a BYE.

The whole service with a store behind it, over a real connection.
"""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest

from tests.sessions.imap.house import ImapClient, ImapHouse, run, store_of
from tests.unit.imap.test_grammar import BAD, GOOD, MESSAGES

ENDING = ("LOGOUT", "IDLE", "STARTTLS", "AUTHENTICATE", "COMPRESS", "UNAUTHENTICATE", "LOGIN")
LINES = [text for text in (*GOOD, *MESSAGES) if not text.upper().startswith(ENDING)]
ONLY_GRAMMAR = [text for text in BAD if not text.upper().startswith(ENDING)]
ENABLED = ("", "IMAP4rev2", "UTF8=ACCEPT", "CONDSTORE", "QRESYNC", "UIDONLY", "IMAP4rev2 QRESYNC UIDONLY")
MESSAGE = b"From: a@example.com\r\nSubject: =?utf-8?q?=C3=BC?=\r\n\r\nhello\r\n"
STRUCTURED = (
    b'Subject: parts\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\none\r\n--b\r\n'
    b"Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ntwo\r\n--b\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--b--\r\n"
)
COUNT = 80
SIGNS = b'a \r\n(){}"+1~*\\x'


def spelled(text: str, dice: random.Random) -> bytes:
    """The text with literals in the place of "{}", mailboxes that exist here and there."""
    words = re.sub(r"\b(a|x|blurdybloop)\b(?=[ )]|$)", lambda found: dice.choice(("INBOX", "a", found[0])), text)
    said = words.encode("latin-1")
    while b"{}" in said:
        body = dice.choice((MESSAGE, b"x", b"", b"INBOX", b"a99 LOGOUT\r\n"))
        said = said.replace(b"{}", b"{%d+}\r\n" % len(body) + body, 1)
    return said


async def say(client: ImapClient, number: int, said: bytes, *, twice: bool) -> list[str] | None:
    """The tagged replies to a command, and to a NOOP sent with it; None when the session ended with a BYE."""
    last = f"s{number} " if twice else f"t{number} "
    tagged: list[str] = []
    with contextlib.suppress(ConnectionError):
        # After the BYE for too many errors, what is still being sent may find the connection closed.
        await client.send(b"t%d " % number + said + b"\r\n" + (b"s%d NOOP\r\n" % number if twice else b""))
    while not tagged or not tagged[-1].startswith(last):
        line = await client.line()
        assert line, f"{said!r}: closed without a word"
        assert "SERVERBUG" not in line, f"{said!r}: {line}"
        if line.startswith("* BYE"):
            return None
        if not line.startswith(("* ", "+ ")):
            tagged.append(line)
    return tagged


async def talk(seed: int, directory: Path) -> None:
    dice = random.Random(seed)
    cuts = random.Random(seed) if seed % 3 == 0 else None
    async with ImapHouse(dice=cuts, store=store_of("memory" if seed % 2 else "lmdb", directory)) as house:
        await house.store.create_account("alice@example.com", mailboxes=("a", "a/b"))
        await house.deliver("alice", MESSAGE, STRUCTURED, b"no header", flags=("\\Seen", "$x"))
        client: ImapClient | None = None
        for number in range(COUNT):
            if client is None:
                client = await house.login()
                if enabled := dice.choice(ENABLED):
                    await client.ok(f"ENABLE {enabled}")
                if dice.random() < 0.8:
                    await client.command(f"{dice.choice(('SELECT', 'SELECT', 'EXAMINE'))} INBOX")
            said = spelled(dice.choice(ONLY_GRAMMAR if dice.random() < 0.1 else LINES), dice)
            twice = dice.random() < 0.1
            try:
                tagged = await say(client, number, said, twice=twice)
            except ConnectionError:
                tagged = None
            if tagged is None:
                # Too many errors, or the selected mailbox is gone.
                client = None
                continue
            assert [line.partition(" ")[0] for line in tagged] == [f"t{number}", f"s{number}"][: 1 + twice], said


@pytest.mark.parametrize("seed", range(16))
def test_any_dialogue(seed: int, tmp_path: Path) -> None:
    run(talk(seed, tmp_path))


@pytest.mark.parametrize("state", ["before login", "logged in", "selected"])
def test_noise_in_every_state(state: str) -> None:
    """Bytes without meaning end in silence or in a BYE, and leave nothing behind (the house looks when it closes)."""

    async def scenario() -> None:
        dice = random.Random(state)
        async with ImapHouse() as house:
            await house.store.create_account("alice@example.com")
            for _ in range(25):
                client = await (house.connect() if state == "before login" else house.login())
                if state == "selected":
                    await client.ok("SELECT INBOX")
                noise = dice.randbytes(dice.randrange(400))
                if dice.random() < 0.5:
                    noise = noise.translate(bytes(SIGNS[n % len(SIGNS)] for n in range(256)))
                with contextlib.suppress(ConnectionError):
                    await client.send(noise)
                    client.writer.write_eof()
                    while line := await client.line():
                        assert re.match(r"\* |\+ |[!-~]+ (OK|NO|BAD) ", line), line
                        assert "SERVERBUG" not in line

    run(scenario())
