"""Postfix's maps become routes and aliases, or a line of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rusmes.cli.postfix_maps import Converter, lines_of
from rusmes.config.load import load_config
from rusmes.config.schema import Config, Domains

TRANSPORT = """\
# where mail goes
example.org        smtp:[mx.example.org]:2525
.example.org       relay:[gate.example.net]
Sub.Example.org
    smtp:[mx.example.org]:2525
.deep.example.org  :[mx.example.org]:submission
looked.up          smtp:example.net
two.example        smtp:[a.example]:25, [b.example]:25
v6.example         smtp:[2001:db8::1]
plain.example      smtp:
ok.example.org     :
nowhere.example    error:5.1.2 no such place
lists.example      mailman:
cyrus.example      lmtp:unix:/var/imap/lmtp
user@example.org   smtp:[x.example]
bad.example        smtp:[x.example]:none
-bad-.example      smtp:[x.example]
/^pattern$/        smtp:[x.example]
empty.example
*                  smtp:[hub.example.net]:587
"""

VIRTUAL = """\
virtual.example    anything
info@virtual.example   alice@example.com, bob@else.example
sales              alice
@virtual.example   carol@else.example
@old.example       @example.com
@several.example   a@x.example b@x.example
odd@virtual.example  "a b"@x.example
/pattern/          x@x.example
nothing@virtual.example
"""

ALIASES = """\
# See man 5 aliases
postmaster: root
root:       alice, carol@else.example,
   dave@else.example
