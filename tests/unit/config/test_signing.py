"""[dkim]: names in their one form, paths made whole, and what is refused."""

from __future__ import annotations

import pytest

from rusmes.config.diff import compare
from rusmes.config.load import parse_config
from rusmes.config.problems import InvalidConfig
from rusmes.config.schema import Config

BASE = 'domain = "example.com"\n[storage]\npath = "/data"\n'


def parsed(text: str) -> Config:
    return parse_config(BASE + text, environ={}, path="/etc/rusmes/rusmes.toml")


def test_names_and_paths() -> None:
    text = '[dkim]\nseal_domain = "X.org"\n[[dkim.key]]\ndomain = "Bücher.Example"\nselector = "S1.Sub"\npath = "keys/a.pem"\n'
    dkim = parsed(text).dkim
    (key,) = dkim.key
    assert (key.domain, key.selector, key.path) == ("xn--bcher-kva.example", "s1.sub", "/etc/rusmes/keys/a.pem")
    assert dkim.seal_domain == "x.org"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('headers = ["From", "To:"]', "no name of a header field"),
        ('oversign = ["a b"]', "no name of a header field"),
        ('seal_domain = "a b"', "not a domain"),
        ('canonicalization = "lax/lax"', "canonicalization"),
        ("threads = 65", "threads"),
        ('key = [{ domain = "a.org", selector = "a b", path = "/k" }]', "no selector"),
        ('key = [{ domain = "a b", selector = "s", path = "/k" }]', "not a domain"),
        (
            'key = [{ domain = "a.org", selector = "s", path = "/k" }, { domain = "A.org", selector = "S", path = "/l" }]',
            "has a key already",
        ),
        ('key = [{ domain = "a.org", selector = "s" }]', "path"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidConfig) as error:
        parsed(f"[dkim]\n{text}\n")
    assert reason in str(error.value)


def test_received_is_warned_of() -> None:
    warnings = parsed('[dkim]\nheaders = ["From", "Received"]\n').warnings
    assert any("Received" in warning for warning in warnings)


def test_all_but_threads_is_reloaded() -> None:
    before, after = parsed(""), parsed('[dkim]\nexpire = "7d"\nthreads = 3\n')
    changes = compare(before, after)
    assert [change.key for change in changes.applied] == ["dkim.expire"]
    assert [change.key for change in changes.restart] == ["dkim.threads"]


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ('tls = "dane"\nresolver = ["192.0.2.53"]', True),
        ('tls = "dane"\nresolver = ["192.0.2.53", "127.0.0.1:5353"]', False),
        ('tls = "dane"\nresolver = ["192.0.2.53"]\ntrusted_resolvers = ["192.0.2.0/24"]', False),
        ('resolver = ["192.0.2.53"]', False),
        ('resolver = ["192.0.2.53"]\nsite = [{ match = ["x.org"], tls = "dane" }]', True),
    ],
)
def test_dane_wants_a_name_server_that_is_trusted(text: str, warned: bool) -> None:
    warnings = parsed(f"[delivery]\n{text}\n").warnings
    assert any("trusted_resolvers" in warning for warning in warnings) is warned


def test_the_sender_of_reports_is_an_address() -> None:
    with pytest.raises(InvalidConfig, match="tls_report_from"):
        parsed('[delivery]\ntls_report_from = "nobody"\n')
