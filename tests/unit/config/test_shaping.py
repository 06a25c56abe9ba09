"""Shaping files lose a wrong entry, rusmes.toml is refused; patterns on replies are bounded in time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rusmes.config.load import load_config, parse_config
from rusmes.config.problems import all_problems
from rusmes.config.replypattern import MAX_TEXT, compile_reply_pattern
from rusmes.config.schema import Config, Provider, Rule, Site
from rusmes.config.shaping import BUNDLED, parse_shaping, with_kept_files
from rusmes.errors import ConfigError

DOMAIN = 'domain = "example.com"\n'


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(DOMAIN + text, environ={}, base="/")
    return [f"{problem.key}: {problem.reason}" for problem in all_problems(caught.value)]


def test_the_bundled_rules_are_all_right() -> None:
    entries, problems = parse_shaping(Path(BUNDLED).read_text(), BUNDLED)
    assert problems == []
    providers = {one.entry.name: one.entry for one in entries if isinstance(one.entry, Provider)}
    assert {
        "google",
        "yahoo",
        "outlook",
        "microsoft365",
        "apple",
        "comcast",
        "gmx",
        "orange",
        "mail.ru",
        "yandex",
        "qq",
    } <= set(providers)
    rules = [one.entry for one in entries if isinstance(one.entry, Rule)]
    assert all(rule.provider in {"", *providers} for rule in rules)
    assert len({rule.name for rule in rules}) == len(rules)
    lines = Path(BUNDLED).read_text().splitlines()
    assert all(lines[one.line - 1].startswith("[[") for one in entries)


def test_bundled_rules_are_in_the_configuration_and_can_be_switched_off() -> None:
    assert parse_config(DOMAIN, environ={}, base="/").shaping
    assert parse_config(DOMAIN + "[delivery]\nbundled_shaping = false\n", environ={}, base="/").shaping == ()
    assert Config().shaping == ()


def test_a_wrong_entry_of_a_file_is_skipped_and_told(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[provider]]\nname = "good"\nmx = ["*.good.example"]\nconnections_per_site = 3\n\n'
        '[[provider]]\nname = "bad"\nmx = ["*.b_d.example"]\n\n'
        '[[site]]\nmatch = ["x.example"]\nconections_per_site = 3\n\n'
        '[[rule]]\nreply = "(a+)+"\n\n'
        '[[rule]]\nreply = "slow down"\nprovider = "nobody"\n\n'
        '[[rule]]\nreply = "slow down"\nprovider = "good"\n\n'
        "[[nonsense]]\nx = 1\n"
    )
    file = tmp_path / "rusmes.toml"
    file.write_text(f'{DOMAIN}[delivery]\nbundled_shaping = false\nshaping_files = ["own.toml", "{tmp_path}/missing.toml"]\n')
    config = load_config(str(file), environ={})
    assert [type(one.entry) for one in config.shaping] == [Provider, Rule]
    assert [one.line for one in config.shaping] == [1, 21]
    told = "\n".join(config.shaping_problems)
    for line, words in (
        (8, "is not a domain"),
        (12, 'did you mean "connections_per_site"'),
        (15, "for ever"),
        (17, "nobody"),
        (25, "unknown key"),
    ):
        assert f"own.toml:{line}: " in told, told
        assert words in told
    assert "missing.toml: cannot be used: No such file" in told
    assert set(config.shaping_problems) <= set(config.warnings)


def test_a_file_that_is_no_toml_is_skipped_with_what_depends_on_it(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[[provider\n")
    text = f'{DOMAIN}[delivery]\nshaping_files = ["{tmp_path}/own.toml"]\n[[delivery.site]]\nprovider = "mine"\n'
    config = parse_config(text, environ={}, base="/")
    assert "is no TOML" in config.shaping_problems[0]
    assert 'delivery.site[0].provider: there is no provider "mine"' in config.warnings


def test_a_reload_keeps_what_was_read_of_a_file_that_cannot_be_used_now(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.toml" for name in ("a", "b")}
    for name, file in files.items():
        file.write_text(f'[[provider]]\nname = "{name}"\nmx = ["*.{name}.example"]\n')
    main = tmp_path / "rusmes.toml"
    main.write_text(f'{DOMAIN}[delivery]\nbundled_shaping = false\nshaping_files = ["a.toml", "b.toml"]\n')
    before = load_config(str(main), environ={})
    files["a"].write_text("[[provider]\n")
    files["b"].write_text('[[provider]]\nname = "c"\nmx = ["*.c.example"]\n')
    after = with_kept_files(load_config(str(main), environ={}), before)
    assert [one.entry.name for one in after.shaping] == ["a", "c"]
    assert "is no TOML" in after.shaping_problems[0]
    files["a"].write_text("")
    assert [one.entry.name for one in with_kept_files(load_config(str(main), environ={}), after).shaping] == ["c"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[delivery.site]]\ntls = 'none'", 'delivery.site[0]: "match" is missing'),
        ("[[delivery.site]]\nprovider = 'gogle'", 'delivery.site[0].provider: there is no provider "gogle"'),
        ("[[delivery.site]]\nmatch = ['x.org']\npool = 'p'", "delivery.site[0].pool: there is no"),
        ("[[delivery.site]]\nmatch = ['x.org']\nsources = ['p']", "delivery.site[0].sources: there is no"),
        ("[[delivery.provider]]\nmx = ['x.org']", 'delivery.provider[0]: "name" is missing'),
        ("[[delivery.rule]]\nreply = '('", "delivery.rule[0].reply: "),
        ("[[delivery.rule]]\nreply = 'x'\naction = 'set'", 'delivery.rule[0]: action = "set" sets nothing'),
        ("[[delivery.rule]]\nreply = 'x'\nset = { tls = 'none' }", "delivery.rule[0].set: is for action"),
        ("[[delivery.rule]]\nreply = 'x'\naction = 'set'\nset = { tls = 'none' }\nscope = 'tenant'", "delivery.rule[0].scope"),
        ("[[delivery.rule]]\nreply = 'x'\nduration = '0s'", "delivery.rule[0].duration: must be longer"),
        ("[[egress.source]]\nname = 'a'\naddresses = ['x']", 'egress.source[0].addresses[0]: "x" is not an IP address'),
        ("[[egress.source]]\nname = 'a'\naddresses = ['192.0.2.1', '192.0.2.2']", "egress.source[0].addresses[1]: is a second"),
        (
            "[[egress.source]]\nname = 'a'\n[[egress.source]]\nname = 'a'",
            'egress.source[1].name: the name "a" is empty or taken',
        ),
        ("[[egress.source]]\nname = 'a'\nproxy = 'http://x:1'", "egress.source[0].proxy: "),
        ("[[egress.source]]\nname = 'a'\nproxy = 'haproxy://192.0.2.1:1'", "egress.source[0].proxy: is told"),
        ("[[egress.source]]\nname = 'a'\nehlo = 'a b'", "egress.source[0].ehlo: "),
        ("[[egress.source]]\nname = 'a'\nwarmup = { since = 'today' }", 'egress.source[0].warmup.since: "today" is no day'),
        ("[[egress.pool]]\nname = 'p'\nsources = ['a']", "egress.pool[0].sources: there is no"),
        ("[[egress.pool]]\nname = 'p'", "egress.pool[0]: has no sources"),
        ("[egress]\ndefault_pool = 'p'", "egress.default_pool: there is no pool"),
        ("[egress]\ntenant_pools = { shop = 'p' }", "egress.tenant_pools.shop: there is no pool"),
    ],
)
def test_a_mistake_in_the_configuration_itself_is_an_error(text: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in refused(text + "\n")), refused(text + "\n")


def test_egress_as_it_is_written() -> None:
    config = parse_config(
        DOMAIN
        + """
        [egress]
        default_pool = "mixed"
        tenant_pools = { shop = "ip1" }
        [[egress.source]]
        name = "ip1"
        addresses = ["192.0.2.1", "2001:db8::1"]
        ehlo = "MTA1.example.com"
        warmup = { start = 20, growth = 2.0, days = 10, since = "2026-11-01", starts = { google = 10 } }
        [[egress.source]]
        name = "ip2"
        proxy = "socks5://[2001:db8::5]:1080"
        proxy_username = "u"
        proxy_password = "p"
        [[egress.pool]]
        name = "mixed"
        sources = { ip1 = 3, ip2 = 1 }
        [[egress.pool]]
        name = "plain"
        sources = ["ip2", "ip1"]
        """,
        environ={},
        base="/",
    )
    assert config.egress.source[0].ehlo == "mta1.example.com"
    assert [pool.sources for pool in config.egress.pool] == [{"ip1": 3, "ip2": 1}, {"ip2": 1, "ip1": 1}]


def test_match_means_hosts_and_domains() -> None:
    config = parse_config(DOMAIN + "[[delivery.site]]\nmatch = ['*.Big.example']\n", environ={}, base="/")
    assert config.delivery.site == (Site(match=("*.big.example",)),)


# Patterns

HOSTILE = [
    r"x+\w{2,5}b",
    r"(\w){0,1000}xa",
    "(a+)+b",
    "(a|ab)*c",
    r"(\w+\s?)*x",
    "(.*)(.*)(.*)x",
    ".*.*=",
    r"(a)\1",
    "x" * 600,
    "(" * 50,
    "",
    "a?",
    "(a{1,30}){1,30}b",
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_patterns_that_could_take_for_ever_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        compile_reply_pattern(pattern)


@pytest.mark.parametrize("pattern", ["a.*b", "^4.*a.*b", r"x.{0,30}y.{0,30}z", "(?:foo|bar)?baz", r"4\.7\.\d+"])
def test_patterns_that_are_allowed_are_quick_on_any_text(pattern: str) -> None:
    compiled = compile_reply_pattern(pattern)
    started = time.perf_counter()
    for text in ("a" * MAX_TEXT, "xy" * (MAX_TEXT // 2), "4" + "a" * (MAX_TEXT - 1), "x" * 500 + "y" * 500):
        compiled.search(text)
    assert time.perf_counter() - started < 2.0  # 0.02 s; what is refused takes longer than the test suite
