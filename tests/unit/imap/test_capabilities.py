"""What is listed is documented, and what is switched off is neither listed nor served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rusmes.imap import capabilities
from rusmes.imap import command as c

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocols-imap.md"


@pytest.mark.parametrize("name", [*capabilities.ALWAYS, *capabilities.AFTER_LOGIN, "COMPRESS=DEFLATE", "APPENDLIMIT="])
def test_a_capability_is_in_the_table(name: str) -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    listed: set[str] = set()
    for row in rows:
        before = ""
        for told in re.findall(r"`([^`]+)`", row.split("|")[1]):
            # "`QUOTA=RES-STORAGE`, `-MESSAGE`" is QUOTA=RES-MESSAGE.
            before = before.rsplit("-", 1)[0] + told if told.startswith("-") else told
            listed.add(before)
    assert name in listed


def test_an_rfc_of_the_table_has_a_test_of_the_service() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    told = {number for row in rows for number in re.findall(r"\b(\d{4})\b", row.split("|")[2])}
    sessions = DOCUMENT.parents[1] / "tests" / "sessions" / "imap"
    proven: set[str] = set()
    for path in [*sessions.glob("*.py"), *sessions.glob("scripts/*.txt")]:
        proven.update(re.findall(r'(?:RFC |rfc\(")(\d{4})', path.read_text()))
    assert sorted(told - proven) == []


def test_no_name_twice() -> None:
    names = [*capabilities.ALWAYS, *capabilities.AFTER_LOGIN]
    assert len({name.upper() for name in names}) == len(names)


def test_before_login() -> None:
    closed = capabilities.before_login((), may_log_in=False, may_start_tls=True)
    assert closed[-2:] == ("STARTTLS", "LOGINDISABLED")
    opened = capabilities.before_login(("SCRAM-SHA-256", "PLAIN"), may_log_in=True, may_start_tls=False)
    assert opened[-2:] == ("AUTH=SCRAM-SHA-256", "AUTH=PLAIN")


@pytest.mark.parametrize("name", ["IDLE", "idle", "imap.IDLE"])
def test_one_is_switched_off(name: str) -> None:
    off = frozenset({name})
    assert "IDLE" not in capabilities.after_login(off)
    assert "NAMESPACE" in capabilities.after_login(off)
    assert capabilities.switched_off(off) == {c.Idle}


def test_a_family_is_switched_off() -> None:
    off = frozenset({"QUOTA"})
    assert not [name for name in capabilities.after_login(off) if name.partition("=")[0] == "QUOTA"]
    assert capabilities.switched_off(off) == {c.GetQuota, c.GetQuotaRoot, c.SetQuota}
