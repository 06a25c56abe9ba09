"""What `rusmes-sendmail` understands, what it makes of a message, and how it ends."""

from __future__ import annotations

import io
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest

from rusmes.cli import sendmail
from rusmes.cli.message_text import read_message, recipients_in, with_header, without_hidden
from rusmes.cli.sendmail import read_arguments
from rusmes.cli.sysexits import EX_CONFIG, EX_DATAERR, EX_OK, EX_TEMPFAIL, EX_USAGE, Exit
from rusmes.config.load import load_config
from rusmes.storage.maildrop import Drop, DropRecipient, maildrop_of, read_drop, waiting_drops


def test_arguments() -> None:
    wish = read_arguments(
        ["-t", "-oi", "-f", "<a@x.org>", "-F", "Ann", "-N", "success,Failure", "-R", "hdrs", "-V", "id", "b@y.org"]
    )
    assert (wish.mode, wish.sender, wish.full_name, wish.takes_header, wish.ends_at_dot) == ("m", "a@x.org", "Ann", True, False)
    assert (wish.notify, wish.ret, wish.envid, wish.recipients) == (("SUCCESS", "FAILURE"), "HDRS", "id", ["b@y.org"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-i", "a"], {"ends_at_dot": False, "recipients": ["a"]}),
        (["-fa@x.org", "b"], {"sender": "a@x.org"}),
        (["-r", "a@x.org", "b"], {"sender": "a@x.org"}),
        (["-f", "", "b"], {"sender": ""}),
        (["-f", "<>", "b"], {"sender": ""}),
        (["-oem", "-oee", "-om", "-odb", "-O", "QueueLA=4", "-OX=y", "-h3", "a"], {"recipients": ["a"]}),
        (["-Am", "-n", "-v", "-L", "x", "a"], {"recipients": ["a"]}),
        (["-B", "8bitmime", "-U", "-G", "-m", "-x", "-p", "esmtp", "a"], {"recipients": ["a"]}),
        (["--", "-t"], {"recipients": ["-t"], "takes_header": False}),
        (["a", "-t"], {"recipients": ["a", "-t"]}),
        (["-bp"], {"mode": "p"}),
        (["-bs"], {"mode": "s"}),
        (["-bm", "a"], {"mode": "m"}),
        (["-bi"], {"mode": "i"}),
        (["-I"], {"mode": "i"}),
        (["-q"], {"mode": "q"}),
        (["-q30m", "a"], {"mode": "m"}),
        (["-qIabc"], {"mode": "q", "queue_id": "abc"}),
        (["-qRx.org"], {"mode": "q", "queue_site": "x.org"}),
        (["-C", "/etc/x", "a"], {"config_path": "/etc/x"}),
    ],
)  # fmt: skip
def test_options(arguments: list[str], expected: dict[str, Any]) -> None:
    wish = read_arguments(arguments)
    assert {name: getattr(wish, name) for name in expected} == expected


@pytest.mark.parametrize(
    "arguments",
    [["-Z"], ["-bd"], ["-bt"], ["-N", "sometimes"], ["-N", "never,delay"], ["-R", "some"], ["-V", "x" * 101], ["-V", "a\nb"],
     ["-B", "BINARYMIME"], ["-f"]],
)  # fmt: skip
def test_arguments_that_are_refused(arguments: list[str]) -> None:
    with pytest.raises(Exit) as ended:
        read_arguments(arguments)
    assert ended.value.status == EX_USAGE
    assert ended.value.sentence


@pytest.mark.parametrize(
    ("data", "ends_at_dot", "expected"),
    [
        (b"a\nb\r\nc", True, b"a\r\nb\r\nc\r\n"),
        (b"a\n.\nb\n", True, b"a\r\n"),
        (b"a\n.\nb\n", False, b"a\r\n.\r\nb\r\n"),
        (b"a\r\n.\r\nb", True, b"a\r\n"),
        (b"..\n", True, b"..\r\n"),
        (b"", True, b""),
    ],
)
def test_reading(data: bytes, ends_at_dot: bool, expected: bytes) -> None:
    assert read_message(io.BytesIO(data), ends_at_dot=ends_at_dot, max_bytes=100) == expected


@pytest.mark.parametrize("data", [b"x" * 101, b"a\0b\n"])
def test_messages_that_are_refused(data: bytes) -> None:
    with pytest.raises(Exit) as ended:
        read_message(io.BytesIO(data), ends_at_dot=True, max_bytes=100)
    assert ended.value.status == EX_DATAERR


def test_fields_that_are_missing_are_added() -> None:
    made = with_header(b"Subject: x\r\n\r\nhello\r\n", "a@x.org", "Ann (B)", "mx.x.org", 0.0)
    head, _, body = made.partition(b"\r\n\r\n")
    assert body == b"hello\r\n"
    lines = head.split(b"\r\n")
    assert lines[:2] == [b"Subject: x", b'From: "Ann (B)" <a@x.org>']
    assert [line.partition(b":")[0] for line in lines] == [b"Subject", b"From", b"Date", b"Message-ID"]
    assert lines[3].endswith(b"@mx.x.org>")
    whole = b"From: a\r\nDate: b\r\nMessage-ID: c\r\n\r\nx\r\n"
    assert with_header(whole, "a@x.org", "", "h", 0.0) == whole
    assert with_header(b"From a@x Mon\r\n" + whole, "a@x.org", "", "h", 0.0) == whole


