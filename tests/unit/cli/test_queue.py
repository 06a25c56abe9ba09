"""`rusmes queue` and `rusmes store` on the databases of a stopped server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from rusmes.cli.stores import mail_store_of, queue_stores_of
from rusmes.config.load import load_config
from rusmes.model.address import Address
from rusmes.model.content import Content, Rendering
from rusmes.model.ids import IdSource, id_text
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Append, Queued
from rusmes.storage.api import QueueChange, RecipientState
from rusmes.storage.lmdb.queue_store import LmdbQueueStore

IDS = IdSource()
HEADER = b"Subject: hello\r\n\r\n"


def queued(sender: str, *recipients: str, action: str = "relay", age: float = 0.0, reason: str = "") -> Queued:
    body = HEADER + b"It works.\r\n"
    return Queued(
        id=IDS.next_id(),
        action=action,
        sender=_address(sender) if sender else None,
        recipients=tuple(Recipient(_address(text)) for text in recipients),
        rendering=Rendering(Content(IDS.next_id(), len(body), len(HEADER), data=body)),
        origin=Origin(account="alice@example.com", client_address="192.0.2.1"),
        created=time.time() - age,
        reason=reason,
    )


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


@pytest.fixture
def ids(installation: Path) -> list[str]:
    """Four entries in two queues: fresh, deferred for a day, held, and a notice."""
    items = [
        queued("alice@example.com", "bob@one.example", "carol@two.example"),
        queued("alice@example.com", "dave@two.example", age=90000),
        queued("eve@elsewhere.example", "mallory@three.example", action="hold", reason="held by the error processor"),
        queued("", "alice@one.example"),
    ]

    async def fill() -> None:
        data = load_config(str(installation), environ={}).storage.path
        for slot, part in ((0, items[:2]), (1, items[2:])):
            store = LmdbQueueStore(data, slot)
            await store.open()
            await store.put(part)
            if slot == 0:
                state = RecipientState(
                    items[1].recipients[0],
                    status="deferred",
                    attempts=3,
                    due=time.time() + 3600,
                    last_reply="451 4.7.1 try\x1b[31m later",
                    last_host="mx.two.example",
                )
                await store.change([QueueChange(items[1].id, {0: state})])
            await store.close()

    asyncio.run(fill())
    return [id_text(item.id) for item in items]


def states(installation: Path) -> dict[str, tuple[str, list[str]]]:
    """Action and statuses of each entry, from the disk."""

    async def read() -> dict[str, tuple[str, list[str]]]:
        async with queue_stores_of(load_config(str(installation), environ={}), read_only=True) as stores:
            return {
                id_text(entry.item.id): (entry.item.action, [state.status for state in entry.states])
                for store in stores
                for entry in store.entries()
            }

    return asyncio.run(read())


def test_the_list_shows_every_recipient(rusmes: Any, ids: list[str]) -> None:
    entries = rusmes("queue", "list", "--json").document["entries"]
    assert [entry["id"] for entry in entries] == ids
    deferred = entries[1]["recipients"][0]
    assert (deferred["status"], deferred["attempts"], deferred["last_host"]) == ("deferred", 3, "mx.two.example")
    output = rusmes("queue", "list").output
    assert "bob@one.example" in output
    assert "in 1h" in output or "in 59m" in output
    assert "held by the error processor" in output
    assert "\x1b" not in output
    assert max(len(line) for line in output.splitlines()) > 120


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sender", "ALICE@*"], [0, 1]),
        (["--sender", "<>"], [3]),
        (["--recipient", "*@two.example"], [0, 1]),
        (["--domain", "t*.example"], [0, 1, 2]),
        (["--status", "held"], [2]),
        (["--status", "deferred"], [1]),
        (["--older-than", "1d"], [1]),
        (["--account", "alice@example.com", "--domain", "three.example"], [2]),
        (["--sender", "nobody@*"], []),
    ],
)
def test_filters_narrow_it_down(rusmes: Any, ids: list[str], options: list[str], expected: list[int]) -> None:
    entries = rusmes("queue", "list", *options, "--json").document["entries"]
    assert [entry["id"] for entry in entries] == [ids[index] for index in expected]


def test_a_long_queue_is_cut(rusmes: Any, ids: list[str]) -> None:
    document = rusmes("queue", "list", "--limit", "3", "--json").document
    assert ([entry["id"] for entry in document["entries"]], document["more"]) == (ids[:3], True)
    assert "--limit 0" in rusmes("queue", "list", "--limit", "3").output
    assert rusmes("queue", "list", "--limit", "4", "--json").document["more"] is False


def test_an_entry_is_shown_with_its_header(rusmes: Any, ids: list[str]) -> None:
    output = rusmes("queue", "show", ids[1].upper()).output
    for text in (ids[1], "alice@example.com", "192.0.2.1", "dave@two.example", "451 4.7.1", "Subject: hello"):
        assert text in output
    assert "\N{REPLACEMENT CHARACTER}\n" not in output


def test_entries_are_held_released_and_deleted(rusmes: Any, installation: Path, ids: list[str]) -> None:
    assert rusmes("queue", "hold", "--domain", "two.example", "--json").document["count"] == 2
    assert states(installation)[ids[1]] == ("relay", ["held"])
    assert rusmes("queue", "release", ids[1]).status == 0
    assert states(installation)[ids[1]] == ("relay", ["queued"])
    rusmes("queue", "release", ids[2])
    assert states(installation)[ids[2]][0] != "hold"
    assert rusmes("queue", "delete", ids[0], ids[3], "--yes", "--json").document["count"] == 2
    assert set(states(installation)) == {ids[1], ids[2]}
    rusmes("queue", "delete", "--all", "--yes")
    assert "The queue is empty." in rusmes("queue", "list").output


def test_a_retry_is_due_now(rusmes: Any, ids: list[str]) -> None:
    assert rusmes("queue", "retry", ids[1], "--json").document["count"] == 1
    recipient = rusmes("queue", "show", ids[1], "--json").document["recipients"][0]
    assert recipient["due"] <= time.time()


def test_a_retry_of_what_is_held_says_so(rusmes: Any, ids: list[str]) -> None:
    rusmes("queue", "hold", ids[1])
    result = rusmes("queue", "retry", ids[1])
    assert result.status == 2
    assert f"nothing to retry: {ids[1]} is held" in result.errors
    assert f"rusmes queue release {ids[1]}" in result.errors


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("retry",), "say which"),
        (("delete", "--yes"), "say which"),
        (("delete", "--all"), "--yes"),
        (("show", "xyz"), "is no queue id"),
        (("show", "0" * 26), "there is no queue entry"),
        (("retry", "0" * 26), "there is no queue entry"),
        (("list", "--older-than", "soon"), "is no duration"),
        (("list", "--status", "lost"), "lost"),
    ],
)
def test_what_is_typed_wrong(rusmes: Any, ids: list[str], installation: Path, arguments: tuple[str, ...], reason: str) -> None:
    result = rusmes("queue", *arguments)
    assert (result.status, result.output) == (2, "")
    assert reason in result.errors
    assert len(states(installation)) == 4


def test_the_store_is_verified_and_measured(rusmes: Any, installation: Path, ids: list[str]) -> None:
    async def deliver() -> None:
        async with mail_store_of(load_config(str(installation), environ={})) as store:
            item = queued("", "alice@example.com")
            await store.append([Append(item.recipients[0], "alice@example.com", item.rendering)])

    asyncio.run(deliver())
    result = rusmes("store", "verify", "--json")
    assert (result.status, result.document["findings"]) == (0, [])
    stats = rusmes("store", "stats", "--json").document
    assert (stats["accounts"], stats["messages"], stats["queued"]) == (1, 1, 4)
    assert {file["name"] for file in stats["files"]} == {"mail.mdb", "queue-0.mdb", "queue-1.mdb", "blobs/"}
    rows = rusmes("store", "compact", "--json").document
    assert {row["store"] for row in rows} == {"mail.mdb", "queue-0.mdb", "queue-1.mdb"}
    assert rusmes("mailbox", "list", "alice", "--json").document[0]["messages"] == 1
    assert rusmes("store", "restored", "--json").document == {"mailboxes": 6}
    assert "6 mailboxes have a new UIDVALIDITY" in rusmes("store", "restored").output


def test_damage_is_found(rusmes: Any, installation: Path) -> None:
    async def deliver() -> None:
        async with mail_store_of(load_config(str(installation), environ={})) as store:
            item = queued("", "alice@example.com")
            await store.append([Append(item.recipients[0], "alice@example.com", item.rendering)])

    asyncio.run(deliver())
    database = installation.parent / "data" / "mail.mdb"
    data = database.read_bytes()
    assert data.count(b"It works.") == 1
    database.write_bytes(data.replace(b"It works.", b"It lurks."))
    result = rusmes("store", "verify")
    assert result.status == 1
    assert "WHAT IS WRONG" in result.output


# Steering it, on a stopped server


def test_a_dry_run_changes_nothing(rusmes: Any, installation: Path, ids: list[str]) -> None:
    before = states(installation)
    for operation in (("hold",), ("retry",), ("delete",), ("bounce",), ("expire",), ("reroute", "mx.example.net:2525")):
        done = rusmes("queue", *operation, "--domain", "two.example", "--dry-run", "--json").document
        assert (done["count"], done["recipients"], len(done["sample"]), done["dry_run"]) == (2, 2, 2, True)
    output = rusmes("queue", "delete", "--domain", "two.example", "--dry-run").output
    assert "2 entries (2 recipients, " in output
    assert "would be deleted" in output
    assert ids[1] in output
    assert states(installation) == before
    assert rusmes("queue", "audit", "--json").document["deeds"] == []


def test_what_was_done_is_kept(rusmes: Any, ids: list[str]) -> None:
    rusmes("queue", "hold", "--domain", "two.example", "--reason", "why\x1b[31m")
    rusmes("queue", "suspend", "tenant", "acme", "--for", "2h")
    rusmes("queue", "resume", "tenant", "acme")
    rusmes("queue", "delete", ids[3], "--yes")
    deeds = rusmes("queue", "audit", "--json").document["deeds"]
    assert [(deed["operation"], deed["entries"]) for deed in deeds] == [
        ("delete", 1),
        ("resume", 0),
        ("suspend", 0),
        ("hold", 2),
    ]
    assert deeds[3]["what"]["filter"] == {"domain": "two.example"}
    assert "server was stopped" in deeds[3]["by"]
    assert len(rusmes("queue", "audit", "--limit", "1", "--json").document["deeds"]) == 1
    output = rusmes("queue", "audit").output
    assert "two.example" in output
    assert "\x1b[31m" not in output


def test_suspensions(rusmes: Any, ids: list[str]) -> None:
    assert "Nothing is suspended." in rusmes("queue", "suspensions").output
    output = rusmes("queue", "suspend", "domain", "Example.ORG", "--for", "2h", "--reason", "they asked").output
    assert "The domain example.org is suspended for 2h." in output
    assert "until it is resumed" in rusmes("queue", "suspend", "everything").output
    found = rusmes("queue", "suspensions", "--json").document["suspensions"]
    assert [(one["scope"], one["name"], one["until"] > time.time(), one["reason"]) for one in found] == [
        ("everything", "", False, ""), ("domain", "example.org", True, "they asked"),
    ]  # fmt: skip
    output = rusmes("queue", "suspensions").output
    assert "when resumed" in output
    assert "they asked" in output
    assert "Everything is resumed." in rusmes("queue", "resume", "everything").output
    result = rusmes("queue", "resume", "everything")
    assert (result.status, "is not suspended" in result.errors) == (2, True)


def test_how_much_a_suspension_would_stop(rusmes: Any, ids: list[str]) -> None:
    output = rusmes("queue", "suspend", "domain", "*.example", "--until", "2199-01-01T00:00", "--dry-run").output
    assert "3 entries" in output
    assert "would wait" in output
    assert rusmes("queue", "suspensions", "--json").document["suspensions"] == []


def test_a_way_is_changed(rusmes: Any, installation: Path, ids: list[str]) -> None:
    assert rusmes("queue", "reroute", "mx.example.net:2525", ids[1], "--json").document["count"] == 1
    assert "mx.example.net:2525" in rusmes("queue", "show", ids[1]).output
    assert rusmes("queue", "reroute", "default", ids[1], "--json").document["count"] == 1
    assert rusmes("queue", "show", ids[1], "--json").document["route"] == ""


def test_a_summary(rusmes: Any, ids: list[str]) -> None:
    data = rusmes("queue", "summary", "--json").document
    found = [(row["name"], row["recipients"]) for row in data["rows"]]
    assert found == [("one.example", 2), ("two.example", 2), ("three.example", 1)]
    assert (data["total"]["recipients"], data["total"]["entries"]) == (5, 4)
    lines = rusmes("queue", "qshape", "--by", "status", "--limit", "2").output.splitlines()
    assert lines[0].split() == ["STATUS", "T", "5", "10", "20", "40", "80", "160", "320", "640", "1280", "1280+"]
    assert lines[1].split()[:2] == ["TOTAL", "5"]
    assert "1 more" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("list", "--reply", "("), "regular expression"),
        (("list", "--client", "nowhere"), "no address"),
        (("list", "--header", "x"), "header field"),
        (("list", "--site", "x"), "running server"),
        (("summary", "--by", "site"), "running server"),
        (("list", "--larger-than", "big"), "--larger-than"),
        (("bounce", "--all", "--yes"), "stopped server writes no notices"),
        (("bounce", "--all"), "--yes"),
        (("expire", "--all"), "--yes"),
        (("reroute", "nowhere", "--all"), "no route"),
        (("suspend", "domain"), "no name of a domain"),
        (("suspend", "everything", "x"), "everything has no name"),
        (("suspend", "weather"), "weather"),
        (("suspend", "tenant", "t", "--for", "1h", "--until", "18:00"), "one of"),
        (("suspend", "tenant", "t", "--for", "soon"), "--for"),
        (("suspend", "tenant", "t", "--until", "later"), "is no time"),
        (("suspend", "tenant", "t", "--until", "2001-01-01T00:00"), "has passed"),
    ],
)
def test_what_is_refused(rusmes: Any, ids: list[str], installation: Path, arguments: tuple[str, ...], reason: str) -> None:
    before = states(installation)
    result = rusmes("queue", *arguments)
    assert (result.status, result.output) == (2, "")
    assert reason in result.errors
    assert states(installation) == before
    assert rusmes("queue", "suspensions", "--json").document["suspensions"] == []


@pytest.mark.parametrize(
    ("text", "days"), [("0:00", 1), ("23:59", 1), ("2199-01-01T00:00", 100_000), ("2199-01-01T00:00+05:00", 100_000)]
)
def test_ends_of_suspensions(rusmes: Any, ids: list[str], text: str, days: int) -> None:
    rusmes("queue", "suspend", "tenant", "t", "--until", text)
    found = rusmes("queue", "suspensions", "--json").document["suspensions"]
    assert [0 < one["until"] - time.time() <= days * 86400 for one in found] == ([True] if found else [])
    assert found or text == "23:59", "that minute may have come"


def test_a_long_list_is_one_document(rusmes: Any, ids: list[str]) -> None:
    document = rusmes("queue", "list", "--limit", "0", "--json").document
    assert ([entry["id"] for entry in document["entries"]], document["more"]) == (ids, False)
    assert rusmes("queue", "list", "--sender", "nobody@*", "--json").document == {"entries": [], "more": False}
    assert "No entry matches." in rusmes("queue", "list", "--sender", "nobody@*").output


def test_why_knows_of_suspensions_while_the_server_is_stopped(rusmes: Any, ids: list[str]) -> None:
    assert "the server does not run" in rusmes("why", ids[0]).output
    rusmes("queue", "suspend", "domain", "two.example", "--reason", "they asked")
    output = rusmes("why", ids[0]).output
    assert "carol@two.example: suspended until it is resumed: they asked" in output
    assert "bob@one.example: is due now, and the server does not run" in output
