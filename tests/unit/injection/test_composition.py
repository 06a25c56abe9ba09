"""From documents to messages."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import SMTP
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.errors import NotAllowed
from rusmes.injection.composition import Invalid, compose, fill
from rusmes.injection.request import Item, Target, read_request

NOW = 1_800_000_000.0


def item(**parts: Any) -> Item:
    return msgspec.convert({"recipients": ["u@example.org"], **parts}, Item)


def made(target: Target | None = None, **parts: Any) -> Any:
    data = compose(item(**parts), target, hostname="mx.example.com", now=NOW)
    assert b"\n" not in data.replace(b"\r\n", b"")
    return message_from_bytes(data, policy=SMTP)


def test_a_structured_message() -> None:
    message = made(
        Target("u@example.org", "Ünal, U."),
        message={
            "from": "News <news@example.com>",
            "subject": "Grüße, {{name}}",
            "text": "Hello {{name}}",
            "html": "<p>Hello {{ name }}</p>",
            "headers": {"List-Id": "<news.example.com>"},
            "attachments": [{"data": "aGk=", "filename": "a.txt", "content_type": "text/plain"}],
        },
        substitutions={"name": "A&B"},
    )
    assert message["From"] == "News <news@example.com>"
    assert message["Subject"] == "Grüße, A&B"
    assert message["To"].addresses[0].display_name == "Ünal, U."
    assert message["Message-ID"].endswith("@mx.example.com>")
    assert message["Date"].datetime.timestamp() == NOW
    assert message["List-Id"] == "<news.example.com>"
    assert message.get_body(("plain",)).get_content() == "Hello A&B\r\n"
    assert message.get_body(("html",)).get_content() == "<p>Hello A&amp;B</p>\r\n"
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "a.txt"


def test_a_picture_belongs_to_the_html_text() -> None:
    picture = {"data": "aGk=", "content_type": "image/png", "cid": "logo"}
    message = made(message={"from": "n@example.com", "text": "t", "html": "<img src=cid:logo>", "attachments": [picture]})
    kinds = [part.get_content_type() for part in message.walk()]
    assert kinds == ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
    only = made(message={"from": "n@example.com", "html": "<img src=cid:logo>", "attachments": [picture]})
    assert [part.get_content_type() for part in only.walk()] == ["multipart/related", "text/html", "image/png"]


def test_a_raw_message_is_completed_and_stays_as_it_is() -> None:
    message = made(raw="From: a@example.com\nBcc: secret@example.com\nSubject: x\n\nline\r\nline\rline")
    assert message["Bcc"] is None
    assert message["Date"]
    assert message["Message-ID"]
    assert message.get_payload() == "line\r\nline\r\nline\r\n"


def test_own_date_and_message_id_stay() -> None:
    message = made(raw="Message-ID: <1@x>\nDate: Mon, 23 Nov 2026 10:00:00 +0000\nFrom: a@example.com\n\n")
    assert (message["Message-ID"], message["Date"]) == ("<1@x>", "Mon, 23 Nov 2026 10:00:00 +0000")


def test_placeholders_of_a_recipient_come_first() -> None:
    target = Target("u@example.org", "", {"name": "own", "n": 7, "yes": True})
    message = made(
        target, raw="From: a@example.com\n\n{{name}} {{other}} {{n}} {{yes}}", substitutions={"name": "x", "other": "y"}
    )
    assert message.get_payload() == "own y 7 true\r\n"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({}, "give one of"),
        ({"raw": "From: a@b.c\n\n", "raw_base64": "aGk="}, "give one of"),
        ({"raw": "From: a@b.c\n\n", "message": {"from": "a@b.c"}}, "give one of"),
        ({"raw": "Subject: x\n\n"}, "no From"),
        ({"raw": "\nbody"}, "no From"),
        ({"raw": "From: a@b.c\nFrom: a@b.c\n\n"}, "several From"),
        ({"raw": "From: a@b.c"}, "no empty line"),
        ({"raw": "From: a@b.c\n\n\0"}, "NUL"),
        ({"raw": "From: a@b.c\n\n{{x}}"}, "no value for {{x}}"),
        ({"message": {"from": "nobody"}}, "is no list"),
        ({"message": {"from": "a@b.c", "to": ["x@y.z", "@"]}}, "is no list"),
        ({"message": {"from": "a@b.c", "headers": {"Subject": "x"}}}, "cannot give"),
        ({"message": {"from": "a@b.c", "headers": {"X Y": "x"}}}, "cannot give"),
        ({"message": {"from": "a@b.c", "headers": {"X-A": "x\r\nBcc: v@b.c"}}}, "more than one line"),
        ({"message": {"from": "a@b.c", "subject": "x\nBcc: v@b.c"}}, "more than one line"),
        ({"message": {"from": "a@b.c", "attachments": [{"data": "aGk=", "content_type": "x"}]}}, "no content type"),
        ({"message": {"from": "a@b.c", "attachments": [{"data": "aGk=", "content_type": "message/rfc822"}]}}, "raw"),
        ({"message": {"from": "a@b.c", "text": "x", "attachments": [{"data": "aGk=", "cid": "a"}]}}, "needs html"),
        ({"message": {"from": "a@b.c", "attachments": [{"data": "aGk=", "filename": "a\r\nX: y"}]}}, "more than one line"),
    ],
)
def test_what_is_no_message(parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(Invalid, match=reason.replace("{", r"\{")):
        made(**parts)


def test_a_value_cannot_add_a_field() -> None:
    message = made(
        message={"from": "a@b.c", "subject": "for {{name}}", "headers": {"X-A": "{{name}}"}},
        substitutions={"name": "x\r\nBcc: victim@b.c"},
    )
    assert message["Bcc"] is None
    assert message["Subject"] == "for x Bcc: victim@b.c"


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_the_values_no_field_is_added(subject: str, name: str) -> None:
    try:
        message = made(message={"from": "a@b.c", "subject": subject, "text": "t {{n}}"}, substitutions={"n": name})
    except Invalid:
        return
    assert {key.lower() for key in message} <= {
        "from", "subject", "date", "message-id", "mime-version", "content-type", "content-transfer-encoding",
    }  # fmt: skip


def test_fill_leaves_what_is_no_placeholder() -> None:
    assert fill("{{ }} {x} {{1}} {{a-b.c}}", {"a-b.c": "y"}) == "{{ }} {x} {{1}} y"


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"messages": []},
        {"messages": [{}]},
        {"messages": [{"recipients": []}]},
        {"messages": [{"recipients": ["u@example.org"], "colour": 1}]},
        {"messages": [{"recipients": [1]}]},
        {"messages": [{"recipients": ["u@example.org"], "raw_base64": "***"}]},
        {"messages": [{"recipients": ["u@example.org"] * 1001}]},
        {"messages": [{"recipients": ["u@example.org"]}] * 1001},
    ],
)
def test_what_is_no_request(document: object) -> None:
    with pytest.raises(NotAllowed):
        read_request(document)
