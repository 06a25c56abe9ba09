"""`rusmes domain` and `rusmes alias` change the file and keep what the operator wrote around it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from rusmes.config.load import load_config


def test_a_domain_is_added_and_the_comments_stay(rusmes: Any, installation: Path) -> None:
    before = installation.read_text()
    os.chmod(installation, 0o604)
    result = rusmes("domain", "add", "Bücher.example")
    assert result.status == 0
    assert "when the server starts" in result.output
    after = installation.read_text()
    assert [line for line in before.splitlines() if "local_domains" not in line] == [
        line for line in after.splitlines() if "local_domains" not in line
    ]
    assert load_config(str(installation), environ={}).local_domains == ("example.com", "xn--bcher-kva.example")
    assert stat.S_IMODE(installation.stat().st_mode) == 0o604
    assert "[] = the domain above" in after
    assert sorted(path.name for path in installation.parent.iterdir()) == ["data", "rusmes.toml"]


def test_a_domain_is_deleted_when_nothing_hangs_on_it(rusmes: Any, installation: Path) -> None:
    rusmes("domain", "add", "other.example")
    rusmes("alias", "add", "sales@other.example", "alice@example.com")
    result = rusmes("domain", "delete", "other.example")
    assert (result.status, "still has aliases" in result.errors) == (2, True)
    rusmes("alias", "delete", "sales@other.example")
    rusmes("user", "add", "bob@other.example", "--generate")
    result = rusmes("domain", "delete", "other.example")
    assert (result.status, "--yes" in result.errors) == (2, True)
    assert rusmes("domain", "delete", "other.example", "--yes").status == 0
    assert load_config(str(installation), environ={}).local_domains == ("example.com",)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("domain", "add", "example.com"), "is local already"),
        (("domain", "add", "not a domain"), "is not a domain"),
        (("domain", "delete", "example.com"), "is the primary domain"),
        (("domain", "delete", "exampel.com"), 'did you mean "example.com"?'),
        (("domain", "catch-all", "example.com"), "give an address, or --none"),
        (("domain", "catch-all", "example.com", "--none"), "has no catch-all"),
        (("domain", "catch-all", "other.example", "a@example.com"), "is not a local domain"),
        (("alias", "add", "sales@example.com", "nobody"), "is not an address"),
        (("alias", "add", "sales@other.example", "alice@example.com"), "is not a local domain"),
        (("alias", "add", "@old.example", "alice@example.com"), "@other.example"),
        (("alias", "delete", "sales@example.com"), "there is no alias"),
    ],
)
def test_a_refused_change_leaves_the_file_alone(
    rusmes: Any, installation: Path, arguments: tuple[str, ...], reason: str
) -> None:
    before = installation.read_bytes()
    result = rusmes(*arguments)
    assert result.status == 2
    assert reason in result.errors
    assert installation.read_bytes() == before


def test_aliases_grow_and_shrink(rusmes: Any) -> None:
    def aliases() -> dict[str, list[str]]:
        return {row["alias"]: row["targets"] for row in rusmes("alias", "list", "--json").document}

    rusmes("alias", "add", "Sales@Example.com", "alice@example.com")
    rusmes("alias", "add", "sales@example.com", "bob@elsewhere.example", "alice@example.com")
    rusmes("alias", "add", "@old.example", "@example.com")
    rusmes("domain", "catch-all", "example.com", "alice@example.com")
    assert aliases() == {
        "sales@example.com": ["alice@example.com", "bob@elsewhere.example"],
        "@old.example": ["@example.com"],
        "*@example.com": ["alice@example.com"],
    }
    assert rusmes("alias", "add", "sales@example.com", "alice@example.com").status == 2
    rusmes("alias", "delete", "sales@example.com", "alice@example.com")
    assert aliases()["sales@example.com"] == ["bob@elsewhere.example"]
    assert rusmes("alias", "delete", "sales@example.com", "alice@example.com").status == 2
    rusmes("alias", "delete", "sales@example.com", "bob@elsewhere.example")
    rusmes("alias", "delete", "@old.example")
    rusmes("domain", "catch-all", "example.com", "--none")
    assert aliases() == {}
    assert "There is no alias" in rusmes("alias", "list").output


def test_domains_are_listed_with_what_they_hold(rusmes: Any) -> None:
    rusmes("domain", "add", "other.example")
    rusmes("domain", "catch-all", "other.example", "alice@example.com")
    rows = {row["domain"]: row for row in rusmes("domain", "list", "--json").document}
    assert rows["example.com"] == {"domain": "example.com", "primary": True, "accounts": 1, "aliases": 0, "catch_all": ""}
    assert rows["other.example"]["catch_all"] == "alice@example.com"
    assert "primary" in rusmes("domain", "list").output


def test_a_file_that_cannot_be_edited_says_so(rusmes: Any, installation: Path) -> None:
    text = installation.read_text().replace("aliases = {}", 'aliases = {\n  "a@example.com" = "alice@example.com",\n}')
    installation.write_text(text)
    assert rusmes("check-config").status == 0
    result = rusmes("domain", "add", "other.example")
    if result.status == 0:  # a tomlkit that knows TOML 1.1
        assert load_config(str(installation), environ={}).local_domains == ("example.com", "other.example")
    else:
        assert (result.status, "edit the file by hand" in result.errors) == (2, True)
        assert installation.read_text() == text
