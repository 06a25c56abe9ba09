"""Names of sites, layers of values, rules on replies."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from rusmes._core.counters import Metrics, SharedCounters
from rusmes.clock import FakeClock
from rusmes.config.load import parse_config
from rusmes.config.schema import Config
from rusmes.delivery.routes import RoutePlan, RouteTable
from rusmes.delivery.shaping.layers import Layers, matches
from rusmes.delivery.shaping.overrides import TABLE, Override, Overrides
from rusmes.delivery.shaping.rules import Automation, Place, Rules
from rusmes.delivery.shaping.sitename import MAX_NAME, site_name
from rusmes.dns import MxRecord, Records, Resolver
from rusmes.metrics import SHAPING_ACTIONS
from rusmes.model.content import Content, Rendering
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued
from rusmes.queue.api import CAMPAIGN, TENANT, Report
from rusmes.queue.suspensions import Suspensions
from rusmes.storage.ledger import MemoryLedger
from tests.sinks.engine import address


def config_of(text: str, *, bundled: bool = False) -> Config:
    switch = "" if bundled else "bundled_shaping = false\n"
    return parse_config(f'domain = "example.com"\n[delivery]\n{switch}{text}', environ={}, base="/")


# Names

GMAIL = ["gmail-smtp-in.l.google.com", *(f"alt{i}.gmail-smtp-in.l.google.com" for i in range(1, 5))]


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        (["mx.example.net"], "mx.example.net"),
        (["alt2.mx.example.net", "alt1.mx.example.net"], "(alt1|alt2).mx.example.net"),
        (GMAIL, "(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com"),
        (["mx.a.com", "mx.b.net"], "mx.a.com,mx.b.net"),
        (["a.x.org", "b.y.org"], "(a.x|b.y).org"),
        (["a.y.org", "b.x.org"], "(a.y|b.x).org"),
        (["192.0.2.1"], "192.0.2.1"),
    ],
)
def test_sites_are_named_by_what_their_hosts_have_in_common(hosts: list[str], name: str) -> None:
    assert site_name(hosts) == site_name(reversed(hosts)) == name


def test_different_hosts_have_different_names() -> None:
    """Every set of up to three hosts of up to three labels."""
    names_of_hosts = [".".join(labels) for depth in (1, 2, 3) for labels in itertools.product(("a", "b", "mx"), repeat=depth)]
    sets = [hosts for count in (1, 2, 3) for hosts in itertools.combinations(names_of_hosts, count)]
    assert len({site_name(hosts) for hosts in sets}) == len(sets) == 9919


def test_long_names_stay_different() -> None:
    names = {site_name([f"{'h' * 50}{i}.{'d' * 50}{j}.example" for i in range(5)]) for j in range(20)}
    assert len(names) == 20
    assert max(map(len, names)) <= MAX_NAME


# Layers

LAYERED = """
connections_per_site = 9
messages_per_connection = 90
idle_timeout = "9s"
[[delivery.provider]]
name = "big"
mx = ["*.big.example"]
connections_per_site = 8
messages_per_connection = 80
recipients_per_transaction = 70
[[delivery.site]]
mx = ["mx1.big.example"]
messages_per_connection = 70
tls = "verify"
[[delivery.site]]
domains = ["vip.example"]
tls = "dane"
[[delivery.site]]
domains = ["counted.example"]
messages_per_minute = 5
[[delivery.provider]]
name = "big"
sources = ["new"]
connections_per_site = 1
[egress]
[[egress.source]]
name = "new"
[[egress.source]]
name = "old"
"""
HOSTS = ["mx1.big.example", "mx2.big.example"]


def test_later_layers_replace_single_keys() -> None:
    layers = Layers(config_of(LAYERED))
    shape = layers.shape(HOSTS, HOSTS[:1], "x.example")
    picked = {
        key: (shape[key], str(shape.settings[key].origin)) for key in ("connections_per_site", "messages_per_connection", "tls")
    }
    assert picked == {
        "connections_per_site": (8, "provider big (rusmes.toml)"),
        "messages_per_connection": (70, "site mx1.big.example (rusmes.toml)"),
        "tls": ("verify", "site mx1.big.example (rusmes.toml)"),
    }
    assert (shape.provider, shape["idle_timeout"], shape["recipients_per_transaction"]) == ("big", 9.0, 70)
    assert layers.shape(HOSTS, HOSTS[:1], "vip.example")["tls"] == "dane"
    other = layers.shape(["mx.small.example"], ["mx.small.example"], "y.example")
    assert (other.provider, other["connections_per_site"], other["recipients_per_transaction"]) == ("", 9, 100)


def test_what_is_for_one_source_is_on_top() -> None:
    layers = Layers(config_of(LAYERED))
    assert layers.shape(HOSTS, HOSTS, "x.example", "new")["connections_per_site"] == 1
    assert layers.shape(HOSTS, HOSTS, "x.example", "old")["connections_per_site"] == 8
    assert layers.shape(HOSTS, HOSTS, "vip.example", "new")["tls"] == "dane"


def test_own_entries_win_over_the_bundled_ones_key_by_key() -> None:
    text = '[[delivery.provider]]\nname = "google"\nconnections_per_site = 99\n'
    shape = Layers(config_of(text, bundled=True)).shape(GMAIL, GMAIL[:1], "gmail.com")
    assert (shape.provider, shape["connections_per_site"], shape["messages_per_connection"]) == ("google", 99, 50)


@pytest.mark.parametrize(
    ("hosts", "domain", "provider"),
    [
        (GMAIL, "gmail.com", "google"),
        (["aspmx.l.google.com"], "company.example", "google"),
        (["mta5.am0.yahoodns.net"], "aol.com", "yahoo"),
        (["outlook-com.olc.protection.outlook.com"], "hotmail.com", "outlook"),
        (["company-com.mail.protection.outlook.com"], "company.com", "microsoft365"),
        (["mx01.mail.icloud.com"], "own.example", "apple"),
        (["mx00.gmx.net"], "gmx.de", "gmx"),
        (["google.com.evil.example"], "evil.example", ""),
        (["notgoogle.com"], "evil.example", ""),
    ],
)
def test_large_providers_are_known(hosts: list[str], domain: str, provider: str) -> None:
    assert Layers(config_of("", bundled=True)).provider_of(hosts, domain) == provider


def test_patterns() -> None:
    assert matches("*", "x")
    assert matches("*.a.b", "x.y.a.b")
    assert not matches("*.a.b", "a.b")
    assert not matches("*.a.b", "xa.b")


def routes_of(config: Config, overrides: Overrides | None = None, clock: FakeClock | None = None) -> RouteTable:
    clock = clock or FakeClock()

    async def ask(name: str, kind: str) -> Records:
        return Records(tuple(MxRecord(10, host) for host in HOSTS) if kind == "MX" else (), 300)

    return RouteTable(config, Resolver(clock, ask=ask), clock, "us.example.com", overrides=overrides)


def plan_of(routes: RouteTable, destination: str) -> RoutePlan:
    plan = asyncio.run(routes.find_plan(destination))
    assert isinstance(plan, RoutePlan)
    return plan


def test_plans_have_what_the_layers_say() -> None:
    routes = routes_of(config_of(LAYERED))
    plan = plan_of(routes, "mx:x.example")
    assert (plan.site, plan.provider, plan.source) == ("(mx1|mx2).big.example", "big", "")
    assert (plan.limits.connections, plan.limits.recipients_per_transaction, plan.tls) == (8, 70, "verify")
    new = plan_of(routes, "mx:x.example via new")
    assert (new.site, new.source, new.limits.connections, new.target.source) == (plan.site, "new", 1, "new")


def test_a_domain_with_limits_of_its_own_is_a_site_of_its_own() -> None:
    routes = routes_of(config_of(LAYERED))
    counted, vip = plan_of(routes, "mx:counted.example"), plan_of(routes, "mx:vip.example")
    assert (counted.site, counted.limits.messages_per_minute) == ("counted.example/(mx1|mx2).big.example", 5.0)
    assert vip.site == "(mx1|mx2).big.example"


def test_what_is_said_of_hosts_makes_no_site_of_each_domain() -> None:
    everybody = routes_of(config_of('[[delivery.site]]\nmatch = ["*"]\nconnections_per_site = 2\n'))
    plan = plan_of(everybody, "mx:x.example")
    assert (plan.site, plan.limits.connections) == ("(mx1|mx2).big.example", 2)
    by_name = routes_of(config_of('[[delivery.site]]\nmatch = ["x.example"]\nconnections_per_site = 2\n'))
    plan = plan_of(by_name, "mx:x.example")
    assert (plan.site, plan.limits.connections) == ("x.example/(mx1|mx2).big.example", 2)


def test_a_limit_of_a_provider_is_shared_by_its_sites() -> None:
    text = '[[delivery.provider]]\nname = "big"\nmx = ["*.big.example"]\nconnections_per_provider = 7\n'
    (shared,) = plan_of(routes_of(config_of(text)), "mx:x.example").limits.shared
    assert (shared.key, shared.connections) == ("provider:big", 7)


# Rules

RULES = """
[[delivery.rule]]
name = "slow"
reply = '4\\.7\\.28'
after = 3
within = "1m"
action = "set"
set = { connections_per_site = 2, messages_per_minute = 30 }
duration = "10m"
[[delivery.rule]]
name = "stop"
reply = 'blocked'
mx = ["*.big.example"]
scope = "%s"
duration = "1h"
"""
PLACE = Place("(mx1|mx2).big.example", "big", tuple(HOSTS), "ip1")


class Bench:
    """Automation of one worker, on a ledger and a table that several may share."""

    def __init__(self, scope: str = "site", *, other: Bench | None = None, text: str = RULES) -> None:
        self.clock = other.clock if other else FakeClock()
        self.ledger = other.ledger if other else MemoryLedger(clock=self.clock)
        self.limits = other.limits if other else SharedCounters(1, 1024)
        self.config = config_of(text % scope if "%s" in text else text)
        self.overrides = Overrides(self.ledger, self.clock)
        self.suspensions = Suspensions(self.ledger, self.clock)
        self.metrics = Metrics()
        self.automation = Automation(self.config, self.overrides, self.clock, self.limits, self.metrics, self.suspensions)

    def hear(self, code: int, status: str, text: str, *, place: Place = PLACE, **attributes: Any) -> None:
        recipient = Recipient(address("bob@x.example"))
        content = Rendering(Content(b"c" * 16, 0, 0, data=b""))
        item = Queued(b"i" * 16, "relay", None, (recipient,), content, Origin(), 0.0, attributes=attributes or None)
        action = "failed" if code >= 500 else "delayed"
        self.automation.heard(item, [Report(recipient, action, code, status, text, "mx1.big.example")], place)

    @property
    def values(self) -> list[dict[str, Any]]:
        self.overrides.look()
        return [one.values for one in self.overrides.values_for(PLACE.site, PLACE.provider, PLACE.source)]


def test_a_rule_acts_after_so_many_replies_in_its_time() -> None:
    bench = Bench()
    for _ in range(2):
        bench.hear(421, "4.7.28", "unusual rate")
    bench.clock.advance(121)
    for _ in range(2):
        bench.hear(421, "4.7.28", "unusual rate")
    assert bench.values == []
    bench.hear(421, "4.7.28", "unusual rate")
    assert bench.values == [{"connections_per_site": 2, "messages_per_minute": 30.0}]
    assert bench.metrics.count(SHAPING_ACTIONS["set"]) == 1
    bench.clock.advance(601)
    assert bench.values == []


def test_workers_count_together_and_all_obey() -> None:
    one = Bench()
    other = Bench(other=one)
    for bench in (one, other, one):
        bench.hear(421, "4.7.28", "unusual rate")
    one.clock.advance(2)
    assert one.values == other.values != []


def test_what_a_rule_has_set_survives_a_restart() -> None:
    bench = Bench()
    for _ in range(3):
        bench.hear(421, "4.7.28", "unusual rate")
    again = Bench(other=bench)
    again.limits = SharedCounters(1, 1024)
    assert len(again.values) == 1


def test_plans_are_made_anew_when_a_rule_acts_and_when_its_time_is_over() -> None:
    bench = Bench()
    routes = routes_of(bench.config, bench.overrides, bench.clock)
    place = Place("(mx1|mx2).big.example", "", tuple(HOSTS))
    assert plan_of(routes, "mx:x.example").limits.connections == 20
    for _ in range(3):
        bench.hear(421, "4.7.28", "unusual rate", place=place)
    assert routes.known_plan("mx:x.example") is None
    plan = plan_of(routes, "mx:x.example")
    assert (plan.limits.connections, plan.limits.messages_per_minute) == (2, 30.0)
    bench.clock.advance(601)
    assert routes.known_plan("mx:x.example") is None
    assert plan_of(routes, "mx:x.example").limits.connections == 20


def test_every_value_can_be_set_and_kept() -> None:
    values = "{ idle_timeout = '1s', tls = 'none', ipv6 = false, pool = '' }"
    text = f"[[delivery.rule]]\nreply = 'slow'\naction = 'set'\nset = {values}\n"
    bench = Bench(text=text)
    bench.hear(450, "4.7.0", "slow")
    assert Bench(other=bench, text=text).values == [{"idle_timeout": 1.0, "tls": "none", "ipv6": False, "pool": ""}]


def test_a_rule_never_makes_a_limit_wider() -> None:
    bench = Bench(text="connections_per_site = 1\nmessages_per_minute = 10\n" + RULES % "site")
    routes = routes_of(bench.config, bench.overrides, bench.clock)
    for _ in range(3):
        bench.hear(421, "4.7.28", "unusual rate")
    limits = plan_of(routes, "mx:x.example").limits
    assert (limits.connections, limits.messages_per_minute) == (1, 10.0)


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ("site", {"site": PLACE.site}), ("domain", {"domain": "x.example"}), ("tenant", {"tenant": "shop"}),
        ("campaign", {"tenant": "shop", "campaign": "xmas"}), ("source", {"source": "ip1"}),
    ],
)  # fmt: skip
def test_a_rule_suspends_what_it_is_for(scope: str, asked: dict[str, str]) -> None:
    bench = Bench(scope)
    bench.hear(550, "5.7.1", "you are blocked", **{TENANT: "shop", CAMPAIGN: "xmas"})
    found = bench.suspensions.until(**asked)
    assert found is not None
    assert found[0] == bench.clock.now() + 3600
    assert "you are blocked" in found[1]
    assert bench.suspensions.until(site="other", domain="other.example", tenant="other", source="ip2") is None


def test_a_source_can_be_suspended_for_one_site() -> None:
    bench = Bench("source-site")
    bench.hear(550, "5.7.1", "you are blocked")
    assert bench.overrides.suspension(PLACE.site, "ip1") is not None
    assert bench.overrides.suspension(PLACE.site, "ip2") is None
    assert bench.overrides.suspension("other", "ip1") is None
    assert bench.suspensions.list() == []
    bench.clock.advance(3601)
    assert bench.overrides.suspension(PLACE.site, "ip1") is None


def test_without_named_sources_the_site_is_suspended_instead() -> None:
    bench = Bench("source-site")
    bench.hear(550, "5.7.1", "you are blocked", place=Place(PLACE.site, "", tuple(HOSTS)))
    assert bench.suspensions.until(site=PLACE.site) is not None


def test_our_own_words_and_good_replies_trigger_nothing() -> None:
    bench = Bench()
    bench.hear(0, "4.7.28", "blocked by ourselves")
    bench.hear(250, "2.0.0", "not blocked")
    bench.hear(550, "5.7.1", "blocked", place=Place("s", "", ("mx.other.example",)))
    assert bench.suspensions.list() == []
    assert bench.values == []


def test_replies_to_transactions_under_way_do_not_prolong_it() -> None:
    bench = Bench()
    bench.hear(550, "5.7.1", "blocked")
    until = bench.suspensions.list()[0].until
    bench.clock.advance(5)
    bench.hear(550, "5.7.1", "blocked")
    assert bench.suspensions.list()[0].until == until
    bench.clock.advance(1800)
    bench.hear(550, "5.7.1", "blocked")
    assert bench.suspensions.list()[0].until > until


def test_only_the_beginning_of_a_reply_is_looked_at() -> None:
    bench = Bench()
    bench.hear(550, "5.7.1", "x" * 2000 + "blocked")
    assert bench.suspensions.list() == []


def test_a_record_that_cannot_be_read_is_skipped() -> None:
    ledger, clock = MemoryLedger(), FakeClock()
    ledger.put(TABLE, b"x", b"\xff\xff")
    overrides = Overrides(ledger, clock)
    overrides.put(Override("site", "s", "", clock.now() + 9, clock.now(), "r", "", "", {"connections_per_site": 1}))
    clock.advance(2)
    overrides.look()
    assert [one.name for one in overrides.list()] == ["s"]


SAID = [
    ("google", "google unusual rate", "421 4.7.28 Our system has detected an unusual rate of unsolicited mail"),
    ("yahoo", "yahoo TSS04", "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred"),
    ("outlook", "outlook RP-00x", "421 4.0.0 The mail server IP has exceeded the rate limit (RP-001)"),
    ("outlook", "outlook block list", "550 5.7.1 messages from [192.0.2.1] weren't sent. (S3150)"),
    ("microsoft365", "microsoft365 try again later", "451 4.7.500 Server busy. Please try again later (S77714)"),
    ("comcast", "comcast rate limit", "421 4.1.0 RL000001 192.0.2.1 Throttled - try later"),
    ("orange", "orange too many connections", "421 mwinf5c04 ME Trop de connexions. OFR004_104 [104]"),
    ("gmx", "gmx too much", "421 4.7.0 gmx.net too many concurrent connections from your IP"),
    ("t-online", "t-online unknown address", "554 5.7.0 IP=192.0.2.1 - A problem occurred. (Ask your postmaster) (BL)"),
    ("qq", "qq frequency limited", "550 Ip frequency limited."),
    ("netease", "netease limits", "421 RP:TRC 163 smtp9"),
    ("cisco", "cisco this hour", "452 Too many recipients received this hour"),
    ("", "too many connections", "421 4.7.0 mx.example.org Error: too many connections from 192.0.2.1"),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "name", "reply"), SAID, ids=[name for _, name, _ in SAID])
def test_bundled_rules_know_what_providers_say(provider: str, name: str, reply: str) -> None:
    rules = Rules(config_of("", bundled=True))
    assert name in [one.name for one in rules.meaning(reply, Place("s", provider, ("mx.example.org",)), "x.example")]
    nobody = Place("s", "", ("mx.example.org",))
    assert provider == "" or name not in [one.name for one in rules.meaning(reply, nobody, "x.example")]


@pytest.mark.parametrize(
    "reply",
    [
        "550 5.1.1 no such user",
        "452 4.2.2 mailbox full",
        "451 4.7.1 greylisted, try again",
        "554 5.7.1 message contains a virus",
    ],
)
def test_bundled_rules_leave_ordinary_refusals_alone(reply: str) -> None:
    rules = Rules(config_of("", bundled=True))
    assert rules.meaning(reply, Place("s", "", ("mx.example.org",)), "x.example") == []
