"""`postqueue` as Postfix 3.7.11 printed it for the same mail (enable_long_queue_ids = yes)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rusmes.cli import postqueue
from rusmes.cli.postqueue import HEADING, listing, objects
from rusmes.cli.queue_lines import COLUMNS, compact_lines, short_duration, short_size, summary_lines
from rusmes.cli.queue_lines import HEADING as COMPACT_HEADING
from tests.unit.cli.test_queue import ids as ids

NOW = 1795524902.0
REASON = "connect to 127.0.0.1[127.0.0.1]:9: Connection refused"


def recipient(address: str, **more: Any) -> dict[str, Any]:
    return {"address": address, "status": "deferred", "due": NOW + 60, "last_reply": REASON, "last_host": "", **more}


def entry(*recipients: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "01m86sg2v601w8fhvf474pg2ga",
        "action": "relay",
        "sender": "sam@example.org",
        "created": NOW + 0.9,
        "size_bytes": 294,
        "reason": "",
        "recipients": list(recipients),
        **more,
    }


# What Postfix printed, and ours with its longer id.
POSTFIX = """\
----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------
4jYjT25qHSz1YQgJ       354 Tue Nov 24 12:55:02 MAILER-DAEMON
                       (connect to 127.0.0.1[127.0.0.1]:9: Connection refused)
                                               c@one.invalid

4jYjT25fJ4z1YQgH!      294 Tue Nov 24 12:55:02 sam@example.org
                       (connect to 127.0.0.1[127.0.0.1]:9: Connection refused)
                                               a@one.invalid
                                               b@two.invalid

