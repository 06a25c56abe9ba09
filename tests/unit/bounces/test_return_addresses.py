"""VERP and SRS: addresses that lead back, and that nobody else can make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.bounces.srs import Rewriter
from rusmes.bounces.verp import MAX_LOCAL, ReturnPaths, tenant_key
from rusmes.model.address import Address

NOW = 1_800_000_000.0
DAY = 86400.0
PATHS = ReturnPaths(Address("bounces", "example.com"), b"secret", max_age_days=30)
SRS = Rewriter("example.com", (b"secret",), max_age_days=21)
LOCALS = st.text("abcdefghijklmnopqrstuvwxyz0123456789.+-=_", min_size=1, max_size=30)


def test_a_return_path_gives_recipient_and_tenant_back():
    made = PATHS.make(Address("User", "example.org"), NOW, "acme")
    assert str(made).endswith("-user=example.org@example.com")
    found = PATHS.read(made, NOW + 3 * DAY)
    assert (found.recipient, found.tenant, found.age_days) == (Address("user", "example.org"), tenant_key("acme"), 3)


@given(LOCALS)
def test_every_plain_recipient_comes_back_or_has_no_room(local):
    made = PATHS.make(Address(local, "example.org"), NOW)
    assert len(made.local) <= MAX_LOCAL
    found = PATHS.read(Address(made.local.upper(), made.domain), NOW)
    assert found.recipient in (Address(local, "example.org"), None)


@pytest.mark.parametrize(
    "recipient",
    [
        Address("u" * 60, "example.org"),
        Address("jörg", "example.org"),
        Address("a b", "example.org"),
        Address("u", "[192.0.2.1]"),
    ],
)
def test_a_recipient_without_room_is_left_out(recipient):
    found = PATHS.read(PATHS.make(recipient, NOW), NOW)
    assert found is not None
    assert found.recipient is None


def test_forged_and_old_return_paths_are_refused():
    made = PATHS.make(Address("user", "example.org"), NOW)
    assert PATHS.read(Address(made.local.replace("user", "other"), made.domain), NOW) is None
    assert PATHS.read(Address(made.local, "example.net"), NOW) is None
    assert PATHS.read(made, NOW + 31 * DAY) is None
    assert PATHS.read(made, NOW - 2 * DAY) is None
    assert ReturnPaths(Address("bounces", "example.com"), b"other").read(made, NOW) is None
    for local in (
        "bounces",
        "bounces+",
        "bounces+x",
        "bounces+----------------",
        "bounces+" + "a" * 16 + "-",
        "bounces+ä" + "a" * 15 + "-",
    ):
        assert PATHS.read(Address(local, "example.com"), NOW) is None


def test_the_year_2149_is_a_day_like_every_other():
    turn = 65536 * DAY
    made = PATHS.make(Address("user", "example.org"), turn - DAY)
    assert PATHS.read(made, turn + DAY).age_days == 2


@given(LOCALS)
def test_srs_leads_back(local):
    sender = Address(local, "example.org")
    try:
        made = SRS.forward(sender, NOW)
    except ValueError:
        assert len(local) > 20
        return
    assert len(made.local) <= 64
    assert SRS.is_ours(made)
    back = SRS.reverse(made, NOW + 20 * DAY)
    if local[:5].upper() in ("SRS0=", "SRS0+", "SRS0-", "SRS1=", "SRS1+", "SRS1-"):
        return
    assert back == sender


def test_a_second_forwarder_leads_past_the_first_rewriting():
    first = Rewriter("first.example", (b"one",))
    made = first.forward(Address("user", "origin.example"), NOW)
    second = SRS.forward(made, NOW)
    assert second.local.startswith("SRS1=")
    assert "=first.example==" in second.local
    assert SRS.reverse(second, NOW) == made
    third = Rewriter("third.example", (b"three",)).forward(second, NOW)
    assert "=first.example==" in third.local, "the second forwarder is left out"
    assert Rewriter("third.example", (b"three",)).reverse(third, NOW) == made


def test_case_changes_on_the_way_do_not_matter():
    made = SRS.forward(Address("user", "example.org"), NOW)
    assert SRS.reverse(Address(made.local.lower(), made.domain), NOW) == Address("user", "example.org")


def test_forged_and_old_srs_addresses_lead_nowhere():
    made = SRS.forward(Address("user", "example.org"), NOW)
    assert SRS.reverse(made, NOW + 22 * DAY) is None
    assert SRS.reverse(Address(made.local.replace("user", "other"), made.domain), NOW) is None
    assert SRS.reverse(Address(made.local, "example.net"), NOW) is None
    for local in ("SRS0=", "SRS0=x", "SRS0=aaaaaa=", "SRS0=aaaaaa=AA=example.org=user", "SRS1=aaaaaa=a==b", "SRS0"):
        assert SRS.reverse(Address(local, "example.com"), NOW) is None


def test_a_new_secret_reads_the_addresses_of_the_old_one():
    made = SRS.forward(Address("user", "example.org"), NOW)
    rotated = Rewriter("example.com", (b"new", b"secret"))
    assert rotated.reverse(made, NOW) == Address("user", "example.org")
    assert rotated.forward(Address("user", "example.org"), NOW) != made
    with pytest.raises(ValueError, match="secret"):
        Rewriter("example.com", ())
