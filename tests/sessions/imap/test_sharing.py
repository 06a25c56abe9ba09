"""Messages in mailboxes of others: what each right allows (RFC 4314 §4), seen from both sides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.sessions.imap.house import ImapClient, ImapHouse, run, store_of
from tests.sessions.imap.test_mailboxes import alices, refused

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
TEAM = '"Other Users/alice@example.com/team"'
Scenario = Callable[[ImapHouse, ImapClient, ImapClient], Awaitable[None]]


@pytest.fixture(params=["memory", "lmdb"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, Scenario], None]:
    """Alice's mailbox "team" has three messages, and bob these rights on it."""

    def play(rights: str, scenario: Scenario) -> None:
        async def whole() -> None:
            async with alices(store_of(request.param, tmp_path)) as (house, alice):
                await alice.ok("CREATE team")
                await alice.ok(f"SETACL team bob@example.com {rights}")
                await house.deliver("alice", MESSAGE, MESSAGE, MESSAGE, mailbox="team")
                await scenario(house, alice, await house.login("bob"))

        run(whole())

    return play


async def flags(client: ImapClient) -> list[str]:
    return [line.partition("FLAGS (")[2].rstrip(")").replace(" \\Recent", "").replace("\\Recent", "") for line in
            await client.ok("UID FETCH 1:* (UID FLAGS)") if "FETCH" in line]  # fmt: skip


@pytest.mark.rfc("4314", "4")
def test_reading_alone_changes_nothing(play: Callable[[str, Scenario], None]) -> None:
    async def scenario(house: ImapHouse, alice: ImapClient, bob: ImapClient) -> None:
        [*_, last] = await bob.command(f"SELECT {TEAM}")
        assert last.startswith("OK [READ-ONLY]")
        assert any("hello" in line for line in await bob.ok("FETCH 1 BODY[]"))
        assert await bob.ok("SEARCH SUBJECT x") == ["* SEARCH 1 2 3"]
        for command in (r"STORE 1 +FLAGS (\Flagged)", "EXPUNGE", "MOVE 1 INBOX", f"COPY 1 {TEAM}"):
            [*_, last] = await bob.command(command)
            assert last.startswith("NO [NOPERM]"), command
        await alice.ok("SELECT team")
        assert not any(map(str.strip, await flags(alice)))

    play("lr", scenario)


@pytest.mark.rfc("4314", "4")
def test_seen_has_a_right_of_its_own(play: Callable[[str, Scenario], None]) -> None:
    async def scenario(house: ImapHouse, alice: ImapClient, bob: ImapClient) -> None:
        await alice.ok("SELECT team")
        [*_, last] = await bob.command(f"SELECT {TEAM}")
        assert last.startswith("OK [READ-WRITE]")
        await bob.ok("FETCH 1 BODY[]")
        await bob.ok(r"STORE 2 +FLAGS (\Seen \Deleted work)")
        [*_, last] = await bob.command(r"STORE 3 +FLAGS (\Flagged)")
        assert last.startswith("NO [NOPERM]")
        await refused(bob, "EXPUNGE", "NO [NOPERM]")
        found = await alice.ok("NOOP")
        assert [line for line in found if line.startswith("* 1 FETCH (") and r"FLAGS (\Seen" in line]
        assert [name.strip() for name in await flags(alice)] == [r"\Seen", r"\Seen", ""]

    play("lrs", scenario)


def test_what_is_expunged_by_one_is_gone_for_the_other(play: Callable[[str, Scenario], None]) -> None:
    async def scenario(house: ImapHouse, alice: ImapClient, bob: ImapClient) -> None:
        await alice.ok("SELECT team")
        await bob.ok(f"SELECT {TEAM}")
        await bob.ok(r"STORE 2 +FLAGS (\Deleted)")
        await bob.ok("EXPUNGE")
        assert "* 2 EXPUNGE" in await alice.ok("NOOP")
        await alice.ok(r"STORE 1 +FLAGS (\Deleted)")
        await alice.ok("EXPUNGE")
        assert "* 1 EXPUNGE" in await bob.ok("NOOP")

    play("lrte", scenario)


