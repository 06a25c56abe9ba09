"""Whose mailbox an address means (RFC 5321 §4.5.1, RFC 5233)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from types import SimpleNamespace

import msgspec
import pytest

from rusmes.auth.directory import DomainDirectory
from rusmes.config.schema import Config, Domains
from rusmes.config.units import Targets
from rusmes.errors import ConfigError
from rusmes.model.address import Address
from rusmes.model.identity import Identity


class Accounts:
    """A backend that only knows addresses."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    async def deliverable(self, name: str) -> str:
        return self.names.get(name, "")

    def known(self, name: str) -> bool:
        return name in self.names

    async def find(self, name: str) -> Identity | None:
        return Identity(self.names[name]) if name in self.names else None


NAMES = {
    "alice@example.com": "alice@example.com",
    "a.smith@example.com": "alice@example.com",
    "bob@example.com": "bob@example.com",
    "shop+eu@example.com": "shop+eu@example.com",
}


def directory(**domains: object) -> DomainDirectory:
    values: dict[str, object] = {
        "aliases": {
            "sales@example.com": Targets(("alice@example.com", "carol@example.org")),
            "team@example.com": Targets(("team@example.com", "bob@example.com")),
            "bob@example.com": Targets(("bob@example.com", "archive@example.org")),
            "@example.net": Targets(("@example.com",)),
        },
    }
    config = Config(domain="example.com", domains=Domains(**(values | domains)))  # type: ignore[arg-type]
    return DomainDirectory(config, Accounts(NAMES))  # type: ignore[arg-type]


def account(where: DomainDirectory, local: str, domain: str = "example.com") -> str:
    found = where.account_of(Address(local, domain))
    return found if isinstance(found, str) else asyncio.run(found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("local", "domain", "expected"),
    [
        ("alice", "example.com", "alice@example.com"),
        ("ALICE", "example.com", "alice@example.com"),
        ("a.smith", "example.com", "alice@example.com"),
        ("alice+shop", "example.com", "alice@example.com"),
        ("alice+a+b", "example.com", "alice@example.com"),
        ("shop+eu", "example.com", "shop+eu@example.com"),
        ("alice", "example.net", "alice@example.com"),
        ("+alice", "example.com", ""),
        ("nobody", "example.com", ""),
        ("alice", "example.org", ""),
        ("sales", "example.com", ""),
        ("sales+x", "example.net", ""),
        ("postmaster", "example.com", "postmaster@example.com"),
        ("PostMaster", "", "postmaster@example.com"),
        ("postmaster", "example.net", "postmaster@example.com"),
        ("postmaster", "example.org", ""),
    ],
)
def test_account_of(local: str, domain: str, expected: str) -> None:
    assert account(directory(), local, domain) == expected


def test_local_domains() -> None:
    where = directory()
    assert where.is_local_domain("example.com")
    assert where.is_local_domain("example.net")
    assert where.is_local_domain("")
    assert not where.is_local_domain("example.org")
    assert not directory(local_domains=("example.net", "example.com")).is_local_domain("sub.example.com")


def test_aliases_expand_one_level() -> None:
    where = directory()
    expected = [Address("alice", "example.com"), Address("carol", "example.org")]
    for local, domain in (("sales", "example.com"), ("SALES", "example.net"), ("sales+x", "example.com")):
        assert list(where.expand(Address(local, domain)) or ()) == expected
    assert where.expand(Address("alice", "example.com")) is None
    assert where.expand(Address("sales", "example.org")) is None


def test_an_alias_that_names_itself_still_reaches_its_account() -> None:
    where = directory()
    bob = Address("bob", "example.com")
    assert account(where, "bob") == ""
    assert where.expand(bob) == (bob, Address("archive", "example.org"))
    assert asyncio.run(where.account_named(bob)) == "bob@example.com"
    assert asyncio.run(where.account_named(Address("team", "example.com"))) == ""


def test_an_account_hides_the_alias_of_its_base() -> None:
    where = directory(aliases={"shop@example.com": Targets(("alice@example.com",))})
    assert account(where, "shop+eu") == "shop+eu@example.com"
    assert where.expand(Address("shop+eu", "example.com")) is None
    assert where.expand(Address("shop+us", "example.com")) == (Address("alice", "example.com"),)


