"""What a configuration allows: by listener, by network, by account."""

from __future__ import annotations

import pytest

from rusmes.model.address import Address
from rusmes.model.identity import Identity
from rusmes.smtp.commands.envelope import may_use_sender
from rusmes.smtp.commands.greeting import read_xclient
from rusmes.smtp.policy import MAX_TRUST_CACHE, Policy, network_of
from tests.sessions.harness import make_config, networks


def policy(listener: str = "mx", **changes: object) -> Policy:
    return Policy(make_config(**changes), listener, hostname="mx.example.com")  # type: ignore[arg-type]


def test_what_listeners_demand() -> None:
    mx, submission, lmtp = policy("mx"), policy("submission"), policy("lmtp")
    assert (mx.require_login, submission.require_login, lmtp.require_login) == (False, True, False)
    assert (mx.protocol, submission.protocol, lmtp.protocol) == ("smtp", "smtp", "lmtp")
    assert (bool(mx.mechanisms), bool(submission.mechanisms), bool(lmtp.mechanisms)) == (False, True, False)
    assert (mx.offers_starttls, submission.offers_starttls, lmtp.offers_starttls) == (True, True, True)
    assert policy("mx", smtp__require_auth=True).require_login
    assert not policy("mx", smtp__enable_starttls=False).offers_starttls
    assert policy("submission", smtp__enable_starttls=False).offers_starttls


def test_networks() -> None:
    rules = policy(
        security__relay_networks=networks("192.0.2.0/24", "2001:db8::/32"), server__proxy_networks=networks("10.0.0.1/32")
    )
    assert rules.trust_of("192.0.2.200").relay
    assert rules.trust_of("::ffff:192.0.2.200").relay
    assert rules.trust_of("2001:db8::1").relay
    assert not rules.trust_of("192.0.3.1").relay
    assert not rules.trust_of("nonsense").relay
    assert rules.trust_of("10.0.0.1").xclient
    assert rules.trust_of("").relay  # a unix socket: the permissions of its file have decided
    assert not rules.trust_of("").xclient
    assert rules.trust_of("127.0.0.1").plaintext_login
    assert not rules.trust_of("127.0.0.2").plaintext_login


def test_the_cache_of_networks_is_bounded() -> None:
    rules = policy()
    for number in range(MAX_TRUST_CACHE + 10):
        rules.trust_of(f"198.51.{number >> 8}.{number & 255}")
    assert len(rules._trust) <= MAX_TRUST_CACHE


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_network_of(address: str, network: str) -> None:
    assert network_of(address) == network


def test_login_in_the_clear() -> None:
    rules = policy("submission")
    near, far = rules.trust_of("127.0.0.1"), rules.trust_of("192.0.2.1")
    assert rules.may_login(near, tls=False)
    assert not rules.may_login(far, tls=False)
    assert rules.may_login(far, tls=True)
    assert rules.needs_tls(far, tls=False)
    assert not rules.needs_tls(near, tls=False)
    assert not policy("submission", submission__require_tls=False).needs_tls(far, tls=False)
    # No key lets a stranger log in without TLS.
    assert not policy("submission", submission__require_tls=False).may_login(far, tls=False)


@pytest.mark.parametrize(
    ("sender", "check", "allowed"),
    [
        ("alice@example.com", "own-addresses", True),
        ("Alice@example.com", "own-addresses", True),
        ("alice+tag@example.com", "own-addresses", True),
        ("sales@example.org", "own-addresses", True),
        ("sales+x@example.org", "own-addresses", True),
        ("+alice@example.com", "own-addresses", False),
        ("alice@example.org", "own-addresses", False),
        ("alicex@example.com", "own-addresses", False),
        ("bob@example.com", "own-domain", True),
        ("bob@example.org", "own-domain", True),
        ("bob@example.net", "own-domain", False),
        ("bob@example.net", "any", True),
    ],
)
def test_senders(sender: str, check: str, allowed: bool) -> None:
    identity = Identity("alice@example.com", frozenset({"sales@example.org"}))
    local, _, domain = sender.rpartition("@")
    assert may_use_sender(identity, Address(local, domain), check, "+") is allowed
    assert may_use_sender(identity, None, check, "+")


def test_sub_addresses_end_where_the_delimiter_is_off() -> None:
    assert not may_use_sender(Identity("alice@example.com"), Address("alice+x", "example.com"), "own-addresses", "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ADDR=192.0.2.1 PORT=25", {"ADDR": "192.0.2.1", "PORT": "25"}),
        ("addr=IPV6:2001:DB8::1", {"ADDR": "2001:db8::1"}),
        ("NAME=[UNAVAILABLE] HELO=[tempunavail]", {"NAME": "", "HELO": ""}),
        ("HELO=a+20b", {"HELO": "a b"}),
        ("HELO=a+0Ab", None),
        ("HELO=a+7Fb", None),
        ("PORT=65536", None),
        ("PORT=٣", None),
        ("ADDR=mx.example.com", None),
        ("ADDR", None),
        ("ADDR=192.0.2.1 ADDR=192.0.2.2", None),
        ("DESTADDR=192.0.2.1", None),
        ("HELO=" + "x" * 256, None),
        ("", None),
    ],
)
def test_xclient(text: str, found: dict[str, str] | None) -> None:
    assert read_xclient(text) == found