@pytest.mark.parametrize("text", [b"just a body\r\n", b"\r\njust a body\r\n", b"Subject: x\r\njust a body\r\n"])
def test_what_begins_with_no_field_is_a_body(text: bytes) -> None:
    made = with_header(text, "", "", "h.org", 0.0)
    assert made.endswith(b"\r\n\r\njust a body\r\n")
    assert b"From: MAILER-DAEMON@h.org\r\n" in made


def test_recipients_of_the_header() -> None:
    message = (
        b'To: "A, B" <a@x.org>, b@x.org,\r\n c (comment)\r\nCc: friends: d@x.org, e@x.org;\r\n'
        b"Bcc: f@x.org\r\nSubject: x\r\n\r\nTo: no\r\n"
    )
    assert recipients_in(message) == ["a@x.org", "b@x.org", "c", "d@x.org", "e@x.org", "f@x.org"]
    assert b"f@x.org" not in without_hidden(message)
    assert b"d@x.org" in without_hidden(message)
    assert recipients_in(b"Resent-To: r@x.org\r\n" + message) == ["r@x.org"]
    assert recipients_in(b"Subject: x\r\n\r\n") == []


Run = Any


@pytest.fixture
def run(installation: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call `rusmes-sendmail -C <the installation>`; its status."""

    def call(*arguments: str, stdin: bytes = b"Subject: x\n\nhello\n", config: str = str(installation)) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return sendmail.run(["-C", config, *arguments])

    return call


def drops(installation: Path) -> list[tuple[Drop, bytes]]:
    directory = maildrop_of(load_config(str(installation), environ={}).storage.path)
    return [read_drop(directory, id) for id in waiting_drops(directory)]


def test_a_message_waits_in_the_maildrop_of_a_stopped_server(run: Run, installation: Path) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    assert run("-i", "-N", "never", "-R", "full", "-V", "e1", "Bob@X.org", "root", "root@example.com") == EX_OK
    ((drop, message),) = drops(installation)
    assert (drop.sender, drop.uid, drop.ret, drop.envid) == (f"{user}@example.com", os.getuid(), "FULL", "e1")
    assert drop.recipients == (DropRecipient("Bob@x.org", ("NEVER",)), DropRecipient("root@example.com", ("NEVER",)))
    assert message.startswith(b"Subject: x\r\nFrom: ")
    assert message.endswith(b"\r\n\r\nhello\r\n")


def test_recipients_come_from_header_and_command_line(run: Run, installation: Path) -> None:
    text = b"To: a@x.org\nBcc: b@x.org\nSubject: x\n\nhello\n"
    assert run("-t", "-f", "", "c@x.org", stdin=text) == EX_OK
    ((drop, message),) = drops(installation)
    assert drop.sender == "<>"
    assert [one.address for one in drop.recipients] == ["c@x.org", "a@x.org", "b@x.org"]
    assert b"b@x.org" not in message


@pytest.mark.parametrize(
    ("arguments", "stdin", "status"),
    [
        ((), b"x", EX_USAGE),
        (("-t",), b"Subject: x\n\nhello\n", EX_USAGE),
        (("-t",), b"To: undisclosed: ;\n\nhello\n", EX_DATAERR),
        (("a@b@c",), b"x", EX_DATAERR),
        (("-f", "a b@c", "a@x.org"), b"x", EX_DATAERR),
        (("a@x.org",), b"x\0y", EX_DATAERR),
    ],
)
def test_what_cannot_be_sent(run: Run, installation: Path, arguments: tuple[str, ...], stdin: bytes, status: int) -> None:
    with pytest.raises(Exit) as ended:
        run(*arguments, stdin=stdin)
    assert ended.value.status == status
    assert not Path(maildrop_of(load_config(str(installation), environ={}).storage.path)).exists()


def test_without_a_server_a_user_without_rights_is_told_to_try_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(sendmail.SERVER_VARIABLE, "127.0.0.1:1")
    unreadable = tmp_path / "secret.toml"
    unreadable.write_text("x")
    monkeypatch.setattr(sendmail, "_is_unreadable", lambda _: True)
    for arguments in (("a@x.org",), ("-bs",)):
        with pytest.raises(Exit) as ended:
            run(*arguments, config=str(unreadable))
        assert ended.value.status == EX_TEMPFAIL
        assert "cannot be reached" in ended.value.sentence


def test_a_configuration_that_is_wrong(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[smtp]\nprot = 1\n")
    with pytest.raises(Exit) as ended:
        run("a@x.org", config=str(path))
    assert ended.value.status == EX_CONFIG
    monkeypatch.setenv(sendmail.SERVER_VARIABLE, "nonsense")
    with pytest.raises(Exit) as ended:
        run("a@x.org")
    assert ended.value.status == EX_CONFIG


def test_newaliases_and_the_queue(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-bi") == EX_OK
    assert run("-bp") == EX_OK
    assert capsys.readouterr().out == "Mail queue is empty\n"
    assert run("-q") == 69  # a server that is down flushes nothing
    assert "down" in capsys.readouterr().err