mailer-daemon: postmaster
robot:      "|/usr/bin/robot --name 'a, b'", alice
archive:    /var/mail/archive
staff:      :include:/etc/staff
"spaced name": alice
bin: \\root
"""


def converted(config: Config | None = None) -> Converter:
    return Converter(config or Config(domain="example.com"))


def test_lines() -> None:
    text = "# c\n\n a b\nkey\tvalue one\n# comment between\n  two\n\nlast v"
    assert [(line.number, line.key, line.value) for line in lines_of(text)] == [
        (3, "a", "b"), (4, "key", "value one two"), (8, "last", "v"),
    ]  # fmt: skip
    assert list(lines_of("# nothing\n\n")) == []


def test_routes_stand_in_the_order_of_what_is_more_specific() -> None:
    converter = converted()
    converter.add_transport("transport", TRANSPORT)
    assert [(r.name, r.host, r.port, r.domains) for r in converter.result.routes] == [
        ("mx-example-org", "mx.example.org", 2525, ["example.org", "sub.example.org"]),
        ("example-net", "example.net", 25, ["looked.up"]),
        ("a-example", "a.example", 25, ["two.example"]),
        ("2001-db8-1", "2001:db8::1", 25, ["v6.example"]),
        ("mx-example-org-2", "mx.example.org", 587, ["*.deep.example.org"]),
        ("gate-example-net", "gate.example.net", 25, ["*.example.org"]),
        ("hub-example-net", "hub.example.net", 587, ["*"]),
    ]
    remarks = {remark.entry.split()[0]: (remark.kind, remark.reason) for remark in converter.result.remarks}
    assert {entry for entry, (kind, _) in remarks.items() if kind == "changed"} == {"looked.up", "two.example"}
    for entry, reason in [
        ("plain.example", "exception"), ("ok.example.org", "exception"), ("nowhere.example", "an error"),
        ("lists.example", "mailman"),
        ("cyrus.example", "LMTP"), ("user@example.org", "one address"), ("bad.example", "no host"), ("-bad-.example", "label"),
        ("/^pattern$/", "regular"), ("empty.example", "no value"),
    ]:  # fmt: skip
        assert remarks[entry][0] == "left out"
        assert reason in remarks[entry][1]
    assert converter.result.remarks[0].place == "transport:7"


def test_an_exception_from_nothing_is_no_matter() -> None:
    converter = converted()
    converter.add_transport("transport", "plain.example smtp:\n")
    assert converter.result.is_empty
    assert converter.result.remarks == []


def test_virtual_aliases() -> None:
    converter = converted()
    converter.add_virtual("virtual", VIRTUAL)
    found = converter.result
    assert found.local_domains == ["virtual.example"]
    assert found.aliases == {
        "info@virtual.example": ["alice@example.com", "bob@else.example"],
        "sales@example.com": ["alice@example.com"],
        "@old.example": ["@example.com"],
        "odd@virtual.example": ['"a b"@x.example'],
    }
    assert found.catch_all == {"virtual.example": "carol@else.example"}
    assert [remark.place for remark in found.remarks] == ["virtual:6", "virtual:8", "virtual:9"]


def test_local_aliases() -> None:
    converter = converted()
    converter.add_aliases("aliases", ALIASES)
    assert converter.result.aliases == {
        "postmaster@example.com": ["root@example.com"],
        "root@example.com": ["alice@example.com", "carol@else.example", "dave@else.example"],
        "mailer-daemon@example.com": ["postmaster@example.com"],
        "robot@example.com": ["alice@example.com"],
        "bin@example.com": ["root@example.com"],
    }
    reasons = [(remark.entry, remark.reason) for remark in converter.result.remarks]
    assert reasons[0] == ("robot |/usr/bin/robot --name 'a, b'", "a pipe to a program")
    assert [reason.split()[0] for _, reason in reasons] == ["a", "a", "a", '"spaced']


def test_what_is_there_already_stays() -> None:
    config = Config(
        domain="example.com", domains=Domains(aliases={"root@example.com": ("x@x.org",)}, catch_all={"a.org": "b@b.org"})
    )
    converter = converted(config)
    converter.add_aliases("aliases", "root: alice\n")
    converter.add_virtual("virtual", "root x@x.org\n@a.org b@b.org\n@a.org c@c.org\n")
    assert converter.result.is_empty
    assert ["already" in remark.reason for remark in converter.result.remarks] == [True, True]


@pytest.fixture
def maps(tmp_path: Path) -> list[str]:
    options = []
    for name, text in (("transport", TRANSPORT), ("virtual", VIRTUAL), ("aliases", ALIASES)):
        (tmp_path / name).write_text(text)
        options += [f"--{name}", str(tmp_path / name)]
    return options


def test_maps_are_shown_and_written(rusmes: Any, installation: Path, maps: list[str]) -> None:
    before = installation.read_text()
    output = rusmes("import", "postfix", *maps).output
    assert "[[delivery.route]]" in output
    assert "a pipe to a program" in output
    assert installation.read_text() == before
    document = rusmes("import", "postfix", *maps, "--write", "--json").document
    assert document["written"]
    config = load_config(str(installation), environ={})
    assert [route.name for route in config.delivery.route] == [route["name"] for route in document["routes"]]
    assert config.delivery.route[0].use_tls is False
    assert tuple(config.domains.aliases["sales@example.com"]) == ("alice@example.com",)
    assert config.domains.catch_all["virtual.example"] == "carol@else.example"
    assert set(config.local_domains) == {"example.com", "virtual.example"}
    comments = [line for line in before.splitlines() if line.startswith("#")]
    assert comments
    assert [line for line in installation.read_text().splitlines() if line.startswith("#")] == comments
    again = rusmes("import", "postfix", *maps, "--write").output
    assert "Nothing is new" in again
    assert load_config(str(installation), environ={}) == config


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [((), "at least one"), (("--aliases", "/does/not/exist"), "does not exist"), (("--aliases", "BINARY"), "UTF-8")],
)
def test_what_cannot_be_imported(rusmes: Any, tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    binary = tmp_path / "aliases.db"
    binary.write_bytes(b"\x00\xff\xfe")
    result = rusmes("import", "postfix", *(str(binary) if argument == "BINARY" else argument for argument in arguments))
    assert (result.status, result.output) == (2, "")
    assert reason in result.errors
