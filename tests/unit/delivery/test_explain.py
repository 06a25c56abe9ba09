"""Which line gives which value."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from rusmes.clock import FakeClock
from rusmes.config.load import load_config
from rusmes.delivery.explain import Explanation, explain
from rusmes.delivery.shaping.overrides import Override, Overrides
from rusmes.dns import MxRecord, NoSuchDomain, Records, Resolver
from rusmes.model.plan import Refusal
from rusmes.queue.suspensions import Suspensions
from rusmes.storage.ledger import MemoryLedger

TEXT = """domain = "example.com"
[delivery]
connections_per_site = 33
bundled_shaping = false
shaping_files = ["own.toml"]
[[delivery.site]]
match = ["x.example"]
tls = "verify"
[egress]
tenant_pools = { shop = "p" }
[[egress.source]]
name = "ip1"
addresses = ["127.0.0.2"]
warmup = { start = 5 }
[[egress.pool]]
name = "p"
sources = ["ip1"]
"""
OWN = """# ours
[[provider]]
name = "big"
mx = ["*.big.example"]
messages_per_connection = 7

[[site]]
mx = ["*.big.example"]
sources = ["ip1"]
messages_per_minute = 9
"""
SITE = "(mx1|mx2).big.example"


class Bench:
    def __init__(self, path: Path) -> None:
        (path / "own.toml").write_text(OWN)
        self.path = path / "rusmes.toml"
        self.path.write_text(TEXT)
        self.config = load_config(str(self.path), environ={})
        self.clock = FakeClock()
        self.ledger = MemoryLedger(clock=self.clock)
        self.suspensions = Suspensions(self.ledger, self.clock)

    def ask(self, domain: str = "x.example", **more: Any) -> Explanation | Refusal:
        async def answer(name: str, kind: str) -> Records:
            if name != "x.example":
                raise NoSuchDomain("no")
            return Records((MxRecord(10, "mx1.big.example"), MxRecord(20, "mx2.big.example")) if kind == "MX" else (), 300)

        return asyncio.run(
            explain(
                self.config,
                domain,
                resolver=Resolver(self.clock, ask=answer),
                clock=self.clock,
                ledger=self.ledger,
                suspender=self.suspensions,
                text=TEXT,
                **more,
            )
        )

    def found(self, **more: Any) -> Explanation:
        found = self.ask(**more)
        assert isinstance(found, Explanation)
        return found

    def values(self, **more: Any) -> dict[str, tuple[Any, str, str]]:
        return {one.key: (one.value, one.by, f"{Path(one.file).name}:{one.line}") for one in self.found(**more).values}


def test_each_value_with_the_line_that_gives_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    values = bench.values()
    assert values["connections_per_site"] == (33, "[delivery]", "rusmes.toml:3")
    assert values["messages_per_connection"] == (7, "provider big", "own.toml:5")
    assert values["tls"] == ("verify", "site x.example", "rusmes.toml:8")
    assert values["messages_per_minute"][:2] == (0.0, "default")
    assert bench.values(source="ip1")["messages_per_minute"] == (9.0, "site *.big.example by ip1", "own.toml:10")


def test_where_it_goes_and_by_whom(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    found = bench.found(tenant="shop")
    assert (found.destination, found.site, found.provider, found.pool) == ("mx:x.example", SITE, "big", "p")
    assert found.hosts == (("mx1.big.example",), ("mx2.big.example",))
    assert [(one.name, one.addresses, one.limit, one.used) for one in found.sources] == [("ip1", ("127.0.0.2",), 5, 0)]
    assert bench.found().sources == ()
    assert bench.ledger.generation == 0  # looking begins no warm-up


def test_what_is_in_force_now(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    now = bench.clock.now()
    overrides = Overrides(bench.ledger, bench.clock)
    overrides.put(Override("site", SITE, "", now + 60, now, "slow", "rules.toml:4", "421 no", {"connections_per_site": 2}))
    overrides.put(Override("source-site", SITE, "ip1", now + 60, now, "stop", "rules.toml:9", "550 no", {}, True))
    bench.suspensions.suspend("domain", "x.example", now + 60, "by hand")
    found = bench.found(source="ip1")
    assert found.suspended == "by hand"
    assert sorted(one.rule for one in found.rules) == ["slow", "stop"]
    assert found.sources[0].suspended == "550 no"
    assert bench.values()["connections_per_site"] == (2, "rule slow", "rules.toml:4")


def test_a_domain_that_takes_no_mail(tmp_path: Path) -> None:
    refusal = Bench(tmp_path).ask("gone.example")
    assert isinstance(refusal, Refusal)
    assert refusal.status == "5.1.2"
