"""What a transcript cannot say: deadlines, rates, accounts with something switched off, what is in the log and in memory."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from pathlib import Path
from typing import Any

import pytest

from rusmes.imap.hub import COALESCE_SECONDS
from rusmes.model.identity import Identity
from tests.sessions.imap.house import PASSWORD, ImapHouse, run, store_of

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def test_silence_before_login_ends_it() -> None:
    async def scenario() -> None:
        async with ImapHouse(login_timeout="50ms") as house:
            client = await house.connect()
            assert (await client.line()).startswith("* OK")
            assert await client.line() == "* BYE logged out for inactivity"
            assert await client.is_closed()

    run(scenario())


@pytest.mark.parametrize("waits_in_idle", [False, True])
def test_silence_after_login_ends_it(waits_in_idle: bool) -> None:
    """RFC 9051 §5.4."""

    async def scenario() -> None:
        async with ImapHouse(idle_timeout="100ms") as house:
            client = await house.login()
            if waits_in_idle:
                await client.send(b"a IDLE\r\n")
                assert await client.line() == "+ idling"
            assert await client.line() == "* BYE logged out for inactivity"
            assert await client.is_closed()

    run(scenario())


def test_who_idles_hears_something_now_and_then() -> None:
    async def scenario() -> None:
        async with ImapHouse(idle_keepalive="50ms") as house:
            client = await house.login()
            await client.send(b"a IDLE\r\n")
            assert await client.line() == "+ idling"
            assert await client.line() == "* OK still here"
            assert await client.line() == "* OK still here"
            await client.send(b"DONE\r\n")
            while (line := await client.line()).startswith("* OK"):
                pass
            assert line == "a OK idled"

    run(scenario())


@pytest.mark.parametrize(("said", "reply"), [("NOOP", "OK done"), ("SELECT a&b", "NO [CANNOT] not modified UTF-7")])
def test_too_many_commands_are_slowed_down(said: str, reply: str) -> None:
    async def scenario() -> None:
        async with ImapHouse(commands_per_minute=600) as house:
            client = await house.login()
            client.send_now("".join(f"n{number} {said}\r\n" for number in range(620)).encode())
            begin = asyncio.get_running_loop().time()
            while await client.line() != f"n619 {reply}":
                pass
            # 600 at once, the others at 10 a second.
            assert asyncio.get_running_loop().time() - begin > 1.0

    run(scenario())


def test_draining_says_goodbye_between_commands() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            calm, idle = await house.login(), await house.login()
            await idle.send(b"a IDLE\r\n")
            assert await idle.line() == "+ idling"
            for connection in house.connections:
                connection.drain()
            for client in (calm, idle):
                assert await client.line() == "* BYE [UNAVAILABLE] the server is shutting down"
                assert await client.is_closed()

    run(scenario())


def test_draining_waits_for_a_command_that_has_begun() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            await client.send(b"a APPEND INBOX {%d}\r\n" % len(MESSAGE))
            assert (await client.line()).startswith("+")
            await client.send(MESSAGE[:5])
            await asyncio.sleep(0.05)
            [connection] = house.connections
            connection.drain()
            await asyncio.sleep(0.05)
            await client.send(MESSAGE[5:] + b"\r\n")
            assert (await client.line()).startswith("a OK [APPENDUID")
            assert await client.line() == "* BYE [UNAVAILABLE] the server is shutting down"

    run(scenario())


def test_thousands_of_changes_reach_an_idler() -> None:
    """More than are told at once (`view.TOLD_AT_ONCE`)."""

    async def scenario() -> None:
        async with ImapHouse() as house:
            client, other = await house.login(), await house.login()
            count = 4500
            await other.ok("SELECT INBOX")
            appends = b" ".join(b"{%d+}\r\n%b" % (len(MESSAGE), MESSAGE) for _ in range(150))
            for _ in range(count // 150):
                await other.ok(b"APPEND INBOX " + appends)
            await client.ok("SELECT INBOX")
            await client.send(b"a IDLE\r\n")
            assert await client.line() == "+ idling"
            await other.ok("STORE 1:* +FLAGS.SILENT (\\Flagged)")
            seen = set()
            while len(seen) < count:
                line = await client.line()
                seen.add(int(line.split()[1]))
                assert "\\Flagged" in line

    run(scenario())


def test_what_is_switched_off_for_an_account() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            name = "alice@example.com"
            house.backend.identities[name] = Identity(
                name, frozenset({name}), disabled_capabilities=frozenset({"IDLE", "imap.COMPRESS=DEFLATE"})
            )
            client = await house.login()
            [listed] = await client.ok("CAPABILITY")
            assert " NAMESPACE " in listed
            assert not {"IDLE", "COMPRESS=DEFLATE"} & set(listed.split())
            assert (await client.command("IDLE"))[-1] == "NO [CANNOT] this is switched off for this account"
            assert (await client.command("COMPRESS DEFLATE"))[-1].startswith("NO [CANNOT]")
            name = "bob@example.com"
            house.backend.identities[name] = Identity(name, disabled_capabilities=frozenset({"imap"}))
            other = await house.connect()
            await other.line()
            assert (await other.command(f"LOGIN {name} {PASSWORD}"))[-1].startswith("NO [AUTHORIZATIONFAILED]")

    run(scenario())


def test_a_client_that_says_who_it_is_is_logged() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            await client.ok('ID ("name" "Some Client" "version" "1.2")')
            assert any('"name":"Some Client"' in line and '"version":"1.2"' in line for line in house.lines)

    run(scenario())


def test_the_selected_mailbox_is_deleted() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            idle, busy, other = await house.login(), await house.login(), await house.login()
            await other.ok("CREATE gone")
            for client in (idle, busy):
                await client.ok("SELECT gone")
            await idle.send(b"a IDLE\r\n")
            assert await idle.line() == "+ idling"
            await other.ok("DELETE gone")
            assert await idle.line() == "* BYE the selected mailbox was deleted"
            assert await idle.is_closed()
            await busy.send(b"a NOOP\r\n")
            lines = [await busy.line(), await busy.line()]
            assert "* BYE the selected mailbox was deleted" in lines
            assert await busy.is_closed()

    run(scenario())


def test_many_changes_are_told_in_few_turns() -> None:
    """Not every one of a burst is told on its own."""

    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            await client.ok("SELECT INBOX")
            await client.send(b"a IDLE\r\n")
            assert await client.line() == "+ idling"
            begin = asyncio.get_running_loop().time()
            for _ in range(200):
                await house.deliver("alice", MESSAGE)
            took = asyncio.get_running_loop().time() - begin
            told = []
            while not told or told[-1] != "* 200 EXISTS":
                told.append(await client.line())
            assert len([line for line in told if line.endswith("EXISTS")]) <= 2 + took / COALESCE_SECONDS

    run(scenario())


def test_an_idler_that_does_not_read_costs_no_memory() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            await client.ok("SELECT INBOX")
            await client.send(b"a IDLE\r\n")
            assert await client.line() == "+ idling"
            [connection] = house.connections
            connection.pause_writing()  # as the transport does when the peer's window is full
            before = connection.bytes_out
            for _ in range(50):
                await house.deliver("alice", MESSAGE)
            await asyncio.sleep(3 * COALESCE_SECONDS)
            assert connection.bytes_out == before
            connection.resume_writing()
            house.hub.all_changed()  # as once in a while
            await house.deliver("alice", MESSAGE)
            while await client.line() != "* 51 EXISTS":
                pass

    run(scenario())


def test_rows_are_shared_and_kept_for_a_while() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            await house.deliver("alice", MESSAGE)
            first, second = await house.login(), await house.login()
            for client in (first, second):
                await client.ok("SELECT INBOX")
            assert len(house.hub._rows) == 1
            [rows] = house.hub._rows.values()
            assert rows.users == 2
            for client in (first, second):
                await client.ok("UNSELECT")
            assert rows.users == 0
            await house.deliver("alice", MESSAGE)
            assert "* 2 EXISTS" in await first.ok("SELECT INBOX")
            assert next(iter(house.hub._rows.values())) is rows

    run(scenario())


def test_rows_whose_changes_are_forgotten_are_compared() -> None:
    """The change log does not reach back: the client is told the same as if it did."""

    async def scenario() -> None:
        async with ImapHouse() as house:
            await house.deliver("alice", MESSAGE, MESSAGE, MESSAGE)
            client, other = await house.login(), await house.login()
            await client.ok("SELECT INBOX")
            await other.ok("SELECT INBOX")
            real = house.store.refresh_messages

            async def forgets(*arguments: Any) -> None:
                return None

            await other.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
            await other.ok("STORE 3 +FLAGS.SILENT (\\Flagged word)")
            await other.ok("EXPUNGE")
            await house.deliver("alice", MESSAGE)
            [rows] = house.hub._rows.values()
            rows.modseq -= 1
            house.store.refresh_messages = forgets
            told = await client.ok("NOOP")
            house.store.refresh_messages = real
            assert "* 1 EXPUNGE" in told
            assert "* 3 EXISTS" in told
            assert any("FETCH" in line and "\\Flagged" in line and "word" in line for line in told)

    run(scenario())


def test_a_compressed_bomb_ends_the_session_and_not_the_server() -> None:
    import zlib

    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            await client.ok("COMPRESS DEFLATE")
            deflate = zlib.compressobj(9, wbits=-15)
            bomb = b"".join(deflate.compress(b"x" * (1 << 20)) for _ in range(200)) + deflate.flush()
            client.send_now(bomb)  # 200 MB of one line
            inflate, heard = zlib.decompressobj(wbits=-15), b""
            with contextlib.suppress(ConnectionResetError):
                while data := await client.reader.read(4096):
                    heard += inflate.decompress(data)
            other = await house.login()
            await other.ok("NOOP")

    run(scenario())


def test_what_is_not_deflated_ends_the_session() -> None:
    import zlib

    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            await client.ok("COMPRESS DEFLATE")
            client.send_now(b"\xff\xff\xff\xff")
            inflate, heard = zlib.decompressobj(wbits=-15), b""
            while data := await client.reader.read(4096):
                heard += inflate.decompress(data)
            assert heard == b"* BYE this is not deflated\r\n"

    run(scenario())


def test_commands_that_inflate_from_little_hold_up_no_one() -> None:
    """Their answers compress well too, so nothing on the way to the client ever fills."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = bomb.compress(b"a NOOP\r\n" * 2_000_000) + bomb.flush(zlib.Z_SYNC_FLUSH)

    async def scenario() -> None:
        async with ImapHouse() as house:
            greedy, other = await house.login(), await house.login()
            await greedy.ok("COMPRESS DEFLATE")
            await greedy.send(data)
            for _ in range(20):
                await other.ok("NOOP")
            greedy.writer.transport.abort()
            await asyncio.wait_for(other.ok("NOOP"), 5)

    run(scenario())


