"""`rusmes suppression` keeps the list, beside a server or without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def addresses(rusmes: Any, *options: str) -> list[str]:
    return [entry["address"] for entry in rusmes("suppression", "list", "--json", *options).document]


def test_add_list_check_remove(rusmes: Any, installation: Path) -> None:
    assert rusmes("suppression", "list").output == "Nobody is suppressed.\n"
    assert rusmes("suppression", "add", "User@Example.org", "two@example.net", "--reason", "asked for").status == 0
    assert addresses(rusmes) == ["two@example.net", "user@example.org"]
    assert addresses(rusmes, "--domain", "example.org") == ["user@example.org"]
    shown = rusmes("suppression", "list").output
    assert "asked for" in shown
    assert "Manual" in shown
    checked = rusmes("suppression", "check", "user@example.org")
    assert checked.status == 1
    assert "is suppressed: Manual" in checked.output
    assert "not enabled" in checked.output
    assert rusmes("suppression", "check", "other@example.org").status == 0
    assert rusmes("suppression", "remove", "user@example.org").status == 0
    assert addresses(rusmes) == ["two@example.net"]
    missing = rusmes("suppression", "remove", "user@example.org")
    assert (missing.status, "not suppressed" in missing.errors) == (2, True)


def test_tenants_are_apart(rusmes: Any, installation: Path) -> None:
    rusmes("suppression", "add", "u@example.org", "--tenant", "acme", "--for", "30d")
    assert rusmes("suppression", "check", "u@example.org").status == 0
    assert rusmes("suppression", "check", "u@example.org", "--tenant", "acme").status == 1
    assert addresses(rusmes, "--tenant", "other") == []
    assert addresses(rusmes, "--tenant", "acme", "--category", "manual") == ["u@example.org"]


def test_export_and_import(rusmes: Any, installation: Path, tmp_path: Path) -> None:
    rusmes("suppression", "add", "u@example.org", "--tenant", "acme", "--reason", "x")
    rusmes("suppression", "add", "v@example.org", "--for", "1d")
    lines = rusmes("suppression", "export").output
    rusmes("suppression", "clear", "--yes")
    assert addresses(rusmes) == []
    file = tmp_path / "list"
    file.write_text(lines + "# more\n\nw@example.org\n")
    assert rusmes("suppression", "import", str(file), "--json").document == {"added": 3}
    found = {entry["address"]: entry for entry in rusmes("suppression", "list", "--json").document}
    assert found["u@example.org"]["tenant"] == "acme"
    assert found["u@example.org"]["reason"] == "x"
    assert found["v@example.org"]["expires"] > 0
    assert found["w@example.org"]["reason"] == "imported"


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        (("add", "nobody"), None, "is not an address"),
        (("add", "u@example.org", "--for", "soon"), None, "--for"),
        (("import", "-"), "u@example.org\nnobody\n", "line 2"),
        (("import", "-"), "{broken\n", "line 1"),
        (("clear",), None, "--yes"),
    ],
)
def test_what_is_wrong_changes_nothing(
    rusmes: Any, installation: Path, arguments: tuple[str, ...], stdin: str | None, reason: str
) -> None:
    rusmes("suppression", "add", "kept@example.org")
    result = rusmes("suppression", *arguments, stdin=stdin)
    assert (result.status, reason in result.errors) == (2, True)
    assert addresses(rusmes) == ["kept@example.org"]
