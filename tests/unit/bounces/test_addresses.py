"""The key of the addresses that lead back: made once, the same for all, never by halves."""

import multiprocessing
from types import SimpleNamespace

import pytest

from rusmes.bounces.addresses import SECRET_NAME, ReturnAddresses, secrets_of
from rusmes.clock import FakeClock
from rusmes.config.returns import Returns
from rusmes.errors import ConfigError
from rusmes.model.address import Address


def config(path, **returns):
    return SimpleNamespace(
        returns=Returns(address="bounces@example.com", **returns), domain="example.com", storage=SimpleNamespace(path=str(path))
    )


def make(path):
    return secrets_of(config(path), create=True)


def test_processes_that_start_together_have_one_key(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        keys = set(pool.map(make, [tmp_path / "data"] * 8))
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == [SECRET_NAME]
    assert (tmp_path / "data" / SECRET_NAME).stat().st_mode & 0o777 == 0o600
    assert make(tmp_path / "data") in keys


def test_a_check_touches_nothing(tmp_path):
    assert secrets_of(config(tmp_path), create=False) != secrets_of(config(tmp_path), create=False)
    assert not list(tmp_path.iterdir())


def test_a_damaged_key_is_named(tmp_path):
    (tmp_path / SECRET_NAME).write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 of 32 bytes"):
        make(tmp_path)


def test_addresses_of_a_former_key_are_still_good(tmp_path):
    clock = FakeClock()
    before = ReturnAddresses(config(tmp_path), (b"old",), clock).make(Address("u", "example.org"))
    keys = secrets_of(config(tmp_path, secrets=("new", "old")), create=True)
    assert not list(tmp_path.iterdir()), "keys of the configuration need no file"
    addresses = ReturnAddresses(config(tmp_path), keys, clock)
    assert addresses.read(before).recipient == Address("u", "example.org")
    assert addresses.make(Address("u", "example.org")) != before