@pytest.mark.rfc("4314", "4")
def test_copies_keep_the_flags_one_may_set(play: Callable[[str, Scenario], None]) -> None:
    async def scenario(house: ImapHouse, alice: ImapClient, bob: ImapClient) -> None:
        await house.deliver("bob", MESSAGE, flags=("\\Seen", "\\Flagged", "\\Deleted", "work"))
        await bob.ok("SELECT INBOX")
        [*_, last] = await bob.command(f"COPY 1 {TEAM}")
        assert "[COPYUID " in last
        await alice.ok("SELECT team")
        assert (await flags(alice))[3].strip() == r"\Seen"
        # And back, into an account of one's own: everything is kept.
        await alice.ok(r"STORE 4 +FLAGS (\Answered todo)")
        await bob.ok(f"SELECT {TEAM}")
        await bob.ok("COPY 4 Sent")
        await bob.ok("SELECT Sent")
        assert set((await flags(bob))[0].split()) == {"\\Seen", "\\Answered", "todo"}
        quota = await house.store.account("bob@example.com")
        assert quota is not None
        assert quota.used_messages == 2

    play("lrsi", scenario)


def test_a_move_to_another_account(play: Callable[[str, Scenario], None]) -> None:
    async def scenario(house: ImapHouse, alice: ImapClient, bob: ImapClient) -> None:
        await bob.ok(f"SELECT {TEAM}")
        [*lines, last] = await bob.command("MOVE 1:2 INBOX")
        assert last.startswith("OK"), last
        assert any("[COPYUID " in line for line in lines)
        assert sum("EXPUNGE" in line for line in lines) == 2
        assert await bob.ok("STATUS INBOX (MESSAGES)") == ["* STATUS INBOX (MESSAGES 2)"]
        assert await alice.ok("STATUS team (MESSAGES)") == ["* STATUS team (MESSAGES 1)"]
        await house.store.set_quota("bob@example.com", quota_bytes=0, quota_messages=2)
        [*_, last] = await bob.command("MOVE 1 INBOX")
        assert last.startswith("NO [OVERQUOTA]")
        assert await alice.ok("STATUS team (MESSAGES)") == ["* STATUS team (MESSAGES 1)"]

    play("lrte", scenario)


@pytest.mark.rfc("4314", "4")
def test_rights_on_what_is_appended(play: Callable[[str, Scenario], None]) -> None:
    async def scenario(house: ImapHouse, alice: ImapClient, bob: ImapClient) -> None:
        assert (await bob.append(TEAM, MESSAGE, r"(\Seen \Flagged \Deleted work) ")).startswith("OK")
        await alice.ok("SELECT team")
        assert set((await flags(alice))[3].split()) == {"\\Flagged", "work"}
        owner = await house.store.account("alice@example.com")
        await house.store.set_quota("alice@example.com", quota_bytes=0, quota_messages=owner.used_messages)
        assert (await bob.append(TEAM, MESSAGE)).startswith("NO [OVERQUOTA]")

    play("lwi", scenario)


def test_any_account_can_share(tmp_path: Path) -> None:
    """Its name is one level, whatever is in it."""
    name = "sales/%*=2f@example.com"

    async def scenario() -> None:
        async with alices(store_of("lmdb", tmp_path)) as (house, alice):
            owner = await house.store.create_account(name, mailboxes=("team", "team/a"))
            plain = await house.store.create_account("sales@example.com", mailboxes=("team",))
            for account in (owner, plain):
                for mailbox in await house.store.mailboxes(account.id):
                    if mailbox.name != "INBOX":
                        await house.store.set_rights(mailbox.id, "alice@example.com", "lrk")
            level = "Other Users/sales=2F=25=2A=3D2f@example.com"
            assert [line.rpartition(") ")[2] for line in await alice.ok('LIST "" "Other Users/*/team"')] == [
                f'"/" "{level}/team"',
                '"/" "Other Users/sales@example.com/team"',
            ]
            assert len(await alice.ok('LIST "" "Other Users/%"')) == 2
            [line] = await alice.ok(f'STATUS "{level}/team/a" (MESSAGES)')
            assert line == f'* STATUS "{level}/team/a" (MESSAGES 0)'
            await alice.ok(f'SELECT "{level}/team"')
            await alice.ok(f'CREATE "{level}/team/b"')
            assert await house.store.mailbox(owner.id, "team/b") is not None
            for wrong in ("sales=2F=25=2A=2f@example.com", "sales=2f=25=2A=3D2f@example.com", "sales=40example.com", "=", ""):
                await refused(alice, f'STATUS "Other Users/{wrong}/team" (MESSAGES)', "NO [NONEXISTENT]" if wrong else "NO")

    run(scenario())
