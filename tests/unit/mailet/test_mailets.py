"""Every built-in mailet that does not rewrite recipients: what it does to the mail and the plan."""

from __future__ import annotations

from typing import Any

import pytest

from rusmes import log
from rusmes.errors import ConfigError
from rusmes.mailet.mailets import BUILT_IN
from rusmes.mailet.rendering import checked_line, header_line
from rusmes.queue.api import campaign_of, tenant_of

END = ("All", "LocalDelivery")


def delivered(kit: Any, *steps: Any, body: bytes | None = None) -> bytes:
    """What the mailbox gets, without Return-Path."""
    mail = kit.mail() if body is None else kit.mail(body=body)
    (append,) = kit.run([*steps, END], mail).appends
    text = b"".join(append.rendering.chunks())
    assert len(text) == append.rendering.size
    assert text.startswith(b"Return-Path: <sam@elsewhere.org>\r\n")
    return text.partition(b"\r\n")[2]


def test_all_of_them_are_there() -> None:
    names = """LocalDelivery RemoteDelivery ToProcessor Reject Null Bounce DSNBounce Hold Defer AddHeader RemoveHeader
        SetAttribute SetTenant RecipientRewrite Forward Copy LogMessage Metrics PostmasterAlias
        VERP SRS BounceProcessor"""
    assert set(names.split()) <= set(BUILT_IN)


def test_add_header_puts_the_newest_on_top(kit: Any) -> None:
    steps = [("All", "AddHeader", {"name": "X-A", "value": "1"}), ("All", "AddHeader", {"name": "X-B", "value": "é"})]
    assert delivered(kit, *steps, body=b"Subject: x\r\n\r\nbody") == "X-B: é\r\nX-A: 1\r\nSubject: x\r\n\r\nbody".encode()


def test_add_header_replaces(kit: Any) -> None:
    step = ("All", "AddHeader", {"name": "Subject", "value": "new", "replace": True})
    body = b"Subject: old\r\n folded\r\nTo: x\r\nSUBJECT: older\r\n\r\nSubject: body"
    assert delivered(kit, step, body=body) == b"Subject: new\r\nTo: x\r\n\r\nSubject: body"
    assert delivered(kit, step, step, body=body) == b"Subject: new\r\nTo: x\r\n\r\nSubject: body"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b"A: 1\r\nB: 2\r\n c\r\n\tc\r\nC: 3\r\n\r\nB: x", b"A: 1\r\nC: 3\r\n\r\nB: x"),
        (b"B: 1\r\n\r\n", b"\r\n"),
        (b"B: 1\r\n", b""),
        (b"B: 1", b""),
        (b"B : 1\r\nA: 2\r\n\r\n", b"A: 2\r\n\r\n"),
        (b"Bb: 1\r\nA\r\n\r\n", b"Bb: 1\r\nA\r\n\r\n"),
        (b"\r\nB: body", b"\r\nB: body"),
        (b"", b""),
        (b"A: 1\r\n\r\n\r\nB: body", b"A: 1\r\n\r\n\r\nB: body"),
    ],
)
def test_remove_header(kit: Any, body: bytes, left: bytes) -> None:
    assert delivered(kit, ("All", "RemoveHeader", {"names": ["b", "X-Other"]}), body=body) == left


def test_remove_header_takes_added_ones_too_and_later_ones_stay(kit: Any) -> None:
    add = ("All", "AddHeader", {"name": "X-A", "value": "1"})
    own = ("All", "AddHeader", {"name": "X-A", "value": "{recipient}", "per_recipient": True})
    remove = ("All", "RemoveHeader", {"names": "x-a"})
    assert delivered(kit, add, own, remove, body=b"X-A: 0\r\n\r\n") == b"\r\n"
    assert delivered(kit, add, remove, own, body=b"X-A: 0\r\n\r\n") == b"X-A: alice@here.org\r\n\r\n"


def test_a_large_content_is_never_copied(kit: Any, tmp_path: Any) -> None:
    from rusmes.model.content import Content

    data = b"Subject: x\r\nReturn-Path: <old>\r\n\r\n" + b"y" * 200_000
    (tmp_path / "blob").write_bytes(data)
    mail = kit.mail()
    mail.content = Content(b"i" * 16, len(data), 34, path=str(tmp_path / "blob"))
    (append,) = kit.run([("All", "AddHeader", {"name": "X-A", "value": "1"}), END], mail).appends
    assert append.rendering.content is mail.content
    expected = b"Return-Path: <sam@elsewhere.org>\r\nX-A: 1\r\nSubject: x\r\n\r\n" + b"y" * 200_000
    assert b"".join(append.rendering.chunks()) == expected
    assert len(append.rendering.prefix) < 100


@pytest.mark.parametrize(
    "line", [b"X: 1", b"X: 1\n", b"X: 1\r\nY: 2\r\n", b"X: 1\r2\r\n", b"X: 1\n Y\r\n", b"X: \0\r\n", b"", b"\r\n\r\n"]
)
def test_a_line_is_one_field(line: bytes) -> None:
    with pytest.raises(ValueError, match="header field"):
        checked_line(line)


