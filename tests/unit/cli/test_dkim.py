"""`rusmes dkim`: keys are made, shown, and replaced in two halves."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rusmes.cli.dns_records import Record
from rusmes.config.load import load_config
from rusmes.mailet.notary import Keyring, check_keys
from tests.sinks.name_server import NameServer


def keys(installation: Path) -> list[str]:
    return sorted(path.name for path in (installation.parent / "data" / "dkim").iterdir())


@contextmanager
def zone(installation: Path, records: dict[tuple[str, str], list[str]]) -> Iterator[None]:
    """A name server in a thread of its own: the program under test runs its own loop."""
    started, stop = threading.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async with NameServer() as server:
            server.records.update(records)
            address.append(server.address)
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    text = installation.read_text()
    installation.write_text(f'{text}\n[delivery]\nresolver = ["{address[0]}"]\n')
    try:
        yield
    finally:
        installation.write_text(text)
        stop.set()
        thread.join()


def test_keys_of_a_further_domain(rusmes: Any, installation: Path) -> None:
    made = rusmes("dkim", "new", "Example.Net", "--json").document
    assert [(one["domain"], one["algorithm"], one["bits"], one["state"]) for one in made] == [
        ("example.net", "rsa-sha256", 2048, "in use"), ("example.net", "ed25519-sha256", 256, "in use"),
    ]  # fmt: skip
    for one in made:
        assert stat.S_IMODE(os.stat(one["path"]).st_mode) == 0o600
        assert one["name"] == f"{one['selector']}._domainkey.example.net"
    config = load_config(str(installation))
    assert set(Keyring.of(config).places) == {"example.com", "example.net"}
    assert check_keys(config) == []
    shown = rusmes("dkim", "show", "example.net", "--json").document
    assert sorted(one["record"] for one in shown) == sorted(one["record"] for one in made)
    again = rusmes("dkim", "new", "example.net")
    assert again.status == 2
    assert "rotate" in again.errors
    assert len(rusmes("dkim", "show", "--json").document) == 4


def test_a_selector_of_ones_own(rusmes: Any) -> None:
    made = rusmes("dkim", "new", "example.net", "--algorithm", "ed25519", "--selector", "mine", "--json").document
    assert [one["selector"] for one in made] == ["mine"]
    for bad in (("--selector", "a b", "--algorithm", "rsa"), ("--selector", "both")):
        assert rusmes("dkim", "new", "example.org", *bad).status == 2


def test_people_see_records(rusmes: Any) -> None:
    printed = rusmes("dkim", "show")
    assert printed.status == 0
    assert "._domainkey.example.com. TXT " in printed.output
    assert "ed25519-sha256" in printed.output


def test_a_rotation(rusmes: Any, installation: Path) -> None:
    before = keys(installation)
    waiting = rusmes("dkim", "rotate", "example.com", "--json").document
    assert {one["state"] for one in waiting} == {"waiting"}
    assert not {one["selector"] for one in waiting} & {name.split(".")[2] for name in before}
    config = load_config(str(installation))
    assert {place.path.rpartition("/")[2] for place in Keyring.of(config).places["example.com"]} == set(before)

    records = {
        (f"{one['name']}.", "TXT"): [Record("", "TXT", one["record"], "").line().partition("TXT ")[2]] for one in waiting
    }
    published = dict(list(records.items())[:1])
    for zone_records in ({}, published):
        with zone(installation, zone_records):
            refused = rusmes("dkim", "rotate", "example.com")
            assert refused.status == 2
            assert "missing" in refused.errors
    with zone(installation, {**published, list(records)[1]: ['"v=DKIM1; k=ed25519; p=AAAA"']}):
        states = {one["selector"]: one["dns"] for one in rusmes("dkim", "show", "--check", "--json").document}
        assert [states[one["selector"]] for one in waiting] == ["published", "another key"]
    assert set(before) < set(keys(installation))

    with zone(installation, records):
        done = rusmes("dkim", "rotate", "example.com", "--json").document
    assert set(done["selectors"]) == {one["selector"] for one in waiting}
    assert {place.selector for place in Keyring.of(config).places["example.com"]} == set(done["selectors"])
    assert sorted(name for name in keys(installation) if name.endswith(".old")) == [f"{name}.old" for name in before]
    assert {one["state"] for one in rusmes("dkim", "show", "--json").document} == {"in use", "retired"}


def test_force(rusmes: Any, installation: Path) -> None:
    rusmes("dkim", "rotate", "example.com")
    with zone(installation, {}):
        assert rusmes("dkim", "rotate", "example.com", "--force").status == 0
    assert sum(name.endswith(".old") for name in keys(installation)) == 2


@pytest.mark.parametrize("arguments", [("rotate", "example.org"), ("new", "not a domain"), ("rotate", "")])
def test_refusals(rusmes: Any, arguments: tuple[str, ...]) -> None:
    assert rusmes("dkim", *arguments).status == 2
