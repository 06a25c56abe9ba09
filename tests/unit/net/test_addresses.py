"""Addresses as keys, and sets of networks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.net.addresses import Networks, client_key, plain_text


def test_ipv6_clients_are_counted_by_their_64() -> None:
    assert client_key("2001:db8:1:2::1") == client_key("2001:db8:1:2:ffff::9")
    assert client_key("2001:db8:1:2::1") != client_key("2001:db8:1:3::1")
    assert client_key("192.0.2.1") != client_key("192.0.2.2")
    assert client_key("::ffff:192.0.2.1") == client_key("192.0.2.1")
    assert client_key("fe80::1%eth0") == client_key("fe80::1")
    assert client_key("") == b""
    assert client_key("no address") == b""


def test_an_address_has_one_text() -> None:
    assert plain_text("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_text("2001:DB8:0::1") == "2001:db8::1"
    assert plain_text("fe80::1%eth0") == "fe80::1"
    assert plain_text("192.0.2.1") == "192.0.2.1"


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        (["192.0.2.0/24"], ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.7"], ["192.0.3.0", "::1", "", "x"]),
        (["2001:db8::/32", "10.0.0.1/32"], ["2001:db8:ffff::1", "10.0.0.1"], ["2001:db9::1", "10.0.0.2"]),
        (["0.0.0.0/0"], ["1.2.3.4"], ["::1"]),
        (["::/0"], ["::1"], ["1.2.3.4"]),
        (["::ffff:192.0.2.0/120"], ["192.0.2.9", "::ffff:192.0.2.9"], ["192.0.3.9"]),
        ([], [], ["1.2.3.4", ""]),
    ],
)
def test_networks(networks: list[str], inside: list[str], outside: list[str]) -> None:
    made = Networks([ipaddress.ip_network(text) for text in networks])
    assert all(address in made for address in inside)
    assert not any(address in made for address in outside)
    assert bool(made) == bool(networks)


@given(st.lists(st.ip_addresses(v=4).flatmap(lambda a: st.integers(0, 32).map(lambda n: f"{a}/{n}"))), st.ip_addresses(v=4))
def test_networks_agree_with_ipaddress(texts: list[str], address: ipaddress.IPv4Address) -> None:
    networks = [ipaddress.ip_network(text, strict=False) for text in texts]
    assert (str(address) in Networks(networks)) == any(address in network for network in networks)