def test_a_folded_line_is_one_field() -> None:
    assert checked_line(b"X: 1\r\n 2\r\n\t3\r\n")


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("X:", "x"), ("X Y", "x"), ("Ü", "x"), ("X", "a\nb"), ("X", "a\0")])
def test_what_is_no_header(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"header"):
        header_line(name, value)


def test_local_delivery_by_detail(kit: Any) -> None:
    kit.directory.accounts |= {f"alice+{detail}@here.org" for detail in ("lists", "INBOX", "a/b", "x" * 65, "ctrl\x07", "")}
    names = ["alice@here.org", "alice+lists@here.org", "alice+INBOX@here.org", "alice+a/b@here.org", "alice+ctrl\x07@here.org",
             f"alice+{'x' * 65}@here.org", "alice+@here.org"]  # fmt: skip
    recipients = [kit.recipient(name) for name in names]
    plan = kit.run([("All", "LocalDelivery", {"detail_to_mailbox": True})], kit.mail(*recipients))
    mailboxes = {append.recipient.address.local: append.mailbox for append in plan.appends}
    assert mailboxes.pop("alice+lists") == "lists"
    assert set(mailboxes.values()) == {"INBOX"}
    assert len(mailboxes) == 6


def test_delivered_to(kit: Any) -> None:
    plan = kit.run([("All", "LocalDelivery", {"delivered_to": True})], kit.mail("alice@here.org", "bob@here.org"))
    assert [append.rendering.prefix.splitlines()[1] for append in plan.appends] == [
        b"Delivered-To: alice@here.org",
        b"Delivered-To: bob@here.org",
    ]


def test_dsn_bounce_passes_through(kit: Any) -> None:
    steps = [
        ("SentByMailet", "LocalDelivery", {"mailbox": "Notices"}),
        ("All", "DSNBounce", {"pass_through": True, "text": "read by a machine"}),
        END,
    ]
    plan = kit.run(steps, kit.mail("alice@here.org", sender="bob@here.org"))
    assert [(append.account, append.mailbox) for append in plan.appends] == [
        ("alice@here.org", "INBOX"),
        ("bob@here.org", "Notices"),
    ]
    assert plan.dropped == []


@pytest.mark.rfc("5321", "4.5.5")
def test_dsn_bounce_that_passes_through_never_answers_the_null_sender(kit: Any) -> None:
    plan = kit.run([("All", "DSNBounce", {"pass_through": True}), END], kit.mail(sender=None))
    assert len(plan.appends) == 1
    assert not kit.notices.written


def test_attributes_have_types(kit: Any) -> None:
    steps = [("All", "SetAttribute", {"name": f"a{n}", "value": v}) for n, v in enumerate((True, 3, 2.5, "x"))]
    (row,) = kit.run([*steps, ("All", "RemoteDelivery")], kit.mail("x@far.org")).queued
    assert row.attributes == {"a0": True, "a1": 3, "a2": 2.5, "a3": "x"}


def test_metrics_count_and_are_named(kit: Any) -> None:
    pipeline = kit.build([("All", "Metrics", {"event": "seen"}), ("All", "Metrics", {"event": "seen"}), END])
    kit.run(pipeline, kit.mail())
    assert kit.events == ["seen", "seen"]
    assert pipeline.events == ("seen",)


def test_log_message(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []
    monkeypatch.setattr(log._CURRENT, "sink", log.LogSink(lines.append, level="info", json=True))
    step = ("All", "LogMessage", {"text": "audit", "headers": ["Subject", "X-None"]})
    kit.run([step, ("All", "LogMessage", {"level": "debug", "text": "hidden"}), END], kit.mail())
    log._CURRENT.sink.flush()
    text = b"".join(lines).decode()
    assert '"event":"audit"' in text.replace(": ", ":")
    assert "sam@elsewhere.org" in text
    assert "one" in text
    assert "hidden" not in text


def test_a_tenant_is_named_by_the_configuration_or_by_the_header(kit: Any) -> None:
    relay = ("All", "RemoteDelivery", {})
    both = {"tenant": "nobody", "tenant_header": "X-Tenant", "campaign_header": "X-Campaign"}

    def queued(parameters: dict[str, Any], body: bytes) -> tuple[str, str, bytes]:
        mail = kit.mail("a@elsewhere.example", body=body)
        (item,) = kit.run([("All", "SetTenant", parameters), relay], mail).queued
        return tenant_of(item), campaign_of(item), b"".join(item.rendering.chunks())

    body = b"X-Tenant: shop\r\n  one\r\nX-Campaign: spring\r\nSubject: x\r\n\r\n"
    assert queued(both, body) == ("shop one", "spring", b"Subject: x\r\n\r\n")
    assert queued({**both, "keep_headers": True}, body)[2] == body
    assert queued(both, b"Subject: x\r\n\r\n")[:2] == ("nobody", "")
    assert len(queued(both, b"X-Tenant: " + b"z" * 5000 + b"\r\n\r\n")[0]) == 200
    assert queued(both, b"X-Tenant: a\x1bb\r\n\r\n")[0] == "nobody"
    with pytest.raises(ConfigError):
        queued({}, body)
