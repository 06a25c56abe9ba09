"""Invariant: whatever two users do to their own and each other's mailboxes, every command gets one tagged reply that no defect
of ours made, nobody sees what he may not look up, both stores say the same, and they verify clean afterwards.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.sessions.imap.house import ImapHouse, run, store_of

ALICE, BOB = "alice@example.com", "bob@example.com"
LEVELS = ("a",) * 12 + ("b",) * 8 + ("INBOX", "INBOX", "Sent", "Sent", "inbox", "&AOk-", "x y", "A", "%", "*", "")
USERS = (ALICE, BOB) * 4 + ("anyone", "anyone", f"-{ALICE}", f"-{BOB}", "nobody@example.com", "")
RIGHTS = ("", "l", "lr", "lrs", "lrikxa", "lrswipkxtea", "lrswipkxtea", "+k", "-r", "+x", "+cd", "z")
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Talk:
    """Makes commands by dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def name(self) -> str:
        dice = self.dice
        name = "/".join(dice.choice(LEVELS) for _ in range(dice.choice((1, 1, 1, 1, 2, 2, 3))))
        if dice.random() < 0.4:
            name = f"Other Users/{dice.choice((ALICE, BOB))}/{name}"
        return quoted(name + ("/" if dice.random() < 0.05 else ""))

    def pattern(self) -> str:
        return self.dice.choice(('"*"', '"%"', '"Other Users/*"', '"Other Users/%"', self.name(), '"a*"', '("*" "%/%")'))

    def command(self) -> str:
        dice, name = self.dice, self.name
        selection = dice.choice(("", "", "(SUBSCRIBED) ", "(SPECIAL-USE) ", "(SUBSCRIBED RECURSIVEMATCH) ", "(REMOTE) "))
        returned = dice.choice(
            ("", "", " RETURN (CHILDREN SUBSCRIBED)", " RETURN (STATUS (MESSAGES UNSEEN))", " RETURN (MYRIGHTS SPECIAL-USE)",
             " RETURN (METADATA (/shared/x /private))")
        )  # fmt: skip
        makers: list[Any] = [
            lambda: f"CREATE {name()}" + dice.choice(("", "", r" (USE (\Junk))", r" (USE (\Archive \Bogus))")),
            lambda: f"CREATE {name()}",
            lambda: f"DELETE {name()}",
            lambda: f"RENAME {name()} {name()}",
            lambda: f"{dice.choice(('SUBSCRIBE', 'UNSUBSCRIBE'))} {name()}",
            lambda: f"SETACL {name()} {quoted(dice.choice(USERS))} {quoted(dice.choice(RIGHTS))}",
            lambda: f"SETACL {name()} {quoted(dice.choice(USERS))} {quoted(dice.choice(RIGHTS))}",
            lambda: f"DELETEACL {name()} {quoted(dice.choice(USERS))}",
            lambda: f"GETACL {name()}",
            lambda: f"LISTRIGHTS {name()} {quoted(dice.choice(USERS))}",
            lambda: f"MYRIGHTS {name()}",
            lambda: f"LIST {selection}{dice.choice(('', '', name())) or quoted('')} {self.pattern()}{returned}",
            lambda: f'LSUB "" {dice.choice(("*", "%", name()))}',
            lambda: f"STATUS {name()} (MESSAGES UIDNEXT SIZE DELETED-STORAGE)",
            lambda: f"SETMETADATA {name()} (/{dice.choice(('private', 'shared'))}/x {dice.choice(('NIL', quoted('v')))})",
            lambda: f"GETMETADATA {name()} (/private/x /shared/x)",
            lambda: f"GETQUOTAROOT {name()}",
            lambda: f"SELECT {name()}",
                        lambda: f"APPEND {name()} {{{len(MESSAGE)}+}}\r\n" + MESSAGE.decode(),
        ]
        text: str = dice.choice(makers)()
        return text


NUMBERS = re.compile(r"\b(UIDVALIDITY|MAILBOXID|APPENDUID|HIGHESTMODSEQ)[ (]+[\w ]+")
DEFECTS = ("SERVERBUG", "UNAVAILABLE", "internal")


async def talk(house: ImapHouse, seed: int, count: int) -> list[str]:
    """What was said and answered, and what each user sees in the end."""
    for account in (ALICE, BOB):
        await house.store.create_account(account, mailboxes=("Sent",))
    clients = {"alice": await house.login("alice"), "bob": await house.login("bob")}
    for who, other in (("alice", BOB), ("bob", ALICE)):  # so that most commands have something to do
        for name in ("a", "a/b", "b/a/a"):
            await clients[who].ok(f"CREATE {name}")
        for name in ("a", "a/b", "INBOX"):
            await clients[who].ok(f"SETACL {name} {other} lrswikxtea")
    talk = Talk(seed)
    said = []
    for _ in range(count):
        who = talk.dice.choice(("alice", "bob"))
        command = talk.command()
        lines = await clients[who].command(command)
        assert lines[-1].split()[0] in ("OK", "NO", "BAD"), (command, lines)
        assert not any(defect in lines[-1] for defect in DEFECTS), (command, lines)
        said.append(f"{who}: {command} -> {[NUMBERS.sub('', line) for line in lines]}")
        if lines[-1].startswith("BAD"):  # too many would end the session
            await clients[who].ok("LOGOUT")
            clients[who] = await house.login(who)
    for who, client in clients.items():
        said += [f"{who} sees {line}" for line in await client.ok('LIST "" * RETURN (MYRIGHTS CHILDREN SUBSCRIBED)')]
        said += [f"{who} sees {line}" for line in await client.ok('LSUB "" *')]
    await check_sight(house, clients)
    assert list(house.store.verify()) == []
    return said


async def check_sight(house: ImapHouse, clients: dict[str, Any]) -> None:
    """What bob is shown of alice's is what her lists say."""
    alice = await house.store.account(ALICE)
    visible = set()
    for mailbox in await house.store.mailboxes(alice.id):
        acl = await house.store.acl(mailbox.id)
        given = set(acl.get(BOB, "")) | set(acl.get("anyone", ""))
        if "l" in given - set(acl.get(f"-{BOB}", "")) - set(acl.get("-anyone", "")):
            visible.add(f"Other Users/{ALICE}/{mailbox.name}")
    await clients["bob"].ok("ENABLE IMAP4rev2")
    shown = set()
    for line in await clients["bob"].ok(f'LIST "" "Other Users/{ALICE}/*"'):
        if "NonExistent" not in line:
            shown.add(line.partition(' "/" ')[2].strip('"'))
    assert shown == visible


@pytest.mark.parametrize("seed", range(6))
def test_users_share_mailboxes(seed: int, tmp_path: Path) -> None:
    results = []
    for kind in ("memory", "lmdb"):

        async def scenario(kind: str = kind) -> list[str]:
            async with ImapHouse(store=store_of(kind, tmp_path)) as house:
                return await talk(house, seed, 250)

        results.append(run(scenario()))
    assert results[0] == results[1]