-- 0 Kbytes in 2 Requests.
"""


def test_columns_are_those_of_postfix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    entries = [
        entry(recipient("c@one.invalid"), sender="<>", size_bytes=354),
        entry(recipient("a@one.invalid", status="held"), recipient("b@two.invalid", status="held")),
    ]
    lines = [HEADING, *(line for one in entries for line in listing(objects(one, NOW)))]
    wide = []
    for line in POSTFIX.splitlines()[1:-1]:
        if line.startswith(" " * 47):
            line = " " * 10 + line
        elif line[:1].strip():
            line = f"{'01m86sg2v601w8fhvf474pg2ga' + line[16].strip():<27}{line[17:]}"
        wide.append(line)
    assert lines[1:] == wide
    assert lines[0].split()[2:] == POSTFIX.split()[2:6]
    time.tzset()


def test_json_is_that_of_postfix() -> None:
    golden = (
        '{"queue_name": "deferred", "queue_id": "01m86sg2v601w8fhvf474pg2ga", "arrival_time": 1795524902, "message_size": 294, '
        '"forced_expire": false, "sender": "sam@example.org", "recipients": [{"address": "a@one.invalid", "delay_reason": '
        '"connect to 127.0.0.1[127.0.0.1]:9: Connection refused"}, {"address": "b@two.invalid"}]}'
    )
    found = objects(entry(recipient("a@one.invalid"), recipient("b@two.invalid", last_reply="")), NOW)
    assert json.dumps(found, ensure_ascii=False) == golden


@pytest.mark.parametrize(
    ("recipients", "more", "queue"),
    [
        ([recipient("a@x")], {}, "deferred"),
        ([recipient("a@x", status="queued", due=0.0)], {}, "active"),
        ([recipient("a@x", status="queued", due=NOW + 9)], {}, "deferred"),
        ([recipient("a@x", status="held")], {}, "hold"),
        ([recipient("a@x", status="held"), recipient("b@x")], {}, "deferred"),
        ([recipient("a@x")], {"action": "hold", "reason": "virus?"}, "hold"),
    ],
)
def test_queues(recipients: list[dict[str, Any]], more: dict[str, Any], queue: str) -> None:
    assert objects(entry(*recipients, **more), NOW)["queue_name"] == queue


def test_only_those_who_wait_are_shown_and_who_said_why() -> None:
    found = objects(
        entry(
            recipient("gone@x", status="delivered"),
            recipient("a@x", last_reply="451 4.7.1 later", last_host="mx.x[192.0.2.1]:25"),
            sender="<>",
        ),
        NOW,
    )
    assert found["sender"] == "MAILER-DAEMON"
    assert found["recipients"] == [{"address": "a@x", "delay_reason": "host mx.x[192.0.2.1]:25 said: 451 4.7.1 later"}]


def test_nothing_steers_a_terminal() -> None:
    assert "\x1b" not in "".join(listing(objects(entry(recipient("a@x", last_reply="\x1b[31m")), NOW)))


def test_the_queue_of_an_installation(ids: list[str], installation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert postqueue.run(["-c", str(installation), "-j"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["queue_id"], row["queue_name"]) for row in rows] == [
        (ids[0], "active"), (ids[1], "deferred"), (ids[2], "hold"), (ids[3], "active"),
    ]  # fmt: skip
    assert postqueue.run(["-p", "-c", str(installation)]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[0] == HEADING
    assert f"{ids[2]}!" in output
    assert f"{ids[0]}*" in output
    assert output.endswith("\n\n-- 0 Kbytes in 4 Requests.\n")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 69),
        (["-p", "-j"], 69),
        (["-x"], 69),
        (["-p", "more"], 69),
        (["-f"], 69),
        (["-i", "nonsense"], 0),
        (["-s", "x.org"], 69),
    ],
)
def test_what_it_refuses(installation: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int) -> None:
    assert postqueue.run(["-c", str(installation), *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("postqueue: ")


# The same on our own terms


def test_a_list_fits_100_columns() -> None:
    row = entry(
        recipient(
            "a-very-long-local-part-of-an-address@and-a-very-long-domain.example.com", last_reply="451 4.7.1 " + "x" * 300
        ),
        recipient("b@x.org", last_reply="451 4.7.1 " + "x" * 300),
        recipient("c@x.org", status="held", last_reply=""),
        sender="another-very-long-local-part@and-a-very-long-domain.example.com",
        size_bytes=123456789012,
        created=NOW - 900 * 86400,
    )
    lines = list(compact_lines(row, NOW))
    assert max(map(len, [COMPACT_HEADING, *lines])) <= COLUMNS
    assert len(lines) == 4, "a reply that two got stands once"
    assert lines[0].startswith(f"{row['id']} ")


def test_a_summary_fits_100_columns() -> None:
    row = {"name": "x" * 200, "counts": [99999] * 10, "recipients": 999990, "entries": 1, "size_bytes": 1, "oldest": 0.0}
    ages = [5, 10, 20, 40, 80, 160, 320, 640, 1280]
    lines = list(summary_lines({"by": "domain", "ages": ages, "rows": [row], "total": row | {"name": "TOTAL"}, "more": 0}))
    assert max(map(len, lines)) <= COLUMNS
    assert len(set(map(len, lines))) == 1
    assert lines[0].split() == ["DOMAIN", "T", *map(str, ages), "1280+"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172799, "47h"), (172800, "2d"), (-5, "0s")],
)
def test_short_durations(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0B"), (1023, "1023B"), (1024, "1.0KB"), (10240, "10KB"), (5 << 30, "5.0GB")])
def test_short_sizes(count: int, text: str) -> None:
    assert short_size(count) == text


def test_the_maildrop_is_part_of_the_queue(installation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rusmes.config.load import load_config
    from rusmes.storage.maildrop import Drop, DropRecipient, maildrop_of, write_drop

    directory = Path(maildrop_of(load_config(str(installation), environ={}).storage.path))
    directory.mkdir()
    id = write_drop(str(directory), Drop("<>", (DropRecipient("a@x.org"),), 0, NOW), [b"12345"])
    (directory / f"{'0' * 26}.mail").write_bytes(b"garbage")
    assert postqueue.run(["-c", str(installation), "-j"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "queue_name": "maildrop", "queue_id": id, "arrival_time": int(NOW), "message_size": 5, "forced_expire": False,
        "sender": "MAILER-DAEMON", "recipients": [{"address": "a@x.org"}],
    }  # fmt: skip
