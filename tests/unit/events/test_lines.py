"""Lines and index entries as `_core.events` makes them."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from rusmes._core.events import (
    EventBuffer,
    Template,
    find_message_id,
    queue_key,
    shift_entries,
    sort_entries,
    text_key,
)
from rusmes.config.events import KINDS as NAMED_KINDS
from rusmes.events.api import KINDS
from rusmes.events.segments import keys_of
from rusmes.model.address import Address
from rusmes.model.ids import id_text
from rusmes.model.mail import Recipient

NOW = 1_795_523_456.1234


def line_of(template: Template, *values: Any) -> tuple[bytes, dict[str, Any]]:
    buffer = EventBuffer(65536)
    assert buffer.add(b"delivered", NOW, template, values)
    line, _, count = buffer.take()
    assert count == 1
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    return line, json.loads(line)


def test_every_kind_of_value() -> None:
    template = Template(
        ("text", "s", ""), ("number", "i", ""), ("seconds", "f", ""), ("due", "t", ""), ("flag", "b", ""), ("id", "q", "q"),
        ("ids", "Q", "q"), ("sender", "a", ""), ("recipients", "A", "r"), ("phases", "p", ""), ("more", "x", ""),
    )  # fmt: skip
    id, other = os.urandom(16), os.urandom(16)
    _, event = line_of(
        template, "a b", -7, 0.0123456789, NOW + 60, True, id, (id, other), Address("news", "example.com"),
        [Recipient(Address("a b", "example.net"))], (("dns", 0.5), ("data", 2.0)), b'"reason":"x","count":3',
    )  # fmt: skip
    assert event == {
        "time": "2026-11-24T12:30:56.123Z",
        "kind": "delivered",
        "text": "a b",
        "number": -7,
        "seconds": 0.012346,
        "due": "2026-11-24T12:31:56.123Z",
        "flag": True,
        "id": id_text(id),
        "ids": [id_text(id), id_text(other)],
        "sender": "news@example.com",
        "recipients": ['"a b"@example.net'],
        "phases": {"dns": 0.5, "data": 2.0},
        "reason": "x",
        "count": 3,
    }


def test_what_is_empty_is_left_out_but_the_null_sender() -> None:
    template = Template(("text", "s", ""), ("number", "i", ""), ("ids", "Q", ""), ("sender", "a", ""), ("flag", "b", ""))
    _, event = line_of(template, "", 0, (), None, False)
    assert event == {"time": "2026-11-24T12:30:56.123Z", "kind": "delivered", "sender": ""}


@pytest.mark.parametrize(
    "text",
    ["\r\nX: 1", "\x00\x1f\x7f", "\x80\x9f\x85", "\u2028\u2029", '"\\', "\ud800 alone", "é中😀", '{"kind":"x"}', "x" * 999],
)
def test_no_value_ends_a_line_or_a_string(text: str) -> None:
    line, event = line_of(Template(("text", "s", "")), text)
    assert event["text"] == text.encode("utf-8", "replace").decode()
    shown = line[:-1].decode()
    assert not any(char < " " or "\x7f" <= char <= "\x9f" or char in "\u2028\u2029" for char in shown)


def test_a_peer_cannot_fill_the_disk() -> None:
    _, event = line_of(Template(("text", "s", ""), ("to", "A", "r")), "é" * 5000, [Recipient(Address("a", "b.c"))] * 5000)
    assert len(event["text"]) == 1000
    assert len(event["to"]) == 100


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e300])
def test_numbers_that_json_has_not_are_none(number: float) -> None:
    _, event = line_of(Template(("n", "f", ""), ("t", "t", "")), number, number)
    assert event["n"] == 0
    assert event["t"] == "1970-01-01T00:00:00.000Z"


def test_values_of_another_type_leave_nothing_behind() -> None:
    template = Template(("id", "q", "q"), ("n", "i", ""))
    buffer = EventBuffer(2048)
    for values in ((b"short", 1), ("text", 1), (os.urandom(16), "x"), (os.urandom(16),)):
        with pytest.raises((TypeError, ValueError)):
            buffer.add(b"failed", NOW, template, values)
    assert buffer.take() == (b"", b"", 0)


def test_another_thread_finds_no_half_line() -> None:
    buffer = EventBuffer(65536)
    template = Template(("text", "s", ""), ("sender", "a", ""))
    seen: list[Any] = []

    class Slow:
        local, domain = "a b", "example.org"

        def __str__(self) -> str:
            seen.append(buffer.take())
            seen.append(buffer.add(b"failed", NOW, template, ("other", None)))
            return "x@example.org"

    assert buffer.add(b"failed", NOW, template, ("first", None))
    assert buffer.add(b"failed", NOW, template, ("second", Slow()))
    assert seen == [(b"", b"", 0), False]
    lines, _, count = buffer.take()
    assert [json.loads(line)["text"] for line in lines.splitlines()] == ["first", "second"]
    assert count == 2


def test_a_full_buffer_takes_no_more() -> None:
    template = Template(("text", "s", ""))
    buffer = EventBuffer(1024)
    added = 0
    while buffer.add(b"failed", NOW, template, ("x" * 100,)):
        added += 1
    lines, _, count = buffer.take()
    assert added == count == lines.count(b"\n") == 7
    assert buffer.add(b"failed", NOW, template, ("x",))


def test_entries_lead_to_their_lines_by_the_keys_readers_use() -> None:
    template = Template(("queue_id", "q", "q"), ("message_id", "s", "m"), ("recipient", "a", "r"))
    buffer = EventBuffer(65536)
    for n in range(50):
        local = "Ünï" if n % 7 == 0 else "a b" if n % 5 == 0 else f"User{n}"
        buffer.add(b"delivered", NOW, template, (os.urandom(16), f"<{n}@É.example>", Address(local, "example.org")))
    lines, entries, _ = buffer.take()
    assert len(entries) == 50 * 3 * 12
    found: dict[int, set[bytes]] = {}
    for at in range(0, len(entries), 12):
        found.setdefault(int.from_bytes(entries[at + 8 : at + 12], "big"), set()).add(entries[at : at + 8])
    for offset, keys in found.items():
        event = json.loads(lines[offset : lines.index(b"\n", offset)])
        assert set(keys_of(event)) == keys


def test_keys_of_texts_do_not_look_at_case_and_those_of_ids_do() -> None:
    assert text_key("r", "User@Example.org") == text_key("r", "user@example.org") != text_key("m", "user@example.org")
    assert queue_key(b"A" * 16) != queue_key(b"a" * 16)


def test_sorting_and_shifting() -> None:
    entries = [os.urandom(8) + n.to_bytes(4, "big") for n in range(100)]
    entries += [entries[0][:8] + (1000 - n).to_bytes(4, "big") for n in range(5)]
    assert sort_entries(b"".join(entries)) == b"".join(sorted(entries))
    assert shift_entries(entries[7], 2**31) == entries[7][:8] + (7 + 2**31).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"From: a\r\nMessage-ID: <1@x>\r\n\r\n", "<1@x>"),
        (b"message-id:<2@x>  \r\n\r\n", "<2@x>"),
        (b"MESSAGE-ID:\r\n <3@x>\r\nTo: b\r\n\r\n", "<3@x>"),
        (b"Subject: a\r\n Message-ID: <no@x>\r\n\r\nMessage-ID: <body@x>\r\n", ""),
        (b"Message-ID:\r\n\r\n<body>", ""),
        (b"Message-ID:", ""),
        (b"Message-ID: ", ""),
        (b"Message-ID", ""),
        (b"Message-ID: <4@x>", "<4@x>"),
        (b"Message-IDs: <5@x>\r\n", ""),
        (b"Message-ID: \xff\r\n", "\ufffd"),
        (b"Message-ID: " + b"x" * 5000, "x" * 1000),
        (b"", ""),
    ],
)
def test_the_message_id_of_a_header(header: bytes, expected: str) -> None:
    assert find_message_id(header) == expected
    assert find_message_id(b"skipped " + header, 8) == expected


def test_the_configuration_names_the_same_kinds() -> None:
    assert KINDS == NAMED_KINDS
