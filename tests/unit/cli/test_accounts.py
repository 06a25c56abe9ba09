"""`rusmes user` and `rusmes mailbox` on a stopped server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rusmes.auth.file import FileBackend


def verifies(installation: Path, account: str, password: str) -> bool:
    async def check() -> bool:
        backend = FileBackend(installation.parent / "data" / "users.toml")
        try:
            return await backend.verify(account, password) is not None
        finally:
            backend.close()

    return asyncio.run(check())


def test_an_account_is_made_with_its_password_from_stdin(rusmes: Any, installation: Path) -> None:
    result = rusmes("user", "add", "Bob@Example.COM", "--password-stdin", "--quota", "1GB", stdin="pass word\n")
    assert (result.status, result.errors) == (0, "")
    assert verifies(installation, "bob@example.com", "pass word")
    shown = rusmes("user", "show", "bob", "--json").document
    assert (shown["address"], shown["quota_bytes"], shown["state"]) == ("bob@example.com", 1 << 30, "active")
    assert [box["name"] for box in shown["mailboxes"]] == ["INBOX", "Archive", "Drafts", "Junk", "Sent", "Trash"]


def test_a_password_can_be_generated(rusmes: Any, installation: Path) -> None:
    document = rusmes("user", "add", "bob@example.com", "--generate", "--json").document
    assert verifies(installation, "bob@example.com", document["password"])


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        (("bob@example.com",), None, "--password-stdin"),
        (("bob@example.com", "--password-stdin"), "", "the password is empty"),
        (("bob@example.com", "--password-stdin"), "\n", "the password is empty"),
        (("bob@elsewhere.example", "--password-stdin"), "x\n", "is not a local domain"),
        (("bob@exampel.com", "--password-stdin"), "x\n", 'did you mean "example.com"?'),
        (("alice@example.com", "--password-stdin"), "x\n", "exists already"),
        (("b b@example.com", "--password-stdin"), "x\n", "is not an address"),
        (("bob@example.com", "--password-stdin", "--quota", "many"), "x\n", "is no size"),
        (("bob@example.com", "--password-stdin", "--quota-messages", "-1"), "x\n", "-1"),
    ],
)
def test_what_cannot_be_added_is_an_operator_error(
    rusmes: Any, arguments: tuple[str, ...], stdin: str | None, reason: str
) -> None:
    result = rusmes("user", "add", *arguments, stdin=stdin)
    assert result.status == 2
    assert reason in result.errors
    assert [row["address"] for row in rusmes("user", "list", "--json").document] == ["alice@example.com"]


def test_a_password_is_changed(rusmes: Any, installation: Path) -> None:
    assert rusmes("user", "passwd", "alice", "--password-stdin", stdin="new one\n").status == 0
    assert verifies(installation, "alice@example.com", "new one")
    assert not verifies(installation, "alice@example.com", "correct horse")


def test_a_disabled_account_cannot_log_in(rusmes: Any, installation: Path) -> None:
    rusmes("user", "disable", "alice")
    assert not verifies(installation, "alice@example.com", "correct horse")
    assert rusmes("user", "list", "--json").document[0]["state"] == "disabled"
    rusmes("user", "enable", "alice")
    assert verifies(installation, "alice@example.com", "correct horse")


def test_quotas_are_shown_and_changed(rusmes: Any) -> None:
    assert "unlimited" in rusmes("user", "quota", "alice").output
    rusmes("user", "quota", "alice", "--quota", "500MB")
    document = rusmes("user", "quota", "alice", "--quota-messages", "10", "--json").document
    assert (document["quota_bytes"], document["quota_messages"]) == (500 << 20, 10)
    assert "500MB, 10 messages" in rusmes("user", "list").output
    rusmes("user", "quota", "alice", "--quota", "none")
    assert rusmes("user", "list", "--json").document[0]["quota_bytes"] == 0


def test_deleting_asks_first(rusmes: Any) -> None:
    result = rusmes("user", "delete", "alice")
    assert (result.status, "--yes" in result.errors) == (2, True)
    assert rusmes("user", "delete", "alice", "--yes").status == 0
    assert rusmes("user", "list", "--json").document == []
    assert "There is no account yet" in rusmes("user", "list").output


def test_mail_can_outlive_its_account(rusmes: Any) -> None:
    rusmes("user", "delete", "alice", "--yes", "--keep-mail")
    assert rusmes("user", "list", "--json").document[0]["state"] == "mail only"
    assert rusmes("user", "add", "alice", "--generate").status == 0
    assert rusmes("user", "list", "--json").document[0]["state"] == "active"


@pytest.mark.parametrize("command", ["show", "passwd", "delete", "quota", "disable"])
def test_an_unknown_account_gets_the_nearest_name(rusmes: Any, command: str) -> None:
    extra = {"passwd": ["--generate"], "delete": ["--yes"]}.get(command, [])
    result = rusmes("user", command, "alcie@example.com", *extra)
    assert result.status == 2
    assert "there is no account alcie@example.com" in result.errors
    assert "alice@example.com" in result.errors or command == "disable"


def test_mailboxes_are_listed(rusmes: Any) -> None:
    result = rusmes("mailbox", "list", "alice")
    assert result.output.split("\n")[0].split() == ["MAILBOX", "MESSAGES", "UNSEEN", "SIZE", "USE"]
    assert "INBOX" in result.output
    assert rusmes("mailbox", "list", "nobody").status == 2


def test_a_mailbox_is_shared(rusmes: Any) -> None:
    assert rusmes("user", "add", "bob", "--generate").status == 0
    assert rusmes("mailbox", "rights", "alice", "Sent").output == "Only its owner may use it.\n"
    assert rusmes("mailbox", "rights", "alice", "Sent", "bob", "read").status == 0
    assert rusmes("mailbox", "rights", "alice", "Sent", "anyone", "l", "--json").document == [
        {"who": "anyone", "rights": "l"}, {"who": "bob@example.com", "rights": "lrs"},
    ]  # fmt: skip
    assert rusmes("mailbox", "rights", "alice", "Sent", "bob", "none").output.split() == ["WHO", "RIGHTS", "anyone", "l"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["Nothing"], "has no mailbox Nothing"),
        (["Sent", "nobody", "read"], "there is no account nobody@example.com"),
        (["Sent", "bob"], "WHO needs RIGHTS"),
        (["Sent", "anyone", "lz"], "WHO needs RIGHTS"),
        (["Sent", "alice", "read"], "is the owner"),
    ],
)
def test_rights_that_make_no_sense(rusmes: Any, arguments: list[str], reason: str) -> None:
    rusmes("user", "add", "bob", "--generate")
    result = rusmes("mailbox", "rights", "alice", *arguments)
    assert result.status == 2
    assert reason in result.errors
