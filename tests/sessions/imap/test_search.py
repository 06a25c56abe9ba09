"""SEARCH, SORT, THREAD and what comes with them, against a real service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rusmes.errors import StoreError
from rusmes.imap.commands import results
from rusmes.model.ids import id_text
from rusmes.search import plan, slices
from tests.sessions.imap.house import ImapClient, ImapHouse, run, store_of

Scenario = Callable[[ImapHouse, ImapClient], Awaitable[None]]
ALICE, BOB = "alice@example.com", "bob@example.com"


def mail(subject: str, sender: str = "bob@example.org", *, day: int = 1, body: str = "text", more: str = "") -> bytes:
    date = f"{day} Mar 2026 10:00:00 +0000"
    head = f"From: {sender}\r\nTo: alice@example.com\r\nSubject: {subject}\r\nDate: {date}\r\n"
    return f"{head}{more}\r\n{body}\r\n".encode()


UTF8 = "Content-Type: text/plain; charset=utf-8\r\n"
MAILS = (
    mail("Lunch", "carol@example.org", day=3, body="pizza or pasta?"),
    mail("Re: Lunch", "dave@example.org", day=2, body="pasta", more="X-Spam: no\r\n"),
    mail("=?utf-8?q?Caf=C3=A9?=", "Zoe <zoe@example.org>", day=5, body="na\u00efve", more=UTF8),
    mail("Invoice", "Anna <mallory@example.org>", day=4, body="cGl6emE=", more="Content-Transfer-Encoding: base64\r\n"),
)


@asynccontextmanager
async def selected(store: Any) -> AsyncIterator[tuple[ImapHouse, ImapClient]]:
    async with ImapHouse(store=store) as house:
        for name in (ALICE, BOB):
            await house.store.create_account(name, mailboxes=("Archive",))
        await house.deliver("alice", *MAILS)
        client = await house.login()
        await client.ok("SELECT INBOX")
        yield house, client


@pytest.fixture(params=["memory", "lmdb"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    def play(scenario: Scenario) -> None:
        async def whole() -> None:
            async with selected(store_of(request.param, tmp_path)) as (house, client):
                await scenario(house, client)

        run(whole())

    return play


@pytest.mark.rfc("9051", "6.4.4")
def test_keys(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("STORE 2 +FLAGS (\\Flagged Work)")
        for keys, found in {
            "ALL": "1 2 3 4", "FLAGGED": "2", "UNFLAGGED": "1 3 4", "KEYWORD work": "2", "UNKEYWORD work": "1 3 4",
            "2:3": "2 3",
            "*": "4",
            "SUBJECT lunch": "1 2", "SUBJECT cafe": "3", "FROM anna": "4", "TO ALICE": "1 2 3 4", "CC x": "",
            "BODY pizza": "1 4", "BODY PASTA": "1 2", "TEXT carol": "1", "TEXT PASTA": "1 2", "HEADER X-Spam \"\"": "2",
            "HEADER x-spam no": "2", "HEADER X-Spam yes": "", "SENTON 4-Mar-2026": "4", "SENTBEFORE 4-Mar-2026": "1 2",
            "SENTSINCE 4-Mar-2026": "3 4", "LARGER 10": "1 2 3 4", "SMALLER 10": "", "NOT BODY pizza": "2 3",
            "OR BODY pizza SUBJECT lunch": "1 2 4", "BODY pizza SUBJECT lunch": "1", "NOT (BODY pizza SUBJECT lunch)": "2 3 4",
            "UID 3:*": "3 4", "UID 99:*": "4", "YOUNGER 1000000000": "1 2 3 4", "SAVEDATESUPPORTED": "1 2 3 4",
            "SEEN UNSEEN": "", "DELETED": "", "RECENT": "1 2 3 4",
        }.items():  # fmt: skip
            lines = await client.ok(f"SEARCH {keys}")
            assert lines == [f"* SEARCH {found}".rstrip()], keys
        assert await client.ok("SEARCH CHARSET UTF-8 SUBJECT {5+}\r\nCAF\u00c9") == ["* SEARCH 3"]

    play(scenario)


@pytest.mark.rfc("4731", "3.1")
def test_return_options(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        async def answer(command: str) -> list[str]:
            lines = await client.ok(command)
            return [line.replace(f"t{client._number}", "T") for line in lines]

        assert await answer("SEARCH RETURN () BODY pizza") == ['* ESEARCH (TAG "T") ALL 1,4']
        assert await answer("UID SEARCH RETURN (MIN MAX COUNT) ALL") == ['* ESEARCH (TAG "T") UID MIN 1 MAX 4 COUNT 4']
        assert await answer("SEARCH RETURN (MIN MAX COUNT ALL) BODY nowhere") == ['* ESEARCH (TAG "T") COUNT 0']
        assert await answer("SEARCH RETURN (PARTIAL 2:3) ALL") == ['* ESEARCH (TAG "T") PARTIAL (2:3 2:3)']
        assert await answer("SEARCH RETURN (PARTIAL -1:-3) ALL") == ['* ESEARCH (TAG "T") PARTIAL (-1:-3 2:4)']
        assert await answer("SEARCH RETURN (PARTIAL 5:9) ALL") == ['* ESEARCH (TAG "T") PARTIAL (5:9 NIL)']
        assert await answer("SEARCH RETURN (PARTIAL -5:-9) ALL") == ['* ESEARCH (TAG "T") PARTIAL (-5:-9 NIL)']
        await client.ok("ENABLE IMAP4REV2")
        assert await answer("SEARCH BODY pizza") == ['* ESEARCH (TAG "T") ALL 1,4']
        assert await answer("UID SEARCH BODY nowhere") == ['* ESEARCH (TAG "T") UID']

    play(scenario)


@pytest.mark.rfc("9051", "6.4.4.1")
def test_saved_results(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        assert await client.ok("SEARCH RETURN (SAVE) BODY pizza") == []
        assert await client.ok("SEARCH $") == ["* SEARCH 1 4"]
        assert await client.ok("UID SEARCH NOT UID $") == ["* SEARCH 2 3"]
        assert await client.ok("SEARCH $ SUBJECT lunch") == ["* SEARCH 1"]
        await client.ok("SEARCH RETURN (SAVE MIN) $")
        assert await client.ok("SEARCH $") == ["* SEARCH 1"]
        await client.ok("SEARCH RETURN (SAVE PARTIAL 2:3 MAX) ALL")
        assert await client.ok("SEARCH $") == ["* SEARCH 2 3 4"]
        await client.ok("SEARCH RETURN (SAVE COUNT MIN) ALL")
        assert await client.ok("SEARCH $") == ["* SEARCH 1 2 3 4"]
        await client.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
        await client.ok("EXPUNGE")
        assert await client.ok("SEARCH $") == ["* SEARCH 1 2 3"]
        keys = " ".join(f"BODY x{n}" for n in range(70))
        [refused] = await client.command(f"SEARCH RETURN (SAVE) {keys}")
        assert refused.startswith("NO [LIMIT] ")
        assert await client.ok("SEARCH $") == ["* SEARCH"]

    play(scenario)


def test_too_much_is_refused_and_names_the_limit(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        for command in (
            "SEARCH " + " ".join(f"BODY x{n}" for n in range(65)),
            "SEARCH " + " ".join(["SEEN"] * 600),
            f"SEARCH BODY {{{plan.MAX_TEXT_BYTES + 1}+}}\r\n" + "x" * (plan.MAX_TEXT_BYTES + 1),
            "SORT (DATE) UTF-8 " + " ".join(f"BODY x{n}" for n in range(65)),
            "THREAD REFERENCES UTF-8 " + " ".join(f"BODY x{n}" for n in range(65)),
        ):
            *_, refused = await client.command(command)
            assert refused.startswith(("NO [LIMIT] ", "OK")), refused
            if "BODY" in command:
                assert refused.startswith("NO [LIMIT] "), refused
        assert await client.ok("SEARCH " + " ".join(f"BODY x{n}" for n in range(64))) == ["* SEARCH"]

    play(scenario)


@pytest.mark.rfc("7162", "3.1.5")
def test_modseq(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        [line] = await client.ok("SEARCH MODSEQ 1")
        highest = int(line.partition("(MODSEQ ")[2].rstrip(")"))
        assert line == f"* SEARCH 1 2 3 4 (MODSEQ {highest})"
        lines = await client.ok("STORE 2 +FLAGS (\\Seen)")
        assert any("MODSEQ" in line for line in lines)  # CONDSTORE is on now
        [line] = await client.ok(f"SEARCH MODSEQ {highest + 1}")
        changed = int(line.partition("(MODSEQ ")[2].rstrip(")"))
        assert line == f"* SEARCH 2 (MODSEQ {changed})"
        assert changed > highest
        assert await client.ok(f"SEARCH MODSEQ {changed + 1}") == ["* SEARCH"]
        [line] = await client.ok("SEARCH RETURN (MIN) MODSEQ 1")
        assert line.endswith("MIN 1 MODSEQ " + line.rpartition(" ")[2])
        assert int(line.rpartition(" ")[2]) < changed
        [line] = await client.ok("SEARCH RETURN (MIN COUNT) MODSEQ 1")
        assert line.endswith(f"MIN 1 COUNT 4 MODSEQ {changed}")
        [line] = await client.ok("SORT (DATE) UTF-8 MODSEQ 1")
        assert line == f"* SORT 2 1 4 3 (MODSEQ {changed})"

    play(scenario)


@pytest.mark.rfc("8474", "5.3")
def test_object_ids(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        account = await house.store.account(ALICE)
        inbox = await house.store.mailbox(account.id, "INBOX")
        second = (await house.store.messages(inbox.id))[1]
        [email] = await house.store.emails(account.id, [second.email_id])
        assert await client.ok(f"SEARCH EMAILID {id_text(second.email_id)}") == ["* SEARCH 2"]
        assert await client.ok(f"SEARCH THREADID {id_text(email.thread_id)}") == ["* SEARCH 2"]
        assert await client.ok("SEARCH EMAILID nobody") == ["* SEARCH"]

    play(scenario)


@pytest.mark.rfc("8514", "4.3")
def test_save_dates(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        assert await client.ok("SEARCH SAVEDSINCE 1-Jan-1990") == ["* SEARCH 1 2 3 4"]
        assert await client.ok("SEARCH SAVEDBEFORE 1-Jan-1990") == ["* SEARCH"]

    play(scenario)


@pytest.mark.rfc("5256", "3")
def test_sort(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        for criteria, order in {
            "DATE": "2 1 4 3", "REVERSE DATE": "3 4 1 2", "SUBJECT": "3 4 1 2", "SUBJECT REVERSE DATE": "3 4 1 2",
            "SUBJECT DATE": "3 4 2 1", "FROM": "1 2 4 3", "DISPLAYFROM": "4 1 2 3",
            "ARRIVAL": "1 2 3 4", "REVERSE ARRIVAL": "1 2 3 4",
            "CC": "1 2 3 4", "TO REVERSE DATE": "3 4 1 2",
        }.items():  # fmt: skip
            lines = await client.ok(f"SORT ({criteria}) UTF-8 ALL")
            if "ARRIVAL" not in criteria:
                assert lines == [f"* SORT {order}"], criteria
        assert await client.ok("UID SORT (DATE) US-ASCII BODY pizza") == ["* SORT 1 4"]
        assert await client.ok("SORT (DATE) US-ASCII BODY nowhere") == ["* SORT"]
        [line] = await client.ok("UID SORT RETURN (ALL COUNT MIN MAX) (REVERSE DATE) UTF-8 ALL")
        assert line.endswith("UID MIN 3 MAX 2 ALL 3:4,1:2 COUNT 4")
        [line] = await client.ok("SORT RETURN (PARTIAL 1:2) (REVERSE DATE) UTF-8 ALL")
        assert line.endswith("PARTIAL (1:2 3:4)")
        assert (await client.command("SORT (RELEVANCY) UTF-8 ALL"))[-1].startswith("BAD")

    play(scenario)


@pytest.mark.rfc("5256", "4")
def test_thread(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        assert await client.ok("THREAD ORDEREDSUBJECT UTF-8 ALL") == ["* THREAD (2 1)(4)(3)"]
        assert await client.ok("THREAD REFERENCES UTF-8 ALL") == ["* THREAD (1 2)(4)(3)"]
        assert await client.ok("UID THREAD REFERENCES UTF-8 BODY nowhere") == ["* THREAD"]

    play(scenario)


@pytest.mark.rfc("5267", "4.3")
def test_a_search_that_is_followed(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.send(b"f1 UID SEARCH RETURN (UPDATE COUNT) UNSEEN SUBJECT lunch\r\n")
        assert (await client.answer("f1"))[0] == '* ESEARCH (TAG "f1") UID COUNT 2'
        lines = await client.ok("STORE 1 +FLAGS (\\Seen)")
        assert lines[-1] == '* ESEARCH (TAG "f1") UID REMOVEFROM (0 1)'
        lines = await client.ok("STORE 1 -FLAGS (\\Seen)")
        assert lines[-1] == '* ESEARCH (TAG "f1") UID ADDTO (0 1)'
        await house.deliver("alice", mail("lunch again"), mail("dinner"))
        lines = await client.ok("NOOP")
        assert "* 6 EXISTS" in lines
        assert lines[-1] == '* ESEARCH (TAG "f1") UID ADDTO (0 5)'
        await client.send(b"f1 UID SEARCH RETURN (UPDATE COUNT) ALL\r\n")
        assert (await client.answer("f1"))[-1].startswith("BAD")
        await client.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
        lines = await client.ok("EXPUNGE")
        assert lines == ['* ESEARCH (TAG "f1") UID REMOVEFROM (0 2)', "* 2 EXPUNGE"]
        assert (await client.command('CANCELUPDATE "nobody"'))[-1].startswith("NO")
        await client.ok('CANCELUPDATE "f1"')
        assert not any("ESEARCH" in line for line in await client.ok("STORE 1 +FLAGS (\\Seen)"))

    play(scenario)


def test_numbers_of_a_followed_search_go_before_they_are_others(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.send(b"f1 SEARCH RETURN (UPDATE ALL) 2:3\r\n")
        assert (await client.answer("f1"))[0] == '* ESEARCH (TAG "f1") ALL 2:3'
        await client.ok("STORE 1:2 +FLAGS.SILENT (\\Deleted)")
        lines = await client.ok("EXPUNGE")
        assert lines[0] == '* ESEARCH (TAG "f1") REMOVEFROM (0 2)'
        assert sorted(lines[1:]) == ["* 1 EXPUNGE", "* 2 EXPUNGE"]
        # What was number 3 is number 1 and still meant; what is number 2 now is not.
        lines = await client.ok("STORE 1:2 +FLAGS (\\Flagged)")
        assert not any("ESEARCH" in line for line in lines)

    play(scenario)


def test_a_sorted_search_that_is_followed_tells_places(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.send(b"f1 UID SORT RETURN (UPDATE ALL) (DATE) UTF-8 UNSEEN\r\n")
        assert (await client.answer("f1"))[0] == '* ESEARCH (TAG "f1") UID ALL 2,1,4,3'
        lines = await client.ok("STORE 1,4 +FLAGS (\\Seen)")
        assert lines[-1] == '* ESEARCH (TAG "f1") UID REMOVEFROM (2 1,4)'
        await house.deliver("alice", mail("x", day=1), mail("y", day=6))
        lines = await client.ok("NOOP")
        assert lines[-1] == '* ESEARCH (TAG "f1") UID ADDTO (1 5 4 6)'
        lines = await client.ok("STORE 1,4 -FLAGS (\\Seen)")
        assert lines[-1] == '* ESEARCH (TAG "f1") UID ADDTO (3 1,4)'

    play(scenario)


def test_followed_searches_are_told_in_idle(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.send(b"f1 UID SEARCH RETURN (UPDATE COUNT) SUBJECT lunch\r\n")
        await client.answer("f1")
        await client.send(b"i IDLE\r\n")
        assert (await client.line()).startswith("+")
        await house.deliver("alice", mail("lunch"))
        lines = []
        async with asyncio.timeout(10):
            while not any("ESEARCH" in line for line in lines):
                lines.append(await client.line())
        assert "* 5 EXISTS" in lines
        assert lines[-1] == '* ESEARCH (TAG "f1") UID ADDTO (0 5)'
        await client.send(b"DONE\r\n")
        assert (await client.answer("i"))[-1].startswith("OK")

    play(scenario)


def test_there_is_a_limit_to_followed_searches(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        for number in range(17):
            await client.send(f"f{number} SEARCH RETURN (UPDATE COUNT) ALL\r\n".encode())
            *lines, last = await client.answer(f"f{number}")
            assert last.startswith("OK")
            assert lines[0] == f'* ESEARCH (TAG "f{number}") COUNT 4'
            assert (lines[-1] == '* NO [NOUPDATE "f16"] too many searches are followed') == (number == 16)

    play(scenario)


@pytest.mark.rfc("7377", "2.1")
def test_several_mailboxes_at_once(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await house.deliver("alice", mail("lunch plans"), mailbox="Archive")
        await house.deliver("alice", mail("lunch, once more"), mailbox="Archive/2025")
        await house.deliver("bob", mail("lunch of bob"))

        async def answer(command: str) -> list[str]:
            lines = await client.ok(command)
            return [line.replace(f'"t{client._number}"', '"T"') for line in lines]

        def shown(found: dict[str, str]) -> list[str]:
            return [
                f'* ESEARCH (TAG "T" MAILBOX {name} UIDVALIDITY {validity[name]}) UID {what}' for name, what in found.items()
            ]

        account = await house.store.account(ALICE)
        validity = {mailbox.name: mailbox.uid_validity for mailbox in await house.store.mailboxes(account.id)}
        assert await answer("ESEARCH SUBJECT lunch") == shown({"INBOX": "ALL 1:2"})
        assert await answer("ESEARCH IN (personal) SUBJECT lunch") == shown(
            {"INBOX": "ALL 1:2", "Archive": "ALL 1", "Archive/2025": "ALL 1"}
        )
        assert await answer('ESEARCH IN (mailboxes ("Archive" "Nowhere" "Archive")) RETURN (COUNT MIN) ALL') == shown(
            {"Archive": "MIN 1 COUNT 1"}
        )
        assert await answer("ESEARCH IN (subtree Archive) RETURN (COUNT) ALL") == shown(
            {"Archive": "COUNT 1", "Archive/2025": "COUNT 1"}
        )
        assert await answer("ESEARCH IN (subtree-one Archive selected inboxes) FROM carol") == shown({"INBOX": "ALL 1"})
        assert await answer("ESEARCH IN (personal) SUBJECT nowhere") == []
        assert (await client.command("ESEARCH IN (personal) 1:2"))[-1].startswith("BAD")
        assert (await client.command("ESEARCH IN (personal) RETURN (SAVE) ALL"))[-1].startswith("BAD")
        assert (await client.command("ESEARCH IN (selected-delayed) ALL"))[-1].startswith("BAD")
        assert await answer("ESEARCH IN (selected) RETURN (SAVE) 2:3") == []
        assert await client.ok("SEARCH $") == ["* SEARCH 2 3"]
        name = f'"Other Users/{BOB}/INBOX"'
        assert await answer(f"ESEARCH IN (mailboxes {name}) SUBJECT lunch") == []
        bobs = await house.store.mailbox((await house.store.account(BOB)).id, "INBOX")
        await house.store.set_rights(bobs.id, ALICE, "l")
        assert await answer(f"ESEARCH IN (mailboxes {name}) SUBJECT lunch") == []
        await house.store.set_rights(bobs.id, ALICE, "lr")
        [line] = await answer(f"ESEARCH IN (mailboxes {name}) SUBJECT lunch")
        assert line.startswith('* ESEARCH (TAG "T" MAILBOX "Other Users/')
        assert line.endswith("UID ALL 1")
        await client.ok("UNSELECT")
        assert (await client.command("ESEARCH SUBJECT lunch"))[-1].startswith("BAD")
        assert await answer("ESEARCH IN (inboxes) SUBJECT lunch") == shown({"INBOX": "ALL 1:2"})

    play(scenario)


def test_what_the_client_does_not_know_is_not_found(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        other = await house.login()
        await other.ok("SELECT INBOX")
        await other.ok("STORE 2 +FLAGS.SILENT (\\Deleted)")
        await other.ok("EXPUNGE")
        await house.deliver("alice", mail("new"))
        lines = await client.ok("SEARCH ALL")
        assert lines[0] == "* SEARCH 1 3 4"
        assert not any("EXPUNGE" in line for line in lines)
        lines = await client.ok("UID SEARCH ALL")
        assert "* 2 EXPUNGE" in lines
        assert (await client.ok("SEARCH ALL"))[0] == "* SEARCH 1 2 3 4"

    play(scenario)


@pytest.mark.rfc("9585", "3")
def test_a_long_search_tells_how_far_it_is(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PROGRESS_SECONDS", -1.0)
    monkeypatch.setattr(slices, "SLICE_EMAILS", 1)

    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        *lines, last = await client.ok("SEARCH BODY pizza")
        assert last == "* SEARCH 1 4"
        assert lines == [f'* OK [INPROGRESS ("t{client._number}" {done} 4)] still searching' for done in (1, 2, 3)]

    play(scenario)


def test_a_followed_search_that_fails_ends_and_says_so(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.send(b"f1 SEARCH RETURN (UPDATE COUNT) UNSEEN\r\n")
        await client.answer("f1")
        with mock.patch.object(house.searcher, "search", side_effect=StoreError("storage failure", "disk")):
            lines = await client.ok("STORE 1 +FLAGS (\\Seen)")
            assert lines[-1] == '* NO [NOUPDATE "f1"] storage failure'
            *_, refused = await client.command("SEARCH BODY pizza")
            assert refused.startswith("NO [UNAVAILABLE]")
        assert not any("f1" in line for line in await client.ok("STORE 1 -FLAGS (\\Seen)"))

    play(scenario)


def test_uid_only_clients_search_by_uids(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("ENABLE UIDONLY")
        for command in ("SEARCH ALL", "UID SEARCH 1:2", "SORT (DATE) UTF-8 ALL", "UID THREAD REFERENCES UTF-8 2"):
            assert (await client.command(command))[-1].startswith("BAD [UIDREQUIRED]"), command
        assert await client.ok("UID SEARCH BODY pizza") == ["* SEARCH 1 4"]
        assert await client.ok("UID SORT (DATE) UTF-8 UID 1:3") == ["* SORT 2 1 3"]

    play(scenario)


def test_an_empty_mailbox(play: Callable[[Scenario], None]) -> None:
    async def scenario(house: ImapHouse, client: ImapClient) -> None:
        await client.ok("SELECT Archive")
        for keys in ("ALL", "1", "*", "UID 1:*", "BODY x", "NOT BODY x", "NOT SENTON 1-Jan-2026"):
            assert await client.ok(f"SEARCH {keys}") == ["* SEARCH"], keys
        assert await client.ok("SORT (SUBJECT) UTF-8 ALL") == ["* SORT"]
        assert await client.ok("THREAD REFERENCES UTF-8 ALL") == ["* THREAD"]
        assert await client.ok("ESEARCH IN (selected) RETURN (COUNT) ALL") == []

    play(scenario)
