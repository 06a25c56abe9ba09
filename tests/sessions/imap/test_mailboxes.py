"""Mailboxes as wholes: making, listing, status, sharing, quotas and annotations, against a real service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rusmes.storage import names
from tests.sessions.imap.house import ImapClient, ImapHouse, run, store_of

ALICE, BOB = "alice@example.com", "bob@example.com"
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
Scenario = Callable[[ImapHouse, ImapClient], Awaitable[None]]


@asynccontextmanager
async def alices(store: Any) -> AsyncIterator[tuple[ImapHouse, ImapClient]]:
    async with ImapHouse(store=store) as house:
        for name in (ALICE, BOB):
            await house.store.create_account(name, mailboxes=("Drafts", "Sent", "Trash"))
        yield house, await house.login()


@pytest.fixture(params=["memory", "lmdb"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        async def whole() -> None:
            async with alices(store_of(request.param, tmp_path)) as (house, client):
                await scenario(house, client)

        run(whole())

    return play


def lists(lines: list[str]) -> dict[str, str]:
    """Attributes by name."""
    found = {}
    for line in lines:
        assert line.startswith(("* LIST (", "* LSUB (")), line
        attributes, _, rest = line[8:].partition(') "/" ')
        found[rest] = attributes
    return found


async def refused(client: ImapClient, text: str, reply: str) -> None:
    [*untagged, last] = await client.command(text)
    assert last.startswith(reply), last
    assert untagged == []


# CREATE, DELETE, RENAME


@pytest.mark.rfc("9051", "6.3.4")
@pytest.mark.rfc("8474", "4.1")
def test_create_makes_what_is_above_and_tells_the_id(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        [last] = await client.command("CREATE a/b/c/")
        assert last.startswith("OK [MAILBOXID (m")
        made = await house.store.mailbox(1, "a/b/c")
        assert f"(m{made.id:x})" in last
        assert list(lists(await client.ok('LIST "" a*'))) == ["a", "a/b", "a/b/c"]
        await refused(client, "CREATE a/b", "NO [ALREADYEXISTS]")
        await refused(client, "CREATE inbox", "NO [ALREADYEXISTS]")
        for name in ('"a//b"', '""', '"/a"', '"Other Users"', "x" * 481, "/".join("a" * 33)):
            await refused(client, f"CREATE {name}", "NO [CANNOT]")
        await refused(client, 'CREATE "Other Users/nobody@example.com/x/y"', "NO [NOPERM]")

    play(scenario)


@pytest.mark.rfc("6154", "3")
@pytest.mark.rfc("6154", "2")
def test_special_uses(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok(r"CREATE old (USE (\Archive \important))")
        await refused(client, r"CREATE x (USE (\Archive))", "NO [USEATTR]")
        await refused(client, r"CREATE x (USE (\All))", "NO [USEATTR]")
        await refused(client, r"CREATE x (USE (\Bogus))", "NO [USEATTR]")
        assert lists(await client.ok('LIST (SPECIAL-USE) "" *')) == {
            "Drafts": r"\Drafts", "old": r"\Archive \Important", "Sent": r"\Sent", "Trash": r"\Trash",
        }  # fmt: skip
        assert lists(await client.ok('LIST "" old')) == {"old": r"\HasNoChildren \Archive \Important"}
        assert lists(await client.ok('LIST "" old RETURN ()')) == {"old": ""}
        assert lists(await client.ok('LIST "" old RETURN (SPECIAL-USE)')) == {"old": r"\Archive \Important"}
        assert await client.ok("GETMETADATA old /private/specialuse") == [
            r'* METADATA old (/private/specialuse "\\Archive \\Important")'
        ]
        await client.ok(r'SETMETADATA old (/private/specialuse "\\Junk")')
        assert lists(await client.ok('LIST "" old RETURN (SPECIAL-USE)')) == {"old": r"\Junk"}
        await refused(client, r'SETMETADATA old (/private/specialuse "\\Sent")', "NO [USEATTR]")
        await client.ok("SETMETADATA old (/private/specialuse NIL)")
        assert lists(await client.ok('LIST "" old RETURN (SPECIAL-USE)')) == {"old": ""}

    play(scenario)


@pytest.mark.rfc("9051", "6.3.5")
def test_delete_leaves_what_is_below(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE a/b")
        await client.ok("DELETE a")
        assert lists(await client.ok('LIST "" a*')) == {
            "a": r"\NonExistent \Noselect \HasChildren", "a/b": r"\HasNoChildren",
        }  # fmt: skip
        assert lists(await client.ok('LIST "" %'))["a"] == r"\NonExistent \Noselect \HasChildren"
        await refused(client, "DELETE a", "NO [HASCHILDREN]")
        await refused(client, "SELECT a", "NO [NONEXISTENT]")
        await client.ok("DELETE a/b")
        assert await client.ok('LIST "" a*') == []
        await refused(client, "DELETE a", "NO [NONEXISTENT]")
        await refused(client, "DELETE INBOX", "NO [CANNOT]")
        # The subscription stays, and a new mailbox of this name has another UIDVALIDITY.
        assert lists(await client.ok('LSUB "" a*')) == {"a": "", "a/b": ""}
        assert lists(await client.ok('LIST (SUBSCRIBED) "" a*')) == {
            "a": r"\NonExistent \Noselect \Subscribed", "a/b": r"\NonExistent \Noselect \Subscribed",
        }  # fmt: skip
        await client.ok("CREATE a")
        [first] = await client.ok("STATUS a (UIDVALIDITY)")
        await client.ok("DELETE a")
        await client.ok("CREATE a")
        assert await client.ok("STATUS a (UIDVALIDITY)") != [first]

    play(scenario)


def test_delete_of_the_selected_mailbox_closes_it(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE a")
        await client.ok("SELECT a")
        await client.ok("DELETE a")
        [last] = await client.command("CHECK")
        assert last.startswith("BAD")

    play(scenario)


@pytest.mark.rfc("9051", "6.3.6")
def test_rename_takes_what_is_below_along(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE a/b")
        await client.ok("RENAME a x/y")
        assert list(lists(await client.ok('LIST "" *'))) == ["INBOX", "Drafts", "Sent", "Trash", "x", "x/y", "x/y/b"]
        await refused(client, "RENAME nothing z", "NO [NONEXISTENT]")
        await refused(client, "RENAME x/y Sent", "NO [ALREADYEXISTS]")
        await refused(client, "RENAME x x/z", "NO [CANNOT]")
        await refused(client, 'RENAME x "Other Users"', "NO [CANNOT]")
        await house.deliver("alice", MESSAGE)
        await client.ok("RENAME INBOX old")
        assert await client.ok("STATUS old (MESSAGES)") == ["* STATUS old (MESSAGES 1)"]
        assert await client.ok("STATUS INBOX (MESSAGES)") == ["* STATUS INBOX (MESSAGES 0)"]
        assert list(lists(await client.ok('LIST "" INBOX'))) == ["INBOX"]

    play(scenario)


@pytest.mark.rfc("9051", "6.3.9.7")
def test_a_rev2_client_is_told_of_other_names(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("ENABLE IMAP4rev2")
        decomposed = "Scho\u0308n"
        assert await client.ok(f'CREATE "{decomposed}"') == [f'* LIST () "/" "Schön" ("OLDNAME" ("{decomposed}"))']
        assert await client.ok('RENAME "Schön" other') == ['* LIST () "/" other ("OLDNAME" ("Schön"))']

    play(scenario)


@pytest.mark.rfc("3501", "5.1.3")
@pytest.mark.rfc("9051", "5.1")
def test_names_travel_as_the_client_speaks(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE Entw&APw-rfe")
        assert list(lists(await client.ok('LIST "" En*'))) == ["Entw&APw-rfe"]
        await client.ok("ENABLE IMAP4rev2")
        assert list(lists(await client.ok('LIST "" "Entwü*"'))) == ['"Entwürfe"']
        assert await client.ok('STATUS "Entwürfe" (MESSAGES)') == ['* STATUS "Entwürfe" (MESSAGES 0)']

    play(scenario)


def test_mailboxes_are_limited(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    from rusmes.storage import memory
    from rusmes.storage.lmdb import mailboxes

    for module in (memory, mailboxes):
        monkeypatch.setattr(module, "MAX_MAILBOXES", 5)

    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE a")
        await refused(client, "CREATE b", "NO [LIMIT]")

    play(scenario)


# LIST, LSUB


@pytest.mark.rfc("9051", "6.3.9")
@pytest.mark.rfc("3348", "3")
def test_list_plain(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE a/b/c")
        assert await client.ok('LIST "" ""') == [r'* LIST (\Noselect) "/" ""']
        assert await client.ok('LIST "Other Users/x" ""') == [r'* LIST (\Noselect) "/" "Other Users/"']
        assert lists(await client.ok('LIST "" %')) == {
            "INBOX": r"\HasNoChildren", "Drafts": r"\HasNoChildren \Drafts", "Sent": r"\HasNoChildren \Sent",
            "Trash": r"\HasNoChildren \Trash", "a": r"\HasChildren",
        }  # fmt: skip
        assert list(lists(await client.ok("LIST a/ %"))) == ["a/b"]
        assert list(lists(await client.ok('LIST "" a/%/c'))) == ["a/b/c"]
        assert list(lists(await client.ok('LIST "" inBOX'))) == ["INBOX"]
        assert await client.ok('LIST "" nothing') == []
        assert list(lists(await client.ok('LIST "" (a Sent) RETURN (CHILDREN)'))) == ["Sent", "a"]

    play(scenario)


@pytest.mark.rfc("5258", "3.1")
@pytest.mark.rfc("3501", "6.3.9")
def test_list_of_subscriptions(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE a/b/c")
        for name in ("INBOX", "Drafts", "Sent", "Trash", "a", "a/b"):
            await client.ok(f"UNSUBSCRIBE {name}")
        await client.ok("UNSUBSCRIBE never/there")
        await refused(client, "SUBSCRIBE never/there", "NO [NONEXISTENT]")
        assert lists(await client.ok('LSUB "" *')) == {"a/b/c": ""}
        assert lists(await client.ok('LSUB "" %')) == {"a": r"\Noselect"}
        assert lists(await client.ok('LIST (SUBSCRIBED) "" *')) == {"a/b/c": r"\Subscribed"}
        assert lists(await client.ok('LIST (SUBSCRIBED) "" %')) == {}
        # RFC 9051 §6.3.9.6: what is subscribed below is told of names that match.
        assert await client.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" %') == ['* LIST () "/" a ("CHILDINFO" ("SUBSCRIBED"))']
        assert lists(await client.ok('LIST (SUBSCRIBED RECURSIVEMATCH) "" *')) == {"a/b/c": r"\Subscribed"}
        assert await client.ok('LIST (SUBSCRIBED REMOTE) "" % RETURN (CHILDREN)') == []
        await client.ok("SUBSCRIBE a")
        assert await client.ok('LIST (RECURSIVEMATCH SUBSCRIBED) "" % RETURN (CHILDREN)') == [
            r'* LIST (\HasChildren \Subscribed) "/" a ("CHILDINFO" ("SUBSCRIBED"))'
        ]
        await client.ok("DELETE a/b/c")
        assert lists(await client.ok('LIST "" a* RETURN (SUBSCRIBED)')) == {"a": r"\Subscribed", "a/b": ""}
        assert lists(await client.ok('LIST (SUBSCRIBED) "" a*')) == {
            "a": r"\Subscribed", "a/b/c": r"\NonExistent \Noselect \Subscribed",
        }  # fmt: skip
        [last] = await client.command('LIST (RECURSIVEMATCH) "" *')
        assert last.startswith("BAD")

    play(scenario)


@pytest.mark.rfc("5258", "5")
def test_recursive_match_as_in_the_example_of_the_rfc(play: Callable[[Scenario], None]) -> None:
    """RFC 5258 §5, example 9."""

    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        for name in ("foo2/bar1", "foo2/bar2", "baz2/bar2", "baz2/bar22", "baz2/bar222", "eps2/mamba", "qux2/bar2"):
            await client.ok(f"CREATE {name}")
        for name in ("foo2", "baz2", "qux2", "INBOX", "Drafts", "Sent", "Trash"):
            await client.ok(f"UNSUBSCRIBE {name}")
        await client.ok("DELETE qux2")
        assert await client.ok('LIST (RECURSIVEMATCH SUBSCRIBED) "" *2') == [
            r'* LIST (\Subscribed) "/" baz2/bar2',
            r'* LIST (\Subscribed) "/" baz2/bar22',
            r'* LIST (\Subscribed) "/" baz2/bar222',
            r'* LIST (\Subscribed) "/" eps2 ("CHILDINFO" ("SUBSCRIBED"))',
            r'* LIST () "/" foo2 ("CHILDINFO" ("SUBSCRIBED"))',
            r'* LIST (\Subscribed) "/" foo2/bar2',
            r'* LIST (\Subscribed) "/" qux2/bar2',
        ]
        assert await client.ok('LIST (RECURSIVEMATCH SUBSCRIBED) "" %') == [
            r'* LIST () "/" baz2 ("CHILDINFO" ("SUBSCRIBED"))',
            r'* LIST (\Subscribed) "/" eps2 ("CHILDINFO" ("SUBSCRIBED"))',
            r'* LIST () "/" foo2 ("CHILDINFO" ("SUBSCRIBED"))',
            r'* LIST (\NonExistent \Noselect) "/" qux2 ("CHILDINFO" ("SUBSCRIBED"))',
        ]
        # All below it are told themselves, and it is subscribed too.
        [line] = [line for line in await client.ok('LIST (RECURSIVEMATCH SUBSCRIBED) "" *') if " eps2 " in line]
        assert line == r'* LIST (\Subscribed) "/" eps2 ("CHILDINFO" ("SUBSCRIBED"))'

    play(scenario)


@pytest.mark.rfc("5819", "2")
@pytest.mark.rfc("8440", "3")
@pytest.mark.rfc("9590", "3")
def test_list_with_status_rights_and_annotations(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await house.deliver("alice", MESSAGE, MESSAGE)
        await client.ok('SETMETADATA Sent (/private/comment "mine" /shared/comment "ours")')
        await client.ok("CREATE a/b")
        await client.ok("DELETE a")
        command = 'LIST "" (INBOX Sent a) RETURN (MYRIGHTS STATUS (MESSAGES UNSEEN) METADATA (/private/comment /shared))'
        assert await client.ok(command) == [
            '* LIST () "/" INBOX',
            "* MYRIGHTS INBOX lrswipkxteacd",
            "* STATUS INBOX (MESSAGES 2 UNSEEN 2)",
            "* METADATA INBOX (/private/comment NIL /shared NIL)",
            '* LIST () "/" Sent',
            "* MYRIGHTS Sent lrswipkxteacd",
            "* STATUS Sent (MESSAGES 0 UNSEEN 0)",
            '* METADATA Sent (/private/comment "mine" /shared NIL)',
            r'* LIST (\NonExistent \Noselect) "/" a',
        ]
        found = await client.ok('LIST "" Sent RETURN (METADATA (DEPTH INFINITY) (/shared /private))')
        assert found[1:] == ['* METADATA Sent (/shared/comment "ours" /private/comment "mine" /private/specialuse "\\\\Sent")']

    play(scenario)


# STATUS


@pytest.mark.rfc("9051", "6.3.11")
@pytest.mark.rfc("8438", "2")
@pytest.mark.rfc("9208", "4.1.4")
@pytest.mark.rfc("7889", "3")
def test_status(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await house.deliver("alice", MESSAGE, MESSAGE, MESSAGE)
        await client.ok("SELECT INBOX")
        inbox = await house.store.mailbox(1, "INBOX")
        from rusmes.storage.api import FlagChange

        await house.store.change_flags(inbox.id, FlagChange((1, 2), "add", ("\\Seen",)))
        await house.store.change_flags(inbox.id, FlagChange((2,), "add", ("\\Deleted",)))
        inbox = await house.store.mailbox(1, "INBOX")
        other = await house.login()
        assert await other.ok("STATUS inbox (MESSAGES UIDNEXT UNSEEN DELETED SIZE DELETED-STORAGE APPENDLIMIT)") == [
            f"* STATUS INBOX (MESSAGES 3 UIDNEXT 4 UNSEEN 1 DELETED 1 SIZE {3 * len(MESSAGE)}"
            f" DELETED-STORAGE {len(MESSAGE)} APPENDLIMIT 1000000)"
        ]
        assert await other.ok("STATUS INBOX (UIDVALIDITY MAILBOXID HIGHESTMODSEQ RECENT)") == [
            f"* STATUS INBOX (UIDVALIDITY {inbox.uid_validity} MAILBOXID ({inbox.object_id})"
            f" HIGHESTMODSEQ {inbox.highest_modseq} RECENT 0)"
        ]
        await refused(other, "STATUS nothing (MESSAGES)", "NO [NONEXISTENT]")
        [last] = await other.command("STATUS INBOX (BOGUS)")
        assert last.startswith("BAD")

    play(scenario)


@pytest.mark.rfc("9051", "6.3.10")
def test_namespace(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        assert await client.ok("NAMESPACE") == ['* NAMESPACE (("" "/")) (("Other Users/" "/")) NIL']

    play(scenario)


# Sharing


@pytest.mark.rfc("4314", "3")
def test_lists_of_rights(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        assert await client.ok("MYRIGHTS INBOX") == ["* MYRIGHTS INBOX lrswipkxteacd"]
        assert await client.ok("GETACL INBOX") == ["* ACL INBOX alice@example.com lrswipkxteacd"]
        await client.ok("SETACL INBOX Bob@example.com lr")
        await client.ok("SETACL INBOX bob@example.com +sc")
        await client.ok("SETACL INBOX bob@example.com -l")
        await client.ok("SETACL INBOX anyone l")
        await client.ok("SETACL INBOX -bob@example.com x")
        assert await client.ok("GETACL INBOX") == [
            "* ACL INBOX alice@example.com lrswipkxteacd -bob@example.com xc anyone l bob@example.com rskxc"
        ]
        bob = await house.login("bob")
        inbox = '"Other Users/alice@example.com/INBOX"'
        assert await bob.ok(f"MYRIGHTS {inbox}") == [f"* MYRIGHTS {inbox} lrskc"]
        await client.ok("DELETEACL INBOX BOB@example.com")
        assert await bob.ok(f"MYRIGHTS {inbox}") == [f"* MYRIGHTS {inbox} l"]
        await client.ok("DELETEACL INBOX anyone")
        await refused(bob, f"MYRIGHTS {inbox}", "NO [NONEXISTENT]")
        await client.ok("DELETEACL INBOX nobody@example.com")
        assert await client.ok("LISTRIGHTS INBOX bob@example.com") == [
            '* LISTRIGHTS INBOX bob@example.com "" l r s w i p k x t e a c d'
        ]
        assert await client.ok(f"LISTRIGHTS INBOX {ALICE}") == [f"* LISTRIGHTS INBOX {ALICE} lrswipkxteacd"]
        await refused(client, "SETACL INBOX nobody@example.com lr", "NO [CANNOT]")
        await refused(client, f"SETACL INBOX {ALICE} lr", "NO [CANNOT]")
        await refused(client, "SETACL INBOX bob@example.com lz", "BAD unknown right")
        await client.ok('SETACL INBOX bob@example.com ""')
        assert await client.ok("GETACL INBOX") == ["* ACL INBOX alice@example.com lrswipkxteacd -bob@example.com xc"]

    play(scenario)


@pytest.mark.rfc("4314", "6")
def test_mailboxes_of_others_are_listed_as_far_as_one_may_look(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE team/plans")
        await client.ok("CREATE secret")
        await client.ok("SETACL team/plans bob@example.com lr")
        await client.ok("SETACL Sent bob@example.com l")
        await client.ok("SETACL secret bob@example.com r")
        bob = await house.login("bob")
        top, base = '"Other Users"', "Other Users/alice@example.com"
        assert lists(await bob.ok('LIST "" %'))[top] == r"\NonExistent \Noselect \HasChildren"
        assert lists(await bob.ok('LIST "Other Users/" *')) == {
            f'"{base}"': r"\NonExistent \Noselect \HasChildren",
            f'"{base}/Sent"': r"\HasNoChildren",
            f'"{base}/team"': r"\NonExistent \Noselect \HasChildren",
            f'"{base}/team/plans"': r"\HasNoChildren",
        }
        assert list(lists(await bob.ok('LIST "" O*s'))) == [top, f'"{base}/team/plans"']
        found = await bob.ok('LIST "" "Other Users/*" RETURN (STATUS (MESSAGES) MYRIGHTS)')
        assert f'* STATUS "{base}/team/plans" (MESSAGES 0)' in found
        assert not any(line.startswith(f'* STATUS "{base}/Sent"') for line in found)
        assert f'* MYRIGHTS "{base}/Sent" l' in found
        await bob.ok(f'SUBSCRIBE "{base}/team/plans"')
        assert f'"{base}/team/plans"' in lists(await bob.ok('LSUB "" *'))
        assert lists(await bob.ok('LIST (SUBSCRIBED) "" "Other Users/*"')) == {f'"{base}/team/plans"': r"\Subscribed"}
        assert top not in lists(await client.ok('LIST "" *'))
        for name in (f"{base}/secret", f"{base}/nothing", base, "Other Users", "Other Users/bob@example.com/INBOX"):
            await refused(bob, f'STATUS "{name}" (MESSAGES)', "NO [NONEXISTENT]")
        await refused(bob, f'STATUS "{base}/Sent" (MESSAGES)', "NO [NOPERM]")

    play(scenario)


@pytest.mark.rfc("4314", "4")
def test_every_command_asks_for_its_right(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("CREATE team")
        await client.ok("SETACL team bob@example.com l")
        bob = await house.login("bob")
        team = '"Other Users/alice@example.com/team"'
        below = '"Other Users/alice@example.com/team/new"'
        for command in (
            f"SELECT {team}", f"EXAMINE {team}", f"STATUS {team} (MESSAGES)", f"DELETE {team}", f"RENAME {team} {below}",
            f"CREATE {below}", f"GETACL {team}", f"SETACL {team} anyone l", f"DELETEACL {team} anyone",
            f"LISTRIGHTS {team} anyone", f"GETQUOTAROOT {team}", f"GETMETADATA {team} /shared/comment",
            f'SETMETADATA {team} (/private/comment "x")',
        ):  # fmt: skip
            [*_, last] = await bob.command(command)
            assert last.startswith("NO [NOPERM]"), command
        assert (await bob.append(team, MESSAGE)).startswith("NO [NOPERM]")
        await client.ok("SETACL team bob@example.com lrikxa")
        await bob.ok(f"CREATE {below}")
        assert await client.ok("GETACL team/new") == ["* ACL team/new alice@example.com lrswipkxteacd bob@example.com lrikxac"]
        await bob.ok(f"STATUS {team} (MESSAGES)")
        assert (await bob.append(team, MESSAGE, r"(\Seen) ")).startswith("OK")
        assert await client.ok("STATUS team (MESSAGES UNSEEN)") == ["* STATUS team (MESSAGES 1 UNSEEN 1)"]
        await bob.ok(f"SETACL {team} anyone l")
        await client.ok("SETACL team/new bob@example.com -x")
        await refused(bob, f'RENAME {team} "Other Users/alice@example.com/team2"', "NO [NOPERM]")
        await refused(bob, f"RENAME {team} mine", "NO [CANNOT]")
        await client.ok("SETACL team/new bob@example.com +x")
        await bob.ok(f'RENAME {below} "Other Users/alice@example.com/team/renamed"')
        await bob.ok('DELETE "Other Users/alice@example.com/team/renamed"')
        await refused(bob, r"CREATE " + below + r" (USE (\Junk))", "NO [NOPERM]")
        await refused(bob, f'SETMETADATA {team} (/shared/comment "x")', "NO [NOPERM]")
        await bob.ok(f'SETMETADATA {team} (/private/comment "bob\'s")')
        assert await bob.ok(f"GETMETADATA {team} /private/comment") == [f'* METADATA {team} (/private/comment "bob\'s")']
        assert await client.ok("GETMETADATA team /private/comment") == ["* METADATA team (/private/comment NIL)"]

    play(scenario)


# Quota


@pytest.mark.rfc("9208", "4.1")
def test_quota(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        mailboxes = f"MAILBOX 4 {names.MAX_MAILBOXES}"
        assert await client.ok("GETQUOTAROOT INBOX") == [
            f"* QUOTAROOT INBOX {ALICE}", f"* QUOTA {ALICE} ({mailboxes})",
        ]  # fmt: skip
        await house.store.set_quota(ALICE, quota_bytes=10_240, quota_messages=7)
        await house.deliver("alice", MESSAGE)
        quota = f"* QUOTA {ALICE} (STORAGE 1 10 MESSAGE 1 7 {mailboxes})"
        assert await client.ok(f"GETQUOTA {ALICE}") == [quota]
        await refused(client, f"GETQUOTA {BOB}", "NO [NONEXISTENT]")
        await refused(client, "GETQUOTA nothing", "NO [NONEXISTENT]")
        await refused(client, "GETQUOTAROOT nothing", "NO [NONEXISTENT]")
        await refused(client, f"SETQUOTA {ALICE} (STORAGE 100)", "NO [NOPERM]")
        await client.ok("CREATE team")
        await client.ok("SETACL team bob@example.com lr")
        bob = await house.login("bob")
        [root, found] = await bob.ok('GETQUOTAROOT "Other Users/alice@example.com/team"')
        assert root == f'* QUOTAROOT "Other Users/alice@example.com/team" {ALICE}'
        assert found.startswith(f"* QUOTA {ALICE} (STORAGE 1 10 MESSAGE 1 7 ")

    play(scenario)


@pytest.mark.rfc("9208", "4.1.3")
def test_quotas_are_set_by_administrators(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        set_quotas = []

        class Admin:
            async def set_quota(self, account: str, *, quota_bytes: int, quota_messages: int) -> None:
                set_quotas.append((account, quota_bytes, quota_messages))

        house.service.accounts = Admin()  # type: ignore[assignment]
        house.service.apply(house.config)
        identities = house.backend.identities
        identities[BOB] = msgspec.structs.replace(identities[BOB], admin=True)
        admin = await house.login("bob")
        assert (await admin.ok(f"SETQUOTA {BOB} (STORAGE 100 MESSAGE 5)"))[0].startswith(
            f"* QUOTA {BOB} (STORAGE 0 100 MESSAGE 0 5 MAILBOX 4 "
        )
        assert (await admin.ok(f"SETQUOTA {BOB} ()"))[0].startswith(f"* QUOTA {BOB} (MAILBOX 4 ")
        assert set_quotas == [(BOB, 102_400, 5), (BOB, 0, 0)]
        await refused(admin, f"SETQUOTA {BOB} (STORAGE 0)", "NO [CANNOT]")
        await refused(admin, f"SETQUOTA {BOB} (MAILBOX 9)", "NO [CANNOT]")
        await refused(admin, "SETQUOTA nobody (STORAGE 9)", "NO [NONEXISTENT]")

    play(scenario)


# Annotations


@pytest.mark.rfc("5464", "4")
def test_annotations(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok('SETMETADATA INBOX (/private/comment "one" /shared/Comment {3+}\r\ntwo /private/a/b/c "deep")')
        assert await client.ok("GETMETADATA INBOX (/shared/comment /private/Comment /private/none)") == [
            '* METADATA INBOX (/shared/comment "two" /private/comment "one" /private/none NIL)'
        ]
        assert await client.ok("GETMETADATA (DEPTH 1) INBOX /private") == ['* METADATA INBOX (/private/comment "one")']
        assert await client.ok("GETMETADATA INBOX (DEPTH infinity) (/private)") == [
            '* METADATA INBOX (/private/a/b/c "deep" /private/comment "one")'
        ]
        [found, last] = await client.command("GETMETADATA (MAXSIZE 3) INBOX (/private/comment /private/a/b/c)")
        assert found == '* METADATA INBOX (/private/comment "one")'
        assert last.startswith("OK [METADATA LONGENTRIES 4]")
        await client.ok("SETMETADATA INBOX (/private/comment NIL /private/a/b/c ~{3+}\r\na\0b)")
        assert await client.ok("GETMETADATA INBOX (/private/a/b/c)") == ["* METADATA INBOX (/private/a/b/c ~{3}\r\na\0b)"]
        for command in ("GETMETADATA INBOX /comment", 'SETMETADATA INBOX (/comment "x")', 'SETMETADATA INBOX (/private "x")'):
            [last] = await client.command(command)
            assert last.startswith("BAD"), command
        await refused(client, "GETMETADATA nothing /private/comment", "NO [NONEXISTENT]")

    play(scenario)


@pytest.mark.rfc("5464", "4")
def test_annotations_of_the_server(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok('SETMETADATA "" (/private/vendor/x "mine")')
        assert await client.ok('GETMETADATA "" (/private/vendor/x /shared/admin)') == [
            '* METADATA "" (/private/vendor/x "mine" /shared/admin NIL)'
        ]
        await refused(client, 'SETMETADATA "" (/shared/admin "mailto:x")', "NO [NOPERM]")
        identities = house.backend.identities
        identities[BOB] = msgspec.structs.replace(identities[BOB], admin=True)
        admin = await house.login("bob")
        await admin.ok('SETMETADATA "" (/shared/admin "mailto:x")')
        assert await admin.ok('GETMETADATA "" (/private/vendor/x /shared/admin)') == [
            '* METADATA "" (/private/vendor/x NIL /shared/admin "mailto:x")'
        ]

    play(scenario)


def test_annotations_have_limits(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    from rusmes.imap.commands import metadata

    monkeypatch.setattr(metadata, "MAX_VALUE_OCTETS", 10)
    monkeypatch.setattr(metadata, "MAX_ENTRIES", 2)

    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await refused(client, f'SETMETADATA INBOX (/private/a "{"x" * 11}")', "NO [METADATA MAXSIZE 10]")
        await refused(client, f'SETMETADATA INBOX (/private/{"a" * 400} "x")', "NO [LIMIT]")
        await client.ok('SETMETADATA INBOX (/private/a "1" /private/b "2")')
        await refused(client, 'SETMETADATA INBOX (/shared/x "1" /private/c "3")', "NO [METADATA TOOMANY]")
        assert await client.ok("GETMETADATA INBOX (/shared/x /private/c)") == [
            "* METADATA INBOX (/shared/x NIL /private/c NIL)"
        ]
        await client.ok('SETMETADATA INBOX (/private/c "3" /private/b NIL)')

    play(scenario)


def test_what_is_advertised() -> None:
    async def scenario() -> None:
        async with alices(store_of("memory")) as (_, client):
            [line] = await client.ok("CAPABILITY")
            for name in ("LIST-EXTENDED", "LIST-STATUS", "ACL", "RIGHTS=texk", "QUOTA=RES-STORAGE", "QUOTASET", "METADATA"):
                assert f" {name}" in line

    run(scenario())


def test_many_mailboxes_do_not_wait_for_the_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with alices(store_of("memory")) as (house, client):
            for n in range(2000):
                await house.store.create_mailbox(1, f"box{n:04}")
            await asyncio.sleep(0)
            found = await client.ok('LIST "" box* RETURN (STATUS (MESSAGES))')
            assert len(found) == 4000

    run(scenario())


def test_many_names_are_read_beside_the_loop_and_listed_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rusmes.imap.server import Output
    from rusmes.storage.lmdb import mail_store, mailboxes

    threads, turns = [], []
    read, room = mailboxes.mailbox_values, Output.room

    def reading(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return read(*arguments)

    async def counted(output: Output) -> None:
        turns.append(1)
        await room(output)

    monkeypatch.setattr(mailboxes, "mailbox_values", reading)
    monkeypatch.setattr(Output, "room", counted)
    monkeypatch.setattr(mail_store, "LONG_NAMES", 100)

    async def scenario() -> None:
        async with alices(store_of("lmdb", tmp_path)) as (house, client):
            for command in ('LIST "" *', 'LSUB "" *'):
                await client.ok(command)
            assert threads == [threading.main_thread()]
            await house.store.delete_account(BOB)
            await house.store.create_account(BOB, mailboxes=[f"a/b{n}" for n in range(1100)])
            bob = await house.login("bob")
            for command in ('LIST "" *x*y', 'LIST (SUBSCRIBED) "" *q', 'LSUB "" *x*y'):
                threads.clear()
                turns.clear()
                assert await bob.ok(command) == []
                assert threading.main_thread() not in threads
                assert len(turns) > 20, command

    run(scenario())