def test_catch_all() -> None:
    local = directory(catch_all={"example.com": "alice@example.com"})
    assert account(local, "nobody") == "alice@example.com"
    assert account(local, "nobody", "example.net") == "alice@example.com"
    assert account(local, "sales") == ""
    assert local.expand(Address("nobody", "example.com")) is None

    remote = directory(catch_all={"example.com": "all@example.org"})
    assert account(remote, "nobody") == ""
    assert remote.expand(Address("nobody", "example.com")) == (Address("all", "example.org"),)
    assert remote.expand(Address("alice+x", "example.com")) is None
    assert remote.expand(Address("postmaster", "example.com")) is None

    through_alias = directory(catch_all={"example.com": "sales@example.com"})
    assert account(through_alias, "nobody") == ""
    assert through_alias.expand(Address("nobody", "example.com")) == (Address("sales", "example.com"),)


@pytest.mark.rfc("5321", "4.5.1")
def test_postmaster_goes_where_the_operator_said() -> None:
    def configured(postmaster: str) -> DomainDirectory:
        config = Config(
            domain="example.com",
            postmaster=postmaster,
            domains=Domains(aliases={"root@example.com": Targets(("bob@example.com",))}),
        )
        return DomainDirectory(config, Accounts(NAMES))  # type: ignore[arg-type]

    assert account(configured("alice@example.com"), "postmaster") == "alice@example.com"
    assert account(configured("admin@example.com"), "postmaster") == "admin@example.com"
    assert account(configured("admin@example.com"), "admin") == "admin@example.com"
    assert asyncio.run(configured("admin@example.com").identity("admin@example.com")) is not None
    for target in ("ops@example.org", "root@example.com"):
        where = configured(target)
        assert account(where, "postmaster") == ""
        assert [str(address) for address in where.expand(Address("postmaster", "")) or ()] == [target]


def test_no_delimiter_no_sub_addresses() -> None:
    assert account(directory(recipient_delimiter=""), "alice+shop") == ""
    assert account(directory(recipient_delimiter="+-"), "alice-shop") == "alice@example.com"


def test_unicode_domains_are_a_labels_inside() -> None:
    where = directory(local_domains=("bücher.example",), aliases={"x@BÜCHER.example": Targets(("alice@example.com",))})
    assert where.is_local_domain("xn--bcher-kva.example")
    assert where.expand(Address("x", "xn--bcher-kva.example")) == (Address("alice", "example.com"),)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"aliases": {"@example.net": Targets(("alice@example.com",))}}, '"@example.net"'),
        ({"aliases": {"@example.net": Targets(("@example.org",))}}, '"@example.net"'),
        ({"aliases": {"@a.net": Targets(("@b.net",)), "@b.net": Targets(("@a.net",))}}, '"@a.net"'),
        ({"aliases": {"x@example.org": Targets(("alice@example.com",))}}, '"x@example.org"'),
        ({"aliases": {"x": Targets(("alice@example.com",))}}, '"x"'),
        ({"aliases": {"x@example.com": Targets(("alice",))}}, '"x@example.com"'),
        ({"catch_all": {"example.com": "alice"}}, "catch_all"),
        ({"local_domains": ("exa mple",)}, "local_domains"),
    ],
)
def test_bad_settings_name_their_key(values: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        directory(**values)
    assert key in caught.value.key


def test_a_bad_reload_changes_nothing() -> None:
    where = directory()
    config = Config(domain="example.org", domains=Domains(catch_all={"example.org": "nobody"}))
    with pytest.raises(ConfigError):
        where.apply(config)
    assert account(where, "alice") == "alice@example.com"
    where.apply(msgspec.structs.replace(config, domains=Domains()))
    assert not where.is_local_domain("example.com")


def test_a_return_address_has_its_account_and_leaves_no_question_open() -> None:
    """What the backend was asked before is awaited; a coroutine left over would be a warning."""
    bounces = Address("bounces", "example.com")
    returns = SimpleNamespace(
        address=bounces,
        account="bounces@example.com",
        is_return=lambda address: address == bounces,
        srs=SimpleNamespace(is_ours=lambda address: False),
    )
    where = directory()
    where.apply(Config(domain="example.com"), returns)  # type: ignore[arg-type]
    assert account(where, "bounces") == "bounces@example.com"
    assert account(where, "alice") == "alice@example.com"
    assert account(where, "nobody") == ""
    gc.collect()