def test_a_search_among_many_names_is_done_in_turns() -> None:
    """100 patterns of stars over 300 names take a second or so; others are served meanwhile."""
    patterns = " ".join(f"*a{number}*b*c*d*e*f*g*h*" for number in range(100))

    async def scenario() -> None:
        async with ImapHouse() as house:
            greedy, other = await house.login(), await house.login()
            for number in range(300):
                await house.store.create_mailbox(1, f"{number}abcdefghijklmnopqrstuvwxyz")
            await greedy.send(f'a LIST "" ({patterns})\r\n'.encode())
            await other.ok("NOOP")
            answer = asyncio.create_task(greedy.line())
            await other.ok("NOOP")
            assert not answer.done()
            assert (await answer).startswith("a OK")
            assert (await greedy.command(f'LIST "" ({patterns} x)'))[-1].startswith("NO [LIMIT]")

    run(scenario())


@pytest.mark.rfc("5465", "5.8")
@pytest.mark.parametrize("in_idle", [False, True])
def test_too_many_notifications_end_them(monkeypatch: pytest.MonkeyPatch, in_idle: bool) -> None:
    from rusmes.imap.commands import notify

    monkeypatch.setattr(notify, "OVERFLOW_LINES", 3)

    async def scenario() -> None:
        async with ImapHouse() as house:
            client, other = await house.login(), await house.login()
            await client.ok("SELECT INBOX")
            await client.ok("NOTIFY SET (PERSONAL (MailboxName))")
            if in_idle:
                await client.send(b"i IDLE\r\n")
                assert (await client.line()).startswith("+ ")
            await other.ok("CREATE a/b/c/d/e")
            assert (await client.line()).startswith("* OK [NOTIFICATIONOVERFLOW]")
            await house.deliver("alice", b"Subject: x\r\n\r\nhello\r\n")
            if in_idle:
                assert await client.line() == "* 1 EXISTS"
                await client.send(b"DONE\r\n")
                while not (await client.line()).startswith("i OK"):
                    pass
            else:
                assert "* 1 EXISTS" in await client.ok("NOOP")
            await other.ok("RENAME a b")
            assert await client.ok("NOOP") == []

    run(scenario())


