"""`rusmes top`: how the queues do, live."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rusmes.cli.context import Context, JsonCommand, pass_context
from rusmes.cli.output import printable
from rusmes.cli.queue_lines import cut, short_duration

SECONDS: Final = 1.0
RATES: Final = ("received", "delivered", "deferred", "failed")


@click.command("top", cls=JsonCommand)
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=15, show_default=True, help="Rows of each table.")
@click.option("--once", is_flag=True, help="Show one picture and end; --json does the same.")
@pass_context
def top(context: Context, limit: int, once: bool) -> int:
    """Show what comes in and goes out, the sites with the most mail, and the busiest domains, tenants and sources.

    Ends with Ctrl-C. It needs a running server.
    """
    before = _ask(context, limit)
    time.sleep(SECONDS)
    now = _ask(context, limit)
    now["rates"] = rates_of(before, now)
    if context.output.as_json or once or not context.output.is_terminal:
        context.output.show(now, lambda: context.output.console.print(picture(now), soft_wrap=False))
        return 0
    try:
        with Live(picture(now), console=context.output.console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(SECONDS)
                before, now = now, _ask(context, limit)
                now["rates"] = rates_of(before, now)
                live.update(picture(now), refresh=True)
    except KeyboardInterrupt:
        return 0


def _ask(context: Context, limit: int) -> dict[str, Any]:
    answer: dict[str, Any] = context.control.get(f"/top?limit={limit}")
    return answer


def rates_of(before: dict[str, Any], now: dict[str, Any]) -> dict[str, float]:
    """Per second, of the counters of two answers."""
    seconds = max(now["time"] - before["time"], 0.001)
    return {
        name: round(max(count - before["counters"].get(name, 0), 0) / seconds, 1) for name, count in now["counters"].items()
    }


def picture(data: dict[str, Any]) -> Group:
    rates = data["rates"]
    line = Text("  ".join(f"{name} {rates[name]:.0f}/s" for name in RATES), style="bold")
    counts = data["recipients"]
    facts = Text(
        f"queue {data['entries']} (in work {counts['queued']}, waiting {counts['deferred']}, held {counts['held']}), "
        f"oldest {short_duration(data['oldest_seconds'])}; "
        f"connections in {data['connections_in']}, out {data['connections_out']}"
        + (f"; {data['not_reached']} workers do not answer" if data["not_reached"] else "")
    )
    parts: list[Text | Table] = [line, facts, Text(), _sites(data)]
    for title, name in (("DOMAIN", "domains"), ("TENANT", "tenants"), ("SOURCE", "sources")):
        if data[name]:
            parts += [Text(), _busiest(title, data[name])]
    return Group(*parts)


def _sites(data: dict[str, Any]) -> Table:
    table = _table("SITE", "SOURCE", "#WAITING", "#ACTIVE", "#WINDOW", "#SENT/S", "#LATER/S", "STATE")
    for row in data["sites"]:
        sent, later, failed = row["rate"]
        state = state_of(row, data["time"])
        _add(
            table, cut(row["site"], 40), row["source"], row["waiting"], row["active"], row["window"], f"{sent:.1f}",
            f"{later + failed:.1f}", state,
        )  # fmt: skip
    if not data["sites"]:
        _add(table, "no mail is under way", "", "", "", "", "", "", "")
    return table


def state_of(row: dict[str, Any], now: float) -> str:
    """What a site does or why it does nothing, with the last reply."""
    stopped = row["stopped_until"]
    if stopped > now:
        # A suspension without an end is as long as can be.
        until = f"for {short_duration(stopped - now)}" if stopped - now < 1e8 else "until resumed"
        return cut(f"{'suspended' if row['suspended'] else 'stopped'} {until}: {row['stop_reason']}", 60)
    if row["suspended_flows"] and not row["active"]:
        return "suspended: the mail that waits, by tenant, campaign or domain"
    return cut(("waits for its rate or a connection; " if row["paused"] else "") + (row["last_reply"] or "works"), 60)


def _busiest(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = _table(title, "#DELIVERED/S", "#DEFERRED/S", "#FAILED/S")
    for row in rows:
        name = row["name"] or "(none)"
        _add(table, cut(name, 40), *(f"{row[key]:.1f}" for key in ("delivered", "deferred", "failed")))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left", no_wrap=True)
    return table


def _add(table: Table, *cells: object) -> None:
    table.add_row(*(Text(printable(str(cell)).replace("\n", " ")) for cell in cells))