@pytest.mark.parametrize("backend", ["memory", "lmdb"])
def test_a_mailbox_that_goes_while_a_message_comes_is_not_made_again(backend: str, tmp_path: Path) -> None:
    """RFC 9051 §6.3.12: APPEND makes no mailbox; what the literal's offer found is looked at again when anything changed."""

    async def scenario() -> None:
        async with ImapHouse(store=store_of(backend, tmp_path / "store")) as house:
            client, other = await house.login(), await house.login()
            await other.ok("CREATE there")
            await client.send(b"a APPEND there {%d}\r\n" % len(MESSAGE))
            assert (await client.line()).startswith("+")
            await other.ok("DELETE there")
            await client.send(MESSAGE + b"\r\n")
            assert (await client.line()).startswith("a NO [TRYCREATE]")
            assert (await other.command("STATUS there (MESSAGES)"))[-1].startswith("NO [NONEXISTENT]")
            await client.send(b"b APPEND INBOX {%d}\r\n" % len(MESSAGE))
            assert (await client.line()).startswith("+")
            await client.send(MESSAGE + b"\r\n")
            assert (await client.line()).startswith("b OK [APPENDUID")

    run(scenario())


@pytest.mark.rfc("8437", "3")
@pytest.mark.parametrize("end", [zlib.Z_SYNC_FLUSH, zlib.Z_FINISH])
def test_unauthenticate_ends_compression(end: int) -> None:
    """After its reply both sides speak plainly again, and may compress anew."""

    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            for _ in range(2):
                await client.ok("NOTIFY SET (PERSONAL (MessageNew MessageExpunge))")
                await client.ok("COMPRESS DEFLATE")
                deflate, inflate = zlib.compressobj(wbits=-15), zlib.decompressobj(wbits=-15)
                data = deflate.compress(b"a NOOP\r\n") + deflate.flush(zlib.Z_SYNC_FLUSH)
                data += deflate.compress(b"b UNAUTHENTICATE\r\n") + deflate.flush(end)
                if end == zlib.Z_FINISH:
                    data += b"c CAPABILITY\r\n"
                client.send_now(data)
                said = b""
                while not inflate.eof:
                    said += inflate.decompress(await client.reader.read(1))
                assert said.startswith(b"a OK")
                assert b"\r\nb OK" in said
                assert said.endswith(b"\r\n")
                if end == zlib.Z_SYNC_FLUSH:
                    client.send_now(b"c CAPABILITY\r\n")
                assert "COMPRESS=DEFLATE" not in await client.line()  # not before login
                assert (await client.line()).startswith("c OK")
                assert not house.service.resources.hub._followed
                await client.ok(f"LOGIN alice@example.com {PASSWORD}")
                [line] = await client.ok("CAPABILITY")
                assert "COMPRESS=DEFLATE" in line

    run(scenario())


@pytest.mark.rfc("8437", "3")
def test_nothing_follows_unauthenticate_inside_the_compression() -> None:
    async def scenario() -> None:
        async with ImapHouse() as house:
            client = await house.login()
            await client.ok("COMPRESS DEFLATE")
            deflate, inflate = zlib.compressobj(wbits=-15), zlib.decompressobj(wbits=-15)
            client.send_now(deflate.compress(b"b UNAUTHENTICATE\r\nc NOOP\r\n") + deflate.flush(zlib.Z_SYNC_FLUSH))
            data = await client.reader.read()
            assert inflate.decompress(data).startswith(b"b OK")
            assert inflate.unused_data.startswith(b"* BYE nothing may follow")

    run(scenario())
